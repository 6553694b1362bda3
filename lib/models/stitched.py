"""Networks made from trained ones: two halves joined by a 1x1 convolution, and linear probes."""

from __future__ import annotations

import copy

import torch
from torch import nn

from lib.errors import need, unknown
from lib.models.staged import Staged, dry_run, pooled_linear


class Stitched(nn.Module):
    """h = g2(ReLU(T(f1(x)))) of Balogh & Jelasity (2023): front f1, joint (T, ReLU), back g2.

    T is a 1x1 convolution with bias. It takes the front's activations [B, C_front, H, W] and gives [B, C_end, H, W]; a
    ReLU follows it, as in the paper's code (there by way of an in-place activation), unless the end takes activations
    that are not `rectified` (pre-activation networks). Images [B, C, H, W] in [0, 1] to logits [B, classes of the end].
    The halves are used as given, not copied.
    """

    def __init__(self, front: nn.Sequential, transform: nn.Conv2d, back: nn.Sequential, rectified: bool = True):
        super().__init__()
        self.front = front
        self.joint = nn.Sequential(transform, nn.ReLU()) if rectified else nn.Sequential(transform)
        self.back = back

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.back(self.joint(self.front(images)))


class Probe(nn.Module):
    """A linear probe: `front`, then `head`, which is global average pooling and one linear layer."""

    def __init__(self, front: nn.Sequential, head: nn.Sequential):
        super().__init__()
        self.front = front
        self.head = head

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.front(images))


def stitch(front: Staged, end: Staged, joint: str, init: str, image_shape: tuple[int, int, int],
           rectified: bool = True) -> Stitched:
    """Copies of `front` up to and with stage `joint` and of `end` after it, joined for images of shape [C, H, W];
    `rectified` says whether stages of `end` take what comes out of a ReLU.

    init `random` is torch's default for convolutions, `identity` the identity matrix and a zero bias. Channel counts
    may differ (not for `identity`), sizes may not: `SettingsError`.
    """
    if init not in ("random", "identity"):
        raise unknown("joint init", init, ("random", "identity"))
    first, target = front.front(joint), end.front(joint)
    _, given, *size = dry_run(first, image_shape).shape
    _, wanted, *size_wanted = dry_run(target, image_shape).shape
    need(size == size_wanted, "joint", joint,
         f"a stage of equal size in both networks (the front gives {_by(size)}, the end expects {_by(size_wanted)})")
    need(init == "random" or given == wanted, "joint init", init,
         f"random where channel counts differ ({given} to {wanted} at {joint})")
    transform = nn.Conv2d(given, wanted, 1)
    if init == "identity":
        nn.init.dirac_(transform.weight)
        nn.init.zeros_(transform.bias)
    return Stitched(copy.deepcopy(first), transform, copy.deepcopy(end.back(joint)), rectified)


def probe(parent: Staged, joint: str, classes: int, image_shape: tuple[int, int, int]) -> Probe:
    """A copy of `parent` up to and with stage `joint` and a fresh linear head for `classes` classes."""
    front = parent.front(joint)
    return Probe(copy.deepcopy(front), pooled_linear(dry_run(front, image_shape).shape[1], classes))


def _by(size) -> str:
    return "x".join(str(n) for n in size)
