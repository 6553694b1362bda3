"""Training on adversarial images: PGD adversarial training with a share alpha, and TRADES.

Attacks run with BatchNorm in eval mode and form gradients for the images only.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
import torch.nn.functional as F

from lib.attacks.pgd import pgd
from lib.models import Twin


class Attacked:
    """An objective that attacks the network it trains: on a folded twin, which is BN in eval mode at less cost."""

    def __init__(self, spec):
        self.spec, self.twin = spec, None

    def attack(self, net, images, labels, attack, moment, **start):
        """Adversarial images against `net` as it stands, BN in eval mode."""
        if self.twin is None or self.twin.net is not net:
            self.twin = Twin(net)
        return pgd(self.twin.follow(), images, labels, self.spec.threat, attack, precision=moment.precision, **start)


class AdversarialLoss(Attacked):
    """Mean cross-entropy over a batch in which floor(alpha * B) random images are adversarial (Madry et al. 2018;
    the share alpha as in Balogh & Jelasity 2023). The attack is white-box on `net` as it stands.
    """

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
            adversarial = self.attack(net, images[picked], batch.labels[picked], spec.attack, moment,
                                      generator=batch.generator)
            if chosen == n:
                images = adversarial
            else:
                images = images.clone(memory_format=torch.preserve_format)
                images[picked] = adversarial
        logits = net(images).float()
        return F.cross_entropy(logits, batch.labels), logits


class TradesLoss(Attacked):
    """Cross-entropy on clean images + beta * KL(clean || adversarial), the images found by maximising that KL from a
    Gaussian start of 0.001 (Zhang et al. 2019, eq. 5 and algorithm 1).
    """

    def __init__(self, spec):
        super().__init__(spec)
        self.inner = replace(spec.attack, loss="kl", random_start=True)

    def __call__(self, net, batch, moment):
        images, spec = batch.images, self.spec
        noise = 0.001 * torch.randn(images.shape, generator=batch.generator, device=images.device)
        in_units_of_eps = noise / (float(spec.threat.eps) or 1.0)  # pgd multiplies a start by eps
        adversarial = self.attack(net, images, batch.labels, self.inner, moment, noise=in_units_of_eps)
        clean, attacked = net(images).float(), net(adversarial).float()
        divergence = F.kl_div(F.log_softmax(attacked, 1), F.log_softmax(clean, 1), reduction="batchmean",
                              log_target=True)
        return F.cross_entropy(clean, batch.labels) + spec.beta * divergence, clean
