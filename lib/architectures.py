"""Architectures as values: what a network looks like, by its options and the names of its stages, without torch.

How they are built stands in lib/models.
"""

from __future__ import annotations

from dataclasses import dataclass

from lib.errors import is_int, need, unknown


@dataclass(frozen=True)
class ResNet:
    """CIFAR-style ResNet of basic blocks: 3x3 stem, stage k has `blocks[k]` blocks of `width * 2**k` channels.

    ResNet-18 is `ResNet(64, (2, 2, 2, 2))`. Stages after the first halve the image, so images need at least
    2**(stages - 1) pixels a side.
    """

    width: int = 64
    blocks: tuple[int, ...] = (2, 2, 2, 2)

    def __post_init__(self):
        object.__setattr__(
            self, "blocks", tuple(self.blocks) if isinstance(self.blocks, (list, tuple)) else self.blocks
        )
        need(is_int(self.width, 1), "arch.width", self.width, "a whole number of at least 1")
        need(
            isinstance(self.blocks, tuple) and 1 <= len(self.blocks) <= 6 and all(is_int(b, 1) for b in self.blocks),
            "arch.blocks",
            self.blocks,
            "1 to 6 whole numbers of at least 1",
        )

    @property
    def stages(self) -> tuple[str, ...]:
        return ("stem", *(f"layer{k + 1}.{b}" for k, n in enumerate(self.blocks) for b in range(n)), "head")

    @property
    def min_size(self) -> int:
        return 2 ** (len(self.blocks) - 1)


@dataclass(frozen=True)
class CNN:
    """A small plain network: 3x3 convolutions with BN and ReLU of `width * 2**k` channels, 2x2 max-pooling between.

    With width 64 and depth 4 the SimpleCNN of the stitching paper's code (64-128-256-512).
    """

    width: int = 16
    depth: int = 3

    def __post_init__(self):
        need(is_int(self.width, 1), "arch.width", self.width, "a whole number of at least 1")
        need(is_int(self.depth, 1) and self.depth <= 6, "arch.depth", self.depth, "a whole number from 1 to 6")

    @property
    def stages(self) -> tuple[str, ...]:
        return (*(f"conv{k + 1}" for k in range(self.depth)), "head")

    @property
    def min_size(self) -> int:
        return 2 ** (self.depth - 1)


@dataclass(frozen=True)
class VGG11:
    """VGG-11 of the stitching paper's code for 32 pixels and up: BN, ReLU, head 512-256-128-classes with dropout."""

    width: int = 64

    def __post_init__(self):
        need(is_int(self.width, 1), "arch.width", self.width, "a whole number of at least 1")

    @property
    def stages(self) -> tuple[str, ...]:
        return (*(f"conv{k + 1}" for k in range(8)), "head")

    @property
    def min_size(self) -> int:
        return 32


@dataclass(frozen=True)
class Stitch:
    """A stitched network: the parents' front up to and with stage `joint`, a 1x1 convolution with bias and a ReLU, the
    other parent's stages after `joint`. Parents: (front, end). Weights start as the parents', the joint as `init`.
    """

    joint: str
    init: str = "random"

    def __post_init__(self):
        if self.init not in ("random", "identity"):
            raise unknown("joint init", self.init, ("random", "identity"))


@dataclass(frozen=True)
class Probe:
    """A linear probe: the parent's front up to and with stage `joint`, global average pooling, one linear layer."""

    joint: str


Plain = ResNet | CNN | VGG11  # networks from scratch
Arch = Plain | Stitch | Probe
