"""Stitching: what is drawn is what the tables say."""

import numpy as np
import pandas as pd
import pytest

from lib import plots
from lib.errors import SettingsError
from lib.papers.stitching import figures as stitching
from lib.papers.stitching.figures import joint_activations, stitching_matrix
from tests.kit.figures import legend_texts, overlaps


def test_stitching_depth_draws_means_ranges_and_endpoints():
    joints, pairs = ["stem", "layer1.0"], ["N->R", "R->N"]
    rows = [{"role": "pair", "pair": pair, "joint": joint, "alpha": 1.0, "seed": seed, "measure": measure,
             "accuracy": 0.5 + 0.1 * j + 0.02 * seed}
            for pair in pairs for j, joint in enumerate(joints) for seed in range(3) for measure in ("clean", "search")]
    rows += [{"role": "endpoint", "pair": pair, "joint": "", "alpha": 0.0, "seed": 0, "measure": measure,
              "accuracy": 0.8}
             for pair in "NR" for measure in ("clean", "search")]
    figure = stitching.stitching_depth(pd.DataFrame(rows), joints, pairs, [1.0])
    first = figure.axes[0]
    np.testing.assert_allclose(first.lines[0].get_ydata(), [0.52, 0.62])
    assert first.lines[0].get_color() == plots.CLEAN and first.get_title().startswith("N → R")
    assert "front network alone" in legend_texts(figure)
    assert figure.description.startswith("Clean and robust accuracy of stitched networks"), "no pair of robust networks"


def test_depth_names_the_joints_at_which_a_normal_front_keeps_less():
    values = {("N->R", "stem"): 0.3, ("R->R2", "stem"): 0.3, ("N->R", "head"): 0.1, ("R->R2", "head"): 0.4}
    table = pd.DataFrame([{"role": "pair", "pair": pair, "joint": joint, "alpha": 1.0, "seed": seed,
                           "measure": "search", "accuracy": value + 0.01 * seed}
                          for (pair, joint), value in values.items() for seed in range(3)])
    figure = stitching.stitching_depth(table, ["stem", "head"], ["N->R", "R->R2"], [1.0])
    assert figure.description.replace("\u00a0", " ").startswith(
        "After head (α = 1), N → R keeps less robust accuracy (11.0 %) than two robust networks (41.0 %).")


def fitted_and_trained(robust):
    """Cells of the mixed pairs at two joints; robust: {(role, pair, joint): robust accuracy}, 0 where none is given."""
    rows = [{"role": role, "pair": pair, "joint": joint, "alpha": 0.0, "seed": seed, "measure": measure,
             "accuracy": robust.get((role, pair, joint), 0) + 0.01 * seed if measure == "search" else 0.6}
            for role in ("direct matching", "pair") for pair in ("N->R", "R->N") for joint in ("stem", "layer1.0")
            for seed in range(3) for measure in ("clean", "search")]
    rows += [{"role": "endpoint", "pair": pair, "joint": "", "alpha": 0.0, "seed": seed, "measure": "clean",
              "accuracy": accuracy} for pair, accuracy in (("N", 0.8), ("R", 0.5)) for seed in range(3)]
    return pd.DataFrame(rows)


def test_fitted_joints_stand_next_to_trained_ones_and_the_bar():
    found = fitted_and_trained({("direct matching", "N->R", "stem"): 0.2})
    figure = stitching.direct_matching(found, ["stem", "layer1.0"])
    first = figure.axes[0]
    np.testing.assert_allclose(first.lines[1].get_ydata(), [0.21, 0.01])
    assert [line.get_linestyle() for line in first.lines] == ["-", "-", "--", "--", ":"]
    assert set(first.lines[-1].get_ydata()) == {0.45} and not overlaps(figure)
    assert figure.description.replace("\u00a0", " ").startswith(
        "Without any adversarial image, N → R after stem keeps 21.0 % robust accuracy if the joint is only fitted to "
        "activations, 1.0 % if it is trained on clean images.")


