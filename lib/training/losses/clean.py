"""Training on clean images."""

from __future__ import annotations

import torch.nn.functional as F

from lib.training.losses.base import Loss, losses
from lib.values.objectives import CrossEntropy


@losses.register(CrossEntropy)
class CleanLoss(Loss):
    """Mean cross-entropy of the clean batch."""

    def __call__(self, net, batch, progress):
        logits = net(batch.images).float()
        return F.cross_entropy(logits, batch.labels), logits
