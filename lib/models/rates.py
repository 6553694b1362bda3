"""How many weights each layer keeps: rules that turn a target for the whole network into a share for every layer.

Layers are given in order, by their tensors or sizes; counts are whole numbers of weights (or channels), one per layer.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from fractions import Fraction

import torch

from lib.errors import need

INVERSE_CLIP = 0.99  # a dense start is taken as this share of the way from the lowest rate to 1, as in HARP's code


def kept_of(size: int, keep: float | Fraction) -> int:
    """How many of `size` weights remain by HYDRA's and HARP's rule, which removes floor((1 - keep) size) of them."""
    return size - math.floor((1 - keep) * size)


def total_of(sizes: Sequence[int], keep: Fraction) -> int:
    """The whole number nearest to the share `keep` of all weights, at least 1."""
    return max(1, math.floor(keep * sum(sizes) + Fraction(1, 2)))


def uniform(sizes: Sequence[int], keep: Fraction) -> list[int]:
    """The same share in every layer by `kept_of`: in total at most one weight per layer above the target."""
    return [kept_of(size, keep) for size in sizes]


def erk(shapes: Sequence[torch.Size], keep: Fraction) -> list[int]:
    """Erdos-Renyi kernel (Evci et al. 2020): a layer's density is proportional to the sum of its dimensions divided by
    their product; layers whose density would exceed 1 stay dense. The counts sum to `total_of`.
    """
    sizes, total = [math.prod(shape) for shape in shapes], total_of([math.prod(s) for s in shapes], keep)
    wanted, free = [float(size) for size in sizes], set(range(len(sizes)))
    while free:
        left = total - sum(size for k, size in enumerate(sizes) if k not in free)
        scale = left / sum(sum(shapes[k]) for k in free)
        dense = {k for k in free if scale * sum(shapes[k]) >= sizes[k]}
        if not dense:
            wanted = [scale * sum(shapes[k]) if k in free else w for k, w in enumerate(wanted)]
            break
        free -= dense
    counts = [math.floor(w) for w in wanted]
    by_remainder = sorted(range(len(wanted)), key=lambda k: counts[k] - wanted[k])
    for k in by_remainder[: total - sum(counts)]:
        counts[k] += 1
    return counts


def lamp(tensors: Sequence[torch.Tensor], keep: Fraction) -> list[int]:
    """Layer-adaptive magnitude (Lee et al. 2021): a weight's score is its square divided by the sum of the squares of
    all weights of its layer that are not smaller; the network's largest scores are kept. Counts sum to `total_of`.
    """
    scores = []
    for tensor in tensors:
        squares = tensor.detach().double().flatten().square().sort().values
        not_smaller = squares.flip(0).cumsum(0).flip(0)
        scores.append(squares / not_smaller.clamp_min(torch.finfo(torch.float64).tiny))
    return overall(scores, keep)


def overall(tensors: Sequence[torch.Tensor], keep: Fraction) -> list[int]:
    """How many of the `total_of` largest absolute values of the network each layer holds."""
    sizes = [tensor.numel() for tensor in tensors]
    best = torch.cat([tensor.detach().abs().flatten() for tensor in tensors]).topk(total_of(sizes, keep), sorted=False)
    edges = torch.tensor(sizes, device=best.indices.device).cumsum(0)
    layer = torch.bucketize(best.indices, edges, right=True)
    return torch.bincount(layer, minlength=len(sizes)).tolist()


def to_raw(rate: float, lowest: float) -> float:
    """The inverse of `from_raw`: the number r with lowest + (1 - lowest) sigmoid(r) = rate, where rates near 1 are
    clipped (`INVERSE_CLIP`). Raises SettingsError unless `rate` is above `lowest` and at most 1.
    """
    allowed = f"above the lowest rate {lowest:.4g} and at most 1"
    need(lowest < rate <= 1, "starting rate of a layer", f"{rate:.4g}", allowed)
    share = min((rate - lowest) / (1 - lowest), INVERSE_CLIP)
    return math.log(share / (1 - share))


def from_raw(raw: float, lowest: float) -> float:
    """HARP's map of a real number to a keep rate: lowest + (1 - lowest) sigmoid(raw)."""
    return lowest + (1 - lowest) / (1 + math.exp(-raw)) if raw > -700 else lowest


def data_free(sizes: Sequence[int], keep: Fraction, start: Fraction = Fraction(1, 10), decay: float = 5e-4,
              epochs: int = 20, steps: int = 391, gamma: float = 0.01) -> list[float]:
    """The keep rates, one per layer, that HARP's optimiser reaches without a network or data: SGD (lr 0.1, cosine by
    step, momentum 0.9) on gamma * L_hw for weights, with weight decay `decay` on the raw rates and gamma growing by its
    first value each epoch until the target is met.

    They are a control: only differences from these rates can be due to the robust loss. sizes: weights per layer. keep:
    the target. start: the rate of every layer at the beginning. No rate falls below a tenth of the target.
    """
    return list(_data_free(tuple(sizes), Fraction(keep), max(Fraction(start), Fraction(keep)), decay, epochs, steps,
                           gamma))


@functools.lru_cache
def _data_free(sizes, keep, start, decay, epochs, steps, gamma) -> tuple[float, ...]:
    lowest = float(keep) / 10
    pull = torch.tensor(sizes, dtype=torch.float64) / (sum(sizes) * float(keep))  # pull @ rates - 1 is L_hw above 0
    raw = torch.full_like(pull, to_raw(float(start), lowest))
    moved, strength, frozen = torch.zeros_like(raw), 0.0, False

    def excess():
        return float(pull @ (lowest + (1 - lowest) * torch.sigmoid(raw))) - 1

    for epoch in range(epochs):
        strength = strength if frozen else (epoch + 1) * gamma
        for step in range(steps):
            gradient = decay * raw
            if excess() > 0:
                share = torch.sigmoid(raw)
                gradient += strength * (1 - lowest) * pull * share * (1 - share)
            moved = 0.9 * moved + gradient
            raw = raw - 0.05 * (1 + math.cos(math.pi * (epoch + step / steps) / epochs)) * moved
        frozen = frozen or round(max(excess(), 0), 4) == 0
    return tuple((lowest + (1 - lowest) * torch.sigmoid(raw)).tolist())
