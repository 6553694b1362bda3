"""The figures: what is drawn is what the tables say, and what cannot be drawn is said in one sentence."""

from dataclasses import dataclass
from fractions import Fraction

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt

from lib import plots
from lib.errors import SettingsError
from lib.papers.compact_robust_pruning import figures as compact
from lib.papers.compact_robust_pruning.settings import RULES
from lib.papers.harp_pruning import figures as harp
from lib.papers.off_manifold_robustness import figures as manifold
from lib.papers.off_manifold_robustness import gradients as gradient
from lib.papers.off_manifold_robustness import regimes, strength_axis
from lib.papers.off_manifold_robustness import regimes as regime
from lib.papers.representation_similarity import figures as similarity
from lib.papers.stitching import figures as stitching
from lib.papers.stitching.figures import joint_activations, stitching_matrix
from lib.plots.common import signed
from lib.plots.style import curve, spans, stage_ticks


@dataclass(frozen=True)
class Layer:
    label: str
    kind: str
    stage: str


STAGES = ["stem", *(f"layer{k}.{block}" for k in (1, 2) for block in (0, 1)), "head"]
LAYERS = [Layer(f"{stage}.{kind}", kind, stage) for stage in STAGES for kind in ("Conv2d", "ReLU")]
N = len(LAYERS)


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def panels_of(figure):
    """The axes that hold a map, not the colour bar."""
    return [axis for axis in figure.axes if axis.images]


def legend_texts(figure):
    boxes = [*figure.legends, *(axis.get_legend() for axis in figure.axes if axis.get_legend())]
    return [text.get_text() for box in boxes for text in box.get_texts()]


def grow(kinds=("normal", "robust"), seeds=3, x="distance", y="similarity", xs=range(1, 6)):
    """A value that tells kind, seed and place apart."""
    return pd.DataFrame([{"kind": kind, "seed": seed, x: at, y: 0.3 + 0.2 * k + 0.01 * seed + 0.05 * at}
                         for k, kind in enumerate(kinds) for seed in range(seeds) for at in xs])


# ------------------------------------------------------------------------------------------------------------- the look


def test_a_kind_has_the_same_colour_in_every_company():
    alone = plots.colours(["robust"])
    among = plots.colours(["something", "untrained", "robust", "normal"])
    assert alone["robust"] == among["robust"] == plots.ROBUST
    assert len(set(among.values())) == 4
    assert among["something"] not in plots.KINDS.values()


def test_relatives_of_a_kind_get_tints_of_its_colour():
    found = plots.colours(["R", "R wide", "R deep", "N wide", "eps 2/255"])
    assert len(set(found.values())) == 5
    rgb = {kind: matplotlib.colors.to_rgb(colour) for kind, colour in found.items()}
    assert all(rgb[kind][0] > rgb[kind][2] for kind in ("R wide", "R deep", "eps 2/255")), "red"
    assert rgb["N wide"][2] > rgb["N wide"][0], "blue"


def test_more_kinds_than_colours_are_refused():
    with pytest.raises(SettingsError, match="kinds without a colour.*k0, k1.*at most 6"):
        plots.colours([f"k{i}" for i in range(7)])


def lab(rgb):
    """CIELAB of linear sRGB in [0, 1]."""
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ rgb
    x, y, z = (t ** (1 / 3) if t > 0.008856 else 7.787 * t + 16 / 116 for t in xyz / [0.9505, 1.0, 1.089])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


TOGETHER = {
    "kinds": [plots.KINDS[kind] for kind in ("normal", "robust", "matched", "untrained", "noise", "TRADES", "half",
                                             "FGSM-RS", "l2")],
    "rules": [plots.KINDS[rule] for rule in ("dense", *RULES)],
    "measures": [plots.CLEAN, plots.ROBUST, plots.VERIFIED],
}


@pytest.mark.parametrize("eyes", ["normal", "deuteranopia", "protanopia"])
@pytest.mark.parametrize(("which", "least"), [("kinds", 12), ("rules", 11), ("measures", 30)])
def test_what_stands_together_can_be_told_apart(which, least, eyes):
    """Also by the colour-blind: simulated as in Machado et al. 2009, severity 1."""
    matrix = {
        "normal": np.eye(3),
        "deuteranopia": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
        "protanopia": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    }[eyes]
    seen = {}
    for colour in TOGETHER[which]:
        rgb = np.array(matplotlib.colors.to_rgb(colour))
        linear = np.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
        seen[colour] = lab(np.clip(np.array(matrix) @ linear, 0, 1))
    assert len(seen) == len(TOGETHER[which]), "each has a colour of its own"
    apart = {(a, b): np.linalg.norm(seen[a] - seen[b]) for a in seen for b in seen if a < b}
    assert min(apart.values()) > least, min(apart, key=apart.get)


def test_spans_of_stages():
    assert spans(LAYERS) == [("stem", 0, 2), ("layer1", 2, 6), ("layer2", 6, 10), ("head", 10, 12)]
    assert spans([]) == []


def test_names_of_close_stages_are_left_out_but_no_boundary():
    deep = [Layer("a", "Conv2d", "stem"), *[Layer("b", "Conv2d", f"layer1.{k}") for k in range(78)],
            Layer("c", "Linear", "head")]
    _, axis = plt.subplots()
    assert stage_ticks(axis, deep, "x", room=1.5) == [0.5, 78.5]
    assert [text.get_text() for text in axis.get_xticklabels()] == ["layer1"]
    stage_ticks(axis, deep, "x", room=20)
    assert sorted(text.get_text() for text in axis.get_xticklabels()) == ["head", "layer1", "stem"]


def test_curves_leave_gaps_where_nothing_was_measured():
    table = grow(("normal",), xs=(0, 1, 3))
    _, axis = plt.subplots()
    curve(axis, table, "distance", "similarity", "#000000", dots=True, xs=range(4))
    mean, *seeds = axis.lines
    np.testing.assert_allclose(mean.get_ydata(), [0.31, 0.36, np.nan, 0.46])
    assert len(seeds) == 3 and np.isnan(seeds[0].get_ydata()[2])


# ----------------------------------------------------------------------------------------------------- similarity maps


