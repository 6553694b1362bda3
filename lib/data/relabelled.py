"""Data sets made from others: the same images with their classes permuted, or in another format.

With them, networks of different tasks can be stitched (cross-task stitching, Balogh & Jelasity 2023) where there is
only one data set. `..._permuted`: class k becomes class k + 1 and the last one class 0, so no class keeps its number; a
network trained on it has seen the same images with other labels. `mnist_rgb32`: MNIST in the format of CIFAR-10,
resized to 32 x 32 pixels by bilinear interpolation (as in the paper's code) and repeated in three channels. Subsets
hold the same images as those of the base.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lib.values.data import DATASETS

SETS = {"cifar10_permuted": "cifar10", "digits_permuted": "digits", "mnist_rgb32": "mnist"}


def base_of(name: str) -> str:
    """The data set from which `name` is made; any other set itself."""
    return SETS.get(name, name)


def relabel(name: str, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The images, uint8 [N, C, H, W], and labels, int64 [N], of the data set `name`, made from a whole split of its
    base, uint8 [N, C', H', W'] and int64 [N].
    """
    if name.endswith("_permuted"):
        return images, (labels + 1) % DATASETS[name].classes
    return _as_photograph(images, *DATASETS[name].shape), labels


def _as_photograph(images: Tensor, channels: int, height: int, width: int) -> Tensor:
    """Grey images resized and repeated in equal channels: uint8 [N, channels, height, width]."""
    parts = images.split(4096)  # as float, a whole split takes hundreds of megabytes
    resized = (F.interpolate(part.float(), (height, width), mode="bilinear").round().byte() for part in parts)
    return torch.cat([part.expand(-1, channels, -1, -1) for part in resized])
