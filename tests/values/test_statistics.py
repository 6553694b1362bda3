"""Intervals and p-values: known numbers, edges, and simulated coverage."""

import math
from functools import partial

import numpy as np
import pytest
from scipy import stats

from lib import statistics
from lib.errors import SettingsError

REPEATS = 1000


def outcomes(rng, shift, seeds, images, seed_sd=0.04, shared=0.0):
    """Right or wrong [seeds, images] by a latent sum of image, seed and residual effects; and the true accuracy.

    `shared` [images], of variance 0.64: the part of the image effect that two arms have in common.
    """
    image = shared + (0.6 if np.ndim(shared) else 1.0) * rng.normal(size=images)
    latent = shift + image + seed_sd * rng.normal(size=(seeds, 1)) + 0.5 * rng.normal(size=(seeds, images))
    return latent > 0, stats.norm.cdf(shift / math.sqrt(1 + seed_sd**2 + 0.25))


def paired(rng, seeds, images=500, seed_sd=0.04):
    """Differences [seeds, images] of two arms that find partly the same images hard; and the true difference."""
    shared = 0.8 * rng.normal(size=images)
    a, true_a = outcomes(rng, 0.3, seeds, images, seed_sd, shared)
    b, true_b = outcomes(rng, 0.0, seeds, images, seed_sd, shared)
    return a.astype(float) - b, true_a - true_b


def pooled(d):
    """What must not be done: seeds x images as if all were independent."""
    half = 1.96 * d.std() / math.sqrt(d.size)
    return d.mean() - half, d.mean() + half


@pytest.mark.parametrize("seeds", [3, 5])
def test_coverage_and_false_support_of_paired_differences(seeds):
    rng, covered, false, naive = np.random.default_rng(seeds), 0, 0, 0
    for _ in range(REPEATS):
        d, true = paired(rng, seeds)
        interval = statistics.paired_difference(d)
        covered += interval.low <= true <= interval.high
        false += interval.low > true  # "supported" with the truth on the margin
        naive += pooled(d)[0] <= true <= pooled(d)[1]
    assert 0.93 <= covered / REPEATS <= 0.985
    assert false / REPEATS <= 0.035
    assert naive / REPEATS < 0.85


def test_images_or_seeds_alone_are_not_enough():
    """Coverage falls when one of the two sources of error is large and left out, so both terms are needed."""
    rng, both, only_seeds, only_images = np.random.default_rng(7), 0, 0, 0
    for _ in range(400):
        d, true = paired(rng, 5, images=200, seed_sd=0.15)
        interval = statistics.paired_difference(d)
        both += interval.low <= true <= interval.high
        only_images += abs(d.mean() - true) <= 1.96 * d.mean(0).std() / math.sqrt(d.shape[1])
        d, true = paired(rng, 5, images=200, seed_sd=0.0)
        only_seeds += abs(d.mean() - true) <= stats.t.ppf(0.975, 4) * d.mean(1).std(ddof=1) / math.sqrt(5)
    assert both / 400 > 0.93 and only_images / 400 < 0.85 and only_seeds / 400 < 0.85


@pytest.mark.parametrize("shift", [0.2, 2.6, 3.3])  # 57 %, 99 % and 99.8 % right
def test_coverage_of_accuracy_up_to_extreme_rates(shift):
    rng, covered = np.random.default_rng(11), 0
    for _ in range(600):
        correct, true = outcomes(rng, shift, 3, 500)
        interval = statistics.accuracy(correct)
        covered += interval.low <= true <= interval.high
    assert covered / 600 >= 0.925


def test_two_way_standard_error_by_hand():
    d = np.array([[1.0, 0, 0, 1, -1] * 8, [0.0, 0, 1, 1, -1] * 8, [1.0, 1, 0, 0, 0] * 8])
    by_seed, by_image = d.mean(1).var(ddof=1) / 3, d.mean(0).var(ddof=1) / 40
    df = (by_seed + by_image) ** 2 / (by_seed**2 / 2 + by_image**2 / 39)
    half = stats.t.ppf(0.975, df) * math.sqrt(by_seed + by_image)
    got = statistics.paired_difference(d)
    assert (got.low, got.value, got.high) == pytest.approx((d.mean() - half, d.mean(), d.mean() + half))
    assert (got.n_seeds, got.n_images, got.level, got.method) == (3, 40, 0.95, "two-way t")
    assert statistics.paired_difference(d, 0.9).low > got.low