def test_maps_are_drawn_from_the_lower_left_on_one_scale():
    values = np.linspace(0, 1, N * N).reshape(N, N)
    figure = plots.similarity_maps({"N": values, "R": values / 2}, LAYERS, {"N": "clean 74.0 %, PGD-20 0.0 %"},
                                   {"R": ("rows", "columns")})
    left, right = panels_of(figure)
    np.testing.assert_array_equal(left.images[0].get_array(), values)
    low, high = left.get_ylim()
    assert low < high, "the first layer is at the bottom"
    assert left.images[0].get_clim() == right.images[0].get_clim() == (0, 1)
    assert left.get_title("left") == "N" and left.texts[0].get_text() == "clean 74.0 %, PGD-20 0.0 %"
    assert right.get_ylabel() == "rows" and right.get_xlabel() == "columns"
    assert {text.get_text() for text in left.get_yticklabels()} == {"stem", "layer1", "layer2", "head"}
    assert len(left.lines) == 6, "three boundaries each way"
    assert not legend_texts(figure), "nothing is undefined"


def test_what_is_undefined_is_hatched_and_said():
    values = np.full((N, N), 0.5)
    values[3] = np.nan
    figure = plots.similarity_maps({"N": values}, LAYERS)
    axis, = panels_of(figure)
    assert axis.patch.get_hatch() and np.ma.getmaskarray(axis.images[0].get_array())[3].all()
    assert "undefined" in legend_texts(figure)[0]
    everything = plots.similarity_maps({"N": np.full((N, N), np.nan)}, LAYERS)
    assert "undefined" in legend_texts(everything)[0]


@pytest.mark.parametrize("count", [1, 4, 5])
def test_any_number_of_maps(count):
    figure = plots.similarity_maps({f"map {i}": np.eye(N) for i in range(count)}, LAYERS)
    assert len(panels_of(figure)) == count
    figure.canvas.draw()
    boxes = [axis.get_window_extent() for axis in panels_of(figure)]
    assert len({(round(box.width), round(box.height)) for box in boxes}) == 1
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_networks_of_different_depth_and_named_layers():
    few = LAYERS[:5]
    figure = plots.similarity_maps({"pair": np.ones((5, N))}, {"pair": (few, LAYERS)}, label_layers=True)
    axis, = panels_of(figure)
    assert [text.get_text() for text in axis.get_yticklabels()] == [layer.label for layer in few]
    with pytest.raises(SettingsError, match=r"shape of the map 'pair' = \(12, 12\).*\(5, 12\)"):
        plots.similarity_maps({"pair": np.ones((N, N))}, {"pair": (few, LAYERS)})
    with pytest.raises(SettingsError, match="panels"):
        plots.similarity_maps({}, LAYERS)


# ---------------------------------------------------------------------------------------------- curves and summaries


def test_similarity_against_distance():
    reference = pd.DataFrame({"kind": "robust", "distance": [1, 3], "similarity": [0.9, 0.6], "source": "published"})
    figure = similarity.against_distance(grow(), reference=reference)
    axis, = figure.axes
    by_label = {line.get_label(): line for line in axis.lines}
    np.testing.assert_allclose(by_label["normal"].get_ydata(), 0.31 + 0.05 * np.arange(1, 6))
    assert by_label["robust"].get_color() == by_label["robust, published"].get_color() == plots.ROBUST
    assert legend_texts(figure) == ["normal", "robust", "robust, published"]
    assert sum(line.get_label().startswith("_") for line in axis.lines) == 6, "every seed is drawn"
    with pytest.raises(SettingsError, match="unit of distance"):
        similarity.against_distance(grow(), unit="metres")


def test_per_layer_tells_kinds_by_colour_and_perturbations_by_line():
    table = pd.concat([grow(x="position", xs=range(N)).assign(perturbation=name) for name in ("own", "noise")])
    figure = similarity.per_layer(table, LAYERS)
    axis, = figure.axes
    drawn = {(line.get_color(), line.get_linestyle()) for line in axis.lines if len(line.get_xdata()) == N}
    assert drawn == {(plots.CLEAN, "-"), (plots.CLEAN, "--"), (plots.ROBUST, "-"), (plots.ROBUST, "--")}
    assert legend_texts(figure) == ["normal", "robust", "own", "noise"]
    assert "layer1" in {text.get_text() for text in axis.get_xticklabels()}
    with pytest.raises(SettingsError, match="position = 12.*0 to 11"):
        similarity.per_layer(pd.concat([table, table.assign(position=N)]), LAYERS)
    many = pd.concat([table.assign(perturbation=str(i)) for i in range(5)])
    with pytest.raises(SettingsError, match="at most 4"):
        similarity.per_layer(many, LAYERS)


def test_dose_response():
    table = grow(("robust",), x="eps", y="to_normal", xs=(0, 2, 8))
    table["self"] = 0.7
    figure = similarity.dose_response(table, "ε in 1/255")
    left, right = figure.axes
    np.testing.assert_allclose(left.lines[0].get_ydata(), [0.31, 0.41, 0.71])
    np.testing.assert_allclose(right.lines[0].get_ydata(), 0.7)
    assert len(left.lines[1].get_xdata()) == 9, "every seed is a dot"
    assert [text.get_text() for text in left.get_xticklabels()] == ["0", "2", "8"]
    assert "1/255" in left.get_xlabel() and not legend_texts(figure)
    bad = pd.DataFrame({"eps": [1], "panel": ["both"], "similarity": [0.5], "source": ["paper"]})
    with pytest.raises(SettingsError, match="unknown panel 'both'"):
        similarity.dose_response(table, reference=bad)


def test_summary_strip_shows_seeds_mean_interval_and_reference():
    table = pd.DataFrame({"kind": ["normal"] * 3 + ["robust"] * 2, "seed": [0, 1, 2, 0, 1],
                          "summary": "mean off-diagonal", "value": [0.5, 0.52, 0.54, 0.7, 0.8]})
    reference = pd.DataFrame([("robust", "mean off-diagonal", 0.7, "paper")],
                             columns=["kind", "summary", "value", "source"])
    figure = similarity.summary_strip(table, reference=reference)
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
    axis, = similarity.summary_strip(table, intervals=given).axes
    assert [0.6, 0.9] in [list(line.get_xdata()) for line in axis.lines], "the judge's intervals take precedence"


