"""The fourth lens: whether a network's gradients point where images of a class lie."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from lib.alignment import measures
from lib.data import ImageSet
from lib.errors import need
from lib.gradients.scores import class_score
from lib.gradients.targets import TrainingTargets
from lib.lenses.lens import NORMAL, ROBUST, SUBJECT, TWIN, Lens, Pool, mean, share_of, spread, value_of
from lib.lenses.subject import Subject
from lib.runtime import derangement
from lib.training import price
from lib.values.objectives import Targets
from lib.values.recipe import Recipe

SCORE, NEAREST = "class score", "nearest neighbour"
SHARE = "alignment as a share of the teacher's ceiling"


@dataclass(frozen=True)
class Alignment(Lens):
    """The cosine between the gradients, with respect to pixels in [0, 1], of the centred logits (each minus the mean of
    all) and pictures of the classes, next to the same with another image's pictures. The pictures are class scores of a
    denoiser, where the profile has one, and the image's nearest neighbours of each class among training images; both
    are centred over classes, since centred gradients cannot follow what all classes share. The ceiling is the cosine
    between the class scores of two denoisers, of which only the second is compared with networks.
    """

    name: ClassVar[str] = "alignment"
    title: ClassVar[str] = "Alignment of gradients with classes"

    def price(self, subject: Subject, pool: Pool, images: ImageSet) -> float:
        classes = subject.data.info.classes
        ours = self.forward_of_all(subject, pool, images) * (1 + 2 * classes)
        return len(images) * (ours + sum(price.forward(one) * (1 + classes) for one in denoisers(pool)))

    def recipes(self, pool: Pool) -> dict[str, Recipe]:
        return {f"denoiser {n}": recipe for n, recipe in enumerate(denoisers(pool))}

    def measure(self, subject: Subject, pool: Pool, images: ImageSet) -> pd.DataFrame:
        need(len(images) > 1, "number of images", len(images), "at least 2, to permute them")
        cosines, found = self.by_image(pool, images), []
        for role, network in pool.roles(subject):
            found += self._of(role, network, cosines(network), images)
        return self.rows(found)

    def by_image(self, pool: Pool, images: ImageSet) -> Callable[[Subject], pd.DataFrame]:
        """What gives, of a network, a row for each image, from the store: cosines of its gradients with pictures of the
        classes. Columns `gained` and `possible`, where the profile has denoisers: the mean over classes of the cosine
        with the class scores, minus that with another image's, and the same for a second denoiser instead of the
        network.
        """
        pictures = functools.cache(lambda: _truths(pool, images))
        key = [[recipe.key for recipe in denoisers(pool)], pool.data.training, _sigma(pool)]

        def cosines(network: Subject) -> pd.DataFrame:
            table = pool.stored(self, [network], images, key, lambda: _cosines(network, images, pictures()))
            if "ceiling" not in table:
                return table
            return table.assign(gained=table[f"all, {SCORE}"] - table[f"all permuted, {SCORE}"],
                                possible=table["ceiling"] - table["ceiling permuted"])

        return cosines

    def _of(self, role: str, network: Subject, table: pd.DataFrame, images: ImageSet) -> list[dict]:
        found = []
        for name in (SCORE, NEAREST):
            if f"own, {name}" not in table:
                continue
            how = {"images": images, "protocol": f"centred logits, {name} centred over classes", "against": name}
            for which in ("own", "others"):
                own, other = table[f"{which}, {name}"], table[f"{which} permuted, {name}"]
                of = {"own": "of the image's class", "others": "of the other classes"}[which]
                found += [self.row(role, network, f"cosine {of}", mean(own), **how),
                          self.row(role, network, f"cosine {of}, another image's pictures", mean(other), **how),
                          self.row(role, network, f"cosine {of}, minus another image's", mean(own - other), **how)]
        if "possible" in table:
            share = share_of(table["gained"], table["possible"])
            how = {"images": images, "protocol": "mean over classes, minus another image's", "against": SCORE}
            found.append(self.row(role, network, "cosine between two teachers, minus another image's",
                                  mean(table["possible"]), **how))
            note = "" if share else "undefined: the two teachers agree no more than on other images"
            found.append(self.row(role, network, SHARE, share or np.nan, note=note, **how))
        return found

    def sentence(self, rows: pd.DataFrame) -> str:
        if (rows["measure"] == SHARE).any() and rows.loc[rows["measure"] == SHARE, "value"].notna().all():
            measure, text = SHARE, "{:z.0%}".format
            told = "{} as well as the class scores of two denoisers agree with each other"
            start = "The gradients of {} agree with class scores "
        else:
            measure, text = "cosine of the image's class, minus another image's", "{:z.2f}".format
            told, start = "{} beyond another image's pictures", "The gradients of {} have a cosine with the {} of "
        own = value_of(rows, SUBJECT, measure)
        value = f"{text(own['value'])} ({text(own['low'])} to {text(own['high'])})"
        robust, normal, twin = (spread(rows, role, measure, text) for role in (ROBUST, NORMAL, TWIN))
        return (f"{start.format(own['network'], own['against'])}{told.format(value)}; for robust references it is "
                f"{robust}, for normal ones {normal} and for its untrained twin {twin}.")


def denoisers(pool: Pool) -> list[Recipe]:
    """The two denoisers of the pool's data, which differ in their seed; none if the profile has none."""
    how = pool.networks.denoiser
    return [] if how is None else [how.recipe(pool.data, pool.networks.precision, pool.seed(n)) for n in (0, 1)]


