"""Explore compact networks: choose a network, how much of it is kept and the last training, and see the accuracies
after every pruning rule next to those of the network that was not pruned.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lib.errors import SettingsError
from lib.papers.compact_robust_pruning.networks import DENSE
from lib.plots.explorer import Explorer, accuracy_bars, percent

if TYPE_CHECKING:
    import pandas as pd


def explorer(table: pd.DataFrame, live: bool | None = None) -> Explorer:
    """The controls `network`, `kept` and `tuning` (the loss of the last training). table: a row per network and
    measure, see `Results.table`.
    """
    table = table.assign(fine=table.fine.fillna(""))
    keeps = list(table.keep[table.keep < 1].value_counts().index)  # first the share at which most was measured
    fines = sorted({*table.fine} - {""}, reverse=True)

    def draw(network: str, kept: float, tuning: str) -> tuple:
        mine = table[(table.net == network)]
        pruned = mine[(mine.keep == kept) & (mine.fine == tuning)]
        if not len(pruned):
            raise SettingsError(f"{network} with {100 * kept:.3g} % of its weights and {tuning} fine-tuning was not "
                                "measured in this run")
        rows = {f"{pre}, not pruned": _accuracies(some)
                for pre, some in mine[(mine.rule == DENSE) & (mine.fine == "")].groupby("pre", sort=False)}
        rows |= {f"{pre} > {rule}{', longer' * bool(longer)} > {tuning}": _accuracies(some)
                 for (pre, rule, longer), some in pruned.groupby(["pre", "rule", "longer"], sort=False)}
        best, found = max(list(rows.items())[-pruned.groupby(["pre", "rule", "longer"]).ngroups:],
                          key=lambda row: sum(row[1].get("robust", [0])))
        said = f"The most robust with {100 * kept:.3g} % of the weights is {best}: " + ", ".join(
            f"{name} {percent(values)}" for name, values in found.items())
        return accuracy_bars(rows, f"{network}, {100 * kept:.3g} % of the weights kept"), f"{said}."

    networks = {f"{net} ({_alone(table[table.net == net])})": net for net in dict.fromkeys(table.net)}
    shares = {f"{100 * keep:.3g} %": keep for keep in keeps}
    return Explorer({"network": networks, "kept": shares, "tuning": fines}, draw, live)


def _alone(rows: pd.DataFrame) -> str:
    """The accuracies of the robust network before pruning."""
    found = _accuracies(rows[(rows.rule == DENSE) & (rows.fine == "") & (rows.pre == "robust")])
    return ", ".join(f"{name} {percent(values)}" for name, values in found.items())


def _accuracies(rows: pd.DataFrame) -> dict[str, list[float]]:
    """{measure: accuracies of the repetitions}."""
    return {measure: rows.accuracy[rows.measure == measure].tolist()
            for measure in ("clean", "robust", "verified") if (rows.measure == measure).any()}