def test_kind_matrix_is_symmetric_and_says_what_was_not_measured():
    table = pd.DataFrame([("normal", "robust", 0.4), ("robust", "normal", 0.5), ("robust", "robust", 0.9)],
                         columns=["kind", "other", "similarity"])
    figure = similarity.kind_matrix(table)
    axis, = panels_of(figure)
    values = np.ma.filled(axis.images[0].get_array(), np.nan)
    np.testing.assert_allclose(values, [[np.nan, 0.45], [0.45, 0.9]])
    assert sorted(text.get_text() for text in axis.texts) == ["0.45", "0.45", "0.90"]
    assert legend_texts(figure) == ["not measured"]


def test_checkpoints():
    rows = [{"kind": kind, "seed": seed, "epoch": epoch, "images": images, "quantity": quantity,
             "value": {"early": 0.9, "deep": 0.5, "accuracy": 0.4 - 0.01 * abs(epoch - 2)}[quantity]}
            for kind in ("overfits", "control") for seed in range(2) for epoch in range(1, 5)
            for images in ("train", "test") for quantity in ("early", "deep", "accuracy")]
    table = pd.DataFrame(rows)
    figure = similarity.checkpoints(table)
    assert len(figure.axes) == 4 and [axis.get_title("left") for axis in figure.axes[:2]] == ["overfits", "control"]
    above, below = figure.axes[0], figure.axes[2]
    best = [line.get_xdata() for line in above.lines if len(set(line.get_xdata())) == 1]
    assert best == [[2, 2]], "the epoch of the best test accuracy"
    assert {line.get_linestyle() for line in below.lines if len(line.get_xdata()) == 4} == {"-", "--"}
    assert "robust" in below.get_ylabel() and "test images" in legend_texts(figure)
    flat = similarity.checkpoints(table.assign(value=0.0))
    assert not [line for line in flat.axes[0].lines if len(set(line.get_xdata())) == 1], "no best of equals"
    with pytest.raises(SettingsError, match="unknown quantity 'depth'"):
        similarity.checkpoints(table.replace({"quantity": {"deep": "depth"}}))
    with pytest.raises(SettingsError, match="unknown images 'held-out'"):
        similarity.checkpoints(table.replace({"images": {"train": "held-out"}}))


@pytest.mark.parametrize(("draw", "lacks"), [
    (similarity.against_distance, "distance"), (lambda t: similarity.per_layer(t, LAYERS), "perturbation"),
    (similarity.dose_response, "to_normal"), (similarity.summary_strip, "summary"), (similarity.kind_matrix, "other"),
    (similarity.checkpoints, "quantity"),
])
def test_a_table_that_lacks_a_column_is_refused(draw, lacks):
    with pytest.raises(SettingsError, match=f"table lacks.*{lacks}"):
        draw(pd.DataFrame({"kind": ["normal"], "seed": [0]}))
    columns = ["kind", "seed", "distance", "similarity", "perturbation", "position", "eps", "to_normal", "self",
               "summary", "value", "other", "epoch", "images", "quantity"]
    with pytest.raises(SettingsError, match="without rows"):
        draw(pd.DataFrame({name: [] for name in columns}))


# -------------------------------------------------------------------------------------------------------- stitching


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


def test_bars_against_controls():
    rows = [(what, measure, 0.5, 0.4, 0.6) for what in ("claim", "null") for measure in ("clean", "robust")]
    table = pd.DataFrame(rows, columns=["what", "measure", "value", "low", "high"])
    axis, = stitching.bars_against_controls(table, "after layer1.0").axes
    assert [text.get_text() for text in axis.get_yticklabels()] == ["claim", "null"]
    assert [bar.get_width() for bar in axis.patches] == [0.5] * 4


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


# --------------------------------------------------------------------------------------- compact and robust networks


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
    """The ends of the vertical lines between data, by their x."""
    return {line.get_xdata()[0]: tuple(line.get_ydata()) for line in axis.lines
            if line.get_zorder() == 3 and len(line.get_xdata()) == 2 and line.get_marker() == "None"}


def test_retained_has_a_group_a_network_and_a_mark_a_measure():
    axis, = compact.retained(shares(NETS)).axes
    drawn = marks(axis)
    expected = [(mean - less, colour, filled)
                for measures in NETS.values() for mean, measure in zip((0.9, 0.8, 0.7), measures, strict=False)
                for colour in [COLOURS[measure]] for less, filled in ((0, True), (0.1, False))]
    assert [(round(y, 6), colour, filled) for _, y, colour, filled in drawn] == [
        (round(y, 6), colour, filled) for y, colour, filled in expected]
    ticks = dict(zip((text.get_text() for text in axis.get_xticklabels()), axis.get_xticks(), strict=True))
    border, = [line.get_xdata()[0] for line in axis.lines if line.get_color() == "#dddddd"]
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
    axis, = compact.retained(shares(NETS, seeds=1, low=np.nan, high=np.nan)).axes
    assert len(marks(axis)) == 10 and not upright(axis)
    clean_only = shares({"CNN": ["clean"]}).query("over == 'unpruned'")
    axis, = compact.retained(clean_only).axes
    assert len(marks(axis)) == 1 and legend_texts(axis.figure) == [
        "clean accuracy", "of the pre-trained network", "one repetition"]


def test_published_shares_are_lines_whose_numbers_do_not_overlap():
    figure = compact.retained(shares(NETS), PUBLISHED)
    axis, = figure.axes
    lines = {line.get_color(): line.get_ydata()[0] for line in axis.lines if line.get_linestyle() == "--"}
    assert lines == {plots.CLEAN: 0.93, plots.ROBUST: 0.925, plots.VERIFIED: 0.85}
    assert [text.get_text() for text in axis.texts] == ["verified 85 %", "robust 92.5 %", "clean 93 %"]
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in axis.texts]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    assert all(box.x1 <= figure.bbox.x1 for box in boxes), "nothing is cut"
    assert legend_texts(figure)[-1] == "abstract"


@pytest.mark.parametrize(("lost", "bottom"), [(0, 0.5), (0.15, 0)])
def test_the_axis_of_shares_starts_at_one_half_or_at_zero(lost, bottom):
    table = shares(NETS)
    axis, = compact.retained(table.assign(share=table.share - lost)).axes
    assert axis.get_ylim()[0] == bottom and axis.get_ylim()[1] > 1


