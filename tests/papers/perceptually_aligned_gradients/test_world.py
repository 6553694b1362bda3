"""Perceptually aligned gradients: evidence with known numbers, and the verdicts of made-up studies."""

import numpy as np
import pytest

from lib import statistics
from lib.claims.verdict import MISSED
from lib.papers.perceptually_aligned_gradients import results as study
from lib.papers.perceptually_aligned_gradients import tables
from lib.papers.perceptually_aligned_gradients.evidence import (
    EQUAL,
    claim_preconditions,
    evidence,
    line_of,
    named_checks,
    other_architecture,
)
from lib.papers.perceptually_aligned_gradients.networks import (
    CENTRED,
    CLASSES,
    HEURISTICS,
    IMAGES,
    NORM,
    RANDOM,
    SCORE,
    TOY,
    TRADES_ALONE,
    VANILLA,
)
from lib.papers.perceptually_aligned_gradients.settings import SMOOTH
from lib.papers.perceptually_aligned_gradients.truths import INDEPENDENT
from tests.kit import worlds
from tests.kit.worlds import failed_by_claim, missed_parts
from tests.papers.perceptually_aligned_gradients.world import (
    COMBINED,
    GENERATED,
    LENGTHY,
    PAPER,
    POINTS,
    QUERIES,
    SEEN,
    STUDIES,
    SWEEP,
    TESTED,
    found,
    only,
    sized,
)

JUDGED = {c.id for c in PAPER if "paper" in c.scope}


def judged(f):
    """Claim id -> judged, at the profile that tests all."""
    return worlds.judged([c for c in PAPER if c.id in JUDGED], evidence(f), claim_preconditions(f))


@pytest.fixture(scope="module")
def verdicts(made):
    return judged(made)


def each(names, number):
    return dict.fromkeys(names, number)


def with_norms(rows):
    return {f"{name}, {norm}": number for name, number in rows.items() for norm in ("l2", "linf")}


MAINS = {"one image": .20, "class mean": .25, "nearest neighbour": .30, SCORE: .60}
GAIN = {**with_norms({f"digits, {kind}": share - .02 for kind, share in MAINS.items()}),
        **with_norms({"CIFAR-10, class mean": .23, "CIFAR-10, score": .48}), "digits ViT, score, l2": .43}
SEES = {**{f"digits, {kind}": .15 for kind in HEURISTICS}, "digits, score": .45, "digits ViT, score": .30,
        "CIFAR-10, class mean": .15, "CIFAR-10, score": .35}
KEPT = {"digits, l2": 0, "digits, linf": 0, "digits ViT, l2": 0, "CIFAR-10, l2": 0, "CIFAR-10, linf": 0}
OTHERS = {"one image": .20, "class mean": .25, "nearest neighbour": .30, CENTRED[0]: .28, CENTRED[1]: .34}


def on_line(share, low, high):
    """Robust accuracy on the line through two points (clean, robust), at the clean accuracy `share`."""
    return low[1] + (share - low[0]) / (high[0] - low[0]) * (high[1] - low[1])


PLAIN = .97, .02
AT_SCORE = {kind: .60 - on_line(.88, PLAIN, (.80, robust)) for kind, robust in OTHERS.items()}
RANDOMLY = {kind: .60 - on_line(.88, PLAIN, (.80, .04)) if kind == SCORE else robust - .04
            for kind, robust in MAINS.items()}
