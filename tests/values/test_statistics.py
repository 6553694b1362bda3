"""Intervals and p-values: known numbers, edges, and simulated coverage."""

import math
from functools import partial

import numpy as np
import pytest
from scipy import stats

from benchmarks import coverage
from benchmarks.coverage import groups, pairs, without
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


def at_equal_cost(*accuracies, seeds=3, images=400):
    """Outcomes [2, 3, seeds, images] of exact accuracies (clean, robust), of a method and of two strengths."""
    shares = np.array(accuracies).T[::-1]
    order = np.random.default_rng(3).permuted(np.tile(np.arange(images), (2, 3, seeds, 1)), axis=-1)
    return (order < images * shares[:, :, None, None]).astype(float)


def test_a_method_is_compared_with_a_line_through_two_strengths_of_another_one():
    d = at_equal_cost((.6, .2), (.7, .05), (.5, .15))  # the line has 0.10 at 0.6
    got = statistics.paired_difference(d)
    assert got.value == pytest.approx(.10) and got.low < .10 < got.high
    assert (got.n_seeds, got.n_images, got.method) == (3, 400, "two-way t at equal cost")
    values = statistics.at_equal_cost(*d)
    assert values.shape == (3, 400) and values.mean() == pytest.approx(.10)
    assert values.max() > 1, "costs count by the slope"
    assert statistics.by_seed("difference", d)[0] == pytest.approx(values.mean(1))
    mirrored = statistics.paired_difference(np.stack([-d[0], d[1]]))
    assert (mirrored.low, mirrored.high) == pytest.approx((-got.high, -got.low))
    swapped = statistics.paired_difference(d[:, [0, 2, 1]])
    assert (swapped.low, swapped.high) == pytest.approx((got.low, got.high))


def test_an_equal_cost_is_that_of_the_line_and_a_repetition_that_failed_is_left_out():
    d = at_equal_cost((.7, .2), (.7, .05), (.5, .15))
    line, plain = statistics.paired_difference(d), d[0, 0] - d[0, 1]
    assert line.value == pytest.approx(plain.mean()) and line.high - line.low > 0
    d[1, 2, 1] = np.nan
    left = statistics.without_missing(d)
    assert left.shape == (2, 3, 2, 400) and statistics.repetitions(d) == 3
    assert statistics.paired_difference(left).n_seeds == 2


@pytest.mark.parametrize("costs", [(.6, .6, .6), (.6, .605, .595)])
def test_strengths_of_about_equal_cost_give_no_bounds(costs):
    d = at_equal_cost(*zip(costs, (.2, .05, .15), strict=True))
    assert math.isnan(statistics.paired_difference(d).low)
    assert statistics.paired_difference(d).method == statistics.ALIKE


def test_what_is_no_pair_of_gains_and_costs_is_refused():
    d = at_equal_cost((.6, .2), (.7, .05), (.5, .15))
    with pytest.raises(SettingsError, match="shapes of gains and costs"):
        statistics.at_equal_cost(d[0], d[1, :2])
    with pytest.raises(SettingsError, match="gains and costs = an array with other values"):
        statistics.at_equal_cost(2 * d[0], d[1])
    assert np.isnan(statistics.at_equal_cost(d[0], np.ones_like(d[1]))).all(), "no line through equal costs"


@pytest.mark.parametrize(("aim", "costs", "wanted"), [
    (.6, (.7, .65, .5), (1, 2)), (.68, (.7, .65, .5), (0, 1)), (.65, (.7, .65, .5), (1, 2)), (.4, (.7, .65, .5), None),
    (.8, (.7, .65), None), (.6, (.7,), None), (.6, (.7, .5, .65, .3), (2, 3)), (.5, (), None)])
def test_a_bracket_is_the_strongest_pair_of_neighbours_around_a_cost(aim, costs, wanted):
    assert statistics.bracket(aim, costs) == wanted


@pytest.mark.parametrize(("gap", "sd", "seeds", "images"), [(.15, .01, 3, 2000), (.05, .006, 3, 2000),
                                                           (.15, .02, 5, 600), (.10, 0, 3, 600)])
