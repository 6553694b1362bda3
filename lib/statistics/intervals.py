"""Intervals of the statistics; the rules that they share are in lib/statistics."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy import special

from lib.errors import is_int, need, unknown
from lib.statistics.matched import at_equal_cost, of_matched
from lib.statistics.ratios import of_ratio
from lib.statistics.two_way import (
    Estimate,
    Interval,
    Moments,
    binomial_upper,
    flat,
    numbers,
    read_sets,
    standard_error,
    tail_of,
    two_way,
    unknown_spread,
)

MIN_PAIRED = 3  # seeds, so that a pair of networks remains when one seed is left out


def paired_difference(d, level: float = 0.95) -> Interval:
    """The mean of per-image differences between two conditions, measured on the same images with paired seeds.

    d: [S, m] for seeds s and images i, in [-1, 1] (correct minus correct, or minus a fraction of correct); for the mean
    over K networks [K, S, m] if they were measured on the same images, or else a tuple of such arrays, one for each set
    of images. Seeds of different networks are independent.
    se^2 = sum_n var_s(mean_i d) / (K^2 S) + sum over sets of images of var_i(sum_n mean_s d) / (K^2 m), Student t with
    Satterthwaite's degrees of freedom. If nearly all differences are the same, the interval is at least as wide as
    Clopper-Pearson's for m images (m, not S x m).
    Simulated coverage at 95 %: 95-98 % if seeds scatter d by 0.6 points (SD), 92-96 % if by 2 or 5 points; the lowest
    is 92 %, for 3 seeds that scatter by much more than the images do.
    At equal cost: [2, 3, S, m], gains and costs as for `at_equal_cost`, whose mean is then meant.
    Raises SettingsError for another shape, values outside [-1, 1] or fewer than 2 images.
    """
    return estimate("difference", d)(level)


def accuracy(correct, level: float = 0.95) -> Interval:
    """The share of correct outcomes. correct: bool [S, m], seeds and images, or as for `paired_difference`, like the
    standard error; if (nearly) all outcomes are the same, the interval is at least as wide as Clopper-Pearson's for m
    images. Simulated coverage at 95 %: as of `paired_difference`; but 91-93 % if seeds scatter by half of the accuracy,
    where the upper bound errs in 7 %, and 97-99.5 % for accuracies of half a percent. Raises SettingsError for another
    shape, other values or fewer than 2 images.
    """
    return estimate("accuracy", correct)(level)


def seeds(values, level: float = 0.95) -> Interval:
    """The mean of one number per seed, values: [S], or [S, m], whose means over m images are meant; the noise of these
    images is then left out (`crossed` has it). Student t with S - 1 degrees of freedom; bounds are NaN for one seed or
    equal values. Numbers must be about normal: of exponential ones it covers 89 % at 95 %, since the bound on
    the side of the long tail errs in 11 %.
    """
    return estimate("seeds", values)(level)


def ratio(outcomes, level: float = 0.95) -> Interval:
    """The ratio of two conditions' accuracies, measured on the same images with paired seeds: the geometric mean over
    seeds (and networks) of a_s / b_s.

    outcomes: [2, S, m] for numerator and denominator, seeds s and images i, in [0, 1]; for the geometric mean over K
    networks [2, K, S, m] if they were measured on the same images, or else a tuple of such arrays, one for each set of
    images. The exponential of the interval that `paired_difference` gives for
    psi = log(a_s / b_s) + (a_si - a_s) / a_s - (b_si - b_s) / b_s, the logarithm's first-order value by image. If an
    a_s is 0, or b is within 3 standard errors of 0, the interval holds the ratios r for which the interval of a - r b
    holds 0 (means over networks first), and ends at infinity if b may be 0 at this `level`. Simulated coverage as of
    `paired_difference`; 96-100 % for accuracies of half a percent.
    """
    return estimate("ratio", outcomes)(level)


def crossed(values, level: float = 0.95) -> Interval:
    """The mean of a summary of similarity maps. values: [S, B], the result of `jackknife`, or one number per seed and
    minibatch of images, with the same minibatches for all seeds; in the summary's unit, of any size.

    se^2 = var_s(mean_b) / S + var_b(mean_s) / B, Student t with Satterthwaite's degrees of freedom. Bounds are NaN for
    fewer than three seeds, or if seeds or minibatches do not differ at all. Raises SettingsError for one minibatch.
    Simulated coverage at 95 % for 3 to 8 seeds and 8 minibatches, means over networks and over pairs: 92.5-99 %.
    """
    return estimate("map", values)(level)


def jackknife(summary: Callable[[int | None, int | None], float], seeds: int, batches: int) -> np.ndarray:
    """Pseudo-values [seeds, batches] (float64) of a summary of similarity maps, as input to statistic 'map'.

    summary(without_seed, without_batch): the summary of all networks and minibatches except those with this number
    (from 0; None: leave none out). A seed is one repetition: leaving it out removes its network of every type, and each
    pair that includes one of these networks. The function is called once with nothing left out, once per seed and once
    per minibatch, never with both left out.

    Quenouille's and Tukey's pseudo-values ps_s = S full - (S - 1) without s, and likewise ps_b by minibatch, are
    combined as ps_s + ps_b - full: the mean is corrected for both biases, and `crossed` computes the sum of the two
    jackknife variances for it (Tukey 1958). This is exact for means over networks. For a mean over pairs, the variance
    due to a pair beyond that of its two networks is counted too often (four times for pairs among 3 networks), which
    errs on the safe side. Fewer than three seeds are not left out, since no pair would remain: all rows are then equal,
    and there are no bounds.

    Raises SettingsError for no seed, for fewer than two minibatches (one does not show the noise of the images) and for
    a summary that is not a finite number.
    """
    need(is_int(seeds, 1), "seeds", seeds, "a whole number of at least 1")
    _need_batches(batches)

    def value(seed: int | None, batch: int | None, which: str) -> float:
        found = float(summary(seed, batch))
        need(math.isfinite(found), f"summary{which}", found, "a finite number")
        return found

    full = value(None, None, "")
    without = np.array([value(None, b, f" without minibatch {b}") for b in range(batches)])
    by_batch = batches * full - (batches - 1) * without
    by_seed = np.full(seeds, full)
    if seeds >= MIN_PAIRED:
        without = np.array([value(s, None, f" without seed {s}") for s in range(seeds)])
        by_seed = seeds * full - (seeds - 1) * without
    return by_seed[:, None] + by_batch[None, :] - full


def clopper_pearson(k: int, n: int, level: float = 0.95) -> Interval:
    """The exact interval of a share, in [0, 1], from k successes on n independent images. Raises SettingsError for k or
    n that are not whole numbers with 0 <= k <= n and n >= 1.
    """
    need(isinstance(n, (int, np.integer)) and n >= 1, "n", n, "a whole number of at least 1")
    need(isinstance(k, (int, np.integer)) and 0 <= k <= n, "k", k, f"a whole number from 0 to {n}")
    tail = tail_of(level)
    return Interval(k / n, 1 - binomial_upper(n - k, n, tail), binomial_upper(k, n, tail), 1, int(n), level,
                    "Clopper-Pearson")


def correlation(one, other) -> float:
    """Pearson's correlation of two arrays [n]; 0 if one of them is constant."""
    return float(np.corrcoef(one, other)[0, 1]) if np.std(one) and np.std(other) else 0.0


