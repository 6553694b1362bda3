"""Figures of the notebook on off-manifold robustness: the theory in numbers, sensitivity and alignment over the
strengths of regularisers with the three regimes shaded, and their controls. Its pictures are in lib/plots/gradients.py.

Strengths are drawn on a logarithmic axis whose left edge is strength 0, behind a dotted line. Changes are those of the
class probabilities in total variation, from 0 to 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lib.errors import need, unknown
from lib.plan.off_manifold_robustness import NONE
from lib.plots.look import CLEAN, GREY, KINDS, check_columns, curve, style

WIDTH = 10.0  # inches: a notebook's
COLUMNS = 4  # panels beside each other
ON, OFF, ALIGNED = "#1b7f4f", "#c2185b", "#5b3fa0"
_PHASES, _OTHER = "#9a8a00", "#0072b2"
WEAK, BAYES_ALIGNED, EXCESSIVE = "weak", "Bayes-aligned", "excessive"
REGIMES = {WEAK: "#eaeef3", BAYES_ALIGNED: "#fdf0c4", EXCESSIVE: "#f5ddd8"}
FALL = 0.02  # of the accuracy, from the peak of alignment on: the excessive regime begins
FEWEST = 4  # strengths, 0 among them, that regimes are told apart in
STRENGTHS = {"gradient norm": "weight", "smoothness": "weight", "noise": "standard deviation",
             "PGD": "ε (l2, per image)"}
_LEAST = 1e-34  # zeros are drawn here on logarithmic axes


# --------------------------------------------------------------------------------------------------------- the regimes


def regimes(on: Sequence[float], off: Sequence[float], accuracy: Sequence[float], alignment: Sequence[float],
            dead: float = 0.01) -> list[str]:
    """The regime of each strength, 0 first, from the means over repetitions: `weak` before the off-manifold change is
    first below the other, `excessive` from the first strength past the peak of alignment whose accuracy is FALL below
    that of the peak, `Bayes-aligned` between them. The peak itself is always Bayes-aligned; it is looked for among the
    networks whose on-manifold change is `dead` or more, for the gradient of a constant says nothing.
    """
    count = len(alignment)
    alive = [k for k in range(count) if on[k] >= dead] or range(count)
    peak = max(alive, key=lambda k: alignment[k])
    flip = next((k for k in range(count) if off[k] < on[k]), count)
    end = next((k for k in range(peak + 1, count) if accuracy[k] < accuracy[peak] - FALL), count)
    return [WEAK if k < min(flip, peak) else BAYES_ALIGNED if k < end else EXCESSIVE for k in range(count)]


def _regimes(table, dead: float) -> dict[float, str]:
    """{strength: regime} of one regulariser's rows; empty where they have fewer than FEWEST strengths."""
    means = table.groupby("strength")[["on", "off", "accuracy", "alignment"]].mean().sort_index()
    if len(means) < FEWEST:
        return {}
    found = regimes(*(means[name].to_numpy() for name in ("on", "off", "accuracy", "alignment")), dead)
    return dict(zip(means.index, found, strict=True))


def representatives(table, dead: float = 0.01) -> dict[tuple[str, float], str]:
    """What to show of every regime: {(kind, strength): regime}, the weakest strength above 0 of the weak regime, the
    one of highest alignment of the Bayes-aligned regime, and the strongest of the excessive regime, both of them among
    those whose on-manifold change is `dead` or more as far as there are any. First of all stands (`none`, 0).

    table: rows `kind`, `strength`, `seed`, `on`, `off`, `accuracy`, `alignment`; kinds of fewer than FEWEST strengths
    are left out.
    """
    check_columns(table, "kind", "strength", "seed", "on", "off", "accuracy", "alignment")
    found = {(NONE, 0.0): ""}
    for kind, mine in table.groupby("kind", sort=False):
        means, named = mine.groupby("strength")[["on", "alignment"]].mean(), _regimes(mine, dead)
        none = named.pop(0.0, "")
        found[NONE, 0.0] = found[NONE, 0.0] or none
        of = {regime: [s for s, name in named.items() if name == regime] for regime in REGIMES}
        alive = {regime: [s for s in strengths if means.on[s] >= dead] or strengths for regime, strengths in of.items()}
        picked = {WEAK: of[WEAK][:1], EXCESSIVE: alive[EXCESSIVE][-1:],
                  BAYES_ALIGNED: sorted(alive[BAYES_ALIGNED], key=lambda s, of=means.alignment: -of[s])[:1]}
        found |= {(kind, float(s)): regime for regime in REGIMES for s in picked[regime]}
    return found


