"""Controls below which a figure follows them, for people in JupyterLab; one figure for everybody else.

    from lib.plots.explorer import Explorer
    Explorer({"layer": layers, "keep": {"10 %": 0.1, "4 %": 0.04}}, draw)

`draw(layer=..., keep=...)` returns a matplotlib figure and a sentence. It must be quick: it is called at every change.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from html import escape
from io import BytesIO

from lib.errors import OneLineError, need, unknown
from lib.plots.style import CLEAN, ROBUST, VERIFIED, WIDTH, style

COLOURS = {"clean": CLEAN, "robust": ROBUST, "verified": VERIFIED}
LIVE = "In JupyterLab this cell is interactive."


def attended() -> bool:
    """Whether a person can use widgets here, that is, whether the kernel's frontend can be asked for input. It cannot
    under papermill and nbconvert, nor in plain Python, which has no kernel; a batch run sets REPRO_HEADLESS.
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


def png(figure) -> bytes:
    """A matplotlib figure as the bytes of a PNG file. The figure is closed, or a cell would show it a second time."""
    import matplotlib.pyplot as plt

    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=100)  # tight boxes would draw it twice
    plt.close(figure)
    return buffer.getvalue()


def stacked(controls: Sequence, picture, numbers):
    """A box with the controls in rows, as many to a row as fit, above the text and the picture. It fits any width."""
    import ipywidgets

    row = ipywidgets.Box(list(controls), layout=ipywidgets.Layout(flex_flow="row wrap", width="100%"))
    picture.layout = ipywidgets.Layout(width="auto", max_width="100%", align_self="flex-start")
    return ipywidgets.VBox([row, numbers, picture], layout=ipywidgets.Layout(width="100%", overflow="hidden"))


def put(picture, data: bytes) -> None:
    """Show the bytes of a PNG file in an image widget; without any, hide it, or browsers show a torn picture."""
    picture.value, picture.layout.display = data, None if data else "none"


def dropdown(name: str, options, value):
    """A drop-down list whose name and entries are never cut off."""
    import ipywidgets

    longest = max([len(str(one[0] if isinstance(one, tuple) else one)) for one in options], default=0)
    wide = ipywidgets.Layout(width=f"{0.62 * len(name) + 0.6 * longest + 4:.1f}em", max_width="100%",
                             margin="2px 1em 2px 0")
    return ipywidgets.Dropdown(options=options, value=value, description=name, style={"description_width": "initial"},
                               layout=wide)


class Explorer:
    """Shown at the end of a cell: a drop-down list for each control, a sentence and a figure. From code: `choose`, then
    `figure()` and `sentence()`. `widgets` holds the controls by name once they were shown or `controls()` was called.

    options: {name: values, or {text: value} if the texts say more}, at least one of each; the first are chosen. draw:
    from one value of each to (figure, sentence); a OneLineError is shown instead of a figure. live: whether to show
    widgets; None decides by `attended`.
    """

    def __init__(self, options: Mapping[str, Sequence | Mapping], draw: Callable[..., tuple], live: bool | None = None):
        for name, values in options.items():
            need(len(values) > 0, f"choices of {name}", "none", "at least one")
        self.options = {name: dict(values) if isinstance(values, Mapping) else {str(one): one for one in values}
                        for name, values in options.items()}
        self.draw, self.live = draw, attended() if live is None else live
        self.choice = {name: next(iter(values.values())) for name, values in self.options.items()}
        self.widgets: dict[str, object] = {}
        self._box = None

    def choose(self, **choice) -> Explorer:
        """Set some of the controls. Raises SettingsError for an unknown name or value."""
        for name, value in choice.items():
            if name not in self.options:
                raise unknown("control", name, self.options)
            need(value in self.options[name].values(), name, value, f"one of {', '.join(self.options[name])}")
        self.choice |= choice
        for name in choice.keys() & self.widgets.keys():
            self.widgets[name].value = self.choice[name]
        return self

    def figure(self):
        """The figure of the choice."""
        return self.draw(**self.choice)[0]

    def sentence(self) -> str:
        """What the figure of the choice says, in a sentence."""
        import matplotlib.pyplot as plt

        figure, sentence = self.draw(**self.choice)
        plt.close(figure)
        return sentence

    def controls(self):
        """The box of widgets, made at the first call."""
        if self._box is None:
            import ipywidgets

            self._picture, self._said = ipywidgets.Image(format="png"), ipywidgets.HTML()
            for name, values in self.options.items():
                self.widgets[name] = dropdown(name, list(values.items()), self.choice[name])
                self.widgets[name].observe(self._changed, names="value")
            self._box = stacked(self.widgets.values(), self._picture, self._said)
            self._show()
        return self._box

    def _changed(self, change) -> None:
        self.choice = {name: widget.value for name, widget in self.widgets.items()}
        self._show()

    def _show(self) -> None:
        try:
            figure, sentence = self.draw(**self.choice)
            put(self._picture, png(figure))
        except OneLineError as error:  # such as a network that was not measured
            put(self._picture, b"")
            sentence = str(error)
        self._said.value = f"<p>{escape(sentence)}</p>"

    def _ipython_display_(self) -> None:
        from IPython.display import display

        if self.live:
            display(self.controls())
            return
        figure, sentence = self.draw(**self.choice)
        said = ", ".join(f"{name} {text}" for name, values in self.options.items() for text, value in values.items()
                         if value == self.choice[name])
        print(f"{said}: {sentence} {LIVE}")
        display({"image/png": png(figure), "text/plain": said}, raw=True)


def accuracy_bars(rows: Mapping[str, Mapping[str, Sequence[float]]], title: str = ""):
    """A figure with a row per network: a bar for each measure (`clean`, `robust`, `verified`), the mean over
    repetitions, each of which is a dot. rows: {network: {measure: accuracies in [0, 1]}}. Raises SettingsError for no
    rows.
    """
    import matplotlib.pyplot as plt
    import numpy as np
    from matplotlib.patches import Patch
    from matplotlib.ticker import PercentFormatter

    need(len(rows) > 0, "networks to show", "none", "at least one")
    style()
    measures = [name for name in COLOURS if any(name in row for row in rows.values())]
    figure, axis = plt.subplots(figsize=(0.85 * WIDTH, 0.9 + 0.28 * len(rows) * len(measures)), layout="constrained")
    high = 0.8 / len(measures)
    for place, row in enumerate(rows.values()):
        for number, name in enumerate(measures):
            if name in row and len(values := np.asarray(row[name], float)):
                y = place - 0.4 + (number + 0.5) * high
                axis.barh(y, np.nanmean(values), 0.9 * high, color=COLOURS[name], alpha=0.75)
                axis.plot(values, np.full(len(values), y), ".", color="#222222", markersize=4)
    axis.set_yticks(range(len(rows)), list(rows))
    axis.invert_yaxis()
    axis.grid(False, axis="y")
    axis.set_xlim(0, 1)
    axis.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axis.set_xlabel("accuracy: bar, mean; dots, repetitions")
    if title:
        axis.set_title(title, loc="left")
    keys = [Patch(color=COLOURS[name], alpha=0.75, label=name) for name in measures]
    figure.legend(handles=keys, loc="outside upper right", ncols=len(keys), frameon=False)
    return figure


def percent(values) -> str:
    """The mean of accuracies as text, such as `93.2 %`; `–` for none."""
    import numpy as np

    values = np.asarray(values, float)
    values = values[~np.isnan(values)]
    return f"{values.mean():.1%}".replace("%", " %") if len(values) else "–"
