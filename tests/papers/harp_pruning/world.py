"""HARP: profiles of known sizes, and studies whose outcomes are known."""

import functools
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pandas as pd
import torch

from lib import claims
from lib.papers.harp_pruning.networks import Condition, search_of
from lib.papers.harp_pruning.results import Results
from lib.papers.harp_pruning.settings import METHODS
from lib.runtime import seed_of
from tests.kit.profiles import cells_of, given, load
from tests.kit.worlds import outcomes as made_up

S = "harp_pruning"
PAPER = claims.load(S)
IMAGES, CLASSES = 400, 10
MILD, HARSH, HALF = Fraction(1, 10), Fraction(1, 50), Fraction(1, 2)
GATES = {"normal_clean": .95, "normal_robust": .1, "robust_clean": .85, "robust_robust": .5}
SIZES = {"seeds": 4, "keeps": [.1, .02], "methods": list(METHODS), "milder_methods": list(METHODS),
         "losses": ["PGD-AT", "TRADES", "MART"], "channels": [.5], "gates": GATES, "above_chance": .05, "attacks": [],
         "attack": None, "steady": True,
         "prune": {"epochs": 6, "optimiser": {"lr": .1, "nesterov": False, "weight_decay": 5e-4}}}


def sized(**changes):
    """The smoke profile with all arms, at sizes that are known here; changes: of the notebook's section."""
    return load(S, {**SIZES, **changes}, {"networks.threat.eps": .15, "networks.precision": "fp32"})


@functools.cache
def cells(s):
    return cells_of(s, S)


def compared(s):
    return [c for c in cells(s) if c.condition.compared]


# method -> accuracies at the mild and at the harsh target: clean, robust
ACCURACY = {"HARP": ((.93, .60), (.92, .58)), "HYDRA": ((.93, .60), (.85, .45)), "LWM": ((.92, .59), (.80, .40)),
            "random": ((.90, .55), (.60, .30)), "rates only": ((.92, .59), (.88, .50)),
            "HYDRA + HARP rates": ((.93, .60), (.90, .55)), "HYDRA + data-free": ((.93, .60), (.88, .51)),
            "HARP, constant gamma": ((.93, .60), (.88, .52))}
OTHERS, DENSE, NORMAL = ((.90, .55), (.85, .47)), (.93, .60), (.97, .02)
WIDE = (100, 1000, 8000, 8000, 200)  # weights by layer
ENDS = {"HARP": (.7, .05, .008, .008, .5), "HYDRA + data-free": (.4, .05, .012, .012, .3)}


def outcomes(seed, clean, robust):
    return made_up(IMAGES, ("made up", seed), {"attack": "made up", "loss": "ce"}, CLASSES, clean=clean, robust=robust)


def layers_of(arm, seed):
    shares = np.array(ENDS.get(arm.method, (float(arm.keep),) * 5))
    kept = np.floor(shares * np.array(WIDE)).astype(int)
    return pd.DataFrame({"layer": [f"l{k}" for k in range(5)], "weights": WIDE, "kept": kept,
                         "share": shares * (1 + .002 * (seed_of(arm.method, seed) % 5 - 2))})


def found(s=None, accuracy=(), layers=layers_of, half=()):
    """A study in a world that differs from ACCURACY by `accuracy`: {arm: (clean, robust)}; half: the same after half of
    a search, by method, which else changes nothing.
    """
    s, changed = s or sized(), dict(accuracy)
    f = Results(*given(s, S), compared(s), halved=[c for c in cells(s) if c.condition.half])
    drawn = functools.cache(outcomes)
    for c in [*f.halved, *f.cells]:
        arm = replace(c.condition, half=False)
        usual = {"N": NORMAL, "pre-trained": DENSE, "dense": DENSE}.get(arm.method) or ACCURACY.get(
            arm.method, OTHERS)[arm.keep == HARSH]
        # every network is a little better or worse, as many images in each repetition
        shift = .005 * ((seed_of(c.job) % 5) - 2)
        usual = dict(half).get(arm.method, changed.get(arm, usual)) if c.condition.half else changed.get(arm, usual)
        one = drawn(c.repetition, *(min(1, max(0, a + shift)) for a in usual))
        held_out = [Condition("dense"), *map(f.searched, ("HARP", "HYDRA", "LWM"))] if f.halved else []
        if arm in held_out:
            f.on_holdout[c] = one
        if c.condition.half:
            continue
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


H = Condition("HARP", HARSH)