SCORED = on_line(.92, (.94, .45), (.88, .60))  # at the clean accuracy of controls with one weight
WANTED = {
    "C1a": {"clean": each((VANILLA, "nearest neighbour"), 1.), "gain": {"nearest neighbour": .70},
            "collapse": {"nearest neighbour": .05}},
    "C1b": {"gain": {RANDOM: .65, CLASSES: .80}},
    "C2a": {"rate": each([name for name in SEES if name != "digits ViT, score"], .50)},
    "C2b": {"cosine": SEES, "pairs": {name: number - .02 for name, number in SEES.items()}},
    "C3a": {"gain": GAIN},
    "C3b": {"permuted": with_norms({f"digits, {CLASSES}": .60 - on_line(.88, (.90, .10), (.80, .20))}),
            "norm": with_norms({f"digits, {NORM}": .60 - on_line(.88, (.92, .12), (.80, .25)),
                                f"digits, {SMOOTH}": SCORED - .12})},
    "C3c": {"random": with_norms({**{f"digits, {kind}": number for kind, number in RANDOMLY.items()},
                                  "CIFAR-10, class mean": .21,
                                  "CIFAR-10, score": .50 - on_line(.90, PLAIN, (.80, .04))})},
    "C3d": {"images": with_norms({f"digits, {IMAGES}": SCORED - .15})},
    "C4a": {"best": with_norms({**{f"digits, {kind}": .60 - robust for kind, robust in OTHERS.items()},
                                "CIFAR-10, class mean": .25})},
    "C4b": {"best": with_norms({**{f"digits, {kind}": number for kind, number in AT_SCORE.items()},
                                "CIFAR-10, class mean": .50 - on_line(.90, PLAIN, (.80, .25))})},
    "C5a": {"rises": each(("digits, l2", "digits, linf"), .225), "aligns": {"digits": .175}},
    "C5b": {"net": each(("digits, l2", "digits, linf"), .225 - .085)},
    "C6": {"gain": {"digits ViT, l2": .43}},
    "C7": {"gain": {"digits, l2": .58, "digits, linf": .58, "CIFAR-10, l2": .48, "CIFAR-10, linf": .48}},
    "C8a": {"gain": with_norms({"digits, AT": .15, "digits, TRADES": .12})},
    "C8b": {"cost": with_norms({"digits, AT": .13})},
    "C9": {"square": {name: .02 for name in KEPT}, "steps": {name: .14 for name in KEPT},
           "transfer": {**{f"{name}, from {VANILLA}": .35 for name in KEPT},
                        **{f"{name}, from AT l2": .25 for name in KEPT if "ViT" not in name}},
           "zero": KEPT},
}


@pytest.mark.parametrize("claim", WANTED)
def test_the_evidence_of_a_claim_has_its_instances_and_their_numbers(measured, claim):
    ready = measured[claim]
    assert set(ready) == {part.id for part in PAPER[claim].parts}
    of_claim = {"C1a": POINTS, "C1b": POINTS, "C2a": GENERATED, "C2b": SEEN, "C9": QUERIES}.get(claim, TESTED)
    for part, wanted in WANTED[claim].items():
        images = SEEN if part == "aligns" else of_claim
        equal = claim in EQUAL
        got = {name: (statistics.at_equal_cost(*values) if equal else values).mean()
               for name, values in ready[part].items()}
        assert got == pytest.approx(wanted, abs=.0051), part
        shape = 4 if claim.startswith("C1") else 3, images
        shape = (2, 3, *shape) if equal else shape
        assert {v.shape for v in ready[part].values()} == {shape}, part


def test_every_claim_has_its_evidence(made, measured):
    assert set(measured) == set(WANTED) == JUDGED
    assert set(claim_preconditions(made)) == JUDGED | {"C10"} == {c.id for c in PAPER if c.scope}


def test_in_a_world_as_the_paper_says_its_claims_are_supported(verdicts):
    assert {claim: (one.verdict, one.reason) for claim, one in verdicts.items() if one.verdict != "supported"} == {}


def test_images_are_paired_with_themselves_and_repetitions_with_each_other(made, measured):
    gain, rate = measured["C3a"]["gain"]["digits, one image, l2"], measured["C2a"]["rate"]["digits, score"]
    for seed in range(3):
        one, plain, score = (only(made.cells, "digits", *kind, seed=seed) for kind in (
            ("one image",), (VANILLA,), (SCORE, 3.)))
        assert (gain[seed] == made.stacked([one], "l2")[0] - made.stacked([plain], "l2")[0]).all()
        rows = [made.rate[c].reshape(GENERATED, 9).mean(1) for c in (score, plain)]
        assert rate[seed] == pytest.approx(rows[0] - rows[1]), "what one image is moved to is no sample of its own"


def by_weight(kind, what, *values):
    return {(kind, weight, what): value for weight, value in zip(SWEEP, values, strict=True)}


