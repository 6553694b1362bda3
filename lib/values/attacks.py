"""Attacks: searches for images that a threat allows and a network misclassifies, as values without torch.

lib/attacks carries them out: it registers a search for every type (`stages`, lib/attacks/pool.py).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Annotated, ClassVar

from lib.errors import need, unknown
from lib.values.declared import Count, Declared, NotNegative, OneOf, above, whole
from lib.values.keys import later
from lib.values.threats import PIXEL_NORMS, Threat

LOSSES = ("ce", "dlr", "cw", "kl")


class Attack(Declared, ABC):
    """A search for images that a threat allows and a network misclassifies.

    `targeted`: whether it aims at given classes. `needs_clean_logits`: whether it starts from the network's logits of
    the clean images; images that are misclassified already are then left out. `targets`: the number of wrong classes
    that it aims at for each image; the data must have as many.
    """

    where = "attack"
    targeted = False
    targets = 0
    needs_clean_logits = True

    @property
    @abstractmethod
    def title(self) -> str:
        """A short text for tables: PGD-20, FGSM, APGD-CE+T (20 steps, 3 targets), Square (5000 queries), AutoAttack."""

    @abstractmethod
    def passes(self, standing: float = 1.0, classes: int = 10) -> float:
        """Forward passes per image (a gradient counts as one more) on a network with `classes` classes, if the share
        `standing` in [0, 1] of the images survives.
        """

    @abstractmethod
    def check(self, threat: Threat) -> None:
        """Raise SettingsError unless the attack can search for images within `threat`."""

    def single_run(self, threat: Threat) -> PGD:
        """The single PGD run whose last iterates represent the attack where every image has to be perturbed."""
        return PGD(20, threat.usual_step)


def _searched(standing: float) -> float:
    """The cost of a search relative to one that every image survives: a misclassified image costs a twentieth
    (measured with APGD on small networks).
    """
    return standing + 0.05 * (1 - standing)


def _title(name: str, details: list[str], restarts: int) -> str:
    details = [*details, *[f"{restarts} restarts"] * (restarts > 1)]
    return f"{name} ({', '.join(details)})" if details else name


@dataclass(frozen=True)
class PGD(Attack):
    """Projected gradient steps (Madry et al. 2018). FGSM is one step of eps without a random start."""

    steps: Annotated[int, whole(0)]  # gradient steps from each start
    step_size: Annotated[Fraction, above(0)]  # the length of a step in the threat's norm
    restarts: Count = 1  # the number of starts
    random_start: bool = True  # whether to start at a random point of the ball instead of the image
    loss: Annotated[str, OneOf(LOSSES)] = "ce"  # the loss to maximise; kl: from the clean prediction, as in TRADES
    targeted: bool = False  # whether to aim at given classes
    # the margin in logits beyond which the cw loss stops growing (kappa in Carlini & Wagner 2017); null: none. It
    # changes the last iterate but no evaluation, which counts any misclassified iterate
    confidence: NotNegative | None = later(None)

    def check_together(self):
        margin = self.loss == "cw" or self.confidence is None
        need(margin, "attack.confidence", self.confidence, f"null for the loss {self.loss}: only cw has a confidence")

    @property
    def title(self) -> str:
        fast = self.steps == 1 and not self.random_start
        details = [self.loss.upper()] * (self.loss != "ce") + ["targeted"] * self.targeted
        details += [] if self.confidence is None else [f"confidence {self.confidence:g}"]
        details += ["no random start"] * (not fast and not self.random_start)
        return _title("FGSM" if fast else f"PGD-{self.steps}", details, self.restarts)

    @property
    def needs_clean_logits(self) -> bool:
        return self.loss == "kl"

    def passes(self, standing: float = 1.0, classes: int = 10) -> float:
        return 1 + 2 * self.steps * self.restarts * _searched(standing)

    def check(self, threat: Threat) -> None:
        starts = self.random_start or not threat.perceptual
        need(starts, "attack.random_start", False, f"true for the norm {threat.norm}, whose scenes are random")

    def single_run(self, threat: Threat) -> PGD:
        return replace(self, restarts=1)

    def with_one_more_restart(self) -> PGD:
        """The attack with one more restart, which shows whether restarts matter (a sanity check of robust networks)."""
        return replace(self, restarts=self.restarts + 1)


class PixelAttack(Attack):
    """An attack that changes only pixels and keeps them within [0, 1]."""

    def check(self, threat: Threat) -> None:
        name = type(self).__name__
        need(not threat.perceptual, "threat.norm", threat.norm, f"one of {', '.join(PIXEL_NORMS)} for {name}")
        need(threat.box, "threat.box", threat.box, f"true for {name}, whose images stay in [0, 1]")


@dataclass(frozen=True)
class APGD(PixelAttack):
    """Auto-PGD (Croce & Hein 2020) on cross-entropy, then targeted on DLR."""

    steps: Count = 100  # gradient steps of each run
    restarts: Count = 1  # starts of each run
    targets: Annotated[int, whole(0)] = 9  # wrong classes that the DLR runs aim at; 0: cross-entropy only

    @property
    def title(self) -> str:
        details = [f"{self.steps} steps"]
        if self.targets:
            details.append(f"{self.targets} targets" if self.targets > 1 else "1 target")
        return _title("APGD-CE+T" if self.targets else "APGD-CE", details, self.restarts)

    def passes(self, standing: float = 1.0, classes: int = 10) -> float:
        return 1 + 2 * self.steps * self.restarts * (1 + self.targets) * _searched(standing)


@dataclass(frozen=True)
class Square(PixelAttack):
    """Random search without gradients (Andriushchenko et al. 2020)."""

    queries: Count = 5000  # the largest number of forward passes per image

    @property
    def title(self) -> str:
        return f"Square ({self.queries} queries)"

    def passes(self, standing: float = 1.0, classes: int = 10) -> float:
        return 1 + self.queries * _searched(standing)


@dataclass(frozen=True)
class AutoAttack(PixelAttack):
    """The standard AutoAttack (Croce & Hein 2020): APGD-CE, APGD-T, FAB-T and Square, each on the images that survive
    the attacks before it.

    FAB has as many targets as APGD; if there are fewer wrong classes, both aim at all of them. In l1, APGD-CE has five
    restarts and APGD-T five targets, as in the authors' code.
    """

    apgd: ClassVar[APGD] = APGD(100, targets=9)
    fab_steps: ClassVar[int] = 100  # for each target
    square: ClassVar[Square] = Square(5000)

    version: Annotated[str, OneOf(("standard",))] = "standard"  # the authors' name for this list of attacks

    @property
    def title(self) -> str:
        return "AutoAttack"

    def passes(self, standing: float = 1.0, classes: int = 10) -> float:
        """An APGD run also takes a gradient at its start. A FAB step takes a gradient and a forward pass at the new
        image, and a FAB run ends with one more forward pass at the nearest image.
        """
        apgd = (1 + self.apgd.targets) * 2 * (1 + self.apgd.steps)
        fab = self.apgd.targets * (3 * self.fab_steps + 1)
        return (1 + apgd + fab + self.square.queries) * _searched(standing)


# {name of an evaluation: function from a step size to an attack}
TIERS = {
    "clean": lambda size: None,
    "pgd20": lambda size: PGD(20, size),
    "pgd50x10": lambda size: PGD(50, size, restarts=10),
    "apgd": lambda size: APGD(),
    "square": lambda size: Square(),
    "autoattack": lambda size: AutoAttack(),
}


def tier(name: str, threat: Threat) -> Attack | None:
    """The attack of a named tier of evaluation; None for clean. Raises SettingsError for an unknown name.

    pgd20 and pgd50x10 (50 steps, 10 restarts) use the threat's `usual_step`, which is 2/255 for eps 8/255. apgd has
    100 steps and 9 targets, square 5,000 queries, as in AutoAttack.
    """
    if name not in TIERS:
        raise unknown("tier", name, TIERS)
    return TIERS[name](threat.usual_step)


# {name of a list of evaluations: function from a threat and a step size to attacks}
TIER_LISTS = {
    "harp": lambda threat, size: (fgsm(threat), PGD(10, size), PGD(20, size, loss="cw", confidence=50.0),
                                  APGD(50, restarts=5, targets=0), AutoAttack()),
}


def tiers(name: str, threat: Threat) -> tuple[Attack | None, ...]:
    """The attacks of a named list, or the single attack of a named tier. Raises SettingsError for an unknown name.

    harp: the attacks of Zhao & Wressnegger (2023), which are FGSM, PGD-10, 20 steps on the CW margin with confidence
    50, APGD-CE with 50 steps and 5 restarts, and AutoAttack; the step size is eps / 4.
    """
    if name in TIER_LISTS:
        return TIER_LISTS[name](threat, threat.usual_step)
    if name not in TIERS:
        raise unknown("tier or list of tiers", name, (*TIERS, *TIER_LISTS))
    return (tier(name, threat),)


def fgsm(threat: Threat) -> PGD:
    """The fast gradient sign method: one full step, no random start."""
    return PGD(steps=1, step_size=threat.eps or Fraction(1), random_start=False)
