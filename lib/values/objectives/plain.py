"""Objectives on clean or noisy images: cross-entropy, alone or with a penalty on changes of the outputs."""

from __future__ import annotations

from dataclasses import dataclass

from lib.values.declared import NotNegative
from lib.values.objectives.base import Objective, Passes


@dataclass(frozen=True)
class CrossEntropy(Objective):
    """Cross-entropy on clean images."""

    def passes(self, classes: int, batch_size: int) -> Passes:
        return Passes(1)


@dataclass(frozen=True)
class Noise(Objective):
    """Cross-entropy on images with Gaussian noise of standard deviation `sigma` (pixels in [0, 1], noisy ones
    not clipped), the training for randomised smoothing (Cohen et al. 2019).
    """

    sigma: NotNegative

    def passes(self, classes: int, batch_size: int) -> Passes:
        return Passes(1)


@dataclass(frozen=True)
class Stability(Objective):
    """Cross-entropy on clean images plus beta times KL(clean || noisy) with Gaussian noise of standard deviation
    `sigma` (stability training; the smoothing objective of Sehwag et al.).
    """

    sigma: NotNegative
    beta: NotNegative = 6.0

    def passes(self, classes: int, batch_size: int) -> Passes:
        return Passes(2)  # clean and noisy images


@dataclass(frozen=True)
class GradientNorm(Objective):
    """Cross-entropy plus `weight` times the mean over images of ||d CE_i / d x_i||_2^2 (pixels in [0, 1]).
    Coefficient lambda and batches of B images in the off-manifold paper's code mean weight = lambda * 1e5 / B^2.
    """

    weight: NotNegative

    def passes(self, classes: int, batch_size: int) -> Passes:
        return Passes(2)  # the gradient is differentiated once more


@dataclass(frozen=True)
class Smoothness(Objective):
    """Cross-entropy plus `weight` times the mean over images of ||h(x) - h(x + n)||_2^2, with logits h and Gaussian
    noise n of standard deviation `sigma`.
    """

    weight: NotNegative
    sigma: NotNegative = 0.1

    def passes(self, classes: int, batch_size: int) -> Passes:
        return Passes(2)  # clean and noisy images
