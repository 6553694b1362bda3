"""Figures of the notebook on perceptually aligned gradients; looks.py says how a method looks in all of them.

Accuracies in tables are shares in [0, 1], one for each seed; the columns `method` and `group` say what was trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lib.errors import need
from lib.papers.perceptually_aligned_gradients.looks import (
    ADVERSARIAL,
    BOTH,
    CONTROL,
    LINES,
    REALISATION,
    VANILLA,
    keys,
    looks,
    named,
)
from lib.plots.common import label_ends
from lib.plots.style import WIDTH, check_columns, curve, style
from lib.plots.titles import above, entitle, mean, percent, span, strength

COLUMNS = 3  # panels in a row
_CLASSES = ("#2166ac", "#e08a00")  # the toy's classes
_SOURCE = "#555555"
PANELS = {"aligned gradients": (REALISATION,), "controls": (CONTROL,), "adversarial training": (ADVERSARIAL, BOTH)}


def _about(label: str, words: str) -> str:
    """A title: what follows the first comma of an axis' label, the data set and the threat, and then `words`."""
    _, _, about = label.partition(", ")
    return f"{about}: {words}" if about else words[:1].upper() + words[1:]


def _share(axis, way: str = "y") -> None:
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    own = getattr(axis, f"{way}axis")
    own.set_major_formatter(PercentFormatter(1, decimals=0))
    own.set_major_locator(MaxNLocator(5, steps=(1, 2, 2.5, 5, 10)))


