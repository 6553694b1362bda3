"""What every command line of the project has in common."""

import os

import pytest

from benchmarks import __main__ as benchmarks
from lib import cli, runtime
from lib.errors import SettingsError
from lib.files import write_atomic
from lib.runtime import duration, without_gpu
from lib.store import Store


def refuse():
    raise SettingsError("seeds = 0 is not possible: it must be 1 or more")


def interrupt(*args):
    raise KeyboardInterrupt


@pytest.mark.parametrize("do, status, said", [
    (lambda: None, 0, ""), (lambda: 1, 1, ""), (interrupt, 130, ""),
    (refuse, 2, "error: seeds = 0 is not possible: it must be 1 or more\n"),
])
def test_exit_statuses(do, status, said, capsys):
    assert cli.run_command(do) == status and capsys.readouterr().err == said


def test_folders_of_the_environment_are_absolute_for_jobs_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REPRO_STORE", "store")
    monkeypatch.delenv("REPRO_DATA", raising=False)
    cli.run_command(lambda: None)
    assert os.environ["REPRO_STORE"] == str(tmp_path / "store") and "REPRO_DATA" not in os.environ


@pytest.mark.parametrize("main, args, script", [
    (cli.main, ["run", "--sedes", "3"], "./run_all.sh"), (cli.main, ["again"], "./run_all.sh"),
    (benchmarks.main, ["data", "--quik"], "benchmarks/run.sh"),
])
def test_a_wrong_option_names_the_script_that_helps(main, args, script, capsys):
    assert main(args) == 2
    assert capsys.readouterr().err.endswith(f"; see {script} --help\n")


def test_a_run_that_is_stopped_says_that_it_can_go_on(monkeypatch, capsys):
    monkeypatch.setattr(cli, "index", interrupt)
    assert cli.main(["index", "somewhere"]) == 130
    assert "the same command resumes from here" in capsys.readouterr().err


@pytest.mark.parametrize("args, words", [
    (["run", "laptop"], "laptop is a profile, not a notebook: type --profile laptop"),
    (["run", "store", "show"], "type the command first, ./run_all.sh store"),
    (["run", "all"], "name none of them to run all"),
    (["run", "-p", "profile=laptop"], "--profile laptop"),
    (["run", "-p", "epoch=3"], "did you mean 'epochs' or 'end_epochs'"),
    (["run", "-p", "qqq=3"], "see docs/settings.md"),
    (["compare", "nothere"], "there is no run"),
    (["again", "1234"], "keys stand in the column network of the tables"),
    (["verify", "nothere"], "the folder of a run"),
])
def test_an_odd_command_says_what_to_type(args, words, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("REPRO_RESULTS", str(tmp_path))
    assert cli.main(args) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1 and len(said) < 420, said


def test_publishing_over_what_is_published_needs_a_yes(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("REPRO_RESULTS", str(tmp_path / "results"))
    monkeypatch.setattr(cli, "ROOT", tmp_path)
    for place in ("results/smoke", "results/reference/smoke"):
        write_atomic(tmp_path / place / "stitching" / "card.json", '{"status": "ok", "commit": "abc"}')
    assert cli.main(["publish", "smoke"]) == 2
    said = capsys.readouterr().err
    assert "replaces 1 notebook under results/reference/smoke (stitching)" in said and "--yes" in said
    made = []
    monkeypatch.setattr(cli.report, "shrink", made.append)
    monkeypatch.setattr(cli.report, "published", made.append)
    monkeypatch.setattr(cli.report, "readme", made.append)
    assert cli.main(["publish", "smoke", "--yes"]) == 0 and len(made) == 3


def test_the_store_is_shown_by_its_sums_or_whole(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("REPRO_STORE", str(tmp_path))
    for kind, key, size in (("network", "a", 9), ("network", "b", 2000), ("outcomes", "c", 1)):
        Store().obtain(kind, key, lambda work, size=size: write_atomic(work / "data", "x" * size))
    assert cli.main(["store"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[1:4]] == [["all", "3"], ["network", "2"], ["outcomes", "1"]]
    assert "--all" in lines[4] and len(lines) == 5
    assert cli.main(["store", "show", "--all"]) == 0
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()[4:]] == ["b", "a", "c"]


@pytest.mark.parametrize("seconds, said", [
    (None, "–"), (42, "42 s"), (780, "13 min"), (7500, "2 h 05 min"), (12 * 86400, "12 days"),
    (75 * 365.25 * 86400, "75 years"),
])
def test_times_are_read_at_a_glance(seconds, said):
    assert duration(seconds) == said


@pytest.mark.parametrize("precision, fast, warned", [
    ("bf16", False, True), ("bf16", True, False), ("fp32", False, False),
])
def test_bf16_on_a_processor_without_it_is_warned_of(monkeypatch, precision, fast, warned):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(runtime, "fast_in_bf16", lambda: fast)
    said = runtime.warnings_of_machine("laptop", precision, "auto")
    assert [("networks.precision = bf16 is slow here" in one) for one in said] == [True] * warned


def test_a_large_profile_without_a_gpu_is_warned_of(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert "gpu is made for a GPU and none is used here" in without_gpu("gpu", "auto")
    assert without_gpu("laptop", "auto") == "" and "paper" in without_gpu("paper", "cpu")
