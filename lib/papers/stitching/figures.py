"""Figures of the stitching notebook."""

from __future__ import annotations

from collections.abc import Sequence

from lib.errors import is_int, need, unknown
from lib.papers.stitching.networks import DIRECT, MIXED
from lib.plots.style import CLEAN, GREY, ROBUST, check_columns, curve, style
from lib.plots.titles import above, entitle, mean, percent, span

MEASURES = {"clean": CLEAN, "robust": ROBUST}
MARKERS = {"clean": "o", "robust": "s"}
MADE = {DIRECT: "-", "pair": "--"}  # how a joint was made, and its line
INTEREST = 0.02  # the smallest difference of accuracies that a title is about, as in the claims
KINDS = "N: a normally trained network, R: a robust one, U: an untrained one, front → end"
PROMISED = ("U → R  (untrained front)", "R → U  (untrained end)")  # controls with a row even if they were not measured


def stitching_depth(cells, joints: list[str], pairs: list[str], alphas: list[float], robust: str = "search"):
    """Clean and robust accuracy of stitched networks against the joint's depth: a column for each ordered pair, a row
    for each alpha, the two endpoints as reference lines (front dashed, end dotted), the range over seeds shaded.

    cells: `Results.table()`. joints, pairs, alphas: those to draw, in order. robust: the measure drawn as robust
    accuracy.
    """
    import matplotlib.pyplot as plt
    from matplotlib.lines import Line2D
    from matplotlib.ticker import PercentFormatter

    style()
    position = {j: i for i, j in enumerate(joints)}
    figure, axes = plt.subplots(len(alphas), len(pairs), figsize=(3.1 * len(pairs), 2.9 * len(alphas) + 1),
                                sharex=True, sharey=True, squeeze=False, layout="constrained")
    endpoints = cells[cells.role == "endpoint"].groupby(["pair", "measure"]).accuracy.mean()
    stitched = cells[cells.role == "pair"]
    for row, alpha in zip(axes, alphas, strict=True):
        for axis, pair in zip(row, pairs, strict=True):
            mine = stitched[(stitched.pair == pair) & (stitched.alpha == alpha)]
            mine = mine.assign(position=mine.joint.map(position))
            front, end = pair.rstrip("2").split("->")
            for words, measure in (("clean", "clean"), ("robust", robust)):
                colour, marker = MEASURES[words], MARKERS[words]
                curve(axis, mine[mine.measure == measure], "position", "accuracy", colour, marker=marker, dots=True,
                      xs=list(position.values()))
                for name, line, width in ((front, "--", 1), (end, ":", 1.4)):
                    if (name, measure) in endpoints:
                        axis.axhline(endpoints[name, measure], color=colour, linestyle=line, linewidth=width,
                                     marker=marker, markersize=4, markevery=[1], clip_on=False)
            if not len(mine):
                axis.text(0.5, 0.5, "not measured", transform=axis.transAxes, ha="center", color=GREY)
            axis.set_title(f"{_arrow(pair)},  α = {alpha:g}", fontsize=10)
            axis.set_xticks(list(position.values()), joints, fontsize=8)
            axis.set_xlim(-0.3, len(joints) - 0.7)
            axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
            axis.set_ylim(-0.02, 1.02 if endpoints.max() > 0.85 else 0.9)
    for axis in axes[:, 0]:
        axis.set_ylabel("accuracy")
    for axis in axes[-1]:
        axis.set_xlabel("joint after")
    keys = [Line2D([], [], color=MEASURES[words], marker=MARKERS[words], label=f"{words} accuracy")
            for words in MEASURES]
    keys += [Line2D([], [], color=GREY, linestyle="--", label="front network alone"),
             Line2D([], [], color=GREY, linestyle=":", label="end network alone")]
    figure.legend(handles=keys, loc="outside lower center", ncols=4, frameon=False)
    most = stitched[(stitched.alpha == max(alphas)) & (stitched.measure == robust) & stitched.joint.isin(joints)]
    return entitle(figure, _by_depth(most[most.pair.isin(pairs)], max(alphas)),
                   "A panel for each pair of networks and share α of adversarial images in training the joint; clean "
                   f"and robust accuracy against the joint's depth. {KINDS}.")


def _arrow(pair: str) -> str:
    return pair.replace("->", " → ")


