"""The three regimes of regularisation (off-manifold robustness): which strength belongs to which regime, a network to
show of each, and the figure of sensitivity, accuracy and alignment against strength, with the regimes as background.

A change is the total variation between class probabilities, from 0 to 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lib.errors import need
from lib.papers.off_manifold_robustness.networks import NONE
from lib.papers.off_manifold_robustness.strength_axis import ALIGNED, MATCHED, OFF, ON, kinds, placed, strength_axis
from lib.plots.style import CLEAN, GREY, WIDTH, check_columns, curve, style
from lib.plots.titles import above, entitle, mean

COLUMNS = 4  # panels in a row
WEAK, BAYES_ALIGNED, EXCESSIVE = "weak", "Bayes-aligned", "excessive"
REGIMES = {WEAK: "#eaeef3", BAYES_ALIGNED: "#fdf0c4", EXCESSIVE: "#f5ddd8"}
FALL = 0.02  # the excessive regime begins when accuracy is this much below its value at the peak of alignment
FEWEST = 4  # the smallest number of strengths, including 0, for which regimes are determined


def regimes(on: Sequence[float], off: Sequence[float], accuracy: Sequence[float], alignment: Sequence[float],
            dead: float = 0.01) -> list[str]:
    """The regime of each strength, 0 first, from means over repetitions.

    `weak`: before the off-manifold change first falls below the on-manifold change. `excessive`: from the first
    strength past the peak of alignment at which accuracy is FALL below its value at the peak. `Bayes-aligned`: between
    the two, and always at the peak. The peak is sought among networks whose on-manifold change is at least `dead`,
    because the gradient of a constant has no meaning.
    """
    count = len(alignment)
    alive = [k for k in range(count) if on[k] >= dead] or range(count)
    peak = max(alive, key=lambda k: alignment[k])
    flip = next((k for k in range(count) if off[k] < on[k]), count)
    end = next((k for k in range(peak + 1, count) if accuracy[k] < accuracy[peak] - FALL), count)
    return [WEAK if k < min(flip, peak) else BAYES_ALIGNED if k < end else EXCESSIVE for k in range(count)]


def _regimes(table, dead: float) -> dict[float, str]:
    """{strength: regime} of one regulariser's rows; empty if they have fewer than FEWEST strengths."""
    means = table.groupby("strength")[["on", "off", "accuracy", "alignment"]].mean().sort_index()
    if len(means) < FEWEST:
        return {}
    found = regimes(*(means[name].to_numpy() for name in ("on", "off", "accuracy", "alignment")), dead)
    return dict(zip(means.index, found, strict=True))