# -------------------------------------------------------------------------------------------------------- statistics


def estimate(statistic: str, data) -> Estimate:
    """Read the data once and return the interval as a function of the level.

    statistic: 'difference' (data as for `paired_difference`), 'accuracy' ([S, m] of 0 and 1), 'ratio' (as for `ratio`),
    'seeds' (as for `seeds`) or 'map' ([S, B]: seeds and minibatches). For 'difference', 'accuracy' and 'map' data may
    be `Moments`. Raises SettingsError for an unknown statistic and for data that do not fit it.
    """
    if statistic not in STATISTICS:
        raise unknown("statistic", statistic, STATISTICS)
    return _of_moments(statistic, data) if isinstance(data, Moments) else STATISTICS[statistic](data)


def without_missing(data):
    """Data as for `estimate`, as arrays, without the seeds for which a value is NaN (the network failed)."""
    if isinstance(data, Moments):
        return data
    sets = _sets(data)
    lost = [np.isnan(one).any(tuple(k for k in range(one.ndim) if k != _seed_axis(one))) for one in sets]
    left = sets
    if any(one.any() for one in lost):
        left = [np.compress(~np.any(lost, axis=0), one, _seed_axis(one)) for one in sets]
    return tuple(left) if isinstance(data, tuple) else left[0]


def repetitions(data) -> int:
    """The number of seeds in data as for `estimate`."""
    if isinstance(data, Moments):
        return data.means.shape[-1]
    first = _sets(data)[0]
    return first.shape[_seed_axis(first)]


def _seed_axis(data: np.ndarray) -> int:
    return max(data.ndim - 2, 0)  # the last is of images


def _sets(data) -> list[np.ndarray]:
    return [np.asarray(one, float) for one in (data if isinstance(data, tuple) else (data,))]


