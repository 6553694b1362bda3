"""The batch run as a whole: what it does again, what a failed job leaves, one run a folder, and killed in the middle it
leaves nothing running and the same command goes on.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lib import batch, cli, jobs
from lib.files import FileError, sha256, write_atomic
from lib.papers.settings import load
from lib.prices import Countdown
from lib.runtime import ROOT
from lib.store import Store
from lib.training import zoo

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


def wait_for(condition, seconds: float = 300.0):  # jobs start slowly where others work too
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if got := condition():
            return got
        time.sleep(0.1)
    raise AssertionError("waited in vain")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc to look for left-over processes")
def test_stopped_in_any_way_it_leaves_nothing_running_and_the_next_run_goes_on(tmp_path):
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
        again.terminate()
        assert again.wait(10) == 130
        wait_for(lambda: not children(again.pid), 10)
    with open(tmp_path / "log3", "w") as log:
        third = subprocess.Popen(RUN, cwd=ROOT, env=env, stdout=log, stderr=log,  # heeds Ctrl-C, even if the tests
                                 preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))  # run under nohup
        wait_for(lambda: children(third.pid))
        third.send_signal(signal.SIGINT)
        assert third.wait(10) == 130
        wait_for(lambda: not children(third.pid), 10)
    for log in ("log2", "log3"):
        assert (tmp_path / log).read_text().endswith("stopped; the same command resumes from here\n")
    assert not list(tmp_path.glob("*/jobs/*.failed")) and not list(tmp_path.glob("*/*/card.json")), "nothing failed"


# ------------------------------------------------------------------------------------------------ what is done again


def test_the_digest_of_the_code_changes_with_the_library_only(tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "ROOT", tmp_path)
    for name in ("lib/store.py", "lib/report/templates/index.html.j2", "lib/report/templates/page.css",
                 "lib/__pycache__/store.cpython-311.pyc", "tests/values/test_store.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("first")
        before = jobs.code_digest()
        assert before == jobs.code_digest()
        path.write_text("second")
        counts = name.startswith("lib/") and not name.endswith(".pyc")
        assert (jobs.code_digest() != before) == counts, name


@pytest.mark.parametrize("changed, again", [
    ("lib/store.py", True), ("notebooks/stitching.ipynb", True), ("claims/stitching.yaml", True),
    ("claims/harp_pruning.yaml", False), ("tests/test_store.py", False), (None, False), ("the settings", True)])
def test_a_finished_notebook_runs_again_when_what_it_is_made_of_changed(tmp_path, monkeypatch, changed, again):
    monkeypatch.setattr(jobs, "ROOT", tmp_path)
    for name in ("lib/store.py", "notebooks/stitching.ipynb", "claims/stitching.yaml", "claims/harp_pruning.yaml"):
        write_atomic(tmp_path / name, "first")
    settings, claims = load("test"), tmp_path / "results" / "stitching" / "claims.json"
    write_atomic(claims, "[]")
    write_atomic(claims.with_name(batch.MADE_OF), batch.made_of(settings, "stitching"))
    if changed == "the settings":
        settings = load("test", {"networks.batch_size": 16})
    elif changed:
        write_atomic(tmp_path / changed, "second")
    batch.refuse_changed_results(settings, ("stitching",), tmp_path / "results")
    assert claims.exists() != again


def test_what_a_notebook_is_made_of_is_the_same_for_the_run_and_for_its_process():
    """The run compares what the notebook's process, which has the settings from the command line, notes."""
    given = {"networks.robust.epochs": 1, "networks.threat.eps": "1/10", "stitching.seeds": 2}
    words = [word for name, value in given.items() for word in ("-p", f"{name}={json.dumps(value)}")]
    args = cli.parser().parse_args(["notebook", "stitching", "--profile", "test", *words])
    settings, _ = cli._prepare(args, ["stitching"])
    assert batch.made_of(settings, "stitching") == batch.made_of(load("test", given), "stitching")


# --------------------------------------------------------------------------------------- without Snakemake


