"""Similarity of representations: evidence with known numbers, and the verdicts of made-up studies."""

import numpy as np
import pytest

from lib import claims
from lib.claims.verdict import MISSED
from lib.papers import papers
from lib.papers.representation_similarity import tables
from lib.papers.representation_similarity.evidence import (
    across,
    claim_preconditions,
    evidence,
    inside,
    matched,
    overfitted,
    pairs_of,
    preconditions,
)
from lib.study import Study
from tests.kit import worlds
from tests.papers.representation_similarity.world import (
    ARMS,
    BATCHES,
    BEST,
    PERTURBED,
    RUNS,
    SECTION,
    bright,
    found,
    outcomes,
    share,
    sized,
)

PAPER = claims.load(SECTION)


def judged(f):
    """Claim id -> judged, at the profile that tests all."""
    return worlds.judged(PAPER, evidence(f), claim_preconditions(f), preconditions(f, []))


def fall(name):
    return PERTURBED[name][0] - PERTURBED[name][1]


@pytest.fixture(scope="module")
def verdicts(made):
    return judged(made)


WANTED = {
    ("C1a", "gap"): [bright("R") - bright("N")],
    ("C1b", "beyond_underfitting"): [bright("R") - (bright("M-") + bright("M+")) / 2],
    ("C2a", "fades"): [share("N") - share("R")],
    ("C2b", "is_learned"): [share("N") - share("U")],
    ("C3a", "below_same_type"): [.85 - .50, .90 - .50],
    ("C3b", "below_matched"): [.75 - .50],
    ("C4a", "early_unchanged"): [.99],
    ("C4c", "deep_changes_less"): [fall("N-own") - fall("R-own")],
    ("C4d", "deep_changes_less"): [fall("N-of N") - fall("R-of N")],
    ("C4e", "deep_changes_less"): [fall("N-of R") - fall("R-of R")],
    ("C4b", "early_above_normal"): [.99 - .90],
    ("C4b", "more_than_noise"): [fall("N-own") - fall("N-noise")],
    ("C5", "deep_moves"): [.98 - .80],
    ("C5", "beyond_control"): [.18 - .03],
    ("C6a", "alike"): [.80 - (.50 + .52) / 2],
    ("C6b", "beyond_noise"): [.80 - (.60 + .56) / 2],
    ("C7a", "falls_at_once"): [.85 - .70],
    ("C7b", "neighbours_alike"): [.92 - .60, .88 - .50],
    ("C7c", "grows"): [bright("R") - bright("eps 0.05")],
    ("C8a", "gap"): [bright("TRADES") - bright("N")],
    ("C8b", "gap"): [bright("R wide") - bright("N wide")],
    ("C9a", "gap"): [bright("R") - bright("N")] * 2,
    ("C9b", "gap"): [bright("R mnist") - bright("N mnist")],
    ("C9c", "gap"): [bright("R") - (bright("M-") + bright("M+")) / 2] * 2,
}
OF_THREE = ("C5", "C6a", "C6b", "C7a", "C7b", "C7c", "C8a", "C8b", "C9b")
SEEDS = {claim: 3 if claim in OF_THREE else 4 for claim, _ in WANTED}


def test_every_part_of_every_claim_has_evidence_of_the_right_shape(made):
    got = evidence(made)
    assert {(c.id, part.id) for c in PAPER for part in c.parts} == {(c, p) for c in got for p in got[c]} == set(WANTED)
    for claim in PAPER:
        for part in claim.parts:
            instances = got[claim.id][part.id]
            assert len(instances) == len(WANTED[claim.id, part.id]) and all(instances)
            batches = (BATCHES + (claim.id == "C9b"),) if part.statistic == "map" else ()
            assert {values.shape for values in instances.values()} == {(SEEDS[claim.id], *batches)}


@pytest.mark.parametrize("claim, part", WANTED)
def test_evidence_is_the_difference_that_was_put_in(verdicts, claim, part):
    rows = [row for row in verdicts[claim].rows if row.name.startswith(f"{part}: ")]
    assert sorted(row.value for row in rows) == pytest.approx(sorted(WANTED[claim, part]), abs=0.01)
    assert all(0 < row.high - row.low < 0.1 for row in rows)


def test_in_a_world_as_the_paper_says_every_claim_is_supported(verdicts):
    assert {claim: got.verdict for claim, got in verdicts.items()} == dict.fromkeys(verdicts, "supported")


