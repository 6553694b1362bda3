"""Helpers for tests of figures: made-up tables to draw, and what a figure shows."""

from __future__ import annotations

from dataclasses import dataclass

import matplotlib

matplotlib.use("Agg")

import pandas as pd
import pytest
from matplotlib import pyplot as plt


@pytest.fixture(autouse=True)
def close_figures():
    """Close all figures after each test; to be imported by a conftest."""
    yield
    plt.close("all")


@dataclass(frozen=True)
class Layer:
    """The part of a tap that figures need."""

    label: str
    kind: str
    stage: str


STAGES = ["stem", *(f"layer{k}.{block}" for k in (1, 2) for block in (0, 1)), "head"]
LAYERS = [Layer(f"{stage}.{kind}", kind, stage) for stage in STAGES for kind in ("Conv2d", "ReLU")]


def grow(kinds=("normal", "robust"), seeds=3, x="distance", y="similarity", xs=range(1, 6)):
    """A table with columns kind, seed, x and y, whose values are different for each kind, seed and x."""
    return pd.DataFrame([{"kind": kind, "seed": seed, x: at, y: 0.3 + 0.2 * k + 0.01 * seed + 0.05 * at}
                         for k, kind in enumerate(kinds) for seed in range(seeds) for at in xs])


def panels_of(figure):
    """The axes of a figure that show an image, without colour bars."""
    return [axis for axis in figure.axes if axis.images]


def legend_texts(figure):
    """The texts of all legends of a figure, the figure's own legends first."""
    boxes = [*figure.legends, *(axis.get_legend() for axis in figure.axes if axis.get_legend())]
    return [text.get_text() for box in boxes for text in box.get_texts()]


def overlaps(figure) -> list[str]:
    """What lies on each other in a figure: pairs of texts (of labels, titles, legends, values), and legends on panels.

    Texts that are slanted alike, such as names below an axis, may share a bounding box without touching.
    """
    from matplotlib.text import Text

    figure.canvas.draw()
    legends = [*figure.legends, *(axis.get_legend() for axis in figure.axes if axis.get_legend())]
    hidden = {id(text) for axis in figure.axes for text in _hidden(axis)}
    texts = [(text, Text.get_window_extent(text)) for text in figure.findobj(Text)
             if text.get_visible() and text.get_text().strip() and id(text) not in hidden]
    found = [f"{a.get_text()!r} and {b.get_text()!r}" for i, (a, box) in enumerate(texts) for b, other in texts[:i]
             if _touch(box, other) and (a.get_rotation() == b.get_rotation()) <= (a.get_rotation() % 90 == 0)]
    return found + [f"legend on the panel {axis.get_title('left') or axis.get_title()!r}" for box in legends
                    for axis in figure.axes if _touch(box.get_window_extent(), axis.get_window_extent())]


def _hidden(axis) -> list:
    """The texts of a panel that are not drawn: of one that is switched off, and of ticks outside its limits."""
    from matplotlib.text import Text

    if not axis.get_visible():
        return axis.findobj(Text)
    found = [] if axis.axison else [*axis.xaxis.findobj(Text), *axis.yaxis.findobj(Text)]
    for own in (axis.xaxis, axis.yaxis):
        low, high = sorted(own.get_view_interval())
        found += [label for tick in [*own.get_major_ticks(), *own.get_minor_ticks()]
                  if not low - 1e-9 <= tick.get_loc() <= high + 1e-9 for label in (tick.label1, tick.label2)]
    return found


def _touch(box, other, pixels: float = 1.0) -> bool:
    """Whether two boxes share more than `pixels` in both directions."""
    return (min(box.x1, other.x1) - max(box.x0, other.x0) > pixels
            and min(box.y1, other.y1) - max(box.y0, other.y0) > pixels)
