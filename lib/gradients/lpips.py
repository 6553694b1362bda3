"""LPIPS (Zhang et al. 2018) as the perceptual alignment of gradients with scores (Srinivas et al. 2023)."""

from __future__ import annotations

import functools
import logging
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.door import in_own_state
from lib.errors import is_int, need
from lib.files import sha256
from lib.runtime import initialise_with

log = logging.getLogger("lib.gradients.lpips")

ALEXNET = ("alexnet-owt-7be5be79.pth", "7be5be79")  # torchvision's file of weights, and the start of its SHA-256
SMALLEST = 31  # the smallest side, in pixels, that AlexNet can take


def why_no_lpips() -> str:
    """One sentence on why LPIPS cannot be computed here; empty if it can. Nothing is downloaded."""
    name, start = ALEXNET
    path = _weights()
    if not path.is_file():
        return (f"LPIPS is left out: AlexNet's weights are not here and are never downloaded; put torchvision's {name} "
                f"into {path.parent}, torch's cache")
    if not sha256(path).startswith(start):
        return f"LPIPS is left out: {path} is damaged or another file, its SHA-256 does not begin with {start}"
    return ""


def _weights() -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / ALEXNET[0]


@functools.lru_cache(maxsize=1)
def _lpips_net(path: Path, changed: int) -> nn.Module:
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    with initialise_with("lpips"):  # the weights will be replaced; the caller's random numbers stay untouched
        return LearnedPerceptualImagePatchSimilarity(net_type="alex").net.eval().requires_grad_(False)


@in_own_state
@torch.no_grad()
def lpips(gradients: Tensor, scores: Tensor, side: int | None = None, batch: int = 64) -> Tensor | None:
    """1 - LPIPS (Zhang et al. 2018; AlexNet, version 0.1) between the images of each pair [N, C, H, W], float32 [N]:
    the perceptual alignment of the off-manifold paper. None if AlexNet's weights are not in torch's cache, which
    `why_no_lpips` and the log explain.

    Each image is divided by its own largest absolute value, as in the paper's code, and grey images become three equal
    channels. side: smaller images are enlarged (bilinearly) until their shorter side has this many pixels; None: 64 for
    images below AlexNet's minimum of 31, no change for others (the paper's CIFAR-10 images have 32). Values depend on
    the side, so compare only equal sides.

    Raises SettingsError for different shapes, another number of channels than 1 or 3, and a side below 31.
    """
    need(gradients.shape == scores.shape, "shape of the gradients", tuple(gradients.shape), f"{tuple(scores.shape)}")
    need(side is None or is_int(side, SMALLEST), "side", side, f"a whole number of at least {SMALLEST} pixels, or none")
    need(gradients.shape[1] in (1, 3), "channels", gradients.shape[1], "1 or 3 for LPIPS")
    if why := why_no_lpips():
        log.warning(why)
        return None
    path = _weights()
    net = _lpips_net(path, path.stat().st_mtime_ns).to(gradients.device)
    pairs = zip(gradients.split(batch), scores.split(batch), strict=True)
    return 1 - torch.cat([net(_picture(one, side), _picture(other, side)).view(-1) for one, other in pairs])


def _picture(images: Tensor, side: int | None) -> Tensor:
    """Images in the form LPIPS needs: three channels in [-1, 1], large enough."""
    most = images.abs().amax((1, 2, 3), keepdim=True)
    images = (images / most.where(most > 0, 1)).float()
    shorter = min(images.shape[2:])
    side = side or (64 if shorter < SMALLEST else shorter)
    if shorter < side:
        size = [round(n * side / shorter) for n in images.shape[2:]]
        images = F.interpolate(images, size, mode="bilinear", align_corners=False)
    return images.expand(-1, 3, -1, -1)
