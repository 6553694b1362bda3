"""The geometry of a threat on pixels: what each image may become, [B, C, H, W] in [0, 1], each image for itself.

`Threat.per` batch follows Srinivas et al. (2023) in these parts: the norm of the start, of a step and of the budget is
that of the whole tensor that a call gets, and the start is noise uniform in [0, 1) (it only brightens) of norm eps / 2.
Their images are not cut to [0, 1] either; that is `Threat.box` false.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lib.errors import unknown
from lib.values.threats import PIXEL_NORMS, Threat


def norm_of(delta: Tensor, norm: str, per: str = "image") -> Tensor:
    """The size of each perturbation [B, C, H, W] -> [B], in units of pixels in [0, 1]; with `per` batch the size of all
    together -> [1].
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
    """The perturbations [B, C, H, W] scaled to an l2 norm of at most `eps`: the nearest in the ball."""
    return delta * _per_image((eps / norm_of(delta, "l2", per).clamp_min(1e-12)).clamp_max(1))


def project_l1(delta: Tensor, room: Tensor, eps: float | Tensor) -> Tensor:
    """The nearest to `delta` [B, C, H, W] with an l1 norm of at most `eps` (one for all, or [B, 1]) and no entry beyond
    `room` >= 0 (in its own direction, [B, C, H, W]).

    Every entry is lowered by one threshold t and cut to its room (Croce & Hein 2021). Their sum falls
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
    """The images nearest to `x_adv` that `threat` allows around `x`.

    Exact for linf and l1, where the ball is intersected with [0, 1]: an l1 budget is not spent on what the cut would
    undo. For l2 the nearest of the ball is cut to [0, 1]; since `x` lies there, the cut only moves towards `x`, so the
    result stays in the ball (to float rounding, below 1e-6). With `threat.box` false there is no cut.
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
    """Moves of l2 length `size` along the gradients [B, C, H, W]; none where the gradient is zero."""
    # A saturated network's gradients square to zero in fp32, so the direction is taken of the rescaled ones.
    direction = grad / _per_image(norm_of(grad, "linf", per).clamp_min(torch.finfo(grad.dtype).tiny))
    return size * direction / _per_image(norm_of(direction, "l2", per).clamp_min(1))


def _sparse_uphill(x_adv: Tensor, grad: Tensor, size: float, threat: Threat) -> Tensor:
    if threat.box:  # what stands at an end of [0, 1] cannot go on
        grad = grad.masked_fill(((x_adv <= 0) & (grad < 0)) | ((x_adv >= 1) & (grad > 0)), 0)
    flat = grad.flatten(1)
    chosen = flat.abs().topk(min(max(1, math.ceil(threat.eps)), flat.shape[1]), dim=1).indices
    sign = torch.zeros_like(flat).scatter(1, chosen, flat.gather(1, chosen).sign())
    return (size * sign / sign.abs().sum(1, keepdim=True).clamp_min(1)).view_as(grad)


def step(x_adv: Tensor, grad: Tensor, size: float, threat: Threat) -> Tensor:
    """One step of length `size` uphill: along the sign of the gradient for linf, along its direction for l2, and for l1
    along the signs of its largest entries among those that can still move (SLIDE, Tramer & Boneh 2019; Croce & Hein
    2021), eps of them rounded up: an entry takes at most 1 of the budget, so fewer could not spend it and more would
    follow lesser gradients.

    Images with a zero gradient stay where they are, whatever the scale of the others.
    """
    if threat.norm == "linf":
        return x_adv + size * grad.sign()
    if threat.norm == "l2":
        return x_adv + uphill(grad, size, threat.per)
    if threat.norm == "l1":
        return x_adv + _sparse_uphill(x_adv, grad, size, threat)
    raise unknown("norm of pixels", threat.norm, PIXEL_NORMS)


def ball_noise(norm: str, shape, generator: torch.Generator) -> Tensor:
    """Points drawn uniformly from the unit ball of `norm`, [B, C, H, W] on the generator's device."""
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
    """Starts of `threat` in units of its eps, [B, C, H, W]: uniform in the unit ball, or, with `per` batch, brightening
    noise of norm 1/2 over the batch.
    """
    if threat.per == "image":
        return ball_noise(threat.norm, shape, generator)
    noise = torch.rand(shape, generator=generator, device=generator.device)
    return noise / (2 * _per_image(norm_of(noise, threat.norm, "batch")))


def random_start(x: Tensor, threat: Threat, noise: Tensor) -> Tensor:
    """Where a search starts: `x` plus eps times `noise` (points of the unit ball, as `ball_noise` gives), projected."""
    return project(x + float(threat.eps) * noise.to(x.device), x, threat)
