"""The `networks:` section that all notebooks share, and what checks it: the common pool."""

from __future__ import annotations

from dataclasses import dataclass, field

from lib.errors import fraction, is_int, is_number, need, unknown
from lib.values.architectures import DenoisingMLP, Plain, UNet
from lib.values.attacks import APGD, PGD, Attack
from lib.values.data import Data
from lib.values.objectives import Adversarial, CrossEntropy
from lib.values.recipe import Optimiser, Schedule
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

    arch: UNet | DenoisingMLP | None = None
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
    arch: Plain
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


def objective(networks: Networks, attack: PGD | None, alpha: float = 1.0, **options):
    """Cross-entropy, or adversarial training against the pool's threat with a share alpha of adversarial images."""
    return Adversarial(networks.threat, attack, alpha, **options) if attack and alpha else CrossEntropy()