ADVERSARIAL = {("digits", COMBINED, w, what): .30 for w in (.03, .1) for what in ("robust", "held robust")}
# what is not so -> how the world then differs, the parts of claims that then fail
REVERSED = {
    "the toy is no more robust": (
        {"points": {VANILLA: (1., .95, .90, .00), CLASSES: (1., .95, .90, .00)}}, {"C1a gain", "C1b gain"}),
    "robust where nothing can be": ({"points": {"nearest neighbour": (1., .98, .90, .50)}}, {"C1a collapse"}),
    "any direction does on the toy": ({"points": {RANDOM: (1., .95, .88, .00)}}, {"C1b gain"}),
    "no images of the class": ({"world": {("one image", "rate"): .12}}, {"C2a rate"}),
    "gradients as before": ({"world": {("digits", "class mean", "cosine"): .05}}, {"C2b cosine", "C2b pairs"}),
    "near to any image's score": ({"world": {("nearest neighbour", "pairs"): .18}}, {"C2b pairs"}),
    "one realisation is not robust": ({"world": {("one image", "robust"): .01}}, {"C3a gain", "C3c random"}),
    "not robust in one norm": ({"world": {("one image", "robust linf"): .01}}, {"C3a gain", "C3c random"}),
    "permuted classes do as much": (
        {"world": by_weight(CLASSES, "robust", .40, .60, .62)}, {"C3b permuted"}),
    "a penalty on the norm does as much": (
        {"world": {(NORM, w, "robust"): .61 for w in (1., 4.)}}, {"C3b norm"}),
    "it does in a smooth network": ({"world": {(SMOOTH, "robust"): SCORED + .06}}, {"C3b norm"}),
    "a random direction does as much": ({"world": {(RANDOM, "robust"): .47}}, {"C3c random"}),
    "another image's score does as much": ({"world": {(IMAGES, "robust"): SCORED + .06}}, {"C3d images"}),
    "a heuristic is as good at its price": ({"world": {("CIFAR-10", "class mean", "robust"): .50}}, {"C4a best"}),
    "a heuristic is as good": ({"world": {("CIFAR-10", "class mean", "robust"): .50,
                                          ("CIFAR-10", "class mean", "clean"): .90}}, {"C4a best", "C4b best"}),
    "a centred one is as good": ({"world": {(CENTRED[1], "robust"): .60}}, {"C4a best"}),
    "weight does not make robust": (
        {"world": by_weight(SCORE, "robust", .47, .45, .46)}, {"C5a rises", "C5b net"}),
    "weight does not align": ({"world": by_weight(SCORE, "cosine", .36, .37, .35)}, {"C5a aligns"}),
    "the better aligned is less robust": (
        {"world": by_weight(SCORE, "robust", .50, .45, .40)}, {"C5a rises", "C5b net"}),
    "permuted classes win as much": ({"world": by_weight(CLASSES, "robust", .15, .40, .60)}, {"C5b net"}),
    "not with another architecture": ({"world": {("digits ViT", SCORE, "robust"): .02}}, {"C3a gain", "C6 gain"}),
    "not on other data": ({"world": {("CIFAR-10", SCORE, "robust"): .02, ("CIFAR-10", "class mean", "robust"): .02}},
                          {"C3a gain", "C3c random", "C7 gain", "C4a best", "C4b best"}),
    "the term adds nothing": ({"world": ADVERSARIAL}, {"C8a gain", "C8b cost"}),
    "longer training does as much": ({"world": {(LENGTHY, "robust"): .46}}, {"C8b cost"}),
    "nothing is added to TRADES": ({"world": {(TRADES_ALONE, "robust"): .43}}, {"C8a gain"}),
    "random search breaks more": ({"masking": {"square": .20}}, {"C9 square"}),
    "images of others break more": ({"masking": {"from AT l2": .20}}, {"C9 transfer"}),
    "one step breaks more than twenty": ({"masking": {"FGSM": .20}}, {"C9 steps"}),
    "the largest ball leaves some": ({"masking": {"largest ball": .1}}, {"C9 zero"}),
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
        f"{c.id} {part.id}" for c in PAPER if c.id in JUDGED for part in c.parts} - {"C1a clean"}  # see the next test


def test_a_cost_in_accuracy_on_the_toy_is_a_verdict_and_not_a_missing_precondition():
    got = judged(found(points={"nearest neighbour": (.92, .9, .85, .05)}))
    assert missed_parts(got) == {"C1a clean"} and got["C1a"].verdict == "contradicted"
    assert got["C1b"].verdict == "not tested" and "nearest neighbour networks are trained" in got["C1b"].reason


