"""The networks of a rehearsal, each made in a process of its own, so that nothing that happens to one stops another."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path

from lib.errors import NetworkFailed
from lib.papers.plan import Task
from lib.profiles import miniature
from lib.rehearsal.kinds import Step, steps
from lib.runtime import ROOT, device, set_threads, watch_parent
from lib.store import FAILED, Store
from lib.training.zoo import Zoo

SECONDS, BYTES = 60.0, 4e9  # of the processor and of memory, beyond which a step is stopped and its kind left out
PATIENCE = 20  # times as long may a step take by the clock, on a machine that does other work
RAN, FAILS, LARGE, LACKS = "ran", "failed", "too large", "not run"
PAGE = os.sysconf("SC_PAGE_SIZE")
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Result:
    """What became of a step: one of RAN, FAILS, LARGE, LACKS (what it is made from), with the error in one sentence,
    seconds (on a CPU, of the processor), and the peak of the process's memory in bytes.
    """

    step: Step
    status: str
    error: str = ""
    seconds: float = 0.0
    memory: float = 0.0


def carry_out(tasks: list[Task], where: str, jobs: int, threads: int, log: Path) -> Iterator[Result]:
    """Make all networks of a miniature plan and measure them, parents first, `jobs` at a time with `threads` threads
    each; one result for each step, as it ends. The first networks of each kind come first. A kind with a step that is
    too large is not tried again. What processes print goes to the file `log`.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "lib.rehearsal.warm"])
    waiting = {task.recipe.key: task for task in _kinds_first(tasks)}
    running: dict[str, _Job] = {}
    large: set[str] = set()
    while waiting or running:
        ready = [t for key, t in waiting.items() if not {*t.recipe.lineage[1:]} & (waiting.keys() | running.keys())]
        for task in ready[:jobs - len(running)]:
            del waiting[task.recipe.key]
            todo = [one for one in steps(task) if one.kind not in large]
            for one in steps(task):
                if one.kind in large:
                    yield Result(one, LARGE)
                    if one.measure is None:  # what is made from it must not try to make it
                        note_failure(Store(), one, "it is too large")
            if todo:
                running[task.recipe.key] = _Job(context, todo, where, threads, log)
        wait([job.pipe for job in running.values()], 0.2)
        for key, job in [*running.items()]:
            for result in job.results():
                large |= {result.step.kind} if result.status == LARGE else set()
                yield result
            if job.over:
                del running[key]


def _kinds_first(tasks: list[Task]) -> list[Task]:
    """The tasks with the first step of each kind and those that they are made from, then the others."""
    seen: set[str] = set()
    first: set[str] = set()
    for task in tasks:
        kinds = {step.kind for step in steps(task)}
        if kinds - seen:
            first.update(task.recipe.lineage)
            seen |= kinds
    return sorted(tasks, key=lambda task: task.recipe.key not in first)


class _Job:
    """A process that does some steps of one network."""

    def __init__(self, context, todo: list[Step], where: str, threads: int, log: Path):
        self.pipe, theirs = context.Pipe(duplex=False)
        given = {name: value for name, value in os.environ.items() if name.startswith("REPRO_")}
        self.process = context.Process(target=_do, args=(todo, where, threads, str(log), given, theirs))
        self.process.start()
        theirs.close()
        self.todo, self.over, self.log = todo, False, log
        self.started, self.used = time.monotonic(), 0.0  # of the step that is being done

    def results(self) -> Iterator[Result]:
        """The results since the last call."""
        try:
            while self.pipe.poll():
                status, error, seconds, memory = self.pipe.recv()
                self.started, self.used = time.monotonic(), self._look()[0]
                yield Result(self.todo.pop(0), status, error, seconds, memory)
        except EOFError:
            self.process.join()
            self.over = True
            if self.todo:
                yield from self._ended(FAILS, f"its process ended with status {self.process.exitcode}")
            return
        used, memory = self._look()
        took, clock = used - self.used, time.monotonic() - self.started
        if self.todo and (took > SECONDS or memory > BYTES or clock > PATIENCE * SECONDS):
            self.process.kill()
            self.process.join()
            self.over = True
            why = f"{memory / 1e9:.1f} GB" if memory > BYTES else f"{max(took, SECONDS):.0f} s"
            yield from self._ended(LARGE, f"more than {why} at its least size", memory)

    def _ended(self, status: str, error: str, memory: float = 0.0) -> Iterator[Result]:
        """The results of a process that was ended by others or by this one in the middle of a step."""
        first, *rest = self.todo
        if first.measure is None:
            note_failure(Store(), first, error)
        yield Result(first, status, error, time.monotonic() - self.started, memory)
        yield from (Result(one, LACKS, f"it comes after {first.kind}") for one in rest)

    def _look(self) -> tuple[float, float]:
        """Seconds of the processor and bytes of memory that the process uses."""
        try:
            place = Path(f"/proc/{self.process.pid}")
            words = (place / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            pages = (place / "statm").read_text(encoding="utf-8").split()[1]
            return (int(words[11]) + int(words[12])) / TICKS, int(pages) * PAGE
        except OSError:  # it has ended, or this system has no /proc
            return self.used, 0.0


def note_failure(store: Store, step: Step, error: str) -> None:
    """Note that a network cannot be made, so that the rest goes on without it."""
    note = {"sentence": error, "network": step.recipe.key, "what": f"failure of {step.recipe.describe()}"}
    store.obtain(FAILED, step.recipe.key, lambda work: note)


def _do(todo: list[Step], where: str, threads: int, log: str, given: dict[str, str], pipe: Connection) -> None:
    """The process of a `_Job`."""
    os.environ.update(given)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    watch_parent()
    miniature.enter()
    set_threads(threads)
    zoo = Zoo(Store(), device(where))
    for step in todo:
        _forget_peak(zoo)
        clock = time.monotonic if zoo.device.type == "cuda" else time.process_time
        started = clock()
        status, error = _try(zoo, step)
        pipe.send((status, error, clock() - started, _peak(zoo)))


def _try(zoo: Zoo, step: Step) -> tuple[str, str]:
    """Do a step; its status and the error in one sentence."""
    if gone := [key for key in step.recipe.lineage if zoo.store.has(FAILED, key)]:
        note = zoo.store.load(FAILED, gone[-1])
        return LACKS, f"without {note.meta['what'].removeprefix('failure of ')}"
    try:
        if step.measure:
            zoo.outcomes(*step.measure)
        else:
            zoo.obtain(step.recipe)
        return RAN, ""
    except Exception as error:
        traceback.print_exc()
        sys.stderr.flush()
        said = str(error).strip().splitlines() or [""]
        text = said[0] if isinstance(error, NetworkFailed) else f"{type(error).__name__}: {said[0]} ({_place(error)})"
        if step.measure is None and not zoo.store.has(FAILED, step.recipe.key):
            note_failure(zoo.store, step, text)
        return FAILS, text


def _place(error: BaseException) -> str:
    """The last line of this project that an error went through."""
    frames, own = traceback.extract_tb(error.__traceback__), str(ROOT / "lib")
    mine = [frame for frame in frames if frame.filename.startswith(own)]
    return f"{Path(mine[-1].filename).relative_to(ROOT)}:{mine[-1].lineno}" if mine else "outside the library"


def _forget_peak(zoo: Zoo) -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # sets VmHWM to what is in use now
    except OSError:
        pass
    if zoo.device.type == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats(zoo.device)


def _peak(zoo: Zoo) -> float:
    """Bytes: the peak of this process since `_forget_peak` on the device, or in the machine's memory."""
    if zoo.device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(zoo.device)
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return 0.0