def test_clopper_pearson():
    none = statistics.clopper_pearson(0, 1000)
    assert none.low == 0 and none.high == pytest.approx(0.0037, abs=5e-5)
    exact = stats.binomtest(37, 200).proportion_ci(0.95, "exact")
    got = statistics.clopper_pearson(37, 200)
    assert (got.low, got.high) == pytest.approx((exact.low, exact.high))
    with pytest.raises(SettingsError, match="k = 5"):
        statistics.clopper_pearson(5, 4)


def test_all_right_or_all_wrong_is_as_uncertain_as_its_images_are():
    """m images, not S x m: the same images were seen by every seed."""
    wrong, right = (statistics.accuracy(np.full((5, 1000), x)) for x in (False, True))
    assert (wrong.low, wrong.high) == pytest.approx((0, 0.003682), abs=1e-6)
    assert (right.low, right.high) == pytest.approx((0.996318, 1), abs=1e-6)
    one = np.zeros((5, 1000), bool)
    one[2, 17] = True
    assert statistics.accuracy(one).high > wrong.high


@pytest.mark.parametrize("constant", [0.0, 1.0, -1.0, 0.1])
def test_a_constant_difference_has_an_interval_of_some_width(constant):
    got = statistics.paired_difference(np.full((3, 1000), constant))
    assert got.low <= constant <= got.high and 0.003 < got.high - got.low < 0.01
    assert -1 <= got.low and got.high <= 1


def test_too_few_seeds_have_no_bounds():
    for got in (statistics.paired_difference(np.zeros((1, 50))), statistics.accuracy(np.ones((1, 50))),
                statistics.seeds([0.3]), statistics.log_ratio([0.3], [0.4])):
        assert math.isnan(got.low) and math.isnan(got.high) and got.n_seeds == 1


def test_seeds_is_the_t_interval():
    values = np.array([0.31, 0.35, 0.28, 0.4])
    got = statistics.seeds(values)
    wanted = stats.t.interval(0.95, 3, values.mean(), stats.sem(values))
    assert (got.low, got.high) == pytest.approx(wanted)
    assert math.isnan(statistics.seeds([0.1, 0.1, 0.1]).low), "no spread is no certainty"


def test_ratio_of_paired_arms():
    b = np.array([0.30, 0.40, 0.50, 0.35])
    a = b * np.array([0.90, 0.88, 0.92, 0.91])
    got = statistics.log_ratio(a, b)
    assert got.method == "t of log-ratios" and 0.87 < got.low < got.value < got.high < 0.94
    logs = stats.t.interval(0.95, 3, np.log(a / b).mean(), stats.sem(np.log(a / b)))
    assert (got.low, got.high) == pytest.approx(np.exp(logs))
    assert (statistics.fieller(a, b).low, statistics.fieller(a, b).high) == pytest.approx((0.88, 0.93), abs=0.02)


def test_ratio_over_something_near_chance_is_fiellers():
    wild = statistics.log_ratio([0.02, 0.01, 0.03], [0.01, 0.03, 0.001])
    assert wild.method == "Fieller" and (wild.low, wild.high) == (-math.inf, math.inf)
    assert statistics.log_ratio([0.02, -0.01, 0.03], [0.3, 0.31, 0.32]).method == "Fieller"


def test_coverage_of_ratios():
    rng, covered, fieller = np.random.default_rng(3), 0, 0
    for _ in range(REPEATS):
        b = rng.normal(0.4, 0.02, 4)
        a = 0.8 * b + rng.normal(0, 0.01, 4)
        logs, exact = statistics.log_ratio(a, b), statistics.fieller(a, b)
        covered += logs.low <= 0.8 <= logs.high
        fieller += exact.low <= 0.8 <= exact.high
    assert 0.93 <= covered / REPEATS <= 0.97 and 0.93 <= fieller / REPEATS <= 0.97


def groups(rng, seeds, batches):
    """Self-similarities of two types, each a ratio taken once over its minibatches; the difference of their means.
    Types share part of the image noise."""
    scale, image = 1 + 0.1 * rng.normal(size=batches), rng.normal(size=batches)
    top = {}
    for kind, mean in (("N", 0.5), ("R", 0.7)):
        noise = 0.02 * (image + rng.normal(size=batches)) + 0.005 * rng.normal(size=(seeds, batches))
        top[kind] = scale * (mean + 0.03 * rng.normal(size=(seeds, 1))) + noise

    def summary(nets, images):
        means = {kind: values[np.ix_(nets, images)].mean() / scale[images].mean() for kind, values in top.items()}
        return means["R"] - means["N"]

    return summary, 0.2


