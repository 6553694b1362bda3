"""Figures of the HARP notebook. Each method has the same colour in all figures (lib.plots.KINDS), and circles as
markers if its scores see the objective, squares if they do not.
"""

from __future__ import annotations

from lib.papers.harp_pruning.settings import METHODS
from lib.plots import common
from lib.plots.style import WIDTH, check_columns, colours, curve, style
from lib.plots.titles import entitle, percent

MARKS = {method: common.marker(rule["scores"]) for method, rule in METHODS.items()}
BASE = "HARP"
QUANTITIES = {"hardware_loss": "hardware loss", "gamma": "weight γ of\nthe hardware loss", "share": "share kept"}


def compression(table, reference=None, robust: str = "robust accuracy", what: str = "weights"):
    """`common.compression` with the methods' markers."""
    return common.compression(table, MARKS, BASE, reference, robust, what)


def accuracy_by_updates(table, robust: str = "robust accuracy"):
    """Accuracy on held-out images against the updates of the search, clean on the left and robust on the right: a line
    through the means of each method, a dot for each repetition; the dense network is a horizontal line.

    table: columns `method`, `seed`, `updates`, `measure` ('clean' or 'verify') and `accuracy`. robust: label of the
    right panel's axis, with the attack. Raises SettingsError for missing columns.
    """
    import matplotlib.pyplot as plt
    from matplotlib.ticker import PercentFormatter

    check_columns(table, "method", "seed", "updates", "measure", "accuracy")
    style()
    palette = colours(table.method)
    figure, panels = plt.subplots(1, 2, figsize=(WIDTH, 4.0), sharex=True, layout="constrained")
    for axis, (measure, words) in zip(panels, common.PANELS.items(), strict=True):
        of_measure, ends = table[table.measure == measure], {}
        for method, colour in palette.items():
            mine = of_measure[of_measure.method == method]
            if method == "dense":
                axis.axhline(mine.accuracy.mean(), color=colour, linewidth=1.3)
            else:
                curve(axis, mine, "updates", "accuracy", colour, marker=MARKS[method], shade=False, dots=True)
            last = mine[mine.updates == mine.updates.max()].accuracy.mean()
            ends[method] = (table.updates.max(), last, colour)
        axis.set_ylim(0, None)
        axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axis.set_xlabel("updates of the search")
        axis.set_ylabel(words if measure == "clean" else robust)
        common.label_ends(axis, ends)
    return entitle(figure, "Accuracy on held-out images after half and all of the search",
                   "Clean and robust accuracy against the updates of the search, a line for each method; HYDRA after 0 "
                   "updates is LWM; the dense network is a horizontal line.")


def _share_axis(axis) -> None:
    """Make an axis of shares logarithmic, in per cent, with ticks at 1, 2 and 5 of every decade."""
    from matplotlib.ticker import LogLocator, NullFormatter, NullLocator

    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter(lambda share, _: f"{100 * share:g} %")
    axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_minor_formatter(NullFormatter())


