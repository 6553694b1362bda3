"""Objectives of networks that give images: denoisers and auto-encoders."""

from __future__ import annotations

from dataclasses import dataclass

from lib.errors import need
from lib.values.architectures import AutoEncoder, Denoisers
from lib.values.declared import NotNegative, Positive, Share
from lib.values.objectives.base import Objective, Passes


class _OfImages(Objective):
    """Objectives that train only networks of their `architectures`, which give images."""

    architectures = ()

    def passes(self, classes: int, batch_size: int) -> Passes:
        return Passes(1)

    @classmethod
    def alone_trains(cls, recipe) -> str:
        return f"{cls.__name__} for {recipe.arch.name}" if isinstance(recipe.arch, cls.architectures) else ""

    def check(self, recipe) -> None:
        super().check(recipe)
        need(bool(self.alone_trains(recipe)), "objective", type(self).__name__,
             f"one that trains classifiers, for {recipe.arch.name}")


@dataclass(frozen=True)
class Denoising(_OfImages):
    """Denoising score matching with the weights of EDM (Karras et al. 2022): the network sees images with Gaussian
    noise of a standard deviation between `low` and `high` (pixels in [0, 1]; twice as much for pixels in [-1, 1]),
    drawn for each image with a uniform logarithm, and learns to give the clean image. If both are equal there is one
    noise level. `label_dropout`: the probability that an image comes without its class, so that one network learns the
    class-conditional scores and the unconditional one.
    """

    low: Positive
    high: Positive
    label_dropout: Share = 0.1

    architectures = Denoisers

    def check_together(self):
        need(self.high >= self.low, "objective.high", self.high, f"a number of at least low ({self.low})")


@dataclass(frozen=True)
class Reconstruction(_OfImages):
    """The squared error of an auto-encoder's output, whose input has Gaussian noise of standard deviation `noise`
    (pixels in [0, 1], noisy ones not clipped); 0 is a plain auto-encoder.
    """

    noise: NotNegative = 0.0

    architectures = AutoEncoder
