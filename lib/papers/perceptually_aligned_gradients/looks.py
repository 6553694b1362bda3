"""How methods (ways of training) look in the figures of the notebook on perceptually aligned gradients.

A method has the same colour and marker in all figures, and the methods of a group have similar colours: blue without
alignment, violet and green for alignment with meaningful targets, grey and brown for controls, red and orange for
adversarial training, pink for both together. Class-centred targets (`X, centred`) have the colour of X and a hollow
marker.
"""

from __future__ import annotations

from lib.errors import impossible, need, unknown
from lib.plots.style import CLEAN, ROBUST, check_columns

VANILLA, REALISATION, CONTROL, ADVERSARIAL, BOTH = (
    "vanilla", "realisation", "control", "adversarial training", "adversarial training with alignment")
GROUPS = {VANILLA: "no alignment", REALISATION: "aligned gradients", CONTROL: "controls",
          ADVERSARIAL: "adversarial training", BOTH: "both"}
LINES = {VANILLA: ":", REALISATION: "-", CONTROL: "--", ADVERSARIAL: "-.", BOTH: "-"}
METHODS = {
    "vanilla": (CLEAN, "o"),
    "one image": ("#8a8a1f", "^"),
    "class mean": ("#45c29a", "s"),
    "nearest neighbour": ("#1b7f4f", "D"),
    "score": ("#5b3fa0", "o"),
    "random direction": ("#b0b0b0", "v"),
    "permuted classes": ("#333333", "X"),
    "permuted images": ("#7f7f7f", "P"),
    "gradient norm": ("#7a5230", "h"),
    "logit": ("#c7a17a", "<"),
}
_SPARE = {  # looks of methods that are not named above, by group and order of appearance
    VANILLA: ((CLEAN, "o"), ("#9ccbf2", "s")),
    REALISATION: (("#8e7cc3", "p"), ("#00664f", ">"), ("#b2df8a", "*")),
    CONTROL: (("#5d4037", "d"), ("#a6761d", "*"), ("#d0c0b0", "p")),
    ADVERSARIAL: ((ROBUST, "s"), ("#e08a00", "D"), ("#7d1f14", "^"), ("#f4a460", "v"), ("#e7a08a", "p")),
    BOTH: (("#c2185b", "*"), ("#e377c2", "P"), ("#8e3b77", "X"), ("#f2a7cf", "d")),
}
_CENTRED = ", centred"


def looks(table) -> dict[str, tuple[str, str, bool]]:
    """{method: (colour, marker, whether it is filled)}, group by group, within a group in the order of the table.

    table: columns `method` and `group` (one of GROUPS). Raises SettingsError for unknown groups, a method in two
    groups, and more methods than a group has looks.
    """
    check_columns(table, "method", "group")
    for group in table.group.unique():
        if group not in GROUPS:
            raise unknown("group of methods", group, GROUPS)
    pairs = table[["method", "group"]].drop_duplicates()
    for method in pairs.method[pairs.method.duplicated()]:
        raise impossible("group", list(pairs.group[pairs.method == method]), f"one only for the method {method}")
    found = {}
    for group in GROUPS:
        others = iter(_SPARE[group])
        for method in pairs.method[pairs.group == group]:
            name = method.removesuffix(_CENTRED)
            look = METHODS.get(name) or next(others, None)
            allowed = f"at most {len(_SPARE[group])} besides METHODS"
            need(look is not None, f"methods of the group {group}", method, allowed)
            found[method] = (*look, name == method)
    return found


def keys(table) -> list:
    """Legend entries of the methods: the marker and the group's line style."""
    from matplotlib.lines import Line2D

    groups = dict(zip(table.method, table.group, strict=True))
    return [Line2D([], [], color=colour, marker=mark, markersize=6, markerfacecolor=colour if filled else "white",
                   linestyle=LINES[groups[method]], label=method)
            for method, (colour, mark, filled) in looks(table).items()]


def named(table) -> dict[str, str]:
    """{method: its name in a figure}: with the weight of the alignment term if the table gives one above 0."""
    if "weight" not in table:
        return {method: method for method in table.method.unique()}
    weights = table.groupby("method").weight.first()
    return {method: f"{method}, λ {weight:g}" if weight > 0 else method for method, weight in weights.items()}
