"""Off-manifold robustness: evidence with known numbers, and the verdicts of made-up studies."""

import math

import numpy as np
import pytest

from lib.claims.verdict import MISSED
from lib.manifold import spectrum
from lib.papers.off_manifold_robustness import tables
from lib.papers.off_manifold_robustness.curves import curves
from lib.papers.off_manifold_robustness.evidence import ALL, FEWEST, claim_preconditions, evidence
from lib.papers.off_manifold_robustness.networks import NONE, PER_BATCH, PER_IMAGE, POOL, STANDARD, UNTRAINED
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


A = [f"subspace, {kind}" for kind in ("gradient norm", "noise", "PGD")]
B = [*(f"digits, {kind}" for kind in ALL), "ImageNet-64, PGD"]
POOLED = "digits, pool"
FLIP = {"before": math.log(.8 / .5), "flips": math.log(.40 / .10), "gains": math.log(.8 / .5) + math.log(.40 / .10),
        "once": math.log(.02 / .01)}
CONTRAST = np.subtract(WORLD["on"], WORLD["off"])
NET = np.subtract(WORLD["alignment"], WORLD["shuffled pairs"])
RISE = {"rises": .60 - .10, "pairs": .50 - .03, "slope": np.polyfit(CONTRAST, NET, 1)[0]}
FALL = {"alignment": .60 - .20, "accuracy": .75 - .40}
BEST = {"accuracy": .92 - .75, "alignment": .60 - .20}
OF_POOL = {"before": FLIP["before"], "flips": FLIP["flips"], "gains": FLIP["gains"]}
WITHOUT = ["digits", POOLED, "ImageNet-64"]


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
    "C3a": every(["subspace", "torus"], {"off_over_on": FLIP["before"]}),
    "C3b": every(WITHOUT, {"off_over_on": FLIP["before"]}),
    "C3c": every(WITHOUT, {"untrained": FLIP["before"]}),
    "C3d": every(["digits, length 0.5", f"{POOLED}, length 0.5"], {"short": math.log(.20 / .15)}),
    "C3e": every(WITHOUT, {"matched": math.log(.70 / .50)}),
    "C4a": every(A, FLIP),
    "C4b": {part: {**rows, **({POOLED: OF_POOL[part]} if part in OF_POOL else {})}
            for part, rows in every(B, FLIP).items()},
    "C4c": every([*B, POOLED], {"matched": math.log(.40 / .15)}),
    "C4d": every([f"{name}, length 0.5" for name in [*B[:-1], POOLED]], {"short": math.log(.12 / .04)}),
    "C4e": every([*B, POOLED], {"untrained": FLIP["flips"]}),
    "C5a": every(A, RISE),
    "C5b": {part: {**rows, **({POOLED: {"rises": .4, "pairs": .38}[part]} if part != "slope" else {})}
            for part, rows in every(B, RISE).items()},
    "C5c": every([f"{name}, cosine as a proxy" for name in [*B, POOLED]], {"rises": .30, "pairs": .30}),
    "C6a": every(A, FALL), "C6b": every(B, FALL),
    "C7": every([f"digits, {kind}" for kind in ALL], {"flips": FLIP["flips"], "rises": RISE["rises"]}),
    "C9": every(["ImageNet-64, PGD"], {"rises": RISE["rises"], "falls": FALL["alignment"]}),
    "C13": {"rises": dict.fromkeys(B, .70 - .05) | {POOLED: .60 - .05}},
    "C14": {part: dict.fromkeys(B[:-1], .70 - other) | {POOLED: .60 - other}
            for part, other in {"pca": .3, "frequencies": .25, "other": .35}.items()},
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
        close = 0 if part in ("aligned", "robust", "limit") else .01
        assert got == pytest.approx(wanted, rel=.01, abs=close), part
        statistic = next(p.statistic for p in PAPER[claim].parts if p.id == part)
        apart = 2 if claim in ("C10a", "C10b") else 1  # digits above and below the letter
        images = TESTED if part == "accuracy" else IMAGES // apart
        assert {v.shape for v in ready[part].values()} == {(4,) if statistic == "seeds" else (4, images)}


