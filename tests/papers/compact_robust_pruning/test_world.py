"""Compact and robust networks: evidence with known numbers, and the verdicts of made-up studies."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from lib.claims.evidence import Contrast
from lib.claims.preconditions import preconditions_by_claim
from lib.claims.verdict import MISSED
from lib.papers.compact_robust_pruning import figures, tables
from lib.papers.compact_robust_pruning.evidence import claim_preconditions, evidence, preconditions, warnings
from lib.papers.compact_robust_pruning.networks import Condition, setup_named
from lib.papers.compact_robust_pruning.settings import BENIGN, ROBUST
from lib.training.evaluation import Outcomes
from tests.kit.worlds import failed, lose
from tests.papers.compact_robust_pruning.world import (
    BOUNDED,
    HARSH,
    IMAGES,
    KEEP,
    PAPER,
    POOLED,
    SEEDS,
    SMOOTHED,
    TRADED,
    found,
    judged,
    lwm,
    outcomes,
    ruled,
    sized,
    verdicts,
)

RULES_LEFT = ["LWM", "global magnitude", "SNIP", "HYDRA"]
WANTED = {  # up to the shifts of single networks, half a point at most
    ("C1", "clean"): dict.fromkeys(RULES_LEFT, .95 - .8 * .93),
    ("C1", "robust"): dict.fromkeys(RULES_LEFT, .05 - .8 * .60),
    ("C4a", "benign_finetuning"): dict.fromkeys(["pooled", "traded"], .57 - .05),
    ("C4a", "benign_pretraining"): dict.fromkeys(["pooled", "traded"], .57 - .50),
    ("C4a", "verified_benign_finetuning"): dict.fromkeys(["bounded", "crowned"], .44),
    ("C4a", "verified_benign_pretraining"): dict.fromkeys(["bounded", "crowned"], .44 - .35),
    ("C4b", "equal_epochs"): {"pooled": .57 - .53},
    ("C5a", "suffices"): {"LWM minus SNIP at 0.1": 0., "LWM minus HYDRA at 0.1": 0.},
    ("C5a", "above_random"): {"LWM minus random at 0.1": .57 - .45},
    ("C5b", "suffices"): {"LWM minus SNIP at 0.02": 0., "LWM minus HYDRA at 0.02": 0.},
}
KEPT = {("C2a", "clean"): (.90, .93), ("C2a", "robust"): (.57, .60), ("C2b", "clean"): (.90, .93),
        ("C2b", "robust"): (.57, .60), ("C3a", "verified"): (.44, .50), ("C3b", "verified"): (.44, .50)}


def test_every_part_of_every_claim_has_its_evidence_and_its_number(made):
    got = evidence(made)
    assert {(c, p) for c in got for p in got[c]} == {(c.id, p.id) for c in PAPER for p in c.parts}
    of_c6 = {(claim, "verified_minus_empirical") for claim in ("C6a", "C6b")}
    assert {*WANTED} | {*KEPT} | of_c6 == {(c, p) for c in got for p in got[c]}
    for (claim, part), wanted in WANTED.items():
        values = got[claim][part]
        assert {name: array.mean() for name, array in values.items()} == pytest.approx(wanted, abs=.0101)
        assert {array.shape for array in values.values()} == {(SEEDS, IMAGES)}
    for (claim, part), (pruned, whole) in KEPT.items():
        (name, (more,)), = got[claim][part].items()
        assert name == f"mean of {'bounded, crowned' if claim in ('C3a', 'C3b') else 'pooled, traded'}"
        assert more.shape == (2, SEEDS, IMAGES) and more.mean() == pytest.approx(pruned - .8 * whole, abs=.0101)
    for claim in ("C6a", "C6b"):
        shares = got[claim]["verified_minus_empirical"]
        assert {*shares} == {"bounded", "crowned"} and {v.shape for v in shares.values()} == {(SEEDS, IMAGES)}
        assert shares["bounded"].mean() == pytest.approx(.44 / .50 - .57 / .60, abs=.02)


def test_a_retained_share_of_several_networks_is_their_geometric_mean():
    f = found(accuracy={lwm("pooled"): (.90, .30, 0), lwm("traded"): (.90, .60, 0)})
    nets = [setup_named(f.section, name) for name in ("pooled", "traded")]
    one = {net.name: np.divide(*f.retained([net], "robust", "unpruned")) for net in nets}
    assert np.divide(*f.retained(nets, "robust", "unpruned")) == pytest.approx(np.sqrt(one["pooled"] * one["traded"]))
    assert one["pooled"].mean() == pytest.approx(.5, abs=.02)
    base = f.accuracy(Condition("pooled", ROBUST), "robust")
    assert one["pooled"] == pytest.approx(f.accuracy(lwm("pooled"), "robust") / base)
    pairs, = f.pairs(nets, "robust", "unpruned")
    assert pairs.shape == (2, 2, SEEDS, IMAGES)
    assert np.array_equal(pairs[:, 1], [f.correct(c, "robust") for c in (lwm("traded"), Condition("traded", ROBUST))])
    alone = found(sized(nets=[POOLED, BOUNDED]))
    (name, (more,)), = evidence(alone)["C2a"]["clean"].items()
    assert name == "pooled"
    assert np.array_equal(more[0], alone.correct(lwm("pooled")) - .8 * alone.correct(Condition("pooled", ROBUST)))


def test_networks_on_other_images_stand_apart_and_those_that_began_as_one_are_averaged():
    other = {**TRADED, "name": "elsewhere", "data": {"name": "digits", "holdout": 100, "test": 300}}
    twin = {**POOLED, "name": "twin", "finetune": {"epochs": 2}}
    f = found(sized(nets=[POOLED, TRADED, other, twin]))
    first, second = f.pairs(f.empirical, "robust", "dense")
    assert (first.shape, second.shape) == ((2, 2, SEEDS, IMAGES), (2, 1, SEEDS, IMAGES))
    pooled, twin, traded, elsewhere = (
        f.correct(lwm(net), "robust") for net in ("pooled", "twin", "traded", "elsewhere"))
    assert np.array_equal(first[0], [(pooled + twin) / 2, traded]) and np.array_equal(second[0], [elsewhere])
    (_, values), = evidence(f)["C2a"]["robust"].items()
    assert len(values) == 2 and verdicts(f)["C2a"] == "supported"


def test_a_contrast_weighs_its_arms(made):
    after, base = lwm("pooled", fine=BENIGN), Condition("pooled", ROBUST)
    got = Contrast((after,), (base,), (1, .8)).values(made, "robust")
    assert np.array_equal(got, made.correct(after, "robust") - .8 * made.correct(base, "robust"))
    assert np.array_equal(got, evidence(made)["C1"]["robust"]["LWM"])


def test_in_a_world_as_the_paper_says_its_claims_are_supported(made):
    assert verdicts(made) == dict.fromkeys([c.id for c in PAPER], "supported")


def both(*nets, **kind):
    return [lwm(net, **kind) for net in nets]


ADVERSARIAL, VERIFIED = ("pooled", "traded"), ("bounded", "crowned")
REVERSED = {  # what is not so, and the claims that it contradicts
    "one rule keeps robustness through benign fine-tuning":
        ({ruled("SNIP", fine=BENIGN): (.95, .57)}, {"C1"}),
    "pruning costs robustness":
        ({arm: (.90, .40) for arm in both(*ADVERSARIAL)}, {"C2a", "C2b", "C4a", "C4b", "C5a"}),
    "pruning costs clean accuracy":
        ({arm: (.70, .57) for arm in both(*ADVERSARIAL)}, {"C2a", "C2b"}),
    "further training alone does more":
        ({Condition(net, ROBUST, fine=ROBUST): (.93, .80) for net in ADVERSARIAL}, {"C2b"}),
    "pruning costs verified accuracy":
        ({arm: (.90, .57, .30) for arm in both(*VERIFIED)}, {"C3a", "C3b", "C4a"}),
    "further training alone verifies more":
        ({Condition(net, ROBUST, fine=ROBUST): (.93, .60, .60) for net in VERIFIED}, {"C3b"}),
    "benign pre-training is as good":
        ({lwm("traded", BENIGN): (.88, .57)}, {"C4a"}),
    "benign fine-tuning is as good":
        ({lwm("traded", fine=BENIGN): (.88, .57)}, {"C4a"}),
    "benign pre-training is as good for proofs":
        ({lwm("bounded", BENIGN): (.88, .50, .44)}, {"C4a"}),
    "benign fine-tuning is as good for proofs":
        ({lwm("bounded", fine=BENIGN): (.88, .50, .44)}, {"C4a"}),
    "benign pre-training is as good at equal epochs":
        ({lwm("pooled", BENIGN, longer=True): (.88, .57)}, {"C4b"}),
    "a rule that sees the objective is better":
        ({ruled("HYDRA"): (.90, .64)}, {"C5a"}),
    "random weights are as good":
        ({ruled("random"): (.90, .57)}, {"C5a"}),
    "a rule that sees the objective is better where little is kept":
        ({ruled("HYDRA", HARSH): (.80, .57)}, {"C5b"}),
    "proofs suffer no more than accuracies under attack":
        ({lwm("crowned"): (.90, .57, .48)}, {"C6a", "C6b"}),
}


@pytest.mark.parametrize("changes, fails", REVERSED.values(), ids=REVERSED)
def test_what_is_not_so_misses_its_margin_and_nothing_else_changes(changes, fails):
    got = verdicts(found(accuracy=changes))
    assert {claim for claim, verdict in got.items() if verdict != "supported"} == fails
    assert {got[claim] for claim in fails} <= {*MISSED}


def test_every_claim_is_contradicted_in_one_of_the_worlds():
    assert set().union(*(fails for _, fails in REVERSED.values())) == {c.id for c in PAPER}


def test_few_repetitions_decide_nothing():
    assert set(verdicts(found(sized(seeds=2))).values()) == {"undecided"}


# ------------------------------------------------------------------------------------ preconditions


def test_a_made_up_study_meets_every_precondition(made):
    assert failed(preconditions(made, [])) == []
    own = claim_preconditions(made)
    assert {*own} == {c.id for c in PAPER} and not [name for checks in own.values() for name in failed(checks)]
    shown = preconditions_by_claim(own)
    assert [*shown] == ["claim", "check", "holds", "detail"] and {*shown.holds} == {"yes"}
    assert len(shown) == sum(map(len, own.values())) and shown.claim.tolist() == sorted(shown.claim)


@pytest.mark.parametrize("change, name", [
    ({Condition("traded", BENIGN): (.5, .02)}, "traded: normal networks are trained"),
    ({Condition("pooled", BENIGN): (.97, .5)}, "pooled: normal networks are not robust"),
    ({Condition("bounded", ROBUST): (.8, .6, .5)}, "bounded: robust networks are trained"),
    ({Condition("crowned", ROBUST): (.93, .4, .35)}, "crowned: robust networks are robust"),
])
def test_without_its_unpruned_networks_nothing_is_judged(change, name):
    f = found(accuracy=change)
    assert failed(preconditions(f, [])) == [name]
    assert {*verdicts(f).values()} == {"not tested"}


def test_a_doubtful_attack_and_a_network_off_its_target_stop_the_judge(made):
    assert failed(preconditions(made, ["gradients are masked"])) == ["the attack can be trusted"]
    for arm, change, said in (
            (lwm("pooled"), {"kept": lambda t: t.kept + 2}, "pooled robust > LWM 0.1 > robust keeps 938 of 9300"),
            (lwm("pooled"), {"kept": lambda t: t.kept - 2}, "keeps 922 of 9300 weights"),
            (ruled("filters", Fraction(1, 2)), {"kept_channels": lambda t: t.kept_channels + 1},
             "filters 0.5 > robust keeps 11 of 20 channels of l1")):
        f = found()
        cell = next(c for c in f.layers if c.condition == arm)
        f.layers[cell] = f.layers[cell].assign(**change)
        check, = [c for c in preconditions(f, []) if not c["ok"]]
        assert check["name"] == "pruned networks meet their targets" and said in check["detail"]


def test_proofs_are_judged_only_where_the_unpruned_networks_are_verified():
    got = judged(found(accuracy={Condition("bounded", ROBUST): (.93, .60, .27)}))
    off = {claim for claim, one in got.items() if one.verdict == "not tested"}
    assert off == {"C3a", "C3b", "C4a", "C6a", "C6b"}, "27 % of 400 images have a lower bound below 25 %"
    assert "bounded: unpruned networks are verified" in got["C3a"].reason and "25% needed" in got["C6a"].reason


def test_fewer_than_three_rules_that_keep_clean_accuracy_are_not_most_ways():
    lost = {ruled(rule, fine=BENIGN): (.70, .02) for rule in RULES_LEFT[2:]}
    f = found(accuracy=lost)
    assert f.benign_kept["SNIP"] == pytest.approx(.70 / .93, abs=.02)
    assert [*evidence(f)["C1"]["robust"]] == ["LWM", "global magnitude"]
    got = judged(f)["C1"]
    assert got.verdict == "not tested" and "2 keep 80% of it" in got.reason and "SNIP 75" in got.reason
    three = found(accuracy={ruled("SNIP", fine=BENIGN): (.70, .60)})
    assert judged(three)["C1"].verdict == "supported", "a rule that loses the clean accuracy is not asked"


def test_a_collapsed_rule_may_lose_but_is_no_control():
    f = found(accuracy={ruled("HYDRA"): (.12, .02)})
    name = "pooled robust > HYDRA 0.1 > robust"
    assert f"LWM minus HYDRA at 0.1 ({name} collapsed)" in evidence(f)["C5a"]["suffices"]
    check = claim_preconditions(f)["C5a"][0]
    assert check["ok"] and f"{name} has a clean accuracy of 1" in check["detail"]
    assert verdicts(f)["C5a"] == "supported"
    got = judged(found(accuracy={ruled("random"): (.12, .02)}))
    assert got["C5a"].verdict == "not tested" and "guessing 10.0%" in got["C5a"].reason


def test_rules_are_judged_only_if_half_of_hydras_search_gives_the_same_verdict(made):
    got = judged(found(half=(.90, .64)))
    assert {claim for claim, one in got.items() if one.verdict == "not tested"} == {"C5a", "C5b"}
    assert "the search has converged" in got["C5a"].reason and "after half of the search" in got["C5a"].reason
    assert {c.condition for c in made.halved} == {ruled_half(KEEP), ruled_half(HARSH)}
    for c in made.halved:
        whole = made.of(replace(c.condition, half=False))[c.repetition].recipe
        search, = whole.parents
        assert c.recipe == replace(whole, parents=(replace(search, epochs=search.epochs // 2),)) and not c.measures
    long = found(sized(updates=100))
    assert not long.halved and verdicts(long)["C5a"] == "supported"


def ruled_half(keep):
    return replace(ruled("HYDRA", keep), half=True)


def test_a_broken_network_is_not_left_out_of_a_mean():
    got = judged(found(accuracy={lwm("traded"): (.12, .02)}))
    assert {claim for claim, one in got.items() if one.verdict == "not tested"} == {"C2a", "C2b"}
    assert "traded robust > LWM 0.1 > robust has a clean accuracy of 1" in got["C2a"].reason
    got = judged(found(accuracy={lwm("bounded"): (.12, .10, .10)}))
    assert {claim for claim, one in got.items() if one.verdict == "not tested"} == {
        "C3a", "C3b", "C6a", "C6b"}


def test_without_verifiable_networks_claims_about_proofs_are_not_tested():
    f = found(sized(nets=[POOLED, TRADED]))
    got = judged(f)
    assert {claim for claim, one in got.items() if one.verdict == "not tested"} == {"C3a", "C3b", "C4a", "C6a", "C6b"}
    assert all("No measurement of" in got[claim].reason for claim in ("C3a", "C3b", "C4a", "C6a", "C6b"))
    assert set(f.table().measure) == {"clean", "robust", "search"}


def test_smoothing_proves_nothing_of_the_network_that_is_attacked():
    got = evidence(found(sized(nets=[POOLED, SMOOTHED])))
    assert [*got["C3a"]["verified"]] == ["smoothed"] and "C6a" not in got


class Doubtful:
    """A stand-in for the zoo: the network of one architecture loses much to a second restart."""

    def outcomes(self, recipe, threat, attack):
        table = outcomes(0, .9, .5 if attack.restarts == 3 or recipe.arch.name == "CNN-small" else .4, "robust")
        return Outcomes(table.table, {}, [])


def test_doubts_name_the_network():
    f = found(sized(nets=[POOLED, BOUNDED]))
    assert f.section.search.restarts == 3
    said, = warnings(Doubtful(), f)
    assert said.startswith("pooled: one more restart") and "50.0%" in said and "40.0%" in said


# -------------------------------------------------------------------------------------------- networks that failed


def without(condition, *repetitions):
    f = found()
    return lose(f, *(c for c in f.of(condition) if c.repetition in repetitions))


def test_claims_go_on_without_the_repetition_of_a_failed_network_and_name_it(made):
    f = without(lwm("pooled"), 1)
    got, whole = judged(f), judged(made)
    assert {claim: one.verdict for claim, one in got.items()} == {claim: one.verdict for claim, one in whole.items()}
    said = "pooled robust > LWM 0.1 > robust, repetition 1: the loss is nan"
    assert {claim for claim, one in got.items() if said in one.reason} == {"C2a", "C2b", "C4a", "C4b", "C5a"}
    assert {row.seeds for row in got["C5a"].rows} == {3} and {row.seeds for row in got["C3a"].rows} == {SEEDS}
    assert {row.seeds for claim in ("C2a", "C2b") for row in got[claim].rows} == {3}
    assert {row.name.split(": ")[1]: row.seeds for row in got["C4a"].rows} == {
        "pooled": 3, "traded": 4, "bounded": 4, "crowned": 4}


def test_a_claim_with_no_repetition_left_is_not_tested_and_says_why():
    f = without(lwm("pooled"), *range(SEEDS))
    got = judged(f)
    assert {claim for claim, one in got.items() if one.verdict == "not tested"} == {"C2a", "C2b", "C4a", "C4b", "C5a"}
    assert all("repetition 3: the loss is nan" in got[claim].reason for claim in ("C2a", "C4a", "C5a"))
    assert got["C1"].verdict == got["C3a"].verdict == "supported"


@pytest.mark.parametrize("condition", [Condition("pooled", ROBUST), lwm("pooled"), lwm("pooled", fine=BENIGN),
                                       Condition("bounded", ROBUST)])
@pytest.mark.parametrize("repetitions", [(1,), range(SEEDS)])
def test_tables_figures_and_checks_go_on_without_failed_networks(condition, repetitions):
    f = without(condition, *repetitions)
    lost = f.table()[f.table().failed != ""]
    assert len(lost) == len(repetitions) and lost.accuracy.isna().all() and set(lost.failed) == {"the loss is nan"}
    tables.summary(f)
    figures.retained(tables.shares(f))
    assert len(tables.retention(f)) == len(tables.retention(found()))
    figures.objective_grid(tables.grid(f))
    figures.pruning_rules(tables.rules(f))
    assert not tables.rules(f).accuracy.isna().any() and len(tables.against_lwm(f)) and len(tables.benign(f))
    checks = preconditions(f, [])
    gone = condition.fine is None and len(repetitions) == SEEDS
    assert failed(checks) == [f"{condition.net}: robust networks are {what}" for what in ("trained", "robust")] * gone
    assert not gone or "repetition 0: the loss is nan" in checks[2 if condition.net == "pooled" else 10]["detail"]
