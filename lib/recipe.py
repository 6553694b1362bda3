"""Recipes: the values that say which network is meant, and nothing else.

A `Recipe` is frozen, checked when it is made, and built without importing torch, so that plans, price lists and
error messages cost nothing. Its `key` is a hash of everything that decides the weights: the recipe, its parents, the
version of the data and `NUMERICS`, the version of the code that computes.
"""

from __future__ import annotations

import functools
import hashlib
import json
from dataclasses import dataclass, field, fields
from fractions import Fraction
from typing import Any

from lib.architectures import Arch, Probe, Stitch
from lib.errors import fraction, is_int, is_number, need, unknown

# Raise when a change of the code changes the weights or outcomes that a recipe gives (tests/test_golden.py notices).
NUMERICS = 1


# --------------------------------------------------------------------------------------------------------------- data


@dataclass(frozen=True)
class DatasetInfo:
    """What is known of a data set before it is read: image shape, classes and the sizes of its official splits."""

    channels: int
    size: int
    classes: int
    train: int
    test: int
    version: str = "1"  # raised when the project's own split or reading of the set changes


DATASETS = {
    "digits": DatasetInfo(1, 8, 10, 1197, 600),  # scikit-learn's 1,797 images, split here (class-balanced, fixed)
    "mnist": DatasetInfo(1, 28, 10, 60_000, 10_000),
    "fashion_mnist": DatasetInfo(1, 28, 10, 60_000, 10_000),
    "cifar10": DatasetInfo(3, 32, 10, 50_000, 10_000),
    "cifar100": DatasetInfo(3, 32, 100, 50_000, 10_000),
    "svhn": DatasetInfo(3, 32, 10, 73_257, 26_032),
    "stl10": DatasetInfo(3, 96, 10, 5_000, 8_000),
}


@dataclass(frozen=True)
class Data:
    """A data set and how much of it is used; every subset is random, class-balanced and fixed.

    `holdout` images of the training split are set aside for choosing (epochs, strengths), `train` of the rest are
    trained on, `test` images of the test split are measured on. None means all.
    """

    name: str
    train: int | None = None
    holdout: int = 0
    test: int | None = None

    def __post_init__(self):
        if self.name not in DATASETS:
            raise unknown("data set", self.name, DATASETS)
        info = self.info
        need(
            is_int(self.holdout, 0) and self.holdout <= info.train // 2,
            "data.holdout",
            self.holdout,
            f"a whole number from 0 to {info.train // 2} for {self.name}",
        )
        most = info.train - self.holdout
        need(
            self.train is None or (is_int(self.train, info.classes) and self.train <= most),
            "data.train",
            self.train,
            f"a whole number from {info.classes} to {most} for {self.name} with {self.holdout} held out, or null",
        )
        need(
            self.test is None or (is_int(self.test, info.classes) and self.test <= info.test),
            "data.test",
            self.test,
            f"a whole number from {info.classes} to {info.test} for {self.name}, or null for all",
        )

    @property
    def info(self) -> DatasetInfo:
        return DATASETS[self.name]

    @property
    def n_train(self) -> int:
        return self.info.train - self.holdout if self.train is None else self.train


# --------------------------------------------------------------------------------------------------- threats, attacks


@dataclass(frozen=True)
class Threat:
    """What an adversary may do: move an image in [0, 1] by at most `eps` in `norm`, each image for itself."""

    norm: str
    eps: Fraction

    def __post_init__(self):
        if self.norm not in ("linf", "l2"):
            raise unknown("threat norm", self.norm, ("linf", "l2"))
        object.__setattr__(self, "eps", fraction(self.eps, "threat.eps"))
        need(self.eps >= 0, "threat.eps", self.eps, "0 or more, in units of pixels in [0, 1]")
        need(self.norm != "linf" or self.eps <= 1, "threat.eps", self.eps, "at most 1 for linf (pixels lie in [0, 1])")


@dataclass(frozen=True)
class PGD:
    """Projected gradient steps (Madry et al. 2018). FGSM is one step of eps without a random start.

    `loss`: ce, dlr, cw or kl (against the clean prediction, as TRADES). `targeted`: towards given classes.
    """

    steps: int
    step_size: Fraction
    restarts: int = 1
    random_start: bool = True
    loss: str = "ce"
    targeted: bool = False

    def __post_init__(self):
        need(is_int(self.steps, 0), "attack.steps", self.steps, "a whole number of at least 0")
        object.__setattr__(self, "step_size", fraction(self.step_size, "attack.step_size"))
        need(self.step_size > 0, "attack.step_size", self.step_size, "greater than 0")
        need(is_int(self.restarts, 1), "attack.restarts", self.restarts, "a whole number of at least 1")
        if self.loss not in ("ce", "dlr", "cw", "kl"):
            raise unknown("attack loss", self.loss, ("ce", "dlr", "cw", "kl"))


