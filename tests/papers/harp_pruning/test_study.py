"""The HARP notebook's plan and study: one dense network for all, evidence with known numbers, verdicts, tables."""

import copy
import functools
from dataclasses import replace
from fractions import Fraction
from types import SimpleNamespace

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import pyplot as plt

from lib import claims, plots
from lib.errors import SettingsError
from lib.models import rates
from lib.papers import settings
from lib.papers.harp_pruning import figures, networks, reference, tables
from lib.papers.harp_pruning.evidence import claim_preconditions, contrasts, evidence, preconditions
from lib.papers.harp_pruning.networks import Condition, search_of, search_speedup
from lib.papers.harp_pruning.results import KeptEpoch, Results, measure
from lib.papers.harp_pruning.settings import BY_CHANNEL, METHODS, UPDATES
from lib.papers.plan import plan
from lib.runtime import seed_of
from lib.store import Store
from lib.training.evaluation import Outcomes
from lib.training.zoo import Zoo
from lib.values.architectures import Pruned
from lib.values.attacks import PGD, tiers
from lib.values.objectives import ADMM, MART, TRADES, Adversarial, FreeAdversarial, Prune, Rewire

S = "harp_pruning"
PAPER = claims.load(S)
IMAGES, CLASSES = 400, 10
MILD, HARSH, HALF = Fraction(1, 10), Fraction(1, 50), Fraction(1, 2)
GATES = {"normal_clean": .95, "normal_robust": .1, "robust_clean": .85, "robust_robust": .5}
SIZES = {"seeds": 4, "keeps": [.1, .02], "methods": list(METHODS), "milder_methods": list(METHODS),
         "losses": ["PGD-AT", "TRADES", "MART"], "channels": [.5], "gates": GATES, "above_chance": .05, "attacks": [],
         "prune": {"epochs": 6, "optimiser": {"lr": .1, "nesterov": False, "weight_decay": 5e-4}}}


def sized(**changes):
    """The smoke profile with all arms, at sizes that are known here; changes: of the notebook's section."""
    return settings.load("smoke", {"networks.threat.eps": .15, "networks.precision": "fp32", **{
        f"{S}.{name}": value for name, value in {**copy.deepcopy(SIZES), **changes}.items()}})


@functools.cache
def cells(s):
    return networks.cells(s.networks, s.sections[S], s.seed)


def compared(s):
    return [c for c in cells(s) if c.condition.epoch is None]


# ---------------------------------------------------------------------------------------------- the plan


@pytest.fixture(scope="module")
def planned():
    return sized()


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


