"""The section `networks` that all notebooks share, and its checks: the common pool of networks."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from lib.errors import need, unknown
from lib.files import is_file_name
from lib.runtime import fast_in_bf16
from lib.values.architectures import Architecture, Denoisers, FromScratch
from lib.values.attacks import PGD, Attack
from lib.values.data import Data
from lib.values.declared import Bound, Count, Declared, OneOf, Positive, Repetitions, Share, between, whole
from lib.values.keys import later
from lib.values.objectives import Adversarial, CrossEntropy, Denoising, Objective
from lib.values.recipe import AUGMENTATIONS, PRECISIONS, Optimiser, Recipe, Schedule
from lib.values.threats import Threat

Augmentation = Annotated[str, OneOf(AUGMENTATIONS)]
BatchSize = Annotated[int, whole(2)]
FileName = Annotated[str, Bound(is_file_name, "a name of letters, digits, spaces, '-', '_', '+' and '.' that does not "
                                "start with '.'")]
NEAR = 0.95  # a search with this share of the published updates is as long as the published one
UNTARGETED = Bound(lambda targeted: not targeted, "false, because evaluation is untargeted", of="targeted")
NO_ATTACK = Bound(lambda attack: attack is None, "left out", of="attack")
ATTACK = Bound(lambda attack: attack is not None, "given, because robust networks train on it", of="attack")


@dataclass(frozen=True)
class Training(Declared):
    """The training of a kind of network."""

    epochs: Annotated[int, whole(0)]  # passes over the training images
    optimiser: Optimiser = field(default_factory=Optimiser)
    schedule: Schedule = field(default_factory=Schedule)
    attack: PGD | None = None  # the attack of adversarial training; null: training on clean images
    # equal shares of a batch, each with BatchNorm statistics of its own; as many GPUs can do an update together
    shares: Count = later(1)

    where = "training"


# Training on clean images, or on images that the attack of another setting perturbs.
Unattacked = Annotated[Training, NO_ATTACK]


@dataclass(frozen=True)
class Pretraining(Training):
    """The training of a robust network from whose weights others are made."""

    # epochs on clean images before adversarial training, on which deep narrow networks hardly begin to learn
    warm_up: Annotated[int, whole(0)] = 0

    where = "pretrain"


@dataclass(frozen=True)
class Denoiser(Training):
    """The training of a class-conditional denoiser, which gives scores. Noise is in units of pixels in [0, 1]: 0.25 is
    0.5 for pixels in [-1, 1].
    """

    arch: Denoisers = field(kw_only=True)
    data: Data | None = None  # the denoiser's own training data; null: the classifiers' data
    low: Positive = 0.1  # the smallest standard deviation of the training noise
    high: Positive = 0.5  # the largest standard deviation of the training noise
    sigma: Positive = 0.25  # the standard deviation of the noise at which scores are taken
    label_dropout: Share = 0.2  # the probability that an image comes without its label
    batch_size: BatchSize = 128  # images per update
    ema: Annotated[float, between(0, 1)] = 0.999  # the decay per step of the moving average of the weights

    where = "denoiser"

    def check_together(self):
        NO_ATTACK.hold(self, "denoiser")
        need(self.low <= self.sigma <= self.high, "denoiser.sigma", self.sigma, "between low and high")

    def recipe(self, data: Data, precision: str, seed: int) -> Recipe:
        """The recipe of a denoiser of `data`, or of the denoiser's own data if there are any."""
        objective = Denoising(self.low, self.high, self.label_dropout)
        recipe = Recipe(self.data or data, self.arch, objective=objective, batch_size=self.batch_size,
                        precision=precision, ema=self.ema, seed=seed)
        return trained_as(recipe, self)


@dataclass(frozen=True)
class Pool(Training):
    """The training of one type of network of the common pool."""

    count: Repetitions = 1  # the number of networks; raised to what the papers need

    where = "pool"