def test_effects_near_the_margin_are_undecided(verdicts):
    got = judged(found(world={("digits", SMOOTH, "robust"): SCORED - .025}))
    assert got["C3b"].verdict == "undecided" and "so it may or may not be more than +2.0 points" in got["C3b"].reason
    near = {(COMBINED, .1, "robust"): .32, (COMBINED, .03, "robust"): .30, (LENGTHY, "robust"): .295}
    got = judged(found(world=near))
    assert got["C8a"].verdict == got["C8b"].verdict == "undecided" and got["C9"].verdict == verdicts["C9"].verdict


def test_few_repetitions_decide_nothing():
    got = judged(found(sized({"seeds": 2, "toy.seeds": 2})))
    assert {one.verdict for one in got.values()} == {"undecided"}
    alone = evidence(found(sized({"seeds": 1, "toy.seeds": 1})))
    assert set(alone) == JUDGED


# ------------------------------------------------------------------------------------- what is compared with what


def weight_of(f, kind, where="digits"):
    cells_ = f.best(where, kind)
    assert len({c.condition for c in cells_}) <= 1 and [c.repetition for c in cells_] == [0, 1, 2][:len(cells_)]
    return cells_[0].condition.weight if cells_ else None


def test_a_kind_is_judged_at_the_weight_that_is_most_robust_on_held_out_images(made):
    own = {VANILLA: 0, "one image": .1, SCORE: 3, CENTRED[1]: .5, RANDOM: .1, CLASSES: 3, NORM: 4, "AT l2": 0,
           COMBINED: .1}
    assert {kind: weight_of(made, kind) for kind in own} == own
    assert weight_of(made, RANDOM, "CIFAR-10") == .5 and made.best("digits ViT", RANDOM) == []
    f = found(world={("digits", SCORE, .3, "held robust"): .7, ("digits", COMBINED, .03, "held robust"): .6})
    assert weight_of(f, SCORE) == .3, "whatever test images say"
    assert evidence(f)["C3a"]["gain"]["digits, score, l2"].mean() == pytest.approx(.45 - .02, abs=.006)
    assert evidence(f)["C8a"]["gain"]["digits, AT, l2"].mean() == pytest.approx(.36 - .30, abs=.006)
    assert evidence(f)["C8b"]["cost"]["digits, AT, linf"].mean() == pytest.approx(.36 - .32, abs=.006)
    assert {c.condition.weight for c in f.masking if c.condition.where == "digits"} == {.3}


def test_what_collapsed_is_no_best_weight_no_end_of_a_line_and_no_slope():
    f = found(world={("digits", SCORE, 3., "clean"): .15, ("digits", CLASSES, 3., "clean"): .12})
    assert weight_of(f, SCORE) == .3 and weight_of(f, CLASSES) == .3
    assert [cells_[0].condition.weight for cells_ in f.curve("digits", CLASSES)] == [0, .03, .3]
    got = judged(f)
    assert "digits, score 3: collapsed, clean accuracy 15.0%" in got["C3a"].reason
    assert got["C5a"].verdict == got["C5b"].verdict == "not tested", "two weights are left"
    assert got["C4b"].verdict == "supported", "at 0.94 the heuristics are on both sides"
    assert got["C3b"].verdict == "not tested" and "digits: score and gradient norm, softplus" in got["C3b"].reason


def test_a_method_that_collapsed_at_every_weight_can_lose_but_not_win():
    bad = {("digits", "one image", "clean"): .12, ("digits", "one image", "robust"): .11}
    got, ready = judged(found(world=bad)), evidence(found(world=bad))
    assert "digits, one image (collapsed), l2" in ready["C4a"]["best"] and got["C4a"].verdict == "supported"
    assert "digits, one image, l2" not in ready["C3a"]["gain"] and got["C3a"].verdict == "not tested"
    assert "one image" in got["C3a"].reason and got["C4b"].verdict == "not tested", "vanilla alone is no line"
    won = {**bad, ("digits", "one image", "robust"): .9}
    assert not [name for name in evidence(found(world=won))["C4a"]["best"] if "one image" in name]


