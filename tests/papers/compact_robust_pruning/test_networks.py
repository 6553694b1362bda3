"""Compact and robust networks: the networks that are planned, and what they are measured under."""

from dataclasses import replace
from fractions import Fraction

import pytest

from lib import claims
from lib.papers import settings
from lib.papers.compact_robust_pruning.networks import DENSE, Condition, Repetition, conditions
from lib.papers.compact_robust_pruning.results import Results
from lib.papers.compact_robust_pruning.settings import BENIGN, ROBUST
from lib.papers.plan import plan
from lib.values.architectures import Pruned
from lib.values.attacks import PGD
from lib.values.certificates import Bounds, Smoothing
from lib.values.objectives import IBP, TRADES, Adversarial, CrossEntropy, CrownIBP, Prune, Saliency
from tests.papers.compact_robust_pruning.world import (
    CROWNED,
    HARSH,
    KEEP,
    PAPER,
    POOLED,
    SEEDS,
    SMOOTHED,
    TRADED,
    WARM,
    S,
    cells,
    lwm,
    sized,
    the,
)


def pretrained(s, name, pre, repetition=0):
    return Repetition(s.networks, s.sections[S], repetition, s.seed).pretrained(the(s, name), pre)


@pytest.fixture(scope="module")
def planned():
    return sized()


def of(s, condition):
    return [c.recipe for c in cells(s) if c.condition == condition]


def line(recipe):
    """A recipe and what it was made from, the first training first."""
    return [*line(recipe.parents[0]), recipe] if recipe.parents else [recipe]


def test_every_arm_starts_from_the_pre_trained_network_of_its_repetition(planned):
    for c in cells(planned):
        assert line(c.recipe)[0] == pretrained(planned, c.condition.net, c.condition.pre, c.repetition), c.condition
    starts = {line(c.recipe)[0].key for c in cells(planned)}
    assert len(starts) == 4 * 2 * SEEDS
    warm = sized(nets=[WARM])
    clean, robust = line(pretrained(warm, "traded", ROBUST))
    assert (clean.epochs, clean.objective, robust.epochs) == (2, CrossEntropy(), 10)
    assert pretrained(warm, "traded", BENIGN).parents == ()


def test_the_pools_networks_are_not_trained_twice(planned):
    shared = {recipe.key for recipe in planned.networks.pool(planned.seed).values()}
    assert {r.key for pre in (ROBUST, BENIGN) for r in of(planned, Condition("pooled", pre))} <= shared
    assert not {r.key for r in of(planned, Condition("traded", ROBUST))} & shared
    tasks = {task.recipe.key: task for task in plan(planned, (S,))}
    assert tasks[of(planned, Condition("pooled", ROBUST))[2].key].job == "pool-2"
    assert tasks[of(planned, Condition("traded", ROBUST))[2].key].job == f"{S}-2"
    by_network = {task.recipe.key: task.job for task in plan(replace(planned, jobs="networks"), (S,))}
    assert by_network[of(planned, Condition("traded", ROBUST))[2].key] == f"{S}-traded-robust-2"


def test_longer_fine_tunings_may_have_fewer_repetitions(planned):
    longer = lwm("pooled", BENIGN, longer=True)
    assert len(of(planned, longer)) == SEEDS and len(of(sized(longer_seeds=3), longer)) == 3


def test_searches_and_fine_tunings_may_have_an_attack_of_their_own():
    attack = PGD(2, Fraction("0.1"))
    own = {"attack": {"steps": 2, "step_size": .1}}
    s = sized(nets=[{**POOLED, **own}, {**TRADED, **own}])
    for name in ("pooled", "traded"):
        tuned = of(s, lwm(name))[0]
        assert tuned.objective.attack == attack != tuned.parents[0].objective.attack
    search, = of(s, Condition("pooled", ROBUST, "HYDRA", KEEP, ROBUST))[0].parents
    assert search.objective.objective.attack == attack


def test_certified_training_as_the_network_says():
    """Its ramp in pre-training only, and as many bounded images as given."""
    mixed = {**CROWNED, "name": "mixed", "training": "MixTrain", "bounded": 1, "ramp": "1/4",
             "certificate": {"type": "Bounds", "method": "CROWN"}}
    s = sized(nets=[POOLED, {**CROWNED, "ramp": "3/5"}, mixed])
    for name, end in (("crowned", .6), ("mixed", .25)):
        tuned = of(s, lwm(name))[0]
        before = tuned.parents[0].objective
        assert (before.start, before.end) == (0, end) and (tuned.objective.start, tuned.objective.end) == (0, 0)
    assert before.images == tuned.objective.images == 1


def test_no_network_is_made_twice(planned):
    assert len({c.recipe.key for c in cells(planned)}) == len(cells(planned))
    every = conditions(planned.sections[S])
    assert len({*every}) == len(every)


def test_benign_and_robust_steps_are_equally_long(planned):
    for name in ("pooled", "traded", "bounded", "crowned"):
        net, steps = the(planned, name), ("epochs", "optimiser", "schedule", "batch_size", "augment", "data", "choice")
        tuned = [of(planned, lwm(name, pre, fine))[0] for pre in (ROBUST, BENIGN) for fine in (ROBUST, BENIGN)]
        tuned.append(of(planned, Condition(name, ROBUST, fine=ROBUST))[0])
        assert len({tuple(getattr(r, step) for step in steps) for r in tuned}) == 1
        assert tuned[0].epochs == net.finetune.epochs == 7 and tuned[0].choice is None
        if net.pretrain:
            assert {pretrained(planned, name, pre).epochs for pre in (ROBUST, BENIGN)} == {10}


