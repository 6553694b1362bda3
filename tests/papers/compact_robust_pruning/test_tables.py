"""Compact and robust networks: tables with known numbers."""

from types import SimpleNamespace

import numpy as np
import pytest

from lib import statistics
from lib.papers.compact_robust_pruning import reference, tables
from lib.papers.compact_robust_pruning.evidence import evidence
from lib.papers.compact_robust_pruning.networks import DENSE, Condition, Repetition, conditions, setup_named
from lib.papers.compact_robust_pruning.settings import BENIGN, ROBUST
from tests.papers.compact_robust_pruning.world import (
    BOUNDED,
    GRID,
    PAPER,
    SEEDS,
    SMOOTHED,
    WARM,
    S,
    found,
    lwm,
    ruled,
    sized,
    verdicts,
)


def test_accuracies_and_their_means_are_the_known_numbers(made):
    table = made.table()
    assert len(table[table.measure == "clean"]) == len(made.cells)
    row = table[(table.net == "bounded") & (table.measure == "verified") & (table.rule == "LWM")
                & (table.pre == ROBUST) & (table.fine == ROBUST)]
    assert row.accuracy.tolist() == pytest.approx([.44] * SEEDS, abs=.0051) and set(row.attack) == {"made up"}
    assert row.kept.tolist() == [930 / 9300] * SEEDS
    shown = tables.summary(made).set_index(["net", "pre", "rule", "keep", "fine", "longer"])
    assert len(shown) == len(conditions(made.section)) and [*shown] == ["clean", "robust", "verified"]
    arm = shown.loc["crowned", ROBUST, "LWM", .1, ROBUST, False]
    assert arm.tolist() == pytest.approx([.90, .57, .44], abs=.0051)
    base = shown.loc["pooled", BENIGN, DENSE, 1., "–", False]
    assert base.clean == pytest.approx(.97, abs=.0051) and np.isnan(base.verified)


def test_retained_shares_and_drops_by_hand(made):
    got = tables.retention(made).set_index(["net", "measure", "over"])
    row = got.loc["pooled", "robust", "unpruned"]
    pruned, base = (made.accuracy(arm, "robust") for arm in (lwm("pooled"), Condition("pooled", ROBUST)))
    assert row.share == pytest.approx(np.exp(np.log(pruned / base).mean()))
    found = statistics.ratio([made.correct(arm, "robust") for arm in (lwm("pooled"), Condition("pooled", ROBUST))])
    assert (row.low, row.high) == (found.low, found.high) and row.low < row.share < row.high
    assert [row.pruned, row.whole, row["drop"]] == pytest.approx([pruned.mean(), base.mean(), (base - pruned).mean()])
    assert row.drop_low < row["drop"] < row.drop_high
    both = got.loc["verifiable, mean", "verified", DENSE]
    assert both.share == pytest.approx(.44 / .50, abs=.015) and both["drop"] == pytest.approx(.50 - .44, abs=.01)
    assert both.high - both.low < got.loc["bounded", "verified", DENSE].high - got.loc["bounded", "verified", DENSE].low
    assert got.paper.dropna().to_dict() == {
        (name, measure, "unpruned"): share for name in ("pooled", "traded", "adversarial, mean")
        for measure, share in reference.ABSTRACT.items() if measure != "verified"}
    assert ("adversarial, mean", "clean", "unpruned") in got.index
    assert ("pooled", "verified", "unpruned") not in got.index
    each = tables.shares(made)
    mine = each[(each.net == "pooled") & (each.measure == "robust") & (each.over == "unpruned")]
    assert mine.share.tolist() == pytest.approx((pruned / base).tolist()) and mine.seed.tolist() == [0, 1, 2, 3]
    assert mine.low.tolist() == [row.low] * 4


def test_the_difference_of_shares_has_the_noise_of_the_images(made):
    got = tables.verified_minus_empirical(made).set_index(["net", "over"])
    row = got.loc["bounded", "unpruned"]
    judged = evidence(made)["C6a"]["verified_minus_empirical"]["bounded"]
    shares = (np.divide(*made.retained([setup_named(made.section, "bounded")], which, "unpruned"))
              for which in ("verified", "robust"))
    assert judged.mean(1) == pytest.approx(np.subtract(*shares)) and row.difference == pytest.approx(judged.mean())
    of_seeds = statistics.seeds(judged)
    assert row.low < of_seeds.low < of_seeds.high < row.high


def test_a_share_of_nothing_is_no_number():
    f = found(accuracy={Condition("bounded", ROBUST): (.93, .60, 0), lwm("bounded"): (.90, .57, 0)})
    each = tables.shares(f)
    mine = each[(each.net == "bounded") & (each.measure == "verified") & (each.over == "unpruned")]
    assert mine[["share", "low", "high"]].isna().all(axis=None)
    assert "bounded" not in evidence(f)["C6a"]["verified_minus_empirical"]
    assert verdicts(f)["C6a"] == "not tested"


