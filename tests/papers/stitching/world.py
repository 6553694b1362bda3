"""Stitching: a small profile, made-up outcomes, and joints that are trained in a second."""

from dataclasses import replace

import numpy as np
import pandas as pd

from lib.papers.stitching import results
from lib.training.evaluation import Outcomes
from lib.values.architectures import ResNet, Stitch
from lib.values.attacks import PGD
from lib.values.data import Data
from lib.values.objectives import Adversarial
from lib.values.recipe import Optimiser, Recipe, Schedule
from lib.values.threats import Threat
from tests.kit.profiles import cells_of, given, load

S = load("stitching", {"seeds": 4, "others": []})  # the core alone
SECTION = S.sections["stitching"]
IMAGES = 600


def cells(s=S):
    return cells_of(s, "stitching")


def made_up(accuracy, s=S) -> results.Results:
    """Outcomes drawn so that a cell of condition c has accuracy(c, which) in expectation; robust implies clean."""
    m = results.Results(*given(s, "stitching"), cells(s))
    rng = np.random.default_rng(0)
    difficulty = rng.random(IMAGES)
    for c in m.cells:
        right = {which: difficulty * 0.9 + 0.1 * rng.random(IMAGES) < accuracy(c.condition, which)
                 for which in ("clean", "search", *(["verify"] if len(c.measures) > 1 else []))}
        for which, one in right.items():
            table = {"index": np.arange(IMAGES), "clean": right["clean"], "robust": one & right["clean"]}
            protocol = {"seed": "evaluation", "batchnorm": "eval"}
            m.outcomes.setdefault(c, {})[which] = Outcomes(pd.DataFrame(table), protocol)
        m.converged[c] = 0.01
    return m


def as_the_paper_says(c, which):
    """A world in which every claim holds, C4b excepted: it contradicts C6."""
    last = c.joint == SECTION.joints[-1]
    early = c.joint == SECTION.first
    if which == "clean":
        return {"untrained front": 0.5, "linear probe": 0.6}.get(c.role, 0.95)
    if c.role == "endpoint":
        return 0.7 if c.pair == "R" else 0.0
    if c.alpha == 0:
        return 0.0
    table = {"N->R": 0.6 if early else 0.0 if last else 0.1, "R->N": 0.68 if last else 0.2, "R->R2": 0.68,
             "N->N2": 0.0, "U->R": 0.2, "R->U": 0.69, "N->new": 0.4, "R->new": 0.6}
    return table.get(c.pair, 0.0)


THREAT, ATTACK = Threat("linf", "0.1"), PGD(2, "0.05")
DIGITS = Data("digits", train=512, test=100)
BASE = Recipe(DIGITS, ResNet(16, (1, 1)), epochs=6, batch_size=64, optimiser=Optimiser(lr=0.1),
              schedule=Schedule("onecycle"))
N, R = BASE, replace(BASE, objective=Adversarial(THREAT, ATTACK), seed=1)
OTHER = replace(BASE, data=Data("digits_permuted", train=512, test=100), seed=2)
JOINT = Recipe(DIGITS, Stitch("layer1.0"), epochs=3, batch_size=64, optimiser=Optimiser("adam", lr=0.03),
               parents=(N, R), trainable=("joint",))
CUT = replace(JOINT, arch=Stitch("layer1.0", rank=2), epochs=0, parents=(JOINT,), trainable=())
SELF = replace(JOINT, arch=Stitch("layer1.0", "identity"), epochs=0, parents=(N, N))
