"""Objectives of certified training: interval bounds, CROWN-IBP, MixTrain."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from lib.errors import fraction, is_int, is_number, need
from lib.values.certificates import UNSTABLE
from lib.values.objectives.base import Objective, Passes


def _certified(objective) -> None:
    """What objectives share whose ball grows to `eps` over the share `start` to `end` of training."""
    object.__setattr__(objective, "eps", fraction(objective.eps, "objective.eps"))
    need(0 <= objective.eps <= 1, "objective.eps", objective.eps, "from 0 to 1 (pixels lie in [0, 1])")
    start, end = objective.start, objective.end
    need(is_number(start, 0, 1) and is_number(end, 0, 1) and start <= end, "start", (start, end),
         "shares of training from 0 to 1, start not after end")


@dataclass(frozen=True)
class IBP(Objective):
    """Interval bound propagation (Gowal et al. 2019): kappa times the cross-entropy of the logits plus 1 - kappa times
    that of their worst case in the linf ball of `eps`. Over the share `start` to `end` of training eps rises linearly
    from 0 and kappa falls from 1 to `kappa`.
    """

    eps: Fraction
    kappa: float = 0.5
    start: float = 0.1
    end: float = 0.5

    def __post_init__(self):
        _certified(self)
        need(is_number(self.kappa, 0, 1), "kappa", self.kappa, "a number from 0 to 1")

    def passes(self, classes: int, batch_size: int) -> Passes:
        return Passes(3)  # an interval is two passes


@dataclass(frozen=True)
class CrownIBP(Objective):
    """CROWN-IBP (Zhang et al. 2020): kappa times the cross-entropy of the logits plus 1 - kappa times that of their
    worst case in the linf ball of `eps`, bounded by beta * linear + (1 - beta) * interval bounds of the margins
    (adaptive slopes, interval bounds of the ReLUs' inputs). Over the share `start` to `end` of training eps rises
    linearly from 0 and beta falls from 1 to 0; from then on only interval bounds are computed.

    beta is 1 - eps(t) / eps, as in the code of both CROWN-IBP and HYDRA. kappa does not change, other than in IBP: 0
    throughout, no natural cross-entropy at all, is HYDRA's loss and the plain one of the CROWN-IBP code (which can also
    let it fall from 1 with eps). Until `start`, where the ball is a point, the loss is the cross-entropy.
    """

    eps: Fraction
    kappa: float = 0.0
    start: float = 0.0
    end: float = 0.5

    def __post_init__(self):
        _certified(self)
        need(is_number(self.kappa, 0, 1), "kappa", self.kappa, "a number from 0 to 1")

    def passes(self, classes: int, batch_size: int) -> Passes:
        """While eps rises a linear function is taken back through the network for each class."""
        within, rising = 1 - self.start, self.end - self.start
        clean = 1 if self.kappa else self.start
        return Passes(clean + 2 * within + classes * rising, 1 - clean)


@dataclass(frozen=True)
class MixTrain(Objective):
    """MixTrain (Wang et al. 2018) as in HYDRA's code: the cross-entropy of the batch, plus, in each batch with
    probability `share`, w times that of the worst-case logits of `images` of its images, drawn at random, in the linf
    ball of eps(t). The worst case is bounded by symbolic linear relaxation: parallel slopes for the margins and for the
    bounds of every ReLU's input (lib/certify/linear.py).

    eps(t) rises linearly from 0 over the share `start` to `end` of training. w is `weight` until then; after every
    `every` further epochs it becomes `growth` times as large, but never more than `most`.

    Their eps rises by a step an epoch, here by one an update; they draw images with replacement, here without. On a
    batch of fewer images than `images` all are taken.
    """

    eps: Fraction
    share: float = 0.8
    images: int = 5
    weight: float = 0.1
    growth: float = 2.5
    every: int = 5
    most: float = 50.0
    start: float = 0.0
    end: float = 0.25

    def __post_init__(self):
        _certified(self)
        need(is_number(self.share, 0, 1), "share", self.share, "a probability from 0 to 1")
        need(is_int(self.images, 1), "images", self.images, "a whole number of at least 1")
        need(is_number(self.weight, 0), "weight", self.weight, "a number of at least 0")
        need(is_number(self.growth, 1), "growth", self.growth, "a number of at least 1")
        need(is_int(self.every, 1), "every", self.every, "a whole number of epochs of at least 1")
        need(is_number(self.most, self.weight), "most", self.most, f"a number of at least weight ({self.weight})")

    def passes(self, classes: int, batch_size: int) -> Passes:
        """For an image that is bounded a linear function is taken back through the network for each class, and two for
        each ReLU that stays unstable.
        """
        bounded = self.share * min(self.images / batch_size, 1)
        return Passes(1 + bounded * (2 + classes + 2 * UNSTABLE))
