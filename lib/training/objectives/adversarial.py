"""Training on adversarial images: PGD adversarial training with a share alpha, and TRADES.

Attacks run with BatchNorm in eval mode and form gradients for the images only.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
import torch.nn.functional as F

from lib.attacks.pgd import frozen_eval, pgd


class AdversarialLoss:
    """Mean cross-entropy over a batch in which floor(alpha * B) random images are adversarial (Madry et al. 2018;
    the share alpha as in Balogh & Jelasity 2023). The attack is white-box on `net` as it stands.
    """

    def __init__(self, spec):
        self.spec = spec

    def __call__(self, net, batch, moment):
        spec, n = self.spec, len(batch.labels)
        # floor after rounding away the float's last digits: 0.29 * 100 is 28.999999999999996
        chosen = math.floor(round(spec.alpha * n, 9))
        if spec.clean_statistics and net.training:
            with torch.no_grad():
                net(batch.images)
        images = batch.images
        if chosen:
            picked = torch.randperm(n, generator=batch.generator, device=images.device)[:chosen]
            picked = slice(None) if chosen == n else picked
            with frozen_eval(net):
                adversarial = pgd(net, images[picked], batch.labels[picked], spec.threat, spec.attack,
                                  generator=batch.generator, precision=moment.precision)
            if chosen == n:
                images = adversarial
            else:
                images = images.clone(memory_format=torch.preserve_format)
                images[picked] = adversarial
        logits = net(images).float()
        return F.cross_entropy(logits, batch.labels), logits


class TradesLoss:
    """Cross-entropy on clean images + beta * KL(clean || adversarial), the images found by maximising that KL from a
    Gaussian start of 0.001 (Zhang et al. 2019, eq. 5 and algorithm 1).
    """

    def __init__(self, spec):
        self.spec = spec
        self.attack = replace(spec.attack, loss="kl", random_start=True)

    def __call__(self, net, batch, moment):
        images, spec = batch.images, self.spec
        noise = 0.001 * torch.randn(images.shape, generator=batch.generator, device=images.device)
        in_units_of_eps = noise / (float(spec.threat.eps) or 1.0)  # pgd multiplies a start by eps
        with frozen_eval(net):
            adversarial = pgd(net, images, batch.labels, spec.threat, self.attack, noise=in_units_of_eps,
                              precision=moment.precision)
        clean, attacked = net(images).float(), net(adversarial).float()
        divergence = F.kl_div(F.log_softmax(attacked, 1), F.log_softmax(clean, 1), reduction="batchmean",
                              log_target=True)
        return F.cross_entropy(clean, batch.labels) + spec.beta * divergence, clean
