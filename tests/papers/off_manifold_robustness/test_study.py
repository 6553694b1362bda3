"""The off-manifold notebook's plan and study: strengths in units of the data's space, curves and what is picked on
them, evidence with known numbers, verdicts, tables, and a small real run."""

import copy
import functools
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from lib import batch, claims
from lib.attacks.geometry import ball_noise
from lib.data import closed_forms, load
from lib.errors import SettingsError
from lib.manifold import sensitivity, spaces
from lib.models import build
from lib.papers import papers, settings
from lib.papers.off_manifold_robustness import networks, reference, tables
from lib.papers.off_manifold_robustness import results as study
from lib.papers.off_manifold_robustness.evidence import (
    ALL,
    FEWEST,
    FIGURE,
    ON_AT_FLIP,
    Curve,
    claim_preconditions,
    curves,
    evidence,
    theory_margins,
    warnings,
)
from lib.papers.off_manifold_robustness.networks import (
    MANIFOLD,
    NONE,
    PER_BATCH,
    PER_IMAGE,
    POOL,
    SCORE,
    STANDARD,
    UNTRAINED,
    Condition,
)
from lib.papers.off_manifold_robustness.results import BAYES, COLUMNS, Results, measure
from lib.papers.off_manifold_robustness.settings import CONTROLS
from lib.papers.plan import plan
from lib.runtime import generator, seed_of
from lib.store import Store
from lib.training import zoo as zoos
from lib.training.evaluation import Outcomes
from lib.training.losses import Progress, TrainingBatch, loss_for
from lib.training.zoo import Zoo
from lib.values.attacks import PGD
from lib.values.objectives import CrossEntropy, GradientNorm, Noise, Smoothness

S = "off_manifold_robustness"
PAPER = claims.load(S)
NOW = Progress(0, 0, 0.9)
EVERY = tuple(p for p in settings.profiles() if S in settings.load(p).notebooks)

TRAINING = {"epochs": 2, "optimiser": {"name": "sgd", "lr": .1}, "schedule": {"name": "onecycle"}}
EXACT = {"arch": {"type": "MLP", "widths": [16], "activation": "softplus"}, "batch_size": 50, "augment": "none",
         "training": TRAINING, "tangents": ["closed form"], "sizes": [1, .1], "images": 60, "clean": .7,
         "attack_steps": 3}
SIX = [.01, .1, .5, 1, 2, 4]  # strengths; 0 is the seventh
SWEEPS = [
    {**EXACT, "name": "subspace", "data": {"name": "gaussian_subspace", "train": 200, "test": 400},
     "strengths": {"gradient_norm": SIX, "noise": SIX, "pgd": SIX}},
    {**EXACT, "name": "torus", "data": {"name": "curved_torus", "train": 200, "test": 400},
     "strengths": {"noise": [.5]}},
    {"name": "digits", "arch": {"type": "CNN", "width": 8, "depth": 2}, "training": TRAINING, "images": 60,
     "strengths": {"gradient_norm": SIX, "smoothness": SIX, "noise": SIX, "pgd": SIX}, "attack_steps": 3,
     "tangents": ["auto-encoder", "PCA"], "pca": 8, "sizes": [2, .5], "clean": .8, "controls": list(CONTROLS),
     "autoencoder": {"arch": {"type": "AutoEncoder", "width": 4, "latent": 8}, **TRAINING}},
    {"name": "ImageNet-64", "data": {"name": "imagenet", "size": 64, "test": 1000}, "training": TRAINING,
     "arch": {"type": "ImageNetResNet", "depth": 18}, "strengths": {"pgd": SIX}, "tangents": ["PCA"], "pca": 8,
     "sizes": [2], "images": 60, "clean": .4,
     "denoiser": {"arch": {"type": "UNet", "width": 8, "multipliers": [1, 2], "blocks": 1}, **TRAINING}},
]
LETTERS = {"data": [{"name": "digits_letter_a"}, {"name": "digits_letters"}], "batch_size": 50, "images": 60,
           "arch": {"type": "CNN", "width": 8, "depth": 2}, "training": TRAINING, "attack_steps": 3, "per_image": 1,
           "per_batch": 8, "clean": .8, "noise": [.1, .2, .4, .8]}


def sized(changes=(), sweep=(), **others):
    """The smoke profile at sizes that are known here. changes: of the notebook's section; sweep: (name, changes) of one
    sweep, None leaves a setting out; others: of other sections, dots as underscores.
    """
    every = copy.deepcopy(SWEEPS)
    if sweep:
        name, differs = sweep
        one = next(s for s in every if s["name"] == name)
        one.update(differs)
        for setting in [k for k, value in differs.items() if value is None]:
            del one[setting]
    usual = {"seeds": 4, "sweeps": every, "distractor": copy.deepcopy(LETTERS)}
    section = {f"{S}.{name}": value for name, value in {**usual, **dict(changes)}.items()}
    return settings.load("smoke", {**section, **{name.replace("__", "."): value for name, value in others.items()}})


def given(s):
    return s.networks, s.sections[S], s.seed


@pytest.fixture(scope="module")
def planned():
    return sized()


@pytest.fixture(scope="module")
def cells(planned):
    return networks.cells(*given(planned))


def sweep_of(s, name):
    return next(sweep for sweep in s.sections[S].sweeps if sweep.name == name)


def networks_of(s, name):
    return networks.SweepNetworks(s.networks, sweep_of(s, name), s.seed)


# ---------------------------------------------------------------------------------------------- the units of strengths


def test_strengths_of_closed_forms_become_pixels_and_those_of_images_stay(planned, cells):
    """A unit of a closed form's space is 1/4 pixel: lengths are 1/4 of it, squared gradients by pixels 16 times those
    by units.
    """
    found = 0
    for cell in cells:
        where, kind, strength = cell.condition.where, cell.condition.kind, cell.condition.strength
        sweep = where if where in ("subspace", "digits", "ImageNet-64") else None
        if sweep is None or kind not in ALL:
            continue
        pixels, what = (.25 if sweep == "subspace" else 1), cell.recipe.objective
        if kind == "gradient norm":
            assert what == GradientNorm(strength * pixels**2)
        elif kind == "smoothness":
            assert what == Smoothness(strength, .1)
        elif kind == "noise":
            assert what == Noise(strength * pixels)
        else:
            threat, attack = what.threat, what.attack
            assert (threat.norm, threat.per, threat.box) == ("l2", "image", False) and what.alpha == 1
            assert float(threat.eps) == pytest.approx(strength * pixels)
            steps = sweep_of(planned, sweep).attack_steps
            assert attack == PGD(steps, 2 * threat.eps / steps) and attack.random_start
        found += 1
    assert found == 4 * 6 * (3 + 4 + 1)
    assert networks_of(planned, "subspace").regularised("smoothness", 2., 0).objective == Smoothness(2., .025)


