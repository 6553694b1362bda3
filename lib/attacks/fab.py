"""Targeted FAB (Croce & Hein 2020, "Minimally distorted adversarial examples"): the nearest image across a boundary.

The steps are those of the package, written here so that an image stops when it is broken. So are the projections for
linf and l2, which the package finds by sorting all pixels; on a narrow network that took a quarter of a step.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lib.attacks.geometry import norm_of, project
from lib.attacks.pgd import input_gradient
from lib.attacks.pool import AllBroken, Pool
from lib.door import correct

OVERSHOOT, BACKWARD, MOST = 1.05, 0.9, 0.1  # eta, beta and alpha_max of the paper
NEWTON, ROUNDING = 100, 1e-6  # steps at most (usually below 10), and the relative change that is not worth another one


def _gaps(pool: Pool, x: Tensor, labels: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """z_target - z_label [n] and its gradient [n, C, H, W], in fp32."""
    gaps, grads = [], []
    pairs = torch.stack([targets, labels], 1)
    for part, pair in zip(x.split(pool.batch_size), pairs.split(pool.batch_size), strict=True):
        _, gap, grad = input_gradient(pool.net, part.contiguous(memory_format=torch.channels_last),
                                      lambda z, pair=pair: z.gather(1, pair).diff(dim=1).squeeze(1).neg())
        gaps.append(gap)
        grads.append(grad)
    return torch.cat(gaps), torch.cat(grads)


def onto_plane(x: Tensor, w: Tensor, b: Tensor, norm: str) -> Tensor:
    """The moves [n, d] of least `norm` that bring the points x [n, d], in [0, 1], onto the planes w . x = b (w [n, d],
    b [n]) without leaving [0, 1]. Where no such move exists, the move that comes nearest to the plane.

    In linf and l2 every entry moves at its own pace, 1 or |w|, until it meets a side of the box. What is left to the
    plane is then a convex, piecewise linear, falling function of time, whose root Newton's method reaches from below
    within finitely many steps.
    """
    if norm == "l1":
        from pyautoattack.fab_projections import projection_l1

        return projection_l1(x, w, b)
    gap = b - (w * x).sum(1)
    way, pull = (w * gap[:, None]).sign(), w.abs()
    room = torch.where(way > 0, 1 - x, x).masked_fill_(w == 0, 0)
    pace = pull.masked_fill(w == 0, 1) if norm == "l2" else torch.ones_like(pull)
    rate, gap, time = pull * pace, gap.abs(), torch.zeros_like(gap)
    for _ in range(NEWTON):
        move = torch.minimum(time[:, None] * pace, room)
        left = gap - (pull * move).sum(1)
        slope = (rate * (move < room)).sum(1)
        late = torch.where(slope > 0, left / slope, 0)
        if not (late > ROUNDING * time).any():
            break
        time = time + late.clamp_min(0)
    return way * move


def _step(x_adv: Tensor, x: Tensor, gap: Tensor, grad: Tensor, norm: str) -> Tensor:
    """One step (eq. 9 of the paper): the projections of the iterate and of the clean image onto the linearised
    boundary, mixed according to their distances from it; all [n, C, H, W], gap [n].
    """
    w = grad.flatten(1)
    b = (w * x_adv.flatten(1)).sum(1) - gap
    moves = onto_plane(torch.cat([x_adv, x]).flatten(1), torch.cat([w, w]), torch.cat([b, b]), norm).view(2, *x.shape)
    far, near = (norm_of(move, norm).clamp_min(1e-8) for move in moves)
    share = (far / (far + near)).clamp_max(MOST)[:, None, None, None]
    return ((x_adv + OVERSHOOT * moves[0]) * (1 - share) + (x + OVERSHOOT * moves[1]) * share).clamp(0, 1)


def fab(pool: Pool, rank: int, steps: int) -> None:
    """`steps` steps of FAB towards `Pool.target_of_rank`, in fp32, on the survivors; nothing is random. (In bf16 it
    breaks fewer images: what counts as across the boundary is then often not.)

    An image is broken by a misclassified iterate within the threat, or by the nearest misclassified iterate after it is
    projected into the threat. Raises AllBroken when no image is left.
    """
    rows, norm, eps = pool.standing, pool.threat.norm, float(pool.threat.eps)
    x, y, targets = pool.images[rows], pool.labels[rows], pool.target_of_rank(rows, rank)
    x_adv = nearest = x
    distance = torch.full_like(x[:, 0, 0, 0], torch.inf)
    for _ in range(steps):
        x_adv = _step(x_adv, x, *_gaps(pool, x_adv, y, targets), norm)
        wrong, away = ~correct(pool.logits(x_adv), y), norm_of(x_adv - x, norm)
        pool.record(x_adv, rows, wrong & (away <= eps))
        closer = wrong & (away < distance)
        nearest = torch.where(closer[:, None, None, None], x_adv, nearest)
        distance = torch.where(closer, away, distance)
        x_adv = torch.where(wrong[:, None, None, None], x + BACKWARD * (x_adv - x), x_adv)
        keep = ~pool.broken[rows]
        if not keep.all():
            rows, x, y, targets, x_adv, nearest, distance = (
                t[keep] for t in (rows, x, y, targets, x_adv, nearest, distance))
        if not len(rows):
            raise AllBroken
    found = distance.isfinite()
    pool.confirm(project(nearest[found], x[found], pool.threat), rows[found])
