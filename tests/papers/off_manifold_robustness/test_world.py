"""Off-manifold robustness: evidence with known numbers, and the verdicts of made-up studies."""

import math

import numpy as np
import pytest

from lib.claims.verdict import MISSED
from lib.papers.off_manifold_robustness import tables
from lib.papers.off_manifold_robustness.evidence import (
    ALL,
    FEWEST,
    FIGURE,
    claim_preconditions,
    curves,
    evidence,
)
from lib.papers.off_manifold_robustness.networks import NONE, PER_BATCH, PER_IMAGE, STANDARD, UNTRAINED
from tests.kit import worlds
from tests.kit.worlds import failed_by_claim, missed_parts
from tests.papers.off_manifold_robustness.world import (
    BELOW,
    HALVES,
    IMAGES,
    PAPER,
    SIX,
    TESTED,
    WORLD,
    differs,
    every,
    found,
    sized,
)


def judged(f):
    """Claim id -> judged, at the profile that tests all."""
    return worlds.judged(PAPER, evidence(f), claim_preconditions(f))


@pytest.fixture(scope="module")
def verdicts(made):
    return judged(made)


A = [f"subspace, {kind}" for kind in FIGURE]
B = [*(f"digits, {kind}" for kind in FIGURE), "ImageNet-64, PGD"]
TRACK = np.corrcoef(WORLD["alignment"][:6], -np.log(WORLD["off"][:6]))[0, 1]
FLIP = {"flips": .40 - .10, "first": math.log(.8 / .1) - math.log(.5 / .4)}
RISE = {"rises": .60 - .10, "pairs": .50 - .03, "tracks": TRACK}
FALL = {"alignment": .60 - .20, "accuracy": .75 - .40}
BEST = {"accuracy": .92 - .75, "alignment": .60 - .20}


def areas(of_other, kinds=HALVES):
    """ln of the robust network's ratio over another's, by position and data set."""
    rows = {}
    for name in ("digits_letter_a", "digits_letters"):
        for kind in (PER_IMAGE, PER_BATCH):
            robust = kinds[kind][0] / kinds[kind][1]
            for words in ("digit above", "digit below"):
                line = (1 if words == "digit above" else BELOW) if of_other == "one" else math.prod(
                    (kinds[of_other][0], 1 / kinds[of_other][1]))
                rows[f"{name}, {kind}, {words}"] = math.log(robust / line)
    return rows


def shares(other):
    return {f"{name}, {kind}": HALVES[kind][2] - HALVES[other][2] for name in ("digits_letter_a", "digits_letters")
            for kind in (PER_IMAGE, PER_BATCH)}


WANTED = {
    "C1": every(["subspace, none", "subspace, noise 1", "torus, none", "torus, noise 0.5"],
                {"order": 2., "limit": 1e-4}),
    "C2": every(["subspace", "torus"], {"aligned": 1e-9, "robust": 1e-5}),
    "C3a": every(["subspace", "torus"], {"off_over_on": .80 - .50}),
    "C3b": every(["digits", "ImageNet-64"], {"off_over_on": .80 - .50}),
    "C3c": every(["digits", "ImageNet-64"], {"phases": .70 - .50}),
    "C4a": every(A, FLIP), "C4b": every(B, FLIP), "C4c": every(B, {"phases": .40 - .15}),
    "C5a": every(A, RISE), "C5b": every(B, RISE), "C6a": every(A, FALL), "C6b": every(B, FALL),
    "C7": every([f"digits, {kind}" for kind in ALL], {"flips": FLIP["flips"], "rises": RISE["rises"]}),
    "C9": every(["ImageNet-64, PGD"], {"rises": RISE["rises"], "falls": FALL["alignment"]}),
    "C10a": {"standard": areas(STANDARD), "one": areas("one")}, "C10b": {"untrained": areas(UNTRAINED)},
    "C11": {"standard": shares(STANDARD), "untrained": shares(UNTRAINED)},
    "C12a": every(A, BEST), "C12b": every(B, BEST),
}


