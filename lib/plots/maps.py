"""Maps of similarity: how similar every layer of one network is to every layer of another.

A map is a float array [La, Lb]. Its entry (i, j) is the similarity of layer i of one network (vertical axis) and layer
j of the other (horizontal axis): 1 for the same representation, near 0 for unrelated ones, NaN if it is undefined.
Layers are objects with `.label`, `.kind` and `.stage` (lib.models.taps.Tap) in the order of computation; every figure
has the first layer at the lower left.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

from lib.errors import need
from lib.plots.style import WIDTH, stage_ticks, style
from lib.plots.titles import entitle, span

MAP_COLOURS = "inferno"  # perceptually uniform; the paper's maps have it too


def similarity_maps(panels: Mapping[str, object], layers, notes: Mapping[str, str] | None = None,
                    axes: Mapping[str, tuple[str, str]] | None = None, label: str = "CKA", label_layers: bool = False):
    """A figure of maps with a common colour bar from 0 to 1 and thin lines between stages. Undefined cells are hatched.

    panels: title -> map [La, Lb]. layers: the layers of both sides of every map, or title -> (vertical, horizontal).
    notes: title -> a line below that title, such as the clean and PGD-20 accuracy of the networks. axes: title -> names
    of the networks (vertical, horizontal). label: the measure's name. label_layers: name every layer instead of the
    stages, for a single large map of at most 32 layers. Values below 0, which an unbiased estimate can have, are drawn
    as 0. Raises SettingsError for no map and for a map whose shape does not fit its layers.
    """
    import matplotlib.pyplot as plt
    import numpy as np
    from matplotlib.patches import Patch

    need(len(panels) > 0, "panels", "empty", "at least one map, by title")
    sides = {title: layers[title] if isinstance(layers, Mapping) else (layers, layers) for title in panels}
    panels = {title: np.asarray(values, dtype=float) for title, values in panels.items()}
    for title, values in panels.items():
        expected = tuple(len(side) for side in sides[title])
        need(values.shape == expected, f"shape of the map '{title}'", values.shape, f"{expected}, one entry a layer")
    undefined = any(np.isnan(values).any() for values in panels.values())
    style()
    columns = len(panels) if len(panels) <= 4 else 3
    rows = -(-len(panels) // columns)
    width = WIDTH if columns > 1 else 6.4
    letters = int((width - 1.0) / columns * 16)  # that fit into a line of a note above a map
    notes = {title: textwrap.wrap(note, letters) for title, note in (notes or {}).items()}
    lines = max((len(note) for note in notes.values()), default=0)
    height = rows * ((width - 1.0) / columns + 0.2 + 0.16 * lines) + (0.75 if undefined else 0.4)
    figure, grid = plt.subplots(rows, columns, figsize=(width, height), squeeze=False, layout="constrained")
    for axis in grid.flat[len(panels):]:
        axis.set_visible(False)
    small = 8 if columns > 2 else 9
    for axis, (title, values) in zip(grid.flat, panels.items(), strict=False):
        image = draw_map(axis, values, label)
        for way, side in zip("yx", sides[title], strict=True):
            for boundary in stage_ticks(axis, side, way, room=(20 if way == "x" else 40) / columns):
                _boundary(axis, way, boundary)
            axis.tick_params(axis=way, labelsize=small)
            if label_layers and len(side) <= 32:
                getattr(axis, f"set_{way}ticks")(range(len(side)), [layer.label for layer in side])
                axis.tick_params(axis=way, labelsize=7, rotation=90 if way == "x" else 0)
        for way, name in zip("yx", (axes or {}).get(title, ("", "")), strict=True):
            getattr(axis, f"set_{way}label")(name, fontsize=small)
        axis.set_title(title, loc="left", fontsize=10.5, pad=6 + 12 * lines)
        axis.annotate("\n".join(notes.get(title, ())), (0, 1), (0, 5), "axes fraction", "offset points",
                      fontsize=small - 0.5, color="#444444")
    low = min(np.nanmin(values, initial=0.0) for values in panels.values())
    below = "min" if low < -0.01 else "neither"
    long = {"shrink": 0.9, "aspect": 22} if rows == 1 else {"shrink": 0.6, "aspect": 30}
    bar = figure.colorbar(image, ax=grid, pad=0.015, extend=below, **long)
    bar.set_label(label)
    bar.outline.set_visible(False)
    if undefined:
        key = Patch(facecolor="#e4e4e4", edgecolor="#9a9a9a", hatch="////", label="undefined (a layer hardly varies)")
        figure.legend(handles=[key], loc="outside lower center", frameon=False)
    means = [f"{title} {span(_off_diagonal(values))}" for title, values in panels.items()]
    few = f"; mean off the diagonal: {', '.join(means)}" if len(means) <= 4 else ""
    return entitle(figure, f"{label} of every pair of layers{few}",
                   f"Maps of {label} from 0 to 1, the layers of one network on each axis, in the order of computation.")


def _off_diagonal(values) -> float:
    """The mean of the defined entries of a map off its diagonal."""
    import numpy as np

    off = values[~np.eye(*values.shape, dtype=bool)]
    return float(np.nanmean(off)) if np.isfinite(off).any() else float("nan")


def draw_map(axis, values, label: str):
    """Draw a matrix of similarities in [0, 1] with its first row at the bottom and NaN hatched; returns the image."""
    axis.set_facecolor("#e4e4e4")
    axis.patch.set(hatch="////", edgecolor="#9a9a9a", linewidth=0)
    image = axis.imshow(values, origin="lower", aspect="auto", cmap=MAP_COLOURS, vmin=0, vmax=1,
                        interpolation="nearest")
    axis.set_box_aspect(1)
    axis.grid(False)
    for spine in axis.spines.values():
        spine.set_visible(False)
    return image


def _boundary(axis, way: str, at: float) -> None:
    """A thin line between stages, readable on dark and on light cells."""
    from matplotlib.patheffects import Normal, Stroke

    line = (axis.axhline if way == "y" else axis.axvline)(at, color="white", linewidth=0.6, alpha=0.9)
    line.set_path_effects([Stroke(linewidth=1.4, foreground="black", alpha=0.35), Normal()])
