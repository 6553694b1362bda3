"""The representation similarity notebook (Cianfarani et al., NeurIPS 2022): measure the networks of the plan, and
compare them layer by layer.

networks.py says which networks, and measured.py which maps.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from lib import results
from lib.papers.representation_similarity.measured import wanted
from lib.papers.representation_similarity.networks import BRIEF, Condition
from lib.papers.representation_similarity.settings import Section
from lib.profiles.networks import Networks
from lib.similarity.maps import Maps
from lib.similarity.stored_maps import stored
from lib.training.zoo import Zoo
from lib.values.attacks import Attack
from lib.values.cell import Cell
from lib.values.maps import WantedMaps
from lib.values.measurement import AdversarialImages
from lib.values.threats import Threat

# kinds, named as in figures; M- and M+ are the briefly trained normal networks between which M is interpolated
POOL = {"U": "untrained", "M-": "matched normal, shorter", "M+": "matched normal, longer", "N": "normal", "R": "robust"}


@dataclass
class Results(results.Results):
    """All that was measured: outcomes `clean`, `train` (on training images), `search`, `verify`, `restart` (one more
    restart of `search`), `own` (for variants, under their own threat) and `holdout` (for overfitting runs).

    Maps compare layers of views, that is, of networks on certain images. pool: views N0, R0, U0, M-0, M+0, N1, ... on
    clean images. untrained: self maps of all untrained networks, views U0, `U, 20`, ... arms: the pool's N and R with
    the arms on the same data. elsewhere[arm]: an arm on other data. moved[kind, seed]: one network on clean and on
    perturbed images, views `clean` and those of MOVED. second[measure]: self maps by a further measure. runs[kind,
    seed, split]: the checkpoints of a run, views named by their epochs.
    """

    pool: Maps | None = None
    untrained: Maps | None = None
    arms: Maps | None = None
    elsewhere: dict[str, Maps] = field(default_factory=dict)
    moved: dict[tuple[str, int], Maps] = field(default_factory=dict)
    second: dict[str, Maps] = field(default_factory=dict)
    runs: dict[tuple[str, int, str], Maps] = field(default_factory=dict)

    def note(self, kind: str) -> str:
        """Clean accuracy of a kind and, unless it is untrained, robust accuracy under the search attack, in words, for
        the title of a map.
        """
        names = {"clean": "clean"} | ({} if kind == "U" else {"search": f"PGD-{self.section.search.steps}"})
        return ", ".join(f"{name} {results.mean(self.correct(Condition(kind), measure)):.0%}"
                         for measure, name in names.items())

    def maps(self, kind: str) -> Maps:
        """The maps on clean images that contain the networks of a kind."""
        if kind in POOL:
            return self.pool
        if kind in self.section.untrained_kinds:
            return self.untrained
        return self.elsewhere.get(kind.partition(" ")[2], self.arms)

    def seeds(self, kind: str) -> int:
        own = kind in POOL or kind in self.section.untrained_kinds
        return self.section.seeds if own else self.section.arm_seeds

    def left(self, kinds: Collection[str], seeds: int) -> list[int]:
        """Of the first `seeds` repetitions, those in which no network of these kinds failed."""
        failed = {cell.repetition for cell in self.failed if cell.condition.kind in kinds}
        return [seed for seed in range(seeds) if seed not in failed]

    def label(self, condition: Condition) -> str:
        return condition.kind if condition.epoch is None else f"{condition.kind}, epoch {condition.epoch}"

    def named(self, cell: Cell) -> dict:
        return {"kind": cell.condition.kind, "seed": cell.repetition, "epoch": cell.condition.epoch}

    def references(self) -> list[Cell]:
        """As in the base class, of the pool alone."""
        return [cell for cell in super().references() if cell.condition.kind in ("N", "R")]

    def take(self, zoo: Zoo, cell: Cell, name: Callable[[Threat, Attack], str | None]) -> None:
        """As in the base class, and also on clean test images, on training images (pool) and on held-out images (runs).
        """
        super().take(zoo, cell, name)
        found = {"clean": zoo.outcomes(cell.recipe), **self.outcomes[cell]}
        if cell.condition.kind in ("N", "R", *BRIEF):
            found["train"] = zoo.outcomes(cell.recipe, split="train")
        if cell.condition.epoch is not None:
            found["holdout"] = zoo.outcomes(cell.recipe, *cell.measures[0], split="holdout")
        self.outcomes[cell] = found


def measure(zoo: Zoo, cells: list[Cell], networks: Networks, section: Section, seed: Callable[[int], int]) -> Results:
    """Train (or load) every network, measure its accuracies and make all maps; whatever the store holds is read from
    it.
    """
    networks = section.own(networks)
    s, found = section, Results(networks, section, seed, cells)

    def name(threat: Threat, attack: Attack) -> str:
        within = {s.search: "search", s.verify: "verify"}.get(attack, "restart")
        return within if threat == networks.threat else "own"

    found.each(cells, "networks", lambda cell: found.take(zoo, cell, name))
    made = wanted(networks, s, cells, found.failed)
    found.pool, found.untrained = stored(zoo, made.pool), stored(zoo, made.untrained)
    found.arms = made.arms and stored(zoo, made.arms)
    for name in ("elsewhere", "second", "moved", "runs"):
        setattr(found, name, {key: stored(zoo, maps) for key, maps in getattr(made, name).items()})
    return found


def make(zoo: Zoo, one: WantedMaps | AdversarialImages) -> None:
    """Make what a batch job of the module `measured` makes, unless the store has it."""
    if isinstance(one, WantedMaps):
        stored(zoo, one)
    else:
        zoo.adversarial(one.recipe, one.threat, one.attack, one.split)
