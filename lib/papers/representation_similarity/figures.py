"""Figures of representation similarity: numbers taken from maps (lib/plots/maps.py draws the maps themselves).

Tables are tidy DataFrames with one row per measurement. A `kind` is a kind of network; it has the same colour in all
figures (lib.plots.KINDS).
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from lib.errors import need, unknown
from lib.papers.representation_similarity.reference import SAME_LAYER, SOURCE
from lib.plots.maps import draw_map
from lib.plots.style import GREY, WIDTH, check_columns, colours, curve, line_styles, markers, stage_ticks, style
from lib.plots.titles import above, entitle, mean, percent, span, strength
from lib.similarity.explorer import MEASURES

SUMMARIES = {
    "mean off-diagonal": "mean off-diagonal self-similarity",
    "block index": "block index (within minus adjacent stages)",
    "block index, share of what is left": "block index / (1 − mean off-diagonal)",
}
EARLY = "#9a9a9a"  # the early layers; deep layers have their kind's colour
NORMAL, ROBUST = "normal", "robust"
QUANTITIES = ("early", "deep", "accuracy")


def against_distance(table, unit: str = "layers", reference=None, label: str = "CKA"):
    """Mean similarity of two layers of one network against the distance between them: for each kind of network a curve
    of the means over seeds, and a thin line for each seed.

    table: columns `kind`, `seed`, `distance` and `similarity`. unit: of the distance, 'layers' or 'depth' (shares of
    the network's depth, 0 to 1). reference: columns `kind`, `distance`, `similarity` and `source`, drawn faint in the
    kind's colour, with the source in the legend. label: the measure's name. Raises SettingsError for another unit and
    missing columns.
    """
    import matplotlib.pyplot as plt
    from matplotlib.ticker import PercentFormatter

    check_columns(table, "kind", "seed", "distance", "similarity")
    if unit not in ("layers", "depth"):
        raise unknown("unit of distance", unit, ("layers", "depth"))
    style()
    figure, axis = plt.subplots(figsize=(7.6, 4.2), layout="constrained")
    palette = colours(table.kind)
    marks = markers(palette)
    for kind, colour in palette.items():
        curve(axis, table[table.kind == kind], "distance", "similarity", colour, kind, marker=marks[kind], shade=False,
              thin=True)
    if reference is not None:
        check_columns(reference, "kind", "distance", "similarity", "source", what="reference")
        palette = colours([*palette, *reference.kind])
        for (kind, source), mine in reference.groupby(["kind", "source"], sort=False):
            mine = mine.sort_values("distance")
            axis.plot(mine.distance, mine.similarity, linestyle=(0, (4, 2)), marker=marks.get(kind, "s"), markersize=4,
                      linewidth=1.3, color=palette[kind], alpha=0.45, label=f"{kind}, {source}")
    axis.set_ylim(min(0.0, table.similarity.min()) - 0.02, 1.02)
    axis.set_xlim(0, None)
    if unit == "depth":
        axis.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axis.set_xlabel("distance between layers" + (", share of the depth" if unit == "depth" else ", in layers"))
    axis.set_ylabel(f"mean {label}")
    figure.legend(frameon=False, loc="outside center right")
    normal, robust = _of_kinds(table.groupby(["kind", "seed"]).similarity.mean())
    title = f"Mean {label} of two layers of one network by the distance between them"
    if above(robust, normal) or above(normal, robust):
        title = (f"Two layers of one network are {'more' if above(robust, normal) else 'less'} alike in robust "
                 f"networks ({span(robust.value)}, mean over distances) than in normal ones ({span(normal.value)})")
    return entitle(figure, title, f"{label} against the distance between layers, a curve for each kind of network.")


def _of_kinds(values):
    """The means of normal and of robust networks. values: a Series by (kind, repetition)."""
    return [mean(values[kind]) if kind in values.index.get_level_values(0) else mean([]) for kind in (NORMAL, ROBUST)]


def per_layer(table, layers: Sequence, label: str = "CKA"):
    """Similarity between the representations of clean and of perturbed images, layer by layer: a line for each kind of
    network (colour) and perturbation (line style), the range over seeds shaded.

    table: columns `kind`, `perturbation` (at most four), `seed`, `position` (of the layer, from 0) and `similarity`.
    layers: the networks' layers; the axis names their stages. Raises SettingsError for missing columns, a position
    outside the layers, and more perturbations.
    """
    import matplotlib.pyplot as plt
    from matplotlib.lines import Line2D

    check_columns(table, "kind", "perturbation", "seed", "position", "similarity")
    allowed = f"0 to {len(layers) - 1}, a position among the layers"
    for outermost in (table.position.min(), table.position.max()):
        need(0 <= outermost < len(layers), "position", outermost, allowed)
    style()
    figure, axis = plt.subplots(figsize=(WIDTH, 4.4), layout="constrained")
    palette, lines, marks = colours(table.kind), line_styles(table.perturbation), markers(table.kind)
    for (kind, perturbation), mine in table.groupby(["kind", "perturbation"], sort=False):
        curve(axis, mine, "position", "similarity", palette[kind], line=lines[perturbation],
              marker=marks[kind], xs=range(len(layers)))
    _stages_below(axis, layers)
    axis.set_ylim(min(0.0, table.similarity.min()) - 0.02, 1.02)
    axis.set_ylabel(f"{label}, clean and perturbed")
    keys = [Line2D([], [], color=colour, marker=marks[kind], label=kind) for kind, colour in palette.items()]
    keys += [Line2D([], [], color="#444444", linestyle=line, label=name) for name, line in lines.items()]
    figure.legend(handles=keys, loc="outside lower center", ncols=6, frameon=False, fontsize=8.5)
    first = next(iter(lines))
    normal, robust = _of_kinds(table[table.perturbation == first].groupby(["kind", "seed"]).similarity.mean())
    title = f"{label} of clean and perturbed images, layer by layer"
    if above(robust, normal):
        title = (f"Perturbed images ({first}) change representations less in robust networks (mean {label} with clean "
                 f"images over layers {span(robust.value)}) than in normal ones ({span(normal.value)})")
    return entitle(figure, title, f"{label} against the layer, a line for each kind of network and perturbation.")


def _stages_below(axis, layers: Sequence) -> None:
    axis.set_xlim(-0.5, len(layers) - 0.5)
    axis.grid(False, axis="x")
    for boundary in stage_ticks(axis, layers, "x", room=20):
        axis.axvline(boundary, color="#bbbbbb", linewidth=0.8, zorder=0)
    axis.set_xlabel(f"layer ({len(layers)}, in the order of computation)")


def dose_response(table, unit: str = "ε", reference=None, label: str = "CKA"):
    """The effect of the strength of adversarial training on the representation, in two panels: mean same-layer
    similarity to normal networks, and mean off-diagonal self-similarity. Lines are means over seeds, dots single seeds.

    table: one row per network with columns `eps` (a number, 0 for normal training), `seed`, `to_normal` and `self`, and
    `kind` if there are several threats (one curve each). unit: the unit of `eps`, such as 'ε in 1/255'. reference:
    columns `eps`, `panel` ('to_normal' or 'self'), `similarity` and `source`, drawn faint. Raises SettingsError for
    missing columns and unknown panels.
    """
    import matplotlib.pyplot as plt

    check_columns(table, "eps", "seed", "to_normal", "self")
    table = table if "kind" in table else table.assign(kind="robust")
    titles = {"to_normal": "similarity to normal networks", "self": "similarity of a network's own layers"}
    if reference is not None:
        check_columns(reference, "eps", "panel", "similarity", "source", what="reference")
        for panel in reference.panel:
            if panel not in titles:
                raise unknown("panel", panel, titles)
    style()
    figure, panels = plt.subplots(1, 2, figsize=(WIDTH, 3.9), sharex=True, layout="constrained")
    ylabels = (f"mean same-layer {label}", f"mean off-diagonal {label}")
    palette = colours(table.kind)
    for axis, (name, title), ylabel in zip(panels, titles.items(), ylabels, strict=True):
        for kind, colour in palette.items():
            mine = table[table.kind == kind]
            curve(axis, mine, "eps", name, colour, kind, shade=False)
            axis.plot(mine.eps, mine[name], "o", color=colour, markersize=5, alpha=0.65, markeredgecolor="white")
        if reference is not None:
            for source, mine in reference[reference.panel == name].groupby("source", sort=False):
                mine = mine.sort_values("eps")
                axis.plot(mine.eps, mine.similarity, linestyle=(0, (4, 2)), marker="s", markersize=3.5, color=GREY,
                          alpha=0.6, label=source)
        axis.set_title(title, loc="left")
        axis.set_ylabel(ylabel)
        axis.set_ylim(min(0.0, table[name].min()) - 0.02, 1.02)
        ticks = sorted(table.eps.unique())
        axis.set_xticks(ticks, [strength(eps) for eps in ticks])
        axis.set_xlabel(f"strength of training, {unit}")
    keys = {text: key for axis in panels for key, text in zip(*axis.get_legend_handles_labels(), strict=True)}
    if len(keys) > 1:
        figure.legend(keys.values(), keys, loc="outside lower center", ncols=min(len(keys), 5), frameon=False)
    weak, strong = (mean(table[table.eps == eps].to_normal) for eps in (table.eps.min(), table.eps.max()))
    title = "Similarity of networks to normal ones, and of their own layers, by the strength of training"
    if above(weak, strong):
        others = f"those trained at ε {strength(table.eps.min())}" if table.eps.min() else "normal ones to each other"
        title = (f"Networks trained at ε {strength(table.eps.max())} are less similar to normal ones "
                 f"({span(strong.value)}) than {others} ({span(weak.value)})")
    return entitle(figure, title, f"Left: mean same-layer {label} with normal networks, right: mean {label} of a "
                   "network's own layers, both against the strength of adversarial training.")


def summary_strip(table, intervals=None, reference=None, title: str = ""):
    """Summaries of self maps, one panel each, with a row for each kind of network: a dot for each seed, a bar for the
    mean, and a line for its 95 % interval.

    table: columns `kind`, `seed`, `summary` (a name of SUMMARIES or any other) and `value`. intervals: columns `kind`,
    `summary`, `low` and `high`, such as the judge's; without them Student's t intervals over at least three seeds.
    reference: columns `kind`, `summary`, `value` and `source`, drawn as faint ticks, with the source below. title:
    what the figure says; "" for where robust and normal networks differ. Raises SettingsError for missing columns.
    """
    import matplotlib.pyplot as plt
    import numpy as np
    from matplotlib.lines import Line2D

    check_columns(table, "kind", "seed", "summary", "value")
    if intervals is None:
        intervals = _intervals(table)
    check_columns(intervals, "kind", "summary", "low", "high", what="intervals")
    if reference is not None:
        check_columns(reference, "kind", "summary", "value", "source", what="reference")
    style()
    palette, summaries = colours(table.kind), list(dict.fromkeys(table.summary))
    figure, panels = plt.subplots(1, len(summaries), figsize=(WIDTH, 0.46 * len(palette) + 1.9), sharey=True,
                                  squeeze=False, layout="constrained")
    figure.get_layout_engine().set(wspace=0.06)
    for axis, summary in zip(panels[0], summaries, strict=True):
        for row, (kind, colour) in enumerate(palette.items()):
            values = table[(table.kind == kind) & (table.summary == summary)].value.dropna()
            axis.plot(values, np.full(len(values), row), "o", color=colour, alpha=0.55, markersize=6,
                      markeredgecolor="white", zorder=3)
            axis.plot([values.mean()] * 2, [row - 0.24, row + 0.24], color=colour, linewidth=2.4, zorder=4)
            for _, one in intervals[(intervals.kind == kind) & (intervals.summary == summary)].dropna().iterrows():
                axis.plot([one.low, one.high], [row, row], color=colour, linewidth=1.4, zorder=2)
            if reference is not None:
                for _, one in reference[(reference.kind == kind) & (reference.summary == summary)].iterrows():
                    axis.plot([one.value] * 2, [row - 0.36, row + 0.36], color="#333333", alpha=0.45, linewidth=1.1,
                              linestyle=(0, (2, 1.5)), zorder=1)
                    axis.annotate(f"{one.value:.2f}", (one.value, row - 0.36), (0, 1), textcoords="offset points",
                                  ha="center", va="bottom", fontsize=7, color="#555555")
        axis.set_xlabel("\n".join(textwrap.wrap(_in_words(summary), 84 // len(summaries), break_on_hyphens=False)))
        axis.grid(False, axis="y")
    panels[0, 0].set_yticks(range(len(palette)), list(palette))
    panels[0, 0].set_ylim(len(palette) - 0.4, -0.75)
    if reference is not None:
        sources = ", ".join(dict.fromkeys(reference.source))
        key = Line2D([], [], color="#333333", alpha=0.45, linewidth=1.1, linestyle=(0, (2, 1.5)), label=sources)
        figure.legend(handles=[key], loc="outside lower center", frameon=False)
    return entitle(figure, title or _told_apart(table, intervals),
                   "A row for each kind of network, a panel for each summary: dots are single networks, bars means, "
                   "lines 95 % intervals.")


def _in_words(summary: str) -> str:
    """The name of a summary on an axis; that of one measure, such as 'mean off-diagonal, svcca', names the measure."""
    name, _, measure = summary.partition(", ")
    return SUMMARIES.get(summary) or ", ".join(filter(None, (name, MEASURES.get(measure, measure))))


def _intervals(table):
    """Columns `kind`, `summary`, `value`, `low`, `high`: Student's t intervals over repetitions."""
    import pandas as pd

    return pd.DataFrame([{"kind": kind, "summary": summary, **mean(mine.value)._asdict()}
                         for (kind, summary), mine in table.groupby(["kind", "summary"], sort=False)])


def _told_apart(table, intervals) -> str:
    """The summaries in which robust and normal networks differ, with both means."""
    found = []
    for summary, mine in intervals.groupby("summary", sort=False):
        both = mine.set_index("kind")
        if {NORMAL, ROBUST} <= {*both.index}:
            higher, lower = (above(both.loc[a], both.loc[b]) for a, b in ((ROBUST, NORMAL), (NORMAL, ROBUST)))
            means = [table[(table.kind == kind) & (table.summary == summary)].value.mean() for kind in (ROBUST, NORMAL)]
            if higher or lower:
                name, _, more = summary.partition(", ")
                more = f" ({MEASURES.get(more, more)})" if more else ""
                found.append(f"{'higher' if higher else 'lower'} {name}{more}, "
                             f"{' against '.join(map(span, means))}")
    if not found:
        return "Summaries of self-similarity by kind of network"
    return f"Robust networks against normal ones: {'; '.join(found)}"


def neighbours(table, label: str = "CKA"):
    """Which kinds of networks robust and untrained networks are most similar to, layer by layer: a panel for each of
    the two, with a row for each other kind, a dot for each robust (untrained) network, bars and intervals as in
    `summary_strip`.

    table: columns `of` ('robust' or 'untrained'), `kind`, `seed` and `similarity`. Raises SettingsError for missing
    columns.
    """
    check_columns(table, "of", "kind", "seed", "similarity")
    table = table.sort_values("of", kind="stable")  # the robust networks first
    strip = table.assign(summary=f"mean same-layer {label} with " + table.of + " networks", value=table.similarity)
    said = [words for of in dict.fromkeys(table.of) if (words := _nearest(table[table.of == of], of))]
    return summary_strip(strip, title=f"Of other kinds, {'; '.join(said)}" if said else
                         f"Mean same-layer {label} of robust and of untrained networks with networks of every kind")


def _nearest(table, of: str) -> str:
    """Which other kind is the most similar, if its interval lies above those of all other kinds."""
    means = {kind: mean(mine.similarity) for kind, mine in table.groupby("kind", sort=False) if kind != of}
    if len(means) < 2:
        return ""
    first, *others = sorted(means, key=lambda kind: -means[kind].value)
    if not all(above(means[first], means[other]) for other in others):
        return ""
    rest = ", ".join(f"{other} {span(means[other].value)}" for other in others)
    return f"{first} networks are the most similar to {of} ones ({span(means[first].value)}; {rest})"


def kind_matrix(table, label: str = "CKA"):
    """Mean same-layer similarity of two networks, for every pair of kinds: a square matrix with its numbers. The
    diagonal compares networks of one kind and different seeds. Pairs of kinds that were not measured are hatched.

    table: columns `kind`, `other` and `similarity`, one row for each pair of networks, in either order. Raises
    SettingsError for missing columns.
    """
    import matplotlib.pyplot as plt
    import numpy as np
    from matplotlib.patches import Patch

    check_columns(table, "kind", "other", "similarity")
    kinds = list(dict.fromkeys([*table.kind, *table.other]))
    pairs = [tuple(sorted(pair, key=kinds.index)) for pair in zip(table.kind, table.other, strict=True)]
    means = table.similarity.groupby([pairs]).mean()
    values = np.full((len(kinds), len(kinds)), np.nan)
    for (a, b), value in means.items():
        i, j = kinds.index(a), kinds.index(b)
        values[i, j] = values[j, i] = value
    style()
    side = min(0.62 * len(kinds) + 2.0, WIDTH - 0.6)
    figure, axis = plt.subplots(figsize=(side + 0.6, side), layout="constrained")
    image = draw_map(axis, values, label)
    for (i, j), value in np.ndenumerate(values):
        if np.isfinite(value):
            known = SAME_LAYER.get((kinds[i], kinds[j]), SAME_LAYER.get((kinds[j], kinds[i])))
            words = f"{value:.2f}" + (f"\n({known:.2f})" if known else "")
            axis.text(j, i, words, ha="center", va="center", fontsize=9,
                      color="white" if value < 0.62 else "black")
    ticks = range(len(kinds))
    axis.set_xticks(ticks, kinds, rotation=35, ha="right", rotation_mode="anchor")
    axis.set_yticks(ticks, kinds)
    bar = figure.colorbar(image, ax=axis, shrink=0.8, aspect=22, pad=0.02)
    bar.set_label(f"mean same-layer {label}")
    bar.outline.set_visible(False)
    if np.isnan(values).any():
        key = Patch(facecolor="#e4e4e4", edgecolor="#9a9a9a", hatch="////", label="not measured")
        figure.legend(handles=[key], loc="outside lower center", frameon=False)
    if any(pair in SAME_LAYER for pair in means.index.tolist()):
        axis.set_xlabel(f"in brackets: the paper’s ({SOURCE}, CIFAR-10)", fontsize=9)
    said = sorted(((values[kinds.index(ROBUST)][k], name) for k, name in enumerate(kinds)
                   if ROBUST in kinds and np.isfinite(values[kinds.index(ROBUST)][k])), reverse=True)
    said = [f"{name} {span(value)}" for value, name in said]
    said = said if len(said) <= 4 else [*said[:2], "…", *said[-2:]]
    words = f" with robust networks: {', '.join(said)}" if said else ""
    return entitle(figure, f"Mean same-layer {label}{words}", "A square matrix over kinds of network with its numbers.")


def checkpoints(table, label: str = "CKA"):
    """How a network changes during training, and whether it overfits, with a column for each kind of training. Above:
    the similarity of each epoch's checkpoint to the last one, for early and for deep layers. Below: robust accuracy.
    Lines for training images are dashed, for test images solid; the range over seeds is shaded. A dotted line marks the
    epoch of the best test accuracy.

    table: columns `kind`, `seed`, `epoch`, `images` ('train' or 'test'), `quantity` ('early' or 'deep', the mean
    similarity of these layers, or 'accuracy', robust accuracy from 0 to 1) and `value`. Raises SettingsError for
    missing columns and unknown names.
    """
    import matplotlib.pyplot as plt
    from matplotlib.lines import Line2D
    from matplotlib.ticker import PercentFormatter

    check_columns(table, "kind", "seed", "epoch", "images", "quantity", "value")
    lines = {"test": "-", "train": "--"}
    for what, known in (("quantity", QUANTITIES), ("images", lines)):
        for name in table[what].unique():
            if name not in known:
                raise unknown(what, name, known)
    style()
    palette = colours(table.kind)
    figure, grid = plt.subplots(2, len(palette), figsize=(WIDTH if len(palette) > 1 else 6.4, 5.4), sharex="col",
                                sharey="row", squeeze=False, height_ratios=(1.5, 1), layout="constrained")
    for (upper, lower), (kind, colour) in zip(grid.T, palette.items(), strict=True):
        drawn = (("early", upper, EARLY), ("deep", upper, colour), ("accuracy", lower, colour))
        mine = table[table.kind == kind]
        for images, line in lines.items():
            for quantity, axis, shade in drawn:
                rows = mine[(mine.images == images) & (mine.quantity == quantity)]
                if len(rows):
                    curve(axis, rows, "epoch", "value", shade, line=line)
        reached = mine[(mine.images == "test") & (mine.quantity == "accuracy")].groupby("epoch").value.mean()
        if reached.nunique() > 1:
            for axis in (upper, lower):
                axis.axvline(reached.idxmax(), color="#555555", linewidth=0.8, linestyle=":")
        upper.set_title(kind, loc="left")
        lower.set_xlabel("epoch")
    grid[0, 0].set_ylabel(f"{label} with the last checkpoint")
    grid[1, 0].set_ylabel("robust accuracy")
    grid[1, 0].yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    keys = [Line2D([], [], color="#222222", linewidth=2.5, label="deep layers; accuracy (in colour)"),
            Line2D([], [], color=EARLY, linewidth=2.5, label="early layers"),
            *(Line2D([], [], color="#222222", linestyle=line, label=f"{images} images")
              for images, line in lines.items()),
            Line2D([], [], color="#555555", linestyle=":", linewidth=0.8, label="best test accuracy")]
    figure.legend(handles=keys, loc="outside lower center", ncols=5, frameon=False)
    reached = table[(table.images == "test") & (table.quantity == "accuracy")].groupby(["kind", "epoch"], sort=False)
    means = reached.value.mean()
    said = [f"{kind} {percent(means[kind].max())}, {percent(means[kind].iloc[-1])}"
            for kind in palette if kind in means.index.get_level_values(0)]
    return entitle(figure, f"Robust test accuracy at its best and after the last epoch: {'; '.join(said)}" if said else
                   f"{label} of checkpoints with the last one",
                   f"Above: {label} of each epoch's checkpoint with the last one, early and deep layers; below: robust "
                   "accuracy.")
