"""Off-manifold robustness: profiles of known sizes, and studies whose outcomes are known."""

import copy
import functools

import numpy as np
import pandas as pd

from lib import claims
from lib.manifold import spectrum
from lib.papers.off_manifold_robustness import networks
from lib.papers.off_manifold_robustness.networks import (
    MANIFOLD,
    NONE,
    PER_BATCH,
    PER_IMAGE,
    POOL,
    SCORE,
    STANDARD,
    UNTRAINED,
)
from lib.papers.off_manifold_robustness.results import BAYES, Results
from lib.papers.off_manifold_robustness.settings import CONTROLS
from lib.runtime import seed_of
from lib.training.evaluation import Outcomes
from tests.kit import profiles
from tests.kit.profiles import load
from tests.kit.worlds import right, shift

S = "off_manifold_robustness"
PAPER = claims.load(S)
EVERY = profiles.profiles_of(S)
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
    usual = {"seeds": 4, "sweeps": every, "distractor": LETTERS}
    return load(S, {**usual, **dict(changes)}, {name.replace("__", "."): value for name, value in others.items()})


def given(s):
    return profiles.given(s, S)


def sweep_of(s, name):
    return next(sweep for sweep in s.sections[S].sweeps if sweep.name == name)


def networks_of(s, name):
    return networks.SweepNetworks(s.networks, sweep_of(s, name), s.seed)


IMAGES, TESTED = 60, 400
EXACTLY_KNOWN = ("subspace", "torus")  # no matched steps: their pixels are coordinates
# column -> by strength, from 0 on: the flip is at the fifth, the peak at the sixth, the most accurate at the second
WORLD = {
    "on": (.50, .50, .48, .45, .40, .20, .02),
    "off": (.80, .70, .50, .30, .10, .06, .01),
    "alignment": (.10, .20, .30, .40, .50, .60, .20),
    "shuffled pairs": (.05, .05, .06, .06, .07, .08, .05),
    "inside": (.05, .10, .20, .40, .60, .70, .60),
    "accuracy": (.90, .92, .91, .89, .85, .75, .40),
}
ON_IMAGES = {
    "matched": (.70, .62, .45, .30, .15, .05, .01),
    "sum of logits": (.00, .05, .10, .20, .30, .25, .10),
    "sum of logits, shuffled pairs": (.02,) * 7,
}
ON_DIGITS = {
    "on, auto-encoder, 0.5": (.15, .15, .15, .14, .12, .05, .005),
    "off, auto-encoder, 0.5": (.20, .18, .15, .10, .04, .02, .004),
    "inside, PCA": (.3,) * 7, "inside, lowest frequencies": (.25,) * 7, "inside, another image's": (.35,) * 7,
}
EVERYTHING = {**WORLD, **ON_IMAGES, **ON_DIGITS}
AS = {NONE: 0, POOL["N"]: 0, POOL["R"]: 4}  # kinds without a strength -> like which strength they are
OTHER = {**dict.fromkeys(EVERYTHING, .05), "accuracy": .99}  # of networks that are no part of a curve
# kind -> changes by noise on the digit and on the letter, share of the squared gradient in the digit's half
HALVES = {UNTRAINED: (.20, .20, .50), STANDARD: (.40, .30, .55), PER_IMAGE: (.40, .10, .80),
          PER_BATCH: (.36, .12, .75)}
BELOW = 1.2  # how much larger changes by noise on the letter are where the digit is below
THEORY = {"order": 2., "limit": 1e-4, "bayes": 1e-5, "worst": 1e-9}


def spread(mean, *parts):
    """Values of the images, which differ a little; `parts` seed which image has which."""
    return mean * (1 + .02 * np.random.default_rng(seed_of("spread", *parts)).permutation(np.linspace(-1, 1, IMAGES)))


def columns(where):
    """The columns that are measured in a sweep."""
    if where in EXACTLY_KNOWN:
        return [*WORLD][:-1]
    return [*WORLD][:-1] + [*ON_IMAGES] + ([*ON_DIGITS] if where == "digits" else [])


def found(s=None, world=(), halves=(), theory=(), gone=(), clean=()):
    """A study in a world that differs from EVERYTHING by `world`: {(sweep, kind or None for all, column): values}, from
    HALVES by `halves` and from THEORY by `theory`; clean: accuracies of {(where, kind)}; gone: (sweep, kind, strength,
    repetition) of trainings that diverged.
    """
    s, planned_ = (s, networks.cells(*given(s))) if s else usual()
    f, world, theory, clean = Results(*given(s), planned_), dict(world), THEORY | dict(theory), dict(clean)
    halves = HALVES | dict(halves)
    for c in f.cells:
        where, kind, strength, seed = named = named_by(c)
        if kind in (MANIFOLD, SCORE):
            continue
        if named in gone:
            f.failed[c] = "the loss is nan"
            continue
        own = shift(*named)
        if where in ("digits_letter_a", "digits_letters"):
            f.distractor[c], share = beside(s, named, own, halves), .95 if kind != UNTRAINED else .1
        else:
            names = columns(where)
            values = [spread(value(world, named, name, f) * shift(name, *named), name, *named) for name in names]
            table = np.stack([np.arange(IMAGES), np.arange(IMAGES) % 4, *values], 1)
            f.sensitivity[c] = pd.DataFrame(table, columns=frame("index", "label", *names))
            share = value(world, named, "accuracy", f)
        verdict = right(clean.get((where, kind), share), TESTED, "ranks", seed)
        f.outcomes[c] = {"clean": Outcomes(pd.DataFrame({"clean": verdict}))}
        f.last_epoch[c] = {"loss": .3 * own, "accuracy": .97}
        if kind == UNTRAINED:
            del f.last_epoch[c]
    f.theory = proof(f, theory)
    f.matching = {name: spectrum.said(name, 0., .05) for name in ("digits", "ImageNet-64")}
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


def value(world, named, name, f):
    where, kind, strength, _ = named
    strengths = f.sweep(where).strengths.of
    if kind not in AS and kind not in strengths:
        return world.get((where, kind, name), (OTHER[name],))[0]
    k = AS[kind] if kind in AS else 1 + strengths[kind].index(strength)
    changed = world.get((where, kind, name), world.get((where, None, name), EVERYTHING[name]))
    return changed[k]


def beside(s, named, own, halves):
    signal, letter, energy = halves[named[1]]
    levels, above = s.sections[S].distractor.noise, np.arange(IMAGES) % 2 == 0
    beside = spread(1, "letter", *named) * np.where(above, letter, letter * BELOW)
    moved = spread(signal * own, "digit", *named), beside
    nothing = np.full(IMAGES, .001), np.full(IMAGES, .009)  # at the first level, where it must not count
    columns = [np.arange(IMAGES), above, spread(energy * own, named[1]), *nothing, *moved * (len(levels) - 1)]
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


def every(instances, parts):
    return {part: dict.fromkeys(instances, number) for part, number in parts.items()}


def differs(column, values, kind=None, where=("subspace", "digits")):
    return {"world": {(sweep, kind, column): tuple(values) for sweep in where}}
