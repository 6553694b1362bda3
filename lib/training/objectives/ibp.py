"""Certified training by interval bound propagation."""

from __future__ import annotations

import torch.nn.functional as F

from lib.certify.intervals import margins


def strength(spec, share: float) -> tuple[float, float]:
    """(eps, kappa) when `share` in [0, 1) of training is done: from (0, 1) before `start` linearly to those of the
    objective value at `end`.
    """
    risen = 1.0 if share >= spec.end else max(0.0, share - spec.start) / (spec.end - spec.start)
    return risen * float(spec.eps), 1 - risen * (1 - spec.kappa)


class IBPLoss:
    """kappa * CE(z, y) + (1 - kappa) * CE(z_worst, y): z the logits and z_worst, for each image, the worst that the
    interval bounds of its linf ball allow, for every class at once (Gowal et al. 2019, section 3).

    Cross-entropy only sees differences of logits, so z_worst is 0 for the label and minus the lower bound of the margin
    for another class. Running statistics of BatchNorm are those of the clean images; how the bounds take it in train
    mode stands in lib/certify/intervals.py.
    """

    def __init__(self, spec):
        self.spec = spec

    def __call__(self, net, batch, moment):
        eps, kappa = strength(self.spec, moment.share)
        logits = net(batch.images).float()
        loss = F.cross_entropy(logits, batch.labels)
        if kappa < 1:  # before the rise the bounds would count for nothing
            worst = -margins(net, batch.images, batch.labels, eps).float()
            loss = kappa * loss + (1 - kappa) * F.cross_entropy(worst, batch.labels)
        return loss, logits
