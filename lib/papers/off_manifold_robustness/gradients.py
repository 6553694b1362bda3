"""Further figures of the notebook on off-manifold robustness: gradients as pictures next to images and scores, and
networks on digits with a letter (the distractor).
"""

from __future__ import annotations

from collections.abc import Mapping

from lib.errors import need, unknown
from lib.papers.off_manifold_robustness.networks import PER_BATCH, PER_IMAGE, STANDARD, UNTRAINED
from lib.papers.off_manifold_robustness.regimes import REGIMES
from lib.plots.common import as_picture, show_picture, signed
from lib.plots.style import CLEAN, GREY, ROBUST, WIDTH, check_columns, style
from lib.plots.titles import above, entitle, mean, percent, span

LETTERS = {UNTRAINED: (GREY, "^"), STANDARD: (CLEAN, "o"), PER_IMAGE: (ROBUST, "s"), PER_BATCH: ("#e08a00", "D")}


def gradient_grid(pictures, shown: Mapping[tuple[str, float], str], wide: int = 9):
    """Images, scores and gradients of one sweep, one row per image: the image, the score of the density and of the
    image's class, and gradients of networks by kind and strength, with the regime as the colour behind their title.
    Gradients and scores are drawn by `common.signed`; below each gradient is its cosine with the class score.

    pictures: `images`, `score` (or None) and `class_score`, each [n, C, H, W], and `gradients` {(kind, strength): [n,
    C, H, W]} (lib.papers.off_manifold_robustness.results.Pictures). shown: {(kind, strength): regime} in the order of
    the columns (`representatives`); entries without a gradient are left out. wide: the number of columns; further ones
    follow below, with the images repeated. Raises SettingsError if no gradient is left.
    """
    import matplotlib.pyplot as plt
    import numpy as np
    from matplotlib.patches import Patch

    ahead = [("image", [as_picture(x) for x in pictures.images])]
    ahead += [("score", [signed(x) for x in pictures.score])] if pictures.score is not None else []
    ahead += [("class\nscore", [signed(x) for x in pictures.class_score])]
    drawn = {name: regime for name, regime in shown.items() if name in pictures.gradients}
    need(len(drawn) > 0, "shown", list(shown), f"of the gradients that are there: {list(pictures.gradients)}")
    room, parts = wide - len(ahead), [[]]
    for kind in dict.fromkeys(kind for kind, _ in drawn):  # keep the columns of a kind together if they fit
        mine = [name for name in drawn if name[0] == kind]
        if parts[-1] and len(parts[-1]) + len(mine) > room:
            parts.append([])
        parts[-1] += mine
    style()
    count, columns = len(pictures.images), len(ahead) + max(map(len, parts))
    high = (WIDTH / columns + 0.13) * count * len(parts) + 0.75 * len(parts) + 0.8
    spaced = ([1.0] * count + [0.15]) * len(parts)  # a gap below each block, so that no heading touches a number
    figure, grid = plt.subplots(len(spaced) - 1, columns, squeeze=False, figsize=(WIDTH, high), layout="constrained",
                                height_ratios=spaced[:-1])
    figure.get_layout_engine().set(wspace=0.02, hspace=0.01, w_pad=0.01, h_pad=0.01)
    for axis in grid.flat:
        axis.set_axis_off()
    cosines: dict[tuple[str, float], list[float]] = {}
    for block, names in enumerate(parts):
        for row in range(count):
            axes = grid[block * (count + 1) + row]
            for axis, (title, column) in zip(axes, ahead, strict=False):
                axis.set_axis_on()
                show_picture(axis, column[row])
                if row == 0:
                    axis.set_title(title, fontsize=9)
            for axis, name in zip(axes[len(ahead):], names, strict=False):
                gradient, ideal = pictures.gradients[name][row], pictures.class_score[row]
                lengths = float(np.linalg.norm(gradient) * np.linalg.norm(ideal))
                axis.set_axis_on()
                show_picture(axis, signed(gradient))
                cosine = round(float((gradient * ideal).sum()) / lengths, 2) + 0.0 if lengths else 0.0
                cosines.setdefault(name, []).append(cosine)
                axis.set_xlabel(f"{cosine:.2f}".replace("-", "−"), fontsize=8, labelpad=1)
                if row == 0:
                    kind, strength = name
                    box = {"facecolor": REGIMES.get(drawn[name], "white"), "edgecolor": "none", "pad": 1.5}
                    axis.set_title(f"{kind}\n{strength:g}" if strength else "no\nregulariser", fontsize=9, bbox=box)
    keys = [Patch(color=colour, label=f"{name} regime") for name, colour in REGIMES.items() if name in drawn.values()]
    figure.legend(handles=keys, loc="outside lower center", ncols=3, frameon=False, title_fontsize=9,
                  title="numbers: cosine of the gradient with the class score; headings: regulariser and its strength")
    means = {name: float(np.mean(found)) for name, found in cosines.items()}
    best = max(means, key=means.get)
    start = [f"{span(value)} without a regulariser" for (_, strength), value in means.items() if not strength]
    return entitle(figure, "Cosine of gradients with the class score, mean of the images shown: "
                   f"{', '.join([*start, f'at most {span(means[best])}'])} ({best[0]} {best[1]:g})",
                   "A row for each image: the image, the scores, and gradients of networks of the three regimes.")


