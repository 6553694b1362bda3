"""Similarity of representations: tables with known numbers."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from lib.papers.representation_similarity import reference, tables
from tests.papers.representation_similarity.world import INSIDE, SECTION, bright, share, sized


def test_tables_hold_the_known_numbers(made):
    means = tables.summaries(made).groupby(["kind", "summary"]).value.mean()
    for kind, name in (("N", "normal"), ("R", "robust"), ("M-", "matched normal, shorter"), ("U", "untrained"),
                       ("R wide", "R wide"), ("N mnist", "N mnist"), ("l2", "l2"), ("TRADES", "TRADES")):
        assert means[name, "mean off-diagonal"] == pytest.approx(bright(kind), abs=.01)
        assert means[name, "block index"] == pytest.approx(INSIDE[kind][1], abs=.01)
        assert means[name, "block index, share of what is left"] == pytest.approx(share(kind), abs=.03)
    assert means["matched normal", "mean off-diagonal"] == pytest.approx((bright("M-") + bright("M+")) / 2, abs=.01)
    counts = {("normal", 4), ("l2", 3), ("untrained", 12), ("matched normal", 4)}
    assert set(tables.summaries(made).groupby("kind").seed.nunique().items()) >= counts
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


def test_the_neighbours_of_robust_and_of_untrained_networks(made):
    got = tables.neighbours(tables.kinds(made, tables.pool_kinds(made)))
    assert set(got.of) == {"robust", "untrained"}
    assert set(got.kind) == {"untrained", "matched normal", "normal", "robust"}
    assert got.groupby(["of", "kind"]).seed.nunique().unique().tolist() == [4]
    mean = got.groupby(["of", "kind"]).similarity.mean()
    assert mean["robust", "normal"] == pytest.approx(.50, abs=.01) and mean["robust", "robust"] > .85


def test_threats_and_normal_and_robust_networks_in_words(made):
    kinds = tables.threat_kinds(made)
    assert kinds[0] == "N" and {"R", "l2", "noise"} <= {*kinds} and kinds.index("noise") < kinds.index("R")
    pair = {"kind": "normal", "other": "robust"}
    pairs = pd.DataFrame([{**pair, "similarity": .5}, {**pair, "similarity": .25}, {**pair, "other": "normal",
                                                                                     "similarity": 1}])
    assert tables.same_layer_in_words(pairs).endswith("0.38 here (0.25 to 0.50); the paper's networks: 0.58")


def test_a_run_is_described_before_it_starts(made):
    s = sized()
    run = SimpleNamespace(settings=s, networks=s.networks, section=s.sections[SECTION], keys=["a"] * 7)
    first, second = tables.describe(run).split("\n")
    assert f"in minibatches of {run.section.batch}; " in first and first.endswith(f"layers: {run.section.layers}")
    assert f"{run.section.seeds} networks of each kind" in second and second.endswith("7 trained networks in the plan")


def test_accuracies_by_kind(made):
    got = tables.accuracies(made)
    assert got.loc["normal", "clean (test)"] == .97 and got.loc["robust", "clean (training)"] == .93
    assert got.loc["robust", f"PGD-{made.section.search.steps}"] == .60 and got.loc["robust", "stronger attack"] == .58
    assert "overfits" not in got.index and got.index.tolist().count("untrained") == 1
    assert made.note("R") == "clean 90%, PGD-10 60%"
    rows = made.table()
    assert len(rows) == sum(len(found_) for found_ in made.outcomes.values()) and {"network", "attack"} <= {*rows}


def test_the_exploratory_tables_are_whole():
    across_, attacked = (reference.exploratory(t) for t in (reference.ACROSS_BUDGETS, reference.CLEAN_AGAINST_ATTACKED))
    assert across_.shape == attacked.shape == (6, 6) and (across_.values == across_.values.T).all()
    assert across_.loc["normal", "1.0"] == .41 and attacked.loc["normal", "0.5"] == .12
    assert (np.diag(across_) == 1).all() and (np.diag(attacked) == 1).all()