def test_without_weights_on_both_sides_nothing_is_compared_at_equal_accuracy(made):
    best, low, high = made.around("digits", SCORE, NORM)
    assert [cells_[0].condition.weight for cells_ in (best, low, high)] == [3, 1, 4]
    f = found(world={("digits", NORM, 4., "clean"): .89})  # then the score's weights are on both sides
    assert f.around("digits", SCORE, NORM) is None and judged(f)["C3b"].verdict == "supported"
    kind, cells_ = line_of(f, "digits", SCORE, NORM)
    assert kind == SCORE and [some[0].condition.weight for some in cells_] == [4, .3, 3]
    norm = evidence(f)["C3b"]["norm"]["digits, gradient norm, l2"]
    wanted = on_line(.89, (.94, .45), (.88, .60)) - .25
    assert statistics.at_equal_cost(*norm).mean() == pytest.approx(wanted, abs=.006)
    f = found(world={("digits", NORM, 4., "held clean"): .98})
    got = judged(f)["C3b"]
    assert line_of(f, "digits", SCORE, NORM) is None and got.verdict == "not tested"
    assert "digits: score and gradient norm: the weights of one lie on both sides" in got.reason
    assert made.around("digits ViT", SCORE, NORM) is None


def test_a_side_study_speaks_for_no_claim_of_the_paper():
    one = {**STUDIES[1], "side": True}
    f = found(sized({"studies": [STUDIES[0], one]}))
    ready = evidence(f)
    assert set(ready["C10"]["gain"]) == {"digits ViT, l2"} and "C6" not in ready
    assert not [name for claim, parts in ready.items() if claim != "C10" for rows in parts.values() for name in rows
                if "ViT" in name]
    plain = found(sized({"studies": [STUDIES[0], one]}), world={("digits ViT", VANILLA, "clean"): .5})
    assert failed(plain) == {"C10": ["digits ViT: vanilla networks are trained"]}
    c10 = ready.judge(PAPER["C10"], "laptop", claim_preconditions(f)["C10"])
    assert c10.verdict == "supported"


def test_a_weight_at_which_one_repetition_diverged_is_left_out_for_all(made):
    gone = {("digits", SCORE, .3, 2), ("digits", CLASSES, .3, 0), ("digits", "one image", .1, 1),
            ("digits", NORM, 1, 0), ("digits", COMBINED, .1, 0)}
    f = found(gone=gone)
    assert f.weights("digits", SCORE) == [.03, 3] and f.weights("digits", NORM) == [.5, 4]
    assert f.best("digits", "one image") == [] and weight_of(f, SCORE) == 3 and weight_of(f, COMBINED) == .03
    assert len(f.failures(where="digits")) == 5 and f.failures(where="CIFAR-10") == []
    ready, got = evidence(f), judged(f)
    assert {name for name in ready["C3a"]["gain"] if name.startswith("digits,")} == {
        f"digits, {kind}, {norm}" for kind in ("class mean", "nearest neighbour", SCORE) for norm in ("l2", "linf")}
    assert "C5a" not in ready and "C5b" not in ready
    left = ready["C8a"]["gain"]["digits, AT, l2"]
    assert left.mean() == pytest.approx(.36 - .30, abs=.006), "the weight that is left"
    for claim in ("C3a", "C4a"):
        assert got[claim].verdict == "not tested" and "one image" in got[claim].reason
    assert "digits, score 0.3, repetition 2: the loss is nan" in got["C3b"].reason
    assert got["C6"].verdict == got["C7"].verdict == "supported"


def lost(*names):
    f = found()
    return worlds.lose(f, *(c for c in f.cells if (c.condition.where, c.condition.kind, c.repetition) in names))


