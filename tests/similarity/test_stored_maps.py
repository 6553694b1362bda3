"""Looks at networks: maps that are made once, on clean and on moved images."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lib.data import ImageSet
from lib.errors import SettingsError
from lib.similarity import View, maps, stored_maps
from lib.similarity.stored_maps import measure_maps
from lib.store import Store
from lib.training import zoo as zoo_module
from lib.training.zoo import Zoo
from lib.values.architectures import ResNet
from lib.values.attacks import PGD
from lib.values.data import Data
from lib.values.maps import PerturbedImages, RecipeView
from lib.values.recipe import Recipe
from lib.values.threats import Threat

THREAT, ATTACK = Threat("linf", "0.1"), PGD(2, "0.05")
NET = Recipe(Data("digits", train=64, test=24), ResNet(16, (1, 1)), epochs=0, batch_size=64)
OTHER = replace(NET, seed=1)


@pytest.fixture
def box(tmp_path):
    torch.set_num_threads(1)
    return Zoo(Store(tmp_path))


@pytest.fixture
def shown(monkeypatch):
    """The views that maps were asked for."""
    seen = []

    def listening(views, *args, **options):
        seen.extend(views)
        return maps(views, *args, **options)

    monkeypatch.setattr(stored_maps, "maps", listening)
    return seen


def test_a_map_is_that_of_the_networks_on_the_images(box):
    two = [RecipeView("a", NET), RecipeView("b", OTHER)]
    got = measure_maps(box, two, batch=8)
    images = box.images(NET.data, "test")
    direct = maps([View(look.name, box.obtain(look.recipe).net, images) for look in two], batch_size=8)
    assert got.views == ("a", "b") and got.batches == 3 and got.layers == direct.layers
    for pair in (("a", "a"), ("a", "b")):
        np.testing.assert_allclose(got.between(*pair), direct.between(*pair), rtol=1e-6)
    part = measure_maps(box, two, batch=8, images=16, split="train", layers="relu", pairs=[("a", "b")])
    assert part.sizes == (8, 8) and all(tap.kind == "ReLU" for tap in part.layers["a"])
    with pytest.raises(SettingsError, match="views = a, a"):
        part.between("a", "a")


def test_a_map_is_made_once_and_then_read(box, monkeypatch):
    two = [RecipeView("a", NET), RecipeView("b", OTHER, PerturbedImages(NET, THREAT, ATTACK))]
    first = measure_maps(box, two, batch=8)
    monkeypatch.setattr(stored_maps, "maps", None)
    monkeypatch.setattr(zoo_module, "build", None)
    again = measure_maps(Zoo(Store(box.store.root)), two, batch=8)
    assert torch.equal(again.terms, first.terms) and again.layers == first.layers and again.pairs == first.pairs
    entry, = [meta for kind, _, _, meta in box.store.entries() if kind == "maps"]
    assert entry["networks"] == sorted([NET.key, OTHER.key])


DIFFERENT = {
    "network": ([RecipeView("a", OTHER)], {}),
    "moved": ([RecipeView("a", NET, PerturbedImages(NET, THREAT, ATTACK))], {}),
    "moved by another": ([RecipeView("a", NET, PerturbedImages(OTHER, THREAT, ATTACK))], {}),
    "moved more": ([RecipeView("a", NET, PerturbedImages(NET, Threat("linf", "0.2"), ATTACK))], {}),
    "noise": ([RecipeView("a", NET, PerturbedImages(NET, THREAT, ATTACK, noise=True))], {}),
    "split": (None, {"split": "train"}),
    "images": (None, {"images": 16}), "layers": (None, {"layers": "relu"}),
    "measure": (None, {"measure": "cka_biased"}),
    "pooled": (None, {"pooled": True}), "batch": (None, {"batch": 12}), "faithful": (None, {"faithful": True}),
}


def test_what_differs_is_another_map(box, monkeypatch):
    made_ = []

    def obtain(kind, key, make):
        made_.append(key)
        raise KeyError

    monkeypatch.setattr(box.store, "obtain", obtain)
    for which, options in [(None, {}), *DIFFERENT.values(), (None, {})]:
        with pytest.raises(KeyError):
            measure_maps(box, which or [RecipeView("a", NET)], **{"batch": 8, **options})
    assert made_[0] == made_[-1] and len({*made_}) == len(DIFFERENT) + 1


def pixels_of(view):
    return view.images if isinstance(view.images, torch.Tensor) else view.images.pixels()


def test_adversarial_images_are_those_of_their_source(box, shown):
    by = {"clean": None, "own": PerturbedImages(NET, THREAT, ATTACK), "other": PerturbedImages(OTHER, THREAT, ATTACK)}
    measure_maps(box, [RecipeView(name, NET, moved) for name, moved in by.items()], batch=12, images=12)
    pixels = {view.name: pixels_of(view) for view in shown}
    assert torch.equal(pixels["clean"], box.images(NET.data, "test").pixels()[:12])
    for name, source in (("own", NET), ("other", OTHER)):
        assert torch.equal(pixels[name], box.adversarial(source, THREAT, ATTACK)[:12])
        assert 0 < (pixels[name] - pixels["clean"]).abs().max() <= .1 + 1e-6
    assert not torch.equal(pixels["own"], pixels["other"])


def test_noise_moves_every_pixel_as_far_as_the_attack_with_a_random_sign(box, shown):
    aimed = PerturbedImages(NET, THREAT, ATTACK)
    names = {"clean": None, "own": aimed, "noise": replace(aimed, noise=True)}
    measure_maps(box, [RecipeView(name, NET, moved) for name, moved in names.items()], batch=24)
    clean, own, noise = (pixels_of(view) for view in shown)
    assert 0 <= noise.min() and noise.max() <= 1
    size = (own - clean).abs()
    uncut = (clean - size >= 0) & (clean + size <= 1)  # there either sign fits
    torch.testing.assert_close((noise - clean).abs()[uncut], size[uncut], rtol=0, atol=1e-6)
    assert ((noise - clean).abs() <= size + 1e-6).all()
    moved = uncut & (size > 1e-3)
    agree = (torch.sign(noise - clean) == torch.sign(own - clean))[moved].float()
    assert len(agree) > 300 and .4 < agree.mean() < .6
    shown.clear()
    measure_maps(box, [RecipeView("noise", OTHER, replace(aimed, noise=True))], batch=24)
    assert torch.equal(shown[0].images, noise), "the noise does not depend on who looks"


def test_views_of_other_images_are_refused(box):
    fewer = replace(NET, data=replace(NET.data, test=20))
    with pytest.raises(SettingsError) as error:
        measure_maps(box, [RecipeView("a", NET), RecipeView("b", fewer)], batch=8)
    assert "images of view b = 20 images" in str(error.value) and "\n" not in str(error.value)
    both_have_these = measure_maps(box, [RecipeView("a", NET), RecipeView("b", fewer)], batch=8, images=16)
    assert both_have_these.sizes == (8, 8)
    for noise in (False, True):
        with pytest.raises(SettingsError) as error:
            measure_maps(box, [RecipeView("a", NET, PerturbedImages(fewer, THREAT, ATTACK, noise))], batch=8, images=16)
        assert "data of the attacked network" in str(error.value) and "\n" not in str(error.value)
    assert [kind for kind, *_ in box.store.entries()].count("maps") == 1, "nothing was made of what was refused"


def test_adversarial_images_of_another_data_set_are_refused(box, monkeypatch):
    """As many images of the same shape, with the same numbers: only their name tells them apart."""
    def read(data, split, device):
        draw = torch.Generator().manual_seed(len(data.name))
        pixels = torch.randint(0, 256, (12, 3, 32, 32), generator=draw, dtype=torch.uint8)
        return ImageSet(pixels, torch.arange(12) % 10, torch.arange(12), data.name, split)

    monkeypatch.setattr(zoo_module, "load", read)
    here, there = (replace(NET, data=Data(name, test=12)) for name in ("cifar10", "svhn"))
    with pytest.raises(SettingsError, match="data of the attacked network.*svhn.*test images of cifar10"):
        measure_maps(box, [RecipeView("a", here, PerturbedImages(there, THREAT, ATTACK))], batch=12)
    assert measure_maps(box, [RecipeView("a", here, PerturbedImages(here, THREAT, ATTACK))], batch=12).sizes == (12,)
