"""Explore similarity maps in JupyterLab: choose two networks and their layers, see the map and its numbers.

    from lib.similarity.explorer import similarity_explorer
    similarity_explorer(maps)

Without a person at the notebook (papermill, nbconvert, a batch run, plain Python) it shows the map of the first two
networks and says so.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from html import escape

from lib.errors import OneLineError, need, unknown
from lib.plots.explorer import LIVE, attended, dropdown, png, put, stacked
from lib.plots.maps import similarity_maps

ALL, RECTIFIED, ENDS = "all layers", "ReLU outputs", "last of each block"
SUBSETS = (ALL, RECTIFIED, ENDS)
MEASURES = {"cka": "CKA", "cka_biased": "biased CKA", "cca": "CCA", "svcca": "SVCCA", "pwcca": "PWCCA",
            "procrustes": "Procrustes similarity"}


def subset(layers: Sequence, which: str) -> list[int]:
    """Positions of the layers of a subset: all layers, the outputs of ReLU (GELU, softplus), or the last layer of each
    block, which is the block's output if the layers include it. Raises SettingsError for an unknown subset.
    """
    if which not in SUBSETS:
        raise unknown("subset of layers", which, SUBSETS)
    if which == RECTIFIED:
        return [i for i, layer in enumerate(layers) if layer.kind in ("ReLU", "GELU", "Softplus")]
    if which == ENDS:
        return sorted({layer.stage: i for i, layer in enumerate(layers)}.values())
    return list(range(len(layers)))


def summary(values, rows: Sequence, columns: Sequence, same: bool) -> dict[str, float]:
    """The summaries of a map [La, Lb] (lib.similarity.summaries). For a network with itself (`same`): the mean off the
    diagonal and, if every stage has at least two layers, the block index. For two networks: the mean of all cells and,
    if they have the same layers, of equal layers. NaN cells are left out; the last number counts them. Raises
    SettingsError if the shape does not fit the layers `rows` and `columns`.
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


