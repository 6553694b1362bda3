"""Results and evidence of any paper, on two conditions with outcomes that are known image by image."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest

from lib.claims.evidence import Contrast, Evidence, above_chance
from lib.results import Results
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
    """Knows the outcomes of every network; trainings of seed 1 diverge."""

    def outcomes(self, recipe, threat, attack):
        return outcomes(clean=CLEAN, robust=ROBUST)

    def obtain(self, recipe):
        return Trained(recipe, None, [{"loss": 2.0}, {"loss": 1.0}], {})

    def attempt(self, recipe):
        return "the loss is nan" if recipe.seed else self.obtain(recipe)


@pytest.fixture
def measured():
    cells = [cell(A, 0), cell(B, 0, may_diverge=True), cell(A, 1), cell(B, 1, may_diverge=True)]
    found = Results(None, None, lambda repetition: repetition, cells)
    for one in found.each(cells, "networks"):
        if found.train(Zoo(), one):
            found.take(Zoo(), one, lambda threat, attack: "search" if attack == ATTACK[1] else None)
    return found


def test_networks_are_found_by_condition_or_its_fields_without_those_that_diverged(measured):
    assert [one.repetition for one in measured.of(A)] == [0, 1] and [one.repetition for one in measured.of(B)] == [0]
    assert measured.of(kind="b", weight=0.5) == measured.of(B) and measured.of(kind="b", weight=1.0) == []
    assert [one.repetition for one in measured.of(B, diverged=True)] == [0, 1]
    assert measured.sentences_of_divergence(kind="b") == ["b 0.5, repetition 1: the loss is nan"]
    assert measured.sentences_of_divergence(kind="a") == []
    assert {one: row["loss"] for one, row in measured.last_epoch.items()} == dict.fromkeys(measured.outcomes, 1.0)


def test_outcomes_of_a_condition_are_stacked_and_clean_is_read_from_what_there_is(measured):
    assert measured.correct(A).tolist() == [CLEAN, CLEAN] and measured.correct(A, "search").tolist() == [ROBUST] * 2
    assert measured.accuracy(A, "search").tolist() == [0.25, 0.25]
    first = measured.of(A)[0]
    measured.outcomes[first] |= {"clean": outcomes(clean=[0, 0, 0, 1]), "proof": outcomes(verified=[0, 1, 0, 0])}
    assert measured.correct(A)[0].tolist() == [0, 0, 0, 1] and measured.stacked([first], "proof")[0].sum() == 1
    with pytest.raises(KeyError, match="Condition.*'c'"):
        measured.correct(Condition("c"))


def test_the_table_has_a_row_a_network_and_measure(measured):
    table = measured.table()
    assert list(table) == ["kind", "weight", "seed", "measure", "accuracy", "network", "warnings", "attack",
                           "attack_seed"]
    assert table.measure.tolist() == ["clean", "search"] * 3 and table.accuracy.tolist() == [0.75, 0.25] * 3
    assert table.seed.tolist() == [0, 0, 0, 0, 1, 1] and set(table.warnings) == {"a doubt"}


def test_what_could_not_be_measured_is_no_evidence():
    found = Evidence()
    found.add("C1", "gap", "one", [1, 0])
    found.add("C1", "gap", "two", None)
    found.add_parts("C2", "one", {"gap": None, "share": [0.5]})
    assert {claim: {part: [*by] for part, by in parts.items()} for claim, parts in found.items()} == {
        "C1": {"gap": ["one"]}, "C2": {"share": ["one"]}}
    assert found["C1"]["gap"]["one"].dtype == float


@pytest.mark.parametrize("broken, left, ok", [({}, ["b", "twice"], True), ({B: 0.1}, ["twice"], True),
                                              ({A: 0.1}, ["b", "twice"], False)])
def test_contrasts_with_a_broken_condition_are_left_out_while_there_are_others(measured, broken, left, ok):
    measured.cells = measured.cells[:2]  # both have one network
    contrasts = {"C1": {"gap": {"b": Contrast((A,), (B,)), "twice": Contrast((A,), (A,), (1.0, 0.5))}}}
    found = Evidence()
    found.add_contrasts(measured, contrasts, broken, lambda part: "search")
    assert [*found["C1"]["gap"]] == left and found["C1"]["gap"]["twice"].tolist() == [[0.5, 0, 0, 0]]
    (check,) = above_chance(measured, contrasts, broken, "above chance")["C1"]
    assert check["name"] == "above chance" and check["ok"] == ok
    assert ("has a clean accuracy of 10.0%, guessing 10.0%" in check["detail"]) == bool(broken)
