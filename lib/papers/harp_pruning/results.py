"""The HARP notebook (Zhao & Wressnegger, ICLR 2023): measure the networks of the plan and count what they keep.

lib/papers/harp_pruning/networks.py says which networks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from lib.models import rates as by_rule
from lib.models.links import layers
from lib.papers.harp_pruning.networks import Condition, search_of
from lib.papers.harp_pruning.settings import HALVED, Section
from lib.profiles.networks import Networks, updates
from lib.pruning import results
from lib.training.zoo import Zoo
from lib.values.cell import Cell
from lib.values.recipe import Recipe


@dataclass(frozen=True)
class KeptEpoch:
    """Accuracies, in [0, 1], that a fine-tuning had reached after the epoch of the condition. holdout: robust accuracy
    on held-out images under the attack of training, by which the epoch is chosen; robust (under `search`) and clean: on
    test images.
    """

    condition: Condition
    repetition: int
    holdout: float
    robust: float
    clean: float


@dataclass
class Results(results.Results):
    """All that was measured: outcomes `search` and `verify`, and outcomes of further attacks by their titles.

    logs[cell]: a row per epoch of the network's search. dense_weights[repetition]: the prunable tensors, by layer, of
    the dense network that all methods prune. choices: a `KeptEpoch` per kept epoch of a fine-tuning.
    """

    logs: dict[Cell, list[dict]] = field(default_factory=dict)
    dense_weights: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    choices: list[KeptEpoch] = field(default_factory=list)

    def label(self, condition: Condition) -> str:
        return f"{condition.method} at {float(condition.keep):g}{', half the search' * condition.half}"

    def searched(self, method: str, half: bool = False) -> Condition:
        """A method at the harshest share, with all or half of its search."""
        return Condition(method, self.section.keeps[-1], loss=self.section.losses[0], half=half)

    def references(self) -> list[Cell]:
        """As in the base class, with the first of the robust losses."""
        return [cell for cell in super().references()
                if cell.condition.method == "N" or cell.condition.loss == self.section.losses[0]]

    def named(self, cell: Cell) -> dict:
        c = cell.condition
        return {"method": c.method, "keep": float(c.keep), "granularity": c.granularity, "training": c.loss,
                "seed": cell.repetition}


def measure(zoo: Zoo, cells: list[Cell], networks: Networks, section: Section, seed: Callable[[int], int]) -> Results:
    """Train (or load) every network, measure it and count what it keeps; whatever the store holds is read from it."""
    s, compared = section, [cell for cell in cells if cell.condition.compared]
    found = Results(networks, section, seed, compared, halved=[cell for cell in cells if cell.condition.half])
    dense = Condition("dense", loss=s.losses[0])
    held_out = {dense, *map(found.searched, ("LWM", *HALVED))} if found.halved else set()
    names = {attack: attack.title for attack in s.further(networks.threat)} | {s.search: "search", s.verify: "verify"}

    def one(cell: Cell) -> None:
        if cell.condition.epoch is not None:
            found.choices.append(_kept_epoch(zoo, cell))
            return
        if cell.condition.half or cell.condition in held_out:
            found.hold_out(zoo, cell, networks.threat, s.search)
        if cell.condition.half:
            return
        found.take(zoo, cell, lambda _, attack: names.get(attack))
        if cell.condition == Condition("pre-trained", loss=s.losses[0]):
            net = zoo.obtain(cell.recipe).net
            found.dense_weights[cell.repetition] = {name: layer.weight for name, layer in layers(net).items()}
        if search := search_of(cell.recipe):
            found.logs[cell] = zoo.obtain(search).log

    found.each(cells, "pruned networks", one)
    return found


def rates_without_data(search: Recipe, sizes: list[int]) -> list[float]:
    """The share of each layer, of so many weights, at which a search for rates would end without any image."""
    return by_rule.data_free(sizes, search.arch.keep, decay=search.optimiser.weight_decay, epochs=search.epochs,
                             steps=updates(search) // search.epochs, gamma=search.objective.gamma)


def _kept_epoch(zoo: Zoo, cell: Cell) -> KeptEpoch:
    """A kept epoch: its held-out accuracy from the log of the fine-tuning, and its accuracies on test images."""
    run, = cell.recipe.parents
    found = zoo.outcomes(cell.recipe, *cell.measures[0])
    log = zoo.obtain(run).log[cell.condition.epoch - 1]
    return KeptEpoch(cell.condition, cell.repetition, log["holdout"], found.accuracy("robust"), found.accuracy("clean"))