def representatives(table, dead: float = 0.01) -> dict[tuple[str, float], str]:
    """The networks that show each regime: {(kind, strength): regime}, with (`none`, 0) first. The weak regime is shown
    by its weakest strength above 0, the Bayes-aligned regime by its best aligned strength, the excessive regime by its
    strongest. The last two are chosen among strengths whose on-manifold change is at least `dead`, if there are any.

    table: columns `kind`, `strength`, `seed`, `on`, `off`, `accuracy` and `alignment`; kinds with fewer than FEWEST
    strengths are left out.
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


def _shade(axis, places: dict[float, float], found: dict[float, str]) -> None:
    """Shade the background by regime, with edges halfway between strengths."""
    at = [places[float(s)] for s in found]
    edges = [-1e3, *((a + b) / 2 for a, b in zip(at, at[1:], strict=False)), 1e3]
    for k, regime in enumerate(found.values()):
        axis.axvspan(edges[k], edges[k + 1], color=REGIMES[regime], linewidth=0, zorder=0)


def _rows(sweeps: Mapping[str, object]) -> list[list[tuple[str, str]]]:
    """(sweep, kind) of every panel, in rows of at most COLUMNS; a sweep that does not fit begins a new row."""
    rows: list[list[tuple[str, str]]] = []
    for name, table in sweeps.items():
        panels = [(name, kind) for kind in kinds(table)]
        if not rows or len(rows[-1]) + len(panels) > COLUMNS:
            rows += [panels[k:k + COLUMNS] for k in range(0, len(panels), COLUMNS)]
        else:
            rows[-1] += panels
    return rows


def regime_curves(sweeps: Mapping[str, object], guessing: Mapping[str, float] | None = None,
                  published: Mapping[str, object] | None = None, dead: float = 0.01):
    """Sensitivity, accuracy and alignment against the strength of each regulariser, a column for each, with the three
    regimes as background (see `regimes`). Above: the change by steps along the manifold and off it, and by steps off it
    with the spectrum of steps along it (if the table has `matched`). Then accuracy; below alignment and the alignment
    of shuffled pairs. Lines are means over repetitions, bands their range. Markers of alignment are hollow if a network
    hardly changes along the manifold.

    sweeps: {name: columns `kind` (a regulariser), `strength` (0 for none), `seed`, `on`, `off`, `accuracy`,
    `alignment`, `shuffled pairs`, optionally `matched`}. guessing: {name: accuracy of guessing}. published: {name:
    columns `kind`, `per image` (a strength), `on`, `off`, `accuracy`}, drawn as faint dashed accuracy and a line at the
    strength where the two changes cross; the changes themselves are not drawn, because they are in another norm. dead:
    the on-manifold change below which gradients mean little. Raises SettingsError for missing columns and for no
    strength above 0.
    """
    import matplotlib.pyplot as plt
    import numpy as np
    from matplotlib.legend_handler import HandlerTuple
    from matplotlib.ticker import PercentFormatter

    need(len(sweeps) > 0, "sweeps", "empty", "at least one table, by name")
    names = ("kind", "strength", "seed", "on", "off", "accuracy", "alignment", "shuffled pairs")
    for name, table in sweeps.items():
        check_columns(table, *names, what=f"table of {name}")
    for name, table in (published or {}).items():
        check_columns(table, "kind", "per image", "on", "off", "accuracy", what=f"published curves of {name}")
    style()
    rows = _rows(sweeps)
    need(any(rows), "sweeps", list(sweeps), "tables with at least one strength above 0")
    most = max(len(row) for row in rows)
    figure, grid = plt.subplots(3 * len(rows), most, squeeze=False, layout="constrained",
                                figsize=(WIDTH if most > 2 else 3.6 * most + 1, 5.6 * len(rows) + 1.2))
    for axis in grid.flat:
        axis.set_visible(False)
    drawn = set()
    for number, row in enumerate(rows):
        for column, (name, kind) in enumerate(row):
            changes, accuracies, alignments = grid[3 * number:3 * number + 3, column]
            table = sweeps[name]
            mine, places = placed(table, kind)
            found = _regimes(mine, dead)
            drawn |= {*found.values()}
            for axis in (changes, accuracies, alignments):
                axis.set_visible(True)
                _shade(axis, places, found)
                strength_axis(axis, places, kind, label=axis is alignments)
            curve(changes, mine, "place", "off", OFF, marker="s")
            curve(changes, mine, "place", "on", ON, marker="o")
            if "matched" in mine and mine.matched.notna().any():
                curve(changes, mine, "place", "matched", MATCHED, line="--", shade=False)
                drawn.add("matched")
            curve(accuracies, mine, "place", "accuracy", CLEAN, marker="o")
            curve(alignments, mine, "place", "shuffled pairs", ALIGNED, line=":", shade=False)
            curve(alignments, mine, "place", "alignment", ALIGNED, marker="D")
            means = mine.groupby("place")[["on", "alignment"]].mean()
            hollow = means[means.on < dead]
            if len(hollow):
                alignments.plot(hollow.index, hollow.alignment, "D", color=ALIGNED, markerfacecolor="white",
                                markersize=5, zorder=5)
                drawn.add("hollow")
            if name in (guessing or {}):
                accuracies.axhline(guessing[name], color=GREY, linestyle=":")
            if name in (published or {}):
                theirs = published[name]
                theirs = theirs[theirs.kind == kind].sort_values("per image")
                drawn |= _published(changes, accuracies, theirs, places)
            shown = [c for c in ("on", "off", "matched") if c in table]
            changes.set_ylim(0, 1.08 * max(1e-3, float(np.nanmax(table[shown].to_numpy(float)))))
            cosines = table[["alignment", "shuffled pairs"]].to_numpy(float)
            lowest, highest = min(0.0, float(np.nanmin(cosines))), max(0.1, float(np.nanmax(cosines)))
            accuracies.set_ylim(-0.02, 1.02)
            accuracies.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
            alignments.set_ylim(lowest - 0.03 * (highest - lowest), highest + 0.06 * (highest - lowest))
            changes.set_title(f"{name}: {kind}", loc="left", fontsize=10)
            first = column == 0 or row[column - 1][0] != name
            for axis in (changes, accuracies, alignments):
                axis.tick_params(axis="y", labelleft=first, labelsize=8, left=False)
        for axis, words in zip(grid[3 * number:3 * number + 3, 0], ("change", "accuracy", "alignment (cosine)"),
                               strict=True):
            axis.set_ylabel(words, fontsize=9)
    keys = _regime_keys(drawn)
    figure.legend(keys.values(), keys, loc="outside lower center", ncols=3 if most > 2 else 1, frameon=False,
                  handler_map={tuple: HandlerTuple(ndivide=None)}, handlelength=3, title_fontsize=9,
                  title="hollow diamonds: networks that hardly change along the manifold" if "hollow" in drawn else "")
    return entitle(figure, _flips(sweeps), "For each data set and regulariser, against its strength: change of the "
                   "output by steps along and off the manifold, accuracy, alignment of gradients with the score.")


def _flips(sweeps: Mapping[str, object]) -> str:
    """In which sweeps the change off the manifold is clearly above the one along it without a regulariser, and with how
    many regularisers it falls clearly below.
    """
    said = []
    for name, table in sweeps.items():
        falls, starts = [], []
        for kind in kinds(table):
            found = {strength: (mean(mine.on), mean(mine.off))
                     for strength, mine in table[table.kind == kind].groupby("strength")}
            starts.append(0 in found and above(*found[0][::-1]))
            falls.append(any(above(on, off) for strength, (on, off) in found.items() if strength > 0))
        if all(starts) and any(falls):
            said.append(f"{name}: {sum(falls)} of {len(falls)} regularisers")
    if not said:
        return "Sensitivity, accuracy and alignment by the strength of regularisation"
    return ("Without a regulariser, networks change more off the manifold than along it; regularisation turns this "
            f"order ({'; '.join(said)})")


def _published(changes, accuracies, theirs, places: dict[float, float]) -> set[str]:
    """Draw the paper's accuracy, and where its two changes cross, within the axis; returns what was drawn."""
    import numpy as np

    drawn, left = set(), min(p for s, p in places.items() if s > 0)
    if not len(theirs):
        return drawn
    at = np.log10(theirs["per image"].to_numpy(float))
    near = (at >= left - 0.15) & (at <= max(places.values()) + 0.15)
    if near.any():
        accuracies.plot(at[near], theirs.accuracy.to_numpy()[near], linestyle=(0, (4, 2)), marker="o", markersize=3,
                        color=CLEAN, alpha=0.6, linewidth=1.2)
        drawn.add("published")
    gap = (theirs.off - theirs.on).to_numpy(float)
    for k in range(len(gap) - 1):
        if gap[k] > 0 >= gap[k + 1]:
            crossing = at[k] + (at[k + 1] - at[k]) * gap[k] / (gap[k] - gap[k + 1])
            if left <= crossing <= max(places.values()):
                changes.axvline(crossing, color="#555555", linewidth=1, linestyle=(0, (4, 2)), alpha=0.7)
                drawn.add("published")
            break
    return drawn


def _regime_keys(drawn: set[str]) -> dict:
    """{label: handle or tuple of handles} of the legend."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    keys = {"change along the manifold": Line2D([], [], color=ON, marker="o", markersize=5),
            "change off the manifold": Line2D([], [], color=OFF, marker="s", markersize=5)}
    if "matched" in drawn:
        keys["off it, same spectrum"] = Line2D([], [], color=MATCHED, linestyle="--")
    keys["accuracy of guessing; another image’s score"] = Line2D([], [], color=GREY, linestyle=":")
    if "published" in drawn:
        keys["paper, ResNet-18: accuracy; changes cross"] = Line2D([], [], color=GREY, linestyle=(0, (4, 2)))
    names = [name for name in REGIMES if name in drawn]
    if names:
        keys[f"regime: {', '.join(names)}"] = tuple(Patch(color=REGIMES[name]) for name in names)
    return keys
