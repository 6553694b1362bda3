"""Threats, attacks and certificates as values: what an adversary may do to an image, how that is searched for, and how
it is ruled out, without torch.

How attacks are carried out stands in lib/attacks, how certificates are in lib/certify.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction

from lib.errors import fraction, is_int, is_number, need, unknown
from lib.values.keys import later

PIXEL_NORMS = ("linf", "l2", "l1")
PERCEPTUAL = ("jpeg", "jpeg_linf", "gabor", "snow")
NORMS = PIXEL_NORMS + PERCEPTUAL
PER = ("image", "batch")
LOSSES = ("ce", "dlr", "cw", "kl")
BOUNDS = ("interval", "CROWN-IBP", "CROWN")


@dataclass(frozen=True)
class Threat:
    """What an adversary may do: move an image in [0, 1] by at most `eps` in `norm`, each image for itself.

    Norms of pixels: linf, l2, l1, eps in units of pixels in [0, 1]. Perceptual threats (Kang et al. 2019), eps in the
    authors' own units: jpeg and jpeg_linf, the l2 or linf norm of quantised JPEG coefficients; gabor, the height of the
    noise in grey levels of 255; snow, the brightness of a full flake (see lib/attacks/perceptual.py).

    `per` batch: starts, steps and budget are those of the whole batch tensor, so images share one eps (Srinivas et al.
    2023, for training in l2 only; see lib/attacks/geometry.py). `box` false: perturbed images may leave [0, 1].
    """

    norm: str
    eps: Fraction
    per: str = later("image")
    box: bool = later(True)

    def __post_init__(self):
        if self.norm not in NORMS:
            raise unknown("threat norm", self.norm, NORMS)
        object.__setattr__(self, "eps", fraction(self.eps, "threat.eps"))
        need(self.eps >= 0, "threat.eps", self.eps, "0 or more")
        inside = self.norm != "linf" or self.eps <= 1 or not self.box
        need(inside, "threat.eps", self.eps, "at most 1 for linf (pixels lie in [0, 1])")
        if self.per not in PER:
            raise unknown("threat.per", self.per, PER)
        need(self.per == "image" or self.norm == "l2", "threat.per", self.per, f"image for the norm {self.norm}")
        need(self.box or not self.perceptual, "threat.box", self.box, f"true for the norm {self.norm}")

    @property
    def perceptual(self) -> bool:
        """Whether the adversary moves something other than the pixels themselves."""
        return self.norm in PERCEPTUAL


@dataclass(frozen=True)
class PGD:
    """Projected gradient steps (Madry et al. 2018). FGSM is one step of eps without a random start.

    `loss`: ce, dlr, cw or kl (against the clean prediction, as TRADES). `targeted`: towards given classes.
    `confidence`: for cw, where the margin stops to grow (Carlini & Wagner 2017, kappa; in logits); None: nowhere. An
    evaluation counts any misclassified iterate, so there it changes no verdict; it changes the last iterate.
    """

    steps: int
    step_size: Fraction
    restarts: int = 1
    random_start: bool = True
    loss: str = "ce"
    targeted: bool = False
    confidence: float | None = later(None)

    def __post_init__(self):
        need(is_int(self.steps, 0), "attack.steps", self.steps, "a whole number of at least 0")
        object.__setattr__(self, "step_size", fraction(self.step_size, "attack.step_size"))
        need(self.step_size > 0, "attack.step_size", self.step_size, "greater than 0")
        need(is_int(self.restarts, 1), "attack.restarts", self.restarts, "a whole number of at least 1")
        if self.loss not in LOSSES:
            raise unknown("attack loss", self.loss, LOSSES)
        if self.confidence is not None:
            need(self.loss == "cw", "attack.confidence", self.confidence, f"null for the loss {self.loss}: cw has one")
            need(is_number(self.confidence, 0), "attack.confidence", self.confidence, "a number of at least 0, or null")

    def with_one_more_restart(self) -> PGD:
        """The attack that shows whether restarts matter (a sanity check of one robust network)."""
        return replace(self, restarts=self.restarts + 1)


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
class Square:
    """Random search without gradients (Andriushchenko et al. 2020), at most `queries` forward passes an image."""

    queries: int = 5000

    def __post_init__(self):
        need(is_int(self.queries, 1), "attack.queries", self.queries, "a whole number of at least 1")


@dataclass(frozen=True)
class AutoAttack:
    """The standard AutoAttack: APGD-CE, APGD-T, FAB-T, Square, on the survivors of the one before."""

    version: str = "standard"

    def __post_init__(self):
        if self.version not in ("standard",):
            raise unknown("AutoAttack version", self.version, ("standard",))


Attack = PGD | APGD | Square | AutoAttack


@dataclass(frozen=True)
class Bounds:
    """A proof, image by image, that no image of the ball is misclassified: bounds of the network's outputs.

    `method`: interval (Gowal et al. 2019); CROWN-IBP, linear bounds of the margins around interval bounds of the layers
    (Zhang et al. 2020); CROWN, linear bounds of every layer (Zhang et al. 2018). Of linf balls within [0, 1].
    """

    method: str = "interval"

    def __post_init__(self):
        if self.method not in BOUNDS:
            raise unknown("method of bounds", self.method, BOUNDS)


@dataclass(frozen=True)
class Smoothing:
    """Randomised smoothing (Cohen et al. 2019), a proof about the smoothed classifier: the class that the network gives
    most often to copies of the image with Gaussian noise of standard deviation `sigma` (pixels in [0, 1], not cut).

    The class is guessed from `few` copies (n0) and its probability bounded from `many` others (n); a verdict is wrong
    with a probability of at most `alpha`. Of l2 balls; the largest radius that can be proven is
    sigma * Phi^-1(alpha^(1/many)).
    """

    sigma: float
    few: int = 100
    many: int = 1000
    alpha: float = 0.001

    def __post_init__(self):
        need(is_number(self.sigma, 0) and self.sigma > 0, "certificate.sigma", self.sigma, "greater than 0")
        need(is_number(self.alpha, 0) and 0 < self.alpha < 0.5, "certificate.alpha", self.alpha, "between 0 and 0.5")
        for name in ("few", "many"):
            copies = getattr(self, name)
            need(is_int(copies, 1), f"certificate.{name}", copies, "a whole number of at least 1")
        provable = self.alpha > 0.5**self.many
        need(provable, "certificate.many", self.many,
             f"more than log2(1 / alpha): at alpha {self.alpha:g} fewer copies prove nothing even where all agree")


Certificate = Bounds | Smoothing


def compatible(threat: Threat, attack: Attack | Certificate) -> None:
    """Raise SettingsError unless `attack` can search for images within `threat`, or a certificate rule them out."""
    if isinstance(attack, Bounds):
        need(threat.norm == "linf", "threat.norm", threat.norm, f"linf for {attack.method} bounds")
        need(threat.box, "threat.box", threat.box, f"true for {attack.method} bounds, whose images stay in [0, 1]")
        return
    if isinstance(attack, Smoothing):
        need(threat.norm == "l2", "threat.norm", threat.norm, "l2 for smoothing")
        need(threat.per == "image", "threat.per", threat.per, "image for smoothing, which proves a ball around each")
        return
    if isinstance(attack, PGD):
        starts = attack.random_start or not threat.perceptual
        need(starts, "attack.random_start", False, f"true for the norm {threat.norm}, whose scenes are drawn")
        return
    name = type(attack).__name__
    need(not threat.perceptual, "threat.norm", threat.norm, f"{', '.join(PIXEL_NORMS)} for {name} (PGD takes all)")
    need(threat.box, "threat.box", threat.box, f"true for {name}, whose images stay in [0, 1]")


# Evaluations by name, from a step size to an attack.
TIERS = {
    "clean": lambda size: None,
    "pgd20": lambda size: PGD(20, size),
    "pgd50x10": lambda size: PGD(50, size, restarts=10),
    "apgd": lambda size: APGD(),
    "square": lambda size: Square(),
    "autoattack": lambda size: AutoAttack(),
}


def tier(name: str, threat: Threat) -> Attack | None:
    """The attack of a named tier of evaluation; None for clean.

    pgd20 and pgd50x10 (50 steps, 10 restarts) take steps of a quarter of the ball's radius: eps / 4, which is 2/255 at
    8/255 as is usual for CIFAR-10, and 1/4 for gabor and snow, whose latents reach 1. apgd has 100 steps and 9 targets,
    square 5,000 queries, as in AutoAttack.
    """
    if name not in TIERS:
        raise unknown("tier", name, TIERS)
    return TIERS[name](_quarter(threat))


def _quarter(threat: Threat) -> Fraction:
    radius = 1 if threat.norm in ("gabor", "snow") else threat.eps or 1
    return Fraction(radius) / 4


# Lists of evaluations by name, from a threat and a step size to attacks.
TIER_LISTS = {
    "harp": lambda threat, size: (fgsm(threat), PGD(10, size), PGD(20, size, loss="cw", confidence=50.0),
                                  APGD(50, restarts=5, targets=0), AutoAttack()),
}


def tiers(name: str, threat: Threat) -> tuple[Attack | None, ...]:
    """The attacks of a named list, or the one of a named tier.

    harp: those of Zhao & Wressnegger (2023): FGSM, PGD-10, 20 steps on the CW margin with confidence 50, APGD-CE of 50
    steps and 5 restarts, AutoAttack; steps of eps / 4.
    """
    if name in TIER_LISTS:
        return TIER_LISTS[name](threat, _quarter(threat))
    if name not in TIERS:
        raise unknown("tier or list of tiers", name, (*TIERS, *TIER_LISTS))
    return (tier(name, threat),)


def fgsm(threat: Threat) -> PGD:
    """The fast gradient sign method: one full step, no random start."""
    return PGD(steps=1, step_size=threat.eps or Fraction(1), random_start=False)
