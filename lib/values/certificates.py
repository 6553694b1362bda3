"""Certificates: how it is proven that a threat changes no answer of a network, without torch.

How each is computed stands in lib/certify, which registers a proof for every type (`proofs`, lib/certify/proof.py).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated

from lib.errors import need
from lib.values.declared import Count, Declared, OneOf, Positive, between
from lib.values.threats import Threat

BOUNDS = ("interval", "CROWN-IBP", "CROWN")
UNSTABLE = 500  # ReLUs of an image that CROWN bounds one by one: a guess until it was done once on this machine


class Certificate(Declared, ABC):
    """A proof, image by image, that no image within a threat changes the answer."""

    where = "certificate"
    of_network = True  # whether it is about the network itself, not about another classifier made of it

    @property
    @abstractmethod
    def title(self) -> str:
        """A short text for tables: CROWN-IBP bounds, smoothing (sigma 0.25, 1000 samples, alpha 0.001)."""

    @abstractmethod
    def passes(self, standing: float = 1.0, classes: int = 10) -> float:
        """Forward passes per image for a network that tells so many classes apart, a pass back counting as one; the
        same whatever the share `standing` in [0, 1] for which the proof holds.
        """

    @abstractmethod
    def check(self, threat: Threat) -> None:
        """Raise SettingsError unless the certificate can prove robustness within `threat`."""


@dataclass(frozen=True)
class Bounds(Certificate):
    """A proof, image by image, that no image of the ball is misclassified: bounds of the network's outputs. Of linf
    balls within [0, 1].
    """

    # interval (Gowal et al. 2019); CROWN-IBP, linear bounds of the margins around interval bounds of the layers (Zhang
    # et al. 2020); CROWN, linear bounds of every layer (Zhang et al. 2018)
    method: Annotated[str, OneOf(BOUNDS)] = "interval"

    @property
    def title(self) -> str:
        return f"{self.method} bounds"

    def passes(self, standing: float = 1.0, classes: int = 10) -> float:
        """An interval is two passes; a linear function taken back is one forth and back."""
        return 3 + {"interval": 0, "CROWN-IBP": 2 * classes, "CROWN": 2 * (classes + UNSTABLE)}[self.method]

    def check(self, threat: Threat) -> None:
        need(threat.norm == "linf", "threat.norm", threat.norm, f"linf for {self.title}")
        need(threat.box, "threat.box", threat.box, f"true for {self.title}, whose images stay in [0, 1]")


@dataclass(frozen=True)
class Smoothing(Certificate):
    """Randomised smoothing (Cohen et al. 2019), a proof about the smoothed classifier: the class that the network gives
    most often to copies of the image with Gaussian noise. Of l2 balls; the largest radius that can be proven is
    sigma * Phi^-1(alpha^(1/many)).
    """

    sigma: Positive  # the standard deviation of the noise (pixels in [0, 1], not cut)
    few: Count = 100  # copies that the class is guessed from (n0)
    many: Count = 1000  # other copies that its probability is bounded from (n)
    alpha: Annotated[float, between(0, 0.5)] = 0.001  # the largest probability with which a verdict is wrong

    of_network = False

    def check_together(self):
        provable = self.alpha > 0.5**self.many
        need(provable, "certificate.many", self.many,
             f"more than log2(1 / alpha): at alpha {self.alpha:g} fewer copies prove nothing even where all agree")

    @property
    def title(self) -> str:
        return f"smoothing (sigma {self.sigma:g}, {self.many} samples, alpha {self.alpha:g})"

    def passes(self, standing: float = 1.0, classes: int = 10) -> float:
        return self.few + self.many

    def check(self, threat: Threat) -> None:
        need(threat.norm == "l2", "threat.norm", threat.norm, "l2 for smoothing")
        need(threat.per == "image", "threat.per", threat.per, "image for smoothing, which proves a ball around each")
