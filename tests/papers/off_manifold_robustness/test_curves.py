"""Off-manifold robustness: what is picked on a curve of strengths."""

import numpy as np

from lib.papers.off_manifold_robustness.evidence import ON_AT_FLIP, Curve


def curve(columns, right=None, classes=10, chance=.05, on=.01, images=16):
    """A curve whose columns are means [K, S], the same for every image; alive unless they say otherwise."""
    values = {name: np.repeat(np.array(rows, float)[..., None], images, 2) for name, rows in columns.items()}
    k, s = next(iter(values.values())).shape[:2]
    share = np.full((k, s), .9) if right is None else np.array(right)
    right = np.arange(100) < np.round(100 * share)[..., None]
    values = {"on": np.full((k, s, images), .5)} | values
    return Curve(tuple(range(k)), values, right, classes, chance, on)


ODD = [[.1, .1, .1], [.5, .5, .2], [.3, .3, .9]]  # the third repetition would pick another strength than the others


def test_the_peak_is_picked_by_the_other_repetitions():
    assert curve({"alignment": ODD}).peaks() == [2, 2, 1], "of each repetition by itself it would be 1, 1, 2"


def test_the_peak_is_that_of_a_living_network():
    dead = [[.5] * 3, [.5] * 3, [.009] * 3]
    assert curve({"alignment": ODD, "on": dead}).peaks() == [1, 1, 1]
    guessing = [[.9] * 3, [.15] * 3, [.9] * 3]
    assert curve({"alignment": ODD}, guessing).peaks() == [2, 2, 2]


def test_the_flip_is_picked_by_the_other_repetitions_among_networks_that_react():
    on, off = np.full((3, 3), .6), .6 - np.array(ODD) + .1
    assert curve({"on": on, "off": off}).flips() == [2, 2, 1]
    faint = on.copy()
    faint[2, 2] = ON_AT_FLIP - .001
    assert curve({"on": faint, "off": faint - np.array(ODD) + .1}).flips() == [1, 1, 1], "dead in one of the others"
    dead = np.full((3, 3), ON_AT_FLIP - .001)
    assert curve({"on": dead, "off": dead / 2}).flips() is None
    assert curve({"on": dead + .002, "off": dead / 2}).flips() is not None


def test_the_most_accurate_is_picked_by_the_other_repetitions():
    assert curve({"on": ODD}, right=ODD).most_accurate() == [2, 2, 1]


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