def _panels(names: Sequence[str], high: float, width: float = WIDTH, share_y: bool = True):
    """A figure with a panel for each name, and {name: axes}."""
    import matplotlib.pyplot as plt

    columns = min(len(names), COLUMNS)
    rows = -(-len(names) // columns)
    figure, grid = plt.subplots(rows, columns, figsize=(width, high * rows), squeeze=False, sharey=share_y,
                                layout="constrained")
    for spare in grid.flat[len(names):]:
        spare.set_axis_off()
    return figure, dict(zip(names, grid.flat, strict=False))


def toy_maps(maps: Mapping[str, object], points, labels, eps: float, centre: Sequence[float],
             notes: Mapping[str, str] | None = None):
    """Decision maps of networks in the plane, one panel each: the probability of class 1 from blue to amber, the
    decision boundary as a black line, the data, and the circle of radius `eps` around the point `centre`.

    maps: {network: a lib.alignment.plane.Plane}, with `x` [nx], `y` [ny] and `probability` [ny, nx]. points [N, 2] and
    labels [N] (0 or 1): the data, in the maps' coordinates. notes: {network: what the title says of it}. Raises
    SettingsError for no map.
    """
    import matplotlib.pyplot as plt
    import numpy as np
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.lines import Line2D
    from matplotlib.patches import Circle

    need(len(maps) > 0, "maps", "none", "at least one")
    points, labels, notes = np.asarray(points, float), np.asarray(labels), notes or {}
    style()
    # light at both ends, so that the data can be seen on top
    ramp = LinearSegmentedColormap.from_list("classes", ["#9fc3e4", "#f7f7f7", "#f6c98a"])
    first = next(iter(maps.values()))
    wide = (WIDTH - 1.8) / max(len(maps), 2)  # minus room for the colour bar and the left axis
    high = wide * float(np.ptp(first.y) / np.ptp(first.x))
    figure, grid = plt.subplots(1, len(maps), figsize=(wide * len(maps) + 1.8, high + 1.4), sharex=True, sharey=True,
                                squeeze=False, layout="constrained")
    for axis, (name, plane) in zip(grid[0], maps.items(), strict=True):
        ground = axis.pcolormesh(plane.x, plane.y, plane.probability, cmap=ramp, vmin=0, vmax=1, shading="nearest",
                                 rasterized=True)
        if plane.probability.min() < 0.5 < plane.probability.max():
            axis.contour(plane.x, plane.y, plane.probability, levels=[0.5], colors="#111111", linewidths=1.1)
        for label, (colour, mark) in enumerate(zip(_CLASSES, "o^", strict=True)):
            mine = points[labels == label]
            axis.plot(mine[:, 0], mine[:, 1], mark, color=colour, markersize=4, markeredgecolor="white",
                      markeredgewidth=0.2, linestyle="")
        axis.add_patch(Circle(tuple(centre), eps, fill=False, edgecolor="#c2185b", linewidth=1.6, zorder=5))
        axis.plot(*centre, marker="+", color="#c2185b", markersize=7, markeredgewidth=1.6, zorder=6)
        axis.set_title(name, fontsize=10)
        axis.set_aspect("equal")
        axis.set_xlabel("$x_1$")
        axis.grid(False)
    grid[0, 0].set_ylabel("$x_2$")
    bar = figure.colorbar(ground, ax=grid[0, -1], shrink=0.6, aspect=25)
    bar.set_label("probability of class 1")
    bar.outline.set_visible(False)
    keys = [Line2D([], [], linestyle="", marker=mark, color=colour, label=f"class {label}")
            for label, (colour, mark) in enumerate(zip(_CLASSES, "o^", strict=True))]
    keys += [Line2D([], [], color="#111111", linewidth=1.1, label="decision boundary"),
             Line2D([], [], color="#c2185b", linewidth=1.6, label=f"all points within {eps:g} of one")]
    figure.legend(handles=keys, loc="outside lower center", ncols=4, frameon=False)
    said = "; ".join(f"{name} {notes[name]}" for name in maps if name in notes)
    return entitle(figure, f"Decision boundaries on the toy data: {said}" if said else
                   "Decision boundaries of networks on the toy data",
                   "The plane of the toy's points: probability of class 1 from blue to amber, the boundary as a line.")


def methods(table, label: str = "accuracy"):
    """Accuracy by method, one panel per threat. Each method is a row, with a marker for the mean over seeds, a line for
    its interval, and a dot for each seed. Groups are apart from each other, in the order of GROUPS.

    table: columns `method`, `group`, `threat` (the panel's title; `clean` counts as one), `seed`, `accuracy`, and `low`
    and `high` (the interval of the method's mean, repeated on its rows; NaN if there is none). label: of the x axes.
    Raises SettingsError for missing columns, and as `looks` does.
    """
    check_columns(table, "method", "group", "threat", "seed", "accuracy", "low", "high")
    style()
    found, groups, names = looks(table), dict(zip(table.method, table.group, strict=True)), named(table)
    places, place, borders = {}, 0.0, []
    for k, method in enumerate(found):
        if k and groups[method] != groups[list(found)[k - 1]]:
            borders.append(place - 0.15)
            place += 0.7
        places[method], place = place, place + 1
    figure, panels = _panels(list(dict.fromkeys(table.threat)), 0.27 * place + 1.0)
    for threat, axis in panels.items():
        mine = table[table.threat == threat]
        for method, (colour, mark, filled) in found.items():
            rows, y = mine[mine.method == method], places[method]
            if not len(rows):
                continue
            for _, one in rows[["low", "high"]].drop_duplicates().dropna().iterrows():
                axis.plot([one.low, one.high], [y, y], color=colour, linewidth=1.8, zorder=3, solid_capstyle="butt")
            axis.plot(rows.accuracy, [y + 0.28] * len(rows), ".", color=colour, alpha=0.75, markersize=4, zorder=2)
            axis.plot(rows.accuracy.mean(), y, mark, color=colour, markerfacecolor=colour if filled else "white",
                      markersize=6.5, zorder=4)
        for border in borders:
            axis.axhline(border, color="#dddddd", linewidth=0.8, zorder=0)
        axis.set_yticks(list(places.values()), [names[method] for method in places])
        axis.set_ylim(place - 0.4, -0.7)
        axis.set_xlim(-0.02, max(0.1, *table.accuracy[table.threat == threat], *mine.high.dropna()) + 0.03)
        axis.grid(False, axis="y")
        axis.set_title(threat, loc="left")
        axis.set_xlabel(label, fontsize=9)
        _share(axis, "x")
    return entitle(figure, _about(label, _against_vanilla(table)),
                   "A row for each method, a panel for clean accuracy and for each threat: means with 95 % intervals, "
                   "and a dot for each repetition.")


def _against_vanilla(table) -> str:
    """How many aligned methods are clearly more robust than vanilla ones under the first threat, and the best of them.
    """
    neutral = "clean and robust accuracy by method"
    threat = next((one for one in table.threat if one != "clean"), None)
    mine = table[table.threat == threat].groupby("method")
    means = mine[["accuracy", "low", "high"]].mean().join(mine.group.first())
    aligned, base = means[means.group == REALISATION], means[means.group == VANILLA]
    if not len(base) or not len(aligned):
        return neutral
    better = aligned[[above(one, base.iloc[0]) for one in aligned.itertuples()]]
    if not len(better):
        return neutral
    best = better.accuracy.idxmax()
    others = means[means.group == ADVERSARIAL].accuracy
    adversarial = f", best adversarial training {percent(others.max())}" if len(others) else ""
    ours, theirs = percent(better.accuracy.max()), percent(base.accuracy.iloc[0])
    return (f"under {threat}, {len(better)} of {len(aligned)} kinds of aligned gradients clearly beat {base.index[0]} "
            f"training ({theirs}), at best {best} ({ours}){adversarial}")


def trade_offs(table, robust: str = "robust accuracy"):
    """Robust against clean accuracy, a panel for each of PANELS, with a line for each method through its weights, from
    weight 0, the vanilla networks. A ring marks the weight that is most robust on held-out images. Among the controls
    is the score, with which they are compared. Weights at which networks collapsed are named in the panel's legend.

    table: columns `method`, `group`, `weight`, `clean`, `accuracy`, `collapsed` and `best` (both 'yes' or empty).
    Raises SettingsError for missing columns.
    """
    import pandas as pd
    from matplotlib.lines import Line2D

    check_columns(table, "method", "group", "weight", "clean", "accuracy", "collapsed", "best")
    style()
    found, groups = looks(table), dict(zip(table.method, table.group, strict=True))
    learned, base = table[table.collapsed != "yes"].sort_values("weight"), table[table.group == VANILLA]
    shown = {title: [method for method in found if groups[method] in of] for title, of in PANELS.items()}
    if shown["controls"] and "score" in found:
        shown["controls"].insert(0, "score")
    figure, panels = _panels([title for title, some in shown.items() if some], 5.0)
    room = 0.01 + 0.05 * (learned.clean.max() - learned.clean.min())
    for title, axis in panels.items():
        marks = []
        for method in shown[title]:
            (colour, mark, filled), mine = found[method], learned[learned.method == method]
            how = {"color": colour, "markerfacecolor": colour if filled else "white"}
            if groups[method] in (REALISATION, CONTROL) and "softplus" not in method:
                line = pd.concat([base[:1], mine])
                axis.plot(line.clean, line.accuracy, color=colour, linestyle=LINES[groups[method]], linewidth=1.1,
                          zorder=2)
            axis.plot(mine.clean, mine.accuracy, mark, linestyle="", markersize=6.5, zorder=4, **how)
            chosen = mine[(mine.best == "yes") & (mine.weight > 0)]
            axis.plot(chosen.clean, chosen.accuracy, "o", color=colour, linestyle="", markersize=12,
                      markerfacecolor="none", zorder=3)
            lost = [f"{weight:g}" for weight in table[(table.method == method) & (table.collapsed == "yes")].weight]
            label = f"{method} (λ {', '.join(lost)} collapsed)" if lost else method
            marks.append(Line2D([], [], marker=mark, markersize=6, linestyle=LINES[groups[method]], label=label, **how))
        for one in base.itertuples():
            colour, mark, _ = found[one.method]
            axis.plot(one.clean, one.accuracy, mark, color=colour, markersize=6.5, zorder=5)
            axis.annotate(one.method, (one.clean, one.accuracy), (7, 0), textcoords="offset points", va="center",
                          fontsize=8, color=colour)
        axis.set_title(title, loc="left")
        axis.set_xlabel("clean accuracy")
        axis.set_xlim(learned.clean.min() - room, learned.clean.max() + room)
        _share(axis)
        _share(axis, "x")
        axis.legend(handles=marks, loc="upper left", bbox_to_anchor=(-0.02, -0.21), frameon=False, fontsize=8.5)
    next(iter(panels.values())).set_ylabel(robust)
    ring = Line2D([], [], color=_SOURCE, marker="o", markersize=10, markerfacecolor="none", linestyle="",
                  label="best weight on held-out images")
    figure.legend(handles=[ring], loc="outside lower center", frameon=False)
    return entitle(figure, _about(robust, _most_at_cost(table)),
                   "Robust against clean accuracy, means over repetitions: panels for aligned gradients, controls and "
                   "adversarial training, a line for each method through its weights, from vanilla networks on.")


def _most_at_cost(table) -> str:
    """Which method without adversarial images is the most robust, and what it costs."""
    mine = table[table.group.isin((REALISATION, CONTROL)) & (table.collapsed != "yes")]
    base = table[table.group == VANILLA]
    if not len(mine) or not len(base):
        return "robust accuracy and its cost in clean accuracy"
    best, plain = mine.loc[mine.accuracy.idxmax()], base.iloc[0]
    name = f"{best.method} (λ {best.weight:g})"
    return (f"without adversarial images {name} is the most robust, {percent(best.accuracy)} at "
            f"{percent(best.clean)} clean accuracy; vanilla {percent(plain.accuracy)} at {percent(plain.clean)}")


def strengths(table, robust: str = "robust accuracy", aligned: str = "cosine with the score, test images",
              reference=None):
    """Robust accuracy (left) and measured alignment (right) against the weight of the alignment term, on a logarithmic
    axis: a line for the mean of each method and a thin line for each seed. A method at weight 0 is a horizontal line,
    with the range of its seeds shaded.

    table: columns `method`, `group`, `weight`, `seed`, `accuracy` and `alignment` (NaN leaves a gap). reference:
    columns `weight`, `accuracy` and `source`, drawn faint on the left. Raises SettingsError for missing columns and for
    no weight above 0.
    """
    import matplotlib.pyplot as plt
    from matplotlib.lines import Line2D
    from matplotlib.ticker import NullLocator

    check_columns(table, "method", "group", "weight", "seed", "accuracy", "alignment")
    if reference is not None:
        check_columns(reference, "weight", "accuracy", "source", what="reference")
    positive = table[table.weight > 0]
    need(len(positive) > 0, "table", "without a weight above 0", "one with weights")
    style()
    groups = dict(zip(table.method, table.group, strict=True))
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 4.0), layout="constrained")
    for axis, column in ((left, "accuracy"), (right, "alignment")):
        for method, (colour, mark, filled) in looks(table).items():
            base = table[(table.method == method) & (table.weight == 0)][column].dropna()
            if len(base):
                axis.axhline(base.mean(), color=colour, linestyle=LINES[groups[method]], linewidth=1.3)
                axis.axhspan(base.min(), base.max(), color=colour, alpha=0.1, linewidth=0)
            mine = positive[positive.method == method]
            if len(mine):
                before = len(axis.lines)
                curve(axis, mine, "weight", column, colour, line=LINES[groups[method]], marker=mark, shade=False,
                      thin=True)
                axis.lines[before].set_markerfacecolor(colour if filled else "white")
        axis.set_xscale("log")
        weights = sorted({*positive.weight, *(reference.weight[reference.weight > 0] if reference is not None else ())})
        axis.set_xticks(weights, [f"{weight:g}" for weight in weights])
        axis.xaxis.set_minor_locator(NullLocator())
        axis.set_xlabel("weight λ of the alignment term")
    entries = keys(table)
    if reference is not None:
        theirs = reference[reference.weight > 0].sort_values("weight")
        left.plot(theirs.weight, theirs.accuracy, "D", color=_SOURCE, linestyle=(0, (4, 2)), linewidth=1,
                  markersize=3.5, alpha=0.6)
        entries.append(Line2D([], [], color=_SOURCE, marker="D", markersize=3.5, linestyle=(0, (4, 2)), linewidth=1,
                              alpha=0.6, label=", ".join(dict.fromkeys(reference.source))))
    _share(left)
    left.set_ylabel(robust)
    left.set_ylim(bottom=min(0, left.get_ylim()[0]))
    right.set_ylabel(aligned)
    figure.legend(handles=entries, loc="outside lower center", ncols=4, frameon=False)
    return entitle(figure, _about(robust, _by_weight(positive)),
                   "Robust accuracy (left) and alignment (right) against the weight of the alignment term, a line for "
                   "each method.")


