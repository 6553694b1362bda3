"""Figures of the notebook on compact and robust networks: retained shares, the objectives of pre-training and
fine-tuning, and a comparison of pruning rules. Clean, robust and verified accuracy each have a colour and a marker.
"""

from __future__ import annotations

import textwrap

from lib.errors import SettingsError, impossible, need, unknown
from lib.papers.compact_robust_pruning.settings import BENIGN, RULES
from lib.papers.compact_robust_pruning.settings import ROBUST as ROBUSTLY
from lib.plots.common import apart, compression, marker
from lib.plots.style import CLEAN, ROBUST, VERIFIED, WIDTH, check_columns, style
from lib.plots.titles import above, entitle, mean, percent

MEASURES = {"clean": (CLEAN, "o"), "robust": (ROBUST, "s"), "verified": (VERIFIED, "D")}
HATCHES = {"clean": "", "robust": "////", "verified": "...."}
OVER = {"unpruned": "of the pre-trained network", "dense": "of the dense network with the same fine-tuning"}
OBJECTIVES = (ROBUSTLY, BENIGN)
MARKS = {rule: marker(how["scores"]) for rule, how in RULES.items()}
_MARKS = {
    "o": "circles: the rule sees the robust objective", "s": "squares: it does not", "^": "triangles: whole filters",
}


def _checked(table, names: tuple[str, ...], value: str, **known) -> None:
    """Raise SettingsError unless the table has rows and all columns, only known names, and one value for each network.

    value: the column of measured values; names: the columns that identify a network. known: {column: allowed values},
    NaN aside.
    """
    check_columns(table, *names, value)
    for column, allowed in known.items():
        for name in table[column].dropna().unique():
            if name not in allowed:
                raise unknown(column, name, allowed)
    for _, twice in table[table.duplicated(list(names))].head(1).iterrows():
        where = ", ".join(f"{name} {twice[name]}" for name in names)
        raise SettingsError(f"table has two rows of {where}: it must have one {value} of each network")


