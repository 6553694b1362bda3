"""Similarity maps of networks that are given by recipe, as values without torch."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lib.values.attacks import PGD
from lib.values.keys import digest, plain, plain_fields
from lib.values.measurement import AdversarialImages, Measurement
from lib.values.recipe import Recipe, outcome_key
from lib.values.threats import Threat

VERSION = 1  # raised when a change of the code changes maps
# Forward passes that a map costs: one, and the Gram matrices of all layers are taken to cost about as much again.
PASSES = 2


@dataclass(frozen=True)
class PerturbedImages:
    """Images perturbed by an attack on the network `source` (`Zoo.adversarial`). With `noise`, each pixel moves as far
    as under the attack but with a random sign: the same l_p norms (before clipping to [0, 1]), without an aim.
    """

    source: Recipe
    threat: Threat
    attack: PGD
    noise: bool = False

    def attacked(self, split: str) -> AdversarialImages:
        """The images of a split as the attack leaves them."""
        return AdversarialImages(self.source, self.threat, self.attack, split)


@dataclass(frozen=True)
class RecipeView:
    """A network and the images it is shown: those of its data, clean (`moved` is None) or perturbed. Each look needs a
    `name` of its own.
    """

    name: str
    recipe: Recipe
    moved: PerturbedImages | None = None


@dataclass(frozen=True)
class WantedMaps:
    """The similarity maps of all `looks` on the first `images` of a split (None: all), which is in a fixed,
    class-balanced random order. layers: see `lib.models.taps.taps`; batch: the `batch_size` and the other options: see
    `lib.similarity.maps.maps`. A `Storable`.
    """

    looks: tuple[RecipeView, ...]
    split: str = "test"
    images: int | None = None
    layers: Any = "all"
    measure: str = "cka"
    pooled: bool = False
    batch: int = 256
    faithful: bool = False
    pairs: Sequence[tuple[str, str]] | None = None

    @functools.cached_property
    def entry(self) -> tuple[str, str]:
        which = {**plain_fields(self, without=("looks",)), "looks": [_named(look) for look in self.looks]}
        return "maps", digest({"version": VERSION, **which})

    @property
    def recipes(self) -> tuple[Recipe, ...]:
        return tuple(dict.fromkeys([look.recipe for look in self.looks] + [made.recipe for made in self.needs]))

    @property
    def needs(self) -> tuple[AdversarialImages, ...]:
        return tuple(dict.fromkeys(look.moved.attacked(self.split) for look in self.looks if look.moved))

    def describe(self) -> str:
        return (f"{self.measure} maps of {len(self.looks)} views ({self.looks[0].name} ... {self.looks[-1].name}), "
                f"{self.split} images")

    def costs(self) -> list[Measurement]:
        return [Measurement("similarity maps", look.recipe, self.images or look.recipe.data.count(self.split), PASSES,
                            entry=self.entry) for look in self.looks]


def _named(look: RecipeView) -> list:
    """What a view depends on, for its key: the network, its data, and what perturbed the images."""
    moved = look.moved and [outcome_key(look.moved.source, look.moved.threat, look.moved.attack), look.moved.noise]
    return [look.name, look.recipe.key, plain(look.recipe.data), moved]
