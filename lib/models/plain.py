"""Plain networks: the small CNN and VGG-11 of the stitching paper's code, VGG-16 and the BN-free CNNs of the pruning
papers, and the multi-layer perceptron.

A stage ends with its ReLU, and a pooling belongs to the start of the next stage, so the output of a stage is a
rectified activation at the stage's own resolution (the joints of the stitching paper's code).
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable

from torch import nn

from lib.models.building import builders
from lib.models.staged import Normalise, Staged, kaiming, pooled_linear
from lib.values.architectures import CNN, MLP, VGG11, VGG16, CNNLarge, CNNSmall


def _convolutions(channels: int, widths: list[int], pool_before: set[int], bias: bool,
                  active: Callable[[], nn.Module] = nn.ReLU) -> dict[str, nn.Module]:
    """`conv1`, `conv2`, ...: [2x2 max-pooling,] 3x3 convolution, BN, activation; pooling at the positions
    `pool_before`.
    """
    stages = {}
    for k, width in enumerate(widths):
        pool = [nn.MaxPool2d(2)] if k in pool_before else []
        conv = nn.Conv2d(channels, width, 3, padding=1, bias=bias)
        stages[f"conv{k + 1}"] = nn.Sequential(*pool, conv, nn.BatchNorm2d(width), active())
        channels = width
    return stages


@builders.register(CNN)
def cnn(arch: CNN, shape: tuple[int, int, int], classes: int) -> Staged:
    """The network of `arch` for images of `shape`; the head pools globally, so any size from `arch.min_size` works."""
    channels, widths = shape[0], [arch.width * 2**k for k in range(arch.depth)]
    stages = _convolutions(channels, widths, set(range(1, arch.depth)), bias=False, active=_activation(arch))
    return kaiming(Staged({"normalise": Normalise(channels), **stages, "head": pooled_linear(widths[-1], classes)}))


@builders.register(VGG11)
def vgg11(arch: VGG11, shape: tuple[int, int, int], classes: int) -> Staged:
    """VGG-11 (Simonyan & Zisserman 2015) with BN: images of 32 pixels are reduced to 1x1 before the linear layers,
    larger ones are averaged to 1x1. In train mode dropout draws from torch's global generator.
    """
    channels, w = shape[0], arch.width
    stages = _convolutions(channels, [w, 2 * w, 4 * w, 4 * w, 8 * w, 8 * w, 8 * w, 8 * w], {1, 2, 4, 6}, bias=True)
    head = nn.Sequential(
        nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8 * w, 4 * w), nn.ReLU(), nn.Dropout(0.5),
        nn.Linear(4 * w, 2 * w), nn.ReLU(), nn.Dropout(0.5),
        nn.Linear(2 * w, classes),
    )
    return kaiming(Staged({"normalise": Normalise(channels), **stages, "head": head}))


@builders.register(VGG16)
def vgg16(arch: VGG16, shape: tuple[int, int, int], classes: int) -> Staged:
    """VGG-16 with BN as in the code of HYDRA and HARP: images of 32 pixels are reduced to 2x2 before the linear layers,
    other sizes are averaged to 2x2.
    """
    channels, w = shape[0], arch.width
    widths = [w] * 2 + [2 * w] * 2 + [4 * w] * 3 + [8 * w] * 6
    stages = _convolutions(channels, widths, {2, 4, 7, 10}, bias=False)
    head = nn.Sequential(
        nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Linear(32 * w, 4 * w), nn.ReLU(),
        nn.Linear(4 * w, 4 * w), nn.ReLU(),
        nn.Linear(4 * w, classes),
    )
    return kaiming(Staged({"normalise": Normalise(channels), **stages, "head": head}))


@builders.register(CNNSmall)
def cnn_small(arch: CNNSmall, shape: tuple[int, int, int], classes: int) -> Staged:
    """CNN-small for images of `shape`; at 32 pixels, 2,048 features enter the linear layers."""
    return _strided(shape, [(16, 2), (32, 2)], [100], classes)


@builders.register(CNNLarge)
def cnn_large(arch: CNNLarge, shape: tuple[int, int, int], classes: int) -> Staged:
    """CNN-large for images of `shape`; at 32 pixels, 4,096 features enter the linear layers."""
    return _strided(shape, [(32, 1), (32, 2), (64, 1), (64, 2)], [512, 512], classes)


def _strided(shape: tuple[int, int, int], convolutions: list[tuple[int, int]], hidden: list[int],
             classes: int) -> Staged:
    """A network of convolutions, each (channels, stride), 3x3 at stride 1 and 4x4 at stride 2, then linear layers of
    `hidden` units, all with biases and without BN.
    """
    channels, height, width = shape
    modules = {"normalise": Normalise(channels)}
    for k, (out, stride) in enumerate(convolutions):
        modules[f"conv{k + 1}"] = nn.Sequential(nn.Conv2d(channels, out, 2 + stride, stride, 1), nn.ReLU())
        channels, height, width = out, height // stride, width // stride
    return kaiming(Staged(modules | _linear([channels * height * width, *hidden], classes)))


@builders.register(MLP)
def mlp(arch: MLP, shape: tuple[int, int, int], classes: int) -> Staged:
    """The network of `arch` for images of `shape`."""
    layers = _linear([math.prod(shape), *arch.widths], classes, _activation(arch))
    return Staged({"normalise": Normalise(shape[0]), **layers})


def _activation(arch: CNN | MLP) -> Callable[[], nn.Module]:
    return nn.ReLU if arch.rectified else functools.partial(nn.Softplus, beta=5)


def _linear(widths: list[int], classes: int, active: Callable[[], nn.Module] = nn.ReLU) -> dict[str, nn.Module]:
    """`linear1`, `linear2`, ..., `head`: linear layers on flattened images or maps, activations between them."""
    stages = {f"linear{k + 1}": nn.Sequential(nn.Linear(before, after), active())
              for k, (before, after) in enumerate(itertools.pairwise(widths))}
    stages["linear1"].insert(0, nn.Flatten())
    return {**stages, "head": nn.Linear(widths[-1], classes)}
