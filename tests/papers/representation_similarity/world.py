"""Similarity of representations: studies whose maps and outcomes are known."""

import functools
from itertools import combinations

import numpy as np

from lib.models.taps import Tap
from lib.papers.representation_similarity.measured import MOVED
from lib.papers.representation_similarity.results import Results
from lib.runtime import seed_of
from tests.kit.profiles import cells_of, load
from tests.kit.worlds import outcomes as made_up

SECTION = "representation_similarity"


def cells(s):
    return cells_of(s, SECTION)


ARMS = [
    {"name": "l2", "group": "threat", "threat": {"norm": "l2", "eps": 1.0}, "attack": {"steps": 5, "step_size": 0.35}},
    {"name": "eps 0.1", "group": "strength", "threat": {"norm": "linf", "eps": 0.1}},
    {"name": "eps 0.05", "group": "strength", "threat": {"norm": "linf", "eps": 0.05}},
    {"name": "noise", "group": "procedure", "training": "noise", "sigma": 0.2},
    {"name": "TRADES", "group": "procedure", "training": "TRADES"},
    {"name": "wide", "group": "architecture", "arch": {"type": "ResNet", "width": 32, "blocks": [1, 1, 1]}},
    {"name": "mnist", "group": "data", "data": {"name": "mnist", "test": 500}},
]
RUNS = {"train": 500, "epochs": 20, "every": 1, "training": {"epochs": 20}}
BATCHES, IMAGES = 6, 500
# 16 layers: the stem's 2 and 4 of layer1 are one block, then two of 4; the head's 2 are in none.
LAYERS = tuple(Tap(f"{stage}.{k}", 0, "ReLU", stage) for stage, count in
               (("stem", 2), ("layer1.0", 4), ("layer2.0", 4), ("layer3.0", 4), ("head", 2)) for k in range(count))
BLOCK = np.array([0] * 6 + [1] * 4 + [2] * 4 + [3, 4])
SAME = (BLOCK[:, None] == BLOCK) & ~np.eye(16, dtype=bool)
PART = SAME.sum() / 240  # of the cells off the diagonal; times the bonus, what blocks add to their mean
# kind -> similarity of different layers, bonus within a block
INSIDE = {"N": (.40, .20), "R": (.75, .05), "M-": (.50, .20), "M+": (.40, .20), "U": (.85, .01), "l2": (.70, .05),
          "eps 0.05": (.55, .10), "eps 0.1": (.65, .08), "noise": (.45, .18), "TRADES": (.72, .05),
          "N wide": (.42, .20), "R wide": (.77, .05), "N mnist": (.40, .20), "R mnist": (.66, .05)}
# pair of kinds -> similarity of the same layer of two networks
ACROSS = {"N-N": .85, "R-R": .90, "N-R": .50, "N-M-": .80, "N-M+": .70, "R-l2": .80,
          "N-l2": .52, "R-noise": .60, "l2-noise": .56, "N-eps 0.05": .70, "N-eps 0.1": .60, "R-eps 0.1": .88,
          "eps 0.05-eps 0.1": .92}
# network and images -> similarity of early and of deep layers with clean images
PERTURBED = {"N-own": (.90, .30), "N-of N": (.92, .50), "N-of R": (.95, .70), "N-noise": (.98, .90),
             "R-own": (.99, .90), "R-of N": (.99, .93), "R-of R": (.99, .91), "R-noise": (.99, .98)}
# run -> similarity of early and deep layers of its best epoch (of the control: of the same share) with the end
FROM_BEST = {"overfits": (.98, .80), "control": (.98, .95)}
BEST = {0: 14, 1: 12, 2: 16}  # epochs of 20
# kind -> accuracy: clean on test and training images, robust by search and by the stronger attack
ACCURACY = {"N": (.97, 1.0, .02, .02), "R": (.90, .93, .60, .58), "M-": (.86, .91, .03, .03),
            "M+": (.94, .95, .03, .03), "U": (.10, .10, 0, 0)}
WORLD = {"inside": INSIDE, "across": ACROSS, "perturbed": PERTURBED, "from_best": FROM_BEST, "accuracy": ACCURACY,
         "fall": .06, "noise": .01, "best": BEST}


def sized(**changes):
    """Settings with these arms and runs, at sizes that are known here; changes: of the notebook's section."""
    gates = {"normal_clean": .95, "normal_robust": .1, "robust_clean": .85, "robust_robust": .5}
    known = {"seeds": 4, "arm_seeds": 3, "arms": ARMS, "overfitting": RUNS, "gates": gates, "untrained": 3,
             "second": ["procrustes", "svcca"]}
    return load(SECTION, {**known, **changes}, {"networks.threat.eps": 0.15, "stitching": None})


class Known:
    """Stands in for Maps: `value(a, b)` of two views is known; every pair of networks and every minibatch of images
    adds noise of its own to every cell. Only the `pairs` are there, of all pairs if none are named.
    """

    def __init__(self, views, value, noise, tag="", pairs=None, batches=BATCHES):
        self.views, self.value, self.noise, self.tag, self.batches = tuple(views), value, noise, tag, batches
        self.layers = {view: LAYERS for view in views}
        self.pairs = pairs or [*combinations(views, 2), *zip(views, views, strict=True)]
        self.undefined = {}

    def between(self, a, b, without=None):
        assert (a, b) in self.pairs or (b, a) in self.pairs, f"no map of {a} and {b} was asked for"
        assert without is None or 0 <= without < self.batches
        if (a, b) != tuple(sorted((a, b))):
            return self.between(b, a, without).T
        kept = [k for k in range(self.batches) if k != without]
        own, *of_batches = drawn(self.tag, a, b, self.batches)
        found = self.value(a, b) + self.noise * (own + np.mean([of_batches[k] for k in kept], 0))
        if a == b:
            found = (found + found.T) / 2
            np.fill_diagonal(found, 1)
        return found