def test_the_grid_holds_the_unpruned_networks_and_all_combinations(made):
    got = tables.grid(made)
    mean = got.fillna({"fine": "–"}).groupby(["net", "pre", "fine", "longer", "measure"]).accuracy.mean()
    for (pre, fine, longer), (clean, robust, verified) in GRID.items():
        if longer:
            assert mean["pooled", pre, fine, longer, "robust"] == pytest.approx(robust, abs=.0051)
            continue
        measured = mean["bounded", pre, fine, longer]
        assert [measured[name] for name in ("clean", "robust", "verified")] == pytest.approx(
            [clean, robust, verified], abs=.0051)
    assert mean["traded", ROBUST, "–", False, "robust"] == pytest.approx(.60, abs=.0051)
    assert len(got) == SEEDS * ((6 + 1 + 6) * 2 + 2 * 6 * 3), "two measures, of verifiable networks three"


def test_rules_stand_beside_lwm(made):
    got = tables.rules(made)
    assert {*got[got.keep == .1].rule} == {"LWM", "random", "SNIP", "HYDRA", "iterative LWM"}
    assert {*got[got.keep == .5].rule} == {"filters"} and {*got[got.keep == 1].rule} == {"dense"}
    assert {*got.measure} == {"clean", "robust"}
    beside = tables.against_lwm(made).set_index(["rule", "keep"])
    row = beside.loc["random", .1]
    assert row.difference == pytest.approx(row.robust - beside.loc["LWM", .1].robust)
    assert row.difference == pytest.approx(.45 - .57, abs=.011) and row.low < row.difference < row.high < 0
    assert np.isnan(beside.loc["LWM", .1].difference) and np.isnan(beside.loc["filters", .5].difference)
    lost = tables.benign(found(accuracy={ruled("SNIP", fine=BENIGN): (.70, .30)})).set_index("rule")
    assert lost.counts.tolist() == ["yes", "yes", "no, keeps less than 80%", "yes"]
    assert lost.lost["SNIP"] == pytest.approx(.5, abs=.02) and lost.kept["LWM"] == pytest.approx(.95 / .93, abs=.01)


def test_counts_name_the_layer_that_keeps_the_fewest(made):
    got = made.counts().set_index(["net", "pre", "rule", "keep", "fine", "longer"])
    row = got.loc["traded", ROBUST, "LWM", .1, ROBUST, False]
    assert (row.kept, row.of, row.share, row["emptiest layer"], row["its weights"]) == (930, 9300, .1, "l0", 10)
    assert len(got) == len({c.condition for c in made.layers})


def test_networks_are_described():
    s = sized(nets=[WARM, BOUNDED, SMOOTHED])
    got = tables.networks(Repetition(s.networks, s.sections[S], 0, s.seed)).set_index("net")
    assert got["robust epochs"].tolist() == ["2 clean + 10", "10", "10"] and got["fine-tuning"].tolist() == [7, 7, 7]
    assert got["robust objective"].tolist() == ["TRADES, PGD-3", "IBP", "smoothing"]
    assert got.certificate["bounded"] == "interval bounds, linf, eps 1/10" and got.certificate["traded"] == "–"
    assert "l2, eps 1/4" in got.certificate["smoothed"]
    beside = tables.side_by_side(got.reset_index())
    assert [*beside] == ["", *got.index] and beside[""].tolist() == [*got]
    assert beside["traded"].tolist() == got.loc["traded"].tolist()


def test_a_run_is_described_before_it_starts():
    s = sized(seeds=5, keeps=[.1, .01])
    words = tables.describe(SimpleNamespace(section=s.sections[S], keys=["a", "b"]))
    assert words.startswith("kept: 10.0%; rules compared on ") and " at 10.0%, 1.0%; 5 repetitions; " in words
    assert s.sections[S].verify.title in words and words.endswith("2 trained networks in the plan")


def test_published_numbers_are_those_that_the_claims_cite():
    shares = reference.published().set_index("measure").share
    assert {*shares.index} == {"clean", "robust"}, "the verified one is of an objective that is not known"
    assert PAPER["C2a"].paper_value.startswith(
        f"{100 * shares.clean:.0f} % of clean, {100 * shares.robust:.1f} % of robust")
    assert reference.ABSTRACT["verified"] == .85 and "85.0 %" in PAPER["C3a"].paper_value
    whole = reference.table()
    vgg = whole[(whole.measure == "robust") & (whole.data == "CIFAR-10") & (whole.network == "VGG16")]
    numbers = vgg.set_index(["rule", "keep"])
    assert numbers.share["LWM", .1] == pytest.approx(.940, abs=5e-4)
    assert numbers.share["LWM", .01] == pytest.approx(.661, abs=5e-4)
    assert "48.8 and 49.5" in PAPER["C5a"].paper_source
    assert numbers.accuracy["LWM", .1] == .488 and numbers.accuracy["HYDRA", .1] == .495
    assert "34.3" in PAPER["C5b"].paper_value and numbers.accuracy["LWM", .01] == .343
    assert set(whole.source) == {reference.ABSTRACT_SOURCE, "authors' next paper (HYDRA)",
                                 "authors' next paper (HYDRA), extra data"}
    assert len(whole) == 3 + 8 * (1 + 2 * 3)
