"""The published runs: a smoke run made anew gives their numbers again, and every number leads to what made it."""

import contextlib
import csv
import dataclasses
import json
import os
import pkgutil
import re
import subprocess
import sys
from importlib import import_module

import pandas as pd
import pytest

from lib import claims, cli, values
from lib import site as report
from lib.claims import sheet
from lib.claims.evidence import Evidence
from lib.errors import SettingsError
from lib.papers import papers
from lib.papers.plan import plan
from lib.papers.settings import load
from lib.runtime import ROOT
from lib.site import files
from lib.site.scoreboard import CAUSES, readings
from lib.study import Study
from lib.values import recipe
from lib.values.keys import digest, plain

REFERENCE = ROOT / "results" / "reference"
PUBLISHED = sorted(path.parent for path in REFERENCE.glob("*/*/card.json"))
GUARDED = "representation_similarity"  # the notebook whose smoke run is the shortest


def rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def read_json(path):
    return json.loads(path.read_text(encoding="utf-8"))


VALUES = {name for found in pkgutil.walk_packages(values.__path__, "lib.values.")
          for name, kind in vars(import_module(found.name)).items() if dataclasses.is_dataclass(kind)}


def meant(settings):
    """Settings as plain data without the names of their own classes, which no key depends on."""
    if isinstance(settings, list):
        return [meant(one) for one in settings]
    if not isinstance(settings, dict):
        return settings
    return {name: meant(one) for name, one in settings.items() if name != "type" or one in VALUES}


def todays_plan(folder):
    """The recipe keys that today's plan has for a published run; None where the settings, the data sets' versions or
    the numerics are others now, so that keys may differ.
    """
    card, snapshot = read_json(folder / "card.json"), read_json(folder / "snapshot.json")
    given = {"networks.precision": card["networks_section"]["precision"], "first_seed": card["first_seed"]}
    try:
        settings = load(card["profile"], {**given, **card["overrides"]})
    except SettingsError:  # a profile or a setting that is no more
        return None
    configured = [plain(settings.networks_of(folder.name)), plain(settings.sections[folder.name])]
    if meant(configured) != meant([card["networks_section"], card["parameters"]]):
        return None
    tasks = plan(settings, (folder.name,))
    versions = {task.recipe.data.name: task.recipe.data.info.version for task in tasks}
    same = (recipe.NUMERICS, versions) == (snapshot["numerics"], snapshot["data_versions"])
    return {task.recipe.key for task in tasks} if same else None


def todays_claims(notebook, profile):
    return [plain(claim) for claim in claims.load(notebook, profile)]


def hold(folder):
    """Assert that a published run agrees with its own snapshot, and with today's plan and claims where they are the
    same as its own.
    """
    card, judged, snapshot = (read_json(folder / f"{name}.json") for name in ("card", "claims", "snapshot"))
    assert card["status"] == "ok" and not card["commit"].endswith("+changes") and card["device"] and card["seeds"]
    hashes = {row["id"]: row["margins_hash"] for row in judged}
    assert hashes == {claim["id"]: digest(claim) for claim in snapshot["claims"]}, "judged by the snapshot's claims"
    evidence = files.evidence(folder)
    margins = {(claim["id"], part["id"]): part["margin"] for claim in snapshot["claims"] for part in claim["parts"]}
    for claim in judged:
        for part in claim["parts"]:
            assert part["threshold"] == margins[claim["id"], part["name"].split(": ")[0]]
            values = [value for value in evidence[claim["id"], part["name"]] if value == value]  # without what failed
            if part["statistic"] != "ratio":
                assert sum(values) / len(values) == pytest.approx(part["value"], abs=1e-9)
    planned = {*card["networks"], *snapshot["unstored_networks"]}
    keyed = {row["network"] for path in folder.glob("tables/*.csv") for row in rows(path) if row.get("network")}
    assert keyed and keyed <= planned, "the tables are about the snapshot's networks"
    today = todays_plan(folder)
    assert today is None or planned <= today, "the same settings still plan these networks"
    for claim in claims.load(folder.name, card["profile"]):
        if plain(claim) in snapshot["claims"]:
            assert claims.judge(claim, {}, "none").margins_hash == hashes[claim.id], "the same claim has the same hash"


