"""Figures of the stitching notebook."""

from __future__ import annotations

from lib.plots.look import CLEAN, GREY, ROBUST, curve, style


def stitching_depth(cells, joints: list[str], pairs: list[str], alphas: list[float], robust: str = "search"):
    """Clean and robust accuracy of stitched networks against the joint's depth: a column per ordered pair, a row per
    alpha, the two endpoints as reference lines (front dashed, end dotted), the spread over seeds shaded.

    cells: Measured.table(); robust: the measure drawn as robust accuracy.
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
            front, end = pair.split("->")
            for measure, colour, label in (("clean", CLEAN, "clean"), (robust, ROBUST, "robust")):
                curve(axis, mine[mine.measure == measure], "position", "accuracy", colour, label, marker="o", dots=True,
                      xs=list(position.values()))
                axis.axhline(endpoints.get((front, measure)), color=colour, linestyle="--", linewidth=1)
                axis.axhline(endpoints.get((end.rstrip("2"), measure)), color=colour, linestyle=":", linewidth=1.4)
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


def bars_beside_controls(table, title: str):
    """Horizontal bars of accuracies with their intervals: claim, null and ceiling side by side.

    table: rows `what`, `measure` (clean or robust), `value`, `low`, `high` (NaN where there is no interval).
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