def retained(table, reference=None):
    """Retained shares: the accuracy of the pruned network divided by the unpruned network's. Each network is a group
    with a marker for each measure: the mean over repetitions, its interval as a line, and each repetition as a dot next
    to it. Filled markers are shares of the pre-trained network, hollow ones of the dense network with the same
    fine-tuning.

    table: columns `net`, `measure` ('clean', 'robust' or 'verified'), `over` ('unpruned' or 'dense'), `seed`, `share`
    (1 if nothing is lost; NaN is not drawn), `low` and `high` (the interval of the mean share, repeated on every row;
    NaN if there is none). reference: columns `measure`, `share` and `source`, drawn as faint lines with their numbers,
    the source below. The axis starts at one half if all numbers are above it, otherwise at 0. Raises
    SettingsError for missing columns, unknown names, two rows of one network, and infinite shares.
    """
    import matplotlib.pyplot as plt
    import numpy as np
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    check_columns(table, "net", "measure", "over", "seed", "share", "low", "high")
    _checked(table, ("net", "measure", "over", "seed"), "share", measure=MEASURES, over=OVER)
    need(not np.isinf(table.share).any(), "share", "inf", "a number, or NaN if it would be divided by 0")
    table = table[table.share.notna()]
    need(len(table) > 0, "table", "without a share", "one with at least one share")
    if reference is not None:
        check_columns(reference, "measure", "share", "source", what="reference")
        for name in reference.measure[~reference.measure.isin([*MEASURES])]:
            raise unknown("measure of the reference", name, MEASURES)
    style()
    nets, groups = list(dict.fromkeys(table.net)), []
    figure, axis = plt.subplots(figsize=(min(WIDTH, 4.4 + 1.9 * len(nets)), 4.4), layout="constrained")
    place = 0.0
    for net in nets:
        first = place
        for measure, (colour, mark) in MEASURES.items():
            mine = table[(table.net == net) & (table.measure == measure)]
            if not len(mine):
                continue
            for over, aside in zip(OVER, (-0.24, 0.2), strict=True):
                one, x = mine[mine.over == over], place + aside
                face = colour if over == "unpruned" else "white"
                for _, interval in one[["low", "high"]].drop_duplicates().dropna().iterrows():
                    axis.plot([x, x], [interval.low, interval.high], color=colour, linewidth=1.6, zorder=3)
                if len(one):
                    axis.plot([x], [one.share.mean()], mark, color=colour, markerfacecolor=face, markersize=7, zorder=4)
                    axis.plot([x + 0.15] * len(one), one.share, ".", color=colour, markerfacecolor=face, markersize=5,
                              alpha=0.7, zorder=3)
            place += 1
        groups.append((first + place - 1) / 2)
        place += 0.6
    numbers = [1.0, *table.share, *table.low.dropna(), *table.high.dropna()]
    numbers += [] if reference is None else list(reference.share)
    bottom = 0.5 if min(numbers) > 0.52 else 0
    axis.set_ylim(bottom, max(numbers) + 0.05 * (max(numbers) - bottom))
    axis.axhline(1, color="#555555", linewidth=0.9, zorder=1)
    keys = [Line2D([], [], linestyle="", marker=mark, markersize=7, color=colour, label=f"{measure} accuracy")
            for measure, (colour, mark) in MEASURES.items() if measure in set(table.measure)]
    keys += [Line2D([], [], linestyle="", marker="o", markersize=7, color="#333333",
                    markerfacecolor="#333333" if over == "unpruned" else "white", label=words)
             for over, words in OVER.items() if over in set(table.over)]
    keys.append(Line2D([], [], linestyle="", marker=".", markersize=5, color="#333333", alpha=0.7,
                       label="one repetition"))
    if reference is not None:
        _published(axis, reference)
        axis.set_xlabel(f"dashed: {', '.join(dict.fromkeys(reference.source))}", fontsize=9)
    for left, right in zip(groups, groups[1:], strict=False):
        axis.axvline((left + right) / 2, color="#dddddd", linewidth=0.9, zorder=0)
    axis.set_xticks(groups, ["\n".join(textwrap.wrap(str(net), 18)) for net in nets])
    middle, half = (place - 1.6) / 2, max(place, 4.5) / 2  # a single group stays narrow
    axis.set_xlim(middle - half, middle + half)
    axis.grid(False, axis="x")
    axis.tick_params(axis="x", length=0)
    axis.yaxis.set_major_locator(MaxNLocator(steps=(1, 2, 5, 10)))
    axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axis.set_ylabel("retained share of the accuracy")
    figure.legend(handles=keys, loc="outside lower center", ncols=3 if len(nets) > 1 else 2, frameon=False)
    return entitle(figure, _kept(table[(table.measure == "robust") & (table.over == "unpruned")]),
                   "Accuracy of the pruned network divided by that of the pre-trained network (filled) and of the "
                   "dense network with the same fine-tuning (hollow): a group for each network, a marker for each kind "
                   "of accuracy, with its interval.")


def _kept(table) -> str:
    """How much robust accuracy each network keeps, with the interval. table: columns `net`, `share`, `low`, `high`."""
    said = []
    for net, mine in table.groupby("net", sort=False):
        low, high = mine.low.iloc[0], mine.high.iloc[0]
        within = f" ({100 * low:.0f} to {percent(high, digits=0)})" if low < high else ""
        said.append(f"{net} {percent(mine.share.mean(), digits=0)}{within}")
    return f"Robust accuracy kept after pruning: {'; '.join(said)}" if said else "Accuracy kept after pruning"


