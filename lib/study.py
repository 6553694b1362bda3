"""The object that a notebook works with: its settings, its networks, the place of its results, and the judge.

    from lib.study import Study
    study = Study("stitching", globals())

This reads the parameters that the cells above have set (the parameters cell and the one that papermill adds) and
refuses unknown or impossible ones before any work.
"""

from __future__ import annotations

import json
import os
import string
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from lib.errors import need, unknown
from lib.files import is_file_name, whole, write_atomic
from lib.papers import papers
from lib.papers import settings as profiles
from lib.papers.plan import Task, chosen, plan
from lib.parameters import overrides_of, parameters
from lib.prices import announce
from lib.runtime import (
    ROOT,
    device,
    duration,
    interactive,
    provenance,
    results,
    set_threads,
    warnings_of_machine,
    watch_parent,
)
from lib.site import words
from lib.store import FAILED, Store
from lib.values.keys import plain
from lib.values.recipe import NUMERICS

if TYPE_CHECKING:
    from lib.claims.evidence import Evidence
    from lib.profiles.frozen import FrozenPaper
    from lib.results import Results


def snapshot(claims: list, tasks: list[Task], frozen: FrozenPaper | None) -> dict:
    """Plan and claims of a run, and how its paper was frozen, as JSON types. Together with the card, which has the
    settings and the keys of the stored networks, it allows to check a published run after settings and claims have
    changed.

    `claims`: each with its parts and margins; the `digest` of one is its margins_hash. `numerics` and `data_versions`:
    all that recipe keys depend on besides the settings. `unstored_networks`: the keys of those networks of the plan
    that are made from their recipes without training.
    """
    return {
        "numerics": NUMERICS,
        "data_versions": {t.recipe.data.name: t.recipe.data.info.version for t in tasks},
        "unstored_networks": [t.recipe.key for t in tasks if not t.recipe.stored],
        "claims": [plain(claim) for claim in claims],
        **({"frozen": asdict(frozen)} if frozen else {}),
    }


def costs(networks: list[dict], used: dict[tuple[str, str], dict], started: float) -> dict:
    """What trainings and measurements cost, each counted once, apart by whether they were `made` in the run or `found`
    in the store: {training, evaluation: {made, found: {entries, seconds}}}.

    networks: the metadata of the trained networks. used: {(kind, key): metadata} of what else was taken from the store.
    started: when the run began, in seconds since 1970.
    """
    begun = _stamp(started)  # in the form of the entries' times

    def summed(metas: list[dict], name: str) -> dict:
        parts = {"made": [], "found": []}
        for meta in metas:
            parts["made" if meta.get("made_at", "") >= begun else "found"].append(meta.get(name, 0.0))
        return {part: {"entries": len(each), "seconds": sum(each)} for part, each in parts.items()}

    measured = [meta for (kind, _), meta in used.items() if kind not in ("network", FAILED)]
    return {"training": summed(networks, "seconds"), "evaluation": summed(measured, "made_seconds")}