def test_coverage_at_equal_cost(gap, sd, seeds, images):
    got, = coverage.coverage(coverage.study_at_equal_cost, 400, gap, sd, seeds, images).values()
    assert .92 <= got.covered <= .995 and got.low <= .045 and got.high <= .045


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
                statistics.seeds([0.3]), statistics.ratio(np.ones((2, 1, 50)))):
        assert math.isnan(got.low) and math.isnan(got.high) and got.n_seeds == 1


def test_seeds_is_the_t_interval():
    values = np.array([0.31, 0.35, 0.28, 0.4])
    got = statistics.seeds(values)
    wanted = stats.t.interval(0.95, 3, values.mean(), stats.sem(values))
    assert (got.low, got.high) == pytest.approx(wanted)
    assert math.isnan(statistics.seeds([0.1, 0.1, 0.1]).low), "no spread is no certainty"
    by_image = values[:, None] + np.linspace(-0.3, 0.3, 7)
    again = statistics.seeds(by_image)
    assert (again.low, again.high) == pytest.approx(wanted) and statistics.by_seed("seeds", by_image)[1] == 1
    both = statistics.crossed(by_image)
    assert both.value == pytest.approx(again.value) and both.low < again.low, "the noise of the images is left out"


def kept(rng, seeds=4, networks=1, images=400, rates=(0.4, 0.5)):
    """Outcomes [2, networks, seeds, images] of two arms on the same images; each arm's accuracy in `rates`."""
    image, own = rng.normal(size=images), 0.3 * rng.normal(size=(2, networks, 1, images))
    latent = image + own + 0.2 * rng.normal(size=(2, networks, seeds, images))
    return (latent < math.sqrt(1.13) * stats.norm.ppf(rates)[:, None, None, None]).astype(float)


def two_way(parts):
    """The standard error and the degrees of freedom of a sum of variances, [(variance, its degrees of freedom)]."""
    total = sum(part for part, _ in parts)
    return math.sqrt(total), total**2 / sum(part**2 / df for part, df in parts)


def test_means_over_networks_by_hand():
    """Each network has seeds of its own; networks on the same images share their noise, on others they do not."""
    a, b = kept(np.random.default_rng(1), networks=3)
    d = a - 0.8 * b
    by_seed = [(one.mean(1).var(ddof=1) / (9 * 4), 3) for one in d]
    same = statistics.paired_difference(d)
    se, df = two_way([*by_seed, (d.mean((0, 1)).var(ddof=1) / 400, 399)])
    assert (same.value, same.high) == pytest.approx((d.mean(), d.mean() + stats.t.ppf(0.975, df) * se))
    assert (same.n_seeds, same.n_images) == (4, 400)
    other = statistics.paired_difference((d[:2], d[2]))
    se, df = two_way([*by_seed, (4 / 9 * d[:2].mean((0, 1)).var(ddof=1) / 400, 399),
                      (1 / 9 * d[2].mean(0).var(ddof=1) / 400, 399)])
    assert (other.value, other.high) == pytest.approx((d.mean(), d.mean() + stats.t.ppf(0.975, df) * se))
    assert other.n_images == 800 and other.high < same.high, "one network cannot make up for the noise of the others"
    unequal = statistics.paired_difference((d[:2], d[2, :, :200]))
    assert unequal.value == pytest.approx((d[:2].mean() * 2 + d[2, :, :200].mean()) / 3), "networks count, not images"


def test_a_mean_over_networks_that_all_agree_has_an_interval_of_some_width():
    for d in (np.zeros((3, 4, 1000)), (np.zeros((4, 1000)), np.full((4, 1000), 0.2))):
        got = statistics.paired_difference(d)
        assert got.low < got.value < got.high and got.high - got.low > 0.006 and "Clopper-Pearson" in got.method