def _published(axis, reference) -> None:
    """Draw faint dashed lines with their numbers at the right end; the numbers of close lines are moved apart."""
    bottom, top = axis.get_ylim()
    rows = list(reference.sort_values("share", kind="stable").itertuples())
    for one, height in zip(rows, apart([one.share for one in rows], 0.055 * (top - bottom)), strict=True):
        colour, _ = MEASURES[one.measure]
        axis.axhline(one.share, color=colour, alpha=0.55, linewidth=1.1, linestyle=(0, (4, 2)), zorder=1)
        axis.annotate(f"{one.measure} {100 * one.share:.3g} %", (1, height), (4, 0), ("axes fraction", "data"),
                      textcoords="offset points", va="center", fontsize=8, color=colour, annotation_clip=False)


def objective_grid(table):
    """Accuracies of the pruned network for each combination of objectives, one panel per network. Bars are means over
    repetitions and dots single repetitions; a line across a bar is the accuracy of the network before it was pruned.

    table: columns `net`, `pre` ('benign' or 'robust', the objective of pre-training), `fine` (the objective of
    fine-tuning; NaN for the unpruned network before it), `longer` (whether the fine-tuning is as long as both steps
    together), `measure` ('clean', 'robust' or 'verified'), `seed` and `accuracy`. A panel leaves out combinations and
    measures that its network lacks; the longer fine-tuning comes last. Raises SettingsError for missing columns,
    unknown names, two rows of one network, and no fine-tuned network.
    """
    import matplotlib.pyplot as plt
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch
    from matplotlib.ticker import PercentFormatter

    _checked(table, ("net", "pre", "fine", "longer", "measure", "seed"), "accuracy", pre=OBJECTIVES, fine=OBJECTIVES,
             measure=MEASURES)
    before, pruned = table[table.fine.isna()], table[table.fine.notna()]
    need(len(pruned) > 0, "table", "without fine-tuned networks", "one with rows of fine 'benign' or 'robust'")
    style()
    nets = list(dict.fromkeys(pruned.net))
    columns, rows = min(2, len(nets)), (len(nets) + 1) // 2
    figure, panels = plt.subplots(rows, columns, figsize=(WIDTH if columns == 2 else 6.6, 3.0 * rows + 1.2),
                                  squeeze=False, sharey=True, layout="constrained")
    for axis in panels.flat[len(nets):]:
        axis.remove()
    for axis, net in zip(panels.flat, nets, strict=False):
        mine, unpruned = pruned[pruned.net == net], before[before.net == net]
        combinations = [(pre, fine, longer) for longer in (False, True) for pre in OBJECTIVES for fine in OBJECTIVES
                        if len(_of(mine, pre=pre, fine=fine, longer=longer))]
        measures = [measure for measure in MEASURES if measure in set(mine.measure)]
        width = 0.8 / len(measures)
        for place, (pre, fine, longer) in enumerate(combinations):
            for number, measure in enumerate(measures):
                x = place + (number - (len(measures) - 1) / 2) * width
                values = _of(mine, pre=pre, fine=fine, longer=longer, measure=measure).accuracy.dropna()
                if len(values):
                    axis.bar([x], [values.mean()], 0.9 * width, color=MEASURES[measure][0], alpha=0.85, linewidth=0,
                             hatch=HATCHES[measure], edgecolor="white")
                    apart = [width * 0.5 * ((k + 0.5) / len(values) - 0.5) for k in range(len(values))]
                    axis.plot([x + a for a in apart], values, "o", color="#222222", markersize=3.6,
                              markeredgecolor="white", markeredgewidth=0.5, zorder=4, clip_on=False)
                start = _of(unpruned, pre=pre, measure=measure).accuracy.mean()
                if start == start:
                    axis.plot([x - width / 2, x + width / 2], [start, start], color="#111111", linewidth=1.6, zorder=3,
                              solid_capstyle="butt", clip_on=False)
        names = [f"{pre}\n→ {fine}" + ",\nlonger" * longer for pre, fine, longer in combinations]
        axis.set_xticks(range(len(combinations)), names)
        axis.tick_params(axis="x", length=0)
        axis.tick_params(axis="y", labelleft=True)
        axis.grid(False, axis="x")
        axis.set_xlim(-0.6, len(combinations) - 0.4)
        axis.set_ylim(0, 1)
        axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axis.set_title(net, loc="left")
    for axis in panels[:, 0]:
        axis.set_ylabel("accuracy")
    words = "objective of pre-training → objective of fine-tuning"
    if pruned.longer.any():
        words += "\nlonger: fine-tuned for as many epochs as both steps of the others together"
    keys = [Patch(facecolor=colour, alpha=0.85, hatch=HATCHES[measure], edgecolor="white", label=f"{measure} accuracy")
            for measure, (colour, _) in MEASURES.items() if measure in set(pruned.measure)]
    if len(before):
        keys.append(Line2D([], [], color="#111111", linewidth=1.6, label="before pruning and fine-tuning"))
    keys.append(Line2D([], [], linestyle="", marker="o", markersize=3.6, color="#222222", label="one repetition"))
    legend = figure.legend(handles=keys, title=words, loc="outside lower center", frameon=False,
                           ncols=len(keys) if columns == 2 else 3)
    legend.get_title().set_multialignment("center")
    return entitle(figure, _by_objective(pruned[pruned.measure == "robust"]),
                   "Bars of accuracy for each objective of pre-training and of fine-tuning, a panel for each network; "
                   "a line across a bar is the accuracy before pruning.")


