"""Intervals and p-values for repeated trainings measured on the same images; numpy and scipy only.

The seed (one training) and the test image are both random: an interval that forgets either is too narrow. All
intervals are two-sided at `level` (0.95: each bound alone errs in 2.5 %). Fewer than two seeds (of maps: three) give
NaN bounds, and so does a spread of exactly zero where nothing else bounds it: an interval of width 0 would claim
certainty.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import special

from lib.errors import is_int, need, unknown

# Below this number of images that depart from the common outcome, normal theory is too narrow and exact binomial
# bounds on the images take over where they are wider.
RARE = 10
MIN_PAIRED = 3  # seeds: without one of them a pair of networks must be left
_P_FLOOR = 1e-9  # p-values are not resolved below


@dataclass(frozen=True)
class Interval:
    """An estimate and its bounds. `n_images` is 0 where images play no part or come in minibatches; `method` names
    the formula used."""

    value: float
    low: float
    high: float
    n_seeds: int
    n_images: int
    level: float
    method: str


# An estimate that can be asked for its interval at any level; the data have been read once.
Estimate = Callable[[float], Interval]


def paired_difference(d, level: float = 0.95) -> Interval:
    """The mean of per-image differences between two arms, measured on the same images with paired seeds.

    d: [S, m], seed s and image i, in [-1, 1] (correct minus correct, or minus a fraction of correct).
    se^2 = var_s(mean_i d) / S + var_i(mean_s d) / m, Student t with Satterthwaite's degrees of freedom. When nearly
    all differences are the same, never narrower than Clopper-Pearson's bounds on m images allow (m, not S x m).
    Simulated coverage at 95 %: 94-98 % where seeds scatter d by 2 points (SD); 91 % at worst, 3 seeds and 5 points.
    """
    return estimate("difference", d)(level)


def accuracy(correct, level: float = 0.95) -> Interval:
    """The share of correct outcomes. correct: bool [S, m]. The standard error is that of `paired_difference`; all or
    nearly all right (wrong): never narrower than Clopper-Pearson's interval of m images."""
    return estimate("accuracy", correct)(level)


def seeds(values, level: float = 0.95) -> Interval:
    """The mean of one number per seed. values: [S]. Student t with S - 1 degrees of freedom."""
    return estimate("seeds", values)(level)


def log_ratio(a, b, level: float = 0.95) -> Interval:
    """The ratio of two paired arms, each [S] and measured above its chance level.

    exp of the t interval of log(a / b): the value is the geometric mean ratio. `fieller` where the denominator lies
    within 3 standard errors of 0 or a logarithm does not exist.
    """
    return estimate("ratio", _pairs(a, b))(level)


def fieller(a, b, level: float = 0.95) -> Interval:
    """Fieller's interval of mean(a) / mean(b), paired arms [S] each; -inf to inf when mean(b) may be 0 at `level`."""
    return _fieller(_pairs(a, b))(level)


def crossed(values, level: float = 0.95) -> Interval:
    """The mean of a summary of similarity maps. values: [S, B], what `jackknife` returns, or one number per seed and
    minibatch of images, all seeds on the same minibatches; in the summary's unit, without bounds.

    se^2 = var_s(mean_b) / S + var_b(mean_s) / B, Student t with Satterthwaite's degrees of freedom. No bounds below
    three seeds, or where seeds or minibatches do not differ at all; raises SettingsError for one minibatch.
    Simulated coverage at 95 %, 3 and 5 seeds, 8 minibatches, means over networks and over pairs: 92.5-98.5 %.
    """
    return estimate("map", values)(level)


def jackknife(summary: Callable[[int | None, int | None], float], seeds: int, batches: int) -> np.ndarray:
    """Pseudo-values [seeds, batches] (float64) of a summary of similarity maps, as statistic 'map' reads them.

    summary(without_seed, without_batch): the summary of all networks and minibatches but those of this number (from 0;
    None: leave none out). A seed is one repetition: it takes with it its network of every type, and each pair of
    networks that has one of them. Called once for all, once per seed and once per minibatch, never without both.

    Quenouille's and Tukey's pseudo-values ps_s = S full - (S - 1) without s, by minibatch likewise, are put together as
    ps_s + ps_b - full: the mean is corrected for both biases, and `crossed` finds for it the sum of the two jackknife
    variances (Tukey 1958). Exact for means over networks; of a mean over pairs it counts what a pair has beyond its
    two networks too often (four times for pairs among 3 networks), which errs on the safe side.
    Fewer than three seeds are not left out, since no pair would remain: all rows are equal, and give no bounds.
    Raises SettingsError for no seed, for fewer than two minibatches (the noise of the images cannot be known from one)
    and for a summary that is no finite number.
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
    """The exact interval of a share from k successes on n independent images."""
    need(isinstance(n, (int, np.integer)) and n >= 1, "n", n, "a whole number of at least 1")
    need(isinstance(k, (int, np.integer)) and 0 <= k <= n, "k", k, f"a whole number from 0 to {n}")
    tail = _tail(level)
    return Interval(k / n, 1 - _binomial_upper(n - k, n, tail), _binomial_upper(k, n, tail), 1, int(n), level,
                    "Clopper-Pearson")


def correlation(one, other) -> float:
    """Pearson's, of two [n]; 0 where one of them does not change."""
    return float(np.corrcoef(one, other)[0, 1]) if np.std(one) and np.std(other) else 0.0


