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
    """A network by its condition, which it shares with the networks of other repetitions, and its repetition.

    condition: the paper's frozen `Condition`, whose `job(repetition)` names the batch job that makes the network.
    repetition: from 0. measures: the threats and attacks (or certificates) under which the network is measured.
    """

    condition: Any
    repetition: int
    recipe: Recipe
    measures: tuple[tuple[Threat, Attack | Certificate], ...] = ()

    @property
    def job(self) -> str:
        """The batch job that makes the network, as one word that is safe in shell commands and file names."""
        return re.sub(r"[^A-Za-z0-9._-]", "-", self.condition.job(self.repetition))
