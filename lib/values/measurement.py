"""A measurement that a notebook makes in addition to the accuracies of its networks, as a value without torch."""

from __future__ import annotations

from dataclasses import dataclass

from lib.values.recipe import Recipe


@dataclass(frozen=True)
class Measurement:
    """What a measurement costs. what: it in words, for the price list. recipe: the network that images pass through.
    passes: how often each of the `images` passes forward; a backward pass counts as one more.
    """

    what: str
    recipe: Recipe
    images: int
    passes: float