def test_ratio_by_hand():
    a, b = kept(np.random.default_rng(2))[:, 0]
    of_a, of_b = a.mean(1, keepdims=True), b.mean(1, keepdims=True)
    psi = np.log(of_a / of_b) + (a - of_a) / of_a - (b - of_b) / of_b
    se, df = two_way([(psi.mean(1).var(ddof=1) / 4, 3), (psi.mean(0).var(ddof=1) / 400, 399)])
    logs = psi.mean() + stats.t.ppf(0.975, df) * se * np.array([0, -1, 1])
    got = statistics.ratio([a, b])
    assert (got.value, got.low, got.high) == pytest.approx(np.exp(logs)) and got.method == "two-way t of log-ratios"
    assert (got.n_seeds, got.n_images) == (4, 400)
    only_seeds = stats.t.interval(0.95, 3, np.log(of_a / of_b).mean(), stats.sem(np.log(of_a / of_b))[0])
    assert got.high - got.low > 1.5 * np.ptp(np.exp(only_seeds)), "the images are the larger part of the error here"


def test_ratio_of_several_networks_is_the_geometric_mean():
    pairs = kept(np.random.default_rng(3), networks=2, rates=(0.3, 0.6))
    pairs[0, 1] = pairs[1, 1]  # this network keeps everything
    alone = statistics.ratio(pairs[:, 0])
    same, other = statistics.ratio(pairs), statistics.ratio((pairs[:, 0], pairs[:, 1]))
    assert same.value == pytest.approx(math.sqrt(alone.value)) == other.value
    assert np.log(same.high / same.low) == pytest.approx(np.log(alone.high / alone.low) / 2, rel=0.01)


def test_a_ratio_of_little_or_over_little_tests_a_minus_r_b():
    rng = np.random.default_rng(4)
    none = kept(rng, rates=(1e-9, 0.5))[:, 0]
    got = statistics.ratio(none)
    assert got.method.startswith("test of a - r b") and got.value == got.low == 0
    assert got.high == pytest.approx(statistics.accuracy(none[0]).high / none[1].mean()), "0 of 400 is not exactly 0"
    little = statistics.ratio(kept(rng, rates=(0.02, 0.01))[:, 0])
    assert little.method.startswith("test of a - r b") and 0 < little.low < little.value < little.high
    unbounded = statistics.ratio(kept(rng, rates=(0.3, 0.001))[:, 0])
    assert unbounded.low > 0 and unbounded.high == math.inf
    assert math.isnan(statistics.ratio(kept(rng, rates=(0.5, 1e-9))[:, 0]).value)


def test_the_bounds_of_a_ratio_are_where_a_minus_r_b_may_be_zero():
    a, b = kept(np.random.default_rng(5), images=300, rates=(0.05, 0.025))[:, 0]
    got = statistics.ratio([a, b])
    assert got.method == "test of a - r b" and got.value == pytest.approx(a.mean() / b.mean())
    assert 0 < got.low < got.value < got.high < math.inf
    assert statistics.paired_difference((a - got.low * b) / got.low).low == pytest.approx(0, abs=1e-7)
    assert statistics.paired_difference((a - got.high * b) / got.high).high == pytest.approx(0, abs=1e-7)


def test_a_ratio_of_equal_arms_is_no_certainty():
    pairs = kept(np.random.default_rng(6))[:, 0]
    got = statistics.ratio([pairs[1], pairs[1]])
    assert got.value == 1 and 0.98 < got.low < 0.995 and 1.005 < got.high < 1.02


def test_what_each_seed_contributes():
    pairs = kept(np.random.default_rng(7), networks=2)
    values, over = statistics.by_seed("ratio", pairs)
    assert values == pytest.approx(np.sqrt(np.divide(*pairs.mean(3)).prod(0))) and over == 400
    values, over = statistics.by_seed("difference", (pairs[0], pairs[1, :, :, :100]))
    assert values == pytest.approx((pairs[0].mean(2).sum(0) + pairs[1, :, :, :100].mean(2).sum(0)) / 4) and over == 500
    assert statistics.by_seed("seeds", [1.0, 2.0])[0].tolist() == [1, 2]


def too_low(accuracy, sd, seeds, images, repetitions=500):
    """The statistics of outcomes whose coverage lies below 92 % by more than three standard errors: a small form of
    `benchmarks/run.sh coverage`.
    """
    found = coverage.coverage(coverage.study_of_outcomes, repetitions, accuracy, sd, seeds, images)
    assert {"difference", "accuracy", "ratio", "a - 0.8 b"} < {*found}
    least = coverage.LEAST - 3 * math.sqrt(coverage.LEAST * (1 - coverage.LEAST) / repetitions)
    return [f"{name}: {one}" for name, one in found.items() if one.covered < least]


