"""Runs of the torture test: starting them, what they are doing, what they wrote and what they left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

from lib.runtime import ROOT

TIMED = "networks.csv"  # the table of trainings, which holds seconds and speeds


def start(command: list[str], place: Path, env: dict | None = None, **how) -> subprocess.Popen:
    """Start a run with its store, results and temporary files in the folder `place`; next to that, `<place>.log` takes
    what it prints. how: options of Popen.
    """
    (place / "tmp").mkdir(parents=True, exist_ok=True)
    folders = {"REPRO_RESULTS": str(place / "results"), "REPRO_STORE": str(place / "store"),
               "TMPDIR": str(place / "tmp")}
    with open(place.with_name(f"{place.name}.log"), "a", encoding="utf-8") as log:
        env = os.environ | folders | (env or {})
        return subprocess.Popen(command, cwd=ROOT, env=env, stdout=log, stderr=log, **how)


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
    """The processes of a run that has ended which are still alive after half a minute; on a loaded machine some end
    only after ten seconds.
    """
    deadline = time.monotonic() + 30
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


def verdicts(place: Path) -> set[Path]:
    return set(place.glob("results/*/*/claims.json"))


def differences(whole: Path, broken: Path) -> list[str]:
    """A sentence for each table or claims file that differs between the two runs."""
    def written(place: Path) -> dict[str, bytes]:
        every = [*place.glob("results/*/*/tables/*.csv"), *verdicts(place)]
        return {str(path.relative_to(place)): path.read_bytes() for path in every if path.name != TIMED}

    one, other = written(whole), written(broken)
    return [f"{name} differs" for name in sorted(one.keys() | other.keys()) if one.get(name) != other.get(name)]


def left_behind(place: Path) -> list[str]:
    """A sentence for each temporary, damaged or failed file of a run."""
    patterns = ("**/*.part", "store/making/*", "store/locks/*", "store/damaged/*", "**/*.damaged",
                "results/*/jobs/*.failed", "results/*/.scratch", "tmp/[!t]*", "tmp/t[!o]*")  # torch keeps its caches
    return [f"{path.relative_to(place)} is left behind" for pattern in patterns for path in place.glob(pattern)]