@dataclass(frozen=True)
class APGD:
    """Auto-PGD (Croce & Hein 2020) on cross-entropy, then targeted on DLR for `targets` classes (0: CE only)."""

    steps: int = 100
    restarts: int = 1
    targets: int = 9

    def __post_init__(self):
        need(is_int(self.steps, 1), "attack.steps", self.steps, "a whole number of at least 1")
        need(is_int(self.restarts, 1), "attack.restarts", self.restarts, "a whole number of at least 1")
        need(is_int(self.targets, 0), "attack.targets", self.targets, "a whole number of at least 0")


@dataclass(frozen=True)
class AutoAttack:
    """The standard AutoAttack: APGD-CE, APGD-T, FAB-T, Square, on the survivors of the one before."""

    version: str = "standard"

    def __post_init__(self):
        if self.version not in ("standard",):
            raise unknown("AutoAttack version", self.version, ("standard",))


Attack = PGD | APGD | AutoAttack


def fgsm(threat: Threat) -> PGD:
    """The fast gradient sign method: one full step, no random start."""
    return PGD(steps=1, step_size=threat.eps or Fraction(1), random_start=False)


# --------------------------------------------------------------------------------------------------------- objectives


def _training_attack(attack) -> None:
    need(isinstance(attack, PGD), "training attack", attack, "a PGD attack")
    need(attack.restarts == 1, "attack.restarts", attack.restarts, "1 in training: one adversarial image an image")
    need(not attack.targeted, "attack.targeted", True, "false in training")


@dataclass(frozen=True)
class CrossEntropy:
    """Cross-entropy on clean images."""


@dataclass(frozen=True)
class Adversarial:
    """PGD adversarial training: in each batch floor(alpha * B) random images are replaced by adversarial ones.

    `clean_statistics`: a forward pass over the clean batch precedes the mixed one, so that BatchNorm's running
    statistics blend both (what the stitching paper's code does while it trains a joint).
    """

    threat: Threat
    attack: PGD
    alpha: float = 1.0
    clean_statistics: bool = False

    def __post_init__(self):
        need(is_number(self.alpha, 0, 1), "alpha", self.alpha, "a number from 0 to 1")
        _training_attack(self.attack)


@dataclass(frozen=True)
class TRADES:
    """Cross-entropy on clean images plus beta times KL(clean || adversarial) (Zhang et al. 2019, eq. 5)."""

    threat: Threat
    attack: PGD
    beta: float = 6.0

    def __post_init__(self):
        need(is_number(self.beta, 0), "beta", self.beta, "a number of at least 0")
        _training_attack(self.attack)


Objective = CrossEntropy | Adversarial | TRADES

# ----------------------------------------------------------------------------------------------------------- training


@dataclass(frozen=True)
class Optimiser:
    """`sgd` (momentum, Nesterov or not) or `adam`; weight decay is the L2 kind in both, as in the papers."""

    name: str = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 1e-4

    def __post_init__(self):
        if self.name not in ("sgd", "adam"):
            raise unknown("optimiser", self.name, ("sgd", "adam"))
        need(is_number(self.lr, 0) and self.lr > 0, "optimiser.lr", self.lr, "greater than 0")
        need(is_number(self.momentum, 0, 1) and self.momentum < 1, "optimiser.momentum", self.momentum, "in [0, 1)")
        need(is_number(self.weight_decay, 0), "optimiser.weight_decay", self.weight_decay, "0 or more")


@dataclass(frozen=True)
class Schedule:
    """Learning rate over training: `constant`, `piecewise` (times 1/10 at 1/3 and 2/3 unless `drops` says otherwise),
    `cosine` to 0, or `onecycle` (linear up over the first `warmup` share, linear down to 0).
    """

    name: str = "piecewise"
    drops: tuple[Fraction, ...] = (Fraction(1, 3), Fraction(2, 3))
    warmup: float = 0.25

    def __post_init__(self):
        if self.name not in ("constant", "piecewise", "cosine", "onecycle"):
            raise unknown("schedule", self.name, ("constant", "piecewise", "cosine", "onecycle"))
        object.__setattr__(self, "drops", tuple(fraction(d, "schedule.drops") for d in self.drops))
        need(all(0 < d < 1 for d in self.drops), "schedule.drops", self.drops, "shares of training between 0 and 1")
        need(is_number(self.warmup, 0, 1), "schedule.warmup", self.warmup, "a share of training from 0 to 1")


AUGMENTATIONS = ("none", "crop", "crop-flip", "affine")