def _by_weight(table) -> str:
    """Whether aligned methods are clearly more robust at the largest weight than at the smallest."""
    weights = (table.weight.min(), table.weight.max())
    said = []
    for method, mine in table[table.group == REALISATION].groupby("method", sort=False):
        low, high = (mean(mine[mine.weight == weight].accuracy) for weight in weights)
        if above(high, low):
            said.append(f"robust accuracy of {method} rises from {percent(low.value)} (λ {weights[0]:g}) to "
                        f"{percent(high.value)} (λ {weights[1]:g})")
    if not said:
        return "robust accuracy and alignment by the weight of the alignment term"
    controls = table[table.group == CONTROL].groupby(["method", "weight"]).accuracy.mean()
    said += [f"{method}: {percent(*controls[method])}" for method in controls.index.unique("method")]
    return "; ".join(said)


def eps_curves(table, unit: str = "ε", robust: str = "robust accuracy"):
    """Robust accuracy against eps, one panel per threat: a line for the mean of each method, the range of its seeds
    shaded. Clean accuracy (eps 0) is at the left end of the logarithmic axis, behind a dotted line.

    table: columns `method`, `group`, `threat`, `eps` (a number), `seed` and `accuracy`. unit: label of the x axes.
    Raises SettingsError for missing columns and for a threat without an eps above 0.
    """
    from matplotlib.ticker import NullLocator

    check_columns(table, "method", "group", "threat", "eps", "seed", "accuracy")
    need((table.eps > 0).any(), "table", "without an eps above 0", "one with them")
    style()
    groups = dict(zip(table.method, table.group, strict=True))
    threats = list(dict.fromkeys(table.threat))
    figure, panels = _panels(threats, 4.2, WIDTH if len(threats) > 1 else 6.5)
    for threat, axis in panels.items():
        mine = table[table.threat == threat]
        sizes = sorted(float(eps) for eps in mine.eps.unique() if eps > 0)
        need(len(sizes) > 0, f"eps of the threat {threat}", 0, "with numbers above 0 among them")
        zero = sizes[0] ** 2 / sizes[1] if len(sizes) > 1 else sizes[0] / 2
        placed = mine.assign(place=mine.eps.astype(float).where(mine.eps > 0, zero))
        for method, (colour, mark, filled) in looks(table).items():
            rows, before = placed[placed.method == method], len(axis.lines)
            if len(rows):
                curve(axis, rows, "place", "accuracy", colour, line=LINES[groups[method]], marker=mark)
                axis.lines[before].set_markerfacecolor(colour if filled else "white")
        axis.set_xscale("log")
        ticks = dict(zip(sizes, map(strength, sizes), strict=True))
        if (mine.eps == 0).any():
            ticks = {zero: "0"} | ticks
            axis.axvline((zero * sizes[0]) ** 0.5, color="#999999", linewidth=0.8, linestyle=(0, (1, 2)))
        axis.set_xticks(list(ticks), list(ticks.values()))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.set_title(threat, loc="left")
        axis.set_xlabel(unit)
        axis.set_ylim(-0.02, 1.02)
        _share(axis)
    next(iter(panels.values())).set_ylabel(robust)
    means = placed.groupby(["place", "method"]).accuracy.mean().unstack()  # of the last panel
    widest = (means.max(axis=1) - means.min(axis=1)).idxmax()  # where the lines are furthest apart
    found, names = looks(table), named(table)
    spread = means.loc[widest].dropna()
    label_ends(axis, {names[method]: (widest, value, found[method][0]) for method, value in spread.items()})
    largest = table[table.eps == table.groupby("threat").eps.transform("max")]
    most = largest.groupby(["threat", "method"]).accuracy.mean().max()
    left = f"more than {percent(most)}" if most >= 0.0005 else "any"
    return entitle(figure, _about(robust, f"at the largest ε, no method keeps {left} robust accuracy"),
                   "Robust accuracy under PGD against ε, a panel for each threat and a line for each method, the range "
                   "over repetitions shaded; clean accuracy at the left end, before the dotted line.")