def test_shares_that_cannot_be_drawn_are_refused():
    table = shares(NETS)
    for column, wrong in (("measure", "verify"), ("over", "parent")):
        with pytest.raises(SettingsError, match=f"unknown {column} '{wrong}'"):
            compact.retained(table.assign(**{column: wrong}))
    with pytest.raises(SettingsError, match="two rows of net ResNet, .*, over unpruned, seed 0: .*one share"):
        compact.retained(pd.concat([table, table]))
    with pytest.raises(SettingsError, match="share = inf"):
        compact.retained(table.assign(share=np.inf))
    with pytest.raises(SettingsError, match="without a share"):
        compact.retained(table.assign(share=np.nan))
    with pytest.raises(SettingsError, match="reference lacks the column source"):
        compact.retained(table, PUBLISHED[["measure", "share"]])
    with pytest.raises(SettingsError, match="unknown measure of the reference 'search'"):
        compact.retained(table, PUBLISHED.assign(measure="search"))


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
    figure = compact.objective_grid(objectives(NETS))
    left, right = figure.axes
    names = [" ".join(text.get_text().split()) for text in left.get_xticklabels()]
    assert names == ["robust → robust", "robust → benign", "benign → robust", "benign → benign",
                     "benign → robust, longer"]
    assert [" ".join(text.get_text().split()) for text in right.get_xticklabels()] == names[:-1]
    assert left.get_title("left") == "ResNet" and left.get_ylim() == right.get_ylim() == (0, 1)
    assert "longer: fine-tuned for as many epochs" in figure.legends[0].get_title().get_text()
    assert legend_texts(figure) == ["clean accuracy", "robust accuracy", "verified accuracy",
                                    "before pruning and fine-tuning", "one repetition"]
    shorter = compact.objective_grid(objectives(NETS, longer=None))
    assert "longer" not in shorter.legends[0].get_title().get_text()


def test_bars_of_the_grid_are_means_with_repetitions_and_the_network_before():
    _, axis = compact.objective_grid(objectives(NETS)).axes
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
    figure = compact.objective_grid(objectives(nets, seeds=1, longer="network 0"))
    assert [axis.get_title("left") for axis in figure.axes] == list(nets)
    figure.canvas.draw()
    boxes = [text.get_window_extent() for axis in figure.axes for text in axis.get_xticklabels()]
    boxes.append(figure.legends[0].get_window_extent())
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 for box in boxes), "nothing is cut"


def test_a_grid_without_the_unpruned_networks_says_nothing_of_them():
    table = objectives(NETS)
    figure = compact.objective_grid(table[table.fine.notna()])
    assert "before pruning and fine-tuning" not in legend_texts(figure)
    assert not [line for axis in figure.axes for line in axis.lines if line.get_marker() == "None"]
    with pytest.raises(SettingsError, match="without fine-tuned networks"):
        compact.objective_grid(table[table.fine.isna()])
    for column in ("pre", "fine"):
        with pytest.raises(SettingsError, match=f"unknown {column} 'clean'.*benign, robust"):
            compact.objective_grid(table.assign(**{column: "clean"}))
    with pytest.raises(SettingsError, match="two rows of net ResNet, pre robust, fine robust, longer False"):
        compact.objective_grid(pd.concat([table, table.query("pre == fine == 'robust'")]))


def by_rule(rules=("LWM", "SNIP", "iterative LWM"), keeps=(0.1, 0.01)):
    rows = [{"rule": rule, "keep": keep, "measure": measure, "seed": seed,
             "accuracy": top - 0.1 * j - 0.02 * k + 0.01 * seed}
            for measure, top in (("clean", 0.8), ("robust", 0.5)) for seed in range(3)
            for k, rule in enumerate(rules) for j, keep in enumerate(keeps)]
    rows += [{"rule": "dense", "keep": 1.0, "measure": measure, "seed": seed, "accuracy": top + 0.01 * seed}
             for measure, top in (("clean", 0.85), ("robust", 0.55)) for seed in range(3)]
    return pd.DataFrame(rows)


def test_rules_are_lines_and_the_dense_network_a_band():
    figure = compact.pruning_rules(by_rule(), "robust accuracy, APGD")
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
    assert legend_texts(figure) == ["dense, same fine-tuning", "LWM", "SNIP", "iterative LWM"]
    words = figure.legends[0].get_title().get_text()
    assert "circles: the rule sees the robust objective" in words and "filters" not in words


def test_the_axis_says_that_filters_are_counted_otherwise():
    filters = by_rule(("filters",), (Fraction(1, 2),)).query("rule == 'filters'")
    figure = compact.pruning_rules(pd.concat([by_rule(), filters]))
    assert all("‘filters’: of filters" in axis.get_xlabel() for axis in figure.axes)
    assert "triangles: whole filters" in figure.legends[0].get_title().get_text()
    mark, = [line for line in figure.axes[1].lines if line.get_marker() == "^"]
    assert mark.get_ydata() == pytest.approx([0.51]) and mark.get_color() == plots.KINDS["filters"]


def test_rules_that_cannot_be_drawn_are_refused():
    with pytest.raises(SettingsError, match="keep of dense = 0.1 is not possible"):
        compact.pruning_rules(by_rule().replace({"keep": {1.0: 0.1}}))
    with pytest.raises(SettingsError, match="keep of LWM = 1.0 is not possible"):
        compact.pruning_rules(by_rule(keeps=(1,)))
    with pytest.raises(SettingsError, match="without pruned networks"):
        compact.pruning_rules(by_rule().query("rule == 'dense'"))
    with pytest.raises(SettingsError, match="unknown measure 'verify'"):
        compact.pruning_rules(by_rule().replace({"measure": {"robust": "verify"}}))
    with pytest.raises(SettingsError, match="two rows"):
        compact.pruning_rules(pd.concat([by_rule(), by_rule()]))


@pytest.mark.parametrize(("draw", "lacks", "table"), [
    (compact.retained, "high", shares(NETS)), (compact.objective_grid, "longer", objectives(NETS)),
    (compact.pruning_rules, "rule", by_rule()),
])
def test_tables_of_compact_networks_are_checked(draw, lacks, table):
    with pytest.raises(SettingsError, match=f"table lacks the column {lacks}:"):
        draw(table.drop(columns=lacks))
    with pytest.raises(SettingsError, match="without rows"):
        draw(table[:0])


