"""Certificates: proofs that no image within a threat changes a network's prediction, as values without torch.

lib/certify computes them: it registers a proof for every type (`proofs`, lib/certify/proof.py).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated

from lib.errors import need
from lib.values.declared import Count, Declared, OneOf, Positive, between
from lib.values.threats import Threat

BOUNDS = ("interval", "CROWN-IBP", "CROWN")
# The share of the numbers that a network's layers give for an image which CROWN and MixTrain bound one by one, because
# they are the inputs of unstable ReLUs: 1,892 of 6,254 in an untrained CNN-small on CIFAR-10 at eps 2/255, counted for
# one image. A certified training leaves fewer, so prices that rest on it are upper bounds.
UNSTABLE = 0.3


class Certificate(Declared, ABC):
    """A proof, image by image, that no image within a threat changes the prediction."""

    where = "certificate"
    of_network = True  # whether it is about the network itself, not about another classifier derived from it
    relus = 0  # passes, in addition to `passes`, for each unstable ReLU of an image

    @property
    @abstractmethod
    def title(self) -> str:
        """A short text for tables: CROWN-IBP bounds, smoothing (sigma 0.25, 1000 samples, alpha 0.001)."""

    @abstractmethod
    def passes(self, standing: float = 1.0, classes: int = 10) -> float:
        """Forward passes per image (a backward pass counts as one) on a network with `classes` classes. They do not
        depend on `standing`, the share in [0, 1] of the images for which the proof holds.
        """

    @abstractmethod
    def check(self, threat: Threat) -> None:
        """Raise SettingsError unless the certificate can prove robustness within `threat`."""


@dataclass(frozen=True)
class Bounds(Certificate):
    """A proof by bounds on the network's outputs, image by image, that no image of the ball is misclassified. For linf
    balls within [0, 1].
    """

    # the bounds: interval (Gowal et al. 2019); CROWN-IBP, linear bounds on the margins from interval bounds on the
    # layers (Zhang et al. 2020); CROWN, linear bounds on every layer (Zhang et al. 2018)
    method: Annotated[str, OneOf(BOUNDS)] = "interval"

    @property
    def title(self) -> str:
        return f"{self.method} bounds"

    @property
    def relus(self) -> int:
        return 2 if self.method == "CROWN" else 0

    def passes(self, standing: float = 1.0, classes: int = 10) -> float:
        """Interval bounds cost two passes, propagating one linear function back a forward and a backward pass."""
        return 3 + (0 if self.method == "interval" else 2 * classes)

    def check(self, threat: Threat) -> None:
        need(threat.norm == "linf", "threat.norm", threat.norm, f"linf for {self.title}")
        need(threat.box, "threat.box", threat.box, f"true for {self.title}, whose images stay in [0, 1]")


@dataclass(frozen=True)
class Smoothing(Certificate):
    """Randomised smoothing (Cohen et al. 2019), a proof about the smoothed classifier, which returns the class that
    the network predicts most often for copies of the image with Gaussian noise. For l2 balls; the largest radius that
    can be proven is sigma * Phi^-1(alpha^(1/many)).
    """

    sigma: Positive  # the standard deviation of the noise (pixels in [0, 1], noisy ones not clipped)
    few: Count = 100  # noisy copies from which the class is guessed (n0)
    many: Count = 1000  # further noisy copies from which the probability of the class is bounded (n)
    alpha: Annotated[float, between(0, 0.5)] = 0.001  # the largest probability of a wrong verdict

    of_network = False

    def check_together(self):
        provable = self.alpha > 0.5**self.many
        need(provable, "certificate.many", self.many,
             f"more than log2(1 / alpha): at alpha {self.alpha:g} fewer copies prove nothing even if all agree")

    @property
    def title(self) -> str:
        return f"smoothing (sigma {self.sigma:g}, {self.many} samples, alpha {self.alpha:g})"

    def passes(self, standing: float = 1.0, classes: int = 10) -> float:
        return self.few + self.many

    def check(self, threat: Threat) -> None:
        need(threat.norm == "l2", "threat.norm", threat.norm, "l2 for smoothing")
        need(threat.per == "image", "threat.per", threat.per, "image for smoothing, which proves a ball around each")
