"""Similarity maps of networks given by recipe: from the store, or made if they are missing."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lib.data import ImageSet
from lib.errors import need
from lib.files import save_tensors
from lib.runtime import generator, provenance
from lib.similarity.maps import Maps, View, maps
from lib.training.zoo import Zoo
from lib.values.attacks import PGD
from lib.values.keys import digest, plain
from lib.values.recipe import Recipe, outcome_key
from lib.values.threats import Threat

VERSION = 1  # raised when a change of the code changes maps


@dataclass(frozen=True)
class PerturbedImages:
    """Images perturbed by an attack on the network `source` (`Zoo.adversarial`). With `noise`, each pixel moves as far
    as under the attack but with a random sign: the same l_p norms (before clipping to [0, 1]), without an aim.
    """

    source: Recipe
    threat: Threat
    attack: PGD
    noise: bool = False


@dataclass(frozen=True)
class RecipeView:
    """A network and the images it is shown: those of its data, clean (`moved` is None) or perturbed. Each look needs a
    `name` of its own.
    """

    name: str
    recipe: Recipe
    moved: PerturbedImages | None = None


def measure_maps(zoo: Zoo, looks: Sequence[RecipeView], *, split: str = "test", images: int | None = None, layers="all",
            measure: str = "cka", pooled: bool = False, batch: int = 256, faithful: bool = False,
            pairs: Sequence[tuple[str, str]] | None = None) -> Maps:
    """The similarity maps of all `looks` on the first `images` of a split (None: all), which is in a fixed,
    class-balanced random order. From the store if they were made before. layers: see `lib.models.taps.taps`; the other
    options: see `lib.similarity.maps.maps`, whose errors are raised too.
    """
    def make(work: Path) -> dict:
        started = time.monotonic()
        found = maps([_view(zoo, look, split, images, layers) for look in looks], measure, batch_size=batch,
                     pooled=pooled, faithful=faithful, pairs=pairs)
        tensors, meta = found.to_plain()
        save_tensors(work / "data.safetensors", tensors)
        return {"maps": meta, "networks": sorted({look.recipe.key for look in looks}),
                "what": f"{measure} maps of {len(looks)} views ({looks[0].name} ... {looks[-1].name}), {split} images",
                "seconds": time.monotonic() - started, **provenance(zoo.device)}

    which = {"split": split, "images": images, "layers": layers, "measure": measure, "pooled": pooled, "batch": batch,
             "faithful": faithful, "pairs": pairs, "looks": [_named(look) for look in looks]}
    entry = zoo.store.obtain("maps", digest({"version": VERSION, **which}), make)
    return Maps.from_plain(entry.tensors(), entry.meta["maps"])


def _named(look: RecipeView) -> list:
    """What a view depends on, for its key: the network, its data, and what perturbed the images."""
    moved = look.moved and [outcome_key(look.moved.source, look.moved.threat, look.moved.attack), look.moved.noise]
    return [look.name, look.recipe.key, plain(look.recipe.data), moved]


def _view(zoo: Zoo, look: RecipeView, split: str, images: int | None, layers) -> View:
    net, shown = zoo.obtain(look.recipe).net, zoo.images(look.recipe.data, split)
    chosen = shown.take(slice(0, images))
    seen = chosen if look.moved is None else _moved(zoo, look.moved, shown, split)[: len(chosen)]
    return View(look.name, net, seen, chosen.indices, layers)


def _moved(zoo: Zoo, moved: PerturbedImages, shown: ImageSet, split: str) -> Tensor:
    theirs = zoo.images(moved.source.data, split)
    same = theirs.name == shown.name and torch.equal(theirs.indices, shown.indices)
    need(same, "data of the attacked network", moved.source.data,
         f"the data of the look, the same {len(shown)} {split} images of {shown.name}")
    attacked = zoo.adversarial(moved.source, moved.threat, moved.attack, split)
    if not moved.noise:
        return attacked
    clean, draw = shown.pixels(), generator("similarity", "signs", shown.name, split)
    signs = torch.randint(0, 2, clean.shape, generator=draw).to(clean) * 2 - 1
    return (clean + signs * (attacked - clean).abs()).clamp(0, 1)