# ---------------------------------------------------------------------------------------------- off-manifold robustness

ON_OFF = {0.0: (0.3, 0.5), 0.01: (0.32, 0.4), 0.1: (0.3, 0.2), 1.0: (0.2, 0.1), 10.0: (0.004, 0.001)}
ALIGNED = {0.0: 0.1, 0.01: 0.15, 0.1: 0.3, 1.0: 0.25, 10.0: 0.4}
RIGHT = {0.0: 0.9, 0.01: 0.9, 0.1: 0.88, 1.0: 0.7, 10.0: 0.3}


def sweep(kinds=("gradient norm", "PGD"), strengths=tuple(ON_OFF), seeds=3, **more):
    """Rows of a sweep of known regimes: weak up to 0.01, Bayes-aligned at 0.1, excessive from 1 on, constant at 10."""
    rows = [{"kind": kind, "strength": s, "seed": seed, "on": ON_OFF[s][0] + 0.001 * seed, "off": ON_OFF[s][1],
             "accuracy": RIGHT[s] + 0.01 * (seed - 1), "alignment": ALIGNED[s], "shuffled pairs": 0.05, **more}
            for kind in kinds for s in strengths for seed in range(seeds)]
    return pd.DataFrame(rows)


def seen(figure):
    return [axis for axis in figure.axes if axis.get_visible()]


def line_of(axis, colour):
    """The line with marks of a colour."""
    found, = [line for line in axis.lines if line.get_color() == colour and line.get_marker() not in ("None", None, "")
              and line.get_linestyle() == "-"]
    return found


def test_regimes_are_told_apart_by_crossing_and_peak():
    on, off = zip(*ON_OFF.values(), strict=True)
    right, aligned = list(RIGHT.values()), list(ALIGNED.values())
    weak, best, excessive = regimes.REGIMES
    assert regimes.regimes(on, off, right, aligned) == [weak, weak, best, excessive, excessive]
    with_constants = regimes.regimes(on, off, right, aligned, dead=0)
    assert with_constants == [weak, weak, best, best, best], "the peak is the strongest, which is a constant"
    assert regimes.regimes(on, on, right, aligned) == [weak, weak, best, excessive, excessive], "they never cross"
    assert regimes.regimes(off, on, right, aligned)[:2] == [best, best], "they have crossed from the start"
    level = regimes.regimes(on, off, [0.9] * 5, aligned)
    assert level == [weak, weak, best, best, best], "nothing is excessive where accuracy stays"
    back = regimes.regimes(on, off, [0.9, 0.9, 0.88, 0.8, 0.88], aligned)
    assert back[-2:] == [excessive, excessive], "accuracy may come back, the regime does not"


def test_representatives_of_the_regimes():
    weak, best, excessive = regimes.REGIMES
    found = regime.representatives(sweep(("noise", "PGD")))
    of_each = [((kind, s), regime) for kind in ("noise", "PGD")
               for s, regime in ((0.01, weak), (0.1, best), (1.0, excessive))]
    assert list(found.items()) == [(("none", 0.0), weak), *of_each], "the strongest that is no constant"
    everywhere_constant = regime.representatives(sweep(("PGD",)), dead=1)
    assert everywhere_constant["PGD", 10.0] == best, "what is best among constants, if there is nothing else"
    short = regime.representatives(sweep(("noise",), (0.0, 0.1)))
    assert short == {("none", 0.0): ""}, "two strengths have no regimes"


def test_strengths_lie_on_a_logarithmic_axis_with_0_at_its_left_edge():
    figure = regime.regime_curves({"digits": sweep(("PGD",))})
    above, below = seen(figure)[:2]
    line = line_of(above, strength_axis.ON)
    assert line.get_xdata() == pytest.approx([-3, -2, -1, 0, 1])
    assert line.get_ydata() == pytest.approx([on + 0.001 for on, _ in ON_OFF.values()])
    ticks = {text.get_text(): at for text, at in zip(below.get_xticklabels(), below.get_xticks(), strict=True)}
    assert ticks == {"0": -3, "0.01": -2, "0.1": -1, "1": 0, "10": 1}
    breaks = [line.get_xdata()[0] for line in below.lines if len({*line.get_xdata()}) == 1]
    assert breaks == [-2.5], "between 0 and the first strength"
    assert above.get_xlim()[0] < -3 and "per image" in below.get_xlabel()
    crowded = regime.regime_curves({"": pd.concat([sweep(("PGD",)), sweep(("PGD",), (1.0,)).assign(strength=1.3)])})
    names = [text.get_text() for text in seen(crowded)[1].get_xticklabels()]
    assert "1" in names and "1.3" not in names, "names that do not fit are left out"


def test_regime_curves_show_means_bands_regimes_and_constants():
    table = sweep()
    figure = regime.regime_curves({"digits": table}, {"digits": 0.1})
    above, other, below, _, beside, _ = seen(figure)
    assert [axis.get_title("left") for axis in (above, other)] == ["digits: gradient norm", "digits: PGD"]
    assert line_of(above, strength_axis.OFF).get_ydata() == pytest.approx([off for _, off in ON_OFF.values()])
    assert line_of(below, plots.CLEAN).get_ydata() == pytest.approx(list(RIGHT.values()))
    assert line_of(beside, strength_axis.ALIGNED).get_ydata() == pytest.approx(list(ALIGNED.values()))
    band = above.collections[1].get_paths()[0].vertices
    assert band[:, 1].max() == pytest.approx(0.322) and band[:, 1].min() == pytest.approx(0.004)
    ground = [(matplotlib.colors.to_hex(patch.get_facecolor()), patch.get_x(), patch.get_x() + patch.get_width())
              for patch in below.patches]
    weak, best, excessive = regimes.REGIMES.values()
    assert [colour for colour, _, _ in ground] == [weak, weak, best, excessive, excessive]
    assert [stop for _, _, stop in ground[1:3]] == pytest.approx([-1.5, -0.5]), "half-way between strengths"
    hollow, = [line for line in beside.lines if line.get_markerfacecolor() == "white"]
    assert [*hollow.get_xdata(), *hollow.get_ydata()] == pytest.approx([1, 0.4]), "constant at strength 10"
    assert {0.1} in [{*line.get_ydata()} for line in below.lines if line.get_linestyle() != "-"], "guessing"
    said = legend_texts(figure)
    assert "weak regime" in said and "accuracy of guessing" in said and "hardly any change along the manifold" in said
    assert not any("spectrum" in text or "paper" in text for text in said)
    calm = regime.regime_curves({"digits": sweep(strengths=(0.0, 0.01, 0.1), phases=0.2)})
    assert not seen(calm)[0].patches, "three strengths have no regimes"
    assert "new phases, off the manifold" in legend_texts(calm)
    assert not any("hardly" in text or "guessing" in text for text in legend_texts(calm))


