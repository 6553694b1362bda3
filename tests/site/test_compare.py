"""A run against the published one, both made up here."""

import json
import re

import numpy as np
import pytest

from lib import cli, statistics
from lib import site as report
from lib.claims import write_evidence
from lib.errors import SettingsError
from lib.site.compare import paired
from tests.site.made import CLAIMS, Page, card, claim, part, write


def beside(tmp_path, **changes):
    """A published run and one that differs from it by the changes of a claim's fields: {claim id: changes}."""
    for name, differ in (("published", {}), ("run", changes)):
        rows = [{**row, **differ.get(row["id"], {})} for row in CLAIMS]
        write(tmp_path / name, "stitching", card(), rows)
    return report.compare(tmp_path / "run", tmp_path / "published")


def test_a_run_that_gives_the_same_agrees(tmp_path):
    table = beside(tmp_path)
    assert table["agrees"].all() and table["equal"].all() and len(table) == 6 + 6
    assert set(table["claim"]) == {"C1a", "C2", "C3", "C4", "C5", "C6"}


@pytest.mark.parametrize("changes, agrees, why", [
    ({"parts": [part(-0.04, -0.06, -0.02)]}, True, ""),
    ({"parts": [part(0.04, 0.02, 0.06)]}, False, "their intervals do not meet"),
    ({"parts": [part(-0.3, None, None)]}, True, ""),
    ({"parts": []}, True, ""),
    ({"parts": [part(-0.05, -0.08, -0.03, name="another")]}, False, "only one of the two has it"),
    ({"verdict": "undecided"}, True, ""),
    ({"verdict": "supported"}, False, "contradicted became supported"),
    ({"margins_hash": "xyz"}, False, "text or margins have changed"),
])
def test_what_a_run_may_give_otherwise(tmp_path, changes, agrees, why):
    table = beside(tmp_path, C2=changes)
    mine = table[table["claim"] == "C2"]
    assert mine["agrees"].all() == agrees and why in " ".join(mine["why"])
    assert table[table["claim"] != "C2"]["agrees"].all()


@pytest.mark.parametrize("one, other, agrees", [
    ("supported", "absent", False), ("supported", "contradicted", False), ("weak", "contradicted", False),
    ("supported", "weak", True), ("supported", "undecided", True), ("weak", "absent", True),
    ("absent", "contradicted", True), ("contradicted", "not tested", True)])
def test_verdicts_that_agree_and_verdicts_that_do_not(tmp_path, one, other, agrees):
    for n, (before, after) in enumerate(((one, other), (other, one))):
        for name, word in (("published", before), ("run", after)):
            write(tmp_path / str(n) / name, "stitching", card(), [claim("C1", word)])
        row, = report.compare(tmp_path / str(n) / "run", tmp_path / str(n) / "published").to_dict("records")
        assert row["agrees"] == agrees and (f"{before} became {after}" == row["why"]) != agrees


def test_a_claim_that_only_one_has_and_runs_without_a_common_notebook(tmp_path):
    beside(tmp_path)
    path = tmp_path / "run" / "stitching" / "claims.json"
    path.write_text(json.dumps([one for one in CLAIMS if one["id"] != "C4"]))
    table = report.compare(tmp_path / "run", tmp_path / "published")
    assert table[~table["agrees"]]["claim"].tolist() == ["C4"]
    path.unlink()
    with pytest.raises(SettingsError, match="run = run .* share a finished notebook"):
        report.compare(tmp_path / "run", tmp_path / "published")


def test_equal_outcomes_are_said_to_be_equal(two):
    (two / "b" / "stitching" / "evidence.npz").write_bytes((two / "a" / "stitching" / "evidence.npz").read_bytes())
    text, _ = compared(two)
    assert text.count("<td>equal</td>") == 1 and "repetitions and test images</td>" not in text


SEEDS = {"networks_section": {"type": "Networks", "data": {"name": "digits", "test": 400}, "epochs": 8}}


@pytest.fixture
def two(tmp_path):
    """Two runs whose outcomes differ on 40 images, and whose epochs and commits differ."""
    old = np.tile(np.arange(200) % 4 == 0, (4, 1)).astype(float)
    new = old.copy()
    new[:, :40] = 1
    for name, data, more in (("a", old, {}), ("b", new, {"commit": "fedcba", "networks_section": {
            **SEEDS["networks_section"], "epochs": 9}})):
        place = write(tmp_path / name, "stitching", card(**{**SEEDS, **more}), [
            claim("C1a", "supported", [part(float(data.mean()), 0.1, 0.4, statistic="accuracy", name="robust: R")]),
            claim("C2", "weak" if name == "a" else "absent", margins_hash=name)])
        write_evidence({"C1a": {"robust": {"R": data}}}, place)
    return tmp_path


def compared(two):
    path = report.compare_page(two / "b", two / "a", two / "page.html")
    text = Page(path.read_text()).text
    return text, re.sub(r"\s+", " ", re.sub("<.*?>", " ", text))


def test_a_page_compares_two_runs_by_paired_differences_and_says_what_differs(two):
    text, said = compared(two)
    assert "25.0 [10.0, 40.0] %" in said and "40.0 [10.0, 40.0] %" in said
    difference = statistics.paired_difference(
        np.pad(np.ones((4, 40)) - (np.arange(40) % 4 == 0), ((0, 0), (0, 160))))
    assert f"+15.0 [{100 * difference.low:+.1f}, {100 * difference.high:+.1f}] points" in said
    assert "repetitions and test images" in said and "not paired, because" not in said
    assert "commit 0123456789ab → fedcba" in said and "networks.epochs 8 9" in said
    assert "Its text or margins differ, so the numbers are not compared." in said and "1 of 2 verdicts differ" in said
    assert "~</span> weak" in text and "∅</span> absent" in text


@pytest.mark.parametrize(("change", "why"), [
    ({"first_seed": 7}, "other seeds"), ({"seeds": 5}, "other seeds"),
    ({"networks_section": {"data": {"name": "digits", "test": 300}}}, "networks.data.test")])
def test_runs_with_other_seeds_or_images_are_not_paired(two, change, why):
    path = two / "b" / "stitching" / "card.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    _, said = compared(two)
    assert "They are not paired, because" in said and why in said and "points" not in said


def test_other_statistics_are_paired_by_repetition_without_those_that_failed():
    change, over = paired("seeds", np.array([1.0, 2, 3, np.nan]), np.array([1.5, 2.4, 3.6, 9]))
    assert change.value == pytest.approx(0.5) and change.low < 0.5 < change.high and over == "repetitions"
    assert paired("seeds", np.ones(3), np.ones(4)) is None
    assert paired("accuracy", np.ones((3, 20)), np.ones((3, 30))) is None


def test_the_command_compares_with_another_run_and_writes_the_page(two, monkeypatch, capsys):
    monkeypatch.setenv("REPRO_RESULTS", str(two))
    assert cli.main(["compare", "b", "a", "--page"]) == 1  # C2 was worded anew
    said = capsys.readouterr().out
    assert "stitching C2 : a None, here None" in said and "equal to those of a" in said
    assert (two / "compared" / "b and a.html").is_file() and str(two / "compared") in said
    assert cli.main(["compare", "b", "c"]) == 2
    assert "run = c is not possible" in capsys.readouterr().err
