"""Certified training: by interval bound propagation, by CROWN-IBP, by MixTrain."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from lib.certify import linear
from lib.certify.intervals import margins
from lib.training.losses.base import Loss, losses
from lib.values.objectives import IBP, CrownIBP, MixTrain


def eps_fraction(spec, share: float) -> float:
    """eps(t) / eps, in [0, 1], after the share `share`, in [0, 1), of training: it rises linearly between the
    objective's `start` and `end`.
    """
    return 1.0 if share >= spec.end else max(0.0, share - spec.start) / (spec.end - spec.start)


def strength(spec, share: float) -> tuple[float, float]:
    """(eps, kappa) of IBP after the share `share`, in [0, 1), of training: linear from (0, 1) at the objective's
    `start` to its own eps and kappa at `end`.
    """
    grown = eps_fraction(spec, share)
    return grown * float(spec.eps), 1 - grown * (1 - spec.kappa)


@losses.register(IBP)
class IBPLoss(Loss):
    """kappa * CE(z, y) + (1 - kappa) * CE(z_worst, y) with the logits z and, for each image, the worst logits z_worst
    that the interval bounds of its linf ball allow, for all classes at once (Gowal et al. 2019, section 3).

    Cross-entropy depends only on differences of logits, so z_worst is 0 for the label and minus the lower bound of the
    margin for every other class. BatchNorm's running statistics come from the clean images;
    lib/certify/intervals.py explains the bounds in train mode.
    """

    def __call__(self, net, batch, progress):
        eps, kappa = strength(self.spec, progress.share)
        logits = net(batch.images).float()
        loss = F.cross_entropy(logits, batch.labels)
        if kappa < 1:  # at kappa 1 the bounds have no weight
            worst = -margins(net, batch.images, batch.labels, eps).float()
            loss = kappa * loss + (1 - kappa) * F.cross_entropy(worst, batch.labels)
        return loss, logits


@losses.register(CrownIBP)
class CrownIBPLoss(Loss):
    """kappa * CE(z, y) + (1 - kappa) * CE(z_worst, y) with z_worst as in IBPLoss, but from bounds that change gradually
    from linear to interval bounds (Zhang et al. 2020, eq. 12; see lib.values.objectives.CrownIBP). If kappa is 0, the
    logits serve only for the running accuracy and BatchNorm's running statistics.
    """

    def __call__(self, net, batch, progress):
        grown, kappa = eps_fraction(self.spec, progress.share), self.spec.kappa
        eps = grown * float(self.spec.eps)
        certified = eps > 0 and kappa < 1  # otherwise both cross-entropies are equal, or the bounds have no weight
        with torch.set_grad_enabled(torch.is_grad_enabled() and not (certified and kappa == 0)):
            logits = net(batch.images).float()
        if not certified:
            return F.cross_entropy(logits, batch.labels), logits
        if grown < 1:
            lowest = linear.crown_ibp(net, batch.images, batch.labels, eps, beta=1 - grown)
        else:
            lowest = margins(net, batch.images, batch.labels, eps)
        loss = F.cross_entropy(-lowest.float(), batch.labels)
        if kappa:
            loss = kappa * F.cross_entropy(logits, batch.labels) + (1 - kappa) * loss
        return loss, logits


@losses.register(MixTrain)
class MixTrainLoss(Loss):
    """CE(z, y), plus, in a random share of batches, w * CE(z_worst, y) of a few images; see
    lib.values.objectives.MixTrain.

    `reached` is the first epoch in which eps has its final value; from it on w grows. None before.
    """

    def __init__(self, spec):
        super().__init__(spec)
        self.reached: int | None = None

    def __call__(self, net, batch, progress):
        logits = net(batch.images).float()
        loss = F.cross_entropy(logits, batch.labels)
        grown, weight = eps_fraction(self.spec, progress.share), self.weight(progress)
        device = batch.images.device
        drawn = torch.rand((), generator=batch.generator, device=device)
        few = torch.randperm(len(batch.labels), generator=batch.generator, device=device)[:self.spec.images]
        if weight and drawn < self.spec.share:
            images, labels = batch.images[few], batch.labels[few]
            lowest = linear.margins(net, images, labels, grown * float(self.spec.eps), "parallel", "linear")
            loss = loss + weight * F.cross_entropy(-lowest, labels)
        return loss, logits

    def weight(self, progress) -> float:
        """The weight w of an update; updates must be asked for in order."""
        if self.reached is None and eps_fraction(self.spec, progress.share) == 1:
            self.reached = progress.epoch
        epochs = 0 if self.reached is None else progress.epoch - self.reached
        return min(self.spec.weight * self.spec.growth ** (epochs // self.spec.every), self.spec.most)

    def state_dict(self) -> dict:
        return {"reached": self.reached}

    def load_state_dict(self, state: dict) -> None:
        self.reached = state["reached"]
