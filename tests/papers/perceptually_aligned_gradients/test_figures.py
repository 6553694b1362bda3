"""Figures of the notebook on perceptually aligned gradients: what is drawn is what the tables say."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.patches import Circle

from lib.alignment.plane import Plane
from lib.errors import SettingsError
from lib.papers.perceptually_aligned_gradients import figures as alignment
from lib.papers.perceptually_aligned_gradients import grids, looks
from lib.plots import CLEAN
from tests.kit.figures import legend_texts, overlaps

GROUP_OF = {
    "vanilla": "vanilla", "score": "realisation", "class mean": "realisation", "class mean, centred": "realisation",
    "permuted classes": "control", "gradient norm": "control", "AT l2": "adversarial training",
    "AT l2 + score": "adversarial training with alignment",
}


def table(seeds=3, **each):
    """Rows of every method and seed, for each value of the columns in `each`; accuracy tells them apart."""
    frame = pd.DataFrame([{"method": method, "group": group, "seed": seed, "accuracy": 0.1 * k + 0.01 * seed,
                           "alignment": 0.05 * k - 0.01 * seed}
                          for k, (method, group) in enumerate(GROUP_OF.items()) for seed in range(seeds)])
    for column, values in each.items():
        frame = frame.merge(pd.DataFrame({column: values}), how="cross")
    return frame


def drawn(axis, colour, marker):
    """The data of the lines of this colour and mark."""
    return [line.get_xydata() for line in lines(axis, colour, marker)]


def lines(axis, colour, marker):
    return [line for line in axis.lines if to_hex(line.get_color()) == colour and line.get_marker() == marker]


# --------------------------------------------------------------------------------------------------------------- looks


def test_a_method_looks_the_same_in_any_company():
    every, some = looks.looks(table()), looks.looks(table()[lambda t: t.method.isin(["vanilla", "score"])])
    assert {method: every[method] for method in some} == some
    assert len(set(every.values())) == len(every) == len(GROUP_OF)
    assert every["class mean"][:2] == every["class mean, centred"][:2] and every["vanilla"][0] == CLEAN
    assert every["class mean"][2] and not every["class mean, centred"][2]
    assert len({colour for colour, _ in looks.METHODS.values()}) == len(looks.METHODS)


@pytest.mark.parametrize(("change", "message"), [
    ({"group": "relisation"}, "unknown group of methods 'relisation'; did you mean 'realisation'"),
    ({"method": "score"}, r"group = \[.*one only for the method score"),
])
def test_what_has_no_look_is_refused(change, message):
    with pytest.raises(SettingsError, match=message):
        looks.looks(table().assign(**change))


def test_too_many_methods_of_a_group_are_refused():
    rows = pd.DataFrame({"method": [f"new {k}" for k in range(4)], "group": "realisation"})
    assert len({colour for colour, *_ in looks.looks(rows[:3]).values()}) == 3
    with pytest.raises(SettingsError, match="methods of the group realisation = new 3.*at most 3 beside"):
        looks.looks(rows)


# ---------------------------------------------------------------------------------------------------------- the figures


def plane(x=(-10, 10), y=(-20, 20)):
    xs, ys = np.linspace(*x, 41), np.linspace(*y, 81)
    return Plane(xs, ys, 1 / (1 + np.exp(-(xs[None, :] + 0 * ys[:, None]))))


def test_toy_maps():
    points = np.array([[-5.0, -10], [5, 10], [4, 8]])
    flat = plane()._replace(probability=np.zeros((81, 41)))
    figure = alignment.toy_maps({"vanilla": plane(), "score": flat}, points, np.array([0, 1, 1]), 15, (5, 10),
                                {"score": "exact 90 %"})
    first, second, bar = figure.axes
    assert first.get_title() == "vanilla" and second.get_title() == "score"
    assert figure.description.startswith("Decision boundaries on the toy data: score exact 90 %.")
    assert bar.get_ylabel() == "probability of class 1" and first.get_xlabel() == "$x_1$"
    ball, = [patch for patch in first.patches if isinstance(patch, Circle)]
    assert ball.radius == 15 and ball.center == (5, 10) and first.get_aspect() == 1
    assert sorted(len(line.get_xdata()) for line in first.lines) == [1, 1, 2], "centre, class 0, class 1"
    boundary = [c for c in first.collections if c.get_label() == "" or len(c.get_paths())][-1].get_paths()[0].vertices
    assert np.abs(boundary[:, 0]).max() < 0.3 and np.ptp(boundary[:, 1]) == 40
    assert len(second.collections) == len(first.collections) - 1, "a constant network has no boundary"
    assert not overlaps(figure)
    assert legend_texts(figure) == ["class 0", "class 1", "decision boundary", "all points within 15 of one"]


def test_methods():
    rows = table(threat=["clean", "l2, ε = 1", "l∞", "l2, ε = 2"])
    rows["low"], rows["high"] = 0.1, np.where(rows.method == "score", 0.4, np.nan)
    figure = alignment.methods(rows, "accuracy under attack")
    panels = [axis for axis in figure.axes if axis.axison]
    assert [axis.get_title(loc="left") for axis in panels] == ["clean", "l2, ε = 1", "l∞", "l2, ε = 2"]
    names, axis = [tick.get_text() for tick in panels[0].get_yticklabels()], panels[1]
    assert names == [tick.get_text() for tick in panels[3].get_yticklabels()] == list(GROUP_OF)
    assert axis.get_ylim()[0] > axis.get_ylim()[1] and axis.get_xlabel() == "accuracy under attack"
    colour, mark, _ = looks.looks(rows)["score"]
    place = axis.get_yticks()[names.index("score")]
    mean, = drawn(axis, colour, mark)
    np.testing.assert_allclose(mean, [[0.11, place]])
    dots, = drawn(axis, colour, ".")
    np.testing.assert_allclose(sorted(dots[:, 0]), [0.1, 0.11, 0.12])
    interval, = drawn(axis, colour, "None")
    np.testing.assert_allclose(interval, [[0.1, place], [0.4, place]])
    control = looks.looks(rows)["gradient norm"][0]
    assert not drawn(axis, control, "None"), "no interval, no line"


def test_methods_say_how_many_beat_vanilla():
    rows = table(threat=["clean", "l2 1"]).assign(low=lambda t: t.accuracy - 0.08, high=lambda t: t.accuracy + 0.08)
    words = alignment.methods(rows, "accuracy, digits").description.replace("\u00a0", " ")
    assert words.startswith("digits: under l2 1, 2 of 3 kinds of aligned gradients clearly beat vanilla training "
                            "(1.0 %), at best class mean, centred (31.0 %), best adversarial training 61.0 %.")
    unknown = alignment.methods(rows.assign(low=np.nan, high=np.nan), "accuracy, digits").description
    assert unknown.startswith("digits: clean and robust accuracy by method")


def test_methods_leave_a_gap_where_a_threat_was_not_tried():
    rows = table(threat=["clean", "l2"]).assign(low=np.nan, high=np.nan)
    rows = rows[(rows.method != "AT l2") | (rows.threat == "clean")]
    clean, robust = alignment.methods(rows).axes[:2]
    colour, mark, _ = looks.looks(rows)["AT l2"]
    assert drawn(clean, colour, mark) and not drawn(robust, colour, mark)


def test_strengths():
    rows = table(weight=[0.1, 0.5, 2.0])[lambda t: t.method.isin(["score", "permuted classes"])]
    rows = pd.concat([rows, table()[lambda t: t.method == "vanilla"].assign(weight=0.0)])
    theirs = pd.DataFrame({"weight": [0, 0.1, 1.0], "accuracy": [0, 0.2, 0.5], "source": "the paper"})
    figure = alignment.strengths(rows, "robust (l2)", "cosine", theirs)
    left, right = figure.axes
    assert (left.get_ylabel(), right.get_ylabel()) == ("robust (l2)", "cosine") and left.get_xscale() == "log"
    assert [tick.get_text() for tick in left.get_xticklabels()] == ["0.1", "0.5", "1", "2"]
    assert [tick.get_text() for tick in right.get_xticklabels()] == ["0.1", "0.5", "1", "2"]
    colour, mark, _ = looks.looks(rows)["score"]
    mean, = drawn(left, colour, mark)
    np.testing.assert_allclose(mean, [[0.1, 0.11], [0.5, 0.11], [2, 0.11]])
    assert len(drawn(left, colour, "None")) == len(drawn(right, colour, "None")) == 3, "a thin line for every seed"
    np.testing.assert_allclose(drawn(right, colour, mark)[0][:, 1], 0.04)
    level, = drawn(left, CLEAN, "None")
    np.testing.assert_allclose(level[:, 1], 0.01)
    assert legend_texts(figure) == ["vanilla", "score", "permuted classes", "the paper"]
    with pytest.raises(SettingsError, match="without a weight above 0"):
        alignment.strengths(rows[rows.weight == 0])


def test_trade_offs():
    rows = pd.DataFrame([
        ("vanilla", "vanilla", 0, .9, .0, "", "yes"), ("score", "realisation", .1, .8, .2, "", ""),
        ("score", "realisation", 1., .6, .4, "", "yes"), ("class mean", "realisation", 3., .1, .1, "yes", "yes"),
        ("gradient norm", "control", .5, .7, .2, "", "yes"), ("gradient norm", "control", 5., .1, .0, "yes", ""),
        ("gradient norm, softplus", "control", 1., .7, .3, "", "yes"),
        ("AT l2", "adversarial training", 0, .5, .5, "", ""),
        ("AT l2 + score", "adversarial training with alignment", .1, .5, .55, "", "yes")],
        columns=["method", "group", "weight", "clean", "accuracy", "collapsed", "best"])
    figure = alignment.trade_offs(rows, "robust, digits")
    aligned, controls, adversarial = figure.axes
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["aligned gradients", "controls",
                                                                    "adversarial training"]
    found = looks.looks(rows)
    for axis in (aligned, controls):  # which are compared with the score
        line, = [one for one in drawn(axis, found["score"][0], "None") if len(one) > 1]
        np.testing.assert_allclose(line, [[.9, 0], [.8, .2], [.6, .4]])
    np.testing.assert_allclose(drawn(controls, found["gradient norm"][0], "None")[0], [[.9, 0], [.7, .2]])
    assert not [one for one in drawn(controls, found["gradient norm, softplus"][0], "None") if len(one) > 1], "no curve"
    assert {axis.get_xlim() for axis in figure.axes} == {aligned.get_xlim()} and aligned.get_xlim()[0] > .4
    keys = [[text.get_text() for text in axis.get_legend().get_texts()] for axis in figure.axes]
    assert keys == [["score", "class mean (λ 3 collapsed)"], ["score", "gradient norm (λ 5 collapsed)",
                    "gradient norm, softplus"], ["AT l2", "AT l2 + score"]]
    assert all(drawn(axis, CLEAN, "o") for axis in figure.axes), "all start at vanilla networks"
    words = figure.description.replace("\u00a0", " ")
    assert words.startswith("digits: without adversarial images score (λ 1) is the most robust, 40.0 % at 60.0 % clean "
                            "accuracy; vanilla 0.0 % at 90.0 %")
    assert not overlaps(figure)


def test_trade_offs_have_at_most_six_names_a_panel_and_tell_them_apart_without_colours():
    kinds = {"one image": "realisation", "class mean": "realisation", "nearest neighbour": "realisation",
             "score": "realisation", "class mean, centred": "realisation", "nearest neighbour, centred": "realisation",
             "random direction": "control", "permuted classes": "control", "permuted images": "control",
             "gradient norm": "control", "gradient norm, softplus": "control", "AT l2": "adversarial training",
             "AT linf": "adversarial training", "AT l2, longer": "adversarial training",
             "AT l2 + score": "adversarial training with alignment"}
    rows = [("vanilla", "vanilla", 0, .9, .0, "", "yes")]
    rows += [(kind, of, weight, .9 - weight / 9, .05 * k + weight / 9, "", "")
             for k, (kind, of) in enumerate(kinds.items()) for weight in (1, 2)]
    rows = pd.DataFrame(rows, columns=["method", "group", "weight", "clean", "accuracy", "collapsed", "best"])
    figure = alignment.trade_offs(rows)
    assert not overlaps(figure)
    for axis in figure.axes:
        handles = axis.get_legend().legend_handles
        marks = {(one.get_marker(), one.get_markerfacecolor() == "white", one.get_linestyle()) for one in handles}
        assert len(marks) == len(handles) <= 6


def test_curves():
    rows = table(threat=["l2", "l∞"], eps=[0, 0.5, 1.0, 2.0])
    figure = alignment.eps_curves(rows, "ε (pixels)")
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["l2", "l∞"]
    axis = figure.axes[0]
    assert [tick.get_text() for tick in axis.get_xticklabels()] == ["0", "0.5", "1", "2"]
    assert not overlaps(figure)
    assert axis.get_xlabel() == "ε (pixels)" and axis.get_ylabel() == "robust accuracy"
    colour, mark, _ = looks.looks(rows)["class mean"]
    line = next(data for data in drawn(axis, colour, mark) if np.isclose(data[0, 1], 0.21))
    np.testing.assert_allclose(line[:, 0], [0.25, 0.5, 1, 2])
    assert {text.get_text() for text in figure.axes[-1].texts} == set(GROUP_OF)
    weighed = alignment.eps_curves(rows.assign(weight=np.where(rows.method == "score", 0.3, 0)))
    assert "score, λ 0.3" in {text.get_text() for text in weighed.axes[-1].texts}
    assert {line.get_markerfacecolor() for line in lines(axis, colour, mark)} == {colour, "white"}
    alone = alignment.eps_curves(rows[(rows.threat == "l2") & (rows.eps == 1)])
    assert [tick.get_text() for tick in alone.axes[0].get_xticklabels()] == ["1"]
    with pytest.raises(SettingsError, match="without an eps above 0"):
        alignment.eps_curves(rows[rows.eps == 0])


@pytest.mark.parametrize("channels", [1, 3])
def test_generated(channels):
    draws = np.random.default_rng(0)
    sources, classes = draws.random((2, channels, 8, 8)), ["cat", "dog", "ship"]
    pictures = {name: draws.random((2, 3, channels, 8, 8)) for name in ("vanilla", "score")}
    hits = {"score": np.array([[True, False, False], [False, False, True]])}
    figure = grids.generated(sources, pictures, classes, hits, {"score": "rate 33 %"})
    axes = np.array(figure.axes).reshape(4, 4)
    assert [axis.get_title() for axis in axes[0]] == ["image", *classes]
    assert not any(axis.get_title() for axis in axes[1:].flat)
    assert [text.get_text() for text in figure.texts[:2]] == ["vanilla", "score\nrate 33 %"]
    assert "recognised as the class aimed at: 33\u00a0% (score)" in figure.description
    for row, name in ((0, "vanilla"), (3, "score")):
        shown = axes[row, 3].images[0].get_array()
        expected = pictures[name][row % 2, 2]
        np.testing.assert_allclose(shown, expected[0] if channels == 1 else expected.transpose(1, 2, 0))
    framed = [[axis.spines["left"].get_visible() for axis in row] for row in axes]
    assert framed == [[False] * 4] * 2 + [[False, True, False, False], [False, False, False, True]]
    assert len(legend_texts(figure)) == 1 and not overlaps(figure)
    assert not grids.generated(sources, pictures, classes).legends
    with pytest.raises(SettingsError, match=r"pictures of score = \(2, 2, .*\(2, 3, "):
        grids.generated(sources, pictures | {"score": pictures["score"][:, :2]}, classes)


def test_targets_say_of_which_image_they_are():
    rng = np.random.default_rng(0)
    figure = grids.target_grid(rng.random((1, 8, 8)), {"class mean": rng.random((10, 1, 8, 8))}, list("0123456789"), 3)
    assert "one image of 8 × 8 pixels, of class 3; they do not depend on the network" in figure.description
    assert not overlaps(figure)


def test_alignment_against_robustness():
    rows = table()
    figure = alignment.alignment_against_robustness(rows, "robust (l2)", "cosine")
    axis = figure.axes[0]
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("cosine", "robust (l2)")
    colour, mark, _ = looks.looks(rows)["score"]
    seeds, mean = drawn(axis, colour, mark)
    np.testing.assert_allclose(seeds, [[0.05, 0.1], [0.04, 0.11], [0.03, 0.12]])
    np.testing.assert_allclose(mean, [[0.04, 0.11]])
    assert {text.get_text() for text in axis.texts} == set(GROUP_OF)
    assert "(correlation of 7 methods without vanilla 1.00, which decides nothing)" in figure.description
    sweep = alignment.alignment_against_robustness(table(weight=[0.1, 1.0]))
    assert len(drawn(sweep.axes[0], colour, mark)[1]) == 2, "a mean for each weight"


@pytest.mark.parametrize("draw", [alignment.methods, alignment.strengths, alignment.eps_curves,
                                  alignment.alignment_against_robustness])
def test_missing_columns_are_named(draw):
    with pytest.raises(SettingsError, match="lacks the column.*seed"):
        draw(table(threat=["l2"], eps=[1], weight=[1]).assign(low=0, high=1).drop(columns="seed"))
