"""What all lenses share: the reference networks that a subject stands next to, the rows of a lens, and shares of what a
reference reaches.

Every lens measures the subject, its untrained twin and the references on the same images, with the functions that the
papers' notebooks use. What it finds of one network is stored under the digest of its weights and code.
"""

from __future__ import annotations

import functools
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pandas as pd

from lib.data import ImageSet
from lib.errors import is_int, need
from lib.files import write_atomic
from lib.lenses import VERSION
from lib.lenses.subject import Subject
from lib.models import forward_flops
from lib.models.staged import device_of
from lib.profiles.networks import Networks
from lib.runtime import slow_in_bf16
from lib.statistics import Interval, clopper_pearson, seeds
from lib.training import price
from lib.training.zoo import Zoo
from lib.values.attacks import Attack
from lib.values.data import Data
from lib.values.keys import digest, plain
from lib.values.recipe import Recipe
from lib.values.threats import Threat

if TYPE_CHECKING:
    from pathlib import Path

SUBJECT, TWIN, NORMAL, ROBUST = "subject", "untrained twin", "normal reference", "robust reference"
ROLES = {"N": NORMAL, "R": ROBUST}
FOUND = ", found in {} and confirmed in fp32"  # what a protocol says of an attack that searches in another precision
# network, role, key: what was measured. measure: of which quantity. against: the other network or the direction, if
# there is one. at: the layer or eps, place: the same as a number (share of the operations, eps). low, high: bounds over
# images at 95 %, NaN if unknown. images: how many. protocol: how. note: doubts, and why a value is missing.
COLUMNS = ("lens", "network", "role", "key", "measure", "against", "at", "place", "value", "low", "high", "images",
           "protocol", "note")
TEXTS = ("measure", "against", "at", "protocol", "note")


