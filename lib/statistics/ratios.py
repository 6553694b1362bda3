"""Ratios of accuracies, with both seeds and images random."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy import special

from lib.errors import need
from lib.statistics.two_way import (
    RARE,
    Estimate,
    Interval,
    exact_bounds,
    mean,
    read_sets,
    standard_error,
    tail_of,
    unknown_spread,
    variances,
)

# Maps the probability with which each bound is missed to the two bounds.
Bounds = Callable[[float], tuple[float, float]]


def of_ratio(outcomes) -> Estimate:
    """The estimate of `lib.statistics.ratio`."""
    pairs = read_sets("ratio", outcomes, 3, "[2, seeds, images]")
    for pair in pairs:
        need(len(pair) == 2, "ratio", f"of shape {pair.shape}", "of shape [2, seeds, images]: first a, then b of a / b")
        need(0 <= pair.min() and pair.max() <= 1, "ratio", "an array with other values", "outcomes, in [0, 1]")
    a, b = ([pair[which] for pair in pairs] for which in (0, 1))
    n_seeds, n_images, whole = min(d.shape[1] for d in b), sum(d.shape[2] for d in b), mean(b)
    if n_seeds < 2 or not whole:
        return unknown_spread(mean(a) / whole if whole else math.nan, n_seeds, n_images,
                               "one seed" if n_seeds < 2 else "nothing to divide by")
    near_zero = any(net.mean() < 3 * standard_error(*variances([net]))[0] for one in b for net in one[:, None])
    inverted = near_zero or any((one.mean(2) == 0).any() for one in (*a, *b))
    value, bounds = (_inverted if inverted else _by_logarithms)(a, b)
    # Nearly nothing is right in a, or nearly all images are alike in a and b: exact bounds of a - c b, as in `two_way`.
    minus = {c: [x - c * y for x, y in zip(a, b, strict=True)] for c in (0, 1)}
    rare = [(c, exact) for c, d in minus.items() if (exact := exact_bounds(d, -c, 1, RARE))]

    def at(level: float) -> Interval:
        tail = tail_of(level)
        low, high = bounds(tail)
        for c, exact in rare:
            least, most = c + exact(tail) / whole
            low, high = min(low, least), max(high, most)
        method = "test of a - r b" if inverted else "two-way t of log-ratios"
        return Interval(value, max(float(low), 0.0), float(high), n_seeds, n_images, level,
                        method + ", at least Clopper-Pearson on images" * bool(rare))

    return at


def _by_logarithms(a: list[np.ndarray], b: list[np.ndarray]) -> tuple[float, Bounds]:
    """The geometric mean of ratios and its bounds, each missed with probability `tail`, as a function of `tail`."""
    psi = []
    for x, y in zip(a, b, strict=True):
        x_s, y_s = x.mean(2, keepdims=True), y.mean(2, keepdims=True)
        psi.append(np.log(x_s / y_s) + x / x_s - y / y_s)
    value, (se, df) = mean(psi), standard_error(*variances(psi))

    def bounds(tail: float) -> tuple[float, float]:
        half = se * special.stdtrit(df, 1 - tail)
        with np.errstate(over="ignore"):  # e^1000 is infinite, no error
            return np.exp(value - half), np.exp(value + half)

    return math.exp(value), bounds


def _inverted(a: list[np.ndarray], b: list[np.ndarray]) -> tuple[float, Bounds]:
    """The ratio of means, and as its bounds the smallest and the largest r for which the interval of a - r b holds 0.
    r is the tangent of an angle, so that 90 degrees stand for infinity.
    """
    (of_a, dfs), (of_b, _) = variances(a), variances(b)
    shared = (variances([x + y for x, y in zip(a, b, strict=True)])[0] - of_a - of_b) / 2  # covariances
    top, bottom = mean(a), mean(b)

    def bounds(tail: float) -> tuple[float, float]:
        def possible(angle: float) -> bool:
            x, y = math.cos(angle), math.sin(angle)
            se, df = standard_error(np.maximum(x * x * of_a - 2 * x * y * shared + y * y * of_b, 0), dfs)
            return abs(x * top - y * bottom) <= se * special.stdtrit(df, 1 - tail)

        def furthest(end: float) -> float:
            inside, outside = (end, end) if possible(end) else (math.atan2(top, bottom), end)
            for _ in range(50):
                middle = (inside + outside) / 2
                inside, outside = (middle, outside) if possible(middle) else (inside, middle)
            return math.tan(inside) if inside < math.pi / 2 else math.inf

        return furthest(0.0), furthest(math.pi / 2)

    return top / bottom, bounds