def test_a_replay_does_not_start_the_engine_and_a_missing_network_does(tmp_path, monkeypatch):
    for name, value in {"REPRO_RESULTS": str(tmp_path), "REPRO_STORE": str(tmp_path / "store")}.items():
        monkeypatch.setenv(name, value)
    settings, store, called = load("test", {"jobs": "networks"}), Store(tmp_path / "store"), []
    for engine in ("_snakemake", "_replay"):
        monkeypatch.setattr(batch, engine, lambda *given, engine=engine: called.append(
            (engine, [*given[6].notebooks], len(given[6].jobs))) or 0)
    for job in batch.batch_jobs(settings, ("stitching",)).values():
        for kind, key in job["work"]:
            store.obtain(kind, key, lambda work: {})
    command = ["run", "stitching", "--profile", "test", "-p", "jobs=networks"]
    assert cli.main(command) == 0 and called.pop() == ("_replay", ["stitching"], 0)
    claims = tmp_path / settings.run / "stitching" / "claims.json"
    write_atomic(claims, "[]")
    write_atomic(claims.with_name(batch.MADE_OF), batch.made_of(settings, "stitching"))
    assert cli.main(command) == 0 and called.pop() == ("_replay", [], 0), "it is finished"
    batch.mark(tmp_path / settings.run, name := next(iter(batch.batch_jobs(settings, ("stitching",))))).touch()
    os.utime(claims, (1, 1))
    assert cli.main(command) == 0 and called.pop() == ("_replay", ["stitching"], 0), f"{name} ran after it"
    shutil.rmtree(next((tmp_path / "store" / "network").iterdir()))
    assert cli.main(command) == 0 and called.pop() == ("_snakemake", ["stitching"], 1)


SAYS = """import os, pathlib, sys, time
name, = {*sys.argv} & {"stitching", "harp_pruning"}
made = pathlib.Path(os.environ["REPRO_RESULTS"]) / "test" / name
made.mkdir(parents=True, exist_ok=True)
(made / "told").write_text(" ".join([*sys.argv[1:], os.environ["REPRO_THREADS"], os.environ["REPRO_HEADLESS"]]))
{end}
"""


@pytest.mark.parametrize("end, status, said", [
    ("(made / 'claims.json').write_text('[]')", 0, ""), ("sys.exit(3)", 1, ""),
    ("os.kill(os.getpid(), 9)", 1, "harp_pruning failed: it was killed, status 137\n")])
def test_notebooks_run_as_processes_without_the_engine(tmp_path, monkeypatch, capfd, end, status, said):
    monkeypatch.setenv("REPRO_RESULTS", str(tmp_path / "results"))
    monkeypatch.setattr(batch, "ROOT", tmp_path)
    monkeypatch.setattr(batch, "cores", lambda: 4)
    write_atomic(tmp_path / "lib" / "__main__.py", SAYS.replace("{end}", end))
    folder, names = tmp_path / "results" / "test", ("stitching", "harp_pruning")
    left = Countdown({}, dict.fromkeys(names), None, 2)
    settings, given = load("test"), {"networks.batch_size": 16}
    assert batch._replay(settings, given, names, 2, (), folder, left) == status
    for name in names:
        assert (folder / name / "told").read_text() == (
            f"notebook {name} --profile test -p networks.batch_size=16 4 1")
    out, err = capfd.readouterr()
    assert said in err and out.count("is finished") == 2 * (not status)


# ----------------------------------------------------------------- what a failed job, damage and a second run do


@pytest.fixture
def started(tmp_path, monkeypatch):
    """Gives `started(instead)`: in place of Snakemake and of a replay, `instead` is called, and returns its exit
    status.
    """
    for name, value in {"REPRO_RESULTS": str(tmp_path), "REPRO_STORE": str(tmp_path / "store")}.items():
        monkeypatch.setenv(name, value)

    def start(instead):
        for engine in ("_snakemake", "_replay"):
            monkeypatch.setattr(batch, engine, lambda *given: instead())

    return start


def test_a_failed_job_leaves_no_old_verdicts(tmp_path, started, monkeypatch):
    group, names = "representation_similarity-overfits-0", ["stitching", "representation_similarity"]
    given = {"jobs": "networks"}
    options = ["--profile", "test", *(word for name, value in given.items() for word in ("-p", f"{name}={value}"))]
    folder, old = tmp_path / load("test", given).run, {"status": "ok", "seconds": 1.0}
    for name in names:
        (folder / name).mkdir(parents=True)
        (folder / name / "claims.json").write_text("[]")
        (folder / name / batch.MADE_OF).write_text(batch.made_of(load("test", given), name))
        (folder / name / "card.json").write_text(json.dumps(old))

    def refuse(*args, **named):
        raise FileError("there is no room left")

    def fail():
        done = ["--done", str(folder / "jobs" / f"{group}.done")]
        assert cli.main(["train", group, *options, "--notebooks", ",".join(names), *done]) == 2
        return 1

    started(fail)
    monkeypatch.setattr(zoo, "fit", refuse)
    assert cli.main(["run", *names, *options]) == 1
    card = json.loads((folder / "representation_similarity" / "card.json").read_text())
    assert card["status"] == "failed" and group in card["error"] and "no room left" in card["error"]
    assert not (folder / "representation_similarity" / "claims.json").exists()
    assert json.loads((folder / "stitching" / "card.json").read_text()) == old, "it needs no such network"
    assert (folder / "stitching" / "claims.json").exists()


