"""Compact and robust networks: what is drawn is what the tables say."""

from fractions import Fraction

import matplotlib
import numpy as np
import pandas as pd
import pytest

from lib import plots
from lib.errors import SettingsError
from lib.papers.compact_robust_pruning import figures, reference, tables
from tests.kit.figures import legend_texts


def test_the_figures_take_the_tables(made):
    drawn = [figures.retained(tables.shares(made), reference.published()), figures.objective_grid(tables.grid(made)),
               figures.pruning_rules(tables.rules(made))]
    assert [len(figure.axes) for figure in drawn] == [1, 4, 2]


def shares(nets, seeds=3, low=0.02, high=0.03):
    """Rows of `retained`; the mean share is 0.9 for clean, 0.8 for robust, 0.7 for verified accuracy, a tenth less of
    a dense network; intervals from `low` below to `high` above it. nets: name to its measures.
    """
    means = {"clean": 0.9, "robust": 0.8, "verified": 0.7}
    return pd.DataFrame([
        {"net": net, "measure": measure, "over": over, "seed": seed, "share": mean + 0.01 * (seed - (seeds - 1) / 2),
         "low": mean - low, "high": mean + high}
        for net, measures in nets.items() for measure in measures for over, less in (("unpruned", 0), ("dense", 0.1))
        for mean in [means[measure] - less] for seed in range(seeds)])


NETS = {"ResNet": ["clean", "robust"], "CNN": ["clean", "robust", "verified"]}
PUBLISHED = pd.DataFrame([("clean", 0.93, "abstract"), ("robust", 0.925, "abstract"), ("verified", 0.85, "abstract")],
                         columns=["measure", "share", "source"])
COLOURS = {"clean": plots.CLEAN, "robust": plots.ROBUST, "verified": plots.VERIFIED}


def marks(axis):
    """(x, mean, colour, filled) of the marks of means, from left to right."""
    found = [(line.get_xdata()[0], line.get_ydata()[0], line.get_color(), line.get_markerfacecolor() != "white")
             for line in axis.lines if line.get_marker() in "osD"]
    return sorted(found)


def upright(axis):
    """The ends of the vertical lines through marks of means, by their x."""
    at = {x for x, *_ in marks(axis)}
    return {line.get_xdata()[0]: tuple(line.get_ydata()) for line in axis.lines
            if len({*line.get_xdata()}) == 1 and line.get_marker() == "None" and line.get_xdata()[0] in at}


def test_retained_has_a_group_a_network_and_a_mark_a_measure():
    axis, = figures.retained(shares(NETS)).axes
    drawn = marks(axis)
    expected = [(mean - less, colour, filled)
                for measures in NETS.values() for mean, measure in zip((0.9, 0.8, 0.7), measures, strict=False)
                for colour in [COLOURS[measure]] for less, filled in ((0, True), (0.1, False))]
    assert [(round(y, 6), colour, filled) for _, y, colour, filled in drawn] == [
        (round(y, 6), colour, filled) for y, colour, filled in expected]
    ticks = dict(zip((text.get_text() for text in axis.get_xticklabels()), axis.get_xticks(), strict=True))
    border, = [line.get_xdata()[0] for line in axis.lines if list(line.get_ydata()) == [0, 1]]
    assert list(ticks) == ["ResNet", "CNN"] and ticks["ResNet"] < border < ticks["CNN"]
    assert drawn[3][0] < border < drawn[4][0], "four marks to the left"
    intervals = upright(axis)
    for x, y, *_ in drawn:
        assert intervals[x] == pytest.approx((y - 0.02, y + 0.03))
    dots = [line for line in axis.lines if line.get_marker() == "."]
    assert len(dots) == 10 and sorted(dots[0].get_ydata()) == pytest.approx([0.89, 0.9, 0.91])
    assert legend_texts(axis.figure) == [
        "clean accuracy", "robust accuracy", "verified accuracy", "of the pre-trained network",
        "of the dense network with the same fine-tuning", "one repetition"]