def alignment_against_robustness(table, robust: str = "robust accuracy",
                                 aligned: str = "cosine with an independent score, test images"):
    """Measured alignment against robust accuracy: a marker for the mean of each method, a small faint one for each
    seed.

    table: columns `method`, `group`, `seed`, `alignment` and `accuracy`, and `weight` if a method was trained at
    several weights. The means at each weight of a method are then joined by a line. A column `best` ('yes' or empty)
    names the weight of each method whose means the title's correlation is about, without vanilla networks. Raises
    SettingsError for missing columns.
    """
    import matplotlib.pyplot as plt

    check_columns(table, "method", "group", "seed", "alignment", "accuracy")
    style()
    figure, axis = plt.subplots(figsize=(8.2, 4.6), layout="constrained")
    table, ends = table if "weight" in table else table.assign(weight=1.0), {}
    for method, (colour, mark, filled) in looks(table).items():
        mine = table[table.method == method]
        axis.plot(mine.alignment, mine.accuracy, mark, color=colour, markersize=3, alpha=0.45, linestyle="",
                  markerfacecolor=colour if filled else "none")
        means = mine.groupby("weight")[["alignment", "accuracy"]].mean().sort_index()
        if len(means.dropna()):
            ends[method] = (*means.dropna().iloc[-1], colour)
        axis.plot(means.alignment, means.accuracy, "-", color=colour, marker=mark, markersize=8, linewidth=0.9,
                  markerfacecolor=colour if filled else "white", markeredgecolor=colour if not filled else "white",
                  zorder=3)
    axis.set_xlabel(aligned)
    axis.set_ylabel(robust)
    _share(axis)
    label_ends(axis, ends)
    compared = table[(table.group != VANILLA) & (table.best == "yes" if "best" in table else True)]
    means = compared.groupby("method")[["alignment", "accuracy"]].mean().dropna()
    r = means.alignment.corr(means.accuracy) if len(means) > 2 else float("nan")
    words = f" (correlation of {len(means)} methods without vanilla {span(r)}, which decides nothing)" if r == r else ""
    return entitle(figure, _about(robust, f"robust accuracy against measured alignment{words}"),
                   "A marker for the mean of each method and a faint one for each repetition; means at several weights "
                   "of a method are joined.")
