"""Training networks that output images: denoisers and auto-encoders. There are no logits and hence no accuracy."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from lib.training.losses.base import Loss, losses
from lib.training.losses.noise import noisy
from lib.values.objectives import Denoising, Reconstruction


@losses.register(Denoising)
class DenoisingLoss(Loss):
    """Mean over images and pixels of w(sigma) (D(x + sigma n; sigma, y) - x)^2, with n standard normal, ln(sigma)
    uniform for each image, and EDM's weights w (Karras et al. 2022, table 1). y is the image's class or, with
    probability `label_dropout`, no class. See lib.values.objectives.Denoising.
    """

    def __call__(self, net, batch, progress):
        sigma, labels = self.draw(batch)
        each = sigma.view(-1, 1, 1, 1)
        noise = torch.randn(batch.images.shape, generator=batch.generator, device=batch.images.device)
        errors = (net(batch.images + each * noise, sigma, labels).float() - batch.images).square().flatten(1).mean(1)
        return (net.loss_weight(sigma) * errors).mean(), None

    def draw(self, batch) -> tuple[torch.Tensor, torch.Tensor]:
        """A sigma (pixels in [0, 1]) and a label for each image of the batch, [B] each; label -1 means no class."""
        where = {"generator": batch.generator, "device": batch.images.device}
        low, high = math.log(self.spec.low), math.log(self.spec.high)
        sigma = (low + (high - low) * torch.rand(len(batch.labels), **where)).exp()
        dropped = torch.rand(len(batch.labels), **where) < self.spec.label_dropout
        return sigma, batch.labels.masked_fill(dropped, -1)


@losses.register(Reconstruction)
class ReconstructionLoss(Loss):
    """Mean over images and pixels of (decode(encode(x + noise n)) - x)^2 with n standard normal."""

    def __call__(self, net, batch, progress):
        given = noisy(batch, self.spec.noise) if self.spec.noise else batch.images
        return F.mse_loss(net(given).float(), batch.images), None
