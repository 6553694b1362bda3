"""Off-manifold robustness: tables with known numbers."""

import math
from types import SimpleNamespace

import pandas as pd
import pytest

from lib.manifold import spectrum
from lib.papers.off_manifold_robustness import networks, reference, tables
from lib.papers.off_manifold_robustness.evidence import ALL, theory_margins
from lib.papers.off_manifold_robustness.networks import MANIFOLD, NONE, PER_IMAGE, POOL, SCORE, UNTRAINED
from lib.papers.off_manifold_robustness.results import BAYES, COLUMNS
from lib.papers.off_manifold_robustness.settings import CONTROLS
from tests.papers.off_manifold_robustness.world import BELOW, HALVES, PAPER, SIX, S, found, named_by, sized


def test_networks_stand_in_the_table_with_their_means(made):
    f = found(gone={("digits", "noise", 4., 1)})
    table = tables.networks(f)
    swept = [c for c in f.cells if c.condition.kind not in (MANIFOLD, SCORE) and "letter" not in c.condition.where]
    assert len(table) == len(swept)
    assert list(table)[:7] == ["where", "kind", "strength", "seed", "accuracy", "training loss", "training accuracy"]
    by = table.set_index(["where", "kind", "strength", "seed"])
    row = by.loc["digits", "noise", 2., 3]
    cell = next(c for c in f.cells if named_by(c) == ("digits", "noise", 2., 3))
    assert row["on"] == pytest.approx(.2, rel=.011) and row["alignment"] == pytest.approx(.6, rel=.011)
    assert row["accuracy"] == f.measured(cell).accuracy() and row["network"] == cell.recipe.key
    assert row["diverged"] == ""
    lost = by.loc["digits", "noise", 4., 1]
    assert lost["diverged"] == "the loss is nan" and lost[["accuracy", "on", "training loss"]].isna().all()
    known = table[table.diverged == ""]
    assert len(known) == len(table) - 1
    assert known[["accuracy", "on", "off", "alignment", "shuffled pairs"]].notna().all(axis=None)
    assert (known["training loss"].isna() == (known.kind == UNTRAINED)).all()
    assert (known.matched.isna() == known["where"].isin(["subspace", "torus"])).all()
    assert not set(table) & {"index", "label"} and table.network.is_unique
    f.matching["digits"] = spectrum.said("digits", .5, 0.)
    without = tables.networks(f)
    assert without[without["where"] == "digits"].matched.isna().all(), "there is no such control"
    assert without[(without["where"] == "ImageNet-64") & (without.diverged == "")].matched.notna().all()


def test_a_summary_has_a_row_for_each_kind_and_strength_in_the_order_of_the_plan(made):
    shown = tables.summary(made, "digits")
    kinds = ["untrained", NONE, *(kind for kind in ALL for _ in SIX), *CONTROLS, *POOL.values()]
    assert shown.kind.tolist() == kinds and shown[shown.kind == "PGD"].strength.tolist() == SIX
    row = shown[(shown.kind == "noise") & (shown.strength == 2)].iloc[0]
    assert [row["on"], row["off"], row["matched"], row["accuracy"]] == pytest.approx([.2, .06, .05, .75], rel=.012)
    means = {"accuracy", "training loss", "training accuracy", *COLUMNS}
    assert set(shown) <= {"kind", "strength", *means}
    assert "matched" not in tables.summary(made, "subspace") and "subspace" not in shown
    measured = shown.drop(columns=["training loss", "training accuracy"])
    assert measured.notna().all(axis=None) and shown[shown.kind != UNTRAINED].notna().all(axis=None)
    some = tables.summary(found(gone={("digits", "noise", 4., seed) for seed in range(4)}), "digits")
    assert len(some) == len(shown) - 1 and some[some.kind == "noise"].strength.tolist() == SIX[:-1]


def test_other_trainings_stand_next_to_the_networks_that_they_compare_with(made):
    shown = tables.controls(made, "digits").set_index(["kind", "strength"])
    others = {(c.condition.kind, c.condition.strength) for c in made.of(where="digits") if c.condition.kind in CONTROLS}
    assert {kind for kind, _ in others} == {*CONTROLS} and others <= {*shown.index}
    beside = {*shown.index} - others
    assert beside == {("gradient norm" if kind == "reduced lr" else "PGD", strength) for kind, strength in others}
    row = shown.loc["PGD", next(strength for kind, strength in beside if kind == "PGD")]
    assert row["on"] > 0 and [*shown] == ["accuracy", "training loss", "training accuracy", "on", "off", "alignment",
                                          "shuffled pairs"]


def test_what_is_shown_of_a_sweep(made):
    summary = tables.summary(made, "subspace")
    assert [*tables.only(summary, tables.CHANGES)][:2] == ["kind", "strength"]
    assert "matched" in tables.CHANGES and "matched" not in tables.only(summary, tables.CHANGES)
    assert set(tables.untrained(made, "digits").kind) == {UNTRAINED} and len(tables.untrained(made, "digits")) == 4
    assert tables.guessing(made)["digits"] == .1 and tables.published_curves(made) == {}


def test_the_theory_is_shown_at_its_smallest_noise(made):
    shown = tables.theory_at_smallest_noise(made).set_index(["where", "kind"])
    least = made.theory[(made.theory.sigma == min(made.section.theory.sigmas)) & (made.theory["where"] == "torus")]
    assert shown.loc[("torus", BAYES), "rho1"] == pytest.approx(least[least.kind == BAYES].rho1.mean())
    assert {*theory_margins()} < {*made.theory} and theory_margins()["rho1"] > 0


