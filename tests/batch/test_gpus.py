"""Which GPUs a run uses, and how its jobs spread over them: with pretended GPUs, since a place is only a name."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from lib import batch, cli, gpus
from lib.errors import SettingsError
from lib.papers.settings import load
from lib.runtime import ROOT

JOB = """
import os, sys, time
from pathlib import Path
from lib.gpus import take_place
take_place(Path(sys.argv[1]), [int(sys.argv[2])])
print(os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
time.sleep(600)
"""


def seen(monkeypatch, count: int, visible: str | None = None):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)


@pytest.fixture
def begin(tmp_path):
    """Start a job that takes places among so many pretended GPUs and keeps them; all are killed at the end."""
    started: list[subprocess.Popen] = []

    def start(there: int, shares: int = 1) -> subprocess.Popen:
        env = {**os.environ, gpus.PLACES: gpus.places(tuple(map(str, range(there))), there)}
        started.append(subprocess.Popen([sys.executable, "-c", JOB, str(tmp_path), str(shares)], cwd=ROOT, env=env,
                                        text=True, stdout=subprocess.PIPE))
        return started[-1]

    yield start
    for job in started:
        job.kill()
        job.wait()
        job.stdout.close()


def placed(job: subprocess.Popen) -> str:
    return job.stdout.readline().strip()


def test_jobs_spread_over_eight_gpus_and_the_gpu_of_a_killed_job_is_used_again(begin):
    jobs: dict[str, subprocess.Popen] = {}
    for _ in range(8):
        job = begin(8)
        gpu = placed(job)
        assert gpu not in jobs, "one job a GPU"
        jobs[gpu] = job
    assert sorted(jobs) == list("01234567")
    waits = begin(8)
    time.sleep(1)
    assert waits.poll() is None, "it waits while all are taken"
    jobs["5"].send_signal(signal.SIGKILL)
    assert placed(waits) == "5"
    jobs["2"].terminate()
    assert placed(begin(8)) == "2"


def test_a_job_whose_training_uses_several_gpus_takes_them_at_once(begin):
    one, three = begin(4), begin(4, 3)
    assert {*placed(one), *placed(three).split(",")} == {*"0123"}
    two = begin(4, 6)  # six shares on four GPUs: three get two each
    time.sleep(1)
    one.kill()
    time.sleep(1)
    assert two.poll() is None, "one free GPU is not enough"
    small = begin(4)
    assert len(placed(small)) == 1, "what waits for three holds none"
    three.kill()
    assert len(placed(two).split(",")) == 3


@pytest.mark.parametrize("names, jobs, places", [
    ((), 4, ""), (("0", "1", "2"), 1, "0,1,2"), (("0", "3"), 2, "0,3"), (("0", "1"), 5, "0,1,0,1,0"),
])
def test_one_job_on_each_gpu_before_two_on_any(names, jobs, places):
    assert gpus.places(names, jobs) == places


def test_without_gpus_nothing_is_taken(tmp_path, monkeypatch):
    monkeypatch.delenv(gpus.PLACES, raising=False)
    assert gpus.take_place(tmp_path) == "" and not list(tmp_path.iterdir())


@pytest.mark.parametrize("text, device, count, visible, names", [
    (None, "auto", 0, None, ()), (None, "cpu", 8, None, ()), (None, "cuda:1", 8, None, ()),
    (None, "auto", 3, None, ("0", "1", "2")), (None, "cuda", 2, "4,6", ("4", "6")), ("1", "auto", 2, "4,6", ("4",)),
    ("6", "auto", 8, None, tuple("012345")), ("6,", "auto", 2, "4,6", ("6",)), ("0, 2", "auto", 3, None, ("0", "2")),
    ("GPU-1a,", "auto", 2, "GPU-1a,GPU-2b", ("GPU-1a",)), (None, "auto", 1, "0,9", ("0",)), (None, "auto", 0, "", ()),
])
def test_the_gpus_of_a_run_are_those_seen_or_chosen(monkeypatch, text, device, count, visible, names):
    seen(monkeypatch, count, visible)
    assert gpus.chosen(text, device) == names


def test_a_run_without_a_driver_does_not_import_torch_to_see_no_gpu():
    code = ("import sys; from lib import gpus; gpus._driver = lambda: False; "
            "sys.exit(gpus.chosen(None, 'auto') != () or 'torch' in sys.modules)")
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=120).returncode == 0


@pytest.mark.parametrize("text, device, count, visible, words", [
    ("9", "auto", 2, None, "--gpus = 9 .* 1 to 2, or some of 0,1"), ("0", "auto", 2, None, "--gpus = 0 "),
    ("", "auto", 2, None, "--gpus =  "), ("0,5", "auto", 2, None, "--gpus = 0,5 "), ("0,0", "auto", 2, None, "= 0,0 "),
    ("-1", "auto", 2, None, "--gpus = -1 "), ("all", "auto", 2, None, "--gpus = all "),
    ("0,", "auto", 2, "4,6", "some of 4,6"), ("1", "auto", 0, None, "--gpus 1 .*sees no GPU"),
    ("1", "cpu", 2, None, "--gpus 1 .*device = cpu"), ("1", "cuda:1", 2, None, "--gpus 1 .*device = cuda:1"),
])
def test_other_gpus_are_refused(monkeypatch, text, device, count, visible, words):
    seen(monkeypatch, count, visible)
    with pytest.raises(SettingsError, match=words) as error:
        gpus.chosen(text, device)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("options, jobs, names", [
    (["-p", "device=auto"], 3, "012"), (["-p", "device=cuda", "--gpus", "2"], 2, "01"),
    (["-p", "device=auto", "--gpus", "0,2", "--jobs", "5"], 5, "02"), (["-p", "device=cuda:1"], 1, ""),
    (["--jobs", "4", "-p", "device=cpu"], 4, ""),
])
def test_a_run_has_as_many_jobs_as_gpus_unless_told_otherwise(monkeypatch, options, jobs, names):
    seen(monkeypatch, 3)
    given = []
    monkeypatch.setattr(batch, "run_graph", lambda *all: given.append(all[3:]) or 0)
    assert cli.main(["run", "stitching", "--profile", "test", *options]) == 0
    assert given == [(jobs, tuple(names))]


def test_the_jobs_of_a_run_are_told_their_gpus_and_what_they_ask_for(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(batch, "_carry_out", lambda command, env, *given: told.append((command, env)) or 0)
    for name, value in {"REPRO_RESULTS": str(tmp_path), "REPRO_STORE": str(tmp_path / "store")}.items():
        monkeypatch.setenv(name, value)
    given = {"jobs": "networks"}
    settings = load("test", given)
    assert batch.run_graph(settings, given, ("stitching",), 4, ("a", "b", "c")) == 0
    command, env = told[0]
    assert env[gpus.PLACES] == "a,b,c,a" and "job=4" in command
    most = next(int(word.removeprefix("mem_mb=")) for word in command if word.startswith("mem_mb="))
    run = json.loads((tmp_path / settings.run / "run.json").read_text())
    assert run["gpu"] == 1 and 0 < run["mem_mb"]["stitching"] <= most and run["gpus"] == {}


@pytest.mark.parametrize("names, jobs, count", [("abc", 3, 2), ("abcd", 4, 4), ("abcd", 1, 1), ("a", 1, 1), ("", 4, 1)])
def test_a_job_asks_for_as_many_gpus_as_its_training_can_use(tmp_path, monkeypatch, names, jobs, count):
    """`gpus` has the jobs that count as more than one."""
    monkeypatch.setattr(batch, "_carry_out", lambda *given: 0)
    for name, value in {"REPRO_RESULTS": str(tmp_path), "REPRO_STORE": str(tmp_path / "store")}.items():
        monkeypatch.setenv(name, value)
    given = {"jobs": "networks", "networks.robust.shares": 4}
    settings = load("test", given)
    assert batch.run_graph(settings, given, ("stitching",), jobs, tuple(names)) == 0
    asked = json.loads((tmp_path / settings.run / "run.json").read_text())["gpus"]
    robust = {name for name in asked if name.startswith("pool-R")}
    assert asked == {} if count == 1 else robust and all(asked[name] == count for name in robust)
