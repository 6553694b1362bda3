"""What figures of several papers share: accuracy against compression, and pictures of images and gradients."""

from __future__ import annotations

from collections.abc import Mapping

from lib.errors import need
from lib.plots.style import WIDTH, check_columns, colours, curve, style

PANELS = {"clean": "clean accuracy", "verify": "robust accuracy"}


def marker(scores: str) -> str:
    """A circle for methods whose scores see the objective, learned or from its gradients, a square for the others; a
    triangle for the one that removes whole filters.
    """
    if scores == "filters":
        return "^"
    return "o" if scores in ("learned", "gradient") else "s"


def compression(table, marks: Mapping[str, str], reference=None, robust: str = "robust accuracy",
                what: str = "weights"):
    """Accuracy against compression, clean on the left and robust on the right: a line per method, every seed a dot, the
    dense network with the same fine-tuning as a horizontal line with the range of its seeds shaded.

    table: rows `method`, `keep` (the share that is kept, 1 for `dense`), `seed`, `measure` ('clean' or 'verify'),
    `accuracy`. marks: the mark of each method (`marker`). reference: rows `method`, `keep`, `measure`, `accuracy`,
    `source`: faint and dashed, the source named. robust: what the right panel's axis says, with the attack. what: is
    kept, 'weights' or 'input channels'.
    """
    import matplotlib.pyplot as plt
    from matplotlib.lines import Line2D
    from matplotlib.ticker import NullLocator, PercentFormatter

    check_columns(table, "method", "keep", "seed", "measure", "accuracy")
    dense, table = table[table.method == "dense"], table[table.keep < 1]
    need(len(table) > 0, "table", "without pruned networks", "one with rows of keep below 1")
    if reference is not None:
        check_columns(reference, "method", "keep", "measure", "accuracy", "source", what="reference")
    style()
    palette = colours(table.method)
    figure, panels = plt.subplots(1, 2, figsize=(WIDTH, 4.3), sharex=True, layout="constrained")
    for axis, (measure, words) in zip(panels, PANELS.items(), strict=True):
        base = dense[dense.measure == measure].accuracy
        if len(base):
            axis.axhline(base.mean(), color=colours(["dense"])["dense"], linewidth=1.3)
            axis.axhspan(base.min(), base.max(), color=colours(["dense"])["dense"], alpha=0.08, linewidth=0)
        for number, (method, colour) in enumerate(palette.items()):
            mine = table[(table.method == method) & (table.measure == measure)]
            apart = 1.25 ** ((number + 0.5) / len(palette) - 0.5)  # side by side, so that no seed hides another
            curve(axis, mine.assign(keep=mine.keep * apart), "keep", "accuracy", colour, marker=marks[method],
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
    keys = [Line2D([], [], color=colours(["dense"])["dense"], label="dense, same fine-tuning")] if len(dense) else []
    keys += [Line2D([], [], color=colour, marker=marks[method], markersize=5, label=method)
             for method, colour in palette.items()]
    if reference is not None:
        keys += [Line2D([], [], color=colours([method])[method], alpha=0.45, linestyle=(0, (4, 2)), marker="D",
                        markersize=3, label=f"{method}: {source}")
                 for method, source in dict(zip(reference.method, reference.source, strict=True)).items()]
    figure.legend(handles=keys, loc="outside lower center", ncols=3 if len(keys) > 8 or reference is not None else 4,
                  frameon=False)
    return figure


def signed(gradient):
    """A gradient [C, H, W] as a picture [H, W] or [H, W, 3] in [0, 1]: grey is 0, three standard deviations are black
    and white (each colour for itself), and a gradient of zeros, or one that is not finite, is grey all over.
    """
    import numpy as np

    gradient = np.asarray(gradient, float)
    spread = gradient.std()
    if not (np.isfinite(spread) and spread > 0):
        gradient, spread = np.zeros_like(gradient), 1.0
    picture = 0.5 + np.clip(gradient / (6 * spread), -0.5, 0.5)
    return picture[0] if len(picture) == 1 else picture.transpose(1, 2, 0)


def show_picture(axis, picture) -> None:
    axis.imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axis.set_xticks([])
    axis.set_yticks([])
    axis.grid(False)
    for spine in axis.spines.values():
        spine.set_visible(False)


def as_picture(image):
    """An image [C, H, W] of pixels in [0, 1] as a picture."""
    import numpy as np

    image = np.clip(np.asarray(image, float), 0, 1)
    return image[0] if len(image) == 1 else image.transpose(1, 2, 0)
