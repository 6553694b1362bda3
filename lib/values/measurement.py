"""Measurements beyond the accuracies of a plan's networks, as values without torch: what they cost, and those that
batch jobs can make because each has an entry of its own in the store.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Protocol

from lib.values.attacks import Attack
from lib.values.keys import digest
from lib.values.recipe import Recipe, outcome_key
from lib.values.threats import Threat


@dataclass(frozen=True)
class Measurement:
    """What a measurement costs. what: it in words, for the price list. recipe: the network that images pass through.
    passes: how often each of the `images` passes forward; a backward pass counts as one more. job: the batch job that
    makes it, without its notebook's name (empty: the notebook does). entry: (kind, key) of its own entry in the store,
    if it has one; several measurements can share one.
    """

    what: str
    recipe: Recipe
    images: int
    passes: float
    job: str = ""
    entry: tuple[str, str] | None = None


class Storable(Protocol):
    """A measurement with an entry of its own in the store, which a batch job can make before the notebook asks for it.

    entry: (kind, key) in the store. recipes: the networks that it is about. needs: what is made before it. How it is
    made, the paper's module `results` knows.
    """

    entry: tuple[str, str]
    recipes: tuple[Recipe, ...]
    needs: tuple[Storable, ...]

    def describe(self) -> str: ...

    def costs(self) -> list[Measurement]: ...


@dataclass(frozen=True)
class AdversarialImages:
    """Every image of a split of the recipe's data after an attack on its network (`Zoo.adversarial`)."""

    recipe: Recipe
    threat: Threat
    attack: Attack
    split: str = "test"

    needs = ()

    @functools.cached_property
    def entry(self) -> tuple[str, str]:
        return "adversarial", digest([self.split, outcome_key(self.recipe, self.threat, self.attack)])

    @property
    def recipes(self) -> tuple[Recipe, ...]:
        return (self.recipe,)

    def describe(self) -> str:
        return f"{self.attack.title} images ({self.split}) of {self.recipe.describe()}"

    def costs(self) -> list[Measurement]:
        """A run of the attack that does not stop at the first success, and then the search for the images left."""
        passes = self.attack.single_run(self.threat).passes() + self.attack.passes(0.5)
        return [Measurement("adversarial images", self.recipe, self.recipe.data.count(self.split), passes,
                            entry=self.entry)]
