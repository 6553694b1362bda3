"""Perceptually aligned gradients: profiles of known sizes, and studies whose outcomes are known."""

import copy
import functools

import numpy as np
import pandas as pd

from lib import claims
from lib.papers.perceptually_aligned_gradients import networks
from lib.papers.perceptually_aligned_gradients import results as study
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
)
from lib.papers.perceptually_aligned_gradients.results import Results
from lib.papers.perceptually_aligned_gradients.settings import SMOOTH
from lib.papers.perceptually_aligned_gradients.truths import INDEPENDENT, SHUFFLED
from lib.runtime import seed_of
from lib.training.evaluation import Outcomes
from tests.kit import profiles
from tests.kit.profiles import load
from tests.kit.worlds import right, shift

S = "perceptually_aligned_gradients"
PAPER = claims.load(S)
EVERY = profiles.profiles_of(S)
LENGTHY, COMBINED = networks.longer("l2"), networks.combined("l2")
TRAINING = {"epochs": 2, "optimiser": {"name": "sgd", "lr": .1}, "schedule": {"name": "onecycle"}}
BOTH = [{"norm": "l2", "eps": 1}, {"norm": "linf", "eps": .2}]
SWEEP = [.03, .3, 3]
STUDIES = [
    {"name": "digits", "training": TRAINING, "arch": {"type": "CNN", "width": 8, "depth": 2}, "augment": "none",
     "threats": BOTH, "classes": 2, "sample": 10, "clean": .9, "far": 3, "generated": 20, "images": 40,
     "weights": {"one_image": [.1], "class_mean": [.2], "nearest_neighbour": [.3], "score": SWEEP,
                 "centred_class_mean": [.4], "centred_nearest_neighbour": [.5], "random_direction": [.1],
                 "permuted_classes": SWEEP, "permuted_images": [.3], "logit": [.3], "gradient_norm": [.5, 1, 4],
                 "smooth_gradient_norm": [1]},
     "adversarial": {"eps": [.5, .1], "steps": 5, "trades": 6, "weights": [.03, .1], "longer": 1.5}},
    {"name": "digits ViT", "training": TRAINING, "threats": BOTH[:1], "weights": {"score": [.3]}, "first_weight": .1,
     "arch": {"type": "ViT", "width": 16, "depth": 1, "heads": 2, "mlp": 16, "patch": 4}, "clean": .9, "far": 3,
     "generated": 20, "images": 40},
    {"name": "CIFAR-10", "data": {"name": "cifar10", "train": 10000, "holdout": 2000, "test": 1000}, "draws": 2,
     "training": TRAINING, "threats": [BOTH[0], {"norm": "linf", "eps": "4/255"}], "batch_size": 32,
     "weights": {"class_mean": [.5], "score": [1], "random_direction": [.5]}, "clean": .8, "far": 5,
     "adversarial": {"eps": [.5, "4/255"], "steps": 2}, "generated": 20, "images": 40,
     "denoiser": {"arch": {"type": "UNet", "width": 8, "multipliers": [1, 2], "blocks": 1}, **TRAINING,
                  "sigma": .3}},
]
SIMPLE = {"seeds": 3, "studies": STUDIES, "toy.seeds": 4, "toy.controls": ["random direction", "permuted classes"]}


def sized(changes=(), of=(), **others):
    """The smoke profile at sizes that are known here. changes: of the notebook's section; of: (name, changes) of one
    study, None leaves a setting out; others: of other sections, dots as underscores.
    """
    every = copy.deepcopy(STUDIES)
    if of:
        one = next(s for s in every if s["name"] == of[0])
        one.update(of[1])
        for name in [k for k, value in of[1].items() if value is None]:
            del one[name]
    more = {name.replace("__", "."): value for name, value in others.items()}
    return load(S, {**SIMPLE, "studies": every, **dict(changes)}, more)


def given(s):
    return profiles.given(s, S)


def cells_of(s):
    return networks.cells(*given(s))


@functools.cache
def usual():
    s = sized()
    return s, cells_of(s)


def study_of(s, name):
    return next(one for one in s.sections[S].studies if one.name == name)


