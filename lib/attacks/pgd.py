"""Projected gradient descent as training uses it (Madry et al. 2018, eq. 2), and the losses that attacks maximise."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.attacks.core import ascend, perturbed
from lib.errors import need, unknown
from lib.modes import frozen
from lib.runtime import autocast, rounding
from lib.values.attacks import LOSSES, PGD
from lib.values.threats import Threat


def _margin(logits: Tensor, classes: Tensor) -> Tensor:
    """The largest logit of the other classes minus the logit of `classes`, [B]: positive where another class wins."""
    others = logits.scatter(1, classes[:, None], float("-inf"))
    return others.amax(1) - logits.gather(1, classes[:, None]).squeeze(1)


def adversarial_loss(name: str, logits: Tensor, labels: Tensor, targets: Tensor | None = None,
                     reference: Tensor | None = None, confidence: float | None = None) -> Tensor:
    """The loss that the attack maximises, per image: logits [B, K] and labels [B] -> [B].

    ce: cross-entropy. cw: the margin max_{i != y} z_i - z_y, at most `confidence` if one is given. dlr: the difference
    of logits ratio, the margin divided by z_(1) - z_(3) (Croce & Hein 2020, eq. 6). kl: KL(softmax(reference) ||
    softmax(logits)) with the clean logits as `reference` [B, K]. With `targets` [B] the loss is large near the target
    class: -ce and -cw of the target, and the targeted DLR (their eq. 7).

    Raises SettingsError for an unknown name, for DLR with fewer than 3 classes (targeted: 4), and for a targeted kl.
    """
    if name == "dlr":
        fewest = 3 if targets is None else 4
        need(logits.shape[1] >= fewest, "number of classes", logits.shape[1], f"at least {fewest} for the DLR loss")
        top = logits.topk(fewest, dim=1).values
        if targets is None:
            return _margin(logits, labels) / (top[:, 0] - top[:, 2] + 1e-12)
        gap = logits.gather(1, targets[:, None]) - logits.gather(1, labels[:, None])
        return gap.squeeze(1) / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2 + 1e-12)
    sign, classes = (1, labels) if targets is None else (-1, targets)
    if name == "ce":
        return sign * F.cross_entropy(logits, classes, reduction="none")
    if name == "cw":
        margin = sign * _margin(logits, classes)
        return margin if confidence is None else margin.clamp(max=confidence)
    if name == "kl":
        need(targets is None, "attack.targeted", True, "false for the loss kl, which has no class to aim at")
        return F.kl_div(logits.log_softmax(1), reference.log_softmax(1), reduction="none", log_target=True).sum(1)
    raise unknown("attack loss", name, LOSSES)


def input_gradient(net: nn.Module, x: Tensor, loss: Callable[[Tensor], Tensor],
                   precision: str = "fp32") -> tuple[Tensor, Tensor, Tensor]:
    """fp32 logits [B, K], loss per image [B] and its gradient [B, C, H, W] at the images `x` [B, C, H, W]; `loss` maps
    logits to [B].

    Losses are summed, not averaged, so the size of the batch does not scale an image's gradient. Entries that are not
    finite become zero: a step along NaN would destroy the image.
    """
    x = x.detach().requires_grad_()
    with torch.enable_grad(), rounding(precision):
        with autocast(x.device, precision):
            logits = net(x)
        logits = logits.float()
        values = loss(logits)
        grad, = torch.autograd.grad(values.sum(), x)
    return logits.detach(), values.detach(), torch.nan_to_num(grad, nan=0.0, posinf=0.0, neginf=0.0)


def pgd(net: nn.Module, images: Tensor, labels: Tensor, threat: Threat, attack: PGD,
        generator: torch.Generator | None = None, noise: Tensor | dict[str, Tensor] | None = None,
        targets: Tensor | None = None, precision: str = "fp32", path: list[Tensor] | None = None) -> Tensor:
    """The last iterate of `attack` on images [B, C, H, W] in [0, 1] with labels [B]: detached, of the same shape, dtype
    and layout. A targeted attack with a large eps generates images of the target classes.

    Uses the network in its current mode (see lib/modes.py) and forms no gradient for its weights. A random start needs
    `noise` (in units of eps, [B, C, H, W], as `start_noise` gives; for a perceptual threat a scene, as
    `perceptual.draw` gives) or a `generator` to draw it from. A targeted attack needs `targets` [B]. The images at
    which gradients were taken are appended to `path`.

    Raises SettingsError when noise or targets are missing, for restarts (only one last iterate is returned), and for an
    attack that cannot search within the threat.
    """
    attack.check(threat)
    given, drawn = targets is not None, noise is not None or generator is not None
    need(attack.restarts == 1, "attack.restarts", attack.restarts, "1 to return one adversarial image per image")
    need(attack.targeted == given, "attack.targeted", attack.targeted, "true exactly when targets are given")
    need(drawn or not attack.random_start, "attack.random_start", True, "false without noise or a generator")
    if threat.perceptual:
        in_pixels = isinstance(noise, Tensor)
        need(not in_pixels, "threat.norm", threat.norm, "a norm of pixels if the start is given in pixels")
    x = images.detach()
    if threat.eps == 0:
        return x.clone()
    with frozen(net):
        reference = None
        if attack.loss == "kl":
            with torch.no_grad(), autocast(x.device, precision):
                reference = net(x).float()

        def loss(logits: Tensor) -> Tensor:
            return adversarial_loss(attack.loss, logits, labels, targets, reference, attack.confidence)

        def gradient(shown: Tensor) -> tuple[Tensor, None]:
            if path is not None:
                path.append(shown)
            return input_gradient(net, shown, loss, precision)[2], None

        moved = perturbed(x, threat)
        # training calls this inside autocast, and scenes need fp32
        with torch.autocast(x.device.type, enabled=False) if threat.perceptual else contextlib.nullcontext():
            if noise is None and attack.random_start:
                noise = moved.draw(generator)
            x_adv = ascend(moved, moved.start(noise if attack.random_start else None), gradient, attack)
    return x_adv.clone() if x_adv is x else x_adv
