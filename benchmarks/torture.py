"""A run that is killed again and again ends as one that was left alone.

    benchmarks/run.sh torture --kills 50 --profile smoke

Runs notebooks once undisturbed and once with kill -9 at random moments of whatever is being done (training, measuring,
notebook, report, moving entries into the store), starting the run again after each kill. In the end tables and claims
must be equal byte for byte, except for times, and nothing may be left behind: no process, no temporary file, no entry
set aside as damaged.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lib.cli import Parser
from lib.errors import need, unknown
from lib.papers import papers
from lib.papers.settings import profiles
from lib.runtime import ROOT

TIMED = "networks.csv"  # the table of trainings, which holds seconds and speeds


def main(argv: list[str]) -> int:
    """Run the test that the command line describes; returns 1 if anything differs or is left behind, otherwise 0."""
    parser = Parser(prog="benchmarks/run.sh torture", description=__doc__.splitlines()[0])
    parser.script = parser.prog
    parser.add_argument("notebooks", nargs="*", metavar="NOTEBOOK", help="which (default: all)")
    parser.add_argument("--kills", type=int, default=50, metavar="N", help="how often the run is killed (default 50)")
    parser.add_argument("--profile", default="smoke", help=f"one of {', '.join(profiles())} (default smoke)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the moments (default 0)")
    args = parser.parse_args(argv)
    need(args.kills >= 1, "--kills", args.kills, "at least 1")
    for name in args.notebooks:
        if name not in papers():
            raise unknown("notebook", name, papers())
    with tempfile.TemporaryDirectory(prefix="torture-") as folder:
        faults = torture(Path(folder), args.profile, args.notebooks, args.kills, args.seed)
    print("\n".join(faults) or f"{args.kills} kills: the same tables and claims, nothing left behind")
    return 1 if faults else 0


def torture(folder: Path, profile: str, notebooks: list[str], kills: int, seed: int) -> list[str]:
    """What is wrong after `kills` kills, one sentence each. Works in `folder`, with its own stores and results. seed:
    of the random moments.
    """
    command = [sys.executable, "-m", "lib", "run", "--profile", profile, *notebooks]
    whole, broken, moments = folder / "whole", folder / "broken", random.Random(seed)
    started = time.monotonic()
    faults = [] if _start(command, whole).wait() == 0 else ["the run that is left alone fails"]
    seconds = time.monotonic() - started
    print(f"left alone: {seconds:.0f} s", flush=True)
    done = 0
    while done < kills and not faults:
        run = _start(command, broken)
        try:
            status = run.wait(moments.uniform(0.5, 5 + seconds / kills))
            faults += [f"after {done} kills the run fails"] if status else []
            _forget(broken, moments)  # the run ended before the kill: make work for the next one
            continue
        except subprocess.TimeoutExpired:
            run.send_signal(signal.SIGKILL)
            run.wait()
        done += 1
        if left := _left_running(run.pid):
            faults.append(f"kill {done}: {len(left)} processes still run after ten seconds")
        print(f"kill {done} of {kills}", flush=True)
    if not faults and _start(command, broken).wait():
        faults.append("the run that was killed fails at the end")
    return faults or _differences(whole, broken) + _left_behind(broken)


def _start(command: list[str], place: Path) -> subprocess.Popen:
    place.mkdir(parents=True, exist_ok=True)
    env = os.environ | {"REPRO_RESULTS": str(place / "results"), "REPRO_STORE": str(place / "store")}
    with open(place / "log", "a", encoding="utf-8") as log:
        return subprocess.Popen(command, cwd=ROOT, env=env, stdout=log, stderr=log)


def _forget(place: Path, moments: random.Random) -> None:
    """Delete a third of the store's entries and all verdicts, so that there is work again."""
    entries = sorted(path for path in (place / "store").glob("*/*") if (path / "meta.json").exists())
    for entry in moments.sample(entries, -(-len(entries) // 3)):
        shutil.rmtree(entry)
    for path in [*place.glob("results/*/*/claims.json"), *place.glob("results/*/jobs/*.done")]:
        path.unlink()


def _left_running(run: int) -> list[str]:
    """The ids of processes of a killed run that are still alive after ten seconds (only where /proc exists)."""
    mark, deadline = f"REPRO_RUN_PID={run}\0".encode(), time.monotonic() + 10
    while True:
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                alive = path.with_name("stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
                found += [path.parent.name] if alive and mark in path.read_bytes() else []
            except OSError:
                continue
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.2)


def _differences(whole: Path, broken: Path) -> list[str]:
    """A sentence for each table or claims file that differs between the two runs."""
    def written(place: Path) -> dict[str, bytes]:
        every = [*place.glob("results/*/*/tables/*.csv"), *place.glob("results/*/*/claims.json")]
        return {str(path.relative_to(place)): path.read_bytes() for path in every if path.name != TIMED}

    one, other = written(whole), written(broken)
    return [f"{name} differs" for name in sorted(one.keys() | other.keys()) if one.get(name) != other.get(name)]


def _left_behind(place: Path) -> list[str]:
    """A sentence for each temporary, damaged or failed file of a run."""
    patterns = ("**/*.part", "store/making/*", "store/damaged/*", "**/*.damaged",
                "results/*/jobs/*.failed")
    return [f"{path.relative_to(place)} is left behind" for pattern in patterns for path in place.glob(pattern)]
