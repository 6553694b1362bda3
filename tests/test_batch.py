"""The batch run as a whole: killed in the middle it leaves nothing running, and the same command goes on."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lib.runtime import ROOT

RUN = [sys.executable, "-m", "lib", "run", "stitching", "--profile", "test", "-p", "jobs=networks",
       "-p", "networks.normal.epochs=400"]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def children(run: int) -> list[int]:
    """Processes that a batch run started, by the run's number in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"REPRO_RUN_PID={run}\0".encode() in path.read_bytes() and int(path.parent.name) != run:
                found.append(int(path.parent.name))
        except OSError:
            continue
    return [pid for pid in found if alive(pid)]


def wait_for(condition, seconds: float = 60.0):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if got := condition():
            return got
        time.sleep(0.1)
    raise AssertionError("waited in vain")


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc to look for left-over processes")
def test_kill_9_leaves_nothing_running_and_the_next_run_goes_on(tmp_path):
    env = {**os.environ, "REPRO_RESULTS": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""}
    with open(tmp_path / "log", "w") as log:
        first = subprocess.Popen(RUN, cwd=ROOT, env=env, stdout=log, stderr=log)
        wait_for(lambda: list(tmp_path.glob("store/making/network-*/checkpoint.pt")))
        assert children(first.pid)
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
        wait_for(lambda: not children(first.pid), 10)
    before = list(tmp_path.glob("store/making/network-*/checkpoint.pt"))
    assert before and not list(tmp_path.glob("*/stitching/claims.json"))
    with open(tmp_path / "log2", "w") as log:
        again = subprocess.Popen(RUN, cwd=ROOT, env=env, stdout=log, stderr=log)
        logs = wait_for(lambda: [p for p in tmp_path.glob("test+*/jobs/*.log") if "going on after" in p.read_text()])
        assert logs, "the second run starts from the checkpoint of the first"
        again.kill()  # a gentler signal would have Snakemake finish the running jobs first
        again.wait()
        wait_for(lambda: not children(again.pid), 10)
