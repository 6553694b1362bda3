"""Intervals and p-values for repeated trainings measured on the same images; numpy and scipy only.

Both the seed (one training) and the test image are random: an interval that ignores either is too narrow. All intervals
are two-sided at `level` (at 0.95 each bound errs in 2.5 % of cases). Bounds are NaN for fewer than two seeds (of
similarity maps: three), and for a spread of exactly zero unless there is another bound on it: an interval of width 0
would claim certainty. `benchmarks/run.sh coverage` simulates how often they hold the true value.
"""

from lib.statistics.comparisons import bonferroni, holm, p_value
from lib.statistics.intervals import (
    STATISTICS,
    accuracy,
    by_seed,
    clopper_pearson,
    correlation,
    crossed,
    estimate,
    jackknife,
    paired_difference,
    ratio,
    repetitions,
    seeds,
    without_missing,
)
from lib.statistics.matched import ALIKE, at_equal_cost, bracket
from lib.statistics.two_way import Estimate, Interval, Moments

__all__ = ["ALIKE", "STATISTICS", "Estimate", "Interval", "Moments", "accuracy", "at_equal_cost", "bonferroni",
           "bracket", "by_seed", "clopper_pearson", "correlation", "crossed", "estimate", "holm", "jackknife",
           "p_value", "paired_difference", "ratio", "repetitions", "seeds", "without_missing"]
