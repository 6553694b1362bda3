"""Perceptually aligned gradients: tables with known numbers."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from lib.papers.perceptually_aligned_gradients import reference, tables
from lib.papers.perceptually_aligned_gradients.networks import (
    CENTRED,
    CLASSES,
    HEURISTICS,
    IMAGES,
    JUDGE,
    LOGIT,
    NORM,
    RANDOM,
    SCORE,
    TEACHER,
    TOY,
    TRADES_ALONE,
    TRADES_SCORE,
    VANILLA,
    Condition,
)
from lib.papers.perceptually_aligned_gradients.settings import SMOOTH
from lib.papers.perceptually_aligned_gradients.truths import INDEPENDENT
from lib.values.threats import Threat
from tests.papers.perceptually_aligned_gradients.world import (
    COMBINED,
    LENGTHY,
    MASKING,
    PAPER,
    STUDIES,
    SWEEP,
    S,
    found,
    named_by,
    only,
    sized,
)


def test_networks_stand_in_the_table_with_their_means():
    f = found(gone={("digits", SCORE, 3., 1)})  # then 0.3 is the best weight
    table = tables.networks(f)
    assert len(table) == sum(c.condition.kind not in (TEACHER, JUDGE) and c.condition.where != TOY for c in f.cells)
    assert list(table)[:7] == ["where", "kind", "weight", "seed", "clean", "robust l2", "robust linf"]
    by = table.set_index(["where", "kind", "weight", "seed"])
    row, cell = by.loc["digits", SCORE, .3, 2], only(f.cells, "digits", SCORE, .3, 2)
    assert row["robust linf"] == f.measured(cell, "linf").accuracy("robust") != row["clean"]
    assert row["clean"] == f.measured(cell).accuracy() == .94
    assert row["network"] == cell.recipe.key and row["diverged"] == row["warnings"] == ""
    assert [row["held-out clean"], row["held-out robust"]] == [.94, .45] and row["clamped"] == .01
    assert row[f"own, {INDEPENDENT}"] == pytest.approx(.53, abs=.002)
    assert row[f"others, {INDEPENDENT}"] == pytest.approx(.33, abs=.002)
    lost = by.loc["digits", SCORE, 3., 1]
    assert lost["diverged"] == "the loss is nan" and lost[["clean", "robust l2", "loss"]].isna().all()
    known_ = table[table.diverged == ""]
    assert len(known_) == len(table) - 1 and known_[["clean", "robust l2", "loss"]].notna().all(axis=None)
    assert (known_["robust linf"].isna() == (known_["where"] == "digits ViT")).all()
    assert not set(table) & {"index", "label"} and table.network.is_unique


def test_a_summary_has_a_row_for_each_kind_and_weight(made):
    shown = tables.summary(made, "digits")
    assert list(zip(shown.kind, shown.weight, strict=True)) == [
        (kind, weight) for kind, weights in ordered(made).items() for weight in weights]
    row = shown[(shown.kind == SCORE) & (shown.weight == .3)].iloc[0]
    cells_ = made.of(Condition("digits", SCORE, .3))
    levels = [made.measured(c, "l2").accuracy("robust") for c in cells_]
    assert [row["robust l2"], row["spread"]] == pytest.approx([np.mean(levels), np.std(levels, ddof=1)])
    assert list(shown).index("spread") == list(shown).index("robust l2") + 1 and "seed" not in shown
    assert "robust linf" not in tables.summary(made, "digits ViT")
    some = tables.summary(found(gone={("digits", SCORE, .3, seed) for seed in range(3)}), "digits")
    assert len(some) == len(shown) - 1 and some[some.kind == SCORE].weight.tolist() == [.03, 3]


def ordered(f):
    """{kind: its weights} of digits, as networks are planned."""
    every = {}
    for c in f.cells:
        where, kind, weight, seed = named_by(c)
        if (where, seed) == ("digits", 0) and kind not in (TEACHER, JUDGE):
            every.setdefault(kind, []).append(weight)
    return every


def test_strengths_and_everything_have_a_row_a_network_and_threat(made):
    table = tables.by_strength(made, "digits")
    assert list(table) == ["method", "group", "weight", "seed", "threat", "accuracy", "alignment", "best"]
    assert Counter(table.method) == {VANILLA: 6, SCORE: 18, CLASSES: 18} and set(table.threat) == {"l2 1", "linf 0.2"}
    row = table[(table.method == SCORE) & (table.weight == 3) & (table.threat == "l2 1")]
    assert row.accuracy.mean() == pytest.approx(.60, abs=.003) and row.alignment.mean() == pytest.approx(.50, abs=.002)
    assert table[table.best == "yes"].groupby("method").weight.unique().map(list).to_dict() == {
        VANILLA: [0], SCORE: [3], CLASSES: [3]}
    every = tables.everything(made, "digits")
    assert len(every) == 2 * sum(c.condition.where == "digits" for c in made.outcomes)
    of = dict(zip(every.method, every.group, strict=True))
    assert of == {VANILLA: "vanilla", **dict.fromkeys((*HEURISTICS, *CENTRED, SCORE), "realisation"),
                  **dict.fromkeys((RANDOM, CLASSES, IMAGES, NORM, SMOOTH, LOGIT), "control"),
                  **dict.fromkeys(("AT l2", "AT linf", LENGTHY, TRADES_ALONE), "adversarial training"),
                  **dict.fromkeys((COMBINED, TRADES_SCORE), "adversarial training with alignment")}


@pytest.mark.parametrize("norm, eps, name", [
    ("l2", "0.75", "l2 0.75"), ("l2", 1, "l2 1"), ("linf", ".2", "linf 0.2"), ("linf", "4/255", "linf 4/255"),
    ("linf", "3/255", "linf 3/255"), ("l2", "128/255", "l2 128/255"), ("linf", "0.15", "linf 0.15"),
    ("l2", "1/7", "l2 0.142857"),
])
def test_threats_are_named_by_decimals_or_grey_levels(norm, eps, name):
    assert tables.threat_name(Threat(norm, eps)) == name


def test_methods_are_those_that_verdicts_compare(made):
    table = tables.methods(made, "digits")
    assert list(table) == ["method", "group", "weight", "threat", "seed", "accuracy", "low", "high"]
    assert set(table.threat) == {"clean", "l2 1", "linf 0.2"}
    assert (table.groupby(["method", "threat"]).size() == 3).all()
    chosen = table.groupby("method").weight.unique().map(list)
    assert chosen[[CLASSES, NORM, COMBINED, TRADES_SCORE, SCORE]].tolist() == [[3], [4], [.1], [.1], [3]]
    rows = table[(table.method == SCORE) & (table.threat == "linf 0.2")].sort_values("seed")
    levels = [made.measured(c, "linf").accuracy("robust") for c in made.best("digits", SCORE)]
    assert rows.accuracy.tolist() == levels and (rows.low < .60).all() and (rows.high > .60).all()
    assert table[table.method == "AT linf"].notna().all(axis=None)
    gone = {("digits", SCORE, weight, 0) for weight in SWEEP}
    assert SCORE not in set(tables.methods(found(gone=gone), "digits").method)


def test_comparisons_at_equal_accuracy_stand_with_the_ends_of_their_lines(made):
    table = tables.equal(made).set_index(["where", "norm", "claim", "method", "opponent"])
    row = table.loc["digits", "l2", "C3b", SCORE, NORM]
    ends = row[["weight", "clean", "robust", "lower weight", "upper weight", "clean, lower", "clean, upper"]].tolist()
    assert ends == pytest.approx([3, .88, .60, 1, 4, .92, .80], abs=.003)
    assert row.low < row.difference < row.high and row.difference == pytest.approx(.60 - (.12 + .13 / 3), abs=.006)
    smooth = table.loc["digits", "l2", "C3b", SCORE, SMOOTH]
    assert smooth.interpolated == SCORE and smooth[["weight", "lower weight", "upper weight"]].tolist() == [1, .3, 3]
    assert smooth.difference == pytest.approx(.50 - .12, abs=.006)
    assert len(table) == 2 * (3 + 4 + 1 + 5) + 2 * (2 + 1)
    lost = tables.equal(found(world={("digits", NORM, 4., "held clean"): .98}))
    assert NORM not in set(lost.opponent)


def test_trade_offs_mark_best_and_collapsed_weights():
    f = found(world={("digits", CLASSES, 3., "clean"): .12})
    table = tables.trade_offs(f, "digits").set_index(["method", "weight"])
    assert table.loc[(CLASSES, 3), ["collapsed", "best"]].tolist() == ["yes", ""]
    assert table.loc[(CLASSES, .3), ["collapsed", "best"]].tolist() == ["", "yes"]
    assert table.loc[(SCORE, 3), ["clean", "accuracy"]].tolist() == pytest.approx([.88, .60], abs=.003)
    assert (table.collapsed == "yes").sum() == 1


def test_ceilings_and_the_correlation_over_kinds(made):
    table = tables.ceilings(made).set_index("where")
    assert table.loc["digits", "share"] == pytest.approx(.50 / .8, abs=.003) and len(table) == 3
    across = tables.across_methods(made).set_index(["where", "norm"])
    row = across.loc["digits", "l2"]
    kinds = [kind for kind in ordered(made) if kind != VANILLA]
    assert row.kinds == len(kinds) and -1 < row.low < row.correlation < row.high < 1
    few = across.loc["digits ViT", "l2"]
    assert few.kinds == 1 and np.isnan(few.correlation)


def test_what_is_added_stands_next_to_what_it_is_compared_with(made):
    added = tables.added(made)
    assert added.groupby("kind", sort=False).weight.unique().map(list).to_dict() == {
        "AT l2": [0], LENGTHY: [0], COMBINED: [.03, .1], TRADES_ALONE: [0], TRADES_SCORE: [.03, .1]}
    assert set(added["where"]) == {"digits"}, "no other study adds the term"
    assert added[added.chosen == "yes"][["kind", "weight"]].values.tolist() == [[COMBINED, .1], [TRADES_SCORE, .1]]
    assert added[added.kind == LENGTHY]["robust l2"].item() == pytest.approx(.32, abs=.003)
    assert added["held-out robust"].notna().all()
    assert tables.added(found(sized({"studies": STUDIES[1:]}))).empty


def test_curves_toy_masking_and_truths_are_tidy(made):
    curves = tables.curves(made, "digits")
    assert {"method", "group", "threat", "eps", "seed", "accuracy"} <= set(curves) and len(curves) == 2 * 3 * (3 + 3)
    toy = tables.toy(made)
    assert list(toy) == ["kind", "seed", "clean", "PGD", "exact", "far", "network"] and len(toy) == 16
    assert toy[toy.kind == "nearest neighbour"].iloc[0, 2:6].tolist() == [1, .98, .90, .05]
    masking = tables.masking(made)
    assert list(masking) == ["where", "weight", "seed", "norm", "attack", "robust", "network"]
    assert masking.groupby("attack").robust.mean().to_dict() == pytest.approx(MASKING, abs=.003)
    truths = tables.truths(made, "digits").set_index("kind")
    assert truths.loc[SCORE, f"others, {INDEPENDENT}"] == pytest.approx(.48, abs=.002)
    assert truths.weight.to_dict() == {kind: weights[-1] for kind, weights in ordered(made).items()}


def test_what_is_shown_of_a_summary_and_which_columns_are_shares(made):
    summary = tables.summary(made, "digits")
    shown = tables.main_measures(summary)
    assert [*shown][:5] == ["kind", "weight", "clean", "robust l2", "robust linf"] and [*shown][-1] == "clamped"
    assert "held-out clean" in summary and "held-out clean" not in shown
    assert tables.share_columns(shown) == ["clean", "robust l2", "robust linf", "spread", "rate", "clamped"]
    assert [name for name in tables.share_columns(tables.equal(made)) if "," not in name] == ["clean", "robust"]


def test_the_toy_in_words():
    how = SimpleNamespace(eps=20., far=30.)
    toy = pd.DataFrame({"kind": ["vanilla"] * 2, "seed": [0, 1], "clean": [1., .5], "PGD": [.5, .5], "exact": [.25, .5],
                        "far": [0., 0.]})
    assert tables.toy_notes(toy) == {"vanilla": "exactly robust: 25%"}
    shown = tables.toy_ranges(toy, how)
    assert [*shown] == ["clean", "PGD, l2 20", "exact, l2 20", "exact, l2 30"]
    assert shown.loc["vanilla"].tolist()[:2] == ["75.0%  (50% to 100%)", "50.0%  (50% to 50%)"]


def test_one_threat_one_attack_and_published_weights(made):
    table = tables.under_first(made.study("digits"), tables.by_strength(made, "digits"))
    assert set(table.threat) == {"l2 1"} and len(table) == 21
    wide = tables.mean_masking(tables.masking(made))
    assert wide.loc[("digits", "l2")].to_dict() == pytest.approx(MASKING, abs=.01)
    weights = tables.published_weights(made)
    assert weights["digits"] is None and weights["CIFAR-10"].equals(reference.weights())


def test_a_run_is_described_before_it_starts():
    s = sized()
    study = SimpleNamespace(settings=s, networks=s.networks, section=s.sections[S], keys=["a"] * 7)
    first, *lines = tables.describe(study).split("\n")
    assert first.startswith("3 repetitions (4 of the toy); 7 trained networks in the plan; attack: ")
    digits, = [line for line in lines if line.startswith("digits: ")]
    assert digits.endswith("2 of 10 classes for each image and update; judged at l2 1, linf 0.2")
    assert "   one image 0.1; class mean 0.2; nearest neighbour 0.3; score 0.03, 0.3, 3; " in "\n".join(lines)


def test_published_numbers_are_those_that_the_claims_cite():
    table = reference.published().set_index(["kind", "weight"])
    assert len(table) == 8 and table.source.notna().all()
    said = PAPER["C3a"].paper_value
    for norm in ("l2", "linf"):
        shares = [table.xs(kind)[norm].max() for kind in (*HEURISTICS, SCORE)]
        assert ", ".join(f"{100 * x:.2f}" for x in shares) in said.replace("(one", ", (one")
        best = max(shares[:3])
        assert f"{norm} {100 * (shares[3] - best):.1f}" in PAPER["C4a"].paper_value
        swept = table.xs(SCORE).sort_index()[norm]
        assert f"{norm} {', '.join(f'{100 * x:.2f}' for x in swept)}" in PAPER["C5a"].paper_value
    line = reference.weights()
    assert line.weight.tolist() == [.1, .5, 1, 2] and line.accuracy.is_monotonic_increasing