# ------------------------------------------------------------------------------------------------ strengths as an axis


def _places(strengths: Sequence[float]) -> dict[float, float]:
    """Where strengths lie on the axis: their decimal logarithms, and 0 a step before the first."""
    import numpy as np

    strengths = sorted({float(s) for s in strengths})
    above = [s for s in strengths if s > 0]
    logs = np.log10(above)
    step = float(np.clip(np.median(np.diff(logs)), 0.3, 1)) if len(logs) > 1 else 0.5
    places = dict(zip(above, logs.tolist(), strict=True))
    return ({0.0: places[above[0]] - step} if 0.0 in strengths else {}) | places


def _placed(table, kind: str):
    """The rows of a regulariser with their `place` on the axis, and where strengths lie on it."""
    mine = table[table.kind == kind]
    places = _places(mine.strength)
    return mine.assign(place=mine.strength.astype(float).map(places)), places


def _kinds(table) -> list[str]:
    """The regularisers that have a strength above 0 (others have diverged at all of them)."""
    return list(dict.fromkeys(table.kind[table.strength > 0]))


def _strength_axis(axis, places: dict[float, float], kind: str, label: bool = True) -> None:
    """Ticks at the strengths as far as their names fit, else at decades, and the break behind 0."""
    import numpy as np

    low, high = min(places.values()), max(places.values())
    pad = 0.06 * max(high - low, 0.5)
    axis.set_xlim(low - pad, high + pad)
    ticks, least = {}, 0.17 * (high - low)
    above = [s for s in places if s > 0]
    decades = [s for s in above if np.isclose(places[s] % 1, 0) or np.isclose(places[s] % 1, 1)]
    for strength in [s for s in (0.0, above[-1]) if s in places] + decades + above:
        if all(abs(places[strength] - places[other]) >= least for other in ticks):
            ticks[strength] = f"{strength:g}"
    axis.set_xticks([places[s] for s in ticks], list(ticks.values()) if label else [""] * len(ticks))
    axis.set_xticks(list(places.values()), minor=True)
    axis.tick_params(axis="x", which="both", labelsize=8, bottom=True, length=3)
    axis.grid(False, axis="x")
    if 0.0 in places:
        axis.axvline((places[0.0] + places[above[0]]) / 2, color="#999999", linewidth=0.8, linestyle=(0, (1, 2)))
    if label:
        axis.set_xlabel(STRENGTHS.get(kind, "strength"), fontsize=9)


def _shade(axis, places: dict[float, float], found: dict[float, str]) -> None:
    """The regimes as ground, with edges half-way between strengths."""
    at = [places[float(s)] for s in found]
    edges = [-1e3, *((a + b) / 2 for a, b in zip(at, at[1:], strict=False)), 1e3]
    for k, regime in enumerate(found.values()):
        axis.axvspan(edges[k], edges[k + 1], color=REGIMES[regime], linewidth=0, zorder=0)


def _rows(sweeps: Mapping[str, object]) -> list[list[tuple[str, str]]]:
    """(sweep, kind) of every panel: rows of at most COLUMNS, a sweep begins a new one where it does not fit."""
    rows: list[list[tuple[str, str]]] = []
    for name, table in sweeps.items():
        panels = [(name, kind) for kind in _kinds(table)]
        if not rows or len(rows[-1]) + len(panels) > COLUMNS:
            rows += [panels[k:k + COLUMNS] for k in range(0, len(panels), COLUMNS)]
        else:
            rows[-1] += panels
    return rows


# -------------------------------------------------------------------------------------------------------------- figures