def test_claims_go_on_without_the_repetition_of_a_failed_vanilla_network(made, verdicts):
    f = lost(("digits", VANILLA, 1))
    got, ready, whole = judged(f), evidence(f), evidence(made)
    said = "digits, vanilla 0, repetition 1: the loss is nan"
    named = {claim for claim, one in got.items() if said in one.reason}
    assert {"C2a", "C2b", "C3a", "C7"} <= named and not named & {"C1a", "C3d", "C4a", "C5a", "C5b", "C8a", "C8b"}
    rows = {row.name: row.seeds for row in got["C3a"].rows}
    assert {seeds for name, seeds in rows.items() if "gain: digits," in name} == {2}
    assert {seeds for name, seeds in rows.items() if "gain: CIFAR-10," in name} == {3}
    assert {row.seeds for row in got["C3c"].rows if "digits," in row.name} == {2}, "vanilla ends their lines"
    gain, before = (one["C3a"]["gain"]["digits, score, l2"] for one in (ready, whole))
    assert np.isnan(gain[1]).all() and np.array_equal(gain[[0, 2]], before[[0, 2]])
    cosine, before = (one["C2b"]["cosine"]["digits, score"] for one in (ready, whole))
    assert np.isnan(cosine).all(1).tolist() == [False, True, False] and np.array_equal(cosine[[0, 2]], before[[0, 2]])
    assert got["C4a"].verdict == verdicts["C4a"].verdict and failed_by_claim(claim_preconditions(f)) == {}
    for one in f.studies:
        assert len(tables.summary(f, one.name)) and len(tables.methods(f, one.name))
    assert len(tables.equal(f)) and len(tables.added(f)) and len(tables.masking(f))


def test_a_study_without_any_vanilla_network_fails_its_check_and_says_why():
    f = lost(*(("digits", VANILLA, seed) for seed in range(3)))
    failed = [check for check in claim_preconditions(f)["C3b"] if not check["ok"]]
    assert failed[0]["name"] == "digits: vanilla networks are trained"
    assert failed[0]["detail"].startswith("no network is left; digits, vanilla 0, repetition 0: the loss is nan")
    assert judged(f)["C3a"].verdict == "not tested"


def test_the_toy_goes_on_without_a_failed_network():
    f = lost((TOY, RANDOM, 0))
    got = judged(f)
    assert {claim for claim, one in got.items() if "toy, random direction 1, repetition 0" in one.reason} == {"C1b"}
    seeds = {row.name: row.seeds for row in got["C1b"].rows}
    assert seeds == {"gain: random direction": 3, "gain: permuted classes": 4}
    assert {row.seeds for row in got["C1a"].rows} == {4}


def test_a_repetition_is_judged_by_the_next_one(made):
    one = made.study("digits")
    judges = [study.independent(made, one, seed) for seed in range(3)]
    assert [(c.condition.kind, c.repetition) for c in judges] == [("AT linf", 1), ("AT linf", 2), ("AT linf", 0)]
    assert study.independent(made, made.study("digits ViT"), 0) is None


def test_slopes_are_over_the_logarithm_of_the_weight_and_within_repetitions(made, measured):
    for norm in ("l2", "linf"):
        for seed in range(3):
            row, other = ([only(made.cells, "digits", kind, w, seed) for w in SWEEP] for kind in (SCORE, CLASSES))
            level, chance = ([made.measured(c, norm).accuracy("robust") for c in some] for some in (row, other))
            near = [(made.alignment[c][f"own, {INDEPENDENT}"] * .1
                     + made.alignment[c][f"others, {INDEPENDENT}"] * .9).mean() for c in row]
            rises, net = (measured[claim][part][f"digits, {norm}"][seed].mean() for claim, part in (
                ("C5a", "rises"), ("C5b", "net")))
            assert rises == pytest.approx((level[2] - level[0]) / 2)
            assert net == pytest.approx((level[2] - level[0] - chance[2] + chance[0]) / 2)
            assert measured["C5a"]["aligns"]["digits"][seed].mean() == pytest.approx((near[2] - near[0]) / 2)


def test_two_weights_make_no_sweep():
    f = found(gone={("digits", SCORE, 3., 0)})
    assert not {"C5a", "C5b"} & {*evidence(f)} and judged(f)["C5a"].verdict == "not tested"


def test_studies_of_the_same_data_differ_by_their_architecture(made):
    assert [other_architecture(made, one) for one in made.studies] == [False, True, False]
    alone = found(sized({"studies": STUDIES[:2]}))
    ready = evidence(alone)
    assert set(ready["C6"]["gain"]) == {"digits ViT, l2"} and "C7" not in ready, "one data set says nothing of others"
    assert judged(alone)["C7"].verdict == "not tested"
    assert "C6" not in evidence(found(sized({"studies": [STUDIES[0], STUDIES[2]]})))