def as_points(pixels):
    return (pixels - .5) / .25


def by_hand(kind, strength, net, points, labels, steps, draws):
    """The loss of a regulariser in units of the closed form's space; net takes points."""
    def ce(x):
        return F.cross_entropy(net(x), labels)

    if kind == "gradient norm":
        x = points.clone().requires_grad_()
        losses = F.cross_entropy(net(x), labels, reduction="none")
        gradient, = torch.autograd.grad(losses.sum(), x)
        return losses.mean() + strength * gradient.flatten(1).norm(dim=1).square().mean()
    if kind == "smoothness":
        noise = .1 * torch.randn(points.shape, generator=draws)
        return ce(points) + strength * (net(points) - net(points + noise)).norm(dim=1).square().mean()
    if kind == "noise":
        return ce(points + strength * torch.randn(points.shape, generator=draws))
    torch.randperm(len(points), generator=draws)  # which images are attacked: all
    x = points + strength * ball_noise("l2", points.shape, draws)
    for _ in range(steps):
        x = x.detach().requires_grad_()
        gradient, = torch.autograd.grad(F.cross_entropy(net(x), labels, reduction="sum"), x)
        moved = x - points + 2 * strength / steps * F.normalize(gradient.flatten(1), dim=1).view_as(x)
        x = points + moved * (strength / moved.flatten(1).norm(dim=1)).clamp(max=1)[:, None, None, None]
    return ce(x)


@pytest.mark.parametrize("kind, strength", [("gradient norm", .3), ("smoothness", 5.), ("noise", 1.), ("PGD", 1.5)])
def test_the_loss_in_pixels_is_the_loss_in_units_of_the_space(planned, kind, strength):
    recipe = networks_of(planned, "subspace").regularised(kind, strength, 0)
    net, images = build(recipe).eval(), load(recipe.data, "train").take(slice(0, 20))
    net.head.weight.data *= 8  # an untrained network hardly reacts to anything
    pixels = images.pixels()
    given = TrainingBatch(pixels, images.labels, images.indices, None, generator("units"))
    loss = loss_for(recipe.objective)(net, given, NOW)[0]
    found = by_hand(kind, strength, lambda x: net(.5 + .25 * x), as_points(pixels), images.labels, 3,
                    generator("units"))
    assert loss.item() == pytest.approx(found.item(), rel=1e-4)
    plain = F.cross_entropy(net(pixels), images.labels).item()
    assert abs(loss.item() - plain) > .05 * plain, "the strength matters here"


@pytest.mark.parametrize("where", ["digits", "subspace"])
@pytest.mark.parametrize("kind, strength", [*((kind, 1e-6) for kind in ALL), *((kind, 0.) for kind in ALL[:3])])
def test_without_strength_every_regulariser_is_cross_entropy(planned, where, kind, strength):
    of_sweep = networks_of(planned, where)
    recipe = of_sweep.regularised(kind, strength, 0)
    images, found = load(recipe.data, "train").take(slice(0, 12)), []
    for objective in (recipe.objective, CrossEntropy()):
        net = build(recipe).eval()
        batch_ = TrainingBatch(images.pixels(), images.labels, images.indices, None, generator("none"))
        loss = loss_for(objective)(net, batch_, NOW)[0]
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in net.parameters())])
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-5)
    assert replace(recipe, objective=CrossEntropy(), precision="fp32") == replace(
        of_sweep.base(0), precision="fp32"), "but for it the network without a regulariser"


def test_controls_have_the_budgets_and_the_rate_that_they_are_named_after(planned, cells):
    sweep = sweep_of(planned, "digits")
    third = [c for c in cells if c.repetition == 2]
    shared, summed, slow = (next(c for c in third if c.condition.kind == name) for name in CONTROLS)
    middle = next(c for c in third if c.condition == Condition("digits", "PGD", 1.)).recipe
    assert shared.condition.strength == summed.condition.strength == 1., "the middle of six strengths"
    one, own = shared.recipe.objective.threat, middle.objective.threat
    assert (one.per, one.box) == ("batch", False)
    assert float(one.eps) == pytest.approx(float(own.eps) * middle.batch_size**.5), "as much as all images together"
    assert shared.recipe.objective.attack.step_size == 2 * one.eps / sweep.attack_steps
    assert summed.recipe.objective == replace(middle.objective, accumulated=True, batchnorm="train")
    assert not middle.objective.accumulated and middle.objective.batchnorm == "eval"
    strongest = next(c for c in third if c.condition == Condition("digits", "gradient norm", 4.))
    lr = strongest.recipe.optimiser.lr
    assert slow.recipe == replace(strongest.recipe, optimiser=replace(strongest.recipe.optimiser, lr=lr * .061 / 4))
    weak = sized(sweep=("digits", {"strengths": {"gradient_norm": [.02, .05]}, "controls": ["reduced lr"]}))
    kept = next(c for c in networks.cells(*given(weak)) if c.condition.kind == "reduced lr")
    assert kept.recipe.optimiser.lr == lr, "a weak penalty leaves the rate as it is"


@pytest.mark.parametrize("name", ["per batch", "accumulated", PER_BATCH])
def test_networks_of_the_papers_attack_have_batchnorm_in_train_mode_while_it_runs(planned, cells, name):
    cell = next(c for c in cells if c.condition.kind == name)
    net, images = build(cell.recipe).train(), load(cell.recipe.data, "train").take(slice(0, 12))
    norm = next(m for m in net.modules() if hasattr(m, "num_batches_tracked"))
    given = TrainingBatch(images.pixels(), images.labels, images.indices, None, generator("bn"))
    loss_for(cell.recipe.objective)(net, given, NOW)
    steps = cell.recipe.objective.attack.steps
    assert steps == 3 and norm.num_batches_tracked == steps + (steps if name == "accumulated" else 0) + 1
    other = PER_IMAGE if name == PER_BATCH else "PGD"
    usual = next(c for c in cells if (c.condition.where, c.condition.kind) == (cell.condition.where, other))
    assert usual.recipe.objective.batchnorm == "eval"


# ------------------------------------------------------------------------------------------------------------ the plan