def test_objectives_are_what_arms_say(planned):
    kinds = {"pooled": Adversarial, "traded": TRADES, "bounded": IBP, "crowned": CrownIBP}
    for c in cells(planned):
        first, last = line(c.recipe)[0], c.recipe
        assert type(first.objective) is (kinds[c.condition.net] if c.condition.pre == ROBUST else CrossEntropy)
        if c.condition.fine is not None:
            assert type(last.objective) is (kinds[c.condition.net] if c.condition.fine == ROBUST else CrossEntropy)
        assert isinstance(last.arch, Pruned) == (c.condition.rule != DENSE)


def test_the_longer_arm_has_the_robust_epochs_of_both_steps():
    s = sized(nets=[POOLED, {**TRADED, "longer": True}])
    assert s.networks.normal.epochs != s.networks.robust.epochs, "it is the robust ones that count"
    for name in ("pooled", "traded"):
        (longer, *_), (usual, *_) = (of(s, lwm(name, BENIGN, longer=more)) for more in (True, False))
        both = of(s, lwm(name))[0]
        assert longer.epochs == both.epochs + both.parents[0].epochs
        assert longer.parents == usual.parents and longer.objective == both.objective == both.parents[0].objective


def test_iterative_pruning_ends_at_keep_after_as_many_epochs(planned):
    for keep in (KEEP, HARSH):
        _, *rounds = line(of(planned, Condition("pooled", ROBUST, "iterative LWM", keep, ROBUST))[0])
        assert [r.arch.keep for r in rounds] == [Fraction(1, 2), Fraction(1, 4), keep]
        assert sum(r.epochs for r in rounds) == 7 and min(r.epochs for r in rounds) >= 2
        assert {r.objective for r in rounds} == {rounds[0].objective}


@pytest.mark.parametrize("name", ["bounded", "crowned"])
def test_certified_fine_tuning_has_full_eps_where_it_was_seen_and_a_ramp_where_not(planned, name):
    first, = {r.objective for r in of(planned, Condition(name, ROBUST))}
    seen, = {r.objective for r in of(planned, lwm(name))}
    new, = {r.objective for r in of(planned, lwm(name, BENIGN))}
    assert first.eps == seen.eps == new.eps == Fraction(1, 10)
    assert (seen.start, seen.end) == (0, 0) and first.end > first.start >= 0
    assert (new.start, new.end) == (first.start, first.end)


def test_scores_are_found_on_the_objective_of_the_fine_tuning(planned):
    for fine in (ROBUST, BENIGN):
        for rule, kind in (("SNIP", Saliency), ("HYDRA", Prune)):
            tuned = of(planned, Condition("pooled", ROBUST, rule, KEEP, fine))[0]
            search, = tuned.parents
            assert type(search.objective) is kind and search.objective.objective == tuned.objective
            assert search.arch == tuned.arch and search.parents[0] == line(tuned)[0]
            assert search.epochs == (1 if rule == "SNIP" else planned.sections[S].score.epochs)


def test_every_network_is_measured_by_attack_and_the_verifiable_by_proof(planned):
    s = planned.sections[S]
    for c in cells(planned):
        net, hows = the(planned, c.condition.net), [how for _, how in c.measures]
        assert hows[0] == s.verify and (net.certificate in hows) == net.verifiable
        assert (s.search in hows) == (c.condition.fine is None)
        restarts = {getattr(how, "restarts", None) for how in hows}
        assert (s.search.restarts + 1 in restarts) == (c.condition == Condition(net.name, ROBUST) and c.repetition == 0)
        if net.name in ("bounded", "crowned"):
            assert {t for t, _ in c.measures} == {net.threat}
    smooth = sized(nets=[POOLED, SMOOTHED])
    (attacked, _), (proven, how) = next(c for c in cells(smooth) if c.condition == lwm("smoothed")).measures
    assert attacked == smooth.networks.threat and proven.norm == "l2" and isinstance(how, Smoothing)


def test_harsher_keeps_have_the_rules_that_are_named_for_them():
    every = conditions(sized(harsher_rules=["LWM", "HYDRA"]).sections[S])
    found = {keep: {c.rule for c in every if c.compared and (c.keep, c.fine) == (keep, ROBUST)}
             for keep in (KEEP, Fraction(1, 50))}
    assert found == {KEEP: {"random", "SNIP", "HYDRA", "iterative LWM"}, Fraction(1, 50): {"LWM", "HYDRA"}}


def test_batch_jobs_are_a_repetitions_networks(planned):
    names = {c.job for c in cells(planned)}
    assert len(names) == (4 * 2 + 1) * SEEDS and "pooled-rules-3" in names and "crowned-benign-0" in names


# ------------------------------------------------------------------------------------ preconditions


@pytest.mark.parametrize("profile", ["smoke", "laptop", "gpu", "paper"])
def test_what_a_profile_is_said_to_test_it_has_the_networks_for(profile):
    s = settings.load(profile)
    section, trained = s.sections[S], {c.condition for c in cells(s)}
    f = Results(s.networks, section, s.seed, cells(s))
    assert f.empirical and f.verifiable and section.seeds >= claims.verdict.MIN_SEEDS
    assert any(isinstance(net.certificate, Bounds) for net in f.verifiable), "C6"
    assert any(Condition(net.name, BENIGN, "LWM", section.keep, ROBUST, True) in trained for net in f.empirical), "C4b"
    assert len({"LWM", *section.benign_rules}) >= 3, "C1"
    assert {"LWM", "random", "HYDRA"} <= {*section.rules}, "C5a"
    assert len(section.keeps) > 1 or profile not in PAPER["C5b"].scope, "C5b"