@pytest.mark.parametrize("folder", PUBLISHED, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_a_published_number_leads_to_its_row_its_keys_and_its_command(folder):
    assert folder.name in papers(), "what is published belongs to a notebook"
    hold(folder)


def test_every_published_verdict_is_computed_again_from_its_evidence():
    count, wrong = claims.verify(REFERENCE)
    assert not wrong and count == sum(len(claim["parts"]) for folder in PUBLISHED
                                      for claim in read_json(folder / "claims.json"))


@contextlib.contextmanager
def changed(path):
    """The value of a JSON file, to be changed in place and written back."""
    value = read_json(path)
    yield value
    path.write_text(json.dumps(value), encoding="utf-8")


def edit_a_margin(folder, monkeypatch):
    """Read the claims from a copy in which one margin is another."""
    text = (sheet.FOLDER / f"{GUARDED}.yaml").read_text(encoding="utf-8")
    (folder / f"{GUARDED}.yaml").write_text(re.sub(r"margin: [\d.]+", "margin: 0.77", text, count=1), encoding="utf-8")
    monkeypatch.setattr(sheet, "FOLDER", folder)


@pytest.fixture
def made(tmp_path, monkeypatch):
    """The folder of a run of today, as a notebook leaves it: without trainings, a table of all networks of its plan."""
    for name in ("REPRO_RESULTS", "REPRO_STORE"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("REPRO_HEADLESS", "1")
    study = Study(GUARDED, {"profile": "test"})
    keys = [task.recipe.key for task in plan(study.settings, (GUARDED,))]
    study.table("cells", pd.DataFrame({"network": keys}))
    study.judge(Evidence(), [])
    study.close()
    with changed(study.folder / "card.json") as card:
        card["commit"] = "0123456789ab"  # this one may have changes
    return study.folder


def test_a_run_leaves_what_it_was_planned_and_judged_by(made):
    card, snapshot = read_json(made / "card.json"), read_json(made / "snapshot.json")
    assert snapshot["claims"] == todays_claims(GUARDED, "test")
    assert snapshot["numerics"] == recipe.NUMERICS and snapshot["data_versions"] == {"digits": "1"}
    untrained = [key for key in todays_plan(made) if key not in card["networks"]]
    assert untrained and sorted(snapshot["unstored_networks"]) == sorted(untrained)
    hold(made)


def test_a_snapshot_holds_the_claims_that_were_judged(tmp_path, monkeypatch):
    """Though the claims file is edited before the notebook ends."""
    monkeypatch.setenv("REPRO_RESULTS", str(tmp_path))
    study = Study(GUARDED, {"profile": "test"})
    study.judge(Evidence(), [])
    used = todays_claims(GUARDED, "test")
    edit_a_margin(tmp_path, monkeypatch)
    study.close()
    assert read_json(study.folder / "snapshot.json")["claims"] == used != todays_claims(GUARDED, "test")


def test_a_published_run_holds_though_a_margin_has_changed_since(made, tmp_path, monkeypatch):
    edit_a_margin(tmp_path, monkeypatch)
    own = read_json(made / "snapshot.json")["claims"]
    assert sum(claim not in own for claim in todays_claims(GUARDED, "test")) == 1
    hold(made)


@pytest.mark.parametrize("file, change", [
    ("card", {"profile": "no-more"}), ("card", {"parameters": {}}),
    ("card", {"networks_section": {"precision": "fp32"}}), ("snapshot", {"numerics": 0}),
    ("snapshot", {"data_versions": {"digits": "0"}})])
def test_a_published_run_holds_though_what_its_keys_depend_on_has_changed_since(made, file, change):
    for path in made.glob("tables/*.csv"):  # its keys are others than today's
        path.write_text(path.read_text().replace(next(iter(todays_plan(made))), "0123456789abcdef"))
    with changed(made / "snapshot.json") as snapshot:
        snapshot["unstored_networks"].append("0123456789abcdef")
    with pytest.raises(AssertionError, match="the same settings still plan these networks"):
        hold(made)
    with changed(made / f"{file}.json") as value:
        value |= change
    assert todays_plan(made) is None
    hold(made)


@pytest.mark.parametrize("file, change", [
    ("claims", lambda judged: judged[0].update(margins_hash="0123456789abcdef")),
    ("claims", lambda judged: judged.pop()),
    ("snapshot", lambda snapshot: snapshot["claims"][0]["parts"][0].update(margin=0.77))])
def test_verdicts_on_claims_that_the_snapshot_does_not_have_are_noticed(made, file, change):
    with changed(made / f"{file}.json") as value:
        change(value)
    with pytest.raises(AssertionError, match="judged by the snapshot's claims"):
        hold(made)


def test_a_network_that_the_snapshot_does_not_have_is_noticed(made):
    (made / "tables" / "more.csv").write_text("network,accuracy\n0123456789abcdef,0.5\n")
    with pytest.raises(AssertionError, match="the tables are about the snapshot's networks"):
        hold(made)


def test_every_claim_that_is_not_supported_has_a_reading_of_its_verdict():
    verdicts = {(folder.parent.name, folder.name, claim["id"]): claim["verdict"] for folder in PUBLISHED
                for claim in json.loads((folder / "claims.json").read_text(encoding="utf-8"))}
    read = {(profile, name, key): reading for profile in {folder.parent.name for folder in PUBLISHED}
            for name, claims in readings(REFERENCE / profile).items() for key, reading in claims.items()}
    assert {place: reading["verdict"] for place, reading in read.items()} == {
        place: verdict for place, verdict in verdicts.items() if verdict not in ("supported", "not tested")}
    for place, reading in read.items():
        assert reading.keys() == {"verdict", "cause", "why"} and reading["cause"] in CAUSES, place
        assert len(reading["why"].split()) > 5, place


def need_as_today(folder, same_claims=True):
    """Skip where there is no published run that today's code is to give again: none at all, or one of other settings,
    numerics or claims.
    """
    if not folder.exists() or todays_plan(folder) is None:
        pytest.skip(f"not published with today's settings and numerics: {folder.parent.name} {folder.name}")
    if same_claims and read_json(folder / "snapshot.json")["claims"] != todays_claims(folder.name, folder.parent.name):
        pytest.skip(f"not published with today's claims: {folder.parent.name} {folder.name}")


@pytest.mark.slow
def test_a_smoke_run_gives_the_published_values_again(tmp_path, monkeypatch, capsys):
    need_as_today(REFERENCE / "smoke" / GUARDED)
    mine = {name: str(tmp_path / name) for name in ("REPRO_RESULTS", "REPRO_STORE")}
    done = subprocess.run([sys.executable, "-m", "lib", "run", "--profile", "smoke", GUARDED], cwd=ROOT, timeout=900,
                          capture_output=True, text=True, env={**os.environ, "CUDA_VISIBLE_DEVICES": "", **mine})
    assert done.returncode == 0, done.stderr[-3000:]
    table = report.compare(tmp_path / "REPRO_RESULTS" / "smoke", REFERENCE / "smoke")
    wrong = table[~table["agrees"]]
    assert len(table) > 20 and wrong.empty, wrong.to_string()
    monkeypatch.setattr(cli, "results", lambda: tmp_path / "REPRO_RESULTS")
    assert cli.main(["compare", "smoke"]) == 0
    assert "0 disagreements" in capsys.readouterr().out
    path = tmp_path / "REPRO_RESULTS" / "smoke" / GUARDED / "claims.json"
    judged = json.loads(path.read_text())
    part = next(part for claim in judged for part in claim["parts"] if part["low"] is not None)
    part |= {"value": part["value"] + 1, "low": part["low"] + 1, "high": part["high"] + 1}
    path.write_text(json.dumps(judged))
    assert cli.main(["compare", "smoke"]) == 1 and "their intervals do not meet" in capsys.readouterr().out


def test_a_network_is_made_again_by_its_key(tmp_path, monkeypatch, capsys):
    need_as_today(REFERENCE / "smoke" / "stitching", same_claims=False)
    monkeypatch.setenv("REPRO_STORE", str(tmp_path))
    settings = load("smoke")
    task = next(t for t in plan(settings, ("stitching",)) if t.job.startswith("pool") and t.measures)
    assert cli.main(["again", "--profile", "smoke", task.recipe.key]) == 0
    said = capsys.readouterr().out
    mine = next(row for row in rows(REFERENCE / "smoke" / "stitching" / "tables" / "cells.csv")
                if row["network"] == task.recipe.key and row["measure"] == "clean")
    here = [float(value) for value in re.findall(r"here: clean ([\d.]+)", said)]
    assert here and here == pytest.approx([float(mine["accuracy"])] * len(here), abs=0.02)  # processors round otherwise
    assert "published in results/reference/smoke/stitching" in said
    assert cli.main(["again", "--profile", "smoke", "0123456789abcdef"]) == 2
    assert "KEY = 0123456789abcdef is not possible" in capsys.readouterr().err
