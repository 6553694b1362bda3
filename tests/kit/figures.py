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
