"""Images made by following a classifier's gradients far towards a class, and whether another classifier sees that class
in them (the display of perceptually aligned gradients in Ganz et al. 2023; Santurkar et al. 2019).

Distances are l2 norms of pixels in [0, 1]; an image of 3 x 32 x 32 pixels can move by at most 55. For a network that
takes pixels in [-1, 1], the same move is twice as long. The paper's eps and step size are not known to us; a student's
notebook adapted from the authors' code has eps 30 and steps of 0.5, without saying in which unit.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lib.attacks.pgd import pgd
from lib.door import check_images, correct, in_own_state
from lib.errors import is_int, need
from lib.models.fold import prepared
from lib.values.attacks import PGD
from lib.values.threats import Threat


@in_own_state
def generate(net: nn.Module, images: Tensor, targets: Tensor, eps: float, steps: int, step_size: float,
             batch: int = 256) -> Tensor:
    """Move images [N, C, H, W] in [0, 1] towards their target classes (int64 [N]): targeted l2 PGD on cross-entropy
    against the network in eval mode, without a random start.

    eps, step_size: l2 lengths in pixels. Returns the last iterates, [N, C, H, W], within the ball of `eps` and the box
    [0, 1]. Raises SettingsError for another number of targets and impossible settings of the attack.
    """
    need(len(targets) == len(images), "number of targets", len(targets), f"the number of images, {len(images)}")
    need(is_int(batch, 1), "batch", batch, "a whole number of at least 1")
    threat = Threat("l2", eps)
    attack = PGD(steps, step_size, random_start=False, targeted=True)
    check_images(images)
    net = prepared(net, images, targets)
    parts = zip(images.split(batch), targets.split(batch), strict=True)
    return torch.cat([pgd(net, x, t, threat, attack, targets=t) for x, t in parts])


def grid(net: nn.Module, images: Tensor, classes: Sequence[int], eps: float, steps: int, step_size: float,
         batch: int = 256) -> Tensor:
    """Move each image [n, C, H, W] towards each of `classes`, its own class included, by `generate`: [n, classes, C, H,
    W] in [0, 1]. Raises SettingsError for no classes, and as `generate` does.
    """
    need(len(classes) > 0, "number of classes", len(classes), "at least 1")
    targets = torch.tensor(list(classes), device=images.device).repeat(len(images))
    moved = generate(net, images.repeat_interleave(len(classes), 0), targets, eps, steps, step_size, batch)
    return moved.unflatten(0, (len(images), len(classes)))


@in_own_state
@torch.no_grad()
def target_rate(judge: nn.Module, images: Tensor, targets: Tensor, batch: int = 256) -> Tensor:
    """Whether `judge`, a robust classifier that was not used to make the images [N, C, H, W], assigns them to their
    target classes (int64 [N]): bool [N], whose mean is the rate.

    Leave out images whose own class is the target, which need no move. Raises SettingsError for another number of
    targets.
    """
    need(len(targets) == len(images), "number of targets", len(targets), f"that of the images, {len(images)}")
    check_images(images)
    judge = prepared(judge, images, targets)
    return torch.cat([correct(judge(x), t) for x, t in zip(images.split(batch), targets.split(batch), strict=True)])
