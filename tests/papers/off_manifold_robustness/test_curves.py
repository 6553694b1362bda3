"""Off-manifold robustness: what is picked on a curve of strengths."""

import numpy as np

from lib.papers.off_manifold_robustness.curves import ON_AT_FLIP, Curve, log_ratio


def curve(columns, right=None, classes=10, chance=.05, on=.01, images=16):
    """A curve whose columns are means [K, S], the same for every image; alive unless they say otherwise."""
    values = {name: np.repeat(np.array(rows, float)[..., None], images, 2) for name, rows in columns.items()}
    k, s = next(iter(values.values())).shape[:2]
    share = np.full((k, s), .9) if right is None else np.array(right)
    right = np.arange(100) // 2 < np.round(50 * share)[..., None]  # alike in both halves
    values = {"on": np.full((k, s, images), .5), "off": np.full((k, s, images), .4)} | values
    return Curve(tuple(range(k)), values, right, classes, chance, on)


ODD = [[.1, .1, .1], [.5, .5, .2], [.3, .3, .9]]  # the third repetition would pick another strength than the others


def both(*picked):
    """What is picked by both halves of the images."""
    return [[k, k] for k in picked]


def test_the_peak_is_picked_by_the_other_repetitions():
    assert curve({"alignment": ODD}).peaks().tolist() == both(2, 2, 1), "of each repetition by itself 1, 1, 2"


def test_the_peak_is_picked_by_the_other_half_of_the_images():
    one = curve({"alignment": [[.1] * 3, [.5] * 3, [.3] * 3]})
    one.values["alignment"][2, :, 1::2] = .9
    peaks = one.peaks()
    assert peaks.tolist() == [[2, 1]] * 3, "odd images pick for even ones, and even ones for odd ones"
    assert one.at(one.values["alignment"], peaks)[0, :4].tolist() == [.3, .5, .3, .5]


def test_the_peak_is_that_of_a_living_network():
    dead = [[.5] * 3, [.5] * 3, [.009] * 3]
    one = curve({"alignment": ODD, "on": dead})
    assert one.peaks().tolist() == both(1, 1, 1) and one.dead == [2]
    guessing = [[.9] * 3, [.14] * 3, [.9] * 3]
    assert curve({"alignment": ODD}, guessing).peaks().tolist() == both(2, 2, 2)


def test_the_flip_is_picked_by_the_other_repetitions_among_networks_that_react():
    on, off = np.full((3, 3), .6), .6 * np.exp(.3 - np.array(ODD))
    assert curve({"on": on, "off": off}).flips().tolist() == both(2, 2, 1)
    faint = on.copy()
    faint[2] = ON_AT_FLIP - .001
    assert curve({"on": faint, "off": faint / on * off}).flips().tolist() == both(1, 1, 1)
    dead = np.full((3, 3), ON_AT_FLIP - .001)
    assert curve({"on": dead, "off": dead / 2}).flips() is None
    assert curve({"on": dead + .002, "off": dead / 2}).flips() is not None


def test_after_the_flip_the_order_is_read_where_it_is_closest_to_changing_back():
    on, ratios = np.full((5, 3), .6), np.array([-1., 2., .5, 1., 1.5])[:, None]
    one = curve({"on": on, "off": on * np.exp(-ratios)})
    assert one.flips().tolist() == both(1, 1, 1) and one.lowest_after(one.flips()).tolist() == both(2, 2, 2)
    last = curve({"on": on[:2], "off": (on * np.exp(-ratios))[:2]})
    assert last.lowest_after(last.flips()).tolist() == both(1, 1, 1)
    dead = on.copy()
    dead[2] = .009
    other = curve({"on": dead, "off": dead * np.exp(-ratios)})
    assert other.lowest_after(other.flips()).tolist() == both(3, 3, 3), "no dead network"


def test_a_log_ratio_is_that_of_means_to_first_order_in_each_image():
    rng = np.random.default_rng(0)
    over, under = rng.random((2, 4, 50)) + .1
    found = log_ratio(over, under)
    np.testing.assert_allclose(found.mean(1), np.log(over.mean(1) / under.mean(1)))
    more = over.copy()
    more[:, 7] += 1e-6
    moved = (log_ratio(more, under).mean(1) - found.mean(1)) / 1e-6
    np.testing.assert_allclose(moved, 1 / over.sum(1), rtol=1e-4)
    assert np.isfinite(log_ratio(over * 0, under)).all()


def test_the_most_accurate_is_picked_by_the_other_repetitions():
    assert curve({"on": ODD}, right=ODD).most_accurate().tolist() == both(2, 2, 1)


def test_one_repetition_has_no_others_that_could_pick():
    alone = curve({"alignment": [[.1], [.5]], "on": [[.5], [.5]], "off": [[.6], [.1]]})
    assert alone.peaks() is alone.flips() is alone.most_accurate() is None


def test_the_strongest_setting_reacts_and_is_above_guessing_in_every_repetition():
    on, right = np.full((5, 2), .5), np.full((5, 2), .9)
    assert curve({"on": on}, right, 4, .05, .25).strongest() == 4
    right[4] = .9, .30  # 5 points above guessing: not more
    assert curve({"on": on}, right, 4, .05, .25).strongest() == 3
    assert curve({"on": on}, right, 4, .04, .25).strongest() == 4
    on[3] = .25, .5
    assert curve({"on": on}, right, 4, .05, .25).strongest() == 2
    on[1] = 0
    assert curve({"on": on}, right, 4, .05, .25).strongest() == 2, "a dead network in between does not end the curve"
    assert curve({"on": on * 0}, right, 4, .05, .25).strongest() == 0
    assert curve({"on": on}, right, 2, .45, .25).strongest() == 0
