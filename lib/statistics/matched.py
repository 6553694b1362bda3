"""Comparisons of two methods at equal cost: each trades a cost, such as clean accuracy, for a gain, such as robust
accuracy, by its strength, so that means at single strengths compare two places on two curves.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lib.errors import need
from lib.statistics.two_way import (
    Estimate,
    mean,
    numbers,
    standard_error,
    two_way,
    unknown_spread,
    variances,
)

APART = 3  # standard errors by which the costs of the two strengths must differ, so that a line through them is known
ALIKE = "two strengths of about equal cost"  # the method of an interval without bounds for this reason


def bracket(aim: float, costs: Sequence[float]) -> tuple[int, int] | None:
    """The positions of two strengths of a method between whose costs `aim` lies. costs: at strengths in increasing
    order. The two are neighbours, the strongest such pair if there are several; None if there is none.
    """
    pairs = [(k, k + 1) for k in range(len(costs) - 1) if min(costs[k:k + 2]) <= aim <= max(costs[k:k + 2])]
    return pairs[-1] if pairs else None


def at_equal_cost(gains, costs) -> np.ndarray:
    """The outcomes of a method minus those of another one at equal cost, [S, m], for seeds s and images i.

    gains, costs: [3, S, m], outcomes in [-1, 1] of the method and of two strengths of the other one, measured on the
    same images with paired seeds. Let r be the means of gains over seeds and images, c those of costs, 1 and 2 the two
    strengths, k = (r_2 - r_1) / (c_2 - c_1) and w = (c - c_1) / (c_2 - c_1). The other method's gain at cost c is
    (1 - w) r_1 + w r_2 on the line through both strengths. Returned are

        (gain - (1 - w) gain_1 - w gain_2) - k (cost - (1 - w) cost_1 - w cost_2)

    for each seed and image: their mean is the difference at equal cost, and their variances are the first order of its
    variances (the delta method), the errors of w included. If r and c bend, the line is a chord: a curve of the other
    method that bulges upwards lies above it. NaN if both strengths have the same cost. Raises SettingsError for other
    shapes and values.
    """
    gains, costs = (numbers(name, values, 3, "[3, seeds, images]") for name, values in
                    (("gains", gains), ("costs", costs)))
    need(gains.shape == costs.shape and len(gains) == 3, "shapes of gains and costs", (gains.shape, costs.shape),
         "equal, [3, seeds, images]: the method, then two strengths of the other one")
    need(max(np.abs(gains).max(), np.abs(costs).max()) <= 1, "gains and costs", "an array with other values",
         "outcomes, in [-1, 1]")
    (_, r1, r2), (c, c1, c2) = gains.mean((1, 2)), costs.mean((1, 2))
    if c1 == c2:
        return np.full(gains.shape[1:], np.nan)
    slope, share = (r2 - r1) / (c2 - c1), (c - c1) / (c2 - c1)
    between = [one[0] - (1 - share) * one[1] - share * one[2] for one in (gains, costs)]
    return between[0] - slope * between[1]


def of_matched(outcomes) -> Estimate:
    """The estimate of the mean of `at_equal_cost`. outcomes: [2, 3, S, m], gains and costs. There are no bounds unless
    the costs of the two strengths differ by APART standard errors.
    """
    outcomes = numbers("d", outcomes, 4, "[2, 3, seeds, images]")
    gains, costs = outcomes
    _, n_seeds, n_images = gains.shape
    apart = costs[2:3] - costs[1:2]
    d = at_equal_cost(gains, costs)
    if n_seeds < 2 or abs(mean([apart])) <= APART * standard_error(*variances([apart]))[0]:
        return unknown_spread(mean([d[None]]), n_seeds, n_images, "one seed" if n_seeds < 2 else ALIKE)
    most = max(1.0, float(np.abs(d).max()))
    return two_way([d[None]], -most, most, "two-way t at equal cost")
