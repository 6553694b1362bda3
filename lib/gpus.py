"""The GPUs of a run: which ones it uses, and the place of each job on one of them.

A place is a name in REPRO_GPUS. A job holds the lock of its place, which the system frees however the job ends, so that
the next job finds the GPU free. Under Slurm there are no places: Slurm gives each job its own GPU.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from lib.errors import SettingsError, need
from lib.values.recipe import together

PLACES = "REPRO_GPUS"  # the GPUs of a run, separated by commas; one on which n jobs run at a time is named n times
_held: list = []  # the lock of this process's place, held until it ends


def seen() -> tuple[str, ...]:
    """The GPUs that torch sees, by the names that CUDA_VISIBLE_DEVICES has for them."""
    if "torch" not in sys.modules and not _driver():
        return ()
    import torch

    names = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(torch.cuda.device_count())))
    return tuple(name.strip() for name in names.split(","))[:torch.cuda.device_count()]


def _driver() -> bool:
    """Whether there is a driver of NVIDIA's or AMD's GPUs. Without one torch, whose import takes seconds, sees none."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return Path("/dev/kfd").exists()
    return True


def chosen(text: str | None, device: str) -> tuple[str, ...]:
    """The GPUs on which a run places its jobs: all that are seen, or those that `--gpus` gives, as a number or as names
    separated by commas. Empty for a run on a CPU or on the one GPU that `device` names (as for `lib.runtime.device`).
    Raises SettingsError for GPUs that are not seen.
    """
    there = () if device == "cpu" or ":" in device else seen()
    if text is None:
        return there
    if not there:
        why = f"device = {device}" if device == "cpu" or ":" in device else "torch sees no GPU here"
        raise SettingsError(f"--gpus {text} is not possible: {why}")
    if text.isdecimal():
        names = there[:int(text)] if 1 <= int(text) <= len(there) else ()
    else:
        names = tuple(name for name in text.replace(" ", "").split(",") if name)
    fit = bool(names) and len(set(names)) == len(names) and set(names) <= set(there)
    need(fit, "--gpus", text, f"1 to {len(there)}, or some of {','.join(there)}: no other GPU is seen here")
    return names


def places(gpus: tuple[str, ...], jobs: int) -> str:
    """The value of REPRO_GPUS for `jobs` jobs at a time, one on each GPU before two on any."""
    return ",".join(itertools.islice(itertools.cycle(gpus), max(jobs, len(gpus)))) if gpus else ""


def take_place(folder: Path, shares: Iterable[int] = ()) -> str:
    """Give this process the first free place of the run with this folder: only its GPU is visible from now on. For
    trainings whose batches have these numbers of `shares`, give it places on as many GPUs as one of them can use, all
    at once. Returns the names of the GPUs, separated by commas; an empty text if the run has no places. To be called
    before torch looks for GPUs; waits while too many places are taken.
    """
    from filelock import FileLock, Timeout

    names = [name for name in os.environ.get(PLACES, "").split(",") if name]
    count = max((together(one, len({*names})) for one in shares), default=1)
    (folder / "gpus").mkdir(parents=True, exist_ok=True) if names else None
    while names:
        mine: dict[str, FileLock] = {}
        for number, name in enumerate(names):
            lock = FileLock(str(folder / "gpus" / f"{number}.lock"))
            if name not in mine and len(mine) < count:
                with contextlib.suppress(Timeout):
                    lock.acquire(timeout=0)
                    mine[name] = lock
        if len(mine) == count:
            _held.extend(mine.values())
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(mine)
            return ",".join(mine)
        for lock in mine.values():  # others may need fewer
            lock.release()
        time.sleep(0.2)
    return ""
