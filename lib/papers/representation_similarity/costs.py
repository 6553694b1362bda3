"""What the notebook measures in addition to accuracies, for prices: the calls of zoo and maps in `results.measure`."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from lib.papers.representation_similarity.networks import BRIEF, cells
from lib.papers.representation_similarity.settings import Section
from lib.profiles.networks import Networks
from lib.values.measurement import Measurement

NOTES = ("not priced: second similarity measures beyond their passes (linear algebra on pooled activations)",)
# A map takes a forward pass, and the Gram matrices of all layers are taken to cost about as much again.
PASSES = 2
MOVED = 5  # views of a network: clean images, three kinds of adversarial ones, and noise


def measurements(networks: Networks, section: Section, seed: Callable[[int], int]) -> list[Measurement]:
    """Accuracies on other splits, adversarial images, and the maps of every network."""
    return list(_each(networks, section, seed))


def _each(networks: Networks, section: Section, seed: Callable[[int], int]) -> Iterator[Measurement]:
    search = section.search.passes(0.5)
    for cell in cells(networks, section, seed):
        recipe, kind = cell.recipe, cell.condition.kind
        shown = section.images or recipe.data.n_test
        if cell.condition.epoch is not None:
            yield Measurement("attack on held-out images", recipe, recipe.data.holdout, search)
            yield Measurement("similarity maps", recipe, 2 * shown, PASSES)  # of test and of training images
            continue
        yield Measurement("similarity maps", recipe, shown, PASSES)
        if kind in ("N", "R", *BRIEF):
            yield Measurement("accuracy on training images", recipe, recipe.data.n_train, 1)
            yield Measurement("similarity maps", recipe, shown, PASSES * len(section.second))
        if kind in ("N", "R"):
            run = 1 + 2 * section.search.steps  # one that does not stop, and then a search
            yield Measurement("adversarial images", recipe, recipe.data.n_test, run + search)
            yield Measurement("similarity maps", recipe, shown, PASSES * MOVED)
