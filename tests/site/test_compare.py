"""A run against the published one, both made up here."""

import json

import pytest

from lib import site as report
from lib.errors import SettingsError
from tests.site.made import CLAIMS, card, claim, part, write


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