def test_retained_without_intervals_draws_none():
    axis, = figures.retained(shares(NETS, seeds=1, low=np.nan, high=np.nan)).axes
    assert len(marks(axis)) == 10 and not upright(axis)
    clean_only = shares({"CNN": ["clean"]}).query("over == 'unpruned'")
    axis, = figures.retained(clean_only).axes
    assert len(marks(axis)) == 1 and legend_texts(axis.figure) == [
        "clean accuracy", "of the pre-trained network", "one repetition"]


def test_published_shares_are_lines_whose_numbers_do_not_overlap():
    figure = figures.retained(shares(NETS), PUBLISHED)
    axis, = figure.axes
    lines = {line.get_color(): line.get_ydata()[0] for line in axis.lines if line.get_linestyle() == "--"}
    assert lines == {plots.CLEAN: 0.93, plots.ROBUST: 0.925, plots.VERIFIED: 0.85}
    assert [text.get_text() for text in axis.texts] == ["verified 85 %", "robust 92.5 %", "clean 93 %"]
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in axis.texts]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    assert all(box.x1 <= figure.bbox.x1 for box in boxes), "nothing is cut"
    assert axis.get_xlabel() == "dashed: abstract"


@pytest.mark.parametrize(("lost", "bottom"), [(0, 0.5), (0.15, 0)])
def test_the_axis_of_shares_starts_at_one_half_or_at_zero(lost, bottom):
    table = shares(NETS)
    axis, = figures.retained(table.assign(share=table.share - lost)).axes
    assert axis.get_ylim()[0] == bottom and axis.get_ylim()[1] > 1


def test_shares_that_cannot_be_drawn_are_refused():
    table = shares(NETS)
    for column, wrong in (("measure", "verify"), ("over", "parent")):
        with pytest.raises(SettingsError, match=f"unknown {column} '{wrong}'"):
            figures.retained(table.assign(**{column: wrong}))
    with pytest.raises(SettingsError, match="two rows of net ResNet, .*, over unpruned, seed 0: .*one share"):
        figures.retained(pd.concat([table, table]))
    with pytest.raises(SettingsError, match="share = inf"):
        figures.retained(table.assign(share=np.inf))
    with pytest.raises(SettingsError, match="without a share"):
        figures.retained(table.assign(share=np.nan))
    with pytest.raises(SettingsError, match="reference lacks the column source"):
        figures.retained(table, PUBLISHED[["measure", "share"]])
    with pytest.raises(SettingsError, match="unknown measure of the reference 'search'"):
        figures.retained(table, PUBLISHED.assign(measure="search"))


UNPRUNED = {"robust": (0.8, 0.5, 0.4), "benign": (0.9, 0.1, 0.05)}  # clean, robust, verified
COMBINATIONS = [("benign", "robust", True), ("benign", "benign", False), ("benign", "robust", False),
                ("robust", "benign", False), ("robust", "robust", False)]


def objectives(nets, seeds=3, longer="ResNet"):
    """Rows of `objective_grid`: the k-th combination loses k tenths of every accuracy of the unpruned network."""
    rows = []
    for net, measures in nets.items():
        for number, measure in enumerate(measures):
            for seed in range(seeds):
                one = {"net": net, "measure": measure, "seed": seed}
                for pre, accuracies in UNPRUNED.items():
                    rows.append(one | {"pre": pre, "fine": np.nan, "longer": False, "accuracy": accuracies[number]})
                for k, (pre, fine, long) in enumerate(COMBINATIONS):
                    if not long or net == longer:
                        accuracy = UNPRUNED[pre][number] * (1 - 0.1 * k) + 0.01 * (seed - (seeds - 1) / 2)
                        rows.append(one | {"pre": pre, "fine": fine, "longer": long, "accuracy": accuracy})
    return pd.DataFrame(rows)


