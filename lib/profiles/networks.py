"""The `networks:` section that all notebooks share, and what checks it: the common pool."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from lib.errors import need, unknown
from lib.files import is_file_name
from lib.values.architectures import Denoisers, FromScratch
from lib.values.attacks import PGD, Attack
from lib.values.data import Data
from lib.values.declared import Bound, Declared, OneOf, Positive, Repetitions, Share, between, whole
from lib.values.objectives import Adversarial, CrossEntropy, Denoising
from lib.values.recipe import AUGMENTATIONS, PRECISIONS, Optimiser, Recipe, Schedule
from lib.values.threats import Threat

Augmentation = Annotated[str, OneOf(AUGMENTATIONS)]
BatchSize = Annotated[int, whole(2)]
FileName = Annotated[str, Bound(is_file_name, "a name of letters, digits, spaces, '-', '_', '+' and '.', which is not "
                                "the first: files are named by it")]
UNTARGETED = Bound(lambda targeted: not targeted, "false, for evaluation is untargeted", of="targeted")
NO_ATTACK = Bound(lambda attack: attack is None, "left out", of="attack")
ATTACK = Bound(lambda attack: attack is not None, "given, for robust networks train on one", of="attack")


@dataclass(frozen=True)
class Training(Declared):
    """How a kind of network is trained."""

    epochs: Annotated[int, whole(0)]  # passes over the training images
    optimiser: Optimiser = field(default_factory=Optimiser)
    schedule: Schedule = field(default_factory=Schedule)
    attack: PGD | None = None  # that training images are moved by; null: training is on clean images

    where = "training"


# What is trained on clean images, or on images moved by another setting's attack.
Unattacked = Annotated[Training, NO_ATTACK]


@dataclass(frozen=True)
class Pretraining(Training):
    """How a robust network is trained whose weights others are made from."""

    # epochs on clean images before those: deep narrow networks hardly begin to learn on adversarial ones
    warm_up: Annotated[int, whole(0)] = 0

    where = "pretrain"


@dataclass(frozen=True)
class Denoiser(Training):
    """How a class-conditional denoiser is trained that gives scores. Noise is in pixels in [0, 1]: 0.25 is 0.5 where
    they lie in [-1, 1].
    """

    arch: Denoisers = field(kw_only=True)
    data: Data | None = None  # images to learn from, where there are more than the classifiers have
    low: Positive = 0.1  # the smallest standard deviation of the noise
    high: Positive = 0.5  # the largest standard deviation of the noise
    sigma: Positive = 0.25  # the standard deviation of the noise at which scores are taken
    label_dropout: Share = 0.2  # the probability with which an image comes without its label
    batch_size: BatchSize = 128  # images an update
    ema: Annotated[float, between(0, 1)] = 0.999  # the decay per step of the moving average of its weights

    where = "denoiser"

    def check_together(self):
        NO_ATTACK.hold(self, "denoiser")
        need(self.low <= self.sigma <= self.high, "denoiser.sigma", self.sigma, "between low and high")

    def recipe(self, data: Data, precision: str, seed: int) -> Recipe:
        """The denoiser of a data set, of the denoiser's own images where it has any."""
        objective = Denoising(self.low, self.high, self.label_dropout)
        recipe = Recipe(self.data or data, self.arch, objective=objective, batch_size=self.batch_size,
                        precision=precision, ema=self.ema, seed=seed)
        return trained_as(recipe, self)


@dataclass(frozen=True)
class Pool(Training):
    """How one type of network of the common pool is trained."""

    count: Repetitions = 1  # networks of the type; grows to what the papers need

    where = "pool"