def named_by(c):
    return c.condition.where, c.condition.kind, c.condition.weight, c.repetition


def kind_of(c):
    return c.condition.kind


def only(cells, where, kind, weight=None, seed=0):
    found, = [c for c in cells if (c.condition.where, c.condition.kind, c.repetition) == (where, kind, seed)
              and weight in (None, c.condition.weight)]
    return found


TESTED, HELD, POINTS, QUERIES, SEEN, GENERATED = 400, 200, 200, 200, 40, 20
# (kind, what) or (kind, weight, what) -> share or number; `held clean` and `held robust` as `clean` and `robust` unless
# they are given, robust in a norm by its name
WORLD = {
    (VANILLA, "robust"): .02, ("one image", "robust"): .20, ("class mean", "robust"): .25,
    ("nearest neighbour", "robust"): .30, (CENTRED[0], "robust"): .28, (CENTRED[1], "robust"): .34,
    (SCORE, .03, "robust"): .15, (SCORE, .3, "robust"): .45, (SCORE, 3., "robust"): .60, (SCORE, 1., "robust"): .50,
    (CLASSES, .03, "robust"): .03, (CLASSES, .3, "robust"): .10, (CLASSES, 3., "robust"): .20,
    (RANDOM, "robust"): .04, (IMAGES, "robust"): .15, (LOGIT, "robust"): .40,
    (NORM, .5, "robust"): .05, (NORM, 1., "robust"): .12, (NORM, 4., "robust"): .25, (SMOOTH, "robust"): .12,
    **{(kind, "clean"): .80 for kind in (*HEURISTICS, *CENTRED, RANDOM)},
    (SCORE, .03, "clean"): .96, (SCORE, .3, "clean"): .94, (SCORE, 1., "clean"): .90, (SCORE, 3., "clean"): .88,
    (CLASSES, .03, "clean"): .96, (CLASSES, .3, "clean"): .90, (CLASSES, 3., "clean"): .80,
    (NORM, .5, "clean"): .95, (NORM, 1., "clean"): .92, (NORM, 4., "clean"): .80, (SMOOTH, "clean"): .92,
    (IMAGES, "clean"): .92,
    ("AT l2", "robust"): .30, ("AT linf", "robust"): .35, (LENGTHY, "robust"): .32,
    (COMBINED, .03, "robust"): .36, (COMBINED, .1, "robust"): .45, (TRADES_ALONE, "robust"): .31,
    (TRADES_SCORE, .03, "robust"): .38, (TRADES_SCORE, .1, "robust"): .43,
    (VANILLA, "cosine"): .05, (SCORE, .03, "cosine"): .15, (SCORE, .3, "cosine"): .35, (SCORE, 3., "cosine"): .50,
    (SCORE, 1., "cosine"): .40, (CLASSES, .03, "cosine"): .04, (CLASSES, .3, "cosine"): .06,
    (CLASSES, 3., "cosine"): .08, (VANILLA, "pairs"): .03, (VANILLA, "rate"): .10, (RANDOM, "rate"): .15,
    **{(kind, "cosine"): .20 for kind in HEURISTICS},
}
USUAL = {"clean": .97, "cosine": .10, "pairs": .05, "rate": .60}
MASKING = {"verify": .45, "square": .47, "FGSM": .60, "PGD": .46, "largest ball": 0.,
           f"from {VANILLA}": .80, "from AT l2": .70}
POINTWISE = {VANILLA: (1., .30, .20, .00), "nearest neighbour": (1., .98, .90, .05), RANDOM: (1., .40, .25, .00),
             CLASSES: (1., .20, .10, .00)}  # right, PGD, exact, far


def outcomes(seed, count, share):
    """Of `count` images; what is right at a share is right at larger ones."""
    return right(share, count, "ranks", seed, count)


def known(world, c, what):
    """What a network is, in a world that differs from WORLD by `world`, where the study may stand first."""
    for one in (world, WORLD):
        where, kind, weight, _ = named_by(c)
        for key in ((where, kind, weight, what), (where, kind, what), (kind, weight, what), (kind, what)):
            if key in one:
                return one[key]
    for prefix in ("held ", "robust "):
        if what.startswith(prefix):
            return known(world, c, what.removeprefix(prefix) if prefix == "held " else "robust")
    return USUAL[what]