def test_fitted_joints_that_are_no_more_robust_make_no_finding():
    found = fitted_and_trained({("direct matching", "N->R", "stem"): 0.015})  # clear, but too small to matter
    found = found.assign(accuracy=found.accuracy.where(found.measure == "clean", found.accuracy - 0.009 * found.seed))
    figure = stitching.direct_matching(found, ["stem", "layer1.0"])
    assert figure.description.startswith("Joints that are only fitted to activations, next to joints")


def test_bars_against_controls():
    rows = [(what, measure, 0.5, 0.4, 0.6) for what in ("claim", "null") for measure in ("clean", "robust")]
    table = pd.DataFrame(rows, columns=["what", "measure", "value", "low", "high"])
    axis, = stitching.bars_against_controls(table, "after layer1.0").axes
    names = [text.get_text() for text in axis.get_yticklabels()]
    assert names == ["claim", "null", *stitching.PROMISED]
    assert [bar.get_width() for bar in axis.patches if bar.get_width() > 0] == [0.5] * 4
    assert [text.get_text() for text in axis.texts].count("not measured") == 2


@pytest.mark.parametrize(("mixed", "words"), [
    ((0.05, 0.1), "N → R keeps 5.0 % and R → N keeps 10.0 % robust accuracy, two robust networks 50.0 %"),
    ((0.05, 0.48), "N → R keeps 5.0 % and R → N keeps 48.0 % robust accuracy, two robust networks 50.0 %"),
    ((0.47, 0.48), "clean and robust accuracy of stitched networks and their controls")])
def test_bars_say_which_pairs_lie_below_two_robust_networks(mixed, words):
    rows = [(what, "robust", value, value - 0.03, value + 0.03)
            for what, value in zip(("N → R", "R → N", "R → R2"), (*mixed, 0.5), strict=True)]
    figure = stitching.bars_against_controls(
        pd.DataFrame(rows, columns=["what", "measure", "value", "low", "high"]), "after layer1.0, α = 1")
    assert f"After layer1.0, α = 1: {words}" in figure.description.replace("\u00a0", " ")


def fronts_and_ends(seeds=2):
    """Accuracies that tell front, end and measure apart; R with R is missing."""
    rows = [(front, end, measure, 0.1 + 0.2 * f + 0.05 * e + 0.4 * m + 0.02 * seed)
            for f, front in enumerate("NRU") for e, end in enumerate("RNU")
            for m, measure in enumerate(("robust", "clean")) for seed in range(seeds) if (front, end) != ("R", "R")]
    rows += [(name, "", measure, 0.25) for name in "NR" for measure in ("clean", "robust")]
    return pd.DataFrame(rows, columns=["front", "end", "measure", "accuracy"])


def squares(axis):
    """(column, row) -> shade of every square that is not hatched, and the hatched ones."""
    places = {(round(p.get_x() + 0.48, 2), round(p.get_y() + 0.48, 2)): p for p in axis.patches}
    return ({at: p.get_facecolor() for at, p in places.items() if not p.get_hatch()},
            {at for at, p in places.items() if p.get_hatch()})