@dataclass(frozen=True)
class Networks(Declared):
    """The common pool that all notebooks choose from."""

    data: Data  # what networks learn
    arch: FromScratch  # what networks look like
    threat: Threat  # that robust networks are trained against, and robustness is judged under
    normal: Annotated[Pool, NO_ATTACK]  # how normal networks are trained
    robust: Annotated[Pool, ATTACK]  # how robust networks are trained
    batch_size: BatchSize = 128  # images an update
    augment: Augmentation = "crop-flip"  # how training images are varied
    precision: Annotated[str, OneOf(("auto", *PRECISIONS))] = "auto"  # of training; auto: bf16 where hardware has it
    denoiser: Denoiser | None = None  # of the pool's data, where a notebook needs scores

    where = "networks"

    def objective(self, attack: PGD | None, alpha: float = 1.0, **options) -> CrossEntropy | Adversarial:
        """Cross-entropy, or adversarial training against the pool's threat with a share alpha of adversarial images."""
        return Adversarial(self.threat, attack, alpha, **options) if attack and alpha else CrossEntropy()

    def member(self, kind: str, repetition: int, seed: Callable[[int], int]) -> Recipe:
        """The pool's network of a kind, `N` (normal), `R` (robust) or `U` (untrained), and a repetition (from 0);
        repetitions beyond the pool's count wrap around. seed: of the recipes of a repetition.
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
        """{(kind, repetition): recipe} of every trained network of the pool, normal and robust ones in turn so that an
        interrupted run has pairs.
        """
        counts = {"N": self.normal.count, "R": self.robust.count}
        wanted = [(kind, n) for n in range(max(counts.values())) for kind, count in counts.items() if n < count]
        return {(kind, n): self.member(kind, n, seed) for kind, n in wanted}

    def resolved(self, count: int) -> Networks:
        """The networks as they are trained: pools of `count` of each kind or more, and a precision that is one."""
        grown = {kind: replace(pool, count=max(count, pool.count))
                 for kind, pool in (("normal", self.normal), ("robust", self.robust))}
        return replace(self, **grown, precision=_precision(self.precision))


@dataclass(frozen=True)
class Gates(Declared):
    """What a pool must show before a claim about it is judged, as accuracies (see the notebook's checks)."""

    normal_clean: Share  # the least clean accuracy of normal networks
    normal_robust: Share  # the largest robust accuracy of normal networks
    robust_clean: Share  # the least clean accuracy of robust networks
    robust_robust: Share  # the least robust accuracy of robust networks

    where = "gates"


def fewer_targets(where: str, attack: Attack, data: Data) -> None:
    """Check that an attack has fewer targets than the data have classes."""
    need(attack.targets < data.info.classes, where, attack.targets, f"less than the {data.info.classes} classes")


def trained_as(recipe: Recipe, training: Training) -> Recipe:
    """The recipe with the epochs, the optimiser and the schedule of the settings."""
    return replace(recipe, epochs=training.epochs, optimiser=training.optimiser, schedule=training.schedule)


def varied(recipe: Recipe, part: Any) -> Recipe:
    """The recipe with the data, arch, batch_size and augment that a part of the settings has of its own; None: none."""
    own = {name: getattr(part, name) for name in ("data", "arch", "batch_size", "augment")}
    return replace(recipe, **{name: value for name, value in own.items() if value is not None})


def warmed_up(recipe: Recipe, training: Pretraining | None) -> Recipe:
    """The training, started from a network that saw clean images for its `warm_up` epochs (0: from scratch)."""
    if training is None or not training.warm_up:
        return recipe
    return replace(recipe, parents=(replace(recipe, objective=CrossEntropy(), epochs=training.warm_up),))


def _precision(name: str) -> str:
    """`auto` is bf16 where the hardware multiplies in it (otherwise it is slower than fp32), fp32 elsewhere.
    REPRO_PRECISION tells the jobs of a run what it is where the run was started: keys of recipes depend on it.
    """
    if name != "auto":
        return name
    if head := os.environ.get("REPRO_PRECISION"):
        if head not in PRECISIONS:
            raise unknown("REPRO_PRECISION", head, PRECISIONS)
        return head
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        flags = ""
    fast = "avx512_bf16" in flags or "amx_bf16" in flags or Path("/dev/nvidia0").exists()
    return "bf16" if fast else "fp32"


@dataclass(frozen=True)
class Repetition:
    """What the networks of one repetition of a paper's experiment are made from; papers derive from it what they make.

    section: the paper's. number: of the repetition, from 0. seed: of the recipes of a repetition.
    """

    networks: Networks
    section: Any
    number: int
    seed: Callable[[int], int]
