"""Compact and robust networks: profiles of known sizes, and studies whose outcomes are known."""

import functools
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pandas as pd

from lib import claims
from lib.papers.compact_robust_pruning.evidence import claim_preconditions, evidence, preconditions
from lib.papers.compact_robust_pruning.networks import DENSE, Condition, setup_named
from lib.papers.compact_robust_pruning.results import Results
from lib.papers.compact_robust_pruning.settings import BENIGN, ROBUST
from lib.runtime import seed_of
from tests.kit import worlds
from tests.kit.profiles import cells_of, given, load
from tests.kit.worlds import outcomes as made_up

S = "compact_robust_pruning"
PAPER = claims.load(S)
IMAGES, SEEDS = 400, 4
KEEP, HARSH = Fraction(1, 10), Fraction(1, 50)
GATES = {"normal_clean": .9, "normal_robust": .1, "robust_clean": .85, "robust_robust": .5}
STEPS = {"pretrain": {"epochs": 10, "optimiser": {"name": "adam", "lr": .003}},
         "finetune": {"epochs": 7, "optimiser": {"name": "adam", "lr": .001}}, "gates": GATES}
POOLED = {"name": "pooled", "training": "PGD-AT", "longer": True, "gates": GATES, "finetune": STEPS["finetune"]}
TRADED = {"name": "traded", "training": "TRADES", "arch": "CNNSmall", **STEPS}
WARM = {**TRADED, "pretrain": {**STEPS["pretrain"], "warm_up": 2}}
BOUNDED = {"name": "bounded", "training": "IBP", "arch": "CNNSmall", "augment": "none",
           "threat": {"norm": "linf", "eps": .1}, "certificate": {"type": "Bounds", "method": "interval"}, **STEPS}
CROWNED = {**BOUNDED, "name": "crowned", "training": "CROWN-IBP", "batch_size": 32,
           "certificate": {"type": "Bounds", "method": "CROWN-IBP"}}
SMOOTHED = {**STEPS, "name": "smoothed", "training": "smoothing", "arch": "CNNSmall",
            "certificate": {"type": "Smoothing", "sigma": .25}, "certified": {"norm": "l2", "eps": .25}}
SIZES = {"seeds": SEEDS, "keeps": [.1, .02], "rounds": [.5, .25], "filters": [.5],
         "rules": ["LWM", "random", "SNIP", "HYDRA", "iterative LWM"],
         "harsher_rules": ["LWM", "random", "SNIP", "HYDRA", "iterative LWM"],
         "benign_rules": ["LWM", "global magnitude", "SNIP", "HYDRA"], "nets": [POOLED, TRADED, BOUNDED, CROWNED]}


def sized(**changes):
    """The smoke profile with networks and sizes that are known here; changes: of the notebook's section."""
    return load(S, {**SIZES, **changes}, {"networks.threat.eps": .15, "networks.precision": "fp32"})


@functools.cache
def every_cell(s):
    return cells_of(s, S)


def cells(s):
    return [c for c in every_cell(s) if not c.condition.half]


def the(s, name):
    return setup_named(s.sections[S], name)


def lwm(net, pre=ROBUST, fine=ROBUST, keep=KEEP, longer=False):
    return Condition(net, pre, "LWM", keep, fine, longer)


# clean, robust, verified (of verifiable networks)
UNPRUNED, DENSELY, NORMAL = (.93, .60, .50), (.93, .60, .50), (.97, .02, 0)
GRID = {(ROBUST, ROBUST, False): (.90, .57, .44), (ROBUST, BENIGN, False): (.95, .05, .0),
        (BENIGN, ROBUST, False): (.88, .50, .35), (BENIGN, BENIGN, False): (.96, .01, .0),
        (BENIGN, ROBUST, True): (.89, .53, .37)}
RULED = {"random": (.85, .45), "SNIP": (.90, .57), "HYDRA": (.90, .57), "iterative LWM": (.90, .57),
         "filters": (.80, .40), "global magnitude": (.90, .57)}
AT_HARSH = (.80, .50)
WIDE = (100, 1000, 8000, 200)  # weights by layer


def usual(arm):
    if arm.rule == DENSE:
        return (UNPRUNED if arm.pre == ROBUST else NORMAL) if arm.fine is None else DENSELY
    if arm.fine == ROBUST and arm.keep == HARSH:
        return AT_HARSH
    if arm.rule == "LWM":
        return GRID[arm.pre, arm.fine, arm.longer]
    return RULED[arm.rule] if arm.fine == ROBUST else GRID[ROBUST, BENIGN, False]


@functools.cache
def outcomes(seed, clean, strong, column):
    return made_up(IMAGES, ("made up", seed), {"attack": "made up", "seed": "0"}, clean=clean, **{column: strong})


def layers_of(arm):
    if arm.rule == "filters":
        return pd.DataFrame({"layer": ["l0", "l1"], "weights": [100, 1000], "kept": [100, 500], "share": [1, .5],
                             "channels": [np.nan, 20], "kept_channels": [np.nan, 10]})
    kept = [n - int((1 - arm.keep) * n) for n in WIDE]
    return pd.DataFrame({"layer": [f"l{k}" for k in range(4)], "weights": WIDE, "kept": kept,
                         "share": np.array(kept) / WIDE})


def found(s=None, accuracy=(), half=None):
    """A study in a world that differs from the usual one by `accuracy`: {arm: (clean, robust, verified)}; half: the
    same of HYDRA after half of its search, which else changes nothing.
    """
    s, changed = s or sized(), dict(accuracy)
    f = Results(*given(s, S), cells(s), halved=[c for c in every_cell(s) if c.condition.half])
    for c in f.halved:
        rates = half or changed.get(replace(c.condition, half=False), usual(c.condition))
        f.on_holdout[c] = outcomes(c.repetition, *rates[:2], "robust")
    for c in f.cells:
        condition, number = c.condition, c.repetition
        # every network is a little better or worse, as many images in each repetition
        shift = .0025 * ((seed_of(f.label(condition), number) % 5) - 2)
        rates = [min(1, a + shift) if a else 0 for a in changed.get(condition, usual(condition))]
        f.outcomes[c] = {"robust": outcomes(number, *rates[:2], "robust")}
        f.on_holdout[c] = f.outcomes[c]["robust"]
        if the(s, condition.net).verifiable:
            f.outcomes[c]["verified"] = outcomes(number, rates[0], rates[2], "verified")
        if condition.fine is None:
            f.outcomes[c]["search"] = f.outcomes[c]["robust"]
        if condition.keep != 1:
            f.layers[c] = layers_of(condition)
    return f


def judged(f, warnings=()):
    """Claim id -> judged, at the profile that tests all."""
    ready, own = evidence(f), claim_preconditions(f)
    assert {*ready} | {*own} <= {c.id for c in PAPER}
    return worlds.judged(PAPER, ready, own, preconditions(f, list(warnings)))


def verdicts(f, **given):
    return {claim: one.verdict for claim, one in judged(f, **given).items()}


def ruled(rule, keep=KEEP, fine=ROBUST):
    return Condition("pooled", ROBUST, rule, keep, fine)
