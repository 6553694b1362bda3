"""Threats: what an adversary may do to an image, without torch.

How a threat is searched stands in lib/values/attacks.py, how it is ruled out in lib/values/certificates.py; the
geometry of threats in lib/attacks.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated

from lib.errors import need
from lib.values.declared import Declared, OneOf, number
from lib.values.keys import later

PIXEL_NORMS = ("linf", "l2", "l1")
PERCEPTUAL = ("jpeg", "jpeg_linf", "gabor", "snow")
NORMS = PIXEL_NORMS + PERCEPTUAL
PER = ("image", "batch")


@dataclass(frozen=True)
class Threat(Declared):
    """What an adversary may do: move an image in [0, 1] by at most `eps` in `norm`.

    Norms of pixels: linf, l2, l1, eps in units of pixels in [0, 1]. Perceptual threats (Kang et al. 2019), eps in the
    authors' own units: jpeg and jpeg_linf, the l2 or linf norm of quantised JPEG coefficients; gabor, the height of the
    noise in grey levels of 255; snow, the brightness of a full flake (see lib/attacks/perceptual.py).
    """

    norm: Annotated[str, OneOf(NORMS)]  # what the length of a perturbation is measured in
    eps: Annotated[Fraction, number(0)]  # the largest length; at most 1 in linf
    # image: each image for itself; batch: starts, steps and budget are those of the whole batch tensor, so images share
    # one eps (Srinivas et al. 2023, for training in l2 only; see lib/attacks/geometry.py)
    per: Annotated[str, OneOf(PER)] = later("image")
    box: bool = later(True)  # whether perturbed images stay in [0, 1]

    where = "threat"

    def check_together(self):
        inside = self.norm != "linf" or self.eps <= 1 or not self.box
        need(inside, "threat.eps", self.eps, "at most 1 for linf (pixels lie in [0, 1])")
        need(self.per == "image" or self.norm == "l2", "threat.per", self.per, f"image for the norm {self.norm}")
        need(self.box or not self.perceptual, "threat.box", self.box, f"true for the norm {self.norm}")

    @property
    def perceptual(self) -> bool:
        """Whether the adversary moves something other than the pixels themselves."""
        return self.norm in PERCEPTUAL

    @property
    def usual_step(self) -> Fraction:
        """A quarter of the ball's radius, the step of the named tiers: eps / 4 (1/4 at eps 0), and 1/4 for gabor and
        snow, whose latents reach 1.
        """
        radius = 1 if self.norm in ("gabor", "snow") else self.eps or 1
        return Fraction(radius) / 4
