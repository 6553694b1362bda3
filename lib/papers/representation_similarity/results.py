"""The representation similarity notebook (Cianfarani et al., NeurIPS 2022): measure the networks of the plan, and
compare them layer by layer.

lib/papers/representation_similarity/networks.py says which networks.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from lib import results
from lib.papers.representation_similarity.networks import BRIEF, Condition
from lib.papers.representation_similarity.settings import Section
from lib.profiles.networks import Networks
from lib.runtime import ProgressBar
from lib.similarity.maps import Maps
from lib.similarity.stored_maps import PerturbedImages, RecipeView, measure_maps
from lib.training.zoo import Zoo
from lib.values.attacks import Attack
from lib.values.cell import Cell
from lib.values.threats import Threat

# kinds, named as in figures; M- and M+ are the briefly trained normal networks between which M is interpolated
POOL = {"U": "untrained", "M-": "matched normal, shorter", "M+": "matched normal, longer", "N": "normal", "R": "robust"}
MOVED = {"own": "own adversarial", "of N": "adversarial for a normal network",
         "of R": "adversarial for a robust network", "noise": "noise of equal size"}


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
    options = {"images": s.images, "layers": s.layers, "batch": s.batch}
    clean = [c for c in found.of() if c.condition.epoch is None]
    of_pool = [_look(c) for c in clean if c.condition.kind in POOL]
    found.pool = measure_maps(zoo, of_pool, **options)
    untrained = [_look(c) for c in clean if c.condition.kind in s.untrained_kinds]
    found.untrained = measure_maps(zoo, untrained, **options, pairs=_selves(untrained))
    arms = [c for c in clean if c.condition.variant]
    here = [c for c in arms if c.recipe.data == networks.data]
    if here:
        beside = [look for look in of_pool if look.name[0] in "NR" and int(look.name[1:]) < s.arm_seeds]
        found.arms = measure_maps(zoo, beside + [_look(c) for c in here], **options)
    for name in dict.fromkeys(c.condition.variant.name for c in arms if c not in here):
        theirs = [_look(c) for c in arms if c.condition.variant.name == name]
        found.elsewhere[name] = measure_maps(zoo, theirs, **options)
    for name in s.second:
        own = [look for look in of_pool if look.name[0] in "NRM"]
        found.second[name] = measure_maps(zoo, own, **options, measure=name, pooled=True, pairs=_selves(own))
    _look_at_moved_images(zoo, found, options)
    _look_at_checkpoints(zoo, found, options)
    return found


def _look(cell: Cell) -> RecipeView:
    return RecipeView(f"{cell.condition.kind}{cell.repetition}", cell.recipe)


def _selves(looks: list[RecipeView]) -> list[tuple[str, str]]:
    return [(look.name, look.name) for look in looks]


def _look_at_moved_images(zoo: Zoo, found: Results, options: dict) -> None:
    """Fill `Results.moved`: every normal and robust network on clean images, on its own adversarial images, on
    adversarial images for a normal and for a robust network of another repetition, and on noise as large as its own
    adversarial perturbations. A repetition in which one of the two failed is left out, and all if no other is left.
    """
    s, threat = found.section, found.networks.threat
    left = found.left(("N", "R"), s.seeds)
    nets = {(c.condition.kind, c.repetition): c.recipe for c in found.cells
            if c.condition.kind in ("N", "R") and c.repetition in left}
    nets = nets if len(left) > 1 or s.seeds == 1 else {}
    with ProgressBar(len(nets), "adversarial images", "network") as bar:
        for (kind, seed), recipe in nets.items():
            other = left[(left.index(seed) + 1) % len(left)]
            sources = {"own": recipe, "of N": nets["N", other], "of R": nets["R", other], "noise": recipe}
            looks = [RecipeView(name, recipe, PerturbedImages(source, threat, s.search, noise=name == "noise"))
                     for name, source in sources.items()]
            everything = [RecipeView("clean", recipe), *looks]
            found.moved[kind, seed] = measure_maps(zoo, everything, **options,
                                              pairs=[("clean", look.name) for look in everything])
            bar.step()


def _look_at_checkpoints(zoo: Zoo, found: Results, options: dict) -> None:
    """Fill `Results.runs`: the checkpoints of every overfitting and control run, on test and on training images. A run
    of which one checkpoint failed is left out.
    """
    runs: dict[tuple[str, int], list[Cell]] = {}
    data = found.networks.data
    for cell in found.cells:
        if cell.condition.epoch is not None:
            runs.setdefault((cell.condition.kind, cell.repetition), []).append(cell)
    whole = {run: members for run, members in runs.items() if found.failed.keys().isdisjoint(members)}
    for (kind, seed), members in whole.items():
        looks = [RecipeView(str(cell.condition.epoch), cell.recipe) for cell in members]
        last = looks[-1].name
        for split in ("test", "train"):
            images = options["images"] or data.n_test
            found.runs[kind, seed, split] = measure_maps(zoo, looks, **{**options, "images": images}, split=split,
                                                    pairs=[(look.name, last) for look in looks])
