"""Similarity of representations: what is drawn is what the tables say."""

import numpy as np
import pandas as pd
import pytest

from lib import plots
from lib.errors import SettingsError
from lib.papers.representation_similarity import figures, reference, tables
from tests.kit.figures import LAYERS, grow, legend_texts, panels_of
from tests.papers.representation_similarity.world import found, sized

N = len(LAYERS)


def test_every_table_is_drawn(made):
    layers_ = made.pool.layers["N0"]
    kinds = {"normal": ("N", "N"), "robust": ("R", "R"), "normal and robust": ("N", "R")}
    panels, notes, axes = tables.maps_of(made, kinds)
    assert axes["normal and robust"] == ("normal", "robust") and notes["robust"] == made.note("R")
    assert notes["normal and robust"] == f"{made.note('N')}; {made.note('R')}"
    assert panels["robust"][0, 15] == pytest.approx(.75, abs=.02)
    every = tables.summaries(made).query("kind == 'untrained' and summary == 'mean off-diagonal'")
    untrained = tables.mean_map(made, "U", "U")
    assert len(every) > made.section.seeds and every.value.mean() == pytest.approx(
        untrained[~np.eye(len(untrained), dtype=bool)].mean()), "all untrained networks"
    assert panels["normal and robust"].diagonal().mean() == pytest.approx(.50, abs=.01)
    controls, *more = tables.maps_of(made, tables.control_panels(made))
    assert [*controls] == ["untrained", "matched normal", "normal and matched normal"]
    drawn = [
        plots.similarity_maps(panels, layers_, notes, axes),
        figures.against_distance(tables.distances(made), "depth", reference.by_distance()),
        figures.summary_strip(tables.summaries(made), reference=reference.summaries()),
        figures.summary_strip(tables.second(made)),
        plots.similarity_maps(controls, layers_, *more),
        figures.kind_matrix(pairs := tables.kinds(made, tables.pool_kinds(made))),
        figures.neighbours(tables.neighbours(pairs)),
        figures.kind_matrix(tables.kinds(made, ("N", "noise", "R", "l2"))),
        figures.per_layer(tables.perturbed(made), layers_),
        figures.dose_response(tables.strengths(made)),
        figures.checkpoints(tables.runs(made)),
    ]
    assert all(figure.axes for figure in drawn)


def test_tables_of_a_study_without_arms_are_drawn():
    f = found(sized(arms=[]))
    brief = {"matched normal", "matched normal, shorter", "matched normal, longer"}
    assert set(tables.summaries(f).kind) == {"untrained", *brief, "normal", "robust"}
    dose = tables.strengths(f)
    assert set(dose.eps) == {0} and dose.to_normal.mean() == pytest.approx(.85, abs=.01)
    assert figures.dose_response(dose).axes and figures.kind_matrix(tables.kinds(f, ("N", "R"))).axes


def test_similarity_against_distance():
    reference = pd.DataFrame({"kind": "robust", "distance": [1, 3], "similarity": [0.9, 0.6], "source": "published"})
    figure = figures.against_distance(grow(), reference=reference)
    axis, = figure.axes
    by_label = {line.get_label(): line for line in axis.lines}
    np.testing.assert_allclose(by_label["normal"].get_ydata(), 0.31 + 0.05 * np.arange(1, 6))
    assert by_label["robust"].get_color() == by_label["robust, published"].get_color() == plots.ROBUST
    assert legend_texts(figure) == ["normal", "robust", "robust, published"]
    assert sum(line.get_label().startswith("_") for line in axis.lines) == 6, "every seed is drawn"
    assert figure.description.startswith("Two layers of one network are more alike in robust networks (0.66, mean over")
    two = figures.against_distance(grow(seeds=2))
    assert two.description.startswith("Mean CKA of two layers of one network by the distance"), "two decide nothing"
    with pytest.raises(SettingsError, match="unit of distance"):
        figures.against_distance(grow(), unit="metres")


