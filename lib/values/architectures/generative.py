"""Networks that give images instead of classes, as values: denoisers, which give scores, and auto-encoders."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from lib.errors import is_int, need
from lib.values.architectures.base import Architecture
from lib.values.declared import Bound, Count, length


def multiple(of: int, why: str) -> Bound:
    """A whole number of at least `of` that is a multiple of it."""
    return Bound(lambda v: is_int(v, of) and v % of == 0, f"a multiple of {of} ({why})")


class Generative(Architecture):
    """Networks that give images, for images of one size; they cannot be stitched."""

    gives = "images"
    rectified = False
    any_size = False
    joints = ()


class Denoisers(Generative):
    """Networks that take (images, noise, labels) and give denoised images."""

    gives = "denoised images"
    stages = ("network",)


@dataclass(frozen=True)
class UNet(Denoisers):
    """A class-conditional denoising U-Net: each level has half the side of the level before, the smallest one has
    self-attention. Both sides of the images must be multiples of 2**(levels - 1).
    """

    # the number of channels that `multipliers` multiply
    width: Annotated[int, multiple(8, "groups of 4 channels share a norm, 8 an attention head")] = 32
    multipliers: Annotated[tuple[Count, ...], length(1, 6)] = (1, 2, 2)  # channels of each level divided by the width
    blocks: Count = 1  # residual blocks per level on the way down; one more on the way up

    @property
    def name(self) -> str:
        return f"U-Net-{'-'.join(map(str, self.multipliers))}-w{self.width}-b{self.blocks}"

    def check(self, height: int, width: int) -> None:
        """Raise `SettingsError` unless both sides can be halved as often as there are levels below the first."""
        super().check(height, width)
        least = 2 ** (len(self.multipliers) - 1)
        fits = height % least == 0 and width % least == 0
        allowed = f"a list of fewer levels for {height}x{width} pixels: this one needs multiples of {least}"
        need(fits, "arch.multipliers", self.multipliers, allowed)


@dataclass(frozen=True)
class DenoisingMLP(Denoisers):
    """A class-conditional denoiser for small images and vectors: a multi-layer perceptron on all pixels, whose hidden
    layers also see the noise level and the class.
    """

    width: Count = 256  # units of a hidden layer
    depth: Count = 4  # the number of hidden layers

    @property
    def name(self) -> str:
        return f"denoising MLP-{self.depth}-w{self.width}"


@dataclass(frozen=True)
class AutoEncoder(Generative):
    """A smooth convolutional auto-encoder (SiLU, GroupNorm, no BatchNorm): the image is halved while both sides are
    even and more than 4 pixels (32 and 8 end at 4, 28 at 7, 8 x 16 at 4 x 8), the channels double from `width` to at
    most 4 `width`, and a linear layer gives the code; the decoder is the mirror image of the encoder.
    """

    width: Annotated[int, multiple(4, "groups of 4 channels share a norm")] = 32  # channels at full resolution
    latent: Count = 128  # the length of the code of an image

    stages = ("encoder", "decoder")

    @property
    def name(self) -> str:
        return f"auto-encoder-{self.latent}-w{self.width}"

    @staticmethod
    def halvings(height: int, width: int) -> int:
        """How often images of `height` x `width` pixels are halved."""
        count = 0
        while min(height, width) > 4 and math.gcd(height, width) % 2 == 0:
            height, width, count = height // 2, width // 2, count + 1
        return count
