"""The `networks:` section that all notebooks share, and what checks it: the common pool."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lib.errors import fraction, is_int, is_number, need, unknown
from lib.values.architectures import Denoisers, FromScratch
from lib.values.attacks import APGD, PGD, Attack
from lib.values.data import Data
from lib.values.objectives import Adversarial, CrossEntropy, Denoising
from lib.values.recipe import Optimiser, Recipe, Schedule
from lib.values.threats import Threat


@dataclass(frozen=True)
class Training:
    """How a kind of network is trained. `attack` None: on clean images."""

    epochs: int
    optimiser: Optimiser = field(default_factory=Optimiser)
    schedule: Schedule = field(default_factory=Schedule)
    attack: PGD | None = None


@dataclass(frozen=True)
class Pretraining(Training):
    """How a robust network is trained whose weights others are made from; first on clean images for `warm_up` epochs
    (deep narrow networks hardly begin to learn on adversarial ones).
    """

    warm_up: int = 0

    def __post_init__(self):
        need(is_int(self.warm_up, 0), "pretrain.warm_up", self.warm_up, "a whole number of epochs of at least 0")


@dataclass(frozen=True)
class Denoiser(Training):
    """How a class-conditional denoiser is trained that gives scores: on noise of standard deviations from `low` to
    `high` (pixels in [0, 1]; 0.25 is 0.5 where they lie in [-1, 1]), without its label with probability
    `label_dropout`. `sigma`: the noise at which scores are taken. data: images to learn from, where there are more than
    the classifiers have.
    """

    arch: Denoisers | None = None
    data: Data | None = None
    low: float = 0.1
    high: float = 0.5
    sigma: float = 0.25
    label_dropout: float = 0.2
    batch_size: int = 128
    ema: float = 0.999

    def __post_init__(self):
        need(self.arch is not None, "denoiser.arch", None, "a UNet or a DenoisingMLP")
        need(self.attack is None, "denoiser.attack", self.attack, "left out")
        need(self.low <= self.sigma <= self.high, "denoiser.sigma", self.sigma, "between low and high")

    def recipe(self, data: Data, precision: str, seed: int) -> Recipe:
        """The denoiser of a data set, of the denoiser's own images where it has any."""
        objective = Denoising(self.low, self.high, self.label_dropout)
        recipe = Recipe(self.data or data, self.arch, objective=objective, batch_size=self.batch_size,
                        precision=precision, ema=self.ema, seed=seed)
        return trained_as(recipe, self)


@dataclass(frozen=True)
class Pool(Training):
    """How one type of network of the common pool is trained, and how many of them."""

    count: int = 1

    def __post_init__(self):
        repetitions("count", self.count)


@dataclass(frozen=True)
class Networks:
    """The common pool that all notebooks choose from. denoiser: of the pool's data, where a notebook needs scores."""

    data: Data
    arch: FromScratch
    threat: Threat
    normal: Pool
    robust: Pool
    batch_size: int = 128
    augment: str = "crop-flip"
    precision: str = "auto"
    denoiser: Denoiser | None = None

    def __post_init__(self):
        need(
            self.robust.attack is not None, "networks.robust.attack", "null", "an attack: robust networks train on one"
        )
        need(self.normal.attack is None, "networks.normal.attack", self.normal.attack, "null")
        if self.precision not in ("auto", "fp32", "bf16"):
            raise unknown("precision", self.precision, ("auto", "fp32", "bf16"))

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
class Gates:
    """What a pool must show before a claim about it is judged (accuracies in [0, 1]; see the notebook's checks)."""

    normal_clean: float
    normal_robust: float
    robust_clean: float
    robust_robust: float


def repetitions(where: str, value) -> None:
    """Check a number of repetitions."""
    need(is_int(value, 1) and value <= 100, where, value, "a whole number from 1 to 100")


def growing(where: str, values: tuple, least: int = 0) -> None:
    """Check that strengths are growing positive numbers, `least` of them or more."""
    good = all(is_number(v, 0) and v > 0 for v in values) and list(values) == sorted({*values})
    need(good and len(values) >= least, where, list(values), f"{least or 'any'} or more growing numbers above 0")


def falling_shares(section, prefix: str, *names: str) -> None:
    """Make fields of a frozen section tuples of fractions, and check that they fall and lie between 0 and 1."""
    for name in names:
        where = f"{prefix}.{name}"
        shares = tuple(fraction(k, where) for k in getattr(section, name))
        object.__setattr__(section, name, shares)
        falling = all(0 < k < 1 for k in shares) and list(shares) == sorted({*shares}, reverse=True)
        need(falling, where, [float(k) for k in shares], "falling shares between 0 and 1")


def fewer_targets(where: str, attack: Attack, data: Data) -> None:
    """Check that an attack has fewer targets than the data have classes."""
    targets = attack.targets if isinstance(attack, APGD) else 0
    need(targets < data.info.classes, where, targets, f"less than the {data.info.classes} classes")


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
    """`auto` is bf16 where the hardware multiplies in it (otherwise it is slower than fp32), fp32 elsewhere."""
    if name != "auto":
        return name
    try:
        flags = Path("/proc/cpuinfo").read_text()
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