def test_instances_are_named_by_what_was_compared(made):
    got = evidence(made)
    assert set(got["C3a"]["below_same_type"]) == {"N-N' minus N-R", "R-R' minus N-R"}
    assert [*got["C4c"]["deep_changes_less"], *got["C4e"]["deep_changes_less"]] == ["own", "of R"]
    assert set(got["C6a"]["alike"]) == {"R-l2"} and set(got["C9b"]["gap"]) == {"mnist"}
    assert list(got["C7b"]["neighbours_alike"]) == ["eps 0.05-eps 0.1", "eps 0.1-R"], "by growing eps"
    assert set(got["C8a"]["gap"]) == {"TRADES"}, "noise is a control, no training procedure of the claim"
    assert set(got["C9a"]["gap"]) == set(got["C9c"]["gap"]) == {"procrustes", "svcca"}


# what fails, the claim that then is not supported, the claim beside it that is all the same
CONTROLS = {
    "brief training makes maps as bright": ({"inside": {"M-": (.85, .05), "M+": (.65, .05)}}, "C1b", "C1a"),
    "brief training makes other measures as high": ({"inside": {"M-": (.85, .05), "M+": (.65, .05)}}, "C9c", "C9a"),
    "untrained networks have blocks": ({"inside": {"U": (.40, .20)}}, "C2b", "C2a"),
    "only brightness hides the blocks": ({"inside": {"R": (.75, .085)}}, "C2a", "C1a"),
    "less accurate networks are as far": ({"across": {"N-M-": .55, "N-M+": .45}}, "C3b", "C3a"),
    "normal early layers are as stable": ({"perturbed": {"N-own": (.985, .30)}}, "C4b", "C4a"),
    "noise does the same": ({"perturbed": {"N-noise": (.90, .30)}}, "C4b", "C4a"),
    "noise training makes as similar": ({"across": {"R-noise": .80, "l2-noise": .78}}, "C6b", "C6a"),
    "the control run moves as much": ({"from_best": {"control": (.98, .80)}}, "C5", "C1a"),
}


@pytest.mark.parametrize("changes, fails, holds", CONTROLS.values(), ids=CONTROLS)
def test_a_claim_whose_control_shows_the_same_is_not_supported(changes, fails, holds):
    got = judged(found(**changes))
    assert got[fails].verdict in (*MISSED, "undecided") and got[fails].reason
    assert got[holds].verdict == "supported"


REVERSED = {
    "robust networks are not brighter": ({"inside": {"R": (.40, .05)}}, ["C1a", "C1b", "C9a", "C9c"]),
    "blocks stay": ({"inside": {"R": (.6, .20)}}, ["C2a"]),
    "one type is no more alike": ({"across": {"R-R": .50}}, ["C3a"]),
    "own images": ({"perturbed": {"R-own": (.99, .40)}}, ["C4c"]),
    "images for a robust network": ({"perturbed": {"R-of R": (.99, .60)}}, ["C4e"]),
    "early layers notice": ({"perturbed": {"R-own": (.90, .85)}}, ["C4a", "C4b"]),
    "early layers move as much": ({"from_best": {"overfits": (.80, .80)}}, ["C5"]),
    "threats differ": ({"across": {"R-l2": .50}}, ["C6a", "C6b"]),
    "the smallest eps changes nothing": ({"across": {"N-eps 0.05": .85}}, ["C7a"]),
    "one step of the ladder": ({"across": {"R-eps 0.1": .50}}, ["C7b"]),
    "no growth with eps": ({"inside": {"eps 0.05": (.80, .05)}}, ["C7c"]),
    "another procedure": ({"inside": {"TRADES": (.40, .05)}}, ["C8a"]),
    "another architecture": ({"inside": {"R wide": (.40, .05)}}, ["C8b"]),
    "another data set": ({"inside": {"R mnist": (.40, .05)}}, ["C9b"]),
}


@pytest.mark.parametrize("changes, claims_", REVERSED.values(), ids=REVERSED)
def test_what_is_not_so_misses_its_margin_and_nothing_else(changes, claims_):
    got = judged(found(**changes))
    assert {got[claim].verdict for claim in claims_} <= {*MISSED}
    dependent = {"C1a", "C1b", "C2a", "C7c", "C9a", "C9c"} if "R" in changes.get("inside", {}) else set()
    others = set(got) - set(claims_) - dependent
    assert {got[claim].verdict for claim in others} == {"supported"}