@pytest.mark.parametrize("claim", WANTED)
def test_the_evidence_of_a_claim_has_its_instances_and_their_numbers(measured, claim):
    ready = measured[claim]
    assert set(ready) == {part.id for part in PAPER[claim].parts}
    for part, wanted in WANTED[claim].items():
        got = {name: values.mean() for name, values in ready[part].items()}
        close = 0 if part in ("aligned", "robust", "limit") else .005
        assert got == pytest.approx(wanted, rel=.01, abs=close), part
        statistic = next(p.statistic for p in PAPER[claim].parts if p.id == part)
        images = TESTED if part == "accuracy" else IMAGES
        assert {v.shape for v in ready[part].values()} == {(4, images) if statistic == "difference" else (4,)}


def test_every_claim_has_its_evidence(made, measured):
    assert set(measured) == set(WANTED) == {c.id for c in PAPER} - {"C8"}  # of published networks: test_published
    assert set(claim_preconditions(made)) == {c.id for c in PAPER}


def test_in_a_world_as_the_paper_says_its_claims_are_supported(verdicts):
    assert {claim: one.verdict for claim, one in verdicts.items() if one.verdict != "supported"} == {
        "C8": "not tested"}, {claim: one.reason for claim, one in verdicts.items()}


NEVER = tuple(1.2 * v for v in WORLD["on"])
FAINT = (.20, .25, .30, .40, .50, .25, .02)  # on the manifold networks react more and more
AS_FAINT = (.10, .12, .14, .18, .24, .14, .01)
WORSE = (.55, .60, .70, .80, .30, .90, .01)  # off the manifold networks react more and more, but for the flip
LOW = (.10, .10, .10, .10, .10, .11, .05)
HIGH = (.295, .298, .301, .304, .307, .31, .10)
ALIGNED = (*WORLD["alignment"][:6], .595)
IMAGENET = ("ImageNet-64",)
# what is not so -> how the world then differs, the rows of claims that then fail
REVERSED = {
    "no limit, and Bayes gradients off the manifold": (
        {"theory": {"order": .5, "worst": .01}}, {"C1 order", "C2 aligned"}),
    "another limit, and a Bayes classifier that is not robust": (
        {"theory": {"limit": .1, "bayes": .01}}, {"C1 limit", "C2 robust"}),
    "on above off from the start": (
        {"world": {("torus", None, "on"): (.8, .7), ("torus", None, "off"): (.5, .5),
                   ("digits", None, "off"): (.40, .38, .36, .30, .10, .04, .01)}},
        {"C3a off_over_on", "C3b off_over_on"}),
    "smooth steps off the manifold do less, and at the flip as much": (
        differs("phases", (.40, .62, .45, .30, .395, .05, .01), where=("digits",)), {"C3c phases", "C4c phases"}),
    "no flip": (differs("off", NEVER), {"C4a flips", "C4a first", "C4b flips", "C4b first", "C7 flips"}),
    "no flip of one": (differs("off", NEVER, "noise"), {"C4a flips", "C4b flips", "C7 flips"}),
    "both fall alike": (
        {"world": differs("on", FAINT)["world"] | differs("off", AS_FAINT)["world"]},
        {"C3a off_over_on", "C4a first", "C5a tracks", "C3b off_over_on", "C4b first", "C5b tracks"}),
    "no rise": (differs("alignment", HIGH), {"C5a rises", "C5a pairs", "C12a alignment", "C5b rises", "C5b pairs",
                                             "C7 rises", "C12b alignment"}),
    "any pair rises": (differs("shuffled pairs", (.05, .15, .25, .35, .45, .55, .15)), {"C5a pairs", "C5b pairs"}),
    "no track": (differs("off", WORSE), {"C5a tracks", "C5b tracks"}),
    "aligned to the end": (differs("alignment", ALIGNED), {"C6a alignment", "C6b alignment"}),
    "accurate to the end": (differs("accuracy", (*WORLD["accuracy"][:6], .75)), {"C6a accuracy", "C6b accuracy"}),
    "the best aligned is the most accurate": (
        differs("accuracy", (.85, .85, .85, .85, .85, .86, .40)), {"C12a accuracy", "C12b accuracy"}),
    "smoothness neither flips nor rises": (
        {"world": differs("off", NEVER, "smoothness")["world"] | differs("alignment", LOW, "smoothness")["world"]},
        {"C7 flips", "C7 rises"}),
    "ImageNet does not rise": (differs("alignment", HIGH, where=IMAGENET),
                               {"C5b pairs", "C9 rises", "C12b alignment"}),
    "ImageNet does not fall": (differs("alignment", ALIGNED, where=IMAGENET), {"C6b alignment", "C9 falls"}),
    "standard networks heed the digit as much": (
        {"halves": {STANDARD: (.40, .10, .80)}}, {"C10a standard", "C11 standard"}),
    "robust networks heed the letter as much": (
        {"halves": {PER_IMAGE: (.30, .30, .80), STANDARD: (.20, .30, .55), UNTRAINED: (.10, .20, .50)}},
        {"C10a one"}),
    "untrained networks do all that": ({"halves": {UNTRAINED: (.36, .12, .80)}}, {"C10b untrained", "C11 untrained"}),
}


