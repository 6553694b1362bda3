"""The look of the figures: one palette and one style for the suite, and what several figures share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import cycle

from lib.errors import SettingsError, need

WIDTH = 10.0  # inches: the width of a notebook

# One meaning per colour, safe for colour-blind readers. Accuracies: blue is clean, red robust, amber verified.
CLEAN, ROBUST, VERIFIED, GREY = "#2166ac", "#c0392b", "#e08a00", "#7f7f7f"

# Colours of kinds of network, by their short and long names. A kind that begins with one of these words, such as
# `R wide`, gets a tint of that colour; any other kind gets one of `_SPARE`, by its place in the figure.
_MATCHED, _HALF = "#9ccbf2", "#4b1d7a"
KINDS = {
    "N": CLEAN,
    "normal": CLEAN,
    "R": ROBUST,
    "robust": ROBUST,
    "M": _MATCHED,  # normal, stopped at the robust network's clean accuracy
    "matched": _MATCHED,
    "matched normal": _MATCHED,
    "U": GREY,
    "untrained": GREY,
    "noise": "#5fcfa0",
    "TRADES": "#e69f00",
    "half": _HALF,  # half clean, half adversarial cross-entropy
    "half adversarial": _HALF,
    "FGSM-RS": "#4a2c0a",
    "eps": ROBUST,  # adversarial training at another strength: `eps 2/255`
    "linf": ROBUST,
    "l2": "#e377c2",
    "jpeg": "#2f2a80",
    "gabor": "#8a8a1f",
    "snow": "#35b8c9",
    "overfits": ROBUST,
    "control": "#4d4d4d",
    # pruning methods; two methods with the same rates have a dark and a light shade of one colour
    "dense": "#1a1a1a",
    "pre-trained": "#8c8c8c",
    "HARP": "#d55e00",
    "rates only": "#f4a460",
    "HARP, no decay on rates": "#8c3a00",
    "HARP, constant gamma": "#e7a08a",
    "HYDRA": "#0072b2",
    "LWM": "#6cb8e6",
    "random": "#a9a9a9",
    "global magnitude": "#6b6b00",
    "HYDRA + data-free": "#00795a",
    "data-free": "#45c29a",
    "HYDRA + LAMP": "#8e3b77",
    "LAMP": "#d68fc0",
    "HYDRA + ERK": "#9c8500",
    "ERK": "#d9c84a",
    "HYDRA + HARP rates": "#5b2bb0",
    "R-ADMM": "#c2185b",
    "R-ADMM + ERK": "#e37fa6",
    "R-ADMM + LAMP": "#7d0f3a",
    "BCS-P": "#7a5230",
    "SNIP": "#f2b600",
    "iterative LWM": "#00238c",
    "filters": "#b0305a",
}
_SPARE = ("#b2df8a", "#a6761d", "#fdbf6f", "#00664f", "#c7a17a", "#e7298a")

_LINES = ("-", "--", ":", "-.")


# seaborn's theme `whitegrid` at the font scale 0.85, with a fainter grid and no spines above and on the right.
# Importing seaborn for these numbers would take each notebook two seconds.
_DEEP = ("#4c72b0", "#dd8452", "#55a868", "#c44e52", "#8172b3", "#937860", "#da8bc3", "#8c8c8c", "#ccb974", "#64b5cd")
_STYLE = {
    "axes.axisbelow": True, "axes.edgecolor": ".8", "axes.grid": True, "axes.labelcolor": ".15",
    "axes.labelsize": 10.2, "axes.linewidth": 1.25, "axes.spines.right": False, "axes.spines.top": False,
    "axes.titlesize": 10.2, "figure.dpi": 110, "font.size": 10.2,
    "font.sans-serif": ["Arial", "DejaVu Sans", "Liberation Sans", "Bitstream Vera Sans", "sans-serif"],
    "grid.alpha": 0.4, "grid.color": ".8", "grid.linewidth": 1, "legend.fontsize": 9.35, "legend.title_fontsize": 10.2,
    "lines.solid_capstyle": "round", "patch.edgecolor": "w", "patch.force_edgecolor": True, "text.color": ".15",
    **{f"{axis}tick.{name}": value for axis in "xy" for name, value in {
        "color": ".15", "labelsize": 9.35, "major.size": 6, "major.width": 1.25, "minor.size": 4, "minor.width": 1,
    }.items()}, "xtick.bottom": False, "ytick.left": False,
}


def style():
    """Set the suite's figure style; every function that draws calls this."""
    import matplotlib

    matplotlib.rcParams.update({**_STYLE, "axes.prop_cycle": matplotlib.cycler(color=_DEEP)})


