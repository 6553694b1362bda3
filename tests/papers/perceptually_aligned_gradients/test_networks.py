"""Perceptually aligned gradients: the networks that are planned, and what they are measured under."""

from collections import Counter
from dataclasses import replace
from fractions import Fraction

import pytest

from lib import batch, claims
from lib.papers import settings
from lib.papers.perceptually_aligned_gradients.evidence import FEWEST, REALISATIONS
from lib.papers.perceptually_aligned_gradients.networks import (
    CENTRED,
    CLASSES,
    HEURISTICS,
    IMAGES,
    JUDGE,
    LOGIT,
    NORM,
    RANDOM,
    SCORE,
    TEACHER,
    TOY,
    TRADES_ALONE,
    TRADES_SCORE,
    VANILLA,
    Condition,
)
from lib.papers.perceptually_aligned_gradients.settings import SMOOTH
from lib.papers.plan import plan
from lib.values.attacks import APGD, PGD, Square
from lib.values.objectives import TRADES, Adversarial, Aligned, CrossEntropy, GradientNorm, Targets
from lib.values.threats import Threat
from tests.papers.perceptually_aligned_gradients.world import (
    COMBINED,
    EVERY,
    LENGTHY,
    PAPER,
    STUDIES,
    SWEEP,
    TRAINING,
    S,
    cells_of,
    kind_of,
    named_by,
    only,
    sized,
    study_of,
)

HEURISTIC = dict(zip((*HEURISTICS, *CENTRED), ([.1], [.2], [.3], [.4], [.5]), strict=True))
KINDS = {"digits": {VANILLA: [0], **HEURISTIC,
                    SCORE: SWEEP, CLASSES: SWEEP, RANDOM: [.1], IMAGES: [.3], LOGIT: [.3], NORM: [.5, 1, 4],
                    SMOOTH: [1],
                    "AT l2": [0], "AT linf": [0], LENGTHY: [0], COMBINED: [.03, .1], TRADES_ALONE: [0],
                    TRADES_SCORE: [.03, .1]},
         "digits ViT": {VANILLA: [0], SCORE: [.3]},
         "CIFAR-10": {VANILLA: [0], "class mean": [.5], SCORE: [1], RANDOM: [.5], "AT l2": [0], "AT linf": [0]}}


def test_every_study_has_its_networks_of_every_repetition(cells):
    wanted = Counter((where, kind, weight, seed) for where, kinds in KINDS.items() for kind, weights in kinds.items()
                     for weight in weights for seed in range(3))
    wanted |= Counter((TOY, kind, weight, seed) for seed in range(4)
                      for kind, weight in ((VANILLA, 0), ("nearest neighbour", 1), (RANDOM, 1), (CLASSES, 1)))
    wanted |= Counter((where, kind, 0, 0) for where in KINDS for kind in (TEACHER, JUDGE))
    assert Counter(map(named_by, cells)) == wanted
    others = [c for c in cells if kind_of(c) not in (TEACHER, JUDGE)]
    assert [*map(kind_of, cells[:6])] == [TEACHER, JUDGE] * 3, "what others learn from and are measured by comes first"
    assert all(c.recipe.seed == c.repetition for c in others)


def test_repetitions_beyond_the_pools_number_are_others():
    s = sized({"seeds": 6}, networks__normal={**TRAINING, "count": 3})
    plain = [c.recipe for c in cells_of(s) if c.condition == Condition("digits ViT", VANILLA)]
    assert [recipe.seed for recipe in plain] == list(range(6)) and s.networks.normal.count < 6


def test_networks_are_measured_under_the_threats_of_their_study(planned, cells):
    verify = planned.sections[S].verify
    for c in cells:
        where, kind, *_ = named_by(c)
        norms = [] if where == TOY or kind in (TEACHER, JUDGE) else study_of(planned, where).threats
        assert c.measures == tuple((threat, verify) for threat in norms)


