"""The notebook across the papers: measure the networks of the plan through the lenses, image by image.

lib/papers/across_papers/networks.py says which networks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from lib import results
from lib.data import ImageSet
from lib.lenses.alignment import Alignment
from lib.lenses.lens import Pool
from lib.lenses.manifold import ALONG, OFF, WHITE, Manifold, log_ratio, octave_names
from lib.lenses.stitching import MATCHED, TRAINED, Stitching
from lib.lenses.subject import Subject
from lib.papers.across_papers.networks import Condition
from lib.papers.across_papers.settings import ALIGNED, DENOISERS, OF_POOL, REFERENCE, Section
from lib.profiles.networks import Networks
from lib.runtime import ProgressBar
from lib.similarity.maps import Maps
from lib.similarity.stored_maps import RecipeView, measure_maps
from lib.similarity.summaries import same_layer
from lib.statistics import bracket
from lib.training.zoo import Zoo
from lib.values.attacks import Attack
from lib.values.cell import Cell
from lib.values.threats import Threat

ABOVE_CHANCE = 0.05  # a network whose clean accuracy is not that much above guessing has collapsed
R = Condition("R")
STEP = "long"  # of the lens's two lengths of steps
FIT, FITTED = f"{TRAINED} robust", f"{MATCHED} robust"  # columns of `fits`


@dataclass
class Results(results.Results):
    """All that was measured: outcomes `verify` (all networks), `search` and `restart` (one more restart).

    By network, a row for each of the test images that lenses look at: fits, of the network's front in the reference's
    end, and twins, of its untrained twin's (columns: see `Stitching.middle_fronts`); alignment (`Alignment.by_image`);
    manifold (`Manifold.by_image`). maps: by repetition, all networks and the reference, views `R` and so on, and
    REFERENCE.
    """

    fits: dict[Cell, pd.DataFrame] = field(default_factory=dict)
    twins: dict[Cell, pd.DataFrame] = field(default_factory=dict)
    alignment: dict[Cell, pd.DataFrame] = field(default_factory=dict)
    manifold: dict[Cell, pd.DataFrame] = field(default_factory=dict)
    maps: dict[int, Maps] = field(default_factory=dict)

    @property
    def classifiers(self) -> list[Condition]:
        return [condition for condition in self.conditions if condition.kind not in DENOISERS]

    def of_training(self, *trainings: str) -> list[Condition]:
        """The arms with one of these trainings."""
        return [condition for condition in self.conditions if condition.training in trainings]

    @property
    def adversarial(self) -> list[Condition]:
        """Networks of PGD adversarial training, by growing eps, the pool's robust ones among them."""
        eps = {arm.name: (arm.threat or self.networks.threat).eps for arm in self.section.arms}
        eps["R"] = self.networks.threat.eps
        return sorted([*self.of_training("PGD-AT"), R], key=lambda condition: eps[condition.kind])

    @property
    def aligned(self) -> list[Condition]:
        """Networks of aligned gradients."""
        return self.of_training(*ALIGNED)

    def around(self, condition: Condition) -> tuple[Condition, Condition] | None:
        """The two adversarial trainings, neighbours in eps, between whose robust accuracies a condition's lies; None if
        there are none, or if one of the three failed everywhere or has collapsed.
        """
        every = self.adversarial
        robust = {one: results.mean(self.robust(one)) for one in (*every, condition)}
        at = bracket(robust[condition], [robust[one] for one in every])
        found = at and (every[at[0]], every[at[1]])
        return found if found and not any(map(self.collapsed, (condition, *found))) else None

    def collapsed(self, condition: Condition) -> bool:
        return not results.mean(self.correct(condition)) >= self.chance(condition) + ABOVE_CHANCE

    # ------------------------------------------------------------------------------------- by repetition and image

    def robust(self, condition: Condition) -> np.ndarray:
        """[S, m]: whether the images of the lenses are classified correctly under `verify`."""
        return self.correct(condition, "verify")[:, :self.section.seen(self.networks)]

    def net_fit(self, condition: Condition, column: str = FIT) -> np.ndarray:
        """[S, m]: whether the network's front is correct in the reference's end, minus whether its twin's is."""
        def read(cell: Cell) -> np.ndarray:
            own, twin = self.fits.get(cell), self.twins.get(cell)
            if own is None or column not in own or column not in twin:
                return np.full(self.section.seen(self.networks), np.nan)
            return own[column].to_numpy(float) - twin[column].to_numpy(float)

        return self.by_repetition(condition, read, np.full(1, np.nan))

    def similarity(self, condition: Condition, repetition: int, without: int | None = None) -> float:
        """Mean same-layer CKA of a network and its reference; NaN if one of them failed. without: a minibatch."""
        maps = self.maps.get(repetition)
        if maps is None or condition.kind not in maps.views:
            return np.nan
        return same_layer(maps.between(condition.kind, REFERENCE, without=without))

    def share_of_ceiling(self, condition: Condition, repetition: int,
                         images: np.ndarray | slice = slice(None)) -> float:
        """The alignment of a network with class scores as a share of what two denoisers agree, on some images; NaN if
        it failed or they do not agree.
        """
        cell = self.of(condition, failed=True)[repetition]
        if cell not in self.alignment:
            return np.nan
        table = self.alignment[cell]
        gained, possible = (table[name].to_numpy(float)[images].mean() for name in ("gained", "possible"))
        return gained / possible if possible > 0 else np.nan

    def steps_ratio(self, cell: Cell, over: str, under: str) -> float:
        """The log-ratio of the mean changes of the margin by two kinds of steps; NaN if it is not defined."""
        table = self.manifold.get(cell)
        found = None if table is None else log_ratio(table, STEP, over, under)
        return np.nan if found is None else float(found.mean())

    def readings(self, cell: Cell) -> dict[str, float]:
        """What each lens says of a network, in one number."""
        condition, n = cell.condition, cell.repetition
        of_shape = octave_names(self.networks.data.shape)
        return {
            "robust": _mean(self.robust(condition)[n]), "clean": self.measured(cell).accuracy("clean"),
            "fit": _mean(self.net_fit(condition)[n]), "fit, matched": _mean(self.net_fit(condition, FITTED)[n]),
            "cka": self.similarity(condition, n), "alignment": self.share_of_ceiling(condition, n),
            "off": self.steps_ratio(cell, OFF, ALONG), "low": self.steps_ratio(cell, of_shape[0], WHITE)}

    # ---------------------------------------------------------------------------------------------------- in words

    def label(self, condition: Condition) -> str:
        return OF_POOL.get(condition.kind, condition.kind)

    def named(self, cell: Cell) -> dict:
        return {"kind": self.label(cell.condition), "seed": cell.repetition}

    def references(self) -> list[Cell]:
        """As in the base class, of the pool alone."""
        return [cell for cell in super().references() if cell.condition.kind in ("N", "R")]


