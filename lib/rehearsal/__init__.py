"""Dress rehearsals: `./run_all.sh --profile paper --rehearse` runs a profile's plan in miniature, on made-up data sets,
every network and then the notebooks, and reports kind by kind what ran and what the real work needs.

All of it lies in one results folder, `<profile>+rehearsal`, with a store of its own. Publishing refuses it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

from lib import site
from lib.cards import CARDS, Card
from lib.dry_run import needs as needs_of_run
from lib.dry_run import with_packages
from lib.errors import OneLineError
from lib.files import read_json, write_atomic
from lib.papers import papers
from lib.papers import settings as profiles
from lib.papers.plan import measurements, plan
from lib.papers.settings import REHEARSAL, Settings
from lib.profiles import miniature
from lib.rehearsal import report, sets
from lib.rehearsal.kinds import Need, measured_kind, needs
from lib.rehearsal.work import FAILS, LACKS, LARGE, RAN, Result, carry_out
from lib.runtime import FOR_GPUS, ROOT, cores, device, results
from lib.store import Store
from lib.training.price import Prices

CARD = "h200"  # on which a profile for GPUs is priced where there is none
LIMIT = 3600  # seconds of a notebook, by the clock


@dataclass
class Kind:
    """What became of a kind of work. ran, tried: its steps in the miniature plan; seconds: of the longest; memory: the
    largest peak in bytes; need: of the real work.
    """

    kind: str
    need: Need = field(default_factory=Need)
    status: str = ""
    error: str = ""
    ran: int = 0
    tried: int = 0
    seconds: float = 0.0
    memory: float = 0.0

    def add(self, result: Result) -> None:
        """Count a result. The worst one gives status and error."""
        worse = (RAN, LACKS, FAILS, LARGE)
        self.tried += 1
        self.ran += result.status == RAN
        if not self.status or worse.index(result.status) > worse.index(self.status):
            self.status, self.error = result.status, result.error
        self.seconds, self.memory = max(self.seconds, result.seconds), max(self.memory, result.memory)


def rehearse(settings: Settings, overrides: dict, notebooks: tuple[str, ...], jobs: int, card: Card | None) -> int:
    """Rehearse the notebooks with the settings of a profile, and report. jobs: how many networks are made at a time.
    card: what the real work is priced for; None: this machine or, for a profile for GPUs on a machine without one, an
    H200. Returns 0, or 1 if anything failed. Raises OneLineError if another rehearsal writes to the same folder.
    """
    from filelock import FileLock, Timeout

    folder = results() / f"{settings.run}+{REHEARSAL}"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(str(folder / ".lock")).acquire(timeout=0):
            return _rehearse(settings, overrides, notebooks, jobs, card, folder)
    except Timeout:
        raise OneLineError(f"another rehearsal is writing to {folder}: wait for it or stop it") from None


def _rehearse(settings: Settings, overrides: dict, notebooks, jobs: int, card: Card | None, folder: Path) -> int:
    started = time.monotonic()
    kinds, said, names = _real(settings, notebooks, jobs, card)
    print(f"{len(kinds)} kinds of work; real sizes are priced for {said[0]}", flush=True)
    for old in folder.iterdir():
        if old.name != ".lock":
            shutil.rmtree(old) if old.is_dir() else old.unlink()
    with _entered(folder):
        (folder / "jobs").mkdir()
        weights = {one.name for section in settings.sections.values() for one in getattr(section, "external", ())}
        made = sets.write(names, weights, folder / "data")
        small = profiles.load(settings.profile, overrides)
        for result in carry_out(plan(small, notebooks), small.device, jobs, max(1, cores() // jobs),
                                folder / "jobs" / "networks.log"):
            kind = kinds.setdefault(result.step.kind, Kind(result.step.kind))
            new = not kind.tried or result.status not in (RAN, LACKS)
            kind.add(result)
            if new:
                print(report.line(result), flush=True)
        rows = _notebooks(small, overrides, notebooks, jobs, folder)
        _measured(kinds, rows, small)
        page, status = _page(folder)
    rows.append({"name": "site", "status": status, "error": page if status == FAILS else "", "seconds": 0, "memory": 0})
    text = report.text(small, [*kinds.values()], rows, said, made, time.monotonic() - started)
    write_atomic(folder / "rehearsal.md", text)
    found = {"profile": settings.profile, "kinds": [asdict(kind) for kind in kinds.values()], "notebooks": rows,
             "said": said, "made_up": made}
    write_atomic(folder / "rehearsal.json", json.dumps(found, indent=1))
    print(text)
    print(f"the report is {folder / 'rehearsal.md'}")
    return int(any(one["status"] == FAILS for one in rows) or any(k.status == FAILS for k in kinds.values()))


def _real(settings: Settings, notebooks, jobs: int, card: Card | None) -> tuple[dict[str, Kind], list[str], set[str]]:
    """The kinds of work with what they need at real size, sentences on the whole run (first the device of the prices),
    and the names of its data sets.
    """
    where = device(settings.device)
    if card is None and settings.profile in FOR_GPUS and where.type != "cuda":
        card = CARDS[CARD]
    nothing = Store(results() / REHEARSAL / "none")  # all work is missing
    tasks, lacking = with_packages(plan(settings, notebooks))
    measured = measurements(settings, notebooks)
    prices = card or Prices(Store(), where, max(1, cores() // jobs))
    kinds = {kind: Kind(kind, need) for kind, need in needs(tasks, measured, prices).items()}
    said = [card.title if card else str(where), *needs_of_run(tasks, measured, nothing, card, where), *lacking,
            *[f"{name}: {note}" for name in notebooks for note in papers()[name].notes]]
    return kinds, said, {task.recipe.data.name for task in tasks}


class _entered:
    """A block in which this process and those that it starts rehearse in a folder."""

    def __init__(self, folder: Path):
        self.set = {"REPRO_REHEARSAL": str(folder), "REPRO_DATA": str(folder / "data"),
                    "REPRO_STORE": str(folder / "store"), "REPRO_RUN_PID": str(os.getpid()), "REPRO_HEADLESS": "1"}

    def __enter__(self):
        self.old = {name: os.environ.get(name) for name in self.set}
        os.environ.update(self.set)
        miniature.enter()

    def __exit__(self, *exc):
        miniature.leave()
        for name, value in self.old.items():
            os.environ.pop(name, None)
            os.environ.update({name: value} if value is not None else {})


def _notebooks(small: Settings, overrides: dict, notebooks, jobs: int, folder: Path) -> list[dict]:
    """Run the notebooks, each in a process of its own; a row for each: name, status, error, seconds, memory."""
    options = [word for name, value in overrides.items() for word in ("-p", f"{name}={json.dumps(value)}")]
    running: list[subprocess.Popen] = []

    def run(name: str) -> dict:
        command = [sys.executable, "-m", "lib", "notebook", name, "--profile", small.profile, *options]
        env = os.environ | {"REPRO_THREADS": str(max(1, cores() // jobs)), "PYTHONPATH": str(ROOT)}
        started, error = time.monotonic(), ""
        with (folder / "jobs" / f"{name}.log").open("w") as log:
            process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=log, stderr=log)
            running.append(process)
            while not (ended := os.wait4(process.pid, os.WNOHANG))[0]:
                if not error and time.monotonic() - started > LIMIT:
                    process.kill()
                    error = f"more than {LIMIT} s"
                time.sleep(0.2)
        _, status, used = ended
        process.returncode = os.waitstatus_to_exitcode(status)
        card = folder / name / "card.json"
        if process.returncode and not error:
            error = read_json(card).get("error", "") if card.exists() else ""
            error = error or f"it ended with status {process.returncode}, see jobs/{name}.log"
        row = {"name": name, "status": FAILS if error else RAN, "error": error,
               "seconds": used.ru_utime + used.ru_stime, "memory": 1024 * used.ru_maxrss}
        print(f"notebook {name}: {row['status']}{f': {error}' if error else ''}", flush=True)
        return row

    pool = ThreadPoolExecutor(jobs)
    try:
        return [*pool.map(run, notebooks)]
    finally:  # after an interrupt nothing goes on
        pool.shutdown(wait=False, cancel_futures=True)
        for process in running:
            if process.returncode is None:
                process.kill()


def _measured(kinds: dict[str, Kind], rows: list[dict], small: Settings) -> None:
    """Give the notebooks' own measurements the status of their notebooks."""
    for row in rows:
        name, ran = row["name"], row["status"] == RAN
        for kind in {measured_kind(name, one) for one in measurements(small, (name,))[name]}:
            found = kinds.setdefault(kind, Kind(kind))
            found.status, found.error = (RAN, "") if ran else (LACKS, "its notebook failed")


def _page(folder: Path) -> tuple[str, str]:
    """Write the site over what the notebooks wrote; its front page or the error, and the status."""
    try:
        return str(site.index(folder)), RAN
    except Exception as error:
        return f"{type(error).__name__}: {error}", FAILS
