"""The notebooks at `test` size through papermill, as a user runs them, and the command line around them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from lib import cli
from lib.papers import papers
from lib.runtime import ROOT


def run(*args, **env):
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", **env}
    return subprocess.run([sys.executable, "-m", "lib", *args], cwd=ROOT, capture_output=True, text=True,
                          env=environment, timeout=600)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    base = tmp_path_factory.mktemp("run")
    return {"REPRO_STORE": str(base / "store"), "REPRO_RESULTS": str(base / "results"), "base": base}


@pytest.mark.slow
@pytest.mark.parametrize("name", papers())
def test_notebook_at_test_size(name, place):
    base = place["base"]
    env = {k: v for k, v in place.items() if k != "base"}
    before = {path.name for path in Path(env["REPRO_STORE"], "network").glob("*")}  # notebooks share the pool
    done = run("notebook", name, "--profile", "test", **env)
    assert done.returncode == 0, done.stderr[-3000:]
    folder = base / "results" / "test" / name
    rows = json.loads((folder / "claims.json").read_text())
    assert rows and {r["verdict"] for r in rows} == {"not tested"}, "the test profile gives no verdicts"
    assert all(r["reason"] for r in rows)
    card = json.loads((folder / "card.json").read_text())
    assert card["status"] == "ok" and card["trained_here"] == len({*card["networks"]} - before) > 0
    assert list((folder / "tables").glob("*.csv")) and list((folder / "figures").glob("*.png"))
    assert "<html" in (folder / "notebook.html").read_text()[:2000]
    assert str(ROOT) not in (folder / "notebook.ipynb").read_text(), "a published page names no machine's folders"
    again = run("notebook", name, "--profile", "test", **env)
    assert again.returncode == 0
    assert json.loads((folder / "card.json").read_text())["trained_here"] == 0, "a second run replays from the store"
    assert [{k: v for k, v in r.items()} for r in json.loads((folder / "claims.json").read_text())] == rows


@pytest.mark.parametrize("name", list(papers()))
def test_a_bad_parameter_stops_a_notebook_before_any_work(name, place, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # as run_all.sh does
    import papermill

    from lib.study import Study

    out = place["base"] / "bad.ipynb"
    with pytest.raises(papermill.PapermillExecutionError, match="did you mean"):
        papermill.execute_notebook(ROOT / "notebooks" / f"{name}.ipynb", out, cwd=ROOT / "notebooks",
                                   parameters={"profile": "test", "sedes": 3}, progress_bar=False)
    with pytest.raises(ValueError, match="seeds = -1"):
        Study(name, {"profile": "test", "seeds": -1})


@pytest.mark.slow
def test_a_notebook_goes_on_without_all_of_its_normal_networks_and_names_them(place):
    env = {k: v for k, v in place.items() if k != "base"}
    done = run("notebook", "stitching", "--profile", "test", "-p", "networks.normal.optimiser.lr=1.0e+12", **env)
    assert done.returncode == 0, done.stderr
    folder = next((place["base"] / "results").glob("test+*")) / "stitching"
    card = json.loads((folder / "card.json").read_text())
    assert card["status"] == "ok" and (folder / "claims.json").exists()
    said = [one["sentence"] for one in card["warnings"] if "goes on without endpoint N" in one["sentence"]]
    assert said and all("of epoch 0 is" in warning for warning in said)
    cells = pd.read_csv(folder / "tables" / "cells.csv")
    lost = cells[cells.failed.notna()]
    assert lost.accuracy.isna().all() and {"N", "N->R", "R->N"} <= {*lost.pair} and not {"R", "R->R2"} & {*lost.pair}


@pytest.mark.slow
def test_a_notebook_that_fails_leaves_its_half_run_page(place):
    env = {k: v for k, v in place.items() if k != "base"} | {"REPRO_STORE": "/proc/nowhere"}
    done = run("notebook", "stitching", "--profile", "test", **env)
    assert done.returncode == 1 and "cannot be made" in done.stderr
    folder = place["base"] / "results" / "test" / "stitching"
    card = json.loads((folder / "card.json").read_text())
    assert card["status"] == "failed" and "cannot be made" in card["error"]
    assert "FileError" in (folder / "notebook.html").read_text()
    assert not (folder / "claims.json").exists()


@pytest.mark.parametrize("args, words", [
    (["run", "stiching"], ["unknown notebook 'stiching'", "did you mean 'stitching'"]),
    (["run", "--profile", "smok"], ["unknown profile 'smok'", "smoke"]),
    (["run", "-p", "sedes=3"], ["unknown parameter 'sedes'", "did you mean 'seeds'"]),
    (["run", "-p", "networks.threat.eps=-8/255"], ["threat.eps = -8/255", "at least 0"]),
    (["run", "-p", "networks.data.name=cifr10"], ["unknown networks.data.name 'cifr10'"]),
    (["run", "-p", "joints=[stem, layer9.0]"], ["layer9.0"]),
    (["run", "--seeds", "0"], ["stitching.seeds = 0"]),
    (["run", "--jobs", "0"], ["--jobs = 0"]),
    (["run", "-p", "seeds"], ["name=value"]),
    (["run", "--frobnicate"], ["--frobnicate"]),
    (["store", "export"], [".tar"]),
])
def test_bad_input_is_one_line_and_status_2(args, words, capsys):
    assert cli.main(args) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and all(w in said for w in words), said


def test_dry_run_prices_the_plan_and_does_nothing(place, capsys, monkeypatch):
    monkeypatch.setenv("REPRO_STORE", str(place["base"] / "empty"))
    assert cli.main(["run", "--profile", "test", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "PFLOP" in said and "pool (shared)" in said and not (place["base"] / "empty").exists()


def test_overrides_reach_the_settings():
    args = cli.parser().parse_args(["run", "--profile", "test", "-p", "epochs=2", "-p", "networks.threat.eps=8/255"])
    settings, given = cli._prepare(args, ["stitching"])
    assert settings.sections["stitching"].epochs == 2 and str(settings.networks.threat.eps) == "8/255"
    assert given == {"stitching.epochs": 2, "networks.threat.eps": "8/255"} and settings.run.startswith("test+")
