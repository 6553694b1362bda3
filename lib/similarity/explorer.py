"""Look at similarity maps by hand in JupyterLab: choose two networks and their layers, see the map and its numbers.

    from lib.similarity.explorer import similarity_explorer
    similarity_explorer(maps)

Without a person at the notebook (papermill, nbconvert, a batch run, plain Python) it shows the map of the first two
networks and says so.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping, Sequence
from html import escape
from io import BytesIO

from lib.errors import OneLineError, need, unknown
from lib.plots.maps import similarity_maps

ALL, RECTIFIED, ENDS = "all layers", "ReLU outputs", "last of each block"
SUBSETS = (ALL, RECTIFIED, ENDS)
MEASURES = {"cka": "CKA", "cka_biased": "biased CKA", "cca": "CCA", "svcca": "SVCCA", "pwcca": "PWCCA",
            "procrustes": "Procrustes similarity"}


def subset(layers: Sequence, which: str) -> list[int]:
    """Positions of the layers of a subset: all, the outputs of ReLU (GELU, softplus), or the last one in each block,
    which is the block's own output where the layers include it. Raises `SettingsError` for an unknown subset.
    """
    if which not in SUBSETS:
        raise unknown("subset of layers", which, SUBSETS)
    if which == RECTIFIED:
        return [i for i, layer in enumerate(layers) if layer.kind in ("ReLU", "GELU", "Softplus")]
    if which == ENDS:
        return sorted({layer.stage: i for i, layer in enumerate(layers)}.values())
    return list(range(len(layers)))


def summary(values, rows: Sequence, columns: Sequence, same: bool) -> dict[str, float]:
    """The numbers of a map [La, Lb] (lib.similarity.summaries): for a network with itself (`same`) the mean off the
    diagonal and, where every stage has two layers, the block index; for two networks the mean of all cells and, if
    they have the same layers, of equal layers. NaN cells are left out; how many there are is the last number.
    """
    import numpy as np

    from lib.similarity.summaries import block_index, blocks, mean_off_diagonal, same_layer

    values = np.asarray(values, dtype=float)
    need(values.shape == (len(rows), len(columns)), "shape of the map", values.shape, f"{len(rows)} x {len(columns)}")
    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the mean of nothing but NaN is NaN
        if same:
            if len(rows) > 1:
                found["mean off-diagonal"] = mean_off_diagonal(values)
            stages = blocks(rows)
            if len(stages) > 1 and min(map(len, stages)) > 1:
                found["block index"] = block_index(values, rows)
        else:
            found["mean of all pairs of layers"] = float(np.nanmean(values))
            if [layer.label for layer in rows] == [layer.label for layer in columns]:
                found["mean of equal layers"] = same_layer(values)
    return found | {"undefined pairs of layers": int(np.isnan(values).sum())}


def attended() -> bool:
    """Whether widgets make sense here: a kernel whose frontend can be asked for input. papermill and nbconvert cannot
    be asked, a batch run says so by REPRO_HEADLESS, and plain Python has no kernel.
    """
    if os.environ.get("REPRO_HEADLESS"):
        return False
    try:
        import ipywidgets  # noqa: F401
        from IPython import get_ipython
    except ImportError:
        return False
    kernel = getattr(get_ipython(), "kernel", None)
    return kernel is not None and bool(getattr(kernel, "_allow_stdin", True))


class Explorer:
    """What `similarity_explorer` shows. In code: `choose` a pair and a subset of layers, then `figure()`, `numbers()`.
    `widgets` holds the controls once the explorer is shown to a person (or `controls()` was called).
    """

    def __init__(self, maps, notes: Mapping[str, str] | None = None, live: bool | None = None):
        need(len(maps.views) > 0, "views", "empty", "a network or more")
        self.maps, self.notes = maps, dict(notes or {})
        for name in self.notes:
            if name not in maps.views:
                raise unknown("view", name, maps.views)
        self.live = attended() if live is None else live
        pairs = [tuple(pair) for pair in getattr(maps, "pairs", ())]  # those that were measured; without it all were
        other = [pair for pair in pairs if pair[0] != pair[1]]
        self.first, self.second = (other or pairs or [(maps.views[0], maps.views[min(1, len(maps.views) - 1)])])[0]
        self.which = ALL
        self.widgets: dict[str, object] = {}
        self._following = False  # the controls are being set from here, not by a person

    def choose(self, first: str, second: str, which: str = ALL) -> Explorer:
        """Set the pair of networks and the subset of layers. Raises `SettingsError` for an unknown name, or for a
        subset of which one of the networks has nothing.
        """
        for name in (first, second):
            if name not in self.maps.views:
                raise unknown("view", name, self.maps.views)
            allowed = f"one of which {name} has layers: {', '.join(self.subsets(name))}"
            need(bool(subset(self.maps.layers[name], which)), "subset of layers", which, allowed)
        self.first, self.second, self.which = first, second, which
        if self.widgets:
            self._draw()
        return self

    def subsets(self, *views: str) -> list[str]:
        """The subsets of layers that are not empty in any of these networks."""
        return [which for which in SUBSETS if all(subset(self.maps.layers[view], which) for view in views)]

    def selected(self) -> tuple:
        """The chosen map, [La, Lb], and the layers of its rows and of its columns."""
        import numpy as np

        sides = [self.maps.layers[view] for view in (self.first, self.second)]
        kept = [subset(layers, self.which) for layers in sides]
        values = np.asarray(self.maps.between(self.first, self.second), dtype=float)[np.ix_(*kept)]
        rows, columns = ([layers[i] for i in at] for layers, at in zip(sides, kept, strict=True))
        return values, rows, columns

    def numbers(self) -> dict[str, float]:
        """The summary of the chosen map."""
        values, rows, columns = self.selected()
        return summary(values, rows, columns, self.first == self.second)

    def reasons(self) -> list[str]:
        """Why rows and columns of the chosen map are undefined, a sentence each, as the maps give them."""
        _, rows, columns = self.selected()
        shown = {(view, layer.label) for view, side in ((self.first, rows), (self.second, columns)) for layer in side}
        return [f"{view}, {label}: {reason}" for (view, label), reason in getattr(self.maps, "undefined", {}).items()
                if (view, label) in shown]

    def figure(self):
        """The chosen map as a matplotlib figure, drawn as `lib.plots.similarity_maps` draws it."""
        import matplotlib.pyplot as plt

        values, rows, columns = self.selected()
        pair = tuple(dict.fromkeys((self.first, self.second)))
        title = " and ".join(pair) if len(pair) > 1 else f"{self.first} with itself"
        notes = {title: "; ".join(f"{view}: {self.notes[view]}" for view in pair if view in self.notes)}
        measure = getattr(self.maps, "measure", "similarity")
        figure = similarity_maps({title: values}, {title: (rows, columns)}, notes if notes[title] else None,
                                 {title: (self.first, self.second)}, MEASURES.get(measure, measure), label_layers=True)
        plt.close(figure)  # shown where it is asked for, not once more at the end of the cell
        return figure

    def controls(self):
        """The box of widgets, made at the first call: `first`, `second`, `layers`, the `picture` and the `numbers`."""
        if not self.widgets:
            self._make()
        return self.widgets["box"]

    def _make(self) -> None:
        import ipywidgets

        names, wide = list(self.maps.views), {"description_width": "110px"}
        first = ipywidgets.Dropdown(options=names, value=self.first, description="vertical", style=wide)
        second = ipywidgets.Dropdown(options=names, value=self.second, description="horizontal", style=wide)
        layers = ipywidgets.ToggleButtons(options=self.subsets(self.first, self.second), value=self.which,
                                          description="layers", style=wide)
        picture, numbers = ipywidgets.Image(format="png", width=600), ipywidgets.HTML()
        side = ipywidgets.VBox([first, second, layers, numbers])
        self.widgets = {"first": first, "second": second, "layers": layers, "picture": picture, "numbers": numbers,
                        "box": ipywidgets.HBox([side, picture])}
        for control in (first, second, layers):
            control.observe(self._changed, names="value")
        self._draw()

    def _changed(self, change) -> None:
        """A person has moved a control."""
        if not self._following:
            first, second, which = (self.widgets[name].value for name in ("first", "second", "layers"))
            self.choose(first, second, which if which in self.subsets(first, second) else ALL)

    def _draw(self) -> None:
        """Controls, picture and numbers follow the choice."""
        w, self._following = self.widgets, True
        w["first"].value, w["second"].value = self.first, self.second
        w["layers"].options = self.subsets(self.first, self.second)
        w["layers"].value = self.which
        self._following = False
        try:
            found, w["picture"].value = self.numbers(), png(self.figure())
        except OneLineError as error:  # such as a pair that was not measured
            w["picture"].value, w["numbers"].value = b"", f"<p>{escape(str(error))}</p>"
            return
        cells = (f"<tr><td style='padding-right: 1em'>{escape(name)}</td><td style='text-align: right'>"
                 f"{_text(value)}</td></tr>" for name, value in found.items())
        reasons = "".join(f"<p>{escape(reason)}</p>" for reason in self.reasons())
        w["numbers"].value = f"<div style='margin-left: 110px'><table>{''.join(cells)}</table>{reasons}</div>"

    def _ipython_display_(self) -> None:
        from IPython.display import display

        if self.live:
            display(self.controls())
            return
        found = ", ".join(f"{name} {_text(value)}" for name, value in self.numbers().items())
        print(f"{self.first} and {self.second}, {self.which}: {found}. In JupyterLab this cell is interactive.")
        display({"image/png": png(self.figure()), "text/plain": f"map of {self.first} and {self.second}"}, raw=True)


def _text(value: float) -> str:
    return str(value) if isinstance(value, int) else "–" if math.isnan(value) else f"{value:.3f}"


def png(figure) -> bytes:
    """A matplotlib figure as the bytes of a PNG file."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight")
    return buffer.getvalue()


def similarity_explorer(maps, notes: Mapping[str, str] | None = None, live: bool | None = None) -> Explorer:
    """Choose two networks (views) and a subset of layers, see their map and its summary.

    maps: what lib.similarity.maps gives: `.views` (names), `.layers[view]` (with `.label`, `.kind`, `.stage`) and
    `.between(a, b)`, an array [La, Lb]. notes: view -> a line about it, such as its accuracies, shown with the map.
    live: whether to show widgets; None finds out (see `attended`). Let it stand last in a cell; the figure of what is
    chosen can be saved with `study.figure(name, explorer.figure())`.
    """
    return Explorer(maps, notes, live)
