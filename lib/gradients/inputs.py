"""Gradients of classifiers with respect to the image, and how far they align with scores (Srinivas et al. 2023).

Images are [N, C, H, W] with pixels in [0, 1]; gradients are per unit of pixels.
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.door import check_images, in_own_state
from lib.errors import is_number, need, unknown
from lib.gradients import lpips
from lib.gradients.scores import slices
from lib.models.fold import prepared

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger("lib.gradients.inputs")

KINDS = ("sum of logits", "predicted logit", "predicted log-probability", "label logit", "label log-probability")


@in_own_state
def input_gradient(net: nn.Module, images: Tensor, kind: str, labels: Tensor | None = None,
                   batch: int = 256) -> Tensor:
    """Gradients [N, C, H, W] of a classifier with respect to its input, in eval mode; `net` does not change.

    kind, what is differentiated: the `sum of logits` of all classes (the off-manifold paper's code on CIFAR-10; adding
    a function of the image to all logits changes no prediction but changes this gradient), the `predicted logit` (its
    code on other data sets), the `predicted log-probability`, or `label logit` and `label log-probability` of the class
    in `labels` (int64 [N]). Raises SettingsError for an unknown kind, for labels that are missing or superfluous, and
    for no images.
    """
    if kind not in KINDS:
        raise unknown("kind of gradient", kind, KINDS)
    wanted = kind.startswith("label")
    need((labels is not None) == wanted, "labels", "left out" if labels is None else "given",
         f"{'given' if wanted else 'left out'} for the gradient of the {kind}")
    check_images(images, box=False)
    net, rows = prepared(net, images, labels), []
    for part in slices(images, batch):
        x = images[part].detach().clone().requires_grad_()
        with torch.enable_grad():
            value = _value(net(x), kind, None if labels is None else labels[part]).sum()
        rows.append(torch.autograd.grad(value, x)[0])
    return torch.cat(rows)


def _value(logits: Tensor, kind: str, labels: Tensor | None) -> Tensor:
    """What is differentiated, [B] (or [B, classes], to be summed)."""
    if kind == "sum of logits":
        return logits
    values = logits.log_softmax(1) if kind.endswith("probability") else logits
    return values.gather(1, (logits.argmax(1) if labels is None else labels)[:, None])


def cosine(one: Tensor, other: Tensor) -> Tensor:
    """The cosine [N] in [-1, 1], float64, between the images of each pair [N, ...]; 0 where one of them is all zero, as
    the gradient of a constant classifier is.
    """
    one, other = (_unit(t.flatten(1).double()) for t in (one, other))
    return (one * other).sum(1).clamp(-1, 1)


def _unit(vectors: Tensor) -> Tensor:
    return vectors / vectors.norm(dim=1, keepdim=True).clamp(min=torch.finfo(vectors.dtype).tiny)


def high_pass(images: Tensor, std: float = 1.0) -> Tensor:
    """Images [N, C, H, W] minus their blur by a Gaussian of `std` pixels (cut off at 4 std; edge pixels are repeated).
    Raises SettingsError unless `std` is greater than 0.
    """
    need(is_number(std, 0) and std > 0, "std", std, "a number of pixels greater than 0")
    reach = math.ceil(4 * std)
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=images.device) / std).square())
    weights = (weights / weights.sum()).to(images.dtype).expand(images.shape[1], 1, 1, -1)
    blurred = F.pad(images, (reach,) * 4, mode="replicate")
    for kernel in (weights, weights.mT):
        blurred = F.conv2d(blurred, kernel, groups=images.shape[1])
    return images - blurred


def alignment(gradients: Tensor, scores: Tensor, images: Tensor, partners: Tensor, noise: Tensor,
              perceptual: bool = True) -> pd.DataFrame:
    """How far the gradients [N, C, H, W] of a classifier align with the scores [N, C, H, W] at the same `images`,
    compared with baselines that know nothing about the classifier: a DataFrame of 4 N rows with columns image (0 to
    N - 1), what, cosine, absolute (its absolute value) and, if `perceptual` and AlexNet's weights are available, lpips
    (1 - LPIPS, the alignment of Srinivas et al. 2023).

    what: `gradient`; `white noise` (`noise` [1, N, ...]); `shuffled pairs`, the gradient at image `partners[i]` (int64
    [N], never i itself) with the score at image i; `negative high-pass`, -(x - blurred x), which is roughly what a
    score at a clean image looks like. Raises SettingsError if an image is its own partner.
    """
    import pandas as pd

    need(bool((partners.cpu() != torch.arange(len(images))).all()), "partners", "the same image", "another image")
    claimed = {
        "gradient": gradients,
        "white noise": noise[0].view_as(images),
        "shuffled pairs": gradients[partners.to(gradients.device)],
        "negative high-pass": -high_pass(images),
    }
    if perceptual and (why := lpips.why_no_lpips()):
        log.warning(why)
        perceptual = False
    tables = []
    for what, pictures in claimed.items():
        signed = cosine(pictures, scores)
        columns = {"image": range(len(images)), "what": what, "cosine": signed.cpu(), "absolute": signed.abs().cpu()}
        tables.append(pd.DataFrame(columns | ({"lpips": lpips.lpips(pictures, scores).cpu()} if perceptual else {})))
    return pd.concat(tables, ignore_index=True)
