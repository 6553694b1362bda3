"""Which similarity maps the notebook compares, and the batch jobs that make them before it asks for them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

from lib.papers.representation_similarity.networks import BRIEF, cells
from lib.papers.representation_similarity.settings import Section
from lib.profiles.networks import Networks
from lib.values.cell import Cell
from lib.values.maps import PerturbedImages, RecipeView, WantedMaps
from lib.values.measurement import AdversarialImages, Storable

MOVED = {"own": "own adversarial", "of N": "adversarial for a normal network",
         "of R": "adversarial for a robust network", "noise": "noise of equal size"}


@dataclass
class Wanted:
    """The maps of a study by their names in `results.Results`, which says what each compares; None or left out where
    there are no networks for it.
    """

    pool: WantedMaps
    untrained: WantedMaps
    arms: WantedMaps | None = None
    elsewhere: dict[str, WantedMaps] = field(default_factory=dict)
    second: dict[str, WantedMaps] = field(default_factory=dict)
    moved: dict[tuple[str, int], WantedMaps] = field(default_factory=dict)
    runs: dict[tuple[str, int, str], WantedMaps] = field(default_factory=dict)


def wanted(networks: Networks, section: Section, every: list[Cell], failed: Collection[Cell] = ()) -> Wanted:
    """The maps of all cells but those that failed. networks: with the section's `own` settings."""
    left = [cell for cell in every if cell not in failed]
    clean = [cell for cell in left if cell.condition.epoch is None]
    of_pool = _looks(clean, ("U", *BRIEF, "N", "R"))
    found = Wanted(_maps(section, of_pool), _selves(section, _looks(clean, section.untrained_kinds)))
    arms = [cell for cell in clean if cell.condition.variant]
    here = [cell for cell in arms if cell.recipe.data == networks.data]
    if here:
        beside = [look for look in of_pool if look.name[0] in "NR" and int(look.name[1:]) < section.arm_seeds]
        found.arms = _maps(section, beside + _looks(here))
    for name in dict.fromkeys(cell.condition.variant.name for cell in arms if cell not in here):
        found.elsewhere[name] = _maps(section, _looks(c for c in arms if c.condition.variant.name == name))
    own = [look for look in of_pool if look.name[0] in "NRM"]
    found.second = {name: _selves(section, own, measure=name, pooled=True) for name in section.second}
    found.moved = _of_moved_images(networks, section, clean)
    found.runs = _of_checkpoints(networks, section, every, failed)
    return found


def measured(networks: Networks, section: Section, seed: Callable[[int], int]) -> dict[str, list[Storable]]:
    """{batch job: what it makes}: the maps of each kind, and before them the adversarial images of each repetition."""
    own, every = section.own(networks), cells(networks, section, seed)
    found = wanted(own, section, every)
    jobs: dict[str, list[Storable]] = {"maps-pool": [found.pool], "maps-untrained": [found.untrained]}
    jobs |= {"maps-arms": [found.arms]} if found.arms else {}
    jobs |= {f"maps-{name}": [maps] for name, maps in (found.elsewhere | found.second).items()}
    for cell in every:
        if (cell.condition.kind, cell.repetition) in found.moved:
            images = AdversarialImages(cell.recipe, own.threat, section.search)
            jobs.setdefault(f"adversarial-{cell.repetition}", []).append(images)
    for name, some in (("moved-", found.moved), ("", found.runs)):
        for (kind, *_), maps in some.items():
            jobs.setdefault(f"maps-{name}{kind}", []).append(maps)
    return jobs


def _looks(some: Iterable[Cell], kinds: Collection[str] | None = None) -> list[RecipeView]:
    return [RecipeView(f"{cell.condition.kind}{cell.repetition}", cell.recipe) for cell in some
            if kinds is None or cell.condition.kind in kinds]


def _maps(section: Section, looks: list[RecipeView], **options) -> WantedMaps:
    sizes = {"images": section.images, "layers": section.layers, "batch": section.batch}
    return WantedMaps(tuple(looks), **{**sizes, **options})


def _selves(section: Section, looks: list[RecipeView], **options) -> WantedMaps:
    """The maps of each network with itself."""
    return _maps(section, looks, **options, pairs=[(look.name, look.name) for look in looks])


def _of_moved_images(networks: Networks, section: Section, clean: list[Cell]) -> dict[tuple[str, int], WantedMaps]:
    """Every normal and robust network on clean images, on its own adversarial images, on adversarial images for a
    normal and for a robust network of another repetition, and on noise as large as its own adversarial perturbations. A
    repetition that lacks one of the two is left out, and all if no other is left.
    """
    nets = {(c.condition.kind, c.repetition): c.recipe for c in clean if c.condition.kind in ("N", "R")}
    left = [seed for seed in range(section.seeds) if {("N", seed), ("R", seed)} <= nets.keys()]
    found = {}
    for (kind, seed), recipe in nets.items():
        if seed not in left or len(left) == 1 < section.seeds:
            continue
        other = left[(left.index(seed) + 1) % len(left)]
        sources = {"own": recipe, "of N": nets["N", other], "of R": nets["R", other], "noise": recipe}
        looks = [RecipeView("clean", recipe)]
        for name in MOVED:
            moved = PerturbedImages(sources[name], networks.threat, section.search, noise=name == "noise")
            looks.append(RecipeView(name, recipe, moved))
        found[kind, seed] = _maps(section, looks, pairs=[("clean", look.name) for look in looks])
    return found


def _of_checkpoints(networks: Networks, section: Section, every: list[Cell],
                    failed: Collection[Cell]) -> dict[tuple[str, int, str], WantedMaps]:
    """The checkpoints of every overfitting and control run, on test and on training images. A run of which one
    checkpoint failed is left out.
    """
    runs: dict[tuple[str, int], list[Cell]] = {}
    for cell in every:
        if cell.condition.epoch is not None:
            runs.setdefault((cell.condition.kind, cell.repetition), []).append(cell)
    found = {}
    for run, members in runs.items():
        if any(cell in failed for cell in members):
            continue
        looks = [RecipeView(str(cell.condition.epoch), cell.recipe) for cell in members]
        for split in ("test", "train"):
            found[*run, split] = _maps(section, looks, images=section.images or networks.data.n_test, split=split,
                                       pairs=[(look.name, looks[-1].name) for look in looks])
    return found
