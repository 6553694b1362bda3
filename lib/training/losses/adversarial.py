"""Training on adversarial images: PGD adversarial training with a share alpha, images made against other networks,
TRADES, MART, and free training.

Attacks form gradients for the images only and, unless the objective says otherwise, run with BatchNorm in eval mode.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import nn

from lib.attacks.geometry import project, start_noise, step
from lib.attacks.pgd import adversarial_loss, pgd
from lib.errors import OneLineError
from lib.models import Twin, folded
from lib.training.losses.base import Loss, losses
from lib.training.memory import InParts
from lib.values.objectives import MART, TRADES, Adversarial, FreeAdversarial, Transferred


class Attacked(Loss):
    """A loss that attacks the network it trains: on a folded twin, which is BN in eval mode at lower cost, or, with
    `batchnorm` train, on the network itself in its current mode.
    """

    def __init__(self, spec):
        super().__init__(spec)
        self.twin, self.in_parts = None, InParts("attack in training")

    def attack(self, net, images, labels, attack, progress, generator, noise=None, path=None):
        """Adversarial images [B, C, H, W] against the current `net`, from a start drawn from `generator` or at `noise`
        (in units of eps). The images at which gradients were taken are appended to `path`. A batch that does not fit
        into memory is attacked in parts, unless its images depend on each other or a `path` is wanted.
        """
        attacked = net if self.spec.batchnorm == "train" else self._follow(net)
        return self._search(attacked, attacked is net, images, labels, attack, progress, generator, noise, path)

    def _search(self, attacked, together: bool, images, labels, attack, progress, generator, noise=None, path=None):
        """The attack on any network; `together`: whether the images of a batch depend on each other."""
        threat = self.spec.threat
        if attack.random_start and noise is None and not threat.perceptual:
            noise = start_noise(threat, images.shape, generator)

        def search(x, y, start):
            return pgd(attacked, x, y, threat, attack, generator, start, precision=progress.precision, path=path)

        whole = together or threat.per == "batch" or path is not None
        return search(images, labels, noise) if whole else self.in_parts(search, images, labels, noise)

    def _follow(self, net):
        if self.twin is None or self.twin.net is not net:
            self.twin = Twin(net)
        return self.twin.follow()

    def from_gaussian_start(self, net, batch, attack, progress):
        """Adversarial images [B, C, H, W] from a start at the clean images plus Gaussian noise of standard deviation
        0.001 (TRADES and MART).
        """
        noise = 0.001 * torch.randn(batch.images.shape, generator=batch.generator, device=batch.images.device)
        in_units_of_eps = noise / (float(self.spec.threat.eps) or 1.0)  # pgd multiplies a start by eps
        return self.attack(net, batch.images, batch.labels, replace(attack, random_start=True), progress,
                           batch.generator, in_units_of_eps)


@losses.register(Adversarial)
class AdversarialLoss(Attacked):
    """Mean cross-entropy over a batch in which floor(alpha * B) random images are adversarial (Madry et al. 2018, eq.
    2; the share alpha as in the code of Balogh & Jelasity 2023). The attack is white-box on the current `net`. With
    `clean_loss` the clean batch has a separate forward pass before the adversarial one.
    """

    def __call__(self, net, batch, progress):
        spec, n = self.spec, len(batch.labels)
        # round off the last digits before the floor: 0.29 * 100 is 28.999999999999996
        chosen = math.floor(round(spec.alpha * n, 9))
        if spec.clean_statistics and net.training:
            with torch.no_grad():
                net(batch.images)
        images = batch.images
        if chosen:
            picked = torch.randperm(n, generator=batch.generator, device=images.device)[:chosen]
            picked = slice(None) if chosen == n else picked
            path = [] if spec.accumulated else None
            adversarial = self.attack(net, images[picked], batch.labels[picked], spec.attack, progress, batch.generator,
                                      path=path)
            if chosen == n:
                images = adversarial
            else:
                images = images.clone(memory_format=torch.preserve_format)
                images[picked] = adversarial
        clean = F.cross_entropy(net(batch.images).float(), batch.labels) if spec.clean_loss else 0.0
        logits = net(images).float()
        loss = spec.clean_loss * clean + (1 - spec.clean_loss) * F.cross_entropy(logits, batch.labels)
        if spec.accumulated:
            loss = loss + sum(F.cross_entropy(net(passed).float(), batch.labels) for passed in path)
        return loss, logits


@losses.register(Transferred)
class TransferredLoss(Attacked):
    """The sum of the cross-entropies at adversarial images against each network in `against` and, with `clean`, at the
    clean images, each batch in its own forward pass; see lib.values.objectives.Transferred. The logits are those of the
    first batch. Raises OneLineError if a network to attack is missing.
    """

    def __init__(self, spec):
        super().__init__(spec)
        self.parents: dict[str, nn.Module] = {}

    def with_parents(self, networks) -> None:
        """Take the trained networks (front, end) that were stitched; folded copies of them are attacked."""
        named = dict(zip(("front", "end"), networks, strict=True))
        self.parents = {name: folded(net) for name, net in named.items() if name in self.spec.against}

    def __call__(self, net, batch, progress):
        spec = self.spec
        if missing := [name for name in spec.against if name != "itself" and name not in self.parents]:
            raise OneLineError(f"the {missing[0]} network that the objective attacks is missing: call `with_parents` "
                               "before training")
        if spec.clean_statistics and net.training:
            with torch.no_grad():
                net(batch.images)
        seen = [self._search(self._follow(net) if name == "itself" else self.parents[name], False, batch.images,
                             batch.labels, spec.attack, progress, batch.generator) for name in spec.against]
        logits = [net(images).float() for images in [*seen, *([batch.images] if spec.clean else [])]]
        return sum(F.cross_entropy(rows, batch.labels) for rows in logits), logits[0]


@losses.register(TRADES)
class TradesLoss(Attacked):
    """Cross-entropy on clean images + beta * KL(clean || adversarial); the adversarial images maximise that KL, from a
    Gaussian start of standard deviation 0.001 (Zhang et al. 2019, eq. 5 and algorithm 1).
    """

    def __call__(self, net, batch, progress):
        spec = self.spec
        adversarial = self.from_gaussian_start(net, batch, replace(spec.attack, loss="kl"), progress)
        clean, attacked = net(batch.images).float(), net(adversarial).float()
        divergence = adversarial_loss("kl", attacked, batch.labels, reference=clean).mean()
        return F.cross_entropy(clean, batch.labels) + spec.beta * divergence, clean


@losses.register(MART)
class MartLoss(Attacked):
    """Mean of BCE(p(x'), y) + weight * KL(p(x) || p(x')) * (1 - p_y(x)) with the boosted cross-entropy
    BCE = -log p_y - log(1 - max_{k != y} p_k) (Wang et al. 2020, eq. 11). The attack that finds x' starts from Gaussian
    noise of standard deviation 0.001, as in their code. The logits returned are those of x'.
    """

    def __call__(self, net, batch, progress):
        labels = batch.labels
        adversarial = self.from_gaussian_start(net, batch, self.spec.attack, progress)
        clean, attacked = net(batch.images).float(), net(adversarial).float()
        missed = 1 - clean.softmax(1).gather(1, labels[:, None]).squeeze(1)
        divergence = adversarial_loss("kl", attacked, labels, reference=clean)
        loss = boosted_cross_entropy(attacked, labels) + self.spec.weight * divergence * missed
        return loss.mean(), attacked


def boosted_cross_entropy(logits, labels):
    """-log p_y - log(1 - max_{k != y} p_k) for logits [B, K] and labels [B]: [B]."""
    rival = logits.scatter(1, labels[:, None], float("-inf")).argmax(1, keepdim=True)
    # log(1 - p_rival) from the logits of the other classes: it stays finite where p_rival rounds to 1
    rest = logits.scatter(1, rival, float("-inf")).logsumexp(1) - logits.logsumexp(1)
    return F.cross_entropy(logits, labels, reduction="none") - rest


@losses.register(FreeAdversarial)
class FreeLoss(Loss):
    """Cross-entropy at the perturbed images (Shafahi et al. 2019, algorithm 1). The backward pass for the weights also
    leaves a gradient on the perturbation `delta`; the next call, or `state_dict`, moves `delta` by a step of eps along
    it. `delta` [B, C, H, W] starts at 0 and is carried over from batch to batch, whatever their images.
    """

    def __init__(self, spec):
        super().__init__(spec)
        self.replays, self.delta, self.box = spec.replays, None, spec.threat.box
        self.ball = replace(spec.threat, box=False)  # where delta lies; not delta but the perturbed image is clipped

    def __call__(self, net, batch, progress):
        images, delta = batch.images, self._stepped()
        if delta is None or delta.shape != images.shape:
            delta = torch.zeros_like(images)
        self.delta = delta.requires_grad_()
        perturbed = images + self.delta
        logits = net(perturbed.clamp(0, 1) if self.box else perturbed).float()
        return F.cross_entropy(logits, batch.labels), logits

    def _stepped(self):
        if self.delta is None or self.delta.grad is None:
            return self.delta
        delta, eps = self.delta.detach(), float(self.ball.eps)
        return project(step(delta, self.delta.grad, eps, self.ball), torch.zeros_like(delta), self.ball)

    def state_dict(self) -> dict:
        delta = self._stepped()
        return {"delta": None if delta is None else delta.detach()}

    def load_state_dict(self, state: dict) -> None:
        self.delta = state["delta"]
