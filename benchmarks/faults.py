"""What a run does about faults other than kill -9, each once: see `benchmarks/torture.py`.

Each fault starts from nothing or from a copy of the finished run, and ends, after the same command was run again, with
the same tables and claims as that run and nothing left behind.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.runs import differences, doing, kill, left_behind, left_running, processes, start

DAY = 86400
STOPS_WITHIN = 10  # seconds
NOBODY = 65534
NO_SUPERUSER = ("setpriv", "--bounding-set", "-dac_override,-dac_read_search,-fowner")  # root with a user's rights
SIZES = (64, 256, 1024, 2048)  # kB of the disks that are full: sooner or later


@dataclass
class Bench:
    """A command, its finished run, and where the faulty ones work. moments: draws moments and damage."""

    folder: Path
    command: list[str]
    whole: Path
    moments: random.Random

    def place(self, name: str, finished: bool = False) -> Path:
        """A new folder for a run; with the files of the finished one if that is asked for."""
        place = self.folder / name
        shutil.rmtree(place, ignore_errors=True)
        if finished:
            shutil.copytree(self.whole, place)
        return place

    def run(self, place: Path, before: tuple = ()) -> tuple[int, str]:
        """Run the command to its end, after the words `before`; returns its status and what it printed."""
        log = place.with_name(f"{place.name}.log")
        read = log.stat().st_size if log.exists() else 0
        status = start([*before, *self.command], place).wait()
        return status, log.read_bytes()[read:].decode(errors="replace")

    def ends_well(self, place: Path) -> list[str]:
        """What is wrong after the command was run again, to its end."""
        status, said = self.run(place)
        return [f"then it fails: {last(said)}"] if status else differences(self.whole, place) + left_behind(place)


def last(said: str) -> str:
    return (said.strip().splitlines() or ["it says nothing"])[-1]


def refused(status: int, said: str, *words: str) -> list[str]:
    """What is wrong if a run should have failed with a sentence that contains one of these words."""
    if status == 0:
        return ["nothing is refused"]
    return (["a traceback is shown"] if "Traceback" in said else []) + (
        [] if any(word in said for word in words) else [f"no sentence says it: {last(said)}"])


def two_runs_in_one_folder(bench: Bench):
    """The second one is refused, the first one does not notice."""
    place = bench.place("together")
    first = start(bench.command, place)
    time.sleep(bench.moments.uniform(5, 15))
    found = refused(*bench.run(place), "another run is writing to") if first.poll() is None else []
    return found + ([] if first.wait() == 0 else ["the first one fails"]) + bench.ends_well(place)


def two_runs_on_one_store(bench: Bench):
    """Both end well, and every network is trained once."""
    places = [bench.place("one"), bench.place("other")]
    store = {"REPRO_STORE": str(places[0] / "store")}
    runs = [start(bench.command, place, env=store) for place in places]
    found = [f"{place.name} fails" for place, run in zip(places, runs, strict=True) if run.wait()]
    for place in places:
        found += differences(bench.whole, place) + left_behind(place)
    trained = [json.loads(path.read_bytes())["trained_here"] for place in places for path in
               place.glob("results/*/*/card.json")]
    networks = len(list(places[0].glob("store/network/*")))
    return found + ([f"{sum(trained)} trainings of {networks} networks"] if sum(trained) > networks else [])


def stopped(bench: Bench, number: signal.Signals, group: bool):
    """The run ends within ten seconds and nothing counts as failed."""
    place, found = bench.place(number.name), []
    for _ in range(4):
        run = start(bench.command, place, start_new_session=True,
                    preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
        time.sleep(bench.moments.uniform(2, 25))
        if run.poll() is not None:
            continue
        moment, since = doing(run.pid), time.monotonic()
        (os.killpg if group else os.kill)(run.pid, number)
        try:
            status = run.wait(STOPS_WITHIN)
        except subprocess.TimeoutExpired:
            kill(run.pid)
            found.append(f"{moment}: it still runs after {STOPS_WITHIN} seconds")
            continue
        print(f"  {number.name}, {moment}: ended after {time.monotonic() - since:.1f} s", flush=True)
        failed = [*place.glob("results/*/jobs/*.failed"), *place.glob("results/*/*/card.json")]
        found += [f"{moment}: status {status}"] if status != 130 else []
        found += [f"{moment}: {path.name} says that it failed" for path in failed if "failed" in path.read_text()]
        found += [f"{moment}: {len(left)} processes still run"] if (left := left_running(run.pid)) else []
    return found + bench.ends_well(place)


def interrupted(bench: Bench):
    """Ctrl-C reaches all processes in the foreground."""
    return stopped(bench, signal.SIGINT, group=True)


def terminated(bench: Bench):
    """SIGTERM reaches the run alone."""
    return stopped(bench, signal.SIGTERM, group=False)


def dying_kernel(bench: Bench):
    """The run says that a notebook's kernel died."""
    place = bench.place("kernel")
    run, kernels = start(bench.command, place), []
    while run.poll() is None and not kernels:
        kernels = [pid for pid in processes(run.pid) if b"ipykernel" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        time.sleep(0.1)
    time.sleep(bench.moments.uniform(3, 10))
    for pid in kernels:
        kill(pid)
    return refused(run.wait(), place.with_name("kernel.log").read_text(), "Kernel died") + bench.ends_well(place)


def damaged(bench: Bench):
    """One file of each kind is cut, another has one bit changed: what rests on it is made again."""
    found = []
    for kind, paths in kinds(bench.whole).items():
        for damage in (cut, flip):
            place = bench.place("damaged", finished=True)
            path = bench.moments.choice(paths)
            what = damage(place / path, bench.moments)
            status, said = bench.run(place)
            wrong = [f"it fails: {last(said)}"] if status else differences(bench.whole, place)
            if status == 2 and "Traceback" not in said:
                wrong = []
            wrong += [one for one in left_behind(place) if "damaged" not in one]
            noticed = any(words in said for words in ("is damaged (", "have changed"))
            outcome = "; ".join(wrong) or (last(said) if status else "made again" if noticed else "no matter")
            print(f"  {kind}, {what}: {outcome}", flush=True)
            found += [f"{path}, {what}: {one}" for one in wrong]
    return found


def kinds(place: Path) -> dict[str, list[Path]]:
    """The files of a run by kind: a path without the names of entries, notebooks, tables and jobs."""
    found: dict[str, list[Path]] = {}
    for path in sorted(path.relative_to(place) for path in place.rglob("*") if path.is_file()):
        if path.parts[0] != "tmp" and (place / path).stat().st_size:
            of = path.parts[:2] if path.parts[0] == "store" else path.parts[:1]
            name = path.name if path.suffix == ".json" else f"*{path.suffix}" if path.suffix else path.parent.name
            found.setdefault("/".join((*of, name)), []).append(path)
    return found


def cut(path: Path, moments: random.Random) -> str:
    with path.open("rb+") as file:
        file.truncate(path.stat().st_size // 2)
    return "cut"


def flip(path: Path, moments: random.Random) -> str:
    content = bytearray(path.read_bytes())
    content[moments.randrange(len(content))] ^= 1 << moments.randrange(7)
    path.write_bytes(content)
    return "one bit changed"


def full_disk(bench: Bench):
    """One sentence says so, and with room the same command completes."""
    if os.geteuid() != 0:
        return None
    found = []
    for size in SIZES:
        place = bench.place("full")
        place.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", place], check=True)
        try:
            status, said = bench.run(place)
            print(f"  {size} kB: {last(said)}", flush=True)
            wrong = refused(status, said, "No space left on device")
            subprocess.run(["mount", "-o", "remount,size=1g", place], check=True)
            found += [f"{size} kB: {one}" for one in wrong + bench.ends_well(place)]
        finally:
            subprocess.run(["umount", "-l", place], check=True)
    return found


def another_user(bench: Bench):
    """Results or an unfinished store that this user may not write to are refused; a finished store is read."""
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        return None
    found = []
    for what, theirs, finished in (("results", "results", True), ("an unfinished store", "store", False),
                                   ("a finished store", "store", True)):
        place = bench.place("theirs", finished=finished)
        (place / theirs).mkdir(parents=True, exist_ok=True)
        if theirs == "store":
            shutil.rmtree(place / "results", ignore_errors=True)
        for path in (place / theirs, *(place / theirs).rglob("*")):
            os.chown(path, NOBODY, NOBODY)
            path.chmod(0o755 if path.is_dir() else 0o644)
        status, said = bench.run(place, NO_SUPERUSER)
        print(f"  {what}: {last(said)}", flush=True)
        if what == "a finished store":
            wrong = [f"it fails: {last(said)}"] if status else differences(bench.whole, place)
        else:
            wrong = refused(status, said, "Permission denied")
        found += [f"{what}: {one}" for one in wrong]
    return found


def clock_jumps(bench: Bench):
    """Times in the future and in 1970 neither repeat a training nor keep what has to be done from being done."""
    found = []
    for what, when in (("a day ahead", time.time() + DAY), ("1970", 0.0)):
        place = bench.place("clock", finished=True)
        made = {path: path.read_bytes() for path in place.glob("store/*/*/meta.json")}
        for only in ("results", "store", ""):
            for path in (place / only).rglob("*"):
                os.utime(path, (when, when))
            found += [f"{what}, {only or 'both'}: {one}" for one in bench.ends_well(place)]
        found += [f"{what}: {path.parent.name} is made again" for path in made if path.read_bytes() != made[path]]
        place = bench.place("clock")
        for _ in range(3):
            run = start(bench.command, place)
            time.sleep(bench.moments.uniform(5, 20))
            kill(run.pid)
            run.wait()
            found += ["processes still run"] if left_running(run.pid) else []
            for path in place.rglob("*"):
                os.utime(path, (when, when))
        found += [f"{what}, unfinished: {one}" for one in bench.ends_well(place)]
    return found


FAULTS = {fault.__name__: fault for fault in (
    two_runs_in_one_folder, two_runs_on_one_store, interrupted, terminated, dying_kernel, damaged, full_disk,
    another_user, clock_jumps)}


def faults(folder: Path, command: list[str], whole: Path, moments: random.Random, names: list[str]) -> list[str]:
    """What is wrong after each of these faults, one sentence each; prints a line for each."""
    found = []
    for name in names:
        wrong = FAULTS[name](Bench(folder, command, whole, moments))
        outcome = "skipped, as it needs root" if wrong is None else "; ".join(wrong) or "as it should be"
        print(f"{name}: {outcome}", flush=True)
        found += [f"{name}: {one}" for one in wrong or ()]
    return found
