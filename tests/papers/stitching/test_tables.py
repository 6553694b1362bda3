"""Stitching: tables with known numbers."""

from dataclasses import replace

import pytest

from lib.papers import settings
from lib.papers.stitching import results, tables
from lib.papers.stitching.networks import Condition
from lib.stitching import measures
from lib.values.cell import Cell
from tests.papers.stitching.world import (
    ATTACK,
    CUT,
    JOINT,
    OTHER,
    SECTION,
    SELF,
    THREAT,
    N,
    R,
    S,
    as_the_paper_says,
    made_up,
)


def cell(role, pair, recipe, joint="layer1.0", alpha=0.0):
    return Cell(Condition(role, pair, joint if "->" in pair else "", alpha), 0, recipe, ((THREAT, ATTACK),))


@pytest.fixture(scope="module")
def measured(zoo):
    """A pair, a network stitched to itself, and a front with an end of another task."""
    stitched_to_other = replace(JOINT, parents=(N, OTHER))
    some = [cell("endpoint", "N", N), cell("endpoint", "R", R), cell("pair", "N->R", JOINT),
            cell("pair", "N->N", SELF), cell("other task", "N->other", stitched_to_other),
            cell("endpoint", "other", OTHER), cell("rank 2", "N->R", CUT)]
    return results.measure(zoo, some, S.networks, replace(SECTION, search=ATTACK), S.seed)


def test_what_stands_beside_accuracy(zoo, measured):
    found = tables.accuracy_and_similarity(zoo, measured, images=40).set_index("pair")
    assert list(found.index) == ["N->R", "N->N", "N->other", "N->R"], "endpoints are not stitched"
    n, r, pair = ({which: float(measured.accuracy(c.condition, which)[0]) for which in ("clean", "search")}
                  for c in measured.cells[:3])
    row, cut = (found[found["role"] == role].loc["N->R"] for role in ("pair", "rank 2"))
    assert cut["clean of front"] == cut["clean"] / n["clean"] and 0 < cut["cka"] != row["cka"]
    assert row["clean"] == pair["clean"] and row["robust"] == pair["search"]
    assert row["clean of front"] == pytest.approx(pair["clean"] / n["clean"])
    assert row["clean of end"] == pytest.approx(pair["clean"] / r["clean"])
    assert row["clean of weaker"] == max(row["clean of front"], row["clean of end"])
    assert row["robust of end"] == pytest.approx(pair["search"] / r["search"])
    own, front, end = (measures.predictions(zoo, recipe)["predicted"] for recipe in (JOINT, N, R))
    assert row["agrees with front"] == (own == front).mean() and row["agrees with end"] == (own == end).mean()
    assert (front != end).any()
    assert row["cka"] == measures.joint_likeness(zoo, JOINT, 40)["cka"]
    self = found.loc["N->N"]
    assert self["clean of end"] == self["agrees with end"] == self["agrees with front"] == 1
    other = found.loc["N->other"]
    assert other[["clean of end", "clean of weaker", "robust of end", "agrees with end"]].isna().all()
    assert other[["clean of front", "agrees with front", "cka", "unexplained"]].notna().all()
    assert len(tables.accuracy_and_similarity(zoo, measured, measured.cells[2:3], images=40)) == 1


def test_attacks_on_the_endpoints_carry_over(zoo, measured):
    found = tables.transfers(zoo, measured.cells, THREAT, ATTACK)
    assert [tuple(row) for row in found[["pair", "source"]].to_numpy()] == [
        ("N->R", "front"), ("N->R", "end"), ("N->N", "front"), ("N->N", "end"), ("N->other", "front"),
        ("N->R", "front"), ("N->R", "end")]
    self = found[found["pair"] == "N->N"]
    assert (self["robust"] == self["robust of source"]).all(), "the same function falls for the same images"
    pair = found[found["network"] == JOINT.key].set_index("source")
    for name, source in (("front", N), ("end", R)):
        assert pair.loc[name, "source network"] == source.key and pair.loc[name, "attack"].startswith("PGD-2")
        assert pair.loc[name, "robust"] == zoo.transfer(source, JOINT, THREAT, ATTACK).accuracy("robust")
    assert (found["seed"] == 0).all(), "a column of the protocol must not hide one of the cell's"
    white = measured.outcomes[measured.cells[2]]["search"].accuracy("robust")
    assert (pair["robust"] > white).all(), "what was made for another network fools less than what was made for it"


def test_the_matrix_has_clean_joints_clean_and_adversarial_ones_robust():
    m = made_up(as_the_paper_says)
    last = SECTION.joints[-1]
    found = tables.matrix(m, last)
    assert sorted(found.groupby(["front", "end", "measure"]).size().unique()) == [4], "a row a repetition"
    assert set(found["front"]) == {"N", "R", "U"} and set(found["end"]) == {"", "N", "R", "U"}
    mean = found.groupby(["front", "end", "measure"]).accuracy.mean()
    assert mean["R", "N", "robust"] == pytest.approx(m.correct(Condition("pair", "R->N", last, 1.0), "verify").mean())
    assert mean["R", "N", "clean"] == pytest.approx(m.correct(Condition("pair", "R->N", last, 0.0), "clean").mean())
    assert mean["R", "R", "robust"] == pytest.approx(m.correct(Condition("pair", "R->R2", last, 1.0), "verify").mean())
    assert mean["R", "", "robust"] == m.correct(Condition("endpoint", "R"), "verify").mean()
    assert set(found[(found.front == "N") & (found.end == "") & (found.measure == "robust")].under) == {"search"}
    assert ("R", "U", "robust") in mean
    others = tables.matrix(made_up(as_the_paper_says, settings.load("smoke")), last)
    assert set(others["end"]) == {"", "N", "R", "U", "digits_permuted"} and set(others["front"]) == {"N", "R", "U"}
    assert ("R", "U") not in tables.matrix(m, last, ["pair"]).set_index(
        ["front", "end"]).index