def test_sweeps_share_rows_where_they_fit():
    few, many = sweep(("noise",)), sweep(("gradient norm", "smoothness", "noise", "PGD"))
    figure = regime.regime_curves({"a": sweep(("gradient norm", "PGD")), "b": few, "c": many})
    titles = {axis.get_title("left"): axis for axis in seen(figure) if axis.get_title("left")}
    assert list(titles) == ["a: gradient norm", "a: PGD", "b: noise", *(f"c: {kind}" for kind in many.kind.unique())]
    figure.canvas.draw()
    high = {name: axis.get_window_extent().y0 for name, axis in titles.items()}
    assert high["b: noise"] == high["a: PGD"] > high["c: noise"] == high["c: gradient norm"]
    lost = pd.concat([few, sweep(("PGD",), (0.0,))])
    figure = regime.regime_curves({"b": lost})
    assert [axis.get_title("left") for axis in seen(figure)][0] == "b: noise" and len(seen(figure)) == 3, "all diverged"
    with pytest.raises(SettingsError, match="strength above 0"):
        regime.regime_curves({"b": sweep(("PGD",), (0.0,))})
    with pytest.raises(SettingsError, match="sweeps = empty"):
        regime.regime_curves({})


def test_published_curves_stand_where_the_axes_mean_the_same():
    published = pd.DataFrame({"kind": "PGD", "per image": [1e-5, 0.01, 1.0, 1e4], "on": [0.5, 0.6, 0.6, 0.1],
                              "off": [1.1, 1.0, 0.4, 0.0], "accuracy": [0.95, 0.94, 0.8, 0.1]})
    figure = regime.regime_curves({"digits": sweep()}, published={"digits": published})
    _, above, _, below = seen(figure)[:4]
    faint, = [line for line in below.lines if line.get_alpha() == 0.45]
    assert list(faint.get_xdata()) == [-2, 0] and list(faint.get_ydata()) == [0.94, 0.8], "as far as the axis goes"
    crossing, = [line for line in above.lines if line.get_alpha() == 0.7]
    assert crossing.get_xdata()[0] == pytest.approx(-2 + 2 * 0.4 / 0.6), "where off minus on is 0"
    assert len([line for line in above.lines if len(line.get_xdata()) == 4]) == 0, "their changes are in another norm"
    assert {"the paper’s accuracy", "the paper’s two changes cross"} <= {*legend_texts(figure)}
    other = regime.regime_curves({"digits": sweep()}, published={"digits": published.assign(kind="smoothness")})
    assert not any("paper" in text for text in legend_texts(other))


def rhos(where="subspace", seeds=2, bayes=0.0):
    """Rows of the theory: |rho1 - rho2| = c sigma^2 of networks, and of the Bayes classifier `bayes`."""
    rows = []
    for seed in range(seeds):
        for sigma in (0.004, 0.001, 0.002):
            for kind, share in (("none", 0.9), ("noise 0.5", 0.2)):
                rows.append({"where": where, "kind": kind, "seed": seed, "sigma": sigma, "rho2": share,
                             "rho1": share + (seed - 0.5) * sigma**2, "worst rho2": share + 0.05})
            rows.append({"where": where, "kind": "Bayes", "seed": seed, "sigma": sigma, "rho1": bayes + sigma**6,
                         "rho2": 0.0, "worst rho2": bayes})
    return pd.DataFrame(rows)


def test_theory_is_drawn_with_its_slope_and_bayes_apart():
    figure = manifold.off_manifold_theory(pd.concat([rhos(), rhos("torus")]), {"rho1": 1e-3, "worst rho2": 1e-6})
    left, middle, right = figure.axes
    assert [axis.get_title("left") for axis in (left, middle)] == ["subspace", "torus"]
    lines = [line for line in left.lines if line.get_marker() == "o"]
    assert len(lines) == 4, "two kinds of network, two repetitions, not Bayes"
    for line in lines:
        assert line.get_xdata() == pytest.approx([0.001, 0.002, 0.004])
        assert line.get_ydata() == pytest.approx(0.5 * np.array([0.001, 0.002, 0.004]) ** 2)
    dotted, = [line for line in left.lines if line.get_linestyle() == ":"]
    assert np.polyfit(np.log(dotted.get_xdata()), np.log(dotted.get_ydata()), 1)[0] == pytest.approx(2)
    bayes = [line for line in right.lines if line.get_color() == "#222222"]
    assert [line.get_ydata() for line in bayes[:2]] == [pytest.approx([1e-18] * 2), pytest.approx([1e-34] * 2)]
    none = [line for line in right.lines if line.get_color() == plots.CLEAN]
    assert none[1].get_ydata() == pytest.approx([0.95] * 2) and right.get_ylim()[0] < 1e-34
    bounds = {line.get_ydata()[0]: line.get_linestyle() for line in right.lines if len({*line.get_ydata()}) == 1
              and line.get_linestyle() in ("--", ":")}
    assert bounds == {1e-3: "--", 1e-6: ":"}
    with pytest.raises(SettingsError, match="unknown kind 'PGD 1'"):
        manifold.off_manifold_theory(rhos().replace({"kind": {"none": "PGD 1"}}))
    with pytest.raises(SettingsError, match="unknown bound 'rho3'"):
        manifold.off_manifold_theory(rhos(), {"rho3": 1})


