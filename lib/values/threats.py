"""Threats: what an adversary may do to an image, without torch.

lib/values/attacks.py has the attacks that search a threat, lib/values/certificates.py the certificates that exclude it,
lib/attacks its geometry.
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
    """What an adversary may do: change an image in [0, 1] by at most `eps` in `norm`.

    Pixel norms: linf, l2, l1, with eps in units of pixels in [0, 1]. Perceptual threats (Kang et al. 2019), with eps in
    the authors' units: jpeg and jpeg_linf, the l2 or linf norm of quantised JPEG coefficients; gabor, the height of the
    noise in grey levels of 255; snow, the brightness of a full flake (see lib/attacks/perceptual.py).
    """

    norm: Annotated[str, OneOf(NORMS)]  # the norm that measures a perturbation
    eps: Annotated[Fraction, number(0)]  # the largest norm of a perturbation; at most 1 in linf
    # what eps limits: each image by itself, or the whole batch as one tensor, whose images share starts, steps and eps
    # (Srinivas et al. 2023, for training in l2 only; see lib/attacks/geometry.py)
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
        """Whether the adversary changes something other than the pixels themselves."""
        return self.norm in PERCEPTUAL

    @property
    def usual_step(self) -> Fraction:
        """The step size of the named tiers, a quarter of the ball's radius: eps / 4 (1/4 at eps 0), and 1/4 for gabor
        and snow, whose latents reach 1.
        """
        radius = 1 if self.norm in ("gabor", "snow") else self.eps or 1
        return Fraction(radius) / 4
