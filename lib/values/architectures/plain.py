"""Architectures of networks that are trained from scratch, as values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from lib.errors import is_int, need
from lib.values.architectures.base import Architecture
from lib.values.declared import Bound, Count, OneOf, length, whole
from lib.values.keys import later


class FromScratch(Architecture):
    """Classifiers that are trained from scratch: the architectures that profiles can name."""


Activation = Annotated[str, OneOf(("relu", "softplus"))]


def _smooth(arch) -> str:
    return "" if arch.rectified else f"-{arch.activation}"


def _narrow(width: int) -> str:
    return "" if width == 64 else f"-w{width}"


class _Residual(FromScratch):
    """Architectures with `blocks[k]` residual blocks in stage k."""

    @property
    def stages(self) -> tuple[str, ...]:
        return ("stem", *(f"layer{k + 1}.{b}" for k, n in enumerate(self.blocks) for b in range(n)), "head")


class _Tokens(FromScratch):
    """Architectures of `depth` blocks on the patches of images of one size."""

    rectified = False
    any_size = False
    channels = False
    joints = ()

    @property
    def stages(self) -> tuple[str, ...]:
        return ("stem", *(f"block{k + 1}" for k in range(self.depth)), "head")


@dataclass(frozen=True)
class ResNet(_Residual):
    """A CIFAR-style ResNet: a 3x3 stem followed by basic blocks.

    ResNet-18 is `ResNet(64, (2, 2, 2, 2))`. Stages after the first halve the image, so images need at least
    2**(stages - 1) pixels a side.
    """

    width: Count = 64  # channels of the first stage; each further stage has twice as many
    blocks: Annotated[tuple[Count, ...], length(1, 6)] = (2, 2, 2, 2)  # residual blocks of each stage

    reads_files = True

    @property
    def name(self) -> str:
        return f"ResNet-{2 * sum(self.blocks) + 2}" + _narrow(self.width)

    @property
    def min_size(self) -> int:
        return 2 ** (len(self.blocks) - 1)


@dataclass(frozen=True)
class PreActResNet(ResNet):
    """A ResNet with BN and ReLU before each convolution (He et al. 2016b): a stage gives the sum of its block, which is
    not rectified. `PreActResNet(64, (2, 2, 2, 2))` is PreActResNet-18.
    """

    rectified = False
    reads_files = False

    @property
    def name(self) -> str:
        return "PreAct" + super().name


WIDE = Bound(lambda depth: is_int(depth, 10) and depth % 6 == 4,
             "6 n + 4 for a whole number n of at least 1 (10, 16, 28, 34, ...)")


@dataclass(frozen=True)
class WideResNet(_Residual):
    """WRN-depth-widen (Zagoruyko & Komodakis 2016) without dropout: a stem of 16 channels, three stages of
    (depth - 4) / 6 pre-activation blocks with 16, 32 and 64 times `widen` channels.
    """

    depth: Annotated[int, WIDE] = 28  # the number of layers
    widen: Count = 10  # the factor that multiplies the 16, 32 and 64 channels of the three stages

    rectified = False
    min_size = 4

    @property
    def name(self) -> str:
        return f"WRN-{self.depth}-{self.widen}"

    @property
    def blocks(self) -> tuple[int, ...]:
        return ((self.depth - 4) // 6,) * 3


@dataclass(frozen=True)
class ImageNetResNet(_Residual):
    """ResNet-18 or ResNet-50 as in torchvision, for images of 64 to 224 pixels: a 7x7 stem that halves the image twice;
    ResNet-50 has bottlenecks with the stride in their 3x3 convolution.
    """

    depth: Annotated[int, Bound(lambda depth: depth in (18, 50), "18 or 50")] = 18  # the number of layers
    width: Count = 64  # channels of the first stage

    min_size = 32
    reads_files = True

    @property
    def name(self) -> str:
        return f"ImageNet ResNet-{self.depth}" + _narrow(self.width)

    @property
    def blocks(self) -> tuple[int, ...]:
        return (2, 2, 2, 2) if self.depth == 18 else (3, 4, 6, 3)


@dataclass(frozen=True)
class CNN(FromScratch):
    """A small plain network: 3x3 convolutions with BN and an activation, and 2x2 max-pooling between them.

    With width 64 and depth 4 it is the SimpleCNN of the stitching paper's code (64-128-256-512).
    """

    width: Count = 16  # channels of the first convolution; each further convolution has twice as many
    depth: Annotated[int, whole(1, 6)] = 3  # the number of convolutions
    activation: Activation = later("relu")  # relu, or softplus with beta 5

    @property
    def name(self) -> str:
        return f"CNN-{self.depth}-w{self.width}{_smooth(self)}"

    @property
    def rectified(self) -> bool:
        return self.activation == "relu"

    @property
    def stages(self) -> tuple[str, ...]:
        return (*(f"conv{k + 1}" for k in range(self.depth)), "head")

    @property
    def min_size(self) -> int:
        return 2 ** (self.depth - 1)


@dataclass(frozen=True)
class VGG11(FromScratch):
    """VGG-11 of the stitching paper's code: BN, ReLU, head 512-256-128-classes with dropout; 32 pixels or more."""

    width: Count = 64  # channels of the first convolution

    min_size = 32

    @property
    def name(self) -> str:
        return "VGG-11" + _narrow(self.width)

    @property
    def stages(self) -> tuple[str, ...]:
        return (*(f"conv{k + 1}" for k in range(8)), "head")