@pytest.mark.parametrize("changes, parts", REVERSED.values(), ids=REVERSED)
def test_what_is_not_so_misses_its_margin_and_nothing_else_changes(changes, parts, verdicts):
    got = judged(found(**changes))
    assert missed_parts(got) == parts
    fails = {part.split()[0] for part in parts}
    assert {claim for claim, one in got.items() if one.verdict != verdicts[claim].verdict} == fails
    assert {got[claim].verdict for claim in fails} <= {*MISSED}


def test_every_part_of_every_claim_fails_in_one_of_the_worlds():
    assert set().union(*(parts for _, parts in REVERSED.values())) == {
        f"{c.id} {part.id}" for c in PAPER if c.id != "C8" for part in c.parts}


def test_a_flip_without_a_regulariser_is_not_first():
    """Where networks without a regulariser have flipped already, nothing falls first."""
    f = found(**differs("off", (.10, .11, .12, .13, .12, .12, .01)))
    assert curves(f)["digits"]["noise"].flips() == [0] * 4
    ready = evidence(f)["C4b"]
    assert (ready["first"]["digits, noise"] == 0).all() and ready["flips"]["digits, noise"].mean() > .3
    assert judged(f)["C4b"].verdict == "undecided"


def test_off_manifold_changes_that_fall_steadily_in_every_repetition_are_a_track():
    f = found(odd=False)
    assert all((tracks > .9).all() for tracks in evidence(f)["C5a"]["tracks"].values())
    assert judged(f)["C5a"].verdict == judged(f)["C5b"].verdict == "supported"


def test_off_manifold_changes_too_small_to_tell_apart_are_no_track():
    f = found(world={("digits", "noise", "off"): [.001] * 7, ("digits", NONE, "off"): [.001]})
    assert (np.array(evidence(f)["C5b"]["tracks"]["digits, noise"]) == 0).all()
    assert judged(f)["C5b"].verdict != "supported"


def test_few_repetitions_decide_nothing():
    got = judged(found(sized({"seeds": 2})))
    assert {one.verdict for claim, one in got.items() if claim != "C8"} == {"undecided"}
    alone = evidence(found(sized({"seeds": 1})))
    assert set(alone) == {"C1", "C2", "C3a", "C3b", "C3c", "C10a", "C10b", "C11"}, "nobody else picks a strength"


# ------------------------------------------------------------------------------------- what is left out, and why


def test_a_strength_at_which_one_repetition_diverged_is_left_out_for_all(made):
    f = found(gone={("digits", "noise", 2., 3), ("digits", "per batch", 1., 0)})
    before, after = (curves(study_)["digits"]["noise"] for study_ in (made, f))
    assert before.strengths == (0., *SIX) and after.strengths == (0., .01, .1, .5, 1., 4.)
    assert after.right.shape == (6, 4, TESTED) and after.mean("on")[-1] == pytest.approx(.02, rel=.02)
    assert curves(f)["digits"]["PGD"].strengths == (0., *SIX)
    told = f.failures(where="digits")
    assert sorted(told) == ["digits, noise 2, repetition 3: the loss is nan",
                            "digits, per batch 1, repetition 0: the loss is nan"]
    assert f.failures(where="subspace") == []
    noted = next(c for c in claim_preconditions(f)["C4b"] if "the loss is nan" in c["detail"])
    assert noted["ok"] and all(words in noted["detail"] for words in told)
    # the peak was there: the next best is picked
    assert evidence(f)["C5b"]["rises"]["digits, noise"].mean() == pytest.approx(.50 - .10, abs=.01)


def lost(*names):
    f = found()
    return worlds.lose(f, *(c for c in f.cells if (c.condition.where, c.condition.kind, c.repetition) in names))