def test_a_short_search_goes_as_far_as_the_papers(planned):
    search = search_of(of(planned, "HARP", HARSH)[0].recipe)
    updates = search.epochs * (search.data.n_train // search.batch_size)
    s = planned.sections[S]
    assert search.objective.gamma * updates == pytest.approx(s.gamma * UPDATES)
    assert search.optimiser.weight_decay * updates == pytest.approx(s.prune.optimiser.weight_decay * UPDATES)
    twice = search_of(of(sized(updates=2 * UPDATES), "HARP", HARSH)[0].recipe)
    assert twice.objective.gamma == pytest.approx(2 * search.objective.gamma)
    constant = search_of(of(planned, "HARP, constant gamma", HARSH)[0].recipe)
    assert constant.objective.gamma == pytest.approx(search.objective.gamma * s.constant_gamma / s.gamma)
    sizes = [432, 2304, 9216, 36864, 147456, 147456, 640]
    full = rates.data_free(sizes, HARSH)
    short = rates.data_free(sizes, HARSH, epochs=search.epochs, steps=updates // search.epochs,
                            gamma=search.objective.gamma, decay=search.optimiser.weight_decay)
    assert short == pytest.approx(full, rel=.2)
    undecayed = rates.data_free(sizes, HARSH, epochs=search.epochs, steps=updates // search.epochs,
                                gamma=search.objective.gamma)
    assert undecayed[0] < .6 * full[0], "without the decay's share small layers stay where they start"


def test_a_search_as_long_as_the_papers_is_not_changed():
    s = settings.load("paper")
    base = of(s, "pre-trained")[0].recipe
    assert search_speedup(s.sections[S], base) == pytest.approx(20 * 391 / (20 * 375))


def test_rival_chains(planned):
    dense, = {r for r in (of(planned, "R-ADMM", HARSH)[0].recipe.parents)}
    assert isinstance(dense.objective, ADMM) and dense.objective.keep == HARSH and not isinstance(dense.arch, Pruned)
    scratch, s = of(planned, "BCS-P", HARSH)[0].recipe, planned.sections[S]
    assert isinstance(scratch.objective, Rewire) and scratch.choice is not None
    assert scratch.epochs == planned.networks.robust.epochs + s.prune.epochs + s.finetune.epochs


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
    assert search_speedup(s.sections[S], base) == pytest.approx(search_speedup(
        planned.sections[S], of(planned, "pre-trained")[0].recipe) / 4)
    s = settings.load("imagenet")
    speedup = search_speedup(s.sections[S], of(s, "pre-trained", loss="Free-AT")[0].recipe)
    assert speedup == pytest.approx(1, abs=.01), "the profile's search is as long as the paper's"


def test_own_networks_in_place_of_the_pools():
    s = settings.load("laptop")
    base, pool = of(s, "pre-trained")[0].recipe, s.networks
    own = s.sections[S]
    assert (base.arch, base.data, base.epochs) == (own.arch, own.data, own.pretrain.epochs)
    assert base.objective == Adversarial(pool.threat, own.pretrain.attack)
    normal, = of(s, "N")
    assert (normal.recipe.arch, normal.recipe.data, normal.recipe.epochs) == (own.arch, own.data, pool.normal.epochs)


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
    assert cells(planned) == compared(planned) + looks
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


@pytest.mark.parametrize("change, words", [
    ({"methods": ["HARPP"]}, "did you mean 'HARP'"),
    ({"methods": []}, r"methods = \[\] .* one or more"),
    ({"methods": ["HARP", "HARP"]}, r"methods = \[HARP, HARP\] .* different ones"),
    ({"methods": ["HARP"], "milder_methods": ["LWM"]}, "unknown harp_pruning.milder_methods 'LWM'"),
    ({"losses": ["TRADE"]}, "did you mean 'TRADES'"),
    ({"tier": "harpp"}, "unknown harp_pruning.tier 'harpp'; did you mean 'harp'"),
    ({"updates": 0}, "harp_pruning.updates = 0"),
    ({"keeps": [.02, .1]}, r"keeps = \[1/50, 1/10\] .* falling"),
    ({"keeps": [1]}, "keeps = 1 .* between 0 and 1, both excluded"),
    ({"keeps": []}, r"keeps = \[\] .* one or more"),
    ({"gamma": -1}, "harp_pruning.gamma = -1"),
    ({"above_chance": 2}, "harp_pruning.above_chance = 2"),
    ({"prune.epochs": 0}, "harp_pruning.prune.epochs = 0"),
    ({"finetune.attack": {"steps": 1, "step_size": .1}}, "harp_pruning.finetune.attack"),
    ({"search.targeted": True}, "harp_pruning.search.targeted"),
    ({"verify.targets": 10}, "less than the 10 classes"),
    ({"data": {"name": "digits"}}, "held-out images"),
    ({"attacks": [{"type": "APGD", "steps": 10, "targets": 2}]}, "other than search, verify"),
])
def test_impossible_settings_are_refused_in_one_sentence(change, words):
    with pytest.raises(SettingsError, match=words) as error:
        sized(**change)
    assert "\n" not in str(error.value)


# ---------------------------------------------------------------- a made-up study with known numbers

# method -> accuracies at the mild and at the harsh target: clean, robust
ACCURACY = {"HARP": ((.93, .60), (.92, .58)), "HYDRA": ((.93, .60), (.85, .45)), "LWM": ((.92, .59), (.80, .40)),
            "random": ((.90, .55), (.60, .30)), "rates only": ((.92, .59), (.88, .50)),
            "HYDRA + HARP rates": ((.93, .60), (.90, .55)), "HYDRA + data-free": ((.93, .60), (.88, .51)),
            "HARP, constant gamma": ((.93, .60), (.88, .52))}
OTHERS, DENSE, NORMAL = ((.90, .55), (.85, .47)), (.93, .60), (.97, .02)
WIDE = (100, 1000, 8000, 8000, 200)  # weights by layer
ENDS = {"HARP": (.7, .05, .008, .008, .5), "HYDRA + data-free": (.4, .05, .012, .012, .3)}


def outcomes(seed, clean, robust):
    """Outcomes of a network; the better of two networks of one repetition is right wherever the other is."""
    order = np.random.default_rng(seed_of("made up", seed)).permutation(IMAGES)
    table = {"index": np.arange(IMAGES), "label": np.arange(IMAGES) % CLASSES, "clean": order < round(clean * IMAGES),
             "robust": order < round(robust * IMAGES)}
    return Outcomes(pd.DataFrame(table), {"attack": "made up", "loss": "ce"})


def layers_of(arm, seed):
    shares = np.array(ENDS.get(arm.method, (float(arm.keep),) * 5))
    kept = np.floor(shares * np.array(WIDE)).astype(int)
    return pd.DataFrame({"layer": [f"l{k}" for k in range(5)], "weights": WIDE, "kept": kept,
                         "share": shares * (1 + .002 * (seed_of(arm.method, seed) % 5 - 2))})


def found(s=None, accuracy=(), layers=layers_of):
    """A study in a world that differs from ACCURACY by `accuracy`: {arm: (clean, robust)}."""
    s, changed = s or sized(), dict(accuracy)
    f = Results(s.networks, s.sections[S], s.seed, compared(s))
    drawn = functools.cache(outcomes)
    for c in f.cells:
        arm = c.condition
        usual = {"N": NORMAL, "pre-trained": DENSE, "dense": DENSE}.get(arm.method) or ACCURACY.get(
            arm.method, OTHERS)[arm.keep == HARSH]
        # every network is a little better or worse, as many images in each repetition
        shift = .005 * ((seed_of(c.job) % 5) - 2)
        one = drawn(c.repetition, *(min(1, max(0, a + shift)) for a in changed.get(arm, usual)))
        f.outcomes[c] = {"search": one} if arm.method == "N" else {"verify": one}
        if arm.method == "pre-trained":
            f.outcomes[c]["search"] = one
            f.dense_weights[c.repetition] = {f"l{k}": torch.linspace(.1, 1, n) for k, n in enumerate(WIDE)}
        if arm.keep != 1:
            f.layers[c] = layers(arm, c.repetition)
        if search := search_of(c.recipe):
            learned = search.arch.rates == "learned"
            extra = {"hardware_loss": 4., "kept": .1, "gamma": .3} if learned else {}
            f.logs[c] = [{"epoch": e, "loss": 1., "accuracy": .5, **extra} for e in range(3)]
    return f


def judged(f, doubts=()):
    """Claim id -> judged, at the profile that tests all, as Study.judge does it."""
    ready, own = evidence(f), claim_preconditions(f)
    return {c.id: claims.judge(c, ready.get(c.id, {}), "paper", [*preconditions(f, list(doubts)), *own.get(c.id, [])])
            for c in PAPER}


@pytest.fixture(scope="module")
def made():
    return found()


@pytest.fixture(scope="module")
def verdicts(made):
    return judged(made)


WANTED = {  # up to the shifts of single networks, 1 % at most
    ("C1", "clean"): {"HARP at 0.02 minus dense": .92 - .93},
    ("C1", "robust"): {"HARP at 0.02 minus dense": .58 - .60},
    ("C2a", "clean"): {"HARP minus HYDRA": .07, "HARP minus LWM": .12, "HARP minus random": .32,
                       "HARP minus R-ADMM": .07, "HARP minus BCS-P": .07},
    ("C2a", "robust"): {"HARP minus HYDRA": .13, "HARP minus LWM": .18, "HARP minus random": .28,
                        "HARP minus R-ADMM": .11, "HARP minus BCS-P": .11},
    ("C2b", "grows"): {"HARP minus HYDRA, 0.02 minus 0.1": .13 / 2},
    ("C3", "clean"): {"HARP minus HYDRA": 0.},
    ("C3", "robust"): {"HARP minus HYDRA": 0.},
    ("C4a", "above_uniform"): {"HYDRA + HARP rates minus HYDRA": .10, "rates only minus LWM": .10},
    ("C4b", "above_fixed_rates"): {"HARP minus HYDRA + data-free": .07, "HARP minus HYDRA + LAMP": .11,
                                   "HARP minus HYDRA + ERK": .11},
    ("C5", "above_rates_only"): {"HARP minus rates only": .08},
    ("C5", "above_scores_only"): {"HARP minus HYDRA": .13},
    ("C6", "growing"): {"HARP minus HARP, constant gamma": .06},
    ("C7", "robust"): {"TRADES: HARP minus HYDRA": .13, "MART: HARP minus HYDRA": .13},
    ("C8", "robust"): {"HARP minus HYDRA": 0.},  # at keep 1/2 the made-up world is mild
    ("C10", "ends_kept"): {"HARP": .6 - .008},
    ("C10", "beyond_data_free"): {"HARP minus HYDRA + data-free": (.6 - .008) - (.35 - .012)},
}


def test_every_part_of_every_claim_has_its_evidence_and_its_number(made):
    got = evidence(made)
    parts = {(c.id, p.id) for c in PAPER for p in c.parts if c.id != "C9"}
    assert {(c, p) for c in got for p in got[c]} == parts == set(WANTED)
    for (claim, part), wanted in WANTED.items():
        values = got[claim][part]
        assert {name: array.mean() for name, array in values.items()} == pytest.approx(wanted, abs=.021)
        shapes = {array.shape for array in values.values()}
        assert shapes == {(4,) if claim == "C10" else (4, IMAGES)}
        assert all(np.abs(array).max() <= 1 for array in values.values())


def test_the_growth_of_the_margin_is_halved_and_not_cut(made):
    gap = {keep: made.correct(Condition("HARP", keep), "verify") - made.correct(Condition("HYDRA", keep), "verify")
           for keep in (MILD, HARSH)}
    (values,) = evidence(made)["C2b"]["grows"].values()
    assert np.array_equal(2 * values, gap[HARSH] - gap[MILD])
    part, = PAPER["C2b"].parts
    assert part.margin == .01 and "half" in part.what


def test_in_a_world_as_the_paper_says_its_claims_are_supported(verdicts):
    got = {claim: one.verdict for claim, one in verdicts.items()}
    assert got.pop("C9") == "not tested" and got.pop("C8") in ("contradicted", "undecided")
    assert got == dict.fromkeys(got, "supported")


def test_on_imagenet_the_first_claims_are_judged_as_its_own():
    s = settings.load("imagenet", {f"{S}.keeps": [.1, .02], f"{S}.seeds": 4})
    f = found(s)
    assert set(f.dense_weights) == {0, 1, 2, 3} and f.chance(f.conditions[0]) == .001
    got = {c.id: claims.judge(c, evidence(f).get(c.id, {}), "imagenet", list(claim_preconditions(f).get(c.id, [])))
           for c in PAPER}
    assert {claim for claim, one in got.items() if one.verdict != "not tested"} == {"C9"}
    assert got["C9"].verdict == "supported"
    ready, wanted = evidence(f)["C9"], {"retains_clean": {"HARP at 0.02 minus dense": -.01},
                                        "retains_robust": {"HARP at 0.02 minus dense": -.02},
                                        "beats_clean": {"HARP minus HYDRA": .07, "HARP minus LWM": .12},
                                        "beats_robust": {"HARP minus HYDRA": .13, "HARP minus LWM": .18}}
    assert {p.id for p in PAPER["C9"].parts} == set(ready) == set(wanted)
    for part, numbers in wanted.items():
        assert {name: array.mean() for name, array in ready[part].items()} == pytest.approx(numbers, abs=.021)


H = Condition("HARP", HARSH)
REVERSED = {  # what is not so, and the claims that then do not stand
    "HARP loses much": ({H: (.80, .40)}, {"C1", "C2a", "C2b", "C4b", "C5", "C6"}),
    "HYDRA is as good": ({Condition("HYDRA", HARSH): (.92, .58)}, {"C2a", "C2b", "C4a", "C5"}),
    "HYDRA is worse at the mild target": ({Condition("HYDRA", MILD): (.80, .45)}, {"C2b", "C3"}),
    "data-free rates do as well": ({Condition("HYDRA + data-free", HARSH): (.92, .58)}, {"C4b"}),
    "rates alone do as well": ({Condition("rates only", HARSH): (.92, .58)}, {"C5"}),
    "the pattern of rates does nothing": ({Condition("HYDRA + HARP rates", HARSH): (.85, .45)}, {"C4a"}),
    "one other loss": ({Condition("HYDRA", HARSH, loss="MART"): (.92, .58)}, {"C7"}),
    "a constant gamma does as well": ({Condition("HARP, constant gamma", HARSH): (.92, .58)}, {"C6"}),
}


@pytest.mark.parametrize("changes, fails", REVERSED.values(), ids=REVERSED)
def test_what_is_not_so_is_not_supported_and_nothing_else_changes(changes, fails, verdicts):
    got = judged(found(accuracy=changes))
    assert {claim for claim, one in got.items() if one.verdict != verdicts[claim].verdict} == fails
    assert {got[claim].verdict for claim in fails} <= {"contradicted", "undecided"}


def test_rates_as_without_data_are_not_more_than_without_data():
    def same(arm, seed):
        noise = 1 + .02 * (seed_of(arm.method, seed) % 3 - 1)
        return layers_of(Condition("HYDRA + data-free", arm.keep), 0).assign(share=lambda t: t.share * noise)

    got = judged(found(layers=same))["C10"]
    assert got.verdict in ("contradicted", "undecided") and "beyond" in got.decisive.name


def test_few_repetitions_decide_nothing():
    got = {claim: one.verdict for claim, one in judged(found(sized(seeds=2))).items() if claim != "C9"}
    assert set(got.values()) == {"undecided"}


def test_an_arm_at_chance_is_left_out_and_named():
    arm = Condition("random", HARSH)
    f = found(accuracy={arm: (.12, .02)})
    assert f.at_chance(f.section.above_chance) == {arm: pytest.approx(.12, abs=.01)}
    instances = evidence(f)["C2a"]["robust"]
    assert "HARP minus random" not in instances and "HARP minus LWM" in instances
    check, = claim_preconditions(f)["C2a"]
    assert check["ok"] and "random at 0.02 has a clean accuracy of 12" in check["detail"]
    assert judged(f)["C2a"].verdict == "supported"


def test_a_claim_whose_only_comparison_is_with_chance_is_not_tested():
    got = judged(found(accuracy={Condition("HYDRA", HARSH): (.12, .02)}))
    off = {claim for claim, one in got.items() if one.verdict == "not tested"}
    assert off == {"C2b", "C5", "C9"}
    assert "HYDRA at 0.02 has a clean accuracy of 12" in got["C5"].reason and "guessing 10.0%" in got["C5"].reason
    assert got["C2a"].verdict == "supported", "the other methods are still compared"
    got = judged(found(accuracy={H: (.12, .02)}))
    assert {"C1", "C2a", "C2b", "C4b", "C5", "C6"} <= {c for c, one in got.items() if one.verdict == "not tested"}


def test_an_arm_just_above_the_bar_is_compared():
    f = found(accuracy={Condition("random", HARSH): (.18, .02)})
    assert f.at_chance(.05) == {} and f.at_chance(.1)


# ------------------------------------------------------------------------------------ preconditions


def failed(f, doubts=()):
    return [check["name"] for check in preconditions(f, list(doubts)) if not check["ok"]]


def test_a_made_up_study_meets_every_precondition(made):
    assert failed(made) == []
    assert all(check["ok"] for checks in claim_preconditions(made).values() for check in checks)
    assert set(claim_preconditions(made)) == {c.id for c in PAPER} - {"C9", "C10"}


@pytest.mark.parametrize("change, name", [
    ({Condition("N"): (.5, .02)}, "normal networks are trained"),
    ({Condition("N"): (.97, .5)}, "normal networks are not robust"),
    ({Condition("pre-trained"): (.5, .4)}, "robust networks are trained"),
    ({Condition("pre-trained"): (.93, .4)}, "robust networks are robust"),
])
def test_without_its_dense_networks_nothing_is_judged(change, name):
    f = found(accuracy=change)
    assert name in failed(f) and {one.verdict for one in judged(f).values()} == {"not tested"}


def test_a_doubtful_attack_and_a_network_above_its_target_stop_the_judge(made):
    assert failed(made, ["gradients are masked"]) == ["the attack can be trusted"]
    f = found()
    cell = next(c for c in f.layers if c.condition == H)
    f.layers[cell] = f.layers[cell].assign(kept=lambda t: t.kept + 60)
    check, = [c for c in preconditions(f, []) if not c["ok"]]
    assert check["detail"] == f"HARP at 0.02 keeps {f.weights(cell)[0]} of 17300 weights"


# --------------------------------------------------------------------------------------- profiles


@pytest.mark.parametrize("profile", ["smoke", "laptop", "gpu", "paper", "imagenet"])
def test_what_a_profile_is_said_to_test_it_has_the_networks_for(profile):
    s = settings.load(profile)
    ready = contrasts(Results(s.networks, s.sections[S], s.seed, compared(s)))
    methods = {c.condition.method for c in compared(s)}
    for claim in PAPER:
        if profile in claim.scope and claim.id != "C10":
            assert all(ready[claim.id][part.id] for part in claim.parts), f"{claim.id} at {profile}"
    assert "HYDRA + data-free" in methods, "C10 needs it"
    assert s.sections[S].seeds >= claims.verdict.MIN_SEEDS


# ----------------------------------------------------------------------------------- tables and figures


@pytest.fixture
def closed():
    yield
    plt.close("all")


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


def test_a_run_is_described_before_it_starts(planned):
    section = planned.sections[S]
    study = SimpleNamespace(settings=planned, section=section, cells=cells(planned), keys=["a"] * 7)
    first, second = tables.describe(study).split("\n")
    assert first.startswith("digits: ") and "threat linf, eps 3/20, trained against PGD" in first
    assert second.startswith("kept: 10.0%, 2.0%; methods: HARP; ") and "; 4 repetitions; " in second
    assert second.endswith("6 of searching, 2 of fine-tuning; 7 trained networks in the plan")


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
    for (_, keep, _), rows in got.groupby(["method", "keep", "seed"]):
        assert (rows.share * np.array(WIDE)).sum() / sum(WIDE) == pytest.approx(keep, rel=.01)
    assert len(tables.rates(made)) == 5 * len(made.layers)


def test_the_course_of_searches_for_rates_only(made):
    got = tables.searches(made)
    learned = {name for name, rule in METHODS.items() if rule["rates"] == "learned"}
    assert set(got.method) == learned and got.epoch.min() == 1
    assert (got.share == .1).all() and (got.gamma == .3).all()


def lines(axis):
    return [line for line in axis.lines if line.get_linestyle() == "-" and len(line.get_xdata()) > 1]


def test_compression_shows_methods_seeds_the_dense_line_and_published_numbers(made, closed):
    table = made.table()
    weights = tables.of_weights(table, made.section)
    figure = figures.compression(weights, reference.published(), "robust accuracy, APGD")
    clean, robust = figure.axes
    assert robust.get_ylabel() == "robust accuracy, APGD" and clean.get_xscale() == "log"
    assert clean.get_xlim()[0] > clean.get_xlim()[1], "harsher to the right"
    drawn = {line.get_color(): line for line in lines(robust)}
    assert drawn[plots.KINDS["HARP"]].get_ydata() == pytest.approx([.58, .60], abs=.011)
    assert drawn[plots.KINDS["dense"]].get_ydata() == pytest.approx([.60, .60], abs=.011)
    dots = [line for line in robust.lines if line.get_marker() == "." and line.get_color() == plots.KINDS["HARP"]]
    assert len(dots) == 4
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert set(METHODS) | {"dense, same fine-tuning", f"HARP: {reference.SOURCE}"} <= set(names)
    with pytest.raises(SettingsError, match="without pruned networks"):
        figures.compression(weights[weights.keep == 1])


def test_rates_and_searches_are_drawn(made, closed):
    shown = tables.rates(made)
    shown = tables.of_weights(shown, made.section)
    figure = figures.keep_rates(shown, tables.rules(made))
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["target 10 %", "target 2 %"]
    assert {axis.get_yscale() for axis in figure.axes} == {"log"}
    harp, = [line for line in figure.axes[1].lines if line.get_color() == plots.KINDS["HARP"]
             and line.get_linestyle() == "-"]
    assert harp.get_ydata() == pytest.approx(ENDS["HARP"], rel=.005)
    assert [text.get_text() for text in figure.axes[1].get_xticklabels()] == [f"l{k}" for k in range(5)]
    course = tables.searches(made)
    figure = figures.pruning_search(tables.of_weights(course, made.section))
    assert len(figure.axes) == 6 and figure.axes[2].get_ylabel() == "γ"


def test_every_method_has_a_colour_of_its_own():
    assert set(METHODS) <= set(plots.KINDS) and len({plots.KINDS[name] for name in METHODS}) == len(METHODS)


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


# ------------------------------------------------------------------------------------- a real small one


def test_measure_trains_prunes_counts_and_replays(tmp_path):
    torch.set_num_threads(1)
    s = settings.load("test", {f"{S}.methods": ["HARP", "LWM"], f"{S}.milder_methods": [], f"{S}.keeps": [.2],
                               f"{S}.losses": ["PGD-AT"], f"{S}.channels": [], f"{S}.finetune.epochs": 3})
    planned, given = cells(s), (s.networks, s.sections[S], s.seed)
    allowed = {t.recipe.key for t in plan(s, (S,))}
    zoo = Zoo(Store(tmp_path), allowed=allowed)
    f = measure(zoo, planned, *given)
    by_method = {c.condition.method: c for c in f.cells}
    assert set(by_method) == {"N", "pre-trained", "dense", "HARP", "LWM"}
    assert set(f.outcomes[by_method["N"]]) == {"search"} and set(f.outcomes[by_method["LWM"]]) == {"verify"}
    assert {c.condition.method for c in f.layers} == {"HARP", "LWM"}
    assert {c.condition.method for c in f.logs} == {"HARP"}
    left, every = f.weights(by_method["LWM"])
    assert every == sum(tensor.numel() for tensor in f.dense_weights[0].values())
    assert 0 <= left - .2 * every <= 5, "the floor rule: at most one weight a layer above"
    assert f.weights(by_method["HARP"])[0] <= 1.01 * .2 * every + 5
    again = Zoo(Store(tmp_path), allowed=allowed)
    assert measure(again, planned, *given).table().equals(f.table()) and not again.trained_here
    kept = tables.choices(f)
    assert kept.groupby("method", sort=False).epoch.apply(list).to_dict() == {"dense": [1, 2, 3], "HARP": [1, 2, 3]}
    for method, rows in kept.groupby("method"):
        tuned = by_method[method]
        best, = rows[rows["on holdout"]].epoch
        whole = zoo.outcomes(tuned.recipe, s.networks.threat, s.sections[S].search)
        row, = rows[rows.epoch == best].itertuples()
        assert row.robust == whole.accuracy("robust"), "the kept weights of the chosen epoch are the network's"
        assert zoo.obtain(tuned.recipe).log[best - 1]["chosen"] and row.holdout == rows.holdout.max()
