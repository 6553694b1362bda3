"""What the lenses see of each network, and the batch jobs that make it before the notebook asks for it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from lib.lenses import VERSION
from lib.papers.across_papers.networks import Condition, Repetition, cells
from lib.papers.across_papers.settings import REFERENCE, Section
from lib.profiles.networks import Networks
from lib.values.attacks import PGD
from lib.values.cell import Cell
from lib.values.keys import digest
from lib.values.maps import RecipeView, WantedMaps
from lib.values.measurement import Measurement
from lib.values.recipe import Recipe

R = Condition("R")
UPDATE = 2.5  # passes of an update of a joint: forward, and back through the end, which is half of the network
BOTH = 2  # a network and its untrained twin; a trained and a matched joint


@dataclass(frozen=True)
class Look:
    """What the lenses see of a network, image by image (`results.Looks`): its gradients, what steps change, and the fit
    of its front and of its untrained twin's in the end of `reference`; without this fit if that is None. A `Storable`.

    networks: with the section's `own` settings. seed, host: see `results.Looks`, the reference's repetition.
    """

    recipe: Recipe
    reference: Recipe | None
    networks: Networks
    section: Section
    seed: Callable[[int], int]
    host: int

    needs = ()

    @functools.cached_property
    def entry(self) -> tuple[str, str]:
        s = self.section
        fitted = self.reference and [self.reference.key, s.joint_epochs, s.joint_steps, s.quick_joints]
        teachers = [recipe.key for recipe in self._teachers]
        return "look", digest([VERSION, self.recipe.key, fitted, teachers, s.seen(self.networks), self.networks])

    @functools.cached_property
    def _teachers(self) -> list[Recipe]:
        first = Repetition(self.networks, self.section, 0, self.seed)
        return [first.teacher(number) for number in (0, 1)]

    @property
    def recipes(self) -> tuple[Recipe, ...]:
        return (self.recipe, *filter(None, [self.reference]), *self._teachers)

    def describe(self) -> str:
        return f"what lenses see of {self.recipe.describe()}"

    def costs(self) -> list[Measurement]:
        """Joints with the reference, gradients of all classes, and steps along and off the manifold."""
        from lib.lenses.manifold import LENGTHS, Manifold, octaves  # imports torch, which a plan does without
        from lib.lenses.stitching import Stitching, quick_attack, quick_data

        section, data, lens, seen = self.section, self.networks.data, Manifold(), self.section.seen(self.networks)
        classes = data.info.classes
        found = [("gradients of all classes", seen, 1 + 2 * classes),
                 ("steps along and off the manifold", seen,
                  (1 + lens.draws) * len(LENGTHS) * (4 + len(octaves(data.shape))))]
        if self.reference:
            attack = self.networks.robust.attack
            if section.quick_joints:
                data, attack = quick_data(data), quick_attack(self.networks.threat)
            joint = self.networks.objective(attack).passes(classes, self.networks.batch_size)
            training = section.joint_epochs * (UPDATE * joint.updates + joint.forwards + 2 * joint.attacks)
            fitted = BOTH * min(Stitching().fit, data.n_train) / data.n_train
            attack = PGD(section.joint_steps, self.networks.threat.usual_step).passes(0.5, classes)
            found += [("trained and matched joints", data.n_train, BOTH * (training + fitted)),
                      ("attacks on stitched networks", seen, BOTH * BOTH * attack)]
        return [Measurement(what, self.recipe, images, passes, entry=self.entry) for what, images, passes in found]


@dataclass
class Wanted:
    """looks: by network. maps: by repetition, of all its networks and the reference, which is called REFERENCE."""

    looks: dict[Cell, Look]
    maps: dict[int, WantedMaps]


def of_next(section: Section, number: int) -> int:
    """The repetition whose robust network is the reference of this one; itself if there is only one."""
    return (number + 1) % section.seeds


def wanted(networks: Networks, section: Section, seed: Callable[[int], int], every: Iterable[Cell],
           failed: Collection[Cell] = ()) -> Wanted:
    """What is made of all classifiers but those that failed. networks: with the section's `own` settings."""
    left = [cell for cell in every if cell.measures and cell not in failed]
    robust = {cell.repetition: cell.recipe for cell in left if cell.condition == R}
    found = Wanted({}, {})
    for number in range(section.seeds):
        mine, host = [cell for cell in left if cell.repetition == number], of_next(section, number)
        reference = robust.get(host)
        found.looks |= {cell: Look(cell.recipe, reference, networks, section, seed, host) for cell in mine}
        if reference and mine:
            views = [RecipeView(cell.condition.kind, cell.recipe) for cell in mine]
            found.maps[number] = WantedMaps((*views, RecipeView(REFERENCE, reference)), batch=section.batch,
                                            images=section.seen(networks),
                                            pairs=[(view.name, REFERENCE) for view in views])
    return found


def measured(networks: Networks, section: Section, seed: Callable[[int], int]) -> dict[str, list[Look | WantedMaps]]:
    """{batch job: what it makes}: a job a repetition, so that the pictures and steps that its looks share are made once
    in it.
    """
    made = wanted(section.own(networks), section, seed, cells(networks, section, seed))
    jobs: dict[str, list[Look | WantedMaps]] = {f"lenses-{number}": [maps] for number, maps in made.maps.items()}
    for cell, look in made.looks.items():
        jobs[f"lenses-{cell.repetition}"].append(look)
    return jobs
