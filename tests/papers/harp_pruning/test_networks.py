"""HARP: the networks that are planned, and what they are measured under."""

from dataclasses import replace
from fractions import Fraction

import pytest

from lib import claims
from lib.papers import settings
from lib.papers.harp_pruning import networks
from lib.papers.harp_pruning.evidence import contrasts
from lib.papers.harp_pruning.networks import Condition, search_of
from lib.papers.harp_pruning.results import Results
from lib.papers.harp_pruning.settings import BY_CHANNEL, METHODS
from lib.papers.plan import plan
from lib.profiles.networks import updates
from lib.values.architectures import Pruned
from lib.values.attacks import PGD, tiers
from lib.values.objectives import ADMM, MART, TRADES, Adversarial, FreeAdversarial, Prune, Rewire
from tests.papers.harp_pruning.world import HALF, HARSH, MILD, PAPER, S, cells, compared, sized


def of(s, method, keep=1, granularity="weights", loss="PGD-AT"):
    return [c for c in cells(s) if c.condition == Condition(method, Fraction(keep), granularity, loss)]


def root(recipe):
    return root(recipe.parents[0]) if recipe.parents else recipe


def test_every_method_prunes_the_dense_network_of_its_repetition(planned):
    base = {(c.condition.loss, c.repetition): c.recipe for c in compared(planned)
            if c.condition.method == "pre-trained"}
    assert len({r.key for r in base.values()}) == 3 * 4
    for c in compared(planned):
        if c.condition.method not in ("N", "pre-trained", "BCS-P"):
            assert root(c.recipe) == base[c.condition.loss, c.repetition], c.condition
    scratch, = {c.recipe.parents for c in compared(planned) if c.condition.method == "BCS-P"}
    assert scratch == ()
    pool = [t.recipe.key for t in plan(planned, ("stitching", "representation_similarity"))]
    assert base["PGD-AT", 0].key in pool, "the common pool's networks are not trained twice"


def test_the_dense_network_and_all_methods_are_fine_tuned_alike(planned):
    names = ("objective", "epochs", "optimiser", "schedule", "choice", "batch_size", "augment", "data", "trainable")
    tuned = {tuple(getattr(c.recipe, name) for name in names) for c in compared(planned)
             if c.condition.method not in ("N", "pre-trained", "BCS-P") and c.condition.loss == "PGD-AT"}
    (one,) = tuned
    assert one[names.index("choice")].attack == planned.networks.robust.attack, "the epoch is chosen under an attack"
    assert one[1] == planned.sections[S].finetune.epochs


def test_searches_differ_in_what_is_learned_and_in_nothing_else(planned):
    every = {method: of(planned, method, HARSH)[0].recipe for method in METHODS}
    found = {method: search_of(recipe) for method, recipe in every.items() if search_of(recipe)}
    searched = {name for name, rule in METHODS.items() if "learned" in rule.values()}
    assert set(found) == searched
    assert {r.epochs for r in found.values()} == {planned.sections[S].prune.epochs}
    usual = found["HARP"]
    for name, recipe in found.items():
        assert isinstance(recipe.objective, Prune) and recipe.objective.objective == usual.objective.objective
        assert recipe.choice is None and recipe.arch.keep == HARSH
        assert (recipe.optimiser == usual.optimiser) == (name != "HARP, no decay on rates")
        assert recipe.objective.growing == (name != "HARP, constant gamma")
    assert found["HARP, no decay on rates"].optimiser.no_decay == ("quota",)
    assert found["HYDRA + HARP rates"].parents == (usual.parents[0], usual), "the rates that HARP has found"


def test_gamma_and_decay_of_a_search_are_those_of_the_settings(planned):
    search, s = search_of(of(planned, "HARP", HARSH)[0].recipe), planned.sections[S]
    assert (search.objective.gamma, search.optimiser.weight_decay) == (s.gamma, s.prune.optimiser.weight_decay)
    constant = search_of(of(planned, "HARP, constant gamma", HARSH)[0].recipe)
    assert constant.objective.gamma == s.constant_gamma


