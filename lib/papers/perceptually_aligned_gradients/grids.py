"""Figures that are grids of images: generated ones, and targets of gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lib.errors import need
from lib.plots.common import as_picture, show_picture, signed
from lib.plots.style import WIDTH, style
from lib.plots.titles import entitle, percent


def generated(sources, pictures: Mapping[str, object], classes: Sequence[str],
              hits: Mapping[str, object] | None = None, notes: Mapping[str, str] | None = None):
    """Images moved towards classes: a block of rows for each network with one row per image, and a column for the image
    itself and for each class.

    sources [n, C, H, W] and pictures {network: [n, classes, C, H, W]} hold pixels in [0, 1] of 1 or 3 channels.
    classes: the classes' names. hits {network: bool [n, classes]}: whether an independent classifier sees the class,
    shown by a green frame. notes: {network: a line below its name}. Raises SettingsError for no pictures and other
    shapes.
    """
    import matplotlib.pyplot as plt
    import numpy as np
    from matplotlib.lines import Line2D

    sources, notes = np.asarray(sources, float), notes or {}
    need(len(pictures) > 0, "pictures", "none", "pictures of at least one network")
    wanted = (len(sources), len(classes), *sources.shape[1:])
    for name, moved in pictures.items():
        need(np.shape(moved) == wanted, f"shape of the pictures of {name}", np.shape(moved), f"{wanted}")
    need(sources.shape[1] in (1, 3), "channels", sources.shape[1], "1 or 3")
    style()
    count, columns = len(sources), len(classes) + 1
    ahead = 1.3  # inches for the networks' names
    side = min((WIDTH - ahead) / columns, 1.1)
    high = side * (count * len(pictures) + 0.25 * (len(pictures) - 1)) + 0.8 + (0.35 if hits else 0)
    figure = plt.figure(figsize=(ahead + side * columns, high))
    blocks = figure.add_gridspec(len(pictures), 1, left=ahead / (ahead + side * columns), right=0.999,
                                 top=1 - 0.75 / high, bottom=(0.38 if hits else 0.03) / high, hspace=0.25 / count)
    for block, (name, moved) in zip(blocks, pictures.items(), strict=True):
        grid = block.subgridspec(count, columns, wspace=0.06, hspace=0.06).subplots(squeeze=False)
        seen = None if hits is None or name not in hits else np.asarray(hits[name], bool)
        for row in range(count):
            for column, axis in enumerate(grid[row]):
                image = sources[row] if column == 0 else np.asarray(moved[row][column - 1], float)
                hit = column > 0 and seen is not None and bool(seen[row, column - 1])
                _picture(axis, image, hit)
        if block.is_first_row():
            for axis, title in zip(grid[0], ("image", *classes), strict=True):
                axis.set_title(title, fontsize=9, pad=3)
        box = block.get_position(figure)
        words = f"{name}\n{notes[name]}" if name in notes else name
        figure.text(box.x0 - 0.08 / figure.get_figwidth(), (box.y0 + box.y1) / 2, words, ha="right", va="center",
                    fontsize=9)
    if hits:
        key = Line2D([], [], linestyle="", marker="s", markersize=8, markerfacecolor="white", markeredgewidth=2,
                     color="#1b7f4f", label="an independent robust classifier sees the class of the column")
        figure.legend(handles=[key], loc="lower center", frameon=False, borderaxespad=0.1)
    rates = {name: float(np.mean(seen)) for name, seen in (hits or {}).items()}
    title = "Images moved towards each class along the gradients of networks"
    if rates:
        ends = [f"{percent(rates[name], digits=0)} ({name})" for name in
                dict.fromkeys((min(rates, key=rates.get), max(rates, key=rates.get)))]
        title = f"Moved along gradients, these pictures are recognised as the class aimed at: {' to '.join(ends)}"
    return entitle(figure, title, "A block of rows for each network, a row for each image, a column for each class.")


def target_grid(image, targets: Mapping[str, object], classes, label: int):
    """The targets of gradients at one image [C, H, W]: a row for each realisation, a column for each class, the image
    in front of each row. The title of the image's own class, `label`, is bold.

    targets: {realisation: [classes, C, H, W]}, drawn by `common.signed`. classes: their names. Raises SettingsError for
    no targets and for another number of them than classes.
    """
    import matplotlib.pyplot as plt
    import numpy as np

    need(len(targets) > 0, "targets", "none", "targets of at least one realisation")
    style()
    side = min((WIDTH - 1.4) / (len(classes) + 1), 1.0)
    figure, grid = plt.subplots(len(targets), len(classes) + 1, squeeze=False, layout="constrained",
                                figsize=(side * (len(classes) + 1) + 1.4, side * len(targets) + 0.9))
    figure.get_layout_engine().set(wspace=0.02, hspace=0.01, w_pad=0.01, h_pad=0.01)
    for row, (name, pictures) in zip(grid, targets.items(), strict=True):
        need(len(pictures) == len(classes), f"number of targets of {name}", len(pictures), f"{len(classes)}")
        show_picture(row[0], as_picture(image))
        row[0].set_ylabel(name.replace(" ", "\n"), rotation=0, ha="right", va="center", fontsize=8)
        for axis, picture in zip(row[1:], pictures, strict=True):
            show_picture(axis, signed(picture))
    grid[0, 0].set_title("image", fontsize=8)
    for k, (axis, name) in enumerate(zip(grid[0, 1:], classes, strict=True)):
        axis.set_title(str(name), fontsize=8, fontweight="bold" if k == label else "normal")
    _, high, wide = np.shape(image)
    return entitle(figure, f"Targets of the gradients for each class at one image of {high} × {wide} pixels, of class "
                   f"{classes[label]}; they do not depend on the network",
                   "A row for each realisation of the targets, a column for each class; grey is 0.")


def _picture(axis, image, hit: bool) -> None:
    """Draw an image [C, H, W], with a frame if it is a hit."""
    import numpy as np

    image = np.clip(image, 0, 1)
    axis.imshow(image[0] if len(image) == 1 else image.transpose(1, 2, 0), cmap="gray", vmin=0, vmax=1,
                interpolation="nearest")
    axis.set_xticks([])
    axis.set_yticks([])
    axis.grid(False)
    for spine in axis.spines.values():
        spine.set_visible(hit)
        spine.set_color("#1b7f4f")
        spine.set_linewidth(2)