def off_manifold_theory(table, bounds: Mapping[str, float] | None = None):
    """Left, a panel for each set: |rho1 - rho2| against the standard deviation of the noise, every repetition a line,
    and a dotted line of slope 2. Right: the share of the sensitivity that is off the manifold, rho1 at the smallest
    noise and the worst point's rho2, of networks and of the Bayes classifier, every repetition a mark.

    table: rows `where`, `kind` (`Bayes` for the Bayes classifier), `seed`, `sigma`, `rho1`, `rho2`, `worst rho2`.
    bounds: {`rho1` or `worst rho2`: bound}, drawn on the right. Numbers below 1e-34 are drawn there.
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


def regime_curves(sweeps: Mapping[str, object], guessing: Mapping[str, float] | None = None,
                  published: Mapping[str, object] | None = None, dead: float = 0.01):
    """Sensitivity, accuracy and alignment over the strength of each regulariser, a column for each, with the three
    regimes as ground (see `regimes`). Above: the change by steps along the manifold and off it, and by steps off it of
    new Fourier phases (where the table has `phases`). Below: accuracy, and on an axis of its own at the right alignment
    with that of shuffled pairs. Lines are means over repetitions, bands their range; alignment is hollow where a
    network hardly changes along the manifold.

    sweeps: {name: rows `kind` (a regulariser), `strength` (0 without any), `seed`, `on`, `off`, `accuracy`,
    `alignment`, `shuffled pairs`, perhaps `phases`}. guessing: {name: accuracy of guessing}. published: {name: rows
    `kind`, `per image` (a strength), `on`, `off`, `accuracy`}: the accuracy faint and dashed, and a line where the two
    changes cross; their size is not drawn, for they are in another norm. dead: the on-manifold change below which
    gradients mean little.
    """
    import matplotlib.pyplot as plt
    import numpy as np

    need(len(sweeps) > 0, "sweeps", "empty", "a table or more, by name")
    names = ("kind", "strength", "seed", "on", "off", "accuracy", "alignment", "shuffled pairs")
    for name, table in sweeps.items():
        check_columns(table, *names, what=f"table of {name}")
    for name, table in (published or {}).items():
        check_columns(table, "kind", "per image", "on", "off", "accuracy", what=f"published curves of {name}")
    style()
    rows = _rows(sweeps)
    need(any(rows), "sweeps", list(sweeps), "of one strength above 0 or more")
    most = max(len(row) for row in rows)
    figure, grid = plt.subplots(2 * len(rows), most, squeeze=False, height_ratios=[1, 1.1] * len(rows),
                                figsize=(WIDTH if most > 2 else 3.6 * most + 1, 5.0 * len(rows) + 0.8),
                                layout="constrained")
    for axis in grid.flat:
        axis.set_visible(False)
    drawn = set()
    for number, row in enumerate(rows):
        for column, (name, kind) in enumerate(row):
            above, below = grid[2 * number:2 * number + 2, column]
            table = sweeps[name]
            mine, places = _placed(table, kind)
            found = _regimes(mine, dead)
            drawn |= {*found.values()}
            for axis in (above, below):
                axis.set_visible(True)
                _shade(axis, places, found)
                _strength_axis(axis, places, kind, label=axis is below)
            curve(above, mine, "place", "off", OFF, marker="s")
            curve(above, mine, "place", "on", ON, marker="o")
            if "phases" in mine and mine.phases.notna().any():
                curve(above, mine, "place", "phases", _PHASES, line="--", shade=False)
                drawn.add("phases")
            curve(below, mine, "place", "accuracy", CLEAN, marker="o")
            beside = below.twinx()
            curve(beside, mine, "place", "shuffled pairs", ALIGNED, line=":", shade=False)
            curve(beside, mine, "place", "alignment", ALIGNED, marker="D")
            means = mine.groupby("place")[["on", "alignment"]].mean()
            hollow = means[means.on < dead]
            if len(hollow):
                beside.plot(hollow.index, hollow.alignment, "D", color=ALIGNED, markerfacecolor="white", markersize=5,
                            zorder=5)
                drawn.add("hollow")
            if name in (guessing or {}):
                below.axhline(guessing[name], color=GREY, linewidth=0.9, linestyle=(0, (1, 2)))
                drawn.add("guessing")
            if name in (published or {}):
                theirs = published[name]
                drawn |= _published(above, below, theirs[theirs.kind == kind].sort_values("per image"), places)
            shown = [c for c in ("on", "off", "phases") if c in table]
            above.set_ylim(0, 1.08 * max(1e-3, float(np.nanmax(table[shown].to_numpy(float)))))
            cosines = table[["alignment", "shuffled pairs"]].to_numpy(float)
            lowest, highest = min(0.0, float(np.nanmin(cosines))), max(0.1, float(np.nanmax(cosines)))
            below.set_ylim(-0.02, 1.02)
            beside.set_ylim(lowest - 0.03 * (highest - lowest), highest + 0.06 * (highest - lowest))
            above.set_title(f"{name}: {kind}", loc="left", fontsize=10)
            first = column == 0 or row[column - 1][0] != name
            last = column == len(row) - 1 or row[column + 1][0] != name
            for axis in (above, below):
                axis.tick_params(axis="y", labelleft=first, labelsize=8, left=False)
            beside.grid(False)
            beside.tick_params(axis="y", labelright=last, labelsize=8, labelcolor=ALIGNED, length=0)
            if last:
                beside.set_ylabel("alignment", color=ALIGNED, fontsize=9)
        grid[2 * number, 0].set_ylabel("change")
        grid[2 * number + 1, 0].set_ylabel("accuracy")
    figure.legend(handles=_regime_keys(drawn), loc="outside lower center", ncols=3 if most > 2 else 2, frameon=False)
    return figure


def _published(above, below, theirs, places: dict[float, float]) -> set[str]:
    """The paper's accuracy, and where its curves cross, as far as the axis goes; what was drawn, for the legend."""
    import numpy as np

    drawn, left = set(), min(p for s, p in places.items() if s > 0)
    if not len(theirs):
        return drawn
    at = np.log10(theirs["per image"].to_numpy(float))
    near = (at >= left - 0.15) & (at <= max(places.values()) + 0.15)
    if near.any():
        below.plot(at[near], theirs.accuracy.to_numpy()[near], linestyle=(0, (4, 2)), marker="o", markersize=3,
                   color=CLEAN, alpha=0.45, linewidth=1.2)
        drawn.add("published")
    gap = (theirs.off - theirs.on).to_numpy(float)
    for k in range(len(gap) - 1):
        if gap[k] > 0 >= gap[k + 1]:
            crossing = at[k] + (at[k + 1] - at[k]) * gap[k] / (gap[k] - gap[k + 1])
            if left <= crossing <= max(places.values()):
                above.axvline(crossing, color="#555555", linewidth=1, linestyle=(0, (4, 2)), alpha=0.7)
                drawn.add("crossing")
            break
    return drawn


