"""Where and how things run: device, precision, threads, seeded generators, progress, provenance.

torch is imported inside the functions: the plan and the command line need this module but not torch.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

from lib.errors import SettingsError, is_int, need, unknown

ROOT = Path(__file__).resolve().parent.parent
FOR_GPUS = ("gpu", "paper", "imagenet")  # the profiles whose networks are too large for a CPU


def results() -> Path:
    """The folder that runs write to: `results/`, or the one that REPRO_RESULTS names."""
    return Path(os.environ.get("REPRO_RESULTS") or ROOT / "results").resolve()


def seed_of(*parts) -> int:
    """A seed, a 63-bit integer, from the parts (texts, numbers): equal parts give equal seeds on every machine."""
    text = "\x1f".join(str(p) for p in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(*parts, device="cpu"):
    """A new torch.Generator seeded by the parts; nothing in the project draws from global state."""
    import torch

    return torch.Generator(device=device).manual_seed(seed_of(*parts))


def derangement(count: int, *parts):
    """A permutation, int64 [count], in which no element keeps its place: a single cycle along an order that is drawn
    with a seed from the parts. Raises SettingsError for fewer than two elements.
    """
    import torch

    need(is_int(count, 2), "number of things to permute", count, "at least 2: none may keep its place")
    order = torch.randperm(count, generator=generator(*parts))
    return torch.empty_like(order).scatter_(0, order, order.roll(1))


@contextlib.contextmanager
def initialise_with(*parts):
    """Run a block that draws from torch's global generator (layer initialisation) with a seed from the parts; the
    generator's state is restored afterwards.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(*parts))
        yield


def device(name: str = "auto"):
    """The torch.device for `auto` (a GPU if there is one), `cpu`, `cuda` or `cuda:N`. Raises SettingsError for another
    name, or for cuda without a CUDA device.
    """
    import torch

    # fp32 must mean fp32 in all reported numbers; by default torch lets convolutions on a GPU round to TF32
    torch.backends.cudnn.allow_tf32 = False
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name != "cpu" and name.split(":")[0] != "cuda":
        raise unknown("device", name, ("auto", "cpu", "cuda"))
    if name != "cpu" and not torch.cuda.is_available():
        raise SettingsError(f"device = {name} is not possible: no CUDA device is visible here; use cpu or auto")
    return torch.device(name)


def autocast(where, precision: str):
    """bf16 autocast for precision `bf16`, `rounding` for others; weights and losses are fp32 in all."""
    import torch

    if precision != "bf16":
        return rounding(precision)
    return torch.autocast(torch.device(where).type, dtype=torch.bfloat16)


@contextlib.contextmanager
def rounding(precision: str):
    """Within the block a GPU rounds the factors of fp32 products to TF32, if the precision is `tf32`. It concerns
    passes that run within it: unlike autocast, a forward pass does not decide for the backward one.
    """
    import torch

    if precision != "tf32":
        yield
        return
    flags = torch.backends.cudnn, torch.backends.cuda.matmul
    before = [flag.allow_tf32 for flag in flags]
    try:
        for flag in flags:
            flag.allow_tf32 = True
        yield
    finally:
        for flag, was in zip(flags, before, strict=True):
            flag.allow_tf32 = was


def matmul_rate(where, precision: str = "fp32") -> float:
    """FLOP/s of a large square matrix product on the device in this precision, with which trainings are compared.

    Measured once per process, as the fastest run within some tenths of a second, since other jobs only slow it down.
    """
    import torch

    return _matmul_rate(str(torch.device(where)), precision, torch.get_num_threads())


