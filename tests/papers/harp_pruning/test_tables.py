"""HARP: tables with known numbers."""

from dataclasses import replace
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest

from lib import plots
from lib.papers.harp_pruning import figures, reference, tables
from lib.papers.harp_pruning.networks import Condition, search_of
from lib.papers.harp_pruning.results import KeptEpoch, Results, rates_without_data
from lib.papers.harp_pruning.settings import METHODS
from lib.profiles.networks import updates
from tests.papers.harp_pruning.world import IMAGES, PAPER, WIDE, H, S, cells, found, sized


def test_tables_hold_the_known_numbers(made):
    table = made.table()
    mean = table.groupby(["training", "granularity", "keep", "method", "measure"]).accuracy.mean()
    assert mean["PGD-AT", "weights", .02, "HARP", "clean"] == pytest.approx(.92, abs=.011)
    assert mean["PGD-AT", "weights", .02, "HYDRA", "verify"] == pytest.approx(.45, abs=.011)
    assert mean["PGD-AT", "weights", 1., "dense", "verify"] == pytest.approx(.60, abs=.011)
    assert set(table[table.method == "N"].measure) == {"clean", "search"}
    kept = table[(table.method == "HYDRA") & (table.keep == .02)].kept
    assert kept.to_numpy() == pytest.approx((2 + 20 + 160 + 160 + 4) / 17300)
    shown = tables.summary(made)
    row = shown[(shown.method == "HYDRA") & (shown.keep == .02) & (shown.training == "PGD-AT")].iloc[0]
    assert row["clean"] == mean["PGD-AT", "weights", .02, "HYDRA", "clean"]
    assert not [name for name in shown if "balanced" in name], "digits' classes are of one size here"


def test_weights_and_channels_are_looked_at_apart(made):
    table = made.table()
    weights, channels = (pick(table, made.section) for pick in (tables.of_weights, tables.of_channels))
    assert set(weights.granularity) == {"weights"} and set(weights.training) == set(channels.training) == {"PGD-AT"}
    assert set(channels[channels.granularity == "weights"].method) == {"dense"}
    assert set(channels[channels.granularity == "channels"].keep) == {.5}


def test_a_run_is_described_before_it_starts():
    planned = sized()
    section = planned.sections[S]
    study = SimpleNamespace(settings=planned, networks=planned.networks, section=section, cells=cells(planned),
                            keys=["a"] * 7)
    first, second = tables.describe(study).split("\n")
    assert first.startswith("digits: ") and "threat linf, eps 3/20, trained against PGD" in first
    assert second.startswith("kept: 10.0%, 2.0%; methods: HARP; ") and "; 4 repetitions; " in second
    made = updates(search_of(next(c.recipe for c in cells(planned) if c.condition == H)))
    assert second.endswith(f"6 of searching ({made} updates), 2 of fine-tuning; 7 trained networks in the plan")


def test_balanced_accuracy_is_shown_where_classes_are_not_of_one_size():
    f = found()
    for every in f.outcomes.values():
        for one in every.values():
            one.table["label"] = np.where(np.arange(IMAGES) < 300, 0, 1)
            one.table["clean"], one.table["robust"] = np.arange(IMAGES) < 300, np.arange(IMAGES) < 150
    row = tables.summary(f).iloc[-1]
    assert row["clean"] == .75 and row["clean, balanced"] == .5
    robust = next(name for name in row.index if name.startswith("APGD") and name.endswith("balanced"))
    assert row[robust] == .25


def test_counts_name_the_layer_that_keeps_the_fewest(made):
    got = made.counts().set_index(["training", "granularity", "keep", "method"])
    row = got.loc["PGD-AT", "weights", .02, "HYDRA"]
    assert (row.kept, row.of, row["emptiest layer"], row["its weights"]) == (346, 17300, "l0", 2)
    row = got.loc["PGD-AT", "weights", .02, "HARP"]
    assert (row.kept, row["emptiest layer"], row["its weights"]) == (70 + 50 + 64 + 64 + 100, "l1", 50)


def test_rules_without_images_stand_beside_the_learned_rates(made):
    got = tables.rules(made)
    assert set(got.method) == {"data-free", "LAMP"} and set(got.keep) == {.1, .02} and set(got.seed) == {0, 1, 2, 3}
    for (method, keep, _), rows in got.groupby(["method", "keep", "seed"]):
        if method == "LAMP":
            assert (rows.share * np.array(WIDE)).sum() / sum(WIDE) == pytest.approx(keep, rel=.01)
        else:
            search = search_of(made.of(Condition("HARP", Fraction(str(keep))))[0].recipe)
            assert rows.share.tolist() == rates_without_data(search, list(WIDE)), "the same search without images"
    assert len(tables.rates(made)) == 5 * len(made.layers)