# ------------------------------------------------------------------------------------------------------- the distractor


def _letter_kinds(table) -> dict[str, tuple[str, str]]:
    for kind in table.kind.unique():
        if kind not in LETTERS:
            raise unknown("kind of network", kind, LETTERS)
    return {kind: look for kind, look in LETTERS.items() if kind in set(table.kind)}


def _set_name(where: str) -> str:
    """The name of a data set with a letter, in words."""
    return where.replace("_letters", ", random letters").replace("_letter_a", ", letter A")


def distractor_ratio(table):
    """The change by noise on the digit divided by the change by noise on the letter, against the noise's standard
    deviation, both logarithmic: a panel for each data set (and a row for each `position` of the digit, if the table has
    that column), geometric means over repetitions and their range, and a line at 1. Noise levels at which a repetition
    does not count are left out of the lines and drawn as faint points.

    table: columns `where`, `kind` (of lib.papers.off_manifold_robustness.networks), `seed`, `noise`, `log ratio` and
    `counts`. Raises SettingsError for missing columns and unknown kinds.
    """
    import matplotlib.pyplot as plt
    import numpy as np
    from matplotlib.lines import Line2D
    from matplotlib.ticker import LogLocator, NullFormatter, NullLocator

    check_columns(table, "where", "kind", "seed", "noise", "log ratio", "counts")
    looks = _letter_kinds(table)
    table = table if "position" in table else table.assign(position="")
    style()
    sets, positions = (list(dict.fromkeys(table[name])) for name in ("where", "position"))
    figure, grid = plt.subplots(len(positions), len(sets), squeeze=False, sharex=True, sharey=True,
                                figsize=(WIDTH if len(sets) > 1 else 6.4, 3.0 * len(positions) + 1.1),
                                layout="constrained")
    for row, position in zip(grid, positions, strict=True):
        for axis, where in zip(row, sets, strict=True):
            for kind, (colour, mark) in looks.items():
                mine = table[(table.position == position) & (table["where"] == where) & (table.kind == kind)]
                wide = mine.pivot(index="seed", columns="noise", values="log ratio")
                whole = mine.pivot(index="seed", columns="noise", values="counts").astype(bool).all()
                kept = wide.loc[:, whole].reindex(columns=wide.columns)
                axis.fill_between(wide.columns, np.exp(kept.min()), np.exp(kept.max()), color=colour, alpha=0.15,
                                  linewidth=0)
                axis.plot(wide.columns, np.exp(kept.mean()), "-", marker=mark, markersize=5, color=colour)
                faint = wide.loc[:, ~whole]
                if faint.size:
                    axis.plot(faint.columns, np.exp(faint.mean()), mark, markersize=4, color=colour, alpha=0.25)
            axis.axhline(1, color="#555555", linewidth=0.9)
            axis.set_xscale("log")
            axis.set_yscale("log")
            axis.set_title(", ".join(filter(None, (_set_name(where), position))), loc="left", fontsize=10)
        row[0].set_ylabel("change by noise on the digit\n/ change by noise on the letter", fontsize=9)
    levels = sorted(table.noise.unique())
    grid[0, 0].set_xticks(levels if len(levels) <= 10 else levels[::2])
    for axis in grid.flat:
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.xaxis.set_minor_locator(NullLocator())
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.yaxis.set_minor_formatter(NullFormatter())
    for axis in grid[-1]:
        axis.set_xlabel("standard deviation of the noise")
    keys = [Line2D([], [], color=colour, marker=mark, markersize=5, label=kind)
            for kind, (colour, mark) in looks.items()]
    if not table.counts.all():
        keys.append(Line2D([], [], linestyle="", color="#333333", marker="o", markersize=4, alpha=0.3,
                           label="hardly any change: not counted"))
    figure.legend(handles=keys, loc="outside lower center", ncols=3 if len(keys) > 4 else 4, frameon=False)
    counted = table[table.counts.astype(bool)].groupby(["kind", "seed"])["log ratio"].mean()
    standard, robust = (mean(counted.get(kind, [])) for kind in (STANDARD, PER_IMAGE))
    title = "Change by noise on the digit against change by noise on the letter"
    if above(robust, standard):
        title = (f"Noise on the digit changes robust networks {np.exp(robust.value):.1f} times as much as noise on the "
                 f"letter, standard ones {np.exp(standard.value):.1f} times (geometric means over noise)")
    return entitle(figure, title,
                   "The ratio of the two changes against the standard deviation of the noise, both logarithmic: a "
                   "panel for each data set and position of the digit, a line for each kind, and a line at 1.")


