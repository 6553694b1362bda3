"""What the figures against the strength of regularisers share: colours, and the axis of strengths.

The axis is logarithmic; strength 0 is at its left end, behind a dotted line.
"""

from __future__ import annotations

from collections.abc import Sequence

ON, OFF, ALIGNED, MATCHED = "#1b7f4f", "#c2185b", "#5b3fa0", "#9a8a00"
STRENGTHS = {"gradient norm": "weight", "smoothness": "weight", "noise": "standard deviation",
             "PGD": "ε (l2, per image)"}


def _places(strengths: Sequence[float]) -> dict[float, float]:
    """{strength: position on the axis}: the decimal logarithm, and for strength 0 one step before the first."""
    import numpy as np

    strengths = sorted({float(s) for s in strengths})
    above = [s for s in strengths if s > 0]
    logs = np.log10(above)
    step = float(np.clip(np.median(np.diff(logs)), 0.3, 1)) if len(logs) > 1 else 0.5
    places = dict(zip(above, logs.tolist(), strict=True))
    return ({0.0: places[above[0]] - step} if 0.0 in strengths else {}) | places


def placed(table, kind: str):
    """The rows of a regulariser with their position on the axis in the column `place`, and {strength: position}."""
    mine = table[table.kind == kind]
    places = _places(mine.strength)
    return mine.assign(place=mine.strength.astype(float).map(places)), places


def kinds(table) -> list[str]:
    """The regularisers with at least one strength above 0; others failed at all of them."""
    return list(dict.fromkeys(table.kind[table.strength > 0]))


def strength_axis(axis, places: dict[float, float], kind: str, label: bool = True) -> None:
    """Put ticks at strengths as far as their labels fit, decades first, and a dotted line behind strength 0."""
    import numpy as np

    low, high = min(places.values()), max(places.values())
    pad = 0.06 * max(high - low, 0.5)
    axis.set_xlim(low - pad, high + pad)
    ticks, least = {}, 0.17 * (high - low)
    above = [s for s in places if s > 0]
    decades = [s for s in above if np.isclose(places[s] % 1, 0) or np.isclose(places[s] % 1, 1)]
    for strength in [s for s in (0.0, above[-1]) if s in places] + decades + above:
        if all(abs(places[strength] - places[other]) >= least for other in ticks):
            ticks[strength] = f"{strength:g}"
    axis.set_xticks([places[s] for s in ticks], list(ticks.values()) if label else [""] * len(ticks))
    axis.set_xticks(list(places.values()), minor=True)
    axis.tick_params(axis="x", which="both", labelsize=8, bottom=True, length=3)
    axis.grid(False, axis="x")
    if 0.0 in places:
        axis.axvline((places[0.0] + places[above[0]]) / 2, color="#999999", linewidth=0.8, linestyle=(0, (1, 2)))
    if label:
        axis.set_xlabel(STRENGTHS.get(kind, "strength"), fontsize=9)
