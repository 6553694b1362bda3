"""The notebook across the papers: measure the networks of the plan through the lenses, image by image.

lib/papers/across_papers/networks.py says which networks.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from lib import results
from lib.files import write_atomic
from lib.lenses.alignment import Alignment
from lib.lenses.lens import Pool
from lib.lenses.manifold import ALONG, OFF, WHITE, Manifold, log_ratio, octave_names
from lib.lenses.stitching import MATCHED, TRAINED, Stitching
from lib.lenses.subject import Subject
from lib.papers.across_papers.measured import Look, R, wanted
from lib.papers.across_papers.networks import Condition
from lib.papers.across_papers.settings import ALIGNED, DENOISERS, DENSE, OF_POOL, PRUNED, REFERENCE, Section
from lib.profiles.networks import Networks
from lib.runtime import ProgressBar
from lib.similarity.maps import Maps
from lib.similarity.stored_maps import stored
from lib.similarity.summaries import same_layer
from lib.statistics import bracket
from lib.training.zoo import Zoo
from lib.values.attacks import Attack
from lib.values.cell import Cell
from lib.values.maps import WantedMaps
from lib.values.threats import Threat

ABOVE_CHANCE = 0.05  # a network whose clean accuracy is not that much above guessing has collapsed
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
        """[S, m]: whether the network's front is correct in the reference's end, minus whether its twin's is. A pruned
        network has the dense one's twin, of which no weights are removed.
        """
        dense = {cell.repetition: cell for cell in self.of(Condition(DENSE))}

        def read(cell: Cell) -> np.ndarray:
            whole = dense.get(cell.repetition) if condition.kind == PRUNED else cell
            own, twin = self.fits.get(cell), self.twins.get(whole)
            if own is None or twin is None or column not in own or column not in twin:
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


class Looks:
    """Makes the looks (`measured.Look`) of a study. What they share, class scores and steps, is made once."""

    def __init__(self, zoo: Zoo, networks: Networks, section: Section, seed: Callable[[int], int]):
        self.zoo, self.networks, self.section, self.seed = zoo, networks, section, seed
        self.images = zoo.images(networks.data, "test").take(slice(0, section.seen(networks)))
        pool = Pool(zoo, networks, seed)
        manifold = Manifold(neighbours=min(Manifold.neighbours, networks.data.n_train))
        self.aligned = Alignment().by_image(pool, self.images)
        self.changed = manifold.by_image(pool, self.images)

    def of(self, look: Look) -> pd.DataFrame:
        """A row for each image, from the store if it was made before. Columns `alignment gained` and so on, of
        `Alignment.by_image`; `manifold ...`, of `Manifold.by_image`; `own ...` and `twin ...`, of the front of the
        network and of its twin (`Stitching.middle_fronts`).
        """
        def make(work: Path) -> dict:
            subject = Subject.of_recipe(self.zoo, look.recipe, look.recipe.describe())
            parts = {"alignment": self.aligned(subject)[["gained", "possible"]], "manifold": self.changed(subject)}
            if look.reference:
                parts |= {"own": self._fit(look, subject), "twin": self._fit(look, subject.twin)}
            table = pd.concat([table.add_prefix(f"{part} ") for part, table in parts.items()], axis=1)
            write_atomic(work / "table.csv", table.to_csv(index=False))
            return {"networks": [recipe.key for recipe in look.recipes], "what": look.describe()}

        return self.zoo.store.obtain(*look.entry, make).table()

    def _fit(self, look: Look, subject: Subject) -> pd.DataFrame:
        lens = Stitching(epochs=self.section.joint_epochs, steps=self.section.joint_steps,
                         quick=self.section.quick_joints)
        host = Subject.of_recipe(self.zoo, look.reference, REFERENCE)
        # the first robust network of this pool is the reference; its joints have seeds of their own
        pool = Pool(self.zoo, self.networks, lambda n: self.seed((look.host + n) % self.section.seeds))
        return lens.middle_fronts(subject, host, pool, self.images)


_looks = functools.lru_cache(maxsize=1)(Looks)


def measure(zoo: Zoo, cells: list[Cell], networks: Networks, section: Section, seed: Callable[[int], int]) -> Results:
    """Train (or load) every network and look at it through the lenses; whatever the store holds is read from it."""
    networks = section.own(networks)
    found = Results(networks, section, seed, cells)
    names = {section.verify: "verify", section.search: "search"}

    def name(threat: Threat, attack: Attack) -> str:
        return names.get(attack, "restart")

    found.each([cell for cell in cells if cell.measures], "networks", lambda cell: found.take(zoo, cell, name))
    made = wanted(networks, section, seed, cells, found.failed)
    found.maps = {number: stored(zoo, maps) for number, maps in made.maps.items()}
    with ProgressBar(len(made.looks), "lenses", "network") as bar:
        for cell, look in made.looks.items():
            bar.work_on(f"{found.label(cell.condition)}, repetition {cell.repetition}")
            table = _looks(zoo, networks, section, seed).of(look)
            parts = {"alignment": found.alignment, "manifold": found.manifold, "own": found.fits, "twin": found.twins}
            for part, tables in parts.items():
                columns = {name: name.removeprefix(f"{part} ") for name in table if name.startswith(f"{part} ")}
                if columns:
                    tables[cell] = table[[*columns]].rename(columns=columns)
            bar.step()
    return found


def make(zoo: Zoo, one: Look | WantedMaps) -> None:
    """Make what a batch job of the module `measured` makes, unless the store has it."""
    if isinstance(one, WantedMaps):
        stored(zoo, one)
    else:
        _looks(zoo, one.networks, one.section, one.seed).of(one)