def test_controls_of_steps_have_a_row_for_every_space_and_length():
    spaces = {f"{side}, {space}": value for space, value in (("PCA, 2", 0.5), ("auto-encoder, 0.5", 0.1))
              for side, value in (("on", value), ("off", value / 2))}
    table = sweep(other=0.25, phases=0.2, **spaces)
    figure = manifold.step_controls(table, ("auto-encoder", "PCA"), (2, 0.5), "digits")
    grid = np.array(figure.axes).reshape(3, 2)
    assert [" ".join(axis.get_ylabel().split()) for axis in grid[:, 0]] == [
        "auto-encoder, length 2", "PCA, length 2", "auto-encoder, length 0.5"]
    assert [axis.get_title("left") for axis in grid[0]] == ["digits: gradient norm", "digits: PGD"]
    assert line_of(grid[1, 1], strength_axis.ON).get_ydata() == pytest.approx([0.5] * 5)
    assert line_of(grid[2, 0], strength_axis.OFF).get_ydata() == pytest.approx([0.05] * 5)
    flat = [{*np.round(line.get_ydata(), 6)} for line in grid[0, 0].lines]
    assert {0.25} in flat and {0.2} in flat, "another image's space, and new phases"
    assert len(legend_texts(figure)) == 4
    alone = manifold.step_controls(table.assign(other=np.nan).drop(columns="phases"), ("auto-encoder",), (2,))
    assert legend_texts(alone) == ["change along the manifold", "change off the manifold"], "one space for all points"
    assert all(len(line.get_xdata()) in (2, 5) and np.isfinite(line.get_ydata()).all() for line in alone.axes[0].lines)
    with pytest.raises(SettingsError, match="lacks the columns on, local PCA, 2, off, local PCA, 2"):
        manifold.step_controls(table, ("auto-encoder", "local PCA"), (2,))


def test_alignments_stand_beside_what_knows_nothing():
    table = sweep(**{"white noise": 0.0, "inside": 0.4, "sum of logits": 0.3, "1 - LPIPS": np.nan})
    untrained = pd.DataFrame({"alignment": [-0.1, -0.3], "inside": [0.2, 0.2]})
    figure = manifold.alignment_variants(table, untrained)
    first, second, third = (figure.axes[2 * row] for row in range(3))
    assert line_of(first, strength_axis.ALIGNED).get_ydata() == pytest.approx(list(ALIGNED.values()))
    assert [{*line.get_ydata()} for line in first.lines if line.get_alpha() == 0.5] == [{-0.2}], "mean of the untrained"
    assert len(second.lines) == 2, "the break, and no LPIPS where there is none"
    assert third.get_ylim()[0] == 0
    said = legend_texts(figure)
    assert "untrained networks" in said and not any("LPIPS" in text or "high-pass" in text for text in said)
    assert any("LPIPS" in text for text in legend_texts(
        manifold.alignment_variants(table.assign(**{"1 - LPIPS": 0.7}))))
    exact = manifold.alignment_variants(sweep(("noise",)))
    assert len(exact.axes) == 1, "closed forms have no second and third row here"


def test_signed_pictures_are_grey_at_0_and_cut_at_three_standard_deviations():
    gradient = np.random.default_rng(0).normal(size=(3, 8, 8))
    gradient[0, 0, :3] = 0, 100, -100
    picture = signed(gradient)
    assert picture.shape == (8, 8, 3)
    assert picture[0, :3, 0] == pytest.approx([0.5, 1, 0])
    assert picture[1, 1, 2] == pytest.approx(0.5 + gradient[2, 1, 1] / (6 * gradient.std()))
    assert signed(gradient[:1] * 1e-20) == pytest.approx(signed(gradient[:1])), "whatever the scale"
    for nothing in (np.zeros((1, 4, 4)), np.full((1, 4, 4), np.nan)):
        assert (signed(nothing) == 0.5).all()


@dataclass
class Pictures:
    images: np.ndarray
    score: np.ndarray | None
    class_score: np.ndarray
    gradients: dict


def gradients(kinds=("gradient norm", "noise"), score=True):
    rng = np.random.default_rng(1)
    images, ideal = rng.random((2, 1, 4, 4)), rng.normal(size=(2, 1, 4, 4))
    shown = regime.representatives(sweep(kinds))
    found = {name: ideal * (-1) ** k for k, name in enumerate(shown)}
    return Pictures(images, images - 0.5 if score else None, ideal, found), shown


def test_gradient_grid():
    pictures, shown = gradients()
    pictures.gradients["noise", 0.1] = np.zeros((2, 1, 4, 4))
    figure = gradient.gradient_grid(pictures, shown)
    drawn = [axis for axis in figure.axes if axis.images]
    titles = [" ".join(axis.get_title().split()) for axis in drawn if axis.get_title()]
    assert titles == ["image", "score", "class score", "no regulariser", "gradient norm 0.01", "gradient norm 0.1",
                      "gradient norm 1", "image", "score", "class score", "noise 0.01", "noise 0.1", "noise 1"]
    assert len(drawn) == 2 * 13, "two images, kinds that do not fit below"
    by_title = {" ".join(axis.get_title().split()): axis for axis in drawn if axis.get_title()}
    shades = {title: np.asarray(axis.images[0].get_array()) for title, axis in by_title.items()}
    np.testing.assert_allclose(shades["image"], pictures.images[0, 0])
    np.testing.assert_allclose(shades["gradient norm 0.01"], 1 - shades["class score"], err_msg="its opposite")
    assert [by_title[name].get_xlabel() for name in ("no regulariser", "gradient norm 0.01", "noise 0.1")] == [
        "1.00", "−1.00", "0.00"], "cosines; nothing has no direction"
    box = by_title["gradient norm 0.1"].title.get_bbox_patch()
    assert matplotlib.colors.to_hex(box.get_facecolor()) == regimes.REGIMES["Bayes-aligned"]
    assert legend_texts(figure) == [f"{name} regime" for name in regimes.REGIMES]


def test_gradient_grid_without_what_is_missing():
    pictures, shown = gradients(("noise",), score=False)
    del pictures.gradients["noise", 1.0]
    figure = gradient.gradient_grid(pictures, shown)
    titles = [" ".join(axis.get_title().split()) for axis in figure.axes if axis.get_title()]
    assert titles == ["image", "class score", "no regulariser", "noise 0.01", "noise 0.1"]
    assert "excessive regime" not in legend_texts(figure)
    with pytest.raises(SettingsError, match="of the gradients that are there"):
        gradient.gradient_grid(pictures, {("PGD", 1.0): "weak"})


LETTER_KINDS = {"untrained": 0.0, "standard": 0.5, "robust, eps per image": 1.0, "robust, eps per batch": 0.8}