@dataclass(frozen=True)
class Recipe:
    """All that decides a network's weights.

    data, arch, objective: what is learned, by what, how. epochs 0: an untrained network (or, with parents, one put
    together but not trained). optimiser, schedule, batch_size, augment: as named. parents: the recipes of the networks
    that a stitched, probed or fine-tuned one is made from. trainable: prefixes of the parameters that learn, () for
    all. batchnorm: `train` (batch statistics, running ones adapt) or `frozen`. precision: fp32 or bf16 (autocast;
    weights and loss stay fp32). seed: tells repetitions apart.
    """

    data: Data
    arch: Arch
    objective: Objective = field(default_factory=CrossEntropy)
    epochs: int = 1
    optimiser: Optimiser = field(default_factory=Optimiser)
    schedule: Schedule = field(default_factory=Schedule)
    batch_size: int = 128
    augment: str = "none"
    parents: tuple[Recipe, ...] = ()
    trainable: tuple[str, ...] = ()
    batchnorm: str = "train"
    precision: str = "fp32"
    seed: int = 0

    def __post_init__(self):
        need(is_int(self.epochs, 0), "epochs", self.epochs, "a whole number of at least 0")
        need(is_int(self.batch_size, 2), "batch_size", self.batch_size, "a whole number of at least 2")
        need(is_int(self.seed, 0), "seed", self.seed, "a whole number of at least 0")
        need(
            self.batch_size <= self.data.n_train,
            "batch_size",
            self.batch_size,
            f"at most the {self.data.n_train} training images",
        )
        if self.augment not in AUGMENTATIONS:
            raise unknown("augmentation", self.augment, AUGMENTATIONS)
        if self.batchnorm not in ("train", "frozen"):
            raise unknown("batchnorm regime", self.batchnorm, ("train", "frozen"))
        if self.precision not in ("fp32", "bf16"):
            raise unknown("precision", self.precision, ("fp32", "bf16"))
        self._check_parents()

    def _check_parents(self):
        arch, size = self.arch, self.data.info.size
        if isinstance(arch, (Stitch, Probe)):
            wanted = 2 if isinstance(arch, Stitch) else 1
            need(len(self.parents) == wanted, "parents", len(self.parents), f"{wanted} for a {type(arch).__name__}")
            for parent in self.parents:
                joints = parent.arch.stages[:-1]
                if arch.joint not in joints:
                    raise unknown("joint", arch.joint, joints)
        else:
            need(len(self.parents) <= 1, "parents", len(self.parents), "0 or 1 (fine-tuning)")
            need(size >= arch.min_size, "arch", arch, f"a network for {size} pixels; this one needs {arch.min_size}")

    @functools.cached_property
    def key(self) -> str:
        """Sixteen hexadecimal digits: equal exactly when the weights are meant to be equal."""
        return digest({"numerics": NUMERICS, "data_version": self.data.info.version, "recipe": plain(self)})

    def describe(self) -> str:
        """A few words for logs: data set, architecture, objective, seed."""
        arch = self.arch
        what = type(arch).__name__.lower()
        if isinstance(arch, (Stitch, Probe)):
            what += f" at {arch.joint} of " + " + ".join(p.key[:6] for p in self.parents)
        else:
            what += str(arch.width)
        how = type(self.objective).__name__.lower() if self.epochs else "untrained"
        if isinstance(self.objective, Adversarial) and self.epochs:
            how += f" alpha {self.objective.alpha:g}"
        return f"{self.data.name} {what}, {how}, seed {self.seed} [{self.key}]"


# ------------------------------------------------------------------------------------------------------- as plain data


def plain(value: Any) -> Any:
    """A value made of recipes' dataclasses as JSON types; a parent stands for itself by its key.

    What does not change the result is left out (`Data.test`), so that networks are shared whatever they are
    measured on.
    """
    if isinstance(value, Recipe):
        out = {f.name: plain(getattr(value, f.name)) for f in fields(value) if f.name != "parents"}
        out["data"].pop("test")
        return {**out, "parents": [p.key for p in value.parents]}
    if hasattr(value, "__dataclass_fields__"):
        return {"type": type(value).__name__, **{f.name: plain(getattr(value, f.name)) for f in fields(value)}}
    if isinstance(value, Fraction):
        return str(value)
    if isinstance(value, (tuple, list)):
        return [plain(v) for v in value]
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, float) and value.is_integer():
        return int(value)  # 1 and 1.0 mean the same recipe
    return value


def outcome_key(recipe: Recipe, threat: Threat | None, attack: Attack | None) -> str:
    """The key of a network's per-image outcomes on its test images: clean, or under an attack within a threat."""
    data = plain(recipe.data)
    return digest({"numerics": NUMERICS, "network": recipe.key, "data": data, "threat": threat, "attack": attack})


def digest(value: Any) -> str:
    """Sixteen hexadecimal digits of SHA-256 over the canonical JSON of `value`."""
    text = json.dumps(plain(value), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
