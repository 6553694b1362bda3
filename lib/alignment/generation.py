"""Images made by following a classifier's gradients far towards a class, and who else sees that class in them (Ganz et
al. 2023, the display of perceptually aligned gradients; Santurkar et al. 2019).

Distances are l2 norms in pixels of [0, 1]; an image of 3 x 32 x 32 can move by at most 55. Of networks that take pixels
in [-1, 1], the same move has twice the length. The paper's own eps and steps are not known; a notebook that goes back
to its code has 30 and steps of 0.5, without saying in which unit.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lib.attacks.pgd import pgd
from lib.errors import is_int, need
from lib.models import folded
from lib.values.attacks import PGD
from lib.values.threats import Threat


def generate(net: nn.Module, images: Tensor, targets: Tensor, eps: float, steps: int, step_size: float,
             batch: int = 256) -> Tensor:
    """Images [N, C, H, W] moved towards their target classes (int64 [N]): the last iterates of targeted PGD on
    cross-entropy within the l2 ball of `eps` and the box [0, 1], without a random start, of the network in eval mode.
    """
    need(len(targets) == len(images), "number of targets", len(targets), f"that of the images, {len(images)}")
    need(is_int(batch, 1), "batch", batch, "a whole number of at least 1")
    threat = Threat("l2", eps)
    attack = PGD(steps, step_size, random_start=False, targeted=True)
    net = folded(net)
    parts = zip(images.split(batch), targets.split(batch), strict=True)
    return torch.cat([pgd(net, x, t, threat, attack, targets=t) for x, t in parts])


def grid(net: nn.Module, images: Tensor, classes: Sequence[int], eps: float, steps: int, step_size: float,
         batch: int = 256) -> Tensor:
    """Each image [n, C, H, W] moved towards each class: [n, classes, C, H, W], as `generate`; its own class too."""
    need(len(classes) > 0, "number of classes", len(classes), "at least 1")
    targets = torch.tensor(list(classes), device=images.device).repeat(len(images))
    moved = generate(net, images.repeat_interleave(len(classes), 0), targets, eps, steps, step_size, batch)
    return moved.unflatten(0, (len(images), len(classes)))


@torch.no_grad()
def target_rate(judge: nn.Module, images: Tensor, targets: Tensor, batch: int = 256) -> Tensor:
    """Whether `judge`, a robust classifier that had no part in making the images [N, C, H, W], sees their target
    classes (int64 [N]) in them: bool [N], whose mean is the rate.

    Count images whose own class is not the target: the others are seen correctly without any move.
    """
    need(len(targets) == len(images), "number of targets", len(targets), f"that of the images, {len(images)}")
    judge = folded(judge)
    return torch.cat([judge(x) for x in images.split(batch)]).argmax(1) == targets