class Explorer:
    """The object that `similarity_explorer` shows. From code: `choose` a pair and a subset of layers, then call
    `figure()` or `numbers()`. `widgets` holds the controls after the explorer was shown or `controls()` was called.
    """

    def __init__(self, maps, notes: Mapping[str, str] | None = None, live: bool | None = None):
        need(len(maps.views) > 0, "views", "empty", "at least one network")
        self.maps, self.notes = maps, dict(notes or {})
        for name in self.notes:
            if name not in maps.views:
                raise unknown("view", name, maps.views)
        self.live = attended() if live is None else live
        pairs = [tuple(pair) for pair in getattr(maps, "pairs", ())]  # the measured pairs; without this attribute, all
        other = [pair for pair in pairs if pair[0] != pair[1]]
        self.first, self.second = (other or pairs or [(maps.views[0], maps.views[min(1, len(maps.views) - 1)])])[0]
        self.which = ALL
        self.widgets: dict[str, object] = {}
        self._following = False  # True while code, not a person, sets the controls

    def choose(self, first: str, second: str, which: str = ALL) -> Explorer:
        """Set the pair of networks and the subset of layers. Raises SettingsError for an unknown name, and for a subset
        that is empty in one of the networks.
        """
        for name in (first, second):
            if name not in self.maps.views:
                raise unknown("view", name, self.maps.views)
            allowed = f"a subset that {name} has layers of: {', '.join(self.subsets(name))}"
            need(bool(subset(self.maps.layers[name], which)), "subset of layers", which, allowed)
        self.first, self.second, self.which = first, second, which
        if self.widgets:
            self._draw()
        return self

    def subsets(self, *views: str) -> list[str]:
        """The subsets of which each of these networks has at least one layer."""
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
        """The summaries of the chosen map (`summary`)."""
        values, rows, columns = self.selected()
        return summary(values, rows, columns, self.first == self.second)

    def reasons(self) -> list[str]:
        """Why rows and columns of the chosen map are undefined, one sentence for each."""
        _, rows, columns = self.selected()
        shown = {(view, layer.label) for view, side in ((self.first, rows), (self.second, columns)) for layer in side}
        return [f"{view}, {label}: {reason}" for (view, label), reason in getattr(self.maps, "undefined", {}).items()
                if (view, label) in shown]

    def figure(self):
        """The chosen map as a matplotlib figure (`lib.plots.maps.similarity_maps`)."""
        import matplotlib.pyplot as plt

        values, rows, columns = self.selected()
        pair = tuple(dict.fromkeys((self.first, self.second)))
        title = " and ".join(pair) if len(pair) > 1 else f"{self.first} with itself"
        notes = {title: "; ".join(f"{view}: {self.notes[view]}" for view in pair if view in self.notes)}
        measure = getattr(self.maps, "measure", "similarity")
        figure = similarity_maps({title: values}, {title: (rows, columns)}, notes if notes[title] else None,
                                 {title: (self.first, self.second)}, MEASURES.get(measure, measure), label_layers=True)
        plt.close(figure)  # or the cell would show it a second time at its end
        return figure

    def controls(self):
        """The box of widgets (`first`, `second`, `layers`, `picture`, `numbers`), made at the first call."""
        if not self.widgets:
            self._make()
        return self.widgets["box"]

    def _make(self) -> None:
        import ipywidgets

        names = [(f"{view} ({self.notes[view]})" if view in self.notes else view, view) for view in self.maps.views]
        first, second = dropdown("vertical", names, self.first), dropdown("horizontal", names, self.second)
        layers = dropdown("layers", self.subsets(self.first, self.second), self.which)
        picture, numbers = ipywidgets.Image(format="png"), ipywidgets.HTML()
        self.widgets = {"first": first, "second": second, "layers": layers, "picture": picture, "numbers": numbers,
                        "box": stacked((first, second, layers), picture, numbers)}
        for control in (first, second, layers):
            control.observe(self._changed, names="value")
        self._draw()

    def _changed(self, change) -> None:
        """Follow a control that a person has changed."""
        if not self._following:
            first, second, which = (self.widgets[name].value for name in ("first", "second", "layers"))
            self.choose(first, second, which if which in self.subsets(first, second) else ALL)

    def _draw(self) -> None:
        """Update controls, picture and numbers to the choice."""
        w, self._following = self.widgets, True
        w["first"].value, w["second"].value = self.first, self.second
        w["layers"].options = self.subsets(self.first, self.second)
        w["layers"].value = self.which
        self._following = False
        try:
            found, picture = self.numbers(), png(self.figure())
        except OneLineError as error:  # such as a pair that was not measured
            put(w["picture"], b"")
            w["numbers"].value = f"<p>{escape(str(error))}</p>"
            return
        put(w["picture"], picture)
        cells = (f"<tr><td style='padding-right: 1em'>{escape(name)}</td><td style='text-align: right'>"
                 f"{_text(value)}</td></tr>" for name, value in found.items())
        reasons = "".join(f"<p>{escape(reason)}</p>" for reason in self.reasons())
        w["numbers"].value = f"<table>{''.join(cells)}</table>{reasons}"

    def _ipython_display_(self) -> None:
        from IPython.display import display

        if self.live:
            display(self.controls())
            return
        found = ", ".join(f"{name} {_text(value)}" for name, value in self.numbers().items())
        print(f"{self.first} and {self.second}, {self.which}: {found}. {LIVE}")
        display({"image/png": png(self.figure()), "text/plain": f"map of {self.first} and {self.second}"}, raw=True)


def _text(value: float) -> str:
    return str(value) if isinstance(value, int) else "–" if math.isnan(value) else f"{value:.3f}"


def similarity_explorer(maps, notes: Mapping[str, str] | None = None, live: bool | None = None) -> Explorer:
    """Choose two networks (views) and a subset of layers, and see their map and its summaries.

    maps: a `lib.similarity.maps.Maps`, with `.views` (names), `.layers[view]` (with `.label`, `.kind`, `.stage`) and
    `.between(a, b)`, an array [La, Lb]. notes: view -> a line about it, such as its accuracies, shown with the map.
    live: whether to show widgets; None decides by `attended`. Call it in the last line of a cell. The figure of the
    choice can be saved with `study.figure(name, explorer.figure())`. Raises SettingsError for notes of unknown views.
    """
    return Explorer(maps, notes, live)
