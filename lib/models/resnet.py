"""CIFAR-style residual networks of basic blocks (He et al. 2016)."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn

from lib.architectures import ResNet
from lib.models.staged import Normalise, Staged, kaiming, pooled_linear


class EverySecond(nn.Module):
    """Every second pixel in both directions: [B, C, H, W] to [B, C, ceil(H / 2), ceil(W / 2)]."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :, ::2, ::2]


class BasicBlock(nn.Module):
    """relu2(bn2(conv2(relu1(bn1(conv1(x))))) + shortcut(x)), 3x3 convolutions, the first one with `stride` 1 or 2."""

    fold_pairs = (("conv1", "bn1"), ("conv2", "bn2"))  # for lib.models.fold: each BN takes what that convolution gives

    def __init__(self, channels_in: int, channels: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu2 = nn.ReLU()
        self.shortcut = nn.Identity() if stride == 1 and channels_in == channels else _shortcut(
            channels_in, channels, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.relu1(self.bn1(self.conv1(x)))
        return self.relu2(self.bn2(self.conv2(out)) + self.shortcut(x))


def _shortcut(channels_in: int, channels: int, stride: int) -> nn.Sequential:
    steps = OrderedDict()
    if stride == 2 and channels_in < 16:
        # Backward of a strided 1x1 convolution of few channels in channels_last corrupts the heap on AVX-512 CPUs with
        # several threads (seen with torch 2.13 to 2.15; none at 16 channels). This is the same function without it.
        steps["every_second"], stride = EverySecond(), 1
    steps["conv"] = nn.Conv2d(channels_in, channels, 1, stride, bias=False)
    steps["bn"] = nn.BatchNorm2d(channels)
    return nn.Sequential(steps)


def resnet(arch: ResNet, channels: int, classes: int) -> Staged:
    """The network of `arch` for images of `channels` channels; stage k > 1 starts with stride 2."""
    modules = {
        "normalise": Normalise(channels),
        "stem": nn.Sequential(nn.Conv2d(channels, arch.width, 3, 1, 1, bias=False), nn.BatchNorm2d(arch.width),
                              nn.ReLU()),
    }
    before = arch.width
    for k, blocks in enumerate(arch.blocks):
        width = arch.width * 2**k
        for b in range(blocks):
            modules[f"layer{k + 1}.{b}"] = BasicBlock(before, width, 2 if k > 0 and b == 0 else 1)
            before = width
    modules["head"] = pooled_linear(before, classes)
    return kaiming(Staged(modules))