def _regime_keys(drawn: set[str]) -> list:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    keys = [Line2D([], [], color=ON, marker="o", markersize=5, label="change along the manifold"),
            Line2D([], [], color=OFF, marker="s", markersize=5, label="change off the manifold")]
    if "phases" in drawn:
        keys.append(Line2D([], [], color=_PHASES, linestyle="--", label="new phases, off the manifold"))
    keys += [Line2D([], [], color=CLEAN, marker="o", markersize=5, label="accuracy"),
             Line2D([], [], color=ALIGNED, marker="D", markersize=5, label="alignment (cosine, right axis)"),
             Line2D([], [], color=ALIGNED, linestyle=":", label="alignment with another image’s score")]
    if "hollow" in drawn:
        keys.append(Line2D([], [], color=ALIGNED, marker="D", markersize=5, linestyle="", markerfacecolor="white",
                           label="hardly any change along the manifold"))
    if "guessing" in drawn:
        keys.append(Line2D([], [], color=GREY, linewidth=0.9, linestyle=(0, (1, 2)), label="accuracy of guessing"))
    if "published" in drawn:
        keys.append(Line2D([], [], color=CLEAN, alpha=0.45, linestyle=(0, (4, 2)), marker="o", markersize=3,
                           label="the paper’s accuracy"))
    if "crossing" in drawn:
        keys.append(Line2D([], [], color="#555555", alpha=0.7, linestyle=(0, (4, 2)), linewidth=1,
                           label="the paper’s two changes cross"))
    return keys + [Patch(color=colour, label=f"{name} regime") for name, colour in REGIMES.items() if name in drawn]