@functools.cache
def drawn(tag, a, b, batches):
    return np.random.default_rng(seed_of(tag, a, b)).uniform(-1, 1, (1 + batches, 16, 16))


@functools.cache
def kind_of(view):
    if view.startswith("U, "):
        return "U"
    return next(kind for kind in sorted(INSIDE, key=len, reverse=True) if view[:len(kind)] == kind
                and view[len(kind):].isdigit())


def by_depth(early, deep):
    """A map whose diagonal has these values in its first and its last third, and worthless cells elsewhere."""
    values = np.full((16, 16), 7.0)
    np.fill_diagonal(values, [early] * 5 + [(early + deep) / 2] * 6 + [deep] * 5)
    return values


def outcomes(name, accuracies):
    return made_up(IMAGES, (name,), {"attack": name}, classes=1, **accuracies)


def found(settings_=None, **changes) -> Results:
    """A study in a world that differs from WORLD by `changes`: {name of a table: entries} or a number."""
    s = settings_ or sized()
    world = {name: {**value, **changes.get(name, {})} if isinstance(value, dict) else changes.get(name, value)
             for name, value in WORLD.items()}
    section, noise = s.sections[SECTION], world["noise"]

    def value(a, b):
        one, other = kind_of(a), kind_of(b)
        if a == b:
            level, bonus = world["inside"][one]
            return level + bonus * SAME
        pair = world["across"].get(f"{one}-{other}", world["across"].get(f"{other}-{one}"))
        values = np.full((16, 16), 7.0)  # only the diagonal of a map between networks counts
        np.fill_diagonal(values, .99 if a[len(one):] == b[len(other):] or pair is None else pair)  # nor one repetition
        return values

    f = Results(s.networks, section, s.seed, cells(s))
    for c in f.cells:
        kind, epoch = c.condition.kind, c.condition.epoch
        if epoch is None:
            clean, train, search, verify = world["accuracy"].get(kind.split(",")[0], (.9, .9, .5, .5))
            name = f"{kind}{c.repetition}"
            f.outcomes[c] = {"clean": outcomes(name, {"clean": clean}),
                             "train": outcomes(f"train {name}", {"clean": train}),
                             "search": outcomes(name, {"clean": clean, "robust": search}),
                             "verify": outcomes(name, {"clean": clean, "robust": verify})}
        else:
            best = world["best"].get(c.repetition) if kind == "overfits" else None
            robust = .5 - world["fall"] * (epoch == c.recipe.epochs) + .01 * (epoch % 3 == 0)
            f.outcomes[c] = {"clean": outcomes("run", {"clean": .9}),
                             "search": outcomes("run", {"clean": .9, "robust": .5 if epoch == best else robust}),
                             "holdout": outcomes("run", {"clean": .9, "robust": .56 if epoch == best else .5})}
    pool = [f"{kind}{seed}" for seed in range(section.seeds) for kind in ("N", "R", "U", "M-", "M+")]
    f.pool = Known(pool, value, noise)
    untrained = [f"{kind}{seed}" for kind in section.untrained_kinds for seed in range(section.seeds)]
    f.untrained = Known(untrained, value, noise, pairs=[(view, view) for view in untrained])
    here = [arm.name for arm in section.arms if arm.group not in ("architecture", "data")]
    kinds = ["N", "R", *here, *(f"{k} {a.name}" for a in section.arms if a.group == "architecture" for k in "NR")]
    if section.arms:
        f.arms = Known([f"{k}{seed}" for k in kinds for seed in range(section.arm_seeds)], value, noise)
    for arm in section.arms:
        if arm.group == "data":
            f.elsewhere[arm.name] = Known([f"{k} {arm.name}{i}" for k in "NR" for i in range(section.arm_seeds)],
                                          value, noise, batches=BATCHES + 1)
    for kind in "NR":
        for seed in range(section.seeds):
            f.moved[kind, seed] = Known(["clean", *MOVED], lambda a, b, k=kind: by_depth(
                *world["perturbed"][f"{k}-{b if a == 'clean' else a}"]), noise, f"{kind}{seed}",
                [("clean", name) for name in MOVED])
    for name in section.second:
        views = [view for view in pool if view[0] != "U"]
        f.second[name] = Known(views, value, noise, name, [(view, view) for view in views], batches=1)
    for kind in ("overfits", "control") if section.overfitting else ():
        for seed in range(section.overfitting.seeds):
            epochs = [c.condition.epoch for c in f.cells if (c.condition.kind, c.repetition) == (kind, seed)]
            best = world["best"][seed] if kind == "overfits" else world["best"][seed] // 2

            def moved(a, b, kind=kind, best=best):
                return by_depth(*(world["from_best"][kind] if str(best) in (a, b) else (.2, .9)))

            for split in ("test", "train"):
                views = [str(epoch) for epoch in epochs]
                f.runs[kind, seed, split] = Known(views, moved, noise, f"{kind}{seed}{split}",
                                                  [(view, views[-1]) for view in views])
    return f


def bright(kind):
    """Mean similarity of different layers."""
    level, bonus = INSIDE[kind]
    return level + PART * bonus


def share(kind):
    return INSIDE[kind][1] / (1 - bright(kind))