def colours(kinds: Iterable[str]) -> dict[str, str]:
    """{kind: colour '#rrggbb'} for kinds of network, in the order given. A kind named in `KINDS` has the same colour in
    every figure, a kind that begins with a word of `KINDS` a tint of it, and any other kind a colour that `KINDS` does
    not use. Raises SettingsError if there are more kinds than spare colours.
    """
    kinds = list(dict.fromkeys(kinds))
    family = {kind: kind.split(" ")[0] for kind in kinds if kind not in KINDS and kind.split(" ")[0] in KINDS}
    others = [kind for kind in kinds if kind not in KINDS and kind not in family]
    allowed = f"at most {len(_SPARE)}, or kinds named in lib.plots.KINDS ({', '.join(KINDS)})"
    need(len(others) <= len(_SPARE), "kinds without a colour of their own", ", ".join(others), allowed)
    found = KINDS | dict(zip(others, _SPARE, strict=False))
    for kind, name in family.items():
        relatives = [other for other, word in family.items() if KINDS[word] == KINDS[name]]
        found[kind] = _tint(KINDS[name], 0.25 + 0.4 * relatives.index(kind) / len(relatives))
    return {kind: found[kind] for kind in kinds}


def _tint(colour: str, share: float) -> str:
    """`colour` mixed with a share of white."""
    parts = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(part + share * (255 - part)):02x}" for part in parts)


def line_styles(names: Iterable[str]) -> dict[str, str]:
    """{name: line style}, in the order given. Raises SettingsError if there are more names than styles."""
    names = list(dict.fromkeys(names))
    need(len(names) <= len(_LINES), "lines to tell apart", ", ".join(names), f"at most {len(_LINES)}")
    return dict(zip(names, _LINES, strict=False))


def markers(names: Iterable[str]) -> dict[str, str]:
    """{name: marker}, in the order given, to tell lines apart without colours; after ten names they repeat."""
    return dict(zip(dict.fromkeys(names), cycle("os^DvPX<>p"), strict=False))


def check_columns(table, *names: str, what: str = "table") -> None:
    """Raise SettingsError unless the DataFrame `table` has rows and all columns `names`; `what` names it in the error.
    """
    missing = [name for name in names if name not in table]
    if missing:
        raise SettingsError(
            f"{what} lacks the column{'s' if len(missing) > 1 else ''} {', '.join(missing)}: "
            f"it must have {', '.join(names)} (it has {', '.join(map(str, table.columns)) or 'none'})"
        )
    need(len(table) > 0, what, "a table without rows", f"one with at least one row of {', '.join(names)}")


def curve(axis, table, x: str, y: str, colour: str, label: str | None = None, line: str = "-",
          marker: str | None = None, shade: bool = True, dots: bool = False, thin: bool = False, xs: Sequence = ()):
    """Draw the mean over seeds of column `y` against column `x`, and the seeds: their range shaded, dots, thin lines.

    table: columns `seed`, x and y; rows of one seed at the same x are averaged; NaN leaves a gap. xs: where there
    should be a value (by default all values of `x`); a value that is missing there leaves a gap too.
    """
    xs = list(xs) or sorted(table[x].unique())
    wide = table.pivot_table(index="seed", columns=x, values=y).reindex(columns=xs)
    if shade:
        axis.fill_between(xs, wide.min(), wide.max(), color=colour, alpha=0.15, linewidth=0)
    axis.plot(xs, wide.mean(), line, color=colour, marker=marker, markersize=5, label=label)
    for _, row in wide.iterrows():
        if dots:
            axis.plot(xs, row, ".", color=colour, alpha=0.45, markersize=4)
        if thin:
            axis.plot(xs, row, line, color=colour, alpha=0.4, linewidth=0.7)


def spans(layers: Sequence) -> list[tuple[str, int, int]]:
    """(stage name, first position, position after the last) for each run of consecutive layers of one stage.

    layers: objects with `.stage`, such as `layer1.0`; the blocks of a stage belong together (`layer1`).
    """
    found: list[tuple[str, int, int]] = []
    for position, layer in enumerate(layers):
        name = layer.stage.partition(".")[0]
        start = found.pop()[1] if found and found[-1][0] == name else position
        found.append((name, start, position + 1))
    return found


def stage_ticks(axis, layers: Sequence, way: str = "x", room: float = 10.0) -> list[float]:
    """Write the names of the stages of `layers` along an axis ('x' or 'y') whose unit is the position of a layer, each
    at the middle of its layers. Returns the boundaries between stages, halfway between positions.

    room: how many names fit along the axis; names that do not fit are left out, but boundaries never are.
    """
    found = spans(layers)
    apart = len(layers) / room
    names: list[tuple[str, float]] = []
    for name, start, stop in sorted(found, key=lambda span: span[1] - span[2]):  # the widest first
        middle = (start + stop - 1) / 2
        if all(abs(middle - other) >= apart for _, other in names):
            names.append((name, middle))
    getattr(axis, f"set_{way}ticks")([middle for _, middle in names], [name for name, _ in names])
    axis.tick_params(axis=way, length=0)
    return [start - 0.5 for _, start, _ in found[1:]]
