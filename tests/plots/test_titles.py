"""What titles may say."""

import math

import pytest
from matplotlib import pyplot as plt

from lib.plots.titles import above, entitle, mean, percent, span, strength


def test_means_are_apart_only_if_their_intervals_are():
    low, high = mean([0.1, 0.12, 0.11, math.nan]), mean([0.5, 0.52, 0.51])
    assert low.value == pytest.approx(0.11) and low.low < 0.1 < 0.12 < low.high
    assert above(high, low) and not above(low, high)
    assert not above(mean([0.5, 0.52]), low), "two repetitions decide nothing"
    assert not above(mean([0.5] * 3), low), "nor do three that do not differ"
    assert not above(mean([0.1, 0.5, 0.9]), low), "nor an interval that overlaps"


def test_numbers_in_titles():
    assert percent(0.065, 0.006, 0.01) == "0.6 to 6.5\u00a0%" and percent(0.28, 0.2804) == "28.0\u00a0%"
    assert percent(0.0995) == "10.0\u00a0%" and span(0.704, -0.5) == "−0.50 to 0.70"
    assert [strength(eps) for eps in (8 / 255, "0.0313725490196078", 0.15, 2)] == ["8/255", "8/255", "0.15", "2"]


def test_a_title_is_wrapped_and_kept_with_what_the_axes_show():
    figure, _ = plt.subplots(figsize=(5, 3))
    assert entitle(figure, "a word " * 12 + "at the end", "Nothing on the axes.") is figure
    assert len(figure.get_suptitle().splitlines()) == 2
    assert figure.description.endswith("at the end. Nothing on the axes.")