def test_every_sweep_has_its_networks_of_every_repetition(cells):
    counts = pd.Series([(c.condition.where, c.condition.kind) for c in cells]).value_counts().to_dict()
    every = {"gradient norm": 24, "noise": 24, "PGD": 24, UNTRAINED: 4, NONE: 4}
    wanted = {("subspace", kind): n for kind, n in every.items()}
    wanted |= {("torus", kind): 4 for kind in (UNTRAINED, NONE, "noise")}
    wanted |= {("digits", kind): n for kind, n in {**every, "smoothness": 24, MANIFOLD: 1, SCORE: 1}.items()}
    wanted |= {("digits", kind): 4 for kind in (*CONTROLS, *POOL.values())}
    wanted |= {("ImageNet-64", kind): n for kind, n in {"PGD": 24, UNTRAINED: 4, NONE: 4, SCORE: 1}.items()}
    wanted |= {(name, kind): 4 for name in ("digits_letter_a", "digits_letters")
               for kind in (UNTRAINED, STANDARD, PER_IMAGE, PER_BATCH)}
    assert counts == wanted
    for c in cells:
        assert c.recipe.seed == c.repetition and (c.recipe.epochs == 0) == (c.condition.kind == UNTRAINED)
    first = [c.condition.kind for c in cells if c.condition.kind in (MANIFOLD, SCORE)]
    assert [c.condition.kind for c in cells[:len(first)]] == first, "what others are measured with comes first"


def test_only_strengths_and_controls_may_diverge(cells):
    may = {c.condition.kind for c in cells if c.may_diverge}
    assert may == {*ALL, *CONTROLS} and not may & {c.condition.kind for c in cells if not c.may_diverge}


@pytest.mark.parametrize("profile", EVERY)
def test_no_network_is_made_twice_and_the_pools_are_shared(profile):
    s = settings.load(profile)
    every = networks.cells(*given(s))
    assert len({c.recipe.key for c in every}) == len(every)
    own = [c for c in every if c.condition.kind in POOL.values()]
    shared = {t.recipe.key: t for t in plan(s)}
    for c in own:
        kind, = [kind for kind, name in POOL.items() if name == c.condition.kind]
        assert c.recipe == s.networks.member(kind, c.repetition, s.seed)
        assert shared[c.recipe.key].job.startswith("pool-") and not shared[c.recipe.key].may_diverge
    wanted = any(sweep.data is None for sweep in s.sections[S].sweeps)
    assert len(own) == (2 * s.sections[S].seeds if wanted else 0)


def test_a_pool_grows_to_the_repetitions_of_sweeps_on_its_data():
    assert sized({"seeds": 7}).networks.normal.count == 7
    alone = {"sweeps": [SWEEPS[0]], "seeds": 7}
    others = dict.fromkeys(papers().keys() - {S})
    assert sized(alone, **others).networks.normal.count < 7


def test_strengths_of_a_sweep_are_trained_alike(cells):
    same = ("data", "arch", "epochs", "optimiser", "schedule", "batch_size", "augment")
    for where in ("subspace", "torus", "digits", "ImageNet-64"):
        trained = [c for c in cells if c.condition.where == where and c.condition.kind in (NONE, *ALL)]
        assert len({tuple(getattr(c.recipe, name) for name in same) for c in trained}) == 1
    of_letters = [c for c in cells if c.condition.where == "digits_letters" and c.condition.kind != UNTRAINED]
    assert len({tuple(getattr(c.recipe, name) for name in same) for c in of_letters}) == 1


def test_second_derivatives_and_closed_forms_are_computed_in_fp32():
    every = networks.cells(*given(sized(networks__precision="bf16")))
    half = {(c.condition.where, c.condition.kind) for c in every if c.recipe.precision == "bf16"}
    assert ("digits", "PGD") in half and ("digits", NONE) in half
    assert not [kind for where, kind in half if where in ("subspace", "torus") or kind in ("gradient norm",
                                                                                          "reduced lr")]


def test_the_score_is_a_denoisers_of_its_own_data_and_known_in_closed_form(planned, cells):
    pool, own = (c.recipe for c in cells if c.condition.kind == SCORE)
    assert pool.data == planned.networks.data and pool.arch == planned.networks.denoiser.arch
    assert own.data.name == "imagenet" and own.arch.multipliers == (1, 2)
    assert networks_of(planned, "subspace").denoiser() is None
    encoder, = [c.recipe for c in cells if c.condition.kind == MANIFOLD]
    assert (encoder.arch.latent, encoder.augment, encoder.batch_size, encoder.epochs) == (8, "none", 64, 2)


def test_a_batch_job_is_a_regulariser_or_all_small_networks_of_a_repetition(planned, cells):
    def small(c):
        return c.recipe.data.info.closed or c.condition.kind in (STANDARD, PER_IMAGE, PER_BATCH)

    by_name = {}
    for c in cells:
        where, kind, _, number = named_by(c)
        what = ("generative",) if kind in (MANIFOLD, SCORE) else ("" if small(c) else kind, number)
        by_name.setdefault(c.job, set()).add((where, *what))
    assert all(len(what) == 1 for what in by_name.values()), "no two jobs of one name"
    assert len(by_name) == len(set().union(*by_name.values())), "one job each"
    assert not [n for n in by_name if not n.replace("-", "").replace("_", "").isalnum()], "names of files"
    jobs = batch.batch_jobs(replace(planned, jobs="networks"), (S,))
    work = [entry for job in jobs.values() for entry in job["work"]]
    assert len(work) == len({*work}) == sum(c.recipe.epochs > 0 for c in cells)
    assert not any(job["after"] for job in jobs.values()) and len(jobs[f"{S}-digits-smoothness-3"]["work"]) == 6
    assert {"pool-N0", "pool-R3"} <= {*jobs}, "the pool's networks are in the pool's own jobs"


def test_networks_that_are_measured_are_in_the_plan(planned, cells):
    tasks = {t.recipe.key: t for t in plan(planned, (S,))}
    assert {*tasks} == {c.recipe.key for c in cells}
    assert {k for k, t in tasks.items() if t.may_diverge} == {c.recipe.key for c in cells if c.may_diverge}


# ----------------------------------------------------------------------------------------------------- the settings


def in_sweep(which, **differs):
    return {"sweep": (which, differs)}


def letters(**differs):
    return {"changes": {"distractor": {**LETTERS, **differs}}}


ENCODER = {"type": "AutoEncoder", "width": 4}