def test_few_networks_decide_nothing():
    got = judged(found(sized(seeds=2, arm_seeds=2, overfitting=RUNS | {"seeds": 2})))
    assert {judged_.verdict for judged_ in got.values()} == {"undecided", "not tested"}
    assert got["C1a"].verdict == "undecided" and "fewer than 3 decide nothing" in got["C1a"].reason
    assert got["C3a"].verdict == "not tested" and "No measurement" in got["C3a"].reason
    got = judged(found(sized(arm_seeds=2)))
    assert {got[claim].verdict for claim in ("C6a", "C6b", "C7a", "C7b", "C7c", "C8a", "C8b", "C9b")} == {"not tested"}
    assert {got[claim].verdict for claim in ("C1a", "C1b", "C2a", "C2b", "C3a", "C3b", "C4a", "C4b")} == {"supported"}


def test_networks_that_do_not_differ_are_no_certainty():
    got = judged(found(noise=0.0))
    assert {claim.verdict for claim in got.values()} == {"undecided"}


def test_only_the_arms_that_were_trained_are_judged():
    f = found(sized(arms=ARMS[-1:], second=[], overfitting=None))
    f.arms = None  # no arm on the pool's data
    got = judged(f)
    assert [claim for claim, one in got.items() if one.verdict == "not tested"] == [
        "C5", "C6a", "C6b", "C7a", "C7b", "C7c", "C8a", "C8b", "C9a", "C9c"]
    assert got["C9b"].verdict == "supported"


# ------------------------------------------------------------------------------------ preconditions


def test_a_made_up_study_meets_every_precondition(made):
    assert all(check["ok"] for check in preconditions(made, []))
    own = claim_preconditions(made)
    assert set(own) == {"C1b", "C3b", "C5", "C9c"} and all(check["ok"] for checks in own.values() for check in checks)


@pytest.mark.parametrize("kind, accuracy, which", [
    ("M+", (.89, .95, .03, .03), "test"), ("M-", (.91, .91, .03, .03), "test"),
    ("M+", (.94, .925, .03, .03), "training"), ("M-", (.86, .94, .03, .03), "training")])
def test_normal_networks_that_do_not_lie_about_the_robust_ones_are_no_control(kind, accuracy, which):
    f = found(accuracy={kind: accuracy})
    got = judged(f)
    assert [claim for claim, one in got.items() if one.verdict == "not tested"] == ["C1b", "C3b", "C9c"]
    assert f"accuracies can be matched on {which} images" in got["C1b"].reason
    assert "must lie between them" in got["C9c"].reason and not got["C1b"].rows, "nothing is extrapolated"
    assert "matched normal" not in {*tables.summaries(f).kind, *tables.second(f).kind, *tables.distances(f).kind}
    assert tables.pool_kinds(f) == ("U", "M-", "M+", "N", "R")
    assert len(tables.maps_of(f, tables.control_panels(f))[0]) == 3


def with_accuracies(**of_kinds):
    """A study in which the repetitions of a kind have these clean accuracies."""
    f = found(noise=0.0, inside={"M-": (.50, 0), "M+": (.30, 0)})
    for cell, measures in f.outcomes.items():
        if values := of_kinds.get(cell.condition.kind):
            measures["clean"] = outcomes("made up", {"clean": values[cell.repetition]})
    return f


def test_matched_networks_are_interpolated_at_the_robust_networks_accuracy():
    f = with_accuracies(R=(.88, .88, .88, .88))
    bright_ = [inside(f.pool, kind, [0, 1, 2, 3]) for kind in ("M-", "M+")]
    assert bright_ == pytest.approx([.50, .30])
    assert matched(f, [0, 1, 2, 3], dict(zip(("M-", "M+"), bright_, strict=True)).get) == pytest.approx(.45)
    maps_ = tables.mean_map(f, "M", "M")
    assert maps_[0, 15] == pytest.approx(.45) and maps_[3, 3] == 1
    of_m = tables.kinds(found(noise=0.0), ("M", "N")).groupby(["kind", "other"]).similarity.mean()
    assert of_m["matched normal", "normal"] == pytest.approx(.75)


