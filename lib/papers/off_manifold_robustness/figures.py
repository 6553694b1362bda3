"""Figures of the notebook on off-manifold robustness: the theory in numbers, and controls of sensitivity and alignment.
The figure of the regimes is in `regimes`, pictures of gradients and the distractor are in `gradients`, next to this
file.

A change is the total variation between class probabilities, from 0 to 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lib.errors import need, unknown
from lib.papers.off_manifold_robustness.networks import NONE
from lib.papers.off_manifold_robustness.strength_axis import ALIGNED, OFF, ON, PHASES, kinds, placed, strength_axis
from lib.plots.style import CLEAN, GREY, KINDS, WIDTH, check_columns, curve, style

_OTHER = "#0072b2"
_LEAST = 1e-34  # where zeros are drawn on logarithmic axes


def off_manifold_theory(table, bounds: Mapping[str, float] | None = None):
    """The theory in numbers. On the left, one panel per data set: |rho1 - rho2| against the standard deviation of the
    noise, a line for each repetition, and a dotted line of slope 2. On the right: the share of the sensitivity that is
    off the manifold (rho1 at the smallest noise, and rho2 of the worst point) of networks and the Bayes classifier, a
    marker for each repetition.

    table: columns `where`, `kind` (`Bayes` for the Bayes classifier), `seed`, `sigma`, `rho1`, `rho2` and `worst rho2`.
    bounds: {`rho1` or `worst rho2`: bound}, drawn on the right. Numbers below 1e-34 are drawn at 1e-34. Raises
    SettingsError for missing columns and unknown kinds or bounds.
    """
    import matplotlib.pyplot as plt
    import numpy as np
    from matplotlib.lines import Line2D
    from matplotlib.ticker import LogLocator, NullLocator

    names = ("rho1", "worst rho2")
    check_columns(table, "where", "kind", "seed", "sigma", "rho1", "rho2", "worst rho2")
    for name in bounds or ():
        if name not in names:
            raise unknown("bound", name, names)
    style()
    sets = list(dict.fromkeys(table["where"]))
    families = {NONE: (CLEAN, "no regulariser"), "noise": (KINDS["noise"], "trained with noise"),
                "Bayes": ("#222222", "Bayes classifier")}
    for kind in dict.fromkeys(table.kind):
        if kind.split(" ")[0] not in families:
            raise unknown("kind", kind, families)
    family = table.kind.str.split(" ").str[0]
    figure, panels = plt.subplots(1, len(sets) + 1, figsize=(WIDTH, 3.9), layout="constrained",
                                  width_ratios=[*[1.0] * len(sets), 1.25])
    for axis, where in zip(panels, sets, strict=False):
        mine = table[(table["where"] == where) & (family != "Bayes")]
        gaps = mine.assign(gap=(mine.rho1 - mine.rho2).abs().clip(lower=_LEAST))
        for (kind, _), rows in gaps.groupby(["kind", "seed"], sort=False):
            rows = rows.sort_values("sigma")
            axis.plot(rows.sigma, rows.gap, "o-", color=families[kind.split(" ")[0]][0], markersize=3.5, linewidth=1.1,
                      alpha=0.85)
        if len(gaps):
            sigmas = np.array(sorted(gaps.sigma.unique()))
            line = 4 * gaps[gaps.sigma == sigmas[-1]].gap.max() * (sigmas / sigmas[-1]) ** 2
            axis.plot(sigmas, line, color="#555555", linestyle=":", linewidth=1.3)
            axis.annotate("slope 2", (sigmas[-1], line[-1]), (-8, 0), textcoords="offset points", fontsize=8,
                          color="#555555", ha="right", va="center")
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.xaxis.set_minor_locator(NullLocator())
        ticks = sorted(mine.sigma.unique())
        axis.set_xticks(ticks, [f"{sigma:g}" for sigma in ticks], fontsize=8)
        axis.set_title(where, loc="left")
        axis.set_xlabel("standard deviation of the noise")
    panels[0].set_ylabel("| ρ1 − ρ2 |")
    last = panels[-1]
    for number, where in enumerate(sets):
        mine = table[table["where"] == where]
        shown = [name for name in families if (mine.kind.str.split(" ").str[0] == name).any()]
        for place, name in enumerate(shown):
            rows = mine[mine.kind.str.split(" ").str[0] == name].sort_values("sigma").groupby(["kind", "seed"]).first()
            for column, mark, aside in (("rho1", "o", -0.1), ("worst rho2", "s", 0.1)):
                x = number + 0.26 * (place - (len(shown) - 1) / 2) + aside * 0.7
                last.plot([x] * len(rows), rows[column].clip(lower=_LEAST), mark, color=families[name][0], markersize=5,
                          alpha=0.7, markeredgecolor="white", markeredgewidth=0.5)
    for name, bound in (bounds or {}).items():
        last.axhline(bound, color="#555555", linewidth=0.9, linestyle="--" if name == "rho1" else ":")
    last.set_yscale("log")
    last.set_ylim(_LEAST / 10, 30)
    last.yaxis.set_major_locator(LogLocator(numticks=8))
    last.yaxis.set_minor_locator(NullLocator())
    last.set_xticks(range(len(sets)), sets)
    last.set_xlim(-0.6, len(sets) - 0.4)
    last.grid(False, axis="x")
    last.set_title("share off the manifold", loc="left")
    keys = [Line2D([], [], color=colour, marker="o", markersize=3.5, label=words) for name, (colour, words)
            in families.items() if (family == name).any()]
    keys += [Line2D([], [], linestyle="", marker="o", color="#555555", label="ρ1, smallest noise (right)"),
             Line2D([], [], linestyle="", marker="s", color="#555555", label="ρ2, worst point (right)")]
    for name, line in (("rho1", "--"), ("worst rho2", ":")):
        if name in (bounds or {}):
            keys.append(Line2D([], [], color="#555555", linewidth=0.9, linestyle=line,
                               label=f"bound for the Bayes classifier’s {'ρ1' if name == 'rho1' else 'ρ2'}"))
    figure.legend(handles=keys, loc="outside lower center", ncols=4, frameon=False)
    return figure


def step_controls(table, tangents: Sequence[str], sizes: Sequence[float], name: str = ""):
    """Other explanations of the two changes, for one sweep: a column for each regulariser, means over repetitions and
    their range. First row: steps along the image's own tangent space and steps off it, as controls also steps off it
    that lie along another image's space or have new Fourier phases. Further rows: other kinds of tangent space at the
    same length, then other lengths.

    table: columns `kind`, `strength`, `seed`, `on`, `off`, optionally `other` and `phases`, and `on, <tangents>,
    <size>` and `off, ...` for all `tangents` and `sizes`; `on` and `off` belong to the first of each. name: the sweep's
    name, for the titles. Raises SettingsError for missing columns and for no strength above 0.
    """
    from matplotlib.lines import Line2D

    extra = [(space, sizes[0]) for space in tangents[1:]] + [(tangents[0], size) for size in sizes[1:]]
    needed = [f"{side}, {space}, {size:g}" for space, size in extra for side in ("on", "off")]
    check_columns(table, "kind", "strength", "seed", "on", "off", *needed)
    style()
    names = kinds(table)
    need(len(names) > 0, "strengths", "none above 0", "at least one above 0")
    rows = [(f"{tangents[0]},\nlength {sizes[0]:g}", "on", "off")]
    rows += [(f"{space},\nlength {size:g}", f"on, {space}, {size:g}", f"off, {space}, {size:g}")
             for space, size in extra]
    others = {}
    if "other" in table and table.other.notna().any():
        others["other"] = (_OTHER, ":", "off it, along another image’s tangent space")
    if "phases" in table and table.phases.notna().any():
        others["phases"] = (PHASES, "--", "off it, new Fourier phases")
    figure, grid = _panels(len(rows), len(names), 1.9)
    for column, kind in enumerate(names):
        mine, places = placed(table, kind)
        for number, (words, on, off) in enumerate(rows):
            axis = grid[number, column]
            curve(axis, mine, "place", off, OFF, marker="s")
            curve(axis, mine, "place", on, ON, marker="o")
            for column_of, (colour, line, _) in others.items() if number == 0 else ():
                curve(axis, mine, "place", column_of, colour, line=line, shade=False)
            strength_axis(axis, places, kind, label=number == len(rows) - 1)
            axis.tick_params(axis="y", labelsize=8)
            if column == 0:
                axis.set_ylabel(words, fontsize=9)
        grid[0, column].set_title(f"{name}: {kind}" if name else kind, loc="left", fontsize=10)
    for row in grid:
        row[0].set_ylim(0, None)
    keys = [Line2D([], [], color=ON, marker="o", markersize=5, label="change along the manifold"),
            Line2D([], [], color=OFF, marker="s", markersize=5, label="change off the manifold")]
    keys += [Line2D([], [], color=colour, linestyle=line, label=words) for colour, line, words in others.values()]
    figure.legend(handles=keys, loc="outside lower center", ncols=min(len(names), 2), frameon=False)
    return figure


def _panels(rows: int, columns: int, high: float):
    """A figure with rows (each `high` inches) for measures and columns for regularisers; narrow if there are few."""
    import matplotlib.pyplot as plt

    wide = {1: 4.4, 2: 7.0}.get(columns, WIDTH)
    return plt.subplots(rows, columns, squeeze=False, sharey="row", sharex="col", layout="constrained",
                        figsize=(wide, high * rows + (1.0 if columns > 1 else 1.6)))


_VARIANTS = (
    ("cosine of log-probability’s gradient", {
        "alignment": (ALIGNED, "D", "-", "with the class score (closed forms: the Bayes gradient)"),
        "shuffled pairs": (ALIGNED, None, ":", "with that of another image"),
        "white noise": (GREY, None, "--", "with white noise"),
        "high-pass": ("#b07000", "v", "-", "with the negative high-pass of the image")}),
    ("the paper’s pair", {
        "sum of logits": ("#0072b2", "o", "-", "gradient of the summed logits with the score: cosine"),
        "1 - LPIPS": ("#009e73", "s", "-", "the same pair: 1 − LPIPS"),
        "score, high-pass": ("#b07000", None, ":", "the score itself with the negative high-pass: cosine")}),
    ("share along the manifold", {
        "inside": (ON, "o", "-", "share of the squared gradient along the manifold")}),
)


def alignment_variants(table, untrained=None, name: str = ""):
    """All measures of alignment of one sweep next to uninformed baselines (such as shuffled pairs): a column for each
    regulariser, means over repetitions and their range. Rows: cosines of the log-probability's gradient; the paper's
    pair, summed logits and score; the share of the gradient along the manifold. Measures that the table lacks are left
    out.

    table: columns `kind`, `strength`, `seed`, `alignment` and any of `shuffled pairs`, `white noise`, `high-pass`, `sum
    of logits`, `1 - LPIPS`, `score, high-pass` and `inside`. untrained: the same columns for untrained networks, drawn
    as faint horizontal lines. name: the sweep's name, for the titles. Raises SettingsError for missing columns and for
    no strength above 0.
    """
    from matplotlib.lines import Line2D

    check_columns(table, "kind", "strength", "seed", "alignment")
    rows = []
    for words, variants in _VARIANTS:
        there = {what: look for what, look in variants.items() if what in table and table[what].notna().any()}
        rows += [(words, there)] if there else []
    style()
    names = kinds(table)
    need(len(names) > 0, "strengths", "none above 0", "at least one above 0")
    figure, grid = _panels(len(rows), len(names), 2.5)
    for column, kind in enumerate(names):
        mine, places = placed(table, kind)
        for number, (words, variants) in enumerate(rows):
            axis = grid[number, column]
            for what, (colour, mark, line, _) in variants.items():
                curve(axis, mine, "place", what, colour, line=line, marker=mark, shade=mark is not None)
                if untrained is not None and mark and what in untrained:
                    axis.axhline(untrained[what].mean(), color=colour, linewidth=0.8, alpha=0.5)
            strength_axis(axis, places, kind, label=number == len(rows) - 1)
            axis.tick_params(axis="y", labelsize=8)
            if column == 0:
                axis.set_ylabel(words.replace(" of ", "\nof ").replace(" along ", "\nalong "), fontsize=9)
        grid[0, column].set_title(f"{name}: {kind}" if name else kind, loc="left", fontsize=10)
    for row, (_, variants) in zip(grid, rows, strict=True):
        if "inside" in variants:
            row[0].set_ylim(0, None)
    keys = [Line2D([], [], color=colour, marker=mark, markersize=5, linestyle=line, label=words)
            for _, variants in rows for colour, mark, line, words in variants.values()]
    if untrained is not None and len(untrained):
        keys.append(Line2D([], [], color="#555555", linewidth=0.8, alpha=0.6, label="untrained networks"))
    figure.legend(handles=keys, loc="outside lower center", ncols=min(len(names), 2), frameon=False)
    return figure