@pytest.mark.parametrize("change, words", [
    (in_sweep("subspace", tangent=["PCA"]), r"did you mean 'off_manifold_robustness.sweeps\[subspace\].tangents'"),
    (in_sweep("subspace", tangents=["closed for"]), "tangents 'closed for'; did you mean 'closed form'"),
    (in_sweep("subspace", tangents=[]), r"sweeps\[subspace\].tangents = \[\]"),
    (in_sweep("digits", tangents=["closed form"], autoencoder=None, pca=None), "tangents = closed form .* for digits"),
    (in_sweep("digits", tangents=["PCA"]), r"sweeps\[digits\].autoencoder"),
    (in_sweep("digits", autoencoder=None), r"sweeps\[digits\].autoencoder = None"),
    (in_sweep("digits", autoencoder=TRAINING), "autoencoder.arch is missing"),
    (in_sweep("digits", pca=None), r"sweeps\[digits\].pca = None"),
    (in_sweep("subspace", pca=4), r"sweeps\[subspace\].pca = 4"),
    (in_sweep("subspace", strengths={}), r"sweeps\[subspace\].strengths"),
    (in_sweep("subspace", strengths={"noize": [1]}), "did you mean .*noise"),
    (in_sweep("subspace", strengths={"noise": [0, 1]}), "strengths.noise = 0.0 .* greater than 0"),
    (in_sweep("subspace", strengths={"pgd": [2, 1]}), r"strengths.pgd = \[2.0, 1.0\]"),
    (in_sweep("subspace", strengths={"gradient_norm": [1, 1]}), r"strengths.gradient_norm = \[1.0, 1.0\]"),
    (in_sweep("digits", controls=["per bath"]), "controls 'per bath'; did you mean 'per batch'"),
    (in_sweep("digits", strengths={"noise": [1]}, controls=["per batch"]), "controls = per batch .* PGD"),
    (in_sweep("digits", strengths={"pgd": [1]}, controls=["reduced lr"]), "controls = reduced lr .* gradient norm"),
    (in_sweep("subspace", sizes=[]), r"sweeps\[subspace\].sizes = \[\]"),
    (in_sweep("subspace", sizes=[1, -1]), r"sweeps\[subspace\].sizes"),
    (in_sweep("subspace", images=401), "images = 401 .* at most the 400 test images"),
    (in_sweep("subspace", draws=0), r"sweeps\[subspace\].draws = 0"),
    (in_sweep("subspace", attack_steps=0), r"sweeps\[subspace\].attack_steps = 0"),
    (in_sweep("subspace", clean=70), r"sweeps\[subspace\].clean = 70"),
    (in_sweep("subspace", training={**TRAINING, "attack": {"steps": 1, "step_size": .1}}), "training.attack"),
    (in_sweep("ImageNet-64", denoiser=None), r"sweeps\[ImageNet-64\].denoiser = None"),
    ({"networks__denoiser": None}, r"\[digits\].denoiser = None"),
    ({"networks__denoiser.sigma": .7}, "denoiser.sigma = 0.7"),
    ({"changes": {"seeds": 0}}, "off_manifold_robustness.seeds = 0"),
    ({"changes": {"sweeps": []}}, "off_manifold_robustness.sweeps"),
    ({"changes": {"sweeps": [SWEEPS[0], SWEEPS[0]]}}, r"sweeps.name = \[subspace, subspace\] .* different ones"),
    ({"changes": {"theory": {"points": 101}}}, "theory.points = 101 .* at most 100: 4 repetitions"),
    ({"changes": {"theory": {"sigmas": [.1]}}}, r"theory.sigmas = \[0.1\]"),
    (in_sweep("subspace", tangents=["PCA"], pca=4), r"sweeps\[subspace\].tangents"),
    (in_sweep("subspace", data={"name": "line_of_modes"}), r"sweeps\[subspace\].tangents"),
    (in_sweep("subspace", augment="crop-flip"), r"sweeps\[subspace\].augment"),
    (in_sweep("digits", pca=0), r"sweeps\[digits\].pca = 0"),
    (in_sweep("digits", pca=64), r"sweeps\[digits\].pca = 64"),
    (in_sweep("digits", tangents=["local PCA"], autoencoder=None, neighbours=8), r"sweeps\[digits\].neighbours = 8"),
    (in_sweep("digits", autoencoder={**TRAINING, "arch": {**ENCODER, "latent": 64}}), "latent = 64"),
    (in_sweep("digits", images=1), r"sweeps\[digits\].images = 1"),
    (in_sweep("digits", name="digits_letters"), "digits_letters"),
    (in_sweep("digits", name="a/b"), "a/b"),
    ({"changes": {"chance": 5}}, "chance = 5"),
    ({"changes": {"on": -1}}, "on = -1"),
    (letters(data=[{"name": "digits"}]), "distractor.data"),
    (letters(images=601), "distractor.images = 601"),
    (letters(clean=80), "distractor.clean = 80"),
    (letters(least=-1), "distractor.least = -1"),
    (letters(data=[]), "distractor.data"),
    (letters(data=[{"name": "digits_letters"}] * 2), "distractor.data"),
    (letters(per_batch=0), "distractor.per_batch = 0"),
    (letters(noise=[.1]), "distractor.noise"),
])
def test_impossible_settings_are_refused_in_one_sentence(change, words):
    with pytest.raises(SettingsError, match=words) as error:
        sized(**change)
    assert "\n" not in str(error.value)


# ------------------------------------------------------------------------------------------- curves and what is picked


def curve(columns, right=None, classes=10, chance=.05, on=.01, images=16):
    """A curve whose columns are means [K, S], the same for every image; alive unless they say otherwise."""
    values = {name: np.repeat(np.array(rows, float)[..., None], images, 2) for name, rows in columns.items()}
    k, s = next(iter(values.values())).shape[:2]
    share = np.full((k, s), .9) if right is None else np.array(right)
    right = np.arange(100) < np.round(100 * share)[..., None]
    values = {"on": np.full((k, s, images), .5)} | values
    return Curve(None, "noise", tuple(range(k)), values, right, classes, chance, on)


ODD = [[.1, .1, .1], [.5, .5, .2], [.3, .3, .9]]  # the third repetition would pick another strength than the others


def test_the_peak_is_picked_by_the_other_repetitions():
    assert curve({"alignment": ODD}).peaks() == [2, 2, 1], "of each repetition by itself it would be 1, 1, 2"


def test_the_peak_is_that_of_a_living_network():
    dead = [[.5] * 3, [.5] * 3, [.009] * 3]
    assert curve({"alignment": ODD, "on": dead}).peaks() == [1, 1, 1]
    guessing = [[.9] * 3, [.15] * 3, [.9] * 3]
    assert curve({"alignment": ODD}, guessing).peaks() == [2, 2, 2]


