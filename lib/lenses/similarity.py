"""The third lens: how similar a network's representations are to those of references, layer by layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd

from lib.data import ImageSet
from lib.errors import is_int, need
from lib.lenses.lens import NORMAL, ROBUST, SUBJECT, TWIN, Lens, Pool, mean, spread, value_of
from lib.lenses.subject import Subject
from lib.models.taps import Tap
from lib.similarity.maps import Maps, View, maps
from lib.similarity.summaries import mean_off_diagonal
from lib.statistics import jackknife

SHARES = 10  # layers of a network: the last ones within each tenth of its operations
MEASURES = ("cka", "procrustes")
WITHIN, TO = "mean {} of different layers", "mean {} along the best order of depths"


@dataclass(frozen=True)
class Similarity(Lens):
    """CKA and Procrustes similarity of ten layers, on minibatches of the images: of different layers of a network, and
    of each layer with the layer of a reference that fits best where depth may not decrease. The best fit favours any
    network, so the twin gets its own, and what counts is the difference. Bounds come from the jackknife over
    minibatches.

    minibatches: into how many the images are split. Procrustes similarity grows as they become smaller, so compare it
    only at the same number.
    """

    minibatches: int = 8

    name: ClassVar[str] = "similarity"
    title: ClassVar[str] = "Similarity of representations"
    needs_layers: ClassVar[bool] = True

    def __post_init__(self):
        need(is_int(self.minibatches, 2), "minibatches", self.minibatches, "a whole number of at least 2")

    def price(self, subject: Subject, pool: Pool, images: ImageSet) -> float:
        own, theirs = self.forward(subject, pool)  # all networks are compared anew for each subject
        passes = len(MEASURES) * (2 + len(pool.recipes)) * len(images)
        batch = len(images) / self.minibatches
        sizes = [math.prod(subject.shape(layer)) for layer in chosen(subject)]
        grams = 2 * passes * batch * float(sum(sizes))
        svds = 20 * batch**3 * self.minibatches * (2 + len(pool.recipes)) ** 2 * len(sizes) ** 2
        return (2 * own + len(pool.recipes) * theirs) * len(MEASURES) * len(images) + grams + svds

    def measure(self, subject: Subject, pool: Pool, images: ImageSet) -> pd.DataFrame:
        self.check(subject)
        least = 4 * self.minibatches
        need(len(images) >= least, "number of images", len(images), f"at least {least} for {self.minibatches} "
             "minibatches")
        networks = list(pool.roles(subject))
        every = [one for _, one in networks]
        return pool.stored(self, every, images, [self.minibatches, [one.name for one in every]],
                           lambda: self._rows(networks, pool, images))

    def _rows(self, networks: list[tuple[str, Subject]], pool: Pool, images: ImageSet) -> pd.DataFrame:
        views, layers = [], {}
        for _, one in networks:
            layers[one.name] = chosen(one)
            net, marks = one.graph.marked(layers[one.name])
            views.append(View(one.name, net, images, taps=[Tap(mark) for mark in marks]))
        pairs = [(one.name, one.name) for _, one in networks]
        pairs += [(one.name, name) for _, one in networks for name in pool.references if one.name != name]
        found = []
        for measure in MEASURES:
            made = maps(views, measure, batch_size=-(-len(images) // self.minibatches), pairs=pairs)
            for role, one in networks:
                found += self._of(role, one, made, layers, list(pool.references), images)
            found += self._beyond_twin(networks, made, list(pool.references), images)
        return self.rows(found)

    def _of(self, role: str, one: Subject, made: Maps, layers: dict[str, tuple[str, ...]], references: list[str],
            images: ImageSet) -> list[dict]:
        """The rows of one network: its self map, and its best alignments with the references."""
        how = {"images": images, "protocol": f"{made.measure}, {made.batches} minibatches"}
        whys = {label: why for (view, label), why in made.undefined.items() if view == one.name}
        self_map, own = made.between(one.name, one.name), layers[one.name]
        found = [self.row(role, one, f"{made.measure} of two layers", self_map[i, j], against=own[j], at=own[i],
                          place=one.flops[own[i]], **how) for i in range(len(own)) for j in range(len(own))]
        defined = len(own) - len(whys)
        if defined < 2:
            whys["undefined"] = f"{defined} of its layers can be compared"
        within = np.nan if defined < 2 else _jackknifed(
            made, lambda without: mean_off_diagonal(made.between(one.name, one.name, without)))
        found.append(self.row(role, one, WITHIN.format(made.measure), within,
                              note="; ".join(f"{label}: {why}" for label, why in whys.items()), **how))
        for name in references:
            if name != one.name:
                values = made.between(one.name, name)
                for i, j in enumerate(best_order(values)[1]):
                    found.append(self.row(role, one, f"{made.measure} along the best order of depths", values[i, j],
                                          against=f"{name} {layers[name][j]}", at=own[i], place=one.flops[own[i]],
                                          **how))
                found.append(self.row(role, one, TO.format(made.measure), _jackknifed(
                    made, lambda without, name=name: best_order(made.between(one.name, name, without))[0]),
                    against=name, **how))
        return found

    def _beyond_twin(self, networks: list[tuple[str, Subject]], made: Maps, references: list[str],
                     images: ImageSet) -> list[dict]:
        """How much more similar to each reference the subject is than its twin, each along its own best order."""
        (_, subject), (_, twin) = networks[:2]
        return [self.row(SUBJECT, subject, f"{TO.format(made.measure)}, minus the twin's", _jackknifed(
            made, lambda without, name=name: best_order(made.between(subject.name, name, without))[0]
            - best_order(made.between(twin.name, name, without))[0]), images,
            f"{made.measure}, {made.batches} minibatches", against=name) for name in references]

    def sentence(self, rows: pd.DataFrame) -> str:
        within, beyond = WITHIN.format("cka"), rows[rows["measure"] == f"{TO.format('cka')}, minus the twin's"]
        own = value_of(rows, SUBJECT, within)
        normal, robust, twin = (spread(rows, role, within, "{:.2f}".format) for role in (NORMAL, ROBUST, TWIN))
        more = {kind: spread(beyond[beyond["against"].str.startswith(kind)], SUBJECT, beyond["measure"].iloc[0],
                             "{:+.2f}".format) for kind in "NR"}
        layers = f"{own['network']} has too few layers for a CKA of different ones"
        if np.isfinite(own["value"]):
            layers = (f"Different layers of {own['network']} have a CKA of {own['value']:.2f} (normal references "
                      f"{normal}, robust ones {robust}, its untrained twin {twin})")
        return (f"{layers}; along the best order of depths its CKA exceeds its twin's by {more['N']} with normal and "
                f"by {more['R']} with robust references.")


def chosen(network: Subject) -> tuple[str, ...]:
    """The last layer within each tenth of a network's operations, in order; fewer than ten where a layer takes more.
    Maps and tokens, which blocks give, are preferred to flat features; logits are left out.
    """
    hidden = network.layers[:-1] or network.layers
    spatial = [layer for layer in hidden if math.prod(network.shape(layer)[2:]) > 1]
    found = {}
    for layer in spatial or hidden:
        found[math.ceil(SHARES * network.flops[layer] - 1e-9)] = layer
    found = {tenth: layer for tenth, layer in found.items() if tenth > 0} or found
    return tuple(found[tenth] for tenth in sorted(found))


def best_order(values: np.ndarray) -> tuple[float, Sequence[int]]:
    """The largest mean similarity of the layers of one network with layers of another whose depth never decreases, and
    for each layer of the first the position of its partner. values: a map [L, M]; undefined rows are left out of the
    mean, undefined partners are not chosen.
    """
    scores = np.where(np.isnan(values), -np.inf, values)
    known = ~np.isinf(scores).all(1)
    scores[~known] = 0.0
    total, origin = scores[0].copy(), []
    for row in scores[1:]:
        reach = np.maximum.accumulate(total)
        origin.append([int(np.argmax(total[:j + 1])) for j in range(len(total))])
        total = reach + row
    path = [int(np.argmax(total))]
    for back in reversed(origin):
        path.append(back[path[-1]])
    return (float(total.max() / known.sum()) if known.any() else float("nan")), path[::-1]


def _jackknifed(made: Maps, summary):
    """The mean of a summary of maps, with bounds over minibatches; a number without bounds if it is not finite."""
    if not np.isfinite(value := summary(None)):
        return value
    return mean(jackknife(lambda _, without: summary(without), 1, made.batches)[0])
