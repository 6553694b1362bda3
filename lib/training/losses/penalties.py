"""Cross-entropy plus a penalty on changes of the network's outputs with the image (Srinivas et al. 2023)."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from lib.training.losses.base import Loss, losses
from lib.training.losses.noise import noisy
from lib.values.objectives import GradientNorm, Smoothness


@losses.register(GradientNorm)
class GradientNormLoss(Loss):
    """Cross-entropy + weight * mean over images of ||d CE_i / d x_i||_2^2, differentiated once more for the weights.

    BatchNorm stays in the current mode: in train mode an image's gradient flows through the batch's statistics too, as
    in the off-manifold paper's code. That code multiplies its lambda by 1e5 / B times the sum of squares of the
    gradient of the batch's mean loss, so weight = lambda * 1e5 / B^2, which is 6.10 lambda for its batches of B = 128.
    """

    second_order = True

    def __call__(self, net, batch, progress):
        images = batch.images.detach().requires_grad_()
        logits = net(images).float()
        losses = F.cross_entropy(logits, batch.labels, reduction="none")
        gradients, = torch.autograd.grad(losses.sum(), images, create_graph=True)
        penalty = gradients.float().flatten(1).square().sum(1).mean()
        return losses.mean() + self.spec.weight * penalty, logits


@losses.register(Smoothness)
class SmoothnessLoss(Loss):
    """Cross-entropy + weight * mean over images of ||h(x) - h(x + n)||_2^2 with logits h and Gaussian noise n of
    standard deviation `sigma` (pixels in [0, 1]).
    """

    def __call__(self, net, batch, progress):
        clean, shaken = net(batch.images).float(), net(noisy(batch, self.spec.sigma)).float()
        penalty = (clean - shaken).square().sum(1).mean()
        return F.cross_entropy(clean, batch.labels) + self.spec.weight * penalty, clean
