"""Intervals of the statistics; the rules that they share are in lib/statistics."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy import special

from lib.errors import is_int, need, unknown

# If fewer images than this differ from the most common outcome, intervals by normal theory are too narrow, and exact
# binomial bounds on the images replace them where they are wider.
RARE = 10
MIN_PAIRED = 3  # seeds, so that a pair of networks remains when one seed is left out


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


# Maps a level to the interval at that level; the data have been read already.
Estimate = Callable[[float], Interval]


def paired_difference(d, level: float = 0.95) -> Interval:
    """The mean of per-image differences between two conditions, measured on the same images with paired seeds.

    d: [S, m] for seeds s and images i, in [-1, 1] (correct minus correct, or minus a fraction of correct).
    se^2 = var_s(mean_i d) / S + var_i(mean_s d) / m, Student t with Satterthwaite's degrees of freedom. If nearly all
    differences are the same, the interval is at least as wide as Clopper-Pearson's for m images (m, not S x m).
    Simulated coverage at 95 %: 94-98 % if seeds scatter d by 2 points (SD); at worst 91 %, for 3 seeds and 5 points.
    Raises SettingsError for another shape, values outside [-1, 1] or fewer than 2 images.
    """
    return estimate("difference", d)(level)


def accuracy(correct, level: float = 0.95) -> Interval:
    """The share of correct outcomes. correct: bool [S, m], seeds and images. The standard error is computed as in
    `paired_difference`; if (nearly) all outcomes are the same, the interval is at least as wide as Clopper-Pearson's
    for m images. Raises SettingsError for another shape, other values or fewer than 2 images."""
    return estimate("accuracy", correct)(level)


def seeds(values, level: float = 0.95) -> Interval:
    """The mean of one number per seed, values: [S]. Student t with S - 1 degrees of freedom; bounds are NaN for one
    seed or equal values.
    """
    return estimate("seeds", values)(level)


def log_ratio(a, b, level: float = 0.95) -> Interval:
    """The ratio a / b of two paired conditions, each [S] (one value per seed) and measured above its chance level.

    The exponential of the t interval of log(a / b), so the value is the geometric mean of the ratios. `fieller` is used
    instead if the mean of b is within 3 standard errors of 0 or a logarithm does not exist.
    """
    return estimate("ratio", _pairs(a, b))(level)


def fieller(a, b, level: float = 0.95) -> Interval:
    """Fieller's interval of mean(a) / mean(b) for paired conditions, [S] each; -inf to inf if mean(b) may be 0 at this
    `level`.
    """
    return _fieller(_pairs(a, b))(level)


def crossed(values, level: float = 0.95) -> Interval:
    """The mean of a summary of similarity maps. values: [S, B], the result of `jackknife`, or one number per seed and
    minibatch of images, with the same minibatches for all seeds; in the summary's unit, of any size.

    se^2 = var_s(mean_b) / S + var_b(mean_s) / B, Student t with Satterthwaite's degrees of freedom. Bounds are NaN for
    fewer than three seeds, or if seeds or minibatches do not differ at all. Raises SettingsError for one minibatch.
    Simulated coverage at 95 % for 3 and 5 seeds and 8 minibatches, means over networks and over pairs: 92.5-98.5 %.
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
    tail = _tail(level)
    return Interval(k / n, 1 - _binomial_upper(n - k, n, tail), _binomial_upper(k, n, tail), 1, int(n), level,
                    "Clopper-Pearson")


def correlation(one, other) -> float:
    """Pearson's correlation of two arrays [n]; 0 if one of them is constant."""
    return float(np.corrcoef(one, other)[0, 1]) if np.std(one) and np.std(other) else 0.0


# -------------------------------------------------------------------------------------------------------- statistics


def estimate(statistic: str, data) -> Estimate:
    """Read the data once and return the interval as a function of the level.

    statistic: 'difference' (data [S, m] in [-1, 1]), 'accuracy' ([S, m] of 0 and 1), 'ratio' ([2, S]: numerators and
    denominators above chance), 'seeds' ([S]) or 'map' ([S, B]: seeds and minibatches). Raises SettingsError for an
    unknown statistic and for data that do not fit it.
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
    """The estimate with both seeds and images random. d: [S, m] with values in [least, most]."""
    (n_seeds, n_images), value = d.shape, float(d.mean())
    need(n_images >= 2, "images", n_images, "at least 2")
    if n_seeds < 2:
        return _unknown_spread(value, n_seeds, n_images, "one seed")
    se, df = _standard_error(d)

    common = float(np.median(d))
    rare = np.count_nonzero((d != common).any(0)) < RARE
    # Deviations from the common value in units of the largest possible one: the number of whole images they amount to.
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
    """The standard error of the mean of d [S, m], rows and columns both random, and Satterthwaite's degrees of freedom.
    """
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
        # The ratios r with (a - r b)^2 <= t^2 var(a - r b); they are unbounded if b = 0 is possible.
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
    """The share at which k or fewer successes of n have probability `tail`; k may be fractional."""
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
