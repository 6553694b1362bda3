"""What the studies of pruned networks share: all that was measured, contrasts of conditions for the judge, tables.

A condition has a share `keep` that is kept, 1 where nothing is pruned.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lib.claims.preconditions import Checks
from lib.profiles.networks import Networks
from lib.pruning.tables import kept
from lib.training.evaluation import Outcomes, columns
from lib.training.zoo import Zoo
from lib.values.attacks import Attack
from lib.values.cell import Cell
from lib.values.certificates import Certificate


def verdict(which: str, outcomes: Outcomes) -> str:
    """The column of outcomes that a measure is about: `clean`, `robust` after an attack, `verified` after a proof."""
    return "clean" if which == "clean" else "verified" if "verified" in outcomes.table else "robust"


@dataclass
class Found:
    """All that was measured.

    outcomes[cell]: verdicts per image by the measure's name, the one that tells clean accuracies first. layers[cell]:
    what each layer of a pruned network keeps (`pruning.kept`).
    """

    networks: Networks
    section: Any
    seed: Callable[[int], int]
    cells: list[Cell]
    outcomes: dict[Cell, dict[str, Outcomes]] = field(default_factory=dict)
    layers: dict[Cell, Any] = field(default_factory=dict)

    @property
    def conditions(self) -> list:
        return list(dict.fromkeys(cell.condition for cell in self.cells))

    def of(self, condition) -> list[Cell]:
        """The networks of a condition, one a repetition."""
        return [cell for cell in self.cells if cell.condition == condition]

    def take(self, zoo: Zoo, cell: Cell, names: Mapping[Attack | Certificate, str]) -> None:
        """Train (or load) a network, measure it under what has a name and count what it keeps."""
        self.outcomes[cell] = {names[how]: zoo.outcomes(cell.recipe, threat, how)
                               for threat, how in cell.measures if how in names}
        if cell.recipe.arch.pruned:
            self.layers[cell] = kept(zoo.obtain(cell.recipe).net)

    def verdicts(self, cell: Cell, which: str) -> Outcomes:
        """The outcomes of a network that a measure is read from; `clean` is read from the first."""
        every = self.outcomes[cell]
        return next(iter(every.values())) if which == "clean" else every[which]

    def right(self, condition, which: str) -> np.ndarray:
        """Outcomes [S, m] of a condition's networks, 1 for right: `which` is clean or the name of a measure."""
        every = [self.verdicts(cell, which) for cell in self.of(condition)]
        return np.stack([one.table[verdict(which, one)].to_numpy(bool) for one in every]).astype(float)

    def weights(self, cell: Cell) -> tuple[int, int]:
        """How many prunable weights a pruned network keeps, and of how many."""
        return int(self.layers[cell].kept.sum()), int(self.layers[cell].weights.sum())

    def chance(self, condition) -> float:
        """The accuracy of guessing one of the classes."""
        return 1 / self.of(condition)[0].recipe.data.info.classes

    def at_chance(self, bar: float) -> dict[Any, float]:
        """{condition: clean accuracy} of the pruned conditions that are not `bar` above guessing: nothing can be read
        off them but that they are broken.
        """
        clean = {c: float(self.right(c, "clean").mean()) for c in self.conditions if c.keep != 1}
        return {c: value for c, value in clean.items() if value < self.chance(c) + bar}


# -------------------------------------------------------------------------------------------------- for the judge


@dataclass(frozen=True)
class Contrast:
    """Image by image, shares[0] times the sum of the outcomes of the conditions `over` minus shares[1] times the sum of
    those of the conditions `under`.
    """

    over: tuple
    under: tuple
    shares: tuple[float, float] = (1.0, 1.0)

    @property
    def conditions(self) -> tuple:
        return self.over + self.under

    def values(self, f: Found, which: str) -> np.ndarray:
        """[S, m], on the same images with paired repetitions."""
        over, under = (sum(f.right(c, which) for c in conditions) for conditions in (self.over, self.under))
        return self.shares[0] * over - self.shares[1] * under


def sound(broken: Mapping[Any, float], instances: dict[str, Contrast]) -> dict[str, Contrast]:
    """The instances without a broken condition; all of them if none is left, and then `above_chance` says why."""
    return {name: one for name, one in instances.items() if not broken.keys() & {*one.conditions}} or instances


def above_chance(f: Found, broken: Mapping[Any, float], parts: Mapping[str, dict[str, Contrast]],
                 name: Callable[[Any], str]) -> tuple[bool, str]:
    """Whether every part of a claim that has instances has one without a broken condition (`at_chance`), and which
    conditions were left out, each by its name and clean accuracy.
    """
    used = {c for instances in parts.values() for one in instances.values() for c in one.conditions}
    words = [f"{name(c)} has a clean accuracy of {value:.1%}, guessing {f.chance(c):.1%}"
             for c, value in broken.items() if c in used]
    judged = all(not instances or any(not broken.keys() & {*one.conditions} for one in instances.values())
                 for instances in parts.values())
    return judged, f"{'; '.join(words)}: left out" if words else "no arm is near guessing"


# ---------------------------------------------------------------------------------------------------------- tables


def accuracies(f: Found, named: Callable[[Cell], dict]):
    """A DataFrame with a row per network and measure (clean and those of `outcomes`): `named(cell)`, accuracy and
    balanced accuracy (the mean over classes), the counted share of weights that are kept, and the protocol.
    """
    import pandas as pd

    rows = []
    for cell, found in f.outcomes.items():
        left, every = f.weights(cell) if cell in f.layers else (1, 1)
        for which in ("clean", *found):
            one = f.verdicts(cell, which)
            column = verdict(which, one)
            rows.append({**named(cell), "measure": which, "accuracy": one.accuracy(column),
                         "balanced": one.balanced_accuracy(column), "kept": left / every, "network": cell.recipe.key,
                         "warnings": "; ".join(one.warnings), **columns(one.protocol)})
    return pd.DataFrame(rows)


def counts(f: Found, named: Callable[[Cell], dict]):
    """A DataFrame with a row per pruned condition: `named(cell)` without the seed; kept, of, share: what its networks
    keep, counted, means over repetitions; emptiest layer, its weights: the layer that keeps the fewest in any of them.
    """
    import pandas as pd

    rows = []
    for cell, counted in f.layers.items():
        left, every = f.weights(cell)
        least = counted.loc[counted.kept.idxmin()]
        rows.append({**named(cell), "kept": left, "of": every, "share": left / every, "emptiest layer": least.layer,
                     "its weights": int(least.kept)})
    table = pd.DataFrame(rows)
    keys = [name for name in named(next(iter(f.layers))) if name != "seed"]
    runs = table.groupby(keys, sort=False)
    least = table.loc[runs["its weights"].idxmin(), [*keys, "emptiest layer", "its weights"]]
    return runs[["kept", "of", "share"]].mean().reset_index().merge(least, on=keys)


def own_checks(own: Mapping[str, Checks]):
    """A DataFrame with rows claim, check, holds, detail of the preconditions of single claims."""
    import pandas as pd

    found = pd.concat([checks.table().assign(claim=claim) for claim, checks in sorted(own.items())], ignore_index=True)
    return found[["claim", "check", "holds", "detail"]]
