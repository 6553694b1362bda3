"""Means over seeds and images that are both random: standard errors, exact bounds and the reading of data."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import special

from lib.errors import need

# If fewer images than this differ from the most common outcome, intervals by normal theory are too narrow, and exact
# binomial bounds on the images replace them where they are wider. If the most common outcome is an end of the range, as
# for an accuracy near 0 or 1, normal theory needs more images.
RARE, RARE_AT_AN_END = 10, 50


@dataclass(frozen=True)
class Interval:
    """An estimate and its bounds. `n_images` is 0 if images are not used or come in minibatches; `method` names the
    formula used."""

    value: float
    low: float
    high: float
    n_seeds: int
    n_images: int
    level: float
    method: str


@dataclass(frozen=True, eq=False)
class Moments:
    """What an interval needs of values [S, m], of seeds and images (or minibatches), that were not kept: the mean of
    each seed, [S] (of networks and seeds, [K, S], for a mean over K networks on the same images), the number m of
    images, and the variance over images of the mean over seeds and networks, NaN if it is not known either: then the
    interval is of the repetitions only, and too narrow.
    """

    means: np.ndarray
    images: int
    variance: float


# Maps a level to the interval at that level; the data have been read already.
Estimate = Callable[[float], Interval]


def two_way(sets: list[np.ndarray], least: float, most: float, how: str = "two-way t") -> Estimate:
    """The estimate of a mean over networks with both seeds and images random. sets: an array [K, S, m] for each set of
    images, with values in [least, most]. how: the name of the method.
    """
    value, n_seeds, n_images = mean(sets), min(d.shape[1] for d in sets), sum(d.shape[2] for d in sets)
    if n_seeds < 2:
        return unknown_spread(value, n_seeds, n_images, "one seed")
    se, df = standard_error(*variances(sets))
    exact = exact_bounds(sets, least, most)

    def at(level: float) -> Interval:
        tail = tail_of(level)
        half = float(se * special.stdtrit(df, 1 - tail))
        low, high, method = value - half, value + half, how
        if exact:
            low, high = min(low, exact(tail)[0]), max(high, exact(tail)[1])
            method = f"{how}, at least Clopper-Pearson on images"
        return Interval(value, max(low, least), min(high, most), n_seeds, n_images, level, method)

    return at


def mean(sets: list[np.ndarray]) -> float:
    """The mean over networks, seeds and images; each network counts the same."""
    return float(sum(d.mean((1, 2)).sum() for d in sets) / sum(map(len, sets)))


def variances(sets: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The parts of the variance of the mean over networks and their degrees of freedom: for each network the part due
    to its seeds, for each set of images the part due to its images.
    """
    parts, n_networks = [], sum(map(len, sets))
    for d in sets:
        _, seeds, images = d.shape
        parts += [(by_seed / seeds, seeds - 1) for by_seed in d.mean(2).var(1, ddof=1)]
        parts.append((d.mean(1).sum(0).var(ddof=1) / images, images - 1))
    found, dfs = np.array(parts).T
    return found / n_networks**2, dfs


def standard_error(variances: np.ndarray, dfs: np.ndarray) -> tuple[float, float]:
    """The standard error whose square is the sum of `variances`, and Satterthwaite's degrees of freedom."""
    total = variances.sum()
    return math.sqrt(total), float(total**2 / (variances**2 / dfs).sum()) if total else 1.0


def exact_bounds(sets: list[np.ndarray], least: float, most: float,
                 at_an_end: int = RARE_AT_AN_END) -> Callable[[float], np.ndarray] | None:
    """Clopper-Pearson's bounds of the mean over networks, each missed with probability `tail` at most, as a function of
    `tail`; None unless all but `RARE` images of each set have one value in all seeds (all but `at_an_end` if that value
    is `least` or `most`).
    """
    bounds = []
    for d in sets:
        d = d.mean(0)
        common, images = float(np.median(d[0])), d.shape[1]  # if nearly all are equal, one seed shows to what
        above, below = np.maximum(d - common, 0), np.maximum(common - d, 0)
        if np.count_nonzero((d != common).any(0)) >= (at_an_end if common in (least, most) else RARE):
            return None
        # Deviations from the common value in units of the largest possible one: how many whole images they amount to.
        up = float(above.mean(0).sum()) / (most - common) if common < most else 0.0
        down = float(below.mean(0).sum()) / (common - least) if common > least else 0.0
        bounds.append((common, down, up, images))
    shares = [len(d) / sum(map(len, sets)) for d in sets]

    def at(tail: float) -> np.ndarray:
        found = []
        for common, down, up, images in bounds:
            losses, gains = (np.array([1 - binomial_upper(images - k, images, tail), binomial_upper(k, images, tail)])
                             for k in (down, up))
            found.append(common + (most - common) * gains - (common - least) * losses[::-1])
        return np.dot(shares, found)

    return at


def flat(values: np.ndarray) -> bool:
    return bool(np.ptp(values) <= 1e-12 * np.abs(values).max())  # equal up to rounding


def unknown_spread(value: float, n_seeds: int, n_images: int, why: str) -> Estimate:
    return lambda level: Interval(value, math.nan, math.nan, n_seeds, n_images, level, why)


def binomial_upper(k: float, n: int, tail: float) -> float:
    """The share at which k or fewer successes of n have probability `tail`; k may be fractional."""
    return 1.0 if k >= n else float(special.betaincinv(k + 1, n - k, 1 - tail))


def tail_of(level: float) -> float:
    need(0 < level < 1, "level", level, "between 0 and 1, such as 0.95")
    return (1 - level) / 2


def read_sets(name: str, data, dims: int, shape: str) -> list[np.ndarray]:
    """The array of each set of images, with an axis of networks before the last two (seeds and images). data: one array
    with `dims` axes or, with an axis of networks, one more; or a tuple of such arrays.
    """
    found = []
    for one in data if isinstance(data, tuple) else (data,):
        of_one = np.ndim(one) <= dims
        one = numbers(name, one, dims + (not of_one), shape)
        found.append(np.expand_dims(one, -3) if of_one else one)
        need(one.shape[-1] >= 2, "images", one.shape[-1], "at least 2")
    return found


def numbers(name: str, values, dims: int, shape: str) -> np.ndarray:
    values = np.asarray(values, dtype=float)
    need(values.ndim == dims and values.size > 0, name, f"of shape {values.shape}", f"a non-empty array {shape}")
    need(bool(np.isfinite(values).all()), name, "an array with NaN or infinity", "finite everywhere")
    return values
