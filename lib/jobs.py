"""The batch jobs of a run: what each makes, which of them are done, and which results of notebooks still stand."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable
from pathlib import Path

from lib.files import sha256
from lib.papers.plan import measured, plan
from lib.papers.settings import Settings
from lib.runtime import ROOT
from lib.store import FAILED, Store
from lib.values.keys import digest
from lib.values.measurement import Storable
from lib.values.recipe import outcome_key

log = logging.getLogger("lib.jobs")
WRITTEN = ".written.json"  # in a notebook's folder: SHA-256 of each file of its results
MADE_OF = ".made_of"  # in a notebook's folder: the digest `made_of` of its results


def batch_jobs(settings: Settings, notebooks: tuple[str, ...]) -> dict[str, dict]:
    """The batch jobs of a run: {job: {work, of, after, wanted_by}}; empty if the settings let notebooks do everything.

    `work`: the networks, outcomes and further measurements that the job makes, as (kind, key) in the store. `of`: {key:
    the networks that it is or is about, and all that these are made from}. `after`: the jobs that make what its work
    needs: its networks' parents and sources, measured networks, measurements before others. `wanted_by`: the notebooks
    that need any of its work.
    """
    if settings.jobs == "none":
        return {}
    tasks = plan(settings, notebooks)
    home = {t.recipe.key: t.job for t in tasks}
    found: dict[str, dict] = {}

    def begun(name: str) -> dict:
        return found.setdefault(name, {"work": [], "of": {}, "after": set(), "wanted_by": set()})

    for task in tasks:
        if not (task.recipe.stored or task.measures):
            continue
        job = begun(task.job)
        job["work"] += [("network", task.recipe.key)] * task.recipe.stored
        outcomes = [outcome_key(*measure) for measure in task.measures]
        job["work"] += [("outcomes", key) for key in outcomes]
        job["of"] |= dict.fromkeys((task.recipe.key, *outcomes), task.recipe.lineage)
        needed = (*task.recipe.parents, *task.recipe.sources)
        job["after"] |= {home[r.key] for r in needed if r.stored} - {task.job}
    for name in notebooks:
        for task in plan(settings, (name,)):
            if home[task.recipe.key] in found:
                found[home[task.recipe.key]]["wanted_by"].add(name)
    _add_measured(measured(settings, notebooks), begun, {t.recipe.key: t.job for t in tasks if t.recipe.stored})
    return found


def _add_measured(jobs: dict[str, tuple[str, list[Storable]]], begun: Callable[[str], dict],
                  home: dict[str, str]) -> None:
    """Add what `plan.measured` gives. begun: gives the job of a name. home: {key of a stored network: its job}."""
    makers = {one.entry: name for name, (_, every) in jobs.items() for one in every}
    for name, (notebook, every) in jobs.items():
        job = begun(name)
        job["wanted_by"].add(notebook)
        for one in every:
            job["work"].append(one.entry)
            job["of"][one.entry[1]] = lineage = {key for recipe in one.recipes for key in recipe.lineage}
            job["after"] |= {home[key] for key in lineage & home.keys()} | {makers[need.entry] for need in one.needs}


def unfinished(jobs: dict[str, dict], store: Store) -> dict[str, dict]:
    """The jobs with work that is not in the store yet, except for networks that failed."""
    def made(job: dict, kind: str, key: str) -> bool:
        return store.has(kind, key) or any(store.has(FAILED, network) for network in job["of"][key])

    return {name: job for name, job in jobs.items() if not all(made(job, *entry) for entry in job["work"])}


def mark(folder: Path, job: str) -> Path:
    """The file in a run's folder that says that a job is done."""
    return folder / "jobs" / f"{job}.done"


def mark_finished(jobs: dict[str, dict], store: Store, folder: Path) -> None:
    """Mark the jobs whose work is all in the store as done, so that they are not started."""
    for name in jobs.keys() - unfinished(jobs, store).keys():
        path = mark(folder, name)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()


def take_back(damaged: set[tuple[str, str]], settings: Settings, notebooks: tuple[str, ...], folder: Path) -> None:
    """Make jobs and notebooks that rest on damaged entries run again, by removing what marks them as done."""
    for name, job in batch_jobs(settings, notebooks).items():
        if damaged & set(job["work"]):
            mark(folder, name).unlink(missing_ok=True)
    for name in notebooks:
        tasks = plan(settings, (name,))
        made = {("outcomes", outcome_key(*measure)) for task in tasks for measure in task.measures}
        if damaged & (made | {("network", task.recipe.key) for task in tasks}):
            (folder / name / "claims.json").unlink(missing_ok=True)


def refuse_changed_results(settings: Settings, notebooks: tuple[str, ...], folder: Path) -> None:
    """Make finished notebooks run again whose results are not those that they wrote, or were made of something else
    than they would be now, by removing claims.json.
    """
    for name in notebooks:
        claims, changed = folder / name / "claims.json", ""
        if not claims.exists():
            continue
        with contextlib.suppress(FileNotFoundError):
            try:
                written = json.loads((folder / name / WRITTEN).read_bytes())
                changed = ", ".join(one for one, digest in written.items() if not (folder / name / one).is_file()
                                    or sha256(folder / name / one) != digest)
            except (ValueError, AttributeError):
                changed = WRITTEN
        if changed:
            log.warning("results of %s have changed since it ran (%s): it runs again", name, changed)
        note = folder / name / MADE_OF
        if changed or not note.exists() or note.read_text(encoding="utf-8") != made_of(settings, name):
            claims.unlink()


def made_of(settings: Settings, name: str) -> str:
    """A digest of what a notebook's results are made of besides the store: library, settings, notebook, claims."""
    files = ROOT / "notebooks" / f"{name}.ipynb", ROOT / "claims" / f"{name}.yaml"
    return digest([code_digest(), settings, *[path.read_text(encoding="utf-8") for path in files]])


def code_digest() -> str:
    """A hash of the library's source: a notebook runs again (and replays from the store) when it changes."""
    files = [p for p in sorted((ROOT / "lib").rglob("*")) if p.suffix in (".py", ".j2", ".css")]
    return digest([path.read_text(encoding="utf-8") for path in files])