def _by_depth(table, alpha: float) -> str:
    """At which joints N → R keeps less robust accuracy than two robust networks."""
    found = {pair: {joint: mean(rows.accuracy) for joint, rows in mine.groupby("joint", sort=False)}
             for pair, mine in table.groupby("pair", sort=False)}
    mixed, same = (found.get(pair, {}) for pair in ("N->R", "R->R2"))
    both = [joint for joint in mixed if joint in same]
    lower = [joint for joint in both if above(same[joint], mixed[joint])]
    if not lower:
        return "Clean and robust accuracy of stitched networks by the depth of the joint"
    kept = {pair: percent(*(at[joint].value for joint in lower)) for pair, at in found.items() if {*lower} <= {*at}}
    where = "At every joint" if lower == both else f"After {' and '.join(lower)}"
    return (f"{where} (α = {alpha:g}), N → R keeps less robust accuracy ({kept['N->R']}) than "
            f"two robust networks ({kept['R->R2']})"
            + (f"; R → N: {kept['R->N']}" if "R->N" in kept else ""))


def direct_matching(cells, joints: list[str], robust: str = "search"):
    """Clean and robust accuracy of the mixed pairs against the joint's depth: joints that were only fitted to
    activations (solid) next to joints trained on clean images (dashed), the range over seeds shaded. The dotted line is
    nine tenths of the clean accuracy of the weaker endpoint. No joint has seen an adversarial image.

    cells: `Results.table()`. joints: those to draw, in order. robust: the measure drawn as robust accuracy.
    """
    import matplotlib.pyplot as plt
    from matplotlib.lines import Line2D
    from matplotlib.ticker import PercentFormatter

    style()
    position = {joint: k for k, joint in enumerate(joints)}
    figure, axes = plt.subplots(1, len(MIXED), figsize=(8.2, 3.9), sharey=True, layout="constrained")
    shown = cells[(cells.alpha == 0) & cells.joint.isin(joints)]
    shown = shown.assign(position=shown.joint.map(position))
    alone = cells[(cells.role == "endpoint") & (cells.measure == "clean")].groupby("pair").accuracy.mean()
    for axis, pair in zip(axes, MIXED, strict=True):
        for role, line in MADE.items():
            mine = shown[(shown.role == role) & (shown.pair == pair)]
            for words, measure in (("clean", "clean"), ("robust", robust)):
                curve(axis, mine[mine.measure == measure], "position", "accuracy", MEASURES[words], line=line,
                      marker=MARKERS[words], xs=list(position.values()))
        axis.axhline(0.9 * min(alone[kind] for kind in pair.split("->")), color=GREY, linestyle=":", linewidth=1.4)
        axis.set_title(_arrow(pair), fontsize=10)
        axis.set_xticks(list(position.values()), joints, fontsize=8)
        axis.set_xlabel("joint after")
        axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axis.set_ylim(-0.02, 1.02)
    axes[0].set_ylabel("accuracy")
    keys = [Line2D([], [], color=MEASURES[words], marker=MARKERS[words], label=f"{words} accuracy")
            for words in MEASURES]
    lines = {"only fitted": MADE[DIRECT], "trained on clean images": MADE["pair"], "0.9 of the weaker, clean": ":"}
    keys += [Line2D([], [], color=GREY, linestyle=line, label=label) for label, line in lines.items()]
    figure.legend(handles=keys, loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    return entitle(figure, _by_fit(shown[shown.measure == robust], joints),
                   "Clean and robust accuracy of mixed pairs against the joint's depth, for joints that were fitted to "
                   f"activations and for joints trained on clean images. {KINDS}.")


def _by_fit(table, joints: Sequence[str]) -> str:
    """At which joints N → R is more robust with a fitted joint than with a trained one. table: robust accuracies."""
    found = {role: {joint: mean(rows.accuracy) for joint, rows in mine.groupby("joint")}
             for role, mine in table[table.pair == "N->R"].groupby("role") if role in MADE}
    fitted, trained = (found.get(role, {}) for role in (DIRECT, "pair"))
    better = [joint for joint in joints if joint in fitted and joint in trained
              and above(fitted[joint], trained[joint]) and fitted[joint].value - trained[joint].value >= INTEREST]
    if not better:
        return "Joints that are only fitted to activations, next to joints trained on clean images"
    kept, less = (percent(*(at[joint].value for joint in better)) for at in (fitted, trained))
    return (f"Without any adversarial image, N → R after {' and '.join(better)} keeps {kept} robust accuracy if the "
            f"joint is only fitted to activations, {less} if it is trained on clean images")


def bars_against_controls(table, where: str):
    """Horizontal bars of clean and robust accuracy with their intervals: stitched networks next to their controls. The
    controls `PROMISED` have a row that says so if they were not measured.

    table: columns `what`, `measure` (clean or robust), `value`, `low` and `high` (NaN if there is no interval). where:
    the joint and its training, such as 'after layer2.0, α = 1'.
    """
    import matplotlib.pyplot as plt
    import numpy as np
    from matplotlib.ticker import PercentFormatter

    style()
    names = list(dict.fromkeys([*table.what, *PROMISED]))
    figure, axis = plt.subplots(figsize=(8.2, 0.42 * len(names) + 1.7), layout="constrained")
    for shift, measure in ((-0.19, "clean"), (0.19, "robust")):
        mine = table[table.measure == measure].set_index("what").reindex(names)
        y = np.arange(len(names)) + shift
        reach = np.nan_to_num(np.vstack([mine.value - mine.low, mine.high - mine.value]).clip(0))
        axis.barh(y, mine.value, height=0.36, color=MEASURES[measure], alpha=0.85, label=f"{measure} accuracy",
                  hatch="" if measure == "clean" else "////", edgecolor="white", linewidth=0)
        axis.errorbar(mine.value, y, xerr=reach, fmt="none", ecolor="#222222", elinewidth=1, capsize=2)
        for yy, value, high in zip(y, mine.value, mine.value + reach[1], strict=True):
            if np.isfinite(value):
                axis.text(high + 0.01, yy, percent(value), va="center", fontsize=7.5)
    for place, name in enumerate(names):
        if name not in set(table.what):
            axis.text(0.01, place, "not measured", va="center", fontsize=7.5, color="#555555")
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.set_xlim(0, min(1.1, np.nanmax(table.value) + 0.15))
    axis.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axis.set_xlabel(f"accuracy\n{KINDS}", fontsize=9)
    figure.legend(frameon=False, loc="outside lower center", ncols=2)
    robust = table[table.measure == "robust"].set_index("what")
    return entitle(figure, f"{where[:1].upper()}{where[1:]}: {_against_two_robust(robust)}",
                   f"Bars of clean and robust accuracy with 95 % intervals: stitched pairs and controls. {KINDS}.")


def _against_two_robust(robust) -> str:
    """The robust accuracy of mixed pairs and of two robust networks, if one of the pairs is clearly less robust.
    robust: indexed by `what`.
    """
    found = {name: robust.loc[name] for name in ("N → R", "R → N", "R → R2") if name in robust.index}
    same = found.pop("R → R2", None)
    if same is None or not any(above(same, one) for one in found.values()):
        return "clean and robust accuracy of stitched networks and their controls"
    kept = " and ".join(f"{name} keeps {percent(one.value)}" for name, one in found.items())
    return f"{kept} robust accuracy, two robust networks {percent(same.value)}"


def stitching_matrix(table, controls: Sequence[str] = ("U",), title: str = ""):
    """Accuracy of every front (rows) with every end (columns), clean on the left and robust on the right. Each cell has
    the mean and, below it, the range over repetitions if there are several. A gap separates `controls`, the names of
    networks that serve only as controls, and the accuracies of networks alone. Pairs that were not measured are
    hatched.

    table: columns `front`, `end`, `measure` (clean or robust) and `accuracy`, in [0, 1]; `end` is empty for a network
    alone. title: the joint, such as 'after layer2.0'. Raises SettingsError for missing columns, an unknown measure, and
    a table without pairs.
    """
    import matplotlib.pyplot as plt
    from matplotlib.patches import Patch

    check_columns(table, "front", "end", "measure", "accuracy")
    for measure in table.measure.unique():
        if measure not in MEASURES:
            raise unknown("measure", measure, MEASURES)
    pairs = table[table.end != ""]
    need(len(pairs) > 0, "table", "one without pairs", "one with a front and an end in at least one row")
    down, across = (_apart(list(dict.fromkeys(pairs[side])), controls) for side in ("front", "end"))
    alone = (table.end == "").any()
    edge = {"down": max(down.values()) + 1.35, "across": max(across.values()) + 1.35}
    shown = [measure for measure in MEASURES if (table.measure == measure).any()]
    style()
    slanted = max(map(len, across)) > 6
    below = 0.05 * max(map(len, across)) if slanted else 0.2  # inches for the names of the ends
    size = 0.62 * (edge["across"] + alone) * len(shown) + 1.6, 0.62 * (edge["down"] + alone) + 1.3 + below
    figure, axes = plt.subplots(1, len(shown), figsize=size, squeeze=False, layout="constrained")
    missing = False
    for axis, measure in zip(axes[0], shown, strict=True):
        mine = table[table.measure == measure].groupby(["front", "end"]).accuracy
        found = {key: values.to_numpy() for key, values in mine}
        for front, y in down.items():
            for end, x in across.items():
                missing |= _cell(axis, x, y, found.get((front, end)), MEASURES[measure])
        for name, values in ((front, values) for (front, end), values in found.items() if not end):
            if name in down:
                _cell(axis, edge["across"], down[name], values, MEASURES[measure])
            if name in across:
                _cell(axis, across[name], edge["down"], values, MEASURES[measure])
        for way, places, name in (("x", across, "across"), ("y", down, "down")):
            marks = {**places, **({"alone": edge[name]} if alone else {})}
            getattr(axis, f"set_{way}ticks")(list(marks.values()), list(marks))
        if slanted:
            axis.tick_params(axis="x", labelrotation=35)
            for text in axis.get_xticklabels():
                text.set(ha="right", rotation_mode="anchor")
        axis.set_xlim(-0.55, edge["across"] + (0.55 if alone else -0.8))
        axis.set_ylim(edge["down"] + (0.55 if alone else -0.8), -0.55)
        axis.set_aspect("equal")
        axis.grid(False)
        axis.tick_params(length=0)
        for spine in axis.spines.values():
            spine.set_visible(False)
        axis.set_title(f"{measure} accuracy, %", color=MEASURES[measure])
        axis.set_xlabel("end")
    axes[0, 0].set_ylabel("front")
    if missing:
        figure.legend(handles=[Patch(label="not measured", **HATCHED)], loc="outside lower center", frameon=False)
    ahead = f"{title[:1].upper()}{title[1:]}: " if title else ""
    return entitle(figure, ahead + _by_front(pairs[pairs.measure == "robust"]),
                   "Mean accuracy in per cent of every front (rows) with every end (columns), and below it the range "
                   f"over repetitions. {KINDS}.")


def _by_front(table) -> str:
    """Whether every end on a robust front is more robust than every end on a normal one. table: robust accuracies of
    pairs, a row for each seed.
    """
    kept = {front: [mean(rows.accuracy) for _, rows in mine.groupby("end")] for front, mine in table.groupby("front")}
    ours, theirs = kept.get("R", []), kept.get("N", [])
    if not ours or not theirs or not all(above(one, other) for one in ours for other in theirs):
        return "accuracy of every front with every end"
    robust, normal = (percent(*(one.value for one in found)) for found in (ours, theirs))
    return f"every end on a robust front keeps {robust} robust accuracy, on a normal one {normal}"


HATCHED = {"facecolor": "#f2f2f2", "edgecolor": "#bdbdbd", "hatch": "////", "linewidth": 0}


def _apart(names: list[str], controls: Sequence[str]) -> dict[str, float]:
    """Positions of the rows or columns of these names: networks first, then, after a gap, controls."""
    ordered = [name for name in names if name not in controls], [name for name in names if name in controls]
    gap = 0.35 if all(ordered) else 0.0
    return {**{name: float(k) for k, name in enumerate(ordered[0])},
            **{name: len(ordered[0]) + gap + k for k, name in enumerate(ordered[1])}}


def _cell(axis, x: float, y: float, values, colour: str) -> bool:
    """Draw a square at (x, y), shaded by the mean of `values` and with its number; hatched if there are none, which the
    result says.
    """
    from matplotlib.colors import LinearSegmentedColormap, to_rgb
    from matplotlib.patches import Rectangle

    place = {"xy": (x - 0.48, y - 0.48), "width": 0.96, "height": 0.96}
    if values is None:
        axis.add_patch(Rectangle(**place, **HATCHED))
        return True
    average = float(values.mean())
    shade = LinearSegmentedColormap.from_list("", ["white", colour])(average)
    red, green, blue = to_rgb(shade)
    ink = "white" if 0.299 * red + 0.587 * green + 0.114 * blue < 0.6 else "black"
    axis.add_patch(Rectangle(**place, facecolor=shade, edgecolor="#dddddd", linewidth=0.6))
    several = len(values) > 1
    axis.text(x, y - 0.1 * several, span(100 * average, digits=1), ha="center", va="center", fontsize=9, color=ink)
    if several:
        low, high = (f"{100 * bound:.0f}" for bound in (values.min(), values.max()))
        axis.text(x, y + 0.25, f"{low}–{high}", ha="center", va="center", fontsize=6.5, color=ink)
    return False


def joint_activations(images, joined, end, notes: Sequence[str] = (), channels: int = 6, title: str = ""):
    """For a few images, the output of a joint above the activations of the end's own first half at the same place, in
    the `channels` channels in which the end's own activations vary most. White is 0, blue negative, red positive; the
    darkest shade is the largest absolute value of that channel in any map, so that all maps of a column compare.

    images: [n, C, h, w] in [0, 1]. joined, end: [n, K, H, W] (lib.stitching.measures.AtJoint). notes: a text for each
    image, such as cosine and CKA. Raises SettingsError for other shapes, fewer than one channel, and another number of
    notes.
    """
    import matplotlib.pyplot as plt
    import numpy as np

    images, joined, end = (np.asarray(found, float) for found in (images, joined, end))
    same = joined.shape == end.shape and joined.ndim == 4 and len(joined) == len(images) > 0
    need(same, "shapes of images, joined and end", f"{images.shape}, {joined.shape}, {end.shape}",
         "[n, C, h, w], [n, K, H, W] and [n, K, H, W]")
    need(is_int(channels, 1), "channels", channels, "a whole number of at least 1")
    need(len(notes) in (0, len(images)), "number of notes", len(notes), f"0 or {len(images)}, one for each image")
    spread = np.moveaxis(end, 1, 0).reshape(end.shape[1], -1).std(1)
    chosen = np.argsort(-spread, kind="stable")[:channels]
    style()
    n, columns = len(images), 1 + len(chosen)
    figure = plt.figure(figsize=(0.95 * columns + 1.2, 2.05 * n + 0.9), layout="constrained")
    figure.get_layout_engine().set(wspace=0.02, hspace=0.02, w_pad=0.02, h_pad=0.02)
    places = figure.add_gridspec(3 * n - 1, columns, height_ratios=([1, 1, 0.2] * n)[:-1])  # a gap below each pair
    grid = np.array([[figure.add_subplot(places[row // 2 * 3 + row % 2, k]) for k in range(columns)]
                     for row in range(2 * n)])
    for k, channel in enumerate(chosen):
        most = max(np.abs(joined[:, channel]).max(), np.abs(end[:, channel]).max()) or 1.0
        grid[0, 1 + k].set_title(f"channel {channel}", fontsize=8)
        for row in range(n):
            for below, found in enumerate((joined, end)):
                axis = grid[2 * row + below, 1 + k]
                axis.imshow(found[row, channel], cmap="RdBu_r", vmin=-most, vmax=most, interpolation="nearest")
    for row, image in enumerate(np.clip(images, 0, 1)):
        picture = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
        grid[2 * row, 0].imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        if notes:
            grid[2 * row + 1, 0].text(0.5, 0.98, notes[row], ha="center", va="top", fontsize=8,
                                      transform=grid[2 * row + 1, 0].transAxes)
        for below, name in enumerate(("joint", "end’s own")):
            grid[2 * row + below, 1].set_ylabel(name, fontsize=8)
        grid[2 * row + 1, 0].set_axis_off()
    for axis in grid.flat:
        axis.set_xticks([])
        axis.set_yticks([])
        axis.grid(False)
        for spine in axis.spines.values():
            spine.set_visible(False)
    words = "the joint’s output above the end’s own activations"
    return entitle(figure, f"{title}: {words}" if title else words.capitalize(),
                   "For each image, maps of the channels in which the end's own activations vary most: the joint's "
                   "output above the end's own activations.")
