"""A profile in which the similarity notebook has every kind of network, at sizes that are known here."""

from lib.papers import papers, settings
from tests.kit.profiles import cells_of

S = "representation_similarity"
L2, NEAR = {"norm": "l2", "eps": 1.0}, {"norm": "linf", "eps": 0.05}
ARMS = [
    {"name": "l2", "group": "threat", "threat": L2, "attack": {"steps": 5, "step_size": 0.35}},
    {"name": "eps 0.05", "group": "strength", "threat": NEAR, "attack": {"steps": 5, "step_size": 0.02}},
    {"name": "half", "group": "procedure", "training": "half"},
    {"name": "TRADES", "group": "procedure", "training": "TRADES"},
    {"name": "FGSM-RS", "group": "procedure", "training": "FGSM-RS"},
    {"name": "noise", "group": "procedure", "training": "noise", "sigma": 0.2, "epochs": 7},
    {"name": "wide", "group": "architecture", "arch": {"type": "ResNet", "width": 32, "blocks": [1, 1, 1]}},
    {"name": "mnist", "group": "data", "data": {"name": "mnist", "test": 500}, "epochs": 4, "normal_epochs": 3},
]
RUNS = {"train": 500, "epochs": 20, "every": 1, "training": {"epochs": 20}}
ALL = {f"{S}.arms": ARMS, f"{S}.overfitting": RUNS}
SIZES = {"seeds": 4, "arm_seeds": 3, "batch": 100, "matched.epochs": 2, "matched.longer": 6, "search.steps": 20}


def load(overrides=None):
    """The smoke profile, at sizes that are known here."""
    given = overrides or {}
    sizes = {} if S in given else {f"{S}.{name}": value for name, value in SIZES.items()}
    others = dict.fromkeys(papers().keys() - {"stitching", S})
    mine = {"networks.precision": "fp32", "first_seed": 0, "stitching.seeds": 3, **others}
    return settings.load("smoke", {**mine, **sizes, **given})


def cells(s):
    return cells_of(s, S)


def of(s):
    """(kind, seed, epoch) -> cell."""
    return {(c.condition.kind, c.repetition, c.condition.epoch): c for c in cells(s)}