def test_both_arms_of_the_toy_differ_by_the_objective_only(planned, cells):
    near = "nearest neighbour"
    targets = {near: Targets(near), RANDOM: Targets(RANDOM), CLASSES: Targets(near, permuted="classes")}
    for seed in range(4):
        arms = {c.condition.kind: c.recipe for c in cells if (c.condition.where, c.repetition) == (TOY, seed)}
        plain = arms.pop(VANILLA)
        assert plain.objective == CrossEntropy() and plain.data.name == "line_of_modes" and plain.data.test is None
        assert (plain.epochs, plain.batch_size, plain.seed) == (60, 128, seed) and plain.arch.widths == (32,)
        assert (plain.optimiser.name, plain.optimiser.lr) == ("adam", .01)
        assert arms == {kind: replace(plain, objective=Aligned(CrossEntropy(), t, 1.)) for kind, t in targets.items()}


def test_networks_of_a_study_differ_by_the_objective_only(planned, cells):
    for c in cells:
        if c.condition.where == TOY or c.condition.kind in (TEACHER, JUDGE):
            continue
        plain = only(cells, c.condition.where, VANILLA, seed=c.repetition).recipe
        second = isinstance(c.recipe.objective, (Aligned, GradientNorm))
        assert c.recipe.precision == ("fp32" if second else plain.precision)
        epochs = round(plain.epochs * 1.5) if c.condition.kind == LENGTHY else plain.epochs
        arch = replace(plain.arch, activation="softplus") if c.condition.kind == SMOOTH else plain.arch
        assert replace(c.recipe, objective=CrossEntropy(), sources=(), precision=plain.precision) == replace(
            plain, epochs=epochs, arch=arch)


def test_a_study_takes_from_the_pool_what_it_leaves_out(planned, cells):
    own, pools = (only(cells, name, VANILLA).recipe for name in ("CIFAR-10", "digits ViT"))
    n = planned.networks
    assert (own.data.name, own.batch_size, own.arch, own.augment) == ("cifar10", 32, n.arch, n.augment)
    assert (pools.data, pools.batch_size, pools.arch.patch) == (n.data, n.batch_size, 4)
    assert own.epochs == pools.epochs == 2 and own.optimiser.lr == .1 and own.schedule.name == "onecycle"
    assert only(cells, "digits", VANILLA).recipe.augment == "none"


def test_second_derivatives_are_computed_in_fp32():
    every = cells_of(sized(networks__precision="bf16"))
    half = {c.condition.kind for c in every if c.condition.where == "digits" and c.recipe.precision == "bf16"}
    assert half == {VANILLA, "AT l2", "AT linf", LENGTHY, TRADES_ALONE, TEACHER, JUDGE}
    assert {c.recipe.precision for c in every if c.condition.where == TOY} == {"fp32"}


def terms(cells, where, kind, weight=None):
    return only(cells, where, kind, weight).recipe.objective


def test_targets_are_those_that_a_kind_is_named_after(cells):
    sample = {"nearest neighbour": 10}
    for kind in HEURISTICS:
        assert terms(cells, "digits", kind).targets == Targets(kind, sample=sample.get(kind))
    for kind in CENTRED:
        name = kind.removesuffix(", centred")
        assert terms(cells, "digits", kind).targets == Targets(name, centred=True, sample=sample.get(name))
    for kind, permuted in ((SCORE, None), (CLASSES, "classes"), (IMAGES, "images"), (LOGIT, None), (COMBINED, None)):
        assert terms(cells, "digits", kind, .03 if kind == COMBINED else .3).targets == Targets(
            SCORE, permuted=permuted, sigma=.25)
    assert terms(cells, "CIFAR-10", SCORE).targets == Targets(SCORE, sigma=.3, draws=2)
    assert terms(cells, "digits", RANDOM).targets == Targets(RANDOM)


def test_the_term_has_its_weight_and_its_classes(cells):
    for c in cells:
        what = c.recipe.objective
        if isinstance(what, Aligned):
            assert what.weight == c.condition.weight > 0 and what.batchnorm == "train"
            assert what.classes == (2 if c.condition.where == "digits" else None)
            assert what.gradient == ("logit" if c.condition.kind == LOGIT else "log-probability")
            assert what.first_weight == (.1 if c.condition.where == "digits ViT" else None)
        elif c.condition.kind in (NORM, SMOOTH):
            assert what == GradientNorm(c.condition.weight)
        else:
            assert c.condition.weight == 0
    first = cells_of(sized(of=("digits", {"first_weight": .05})))
    assert {c.condition.kind for c in first if c.condition.where == "digits" and isinstance(c.recipe.objective, Aligned)
            and c.recipe.objective.first_weight == .05} == {SCORE, CLASSES, IMAGES, LOGIT, COMBINED, TRADES_SCORE}