def test_every_claim_has_its_evidence(made, measured):
    assert set(measured) == set(WANTED) == {c.id for c in PAPER} - {"C8"}  # of published networks: test_published
    assert set(claim_preconditions(made)) == {c.id for c in PAPER}


def test_in_a_world_as_the_paper_says_its_claims_are_supported(verdicts):
    assert {claim: one.verdict for claim, one in verdicts.items() if one.verdict != "supported"} == {
        "C8": "not tested"}, {claim: one.reason for claim, one in verdicts.items()}


NEVER = tuple((1.15 if k == 4 else 1.2) * v for k, v in enumerate(WORLD["on"]))
AGAIN = (*WORLD["off"][:6], .03)  # the strongest is more sensitive off the manifold again
FLAT = (.10,) * 7
HIGH = (.295, .298, .301, .304, .307, .31, .10)
LOW = (.10, .101, .102, .104, .107, .115, .05)
ALIGNED = (*WORLD["alignment"][:6], .595)
IMAGENET = ("ImageNet-64",)
ON_BOTH = {"on, auto-encoder, 0.5": FLAT, "off, auto-encoder, 0.5": FLAT}
# what is not so -> how the world then differs, the rows of claims that then fail
REVERSED = {
    "no limit, and Bayes gradients off the manifold": (
        {"theory": {"order": .5, "worst": .01}}, {"C1 order", "C2 aligned"}),
    "another limit, and a Bayes classifier that is not robust": (
        {"theory": {"limit": .1, "bayes": .01}}, {"C1 limit", "C2 robust"}),
    "on above off from the start": (
        {"world": {("torus", None, "on"): (.8, .7), ("torus", None, "off"): (.5, .5),
                   **differs("off", (.40, .38, .36, .30, .10, .06, .01))["world"]}},
        {"C3a off_over_on", "C3b off_over_on", "C3c untrained", "C4a before", "C4b before"}),
    "untrained networks favour steps off the manifold as much": (
        {"world": {("digits", UNTRAINED, "off"): (.0805,)}}, {"C3c untrained"}),
    "untrained networks favour steps along the manifold as much": (
        {"world": {("digits", POOL["U"], "on"): (.205,)}}, {"C4e untrained"}),
    "short steps do not tell": ({"world": {("digits", None, name): values for name, values in ON_BOTH.items()}},
                                {"C3d short", "C4d short"}),
    "matched steps do less, and at the flip as much": (
        differs("matched", (.40, .62, .45, .30, .395, .05, .01), where=("digits",)), {"C3e matched", "C4c matched"}),
    "no flip": (differs("off", NEVER),
                {"C4a flips", "C4a gains", "C4a once", "C4b flips", "C4b gains", "C4b once", "C4e untrained",
                 "C7 flips"}),
    "a second change of the order": (differs("off", AGAIN), {"C4a once", "C4b once"}),
    "no rise": (differs("alignment", HIGH), {"C5a rises", "C5a pairs", "C5a slope", "C12a alignment", "C5b rises",
                                             "C5b pairs", "C5b slope", "C7 rises", "C12b alignment"}),
    "any pair rises": (differs("shuffled pairs", (.05, .15, .25, .35, .45, .55, .15)),
                       {"C5a pairs", "C5b pairs"}),
    "the paper's pair does not rise": (differs("sum of logits", FLAT, where=("digits",)), {"C5c rises", "C5c pairs"}),
    "aligned to the end": (differs("alignment", ALIGNED), {"C6a alignment", "C6b alignment"}),
    "accurate to the end": (differs("accuracy", (*WORLD["accuracy"][:6], .75)), {"C6a accuracy", "C6b accuracy"}),
    "the best aligned is the most accurate": (
        differs("accuracy", (.85, .85, .85, .85, .85, .86, .40)), {"C12a accuracy", "C12b accuracy"}),
    "smoothness neither flips nor rises": (
        {"world": differs("off", NEVER, "smoothness", ("digits",))["world"]
         | differs("alignment", LOW, "smoothness", ("digits",))["world"]},
        {"C4b flips", "C4b once", "C4e untrained", "C5b rises", "C5b pairs", "C5b slope", "C7 flips", "C7 rises",
         "C12b alignment"}),
    "ImageNet does not rise": (differs("alignment", HIGH, where=IMAGENET),
                               {"C5b rises", "C5b pairs", "C5b slope", "C9 rises", "C12b alignment"}),
    "ImageNet does not fall": (differs("alignment", ALIGNED, where=IMAGENET), {"C6b alignment", "C9 falls"}),
    "gradients stay where they are": (differs("inside", (.3,) * 7, where=("digits",)),
                                      {"C13 rises", "C14 pca", "C14 other"}),
    "gradients are in other spaces as much": (
        {"world": {("digits", None, f"inside, {name}"): WORLD["inside"]
                   for name in ("PCA", "lowest frequencies", "another image's")}},
        {"C14 pca", "C14 frequencies", "C14 other"}),
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


def test_a_flip_without_a_regulariser_is_no_change_of_the_order():
    f = found(**differs("off", (.10, .13, .13, .13, .13, .10, .01)))
    assert (curves(f)["digits"]["noise"].flips() == 0).all()
    ready = evidence(f)["C4b"]
    assert abs(ready["gains"]["digits, noise"].mean()) < .01 and ready["flips"]["digits, noise"].mean() > .3
    got = judged(f)["C4b"]
    assert got.verdict == "contradicted" and got.decisive.name.startswith("before: ")


def test_spectrum_matched_steps_that_do_not_exist_leave_their_claims_untested(verdicts):
    f = found()
    f.matching["ImageNet-64"] = spectrum.said("ImageNet-64", 0., .2)
    got = judged(f)
    assert got["C3e"].verdict == got["C4c"].verdict == "supported", "there are some on digits"
    assert not [row for claim in ("C3e", "C4c") for row in got[claim].rows if "ImageNet" in row.name]
    assert "ImageNet-64: no such control: " in claim_preconditions(f)["C4c"][-1]["detail"]
    f.matching["digits"] = spectrum.said("digits", .02, 0.)
    got = judged(f)
    assert got["C3e"].verdict == got["C4c"].verdict == "not tested" and "no such control" in got["C4c"].reason
    assert {claim for claim, one in got.items() if one.verdict != verdicts[claim].verdict} == {"C3e", "C4c"}


def test_a_strength_that_is_not_alive_is_named():
    dead = (*WORLD["on"][:6], .005)
    got = judged(found(world={("digits", "noise", "on"): dead}))
    said = "digits, noise 4: not alive in every repetition"
    assert {claim for claim, one in got.items() if said in one.reason} == {"C4b", "C5b", "C6b", "C12b"}
    assert got["C4b"].verdict == "supported"
    assert got["C6b"].verdict == "not tested" and "no living network is beyond the peak" in got["C6b"].reason


def test_few_repetitions_decide_nothing():
    got = judged(found(sized({"seeds": 2})))
    assert {one.verdict for claim, one in got.items() if claim != "C8"} == {"undecided"}
    alone = evidence(found(sized({"seeds": 1})))
    assert {"C1", "C2", "C3a", "C3e", "C10a"} < {*alone}
    assert not {"C4a", "C5a", "C6a", "C6b", "C7", "C12b"} & {*alone}, "nobody else picks a strength"


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
    about = {c.id for c in PAPER} & {"C3b", "C3c", "C3d", "C3e", "C4b", "C4c", "C4d", "C4e", "C5b", "C5c", "C6b", "C7",
                                     "C12b", "C13", "C14"}
    assert {claim for claim, one in got.items() if said in one.reason} == about
    for claim in about:
        rows = [row for row in got[claim].rows if ": digits" in row.name and "pool" not in row.name]
        assert {row.seeds for row in rows} == {3}, claim
        assert got[claim].verdict == verdicts[claim].verdict
    same = [claim for claim in ("C1", "C2", "C3a", "C4a", "C10a", "C11") if got[claim].reason != verdicts[claim].reason]
    assert not same
    rows, before = (one["C3b"]["off_over_on"]["digits"] for one in (ready, whole))
    assert np.isnan(rows[2]).all() and np.array_equal(rows[[0, 1, 3]], before[[0, 1, 3]])
    assert failed_by_claim(claim_preconditions(f)) == {}


def test_a_sweep_without_any_unregularised_network_is_not_tested_and_says_why():
    f = lost(*(("digits", NONE, seed) for seed in range(4)), *(("ImageNet-64", NONE, seed) for seed in range(4)))
    got = judged(f)
    for claim in ("C3b", "C4b", "C4c", "C5b", "C5c", "C7", "C13"):
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
    ready, got = evidence(rest), judged(rest)
    assert np.isnan(ready["C4b"]["flips"]["digits, noise"]).all() and len(ready["C4b"]["flips"]["digits, PGD"]) == 4
    for claim in ("C4b", "C4c", "C5b", "C6b", "C12b", "C13"):
        assert got[claim].verdict == "not tested" and "digits, noise 0.01, repetition 0" in got[claim].reason
    assert set(ready["C3b"]["off_over_on"]) == set(WITHOUT) and got["C3b"].verdict == "supported"


def test_all_four_regularisers_are_tested_together_or_not_at_all():
    without = {"gradient_norm": SIX, "noise": SIX, "pgd": SIX}
    f = found(sized(sweep=("digits", {"strengths": without})))
    assert "C7" not in evidence(f) and judged(f)["C7"].verdict == "not tested"


def test_a_regulariser_of_too_few_strengths_is_not_every_regulariser():
    f = found(gone={("digits", "smoothness", strength, 0) for strength in SIX[:4]})
    got = judged(f)["C7"]
    assert got.verdict == "not tested" and "digits, smoothness: fewer than three strengths are left" in got.reason


def test_without_a_network_that_reacts_there_is_no_flip_and_the_reason_is_said():
    dead = {("digits", None, "on"): tuple(.09 * v for v in WORLD["on"])}
    got = judged(found(world=dead))
    for claim in ("C4b", "C7"):
        assert got[claim].verdict == "not tested" and "digits, noise: no network reacts" in got[claim].reason
    for claim in ("C4c", "C4d", "C4e"):
        assert got[claim].verdict == "not tested"
    assert got["C4a"].verdict == got["C13"].verdict == "supported"


def test_without_a_setting_beyond_the_peak_nothing_falls():
    late = (.10, .20, .30, .40, .50, .60, .70)
    f = found(world={("subspace", "noise", "alignment"): late})
    got = judged(f)["C6a"]
    assert got.verdict == "not tested" and "subspace, noise: no living network is beyond the peak" in got.reason
    dead = found(world={("subspace", None, "accuracy"): (*WORLD["accuracy"][:6], .29)})
    assert judged(dead)["C6a"].verdict == "not tested", "4 points above guessing is not beyond the peak, but the end"
    alive = found(world={("subspace", None, "accuracy"): (*WORLD["accuracy"][:6], .32)})
    assert evidence(alive)["C6a"]["accuracy"]["subspace, noise"].mean() == pytest.approx(.75 - .32, abs=.012)


def test_a_peak_at_the_start_does_not_rise():
    f = found(world={("digits", None, "alignment"): (.60, .50, .40, .30, .20, .10, .05)})
    ready = evidence(f)["C5b"]
    assert (ready["rises"]["digits, noise"] == 0).all() and ready["slope"]["digits, noise"].mean() < 0


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
ON_IMAGES = {"C3b", "C3c", "C3d", "C3e", "C4b", "C4c", "C4d", "C4e", "C5b", "C5c", "C6b", "C7", "C8", "C9", "C12b",
             "C13", "C14"}
OF_THE_POOL = ON_IMAGES - {"C6b", "C7", "C8", "C9", "C12b"}
WITH_LETTERS = {"C10a", "C10b", "C11"}


def test_a_made_up_study_meets_every_precondition(made):
    assert failed(made) == {} and EXACTLY | ON_IMAGES | WITH_LETTERS == {c.id for c in PAPER}


@pytest.mark.parametrize("clean, ids, name", [
    ({("subspace", NONE): .6}, EXACTLY, "subspace: networks without a regulariser are trained"),
    ({("torus", NONE): .69}, EXACTLY, "torus: networks without a regulariser are trained"),
    ({("digits", NONE): .7}, ON_IMAGES, "digits: networks without a regulariser are trained"),
    ({("digits", POOL["N"]): .7}, OF_THE_POOL, "digits: the pool's normal networks are trained"),
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