def test_a_run_that_is_done_notices_damage_in_what_it_rests_on(tmp_path, started, caplog):
    given, store = {"jobs": "networks"}, Store(tmp_path / "store")
    settings, command = load("test", given), ["run", "stitching", "--profile", "test", "-p", "jobs=networks"]
    every, folder = batch.batch_jobs(settings, ("stitching",)), tmp_path / load("test", given).run
    for job in every.values():
        for kind, key in job["work"]:
            store.obtain(kind, key, lambda work: {"what": write_atomic(work / "data.txt", "text")})
    claims = folder / "stitching" / "claims.json"
    write_atomic(claims, "[]")
    write_atomic(claims.with_name(batch.MADE_OF), batch.made_of(settings, "stitching"))
    started(lambda: 0)
    assert cli.main(command) == 0 and claims.exists() and all(batch.mark(folder, job).exists() for job in every)
    name, job = list(every.items())[-1]
    kind, key = next(entry for entry in job["work"] if entry[0] == "network")
    (store.folder(kind, key) / "data.txt").write_text("tampered")
    assert cli.main(command) == 0
    assert [one for one in every if not batch.mark(folder, one).exists()] == [name]
    assert not claims.exists() and not store.has(kind, key) and "damaged (data.txt)" in caplog.text


@pytest.mark.parametrize("name, content, again", [
    ("tables/a.csv", "a,1", False), ("tables/a.csv", "a,2", True), ("tables/a.csv", None, True),
    ("claims.json", "[]\n", True), (batch.WRITTEN, "{", True), (batch.WRITTEN, "[]", True),
])
def test_a_notebook_whose_results_have_changed_runs_again(tmp_path, started, name, content, again):
    folder = tmp_path / "test" / "stitching"
    files = {"claims.json": "[]", "tables/a.csv": "a,1"}
    for path, text in files.items():
        write_atomic(folder / path, text)
    write_atomic(folder / batch.WRITTEN, json.dumps({path: sha256(folder / path) for path in files}))
    write_atomic(folder / batch.MADE_OF, batch.made_of(load("test"), "stitching"))
    write_atomic(folder / name, content) if content is not None else (folder / name).unlink()
    started(lambda: 0)
    assert cli.main(["run", "stitching", "--profile", "test"]) == 0
    assert (folder / "claims.json").exists() != again


def test_temporary_files_of_a_killed_run_are_deleted(tmp_path, started):
    left = [tmp_path / "test" / "stitching" / "tables" / ".a.csv.1.part", tmp_path / "test" / ".index.html.1.part"]
    for path in left:
        write_atomic(path, "half")
    started(lambda: 0)
    assert cli.main(["run", "stitching", "--profile", "test"]) == 0
    assert not [path for path in left if path.exists()]