def test_matrix_of_fronts_and_ends_says_means_ranges_and_what_is_missing():
    figure = stitching_matrix(fronts_and_ends())
    clean, robust = figure.axes
    assert clean.get_title().startswith("clean") and robust.get_title().startswith("robust")
    columns = dict(zip((text.get_text() for text in robust.get_xticklabels()), robust.get_xticks(), strict=True))
    rows = dict(zip((text.get_text() for text in robust.get_yticklabels()), robust.get_yticks(), strict=True))
    assert list(columns) == ["R", "N", "U", "alone"] and list(rows) == ["N", "R", "U", "alone"]
    assert columns["U"] - columns["N"] > columns["N"] - columns["R"], "the control stands apart"
    known, missing = squares(robust)
    assert missing == {(columns["R"], rows["R"])} and len(known) == 8 + 4
    said = {(round(t.get_position()[0], 2), round(t.get_position()[1], 2)): t.get_text() for t in robust.texts}
    assert said[columns["N"], round(rows["R"] - 0.1, 2)] == "36.0", "0.1 + 0.2 + 0.05 + 0.01, of two repetitions"
    assert said[columns["N"], round(rows["R"] + 0.25, 2)] == "35–37"
    assert said[columns["alone"], rows["N"]] == said[columns["N"], rows["alone"]] == "25.0"
    assert (columns["U"], rows["alone"]) not in known, "nothing is said of what is not compared"
    assert legend_texts(figure) == ["not measured"]
    white = [sum(squares(axis)[0][columns["N"], rows["N"]]) for axis in (clean, robust)]
    assert white[0] < white[1], "the higher the darker"


def test_matrix_of_single_values_has_no_ranges_and_no_legend():
    table = fronts_and_ends(1)
    axis, = stitching_matrix(table[(table.front != "R") & (table.measure == "clean") & (table.end != "")]).axes
    assert len(axis.texts) == 6 and not axis.figure.legends


@pytest.mark.parametrize(("change", "words"), [
    (lambda t: t.drop(columns="end"), "lacks the column end"), (lambda t: t[t.end == ""], "one without pairs"),
    (lambda t: t.assign(measure="verified"), "unknown measure 'verified'")])
def test_a_matrix_that_cannot_be_drawn_is_refused(change, words):
    with pytest.raises(SettingsError, match=words):
        stitching_matrix(change(fronts_and_ends()))


def test_activations_of_a_joint_stand_above_the_ends_own_on_one_scale():
    rng = np.random.default_rng(0)
    images, spread = rng.random((2, 3, 8, 8)), np.array([1, 3, 2, 0.1, 0.5])[:, None, None]
    end = spread * rng.standard_normal((2, 5, 4, 4))
    joined = 2 * end
    figure = joint_activations(images, joined, end, ["cosine 1", "cosine 2"], channels=2, title="R → N")
    assert not overlaps(figure)
    grid = np.array(figure.axes).reshape(4, 3)
    assert [axis.get_title() for axis in grid[0]] == ["", "channel 1", "channel 2"], "those that vary most"
    for row in range(2):
        np.testing.assert_allclose(grid[2 * row, 0].images[0].get_array(), images[row].transpose(1, 2, 0))
        for column, channel in ((1, 1), (2, 2)):
            above, below = (grid[2 * row + k, column].images[0] for k in range(2))
            np.testing.assert_array_equal(above.get_array(), joined[row, channel])
            np.testing.assert_array_equal(below.get_array(), end[row, channel])
            most = np.abs(joined[:, channel]).max()
            assert above.get_clim() == below.get_clim() == (-most, most)
    assert [text.get_text() for axis in grid[:, 0] for text in axis.texts] == ["cosine 1", "cosine 2"]


def test_activations_that_are_zero_or_few_can_be_drawn():
    figure = joint_activations(np.zeros((1, 1, 8, 8)), np.zeros((1, 2, 4, 4)), np.zeros((1, 2, 4, 4)), channels=6)
    assert len(figure.axes) == 6 and figure.axes[1].images[0].get_clim() == (-1, 1)


@pytest.mark.parametrize(("change", "words"), [
    ({"end": np.zeros((2, 4, 4, 4))}, "shapes of images, joined and end"), ({"channels": 0}, "channels = 0"),
    ({"images": np.zeros((1, 3, 8, 8))}, "shapes of images"), ({"notes": ["one"]}, "number of notes = 1")])
def test_activations_that_cannot_be_drawn_are_refused(change, words):
    given = {"images": np.zeros((2, 3, 8, 8)), "joined": np.zeros((2, 5, 4, 4)), "end": np.zeros((2, 5, 4, 4))}
    with pytest.raises(SettingsError, match=words):
        joint_activations(**(given | change))