# ------------------------------------------------------------------------------------------------- many comparisons


def p_value(interval_at: Estimate, margin: float, side: str) -> float:
    """One-sided p-value against "the true value is not `side` ('above' or 'below') the margin".

    The smallest error rate at which the bound still clears the margin, so that p < 0.025 exactly when the bound of the
    95 % interval does, whatever the interval's method; for t intervals it is the one-sided t test. NaN when the bounds
    are; not resolved below 1e-9.
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
    """The level at which each of n intervals must stand for all n together to keep `level`."""
    need(n >= 1, "n", n, "a whole number of at least 1")
    return 1 - (1 - level) / n


def holm(p: Sequence[float]) -> np.ndarray:
    """Holm's step-down adjusted p-values, in the order given; NaN stays NaN and does not count."""
    p = np.asarray(p, dtype=float)
    adjusted = np.full(p.shape, np.nan)
    order = [i for i in np.argsort(p) if not np.isnan(p[i])]
    highest = 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, float(p[i]) * (len(order) - rank)))
        adjusted[i] = highest
    return adjusted


# -------------------------------------------------------------------------------------------------------- statistics


def estimate(statistic: str, data) -> Estimate:
    """Read the data once and return the interval as a function of the level.

    statistic: 'difference' (data [S, m] in [-1, 1]), 'accuracy' ([S, m] of 0 and 1), 'ratio' ([2, S]: numerators and
    denominators above chance), 'seeds' ([S]) or 'map' ([S, B]: seeds and minibatches).
    """
    if statistic not in STATISTICS:
        raise unknown("statistic", statistic, STATISTICS)
    return STATISTICS[statistic](data)


def _difference(d) -> Estimate:
    d = _numbers("d", d, 2, "[seeds, images]")
    need(np.abs(d).max() <= 1, "d", f"up to {np.abs(d).max():g}", "in [-1, 1], differences of outcomes")
    return _two_way(d, -1.0, 1.0)


def _accuracy(correct) -> Estimate:
    correct = _numbers("correct", correct, 2, "[seeds, images]")
    need(np.isin(correct, (0, 1)).all(), "correct", "an array with other values", "true or false (1 or 0) everywhere")
    return _two_way(correct, 0.0, 1.0)


def _two_way(d: np.ndarray, least: float, most: float) -> Estimate:
    """Seeds and images both random. d: [S, m] with values in [least, most]."""
    (n_seeds, n_images), value = d.shape, float(d.mean())
    need(n_images >= 2, "images", n_images, "at least 2")
    if n_seeds < 2:
        return _unknown_spread(value, n_seeds, n_images, "one seed")
    se, df = _standard_error(d)

    common = float(np.median(d))
    rare = np.count_nonzero((d != common).any(0)) < RARE
    # Departures from the common value in units of the largest possible one: how many whole images they amount to.
    up = float(np.maximum(d - common, 0).mean(0).sum()) / (most - common) if common < most else 0.0
    down = float(np.maximum(common - d, 0).mean(0).sum()) / (common - least) if common > least else 0.0

    def at(level: float) -> Interval:
        tail = _tail(level)
        half = float(se * special.stdtrit(df, 1 - tail))
        low, high, method = value - half, value + half, "two-way t"
        if rare:
            low = min(low, common - (common - least) * _binomial_upper(down, n_images, tail))
            high = max(high, common + (most - common) * _binomial_upper(up, n_images, tail))
            method = "two-way t, at least Clopper-Pearson on images"
        return Interval(value, max(low, least), min(high, most), n_seeds, n_images, level, method)

    return at


def _standard_error(d: np.ndarray) -> tuple[float, float]:
    """Of the mean of d [S, m] with rows and columns both random, and Satterthwaite's degrees of freedom."""
    rows, columns = d.shape
    by_row, by_column = d.mean(1).var(ddof=1) / rows, d.mean(0).var(ddof=1) / columns
    total = by_row + by_column
    df = total**2 / (by_row**2 / (rows - 1) + by_column**2 / (columns - 1)) if total else 1.0
    return math.sqrt(total), float(df)