def ratios(sets=("digits_letter_a", "digits_letters"), kinds=tuple(LETTER_KINDS)):
    return pd.DataFrame([
        {"where": where, "kind": kind, "seed": seed, "noise": noise, "log ratio": LETTER_KINDS[kind] + 0.1 * (seed - 1),
         "counts": noise > 0.1 or seed > 0}
        for where in sets for kind in kinds for seed in range(3) for noise in (0.1, 0.3, 1.0)])


def test_ratios_of_signal_and_distractor():
    figure = gradient.distractor_ratio(ratios())
    left, right = figure.axes
    assert (left.get_title("left"), right.get_title("left")) == ("digits, letter A", "digits, random letters")
    assert left.get_xscale() == left.get_yscale() == "log"
    line = line_of(left, plots.ROBUST)
    np.testing.assert_allclose(line.get_ydata(), [np.nan, np.e, np.e], err_msg="the geometric mean, where all count")
    assert line.get_xdata() == pytest.approx([0.1, 0.3, 1.0])
    faint, = [line for line in left.lines if line.get_color() == plots.ROBUST and line.get_alpha() == 0.25]
    assert list(faint.get_xdata()) == [0.1]
    assert [1, 1] in [list(line.get_ydata()) for line in left.lines], "a line at 1"
    band = next(c for c in left.collections if matplotlib.colors.to_hex(c.get_facecolor()[0]) == plots.ROBUST)
    ys = band.get_paths()[0].vertices[:, 1]
    assert (ys.min(), ys.max()) == pytest.approx((np.exp(0.9), np.exp(1.1)))
    assert legend_texts(figure) == [*LETTER_KINDS, "hardly any change: not counted"]
    positions = ("digit above", "digit below")
    placed = pd.concat([ratios(("digits_letters",)).assign(position=p, counts=True) for p in positions])
    figure = gradient.distractor_ratio(placed)
    assert [axis.get_title("left") for axis in figure.axes] == [f"digits, random letters, {p}" for p in positions]
    assert legend_texts(figure) == [*LETTER_KINDS]
    with pytest.raises(SettingsError, match="unknown kind of network 'dense'.*standard"):
        gradient.distractor_ratio(ratios().replace({"kind": {"standard": "dense"}}))


def shares_of_gradients(sets=("mnist_letter_a", "mnist_letters")):
    return pd.DataFrame([{"where": where, "kind": kind, "seed": seed, "position": f"digit {position}",
                          "share": 0.5 + 0.3 * value + 0.02 * (seed - 1) + 0.05 * (position == "above")}
                         for where in sets for kind, value in LETTER_KINDS.items() for seed in range(3)
                         for position in ("above", "below")])


def test_gradients_beside_a_letter():
    pictures = {"mnist_letters": (np.random.default_rng(0).random((2, 1, 8, 4)),
                                  {kind: np.full((2, 1, 8, 4), value) for kind, value in LETTER_KINDS.items()})}
    table = shares_of_gradients()
    figure = gradient.distractor_gradients(table, pictures)
    strips = [axis for axis in figure.axes if not axis.images]
    drawn = [axis for axis in figure.axes if axis.images]
    assert [axis.get_title("left") for axis in strips] == ["mnist, letter A", "mnist, random letters"]
    assert [text.get_text() for text in strips[0].get_yticklabels()] == [*LETTER_KINDS]
    assert strips[0].get_ylim()[0] > strips[0].get_ylim()[1] and strips[0].get_xlim() == (0, 1)
    mine = [line for line in strips[0].lines if line.get_color() == plots.ROBUST]
    by_mark = {line.get_marker(): line for line in mine}
    assert by_mark["^"].get_xdata() == pytest.approx([0.83, 0.85, 0.87])
    assert by_mark["v"].get_xdata() == pytest.approx([0.78, 0.80, 0.82])
    assert by_mark["None"].get_xdata()[0] == pytest.approx(0.825), "the mean"
    assert all(round(y) == 2 for line in mine for y in line.get_ydata()), "in its row"
    assert len(drawn) == 2 * 5 and [axis.get_title() for axis in drawn[:3]] == ["input", "untrained", "standard"]
    np.testing.assert_allclose(drawn[0].images[0].get_array(), pictures["mnist_letters"][0][0, 0])
    assert legend_texts(figure) == ["digit above", "digit below", "mean"]
    assert len(gradient.distractor_gradients(table).axes) == 2
    with pytest.raises(SettingsError, match="pictures of mnist_letters 'dense'"):
        gradient.distractor_gradients(table, {"mnist_letters": (np.zeros((1, 1, 8, 4)), {"dense": None})})


@pytest.mark.parametrize(("draw", "lacks"), [
    (lambda table: regime.regime_curves({"digits": table}), "alignment"), (regime.representatives, "off"),
    (lambda table: manifold.step_controls(table, ("PCA",), (1,)), "on"), (manifold.alignment_variants, "strength"),
    (manifold.off_manifold_theory, "rho1"), (gradient.distractor_ratio, "counts"),
    (gradient.distractor_gradients, "share"),
])
def test_tables_of_off_manifold_robustness_are_checked(draw, lacks):
    whole = pd.concat([sweep(), rhos(), ratios(), shares_of_gradients()])
    with pytest.raises(SettingsError, match=f"lacks the column {lacks}:"):
        draw(whole.drop(columns=lacks))
    with pytest.raises(SettingsError, match="without rows"):
        draw(whole[:0])


def test_the_course_of_a_search_lies_within_its_panels_whatever_the_target_drawn_last():
    losses = {0.1: (0.001, 0.0, 0.0), 0.02: (0.3, 0.002, 0.0)}  # of the milder target far below the harsher one's
    table = pd.DataFrame([
        {"method": "HARP", "keep": keep, "seed": seed, "epoch": epoch, "hardware_loss": loss, "gamma": 0.5 * epoch,
         "share": keep}
        for keep, course in losses.items() for epoch, loss in enumerate(course, 1) for seed in range(3)
    ])
    figure = harp.pruning_search(table)
    grid = figure.axes  # row by row, a column a target
    for axis in grid:
        low, high = axis.get_ylim()
        for line in axis.get_lines():
            assert all(low <= y <= high for y in line.get_ydata())
    low, high = grid[0].get_ylim()
    assert low > -0.1 * high, "no room is given to losses below 0"