@functools.lru_cache
def _matmul_rate(where: str, precision: str, threads: int) -> float:
    import torch

    n = 8192 if where.startswith("cuda") else 1024
    a, b = torch.ones(2, n, n, device=where, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
    fastest, until = float("inf"), time.monotonic() + 0.3
    while time.monotonic() < until or fastest == float("inf"):
        started = time.monotonic()
        with rounding(precision):
            a @ b
        if where.startswith("cuda"):
            torch.cuda.synchronize(where)
        fastest = min(fastest, time.monotonic() - started)
    return 2 * n**3 / fastest


@functools.cache
def keep_freed_memory() -> None:
    """Let the C library keep freed memory, once for the process. By default glibc returns freed activations to the
    system, large ones at once and small ones after each update, and the next update has to request their pages again.
    That costs a tenth of the time of similarity maps and plain training, and a fifth of training through second
    derivatives. Other C libraries are not changed.
    """
    import ctypes

    with contextlib.suppress(OSError, AttributeError, TypeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
        libc.mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD


def set_threads(threads: int | None) -> int:
    """Use this many CPU threads (None: torch's choice); returns the number in use.

    It is recorded with each result: on the CPU, weights are bit-identical only for the same number of threads.
    """
    import torch

    if threads:
        torch.set_num_threads(threads)
    return torch.get_num_threads()


@contextlib.contextmanager
def threads(count: int | None):
    """Use this many CPU threads in a block (None: as many as before). Tiny networks are faster on one."""
    import torch

    before = torch.get_num_threads()
    set_threads(count)
    try:
        yield
    finally:
        set_threads(before)


def cores() -> int:
    """The number of cores that this process may use (in containers and under Slurm, fewer than the machine has)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_of_machine() -> int:
    """Bytes of memory that this machine has."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def duration(seconds: float | None) -> str:
    """Seconds as text: '42 s', '13 min', '2 h 05 min', '12 days', '75 years'; '–' for None."""
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, days = round(seconds / 60), seconds / 86400
    if minutes < 60:
        return f"{minutes} min"
    if days < 2:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{days:,.0f} days" if days < 730 else f"{days / 365.25:,.0f} years"


def without_gpu(profile: str, name: str) -> str:
    """A sentence of warning if a profile that needs a GPU is about to run on the CPU, otherwise an empty text. name: as
    for `device`.
    """
    if profile not in FOR_GPUS or device(name).type == "cuda":
        return ""
    return (f"the profile {profile} is made for a GPU and none is used here: it would take very long, and the profile "
            "laptop is made for CPUs")


def fast_in_bf16() -> bool:
    """Whether the processor multiplies in bf16. Without this, bf16 is slower than fp32."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def slow_in_bf16(precision: str, name: str) -> str:
    """A sentence of warning if networks are about to train in bf16 on a processor that does not multiply in it,
    otherwise an empty text. name: as for `device`.
    """
    if precision != "bf16" or device(name).type == "cuda" or fast_in_bf16():
        return ""
    return ("networks.precision = bf16 is slow here, because this processor does not multiply in bf16; "
            "-p networks.precision=fp32 is faster and trains other networks than the published ones")


def warnings_of_machine(profile: str, precision: str, name: str) -> list[str]:
    """Sentences about what this machine is not made for: see `without_gpu` and `slow_in_bf16`."""
    return [warning for warning in (without_gpu(profile, name), slow_in_bf16(precision, name)) if warning]


def interactive() -> bool:
    """Whether a person watches: a terminal, or a Jupyter kernel that papermill did not start."""
    if os.environ.get("REPRO_HEADLESS"):
        return False
    return sys.stderr.isatty() or "ipykernel" in sys.modules


class ProgressBar:
    """A progress bar with loss, accuracy and remaining time if a person watches; otherwise one plain line per `every`
    seconds and at the end.

    Use it as a context manager. `now` names what is being worked on, and with it a bar that a person sees opened inside
    this one: 'N->R layer1.0, 2' says more than a recipe's key.
    """

    _open: list[ProgressBar] = []  # in this process, the outermost first

    def __init__(self, total: int, text: str, unit: str = "it", every: float = 20.0):
        self.total, self.text, self.unit, self.every = total, text, unit, every
        self.done, self.shown, self.bar, self.now = 0, {}, None, ""

    def __enter__(self):
        self.started = self.last = time.monotonic()
        if interactive():
            from tqdm.auto import tqdm

            around = next((bar.now for bar in reversed(self._open) if bar.now), "")
            text = f"for {around}" if around else self.text
            self.bar = tqdm(total=self.total, desc=text, unit=self.unit, leave=False, mininterval=0.5)
        self._open.append(self)
        return self

    def work_on(self, now: str):
        """Say what is being worked on, such as the name of a network."""
        self.now = now
        if self.bar is not None:
            self.bar.set_description(f"{self.text}: {now}")

    def step(self, n: int = 1, **shown):
        """Advance by n units and show these values (such as loss=0.5)."""
        self.done += n
        self.shown.update(shown)
        if self.bar is not None:
            self.bar.set_postfix(self.shown, refresh=False)
            self.bar.update(n)
        elif time.monotonic() - self.last > self.every:
            self._line()

    def _line(self):
        self.last = time.monotonic()
        took = self.last - self.started
        left = took / max(self.done, 1) * (self.total - self.done)
        shown = [f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in self.shown.items()]
        told = ", ".join([f"{self.done} of {self.total} {self.unit}s", *([self.now] if self.now else []), *shown])
        print(f"{self.text}: {told}; {duration(took)}, {duration(left)} left", flush=True)

    def __exit__(self, *exc):
        self._open.remove(self)
        if self.bar is not None:
            self.bar.close()
        elif exc[0] is None and time.monotonic() - self.started > self.every / 4:
            self._line()  # work that took only a moment gets no line


def commit() -> str:
    """The commit of the checkout, with '+changes' if tracked files differ from it; 'unknown' outside git."""

    def git(*args):
        return subprocess.run(["git", "-C", str(ROOT), *args], capture_output=True, encoding="utf-8", errors="replace",
                              timeout=20)

    try:
        head = git("rev-parse", "--short=12", "HEAD")
        if head.returncode:
            return "unknown"
        return head.stdout.strip() + ("+changes" if git("status", "--porcelain", "-uno").stdout.strip() else "")
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"


def provenance(where) -> dict:
    """Commit, device, threads, cores and versions, which are recorded with every result."""
    import importlib.metadata as md

    import torch

    where = torch.device(where)
    name = torch.cuda.get_device_name(where) if where.type == "cuda" else platform.processor() or platform.machine()
    versions = {"python": platform.python_version()}
    for package in ("torch", "torchvision", "numpy", "pandas", "pyautoattack", "papermill"):
        with contextlib.suppress(md.PackageNotFoundError):
            versions[package] = md.version(package)
    return {
        "commit": commit(),
        "device": f"{where.type}: {name}",
        "threads": torch.get_num_threads(),
        "cores": cores(),
        "versions": versions,
    }


def watch_parent() -> None:
    """End this process when its parent process or the batch run that started it has ended: the process REPRO_RUN_PID on
    this host or, for a job of Slurm, whatever touches the file REPRO_RUN_ALIVE.

    A run killed with -9 cannot notify its children; papermill's kernels and training jobs would continue for an hour.
    """
    run, alive = int(os.environ.get("REPRO_RUN_PID", "0")), os.environ.get("REPRO_RUN_ALIVE")
    if run == os.getpid() or not run and not alive:
        return
    import threading

    parent, over = os.getppid(), functools.partial(_ended, run) if run else Silence(Path(alive))

    def watch():
        while os.getppid() == parent and not over():
            time.sleep(0.5)
        os._exit(143)

    threading.Thread(target=watch, name="watch-parent", daemon=True).start()


def _ended(process: int) -> bool:
    """Whether there is no process with this number on this host."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False


class Silence:
    """Called again and again, it says whether a file is gone or has not been touched for `patience` seconds. It looks
    every `every` seconds and compares no clocks, since the file may be on another host. A host that cannot be reached
    counts as silent.
    """

    def __init__(self, file: Path, patience: float = 300.0, every: float = 5.0):
        self.file, self.patience, self.every = file, patience, every
        self.touched, self.since, self.next = None, time.monotonic(), 0.0

    def __call__(self) -> bool:
        now = time.monotonic()
        if now < self.next:
            return False
        self.next = now + self.every
        try:
            touched = self.file.stat().st_mtime_ns
        except FileNotFoundError:
            return True
        except OSError:
            touched = self.touched
        if touched != self.touched:
            self.touched, self.since = touched, now
        return now - self.since > self.patience
