"""A run that is killed again and again ends as one that was left alone.

    benchmarks/run.sh torture --kills 50 --rounds 3 --profile smoke

Runs notebooks once undisturbed and, in each round, once with kill -9 at random moments of whatever is being done
(training, measuring, notebook, report, moving entries into the store), starting the run again after each kill. Half of
the kills end the run alone, as a person does, and half all of its processes at once, as a machine does that goes down.
In the end tables and claims must be equal byte for byte, except for times, and nothing may be left behind: no process,
no temporary file, no lock, no entry set aside as damaged.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from lib.cli import Parser
from lib.errors import need, unknown
from lib.papers import papers
from lib.papers.settings import profiles
from lib.runtime import ROOT

TIMED = "networks.csv"  # the table of trainings, which holds seconds and speeds
AIMS = (*3 * ["any moment"], "a checkpoint", "a move", "an end")  # of kills in turn; the last three are short
SOON, PATIENCE = 40.0, 60.0  # seconds: any moment comes within the first, an aimed kill waits for the second at most


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
    args = parser.parse_args(argv)
    need(args.kills >= 1, "--kills", args.kills, "at least 1")
    need(args.rounds >= 1, "--rounds", args.rounds, "at least 1")
    for name in args.notebooks:
        if name not in papers():
            raise unknown("notebook", name, papers())
    with contextlib.nullcontext(args.folder) if args.folder else tempfile.TemporaryDirectory() as folder:
        seeds = range(args.seed, args.seed + args.rounds)
        faults = torture(Path(folder).resolve(), args.profile, args.notebooks, args.kills, seeds)
    print("\n".join(faults) or "the same tables and claims, nothing left behind")
    return 1 if faults else 0


def torture(folder: Path, profile: str, notebooks: list[str], kills: int, seeds: range) -> list[str]:
    """What is wrong after `kills` kills, one sentence each. Works in `folder`, with its own stores and results. seeds:
    of the random moments, one for each round.
    """
    command = [sys.executable, "-m", "lib", "run", "--profile", profile, *notebooks]
    whole = folder / "whole"
    faults = [] if start(command, whole).wait() == 0 else ["the run that is left alone fails"]
    for seed in seeds if not faults else ():
        broken = folder / f"broken-{seed}"
        shutil.rmtree(broken, ignore_errors=True)
        found = _killed(command, broken, kills, random.Random(seed))
        found = found or differences(whole, broken) + left_behind(broken)
        print(f"seed {seed}: {'; '.join(found) or 'equal, nothing left behind'}", flush=True)
        faults += [f"seed {seed}: {fault}" for fault in found]
    return faults


def _killed(command: list[str], place: Path, kills: int, moments: random.Random) -> list[str]:
    """Run a command with results in `place` until it was killed `kills` times, then to its end; returns what failed."""
    met: Counter[str] = Counter()
    while met.total() < kills:
        aim = AIMS[met.total() % len(AIMS)]
        longest = moments.uniform(0.5, SOON) if aim == "any moment" else PATIENCE
        run = start(command, place)
        found, every = _aimed(run, place, aim, longest, moments)
        if run.poll() is not None:
            if run.returncode:
                return [f"after {met.total()} kills the run fails"]
            _forget(place, moments)  # the run ended before the kill: make work for the next one
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
            return [f"kill {met.total()}: {len(left)} processes still run after ten seconds"]
    print("killed while " + ", ".join(f"{moment}: {count}" for moment, count in met.most_common()), flush=True)
    return ["the run that was killed fails at the end"] if start(command, place).wait() else []


def _aimed(run: subprocess.Popen, place: Path, aim: str, longest: float, moments: random.Random) -> tuple[str, list]:
    """Wait until a run does what a kill is aimed at, for at most `longest` seconds or until the run has ended; returns
    what it does, as in AIMS, and the run's processes of a moment ago, because a move takes a few milliseconds.
    """
    deadline, before, every, looked = time.monotonic() + longest, _verdicts(place), [], 0.0
    while time.monotonic() < deadline and run.poll() is None:
        if aim in ("a checkpoint", "a move"):
            if time.monotonic() - looked > 0.3:
                every, looked = processes(run.pid), time.monotonic()
            if aim in _being_written(place):
                return aim, every
        if aim == "an end" and _verdicts(place) - before:  # then the kernel ends, and page and index are written
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


def _verdicts(place: Path) -> set[Path]:
    return set(place.glob("results/*/*/claims.json"))


def start(command: list[str], place: Path) -> subprocess.Popen:
    """Start a run with its store and results in the folder `place`, where `log` takes what it prints."""
    (place / "tmp").mkdir(parents=True, exist_ok=True)
    env = os.environ | {"REPRO_RESULTS": str(place / "results"), "REPRO_STORE": str(place / "store"),
                        "TMPDIR": str(place / "tmp")}
    with open(place / "log", "a", encoding="utf-8") as log:
        return subprocess.Popen(command, cwd=ROOT, env=env, stdout=log, stderr=log)


def _forget(place: Path, moments: random.Random) -> None:
    """Delete a third of the store's entries and all verdicts, so that there is work again."""
    entries = sorted(path for path in (place / "store").glob("*/*") if (path / "meta.json").exists())
    for entry in moments.sample(entries, -(-len(entries) // 3)):
        shutil.rmtree(entry)
    for path in [*_verdicts(place), *place.glob("results/*/jobs/*.done")]:
        path.unlink()


def kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def processes(run: int) -> list[int]:
    """The living processes that a run started (only where /proc exists)."""
    mark, found = f"REPRO_RUN_PID={run}\0".encode(), []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            alive = path.with_name("stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
            found += [int(path.parent.name)] if alive and mark in path.read_bytes() else []
    return found


def left_running(run: int) -> list[int]:
    """The processes of a run that has ended which are still alive after ten seconds."""
    deadline = time.monotonic() + 10
    while (found := processes(run)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return found


def doing(run: int) -> str:
    """What a run is doing, in a few words, from the command lines of its processes and the locks that they hold."""
    commands, held = [], set()
    for pid in processes(run):
        with contextlib.suppress(OSError):
            commands.append(Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode())
            files = [os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()]
            held |= {Path(file).name.split("-")[0] for file in files if "/locks/" in file}
    at = next((f"in {name}" for word, name in (("ipykernel", "a notebook"), ("lib train", "a job"))
               if any(word in command for command in commands)), "")
    if at and held:
        return f"making {' and '.join(sorted(held))} {at}"
    if at:
        return f"between entries {at}"
    if any("lib notebook" in command for command in commands):
        return "starting a notebook or writing its page"
    return "planning" if commands else "starting or writing the index"


def differences(whole: Path, broken: Path) -> list[str]:
    """A sentence for each table or claims file that differs between the two runs."""
    def written(place: Path) -> dict[str, bytes]:
        every = [*place.glob("results/*/*/tables/*.csv"), *_verdicts(place)]
        return {str(path.relative_to(place)): path.read_bytes() for path in every if path.name != TIMED}

    one, other = written(whole), written(broken)
    return [f"{name} differs" for name in sorted(one.keys() | other.keys()) if one.get(name) != other.get(name)]


def left_behind(place: Path) -> list[str]:
    """A sentence for each temporary, damaged or failed file of a run."""
    patterns = ("**/*.part", "store/making/*", "store/locks/*", "store/damaged/*", "**/*.damaged",
                "results/*/jobs/*.failed", "results/*/.scratch", "tmp/[!t]*", "tmp/t[!o]*")  # torch keeps its caches
    return [f"{path.relative_to(place)} is left behind" for pattern in patterns for path in place.glob(pattern)]