@dataclass(frozen=True)
class VGG16(FromScratch):
    """VGG-16 with BN of the two pruning papers: 13 convolutions without bias, pooled to 2x2, head 2048-256-256-classes
    at width 64; all but the head's output scale with `width`.
    """

    width: Count = 64  # channels of the first convolution

    min_size = 16

    @property
    def name(self) -> str:
        return "VGG-16" + _narrow(self.width)

    @property
    def stages(self) -> tuple[str, ...]:
        return (*(f"conv{k + 1}" for k in range(13)), "head")


@dataclass(frozen=True)
class CNNSmall(FromScratch):
    """CNN-small of certified training (Wong & Kolter 2018): convolutions 16 4x4/2, 32 4x4/2, linear 100; no BN."""

    any_size = False
    min_size = 4
    name = "CNN-small"
    stages = ("conv1", "conv2", "linear1", "head")
    joints = ("conv1", "conv2")


@dataclass(frozen=True)
class CNNLarge(FromScratch):
    """CNN-large of certified training: convolutions 32 3x3, 32 4x4/2, 64 3x3, 64 4x4/2, linear 512, 512; no BN."""

    any_size = False
    min_size = 4
    name = "CNN-large"
    stages = ("conv1", "conv2", "conv3", "conv4", "linear1", "linear2", "head")
    joints = ("conv1", "conv2", "conv3", "conv4")


@dataclass(frozen=True)
class MLP(FromScratch):
    """A multi-layer perceptron on all pixels: hidden layers, then a linear head."""

    widths: Annotated[tuple[Count, ...], length(1, 10)] = (256, 256)  # units of each hidden layer
    activation: Activation = later("relu")  # relu, or softplus with beta 5

    any_size = False
    joints = ()

    @property
    def name(self) -> str:
        return f"{'-'.join(['MLP', *map(str, self.widths)])}{_smooth(self)}"

    @property
    def rectified(self) -> bool:
        return self.activation == "relu"

    @property
    def stages(self) -> tuple[str, ...]:
        return (*(f"linear{k + 1}" for k in range(len(self.widths))), "head")


@dataclass(frozen=True)
class ViT(_Tokens):
    """The vision transformer of the perceptually aligned gradients paper: a class token, learned positions, no
    dropout.
    """

    width: Count = 384  # units per token
    depth: Count = 7  # the number of blocks
    heads: Count = 12  # attention heads per block, a divisor of the width
    mlp: Count = 384  # hidden units of the MLP of each block
    patch: Count = 4  # the side in pixels of the patch of a token

    def check_together(self):
        need(self.width % self.heads == 0, "arch.heads", self.heads, f"a divisor of the width {self.width}")

    @property
    def name(self) -> str:
        return f"ViT-{self.depth}-{self.width}/{self.patch}"


@dataclass(frozen=True)
class Mixer(_Tokens):
    """MLP-Mixer (Tolstikhin et al. 2021) without dropout: each block is an MLP over the patches, then one over the
    channels. The defaults are the options of Mixer-nano for CIFAR-10.
    """

    width: Count = 128  # channels per patch
    depth: Count = 8  # the number of blocks
    token_mlp: Count = 64  # hidden units of the MLP over the patches
    channel_mlp: Count = 512  # hidden units of the MLP over the channels
    patch: Count = 4  # the side of a patch in pixels

    @property
    def name(self) -> str:
        return f"Mixer-{self.depth}-{self.width}/{self.patch}"