class Study:
    """One notebook's run. names: the notebook's `globals()`. Raises SettingsError before any work if the notebook or a
    parameter is unknown, or a value is impossible.
    """

    def __init__(self, notebook: str, names: dict):
        if notebook not in papers():
            raise unknown("notebook", notebook, papers())
        self.paper = papers()[notebook]
        made = {name: value for name, value in names.items() if isinstance(value, Study)}
        last = next((study.given for study in made.values() if study.paper == self.paper), None)
        self.given = parameters(names, self.paper.parameters, set(made), last)
        profile, overrides = overrides_of(notebook, self.given)
        self.settings = profiles.load(profile, overrides)
        chosen(self.settings, (notebook,))  # refuses a profile without a section for it
        self.section = self.settings.sections[notebook]
        self.networks = self.settings.networks_of(notebook)
        self.frozen = self.settings.frozen_paper(notebook)
        self.batch = bool(os.environ.get("REPRO_HEADLESS"))
        watch_parent()
        set_threads(int(os.environ.get("REPRO_THREADS", "0")) or None)
        self.device = device(self.settings.device)
        self.cells = self.paper.cells(self.networks, self.section, self.settings.seed)
        from lib.training.zoo import Zoo

        tasks = plan(self.settings, (notebook,))
        self.keys = [t.recipe.key for t in tasks if t.recipe.stored]
        self.zoo = Zoo(Store(), self.device, {t.recipe.key for t in tasks})
        self.started = time.time()
        self.seconds = time.monotonic()
        self.claims: list = []
        self.warnings: list[dict] = []
        self.failures: list[str] = []
        if self.frozen and not self.batch:  # a batch run notes its start itself
            self.settings.note_start((notebook,), "interactive")
        if not self.batch and interactive():
            print(announce(self.settings, notebook, self.zoo.store, self.device))
            machine = self.settings.profile, self.settings.networks.precision, self.settings.device
            for warning in warnings_of_machine(*machine):
                print(f"warning: {warning}")

    @property
    def folder(self) -> Path:
        """Where results go: the run's folder in a batch run, a separate folder when a person explores."""
        base = results() if self.batch else results() / "interactive"
        return base / self.settings.run / self.paper.name

    def measure(self):
        """Train and measure all of the paper's networks, or load what is in the store; returns the paper's results.
        Test images of its reference networks, with what attacks do to them, are saved for the page of images.
        """
        found = self.paper.measure(self.zoo, self.cells, self.networks, self.section, self.settings.seed)
        self.failures = found.failures()
        self._save_images(found)
        return found

    def _save_images(self, found: Results) -> None:
        """Save images/strip.png and its table `images`, see `lib.training.examples.strip`; nothing if no reference
        network was attacked on images.
        """
        from lib.training.examples import strip

        cells = [(found.title(cell), cell) for cell in found.references()]
        if made := strip(self.zoo, cells, getattr(self.section, "verify", None)):
            picture, table = made
            write_atomic(_place(self.folder, "images", "strip", "png"), picture)
            self.table("images", table)

    def table(self, name: str, frame, touched: Mapping[str, Sequence[str]] | None = None):
        """Save a DataFrame as tables/<name>.csv and return it. Give the warnings in its column `warnings` (see `warn`);
        those that differ only in their numbers are given once.

        touched: from a warning without its numbers to the claims that it touches, see `lib.claims.doubts.touched`; a
        warning that is missing there touches none. None: all warnings touch all claims.
        """
        from lib.claims.doubts import alike

        write_atomic(_place(self.folder, "tables", name, "csv"), frame.to_csv(index=False))
        if "warnings" in frame:
            found: dict[str, list[str]] = {}
            for sentence in (s for row in frame["warnings"] for s in row.split("; ") if s):
                found.setdefault(alike(sentence), []).append(sentence)
            for kind, some in found.items():
                self.warn([f"{some[0]} ({len(some)} of {len(frame)} rows of the table {name})"],
                          None if touched is None else touched.get(kind, ()))
        return frame

    def figure(self, name: str, figure):
        """Save a matplotlib figure as figures/<name>.png and .svg, with its `description` in words if it has one, and
        return it.
        """
        for kind in ("png", "svg"):
            said = {"Description": getattr(figure, "description", "")} | ({"Date": None} if kind == "svg" else {})
            with whole(_place(self.folder, "figures", name, kind)) as part:
                figure.savefig(part, dpi=150, bbox_inches="tight", metadata=said, format=kind)
        figure.stale = False  # else pyplot draws it at the end of the cell, before the notebook draws it once more
        return figure

    def warn(self, sentences: list[str], claims: Sequence[str] | None = None) -> list[str]:
        """Print warnings, keep them for the card, from which the page of claims shows them, and return them.

        claims: the ids of the claims whose numbers they touch. None: all claims of the notebook, as a failed check of
        the attack does, which is a precondition of every claim. Empty: no claim.
        """
        if claims is not None:
            claims = sorted(claims, key=lambda key: (len(key.rstrip(string.ascii_lowercase)), key))  # C2b, C10a
        where = "all claims" if claims is None else ", ".join(claims) or "no claim"
        self.warnings += [{"sentence": one, "claims": claims} for one in sentences]
        for sentence in sentences:
            print(f"warning (touches {where}): {sentence}")
        return sentences

    @staticmethod
    def show(frame):
        """A DataFrame styled for reading: full texts, left-aligned, without row numbers."""
        left = {"text-align": "left", "vertical-align": "top", "white-space": "normal"}
        heads = [{"selector": "th", "props": [("text-align", "left")]}]
        return frame.style.hide().set_properties(**left).set_table_styles(heads).format(na_rep="–")

    def judge(self, evidence: Evidence, preconditions: list, own: dict[str, list] | None = None):
        """Judge the notebook's claims, save the evidence as evidence.npz and, by repetition, as the table `evidence`.
        Returns the table of verdicts to show. Networks that failed are warned of, with the claims that lack them.

        evidence: {claim: {part: {instance: array}}}, see `claims.judge`. preconditions: of all claims. own: {claim:
        further preconditions of that claim}. Raises SettingsError as `claims.judge` does.
        """
        from lib import claims

        own = own or {}
        for phrase in self.failures:
            lacking = [claim for claim, lost in evidence.lost.items() if phrase in lost]
            self.warn([f"this run goes on without {phrase}"], lacking)
        judged = [evidence.judge(claim, self.settings.profile, [*preconditions, *own.get(claim.id, [])])
                  for claim in claims.load(self.paper.name, self.settings.profile)]
        self.claims = claims.as_expected(judged, self.frozen, self.settings.profile)
        claims.write_evidence(evidence, self.folder)
        self.table("evidence", claims.evidence_table(self.claims, evidence))
        frame = claims.table(self.claims).rename(columns={"asks": "asked by"})
        frame["because"] = [_because(judged) for judged in self.claims]
        return self.show(frame[["claim", "asked by", "statement", "verdict", "because"]])

    def trainings(self):
        """A DataFrame with one row per trained network: key, what it is, device and threads of its training, seconds,
        images/s, TFLOP/s, the device's matrix-multiply rate in TFLOP/s, and the share of that rate that was reached.
        """
        return self._speeds(self._trained())

    def _trained(self) -> list[dict]:
        """The metadata of every trained network of the notebook."""
        return [entry.meta for key in self.keys if (entry := self.zoo.store.load("network", key))]

    @staticmethod
    def _speeds(metas: list[dict]):
        import pandas as pd

        speed = ("images_per_second", "tflop_per_second", "matmul_tflop_per_second", "share_of_matmul")
        names = ("key", "what", "device", "threads", "seconds", *speed)
        return pd.DataFrame([{name: meta.get(name) for name in names} for meta in metas], columns=names)

    def close(self):
        """Write claims.json, snapshot.json and card.json, and print what the run cost."""
        from lib import claims
        from lib.training import price

        trained = set(self.zoo.trained_here)
        tasks = plan(self.settings, (self.paper.name,))
        seconds = time.monotonic() - self.seconds
        metas = self._trained()
        known = {meta["key"]: meta["flops"] for meta in metas if "flops" in meta}  # counting them anew takes seconds
        flops = sum(known.get(t.recipe.key) or price.training(t.recipe) for t in tasks if t.recipe.epochs)
        speeds = self.table("networks", self._speeds(metas))
        took = costs(metas, self.zoo.store.used, float(os.environ.get("REPRO_RUN_STARTED") or self.started))
        training_seconds = float(speeds["seconds"].sum())
        share = float(speeds["share_of_matmul"].fillna(0).median()) if len(speeds) else 0.0
        card = {
            "notebook": self.paper.name,
            "title": claims.load(self.paper.name).title,
            "profile": self.settings.profile,
            "run": self.settings.run,
            "status": "ok",
            "parameters": plain(self.section),
            "networks_section": plain(self.networks),
            "overrides": dict(self.settings.overrides),
            "seeds": self.section.seeds,
            "first_seed": self.settings.first_seed,
            "seconds": seconds,
            "flops": flops,
            "training_seconds": training_seconds,
            "costs": took,
            "share_of_matmul": share,
            "networks": self.keys,
            "trained_here": len(trained),
            "started": _stamp(self.started),
            "finished": _stamp(time.time()),
            "warnings": self.warnings,
            "expected_false_decisions": claims.expected_false_decisions(self.claims),
            **provenance(self.device),
        }
        claims.save(self.claims, self.folder / "claims.json")
        used = snapshot([judged.claim for judged in self.claims], tasks, self.frozen)
        write_atomic(self.folder / "snapshot.json", json.dumps(used, indent=1, ensure_ascii=False))
        write_atomic(self.folder / "card.json", json.dumps(card, indent=1))
        print(
            f"{len(self.keys)} networks, {len(trained)} of them trained by this notebook, the others before; "
            f"training took {_parts(took['training'])} and about {flops / 1e15:.2g} PFLOP, at the median at "
            f"{share:.0%} of the device's matrix-multiply rate; measurements took {_parts(took['evaluation'])}; this "
            f"notebook {seconds:.0f} s on "
            f"{card['device']} with {card['threads']} threads; commit {card['commit']}; "
            f"results in {_short(self.folder)}"
        )


def _because(judged) -> str:
    """Why a claim got its verdict: the reason, what was measured, the required range and the value of no effect."""
    if judged.decisive is None:
        return judged.reason
    part = asdict(judged.decisive)
    told = judged.verdict not in ("supported", "not tested")  # these reasons say what was measured
    found = f"{part['what']}, {part['name'].split(': ', 1)[1]}: {words.interval(part)}{words.unit(part)}."
    limits = " · ".join(filter(None, (words.needed(part), words.null(part))))
    return " ".join(filter(None, (judged.reason, "" if told else found, f"Needed: {limits}.")))


def _parts(cost: dict) -> str:
    """A part of `costs` in words: 3 min in this run and 40 min before it."""
    return f"{duration(cost['made']['seconds'])} in this run and {duration(cost['found']['seconds'])} before it"


def _place(folder: Path, what: str, name: str, kind: str) -> Path:
    """Where one of the tables or figures of a run goes: never out of its folder."""
    need(is_file_name(name), f"name of one of the {what}", name, "one of letters, digits, spaces and -._+")
    return folder / what / f"{name}.{kind}"


def _stamp(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _short(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
