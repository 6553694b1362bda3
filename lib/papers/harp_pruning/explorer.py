"""Explore pruned networks: choose how much of a network is kept and a layer, and see what share of this layer each
method keeps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lib.plots.explorer import Explorer, percent
from lib.plots.style import WIDTH, colours, style

if TYPE_CHECKING:
    import pandas as pd


def explorer(rates: pd.DataFrame, accuracies: pd.DataFrame, live: bool | None = None) -> Explorer:
    """The controls `kept` (of the whole network) and `layer`.

    rates: columns method, keep, seed, position, layer, weights, kept and share, as of `tables.rates`. accuracies:
    columns method, keep, measure (clean, verify) and accuracy. Both of networks pruned by weight (`tables.of_weights`).
    """
    layers = rates.drop_duplicates("layer").sort_values("position")
    named = {f"{row.layer} ({row.weights:,} weights)": row.layer for row in layers.itertuples()}
    keeps = {f"{100 * keep:.3g} %": keep for keep in sorted(rates.keep.unique(), reverse=True)}

    def draw(kept: float, layer: str) -> tuple:
        mine = rates[(rates.keep == kept) & (rates.layer == layer)]
        alike = accuracies[accuracies.keep == kept]
        names = {method: f"{method}\nclean {_of(alike, method, 'clean')}, robust {_of(alike, method, 'verify')}"
                 for method in dict.fromkeys(mine.method)}
        most = mine.groupby("method").share.mean().idxmax()
        said = (f"With {100 * kept:.3g} % of all weights, {most} keeps the most of {layer}: on average "
                f"{percent(mine.share[mine.method == most])} of its {mine.weights.iloc[0]:,} weights.")
        return _bars(mine, names, kept, layer), said

    return Explorer({"kept": keeps, "layer": named}, draw, live)


def _of(accuracies: pd.DataFrame, method: str, measure: str) -> str:
    rows = accuracies[(accuracies.method == method) & (accuracies.measure == measure)]
    return percent(rows.accuracy)


def _bars(table: pd.DataFrame, names: dict[str, str], kept: float, layer: str):
    import matplotlib.pyplot as plt
    from matplotlib.ticker import PercentFormatter

    style()
    palette = colours(names)
    figure, axis = plt.subplots(figsize=(0.85 * WIDTH, 0.9 + 0.48 * len(names)), layout="constrained")
    for place, method in enumerate(names):
        shares = table.share[table.method == method]
        axis.barh(place, shares.mean(), 0.7, color=palette[method], alpha=0.75)
        axis.plot(shares, [place] * len(shares), ".", color="#222222", markersize=4)
    axis.axvline(kept, color="#444444", linestyle=":", linewidth=1.2)
    axis.annotate(" of the whole network", (kept, 1), xycoords=("data", "axes fraction"), va="bottom", fontsize=8)
    axis.set_yticks(range(len(names)), list(names.values()), fontsize=8)
    axis.invert_yaxis()
    axis.grid(False, axis="y")
    axis.set_xlim(0, None)
    axis.xaxis.set_major_formatter(PercentFormatter(1))
    axis.set_xlabel(f"share of the weights of {layer} that is kept: bar, mean; dots, repetitions")
    return figure
