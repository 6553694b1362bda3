"""What was measured of a paper's networks. Each paper has a subclass of `Results` with its own measurements."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lib.errors import NetworkFailed
from lib.profiles.networks import Networks
from lib.runtime import ProgressBar
from lib.statistics import without_missing
from lib.training.evaluation import Outcomes, columns
from lib.training.memory import named_when_full
from lib.training.zoo import Trained, Zoo
from lib.values.attacks import Attack
from lib.values.cell import Cell
from lib.values.certificates import Certificate
from lib.values.objectives import CrossEntropy
from lib.values.threats import Threat


def outcome_column(measure: str, outcomes: Outcomes) -> str:
    """The column of outcomes for a measure: `verified` if there was a certificate, `robust` if there was an attack,
    otherwise `clean`.
    """
    every = () if measure == "clean" else ("verified", "robust")
    return next((name for name in every if name in outcomes.table), "clean")


def mean(values) -> float:
    """The mean of values [S] or [S, m] over the networks that did not fail; NaN if all did."""
    rows = without_missing(values)
    return float(rows.mean()) if len(rows) else np.nan


@dataclass
class Results:
    """All that was measured. What failed is left out: whoever compares conditions does without its repetition.

    seed: from a repetition to the seed of its recipes. cells: the networks of the plan. outcomes[cell]: outcomes per
    image, by the name of the measure; without an entry `clean`, the first measure gives the clean outcomes.
    failed[cell]: why a network could not be made or measured, in a sentence. last_epoch[cell]: the training log of the
    last epoch, such as loss and accuracy. quality: by name, checks (what, whether it holds, the numbers) of the
    instruments, such as denoisers.
    """

    networks: Networks
    section: Any
    seed: Callable[[int], int]
    cells: list[Cell]
    outcomes: dict[Cell, dict[str, Outcomes]] = field(default_factory=dict)
    failed: dict[Cell, str] = field(default_factory=dict)
    last_epoch: dict[Cell, dict] = field(default_factory=dict)
    quality: dict[str, list[tuple[str, bool, str]]] = field(default_factory=dict)

    # ------------------------------------------------------------------------------------------------ to measure

    def each(self, cells: list[Cell], what: str, measure: Callable[[Cell], object]) -> None:
        """Call `measure` for the cells one after the other, with a progress bar titled `what`. Fills `failed`."""
        with ProgressBar(len(cells), what, "network") as bar:
            for cell in cells:
                bar.work_on(f"{self.place(cell)}{self.label(cell.condition)}, repetition {cell.repetition}")
                try:
                    with named_when_full(cell.recipe.describe()):
                        measure(cell)
                except NetworkFailed as error:
                    self.failed[cell] = error.reason
                    self.outcomes.pop(cell, None)
                bar.step()

    def train(self, zoo: Zoo, cell: Cell) -> Trained:
        """Train (or load) a network. Fills `last_epoch`."""
        trained = zoo.obtain(cell.recipe)
        if trained.log:
            self.last_epoch[cell] = trained.log[-1]
        return trained

    def take(self, zoo: Zoo, cell: Cell, name: Callable[[Threat, Attack | Certificate], str | None]) -> None:
        """Measure a network, trained if necessary, under each of its attacks and certificates to which `name` gives the
        name of a measure.
        """
        self.outcomes[cell] = {name(*how): zoo.outcomes(cell.recipe, *how) for how in cell.measures if name(*how)}

    # --------------------------------------------------------------------------------------------------- to read

    @property
    def conditions(self) -> list:
        return list(dict.fromkeys(cell.condition for cell in self.cells))

    def of(self, condition=None, failed: bool = False, **fields) -> list[Cell]:
        """The networks of a condition, one per repetition, or all networks whose condition has these fields, in the
        order of the plan. failed: whether to include networks that failed.
        """
        return [cell for cell in self.cells if condition in (None, cell.condition)
                and all(getattr(cell.condition, name) == value for name, value in fields.items())
                and (failed or cell not in self.failed)]

    def measured(self, cell: Cell, measure: str = "clean") -> Outcomes:
        """The outcomes of a network from which a measure is read. Raises KeyError for a measure that was not taken."""
        every = self.outcomes[cell]
        return every[measure] if measure != "clean" else every.get("clean") or next(iter(every.values()))

    def correct(self, condition, measure: str = "clean") -> np.ndarray:
        """Outcomes [S, m] of a condition's networks, one per repetition and image: 1 if the image is classified
        correctly (for an attack: also when attacked; for a certificate: provably), otherwise 0. The row of a network
        that failed is NaN; if all did, the shape is [S, 1]. Raises KeyError for a condition without networks.
        """
        return self.by_repetition(condition, lambda cell: self.stacked([cell], measure)[0], np.full(1, np.nan))

    def stacked(self, cells: list[Cell], measure: str = "clean") -> np.ndarray:
        """Outcomes [S, m] of these networks, none of which failed, as numbers like those of `correct`."""
        every = [self.measured(cell, measure) for cell in cells]
        return np.stack([one.table[outcome_column(measure, one)].to_numpy(bool) for one in every]).astype(float)

    def by_repetition(self, condition, read: Callable[[Cell], Any], nothing=np.nan) -> np.ndarray:
        """[S, ...]: what `read` gives for each network of a condition, an array or a number; NaN for a network that
        failed. nothing: what takes its place if all failed. Raises KeyError for a condition without networks.
        """
        cells = self.of(condition, failed=True)
        if not cells:
            raise KeyError(f"no network of {condition} was measured")
        found = {cell: np.asarray(read(cell), float) for cell in cells if cell not in self.failed}
        lost = next((np.full_like(one, np.nan) for one in found.values()), nothing)
        return np.stack([found.get(cell, lost) for cell in cells])

    def of_pool(self, normal, robust, strong: str = "verify") -> tuple[np.ndarray | list[str], ...]:
        """What `Preconditions.pool` takes: four arrays [S, m], outcomes of normal networks, clean and under the search
        attack, and of robust networks, clean and under the measure `strong`; and the `failures` among them.
        """
        pairs = (normal, "clean"), (normal, "search"), (robust, "clean"), (robust, strong)
        return *(self.correct(*pair) for pair in pairs), self.failures((normal, robust))

    def accuracy(self, condition, measure: str = "clean") -> np.ndarray:
        """Accuracies [S] of a condition's networks."""
        return self.correct(condition, measure).mean(1)

    def chance(self, condition) -> float:
        """The accuracy of guessing one of the classes."""
        return 1 / self.of(condition, failed=True)[0].recipe.data.info.classes

    def says_at_chance(self, condition, accuracy: float) -> str:
        """A sentence about a condition whose clean accuracy is near guessing."""
        return f"{self.label(condition)} has a clean accuracy of {accuracy:.1%}, guessing {self.chance(condition):.1%}"

    def references(self) -> list[Cell]:
        """The networks with which others are compared: those of the first repetition that were trained from the start
        and attacked. A paper with several kinds of such networks says which.
        """
        return [cell for cell in self.of() if cell.repetition == 0 and cell.recipe.epochs and not cell.recipe.parents
                and not cell.recipe.arch.pruned and any(isinstance(how, Attack) for _, how in cell.measures)]

    def title(self, cell: Cell) -> str:
        """The name of one of the `references` for readers: 'robust ResNet-8-w16 on digits'."""
        recipe = cell.recipe
        kind = "normal" if recipe.objective == CrossEntropy() else "robust"
        return f"{kind} {recipe.arch.name} on {recipe.data.name}"

    def failures(self, conditions: Collection | None = None, **fields) -> list[str]:
        """A phrase for each failed network of these conditions (None: of all), or whose condition has these fields:
        which one, and why.
        """
        return [f"{self.place(cell)}{self.label(cell.condition)}, repetition {cell.repetition}: {self.failed[cell]}"
                for cell in self.of(failed=True, **fields)
                if cell in self.failed and (conditions is None or cell.condition in conditions)]

    # ------------------------------------------------------------------------------------------------ as a table

    def table(self):
        """A DataFrame with a row per network and measure. Columns: those of `named`, `measure`, `accuracy`, those of
        `counted`, `network` (key), those of `noted`, `warnings`, and the protocol. If networks failed, they follow,
        each in a row with the measure `clean` and no accuracy, and the column `failed` says why.
        """
        import pandas as pd

        rows = []
        for cell, every in self.outcomes.items():
            for measure in dict.fromkeys(("clean", *every)):
                one = self.measured(cell, measure)
                column = outcome_column(measure, one)
                rows.append({**self.named(cell), "measure": measure, "accuracy": one.accuracy(column),
                             **self.counted(cell, one, column), "network": cell.recipe.key, **self.noted(cell),
                             "warnings": "; ".join(one.warnings), **columns(one.protocol)})
        rows += [{**self.named(cell), "measure": "clean", "accuracy": np.nan, "network": cell.recipe.key,
                  "warnings": "", "failed": self.failed[cell]} for cell in self.cells if cell in self.failed]
        table = pd.DataFrame(rows)
        return table.fillna({"failed": ""}) if self.failed else table

    def label(self, condition) -> str:
        """A condition in a few words, for progress bars and sentences."""
        return " ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in vars(condition).values()
                        if value != "")

    def place(self, cell: Cell) -> str:
        """What goes before the label of a network whose condition's label does not say in which study it is."""
        return ""

    def named(self, cell: Cell) -> dict:
        """The columns that identify the network of a row; `seed` is its repetition."""
        return {**vars(cell.condition), "seed": cell.repetition}

    def counted(self, cell: Cell, outcomes: Outcomes, column: str) -> dict:
        """Further columns computed from the outcomes of a measure."""
        return {}

    def noted(self, cell: Cell) -> dict:
        """Further columns about the network."""
        return {}
