"""Threats and attacks as values: what an adversary may do to an image, and how it is searched for, without torch.

How they are carried out stands in lib/attacks.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from lib.errors import fraction, is_int, need, unknown

NORMS = ("linf", "l2")
LOSSES = ("ce", "dlr", "cw", "kl")


@dataclass(frozen=True)
class Threat:
    """What an adversary may do: move an image in [0, 1] by at most `eps` in `norm`, each image for itself."""

    norm: str
    eps: Fraction

    def __post_init__(self):
        if self.norm not in NORMS:
            raise unknown("threat norm", self.norm, NORMS)
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
        if self.loss not in LOSSES:
            raise unknown("attack loss", self.loss, LOSSES)


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
