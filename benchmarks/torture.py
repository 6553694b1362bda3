"""A run that is killed again and again ends as one that was left alone.

    benchmarks/run.sh torture --kills 50 --rounds 3 --profile smoke

Runs notebooks once undisturbed and, in each round, once with kill -9 at random moments of whatever is being done
(training, measuring, notebook, report, moving entries into the store), starting the run again after each kill. Half of
the kills end the run alone, as a person does, and half all of its processes at once, as a machine does that goes down.
In the end tables and claims must be equal byte for byte, except for times, and nothing may be left behind: no process,
no temporary file, no lock, no entry set aside as damaged. `--faults` tries what else can happen: see
`benchmarks/faults.py`.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from benchmarks.faults import FAULTS, faults
from benchmarks.runs import differences, doing, kill, left_behind, left_running, processes, start, verdicts
from lib.cli import Parser
from lib.errors import need, unknown
from lib.papers import papers
from lib.papers.settings import profiles

AIMS = (*3 * ["any moment"], "a checkpoint", "a move", "an end")  # of kills in turn; the last three are short
SOON, PATIENCE = 40.0, 120.0  # seconds: any moment comes within the first, an aimed kill waits for the second at most


def main(argv: list[str]) -> int:
    """Run the test that the command line describes; returns 1 if anything differs or is left behind, otherwise 0."""
    parser = Parser(prog="benchmarks/run.sh torture", description=__doc__.splitlines()[0])
    parser.script = parser.prog
    parser.add_argument("notebooks", nargs="*", metavar="NOTEBOOK", help="which (default: all)")
    parser.add_argument("--kills", type=int, default=50, metavar="N", help="how often the run is killed (default 50)")
    parser.add_argument("--rounds", type=int, default=1, metavar="N", help="how often all of it is done (default 1)")
    parser.add_argument("--profile", default="smoke", help=f"one of {', '.join(profiles())} (default smoke)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the first round's moments (default 0)")
    parser.add_argument("--folder", type=Path, metavar="FOLDER",
                        help="where to work, kept at the end; a run there that was left alone is used again")
    parser.add_argument("--faults", nargs="?", const=",".join(FAULTS), default="", metavar="NAMES",
                        help=f"other faults instead of kills: {', '.join(FAULTS)} (default: all of them)")
    args = parser.parse_args(argv)
    need(args.kills >= 1, "--kills", args.kills, "at least 1")
    need(args.rounds >= 1, "--rounds", args.rounds, "at least 1")
    for name in args.notebooks:
        if name not in papers():
            raise unknown("notebook", name, papers())
    for name in filter(None, args.faults.split(",")):
        if name not in FAULTS:
            raise unknown("fault", name, FAULTS)
    with contextlib.nullcontext(args.folder) if args.folder else tempfile.TemporaryDirectory() as folder:
        seeds = range(args.seed, args.seed + args.rounds)
        names = [name for name in args.faults.split(",") if name]
        found = torture(Path(folder).resolve(), args.profile, args.notebooks, args.kills, seeds, names)
    print("\n".join(found) or "the same tables and claims, nothing left behind")
    return 1 if found else 0


def torture(folder: Path, profile: str, notebooks: list[str], kills: int, seeds: range, names=()) -> list[str]:
    """What is wrong after `kills` kills, or instead after the faults of these names, one sentence each. Works in
    `folder`, with its own stores and results. seeds: of the random moments, one for each round.
    """
    command = [sys.executable, "-m", "lib", "run", "--profile", profile, *notebooks]
    command += ["-p", "jobs=seeds"] if names else []  # there is a file of each kind
    whole, wrong = folder / "whole", []
    if start(command, whole).wait():
        return ["the run that is left alone fails"]
    for seed in seeds:
        if names:
            wrong += faults(folder, command, whole, random.Random(seed), names)
            continue
        broken = folder / f"broken-{seed}"
        shutil.rmtree(broken, ignore_errors=True)
        found = _killed(command, broken, kills, random.Random(seed))
        found = found or differences(whole, broken) + left_behind(broken)
        print(f"seed {seed}: {'; '.join(found) or 'equal, nothing left behind'}", flush=True)
        wrong += [f"seed {seed}: {one}" for one in found]
    return wrong


def _killed(command: list[str], place: Path, kills: int, moments: random.Random) -> list[str]:
    """Run a command with results in `place` until it was killed `kills` times, then to its end; returns what failed.

    In between it runs to its end once, so that half of the kills meet training jobs and half notebooks.
    """
    met: Counter[str] = Counter()
    late = False
    while met.total() < kills:
        if not late and met.total() >= kills // 2:
            late = True
            if start(command, place).wait():
                return [f"after {met.total()} kills the run fails"]
            _forget(place, moments, late)
        aim = AIMS[met.total() % len(AIMS)]
        longest = moments.uniform(0.5, SOON) if aim == "any moment" else PATIENCE
        run = start(command, place)
        found, every = _aimed(run, place, aim, longest, moments)
        if run.poll() is not None:
            if run.returncode:
                return [f"after {met.total()} kills the run fails"]
            _forget(place, moments, late)  # the run ended before the kill: make work for the next one
            continue
        short = found in ("a checkpoint", "a move")
        moment = f"writing {found} of the store" if short else doing(run.pid)
        whole = short or moments.random() < 0.5
        for pid in [run.pid, *(every if short else processes(run.pid) if whole else [])]:
            kill(pid)
        run.wait()
        met[moment] += 1
        print(f"kill {met.total()} of {kills}: {moment}; {'all processes' if whole else 'the run alone'}", flush=True)
        if left := left_running(run.pid):
            return [f"kill {met.total()}: {len(left)} processes still run after half a minute"]
    print("killed while " + ", ".join(f"{moment}: {count}" for moment, count in met.most_common()), flush=True)
    return ["the run that was killed fails at the end"] if start(command, place).wait() else []


def _aimed(run: subprocess.Popen, place: Path, aim: str, longest: float, moments: random.Random) -> tuple[str, list]:
    """Wait until a run does what a kill is aimed at, for at most `longest` seconds or until the run has ended; returns
    what it does, as in AIMS, and the run's processes of a moment ago, because a move takes a few milliseconds.
    """
    deadline, before, every, looked = time.monotonic() + longest, verdicts(place), [], 0.0
    while time.monotonic() < deadline and run.poll() is None:
        if aim in ("a checkpoint", "a move"):
            if time.monotonic() - looked > 0.3:
                every, looked = processes(run.pid), time.monotonic()
            if aim in _being_written(place):
                return aim, every
        if aim == "an end" and verdicts(place) - before:  # then the kernel ends, and page and index are written
            time.sleep(moments.uniform(0, 4))
            return aim, every
        time.sleep(0.001)
    return "any moment", every


def _being_written(place: Path) -> set[str]:
    """Which of `a checkpoint` and `a move` an entry that is being made in the store has reached."""
    found = set()
    with contextlib.suppress(OSError):  # files come and go
        for path in place.glob("store/making/*/*"):
            if time.time() - path.stat().st_mtime < 1 and (path.suffix == ".part" or "checkpoint" not in path.name):
                found.add("a checkpoint" if "checkpoint" in path.name else "a move")
    return found


def _forget(place: Path, moments: random.Random, late: bool) -> None:
    """Delete a third of the store's entries and all verdicts, so that there is work again. late: only entries that
    notebooks make.
    """
    entries = sorted(path for path in (place / "store").glob("*/*") if (path / "meta.json").exists()
                     and not (late and path.parent.name in ("network", "outcomes")))
    for entry in moments.sample(entries, -(-len(entries) // 3)):
        shutil.rmtree(entry)
    for path in [*verdicts(place), *place.glob("results/*/jobs/*.done")]:
        path.unlink()