def _mean(values: np.ndarray) -> float:
    return float(values.mean())


def of_next(section: Section, number: int) -> int:
    """The repetition whose robust network is the reference of this one; itself if there is only one."""
    return (number + 1) % section.seeds


def measure(zoo: Zoo, cells: list[Cell], networks: Networks, section: Section, seed: Callable[[int], int]) -> Results:
    """Train (or load) every network and look at it through the lenses; whatever the store holds is read from it."""
    networks = section.own(networks)
    found = Results(networks, section, seed, cells)
    names = {section.verify: "verify", section.search: "search"}

    def name(threat: Threat, attack: Attack) -> str:
        return names.get(attack, "restart")

    classifiers = [cell for cell in cells if cell.measures]
    found.each(classifiers, "networks", lambda cell: found.take(zoo, cell, name))
    images = zoo.images(networks.data, "test").take(slice(0, section.seen(networks)))
    pool = Pool(zoo, networks, seed)
    manifold = Manifold(neighbours=min(Manifold.neighbours, networks.data.n_train))
    aligned, changed = Alignment().by_image(pool, images), manifold.by_image(pool, images)
    with ProgressBar(len(classifiers), "lenses", "network") as bar:
        for number in range(section.seeds):
            front = _compared(zoo, found, number, images)
            for cell in [cell for cell in classifiers if cell.repetition == number and cell not in found.failed]:
                bar.work_on(f"{found.label(cell.condition)}, repetition {number}")
                subject = Subject.of_recipe(zoo, cell.recipe, found.label(cell.condition))
                found.alignment[cell], found.manifold[cell] = aligned(subject), changed(subject)
                if front:
                    found.fits[cell], found.twins[cell] = front(subject), front(subject.twin)
                bar.step()
    return found


def _compared(zoo: Zoo, found: Results, number: int, images: ImageSet) -> Callable[[Subject], pd.DataFrame] | None:
    """Fill `maps` of a repetition, and return what gives the fit of a front in its reference's end; None without a
    reference.
    """
    section, at = found.section, of_next(found.section, number)
    reference = next((cell for cell in found.of(R) if cell.repetition == at), None)
    if reference is None:
        return None
    mine = [cell for cell in found.of() if cell.repetition == number and cell.measures]
    views = [*(RecipeView(cell.condition.kind, cell.recipe) for cell in mine), RecipeView(REFERENCE, reference.recipe)]
    found.maps[number] = measure_maps(zoo, views, images=len(images), batch=section.batch,
                                      pairs=[(view.name, REFERENCE) for view in views[:-1]])
    lens = Stitching(epochs=section.joint_epochs, steps=section.joint_steps)
    host = Subject.of_recipe(zoo, reference.recipe, REFERENCE)
    # the first robust network of this pool is the reference; its joints have seeds of their own
    pool = Pool(zoo, found.networks, lambda n: found.seed((at + n) % section.seeds))
    return lambda subject: lens.middle_fronts(subject, host, pool, images)
