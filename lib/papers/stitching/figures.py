"""Figures of the stitching notebook."""

from __future__ import annotations

from collections.abc import Sequence

from lib.errors import is_int, need, unknown
from lib.plots.style import CLEAN, GREY, ROBUST, check_columns, curve, style

MEASURES = {"clean": CLEAN, "robust": ROBUST}


def stitching_depth(cells, joints: list[str], pairs: list[str], alphas: list[float], robust: str = "search"):
    """Clean and robust accuracy of stitched networks against the joint's depth: a column for each ordered pair, a row
    for each alpha, the two endpoints as reference lines (front dashed, end dotted), the range over seeds shaded.

    cells: `Results.table()`. joints, pairs, alphas: those to draw, in order. robust: the measure drawn as robust
    accuracy.
    """
    import matplotlib.pyplot as plt

    style()
    position = {j: i for i, j in enumerate(joints)}
    figure, axes = plt.subplots(
        len(alphas), len(pairs), figsize=(3.1 * len(pairs), 2.9 * len(alphas)), sharex=True, sharey=True, squeeze=False
    )
    endpoints = cells[cells.role == "endpoint"].groupby(["pair", "measure"]).accuracy.mean()
    for row, alpha in zip(axes, alphas, strict=True):
        for axis, pair in zip(row, pairs, strict=True):
            mine = cells[(cells.role == "pair") & (cells.pair == pair) & (cells.alpha == alpha)]
            mine = mine.assign(position=mine.joint.map(position))
            front, end = pair.rstrip("2").split("->")
            for measure, colour, label in (("clean", CLEAN, "clean"), (robust, ROBUST, "robust")):
                curve(axis, mine[mine.measure == measure], "position", "accuracy", colour, label, marker="o", dots=True,
                      xs=list(position.values()))
                for name, line, width in ((front, "--", 1), (end, ":", 1.4)):
                    if (name, measure) in endpoints:
                        axis.axhline(endpoints[name, measure], color=colour, linestyle=line, linewidth=width)
            axis.set_title(f"{pair.replace('->', ' → ')},  α = {alpha:g}")
            axis.set_xticks(list(position.values()), joints, rotation=35, ha="right")
            axis.set_ylim(-0.02, 1.0 if endpoints.max() > 0.85 else 0.9)
    for axis in axes[:, 0]:
        axis.set_ylabel("accuracy")
    for axis in axes[-1]:
        axis.set_xlabel("joint after")
    from matplotlib.lines import Line2D

    keys = [
        Line2D([], [], color=CLEAN, marker="o", label="clean"),
        Line2D([], [], color=ROBUST, marker="o", label="robust"),
        Line2D([], [], color=GREY, linestyle="--", label="front network alone"),
        Line2D([], [], color=GREY, linestyle=":", label="end network alone"),
    ]
    figure.legend(handles=keys, loc="lower center", ncols=4, frameon=False, bbox_to_anchor=(0.5, -0.04))
    figure.tight_layout()
    return figure


def bars_against_controls(table, title: str):
    """Horizontal bars of clean and robust accuracy with their intervals: stitched networks next to their controls.

    table: columns `what`, `measure` (clean or robust), `value`, `low` and `high` (NaN if there is no interval).
    """
    import matplotlib.pyplot as plt
    import numpy as np

    style()
    names = list(dict.fromkeys(table.what))
    figure, axis = plt.subplots(figsize=(7.2, 0.42 * len(names) + 1.2))
    for shift, (measure, colour) in zip((-0.19, 0.19), (("clean", CLEAN), ("robust", ROBUST)), strict=True):
        mine = table[table.measure == measure].set_index("what").reindex(names)
        y = np.arange(len(names)) + shift
        reach = np.nan_to_num(np.vstack([mine.value - mine.low, mine.high - mine.value]).clip(0))
        axis.barh(y, mine.value, height=0.36, color=colour, alpha=0.85, label=measure)
        axis.errorbar(mine.value, y, xerr=reach, fmt="none", ecolor="#222222", elinewidth=1, capsize=2)
        for yy, value, high in zip(y, mine.value, mine.value + reach[1], strict=True):
            if np.isfinite(value):
                axis.text(high + 0.01, yy, f"{value:.1%}", va="center", fontsize=7.5)
    axis.set_yticks(range(len(names)), names)
    axis.invert_yaxis()
    axis.set_xlim(0, min(1.1, np.nanmax(table.value) + 0.15))
    axis.set_xlabel("accuracy")
    axis.set_title(title)
    axis.legend(frameon=False, loc="lower right")
    figure.tight_layout()
    return figure