def test_what_harp_keeps_of_both_references(made):
    got = tables.retention(made).set_index(["keep", "measure", "over"])
    assert len(got) == 2 * 2 * 2
    row = got.loc[.02, "robust", "dense"]
    harp, dense = (made.correct(c, "verify") for c in (H, Condition("dense")))
    assert [row.pruned, row.whole, row.difference] == pytest.approx([harp.mean(), dense.mean(), (harp - dense).mean()])
    assert row.low < row.difference < row.high and row["share low"] < row.share < row["share high"]
    assert row.weights == made.weights(made.of(H)[0])[0]
    assert got.loc[.1, "clean", "pre-trained"].difference == pytest.approx(0, abs=.011)


def test_accuracies_by_updates_are_of_held_out_images_after_half_and_all_of_the_search():
    f = found(half={"HARP": (.90, .50), "HYDRA": (.70, .30)})
    got = tables.by_updates(f)
    whole = updates(search_of(f.of(H)[0].recipe))
    mean = got[got.measure == "verify"].groupby(["method", "updates"]).accuracy.mean()
    wanted = {("HARP", whole // 2): .50, ("HARP", whole): .58, ("HYDRA", 0): .40, ("HYDRA", whole // 2): .30,
              ("HYDRA", whole): .45, ("dense", 0): .60}
    assert mean.to_dict() == {where: pytest.approx(value, abs=.011) for where, value in wanted.items()}
    figure = figures.accuracy_by_updates(got, "robust accuracy, PGD")
    assert [axis.get_ylabel() for axis in figure.axes] == ["clean accuracy", "robust accuracy, PGD"]
    drawn = {line.get_color(): line for line in figure.axes[1].lines if line.get_linestyle() == "-"}
    assert drawn[plots.KINDS["HARP"]].get_ydata()[-2:] == pytest.approx([.50, .58], abs=.011)
    assert not len(tables.by_updates(found(sized(updates=1))))


def test_the_course_of_searches_for_rates_only(made):
    got = tables.searches(made)
    learned = {name for name, rule in METHODS.items() if rule["rates"] == "learned"}
    assert set(got.method) == learned and got.epoch.min() == 1
    assert (got.share == .1).all() and (got.gamma == .3).all()


def test_published_numbers_are_those_that_the_claims_cite():
    got = reference.published().set_index(["method", "keep", "measure"]).accuracy
    margin = {(keep, which): got["HARP", keep, which] - got["HYDRA", keep, which]
              for keep in (.1, .01) for which in ("clean", "verify")}
    assert round(100 * margin[.01, "clean"], 1) == 8.8 and round(100 * margin[.01, "verify"], 1) == 6.5
    assert round(100 * margin[.1, "verify"], 1) == -1.0
    assert PAPER["C2a"].paper_value.startswith("over HYDRA 8.8 points clean, 6.5 robust")
    whole, other = reference.table(), reference.table("SVHN")
    assert len(whole) == 8 * 3 + 2 * 3 + 4 * 2 and len(other) == 5 * 3 + 2 + 2 * 3 + 4 * 2
    shares = whole[["clean", "PGD-10", "PGD-20", "CW", "AutoAttack"]].stack().dropna()
    assert shares.between(.2, .9).all()


def chosen(arm, seed, *rows):
    return [KeptEpoch(replace(arm, epoch=epoch), seed, *row) for epoch, row in enumerate(rows, 1)]


def test_choosing_on_test_images_adds_what_the_table_says():
    s = sized()
    f = Results(s.networks, s.sections[S], s.seed, [])
    f.choices = [*chosen(H, 0, (.5, .40, .8), (.6, .41, .7), (.6, .47, .6)),  # a tie on held-out images: the first
                 *chosen(H, 1, (.5, .44, .8), (.4, .50, .7), (.3, .50, .6)),
                 *chosen(H, 2, (.3, .40, .8), (.4, .41, .7), (.5, .42, .6)),
                 *chosen(Condition("dense"), 0, (.5, .6, .9), (.4, .5, .9)),
                 *chosen(Condition("dense"), 1, (.5, .6, .9))]
    table = tables.choices(f)
    assert table[table["on holdout"]].epoch.tolist() == [2, 1, 3, 1, 1]
    assert table[table["on test"]].epoch.tolist() == [3, 2, 3, 1, 1]
    harp, dense = tables.choice_summary(f).to_dict("records")
    assert (harp["method"], harp["keep"], harp["epochs"]) == ("HARP", .02, "2, 1, 3")
    gains = [.06, .06, .0]
    assert harp["on holdout"] == pytest.approx((.41 + .44 + .42) / 3) and harp["added"] == pytest.approx(.04)
    assert harp["on test"] - harp["on holdout"] == pytest.approx(harp["added"])
    half = 4.302653 * np.std(gains, ddof=1) / 3 ** .5  # t of 2 degrees of freedom at 97.5 %
    assert [harp["low"], harp["high"]] == pytest.approx([.04 - half, .04 + half], rel=1e-5)
    assert dense["added"] == 0 and np.isnan(dense["low"]), "no spread over repetitions gives no interval"