@pytest.mark.slow
@pytest.mark.parametrize("seeds, images", [(3, 1000), (5, 2000)])
@pytest.mark.parametrize("sd", [0, 0.006, 0.05])
@pytest.mark.parametrize("accuracy", [0.1, 0.5])
def test_coverage_of_the_statistics_of_outcomes(accuracy, sd, seeds, images):
    assert too_low(accuracy, sd, seeds, images) == []


@pytest.mark.slow
@pytest.mark.parametrize("accuracy", [0.005, 0.995])
def test_coverage_of_the_statistics_of_rare_outcomes(accuracy):
    assert too_low(accuracy, 0.0025, 8, 2000) == []


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
    ("ratio", [[1.0, 2.0]], r"ratio = of shape \(1, 2\)"),
    ("ratio", np.ones((3, 2, 4)), "first a, then b"),
    ("ratio", np.full((2, 2, 4), 1.5), r"in \[0, 1\]"),
    ("difference", (np.zeros((2, 4)), np.zeros((2, 3, 1))), "images = 1"),
    ("difference", np.zeros((1, 2, 3, 4)), r"d = of shape \(1, 2, 3, 4\)"),
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


@pytest.mark.parametrize("statistic, values", [
    ("difference", np.random.default_rng(0).choice([-1.0, 0.0, 1.0], (5, 400), p=(0.1, 0.6, 0.3))),
    ("accuracy", (np.random.default_rng(0).random((3, 400)) < 0.7).astype(float)),
    ("map", np.random.default_rng(0).normal(0.3, 0.1, (4, 8))),
])
@pytest.mark.parametrize("level", [0.9, 0.95, 0.999])
def test_moments_give_the_interval_of_the_values_that_they_are_of(statistic, values, level):
    whole = statistics.estimate(statistic, values)(level)
    kept = statistics.Moments(values.mean(1), values.shape[1], values.mean(0).var(ddof=1))
    found = statistics.estimate(statistic, kept)(level)
    assert (found.value, found.low, found.high) == pytest.approx((whole.value, whole.low, whole.high), rel=1e-12)
    assert (found.n_seeds, found.n_images) == (whole.n_seeds, whole.n_images) and found.method.endswith("by moments")
    with pytest.raises(SettingsError, match="statistic of moments 'seeds'"):
        statistics.estimate("seeds", kept)


def test_moments_of_several_networks_and_of_repetitions_only():
    values = np.random.default_rng(0).choice([-1.0, 0.0, 1.0], (2, 5, 400), p=(0.1, 0.6, 0.3))
    whole = statistics.estimate("difference", values)(0.95)
    variance = values.mean((0, 1)).var(ddof=1)
    found = statistics.estimate("difference", statistics.Moments(values.mean(2), 400, variance))(0.95)
    assert (found.value, found.low, found.high) == pytest.approx((whole.value, whole.low, whole.high), rel=1e-12)
    alone = statistics.estimate("difference", statistics.Moments(values[0].mean(1), 400, math.nan))(0.95)
    by_t = statistics.seeds(values[0].mean(1))
    assert (alone.low, alone.high) == pytest.approx((by_t.low, by_t.high), rel=1e-12)
    assert alone.method == "t over seeds, interval of repetitions only"


def test_seeds_without_a_value_are_left_out():
    nan = math.nan
    assert statistics.without_missing([1.0, nan, 2.0]).tolist() == [1, 2]
    one, several = np.ones((3, 4)), np.ones((2, 3, 5))
    one[1], several[0, 2] = nan, nan
    assert statistics.without_missing(one).shape == (2, 4) and statistics.without_missing(several).shape == (2, 2, 5)
    left = statistics.without_missing((several, one))
    assert [x.shape for x in left] == [(2, 1, 5), (1, 4)] and [*map(statistics.repetitions, left)] == [1, 1]
    assert statistics.repetitions(statistics.without_missing(np.full((3, 1), nan))) == 0
    assert statistics.without_missing(several[:, :2]).shape == (2, 2, 5)
