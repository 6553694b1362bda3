"""Similarity maps as they are drawn."""

import numpy as np
import pytest

from lib import plots
from lib.errors import SettingsError
from tests.kit.figures import LAYERS, legend_texts, overlaps, panels_of

N = len(LAYERS)


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
    assert not overlaps(figure)
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