@dataclass(frozen=True)
class Networks(Declared):
    """The common pool of networks from which all notebooks choose."""

    data: Data  # the data of all networks of the pool
    arch: FromScratch  # the architecture of the networks
    threat: Threat  # the threat for training robust networks and for judging robustness
    normal: Annotated[Pool, NO_ATTACK]  # the training of normal networks
    robust: Annotated[Pool, ATTACK]  # the training of robust networks
    batch_size: BatchSize = 128  # images per update
    augment: Augmentation = "crop-flip"  # the augmentation of training images
    # the precision of training; auto: bf16 if the hardware multiplies in bf16, else fp32
    precision: Annotated[str, OneOf(("auto", *PRECISIONS))] = "auto"
    # the precision of trainings that differentiate the gradients of images; tf32: as fp32, but a GPU may round the
    # factors of products to TF32
    second_order: Annotated[str, OneOf(("fp32", "tf32"))] = "fp32"
    denoiser: Denoiser | None = None  # a denoiser of the pool's data, for notebooks that need scores

    where = "networks"

    def objective(self, attack: PGD | None, alpha: float = 1.0, **options) -> CrossEntropy | Adversarial:
        """Cross-entropy, or adversarial training against the pool's threat with a share alpha of adversarial images."""
        return Adversarial(self.threat, attack, alpha, **options) if attack and alpha else CrossEntropy()

    def member(self, kind: str, repetition: int, seed: Callable[[int], int]) -> Recipe:
        """The pool's network of a kind, `N` (normal), `R` (robust) or `U` (untrained), and a repetition (from 0);
        repetitions beyond the pool's count wrap around. `seed` maps a repetition to its recipes' seed.
        """
        training = self.robust if kind == "R" else self.normal
        if kind != "U":
            repetition %= training.count
        recipe = Recipe(self.data, self.arch, objective=self.objective(training.attack if kind == "R" else None),
                        batch_size=self.batch_size, augment=self.augment, precision=self.precision,
                        seed=seed(repetition))
        recipe = trained_as(recipe, training)
        return replace(recipe, epochs=0) if kind == "U" else recipe

    def pool(self, seed: Callable[[int], int]) -> dict[tuple[str, int], Recipe]:
        """{(kind, repetition): recipe} of every trained network of the pool, normal and robust ones in turn, so that an
        interrupted run has pairs.
        """
        counts = {"N": self.normal.count, "R": self.robust.count}
        wanted = [(kind, n) for n in range(max(counts.values())) for kind, count in counts.items() if n < count]
        return {(kind, n): self.member(kind, n, seed) for kind, n in wanted}

    def resolved(self, count: int) -> Networks:
        """The networks as they are trained: at least `count` of each kind, and a precision that is not `auto`."""
        grown = {kind: replace(pool, count=max(count, pool.count))
                 for kind, pool in (("normal", self.normal), ("robust", self.robust))}
        return replace(self, **grown, precision=precision_for(self.precision))


@dataclass(frozen=True)
class Gates(Declared):
    """Accuracies that a pool must have before a claim about it is judged (see the notebook's checks)."""

    normal_clean: Share  # the lowest clean accuracy of normal networks
    normal_robust: Share  # the highest robust accuracy of normal networks
    robust_clean: Share  # the lowest clean accuracy of robust networks
    robust_robust: Share  # the lowest robust accuracy of robust networks

    where = "gates"


def fewer_targets(where: str, attack: Attack, data: Data) -> None:
    """Raise SettingsError unless an attack has fewer targets than the data have classes."""
    need(attack.targets < data.info.classes, where, attack.targets, f"less than the {data.info.classes} classes")


def trained_as(recipe: Recipe, training: Training) -> Recipe:
    """The recipe with the epochs, the optimiser, the schedule and the shares of the settings."""
    return replace(recipe, epochs=training.epochs, optimiser=training.optimiser, schedule=training.schedule,
                   shares=training.shares)


def continued(parent: Recipe, arch: Architecture, objective: Objective, training: Training) -> Recipe:
    """The recipe of a further training of a network, as `arch` makes it of the parent: pruned, or as it is."""
    return trained_as(replace(parent, arch=arch, parents=(parent,), objective=objective), training)


def updates(recipe: Recipe) -> int:
    """How many updates a training makes."""
    objective = recipe.objective.inner or recipe.objective
    return recipe.epochs * (recipe.data.n_train // recipe.batch_size) * objective.replays


def as_long(search: Recipe, published: int) -> bool:
    """Whether a search makes about as many updates as a `published` one, which held no images out."""
    return updates(search) >= NEAR * published


def halved(search: Recipe) -> Recipe:
    """The search with half as many epochs."""
    return replace(search, epochs=search.epochs // 2)


def varied(recipe: Recipe, part: Any) -> Recipe:
    """The recipe with the data, arch, batch_size and augment of a part of the settings, unless they are None there."""
    own = {name: getattr(part, name) for name in ("data", "arch", "batch_size", "augment")}
    return replace(recipe, **{name: value for name, value in own.items() if value is not None})


def warmed_up(recipe: Recipe, training: Pretraining | None) -> Recipe:
    """The recipe, started from a network that trained on clean images for `warm_up` epochs (0: from scratch)."""
    if training is None or not training.warm_up:
        return recipe
    return replace(recipe, parents=(replace(recipe, objective=CrossEntropy(), epochs=training.warm_up),))


def precision_for(name: str) -> str:
    """The precision for `name`: `auto` is bf16 if the hardware multiplies in it (otherwise bf16 is slower), else fp32.
    Keys depend on it, so REPRO_PRECISION hands the choice of the machine that starts a run to the jobs of the run.
    """
    if name != "auto":
        return name
    if head := os.environ.get("REPRO_PRECISION"):
        if head not in PRECISIONS:
            raise unknown("REPRO_PRECISION", head, PRECISIONS)
        return head
    return "bf16" if fast_in_bf16() or Path("/dev/nvidia0").exists() else "fp32"


@dataclass(frozen=True)
class Repetition:
    """One repetition of a paper's experiment; papers derive classes from it that make its networks.

    section: the paper's settings. number: the repetition, from 0. seed: maps a repetition to its recipes' seed.
    """

    networks: Networks
    section: Any
    number: int
    seed: Callable[[int], int]
