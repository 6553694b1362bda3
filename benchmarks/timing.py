"""Races: contenders run in turn in one process, and the rows that say how they compare."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from lib.profiles.networks import precision_for

Contenders = dict[str, Callable[[], object]]


@dataclass(frozen=True)
class Run:
    """How a benchmark is run: where, in small sizes or real ones, in how many timed rounds and, if it can choose, on
    how many images (None: its own choice).
    """

    device: torch.device
    quick: bool = False
    repeats: int | None = None
    images: int | None = None

    def rounds(self, usual: int = 5) -> int:
        return self.repeats or (2 if self.quick else usual)

    @property
    def gpu(self) -> bool:
        return self.device.type == "cuda"

    def place(self) -> str:
        """Device, instructions, threads and torch, for notes."""
        if self.gpu:
            return f"{torch.cuda.get_device_name(self.device)}, torch {torch.__version__}"
        kinds = [torch.backends.cpu.get_cpu_capability(), *(["bf16"] if "bf16" in self.precisions() else [])]
        return f"{processor()} ({', '.join(kinds)}), {torch.get_num_threads()} threads, torch {torch.__version__}"

    def precisions(self) -> list[str]:
        """fp32, and bf16 where the device multiplies in it."""
        return list(dict.fromkeys(("fp32", precision_for("auto"))))

    def wait(self) -> None:
        """Until the device has done what it was given."""
        if self.gpu:
            torch.cuda.synchronize(self.device)


def processor() -> str:
    """The processor's name, as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return (named or [platform.processor() or platform.machine()])[0]


def race(contenders: Contenders, run: Run, rounds: int, warm_up: Contenders | None = None,
         ) -> tuple[dict[str, object], dict[str, list[float]]]:
    """What each contender returned when it first ran, and its seconds in every round.

    To warm up the contenders (or `warm_up`, smaller work of the same kind) run once before; then all run in every
    round, each round starting with another one, so that a machine that slows down or speeds up favours none.
    """
    first_results = {name: contender() for name, contender in (warm_up or contenders).items()}
    results = {} if warm_up else first_results
    names, seconds = list(contenders), {name: [] for name in contenders}
    for i in range(rounds):
        first = i % len(names)
        for name in names[first:] + names[:first]:
            run.wait()
            started = time.perf_counter()
            result = contenders[name]()
            run.wait()
            seconds[name].append(time.perf_counter() - started)
            results.setdefault(name, result)
    return results, seconds


def row(name: str, ours: str, peer: str, seconds: dict[str, list[float]], note: str, per: int = 1) -> dict:
    """How `ours` and `peer` compare: medians of seconds for one of `per` units of work, and the median over rounds of
    the peer's time over ours in the same round: how many times faster ours is.
    """
    mine, theirs = ([s / per for s in seconds[who]] for who in (ours, peer))
    return {
        "name": name,
        "ours": ours,
        "peer": peer,
        "ours_median_s": statistics.median(mine),
        "peer_median_s": statistics.median(theirs),
        "ratio_median": statistics.median(b / a for a, b in zip(mine, theirs, strict=True)),
        "repeats": len(mine),
        "note": note,
    }


def compared(name: str, ours: list[str], seconds: dict[str, list[float]], note: Callable[[str, str], str],
             per: int = 1) -> Iterator[dict]:
    """A row for each of `ours` against each other contender of a race; `note(ours, peer)` gives its note."""
    for mine in ours:
        for peer in seconds:
            if peer not in ours:
                yield row(name, mine, peer, seconds, note(mine, peer), per)


def text(row: dict) -> str:
    """A row for people: the ratio first, then the times, then what was compared."""
    return (f"{row['ratio_median']:7.3f} x  {row['name']}: {row['ours']} {row['ours_median_s']:.4g} s, "
            f"{row['peer']} {row['peer_median_s']:.4g} s ({row['repeats']} rounds)\n           {row['note']}")
