"""Results and evidence of any paper, on two conditions with outcomes that are known image by image."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
import torch

from lib import claims
from lib.claims.evidence import Contrast, Evidence, above_chance
from lib.errors import NetworkFailed
from lib.results import Results, mean
from lib.statistics import without_missing
from lib.training.evaluation import Outcomes
from lib.training.zoo import Trained
from lib.values.architectures import ResNet
from lib.values.attacks import PGD
from lib.values.cell import Cell
from lib.values.data import Data
from lib.values.recipe import Recipe
from lib.values.threats import Threat

ATTACK = Threat("linf", "0.1"), PGD(2, "0.05")


@dataclass(frozen=True)
class Condition:
    kind: str
    weight: float = 0.0


A, B = Condition("a"), Condition("b", 0.5)
CLEAN, ROBUST = [1, 1, 0, 1], [1, 0, 0, 0]


def cell(condition, repetition, **more):
    recipe = Recipe(Data("digits"), ResNet(16, (1,)), seed=repetition, epochs=1 + (condition == B))
    return Cell(condition, repetition, recipe, (ATTACK,), **more)


def outcomes(**verdicts):
    table = {"index": range(4), "label": [0, 0, 1, 1], **{name: np.array(v, bool) for name, v in verdicts.items()}}
    return Outcomes(pd.DataFrame(table), {"attack": "made up", "seed": "evaluation"}, ["a doubt"])


class Zoo:
    """Knows the outcomes of every network; trainings of B and seed 1 diverge."""

    def outcomes(self, recipe, threat, attack):
        return outcomes(clean=CLEAN, robust=ROBUST)

    def obtain(self, recipe):
        if recipe.seed and recipe.epochs == 2:
            raise NetworkFailed("the loss is nan; lower the learning rate")
        return Trained(recipe, None, [{"loss": 2.0}, {"loss": 1.0}], {})


def study(measure=None):
    """Two repetitions of A and B. measure: what is done with a network after it was trained and measured."""
    cells = [cell(A, 0), cell(B, 0), cell(A, 1), cell(B, 1)]
    found = Results(None, None, lambda repetition: repetition, cells)

    def one(which):
        found.train(Zoo(), which)
        found.take(Zoo(), which, lambda threat, attack: "search" if attack == ATTACK[1] else None)
        if measure:
            measure(which)

    found.each(cells, "networks", one)
    return found


@pytest.fixture
def measured():
    return study()


def test_networks_are_found_by_condition_or_its_fields_without_those_that_failed(measured):
    assert [one.repetition for one in measured.of(A)] == [0, 1] and [one.repetition for one in measured.of(B)] == [0]
    assert measured.of(kind="b", weight=0.5) == measured.of(B) and measured.of(kind="b", weight=1.0) == []
    assert [one.repetition for one in measured.of(B, failed=True)] == [0, 1]
    assert measured.failures() == measured.failures(kind="b") == measured.failures((A, B)) == [
        "b 0.5, repetition 1: the loss is nan"]
    assert measured.failures(kind="a") == measured.failures((A,)) == []
    assert {one: row["loss"] for one, row in measured.last_epoch.items()} == dict.fromkeys(measured.outcomes, 1.0)


@pytest.mark.parametrize("error, why", [
    (NetworkFailed("it missed its target; raise gamma"), "it missed its target"),
    (MemoryError(), "does not fit into memory"), (torch.OutOfMemoryError("made up"), "does not fit into memory")])
def test_a_network_that_fails_while_it_is_measured_has_no_outcomes(error, why):
    def refuse(which):
        if which.condition == A and which.repetition == 0:
            raise error

    found = study(refuse)
    assert [(one.condition, one.repetition) for one in found.failed] == [(A, 0), (B, 1)]
    assert why in found.failures((A,))[0] and {*found.outcomes} == {*found.of()} and len(found.outcomes) == 2


def test_any_other_error_ends_the_measurement():
    def refuse(which):
        raise RuntimeError("the disk is full")

    with pytest.raises(RuntimeError, match="disk"):
        study(refuse)


def test_repetitions_keep_their_places_if_a_network_failed(measured):
    rows = measured.correct(B)
    assert rows[0].tolist() == CLEAN and np.isnan(rows[1]).all() and measured.correct(A).shape == rows.shape == (2, 4)
    assert without_missing(rows).tolist() == [CLEAN] and mean(rows) == 0.75
    measured.failed |= {one: "gone" for one in measured.of(A)}
    assert measured.correct(A).shape == (2, 1) and without_missing(measured.correct(A)).shape == (0, 1)
    assert np.isnan(measured.correct(A) - rows).all() and np.isnan(mean(measured.correct(A)))
    assert measured.by_repetition(B, lambda one: 3.0).tolist()[0] == 3.0
    assert np.isnan(measured.by_repetition(A, lambda one: 3.0)).tolist() == [True, True]


def test_outcomes_of_a_condition_are_stacked_and_clean_is_read_from_what_there_is(measured):
    assert measured.correct(A).tolist() == [CLEAN, CLEAN] and measured.correct(A, "search").tolist() == [ROBUST] * 2
    assert measured.accuracy(A, "search").tolist() == [0.25, 0.25]
    first = measured.of(A)[0]
    measured.outcomes[first] |= {"clean": outcomes(clean=[0, 0, 0, 1]), "proof": outcomes(verified=[0, 1, 0, 0])}
    assert measured.correct(A)[0].tolist() == [0, 0, 0, 1] and measured.stacked([first], "proof")[0].sum() == 1
    with pytest.raises(KeyError, match="Condition.*'c'"):
        measured.correct(Condition("c"))


def test_the_table_has_a_row_a_network_and_measure(measured):
    columns = ["kind", "weight", "seed", "measure", "accuracy", "network", "warnings", "attack", "attack_seed"]
    table = measured.table()
    assert list(table) == [*columns, "failed"]
    last, table = table.iloc[-1], table[:-1]
    assert table.measure.tolist() == ["clean", "search"] * 3 and table.accuracy.tolist() == [0.75, 0.25] * 3
    assert table.seed.tolist() == [0, 0, 0, 0, 1, 1] and set(table.warnings) == {"a doubt"} and not any(table.failed)
    lost = measured.of(B, failed=True)[1]
    assert (last.kind, last.seed, last.measure, last.warnings) == ("b", 1, "clean", "") and np.isnan(last.accuracy)
    assert last.failed == "the loss is nan" and last.network == lost.recipe.key
    measured.cells.remove(lost)
    del measured.failed[lost]
    assert list(measured.table()) == columns, "nothing changes if nothing failed"


def test_what_could_not_be_measured_is_no_evidence():
    found = Evidence()
    found.add("C1", "gap", "one", [1, 0])
    found.add("C1", "gap", "two", None)
    found.add_parts("C2", "one", {"gap": None, "share": [0.5]})
    assert {claim: {part: [*by] for part, by in parts.items()} for claim, parts in found.items()} == {
        "C1": {"gap": ["one"]}, "C2": {"share": ["one"]}}
    assert found["C1"]["gap"]["one"].dtype == float


def test_a_contrast_pairs_the_repetitions_that_all_conditions_have(measured):
    measured.cells = [one for one in measured.cells if (one.condition, one.repetition) != (B, 1)]
    assert Contrast((A,), (B,), (1.0, 0.5)).values(measured, "search").tolist() == [[0.5, 0, 0, 0]]


@pytest.mark.parametrize("collapsed, control, left, ok", [
    ({}, False, ["ahead", "behind"], True),
    ({B: 0.1}, False, ["ahead (B collapsed)"], True),  # it may lose to A, but not win
    ({A: 0.1}, False, ["behind (A collapsed)"], True),
    ({B: 0.1}, True, ["ahead (B collapsed)", "behind (B collapsed)"], False),  # nothing is left, so all are shown
])
def test_a_collapsed_condition_may_lose_but_cannot_win_or_be_a_control(measured, monkeypatch, collapsed, control, left,
                                                                       ok):
    monkeypatch.setattr(Results, "label", lambda self, condition: condition.kind.upper())
    measured.cells = measured.cells[:2]  # both have one network
    contrasts = {"C1": {"gap": {"ahead": Contrast((A,), (B,), (1.0, 0.5)), "behind": Contrast((A,), (B,), (0.5, 1.0))}}}
    given = contrasts, collapsed, lambda part: "search", {("C1", "gap")} if control else ()
    found = Evidence()
    found.add_contrasts(measured, *given)
    (check,) = above_chance(measured, *given)["C1"]
    assert [*found["C1"]["gap"]] == left and check["ok"] == ok
    assert ("has a clean accuracy of 10.0%, guessing 10.0%" in check["detail"]) == bool(collapsed)


def claim(combine="all"):
    part = claims.Part("gap", "the gap", "seeds", "above", 0.0, combine=combine)
    return claims.Claim("C1", "They differ.", "paper", "none", "none", "none", ("smoke",), (part,))


def gaps(**rows):
    found = Evidence()
    for name, values in rows.items():
        found.add("C1", "gap", name, values, [f"{name}: it failed"] if np.isnan(values).any() else [])
    return found


def test_a_claim_is_judged_without_the_repetition_of_a_failed_network():
    found = gaps(one=[1.0, np.nan, 1.2, 1.1], two=[1.0, 1.3, 1.2, 1.1]).judge(claim(), "smoke")
    assert found.verdict == "supported" and [row.seeds for row in found.rows] == [3, 4]
    assert found.reason == "Left out, as it failed: one: it failed."
    assert gaps(one=[1.0, 1.3, 1.2, 1.1]).judge(claim(), "smoke").reason == ""
    few = gaps(one=[1.0, np.nan, 1.2]).judge(claim(), "smoke")
    assert few.verdict == "undecided" and "from 2 seeds" in few.reason and few.reason.endswith("one: it failed.")


@pytest.mark.parametrize("combine, verdict", [("all", "not tested"), ("any", "supported")])
def test_a_part_that_needs_an_instance_without_repetitions_is_not_tested(combine, verdict):
    found = gaps(one=[np.nan, np.nan, np.nan], two=[1.0, 1.2, 1.1])
    got = found.judge(claim(combine), "smoke")
    assert got.verdict == verdict and "one: it failed" in got.reason
    assert ("No measurement of the gap." in got.reason) == (combine == "all")
    alone = gaps(one=[np.nan, np.nan, np.nan]).judge(claim(combine), "smoke")
    assert alone.verdict == "not tested" and "one: it failed" in alone.reason
    assert "failed" not in found.judge(claim(combine), "laptop").reason, "not tested at this profile anyway"


def test_a_contrast_notes_which_of_its_networks_failed(measured):
    found = Evidence()
    found.add_contrast(measured, "C1", "gap", "A minus B", Contrast((A,), (B,)), "search")
    found.add_contrast(measured, "C2", "gap", "A", Contrast((A,), ()), "search")
    values = found["C1"]["gap"]["A minus B"]
    assert values[0].tolist() == [0, 0, 0, 0] and np.isnan(values[1]).all()
    assert found["C2"]["gap"]["A"].tolist() == [ROBUST] * 2
    assert found.lost == {"C1": ["b 0.5, repetition 1: the loss is nan"]}