def by_seed(statistic: str, data) -> tuple[np.ndarray, int]:
    """What each seed contributes, [S], means over networks (of ratios geometric ones), and the number of images or
    minibatches that it is a mean of (1 for statistic 'seeds'). statistic, data: as for `estimate`.
    """
    if isinstance(data, Moments):
        return np.atleast_2d(data.means).mean(0), data.images
    sets = [_one_each(one)[:, None] if statistic == "seeds" else one for one in _sets(data)]
    if statistic == "difference" and sets[0].ndim == 4:
        sets = [at_equal_cost(*one) for one in sets]
    of_both = 2 if statistic == "ratio" else 1
    means = np.concatenate([one.mean(-1).reshape(of_both, -1, one.shape[-2]) for one in sets], 1)
    over = sum(one.shape[-1] for one in sets)
    if statistic != "ratio":
        return means[0].mean(0), over
    with np.errstate(divide="ignore", invalid="ignore"):  # division by 0 gives inf or NaN
        return np.prod(means[0] / means[1], 0) ** (1 / means.shape[1]), over


def _difference(d) -> Estimate:
    if not isinstance(d, tuple) and np.ndim(d) == 4 and np.shape(d)[:2] == (2, 3):
        return of_matched(d)
    sets = read_sets("d", d, 2, "[seeds, images]")
    most = max(np.abs(one).max() for one in sets)
    need(most <= 1, "d", f"up to {most:g}", "in [-1, 1], differences of outcomes")
    return two_way(sets, -1.0, 1.0)


def _accuracy(correct) -> Estimate:
    sets = read_sets("correct", correct, 2, "[seeds, images]")
    need(all(np.isin(one, (0, 1)).all() for one in sets), "correct", "an array with other values",
         "true or false (1 or 0) everywhere")
    return two_way(sets, 0.0, 1.0)


def _map(values) -> Estimate:
    values = numbers("values", values, 2, "[seeds, minibatches]")
    (n_seeds, n_batches), value = values.shape, float(values.mean())
    _need_batches(n_batches)
    if n_seeds < MIN_PAIRED:
        return unknown_spread(value, n_seeds, 0, f"fewer than {MIN_PAIRED} seeds")
    for unit, means in (("seeds", values.mean(1)), ("minibatches", values.mean(0))):
        if flat(means):
            return unknown_spread(value, n_seeds, 0, f"no spread over {unit}")
    se, df = standard_error(np.array([values.mean(1).var(ddof=1) / n_seeds, values.mean(0).var(ddof=1) / n_batches]),
                             np.array([n_seeds - 1, n_batches - 1]))

    def at(level: float) -> Interval:
        half = float(se * special.stdtrit(df, 1 - tail_of(level)))
        return Interval(value, value - half, value + half, n_seeds, 0, level, f"two-way t, {n_batches} minibatches")

    return at


def _of_moments(statistic: str, data: Moments) -> Estimate:
    bounds = {"difference": (-1.0, 1.0), "accuracy": (0.0, 1.0), "map": (-math.inf, math.inf)}
    if statistic not in bounds:
        raise unknown("statistic of moments", statistic, bounds)
    (least, most), means = bounds[statistic], np.atleast_2d(data.means)
    n_networks, n_seeds = means.shape
    need(n_seeds >= MIN_PAIRED, "moments", f"of {n_seeds} seeds", f"of {MIN_PAIRED} or more")
    parts = [(of_seeds / n_seeds / n_networks**2, n_seeds - 1) for of_seeds in means.var(1, ddof=1)]
    known = not math.isnan(data.variance)
    se, df = standard_error(*np.array([*parts, *[(data.variance / data.images, data.images - 1)][:known]]).T)
    value = float(means.mean())
    images, what = (0, f", {data.images} minibatches") if statistic == "map" else (data.images, "")
    method = f"two-way t{what}, by moments" if known else "t over seeds, interval of repetitions only"

    def at(level: float) -> Interval:
        half = float(se * special.stdtrit(df, 1 - tail_of(level)))
        return Interval(value, max(value - half, least), min(value + half, most), n_seeds, images, level, method)

    return at


def _need_batches(batches: int) -> None:
    need(is_int(batches, 2), "minibatches", batches, "at least 2, to know the noise of the images; take smaller ones")


def _one_each(values: np.ndarray) -> np.ndarray:
    """[S], the means over images of values [S, m]; values of another shape as they are."""
    return values.mean(1) if values.ndim == 2 else values


def _seeds(values) -> Estimate:
    values = numbers("values", _one_each(np.asarray(values, float)), 1, "[seeds]")
    n, value = len(values), float(values.mean())
    if n < 2 or flat(values):
        return unknown_spread(value, n, 0, "one seed" if n < 2 else "no spread over seeds")
    se = values.std(ddof=1) / math.sqrt(n)

    def at(level: float) -> Interval:
        half = float(se * special.stdtrit(n - 1, 1 - tail_of(level)))
        return Interval(value, value - half, value + half, n, 0, level, "t over seeds")

    return at


STATISTICS = {"difference": _difference, "accuracy": _accuracy, "ratio": of_ratio, "seeds": _seeds, "map": _map}
