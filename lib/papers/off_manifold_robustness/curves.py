"""Curves over the strengths of a regulariser, and the strengths that are picked on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lib.papers.off_manifold_robustness.networks import NONE, Condition
from lib.papers.off_manifold_robustness.results import Results

ON_AT_FLIP = 0.05  # the on-manifold change that a network must exceed to be the flip
LEAST = 1e-9  # smaller mean changes are raised to it before taking logarithms
HALVES = 2  # parts of the images: what is picked on one is read on the other


@dataclass(frozen=True)
class Curve:
    """A regulariser of a sweep over its strengths, 0 first, without the repetitions whose network without a regulariser
    failed, and without the strengths at which one of the other repetitions failed.

    values[column]: [K, S, m] for K strengths, S repetitions and m images (the columns are
    lib.papers.off_manifold_robustness.results.COLUMNS). right: [K, S, M], 1 for a test image that is classified
    correctly. classes: their number, for the accuracy of guessing. chance, on: a network is alive if its accuracy is
    more than `chance` above guessing and its on-manifold change is above `on`.

    What is picked for a repetition and half of the images (every second one) is picked by the other repetitions and the
    other half: [S, 2], the index of a strength. None with a single repetition, or if nothing can be picked.
    """

    strengths: tuple[float, ...]
    values: dict[str, np.ndarray]
    right: np.ndarray
    classes: int
    chance: float
    on: float

    @property
    def seeds(self) -> int:
        return self.right.shape[1]

    def mean(self, column: str) -> np.ndarray:
        """[K, S]: the mean over images."""
        return self.values[column].mean(2)

    @property
    def accuracy(self) -> np.ndarray:
        """[K, S]: the mean over test images."""
        return self.right.mean(2)

    @property
    def alive(self) -> np.ndarray:
        """[K, S]: whether a network is alive (see the class)."""
        return (self.accuracy > 1 / self.classes + self.chance) & (self.mean("on") > self.on)

    @property
    def dead(self) -> list[float]:
        """The strengths at which a network of some repetition is not alive."""
        return [strength for strength, row in zip(self.strengths, self.alive, strict=True) if not row.all()]

    def strongest(self) -> int:
        """The index of the largest strength whose networks are alive in every repetition; 0 if there is none."""
        return max((k for k in range(len(self.strengths)) if self.alive[k].all()), default=0)

    def peaks(self, column: str = "alignment") -> np.ndarray | None:
        """The strength with the largest mean of a column among living networks: the gradients of a constant network
        have arbitrary alignment.
        """
        return self._picked(lambda over, living: np.where(living, over(self.values[column]), -np.inf))

    def flips(self) -> np.ndarray | None:
        """The strength with the largest ratio of on- and off-manifold change among living networks whose on-manifold
        change is above ON_AT_FLIP.
        """
        return self._picked(lambda over, living: np.where(
            living & (over(self.values["on"]) > ON_AT_FLIP), self._ratios(over), -np.inf))

    def lowest_after(self, flips: np.ndarray) -> np.ndarray | None:
        """The strength with the smallest ratio of on- and off-manifold change from the flip to the strongest living
        networks; the flip itself if it is the strongest.
        """
        places = np.arange(len(self.strengths))
        every = [self._picked(lambda over, living, first=first: np.where(
            living & (places >= first) | (places == first), -self._ratios(over), -np.inf)) for first in places]
        return np.array([[every[first][s, half] for half, first in enumerate(row)] for s, row in enumerate(flips)])

    def most_accurate(self) -> np.ndarray | None:
        return self._picked(lambda over, living: over(self.right))

    def _ratios(self, over: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """[K]: logarithms of the on- over the off-manifold change."""
        on, off = (np.log(np.maximum(over(self.values[name]), LEAST)) for name in ("on", "off"))
        return on - off

    def _picked(self, score: Callable[..., np.ndarray]) -> np.ndarray | None:
        """score: from a function that takes the mean of values [K, S, m] over other repetitions and images, and from
        bool [K], whether the networks of the other repetitions are alive, to a number [K] for each strength.
        """
        if self.seeds < 2:
            return None
        found = np.empty((self.seeds, HALVES), int)
        for s in range(self.seeds):
            living = np.delete(self.alive, s, axis=1).all(1)
            for half in range(HALVES):
                scores = score(lambda values, s=s, half=half: np.delete(
                    values, s, axis=1)[..., 1 - half::HALVES].mean((1, 2)), living)
                if not np.isfinite(scores).any():
                    return None
                found[s, half] = scores.argmax()
        return found

    def at(self, values: np.ndarray, picked: np.ndarray) -> np.ndarray:
        """values [K, S, m] at the strength picked for each repetition and half of the images: [S, m]."""
        halves = np.arange(values.shape[2]) % HALVES
        return np.stack([values[row[halves], s, np.arange(len(halves))] for s, row in enumerate(picked)])

    def log_ratio(self, over: str, under: str, picked: np.ndarray | None = None) -> np.ndarray:
        """`log_ratio` [S, m] of two columns at the picked strengths; None: without a regulariser."""
        picked = np.zeros((self.seeds, HALVES), int) if picked is None else picked
        return log_ratio(*(self.at(self.values[name], picked) for name in (over, under)))


def log_ratio(over: np.ndarray, under: np.ndarray) -> np.ndarray:
    """[..., m]: the logarithm of the ratio of two mean changes [..., m] at m images, to first order in each image, so
    that its mean over images is the logarithm of the ratio of the means.
    """
    a, b = (np.maximum(values.mean(-1, keepdims=True), LEAST) for values in (over, under))
    return np.log(a / b) + (over - a) / a - (under - b) / b


def curves(f: Results) -> dict[str, dict[str, Curve]]:
    """{sweep: {regulariser: curve}}"""
    found: dict[str, dict[str, Curve]] = {}
    for sweep in f.section.sweeps:
        for kind, strengths in sweep.strengths.of.items():
            plain = f.of(Condition(sweep.name, NONE))
            left = [cell.repetition for cell in plain]
            every = {strength: [c for c in f.of(Condition(sweep.name, kind, strength)) if c.repetition in left]
                     for strength in strengths}
            kept = {0.0: plain} | {strength: cells for strength, cells in every.items() if len(cells) == len(left)}
            if not plain:
                continue
            first, *_ = plain
            columns = [c for c in f.sensitivity[first] if c not in ("index", "label")]
            values = {c: np.array([[f.sensitivity[cell][c].to_numpy(float) for cell in cells]
                                   for cells in kept.values()]) for c in columns}
            right = np.array([f.stacked(cells) for cells in kept.values()])
            found.setdefault(sweep.name, {})[kind] = Curve(tuple(kept), values, right,
                                                           first.recipe.data.info.classes, f.section.chance,
                                                           f.section.on)
    return found