def test_the_grid_has_a_panel_a_network_and_the_longer_arm_last():
    figure = figures.objective_grid(objectives(NETS))
    left, right = figure.axes
    names = [" ".join(text.get_text().split()) for text in left.get_xticklabels()]
    assert names == ["robust → robust", "robust → benign", "benign → robust", "benign → benign",
                     "benign → robust, longer"]
    assert [" ".join(text.get_text().split()) for text in right.get_xticklabels()] == names[:-1]
    assert left.get_title("left") == "ResNet" and left.get_ylim() == right.get_ylim() == (0, 1)
    assert "longer: fine-tuned for as many epochs" in figure.legends[0].get_title().get_text()
    assert legend_texts(figure) == ["clean accuracy", "robust accuracy", "verified accuracy",
                                    "before pruning and fine-tuning", "one repetition"]
    shorter = figures.objective_grid(objectives(NETS, longer=None))
    assert "longer" not in shorter.legends[0].get_title().get_text()


def test_bars_of_the_grid_are_means_with_repetitions_and_the_network_before():
    _, axis = figures.objective_grid(objectives(NETS)).axes
    bars = sorted((bar.get_x() + bar.get_width() / 2, bar) for bar in axis.patches)
    assert len(bars) == 12, "four combinations, three measures"
    order = [COMBINATIONS[k] for k in (4, 3, 2, 1)]
    before = {round(float(np.mean(line.get_xdata())), 6): line.get_ydata()[0] for line in axis.lines
              if line.get_marker() == "None"}
    dots = {round(float(np.mean(line.get_xdata())), 6): line for line in axis.lines if line.get_marker() == "o"}
    for place, (x, bar) in enumerate(bars):
        k, number = (4, 3, 2, 1)[place // 3], place % 3
        start = UNPRUNED[order[place // 3][0]][number]
        assert bar.get_height() == pytest.approx(start * (1 - 0.1 * k)) and round(x) == place // 3
        assert matplotlib.colors.to_hex(bar.get_facecolor()) == [*COLOURS.values()][number]
        assert before[round(x, 6)] == pytest.approx(start), "of the same pre-training"
        at = dots[round(x, 6)]
        assert at.get_ydata() == pytest.approx(bar.get_height() + np.array([-0.01, 0, 0.01]))
        assert bar.get_x() < min(at.get_xdata()) and max(at.get_xdata()) < bar.get_x() + bar.get_width()


@pytest.mark.parametrize("count", [1, 3, 4])
def test_a_grid_of_any_number_of_networks_has_names_that_do_not_overlap(count):
    nets = {f"network {k}": ["clean", "robust", "verified"] for k in range(count)}
    figure = figures.objective_grid(objectives(nets, seeds=1, longer="network 0"))
    assert [axis.get_title("left") for axis in figure.axes] == list(nets)
    figure.canvas.draw()
    boxes = [text.get_window_extent() for axis in figure.axes for text in axis.get_xticklabels()]
    boxes.append(figure.legends[0].get_window_extent())
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 for box in boxes), "nothing is cut"


def test_a_grid_without_the_unpruned_networks_says_nothing_of_them():
    table = objectives(NETS)
    figure = figures.objective_grid(table[table.fine.notna()])
    assert "before pruning and fine-tuning" not in legend_texts(figure)
    assert not [line for axis in figure.axes for line in axis.lines if line.get_marker() == "None"]
    with pytest.raises(SettingsError, match="without fine-tuned networks"):
        figures.objective_grid(table[table.fine.isna()])
    for column in ("pre", "fine"):
        with pytest.raises(SettingsError, match=f"unknown {column} 'clean'.*benign, robust"):
            figures.objective_grid(table.assign(**{column: "clean"}))
    with pytest.raises(SettingsError, match="two rows of net ResNet, pre robust, fine robust, longer False"):
        figures.objective_grid(pd.concat([table, table.query("pre == fine == 'robust'")]))


def by_rule(rules=("LWM", "SNIP", "iterative LWM"), keeps=(0.1, 0.01)):
    rows = [{"rule": rule, "keep": keep, "measure": measure, "seed": seed,
             "accuracy": top - 0.1 * j - 0.02 * k + 0.01 * seed}
            for measure, top in (("clean", 0.8), ("robust", 0.5)) for seed in range(3)
            for k, rule in enumerate(rules) for j, keep in enumerate(keeps)]
    rows += [{"rule": "dense", "keep": 1.0, "measure": measure, "seed": seed, "accuracy": top + 0.01 * seed}
             for measure, top in (("clean", 0.85), ("robust", 0.55)) for seed in range(3)]
    return pd.DataFrame(rows)


def test_rules_are_lines_and_the_dense_network_a_band():
    figure = figures.pruning_rules(by_rule(), "robust accuracy, APGD")
    clean, robust = figure.axes
    assert (clean.get_ylabel(), robust.get_ylabel()) == ("clean accuracy", "robust accuracy, APGD")
    assert clean.get_xlabel() == "weights that are kept"
    for axis, top, dense in ((clean, 0.8, 0.86), (robust, 0.5, 0.56)):
        lines = {line.get_color(): line for line in axis.lines if line.get_linestyle() == "-"}
        for k, (rule, mark) in enumerate({"LWM": "s", "SNIP": "o", "iterative LWM": "s"}.items()):
            line = lines[plots.KINDS[rule]]
            order = np.argsort(line.get_xdata())[::-1]
            assert line.get_ydata()[order] == pytest.approx([top + 0.01 - 0.02 * k, top - 0.09 - 0.02 * k])
            assert line.get_marker() == mark, "a circle where the rule sees the objective"
        assert lines[plots.KINDS["dense"]].get_ydata() == pytest.approx([dense, dense])
        band = axis.patches[0].get_extents().transformed(axis.transData.inverted())
        assert (band.y0, band.y1) == pytest.approx((dense - 0.01, dense + 0.01))
        assert axis.get_ylim()[0] == 0 and axis.get_ylim()[1] > band.y1
    assert {text.get_text() for text in robust.texts} == {"dense, same fine-tuning", "LWM", "SNIP", "iterative LWM"}
    words = figure.get_supxlabel()
    assert "circles: the rule sees the robust objective" in words and "filters" not in words


def test_the_axis_says_that_filters_are_counted_otherwise():
    filters = by_rule(("filters",), (Fraction(1, 2),)).query("rule == 'filters'")
    figure = figures.pruning_rules(pd.concat([by_rule(), filters]))
    assert all("‘filters’: of filters" in axis.get_xlabel() for axis in figure.axes)
    assert "triangles: whole filters" in figure.get_supxlabel()
    mark, = [line for line in figure.axes[1].lines if line.get_marker() == "^"]
    assert mark.get_ydata() == pytest.approx([0.51]) and mark.get_color() == plots.KINDS["filters"]


def test_rules_that_cannot_be_drawn_are_refused():
    with pytest.raises(SettingsError, match="keep of dense = 0.1 is not possible"):
        figures.pruning_rules(by_rule().replace({"keep": {1.0: 0.1}}))
    with pytest.raises(SettingsError, match="keep of LWM = 1.0 is not possible"):
        figures.pruning_rules(by_rule(keeps=(1,)))
    with pytest.raises(SettingsError, match="without pruned networks"):
        figures.pruning_rules(by_rule().query("rule == 'dense'"))
    with pytest.raises(SettingsError, match="unknown measure 'verify'"):
        figures.pruning_rules(by_rule().replace({"measure": {"robust": "verify"}}))
    with pytest.raises(SettingsError, match="two rows"):
        figures.pruning_rules(pd.concat([by_rule(), by_rule()]))


@pytest.mark.parametrize(("draw", "lacks", "table"), [
    (figures.retained, "high", shares(NETS)), (figures.objective_grid, "longer", objectives(NETS)),
    (figures.pruning_rules, "rule", by_rule()),
])
def test_tables_of_compact_networks_are_checked(draw, lacks, table):
    with pytest.raises(SettingsError, match=f"table lacks the column {lacks}:"):
        draw(table.drop(columns=lacks))
    with pytest.raises(SettingsError, match="without rows"):
        draw(table[:0])
