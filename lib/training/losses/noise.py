"""Training on images with Gaussian noise, drawn anew for each batch; the noisy images are not clipped to [0, 1]."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from lib.attacks.pgd import adversarial_loss
from lib.training.losses.base import Loss, losses
from lib.values.objectives import Noise, Stability


def noisy(batch, sigma: float) -> torch.Tensor:
    """The batch's images [B, C, H, W] with noise of standard deviation `sigma` (pixels in [0, 1]) from its generator.
    """
    return batch.images + sigma * torch.randn(batch.images.shape, generator=batch.generator, device=batch.images.device)


@losses.register(Noise)
class NoiseLoss(Loss):
    """Mean cross-entropy of the noisy images: the base classifier of randomised smoothing (Cohen et al. 2019)."""

    def __call__(self, net, batch, progress):
        logits = net(noisy(batch, self.spec.sigma)).float()
        return F.cross_entropy(logits, batch.labels), logits


@losses.register(Stability)
class StabilityLoss(Loss):
    """Cross-entropy of clean images + beta * KL(clean || noisy) (Carmon et al. 2019; the training for randomised
    smoothing in the code of Sehwag et al. 2020). The logits returned are those of the clean images.
    """

    def __call__(self, net, batch, progress):
        clean, shaken = net(batch.images).float(), net(noisy(batch, self.spec.sigma)).float()
        divergence = adversarial_loss("kl", shaken, batch.labels, reference=clean).mean()
        return F.cross_entropy(clean, batch.labels) + self.spec.beta * divergence, clean