def test_a_repetition_without_its_unregularised_network_is_left_out_of_its_sweep(made, verdicts):
    f = lost(("digits", NONE, 2))
    got, ready, whole = judged(f), evidence(f), evidence(made)
    said = "digits, none, repetition 2: the loss is nan"
    about = {"C3b", "C3c", "C4b", "C4c", "C5b", "C6b", "C7", "C12b"}
    assert {claim for claim, one in got.items() if said in one.reason} == about
    for claim in about:
        assert {row.seeds for row in got[claim].rows if ": digits" in row.name} == {3}, claim
        assert got[claim].verdict == verdicts[claim].verdict
    same = [claim for claim in ("C1", "C2", "C3a", "C4a", "C10a", "C11") if got[claim].reason != verdicts[claim].reason]
    assert not same
    rows, before = (one["C3b"]["off_over_on"]["digits"] for one in (ready, whole))
    assert np.isnan(rows[2]).all() and np.array_equal(rows[[0, 1, 3]], before[[0, 1, 3]])
    assert failed_by_claim(claim_preconditions(f)) == {}


def test_a_sweep_without_any_unregularised_network_is_not_tested_and_says_why():
    f = lost(*(("digits", NONE, seed) for seed in range(4)), *(("ImageNet-64", NONE, seed) for seed in range(4)))
    got = judged(f)
    for claim in ("C3b", "C4b", "C5b", "C7"):
        assert got[claim].verdict == "not tested" and "repetition 3: the loss is nan" in got[claim].reason
    checks = [c for c in claim_preconditions(f)["C3b"] if not c["ok"]]
    assert len(checks) == 2 and all("no network is left; " in c["detail"] for c in checks)
    assert got["C3a"].verdict == got["C10a"].verdict == "supported"


def test_the_distractor_goes_on_without_a_failed_network(verdicts):
    f = lost(("digits_letter_a", STANDARD, 1))
    got = judged(f)
    said = "digits_letter_a, standard, repetition 1: the loss is nan"
    assert {claim for claim, one in got.items() if said in one.reason} == {"C10a", "C11"}
    assert {claim: one.verdict for claim, one in got.items()} == {c: one.verdict for c, one in verdicts.items()}
    assert {row.seeds for row in got["C11"].rows if f"{STANDARD}: digits_letter_a," in row.name} == {3}
    assert {row.seeds for row in got["C10b"].rows} == {4}
    assert (tables.networks(f).diverged != "").sum() == 1
    assert not tables.distractor(f)["log ratio"].isna().any() and len(tables.energies(f))


def test_a_short_curve_has_no_flip_peak_or_fall(made, measured):
    few = {name for claim, parts in measured.items() for rows in parts.values() for name in rows
           if name.startswith("torus") and claim not in ("C1", "C2", "C3a")}
    assert not few and curves(made)["torus"]["noise"].strengths == (0., .5)
    rest = found(gone={("digits", "noise", strength, 0) for strength in (.01, .1, .5, 1.)})
    assert len(curves(rest)["digits"]["noise"].strengths) == FEWEST - 1
    ready = evidence(rest)
    assert "digits, noise" not in ready["C4b"]["flips"] and "digits, PGD" in ready["C4b"]["flips"]
    assert set(ready["C3b"]["off_over_on"]) == {"digits", "ImageNet-64"}


def test_all_four_regularisers_are_tested_together_or_not_at_all():
    without = {"gradient_norm": SIX, "noise": SIX, "pgd": SIX}
    f = found(sized(sweep=("digits", {"strengths": without})))
    assert "C7" not in evidence(f) and judged(f)["C7"].verdict == "not tested"


def test_a_regulariser_of_too_few_strengths_is_not_every_regulariser():
    f = found(gone={("digits", "smoothness", strength, 0) for strength in SIX[:4]})
    assert "C7" not in evidence(f)


def test_without_a_network_that_reacts_there_is_no_flip_and_the_reason_is_said():
    dead = {(where, None, "on"): tuple(.09 * v for v in WORLD["on"]) for where in ("digits", "ImageNet-64")}
    f = found(world=dead)
    got = judged(f)
    assert "C4c" not in evidence(f) and "C4b" not in evidence(f)
    for claim in ("C4b", "C4c", "C7"):
        assert got[claim].verdict == "not tested"
        assert got[claim].reason.startswith(f"No measurement of {PAPER[claim].parts[0].what}")
    assert got["C4a"].verdict == got["C5b"].verdict == "supported"