def stitching_matrix(table, controls: Sequence[str] = ("U",), title: str = ""):
    """Accuracy of every front (rows) with every end (columns), clean on the left and robust on the right. Each cell has
    the mean and, below it, the range over repetitions if there are several. A gap separates `controls`, the names of
    networks that serve only as controls, and the accuracies of networks alone. Pairs that were not measured are
    hatched.

    table: columns `front`, `end`, `measure` (clean or robust) and `accuracy`, in [0, 1]; `end` is empty for a network
    alone. Raises SettingsError for missing columns, an unknown measure, and a table without pairs.
    """
    import matplotlib.pyplot as plt
    from matplotlib.patches import Patch

    check_columns(table, "front", "end", "measure", "accuracy")
    for measure in table.measure.unique():
        if measure not in MEASURES:
            raise unknown("measure", measure, MEASURES)
    pairs = table[table.end != ""]
    need(len(pairs) > 0, "table", "one without pairs", "one with a front and an end in at least one row")
    down, across = (_apart(list(dict.fromkeys(pairs[side])), controls) for side in ("front", "end"))
    alone = (table.end == "").any()
    edge = {"down": max(down.values()) + 1.35, "across": max(across.values()) + 1.35}
    shown = [measure for measure in MEASURES if (table.measure == measure).any()]
    style()
    slanted = max(map(len, across)) > 6
    below = 0.05 * max(map(len, across)) if slanted else 0.2  # inches for the names of the ends
    size = 0.62 * (edge["across"] + alone) * len(shown) + 1.6, 0.62 * (edge["down"] + alone) + 1.3 + below
    figure, axes = plt.subplots(1, len(shown), figsize=size, squeeze=False, layout="constrained")
    missing = False
    for axis, measure in zip(axes[0], shown, strict=True):
        mine = table[table.measure == measure].groupby(["front", "end"]).accuracy
        found = {key: values.to_numpy() for key, values in mine}
        for front, y in down.items():
            for end, x in across.items():
                missing |= _cell(axis, x, y, found.get((front, end)), MEASURES[measure])
        for name, values in ((front, values) for (front, end), values in found.items() if not end):
            if name in down:
                _cell(axis, edge["across"], down[name], values, MEASURES[measure])
            if name in across:
                _cell(axis, across[name], edge["down"], values, MEASURES[measure])
        for way, places, name in (("x", across, "across"), ("y", down, "down")):
            marks = {**places, **({"alone": edge[name]} if alone else {})}
            getattr(axis, f"set_{way}ticks")(list(marks.values()), list(marks))
        if slanted:
            axis.tick_params(axis="x", labelrotation=35)
            for text in axis.get_xticklabels():
                text.set(ha="right", rotation_mode="anchor")
        axis.set_xlim(-0.55, edge["across"] + (0.55 if alone else -0.8))
        axis.set_ylim(edge["down"] + (0.55 if alone else -0.8), -0.55)
        axis.set_aspect("equal")
        axis.grid(False)
        axis.tick_params(length=0)
        for spine in axis.spines.values():
            spine.set_visible(False)
        axis.set_title(f"{measure} accuracy, %", color=MEASURES[measure])
        axis.set_xlabel("end")
    axes[0, 0].set_ylabel("front")
    if title:
        figure.suptitle(title)
    if missing:
        figure.legend(handles=[Patch(label="not measured", **HATCHED)], loc="outside lower center", frameon=False)
    return figure


HATCHED = {"facecolor": "#f2f2f2", "edgecolor": "#bdbdbd", "hatch": "////", "linewidth": 0}


def _apart(names: list[str], controls: Sequence[str]) -> dict[str, float]:
    """Positions of the rows or columns of these names: networks first, then, after a gap, controls."""
    ordered = [name for name in names if name not in controls], [name for name in names if name in controls]
    gap = 0.35 if all(ordered) else 0.0
    return {**{name: float(k) for k, name in enumerate(ordered[0])},
            **{name: len(ordered[0]) + gap + k for k, name in enumerate(ordered[1])}}


