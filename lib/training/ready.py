"""What every measurement begins with: a network that can be attacked, and images that lie where it does."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lib.door import check_images, correct
from lib.errors import is_int, need
from lib.models.fold import SAMPLE, prepared
from lib.models.staged import device_of
from lib.values.data import DATASETS

if TYPE_CHECKING:
    from lib.data.images import ImageSet

SMALL = 256  # pixels times channels of images so small that on a CPU, too, calls cost more than arithmetic


def ready(net: nn.Module, images: ImageSet, batch_size: int | None = None,
          box: bool = True) -> tuple[nn.Module, ImageSet, int]:
    """A copy of the network as `prepared` makes it, the images on its device, and the size of batches there (None: the
    device's usual one). box: whether images must lie in [0, 1]; those of sets without pixels need not.

    Raises SettingsError for an empty set, for what is not an image or a label (lib/door.py), for labels beyond the
    network's classes, and for a network that does not take the images.
    """
    need(batch_size is None or is_int(batch_size, 1), "batch_size", batch_size, "a whole number of at least 1, or none")
    need(len(images) > 0, "number of images", len(images), "at least 1")
    check_images(images.images, box=box and has_pixels(images))
    made = prepared(net, images.take(slice(0, SAMPLE)).pixels(), images.labels)
    device = device_of(net)
    large = device.type == "cuda" or images.images[0].numel() < SMALL
    return made, images.to(device), batch_size or (512 if large else 128)


def has_pixels(images: ImageSet) -> bool:
    """Whether a set holds images in [0, 1], not the points of a closed form."""
    return images.name not in DATASETS or not DATASETS[images.name].closed


@torch.no_grad()
def answers(net: nn.Module, pixels: Callable[[Tensor], Tensor], labels: Tensor,
            batch_size: int) -> tuple[Tensor, Tensor]:
    """Of the images that `pixels` gives for positions: which are classified as `labels` [N] say, and for which the
    network gives a finite answer at all, both bool [N].
    """
    found = []
    for part in torch.arange(len(labels), device=labels.device).split(batch_size):
        logits = net(pixels(part).contiguous(memory_format=torch.channels_last))
        found.append(torch.stack([correct(logits, labels[part]), logits.isfinite().all(1)]))
    return tuple(torch.cat(found, 1))