def test_the_ends_and_the_peak_of_a_published_curve():
    curves = pd.DataFrame({"kind": ["noise"] * 4 + ["PGD"] * 2, "1 - LPIPS": [.1, .2, .9, .3, .5, .4]})
    assert tables.ends_and_peaks(curves).index.tolist() == [0, 2, 3, 4, 5]


def test_a_run_is_described_before_it_starts(planned):
    run = SimpleNamespace(settings=planned, networks=planned.networks, section=planned.sections[S], keys=["a"] * 7)
    first, *lines = tables.describe(run).split("\n")
    assert first == "4 repetitions; 7 trained networks in the plan"
    digits = next(line for line in lines if line.startswith("digits: "))
    assert "tangent spaces: auto-encoder, PCA; steps of length 2 and 0.5, " in digits
    assert [line for line in lines if line.startswith("   noise: ")] and lines[0] == ""


def test_curves_of_all_regularisers_begin_without_one(made):
    table = tables.by_strength(made, "digits")
    assert list(dict.fromkeys(table.kind)) == list(ALL) and len(table) == 4 * 7 * 4
    for kind, rows in table.groupby("kind"):
        assert sorted(set(rows.strength)) == [0, *SIX] and (rows.groupby("strength").size() == 4).all(), kind
    start = table[table.strength == 0].groupby("kind")["on"].apply(list)
    assert all(values == start.iloc[0] for values in start)
    assert set(tables.by_strength(made, "torus").strength) == {0, .5}


def test_the_distractors_tables_hold_the_known_numbers(made):
    table = tables.distractor(made)
    assert len(table) == 2 * 4 * 2 * 4 * 4 and table.notna().all(axis=None)
    assert (table.counts == (table.noise > .1)).all(), "the first level changes nothing"
    robust = table[(table.kind == PER_IMAGE) & table.counts]
    for position, letter in (("digit above", .1), ("digit below", .1 * BELOW)):
        ratios = robust[robust.position == position]["log ratio"].to_numpy()
        assert ratios == pytest.approx(math.log(.4 / letter), abs=.03)
    shares_ = tables.energies(made)
    assert len(shares_) == 2 * 4 * 4 * 2 and set(shares_.position) == {"digit above", "digit below"}
    mean = shares_.groupby("kind").share.mean()
    assert mean.to_dict() == pytest.approx({kind: energy for kind, (_, _, energy) in HALVES.items()}, rel=.01)
    trained = shares_[shares_.kind != UNTRAINED]
    assert trained.accuracy.between(.9, 1).all() and shares_.notna().all(axis=None)
    assert tables.distractor(found(sized({"distractor": None}))).empty


def test_checks_of_scores_and_tangent_spaces_stand_in_a_table(made):
    f = found()
    f.quality["digits"].append(("the denoiser beats the best linear filter", False, "squared error"))
    shown = tables.quality(f)
    assert shown.columns.tolist() == ["where", "check", "holds", "detail"] and len(shown) == 5
    assert shown[shown.holds == "NO"].values.tolist() == [
        ["digits", "the denoiser beats the best linear filter", "NO", "squared error"]]


# ------------------------------------------------------------------------------------------------ published numbers


def test_published_strengths_are_also_given_per_image():
    got = reference.published().set_index(["kind", "strength"])["per image"]
    assert got["noise", .079] == .079
    assert got["PGD", 1.89] * 128**.5 == pytest.approx(1.89), "128 images share the budget of a batch"
    assert got["gradient norm", .024] == pytest.approx(.024 * 1e5 / 128**2)
    wanted = {"gradient norm": .01 * 1e5 / 128**2, "smoothness": 10, "PGD": 100 / 128**.5}
    assert networks.LR_FALLS_FROM == pytest.approx(wanted, rel=.001), "the code's 0.01, 10 and 100"


def test_published_curves_are_those_that_the_claims_cite():
    table = reference.published()
    assert set(table.kind) == {*ALL} - {"smoothness"} and table.notna().all(axis=None)
    assert table[["on", "off"]].stack().between(0, 1.2).all() and table.accuracy.between(.1, .96).all()
    crossings, starts, peaks, ends = [], [], [], []
    for kind in ("gradient norm", "noise", "PGD"):
        rows = table[table.kind == kind]
        assert rows.strength.is_monotonic_increasing
        first = int((rows.on > rows.off).to_numpy().argmax())
        crossings += [rows.strength.iloc[first - 1], rows.strength.iloc[first]]
        starts.append(rows.iloc[0])
        peaks.append(rows.loc[rows["1 - LPIPS"].idxmax()])
        ends.append(rows.iloc[-1])
    said = PAPER["C4b"].paper_value
    assert [round(x, 3) for x in crossings] == [.014, .024, .053, .079, .92, 1.89]
    assert "lambda 0.014 to 0.024, eps 0.9 to 1.9, noise 0.05 to 0.08" in said
    assert [round(row["1 - LPIPS"], 2) for row in peaks] == [.88] * 3 and "up to 0.88" in PAPER["C5b"].paper_value
    assert min(row["1 - LPIPS"] for row in starts) == .709 and max(row["1 - LPIPS"] for row in starts) == .747
    accurate = [round(row.accuracy, 2) for row in peaks]
    assert (min(accurate), max(accurate)) == (.86, .92) and {round(row.accuracy, 2) for row in ends} <= {.15, .16}
    assert "accuracy 0.86 to 0.92 at the peak, 0.15" in PAPER["C6b"].paper_value
    top = peaks[0]
    assert (starts[0].accuracy, top.accuracy, top["1 - LPIPS"]) == (.949, .862, .878)
    assert "0.949 at 1 - LPIPS 0.75 against 0.862 at 0.88" in PAPER["C12b"].paper_value
    assert all(row.off > row.on for row in starts)