def _sigma(pool: Pool) -> float:
    return pool.networks.denoiser.sigma if pool.networks.denoiser else 0.0


def _truths(pool: Pool, images: ImageSet) -> dict[str, Tensor]:
    """Pictures of all classes at the images, centred over classes: [N, K, C, H, W]."""
    x, classes = images.pixels(), pool.data.info.classes
    every = torch.arange(classes, device=x.device).expand(len(x), -1)
    nearest = TrainingTargets.of(Targets(NEAREST), pool.zoo.images(pool.data, "train"), classes)
    found = {NEAREST: nearest.at(x, every)}
    for name, recipe in zip(("teacher", SCORE), denoisers(pool), strict=False):
        found[name] = class_score(pool.zoo.obtain(recipe).net, x, _sigma(pool))
    return {name: _centred(pictures) for name, pictures in found.items()}


def _centred(pictures: Tensor) -> Tensor:
    return pictures - pictures.mean(1, keepdim=True)


def _cosines(network: Subject, images: ImageSet, truths: dict[str, Tensor]) -> pd.DataFrame:
    """A row for each image: cosines of the gradients of centred logits with the pictures and with another image's.

    The gradient of a centred logit is that of the log-probability minus its mean over classes, which cancels the
    gradient of the normalisation.
    """
    gradients = _centred(measures.class_gradients(network.net, images.pixels()))
    others = derangement(len(images), "alignment", images.name).to(images.labels.device)
    found: dict[str, Tensor] = {"index": images.indices, "label": images.labels}
    for name in [name for name in (SCORE, NEAREST) if name in truths]:
        for words, pictures in (("", truths[name]), (" permuted", truths[name][others])):
            own, rest = measures.own_and_others(gradients, pictures, images.labels)
            found |= {f"own{words}, {name}": own, f"others{words}, {name}": rest,
                      f"all{words}, {name}": measures.cosines(gradients, pictures).mean(1)}
    if SCORE in truths:
        found["ceiling"] = measures.cosines(truths["teacher"], truths[SCORE]).mean(1)
        found["ceiling permuted"] = measures.cosines(truths["teacher"], truths[SCORE][others]).mean(1)
    return pd.DataFrame({name: values.cpu().numpy() for name, values in found.items()})