def test_a_repetition_is_left_out_with_its_accuracies():
    """The weight of the jackknife is from the repetitions that are left, so that its uncertainty counts."""
    robust = (.88, .90, .92, .90)
    f = with_accuracies(R=robust)
    values = evidence(f)["C1b"]["beyond_underfitting"]["R minus M"]
    level = bright("R")

    def gap(kept):  # M falls from .50 at 86 % to .30 at 94 %
        return level - (.50 - .20 * (np.mean([robust[i] for i in kept]) - .86) / .08)

    full = gap(range(4))
    wanted = [4 * full - 3 * gap([i for i in range(4) if i != left]) for left in range(4)]
    assert values.mean(1) == pytest.approx(wanted, abs=1e-6)
    assert values.mean() == pytest.approx(full) and np.ptp(values.mean(1)) == pytest.approx(.10, abs=1e-6)
    assert evidence(f)["C9c"]["gap"]["svcca"] == pytest.approx(wanted, abs=1e-6)


def test_a_run_that_does_not_overfit_is_not_judged_and_says_by_how_much():
    got = judged(found(fall=.02))["C5"]
    assert got.verdict == "not tested"
    assert "the run overfits" in got.reason and "2.0%" in got.reason and "at least 3% needed" in got.reason


@pytest.mark.parametrize("change", [{"N": (.5, .5, .02, .02)}, {"N": (.97, 1., .5, .5)}, {"R": (.90, .92, .4, .3)}])
def test_without_its_networks_nothing_is_judged(change):
    assert {one.verdict for one in judged(found(accuracy=change)).values()} == {"not tested"}


def test_a_doubtful_attack_and_a_layer_without_numbers_stop_the_judge(made):
    doubts = [check["name"] for check in preconditions(made, ["gradients are masked"]) if not check["ok"]]
    assert doubts == ["the attack can be trusted"]
    f = found()
    f.moved["R", 2].undefined = {("own", "stem.0"): "its output is 0 for every image"}
    failed, = [check for check in preconditions(f, []) if not check["ok"]]
    said = "1 have none, the first is stem.0 of own: its output is 0 for every image"
    assert failed == {"name": "every layer has a number", "ok": False, "detail": said}


def test_the_best_epoch_is_the_one_of_held_out_images(made):
    got = overfitted(made)
    assert {seed: best for seed, (best, _) in got.items()} == BEST
    assert [fell for _, fell in got.values()] == pytest.approx([.06] * 3)
    assert tables.falls(made).to_dict("list") == {"seed": [0, 1, 2], "best epoch": list(BEST.values()),
                                                  "fall": pytest.approx([.06] * 3)}


def test_claim_preconditions_reach_the_judge_for_their_claim_only(made, monkeypatch, tmp_path):
    study = object.__new__(Study)
    study.frozen = None
    study.paper, study.settings, study.failures = papers()[SECTION], sized(), []
    monkeypatch.setattr(study, "table", lambda name, frame: frame, raising=False)
    monkeypatch.setattr(Study, "folder", tmp_path)
    bad = {"name": "made up", "ok": False, "detail": "it is not so"}
    for everywhere, own in (([], {"C1b": [bad]}), ([bad], None)):
        shown = study.judge(evidence(made), everywhere, own).data
        off = {claim.claim.id for claim in study.claims if "made up (it is not so)" in claim.reason}
        inside_scope = {claim.id for claim in PAPER if "smoke" in claim.scope}
        assert off == ({"C1b"} if own else inside_scope)
        assert list(shown["claim"]) == [claim.id for claim in PAPER]
        withheld = "not tested (withheld: supported)"
        assert shown.set_index("claim")["verdict"]["C1a"] == ("supported" if own else withheld)
        assert all(shown["because"] != "")


# ------------------------------------------------------------------------------------------- networks that failed


def without(kind, *repetitions):
    """A study in which a network fails; its views are not there."""
    f = found()
    worlds.lose(f, *(c for c in f.cells if c.condition.kind == kind and c.repetition in repetitions))
    for repetition in repetitions:
        for maps in (f.pool, f.untrained, f.arms, *f.elsewhere.values(), *f.second.values()):
            maps.pairs = [pair for pair in maps.pairs if f"{kind}{repetition}" not in pair]
            maps.views = tuple(view for view in maps.views if view != f"{kind}{repetition}")
        for gone in "NR" if kind in "NR" else ():
            f.moved.pop((gone, repetition))
        for split in ("test", "train"):
            f.runs.pop((kind, repetition, split), None)
    return f