def pairs(rng, seeds, batches, within):
    """Mean similarity of pairs of networks: each network moves all of its pairs, an image all pairs alike. `within`:
    pairs of different networks of one type, otherwise every network of one type with every one of another."""
    x, y = 0.05 * rng.normal(size=(2, seeds))
    pair = 0.02 * rng.normal(size=(seeds, seeds))
    cells = np.outer(0.8 + x, 0.8 + x if within else 0.7 + y) + (pair + pair.T) / math.sqrt(2)
    cells = cells[..., None] + 0.05 * rng.normal(size=batches) + 0.01 * rng.normal(size=(seeds, seeds, batches))

    def summary(nets, images):
        means = cells[np.ix_(nets, nets, images)].mean(2)
        return means[np.triu_indices(len(nets), 1)].mean() if within else means.mean()

    return summary, 0.64 if within else 0.56


def without(summary, seeds, batches):
    """`summary` of what is left, as `jackknife` asks for it."""
    return lambda s, b: summary([i for i in range(seeds) if i != s], [i for i in range(batches) if i != b])


@pytest.mark.parametrize("make", [groups, partial(pairs, within=False), partial(pairs, within=True)],
                         ids=["groups", "pairs between types", "pairs within a type"])
@pytest.mark.parametrize("seeds", [3, 5])
def test_coverage_of_maps(make, seeds):
    rng, batches, covered, only_seeds, only_images, cells = np.random.default_rng(seeds), 8, 0, 0, 0, 0
    for _ in range(REPEATS):
        summary, true = make(rng, seeds, batches)
        values = statistics.jackknife(without(summary, seeds, batches), seeds, batches)
        interval, off = statistics.crossed(values), abs(values.mean() - true)
        covered += interval.low <= true <= interval.high
        only_seeds += off <= 1.96 * values.mean(1).std(ddof=1) / math.sqrt(seeds)
        only_images += off <= stats.t.ppf(0.975, batches - 1) * values.mean(0).std(ddof=1) / math.sqrt(batches)
        cells += pooled(values)[0] <= true <= pooled(values)[1]
    assert 0.92 <= covered / REPEATS <= 0.985
    assert max(only_seeds, only_images, cells) / REPEATS < 0.9, "each of the short cuts is too narrow"


def test_the_jackknife_by_hand():
    rng = np.random.default_rng(2)
    per_net, per_batch, asked = rng.normal(size=4), rng.normal(size=6), []

    def summary(seed, batch):
        asked.append((seed, batch))
        nets, images = (np.delete(values, [] if left is None else left)
                        for values, left in ((per_net, seed), (per_batch, batch)))
        return nets.mean() + images.mean() ** 2

    values = statistics.jackknife(summary, 4, 6)
    assert len(asked) == len(set(asked)) == 4 + 6 + 1 and all(None in pair for pair in asked)
    full = per_net.mean() + per_batch.mean() ** 2
    left = np.array([np.delete(per_batch, b).mean() for b in range(6)]) ** 2
    # Tukey's variances: of a mean it is the usual one, of a square that of its leave-one-out values
    by_seed, by_batch = per_net.var(ddof=1) / 4, 5 / 6 * ((left - left.mean()) ** 2).sum()
    got_by_seed, got_by_batch = values.mean(1).var(ddof=1) / 4, values.mean(0).var(ddof=1) / 6
    assert (got_by_seed, got_by_batch) == pytest.approx((by_seed, by_batch), rel=1e-12)
    # the mean of squares' pseudo-values: the square of a mean less its bias, the variance of that mean
    assert values.mean() == pytest.approx(full - per_batch.var(ddof=1) / 6, rel=1e-12)

    got, df = statistics.crossed(values), (by_seed + by_batch) ** 2 / (by_seed**2 / 3 + by_batch**2 / 5)
    half = stats.t.ppf(0.975, df) * math.sqrt(by_seed + by_batch)
    assert (got.low, got.high) == pytest.approx((values.mean() - half, values.mean() + half))
    assert (got.n_seeds, got.n_images, got.method) == (4, 0, "two-way t, 6 minibatches")