def test_per_layer_tells_kinds_by_colour_and_perturbations_by_line():
    table = pd.concat([grow(x="position", xs=range(N)).assign(perturbation=name) for name in ("own", "noise")])
    figure = figures.per_layer(table, LAYERS)
    axis, = figure.axes
    drawn = {(line.get_color(), line.get_linestyle()) for line in axis.lines if len(line.get_xdata()) == N}
    assert drawn == {(plots.CLEAN, "-"), (plots.CLEAN, "--"), (plots.ROBUST, "-"), (plots.ROBUST, "--")}
    assert legend_texts(figure) == ["normal", "robust", "own", "noise"]
    assert "layer1" in {text.get_text() for text in axis.get_xticklabels()}
    assert figure.description.startswith("Perturbed images (own) change representations less in robust networks (mean "
                                         "CKA with clean images over layers 0.79) than in normal ones (0.59).")
    with pytest.raises(SettingsError, match="position = 12.*0 to 11"):
        figures.per_layer(pd.concat([table, table.assign(position=N)]), LAYERS)
    many = pd.concat([table.assign(perturbation=str(i)) for i in range(5)])
    with pytest.raises(SettingsError, match="at most 4"):
        figures.per_layer(many, LAYERS)


def test_dose_response():
    table = grow(("robust",), x="eps", y="to_normal", xs=(0, 2, 8))
    table["self"] = 0.7
    figure = figures.dose_response(table, "ε in 1/255")
    left, right = figure.axes
    np.testing.assert_allclose(left.lines[0].get_ydata(), [0.31, 0.41, 0.71])
    np.testing.assert_allclose(right.lines[0].get_ydata(), 0.7)
    assert len(left.lines[1].get_xdata()) == 9, "every seed is a dot"
    assert [text.get_text() for text in left.get_xticklabels()] == ["0", "2", "8"]
    assert "1/255" in left.get_xlabel() and not legend_texts(figure)
    apart = table.assign(to_normal=1 - table.to_normal)
    assert figures.dose_response(apart).description.startswith(
        "Networks trained at ε 8 are less similar to normal ones (0.29) than normal ones to each other (0.69).")
    assert figures.dose_response(apart[apart.eps > 0]).description.startswith(
        "Networks trained at ε 8 are less similar to normal ones (0.29) than those trained at ε 2 (0.59).")
    bad = pd.DataFrame({"eps": [1], "panel": ["both"], "similarity": [0.5], "source": ["paper"]})
    with pytest.raises(SettingsError, match="unknown panel 'both'"):
        figures.dose_response(table, reference=bad)


def test_summary_strip_shows_seeds_mean_interval_and_reference():
    table = pd.DataFrame({"kind": ["normal"] * 3 + ["robust"] * 2, "seed": [0, 1, 2, 0, 1],
                          "summary": "mean off-diagonal", "value": [0.5, 0.52, 0.54, 0.7, 0.8]})
    reference = pd.DataFrame([("robust", "mean off-diagonal", 0.7, "paper")],
                             columns=["kind", "summary", "value", "source"])
    figure = figures.summary_strip(table, reference=reference)
    axis, = figure.axes
    dots = [line for line in axis.lines if line.get_marker() == "o"]
    assert [len(line.get_xdata()) for line in dots] == [3, 2], "every seed is a dot"
    lines = [(line.get_xdata(), line.get_color()) for line in axis.lines if line not in dots]
    bars = {colour: xs for xs, colour in lines if len(xs) == 2 and xs[0] == xs[1]}
    assert bars[plots.CLEAN][0] == pytest.approx(0.52) and bars[plots.ROBUST][0] == pytest.approx(0.75)
    spread = [(xs, colour) for xs, colour in lines if len(xs) == 2 and xs[0] < xs[1]]
    assert [colour for _, colour in spread] == [plots.CLEAN], "two seeds give no interval"
    half = 4.303 * 0.02 / np.sqrt(3)
    np.testing.assert_allclose(spread[0][0], [0.52 - half, 0.52 + half], atol=1e-4)
    assert legend_texts(figure) == ["paper"] and axis.texts[0].get_text() == "0.70"
    assert axis.get_ylim()[0] > axis.get_ylim()[1], "rows read from the top"

    given = pd.DataFrame({"kind": ["robust"], "summary": ["mean off-diagonal"], "low": [0.6], "high": [0.9]})
    other = figures.summary_strip(table.assign(summary="mean off-diagonal, svcca"), intervals=given)
    assert other.axes[0].get_xlabel() == "mean off-diagonal, SVCCA"
    axis, = figures.summary_strip(table, intervals=given).axes
    assert [0.6, 0.9] in [list(line.get_xdata()) for line in axis.lines], "the judge's intervals take precedence"