def _cell(axis, x: float, y: float, values, colour: str) -> bool:
    """Draw a square at (x, y), shaded by the mean of `values` and with its number; hatched if there are none, which the
    result says.
    """
    from matplotlib.colors import LinearSegmentedColormap, to_rgb
    from matplotlib.patches import Rectangle

    place = {"xy": (x - 0.48, y - 0.48), "width": 0.96, "height": 0.96}
    if values is None:
        axis.add_patch(Rectangle(**place, **HATCHED))
        return True
    mean = float(values.mean())
    shade = LinearSegmentedColormap.from_list("", ["white", colour])(mean)
    red, green, blue = to_rgb(shade)
    ink = "white" if 0.299 * red + 0.587 * green + 0.114 * blue < 0.6 else "black"
    axis.add_patch(Rectangle(**place, facecolor=shade, edgecolor="#dddddd", linewidth=0.6))
    several = len(values) > 1
    axis.text(x, y - 0.1 * several, f"{100 * mean:.1f}", ha="center", va="center", fontsize=9, color=ink)
    if several:
        low, high = (f"{100 * bound:.0f}" for bound in (values.min(), values.max()))
        axis.text(x, y + 0.25, f"{low}–{high}", ha="center", va="center", fontsize=6.5, color=ink)
    return False


def joint_activations(images, joined, end, notes: Sequence[str] = (), channels: int = 6, title: str = ""):
    """For a few images, the output of a joint above the activations of the end's own first half at the same place, in
    the `channels` channels in which the end's own activations vary most. White is 0, blue negative, red positive; the
    darkest shade is the largest absolute value of that channel in any map, so that all maps of a column compare.

    images: [n, C, h, w] in [0, 1]. joined, end: [n, K, H, W] (lib.stitching.measures.AtJoint). notes: a text for each
    image, such as cosine and CKA. Raises SettingsError for other shapes, fewer than one channel, and another number of
    notes.
    """
    import matplotlib.pyplot as plt
    import numpy as np

    images, joined, end = (np.asarray(found, float) for found in (images, joined, end))
    same = joined.shape == end.shape and joined.ndim == 4 and len(joined) == len(images) > 0
    need(same, "shapes of images, joined and end", f"{images.shape}, {joined.shape}, {end.shape}",
         "[n, C, h, w], [n, K, H, W] and [n, K, H, W]")
    need(is_int(channels, 1), "channels", channels, "a whole number of at least 1")
    need(len(notes) in (0, len(images)), "number of notes", len(notes), f"0 or {len(images)}, one for each image")
    spread = np.moveaxis(end, 1, 0).reshape(end.shape[1], -1).std(1)
    chosen = np.argsort(-spread, kind="stable")[:channels]
    style()
    n, columns = len(images), 1 + len(chosen)
    figure = plt.figure(figsize=(0.95 * columns + 1.2, 2.05 * n + 0.9), layout="constrained")
    figure.get_layout_engine().set(wspace=0.02, hspace=0.02, w_pad=0.02, h_pad=0.02)
    places = figure.add_gridspec(3 * n - 1, columns, height_ratios=([1, 1, 0.2] * n)[:-1])  # a gap below each pair
    grid = np.array([[figure.add_subplot(places[row // 2 * 3 + row % 2, k]) for k in range(columns)]
                     for row in range(2 * n)])
    for k, channel in enumerate(chosen):
        most = max(np.abs(joined[:, channel]).max(), np.abs(end[:, channel]).max()) or 1.0
        grid[0, 1 + k].set_title(f"channel {channel}", fontsize=8)
        for row in range(n):
            for below, found in enumerate((joined, end)):
                axis = grid[2 * row + below, 1 + k]
                axis.imshow(found[row, channel], cmap="RdBu_r", vmin=-most, vmax=most, interpolation="nearest")
    for row, image in enumerate(np.clip(images, 0, 1)):
        picture = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
        grid[2 * row, 0].imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        if notes:
            grid[2 * row + 1, 0].text(0.5, 0.98, notes[row], ha="center", va="top", fontsize=8,
                                      transform=grid[2 * row + 1, 0].transAxes)
        for below, name in enumerate(("joint", "end’s own")):
            grid[2 * row + below, 1].set_ylabel(name, fontsize=8)
        grid[2 * row + 1, 0].set_axis_off()
    for axis in grid.flat:
        axis.set_xticks([])
        axis.set_yticks([])
        axis.grid(False)
        for spine in axis.spines.values():
            spine.set_visible(False)
    if title:
        figure.suptitle(title)
    return figure