def test_adversarial_training_is_in_the_norm_that_it_is_named_after(cells):
    l2, linf = Threat("l2", Fraction(1, 2)), Threat("linf", Fraction(1, 10))
    at_l2 = Adversarial(l2, PGD(5, Fraction(1, 4)))  # 2.5 eps / steps
    trades = TRADES(l2, PGD(5, Fraction(1, 4)), 6)
    assert terms(cells, "digits", "AT l2") == terms(cells, "digits", LENGTHY) == at_l2
    assert terms(cells, "digits", "AT linf") == Adversarial(linf, PGD(5, Fraction(1, 20)))
    assert terms(cells, "digits", TRADES_ALONE) == trades
    for kind, beside in ((COMBINED, at_l2), (TRADES_SCORE, trades)):
        for weight in (.03, .1):
            assert terms(cells, "digits", kind, weight).objective == beside
    assert terms(cells, "CIFAR-10", "AT linf").threat.eps == Fraction(4, 255)


def test_scores_come_from_one_denoiser_and_are_judged_by_another(planned, cells):
    for where in KINDS:
        teacher, judge = (only(cells, where, kind).recipe for kind in (TEACHER, JUDGE))
        assert judge == replace(teacher, seed=1) and teacher.seed == 0
        for c in cells:
            if c.condition.where == where:
                what = c.recipe.objective
                scored = isinstance(what, Aligned) and what.targets.kind == SCORE
                assert c.recipe.sources == ((teacher,) if scored else ())
    n, own = planned.networks, only(cells, "CIFAR-10", TEACHER).recipe
    shared = only(cells, "digits", TEACHER).recipe
    assert shared == only(cells, "digits ViT", TEACHER).recipe == n.denoiser.recipe(n.data, n.precision, 0)
    assert (own.data.name, own.arch.multipliers, own.epochs) == ("cifar10", (1, 2), 2)
    more = {**STUDIES[2]["denoiser"], "data": {"name": "cifar10", "train": 40000, "holdout": 2000}}
    bigger = cells_of(sized(of=("CIFAR-10", {"denoiser": more})))
    assert only(bigger, "CIFAR-10", TEACHER).recipe.data.train == 40000
    assert only(bigger, "CIFAR-10", SCORE).recipe.data.train == 10000
    part = cells_of(sized(of=("digits", {"data": {"name": "digits", "train": 500, "holdout": 200}})))
    assert only(part, "digits", TEACHER).recipe == shared and only(part, "digits", SCORE, .3).recipe.data.train == 500


def test_a_batch_job_is_a_family_of_a_repetition(planned, cells):
    families = {"others": (VANILLA, "AT l2", "AT linf"), "heuristics": ("class mean",), SCORE: (SCORE,),
                "controls": (RANDOM,)}
    for c in cells:
        if c.condition.kind in (TEACHER, JUDGE):
            assert c.job == f"{c.condition.where.replace(' ', '-')}-generative"
        elif c.condition.where == "CIFAR-10":
            family, = [name for name, kinds in families.items() if c.condition.kind in kinds]
            assert c.job == f"CIFAR-10-{family}-{c.repetition}"
        else:
            assert c.job == (TOY if c.condition.where == TOY else f"small-{c.repetition}")
    assert Condition("a data set", CENTRED[0]).job(0) == "a-data-set-heuristics-0"
    jobs = batch.batch_jobs(replace(planned, jobs="networks"), (S,))
    work = [entry for job in jobs.values() for entry in job["work"]]
    assert len(work) == len({*work}) and {key for kind, key in work if kind == "network"} == {
        c.recipe.key for c in cells}
    assert jobs[f"{S}-CIFAR-10-score-2"]["after"] == {f"{S}-CIFAR-10-generative"}
    assert jobs[f"{S}-small-1"]["after"] == {f"{S}-digits-generative"} and not jobs[f"{S}-{TOY}"]["after"]