def step_controls(table, tangents: Sequence[str], sizes: Sequence[float], name: str = ""):
    """What else could explain the two changes, for one sweep: a column for each regulariser, the mean over repetitions
    and their range. First row: steps along the image's own tangent space and off it; off it too, but along another
    image's, or of new Fourier phases. Further rows: other kinds of tangent space at the same length, then
    other lengths.

    table: rows `kind`, `strength`, `seed`, `on`, `off`, perhaps `other` and `phases`, and `on, <tangents>, <size>` and
    `off, ...` of all `tangents` and `sizes`, the first of each for `on` and `off`. name: of the sweep, for the titles.
    """
    from matplotlib.lines import Line2D

    extra = [(space, sizes[0]) for space in tangents[1:]] + [(tangents[0], size) for size in sizes[1:]]
    needed = [f"{side}, {space}, {size:g}" for space, size in extra for side in ("on", "off")]
    check_columns(table, "kind", "strength", "seed", "on", "off", *needed)
    style()
    kinds = _kinds(table)
    need(len(kinds) > 0, "strengths", "none above 0", "one or more above 0")
    rows = [(f"{tangents[0]},\nlength {sizes[0]:g}", "on", "off")]
    rows += [(f"{space},\nlength {size:g}", f"on, {space}, {size:g}", f"off, {space}, {size:g}")
             for space, size in extra]
    others = {}
    if "other" in table and table.other.notna().any():
        others["other"] = (_OTHER, ":", "off it, along another image’s tangent space")
    if "phases" in table and table.phases.notna().any():
        others["phases"] = (_PHASES, "--", "off it, new Fourier phases")
    figure, grid = _panels(len(rows), len(kinds), 1.9)
    for column, kind in enumerate(kinds):
        mine, places = _placed(table, kind)
        for number, (words, on, off) in enumerate(rows):
            axis = grid[number, column]
            curve(axis, mine, "place", off, OFF, marker="s")
            curve(axis, mine, "place", on, ON, marker="o")
            for column_of, (colour, line, _) in others.items() if number == 0 else ():
                curve(axis, mine, "place", column_of, colour, line=line, shade=False)
            _strength_axis(axis, places, kind, label=number == len(rows) - 1)
            axis.tick_params(axis="y", labelsize=8)
            if column == 0:
                axis.set_ylabel(words, fontsize=9)
        grid[0, column].set_title(f"{name}: {kind}" if name else kind, loc="left", fontsize=10)
    for row in grid:
        row[0].set_ylim(0, None)
    keys = [Line2D([], [], color=ON, marker="o", markersize=5, label="change along the manifold"),
            Line2D([], [], color=OFF, marker="s", markersize=5, label="change off the manifold")]
    keys += [Line2D([], [], color=colour, linestyle=line, label=words) for colour, line, words in others.values()]
    figure.legend(handles=keys, loc="outside lower center", ncols=min(len(kinds), 2), frameon=False)
    return figure


def _panels(rows: int, columns: int, high: float):
    """A figure of rows (each `high` inches) of one measure and columns of one regulariser, narrow for few columns."""
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
    """Every measure of alignment of one sweep with what aligns as well without knowing anything; a column for each
    regulariser, the mean over repetitions and their range. Rows: cosines of the log-probability's gradient; the paper's
    pair, summed logits and score; the share of the gradient along the manifold. What the table lacks is left out.

    table: rows `kind`, `strength`, `seed`, `alignment` and any of `shuffled pairs`, `white noise`, `high-pass`, `sum of
    logits`, `1 - LPIPS`, `score, high-pass`, `inside`. untrained: rows of untrained networks, with the same columns:
    faint horizontal lines. name: of the sweep, for the titles.
    """
    from matplotlib.lines import Line2D

    check_columns(table, "kind", "strength", "seed", "alignment")
    rows = []
    for words, variants in _VARIANTS:
        there = {what: look for what, look in variants.items() if what in table and table[what].notna().any()}
        rows += [(words, there)] if there else []
    style()
    kinds = _kinds(table)
    need(len(kinds) > 0, "strengths", "none above 0", "one or more above 0")
    figure, grid = _panels(len(rows), len(kinds), 2.5)
    for column, kind in enumerate(kinds):
        mine, places = _placed(table, kind)
        for number, (words, variants) in enumerate(rows):
            axis = grid[number, column]
            for what, (colour, mark, line, _) in variants.items():
                curve(axis, mine, "place", what, colour, line=line, marker=mark, shade=mark is not None)
                if untrained is not None and mark and what in untrained:
                    axis.axhline(untrained[what].mean(), color=colour, linewidth=0.8, alpha=0.5)
            _strength_axis(axis, places, kind, label=number == len(rows) - 1)
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
    figure.legend(handles=keys, loc="outside lower center", ncols=min(len(kinds), 2), frameon=False)
    return figure