@pytest.mark.parametrize("seeds", [1, 2])
def test_maps_of_few_networks_have_a_value_and_no_bounds(seeds):
    values = statistics.jackknife(lambda s, b: math.nan if s is not None else 0.7 + 0.1 * (b or 0), seeds, 3)
    got = statistics.crossed(values)
    assert values.shape == (seeds, 3) and got.n_seeds == seeds and math.isnan(got.low) and math.isnan(got.high)
    assert got.value == pytest.approx(3 * 0.7 - 2 * 0.8), "corrected for the bias by minibatches"
    assert math.isnan(statistics.crossed(np.random.default_rng(0).normal(size=(seeds, 3))).low)


@pytest.mark.parametrize("values, method", [
    (np.full((4, 3), 0.3), "no spread over seeds"),
    (np.tile([0.1, 0.2, 0.4], (4, 1)), "no spread over seeds"),
    (np.tile([[0.1], [0.2], [0.4]], (1, 5)), "no spread over minibatches"),
])
def test_maps_that_do_not_differ_are_no_certainty(values, method):
    got = statistics.crossed(values)
    assert math.isnan(got.low) and math.isnan(got.high) and got.method == method


def test_the_jackknife_tells_what_it_cannot_do():
    with pytest.raises(SettingsError, match="minibatches = 1 is not possible: it must be at least 2"):
        statistics.jackknife(lambda s, b: 0.5, 3, 1)
    with pytest.raises(SettingsError, match="seeds = 0"):
        statistics.jackknife(lambda s, b: 0.5, 0, 4)
    with pytest.raises(SettingsError, match="summary without seed 2 = nan .* a finite number"):
        statistics.jackknife(lambda s, b: math.nan if s == 2 else 0.5, 3, 4)
    with pytest.raises(SettingsError, match="summary without minibatch 0 = inf"):
        statistics.jackknife(lambda s, b: math.inf if b == 0 else 0.5, 3, 4)
    with pytest.raises(SettingsError, match="summary = nan"):
        statistics.jackknife(lambda s, b: math.nan, 3, 4)


def test_p_values_agree_with_the_t_test_and_with_every_interval():
    values = np.array([0.031, 0.035, 0.028, 0.04])
    estimate = statistics.estimate("seeds", values)
    for margin in (0.0, 0.03, 0.0335, 0.05):
        wanted = stats.ttest_1samp(values, margin, alternative="greater").pvalue
        assert statistics.p_value(estimate, margin, "above") == pytest.approx(wanted, abs=2e-3)
        assert statistics.p_value(estimate, margin, "below") == pytest.approx(1 - wanted, abs=2e-3)
    rng = np.random.default_rng(5)
    for statistic, data in (("difference", paired(rng, 3)[0]), ("difference", np.zeros((3, 400))),
                            ("map", rng.normal(0.2, 0.05, (4, 6)))):
        estimate = statistics.estimate(statistic, data)
        low = estimate(0.95).low
        assert statistics.p_value(estimate, low - 1e-6, "above") < 0.025 < statistics.p_value(
            estimate, low + 1e-6, "above")
    assert math.isnan(statistics.p_value(statistics.estimate("seeds", [1.0]), 0, "above"))


def test_holm_and_bonferroni():
    assert statistics.holm([0.01, 0.04, 0.03, math.nan]) == pytest.approx([0.03, 0.06, 0.06, math.nan], nan_ok=True)
    assert statistics.holm([0.9, 0.8]) == pytest.approx([1, 1])
    assert statistics.holm([]).size == 0
    assert statistics.bonferroni(0.95, 5) == pytest.approx(0.99)


@pytest.mark.parametrize("statistic, data, message", [
    ("difference", [0.1, 0.2], r"d = of shape \(2,\)"),
    ("difference", [[0.1, math.nan]], "finite"),
    ("difference", [[0, 3.0], [0, 0]], r"in \[-1, 1\]"),
    ("accuracy", [[0.5, 1.0], [0, 1]], "true or false"),
    ("accuracy", [[1], [0]], "images = 1"),
    ("ratio", [[1.0, 2.0]], "numerators"),
    ("seeds", [], "non-empty"),
    ("map", [0.1, 0.2], r"values = of shape \(2,\).*\[seeds, minibatches\]"),
    ("map", [[0.1], [0.2], [0.3]], "minibatches = 1 is not possible: it must be at least 2"),
    ("map", [[0.1, math.inf], [0.2, 0.3], [0.3, 0.1]], "finite"),
    ("sedes", [1], "did you mean 'seeds'"),
])
def test_bad_data_is_named(statistic, data, message):
    with pytest.raises(SettingsError, match=message):
        statistics.estimate(statistic, data)
    with pytest.raises(SettingsError, match="level = 95"):
        statistics.seeds([1.0, 2.0], 95)