def test_searches_shorter_than_the_papers_are_also_made_half_as_long(planned):
    half = [c for c in cells(planned) if c.condition.half]
    assert {c.condition for c in half} == {Condition(method, HARSH, half=True) for method in ("HARP", "HYDRA")}
    for c in half:
        whole = of(planned, c.condition.method, HARSH)[c.repetition].recipe
        search = search_of(whole)
        shorter = replace(search, epochs=search.epochs // 2)
        assert c.recipe == replace(whole, parents=(shorter,), keep=()) and c.measures == ()
    assert not [c for c in cells(settings.load("paper")) if c.condition.half]
    assert not [c for c in cells(settings.load("imagenet")) if c.condition.half]


def test_searches_and_fine_tunings_may_have_an_attack_of_their_own():
    attack = PGD(2, Fraction("0.1"))
    s = sized(attack={"steps": 2, "step_size": .1}, losses=["PGD-AT", "MART"])
    for loss in ("PGD-AT", "MART"):
        tuned = of(s, "HARP", HARSH, loss=loss)[0].recipe
        assert tuned.objective.attack == search_of(tuned).objective.objective.attack == tuned.choice.attack == attack
        assert root(tuned).objective.attack == s.networks.robust.attack != attack


def test_rival_chains(planned):
    dense, = {r for r in (of(planned, "R-ADMM", HARSH)[0].recipe.parents)}
    assert isinstance(dense.objective, ADMM) and dense.objective.keep == HARSH and not isinstance(dense.arch, Pruned)
    scratch, s = of(planned, "BCS-P", HARSH)[0].recipe, planned.sections[S]
    assert isinstance(scratch.objective, Rewire) and scratch.choice is not None
    assert scratch.epochs == planned.networks.robust.epochs + s.prune.epochs + s.finetune.epochs


def test_admm_at_rates_of_each_layer(planned):
    """ERK's follow from the layers' sizes; LAMP's are those of the dense network before ADMM."""
    erk, = {c.recipe for c in of(planned, "R-ADMM + ERK", HARSH) if c.repetition == 0}
    lamp, = {c.recipe for c in of(planned, "R-ADMM + LAMP", HARSH) if c.repetition == 0}
    assert [one.parents[0].objective.rates for one in (erk, lamp)] == ["erk", "lamp"]
    assert (erk.arch.rates, lamp.arch.rates) == ("erk", "parent")
    pattern = lamp.parents[1]
    assert pattern.arch == replace(lamp.arch, rates="lamp") and pattern.parents == lamp.parents[0].parents


def test_the_dense_stage_of_admm_may_have_a_training_of_its_own():
    admm = {"epochs": 100, "schedule": {"name": "piecewise", "period": "3/10"}}
    dense = of(sized(admm=admm), "R-ADMM", HARSH)[0].recipe.parents[0]
    assert (dense.epochs, dense.objective.every, dense.schedule.period) == (100, 30, Fraction(3, 10))


def test_other_losses_and_channels(planned):
    for loss, kind in (("TRADES", TRADES), ("MART", MART)):
        arms = {c.condition.method for c in compared(planned) if c.condition.loss == loss}
        assert arms == {"pre-trained", "dense", "HARP", "HYDRA"}
        cell = of(planned, "HARP", HARSH, loss=loss)[0]
        every = [cell.recipe.objective, search_of(cell.recipe).objective.objective, root(cell.recipe).objective]
        assert {type(one) for one in every} == {kind}, "the same loss in all three stages"
    by_channel = {c.condition.method for c in compared(planned) if c.condition.granularity == "channels"}
    assert by_channel == set(BY_CHANNEL)
    assert of(planned, "HARP", HALF, "channels")[0].recipe.arch.granularity == "channels"


def test_free_adversarial_training_counts_its_replays(planned):
    s = sized(losses=["Free-AT"])
    base, search = of(s, "pre-trained", loss="Free-AT")[0].recipe, search_of(
        of(s, "HARP", HARSH, loss="Free-AT")[0].recipe)
    assert base.objective == FreeAdversarial(s.networks.threat, replays=4) == search.objective.objective
    assert updates(search) == 4 * updates(search_of(of(planned, "HARP", HARSH)[0].recipe))


def test_own_networks_in_place_of_the_pools():
    s = settings.load("gpu")
    base, pool = of(s, "pre-trained")[0].recipe, s.networks
    own = s.sections[S]
    assert (base.arch, base.data, base.epochs) == (own.arch, pool.data, own.pretrain.epochs)
    assert base.objective == Adversarial(pool.threat, own.pretrain.attack)
    normal, = of(s, "N")
    assert (normal.recipe.arch, normal.recipe.data, normal.recipe.epochs) == (own.arch, pool.data, pool.normal.epochs)


def test_every_network_is_measured_under_the_strong_attack(planned):
    s = planned.sections[S]
    for c in compared(planned):
        attacks = [attack for _, attack in c.measures]
        assert (s.verify in attacks) == (c.condition.method != "N")
    first = of(planned, "pre-trained")[0]
    assert [a.restarts for _, a in first.measures if isinstance(a, PGD)] == [s.search.restarts, s.search.restarts + 1]
    more = sized(attacks=[{"type": "PGD", "steps": 10, "step_size": .03}])
    attack = PGD(10, Fraction("0.03"))
    assert all(attack in [a for _, a in c.measures] for c in compared(more) if c.condition.method != "N")
    named = sized(tier="harp", verify="AutoAttack", search={"steps": 10, "step_size": .0375})
    every = {tuple(a for _, a in c.measures)[:5] for c in compared(named) if c.condition.method != "N"}
    fast, ten, cw, apgd, auto = tiers("harp", named.networks.threat)
    assert every == {(auto, fast, ten, cw, apgd)}, "of attacks that are asked for twice one"


def test_milder_keeps_have_the_methods_that_are_named_for_them():
    few = [*networks.conditions(sized(milder_methods=["HARP", "LWM"], channels=[], losses=["PGD-AT"]).sections[S])]
    assert [condition.method for condition in few if condition.keep == MILD] == ["HARP", "LWM"]
    assert [condition.method for condition in few if condition.keep == HARSH] == list(METHODS)


def test_groups_hold_one_network_with_its_search(planned):
    names = {c.job for c in compared(planned)}
    assert "HYDRA-HARP-rates-0.02-weights-PGD-AT-3" in names and "dense-TRADES-0" in names
    assert len(names) == len(compared(planned)) - 4 * 3 - 1  # pre-trained and dense share one, N is with the first
    assert not [name for name in names if not name.replace("-", "").replace(".", "").isalnum()]


def test_kept_epochs_are_measured_beside_the_comparison(planned):
    looks = [c for c in cells(planned) if c.condition.epoch is not None]
    tuned = {(c.condition, c.repetition): c for c in compared(planned) if c.recipe.keep}
    chosen_ = {Condition("dense"), Condition("HARP", HARSH), Condition("HYDRA", HARSH)}
    assert {condition for condition, _ in tuned} == chosen_ and len(tuned) == 3 * 4
    tasks = {t.recipe.key: t for t in plan(planned, (S,))}
    for c in looks:
        run = tuned[replace(c.condition, epoch=None), c.repetition]
        assert c.recipe.parents == (run.recipe,) and c.recipe.arch == run.recipe.arch
        assert c.recipe.checkpoint == c.condition.epoch
        assert c.measures == ((planned.networks.threat, planned.sections[S].search),)
        assert c.job == run.job and tasks[c.recipe.key].job == tasks[run.recipe.key].job
    assert {(replace(c.condition, epoch=None), c.repetition) for c in looks} == set(tuned)
    assert {c.condition.epoch for c in looks} == set(range(1, planned.sections[S].finetune.epochs + 1))


@pytest.mark.parametrize("epochs, kept", [(1, (1,)), (3, (1, 2, 3)), (10, tuple(range(1, 11))),
                                          (25, (3, 5, 8, 10, 13, 15, 18, 20, 23, 25)),
                                          (100, tuple(range(10, 101, 10)))])
def test_at_most_ten_epochs_are_kept_and_the_last_is_among_them(epochs, kept):
    s = sized(**{"finetune.epochs": epochs})
    assert networks.kept_epochs(s.sections[S], Condition("HARP", HARSH)) == kept == of(s, "dense")[0].recipe.keep
    for condition in (Condition("HARP", MILD), Condition("LWM", HARSH), Condition("HARP", HALF, "channels"),
                      Condition("HARP", HARSH, loss="MART"), Condition("pre-trained")):
        assert networks.kept_epochs(s.sections[S], condition) == ()


# --------------------------------------------------------------------------------------- profiles


@pytest.mark.parametrize("profile", ["smoke", "laptop", "gpu", "paper", "imagenet"])
def test_what_a_profile_is_said_to_test_it_has_the_networks_for(profile):
    s = settings.load(profile)
    ready = contrasts(Results(s.networks, s.sections[S], s.seed, compared(s)))
    methods = {c.condition.method for c in compared(s)}
    for claim in PAPER:
        if profile in claim.scope and claim.id not in ("C10a", "C10b"):
            assert all(ready[claim.id][part.id] for part in claim.parts), f"{claim.id} at {profile}"
    assert "HARP" in methods, "C10a and C10b need it"
    assert s.sections[S].seeds >= claims.verdict.MIN_SEEDS