def _by_objective(table) -> str:
    """The networks that are clearly more robust after robust than after benign pre-training, fine-tuned robustly.
    table: robust accuracies.
    """
    said = []
    for net, mine in table.groupby("net", sort=False):
        mine, longer = mine[~mine.longer.astype(bool)], mine[mine.longer.astype(bool)].accuracy
        both = [mean(_of(mine, pre=pre, fine=ROBUSTLY).accuracy) for pre in (ROBUSTLY, BENIGN)]
        if above(*both):
            beside = f" (with as many robust epochs {percent(longer.mean())})" if len(longer) else ""
            said.append(f"{net} {' against '.join(percent(one.value) for one in both)}{beside}")
    if not said:
        return "Accuracy of pruned networks by the objectives of pre-training and of fine-tuning"
    return f"Fine-tuned robustly, networks are more robust if they were pre-trained robustly, too: {'; '.join(said)}"


def _of(table, **values):
    """The rows that have these values."""
    for column, value in values.items():
        table = table[table[column] == value]
    return table


def pruning_rules(table, robust: str = "robust accuracy"):
    """Accuracy against the share kept, clean on the left and robust on the right: a line for each rule, and the dense
    network as a horizontal line with the range of its seeds shaded (`common.compression`).

    table: columns `rule`, `keep` (the share of weights kept, of filters for the rule `filters`; 1 for `dense`),
    `measure` ('clean' or 'robust'), `seed` and `accuracy`, all after the same fine-tuning. robust: label of the right
    panel's axis, with the attack. Raises SettingsError for missing columns, unknown names, and a `keep` that does not
    fit its rule.
    """
    _checked(table, ("rule", "keep", "measure", "seed"), "accuracy", measure=("clean", "robust"))
    odd = table[(table.rule == "dense") != (table.keep == 1)]
    for one in odd.head(1).itertuples():
        raise impossible(f"keep of {one.rule}", one.keep, "1 for dense and below 1 for every rule")
    table = table.assign(keep=table.keep.astype(float))  # settings have fractions
    methods = table.rename(columns={"rule": "method"}).replace({"measure": {"robust": "verify"}})
    figure = compression(methods, MARKS, "LWM", robust=robust)
    rules = [rule for rule in dict.fromkeys(table.rule) if rule != "dense"]
    for axis in figure.axes:
        if "filters" in rules:
            axis.set_xlabel("share that is kept, of weights (‘filters’: of filters)")
    marks = {MARKS[rule] for rule in rules}
    said = [*(words for mark, words in _MARKS.items() if mark in marks), "small dots: single repetitions"]
    figure.supxlabel("; ".join([*said, "band: the dense network's repetitions"]), fontsize=9)
    return figure
