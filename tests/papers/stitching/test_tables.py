"""Stitching: tables with known numbers."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from lib.papers import settings
from lib.papers.stitching import results, tables
from lib.papers.stitching.networks import Condition
from lib.stitching import measures
from lib.values.cell import Cell
from tests.kit.profiles import given
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
    cells,
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


def test_tables_for_reading_are_means_over_repetitions():
    m = made_up(as_the_paper_says)
    here, joints = tables.measured_at(m.table()), SECTION.joints

    def mean(role, pair, joint="", alpha=0.0, which="clean"):
        return m.correct(Condition(role, pair, joint, alpha), which).mean()

    ends = tables.endpoint_accuracies(here)
    each = m.accuracy(Condition("endpoint", "R"), "verify")
    assert ends.loc["R"].xs("verify", level="measure").tolist() == pytest.approx([each.mean(), each.min(), each.max()])
    assert np.isnan(ends.loc["N", ("mean", "verify")]), "only robust networks are measured under the stronger attack"
    clean = tables.clean_controls(here, joints).set_index(["role", "pair"])
    assert [*clean] == [*joints] and clean.notna().any(axis=1).all()
    probes = [mean("linear probe", "N", joint) for joint in joints]
    assert clean.loc[("linear probe", "N")].tolist() == pytest.approx(probes)
    kinds = tables.kinds_of_joints(here, SECTION.middle[0])
    assert set(kinds.pair) == {"N->R", "R->N"} and not {"linear probe", "untrained front"} & {*kinds.role}
    row, = kinds[(kinds.pair == "R->N") & (kinds.role == "pair") & (kinds.alpha == 1)].to_dict("records")
    assert row["verify"] == pytest.approx(mean("pair", "R->N", SECTION.middle[0], 1.0, "verify"))


def test_clean_accuracy_as_a_share_of_the_endpoints():
    m = made_up(lambda c, which: {("endpoint", "N"): 0.9, ("endpoint", "R"): 0.6}.get((c.role, c.pair), 0.54))
    found = tables.shares_of_endpoints(m.table(), SECTION.joints)
    assert [*zip(found.pair, found.joint, strict=True)] == [(p, j) for p in ("N->R", "R->N") for j in SECTION.joints]
    n, r, mixed = (m.correct(Condition(*which)).mean() for which in (
        ("endpoint", "N"), ("endpoint", "R"), ("pair", "R->N", SECTION.first)))
    row = found[(found.pair == "R->N") & (found.joint == SECTION.first)].iloc[0]
    assert row["clean"] == mixed and row["of weaker"] == mixed / min(n, r) and row["of end"] == mixed / n


def test_fitted_joints_are_compared_in_words():
    rows = [{"pair": "N->R", "joint": "layer1.0", "alpha": 0.0, "measure": "search", "role": role, "accuracy": accuracy}
            for role, every in (("direct matching", (0.05, 0.08)), ("pair", (0.01, 0.02))) for accuracy in every]
    said = tables.fitted_in_words(pd.DataFrame(rows), "layer1.0").replace("\u00a0", " ")
    assert "keeps a robust accuracy of 6.5 % (5.0 to 8.0 % over repetitions) with a joint that is only fitted" in said
    assert "and of 1.5 % (1.0 to 2.0 % over repetitions) with one trained on clean images" in said
    lost = tables.fitted_in_words(pd.DataFrame(rows[2:]), "layer1.0")
    assert "of an accuracy that could not be measured with a joint that is only fitted" in lost


def test_mixed_pairs_are_compared_and_attacked():
    s = settings.load("smoke", {"stitching.seeds": 2, "stitching.others": [], "stitching.direct": True})
    m = results.Results(*given(s, "stitching"), cells(s))
    mixed = tables.mixed_cells(m)
    assert mixed == [c for c in m.cells if c in {*mixed}], "in the order of the plan"
    assert {c.condition.pair for c in mixed} == {"N->R", "R->N"}
    assert {c.condition.role for c in mixed} == {"pair", "direct matching", "least-squares start"}
    assert {(c.condition.joint, c.condition.alpha) for c in tables.transferred_cells(m)} == {
        (SECTION.middle[0], 1), (SECTION.last, 1)}
    assert len(tables.transferred_cells(m)) == 2 * 2 * 2


def test_means_are_in_the_order_of_depth(zoo, measured):
    found = tables.accuracy_and_similarity(zoo, measured, images=40)
    deep, shallow = found[:1].assign(joint="layer1.0"), found[:1].assign(joint="stem", clean=0.)
    twice = pd.concat([deep, shallow.assign(clean=1.), shallow])
    got = tables.mean_similarity(twice, ["stem", "layer1.0"])
    assert got.joint.tolist() == ["stem", "layer1.0"] and got.clean.tolist() == [.5, found.clean[0]]
    assert got.cka.tolist() == [found.cka[0]] * 2 and "network" not in got
    moved = tables.transfers(zoo, measured.cells[2:3], THREAT, ATTACK)
    again = tables.mean_transfers(pd.concat([moved, moved.assign(robust=0.)]))
    assert again.robust.tolist() == pytest.approx(moved.robust / 2) and again.source.tolist() == ["front", "end"]


def test_joints_are_looked_at_where_there_are_any(zoo, measured):
    pixels = zoo.images(N.data, "test").pixels(slice(0, 3))
    middle = SimpleNamespace(of=measured.of, section=SimpleNamespace(middle=("layer1.0",)))
    (role, at), = results.middle_joints(zoo, middle, pixels).items()
    assert role == "pair" and at.joined.shape == at.end.shape and len(at.end) == 3
    middle.section.middle = ("layer2.0",)
    assert results.middle_joints(zoo, middle, pixels) == {}


def test_a_run_is_described_before_it_starts():
    study = SimpleNamespace(settings=S, networks=S.networks, section=SECTION, cells=cells(), keys=["a"] * 7,
                            zoo=SimpleNamespace(images=lambda data, split: range(55)))
    first, second = tables.describe(study).split("\n")
    assert "training images, 200 held out, 55 test images" in first and first.endswith(", ".join(SECTION.joints))
    assert "; 4 repetitions of what C2 and C3 compare, 4 of the rest; " in second
    assert second.endswith(f"{len(cells())} cells, 7 trained networks in the plan")


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
