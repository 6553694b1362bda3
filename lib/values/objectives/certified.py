"""Objectives of certified training: interval bounds, CROWN-IBP, MixTrain."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated

from lib.errors import need
from lib.values.declared import Count, NotNegative, Share, number
from lib.values.objectives.base import Objective, Passes

Radius = Annotated[Fraction, number(0, 1)]  # pixels lie in [0, 1]


class _Certified(Objective):
    """Objectives whose ball grows to `eps` between the shares `start` and `end` of training."""

    def check_together(self):
        need(self.start <= self.end, "objective.start", self.start, f"at most end ({self.end})")


@dataclass(frozen=True)
class IBP(_Certified):
    """Interval bound propagation (Gowal et al. 2019): kappa times the cross-entropy of the logits plus 1 - kappa times
    the cross-entropy of their worst case in the linf ball of `eps`. Between the shares `start` and `end` of training,
    eps rises linearly from 0 and kappa falls from 1 to `kappa`.
    """

    eps: Radius
    kappa: Share = 0.5
    start: Share = 0.1
    end: Share = 0.5

    def passes(self, classes: int, batch_size: int) -> Passes:
        return Passes(3)  # interval bounds cost two passes


@dataclass(frozen=True)
class CrownIBP(_Certified):
    """CROWN-IBP (Zhang et al. 2020): kappa times the cross-entropy of the logits plus 1 - kappa times the
    cross-entropy of their worst case in the linf ball of `eps`, bounded by beta * linear + (1 - beta) * interval bounds
    on the margins (adaptive slopes, interval bounds on the ReLUs' inputs). Between the shares `start` and `end` of
    training, eps rises linearly from 0 and beta falls from 1 to 0; from then on only interval bounds are computed.

    beta is 1 - eps(t) / eps, as in the code of both CROWN-IBP and HYDRA. Unlike in IBP, kappa is constant: 0, without
    natural cross-entropy, is HYDRA's loss and the plain loss of the CROWN-IBP code (which can also let kappa fall from
    1 as eps rises). Until `start`, when the ball is a point, the loss is the cross-entropy.
    """

    eps: Radius
    kappa: Share = 0.0
    start: Share = 0.0
    end: Share = 0.5

    def passes(self, classes: int, batch_size: int) -> Passes:
        """While eps rises, one linear function per class is propagated back through the network."""
        within, rising = 1 - self.start, self.end - self.start
        clean = 1 if self.kappa else self.start
        return Passes(clean + 2 * within + classes * rising, 1 - clean)


@dataclass(frozen=True)
class MixTrain(_Certified):
    """MixTrain (Wang et al. 2018) as in HYDRA's code: the cross-entropy of the batch plus, with probability `share`
    in each batch, w times the cross-entropy of the worst-case logits of `images` random images of the batch in the linf
    ball of eps(t). The worst case is bounded by symbolic linear relaxation: parallel slopes for the margins and for the
    bounds on every ReLU's input (lib/certify/linear.py).

    eps(t) rises linearly from 0 between the shares `start` and `end` of training. w is `weight` until `end`; after
    every `every` further epochs it becomes `growth` times as large, but never more than `most`.

    In their code eps rises once per epoch and images are drawn with replacement; here eps rises at every update and
    images are drawn without replacement. All images of a batch with fewer than `images` are taken.
    """

    eps: Radius
    share: Share = 0.8
    images: Count = 5
    weight: NotNegative = 0.1
    growth: Annotated[float, number(1)] = 2.5
    every: Count = 5
    most: NotNegative = 50.0
    start: Share = 0.0
    end: Share = 0.25

    def check_together(self):
        super().check_together()
        need(self.most >= self.weight, "objective.most", self.most, f"a number of at least weight ({self.weight})")

    def passes(self, classes: int, batch_size: int) -> Passes:
        """For each bounded image, one linear function per class is propagated back through the network."""
        return Passes(1 + self._bounded(batch_size) * (2 + classes))

    def relus(self, batch_size: int) -> float:
        """For each bounded image, two linear functions per unstable ReLU are propagated back through the network."""
        return 2 * self._bounded(batch_size)

    def _bounded(self, batch_size: int) -> float:
        """The share of the images that are bounded."""
        return self.share * min(self.images / batch_size, 1)
