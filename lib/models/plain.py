"""Plain convolutional networks: the small CNN and VGG-11 of the stitching paper's code.

A stage ends with its ReLU and a pooling belongs to the start of the next one, so that what leaves a stage is a
rectified activation at the stage's own resolution (the paper's joints).
"""

from __future__ import annotations

from torch import nn

from lib.architectures import CNN, VGG11
from lib.models.staged import Normalise, Staged, kaiming, pooled_linear


def _convolutions(channels: int, widths: list[int], pool_before: set[int], bias: bool) -> dict[str, nn.Module]:
    """`conv1`, `conv2`, ...: [2x2 max-pooling,] 3x3 convolution, BN, ReLU; pooling before the positions given."""
    stages = {}
    for k, width in enumerate(widths):
        pool = [nn.MaxPool2d(2)] if k in pool_before else []
        conv = nn.Conv2d(channels, width, 3, padding=1, bias=bias)
        stages[f"conv{k + 1}"] = nn.Sequential(*pool, conv, nn.BatchNorm2d(width), nn.ReLU())
        channels = width
    return stages


def cnn(arch: CNN, channels: int, classes: int) -> Staged:
    """The network of `arch`; the head pools globally, so any size from `arch.min_size` on will do."""
    widths = [arch.width * 2**k for k in range(arch.depth)]
    stages = _convolutions(channels, widths, set(range(1, arch.depth)), bias=False)
    return kaiming(Staged({"normalise": Normalise(channels), **stages, "head": pooled_linear(widths[-1], classes)}))


def vgg11(arch: VGG11, channels: int, classes: int) -> Staged:
    """VGG-11 (Simonyan & Zisserman 2015) with BN: 32 pixels come down to 1x1 in front of the linear layers, larger
    images are averaged there. Dropout draws from torch's global generator while the network is in train mode.
    """
    w = arch.width
    stages = _convolutions(channels, [w, 2 * w, 4 * w, 4 * w, 8 * w, 8 * w, 8 * w, 8 * w], {1, 2, 4, 6}, bias=True)
    head = nn.Sequential(
        nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8 * w, 4 * w), nn.ReLU(), nn.Dropout(0.5),
        nn.Linear(4 * w, 2 * w), nn.ReLU(), nn.Dropout(0.5),
        nn.Linear(2 * w, classes),
    )
    return kaiming(Staged({"normalise": Normalise(channels), **stages, "head": head}))
