"""Figures of the notebook on off-manifold robustness: the theory in numbers, and controls of sensitivity and alignment.
The figure of the regimes is in `regimes`, pictures of gradients and the distractor are in `gradients`, next to this
file.

A change is the total variation between class probabilities, from 0 to 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lib.errors import need, unknown
from lib.papers.off_manifold_robustness.networks import NONE
from lib.papers.off_manifold_robustness.strength_axis import ALIGNED, MATCHED, OFF, ON, kinds, placed, strength_axis
from lib.plots.common import label_ends
from lib.plots.style import CLEAN, GREY, KINDS, WIDTH, check_columns, curve, style
from lib.plots.titles import above, entitle, mean, percent, span

_OTHER = "#0072b2"
_LEAST = 1e-16  # smaller numbers are rounding noise, drawn here


def off_manifold_theory(table, bounds: Mapping[str, float] | None = None):
    """The theory in numbers. On the left, one panel per data set: |rho1 - rho2| against the standard deviation of the
    noise, a line for each repetition, and a dotted line of slope 2. On the right: the share of the sensitivity that is
    off the manifold (rho1 at the smallest noise, and rho2 of the worst point) of networks and the Bayes classifier, a
    marker for each repetition.

    table: columns `where`, `kind` (`Bayes` for the Bayes classifier), `seed`, `sigma`, `rho1`, `rho2` and `worst rho2`.
    bounds: {`rho1` or `worst rho2`: bound}, drawn on the right. Numbers below 1e-16 are rounding noise and drawn at
    1e-16. Raises SettingsError for missing columns and unknown kinds or bounds.
    """
    import matplotlib.pyplot as plt
    import numpy as np
    from matplotlib.lines import Line2D
    from matplotlib.ticker import NullLocator

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
            colour, _ = families[kind.split(" ")[0]]
            axis.plot(rows.sigma, rows.gap, "o-", color=colour, markersize=3.5, linewidth=1.1, alpha=0.85,
                      markerfacecolor=_face(kind, colour))
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
                          alpha=0.7, markerfacecolor=_face(name, families[name][0]))
    for name, bound in (bounds or {}).items():
        last.axhline(bound, color="#555555", linewidth=0.9, linestyle="--" if name == "rho1" else ":")
        last.annotate(f"bound of {'ρ1' if name == 'rho1' else 'ρ2'}", (1, bound), (3, 0), ("axes fraction", "data"),
                      "offset points", fontsize=8, va="center", color="#555555", annotation_clip=False)
    last.set_yscale("log")
    last.set_ylim(_LEAST / 10, 30)
    last.set_yticks([10.0**k for k in range(-16, 1, 4)], ["≤ 10⁻¹⁶", "10⁻¹²", "10⁻⁸", "10⁻⁴", "1"])
    last.yaxis.set_minor_locator(NullLocator())
    last.set_xticks(range(len(sets)), sets)
    last.set_xlim(-0.6, len(sets) - 0.4)
    last.grid(False, axis="x")
    last.set_title("share off the manifold", loc="left")
    keys = [Line2D([], [], color=colour, marker="o", markersize=4, markerfacecolor=_face(name, colour), label=words)
            for name, (colour, words) in families.items() if (family == name).any()]
    keys += [Line2D([], [], linestyle="", marker="o", color="#555555", label="ρ1, smallest noise (right)"),
             Line2D([], [], linestyle="", marker="s", color="#555555", label="ρ2, worst point (right)")]
    figure.legend(handles=keys, loc="outside lower center", ncols=5, frameon=False, fontsize=8.5)
    rising = table.assign(family=family).sort_values("sigma")
    smallest = rising.groupby(["family", "where", "kind", "seed"]).first().rho1
    said = []
    for name, (_, words) in families.items():
        if name in smallest.index.get_level_values(0):
            shares = smallest[name]
            small = shares.max() < 0.005
            said.append(f"{words} " + (f"at most {max(shares.max(), _LEAST):.0e}" if small else span(*shares)))
    return entitle(figure, f"Share of the sensitivity that is off the manifold: {', '.join(said)}",
                   "Left: the difference of two measures of that share against the noise, for each data set; right: "
                   "the share itself, of networks and of the Bayes classifier, on logarithmic axes.")


def _face(kind: str, colour: str) -> str:
    """Markers of networks trained with noise are hollow, so that grey print tells them apart."""
    return "white" if kind.startswith("noise") else colour


def step_controls(table, tangents: Sequence[str], sizes: Sequence[float], name: str = ""):
    """Other explanations of the two changes, for one sweep: a column for each regulariser, means over repetitions and
    their range. First row: steps along the image's own tangent space and steps off it, as controls also steps off it
    that lie along another image's space or have the Fourier spectrum of steps along it. Further rows: other kinds of
    tangent space at the same length, then other lengths.

    table: columns `kind`, `strength`, `seed`, `on`, `off`, optionally `other` and `matched`, and `on, <tangents>,
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
    if "matched" in table and table.matched.notna().any():
        others["matched"] = (MATCHED, "--", "off it, spectrum of steps along it")
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
    at = {kind: [mine for strength, mine in table[table.kind == kind].groupby("strength") if strength > 0]
          for kind in names}
    lower = [any(above(mean(mine[on]), mean(mine[off])) for mine in at[kind]) for kind in names for _, on, off in rows]
    keys = [Line2D([], [], color=ON, marker="o", markersize=5, label="change along the manifold"),
            Line2D([], [], color=OFF, marker="s", markersize=5, label="change off the manifold")]
    keys += [Line2D([], [], color=colour, linestyle=line, label=words) for colour, line, words in others.values()]
    figure.legend(handles=keys, loc="outside lower center", ncols=min(len(names), 2), frameon=False)
    title = f"{name}: changes by steps along and off the manifold, and by other steps"
    if any(lower):
        title = (f"{name}: at some strength, the change off the manifold is clearly the smaller one in {sum(lower)} of "
                 f"{len(lower)} panels")
    return entitle(figure, title, "Change of the output against the strength of the regulariser: a column for each "
                   "regulariser, a row for each kind of tangent space and length of steps.")


def log_ratios(sweeps: Mapping[str, object], tangents: Mapping[str, Sequence[str]],
               sizes: Mapping[str, Sequence[float]]):
    """The change by steps along the manifold over the change by steps off it, as a logarithm, against the strength of
    each regulariser: a row for each sweep, a column for each regulariser, means over repetitions and their range.
    Lines: equally long steps of each length, and steps off the manifold with the spectrum of steps along it (if the
    table has `matched`); a line at 0.

    sweeps: {name: columns `kind`, `strength`, `seed`, `on`, optionally `matched`, and `on, <tangents>, <size>` and
    `off, ...` for the first of its `tangents` and all of its `sizes`}. Raises SettingsError for missing columns and for
    no strength above 0.
    """
    import numpy as np
    from matplotlib.lines import Line2D

    style()
    names = {name: kinds(table) for name, table in sweeps.items()}
    need(any(names.values()), "strengths", "none above 0", "at least one above 0")
    figure, grid = _panels(len(names), max(map(len, names.values())), 2.9)
    above_zero, before, panels, drawn = 0, 0, 0, {}
    for row, (name, table) in zip(grid, sweeps.items(), strict=True):
        lines = {}
        for k, size in enumerate(sizes[name]):
            pair = [f"{side}, {tangents[name][0]}, {size:g}" for side in ("on", "off")]
            lines[f"length {size:g}"] = *pair, (ON, _OTHER, GREY)[min(k, 2)], "os^"[min(k, 2)]
        if "matched" in table and table.matched.notna().any():
            lines["off it with the same spectrum"] = "on", "matched", MATCHED, "D"
        check_columns(table, "kind", "strength", "seed", *(column for pair in lines.values() for column in pair[:2]))
        for axis in row[len(names[name]):]:
            axis.set_visible(False)
        for axis, kind in zip(row, names[name], strict=False):
            mine, places = placed(table, kind)
            for words, (over, under, colour, mark) in lines.items():
                ratio = np.log(mine[over].clip(lower=1e-9) / mine[under].clip(lower=1e-9))
                curve(axis, mine.assign(ratio=ratio), "place", "ratio", colour, marker=mark)
                drawn[words] = colour, mark
                if words.startswith("off"):
                    sure = {s: mean(part).low > 0 for s, part in ratio.groupby(mine.strength)}
                    panels += 1
                    above_zero += any(found for s, found in sure.items() if s > 0)
                    before += bool(sure.get(0))
            axis.axhline(0, color="#555555", linewidth=0.9)
            strength_axis(axis, places, kind)
            axis.tick_params(axis="y", labelsize=8)
            axis.set_title(f"{name}: {kind}", loc="left", fontsize=10)
        row[0].set_ylabel("log (change along / off)", fontsize=9)
    keys = [Line2D([], [], color=colour, marker=mark, markersize=5, label=words)
            for words, (colour, mark) in drawn.items()]
    figure.legend(handles=keys, loc="outside lower center", ncols=len(keys), frameon=False)
    title = "Changes by steps along the manifold against changes by steps off it, by the strength of regularisation"
    if above_zero:
        title = (f"Steps along the manifold change networks clearly more than steps off it of the same spectrum at "
                 f"some strength of {above_zero} of {panels} regularisers, without regularisation in {before}")
    return entitle(figure, title, "Logarithm of the ratio of the two changes against the strength of each regulariser, "
                   "for every length and for steps off the manifold with the spectrum of steps along it; a line at 0.")


_SPACES = {"inside": (ON, "o", "the image’s tangent space"), "inside, PCA": (_OTHER, "s", "principal components"),
           "inside, lowest frequencies": (MATCHED, "^", "lowest Fourier modes"),
           "inside, another image's": (OFF, "D", "another image’s tangent space")}


def shares_inside(sweeps: Mapping[str, object], untrained: Mapping[str, object] | None = None):
    """The share of the squared gradient inside the tangent space and inside other spaces of the same dimension, against
    the strength of each regulariser: a row for each sweep, a column for each regulariser, means over repetitions and
    their range.

    sweeps: {name: columns `kind`, `strength`, `seed`, `inside` and any of `inside, PCA`, `inside, lowest frequencies`
    and `inside, another image's`}. untrained: the same columns of untrained networks, whose `inside` is a faint line.
    Raises SettingsError for missing columns and for no strength above 0.
    """
    from matplotlib.lines import Line2D
    from matplotlib.ticker import PercentFormatter

    for name, table in sweeps.items():
        check_columns(table, "kind", "strength", "seed", "inside", what=f"table of {name}")
    style()
    names = {name: kinds(table) for name, table in sweeps.items()}
    need(any(names.values()), "strengths", "none above 0", "at least one above 0")
    figure, grid = _panels(len(names), max(map(len, names.values())), 2.9)
    drawn, grown, starts, best = {}, 0, [], []
    for row, (name, table) in zip(grid, sweeps.items(), strict=True):
        for axis in row[len(names[name]):]:
            axis.set_visible(False)
        for axis, kind in zip(row, names[name], strict=False):
            mine, places = placed(table, kind)
            for column, (colour, mark, words) in _SPACES.items():
                if column in mine and mine[column].notna().any():
                    curve(axis, mine, "place", column, colour, marker=mark, shade=column == "inside")
                    drawn[words] = colour, mark
            if untrained and name in untrained and len(untrained[name]):
                axis.axhline(untrained[name].inside.mean(), color=GREY, linewidth=0.9)
            found = {strength: mean(part.inside) for strength, part in mine.groupby("strength")}
            starts.append(found.get(0, mean([])))
            best.append(max((one for strength, one in found.items() if strength > 0), key=lambda one: one.value))
            grown += above(best[-1], starts[-1])
            strength_axis(axis, places, kind)
            axis.set_ylim(0, 1)
            axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
            axis.tick_params(axis="y", labelsize=8)
            axis.set_title(f"{name}: {kind}", loc="left", fontsize=10)
        row[0].set_ylabel("share of the squared gradient", fontsize=9)
    keys = [Line2D([], [], color=colour, marker=mark, markersize=5, label=words)
            for words, (colour, mark) in drawn.items()]
    if untrained:
        keys.append(Line2D([], [], color=GREY, linewidth=0.9, label="the image’s tangent space, untrained networks"))
    figure.legend(handles=keys, loc="outside lower center", ncols=2, frameon=False)
    title = "Shares of the gradient inside the tangent space and inside other spaces, by the strength of regularisation"
    if grown:
        title = (f"The share of the gradient in the tangent space grows from {percent(starts[0].value, digits=0)} to "
                 f"up to {percent(max(one.value for one in best), digits=0)} with {grown} of {len(best)} regularisers")
    return entitle(figure, title, "Share of the squared gradient inside the tangent space and inside other spaces of "
                   "the same dimension, against the strength of each regulariser; faint: untrained networks.")


def _panels(rows: int, columns: int, high: float):
    """A figure with rows (each `high` inches) for measures and columns for regularisers; narrow if there are few."""
    import matplotlib.pyplot as plt

    wide = {1: 4.4, 2: 7.0}.get(columns, WIDTH)
    return plt.subplots(rows, columns, squeeze=False, sharey="row", sharex="col", layout="constrained",
                        figsize=(wide, high * rows + (1.0 if columns > 1 else 1.6)))


_VARIANTS = (
    ("cosine of log-probability’s gradient", {
        "alignment": (ALIGNED, "D", "-", "own class score"),
        "shuffled pairs": (ALIGNED, None, ":", "another image’s score"),
        "white noise": (GREY, None, "--", "white noise"),
        "high-pass": ("#b07000", "v", "-", "negative high-pass")}),
    ("the paper’s pair", {
        "sum of logits": ("#0072b2", "o", "-", "summed logits and score"),
        "sum of logits, shuffled pairs": ("#0072b2", None, ":", "another image’s score"),
        "1 - LPIPS": ("#009e73", "s", "-", "the same: 1 − LPIPS"),
        "score, high-pass": ("#b07000", None, ":", "score and high-pass")}),
    ("share along the manifold", {
        "inside": (ON, "o", "-", "squared gradient")}),
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
    if not any({"high-pass", "sum of logits"} & there.keys() for _, there in rows):  # data in closed form
        exact = {"alignment": "own Bayes gradient", "shuffled pairs": "another point’s"}
        rows = [(words, {what: (*look[:3], exact.get(what, look[3])) for what, look in there.items()})
                for words, there in rows]
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
    last, places = placed(table, names[-1])
    right = max(places, key=places.get)
    for row, (_, variants) in zip(grid, rows, strict=True):
        means = last[last.strength == right]
        label_ends(row[-1], {words: (places[right], means[what].mean(), colour)
                             for what, (colour, _, _, words) in variants.items() if means[what].notna().any()})
    if untrained is not None and len(untrained):
        figure.legend(handles=[Line2D([], [], color="#555555", linewidth=0.8, alpha=0.6, label="untrained networks")],
                      loc="outside lower center", frameon=False)
    return entitle(figure, f"{name}: {_best(table, names)}" if name else _best(table, names),
                   "Measures of alignment against the strength of the regulariser, a column for each, next to "
                   "uninformed baselines: cosines with the class score (the Bayes gradient for data in closed form), "
                   "the paper's pair, and the share of the squared gradient along the manifold.")


def _best(table, names: Sequence[str]) -> str:
    """The largest mean alignment and whether it clearly exceeds the alignment without a regulariser."""
    found = {(kind, strength): mean(mine.alignment) for (kind, strength), mine in table.groupby(["kind", "strength"])}
    start = next((one for (_, strength), one in found.items() if strength == 0), mean([]))
    (kind, strength), best = max((item for item in found.items() if item[0][0] in names and item[0][1] > 0),
                                 key=lambda item: item[1].value)
    if not above(best, start):
        return "alignment of gradients, and its baselines, by the strength of regularisation"
    return (f"alignment rises from {span(start.value)} without a regulariser to "
            f"{span(best.value)} ({kind} {strength:g})")