@pytest.mark.parametrize("kind, claims", [
    ("R", {"C1a", "C1b", "C2a", "C3a", "C3b", "C4a", "C4b", "C4c", "C4d", "C4e", "C6a", "C6b", "C7b", "C7c", "C9a",
           "C9c"}),
    ("M-", {"C1b", "C3b", "C9c"}), ("overfits", {"C5"}), ("l2", {"C6a", "C6b"})])
def test_claims_go_on_without_the_repetition_of_a_failed_network_and_name_it(made, kind, claims):
    f = without(kind, 1)
    got, whole = judged(f), judged(made)
    said = {claim for claim, one in got.items() if f"{kind}, epoch" in one.reason
            or f"{kind}, repetition 1: the loss is nan" in one.reason}
    assert said == claims
    for claim, one in got.items():
        rows = {row.name: row.seeds for row in whole[claim].rows}
        fewer = {row.name for row in one.rows if row.seeds < rows[row.name]}
        assert bool(fewer) == (claim in claims), claim
        assert claim in claims or (one.verdict, one.reason) == (whole[claim].verdict, whole[claim].reason)
    of_c1 = evidence(f)["C1a"]["gap"]["R minus N"]
    assert np.isnan(of_c1).all(1).tolist() == [False, kind == "R", False, False]


def test_a_claim_with_no_repetition_left_is_not_tested_and_says_why():
    got = judged(without("M-", 0, 1, 2, 3))
    assert {got[claim].verdict for claim in ("C1b", "C3b", "C9c")} == {"not tested"}
    assert all("M-, repetition 3: the loss is nan" in got[claim].reason for claim in ("C1b", "C3b"))
    assert got["C1a"].verdict == "supported"


@pytest.mark.parametrize("kind, repetitions", [("R", (0,)), ("N", (0,)), ("M-", (0,)), ("M+", (0, 1, 2, 3)),
                                               ("overfits", (0,)), ("l2", (0, 1, 2))])
def test_tables_go_on_without_failed_networks(kind, repetitions):
    f = without(kind, *repetitions)
    table = f.table()
    assert set(table[table.failed != ""].kind) == {kind}
    tables.accuracies(f)
    maps_, notes, axes = tables.maps_of(f, {"one": ("N", "N"), "two": ("N", "R"), "three": ("M+", "M+")})
    assert [*maps_] == [*notes] == [*axes] == ["one", "two", "three"][:2 if len(repetitions) == 4 else 3]
    assert len(tables.maps_of(f, tables.control_panels(f))[0]) == (1 if len(repetitions) == 4 else 3)
    assert not any(np.isnan(values).any() for values in maps_.values())
    for made_ in (tables.distances, tables.summaries, tables.second, tables.perturbed, tables.strengths, tables.runs,
                  tables.falls):
        assert len(made_(f))
    assert len(tables.kinds(f, tables.pool_kinds(f))) and len(tables.kinds(f, tables.threat_kinds(f)))


# ---------------------------------------------------------------------------------- means over pairs


def test_pairs_are_of_different_repetitions_and_counted_once():
    assert list(pairs_of("N", "N", [0, 1, 2])) == [(0, 1), (0, 2), (1, 2)]
    assert list(pairs_of("N", "R", [0, 1, 2])) == [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)]
    assert list(pairs_of("N", "N", [0, 2, 3])) == [(0, 2), (0, 3), (2, 3)]
    assert list(pairs_of("N", "R", [1, 2])) == [(1, 2), (2, 1)]


def test_a_repetition_and_a_minibatch_are_left_out(made):
    one = [made.pool.between(f"R{i}", f"R{i}", without=3) for i in (0, 2, 3)]
    off = ~np.eye(16, dtype=bool)
    assert inside(made.pool, "R", [0, 2, 3], batch=3) == pytest.approx(np.mean([m[off].mean() for m in one]))
    pairs = [made.pool.between(f"N{i}", f"R{j}", without=3) for i in (0, 2, 3) for j in (0, 2, 3) if i != j]
    assert across(made.pool, "N", "R", [0, 2, 3], 3) == pytest.approx(np.mean([m.diagonal().mean() for m in pairs]))