@dataclass(frozen=True, eq=False)
class Pool:
    """Reference networks of one data set, from a profile's recipes. seed: maps a repetition to its recipes' seed.
    count: how many normal and how many robust ones.
    """

    zoo: Zoo
    networks: Networks
    seed: Callable[[int], int]
    count: int = 2

    def __post_init__(self):
        most = min(self.networks.normal.count, self.networks.robust.count)
        need(is_int(self.count, 2) and self.count <= most, "references of each kind", self.count,
             f"a whole number from 2 to {most}, the size of the profile's pool")

    @property
    def data(self) -> Data:
        return self.networks.data

    @property
    def threat(self) -> Threat:
        return self.networks.threat

    @property
    def recipes(self) -> dict[str, Recipe]:
        """{name: recipe}: N0, R0, N1, R1, ..."""
        pairs = ((kind, n) for n in range(self.count) for kind in ROLES)
        return {f"{kind}{n}": self.networks.member(kind, n, self.seed) for kind, n in pairs}

    @property
    def precision(self) -> str:
        """Of searches, whose hits are confirmed in fp32, and of the training of joints: the references', or fp32 on a
        processor that is slower in bf16.
        """
        own = self.networks.precision
        return "fp32" if slow_in_bf16(own, self.zoo.device.type) else own

    @functools.cached_property
    def references(self) -> dict[str, Subject]:
        """The reference networks as subjects, trained if the store lacks them."""
        return {name: Subject.of_recipe(self.zoo, recipe, name) for name, recipe in self.recipes.items()}

    def roles(self, subject: Subject) -> Iterator[tuple[str, Subject]]:
        """(role, network) of the subject, its twin and all references. Raises SettingsError for a subject of other
        data, whose numbers could not stand on one axis with the references', for one on another device, and for one
        with a reference's name.
        """
        own, theirs = (subject.data.name, subject.data.shape), (self.data.name, self.data.shape)
        need(own == theirs, f"data of {subject.name}", f"{own[0]} {list(own[1])}", f"the references' data, {theirs[0]} "
             f"{list(theirs[1])}: values of other images, classes or sizes share no axis")
        need(subject.name not in self.recipes, "name", subject.name, "none of the references'")
        place, wanted = device_of(subject.net).type, self.zoo.device.type
        need(place == wanted, f"device of {subject.name}", place, f"{wanted}, where the references are: wrap the "
             f"network with device='{wanted}'")
        yield SUBJECT, subject
        yield TWIN, subject.twin
        for name, one in self.references.items():
            yield ROLES[name[0]], one

    def told(self, attack: Attack) -> str:
        """An attack within the threat as protocols say it."""
        return f"{attack.title}, {self.threat.norm}, eps {self.threat.eps}{found_in(self.precision)}"

    def training(self) -> pd.DataFrame:
        """What the references were trained on and what it cost: a row for each."""
        return pd.DataFrame([
            {"network": name, "data": recipe.data.name, "training images": recipe.data.n_train,
             "training": recipe.objective.describe(), "epochs": recipe.epochs, "FLOPs": price.training(recipe)}
            for name, recipe in self.recipes.items()])

    def stored(self, lens: Lens, networks: Sequence[Subject], images: ImageSet, more: list,
               make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        """The table that `make` gives about some networks, from the store if it was made before. more: what else
        decides it.
        """
        which = hashlib.sha256(images.indices.cpu().numpy().tobytes()).hexdigest()
        key = digest([VERSION, lens.name, [one.key for one in networks], images.name, images.split, which, more])

        def made(work: Path) -> dict:
            write_atomic(work / "table.csv", make().to_csv(index=False))
            names = [one.name for one in networks]
            return {"networks": [recipe.key for recipe in self.recipes.values()], "of": names,
                    "asked": self.asked(lens, images), "what": f"{lens.title} of {', '.join(names)}"}

        table = self.zoo.store.obtain("lens", key, made).table()
        texts = [name for name in TEXTS if name in table]
        return table.assign(**{name: table[name].astype(object).where(table[name].notna(), "") for name in texts})

    def asked(self, lens: Lens, images: ImageSet) -> str:
        """A digest of what a lens is asked: its settings, and how many images of which set."""
        return digest([VERSION, lens.name, plain(lens), images.name, images.split, len(images)])

    def of_references(self, lens: Lens, images: ImageSet) -> dict[tuple[str, str], list[str]]:
        """{(kind, key): names} of the tables in the store that a lens made about references only, on so many images."""
        asked, networks = self.asked(lens, images), [recipe.key for recipe in self.recipes.values()]
        return {(kind, key): meta["of"] for kind, key, _, meta in self.zoo.store.entries()
                if kind == "lens" and meta.get("asked") == asked and meta["networks"] == networks
                and {*meta["of"]} <= {*self.recipes}}

    def measured(self, lens: Lens, images: ImageSet) -> bool:
        """Whether the store has what a lens finds of each reference on so many images."""
        return {name for names in self.of_references(lens, images).values() for name in names} == {*self.recipes}


class Lens(ABC):
    """One way to look at a network. needs_layers: whether it needs the network's graph, which not all have. searches:
    whether nearly all of its passes search for adversarial images or train on them, in the pool's precision; others are
    in fp32.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    needs_layers: ClassVar[bool] = False
    searches: ClassVar[bool] = False

    @abstractmethod
    def price(self, subject: Subject, pool: Pool, images: ImageSet) -> float:
        """The floating-point operations of `measure`, without the references' training, if the store has nothing of the
        subject and its twin. What it has of references (`Pool.measured`) costs nothing.
        """

    @abstractmethod
    def measure(self, subject: Subject, pool: Pool, images: ImageSet) -> pd.DataFrame:
        """Rows with COLUMNS, of the subject, its twin and the references on the same images. Raises SettingsError for a
        subject of other data than the pool's, and for one without layers if the lens needs them.
        """

    @abstractmethod
    def sentence(self, rows: pd.DataFrame) -> str:
        """What the rows of `measure` say, in one sentence."""

    def recipes(self, pool: Pool) -> dict[str, Recipe]:
        """{name: recipe} of the networks that the lens takes in addition to the references."""
        return {}

    def precision(self, pool: Pool) -> str:
        """Of most passes of `measure`."""
        return pool.precision if self.searches else "fp32"

    def check(self, subject: Subject) -> None:
        """Raise SettingsError if the lens needs layers and the subject has none."""
        need(bool(subject.layers) or not self.needs_layers, f"the lens {self.name}", f"of {subject.name}",
             f"left out: {subject.note or 'it has no layers'}")

    @staticmethod
    def forward(subject: Subject, pool: Pool) -> tuple[float, float]:
        """FLOPs of a forward pass of an image through the subject, and through a reference."""
        return forward_flops(subject.net, subject.data.shape), price.forward(pool.recipes["N0"])

    def forward_of_all(self, subject: Subject, pool: Pool, images: ImageSet) -> float:
        """FLOPs of a forward pass of an image through the subject, its twin and each reference that is to be measured.
        """
        own, theirs = self.forward(subject, pool)
        return 2 * own + (0 if pool.measured(self, images) else len(pool.recipes)) * theirs

    def row(self, role: str, network: Subject, measure: str, value: Interval | float, images: ImageSet, protocol: str,
            **more) -> dict:
        """One row. value: with its bounds, or a number without. more: further columns."""
        bounds = {"value": value.value, "low": value.low, "high": value.high} if isinstance(value, Interval) else {
            "value": value, "low": np.nan, "high": np.nan}
        told = f"{len(images)} {images.split} images of {images.name}" + (f"; {protocol}" if protocol else "")
        return {"lens": self.name, "network": network.name, "role": role, "key": network.key, "measure": measure,
                "against": "", "at": "", "place": np.nan, "note": "", **bounds, "images": len(images),
                "protocol": told, **more}

    def rows(self, found: Sequence[dict]) -> pd.DataFrame:
        return pd.DataFrame(found, columns=list(COLUMNS))


def shared(correct) -> Interval:
    """The share of images of which something is true: bool [m]."""
    correct = np.asarray(correct, bool)
    return clopper_pearson(int(correct.sum()), len(correct))


def mean(values) -> Interval:
    """The mean over images of numbers [m], as if images were drawn at random."""
    return seeds(np.asarray(values, float))


def share_of(gained, possible) -> Interval | None:
    """The ratio of two means over the same images [m], of what a network gained and what was possible, with bounds from
    the ratio's first-order value of each image. None, undefined, unless what was possible is above 0 beyond the noise
    of the images.
    """
    gained, possible = np.asarray(gained, float), np.asarray(possible, float)
    whole = mean(possible)
    if not whole.low > 0:
        return None
    ratio = gained.mean() / whole.value
    return mean(ratio + (gained - ratio * possible) / whole.value)


def spread(rows: pd.DataFrame, role: str, measure: str, as_text: Callable[[float], str] = "{:.0%}".format) -> str:
    """The values of a measure over the networks of a role, as text: one number, or the smallest to the largest."""
    values = rows.loc[(rows["role"] == role) & (rows["measure"] == measure), "value"]
    low, high = as_text(values.min()), as_text(values.max())
    return low if low == high else f"{low} to {high}"


def value_of(rows: pd.DataFrame, role: str, measure: str) -> pd.Series:
    """The first row of a measure of a role."""
    return rows[(rows["role"] == role) & (rows["measure"] == measure)].iloc[0]


def found_in(precision: str) -> str:
    """What a protocol says, after the attack, of one that searches in this precision."""
    return "" if precision == "fp32" else FOUND.format(precision)


def bounded(row: pd.Series) -> str:
    """A share with its bounds, if it has any, as text."""
    bounds = f" ({row['low']:.0%} to {row['high']:.0%})" if np.isfinite(row["low"]) else ""
    return f"{row['value']:.0%}{bounds}"
