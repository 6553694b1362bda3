"""Runs on Slurm: what is refused, how the head and its jobs know of each other, and, marked slow, a real cluster of two
nodes on this machine.
"""

import contextlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from filelock import FileLock

from lib import batch, cli, slurm
from lib.errors import OneLineError
from lib.files import write_atomic
from lib.papers.settings import load
from lib.runtime import ROOT, Silence
from tests.batch import slurm_cluster
from tests.batch.test_batch import alive, wait_for

TEST = ["run", "stitching", "--profile", "test", "--slurm"]


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """A folder, alone in PATH but for those of the system, with commands that pretend to be Slurm's: squeue shows the
    file `jobs`, from which scancel removes lines.
    """
    folder = tmp_path / "bin"
    folder.mkdir()
    (tmp_path / "jobs").touch()
    scripts = {name: "exit 0" for name in slurm.TOOLS} | {
        "squeue": f"cat '{tmp_path}/jobs'", "sacct": "exit 1",
        "scancel": f"for job; do sed -i \"/^$job|/d\" '{tmp_path}/jobs'; done"}
    for name, text in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    for name in ("results", "store"):
        monkeypatch.setenv(f"REPRO_{name.upper()}", str(tmp_path / name))
    for name in ("REPRO_SLURM", "REPRO_PRECISION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(slurm, "find_spec", lambda name: name == slurm.PLUGIN)
    monkeypatch.setattr(batch, "_snakemake", lambda *given: pytest.fail("it began to work"))
    return folder


def told(args, capsys) -> str:
    assert cli.main(args) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1, said
    return said


@pytest.mark.parametrize("options, words", [
    (["--gpus", "1"], "with --gpus"), (["--dry-run"], "with --dry-run"), (["--rehearse"], "with --rehearse"),
    (["--jobs", "0"], "--jobs = 0"), (["--on", "h20"], "unknown card"),
])
def test_options_that_do_not_belong_to_slurm(tools, capsys, options, words):
    assert words in told([*TEST, *options], capsys)


def test_what_is_missing_for_slurm_is_told(tools, tmp_path, monkeypatch, capsys):
    (tools / "squeue").write_text("#!/bin/sh\necho 'slurm_load_jobs error: no controller' >&2; exit 1\n")
    assert "no controller" in told(TEST, capsys)
    for content, words in ((None, "cannot be read"), ("jobs: [", "cannot be read"), ("- 3", "jobs = None"),
                           ("jobs: 0", "jobs = 0")):
        monkeypatch.setenv("REPRO_SLURM", str(tmp_path / "profile"))
        if content is not None:
            write_atomic(tmp_path / "profile" / "config.yaml", content)
        said = told(TEST, capsys)
        assert words in said and str(tmp_path / "profile" / "config.yaml") in said
    monkeypatch.setattr(slurm, "find_spec", lambda name: None)
    assert "package snakemake-executor-plugin-slurm is not installed" in told(TEST, capsys)
    monkeypatch.setattr(slurm, "TOOLS", ("no-such-sbatch",))
    assert "there is no no-such-sbatch here" in told(TEST, capsys)


def test_the_head_downloads_no_data(tools, tmp_path, monkeypatch, capsys):
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("REPRO_DATA", str(tmp_path / "data"))
    monkeypatch.setattr("lib.data.images.OWN", tmp_path / "own")
    monkeypatch.setattr("lib.data.load", lambda *given: pytest.fail("the head read data"))
    said = told([*TEST, "-p", "networks.data.name=mnist", "-p", "networks.threat.eps=0.1"], capsys)
    assert "missing data: mnist" in said


def test_a_profile_for_gpus_asks_for_them_whatever_the_login_node_has(tools, tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(batch, "run_graph", lambda *all: given.append(all) or 0)
    assert cli.main(["run", "stitching", "--profile", "gpu", "--slurm"]) == 0
    settings, _, _, jobs, gpus, head, card = given[0]
    assert settings.networks.precision == "bf16" and slurm.on_gpus(settings) and gpus == () and card.title == "an A100"
    assert jobs == head.jobs == 64, "as configs/slurm says"
    assert cli.main([*TEST, "--jobs", "3"]) == 0
    assert not slurm.on_gpus(given[1][0]) and given[1][3] == 3 and given[1][6] is None


def test_jobs_of_slurm_state_what_they_ask_for(tools, tmp_path, monkeypatch):
    told = []
    monkeypatch.undo()  # of the fixture's _snakemake
    for name in ("results", "store"):
        monkeypatch.setenv(f"REPRO_{name.upper()}", str(tmp_path / name))
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    monkeypatch.setattr(batch, "_carry_out", lambda command, env, *given: told.append((command, env)) or 0)
    settings = load("test")
    head = slurm.Head(tmp_path / "results" / settings.run, 5)
    assert batch.run_graph(settings, {}, ("stitching",), 5, (), head) == 0
    command, env = told[0]
    assert " ".join(command).count("--executor slurm --jobs 5") == 1 and "--cores" not in command
    assert command[command.index("--slurm-status-command") + 1] == "squeue", "there is no accounting here"
    assert env["REPRO_RUN_ALIVE"] == str(head.alive)
    run = json.loads((tmp_path / "results" / settings.run / "run.json").read_text())
    assert run["gpu"] == 0 and run["mem_mb"]["stitching"] > slurm.WRAPPERS and run["minutes"]["stitching"] >= 30


def test_the_head_cancels_its_own_jobs_only_and_touches_its_file(tools, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    head, other = slurm.Head(tmp_path / "run", 2), slurm.Head(tmp_path / "other", 2)
    assert head.name == slurm.Head(tmp_path / "run", 4).name != other.name
    (tmp_path / "jobs").write_text(f"7|{other.name}_x|RUNNING\n8|{head.name}_x|PENDING\n")
    head.start()
    assert head.alive.exists() and (tmp_path / "jobs").read_text() == f"7|{other.name}_x|RUNNING\n"
    with (tmp_path / "jobs").open("a") as jobs:
        jobs.write(f"9|{head.name}_y|PENDING\n10|{head.name}_y|RUNNING\n11|{head.name}_y|COMPLETING\n")
    os.utime(head.alive, (0, 0))
    head.look("3 of 9 jobs")
    assert capsys.readouterr().out == "Slurm: 1 wait, 2 run; 3 of 9 jobs\n" and head.alive.stat().st_mtime > 1e9
    head.stop()
    assert not head.alive.exists() and (tmp_path / "jobs").read_text() == f"7|{other.name}_x|RUNNING\n"


def test_a_file_that_is_gone_or_no_longer_touched_is_silence(tmp_path):
    file = tmp_path / "alive"
    assert Silence(file, every=0)()
    file.touch()
    silence = Silence(file, patience=0.5, every=0)
    for _ in range(4):
        os.utime(file, (time.time(), time.time() - 1e6))  # whatever the clock of the other host says
        assert not silence()
        time.sleep(0.2)
    time.sleep(0.6)
    assert silence()


def test_a_job_on_another_host_lives_as_long_as_its_head_touches_its_file(tmp_path):
    file = tmp_path / "alive"
    file.touch()
    code = "import time; from lib.runtime import watch_parent; watch_parent(); print('on', flush=True); time.sleep(60)"
    env = {name: value for name, value in os.environ.items() if name != "REPRO_RUN_PID"}
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=env | {"REPRO_RUN_ALIVE": str(file)}, text=True,
                          stdout=subprocess.PIPE) as job:
        assert job.stdout.readline() == "on\n"
        time.sleep(2)
        assert job.poll() is None
        file.unlink()
        assert job.wait(30) == 143


def test_a_job_refuses_a_host_that_does_not_see_the_locks(tmp_path, monkeypatch):
    write_atomic(tmp_path / ".alive", "")
    monkeypatch.delenv("REPRO_RUN_ALIVE", raising=False)
    batch._check_locks(tmp_path)
    monkeypatch.setenv("REPRO_RUN_ALIVE", str(tmp_path / ".alive"))
    with FileLock(str(tmp_path / ".lock")):
        batch._check_locks(tmp_path)
    with pytest.raises(OneLineError, match="does not see the lock"):
        batch._check_locks(tmp_path)


# ------------------------------------------------------------------------------------------------------- a real cluster

PROFILE = """
jobs: 4
slurm-requeue: true
latency-wait: 30
slurm-init-seconds-before-status-checks: 5
set-threads:
  networks: 1
  notebook: 1
"""
EPOCHS = {"networks.normal.epochs": 200, "networks.robust.epochs": 40}  # so that trainings last
LONG = ["--profile", "test", "-p", "jobs=networks"]
LONG += [word for name, count in EPOCHS.items() for word in ("-p", f"{name}={count}")]


@pytest.fixture
def cluster(tmp_path):
    if why := slurm_cluster.why_not():
        pytest.skip(f"needs slurmctld: {why}")
    write_atomic(tmp_path / "profile" / "config.yaml", PROFILE)
    with slurm_cluster.Cluster(tmp_path / "cluster") as found:
        found.env |= {"REPRO_SLURM": str(tmp_path / "profile"), "OMP_NUM_THREADS": "1",
                      "REPRO_RESULTS": str(tmp_path / "results"), "REPRO_STORE": str(tmp_path / "store")}
        yield found


def lib(*words: str) -> list[str]:
    return [sys.executable, "-m", "lib", *words]


def training(tmp_path) -> list[Path]:
    """Checkpoints of trainings that have begun."""
    return list(tmp_path.glob("store/making/network-*/checkpoint.pt"))


def working(tmp_path) -> list[int]:
    """Processes of this test's jobs and heads, by the store in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if f"REPRO_STORE={tmp_path}/store\0".encode() in path.read_bytes() and alive(int(path.parent.name)):
                found.append(int(path.parent.name))
    return found


@pytest.mark.slow
def test_two_notebooks_run_through_slurm_to_the_finished_site(cluster, tmp_path):
    """Starts from the entries of the store that REPRO_STORE names, if it does, so that less has to be trained."""
    if given := os.environ.get("REPRO_STORE"):
        shutil.copytree(given, tmp_path / "store")
    names = ("off_manifold_robustness", "perceptually_aligned_gradients")
    done = subprocess.run(lib("run", *names, "--profile", "test", "--slurm"), cwd=ROOT, env=cluster.env, text=True,
                          capture_output=True, timeout=3600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Slurm: " in done.stdout and "2 of 2 jobs" in done.stdout
    assert (tmp_path / "results" / "test" / "index.html").exists()
    assert all((tmp_path / "results" / "test" / name / "claims.json").exists() for name in names)
    assert not cluster.jobs() and not working(tmp_path) and not training(tmp_path)


@pytest.mark.slow
def test_a_job_requeued_in_the_middle_of_its_training_ends_with_the_same_weights(cluster, tmp_path):
    with (tmp_path / "log").open("w") as log:
        head = subprocess.Popen(lib("run", "stitching", *LONG, "--slurm", "--jobs", "1"), cwd=ROOT, env=cluster.env,
                                stdout=log, stderr=log)
        try:
            network = wait_for(lambda: training(tmp_path), 600)[0].parent.name.removeprefix("network-")
            job, = cluster.jobs()
            cluster.call("scontrol", "requeue", job)
            wait_for(lambda: "Restarts=1" in cluster.call("scontrol", "show", "job", job))
            assert training(tmp_path), "it was in the middle"
            cluster.call("scontrol", "update", f"JobId={job}", "StartTime=now")  # else Slurm waits for two minutes
            made = tmp_path / "store" / "network" / network / "data.safetensors"
            wait_for(made.exists, 900)
        finally:
            head.terminate()
            head.wait(60)
    assert not cluster.jobs()
    plan = batch.batch_jobs(load("test", {"jobs": "networks", **EPOCHS}), ("stitching",))
    name = next(name for name, one in plan.items() if ("network", network) in one["work"])
    assert "going on after epoch" in next(tmp_path.glob(f"results/*/jobs/{name}.log")).read_text()
    whole = {**cluster.env, "REPRO_STORE": str(tmp_path / "whole"), "REPRO_THREADS": "1"}
    subprocess.run(lib("train", name, *LONG, "--notebooks", "stitching"), cwd=ROOT, env=whole, check=True, timeout=900)
    assert made.read_bytes() == (tmp_path / "whole" / "network" / network / "data.safetensors").read_bytes()


@pytest.mark.slow
def test_cancelling_the_head_leaves_no_job_behind(cluster, tmp_path):
    head = shlex.join(lib("run", "stitching", *LONG, "--slurm", "--jobs", "2"))
    submit = ["sbatch", "--parsable", "--mem=1000", f"--output={tmp_path}/log", f"--chdir={ROOT}", "--wrap",
              f"exec {head}"]
    number = subprocess.run(submit, env=cluster.env, capture_output=True, text=True, check=True).stdout.strip()
    wait_for(lambda: training(tmp_path), 600)
    assert len(cluster.jobs()) > 1 and working(tmp_path)
    cluster.call("scancel", number)
    wait_for(lambda: not cluster.jobs() and not working(tmp_path), 60)
    assert "stopped; the same command resumes from here" in (tmp_path / "log").read_text()
