"""P-values from intervals, and corrections for many comparisons."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from lib.errors import need, unknown
from lib.statistics.two_way import Estimate

_P_FLOOR = 1e-9  # smaller p-values are not resolved


def p_value(interval_at: Estimate, margin: float, side: str) -> float:
    """One-sided p-value against "the true value is not `side` ('above' or 'below') the margin".

    It is the smallest error rate at which the bound still clears the margin, so p < 0.025 exactly if the bound of the
    95 % interval clears it, whatever the interval's method; for t intervals this is the one-sided t test. NaN if the
    bounds are NaN; not resolved below 1e-9. Raises SettingsError for another side.
    """
    if side not in ("above", "below"):
        raise unknown("side", side, ("above", "below"))

    def clears(alpha: float, way: str) -> bool:
        interval = interval_at(1 - 2 * alpha)
        return interval.low > margin if way == "above" else interval.high < margin

    def smallest(way: str) -> float:
        low, high = math.log(_P_FLOOR), math.log(0.4999)
        if not clears(math.exp(high), way):
            return 0.5
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (low, middle) if clears(math.exp(middle), way) else (middle, high)
        return math.exp(high)

    if math.isnan(interval_at(0.95).low):
        return math.nan
    p = smallest(side)
    return p if p < 0.5 else 1 - smallest("below" if side == "above" else "above")


def bonferroni(level: float, n: int) -> float:
    """The level that each of n intervals needs so that all n together have `level`."""
    need(n >= 1, "n", n, "a whole number of at least 1")
    return 1 - (1 - level) / n


def holm(p: Sequence[float]) -> np.ndarray:
    """Holm's step-down adjusted p-values, in the given order; NaN stays NaN and is not counted."""
    p = np.asarray(p, dtype=float)
    adjusted = np.full(p.shape, np.nan)
    order = [i for i in np.argsort(p) if not np.isnan(p[i])]
    highest = 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, float(p[i]) * (len(order) - rank)))
        adjusted[i] = highest
    return adjusted
