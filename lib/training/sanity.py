"""Reasons to mistrust a robust accuracy, one sentence each: cheap checks of a network and of the attack on it."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.attacks.search import break_images
from lib.door import correct, in_own_state
from lib.errors import unknown
from lib.profiles.miniature import length
from lib.training.ready import ready
from lib.values.attacks import PGD, Square
from lib.values.threats import PIXEL_NORMS, Threat

if TYPE_CHECKING:
    from lib.data.images import ImageSet

COUNT = 128  # images to check
SURVIVORS, QUERIES = 32, 200  # images on which Square is tried, and queries per image
STEPS = 40  # of PGD in a ball that holds grey for every image
# Forward passes per image (a backward pass counts as one more) of `sanity`, in which no image survives PGD, and of
# `beaten_by_square`, in which all do.
PASSES, QUERY_PASSES = 4 + PGD(STEPS, Fraction(1)).passes(0.0), Square(QUERIES).passes(1.0)


@in_own_state
def sanity(net: nn.Module, images: ImageSet, norm: str = "linf", precision: str = "fp32", *,
           batch_size: int | None = None) -> list[str]:
    """Reasons to mistrust gradient attacks on `net`, found on the first 128 images; an empty list is a pass.

    Checks that pixels lie in [0, 1]; that two passes give the same logits; that logits are finite, not probabilities,
    and not so far from zero that rounding hides their differences; that input gradients of the cross-entropy are finite
    and not zero; and that at most 2 % of the images survive PGD-40 in a ball that contains plain grey for every image:
    eps 0.5 in linf, 0.5 times the root of the number of pixels and channels in l2, 0.5 times that number in l1. PGD
    searches in `precision`, as `break_images` does. Raises SettingsError for a norm that is not of pixels.
    """
    if norm not in PIXEL_NORMS:
        raise unknown("norm of pixels", norm, PIXEL_NORMS)
    net, images, batch_size = ready(net, images, batch_size, box=False)
    images = images.take(slice(0, COUNT))
    x, y = images.pixels().contiguous(memory_format=torch.channels_last), images.labels
    if x.min() < 0 or x.max() > 1:
        return [f"pixels range from {x.min():.3g} to {x.max():.3g}, outside [0, 1]"]
    with torch.no_grad():
        first, second = net(x), net(x)
    if not first.isfinite().all():
        return ["some logits are not finite numbers"]
    found = _of_logits(first, second)
    leaf = x.detach().requires_grad_()
    grad, = torch.autograd.grad(F.cross_entropy(net(leaf).float(), y, reduction="sum"), leaf)
    if not grad.isfinite().all():
        found.append("some input gradients are not finite numbers")
    zero = int((grad.flatten(1) == 0).all(1).sum())
    if zero:
        found.append(f"{zero} of {len(x)} images have a zero gradient: gradient attacks may fail without robustness")
    numbers = x[0].numel()
    huge = Threat(norm, Fraction(1, 2) * {"linf": 1, "l2": math.isqrt(numbers) + 1, "l1": numbers}[norm])
    right = correct(first, y)
    hit = break_images(net, x[right], y[right], huge, PGD(length(STEPS), huge.eps / 10), images.indices[right],
                       ("sanity",), batch_size=batch_size, precision=precision, keep_images=False).broken
    survive = int((~hit).sum())
    if survive > 0.02 * len(x):
        found.append(f"{survive} of {len(x)} images survive PGD at {norm} eps {float(huge.eps):g}, "
                     "where every image can become grey")
    return found


def sanity_within(net: nn.Module, images: ImageSet, threat: Threat, precision: str = "fp32") -> list[str]:
    """`sanity` in the threat's norm, or in linf for a threat that is not in pixels: the gradients are the network's."""
    return sanity(net, images, threat.norm if threat.norm in PIXEL_NORMS else "linf", precision)


def warnings_of_attack(net: nn.Module, images: ImageSet, robust: Tensor, threat: Threat, precision: str) -> list[str]:
    """Why the verdicts `robust` (bool [N]) of an attack within `threat` that searched in `precision` may be too good:
    `sanity_within` and `beaten_by_square`.
    """
    return sanity_within(net, images, threat, precision) + beaten_by_square(net, images, robust, threat, precision)


def warnings_of_logits(finite: Tensor) -> list[str]:
    """A sentence if there are images for which a network gives no finite answer (`finite` [N], bool)."""
    count = int((~finite).sum())
    return [f"{count} of {len(finite)} images have logits that are not finite: they count as wrong"] if count else []


def _of_logits(first: Tensor, second: Tensor) -> list[str]:
    """Reasons to mistrust a network that gave these two logits [B, K] for the same images."""
    found = []
    if (first - second).abs().max() > 1e-4 * first.abs().max():
        found.append("the network gives different logits for the same images: its defence is random")
    if first.min() >= 0 and (first.sum(1) - 1).abs().max() < 1e-4:
        found.append("the outputs are probabilities, and attacks need logits")
    rounding = torch.finfo(first.dtype).eps * first.abs().amax(1)
    coarse = int((rounding > 1e-4 * (first.amax(1) - first.amin(1))).sum())
    if coarse:
        found.append(f"the logits of {coarse} of {len(first)} images are so far from zero, or so coarse, that their "
                     "differences are lost to rounding")
    return found


@in_own_state
def beaten_by_square(net: nn.Module, images: ImageSet, robust: Tensor, threat: Threat, precision: str = "fp32", *,
                     batch_size: int | None = None) -> list[str]:
    """One sentence if 200 queries of Square, which needs no gradient, break images that an attack left standing
    (`robust`, bool [N]): at least 3, and over 5 %, of the first 32. Then the attack is too weak or its gradients
    mislead it. The queries are answered in `precision`, and what they break is confirmed as by `break_images`. Fewer
    than 8 standing images are not checked: there is hardly any robustness to mistrust.
    """
    left = robust.nonzero().squeeze(1)[:SURVIVORS]
    if len(left) < 8 or threat.perceptual or not threat.box or threat.eps == 0:
        return []
    net, images, batch_size = ready(net, images.take(left), batch_size)
    hit = break_images(net, images.pixels(), images.labels, threat, Square(length(QUERIES)), images.indices,
                       ("sanity",), batch_size=batch_size, precision=precision, keep_images=False).broken
    fallen = int(hit.sum())
    if fallen < 3 or fallen <= 0.05 * len(left):
        return []
    return [f"{QUERIES} queries of Square break {fallen} of {len(left)} images that the attack left standing: it is "
            "too weak for this network, or its gradients mislead it"]
