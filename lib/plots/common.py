"""What figures of several papers share: accuracy against compression, and pictures of images and gradients."""

from __future__ import annotations

from collections.abc import Mapping

from lib.errors import need
from lib.plots.style import WIDTH, check_columns, colours, curve, style
from lib.plots.titles import above, entitle, mean, percent

PANELS = {"clean": "clean accuracy", "verify": "robust accuracy"}


def marker(scores: str) -> str:
    """The matplotlib marker of a pruning method: a circle if its scores see the objective (`scores` is 'learned' or
    'gradient'), a triangle if it removes whole filters ('filters'), else a square.
    """
    if scores == "filters":
        return "^"
    return "o" if scores in ("learned", "gradient") else "s"


def compression(table, marks: Mapping[str, str], base: str, reference=None, robust: str = "robust accuracy",
                what: str = "weights"):
    """Accuracy against compression, clean on the left and robust on the right. Each method is a line through its means,
    each seed a dot; the dense network with the same fine-tuning is a horizontal line, the range of its seeds shaded.
    Names stand at the right ends of the lines. The title compares robust accuracies with the method `base`.

    table: columns `method`, `keep` (the share kept, 1 for `dense`), `seed`, `measure` ('clean' or 'verify') and
    `accuracy`. marks: {method: marker} (`marker`). reference: columns `method`, `keep`, `measure`, `accuracy` and
    `source`, drawn faint and dashed with their source. robust: label of the right panel's axis, with the attack. what:
    what is kept, 'weights' or 'input channels'. Raises SettingsError for missing columns or no pruned network.
    """
    import matplotlib.pyplot as plt
    from matplotlib.ticker import NullLocator, PercentFormatter

    check_columns(table, "method", "keep", "seed", "measure", "accuracy")
    dense, table = table[table.method == "dense"], table[table.keep < 1]
    need(len(table) > 0, "table", "without pruned networks", "one with rows of keep below 1")
    if reference is not None:
        check_columns(reference, "method", "keep", "measure", "accuracy", "source", what="reference")
    style()
    palette = colours(table.method)
    # moved apart, so that no seed hides another; by less where all stand at one share
    width = 1.25 if table.keep.nunique() > 1 else 1.08
    apart = {method: width ** ((number + 0.5) / len(palette) - 0.5) for number, method in enumerate(palette)}
    figure, panels = plt.subplots(1, 2, figsize=(WIDTH, 4.0), sharex=True, layout="constrained")
    for axis, (measure, words) in zip(panels, PANELS.items(), strict=True):
        whole = dense[dense.measure == measure].accuracy
        if len(whole):
            axis.axhline(whole.mean(), color=colours(["dense"])["dense"], linewidth=1.3)
            axis.axhspan(whole.min(), whole.max(), color=colours(["dense"])["dense"], alpha=0.08, linewidth=0)
        for method, colour in palette.items():
            mine = table[(table.method == method) & (table.measure == measure)]
            curve(axis, mine.assign(keep=mine.keep * apart[method]), "keep", "accuracy", colour, marker=marks[method],
                  shade=False, dots=True)
        if reference is not None:
            for method, mine in reference[reference.measure == measure].groupby("method", sort=False):
                mine = mine.sort_values("keep")
                axis.plot(mine.keep, mine.accuracy, linestyle=(0, (4, 2)), marker="D", markersize=3, linewidth=1.1,
                          color=colours([method])[method], alpha=0.45)
        axis.set_xscale("log")
        axis.xaxis.set_minor_locator(NullLocator())
        ticks = sorted({*table.keep, *(reference.keep if reference is not None else ())}, reverse=True)
        axis.set_xticks(ticks, [f"{100 * keep:g} %" for keep in ticks])
        axis.set_xlabel(f"{what} that are kept")
        axis.set_ylabel(robust if measure == "verify" else words)
        axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axis.set_ylim(0, None)
    panels[0].set_xlim(1.35 * max(ticks), min(ticks) / 1.35)  # from mild to harsh
    means = table[table.measure == "verify"].groupby(["method", "keep"]).accuracy.mean()
    ends = {method: (means[method].index.min() * apart[method], means[method].iloc[0], colour)
            for method, colour in palette.items() if method in means.index.get_level_values(0)}
    if len(dense):
        level = dense[dense.measure == "verify"].accuracy.mean()
        ends["dense, same fine-tuning"] = (min(ticks) / 1.35, level, colours(["dense"])["dense"])
    label_ends(panels[1], ends)
    if reference is not None:
        figure.supxlabel(f"dashed: {', '.join(dict.fromkeys(reference.source))}", fontsize=9)
    return entitle(figure, _harshest(table[table.measure == "verify"], base, what),
                   f"Clean (left) and robust accuracy (right) against the share of {what} kept: a line for each "
                   "method, the dense network as a horizontal line.")