def test_what_was_not_trained_is_left_out():
    bare = {name: value for name, value in STUDIES[1].items() if name != "first_weight"}
    ready = evidence(found(sized({"studies": [bare], "toy.controls": []})))
    assert set(ready) == {"C1a", "C2b", "C3a", "C9"} and set(ready["C9"]) == {"square", "steps", "transfer", "zero"}
    heuristic = {**bare, "weights": {"class_mean": [1.]}}
    f = found(sized({"studies": [heuristic]}))
    for c in f.alignment:
        f.alignment[c] = f.alignment[c].drop(columns=[n for n in f.alignment[c] if "score" in n])
    assert set(evidence(f)) == {"C1a", "C1b", "C3a"} and set(evidence(f)["C3a"]["gain"]) == {
        "digits ViT, class mean, l2"}


# ------------------------------------------------------------------------------------------------- preconditions


def failed(f):
    return failed_by_claim(claim_preconditions(f))


ON_IMAGES = {"C2a", "C2b", "C3a", "C3b", "C3c", "C3d", "C4a", "C4b", "C5a", "C5b", "C6", "C7", "C9"}


def test_a_made_up_study_meets_every_precondition(made):
    assert failed(made) == {} and ON_IMAGES | {"C1a", "C1b", "C8a", "C8b"} == JUDGED
    checks, own = named_checks(made), claim_preconditions(made)
    assert [*checks] == ["toy", "images", "added", "equal", "side"] and not checks["side"]
    assert [checks[name] for name in ("toy", "images", "added")] == [own["C1b"], own["C2a"], own["C8a"]]
    assert len(checks["equal"]) == 3 + 6 + 1 + 6 and all("on both sides" in one["name"] for one in checks["equal"])


@pytest.mark.parametrize("changes, ids, name", [
    ({"points": {VANILLA: (.9, .3, .2, 0)}}, {"C1a", "C1b"}, "toy: vanilla networks are trained"),
    ({"world": {("digits", VANILLA, "clean"): .89}}, ON_IMAGES, "digits: vanilla networks are trained"),
    ({"world": {("CIFAR-10", VANILLA, "clean"): .79}}, ON_IMAGES, "CIFAR-10: vanilla networks are trained"),
    ({"world": {("digits ViT", VANILLA, "robust"): .06}}, ON_IMAGES, "digits ViT: vanilla networks are not robust, l2"),
    ({"world": {(VANILLA, "robust linf"): .055}}, ON_IMAGES, "digits: vanilla networks are not robust, linf"),
    ({"world": {("digits", "AT l2", "robust"): .06}}, {"C8a", "C8b"},
     "digits: adversarial training makes robust, l2"),
    ({"world": {("CIFAR-10", "AT linf", "robust linf"): .06}}, {"C2a"},
     "CIFAR-10: adversarial training makes robust, linf"),
    ({"world": {("CIFAR-10", "AT l2", "robust"): .06}}, set(), ""),
])
def test_what_must_hold_stops_the_judge_of_its_claims(changes, ids, name):
    f = found(**changes)
    assert {claim for claim, names in failed(f).items() if name in names} == ids == {*failed(f)}
    got = judged(f)
    assert {claim for claim, one in got.items() if one.verdict == "not tested"} == ids
    assert all(name in got[claim].reason for claim in ids)


def test_a_denoiser_or_an_attack_that_cannot_be_trusted_stops_the_judge():
    f = found()
    f.quality["CIFAR-10"] = [("the denoiser beats the best linear filter", False, "squared error 2.00e-02")]
    assert failed(f) == dict.fromkeys(ON_IMAGES, ["CIFAR-10: the denoiser beats the best linear filter"])
    f = found()
    f.outcomes[only(f.cells, "digits", SCORE, 3., 1)]["l2"].warnings.append("logits are random")
    assert failed(f) == dict.fromkeys(ON_IMAGES, ["digits: the attack can be trusted"])
    assert "logits are random" in judged(f)["C4a"].reason
    f = found()
    f.outcomes[only(f.cells, "digits", SCORE, .3, 1)]["l2"].warnings.append("logits are random")
    assert failed(f) == {}, "it is no part of a comparison of realisations"
