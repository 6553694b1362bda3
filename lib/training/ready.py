"""What every measurement begins with: a network that can be attacked, and images that lie where it does."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lib.door import check_images, correct
from lib.errors import is_int, need
from lib.models.fold import SAMPLE, prepared
from lib.values.data import DATASETS

if TYPE_CHECKING:
    from lib.data.images import ImageSet

SMALL = 256  # pixels times channels of images so small that on a CPU, too, calls cost more than arithmetic


def ready(net: nn.Module, images: ImageSet, batch_size: int | None = None,
          box: bool = True) -> tuple[nn.Module, ImageSet, int]:
    """A copy of the network as `prepared` makes it, the images where it lies, and the size of batches there (None: the
    device's usual one). box: whether images must lie in [0, 1]; those of closed forms need not.

    Raises SettingsError for an empty set, images or labels that are none (lib/door.py), labels beyond the network's
    classes, or a network that does not take the images.
    """
    need(batch_size is None or is_int(batch_size, 1), "batch_size", batch_size, "a whole number of at least 1, or none")
    need(len(images) > 0, "number of images", len(images), "at least 1")
    closed = images.name in DATASETS and DATASETS[images.name].closed
    check_images(images.images, box=box and not closed)
    need(isinstance(net, nn.Module), "net", type(net).__name__, "a torch.nn.Module")
    device = _device(net)
    images = images.to(device)
    made = prepared(net, images.take(slice(0, SAMPLE)).pixels(), images.labels)
    large = device.type == "cuda" or images.images[0].numel() < SMALL
    return made, images, batch_size or (512 if large else 128)


def _device(net: nn.Module) -> torch.device:
    return next((t.device for t in itertools.chain(net.parameters(), net.buffers())), torch.device("cpu"))


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
