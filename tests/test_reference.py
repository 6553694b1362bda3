"""The published runs: a smoke run made anew gives their numbers again, and every number leads to what made it."""

import csv
import json
import os
import re
import subprocess
import sys

import pytest

from lib import claims, cli, report
from lib.plan import NOTEBOOKS, plan
from lib.report.scoreboard import CAUSES, readings
from lib.runtime import ROOT
from lib.settings import load

REFERENCE = ROOT / "results" / "reference"
PUBLISHED = sorted(path.parent for path in REFERENCE.glob("*/*/card.json"))
GUARDED = "representation_similarity"  # the notebook whose smoke run is the shortest


def rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_every_notebook_is_published_at_smoke_and_laptop():
    found = {(path.parent.name, path.name) for path in PUBLISHED}
    assert found >= {(profile, name) for profile in ("smoke", "laptop") for name in NOTEBOOKS}


@pytest.mark.parametrize("folder", PUBLISHED, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_a_published_number_leads_to_its_row_its_keys_and_its_command(folder):
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    judged = json.loads((folder / "claims.json").read_text(encoding="utf-8"))
    assert card["status"] == "ok" and not card["commit"].endswith("+changes") and card["device"] and card["seeds"]
    if "first_seed" not in card:
        pytest.skip("published before evidence was kept by repetition; its next run has it")
    now = {c.id: claims.judge(c, {}, "none").margins_hash for c in claims.load(folder.name).claims}
    assert {row["id"]: row["margins_hash"] for row in judged} == now, "the claims file has changed since"
    evidence = {}
    for row in rows(folder / "tables" / "evidence.csv"):
        evidence.setdefault((row["claim"], f"{row['part']}: {row['instance']}"), []).append(float(row["value"]))
    for claim in judged:
        for part in claim["parts"]:
            values = evidence[claim["id"], part["name"]]
            if part["statistic"] != "ratio":
                assert sum(values) / len(values) == pytest.approx(part["value"], abs=1e-9)
    keyed = {row["network"] for path in folder.glob("tables/*.csv") for row in rows(path) if row.get("network")}
    given = {"networks.precision": card["networks_section"]["precision"], "first_seed": card["first_seed"]}
    settings = load(card["profile"], {**given, **card["overrides"]})
    planned = {task.recipe.key for task in plan(settings, (folder.name,))}
    assert keyed and keyed <= planned, "the settings still plan these networks"
    assert set(card["networks"]) <= planned


def test_every_claim_that_is_not_supported_has_a_reading_of_its_verdict():
    verdicts = {(folder.parent.name, folder.name, claim["id"]): claim["verdict"] for folder in PUBLISHED
                for claim in json.loads((folder / "claims.json").read_text(encoding="utf-8"))}
    read = {(profile, name, key): reading for profile in {folder.parent.name for folder in PUBLISHED}
            for name, claims in readings(REFERENCE / profile).items() for key, reading in claims.items()}
    assert {place: reading["verdict"] for place, reading in read.items()} == {
        place: verdict for place, verdict in verdicts.items() if verdict in ("undecided", "contradicted")}
    for place, reading in read.items():
        assert reading.keys() == {"verdict", "cause", "why"} and reading["cause"] in CAUSES, place
        assert len(reading["why"].split()) > 5, place


@pytest.mark.slow
def test_a_smoke_run_gives_the_published_values_again(tmp_path, monkeypatch, capsys):
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
    monkeypatch.setenv("REPRO_STORE", str(tmp_path))
    settings = load("smoke")
    task = next(t for t in plan(settings, ("stitching",)) if t.group.startswith("pool") and t.measures)
    assert cli.main(["again", "--profile", "smoke", task.recipe.key]) == 0
    said = capsys.readouterr().out
    mine = next(row for row in rows(REFERENCE / "smoke" / "stitching" / "tables" / "cells.csv")
                if row["network"] == task.recipe.key and row["measure"] == "clean")
    here = [float(value) for value in re.findall(r"here: clean ([\d.]+)", said)]
    assert here and here == pytest.approx([float(mine["accuracy"])] * len(here), abs=0.02)  # processors round otherwise
    assert "published in results/reference/smoke/stitching" in said
    assert cli.main(["again", "--profile", "smoke", "0123456789abcdef"]) == 2
    assert "KEY = 0123456789abcdef is not possible" in capsys.readouterr().err