def test_the_flip_is_picked_by_the_other_repetitions_among_networks_that_react():
    on, off = np.full((3, 3), .6), .6 - np.array(ODD) + .1
    assert curve({"on": on, "off": off}).flips() == [2, 2, 1]
    faint = on.copy()
    faint[2, 2] = ON_AT_FLIP - .001
    assert curve({"on": faint, "off": faint - np.array(ODD) + .1}).flips() == [1, 1, 1], "dead in one of the others"
    dead = np.full((3, 3), ON_AT_FLIP - .001)
    assert curve({"on": dead, "off": dead / 2}).flips() is None
    assert curve({"on": dead + .002, "off": dead / 2}).flips() is not None


def test_the_most_accurate_is_picked_by_the_other_repetitions():
    assert curve({"on": ODD}, right=ODD).most_accurate() == [2, 2, 1]


def test_one_repetition_has_no_others_that_could_pick():
    alone = curve({"alignment": [[.1], [.5]], "on": [[.5], [.5]], "off": [[.6], [.1]]})
    assert alone.peaks() is alone.flips() is alone.most_accurate() is None


def test_the_strongest_setting_reacts_and_is_above_guessing_in_every_repetition():
    on, right = np.full((5, 2), .5), np.full((5, 2), .9)
    assert curve({"on": on}, right, 4, .05, .25).strongest() == 4
    right[4] = .9, .30  # 5 points above guessing: not more
    assert curve({"on": on}, right, 4, .05, .25).strongest() == 3
    assert curve({"on": on}, right, 4, .04, .25).strongest() == 4
    on[3] = .25, .5
    assert curve({"on": on}, right, 4, .05, .25).strongest() == 2
    on[1] = 0
    assert curve({"on": on}, right, 4, .05, .25).strongest() == 2, "a dead network in between does not end the curve"
    assert curve({"on": on * 0}, right, 4, .05, .25).strongest() == 0
    assert curve({"on": on}, right, 2, .45, .25).strongest() == 0


# ---------------------------------------------------------------- a made-up study with known numbers

IMAGES, TESTED = 60, 400
EXACTLY_KNOWN = ("subspace", "torus")  # no smooth steps: their pixels are coordinates
# column -> by strength, from 0 on: the flip is at the fifth, the peak at the sixth, the most accurate at the second
WORLD = {
    "on": (.50, .50, .48, .45, .40, .20, .02),
    "off": (.80, .70, .50, .30, .10, .04, .01),
    "phases": (.70, .62, .45, .30, .15, .05, .01),
    "alignment": (.10, .20, .30, .40, .50, .60, .20),
    "shuffled pairs": (.05, .05, .06, .06, .07, .08, .05),
    "accuracy": (.90, .92, .91, .89, .85, .75, .40),
}
OTHER = {**dict.fromkeys(WORLD, .05), "accuracy": .99}  # of networks that are no part of a curve
# kind -> changes by noise on the digit and on the letter, share of the squared gradient in the digit's half
HALVES = {UNTRAINED: (.20, .20, .50), STANDARD: (.40, .30, .55), PER_IMAGE: (.40, .10, .80),
          PER_BATCH: (.36, .12, .75)}
BELOW = 1.2  # how much larger changes by noise on the letter are where the digit is below
THEORY = {"order": 2., "limit": 1e-4, "bayes": 1e-5, "worst": 1e-9}


def shift(*parts):
    """A network differs from its kind by three in a thousand at most."""
    return 1 + .003 * (seed_of("shift", *parts) % 5 - 2) / 2


@functools.cache
def ranks(seed):
    return np.random.default_rng(seed_of("ranks", seed)).permutation(TESTED)


def spread(mean):
    """Values of the images, which differ by a fifth."""
    return mean * (1 + .2 * np.linspace(-1, 1, IMAGES))


def found(s=None, world=(), halves=(), theory=(), gone=(), clean=(), odd=True):
    """A study in a world that differs from WORLD by `world`: {(sweep, kind or None for all, column): values}, from
    HALVES by `halves` and from THEORY by `theory`; clean: accuracies of {(where, kind)}; gone: (sweep, kind, strength,
    repetition) of trainings that diverged; odd: whether the first repetition differs in how off-changes fall.
    """
    s, planned_ = (s, networks.cells(*given(s))) if s else usual()
    f, world, theory, clean = Results(*given(s), planned_), dict(world), THEORY | dict(theory), dict(clean)
    halves = HALVES | dict(halves)
    for c in f.cells:
        where, kind, strength, seed = named = named_by(c)
        if kind in (MANIFOLD, SCORE):
            continue
        if named in gone:
            f.diverged[c] = "the loss is nan"
            continue
        own = shift(*named)
        if where in ("digits_letter_a", "digits_letters"):
            f.distractor[c], share = beside(s, kind, own, halves), .95 if kind != UNTRAINED else .1
        else:
            left_out = ("accuracy", "phases")[:1 + (where in EXACTLY_KNOWN)]
            names = [name for name in WORLD if name not in left_out]
            columns = [spread(value(world, named, name, f, odd) * shift(name, *named)) for name in names]
            table = np.stack([np.arange(IMAGES), np.arange(IMAGES) % 4, *columns], 1)
            f.sensitivity[c] = pd.DataFrame(table, columns=frame("index", "label", *names))
            share = value(world, named, "accuracy", f, odd)
        right = ranks(seed) < round(TESTED * clean.get((where, kind), share))
        f.outcomes[c] = {"clean": Outcomes(pd.DataFrame({"clean": right}))}
        f.last_epoch[c] = {"loss": .3 * own, "accuracy": .97}
        if kind == UNTRAINED:
            del f.last_epoch[c]
    f.theory = proof(f, theory)
    f.quality = {sweep.name: [("tangent spaces", True, "all of 4 dimensions")] for sweep in f.section.sweeps}
    return f


@functools.cache
def usual():
    s = sized()
    return s, networks.cells(*given(s))


@functools.cache
def frame(*names):
    return pd.DataFrame(columns=names).columns


def named_by(c):
    return c.condition.where, c.condition.kind, c.condition.strength, c.repetition


def value(world, named, name, f, odd):
    where, kind, strength, seed = named
    strengths = f.sweep(where).strengths.of
    if kind != NONE and kind not in strengths:
        return OTHER[name]
    k = 0 if kind == NONE else 1 + strengths[kind].index(strength)
    if odd and name == "off" and seed == 0 and k in (1, 2) and len(strengths[kind]) > 2:
        k = 3 - k  # in one repetition it does not fall steadily
    changed = world.get((where, kind, name), world.get((where, None, name), WORLD[name]))
    return changed[k]


