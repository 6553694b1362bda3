"""What the notebook measures in addition to accuracies and to what its module `measured` lists, for prices."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from lib.papers.representation_similarity.networks import BRIEF, cells
from lib.papers.representation_similarity.settings import Section
from lib.profiles.networks import Networks
from lib.values.measurement import Measurement

NOTES = ("not priced: second similarity measures beyond their passes (linear algebra on pooled activations)",)


def measurements(networks: Networks, section: Section, seed: Callable[[int], int]) -> Iterator[Measurement]:
    """Accuracies on other splits."""
    search = section.search.passes(0.5)
    for cell in cells(networks, section, seed):
        recipe = cell.recipe
        if cell.condition.epoch is not None:
            yield Measurement("attack on held-out images", recipe, recipe.data.holdout, search)
        elif cell.condition.kind in ("N", "R", *BRIEF):
            yield Measurement("accuracy on training images", recipe, recipe.data.n_train, 1)
