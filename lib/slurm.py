"""A run on a cluster: its jobs are jobs of Slurm, submitted by Snakemake's executor for Slurm.

The process that starts the run is its head, on the login node or in a job of its own. It submits, watches and cancels,
and neither reads data nor computes. Its jobs may run on other hosts, where its process number says nothing: they watch
a file that it touches (`lib.runtime.watch_parent`).
"""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import os
import shutil
import subprocess
import time
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import yaml

from lib.errors import OneLineError, SettingsError, is_int
from lib.runtime import FOR_GPUS, ROOT

TOOLS = ("sbatch", "squeue", "scancel", "scontrol", "sinfo")  # those that the executor and this module call
PLUGIN = "snakemake_executor_plugin_slurm"
WRAPPERS = 2000  # megabytes of Snakemake's processes and the notebook's kernel in a job, beside those of the price list
THREADS = 4  # of a job, if the profile in configs/slurm does not set them
CARD = "a100"  # by which time limits are set unless --on names another card: the slowest that is common
MOST_GPUS = 8  # of a job whose training can use several: no more are in a node
TOUCHED_EVERY = 10.0  # seconds
ASKED_EVERY = 30.0  # seconds at least between two questions to Slurm


def profile() -> Path:
    """The folder of Snakemake's profile for the cluster: configs/slurm, or the one that REPRO_SLURM names."""
    return Path(os.environ.get("REPRO_SLURM") or ROOT / "configs" / "slurm")


def check() -> int:
    """How many jobs the profile allows at a time. Raises SettingsError with the reason if no job can be submitted."""
    def refuse(why: str):
        raise SettingsError(f"--slurm is not possible: {why}")

    if gone := [tool for tool in TOOLS if shutil.which(tool) is None]:
        refuse(f"there is no {gone[0]} here; start the run where jobs are submitted, on a login node")
    if find_spec(PLUGIN) is None:
        refuse(f"the package {PLUGIN.replace('_', '-')} is not installed; requirements.txt names it")
    try:
        read = yaml.safe_load((profile() / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        refuse(f"{profile() / 'config.yaml'} cannot be read ({str(error).splitlines()[0]})")
    jobs = read.get("jobs") if isinstance(read, dict) else None
    if not is_int(jobs, 1):
        refuse(f"jobs = {jobs} in {profile() / 'config.yaml'} must be how many jobs are submitted at a time, 1 or more")
    try:
        _squeue()
    except OneLineError as error:
        refuse(str(error))
    return jobs


def on_gpus(settings) -> bool:
    """Whether each job of a run asks Slurm for a GPU: those of the profiles made for GPUs, unless device is cpu."""
    return settings.device != "cpu" and (settings.profile in FOR_GPUS or settings.device.startswith("cuda"))


class Head:
    """The head's view of its Slurm jobs, by the beginning of their names, which is the same whenever a run with this
    folder is started. jobs: the most that are submitted at a time.
    """

    def __init__(self, folder: Path, jobs: int):
        self.folder, self.jobs, self.alive = folder, jobs, folder / ".alive"
        self.name = f"repro-{hashlib.sha256(str(folder).encode()).hexdigest()[:12]}"
        self._touched = self._asked = float("-inf")
        self._said = ""

    def options(self) -> list[str]:
        """What Snakemake is told about where jobs run. It would ask sacct for ever where there is no accounting."""
        ask = "sacct" if _answers("sacct", "--noheader", "--allocations") else "squeue"
        return ["--workflow-profile", str(profile().resolve()), "--executor", "slurm", "--jobs", str(self.jobs),
                "--slurm-jobname-prefix", self.name, "--slurm-status-command", ask]

    def start(self) -> None:
        """Cancel what an earlier head with this folder has left, and begin to touch the file that jobs watch."""
        self.cancel()
        self.alive.touch()

    def look(self, left: str) -> None:
        """To be called again and again while jobs run: touch the file, and print what waits and runs if that has
        changed. left: how much of the run is left, in words.
        """
        now = time.monotonic()
        if now - self._touched > TOUCHED_EVERY:
            self._touched = now
            os.utime(self.alive)
        if now - self._asked > ASKED_EVERY:
            self._asked = now
            with contextlib.suppress(OneLineError):  # Slurm may be busy
                states = Counter("wait" if state == "PENDING" else "run" for state in self._jobs().values())
                said = f"Slurm: {states['wait']} wait, {states['run']} run; {left}"
                if states and said != self._said:
                    print(said, flush=True)
                self._said = said

    def cancel(self) -> None:
        """Cancel all jobs, waiting and running, and wait until they are gone, up to half a minute."""
        until = time.monotonic() + 30
        while (jobs := self._jobs()) and time.monotonic() < until:
            _answers("scancel", *jobs)
            time.sleep(1)

    def stop(self) -> None:
        """Leave no job behind. Jobs that Slurm does not end see that the file is gone, and end themselves."""
        self.alive.unlink(missing_ok=True)
        with contextlib.suppress(OneLineError):
            self.cancel()

    def _jobs(self) -> dict[str, str]:
        """{number: state} of the jobs that wait or run."""
        found = (line.split("|") for line in _squeue().splitlines())
        return {job: state for job, name, state in found if name.startswith(self.name)}


def _answer(*command: str) -> str:
    """What a command of Slurm prints. Raises OneLineError if it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", errors="replace", timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise OneLineError(f"{command[0]} does not answer ({type(error).__name__})") from None
    if done.returncode:
        raise OneLineError(f"{command[0]} says: {(done.stderr.strip().splitlines() or ['nothing'])[-1]}")
    return done.stdout


def _answers(*command: str) -> bool:
    try:
        _answer(*command)
    except OneLineError:
        return False
    return True


def _squeue() -> str:
    return _answer("squeue", "--noheader", "--user", getpass.getuser(), "--format=%A|%j|%T")
