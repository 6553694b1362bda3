"""HARP: what is drawn is what the tables say."""

import pandas as pd
import pytest

from lib import plots
from lib.errors import SettingsError
from lib.papers.harp_pruning import figures, reference, tables
from lib.papers.harp_pruning.settings import METHODS
from tests.papers.harp_pruning.world import ENDS


def lines(axis):
    return [line for line in axis.lines if line.get_linestyle() == "-" and len(line.get_xdata()) > 1]


def test_compression_shows_methods_seeds_the_dense_line_and_published_numbers(made):
    table = made.table()
    weights = tables.of_weights(table, made.section)
    figure = figures.compression(weights, reference.published(), "robust accuracy, APGD")
    clean, robust = figure.axes
    assert robust.get_ylabel() == "robust accuracy, APGD" and clean.get_xscale() == "log"
    assert clean.get_xlim()[0] > clean.get_xlim()[1], "harsher to the right"
    drawn = {line.get_color(): line for line in lines(robust)}
    assert drawn[plots.KINDS["HARP"]].get_ydata() == pytest.approx([.58, .60], abs=.011)
    assert drawn[plots.KINDS["dense"]].get_ydata() == pytest.approx([.60, .60], abs=.011)
    dots = [line for line in robust.lines if line.get_marker() == "." and line.get_color() == plots.KINDS["HARP"]]
    assert len(dots) == 4
    assert {text.get_text() for text in robust.texts} == set(METHODS) | {"dense, same fine-tuning"}, "at the ends"
    assert figure.get_supxlabel() == f"dashed: {reference.SOURCE}"
    with pytest.raises(SettingsError, match="without pruned networks"):
        figures.compression(weights[weights.keep == 1])


def test_rates_and_searches_are_drawn(made):
    shown = tables.rates(made)
    shown = tables.of_weights(shown, made.section)
    figure = figures.keep_rates(shown, tables.rules(made))
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["target 10 % (dotted)", "target 2 % (dotted)"]
    assert {axis.get_yscale() for axis in figure.axes} == {"log"}
    harp, = [line for line in figure.axes[1].lines if line.get_color() == plots.KINDS["HARP"]
             and line.get_linestyle() == "-"]
    assert harp.get_ydata() == pytest.approx(ENDS["HARP"], rel=.005)
    assert [text.get_text() for text in figure.axes[1].get_xticklabels()] == [f"l{k}" for k in range(5)]
    course = tables.searches(made)
    figure = figures.pruning_search(tables.of_weights(course, made.section))
    assert len(figure.axes) == 6 and "γ" in figure.axes[2].get_ylabel()


def test_every_method_has_a_colour_of_its_own():
    assert set(METHODS) <= set(plots.KINDS) and len({plots.KINDS[name] for name in METHODS}) == len(METHODS)


def test_the_course_of_a_search_lies_within_its_panels_whatever_the_target_drawn_last():
    losses = {0.1: (0.001, 0.0, 0.0), 0.02: (0.3, 0.002, 0.0)}  # of the milder target far below the harsher one's
    table = pd.DataFrame([
        {"method": "HARP", "keep": keep, "seed": seed, "epoch": epoch, "hardware_loss": loss, "gamma": 0.5 * epoch,
         "share": keep}
        for keep, course in losses.items() for epoch, loss in enumerate(course, 1) for seed in range(3)
    ])
    figure = figures.pruning_search(table)
    grid = figure.axes  # row by row, a column a target
    for axis in grid:
        low, high = axis.get_ylim()
        for line in axis.get_lines():
            assert all(low <= y <= high for y in line.get_ydata())
    low, high = grid[0].get_ylim()
    assert low > -0.1 * high, "no room is given to losses below 0"
