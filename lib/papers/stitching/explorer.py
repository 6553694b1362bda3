"""Explore stitched networks: choose a pair, a joint and a share of adversarial images, and see the accuracies next to
those of the two networks and of the controls at the same joint.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from lib.errors import SettingsError
from lib.papers.stitching.networks import CORE, DIRECT, PAIRS
from lib.papers.stitching.settings import Section
from lib.plots.explorer import Explorer, accuracy_bars, percent

if TYPE_CHECKING:
    import pandas as pd



def explorer(cells: pd.DataFrame, section: Section, live: bool | None = None) -> Explorer:
    """The controls `pair`, `joint` and `alpha` (the share of adversarial images in the joint's training).

    cells: as returned by `tables.measured_at`. Robust accuracy is under the search attack.
    """
    ends = cells[cells.role == "endpoint"]

    def known(name: str) -> str:
        mine = _accuracies(ends[ends.pair == name])
        return f"{name} {percent(mine.get('clean', []))} / {percent(mine.get('robust', []))}"

    pairs = {f"{pair} ({' → '.join(known(name.rstrip('2')) for name in pair.split('->'))})": pair for pair in PAIRS}

    def draw(pair: str, joint: str, alpha: float) -> tuple:
        front, end = pair.split("->")
        here = cells[(cells.joint == joint) & (cells.alpha == alpha)]
        mine = _accuracies(here[(here.role == "pair") & (here.pair == pair)])
        if not mine:
            raise SettingsError(f"{pair} after {joint} at alpha = {alpha:g} was not measured in this run")
        rows = {f"{name.rstrip('2')} itself": _accuracies(ends[ends.pair == name.rstrip("2")])
                for name in (front, end)} | {f"{pair} stitched": mine}
        for role in (*CORE[2:], DIRECT):
            for other, some in here[here.role == role].groupby("pair", sort=False):
                if {*other.split("->")} & {front.rstrip("2"), end.rstrip("2")}:
                    rows[f"{role}, {other}"] = _accuracies(some)
        said = ", ".join(f"{name} {percent(values)}" for name, values in mine.items())
        return accuracy_bars(rows, f"{pair} after {joint}, alpha = {alpha:g}"), f"Stitched: {said}."

    joints = [*section.blocks, *(joint for joint in section.joints if joint not in section.blocks)]  # ours come last
    return Explorer({"pair": pairs, "joint": joints, "alpha": [float(a) for a in section.alphas][::-1]},
                    draw, live)


def _accuracies(rows: pd.DataFrame) -> Mapping[str, list[float]]:
    """{measure: accuracies of the repetitions}, of rows of the table of cells."""
    return {name: rows.accuracy[rows.measure == measure].tolist() for measure, name in
            (("clean", "clean"), ("search", "robust")) if (rows.measure == measure).any()}