def test_what_stops_snakemake_is_shown(tmp_path, monkeypatch, capfd):
    """Braces in the folder's name, a home that cannot be written and Latin-1 are no reasons to stop."""
    folder = tmp_path / "results {2} ä"
    for name, value in {"REPRO_RESULTS": str(folder), "REPRO_STORE": str(tmp_path / "store"), "HOME": os.devnull,
                        "LC_ALL": "en_US.ISO-8859-1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    done = folder / "test" / "stitching" / "claims.json"
    monkeypatch.setattr(batch, "refuse_changed_results", lambda *given: write_atomic(done, "[]"))
    monkeypatch.setattr(batch, "_replay", lambda *given: batch._snakemake(*given, None))
    command = ["run", "stitching", "--profile", "test"]
    assert cli.main(command) == 0, capfd.readouterr()
    shutil.rmtree(folder / "test" / ".snakemake")
    (folder / "test" / ".snakemake").write_text("a file where Snakemake wants a folder")
    assert cli.main(command) == 1
    assert "File exists" in capfd.readouterr().err


@pytest.mark.parametrize("rule, said", [
    ('shell: "exit 3"', ""), ('shell: "kill -9 $$"', ""),
    ('shell: "touch nothing {nowhere}"', "nowhere"), ("torn: 3", "torn"),
])
def test_a_failed_job_speaks_for_itself(tmp_path, rule, said):
    (tmp_path / "Snakefile").write_text(f"rule all:\n    output: 'made'\n    {rule}\n")
    command = [sys.executable, "-c", "from lib.batch import snakemake; snakemake()", str(tmp_path / "said"),
               "--snakefile", str(tmp_path / "Snakefile"), "--directory", str(tmp_path), "--cores=1", "--quiet", "all"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode and (tmp_path / "said").exists() == bool(said)
    assert said in ((tmp_path / "said").read_text() if said else "") and "RuleException" not in done.stderr


def test_a_notebook_whose_kernel_dies_says_so(tmp_path, monkeypatch, capfd):
    import nbformat.v4 as nbf

    for name, value in {"REPRO_RESULTS": str(tmp_path), "REPRO_HEADLESS": "1", "PYTHONPATH": str(ROOT)}.items():
        monkeypatch.setenv(name, value)
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    page = nbf.new_notebook(cells=[nbf.new_code_cell("import os; os.kill(os.getpid(), 9)")],
                            metadata={"kernelspec": kernel})
    write_atomic(tmp_path / "notebooks" / "stitching.ipynb", json.dumps(page))
    monkeypatch.setattr(batch, "ROOT", tmp_path)
    assert batch.run_notebook(load("test"), {}, "stitching") == 1
    assert capfd.readouterr().err.endswith("stitching failed: Kernel died\n")
    card = json.loads((tmp_path / "test" / "stitching" / "card.json").read_text())
    assert card["status"] == "failed" and card["error"] == "Kernel died"
    assert not list((tmp_path / "test" / batch.SCRATCH).iterdir())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a full disk")
def test_logs_on_a_full_disk_are_no_traceback(tmp_path):
    (tmp_path / "said").symlink_to("/dev/full")
    (tmp_path / "Snakefile").write_text("rule all:\n    output: 'made'\n    shell: 'exit 3'\n")
    command = [sys.executable, "-c", "from lib.batch import snakemake; snakemake()", str(tmp_path / "said"),
               "--snakefile", str(tmp_path / "Snakefile"), "--directory", str(tmp_path), "--cores=1", "--quiet", "all"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode and not done.stderr


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_jobs_of_a_run_are_told_its_precision(tmp_path, monkeypatch, precision):
    told = []

    class Group:
        pid, returncode = 0, 0

        def __init__(self, command, env, **options):
            told.append(env["REPRO_PRECISION"])
            assert Path(env["XDG_CACHE_HOME"]) == Path(env["TMPDIR"]) == scratch and not list(scratch.iterdir())

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        wait = __exit__

    monkeypatch.setattr(batch.subprocess, "Popen", Group)
    monkeypatch.setattr(batch.os, "killpg", lambda *_: None)
    monkeypatch.setenv("REPRO_RESULTS", str(tmp_path))
    monkeypatch.setenv("REPRO_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("REPRO_PRECISION", precision)
    monkeypatch.setattr(batch, "_countdown", lambda *given: Countdown({"job": []}, {"stitching": None}, None, 1))
    given = {"networks.precision": "auto", "jobs": "networks"}
    settings = load("test", given)
    scratch = tmp_path / settings.run / batch.SCRATCH
    write_atomic(scratch / "left by a killed run", "")
    assert batch.run_graph(settings, given, ("stitching",), 1) == 0
    assert told == [precision] and not scratch.exists()


def test_two_runs_do_not_write_to_one_folder(tmp_path, started, capsys):
    command, statuses = ["run", "stitching", "--profile", "test"], []

    def second():
        if not statuses:
            statuses.append(None)  # a second run that is let in comes here too
            statuses[0] = cli.main(command)
        return 0

    started(second)
    assert cli.main(command) == 0 and statuses == [2]
    said = capsys.readouterr().err
    assert said == f"error: another run is writing to {tmp_path / 'test'}: wait for it or stop it\n"
    assert cli.main(command) == 0, "the first one is over"


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_as_one_that_was_left_alone(tmp_path):
    from benchmarks.torture import torture

    assert torture(tmp_path, "test", ["harp_pruning"], kills=2, seeds=range(1, 2)) == []


def test_torture_notices_what_differs_and_what_is_left_behind(tmp_path):
    from benchmarks import runs

    for place, text in (("whole", "a,1"), ("broken", "a,2")):
        write_atomic(tmp_path / place / "results/test/harp_pruning/tables/accuracies.csv", text)
        write_atomic(tmp_path / place / "results/test/harp_pruning/tables/networks.csv", place)
    assert runs.differences(tmp_path / "whole", tmp_path / "broken") == [
        "results/test/harp_pruning/tables/accuracies.csv differs"]
    (tmp_path / "broken/store/making/network-a").mkdir(parents=True)
    (tmp_path / "broken/results/test/.x.csv.12.part").touch()
    assert len(runs.left_behind(tmp_path / "broken")) == 2 and not runs.left_behind(tmp_path / "whole")
