"""What figures of several papers share: accuracy against compression, and pictures of images and gradients."""

from __future__ import annotations

from collections.abc import Mapping

from lib.errors import need
from lib.plots.style import WIDTH, check_columns, colours, curve, style

PANELS = {"clean": "clean accuracy", "verify": "robust accuracy"}


def marker(scores: str) -> str:
    """The matplotlib marker of a pruning method: a circle if its scores see the objective (`scores` is 'learned' or
    'gradient'), a triangle if it removes whole filters ('filters'), else a square.
    """
    if scores == "filters":
        return "^"
    return "o" if scores in ("learned", "gradient") else "s"


def compression(table, marks: Mapping[str, str], reference=None, robust: str = "robust accuracy",
                what: str = "weights"):
    """Accuracy against compression, clean on the left and robust on the right. Each method is a line through its means,
    each seed a dot; the dense network with the same fine-tuning is a horizontal line, the range of its seeds shaded.

    table: columns `method`, `keep` (the share kept, 1 for `dense`), `seed`, `measure` ('clean' or 'verify') and
    `accuracy`. marks: {method: marker} (`marker`). reference: columns `method`, `keep`, `measure`, `accuracy` and
    `source`, drawn faint and dashed with their source. robust: label of the right panel's axis, with the attack. what:
    what is kept, 'weights' or 'input channels'. Raises SettingsError for missing columns or no pruned network.
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
            apart = 1.25 ** ((number + 0.5) / len(palette) - 0.5)  # moved apart, so that no seed hides another
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
