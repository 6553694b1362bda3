"""Residual networks: CIFAR-style and ImageNet-style (He et al. 2016a), pre-activation and wide ones (He et al. 2016b,
Zagoruyko & Komodakis 2016).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from torch import nn

from lib.models.building import builders
from lib.models.staged import Normalise, Staged, kaiming, pooled_linear
from lib.values.architectures import ImageNetResNet, PreActResNet, ResNet, WideResNet


class EverySecond(nn.Module):
    """Keeps every second pixel in both directions: [B, C, H, W] to [B, C, ceil(H / 2), ceil(W / 2)]."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :, ::2, ::2]


class BasicBlock(nn.Module):
    """relu2(bn2(conv2(relu1(bn1(conv1(x))))) + shortcut(x)), 3x3 convolutions, the first one with `stride` 1 or 2."""

    fold_pairs = (("conv1", "bn1"), ("conv2", "bn2"))  # for lib.models.fold: (convolution, the BN after it)

    def __init__(self, channels_in: int, channels: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu2 = nn.ReLU()
        self.shortcut = _shortcut(channels_in, channels, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.relu1(self.bn1(self.conv1(x)))
        return self.relu2(self.bn2(self.conv2(out)) + self.shortcut(x))


class Bottleneck(nn.Module):
    """BasicBlock's pattern with three convolutions, 1x1, 3x3 (with the `stride`) and 1x1; the first two have a quarter
    of the channels.
    """

    fold_pairs = (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3"))

    def __init__(self, channels_in: int, channels: int, stride: int):
        super().__init__()
        inner = channels // 4
        self.conv1 = nn.Conv2d(channels_in, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.relu2 = nn.ReLU()
        self.conv3 = nn.Conv2d(inner, channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)
        self.relu3 = nn.ReLU()
        self.shortcut = _shortcut(channels_in, channels, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.relu2(self.bn2(self.conv2(out)))
        return self.relu3(self.bn3(self.conv3(out)) + self.shortcut(x))


class PreActBlock(nn.Module):
    """conv2(relu2(bn2(conv1(a)))) + x with a = relu1(bn1(x)), 3x3 convolutions, the first one with `stride` 1 or 2;
    where size or channels change, a 1x1 convolution of a replaces x.
    """

    fold_pairs = (("conv1", "bn2"),)

    def __init__(self, channels_in: int, channels: int, stride: int):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu2 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        changes = stride == 2 or channels_in != channels
        self.shortcut = nn.Sequential(_pointwise(channels_in, channels, stride)) if changes else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        active = self.relu1(self.bn1(x))
        out = self.conv2(self.relu2(self.bn2(self.conv1(active))))
        return out + (x if self.shortcut is None else self.shortcut(active))


def _pointwise(channels_in: int, channels: int, stride: int) -> OrderedDict[str, nn.Module]:
    """`conv`, a 1x1 convolution, in a form that is safe on every CPU."""
    steps = OrderedDict()
    if stride == 2 and channels_in < 16:
        # The backward pass of a strided 1x1 convolution of few channels in channels_last corrupts the heap on AVX-512
        # CPUs with several threads (seen with torch 2.13 to 2.15; never at 16 channels). This computes the same.
        steps["every_second"], stride = EverySecond(), 1
    steps["conv"] = nn.Conv2d(channels_in, channels, 1, stride, bias=False)
    return steps


def _shortcut(channels_in: int, channels: int, stride: int) -> nn.Module:
    if stride == 1 and channels_in == channels:
        return nn.Identity()
    steps = _pointwise(channels_in, channels, stride)
    steps["bn"] = nn.BatchNorm2d(channels)
    return nn.Sequential(steps)


def _layers(block: Callable[..., nn.Module], before: int, widths: Sequence[int],
            counts: Sequence[int]) -> dict[str, nn.Module]:
    """`layer1.0`, `layer1.1`, ...: stage k has `counts[k]` blocks with `widths[k]` output channels; every stage but the
    first starts with stride 2. The first block takes `before` channels.
    """
    modules = {}
    for k, (width, count) in enumerate(zip(widths, counts, strict=True)):
        for b in range(count):
            modules[f"layer{k + 1}.{b}"] = block(before, width, 2 if k > 0 and b == 0 else 1)
            before = width
    return modules


@builders.register(ResNet)
def resnet(arch: ResNet, shape: tuple[int, int, int], classes: int) -> Staged:
    """The network of `arch` for images of `shape`; every stage but the first starts with stride 2."""
    channels, widths = shape[0], [arch.width * 2**k for k in range(len(arch.blocks))]
    stem = nn.Sequential(nn.Conv2d(channels, arch.width, 3, 1, 1, bias=False), nn.BatchNorm2d(arch.width), nn.ReLU())
    layers = _layers(BasicBlock, arch.width, widths, arch.blocks)
    head = pooled_linear(widths[-1], classes)
    return kaiming(Staged({"normalise": Normalise(channels), "stem": stem, **layers, "head": head}))


@builders.register(ImageNetResNet)
def imagenet_resnet(arch: ImageNetResNet, shape: tuple[int, int, int], classes: int) -> Staged:
    """torchvision's resnet18 or resnet50 for images of `shape`, with a separate ReLU module, not in place, for each
    use.
    """
    channels, width = shape[0], arch.width
    stem = nn.Sequential(nn.Conv2d(channels, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
                         nn.MaxPool2d(3, 2, 1))
    block, expansion = (BasicBlock, 1) if arch.depth == 18 else (Bottleneck, 4)
    widths = [expansion * width * 2**k for k in range(4)]
    layers = _layers(block, width, widths, arch.blocks)
    head = pooled_linear(widths[-1], classes)
    return kaiming(Staged({"normalise": Normalise(channels), "stem": stem, **layers, "head": head}))


@builders.register(PreActResNet)
def preact_resnet(arch: PreActResNet, shape: tuple[int, int, int], classes: int) -> Staged:
    """The network of `arch` for images of `shape`, with BN and ReLU before the pooling."""
    return _preact(shape[0], arch.width, [arch.width * 2**k for k in range(len(arch.blocks))], arch.blocks, classes)


@builders.register(WideResNet)
def wide_resnet(arch: WideResNet, shape: tuple[int, int, int], classes: int) -> Staged:
    """The network of `arch` for images of `shape`. The outputs of its convolutions, BNs, ReLUs, pooling and linear
    layer, in the order of computation, are the layers in the similarity paper's code: 80 for WRN-28-k, and 79 for
    WRN-28-1, whose first stage keeps the stem's 16 channels and so needs no 1x1 convolution.
    """
    return _preact(shape[0], 16, [16 * arch.widen * 2**k for k in range(3)], arch.blocks, classes)


def _preact(channels: int, stem: int, widths: Sequence[int], counts: Sequence[int], classes: int) -> Staged:
    modules = {
        "normalise": Normalise(channels),
        "stem": nn.Conv2d(channels, stem, 3, 1, 1, bias=False),
        **_layers(PreActBlock, stem, widths, counts),
        "head": nn.Sequential(nn.BatchNorm2d(widths[-1]), nn.ReLU(), *pooled_linear(widths[-1], classes)),
    }
    return kaiming(Staged(modules))
