"""Figures: what is drawn, and tables to draw."""

from __future__ import annotations

from dataclasses import dataclass

import matplotlib

matplotlib.use("Agg")

import pandas as pd
import pytest
from matplotlib import pyplot as plt


@pytest.fixture(autouse=True)
def close_figures():
    """For a conftest: figures are closed after each test."""
    yield
    plt.close("all")


@dataclass(frozen=True)
class Layer:
    """As much of a tap as figures need."""

    label: str
    kind: str
    stage: str


STAGES = ["stem", *(f"layer{k}.{block}" for k in (1, 2) for block in (0, 1)), "head"]
LAYERS = [Layer(f"{stage}.{kind}", kind, stage) for stage in STAGES for kind in ("Conv2d", "ReLU")]


def grow(kinds=("normal", "robust"), seeds=3, x="distance", y="similarity", xs=range(1, 6)):
    """A value that tells kind, seed and place apart."""
    return pd.DataFrame([{"kind": kind, "seed": seed, x: at, y: 0.3 + 0.2 * k + 0.01 * seed + 0.05 * at}
                         for k, kind in enumerate(kinds) for seed in range(seeds) for at in xs])


def panels_of(figure):
    """The axes that hold a map, not the colour bar."""
    return [axis for axis in figure.axes if axis.images]


def legend_texts(figure):
    """The texts of all legends, those of the figure first."""
    boxes = [*figure.legends, *(axis.get_legend() for axis in figure.axes if axis.get_legend())]
    return [text.get_text() for box in boxes for text in box.get_texts()]