def beside(s, kind, own, halves):
    signal, letter, energy = halves[kind]
    levels, above = s.sections[S].distractor.noise, np.arange(IMAGES) % 2 == 0
    moved = spread(signal * own), spread(1) * np.where(above, letter, letter * BELOW)
    nothing = np.full(IMAGES, .001), np.full(IMAGES, .009)  # at the first level, where it must not count
    columns = [np.arange(IMAGES), above, spread(energy * own), *nothing, *moved * (len(levels) - 1)]
    names = [f"{half} {sigma:g}" for sigma in levels for half in ("signal", "distractor")]
    table = pd.DataFrame(np.stack(columns, 1), columns=frame("index", "above", "energy", *names))
    return table.astype({"above": bool})


def proof(f, theory):
    rows, sigmas = [], f.section.theory.sigmas
    for where, noise in (("subspace", "noise 1"), ("torus", "noise 0.5")):
        for seed in range(f.section.seeds):
            for kind, rho2 in ((NONE, .9), (noise, .5), (BAYES, 0)):
                for sigma in sigmas:
                    own = shift(where, kind, seed, sigma)
                    gap = theory["limit"] * (sigma / sigmas[0])**theory["order"] * own
                    worst = theory["worst"] * own if kind == BAYES else rho2
                    rows.append((where, kind, seed, sigma, theory["bayes"] * own if kind == BAYES else rho2 + gap,
                                 rho2, worst))
    return pd.DataFrame(rows, columns=["where", "kind", "seed", "sigma", "rho1", "rho2", "worst rho2"])


def judged(f):
    """Claim id -> judged, at the profile that tests all."""
    ready, checks = evidence(f), claim_preconditions(f)
    return {c.id: claims.judge(c, ready.get(c.id, {}), "paper", checks.get(c.id, [])) for c in PAPER}


@pytest.fixture(scope="module")
def made():
    return found()


@pytest.fixture(scope="module")
def measured(made):
    return evidence(made)


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


def every(instances, parts):
    return {part: dict.fromkeys(instances, number) for part, number in parts.items()}


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


@pytest.mark.parametrize("profile", [
    "test", *(pytest.param(name, marks=pytest.mark.xfail(strict=True, reason="levels by default end with 2 and 3"))
              for name in EVERY if name != "test")])
def test_levels_of_noise_are_evenly_spaced_in_logarithms(profile):
    """As the protocol of C10a says: the mean over levels is an area over its width then."""
    noise = settings.load(profile).sections[S].distractor.noise
    assert np.diff(np.log(noise)) == pytest.approx(np.log(noise[1] / noise[0]), rel=.1)


@pytest.mark.parametrize("profile", EVERY)
def test_what_a_profile_is_said_to_test_it_has_the_networks_for(profile):
    s = settings.load(profile)
    section = s.sections[S]
    exact = [sweep for sweep in section.sweeps if sweep.closed_form]
    images = [sweep for sweep in section.sweeps if not sweep.closed_form]
    tested = {c.id for c in PAPER if profile in c.scope}
    if not tested:
        return
    assert section.seeds >= claims.verdict.MIN_SEEDS and exact and section.distractor
    assert any(sweep.strengths.noise for sweep in exact), "C1 has networks trained on noise"
    for sweeps, ids in ((exact, {"C4a", "C5a", "C6a", "C12a"}), (images, {"C4b", "C4c", "C5b", "C6b", "C12b"})):
        long = {kind for sweep in sweeps for kind, values in sweep.strengths.of.items() if len(values) + 1 >= FEWEST}
        assert not ids & tested or {*FIGURE} <= long
    if "C7" in tested:
        assert any(len(values) + 1 >= FEWEST for sweep in images for values in [sweep.strengths.smoothness])
    if "C9" in tested:
        assert any(sweep.data and sweep.data.name == "imagenet" and sweep.strengths.pgd for sweep in images)


def differs(column, values, kind=None, where=("subspace", "digits")):
    return {"world": {(sweep, kind, column): tuple(values) for sweep in where}}


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


def failing(got):
    """The parts with a row that the claim's opposite explains."""
    return {f"{claim} {row.name.split(':')[0]}" for claim, one in got.items() for row in one.rows
            if row.passed is False}


@pytest.mark.parametrize("changes, parts", REVERSED.values(), ids=REVERSED)
def test_what_is_not_so_is_contradicted_and_nothing_else_changes(changes, parts, verdicts):
    got = judged(found(**changes))
    assert failing(got) == parts
    fails = {part.split()[0] for part in parts}
    assert {claim for claim, one in got.items() if one.verdict != verdicts[claim].verdict} == fails
    assert {got[claim].verdict for claim in fails} == {"contradicted"}


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
    told = f.sentences_of_divergence(where="digits")
    assert sorted(told) == ["noise 2, repetition 3: the loss is nan", "per batch 1, repetition 0: the loss is nan"]
    assert f.sentences_of_divergence(where="subspace") == []
    noted = next(c for c in claim_preconditions(f)["C4b"] if "the loss is nan" in c["detail"])
    assert noted["ok"] and all(words in noted["detail"] for words in told)
    # the peak was there: the next best is picked
    assert evidence(f)["C5b"]["rises"]["digits, noise"].mean() == pytest.approx(.50 - .10, abs=.01)


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
    return {claim: names for claim, checks in claim_preconditions(f).items()
            if (names := [check["name"] for check in checks if not check["ok"]])}


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


# ------------------------------------------------------------------------------------------------------ the tables


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
    assert (known.phases.isna() == known["where"].isin(["subspace", "torus"])).all()
    assert not set(table) & {"index", "label"} and table.network.is_unique


def test_a_summary_has_a_row_for_each_kind_and_strength_in_the_order_of_the_plan(made):
    shown = tables.summary(made, "digits")
    kinds = ["untrained", NONE, *(kind for kind in ALL for _ in SIX), *CONTROLS, *POOL.values()]
    assert shown.kind.tolist() == kinds and shown[shown.kind == "PGD"].strength.tolist() == SIX
    row = shown[(shown.kind == "noise") & (shown.strength == 2)].iloc[0]
    assert [row["on"], row["off"], row["phases"], row["accuracy"]] == pytest.approx([.2, .04, .05, .75], rel=.012)
    means = {"accuracy", "training loss", "training accuracy", *COLUMNS}
    assert set(shown) <= {"kind", "strength", *means}
    assert "phases" not in tables.summary(made, "subspace") and "subspace" not in shown
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
    assert "phases" in tables.CHANGES and "phases" not in tables.only(summary, tables.CHANGES)
    assert set(tables.untrained(made, "digits").kind) == {UNTRAINED} and len(tables.untrained(made, "digits")) == 4
    assert tables.guessing(made)["digits"] == .1 and tables.published_curves(made) == {}
    f = found(gone={("digits", "noise", 4., 1)})
    said, = warnings(f)
    assert said.startswith("digits goes on without ") and said.endswith("the loss is nan") and warnings(made) == []