@pytest.mark.parametrize("profile", EVERY)
def test_what_is_measured_is_planned_once(profile):
    s = settings.load(profile)
    every, tasks = cells_of(s), {t.recipe.key: t for t in plan(s, (S,))}
    assert {*tasks} == {c.recipe.key for c in every}
    assert len({c.recipe.key for c in every if c.condition.kind not in (TEACHER, JUDGE)}) == sum(
        c.condition.kind not in (TEACHER, JUDGE) for c in every), "only denoisers are shared by studies"
    assert not [t.job for t in tasks.values() if not t.job.replace("-", "").replace("_", "").isalnum()]


def test_adversarial_training_in_the_first_norm_may_have_more_repetitions():
    more = cells_of(sized(of=("digits", {"adversarial": {**STUDIES[0]["adversarial"], "seeds": 5}})))
    counts = Counter(kind_of(c) for c in more if c.condition.where == "digits")
    assert {kind for kind, count in counts.items() if not count % 5} == {
        "AT l2", LENGTHY, COMBINED, TRADES_ALONE, TRADES_SCORE} and counts["AT linf"] == counts[VANILLA] == 3
    assert only(more, "digits", "AT l2", seed=4).recipe.seed == 4


def test_how_networks_are_measured_changes_no_key(cells):
    measured = {"verify": {"type": "APGD", "steps": 7, "targets": 3}, "curve": [1, 3], "query_images": 50,
                "query": {"queries": 7}, "toy.eps": 10, "toy.far": 20, "toy.attack_steps": 3}
    of = {"images": 7, "generated": 9, "far": 2, "clean": .1, "vanilla": .5,
          "threats": [{"norm": "l2", "eps": .7}, {"norm": "linf", "eps": .3}]}
    assert [c.recipe.key for c in cells_of(sized(measured, ("digits", of)))] == [c.recipe.key for c in cells]


def test_what_the_term_is_decides_the_keys_of_networks_with_it(cells):
    others = cells_of(sized(of=("digits", {"classes": 3})))
    moved = {c.condition.kind for c, other in zip(cells, others, strict=True) if c.recipe.key != other.recipe.key}
    assert moved == {*HEURISTICS, *CENTRED, SCORE, CLASSES, RANDOM, IMAGES, LOGIT, COMBINED, TRADES_SCORE}
    others = cells_of(sized(of=("digits", {"draws": 3})))
    assert {c.condition.kind for c, other in zip(cells, others, strict=True) if c.recipe.key != other.recipe.key} == {
        SCORE, CLASSES, IMAGES, LOGIT, COMBINED, TRADES_SCORE}


@pytest.mark.parametrize("profile", EVERY)
def test_what_a_profile_is_said_to_test_it_has_the_networks_for(profile):
    s = settings.load(profile)
    part, tested = s.sections[S], {c.id for c in PAPER if profile in c.scope}
    if not tested:
        return
    assert part.seeds >= claims.verdict.MIN_SEEDS and part.toy.seeds >= 5 and CLASSES in part.toy.controls
    assert isinstance(part.query, Square) and not isinstance(part.verify, (PGD, Square)), "PGD bounds from above only"
    assert not isinstance(part.verify, APGD) or part.verify.targets
    every = part.studies
    assert any({*REALISATIONS, NORM, CLASSES} <= {*one.weights.of} for one in every)
    assert any(len({*one.weights.score} & {*one.weights.permuted_classes}) >= FEWEST for one in every)
    for claim, kind in (("C3c", RANDOM), ("C3d", IMAGES)):
        assert claim not in tested or any(kind in one.weights.of for one in every)
    assert any(one.side for one in every) == ("C10" in tested)
    assert any(one.adversarial and one.adversarial.weights and one.adversarial.longer for one in every)
    assert all(one.vanilla <= .05 and one.clean >= .35 for one in every)