def distractor_gradients(table, pictures: Mapping[str, tuple] | None = None):
    """Where gradients lie. Above: the share of the squared gradient in the digit's half, a panel for each data set and
    a row for each kind of network, with a marker for each repetition and position of the digit, a bar for the mean, and
    a line at one half. Below: some inputs with their gradients (`common.signed`).

    table: columns `where`, `kind`, `seed`, `position` and `share`. pictures: {set: (images [n, 1, H, W], {kind:
    gradients [n, 1, H, W]})} (lib.papers.off_manifold_robustness.results.letter_pictures), with the same n for each
    set. Raises SettingsError for missing columns and unknown kinds.
    """
    import matplotlib.pyplot as plt
    from matplotlib.lines import Line2D

    check_columns(table, "where", "kind", "seed", "position", "share")
    looks, sets = _letter_kinds(table), list(dict.fromkeys(table["where"]))
    marks = dict(zip(sorted(table.position.unique()), ("^", "v", "o", "s"), strict=False))
    pictures = {where: pictures[where] for where in sets if where in (pictures or {})}
    for where, (_, found) in pictures.items():
        for kind in found:
            if kind not in LETTERS:
                raise unknown(f"kind of network in the pictures of {where}", kind, LETTERS)
    style()
    count = max((len(images) for images, _ in pictures.values()), default=0)
    columns = 1 + len(looks)
    high = 0.42 * len(looks) + 1.0
    cell = (WIDTH - 0.4) / (columns * max(len(pictures), 1))
    low = (2 * cell + 0.05) * count + 0.6 if count else 0
    figure = plt.figure(figsize=(WIDTH, high + low + 0.5), layout="constrained")
    parts = figure.subfigures(2, 1, height_ratios=[high, low]) if count else [figure]
    panels = parts[0].subplots(1, len(sets), sharey=True, sharex=True, squeeze=False)[0]
    for axis, where in zip(panels, sets, strict=True):
        for row, (kind, (colour, _)) in enumerate(looks.items()):
            mine = table[(table["where"] == where) & (table.kind == kind)]
            for (position, mark), aside in zip(marks.items(), (-0.14, 0.14, 0, 0), strict=False):
                values = mine[mine.position == position].share
                axis.plot(values, [row + aside] * len(values), mark, color=colour, markersize=6, alpha=0.7,
                          markeredgecolor="white", markeredgewidth=0.5)
            axis.plot([mine.share.mean()] * 2, [row - 0.3, row + 0.3], color=colour, linewidth=2.2)
        axis.axvline(0.5, color="#555555", linewidth=0.9)
        axis.set_xlim(0, 1)
        axis.set_title(_set_name(where), loc="left", fontsize=10)
        axis.set_xlabel("share of the squared gradient in the digit’s half", fontsize=9)
        axis.grid(False, axis="y")
    panels[0].set_yticks(range(len(looks)), list(looks))
    panels[0].set_ylim(len(looks) - 0.5, -0.5)
    keys = [Line2D([], [], linestyle="", marker=mark, color="#333333", label=position)
            for position, mark in marks.items()]
    keys.append(Line2D([], [], color="#333333", linewidth=2.2, label="mean"))
    panels[-1].legend(handles=keys, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)
    if count:
        _letters_below(parts[1], pictures, looks, count)
    shares = table.groupby(["kind", "seed"]).share.mean()
    standard, robust = (mean(shares.get(kind, [])) for kind in (STANDARD, PER_IMAGE))
    title = "Share of the squared gradient in the digit’s half"
    if above(robust, standard):
        title = (f"Robust networks have {percent(robust.value, digits=0)} of their squared gradient on the digit, "
                 f"standard ones {percent(standard.value, digits=0)}")
    return entitle(figure, title, "Above: that share for each kind of network and data set, a line at one half; below: "
                   "inputs with their gradients.")


def _letters_below(part, pictures: Mapping[str, tuple], looks: Mapping[str, tuple[str, str]], count: int) -> None:
    """Draw inputs and their gradients, the data sets next to each other."""
    blocks = part.subfigures(1, len(pictures), squeeze=False)[0]
    for block, (where, (images, found)) in zip(blocks, pictures.items(), strict=True):
        kinds = [kind for kind in looks if kind in found]
        grid = block.subplots(count, 1 + len(kinds), squeeze=False)
        for row, axes in enumerate(grid):
            for axis in axes:
                axis.set_axis_off()
            if row >= len(images):
                continue
            shown = [as_picture(images[row]), *(signed(found[kind][row]) for kind in kinds)]
            for axis, picture in zip(axes, shown, strict=True):
                axis.set_axis_on()
                show_picture(axis, picture)
        for axis, kind in zip(grid[0], ["input", *kinds], strict=True):
            axis.set_title(kind.replace(", ", "\n"), fontsize=8, color=looks[kind][0] if kind in looks else "black")
        block.suptitle(_set_name(where), fontsize=10, x=0.02, ha="left")
