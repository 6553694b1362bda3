"""One network of a paper's experiment."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from lib.values.attacks import Attack
from lib.values.certificates import Certificate
from lib.values.recipe import Recipe
from lib.values.threats import Threat


@dataclass(frozen=True)
class Cell:
    """A network by what it has in common with those of other repetitions, and by which repetition it is.

    condition: the paper's frozen `Condition`, whose `job(repetition)` names the batch job that makes the network.
    repetition: from 0. measures: what it is measured under. may_diverge: whether the paper may go on without it.
    """

    condition: Any
    repetition: int
    recipe: Recipe
    measures: tuple[tuple[Threat, Attack | Certificate], ...] = ()
    may_diverge: bool = False

    @property
    def job(self) -> str:
        """The batch job that makes it, a word: names of profiles come into it, and it goes to a shell and to files."""
        return re.sub(r"[^A-Za-z0-9._-]", "-", self.condition.job(self.repetition))
