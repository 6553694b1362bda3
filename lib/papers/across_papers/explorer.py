"""Explore the networks: choose two lenses, and see every network by what these say of it."""

from __future__ import annotations

from lib.papers.across_papers.tables import LENSES
from lib.plots.explorer import Explorer
from lib.plots.style import WIDTH, markers, style
from lib.statistics import correlation


def explorer(table, live: bool | None = None) -> Explorer:
    """The controls `across` and `up`, each a lens. table: as returned by `tables.lenses`."""
    kinds = list(dict.fromkeys(table["kind"]))

    def draw(across: str, up: str) -> tuple:
        import matplotlib.pyplot as plt

        style()
        figure, axis = plt.subplots(figsize=(WIDTH * 0.8, 4.5), layout="constrained")
        for (kind, mark), colour in zip(markers(kinds).items(), plt.cm.tab20.colors, strict=False):
            mine = table[table["kind"] == kind]
            axis.plot(mine[across], mine[up], mark, color=colour, label=kind)
        axis.set(xlabel=LENSES[across], ylabel=LENSES[up])
        axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8)
        both = table[[across, up]].dropna()
        said = (f"{LENSES[up].capitalize()} against {LENSES[across]} of {len(both)} networks: correlation "
                f"{correlation(both[across], both[up]):.2f}, which judges nothing.") if len(both) > 1 else (
            "No networks have both numbers.")
        return figure, said

    names = {words: column for column, words in LENSES.items()}
    return Explorer({"across": names, "up": {**dict([*names.items()][2:]), **dict([*names.items()][:2])}}, draw, live)