def test_the_nearest_kind_is_named_only_if_it_lies_above_the_others():
    level = {("robust", "matched normal"): .76, ("robust", "normal"): .62, ("untrained", "robust"): .61,
             ("untrained", "normal"): .60, ("robust", "robust"): .97}
    table = pd.DataFrame([{"of": of, "kind": kind, "seed": seed, "similarity": value + .01 * seed}
                          for (of, kind), value in level.items() for seed in range(3)])
    figure = figures.neighbours(table)
    assert figure.description.startswith(
        "Of other kinds, matched normal networks are the most similar to robust ones (0.77; normal 0.63). ")
    assert [axis.get_xlabel().replace("\n", " ") for axis in figure.axes] == [
        f"mean same-layer CKA with {of} networks" for of in ("robust", "untrained")]
    open_ = figures.neighbours(table[table.seed < 2])
    assert open_.description.startswith("Mean same-layer CKA of robust and of untrained networks")


def test_kind_matrix_is_symmetric_and_says_what_was_not_measured():
    table = pd.DataFrame([("normal", "robust", 0.4), ("robust", "normal", 0.5), ("robust", "robust", 0.9)],
                         columns=["kind", "other", "similarity"])
    figure = figures.kind_matrix(table)
    axis, = panels_of(figure)
    values = np.ma.filled(axis.images[0].get_array(), np.nan)
    np.testing.assert_allclose(values, [[np.nan, 0.45], [0.45, 0.9]])
    assert sorted(text.get_text() for text in axis.texts) == ["0.45\n(0.58)", "0.45\n(0.58)", "0.90"]
    assert figure.description.startswith("Mean same-layer CKA with robust networks: robust 0.90, normal 0.45.")
    assert legend_texts(figure) == ["not measured"]


def test_checkpoints():
    rows = [{"kind": kind, "seed": seed, "epoch": epoch, "images": images, "quantity": quantity,
             "value": {"early": 0.9, "deep": 0.5, "accuracy": 0.4 - 0.01 * abs(epoch - 2)}[quantity]}
            for kind in ("overfits", "control") for seed in range(2) for epoch in range(1, 5)
            for images in ("train", "test") for quantity in ("early", "deep", "accuracy")]
    table = pd.DataFrame(rows)
    figure = figures.checkpoints(table)
    assert len(figure.axes) == 4 and [axis.get_title("left") for axis in figure.axes[:2]] == ["overfits", "control"]
    above, below = figure.axes[0], figure.axes[2]
    best = [line.get_xdata() for line in above.lines if len(set(line.get_xdata())) == 1]
    assert best == [[2, 2]], "the epoch of the best test accuracy"
    assert {line.get_linestyle() for line in below.lines if len(line.get_xdata()) == 4} == {"-", "--"}
    assert "robust" in below.get_ylabel() and "test images" in legend_texts(figure)
    flat = figures.checkpoints(table.assign(value=0.0))
    assert not [line for line in flat.axes[0].lines if len(set(line.get_xdata())) == 1], "no best of equals"
    with pytest.raises(SettingsError, match="unknown quantity 'depth'"):
        figures.checkpoints(table.replace({"quantity": {"deep": "depth"}}))
    with pytest.raises(SettingsError, match="unknown images 'held-out'"):
        figures.checkpoints(table.replace({"images": {"train": "held-out"}}))


@pytest.mark.parametrize(("draw", "lacks"), [
    (figures.against_distance, "distance"), (lambda t: figures.per_layer(t, LAYERS), "perturbation"),
    (figures.dose_response, "to_normal"), (figures.summary_strip, "summary"), (figures.kind_matrix, "other"),
    (figures.checkpoints, "quantity"), (figures.neighbours, "of"),
])
def test_a_table_that_lacks_a_column_is_refused(draw, lacks):
    with pytest.raises(SettingsError, match=f"table lacks.*{lacks}"):
        draw(pd.DataFrame({"kind": ["normal"], "seed": [0]}))
    columns = ["kind", "seed", "distance", "similarity", "perturbation", "position", "eps", "to_normal", "self",
               "summary", "value", "other", "epoch", "images", "quantity", "of"]
    with pytest.raises(SettingsError, match="without rows"):
        draw(pd.DataFrame({name: [] for name in columns}))
