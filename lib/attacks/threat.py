"""The geometry of a threat: what each image may become, [B, C, H, W] in [0, 1], each image for itself."""

from __future__ import annotations

import torch
from torch import Tensor

from lib.threats import Threat


def norm_of(delta: Tensor, norm: str) -> Tensor:
    """The size of each perturbation [B, C, H, W] -> [B], in units of pixels in [0, 1]; `norm` is linf or l2."""
    flat = delta.flatten(1)
    return flat.abs().amax(1) if norm == "linf" else torch.linalg.vector_norm(flat, dim=1)


def _per_image(values: Tensor) -> Tensor:
    return values[:, None, None, None]


def project(x_adv: Tensor, x: Tensor, threat: Threat) -> Tensor:
    """The images nearest to `x_adv` in the ball of `threat` around `x`, then cut to [0, 1].

    Since `x` lies in [0, 1], the cut only moves towards `x`, so the result stays in the ball (to float rounding, below
    1e-6).
    """
    eps = float(threat.eps)
    if threat.norm == "linf":
        return torch.clamp(x_adv, x - eps, x + eps).clamp_(0, 1)
    delta = x_adv - x
    shrink = (eps / norm_of(delta, "l2").clamp_min(1e-12)).clamp_max(1)
    return (x + delta * _per_image(shrink)).clamp_(0, 1)


def step(x_adv: Tensor, grad: Tensor, size: float, threat: Threat) -> Tensor:
    """One step of length `size` uphill: along the sign of the gradient for linf, along its direction for l2.

    Images with a zero gradient stay where they are, whatever the scale of the others.
    """
    if threat.norm == "linf":
        return x_adv + size * grad.sign()
    # A saturated network's gradients square to zero in fp32, so the direction is taken of the rescaled ones.
    direction = grad / _per_image(norm_of(grad, "linf").clamp_min(torch.finfo(grad.dtype).tiny))
    return x_adv + size * direction / _per_image(norm_of(direction, "l2").clamp_min(1))


def ball_noise(norm: str, shape, generator: torch.Generator) -> Tensor:
    """Points drawn uniformly from the unit ball of `norm`, [B, C, H, W] on the generator's device."""
    where = {"generator": generator, "device": generator.device}
    if norm == "linf":
        return torch.rand(shape, **where).mul_(2).sub_(1)
    direction = torch.randn(shape, **where)
    radius = torch.rand(shape[0], **where) ** (1 / direction[0].numel())
    return direction * _per_image(radius / norm_of(direction, "l2"))


def random_start(x: Tensor, threat: Threat, noise: Tensor) -> Tensor:
    """Where a search starts: `x` plus eps times `noise` (points of the unit ball, as `ball_noise` gives), cut to [0,
    1].
    """
    return project(x + float(threat.eps) * noise.to(x.device), x, threat)