def _harshest(table, base: str, what: str) -> str:
    """Which methods are more or less robust than `base` at the smallest share kept at which it has a rival."""
    found = {keep: {method: mean(rows.accuracy) for method, rows in mine.groupby("method")}
             for keep, mine in table.groupby("keep")}
    keep = min((keep for keep, methods in found.items() if base in methods and len(methods) > 1), default=None)
    rivals = {} if keep is None else found[keep]
    ours = rivals.pop(base, None)
    more = [f"{name} ({percent(one.value)})" for name, one in rivals.items() if above(one, ours)]
    less = [f"{name} ({percent(one.value)})" for name, one in rivals.items() if above(ours, one)]
    said = [f"{word} than {_listed(names)}" for word, names in (("less robust", more), ("more robust", less)) if names]
    if not said:
        return f"Clean and robust accuracy against the share of {what} kept"
    return f"At {100 * keep:g} % of the {what} kept, {base} ({percent(ours.value)}) is {' and '.join(said)}"


def _listed(names: list[str]) -> str:
    """'A, B and C'; of more than four, the first three and the number of the others."""
    names = names if len(names) <= 4 else [*names[:3], f"{len(names) - 3} others"]
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def label_ends(axis, ends: Mapping[str, tuple[float, float, str]]) -> None:
    """Write names to the right of a panel, each at the height of the last point of its line, moved apart where they
    would touch; a thin line leads from the point to its name. ends: {name: (x, y, colour)}, in the panel's units. The
    panel's limits must be final.
    """
    axis.autoscale_view()
    gap = 0.18 / (axis.get_position().height * axis.figure.get_figheight())  # a line, as a share of the height
    at = {name: float(axis.transAxes.inverted().transform(axis.transData.transform((x, y)))[1])
          for name, (x, y, _) in ends.items()}
    names = sorted(at, key=at.get)
    for name, height in zip(names, apart([at[name] for name in names], gap), strict=True):
        x, y, colour = ends[name]
        axis.annotate(name, (x, y), (1.04, height), "data", "axes fraction", fontsize=8, va="center", color=colour,
                      annotation_clip=False,
                      arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.6, "alpha": 0.6})


def apart(values: list[float], gap: float) -> list[float]:
    """Rising values, moved as little as possible so that neighbours are at least a gap apart."""
    clusters: list[list[float]] = []
    for value in values:
        clusters.append([value])
        while len(clusters) > 1 and _middle(clusters[-1]) - _middle(clusters[-2]) < gap * (
                len(clusters[-1]) + len(clusters[-2])) / 2:
            clusters[-2:] = [clusters[-2] + clusters[-1]]
    return [_middle(one) + gap * (k - (len(one) - 1) / 2) for one in clusters for k in range(len(one))]


def _middle(values: list[float]) -> float:
    return sum(values) / len(values)


def signed(gradient):
    """A gradient [C, H, W] as a picture [H, W] or [H, W, 3] in [0, 1]: 0 becomes grey, minus and plus three standard
    deviations become black and white, channel by channel. A gradient that is zero or not finite becomes plain grey.
    """
    import numpy as np

    gradient = np.asarray(gradient, float)
    spread = gradient.std()
    if not (np.isfinite(spread) and spread > 0):
        gradient, spread = np.zeros_like(gradient), 1.0
    picture = 0.5 + np.clip(gradient / (6 * spread), -0.5, 0.5)
    return picture[0] if len(picture) == 1 else picture.transpose(1, 2, 0)


def show_picture(axis, picture) -> None:
    """Draw a picture [H, W] or [H, W, 3] in [0, 1], pixel by pixel, without ticks or frame."""
    axis.imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axis.set_xticks([])
    axis.set_yticks([])
    axis.grid(False)
    for spine in axis.spines.values():
        spine.set_visible(False)


def as_picture(image):
    """An image [C, H, W] of pixels in [0, 1] as a picture [H, W] or [H, W, 3] in [0, 1]."""
    import numpy as np

    image = np.clip(np.asarray(image, float), 0, 1)
    return image[0] if len(image) == 1 else image.transpose(1, 2, 0)