def found(s=None, world=(), masking=(), points=(), gone=()):
    """A study in a world that differs from WORLD by `world`, from MASKING and POINTWISE by `masking` and `points`;
    gone: (study, kind, weight, repetition) of trainings that diverged.
    """
    s, every = (s, cells_of(s)) if s else usual()
    f, world, masking = Results(*given(s), every), dict(world), MASKING | dict(masking)
    points, rows, measured = POINTWISE | dict(points), [], []
    for c in f.cells:
        where, kind, weight, seed = named_by(c)
        if kind in (TEACHER, JUDGE):
            continue
        if where == TOY:
            columns = (outcomes(seed, POINTS, share) for share in points[kind])
            f.toy[c] = pd.DataFrame(dict(zip(("right", "PGD", "exact", "far"), columns, strict=True)))
            continue
        if named_by(c) in gone:
            f.failed[c] = "the loss is nan"
            continue
        one = f.study(where)
        norms = [threat.norm for threat in one.threats]
        f.outcomes[c] = {"clean": of("clean", outcomes(seed, TESTED, known(world, c, "clean")))}
        own = (seed_of("robust", where, kind, weight, seed) % 3 - 1) / TESTED  # one image more or less
        f.outcomes[c] |= {norm: of("robust", outcomes(seed, TESTED, known(world, c, f"robust {norm}") + own))
                          for norm in norms}
        f.last_epoch[c] = {"loss": .3, "cosine": .2, "clamped": .01}
        if c.recipe.data.holdout:
            f.on_holdout[c] = {name: outcomes(seed, HELD, known(world, c, f"held {name}"))
                               for name in ("clean", "robust")}
        f.alignment[c] = cosines(world, c)
        measured.append(c)
    for c in measured:  # at the best weights, which all held-out outcomes decide
        where, kind, weight, seed = named_by(c)
        one = f.study(where)
        norms = [threat.norm for threat in one.threats]
        if c not in f.best(where, kind):
            continue
        if kind in study.shown(one) and one.adversarial:
            f.rate[c] = outcomes(seed, GENERATED * 9, known(world, c, "rate"))
        for norm in norms if kind in (SCORE, VANILLA) else ():
            rows += [(where, kind, weight, seed, norm, float(eps), share)
                     for eps, share in ((0, .97), (1, .4), (8, 0.))]
        if kind == SCORE:
            ways = [k for k in masking if k != "from AT l2" or one.adversarial]
            f.masking[c] = {norm: {k: outcomes(seed, QUERIES, masking[k]) for k in ways} for norm in norms}
    f.curves = pd.DataFrame(rows, columns=["where", "kind", "weight", "seed", "norm", "eps", "robust"])
    f.ceilings = {one.name: {"cosine": .8, TEACHER: .5, JUDGE: .45} for one in f.studies}
    f.quality = {one.name: [("the denoiser beats the best linear filter", True, "1e-3")] for one in f.studies}
    return f


def of(verdict, values):
    """Outcomes that hold one verdict: in some worlds more images withstand an attack than are right without."""
    return Outcomes(pd.DataFrame({verdict: values}))


def cosines(world, c):
    """Means over images and ten classes as they are known, the own class's apart by 0.2."""
    table = {"index": np.arange(SEEN), "label": np.arange(SEEN) % 10}
    for name, what in ((INDEPENDENT, "cosine"), (SHUFFLED, "pairs")):
        order = np.random.default_rng(seed_of("spread", what, *named_by(c))).permutation(SEEN)
        spread = np.linspace(-.05, .05, SEEN)[order]
        mean = known(world, c, what) * shift(what, *named_by(c))
        table |= {f"own, {name}": mean + .18 + spread, f"others, {name}": mean - .02 + spread}
    return pd.DataFrame(table | {f"{whose}, {kind}": .1 + spread for kind in HEURISTICS for whose in ("own", "others")})
