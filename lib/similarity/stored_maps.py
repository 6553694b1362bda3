"""Similarity maps of networks given by recipe: from the store, or made if they are missing."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from lib.data import ImageSet
from lib.errors import need
from lib.files import save_tensors
from lib.runtime import generator, provenance
from lib.similarity.maps import Maps, View, maps
from lib.training.zoo import Zoo
from lib.values.maps import PerturbedImages, RecipeView, WantedMaps


def measure_maps(zoo: Zoo, looks: Sequence[RecipeView], **options) -> Maps:
    """The similarity maps of all `looks`; options: see `lib.values.maps.WantedMaps`. From the store if they were made
    before. Raises as `lib.similarity.maps.maps` does.
    """
    return stored(zoo, WantedMaps(tuple(looks), **options))


def stored(zoo: Zoo, wanted: WantedMaps) -> Maps:
    """Wanted maps, from the store if they were made before. Raises as `lib.similarity.maps.maps` does."""
    def make(work: Path) -> dict:
        started = time.monotonic()
        found = maps([_view(zoo, look, wanted) for look in wanted.looks], wanted.measure, batch_size=wanted.batch,
                     pooled=wanted.pooled, faithful=wanted.faithful, pairs=wanted.pairs)
        tensors, meta = found.to_plain()
        save_tensors(work / "data.safetensors", tensors)
        return {"maps": meta, "networks": sorted({look.recipe.key for look in wanted.looks}),
                "what": wanted.describe(), "seconds": time.monotonic() - started, **provenance(zoo.device)}

    entry = zoo.store.obtain(*wanted.entry, make)
    return Maps.from_plain(entry.tensors(), entry.meta["maps"])


def _view(zoo: Zoo, look: RecipeView, wanted: WantedMaps) -> View:
    net, shown = zoo.obtain(look.recipe).net, zoo.images(look.recipe.data, wanted.split)
    chosen = shown.take(slice(0, wanted.images))
    seen = chosen if look.moved is None else _moved(zoo, look.moved, shown, wanted.split)[: len(chosen)]
    return View(look.name, net, seen, chosen.indices, wanted.layers)


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
