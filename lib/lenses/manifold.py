"""The fifth lens: how much a network heeds steps along the images' manifold and off it, and patterns of each size."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
from torch import Tensor

from lib.data import ImageSet
from lib.errors import is_int, need
from lib.lenses.lens import NORMAL, ROBUST, SUBJECT, TWIN, Lens, Pool, mean, spread, value_of
from lib.lenses.subject import Subject
from lib.manifold.sensitivity import margin_change, normal_draws, resized, steps
from lib.manifold.spaces import local_pca
from lib.manifold.spectrum import said, spectrum_matched, within_bands

# Lengths of steps on an image of D numbers, as parts of sqrt(D): those of Srinivas et al. (2023) on CIFAR-10, 2.637,
# and of our controls, 0.5.
LENGTHS = {"long": 2.637 / math.sqrt(3072), "short": 0.5 / math.sqrt(3072)}
ALONG, OFF, MATCHED = "along the manifold", "off the manifold", "off it with the spectrum of steps along it"
WHITE = "white noise"
RATIO = "log-ratio of the changes, {} over {}"
BEYOND = ", minus the twin's"


@dataclass(frozen=True)
class Manifold(Lens):
    """The change of the logit margin by steps of equal length along each image's tangent space (principal components of
    its nearest training images), orthogonal to it, and orthogonal to it with the Fourier spectrum of the steps along
    it, which tells the manifold from mere smoothness. Networks are compared by log-ratios, in which the scale of the
    logits cancels. The same for noise within octaves of spatial frequency, over white noise.

    dimension: of the tangent spaces. neighbours: from how many training images each is made. draws: steps per image.
    """

    dimension: int = 8
    neighbours: int = 40
    draws: int = 4

    name: ClassVar[str] = "manifold"
    title: ClassVar[str] = "Sensitivity along the manifold and off it"

    def __post_init__(self):
        need(is_int(self.dimension, 1), "dimension", self.dimension, "a whole number of at least 1")
        need(is_int(self.neighbours, self.dimension + 1), "neighbours", self.neighbours,
             f"a whole number of at least {self.dimension + 1}, more than the dimension")
        need(is_int(self.draws, 1), "draws", self.draws, "a whole number of at least 1")

    def price(self, subject: Subject, pool: Pool, images: ImageSet) -> float:
        kinds = len(LENGTHS) * (4 + len(octaves(subject.data.shape)))
        return len(images) * (1 + self.draws) * kinds * self.forward_of_all(subject, pool, images)

    def measure(self, subject: Subject, pool: Pool, images: ImageSet) -> pd.DataFrame:
        networks, changes, found = list(pool.roles(subject)), self.by_image(pool, images), []
        tables = {network.key: changes(network) for _, network in networks}
        for role, network in networks:
            found += self._of(role, network, tables, subject, images)
        return self.rows(found)

    def by_image(self, pool: Pool, images: ImageSet) -> Callable[[Subject], pd.DataFrame]:
        """What gives, of a network, a row for each image, from the store: the change of its margin by the steps of each
        size and kind, as `log_ratio` takes it.
        """
        made = functools.cache(lambda: self._steps(pool, images))
        key = [self.dimension, self.neighbours, self.draws, pool.data.training]

        def changes(network: Subject) -> pd.DataFrame:
            every, note = made()
            row = {f"{size}, {kind}": margin_change(network.net, images.pixels(), moves).cpu().numpy()
                   for (size, kind), moves in every.items()}
            return pd.DataFrame({**row, "note": note})

        return lambda network: pool.stored(self, [network], images, key, lambda: changes(network))

    def _steps(self, pool: Pool, images: ImageSet) -> tuple[dict[tuple[str, str], Tensor], str]:
        """{(size, kind): steps [R, N, D]}, and why there are none with a matched spectrum ("" if there are)."""
        x, shape = images.pixels(), tuple(pool.data.shape)
        train = pool.zoo.images(pool.data, "train").pixels()
        tangents = local_pca(x, train, self.dimension, self.neighbours)
        noise = normal_draws(x, images.indices, self.draws, "lens")
        found, note = {}, ""
        for size, length in LENGTHS.items():
            length = length * math.sqrt(x[0].numel())
            both = steps(noise, tangents, length)
            matched = spectrum_matched(both.on, x, images.indices, tangents, "lens")
            found |= {(size, ALONG): both.on, (size, OFF): both.off, (size, WHITE): resized(noise, length)}
            if matched.valid:
                found[size, MATCHED] = matched.moves
            else:
                _, _, note = said(size, float(matched.inside.mean()), float(matched.misplaced.mean()))
            for low, high in octaves(shape):
                found[size, _named(low, high)] = resized(within_bands(noise, shape, low, high), length)
        return found, note

    def _of(self, role: str, network: Subject, tables: dict[str, pd.DataFrame], subject: Subject,
            images: ImageSet) -> list[dict]:
        found, table = [], tables[network.key]
        bands = octave_names(subject.data.shape)
        pairs = [(OFF, ALONG), (MATCHED, ALONG), *((band, WHITE) for band in bands)]
        for size, length in LENGTHS.items():
            where = {"at": size, "place": length * math.sqrt(math.prod(subject.data.shape)), "images": images,
                     "protocol": f"{self.draws} steps an image, tangent spaces of {self.dimension} dimensions from "
                                 f"{self.neighbours} neighbours"}
            for kind in (ALONG, OFF, MATCHED, WHITE, *bands):
                if f"{size}, {kind}" in table:
                    found.append(self.row(role, network, "change of the margin", mean(table[f"{size}, {kind}"]),
                                          against=kind, **where))
            for over, under in pairs:
                own = log_ratio(table, size, over, under)
                note = "" if own is not None else table["note"].iloc[0] or "undefined: the margin does not change"
                values = {"": own}
                if role == SUBJECT:
                    theirs = log_ratio(tables[subject.twin.key], size, over, under)
                    values[BEYOND] = None if own is None or theirs is None else own - theirs
                    note = note or ("" if theirs is not None else "undefined: the margin of its twin does not change")
                for more, value in values.items():
                    found.append(self.row(role, network, RATIO.format(over, under) + more, np.nan if value is None
                                          else mean(value), note=note, **where))
        return found

    def sentence(self, rows: pd.DataFrame) -> str:
        rows, ratio = rows[rows["at"] == "long"], RATIO.format(OFF, ALONG)
        own, beyond = value_of(rows, SUBJECT, ratio), value_of(rows, SUBJECT, ratio + BEYOND)
        if not np.isfinite([own["value"], beyond["value"]]).all():
            return f"Steps off the manifold cannot be compared with steps along it for {own['network']}: {own['note']}."
        control = value_of(rows, SUBJECT, RATIO.format(MATCHED, ALONG))
        robust, normal, twin = (spread(rows, role, ratio, _times) for role in (ROBUST, NORMAL, TWIN))
        matched = "no steps off it are as smooth"
        if np.isfinite(control["value"]):
            matched = f"{_times(control['value'])} times if it is as smooth"
        return (f"A step off the manifold moves the margin of {own['network']} {_times(own['value'])} times as far as "
                f"an equally long step along it ({matched}); for robust references it is {robust} times, for normal "
                f"ones {normal} and for its untrained twin {twin}; the ratio is {_times(beyond['value'])} "
                f"({_times(beyond['low'])} to {_times(beyond['high'])}) times the twin's.")


def octaves(shape: tuple[int, int, int]) -> list[tuple[int, int]]:
    """The first and last radial band of each octave of spatial frequency, in cycles an image: 0 to 1, 2 to 3, 4 to 7"""
    highest, found = round(max(shape[1:]) * math.hypot(0.5, 0.5)), [(0, 1)]
    while found[-1][1] < highest:
        found.append((found[-1][1] + 1, 2 * found[-1][1] + 1))
    return found


def octave_names(shape: tuple[int, int, int]) -> list[str]:
    """The octaves as measures and directions call them."""
    return [_named(*octave) for octave in octaves(shape)]


def _named(low: int, high: int) -> str:
    return f"{low} to {high} cycles an image"


def log_ratio(table: pd.DataFrame, size: str, over: str, under: str) -> np.ndarray | None:
    """The logarithm of the ratio of two mean changes, by image to first order, [N], whose mean is the value; None if
    one is missing or 0.
    """
    names = [f"{size}, {kind}" for kind in (over, under)]
    if any(name not in table or not table[name].mean() > 0 for name in names):
        return None
    above, below = (table[name].to_numpy(float) for name in names)
    return np.log(above.mean() / below.mean()) + above / above.mean() - below / below.mean()


def _times(log: float) -> str:
    return f"{math.exp(log):.2f}"
