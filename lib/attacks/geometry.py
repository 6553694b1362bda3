"""The geometry of a threat on pixels: balls, starts and steps for images [B, C, H, W] in [0, 1], image by image.

`Threat.per` batch follows the authors' code of Srinivas et al. (2023): the norms of start, step and budget are taken
over the whole batch tensor, and the start is noise uniform in [0, 1), which only brightens, rescaled to norm eps / 2.
Their code does not clip images to [0, 1] either, which is `Threat.box` false.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lib.errors import unknown
from lib.values.threats import PIXEL_NORMS, Threat


def norm_of(delta: Tensor, norm: str, per: str = "image") -> Tensor:
    """The norm (linf, l2 or l1) of each perturbation, [B, C, H, W] -> [B], in units of pixels in [0, 1]; with `per`
    batch the norm of the whole batch, [1]. Raises SettingsError for another norm.
    """
    flat = delta.flatten(1) if per == "image" else delta.flatten()[None]
    if norm == "linf":
        return flat.abs().amax(1)
    if norm == "l2":
        return torch.linalg.vector_norm(flat, dim=1)
    if norm == "l1":
        return flat.abs().sum(1)
    raise unknown("norm of pixels", norm, PIXEL_NORMS)


def _per_image(values: Tensor) -> Tensor:
    return values[:, None, None, None]


def shrink(delta: Tensor, eps: float, per: str = "image") -> Tensor:
    """The perturbations [B, C, H, W] scaled to an l2 norm of at most `eps`, which is the projection onto the ball."""
    return delta * _per_image((eps / norm_of(delta, "l2", per).clamp_min(1e-12)).clamp_max(1))


def project_l1(delta: Tensor, room: Tensor, eps: float | Tensor) -> Tensor:
    """The tensor nearest (in l2) to `delta` [B, C, H, W] with an l1 norm of at most `eps` (one for all, or [B, 1]) and
    no entry larger in absolute value than its `room` >= 0 [B, C, H, W].

    All absolute values are lowered by one threshold t and cut to their room (Croce & Hein 2021). Their sum falls
    piecewise linearly in t: entry i falls for t from max(0, |delta_i| - room_i) to |delta_i|.
    """
    size = delta.abs().double()  # the sums of many entries need it
    low, high = (size - room).clamp_min(0).flatten(1), size.flatten(1)
    points, order = torch.cat([low, high], 1).sort(1)
    falling = torch.cat([torch.ones_like(low), -torch.ones_like(high)], 1).gather(1, order).cumsum(1)
    drop = falling[:, :-1] * points.diff(dim=1)  # the sum is constant up to the first point
    sums = (high - low).sum(1, keepdim=True) - torch.cat([torch.zeros_like(drop[:, :1]), drop.cumsum(1)], 1)
    first = (sums > eps).sum(1, keepdim=True).clamp_max(sums.shape[1] - 1)  # the first point that is small enough
    before = (first - 1).clamp_min(0)
    excess = sums.gather(1, before) - eps
    threshold = points.gather(1, before) + excess / falling.gather(1, before).clamp_min(1)
    threshold = torch.where(excess > 0, threshold, 0)[:, :, None, None]
    return delta.sign() * torch.minimum((size - threshold).clamp_min(0).to(delta.dtype), room)


def project(x_adv: Tensor, x: Tensor, threat: Threat) -> Tensor:
    """The images nearest to `x_adv` that `threat` allows around `x`, all [B, C, H, W].

    Exact for linf and l1, where the ball is intersected with [0, 1]: no l1 budget is spent on changes that clipping
    would undo. For l2 the nearest point of the ball is clipped to [0, 1]; since `x` lies there, clipping only moves
    towards `x`, so the result stays in the ball (up to float rounding, below 1e-6). With `threat.box` false nothing is
    clipped. Raises SettingsError for a norm that is not of pixels.
    """
    eps = float(threat.eps)
    if threat.norm == "linf":
        near = torch.clamp(x_adv, x - eps, x + eps)
    elif threat.norm == "l2":
        near = x + shrink(x_adv - x, eps, threat.per)
    elif threat.norm == "l1":
        delta = x_adv - x
        room = torch.where(delta > 0, 1 - x, x) if threat.box else torch.full_like(x, math.inf)
        near = x + project_l1(delta, room, eps)
    else:
        raise unknown("norm of pixels", threat.norm, PIXEL_NORMS)
    return near.clamp_(0, 1) if threat.box else near


def uphill(grad: Tensor, size: float, per: str = "image") -> Tensor:
    """Moves [B, C, H, W] of l2 length `size` along the gradients [B, C, H, W]; zero where the gradient is zero."""
    # The squares of a saturated network's gradients underflow in fp32, so gradients are rescaled first.
    direction = grad / _per_image(norm_of(grad, "linf", per).clamp_min(torch.finfo(grad.dtype).tiny))
    return size * direction / _per_image(norm_of(direction, "l2", per).clamp_min(1))


def _sparse_uphill(x_adv: Tensor, grad: Tensor, size: float, threat: Threat) -> Tensor:
    if threat.box:  # an entry at an end of [0, 1] cannot move further
        grad = grad.masked_fill(((x_adv <= 0) & (grad < 0)) | ((x_adv >= 1) & (grad > 0)), 0)
    flat = grad.flatten(1)
    chosen = flat.abs().topk(min(max(1, math.ceil(threat.eps)), flat.shape[1]), dim=1).indices
    sign = torch.zeros_like(flat).scatter(1, chosen, flat.gather(1, chosen).sign())
    return (size * sign / sign.abs().sum(1, keepdim=True).clamp_min(1)).view_as(grad)


def step(x_adv: Tensor, grad: Tensor, size: float, threat: Threat) -> Tensor:
    """The images [B, C, H, W] after one step of length `size` uphill, not yet projected: along the sign of the gradient
    for linf, along its direction for l2, and for l1 along the signs of its largest entries that can still move (SLIDE,
    Tramer & Boneh 2019; Croce & Hein 2021). The l1 step takes ceil(eps) entries: an entry uses at most 1 of the budget,
    so fewer could not spend it, and more would follow smaller gradients.

    Images with a zero gradient do not move. Raises SettingsError for a norm that is not of pixels.
    """
    if threat.norm == "linf":
        return x_adv + size * grad.sign()
    if threat.norm == "l2":
        return x_adv + uphill(grad, size, threat.per)
    if threat.norm == "l1":
        return x_adv + _sparse_uphill(x_adv, grad, size, threat)
    raise unknown("norm of pixels", threat.norm, PIXEL_NORMS)


def ball_noise(norm: str, shape, generator: torch.Generator) -> Tensor:
    """Points drawn uniformly from the unit ball of `norm`, of shape [B, C, H, W], on the generator's device. Raises
    SettingsError for a norm that is not of pixels.
    """
    where = {"generator": generator, "device": generator.device}
    if norm == "linf":
        return torch.rand(shape, **where).mul_(2).sub_(1)
    if norm == "l2":
        direction = torch.randn(shape, **where)
        radius = torch.rand(shape[0], **where) ** (1 / direction[0].numel())
        return direction * _per_image(radius / norm_of(direction, "l2"))
    if norm == "l1":  # signed exponentials over their sum and one exponential more (Barthe et al. 2005)
        sizes = torch.empty(shape, device=generator.device).exponential_(generator=generator)
        slack = torch.empty(shape[0], device=generator.device).exponential_(generator=generator)
        signs = torch.randint(0, 2, shape, **where) * 2 - 1
        return signs * sizes / _per_image(norm_of(sizes, "l1") + slack)
    raise unknown("norm of pixels", norm, PIXEL_NORMS)


def start_noise(threat: Threat, shape, generator: torch.Generator) -> Tensor:
    """Random starts in units of the threat's eps, [B, C, H, W]: uniform in the unit ball, or, with `per` batch,
    brightening noise of norm 1/2 over the whole batch.
    """
    if threat.per == "image":
        return ball_noise(threat.norm, shape, generator)
    noise = torch.rand(shape, generator=generator, device=generator.device)
    return noise / (2 * _per_image(norm_of(noise, threat.norm, "batch")))


def random_start(x: Tensor, threat: Threat, noise: Tensor) -> Tensor:
    """The start of a search: `x` plus eps times `noise` (points of the unit ball, as from `ball_noise`), projected; all
    [B, C, H, W].
    """
    return project(x + float(threat.eps) * noise.to(x.device), x, threat)