def keep_rates(table, rules=None):
    """The share of each layer's weights that is kept, one panel per target: a line for each method on a logarithmic
    scale, the range over seeds shaded, and the target as a dotted line.

    table: columns `method`, `keep`, `seed`, `position` (of the layer, from 0), `layer` (its name) and `share`. rules:
    the same columns for rules that need no search, drawn dashed. Raises SettingsError for missing columns.
    """
    import matplotlib.pyplot as plt

    for one, what in ((table, "table"), (rules, "rules")):
        if one is not None:
            check_columns(one, "method", "keep", "seed", "position", "layer", "share", what=what)
    style()
    keeps = sorted(table.keep.unique(), reverse=True)
    names = table.drop_duplicates("position").sort_values("position").layer.tolist()
    palette = colours(table.method)
    dashed = {} if rules is None else {m: colours([m])[m] for m in dict.fromkeys(rules.method)}
    figure, panels = plt.subplots(len(keeps), 1, figsize=(WIDTH, 3.1 * len(keeps) + 0.9), sharex=True, squeeze=False,
                                  layout="constrained")
    for axis, keep in zip(panels[:, 0], keeps, strict=True):
        ends = {}
        for number, (method, colour) in enumerate(palette.items()):
            mine = table[(table.method == method) & (table.keep == keep)]
            aside = 0.4 * ((number + 0.5) / len(palette) - 0.5)  # moved apart: some methods have the same rates
            if len(mine):
                curve(axis, mine.assign(position=mine.position + aside), "position", "share", colour,
                      marker=MARKS[method], xs=[place + aside for place in range(len(names))])
                ends[method] = (len(names) - 1 + aside, _last(mine), colour)
        for method, colour in dashed.items():
            mine = rules[(rules.method == method) & (rules.keep == keep)]
            if len(mine):
                curve(axis, mine, "position", "share", colour, line="--", xs=range(len(names)))
                ends[f"rule: {method}"] = (len(names) - 1, _last(mine), colour)
        axis.axhline(keep, color="#555555", linewidth=0.9, linestyle=":")
        _share_axis(axis)
        axis.set_ylabel("share kept")
        axis.set_title(f"target {100 * keep:g} % (dotted)", loc="left", fontsize=10)
        common.label_ends(axis, ends)
    panels[-1, 0].set_xticks(range(len(names)), names, rotation=35, ha="right", rotation_mode="anchor")
    panels[-1, 0].set_xlabel("layer, in the order of computation")
    harshest = table[(table.method == BASE) & (table.keep == keeps[-1])].groupby("layer").share.mean()
    title = "The share of each layer’s weights that is kept"
    if len(harshest):
        ends = [f"{percent(share)} ({layer})" for layer, share in ((harshest.idxmin(), harshest.min()),
                                                                   (harshest.idxmax(), harshest.max()))]
        title = f"At a target of {100 * keeps[-1]:g} %, {BASE} keeps from {' to '.join(ends)} of a layer’s weights"
    return entitle(figure, title, "The share of weights kept against the layer, a line for each method, rules dashed, "
                   "a panel for each target.")


def _last(table) -> float:
    """The mean share kept of the last layer."""
    return float(table[table.position == table.position.max()].share.mean())


def pruning_search(table):
    """The course of the searches that learn rates, epoch by epoch: the hardware loss, its weight γ, and the share kept
    (the target is dotted). One column per target; the range over seeds is shaded.

    table: columns `method`, `keep`, `seed`, `epoch` (from 1), `hardware_loss`, `gamma` and `share`. Raises
    SettingsError for missing columns.
    """
    import matplotlib.pyplot as plt
    from matplotlib.ticker import MaxNLocator

    check_columns(table, "method", "keep", "seed", "epoch", *QUANTITIES)
    style()
    keeps, palette = sorted(table.keep.unique(), reverse=True), colours(table.method)
    figure, grid = plt.subplots(3, len(keeps), figsize=(WIDTH if len(keeps) > 1 else 5.6, 6.2), sharex=True,
                                sharey="row", squeeze=False, layout="constrained")
    for number, (column, keep) in enumerate(zip(grid.T, keeps, strict=True)):
        for axis, (quantity, words) in zip(column, QUANTITIES.items(), strict=True):
            for method, colour in palette.items():
                mine = table[(table.method == method) & (table.keep == keep)]
                if len(mine):
                    curve(axis, mine, "epoch", quantity, colour, method, marker=MARKS[method])
            if number == 0:
                axis.set_ylabel(words)
        column[0].set_title(f"target {100 * keep:g} %", loc="left")
        column[2].axhline(keep, color="#555555", linewidth=0.9, linestyle=":")
        _share_axis(column[2])
        column[2].set_xlabel("epoch of the search")
        column[2].xaxis.set_major_locator(MaxNLocator(integer=True))
    most = max(table.hardware_loss.max(), 1e-3)
    grid[0, 0].set_ylim(-0.05 * most, 1.05 * most)  # last, because all columns share this axis
    keys = {text: key for axis in grid.flat for key, text in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(keys.values(), keys, loc="outside lower center", ncols=min(len(keys), 4), frameon=False)
    last = table[table.epoch == table.epoch.max()].groupby("keep").share.mean()
    kept = [f"{percent(last[keep])} at a target of {100 * keep:g}\u00a0%" for keep in keeps if keep in last.index]
    return entitle(figure, f"After the last epoch, the searches for rates keep {', '.join(kept)} of the weights",
                   "Hardware loss, its weight γ and the share kept against the epoch of the search, a column for each "
                   "target (dotted).")