def _map(values) -> Estimate:
    values = _numbers("values", values, 2, "[seeds, minibatches]")
    (n_seeds, n_batches), value = values.shape, float(values.mean())
    _need_batches(n_batches)
    if n_seeds < MIN_PAIRED:
        return _unknown_spread(value, n_seeds, 0, f"fewer than {MIN_PAIRED} seeds")
    for unit, means in (("seeds", values.mean(1)), ("minibatches", values.mean(0))):
        if _flat(means):
            return _unknown_spread(value, n_seeds, 0, f"no spread over {unit}")
    se, df = _standard_error(values)

    def at(level: float) -> Interval:
        half = float(se * special.stdtrit(df, 1 - _tail(level)))
        return Interval(value, value - half, value + half, n_seeds, 0, level, f"two-way t, {n_batches} minibatches")

    return at


def _need_batches(batches: int) -> None:
    need(is_int(batches, 2), "minibatches", batches, "at least 2, to know the noise of the images; take smaller ones")


def _seeds(values) -> Estimate:
    values = _numbers("values", values, 1, "[seeds]")
    n, value = len(values), float(values.mean())
    if n < 2 or _flat(values):
        return _unknown_spread(value, n, 0, "one seed" if n < 2 else "no spread over seeds")
    se = values.std(ddof=1) / math.sqrt(n)

    def at(level: float) -> Interval:
        half = float(se * special.stdtrit(n - 1, 1 - _tail(level)))
        return Interval(value, value - half, value + half, n, 0, level, "t over seeds")

    return at


def _ratio(pairs) -> Estimate:
    pairs = _numbers("ratio", pairs, 2, "[2, seeds]")
    need(len(pairs) == 2, "ratio", f"of shape {pairs.shape}", "of shape [2, seeds]: numerators and denominators")
    a, b = pairs
    if (pairs <= 0).any() or (len(b) > 1 and b.mean() < 3 * b.std(ddof=1) / math.sqrt(len(b))):
        return _fieller(pairs)
    of_logs = _seeds(np.log(a) - np.log(b))

    def at(level: float) -> Interval:
        logs = of_logs(level)
        method = logs.method.replace("t over seeds", "t of log-ratios")
        value, low, high = (float(x) for x in np.exp((logs.value, logs.low, logs.high)))  # e^1000 is inf, no error
        return replace(logs, value=value, low=low, high=high, method=method)

    return at


def _fieller(pairs: np.ndarray) -> Estimate:
    n = pairs.shape[1]
    a, b = pairs.mean(1)
    value = float(a / b) if b else math.nan
    if n < 2 or (_flat(pairs[0]) and _flat(pairs[1])):
        return _unknown_spread(value, n, 0, "one seed" if n < 2 else "no spread over seeds")
    (aa, ab), (_, bb) = np.cov(pairs) / n

    def at(level: float) -> Interval:
        t2 = special.stdtrit(n - 1, 1 - _tail(level)) ** 2
        # The ratios r with (a - r b)^2 <= t^2 var(a - r b); no bound exists when b = 0 is among the possible.
        x, y, z = b * b - t2 * bb, a * b - t2 * ab, a * a - t2 * aa
        low, high = -math.inf, math.inf
        if x > 0:
            root = math.sqrt(max(y * y - x * z, 0.0))
            low, high = float((y - root) / x), float((y + root) / x)
        return Interval(value, low, high, n, 0, level, "Fieller")

    return at


STATISTICS = {"difference": _difference, "accuracy": _accuracy, "ratio": _ratio, "seeds": _seeds, "map": _map}


def _flat(values: np.ndarray) -> bool:
    return bool(np.ptp(values) <= 1e-12 * np.abs(values).max())  # equal up to rounding


def _unknown_spread(value: float, n_seeds: int, n_images: int, why: str) -> Estimate:
    return lambda level: Interval(value, math.nan, math.nan, n_seeds, n_images, level, why)


def _binomial_upper(k: float, n: int, tail: float) -> float:
    """The share at which k or fewer of n have probability `tail`; k may be fractional."""
    return 1.0 if k >= n else float(special.betaincinv(k + 1, n - k, 1 - tail))


def _tail(level: float) -> float:
    need(0 < level < 1, "level", level, "between 0 and 1, such as 0.95")
    return (1 - level) / 2


def _pairs(a, b) -> np.ndarray:
    a, b = _numbers("a", a, 1, "[seeds]"), _numbers("b", b, 1, "[seeds]")
    need(len(a) == len(b), "b", f"of {len(b)} seeds", f"paired with a, of {len(a)} seeds")
    return np.stack((a, b))


def _numbers(name: str, values, dims: int, shape: str) -> np.ndarray:
    values = np.asarray(values, dtype=float)
    need(values.ndim == dims and values.size > 0, name, f"of shape {values.shape}", f"a non-empty array {shape}")
    need(bool(np.isfinite(values).all()), name, "an array with NaN or infinity", "finite everywhere")
    return values
