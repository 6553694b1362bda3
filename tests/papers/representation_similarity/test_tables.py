"""Similarity of representations: tables with known numbers."""

import numpy as np
import pytest

from lib.papers.representation_similarity import reference, tables
from tests.papers.representation_similarity.world import INSIDE, bright, share


def test_tables_hold_the_known_numbers(made):
    means = tables.summaries(made).groupby(["kind", "summary"]).value.mean()
    for kind, name in (("N", "normal"), ("R", "robust"), ("M", "matched normal"), ("U", "untrained"),
                       ("R wide", "R wide"), ("N mnist", "N mnist"), ("l2", "l2"), ("TRADES", "TRADES")):
        assert means[name, "mean off-diagonal"] == pytest.approx(bright(kind), abs=.01)
        assert means[name, "block index"] == pytest.approx(INSIDE[kind][1], abs=.01)
        assert means[name, "block index, share of what is left"] == pytest.approx(share(kind), abs=.03)
    assert set(tables.summaries(made).groupby("kind").seed.nunique().items()) >= {("normal", 4), ("l2", 3)}
    pairs = tables.kinds(made, ("M", "N", "R"))
    near = pairs.groupby(["kind", "other"]).similarity.mean()
    assert near["normal", "robust"] == pytest.approx(.50, abs=.01)
    assert near["matched normal", "normal"] == pytest.approx(.75, abs=.01)
    assert len(pairs[(pairs.kind == "normal") & (pairs.other == "normal")]) == 6
    assert (pairs.seed != pairs.other_seed).all()
    moved = tables.perturbed(made).groupby(["kind", "perturbation", "position"]).similarity.mean()
    assert moved["normal", "noise of equal size", 0] == pytest.approx(.98, abs=.02)
    assert moved["robust", "own adversarial", 15] == pytest.approx(.90, abs=.02)
    dose = tables.strengths(made).groupby("eps")[["to_normal", "self"]].mean()
    assert dose.index.tolist() == [0, .05, .1, .15]
    assert dose["to_normal"].tolist() == pytest.approx([.85, .70, .60, .50], abs=.01)
    assert dose["self"][.05] == pytest.approx(bright("eps 0.05"), abs=.01)
    runs = tables.runs(made)
    best = runs[(runs.kind == "overfits") & (runs.seed == 0) & (runs.epoch == 14) & (runs.images == "test")]
    assert best.set_index("quantity").value.to_dict() == {"early": pytest.approx(.98, abs=.02),
                                                          "deep": pytest.approx(.80, abs=.02), "accuracy": .5}
    far = tables.distances(made)
    assert far.distance.max() == 1 and far[far.kind == "normal"].groupby("distance").size().tolist() == [4] * 15


def test_accuracies_by_kind(made):
    got = tables.accuracies(made)
    assert got.loc["normal", "clean (test)"] == .97 and got.loc["robust", "clean (training)"] == .93
    assert got.loc["robust", f"PGD-{made.section.search.steps}"] == .60 and got.loc["robust", "stronger attack"] == .58
    assert "overfits" not in got.index
    assert made.note("R") == "clean 90%, PGD-10 60%"
    rows = made.table()
    assert len(rows) == sum(len(found_) for found_ in made.outcomes.values()) and {"network", "attack"} <= {*rows}


def test_the_exploratory_tables_are_whole():
    across_, attacked = (reference.exploratory(t) for t in (reference.ACROSS_BUDGETS, reference.CLEAN_AGAINST_ATTACKED))
    assert across_.shape == attacked.shape == (6, 6) and (across_.values == across_.values.T).all()
    assert across_.loc["normal", "1.0"] == .41 and attacked.loc["normal", "0.5"] == .12
    assert (np.diag(across_) == 1).all() and (np.diag(attacked) == 1).all()
