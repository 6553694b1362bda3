"""What the papers on pruning share: how many weights their networks keep, and which networks are at chance.

A condition has the field `keep`, the share that pruning keeps; 1 if nothing is pruned.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lib import results
from lib.pruning.tables import kept
from lib.training.evaluation import Outcomes
from lib.training.zoo import Zoo
from lib.values.attacks import Attack
from lib.values.cell import Cell
from lib.values.certificates import Certificate
from lib.values.threats import Threat


@dataclass
class Results(results.Results):
    """layers[cell]: what each layer of a pruned network keeps (`pruning.kept`). halved: the networks after half of a
    search, which are measured on held-out images only. on_holdout[cell]: outcomes on held-out images, of these networks
    and of those that they are compared with.
    """

    layers: dict[Cell, Any] = field(default_factory=dict)
    halved: list[Cell] = field(default_factory=list)
    on_holdout: dict[Cell, Outcomes] = field(default_factory=dict)

    def take(self, zoo: Zoo, cell: Cell, name: Callable[[Threat, Attack | Certificate], str | None]) -> None:
        super().take(zoo, cell, name)
        if cell.recipe.arch.pruned:
            self.layers[cell] = kept(zoo.obtain(cell.recipe).net)

    def hold_out(self, zoo: Zoo, cell: Cell, threat: Threat, attack: Attack) -> None:
        """Measure a network on held-out images."""
        self.on_holdout[cell] = zoo.outcomes(cell.recipe, threat, attack, split="holdout")

    def held_out(self, condition, measure: str = "clean") -> np.ndarray:
        """Outcomes [S, m] of a condition's networks on held-out images, `clean` or `robust`, as numbers like those of
        `correct`: NaN for a network that failed or was not measured; [S, 1] if all did.
        """
        found = [self.on_holdout[cell].table[measure].to_numpy(float) if cell in self.on_holdout else None
                 for cell in (*self.cells, *self.halved) if cell.condition == condition]
        images = max((len(one) for one in found if one is not None), default=1)
        return np.array([np.full(images, np.nan) if one is None else one for one in found]).reshape(-1, images)

    def weights(self, cell: Cell) -> tuple[int, int]:
        """How many prunable weights a pruned network keeps, and how many there were."""
        return int(self.layers[cell].kept.sum()), int(self.layers[cell].weights.sum())

    def at_chance(self, by: float) -> dict[Any, float]:
        """{condition: clean accuracy} of the pruned conditions whose accuracy is less than `by` above guessing. They
        are broken, and comparisons with them mean nothing.
        """
        clean = {c: results.mean(self.correct(c)) for c in self.conditions if c.keep != 1}
        return {c: value for c, value in clean.items() if value < self.chance(c) + by}

    def counted(self, cell: Cell, outcomes: Outcomes, column: str) -> dict:
        """The columns balanced, the mean accuracy over classes, and kept, the counted share of weights that are kept.
        """
        left, every = self.weights(cell) if cell in self.layers else (1, 1)
        return {"balanced": outcomes.balanced_accuracy(column), "kept": left / every}

    def counts(self):
        """A DataFrame with a row per pruned condition. Columns: those of `named` except seed; kept, of, share: weights
        kept, all prunable weights and their ratio, means over repetitions; emptiest layer, its weights: the layer that
        keeps the fewest weights in any repetition, and how many.
        """
        import pandas as pd

        rows = []
        for cell, counted in self.layers.items():
            left, every = self.weights(cell)
            least = counted.loc[counted.kept.idxmin()]
            rows.append({**self.named(cell), "kept": left, "of": every, "share": left / every,
                         "emptiest layer": least.layer, "its weights": int(least.kept)})
        table = pd.DataFrame(rows)
        names = [name for name in self.named(next(iter(self.layers))) if name != "seed"]
        runs = table.groupby(names, sort=False)
        least = table.loc[runs["its weights"].idxmin(), [*names, "emptiest layer", "its weights"]]
        return runs[["kept", "of", "share"]].mean().reset_index().merge(least, on=names)
