"""Figures of the notebook across the papers."""

from __future__ import annotations

from collections.abc import Mapping

from lib.errors import need
from lib.papers.across_papers.tables import LENSES
from lib.plots.style import GREY, ROBUST, WIDTH, check_columns, style
from lib.plots.titles import entitle, strength

COMPARED = {"fit": "robust accuracy of its front in a\nrobust end, minus its untrained twin's",
            "cka": "same-layer CKA with a\nrobust network of another seed",
            "alignment": "alignment with class scores,\nas a share of two denoisers'"}
ALIGNED = {"class score": "#009e73", "class mean": "#56b4e9"}  # colours
FURTHER = {"noise": "#cc79a7", "gradient norm": "#8c6d1f", "TRADES": "#e69f00"}
SHARES = ("robust", "clean", "fit", "fit, matched", "alignment")


def contrast(table, adversarial: Mapping[str, float], title: str = ""):
    """Fit, similarity and alignment against robust accuracy: adversarial training as a line through its eps, other
    trainings as points, each repetition a small dot. At equal robust accuracy, what lies below the line is less.

    table: columns `kind`, `seed`, `training`, `robust` (accuracy, in [0, 1]) and those of COMPARED, as returned by
    `tables.lenses`. adversarial: {kind: eps}, the kinds on the line. title: what a run found, in a sentence. Raises
    SettingsError for missing columns, and without a kind on the line.
    """
    import matplotlib.pyplot as plt
    from matplotlib.ticker import PercentFormatter

    check_columns(table, "kind", "seed", "training", "robust", *COMPARED)
    need({*adversarial} <= {*table["kind"]} and len(adversarial) > 0, "adversarial", ", ".join(adversarial) or "none",
         "kinds of the table, at least one")
    style()
    figure, panels = plt.subplots(1, len(COMPARED), figsize=(WIDTH * 1.15, 4.2), layout="constrained")
    means = table.groupby("kind", sort=False)[["robust", *COMPARED]].mean()
    line = means.loc[[*adversarial]]
    points = {kind: training for kind, training in table.drop_duplicates("kind")[["kind", "training"]].to_numpy()
              if training in ALIGNED or training in FURTHER}
    for axis, (column, words) in zip(panels, COMPARED.items(), strict=True):
        for kind in adversarial:
            mine = table[table["kind"] == kind]
            axis.plot(mine["robust"], mine[column], ".", color=ROBUST, alpha=0.45, markersize=4)
        axis.plot(line["robust"], line[column], "o-", color=ROBUST, label="adversarial training, by eps")
        for (_, one), eps in zip(line.iterrows(), adversarial.values(), strict=True):
            axis.annotate(strength(eps), (one["robust"], one[column]), (-3, 5), textcoords="offset points", ha="right",
                          fontsize=8, color=ROBUST)
        for kind, training in points.items():
            mine, one = table[table["kind"] == kind], means.loc[kind]
            colour = (ALIGNED | FURTHER)[training]
            axis.plot(mine["robust"], mine[column], ".", color=colour, alpha=0.6, markersize=4)
            axis.plot(one["robust"], one[column], "D" if training in ALIGNED else "s", color=colour, markersize=8,
                      label=f"{kind}{', aligned gradients' if training in ALIGNED else ''}")
        if "normal" in means.index:
            place = means.loc["normal", ["robust", column]]
            axis.plot(*place, "^", color=GREY)
            axis.annotate("normal", place, (5, -11), textcoords="offset points", fontsize=8, color=GREY)
        axis.set(xlabel="robust accuracy", ylabel=words)
        axis.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        if column != "cka":
            axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    return entitle(figure, title or "Networks of aligned gradients next to adversarial training",
                   "Three panels against robust accuracy: the fit of a network's front in a robust network's end, "
                   "same-layer CKA with a robust network, and the alignment of gradients with class scores. "
                   "Adversarial training is a line through its eps; other kinds of networks are points.")


def every_lens(table):
    """What every lens says of every kind: a panel for each lens, a row for each kind, a dot for each repetition and a
    bar for their mean.

    table: columns `kind`, `seed` and those of `tables.LENSES`, as returned by `tables.lenses`; NaN is not drawn. Raises
    SettingsError for missing columns.
    """
    import matplotlib.pyplot as plt
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    check_columns(table, "kind", "seed", *LENSES)
    style()
    kinds = list(dict.fromkeys(table["kind"]))
    rows = {kind: len(kinds) - 1 - n for n, kind in enumerate(kinds)}
    figure, panels = plt.subplots(2, len(LENSES) // 2, figsize=(WIDTH * 1.15, 1.6 + 0.46 * len(kinds)), sharey=True,
                                  layout="constrained")
    for axis, (column, words) in zip(panels.flat, LENSES.items(), strict=True):
        axis.plot(table[column], table["kind"].map(rows), "o", color=ROBUST, alpha=0.5, markersize=4)
        means = table.groupby("kind", sort=False)[column].mean()
        axis.plot(means, [rows[kind] for kind in means.index], "|", color="black", markersize=11, markeredgewidth=1.6)
        if column not in ("robust", "clean", "cka"):
            axis.axvline(0, color=GREY, linewidth=0.8)
        axis.set_title(words, fontsize=9, loc="left")
        axis.set_yticks([*rows.values()], [*rows], fontsize=8)
        axis.xaxis.set_major_locator(MaxNLocator(4))
        if column in SHARES:
            axis.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    return entitle(figure, "Every kind of network through every lens",
                   "Eight panels, one for each lens: a row for each kind of network, a dot for each repetition, a bar "
                   "for their mean.")