def test_the_theory_is_shown_at_its_smallest_noise(made):
    shown = tables.theory_at_smallest_noise(made).set_index(["where", "kind"])
    least = made.theory[(made.theory.sigma == min(made.section.theory.sigmas)) & (made.theory["where"] == "torus")]
    assert shown.loc[("torus", BAYES), "rho1"] == pytest.approx(least[least.kind == BAYES].rho1.mean())
    assert {*theory_margins()} < {*made.theory} and theory_margins()["rho1"] > 0


def test_the_ends_and_the_peak_of_a_published_curve():
    curves = pd.DataFrame({"kind": ["noise"] * 4 + ["PGD"] * 2, "1 - LPIPS": [.1, .2, .9, .3, .5, .4]})
    assert tables.ends_and_peaks(curves).index.tolist() == [0, 2, 3, 4, 5]


def test_a_run_is_described_before_it_starts(planned):
    run = SimpleNamespace(settings=planned, section=planned.sections[S], keys=["a"] * 7)
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
    assert networks.LR_FALLS_FROM == pytest.approx(.01 * 1e5 / 128**2, rel=.001), "the code's lambda of 0.01"


def test_published_curves_are_those_that_the_claims_cite():
    table = reference.published()
    assert set(table.kind) == set(FIGURE) and table.notna().all(axis=None)
    assert table[["on", "off"]].stack().between(0, 1.2).all() and table.accuracy.between(.1, .96).all()
    crossings, starts, peaks, ends = [], [], [], []
    for kind in FIGURE:
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
    top = peaks[FIGURE.index("gradient norm")]
    assert (starts[0].accuracy, top.accuracy, top["1 - LPIPS"]) == (.949, .862, .878)
    assert "0.949 at 1 - LPIPS 0.75 against 0.862 at 0.88" in PAPER["C12b"].paper_value
    assert all(row.off > row.on for row in starts)


# ------------------------------------------------------------------------------------------------ a real small one

REAL = {
    f"{S}.sweeps": [
        {**EXACT, "name": "subspace", "data": {"name": "gaussian_subspace", "train": 200, "test": 60}, "images": 20,
         "strengths": {"noise": [.5]}, "draws": 2},
        {"name": "digits", "arch": {"type": "CNN", "width": 8, "depth": 2}, "training": {"epochs": 1},
         "strengths": {"gradient_norm": [.1, 1e12], "pgd": [.5]}, "attack_steps": 1, "images": 20, "draws": 1,
         "tangents": ["auto-encoder", "PCA", "local PCA"], "pca": 8, "neighbours": 20, "sizes": [2, .5], "clean": .9,
         "controls": ["per batch", "reduced lr"],
         "autoencoder": {"arch": {"type": "AutoEncoder", "width": 4, "latent": 8}, "epochs": 1}}],
    f"{S}.distractor": {**LETTERS, "data": [{"name": "digits_letters", "train": 100, "test": 40}], "images": 30,
                        "training": {"epochs": 1}, "attack_steps": 1},
    f"{S}.theory": {"sigmas": [.001, .004], "points": 10},
    "networks.normal.epochs": 1, "networks.robust.epochs": 1,
}


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """A store, settings, and what is measured the first time."""
    torch.set_num_threads(1)
    s, store = settings.load("test", REAL), Store(tmp_path_factory.mktemp("store"))
    zoo = Zoo(store, allowed={t.recipe.key for t in plan(s, (S,))})
    return zoo, s, measure(zoo, networks.cells(*given(s)), *given(s))


def cell_of(f, where, kind, strength=0.):
    cell, = [c for c in f.cells if c.condition == Condition(where, kind, strength)]
    return cell


def test_all_that_is_planned_is_trained_and_measured(real):
    zoo, s, f = real
    lost = cell_of(f, "digits", "gradient norm", 1e12), cell_of(f, "digits", "reduced lr", 1e12)
    assert set(f.diverged) == set(lost) and all("loss of step" in why for why in f.diverged.values())
    generative = {c for c in f.cells if c.condition.kind in (MANIFOLD, SCORE)}
    letters_ = {c for c in f.cells if c.condition.where == "digits_letters"}
    assert set(f.outcomes) == set(f.cells) - generative - set(lost) and set(f.distractor) == letters_
    assert set(f.sensitivity) == set(f.outcomes) - letters_
    assert set(f.last_epoch) == {c for c in f.outcomes if c.recipe.epochs}
    trained = {c.recipe.key for c in f.cells if c.recipe.epochs} - {c.recipe.key for c in lost}
    assert set(zoo.trained_here) == trained and len(zoo.trained_here) == len(trained)
    for c, table in f.sensitivity.items():
        sweep = f.sweep(c.condition.where)
        wanted = {"on", "off", "l2 on", "l2 off", "inside", "alignment", "shuffled pairs", "white noise"}
        more = set() if sweep.closed_form else {"phases", "high-pass", "sum of logits", "score, high-pass"}
        more |= {f"{side}, {name}, {size:g}" for side in ("on", "off") for name in sweep.tangents
                 for size in sweep.sizes}
        assert set(table) - {"1 - LPIPS", "other"} == wanted | more | {"index", "label"} and len(table) == 20
        assert table.drop(columns="inside").notna().all(axis=None)
        changes = table[[name for name in table if name.startswith(("on", "off", "phases", "other"))]]
        assert changes.stack().between(0, 1).all() and (changes.mean() > 0).all()
        cosines = ["alignment", "shuffled pairs", "white noise"]
        assert table[cosines].stack().between(-1, 1).all() and table.inside.dropna().between(0, 1).all()
        assert (table["on"] == table[f"on, {sweep.tangents[0]}, {sweep.sizes[0]:g}"]).all()
    for table in f.distractor.values():
        assert len(table) == 30 and table.energy.between(0, 1).all() and table.notna().all(axis=None)
        assert 0 < table.above.mean() < 1
    assert set(f.quality) == {"subspace", "digits"} and len(f.quality["digits"]) == 5


