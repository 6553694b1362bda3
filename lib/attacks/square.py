"""Square Attack (Andriushchenko et al. 2020): random search on the margin, each image with its own random numbers.

The schedule is AutoAttack's: windows of 0.8 of the image's area, halved after 10, 50, 200, ... queries, whatever the
number of queries. The l1 version follows Croce & Hein (2021). Windows may lie anywhere in the image, as in the paper;
in the authors' package they never reach the last row or column.
"""

from __future__ import annotations

import functools
import itertools
import math

import torch
from torch import Tensor

from lib.attacks.geometry import norm_of, project
from lib.attacks.pgd import adversarial_loss
from lib.attacks.pool import AllBroken, Pool
from lib.values.threats import Threat

FIRST, HALVINGS = 0.8, (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
CHUNK = 64  # queries whose random numbers are drawn at once


def window_side(query: int, height: int, width: int, norm: str) -> int:
    """The side in pixels of the window that query number `query` (from 0) changes."""
    share = FIRST / 2 ** sum(query > at for at in HALVINGS)
    side = max(round(math.sqrt(share * height * width)), 1)
    if norm != "linf":
        side = max(side, 3) | 1
    return min(side, height, width)


@functools.lru_cache
def bump(side: int, norm: str) -> Tensor:
    """A window [side, side] of unit norm for l2 and l1: a positive hill next to a negative one (the paper, eq. 2)."""

    def hill(height: int) -> Tensor:
        down, right = (torch.arange(n).sub(n // 2).abs() for n in (height, side))
        top = torch.arange(1, max(height, side) // 2 + 2) ** -(2.0 if norm == "l2" else 4.0)
        hill = top.flip(0).cumsum(0).flip(0)[torch.maximum(down[:, None], right)]  # squares that grow from the middle
        return hill / norm_of(hill[None], norm) if height else hill

    both = torch.cat([hill(side // 2), -hill(side - side // 2)])
    return both / norm_of(both[None], norm)


def _bumps(side: int, norm: str, lying: Tensor) -> Tensor:
    """Windows [n, 1, side, side], transposed where `lying` [n]."""
    standing = bump(side, norm).to(lying.device)
    return torch.where(lying[:, None, None, None], standing.T, standing)


def _signs(numbers: Tensor) -> Tensor:
    """-1 or 1 for numbers in [0, 1), with two axes of length 1 added."""
    return ((numbers < 0.5) * 2.0 - 1)[..., None, None]


def _starts(numbers: Tensor, side: int, length: int) -> Tensor:
    """Where windows of `side` pixels start, uniform over 0 .. length - side."""
    return (numbers * (length - side + 1)).long().clamp_max(length - side)  # rounding may give the bound itself


def start(x: Tensor, threat: Threat, generators: list[torch.Generator]) -> Tensor:
    """The first images [n, C, H, W]: stripes for linf, tiles of bumps for l2 and l1."""
    _, channels, height, width = x.shape
    eps = float(threat.eps)
    if threat.norm == "linf":
        numbers = torch.stack([torch.rand(channels, width, generator=own) for own in generators]).to(x.device)
        return (x + eps * _signs(numbers).squeeze(-1).transpose(-1, -2)).clamp(0, 1)
    side = max(min(height, width) // 5, 1)
    corners = [range(length % side // 2, length - side + 1, side) for length in (height, width)]
    tiles = list(itertools.product(*corners))
    numbers = torch.stack([torch.rand(len(tiles), channels + 1, generator=own) for own in generators]).to(x.device)
    delta = torch.zeros_like(x)
    for (top, left), own in zip(tiles, numbers.unbind(1), strict=True):
        delta[..., top:top + side, left:left + side] = _bumps(side, threat.norm, own[:, 0] < 0.5) * _signs(own[:, 1:])
    return _moved(x, delta, threat)


def _moved(x: Tensor, delta: Tensor, threat: Threat) -> Tensor:
    """x + delta, for l2 with delta of norm eps and clipped to [0, 1], for l1 projected into the ball."""
    if threat.norm == "l2":
        delta = delta * (float(threat.eps) / norm_of(delta, "l2").clamp_min(1e-12))[:, None, None, None]
        return (x + delta).clamp(0, 1)
    return project(x + delta, x, threat)


def stripe_proposal(x: Tensor, best: Tensor, threat: Threat, side: int, numbers: Tensor) -> Tensor:
    """The next images [n, C, H, W] for linf: one window of the `best` ones so far moves to an end of the ball, with one
    sign per channel. `numbers` [n, 2 + C] in [0, 1) are the random numbers.
    """
    inside = []
    for k, length in enumerate(x.shape[-2:]):
        first = _starts(numbers[:, k], side, length)[:, None]
        at = torch.arange(length, device=x.device)
        inside.append((at >= first) & (at < first + side))
    window = inside[0][:, None, :, None] & inside[1][:, None, None, :]
    return torch.where(window, (x + float(threat.eps) * _signs(numbers[:, 2:])).clamp(0, 1), best)


def bump_proposal(x: Tensor, best: Tensor, threat: Threat, side: int, numbers: Tensor) -> Tensor:
    """The next images [n, C, H, W] for l2 and l1: the budget of a second window of the `best` ones so far moves into a
    bump in a first one (algorithm 3 of the paper). `numbers` [n, 5 + C] in [0, 1) are the random numbers.
    """
    n, channels, height, width = x.shape
    norm, eps, power = threat.norm, float(threat.eps), 2 if threat.norm == "l2" else 1
    delta = best - x
    image, channel = (torch.arange(size, device=x.device) for size in (n, channels))
    image, channel, along = image[:, None, None, None], channel[:, None, None], torch.arange(side, device=x.device)

    def window(top: Tensor, left: Tensor) -> tuple[Tensor, ...]:
        down = (_starts(top, side, height)[:, None] + along)[:, None, :, None]
        return image, channel, down, (_starts(left, side, width)[:, None] + along)[:, None, None, :]

    def mass(values: Tensor) -> Tensor:
        """Per channel the sum of |.|^power."""
        return values.abs().pow(power).sum((-2, -1), keepdim=True)

    first, second = window(numbers[:, 0], numbers[:, 1]), window(numbers[:, 2], numbers[:, 3])
    old, whole = delta[first], mass(delta)
    delta[first] = 0
    delta[second] = 0
    freed = whole - mass(delta)
    unused = (eps ** power - whole.sum(1, keepdim=True)).clamp_min(0) / channels
    new = _bumps(side, norm, numbers[:, 4] < 0.5) * _signs(numbers[:, 5:])
    new = new + old / (1e-12 + mass(old) ** (1 / power))
    budget = (unused + freed.clamp_min(0)) ** (1 / power)
    if norm == "l1":
        budget = channels * budget  # as in the authors' code: beyond the ball, so the projection makes the rest sparser
    delta[first] = new / (1e-12 + mass(new) ** (1 / power)) * budget
    return _moved(x, delta, threat)


def square(pool: Pool, queries: int) -> None:
    """Square Attack with at most `queries` forward passes per image. An image's random numbers are drawn from
    (seed_parts, index) alone, and it is dropped when it is broken. Raises AllBroken when no image is left.

    A proposal that leaves an image as it is does not go through the network: its margin is known.
    """
    threat, rows = pool.threat, pool.standing
    propose, count = (stripe_proposal, 2) if threat.norm == "linf" else (bump_proposal, 5)
    generators = pool.generators(rows, "square")
    x, y = pool.images[rows], pool.labels[rows]
    tried, changed = start(x, threat, generators), torch.arange(len(rows), device=x.device)
    best, value = x.clone(), torch.full_like(x[:, 0, 0, 0], -math.inf)
    for query in range(queries):
        if query:
            if not (query - 1) % CHUNK:
                shape = (CHUNK, count + x.shape[1])
                numbers = torch.stack([torch.rand(shape, generator=own) for own in generators]).to(x.device)
            side = window_side(query - 1, *x.shape[-2:], threat.norm)
            tried = propose(x, best, threat, side, numbers[:, (query - 1) % CHUNK])
            changed = (tried != best).flatten(1).any(1).nonzero().squeeze(1)
        if not len(changed):
            continue
        tried = tried[changed]
        logits = pool.logits(tried, pool.precision)
        margin = adversarial_loss("cw", logits, y[changed])
        better = (margin > value[changed]).nonzero().squeeze(1)
        if not len(better):
            continue
        best[changed[better]], value[changed[better]] = tried[better], margin[better]
        pool.judge(tried[better], rows[changed[better]], logits[better])
        keep = ~pool.broken[rows]
        if keep.all():
            continue
        rows, x, y, best, value = (t[keep] for t in (rows, x, y, best, value))
        if not len(rows):
            raise AllBroken
        numbers = numbers[keep] if query else None
        generators = list(itertools.compress(generators, keep.tolist()))
