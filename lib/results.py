"""What was measured of a paper's networks. Each paper has a subclass of `Results` with its own measurements."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lib.profiles.networks import Networks
from lib.runtime import ProgressBar
from lib.training.evaluation import Outcomes, columns
from lib.training.zoo import Trained, Zoo
from lib.values.attacks import Attack
from lib.values.cell import Cell
from lib.values.certificates import Certificate
from lib.values.threats import Threat


def outcome_column(measure: str, outcomes: Outcomes) -> str:
    """The column of outcomes for a measure: `verified` if there was a certificate, `robust` if there was an attack,
    otherwise `clean`.
    """
    every = () if measure == "clean" else ("verified", "robust")
    return next((name for name in every if name in outcomes.table), "clean")


@dataclass
class Results:
    """All that was measured.

    seed: from a repetition to the seed of its recipes. cells: the networks of the plan. outcomes[cell]: outcomes per
    image, by the name of the measure; without an entry `clean`, the first measure gives the clean outcomes.
    diverged[cell]: why a training diverged, in a sentence. last_epoch[cell]: the training log of the last epoch, such
    as loss and accuracy. quality: by name, checks (what, whether it holds, the numbers) of the instruments, such as
    denoisers.
    """

    networks: Networks
    section: Any
    seed: Callable[[int], int]
    cells: list[Cell]
    outcomes: dict[Cell, dict[str, Outcomes]] = field(default_factory=dict)
    diverged: dict[Cell, str] = field(default_factory=dict)
    last_epoch: dict[Cell, dict] = field(default_factory=dict)
    quality: dict[str, list[tuple[str, bool, str]]] = field(default_factory=dict)

    # ------------------------------------------------------------------------------------------------ to measure

    def each(self, cells: list[Cell], what: str) -> Iterator[Cell]:
        """Yield the cells one after the other, with a progress bar titled `what`."""
        with ProgressBar(len(cells), what, "network") as bar:
            for cell in cells:
                yield cell
                bar.step(1, network=f"{self.label(cell.condition)}, {cell.repetition}")

    def train(self, zoo: Zoo, cell: Cell) -> Trained | None:
        """Train (or load) a network; None if its training diverged where it may. Fills `diverged` and `last_epoch`."""
        trained = zoo.attempt(cell.recipe) if cell.may_diverge else zoo.obtain(cell.recipe)
        if isinstance(trained, str):
            self.diverged[cell] = trained
            return None
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

    def of(self, condition=None, diverged: bool = False, **fields) -> list[Cell]:
        """The networks of a condition, one per repetition, or all networks whose condition has these fields, in the
        order of the plan. diverged: whether to include networks whose training diverged.
        """
        return [cell for cell in self.cells if condition in (None, cell.condition)
                and all(getattr(cell.condition, name) == value for name, value in fields.items())
                and (diverged or cell not in self.diverged)]

    def measured(self, cell: Cell, measure: str = "clean") -> Outcomes:
        """The outcomes of a network from which a measure is read. Raises KeyError for a measure that was not taken."""
        every = self.outcomes[cell]
        return every[measure] if measure != "clean" else every.get("clean") or next(iter(every.values()))

    def correct(self, condition, measure: str = "clean") -> np.ndarray:
        """Outcomes [S, m] of a condition's networks, one per repetition and image: 1 if the image is classified
        correctly (for an attack: also when attacked; for a certificate: provably), otherwise 0. Raises KeyError for a
        condition without networks.
        """
        cells = self.of(condition)
        if not cells:
            raise KeyError(f"no network of {condition} was measured")
        return self.stacked(cells, measure)

    def stacked(self, cells: list[Cell], measure: str = "clean") -> np.ndarray:
        """As `correct`, for these networks."""
        every = [self.measured(cell, measure) for cell in cells]
        return np.stack([one.table[outcome_column(measure, one)].to_numpy(bool) for one in every]).astype(float)

    def of_pool(self, normal, robust, strong: str = "verify") -> tuple[np.ndarray, ...]:
        """Four arrays [S, m] as `Preconditions.pool` takes them: outcomes of normal networks, clean and under the
        search attack, and of robust networks, clean and under the measure `strong`.
        """
        pairs = (normal, "clean"), (normal, "search"), (robust, "clean"), (robust, strong)
        return tuple(self.correct(*pair) for pair in pairs)

    def accuracy(self, condition, measure: str = "clean") -> np.ndarray:
        """Accuracies [S] of a condition's networks."""
        return self.correct(condition, measure).mean(1)

    def chance(self, condition) -> float:
        """The accuracy of guessing one of the classes."""
        return 1 / self.of(condition)[0].recipe.data.info.classes

    def says_at_chance(self, condition, accuracy: float) -> str:
        """A sentence about a condition whose clean accuracy is near guessing."""
        return f"{self.label(condition)} has a clean accuracy of {accuracy:.1%}, guessing {self.chance(condition):.1%}"

    def sentences_of_divergence(self, **fields) -> list[str]:
        """A phrase for each diverged network whose condition has these fields: which one, and why it diverged."""
        return [f"{self.label(cell.condition)}, repetition {cell.repetition}: {self.diverged[cell]}"
                for cell in self.of(diverged=True, **fields) if cell in self.diverged]

    # ------------------------------------------------------------------------------------------------ as a table

    def table(self):
        """A DataFrame with a row per network and measure. Columns: those of `named`, `measure`, `accuracy`, those of
        `counted`, `network` (key), those of `noted`, `warnings`, and the protocol.
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
        return pd.DataFrame(rows)

    def label(self, condition) -> str:
        """A condition in a few words, for progress bars and sentences."""
        return " ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in vars(condition).values())

    def named(self, cell: Cell) -> dict:
        """The columns that identify the network of a row; `seed` is its repetition."""
        return {**vars(cell.condition), "seed": cell.repetition}

    def counted(self, cell: Cell, outcomes: Outcomes, column: str) -> dict:
        """Further columns computed from the outcomes of a measure."""
        return {}

    def noted(self, cell: Cell) -> dict:
        """Further columns about the network."""
        return {}
