"""Proofs by bounds of the network's outputs: intervals, linear functions, or both."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from lib.certify import intervals, linear
from lib.certify.proof import Proof, proofs
from lib.door import correct
from lib.values.certificates import Bounds
from lib.values.threats import Threat

if TYPE_CHECKING:
    from lib.data.images import ImageSet

VERIFIED = {"interval": intervals.verified, "CROWN-IBP": partial(linear.verified, inner="interval"),
            "CROWN": partial(linear.verified, inner="linear")}


@proofs.register(Bounds)
@torch.no_grad()
def prove(net: nn.Module, images: ImageSet, threat: Threat, bounds: Bounds, seed_parts: tuple, batch_size: int,
          work: Path | None) -> Proof:
    """clean: the network classifies the image correctly. verified: it provably does so for every image of the ball.
    Nothing is random, and nothing is noted on disk. Raises SettingsError for a network that the bounds do not cover.
    """
    clean, verified = [], []
    for part in torch.arange(len(images), device=images.labels.device).split(batch_size):
        pixels, labels = images.pixels(part), images.labels[part]
        clean.append(correct(net(pixels.contiguous(memory_format=torch.channels_last)), labels))
        verified.append(VERIFIED[bounds.method](net, pixels, labels, threat.eps))
    return Proof(torch.cat(clean), torch.cat(verified))