def test_a_second_time_everything_comes_from_the_store(real, monkeypatch):
    first, s, f = real

    def refuse(*args, **options):
        raise AssertionError("this was measured before")

    for name in ("_sensitivity", "_halves"):
        monkeypatch.setattr(study, name, refuse)
    for name in ("rho1", "rho2", "normal_draws", "orthogonal_draws"):
        monkeypatch.setattr(sensitivity, name, refuse)
    for name in ("decoder_tangents", "global_pca", "local_pca"):
        monkeypatch.setattr(spaces, name, refuse)
    for name in ("fit", "evaluate"):
        monkeypatch.setattr(zoos, name, refuse)
    again = Zoo(first.store, allowed=first.allowed)
    g = measure(again, networks.cells(*given(s)), *given(s))
    assert not again.trained_here and g.diverged == f.diverged and g.quality == f.quality
    assert g.last_epoch == f.last_epoch
    pd.testing.assert_frame_equal(g.theory, f.theory)
    for one, other in ((g.sensitivity, f.sensitivity), (g.distractor, f.distractor)):
        assert set(one) == set(other)
        for c in one:
            pd.testing.assert_frame_equal(one[c], other[c])
    assert all(g.measured(c).table.equals(f.measured(c).table) for c in f.outcomes)
    assert len(g.outcomes) == len(f.outcomes)
    for table in (tables.networks, tables.distractor, tables.energies, tables.quality):
        pd.testing.assert_frame_equal(table(g), table(f))
    assert set(evidence(g)) == set(evidence(f)) == {"C1", "C2", "C3a", "C3b", "C3c", "C10a", "C10b", "C11"}


def test_what_a_measurement_depends_on_is_in_its_key(real, monkeypatch):
    first, s, f = real
    measured = []
    real_one = study._sensitivity
    monkeypatch.setattr(study, "_sensitivity", lambda zoo, cell, *rest: measured.append(
        cell.condition.where) or real_one(zoo, cell, *rest))
    shorter = copy.deepcopy(REAL)
    shorter[f"{S}.sweeps"][0]["sizes"] = [.5]
    t = settings.load("test", shorter)
    g = measure(Zoo(first.store), networks.cells(*given(t)), *given(t))
    assert measured == ["subspace"] * 3, "those of the other sweep are the same"
    one, other = (study_.sensitivity[cell_of(study_, "subspace", NONE)] for study_ in (f, g))
    assert (other["on"] < one["on"]).mean() > .8


def test_steps_and_noise_on_closed_forms_are_in_units_of_their_space(real):
    zoo, s, f = real
    cell = cell_of(f, "subspace", "noise", .5)
    net, form = zoo.obtain(cell.recipe).net, closed_forms.of("gaussian_subspace")
    images = zoo.images(cell.recipe.data, "test").take(slice(0, 20))
    points = form.points(images.pixels())
    noise = sensitivity.normal_draws(images.pixels(), images.indices, 2, "steps")
    with torch.no_grad():
        along = F.normalize(noise @ form.basis.float() @ form.basis.float().T, dim=2)
        p = net(form.pixels(points)).softmax(1)
        moved = [(net(form.pixels(points + step)).softmax(1) - p).abs().sum(1) / 2 for step in along]
    assert f.sensitivity[cell]["on"].to_numpy() == pytest.approx(torch.stack(moved).mean(0).numpy(), rel=1e-3)
    rows = f.theory[(f.theory.kind == "noise 0.5") & (f.theory["where"] == "subspace")]
    x = form.points(zoo.images(cell.recipe.data, "test").take(slice(0, 10)).pixels().double())
    of_points = copy.deepcopy(net).double()
    draws = sensitivity.orthogonal_draws(form.pixels(x), zoo.images(cell.recipe.data, "test").indices[:10], "theory")
    off = draws - draws @ form.basis @ form.basis.T

    def change(steps_):
        with torch.no_grad():
            p = of_points(form.pixels(x)).softmax(1)
            return sum((of_points(form.pixels(x + step)).softmax(1) - p).square().sum() for step in (*steps_, *-steps_))

    for row in rows.itertuples():
        assert row.rho1 == pytest.approx((change(row.sigma * off) / change(row.sigma * draws)).item(), rel=1e-6)


def test_where_all_tangent_spaces_are_one_there_is_no_other_images(real):
    _, _, f = real
    assert "other" in f.sensitivity[cell_of(f, "digits", NONE)]
    assert "other" not in f.sensitivity[cell_of(f, "subspace", NONE)]


def test_every_repetition_of_the_proof_has_points_of_its_own(real):
    zoo, s, f = real
    cell, sweep = cell_of(f, "subspace", NONE), f.sweep("subspace")
    net, form = copy.deepcopy(zoo.obtain(cell.recipe).net).double(), closed_forms.of("gaussian_subspace")
    images = zoo.images(cell.recipe.data, "test").pixels().double()
    for seed, part in ((0, slice(0, 10)), (1, slice(10, 20)), (5, slice(50, 60))):
        of_part = sensitivity.rho2(net, images[part], spaces.Tangents(form.tangents(images[part])))
        rows = study._rhos(zoo, f, sweep, seed, cell)
        assert rows.rho2.to_numpy() == pytest.approx(of_part.pooled, rel=1e-9)
        assert rows["worst rho2"].to_numpy() == pytest.approx(of_part.per_image.max().item(), rel=1e-9)


def test_the_bayes_classifier_is_robust_and_aligned(real):
    _, _, f = real
    bayes = f.theory[f.theory.kind == BAYES]
    assert len(bayes) == 2 and (bayes["worst rho2"] < 1e-20).all() and (bayes.rho1 < 1e-15).all()
    assert set(f.theory.kind) == {NONE, "noise 0.5", BAYES}
    trained = f.theory[f.theory.kind != BAYES]
    assert trained.rho2.between(.01, 1).all() and (trained["worst rho2"] >= trained.rho2).all()


def test_pictures_are_of_different_classes_and_leave_out_what_diverged(real):
    zoo, s, f = real
    shown = [(NONE, 0.), ("gradient norm", .1), ("gradient norm", 1e12)]
    got = study.pictures(zoo, f, "digits", shown, 4)
    assert got.images.shape == got.score.shape == got.class_score.shape == (4, 1, 8, 8)
    assert list(got.gradients) == shown[:2] and got.gradients[NONE, 0.].shape == (4, 1, 8, 8)
    exact = study.pictures(zoo, f, "subspace", [(NONE, 0.)], 4)
    assert exact.score is None and exact.class_score.shape == (4, 1, 8, 16)
    form = closed_forms.of("gaussian_subspace")
    bayes = torch.from_numpy(exact.class_score).flatten(1).double()
    assert torch.allclose(bayes @ form.basis @ form.basis.T, bayes, atol=1e-5), "along the manifold"
    images, gradients = study.letter_pictures(zoo, f, "digits_letters", 3)
    assert images.shape == (3, 1, 16, 8) and set(gradients) == {UNTRAINED, STANDARD, PER_IMAGE, PER_BATCH}
