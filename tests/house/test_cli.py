"""What every command line of the project has in common."""

import os

import pytest

from benchmarks import __main__ as benchmarks
from lib import cli
from lib.errors import SettingsError


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