def test_without_a_setting_beyond_the_peak_nothing_falls():
    late = (.10, .20, .30, .40, .50, .60, .70)
    f = found(world={("subspace", kind, "alignment"): late for kind in FIGURE})
    assert "C6a" not in evidence(f) and judged(f)["C6a"].reason.startswith("No measurement of")
    dead = found(world={("subspace", None, "accuracy"): (*WORLD["accuracy"][:6], .29)})
    assert "C6a" not in evidence(dead), "4 points above guessing is not beyond the peak, but the end"
    alive = found(world={("subspace", None, "accuracy"): (*WORLD["accuracy"][:6], .32)})
    assert evidence(alive)["C6a"]["accuracy"]["subspace, noise"].mean() == pytest.approx(.75 - .32, abs=.012)


def test_a_peak_at_the_start_has_no_track():
    f = found(world={("digits", None, "alignment"): (.60, .50, .40, .30, .20, .10, .05)})
    ready = evidence(f)["C5b"]
    assert set(ready["tracks"]) == {"ImageNet-64, PGD"} and (ready["rises"]["digits, noise"] == 0).all()


def test_levels_of_noise_that_change_nothing_do_not_count():
    quiet = found(halves={kind: (.002, .001, .5) for kind in HALVES})
    assert "C10a" not in evidence(quiet) and "C10b" not in evidence(quiet) and "C11" in evidence(quiet)
    dull = found(halves={UNTRAINED: (.004, .004, .5)})
    ready = evidence(dull)
    assert "C10b" not in ready, "no level at which both networks change"
    assert set(ready["C10a"]["standard"]) == set(ready["C10a"]["one"]) == set(areas(STANDARD))


# ------------------------------------------------------------------------------------------------- claim_preconditions


def failed(f):
    return failed_by_claim(claim_preconditions(f))


EXACTLY = {"C1", "C2", "C3a", "C4a", "C5a", "C6a", "C12a"}
ON_IMAGES = {"C3b", "C3c", "C4b", "C4c", "C5b", "C6b", "C7", "C8", "C9", "C12b"}
WITH_LETTERS = {"C10a", "C10b", "C11"}


def test_a_made_up_study_meets_every_precondition(made):
    assert failed(made) == {} and EXACTLY | ON_IMAGES | WITH_LETTERS == {c.id for c in PAPER}


@pytest.mark.parametrize("clean, ids, name", [
    ({("subspace", NONE): .6}, EXACTLY, "subspace: networks without a regulariser are trained"),
    ({("torus", NONE): .69}, EXACTLY, "torus: networks without a regulariser are trained"),
    ({("digits", NONE): .7}, ON_IMAGES, "digits: networks without a regulariser are trained"),
    ({("digits_letters", STANDARD): .7}, WITH_LETTERS, "digits_letters: standard networks are trained"),
    ({("digits_letter_a", PER_BATCH): .7}, WITH_LETTERS, f"digits_letter_a: {PER_BATCH} networks are trained"),
    ({("digits_letters", PER_IMAGE): .7}, WITH_LETTERS, f"digits_letters: {PER_IMAGE} networks are trained"),
])
def test_networks_that_have_not_learned_stop_the_judge_of_their_claims(clean, ids, name):
    f = found(clean=clean)
    assert failed(f) == dict.fromkeys(ids, [name])
    got = judged(f)
    assert {claim for claim, one in got.items() if one.verdict == "not tested"} == ids | {"C8"}
    assert all(name in got[claim].reason for claim in ids - {"C8"})


def test_untrained_and_regularised_networks_need_not_be_accurate():
    assert failed(found(clean={("digits", "noise"): .2, ("digits", UNTRAINED): .1, ("digits_letters", UNTRAINED): .1})
                  ) == {}


def test_a_score_or_tangent_spaces_that_know_nothing_stop_the_judge(made):
    f = found()
    f.quality["digits"] = [("the denoiser beats the best linear filter", False, "squared error 2.00e-02")]
    assert failed(f) == dict.fromkeys(ON_IMAGES, ["digits: the denoiser beats the best linear filter"])
    f.quality = made.quality | {"subspace": [("tangent spaces, closed form", False, "none")]}
    assert failed(f) == dict.fromkeys(EXACTLY, ["subspace: tangent spaces, closed form"])
