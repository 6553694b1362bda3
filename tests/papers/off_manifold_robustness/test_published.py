"""Published l2-robust ImageNet networks (C8): files in MadryLab's layout, gradients at 64 pixels against scores, what
comes from the store, a sentence for each thing that is missing or does not fit, and what the judge gets."""

import contextlib
import dataclasses
import io
import json
import re
import types
from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
import yaml
from PIL import Image
from torch import nn
from torchvision.transforms.v2 import functional as V

from lib import claims
from lib.data import DataError, images, load
from lib.errors import SettingsError
from lib.gradients import inputs, lpips
from lib.models import Denoiser, network
from lib.models.edm import SongUNet
from lib.models.external import load_resnet
from lib.papers import settings
from lib.papers.off_manifold_robustness import networks, published, tables
from lib.papers.off_manifold_robustness import results as study
from lib.papers.off_manifold_robustness.evidence import claim_preconditions, evidence
from lib.papers.off_manifold_robustness.networks import NONE, POOL, UNTRAINED
from lib.papers.off_manifold_robustness.published import (
    ANTIALIASED,
    BILINEAR,
    PublishedResults,
    filtering_error,
    resized,
)
from lib.papers.off_manifold_robustness.results import COLUMNS, Results
from lib.runtime import ROOT, generator, initialise_with
from lib.store import Store
from lib.training.evaluation import Outcomes
from lib.training.zoo import Zoo
from lib.values.architectures import ImageNetResNet
from lib.values.data import DATASETS

S = "off_manifold_robustness"
EPS = (0, 0.5, 3)
CLASSES = ("n00000003", "n00000005", "n00000007")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
ARCH = ImageNetResNet(18, 8)
UNET_SIZES = 8, [1, 1, 1], 1, [], 16  # width, multipliers, blocks, attention, embedding
THEIRS = (("stem.0.", "conv1."), ("stem.1.", "bn1."), ("head.2.", "fc."), ("shortcut.conv.", "downsample.0."),
          ("shortcut.bn.", "downsample.1."))


# ------------------------------------------------------------------------------------------------------ what users have


def resnet(eps):
    """A network of its own for each eps, whose BN statistics are all different."""
    with initialise_with("published", eps):
        net = network(ARCH, (3, 64, 64), 3)
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.running_mean, 0, 0.3), nn.init.uniform_(module.running_var, 0.5, 2)
    net.normalise.mean[:] = torch.tensor(MEAN).view(3, 1, 1)
    net.normalise.std[:] = torch.tensor(STD).view(3, 1, 1)
    return net.eval()


def madry(net, **more):
    """The checkpoint of MadryLab's robustness that holds a network; in its copies other numbers, seen if they are read.
    """
    tensors = {"module.normalizer.new_mean": torch.tensor(MEAN).view(3, 1, 1),
               "module.normalizer.new_std": torch.tensor(STD).view(3, 1, 1),
               "module.attacker.normalize.new_mean": torch.zeros(3, 1, 1),
               "module.attacker.normalize.new_std": torch.ones(3, 1, 1)}
    for name, tensor in net.state_dict().items():
        for ours, theirs in THEIRS:
            name = name.replace(ours, theirs)
        if not name.startswith("normalise."):
            tensors |= {f"module.model.{name}": tensor, f"module.attacker.model.{name}": torch.zeros_like(tensor)}
    return {"model": tensors, "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}, "epoch": 90, **more}


def edm(classes=3, side=64, channels=3):
    with initialise_with("published", "edm"):
        net = SongUNet(side, channels, *UNET_SIZES, classes)
        nn.init.normal_(net.dec[f"{side}x{side}_aux_conv"].weight, 0, 0.1)
    return net.state_dict()


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A data folder with an ImageNet of three classes of noisy pictures, three networks and a denoiser."""
    base = tmp_path_factory.mktemp("given")
    rng = np.random.default_rng(0)
    for part, count in (("train", 1), ("val", 3)):
        for name in CLASSES:
            for i in range(count):
                (base / "imagenet" / part / name).mkdir(parents=True, exist_ok=True)
                picture = Image.fromarray(rng.integers(0, 256, (80, 100, 3), dtype=np.uint8)).resize((150, 120))
                picture.save(base / "imagenet" / part / name / f"{i}.JPEG", quality=95)
    for eps in EPS:
        torch.save(madry(resnet(eps)), base / f"l2_eps{eps}.ckpt")
    torch.save(edm(), base / "edm.pt")
    return base


@pytest.fixture(autouse=True)
def here(given, monkeypatch, tmp_path):
    """REPRO_DATA is that folder, and its ImageNet is as large as is expected."""
    monkeypatch.setitem(DATASETS, "imagenet", dataclasses.replace(DATASETS["imagenet"], train=3, test=9, classes=3))
    images._official.cache_clear()
    monkeypatch.setattr(images, "OWN", given.parent / f"own-{given.name}")  # decoded images are kept between tests
    monkeypatch.setenv("REPRO_DATA", str(given))
    yield
    images._official.cache_clear()


SWEEP = {"name": "digits", "training": {"epochs": 1, "optimiser": {"name": "sgd", "lr": 0.1},
                                        "schedule": {"name": "onecycle"}}, "strengths": {"noise": [0.1]},
         "tangents": ["PCA"], "pca": 4, "sizes": [1], "clean": 0, "images": 20}
ALONE = {name: None for name in settings.load("smoke").notebooks if name != S}
USUAL = {"weights": "l2_eps{eps}.ckpt", "denoiser": "edm.pt", "eps": list(EPS), "images": 7, "size": 64,
         "arch": {"depth": 18, "width": 8}, "clean": 0}


def parts(s):
    return s.networks, s.sections[S], s.seed


def made(sweeps=(SWEEP,), **changes):
    """The smoke profile with published networks and hardly anything else; a change to ... leaves a setting out."""
    how = {name: value for name, value in {**USUAL, **changes}.items() if value is not ...}
    return settings.load("smoke", {**ALONE, f"{S}.seeds": 3, f"{S}.sweeps": list(sweeps), f"{S}.distractor": None,
                                   f"{S}.published": how})


@pytest.fixture
def zoo(tmp_path):
    return Zoo(Store(tmp_path / "store"), "cpu", set())


class Shrink(nn.Module):
    """A denoiser whose score is minus the image, for three classes or none; it remembers what it was told."""

    def __init__(self, classes=3):
        super().__init__()
        self.classes, self.told = classes, []

    def forward(self, x, sigma, labels=None):
        self.told.append(labels)
        return x * (1 - sigma**2)


class Norm(nn.Module):
    """A classifier whose predicted logit has the gradient `sign` times the image."""

    def __init__(self, sign):
        super().__init__()
        self.sign = sign

    def forward(self, x):
        first = 1e6 + self.sign * x.square().flatten(1).sum(1) / 2
        return torch.stack([first, 0 * first, 0 * first], 1)


def constructed(zoo, monkeypatch, denoiser, sign=-1, **changes):
    """What is measured with this denoiser, of networks whose gradient is `sign` times the image."""
    monkeypatch.setattr(published, "load_resnet", lambda *a: Norm(sign))
    monkeypatch.setattr(published.PublishedMaterial, "denoiser", denoiser)
    return published.measure(zoo, *parts(made(**changes)))


# ---------------------------------------------------------------------------------------------------------- the files


def test_a_checkpoint_of_madrylab_gives_its_network_and_not_the_copies(given):
    net, ours = load_resnet(given / "l2_eps3.ckpt", ARCH, 3, (3, 64, 64)), resnet(3)
    x = torch.rand(3, 3, 64, 80, generator=generator("x"))
    assert torch.equal(net(x), ours(x)) and len(ours(x).unique()) == 9
    assert {k: v.tolist() for k, v in net.state_dict().items()} == {k: v.tolist() for k, v in ours.state_dict().items()}
    assert net.normalise.mean.flatten().tolist() == pytest.approx(MEAN)
    assert net.normalise.std.flatten().tolist() == pytest.approx(STD)


def test_a_checkpoint_that_holds_more_says_how_to_write_its_tensors_out(tmp_path, monkeypatch):
    torch.save(madry(resnet(0), prec1=Fraction(1, 2)), tmp_path / "more.ckpt")
    with pytest.raises(SettingsError) as error:
        load_resnet(tmp_path / "more.ckpt", ARCH, 3, (3, 64, 64))
    text = str(error.value)
    assert "\n" not in text and "it holds a fractions.Fraction" in text and str(tmp_path / "more.ckpt") in text
    monkeypatch.chdir(tmp_path)
    exec(re.fullmatch(r'.*: python -c "(.*)"', text)[1], {})  # noqa: S102 - the line that the error advises
    x = torch.rand(1, 3, 64, 64, generator=generator("x"))
    assert torch.equal(load_resnet("OUT.pt", ARCH, 3, (3, 64, 64))(x), resnet(0)(x))
    (tmp_path / "cut.ckpt").write_bytes((tmp_path / "more.ckpt").read_bytes()[:5000])
    with pytest.raises(SettingsError, match="cut.ckpt.*reads no tensors") as error:
        load_resnet(tmp_path / "cut.ckpt", ARCH, 3, (3, 64, 64))
    assert "python -c" not in str(error.value), "what is torn cannot be written out"


# ------------------------------------------------------------------------------------------------------- measurements


def by_hand(given, eps, size):
    """Rightness, and by way of resizing the cosines of gradients and scores, image by image in plain torch."""
    test = load(made(size=size).sections[S].published.data, "test").take(slice(0, 7))
    net, unet, found = resnet(eps), SongUNet(64, 3, *UNET_SIZES, 3), {BILINEAR: [], ANTIALIASED: []}
    unet.load_state_dict(torch.load(given / "edm.pt"))
    right, gradients, score = [], [], []
    for image, label in zip(test.images / 255, test.labels, strict=True):
        x = image.clone().requires_grad_()
        logits = net(x[None])[0]
        logits.max().backward()
        right.append(bool(logits.argmax() == label))
        gradients.append(x.grad)
        y = 2 * V.resize(image, [64, 64], antialias=True)[None] - 1  # EDM's pixels lie in [-1, 1], its sigma is 1.2
        s, scale = torch.tensor(1.2), (1.2**2 + 0.25) ** 0.5
        inner = unet(y / scale, s.log().view(1) / 4, label.view(1))
        score.append((0.25 / scale**2 * y + 0.5 * 1.2 / scale * inner - y).detach())
    for name in found:
        for gradient, one in zip(gradients, score, strict=True):
            small = V.resize(gradient, [64, 64], antialias=name == ANTIALIASED)
            found[name].append(F.cosine_similarity(small.flatten(), one.flatten(), dim=0).item())
    return test, right, found


@pytest.mark.parametrize("size", [64, 96])
def test_rows_are_those_of_plain_torch(zoo, given, size):
    found = published.measure(zoo, *parts(made(size=size)))
    rows = found.rows
    assert len(rows) == 3 * 7 * 2 * 4 and rows.notna().all(axis=None) and found.errors["told"] is True
    assert list(dict.fromkeys(rows.eps)) == list(EPS)
    eps = 0.5 if size == 96 else 3
    test, right, cosines = by_hand(given, eps, size)
    for name, expected in cosines.items():
        mine = rows[(rows.eps == eps) & (rows["what"] == "gradient") & (rows["resize"] == name)]
        assert mine["index"].tolist() == test.indices.tolist() and mine.label.tolist() == test.labels.tolist()
        assert mine.right.tolist() == right and len(set(test.labels.tolist())) == 3
        assert mine.cosine.to_numpy() == pytest.approx(np.array(expected), abs=2e-5)
        assert mine.absolute.to_numpy() == pytest.approx(mine.cosine.abs().to_numpy())
    assert np.abs(cosines[BILINEAR]).max() > 2e-3, "cosines that can be told from 0"
    assert (size == 64) == (cosines[BILINEAR] == pytest.approx(cosines[ANTIALIASED], abs=1e-3))
    others = [rows[(rows.eps == e) & (rows["what"] == "gradient")].cosine.to_numpy() for e in EPS]
    assert not np.allclose(others[0], others[1], atol=1e-3) and not np.allclose(others[1], others[2], atol=1e-3)


def test_a_gradient_that_is_the_score_has_alignment_1(zoo, monkeypatch):
    """Score -x at 64 pixels, gradient -x at 96: the same picture once resized as images are, and only its own."""
    found = constructed(zoo, monkeypatch, Shrink(), size=96)
    of = {(what, resize): found.rows[(found.rows["what"] == what) & (found.rows["resize"] == resize)].cosine
          for what in found.rows["what"].unique() for resize in (BILINEAR, ANTIALIASED)}
    assert of["gradient", ANTIALIASED].to_numpy() == pytest.approx(np.ones(21), abs=1e-5)
    assert of["gradient", BILINEAR].between(0.9, 0.9995).all()
    assert (of["shuffled pairs", ANTIALIASED] < 0.99).all(), "another image's gradient"
    assert of["white noise", ANTIALIASED].abs().max() < 0.05
    opposite = constructed(Zoo(zoo.store, "cpu", set()), monkeypatch, Shrink(), 1, size=96, images=6)
    assert opposite.means("cosine", resize=ANTIALIASED).to_numpy() == pytest.approx(-np.ones(3), abs=1e-5)


def test_negative_high_pass_is_that_of_the_small_images(zoo, monkeypatch):
    found = constructed(zoo, monkeypatch, Shrink(), size=96)
    rows = found.rows[(found.rows["what"] == "negative high-pass") & (found.rows.eps == 0)]
    small = V.resize(load(found.how.data, "test").pixels(), [64, 64], antialias=True)[:7]
    expected = inputs.cosine(-inputs.high_pass(small), -small).numpy()
    for _, part in rows.groupby("resize"):
        assert part.cosine.to_numpy() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("classes", [3, 0])
def test_the_denoiser_is_told_the_true_class_where_it_takes_one(zoo, monkeypatch, classes):
    denoiser = Shrink(classes)
    found = constructed(zoo, monkeypatch, denoiser)
    labels = load(found.how.data, "test").labels[:7]
    assert len(denoiser.told) == 2 and found.errors["told"] == (classes > 0)
    assert all(torch.equal(told, labels) if classes else told is None for told in denoiser.told)


def test_resizing_keeps_places_and_with_antialiasing_every_pixel_counts():
    corner = torch.zeros(1, 1, 224, 224)
    corner[..., :56, 168:] = 1  # the upper right
    for antialias in (False, True):
        small = resized(corner, antialias)[0, 0]
        assert small.shape == (64, 64) and small[:15, 49:].min() == 1
        assert small[17:].max() == 0 and small[:, :47].max() == 0
        one = torch.rand(1, 3, 64, 64, generator=generator("r"))
        torch.testing.assert_close(resized(one, antialias), one)
    impulses = torch.eye(224).view(224, 1, 1, 224).expand(-1, 1, 224, -1)
    counted = {antialias: int((resized(impulses, antialias).amax((1, 2, 3)) > 0).sum()) for antialias in (False, True)}
    assert counted == {False: 128, True: 224}, "two neighbours of each of 64 places"


def test_wiener_filters_error_is_known_for_white_images():
    white = 0.3 * torch.randn(400, 2, 16, 16, generator=generator("white"))
    assert filtering_error(white, 0.6) == pytest.approx(0.09 * 0.36 / 0.45, rel=0.02)
    assert filtering_error(white[:1].expand(5, -1, -1, -1), 0.6) == pytest.approx(0, abs=1e-9)


# ------------------------------------------------------------------------------------------------------------ the store


def test_what_was_measured_is_not_measured_again(zoo, given, monkeypatch):
    first = published.measure(zoo, *parts(made()))
    asked, real = [], published.load_resnet

    def counted(path, *rest):
        asked.append(path.name)
        return real(path, *rest)

    monkeypatch.setattr(published, "load_resnet", counted)
    with monkeypatch.context() as patch:
        patch.setattr(published, "load_edm", None)
        pd.testing.assert_frame_equal(published.measure(zoo, *parts(made())).rows, first.rows)
    assert asked == []
    for eps in EPS:
        (given / f"copy_eps{eps}.ckpt").write_bytes((given / f"l2_eps{eps}.ckpt").read_bytes())
    torch.save(madry(resnet("another")), given / "copy_eps3.ckpt")
    other = published.measure(zoo, *parts(made(weights="copy_eps{eps}.ckpt")))
    assert asked == ["copy_eps3.ckpt"], "what counts is what a file holds"
    same = first.rows.eps < 3
    pd.testing.assert_frame_equal(other.rows[same], first.rows[same])
    assert not np.allclose(other.rows[~same].cosine, first.rows[~same].cosine)
    torch.save(edm(0), given / "none.pt")
    for changes in ({"sigma": 0.5}, {"images": 6}, {"denoiser": "none.pt"}, {"size": 72}):
        asked.clear()
        published.measure(zoo, *parts(made(**changes)))
        assert len(asked) == 3, changes


def test_a_damaged_table_is_made_again(zoo):
    first = published.measure(zoo, *parts(made()))
    table = next(zoo.store.root.glob("sensitivity/*/table.csv"))
    table.write_text("broken")
    pd.testing.assert_frame_equal(published.measure(zoo, *parts(made())).rows, first.rows)


def test_lpips_is_measured_once_its_weights_are_there(zoo, monkeypatch):
    assert "lpips" not in published.measure(zoo, *parts(made())).rows or not lpips.why_no_lpips()
    monkeypatch.setattr(lpips, "why_no_lpips", lambda: "not here")
    without = published.measure(zoo, *parts(made()))
    monkeypatch.setattr(lpips, "why_no_lpips", lambda: "")
    monkeypatch.setattr(lpips, "lpips", lambda one, other: 1 - (one - other).square().mean((1, 2, 3)))
    rows = published.measure(zoo, *parts(made())).rows
    assert "lpips" not in without.rows and rows.lpips.notna().all()
    pd.testing.assert_frame_equal(rows.drop(columns="lpips"), without.rows)


# ------------------------------------------------------------------------------------------------------ what is missing

IMAGENET = {**SWEEP, "name": "ImageNet-64", "data": {"name": "imagenet", "size": 64}, "images": 5,
            "arch": {"type": "ImageNetResNet", "depth": 18}, "batch_size": 2}
UNET = {"arch": {"type": "UNet", "width": 8, "multipliers": [1, 2], "blocks": 1}, **SWEEP["training"], "high": 0.7,
        "batch_size": 2}


@pytest.mark.parametrize("changes, words", [
    ({"weights": "robust/eps{eps}.ckpt"}, ["published.weights", "robust/eps0.ckpt", "of the 3 files 3 are missing",
                                           "data/README.md"]),
    ({"eps": [0, 0.5, 3, 5]}, ["l2_eps5.ckpt is not possible: it must be a file that is there; data/README.md"]),
    ({"weights": "l2_eps3.ckpt"}, ["published.weights", "a path with {eps}"]),
    ({"weights": ...}, ["published.weights is missing"]),
    ({"denoiser": "nowhere"}, ["published.denoiser", "nowhere", "a file or folder that is there"]),
    ({"denoiser": None}, ["published.denoiser = None", "no sweep trains a denoiser on ImageNet at 64 pixels"]),
    ({"eps": [0, 3, 0.5]}, ["published.eps", "increasing"]),
    ({"eps": [0, 3]}, ["published.eps", "3 or more"]),
    ({"eps": [-1, 0, 3]}, ["published.eps = -1", "at least 0"]),
    ({"sigma": 0}, ["published.sigma", "greater than 0"]),
    ({"images": 1}, ["published.images = 1 ", "at least 2"]),
    ({"images": 10}, ["published.images = 10 ", "at most the 9 test images"]),
    ({"size": 32}, ["data.size = 32", "from 64"]),
    ({"clean": 70}, ["published.clean = 70", "from 0 to 1"]),
    ({"epsilons": [0]}, ["published.epsilons", "did you mean"]),
])
def test_every_setting_that_is_missing_or_impossible_is_one_sentence_before_any_work(changes, words):
    with pytest.raises(SettingsError) as error:
        made(**changes)
    text = str(error.value)
    assert "\n" not in text and all(word in text for word in words), text


def test_paths_are_looked_for_in_the_named_folder_then_in_our_own(given, tmp_path, monkeypatch):
    found = made().sections[S].published
    assert found.files == {eps: given / f"l2_eps{eps}.ckpt" for eps in EPS}
    absolute = made(weights=str(given / "l2_eps{eps}.ckpt")).sections[S].published
    assert absolute.files == found.files
    monkeypatch.setenv("REPRO_DATA", str(tmp_path))
    with pytest.raises(SettingsError, match=re.escape(str(tmp_path / "l2_eps0.ckpt"))):
        made()
    monkeypatch.setattr("lib.files.ROOT", tmp_path / "project")
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "data").symlink_to(given)
    assert made().sections[S].published.files[3] == tmp_path / "project" / "data" / "l2_eps3.ckpt"


def test_the_denoiser_of_the_sweep_on_imagenet_is_used_where_none_is_named(zoo, monkeypatch):
    sweeps = (SWEEP, {**IMAGENET, "denoiser": {**UNET, "high": 0.5}})
    with pytest.raises(SettingsError, match="published.sigma = 0.6 .* from 0.1 to 0.5, .* sweep ImageNet-64"):
        made(sweeps, denoiser=None)
    s = made((SWEEP, {**IMAGENET, "denoiser": UNET}), denoiser=None)
    asked = []

    def obtain(recipe):
        asked.append(recipe)
        return types.SimpleNamespace(net=Shrink())

    monkeypatch.setattr(zoo, "obtain", obtain)
    found = published.measure(zoo, *parts(s))
    own = networks.SweepNetworks(s.networks, s.sections[S].sweeps[1], s.seed)
    assert set(asked) == {own.denoiser()} and asked[0].data.shape == (3, 64, 64) and found.errors["told"]
    assert asked[0] in [cell.recipe for cell in networks.cells(*parts(s))], "the batch run trains it"


@pytest.mark.parametrize("tensors, words", [
    (lambda: edm(side=32), "one for images of 64 pixels; this one is for 32"),
    (lambda: edm(classes=10), "one of no class or of the 3 classes of the images; this one knows 10"),
    (lambda: edm(channels=1), "one for images of 3 channels; this one has 1"),
    (lambda: {"a": torch.ones(1)}, "tensors of EDM's SongUNet"),
])
def test_a_denoiser_of_other_images_is_refused(zoo, given, tensors, words):
    torch.save(tensors(), given / "other.pt")
    with pytest.raises(SettingsError, match=re.escape(words)) as error:
        published.measure(zoo, *parts(made(denoiser="other.pt")))
    assert "other.pt" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("config, words", [
    ({"sample_size": 64, "num_class_embeds": 3}, None),
    ({"sample_size": [64, 64], "num_class_embeds": 4}, None),
    ({"sample_size": None, "num_class_embeds": None}, None),
    ({"sample_size": 32, "num_class_embeds": None}, "one for images of 64 pixels; this one is for 32"),
    ({"sample_size": 64, "num_class_embeds": 1000}, "this one knows 1000"),
])
def test_a_folder_of_diffusers_is_asked_for_its_size_and_classes(zoo, given, monkeypatch, config, words):
    folder = given / "diffusers"
    (folder / "unet").mkdir(parents=True, exist_ok=True)
    (folder / "unet" / "config.json").write_text(json.dumps(config))
    net = Denoiser(nn.Module(), 3, max((config["num_class_embeds"] or 0) - 1, 0))
    net.network.config = types.SimpleNamespace(**config)
    monkeypatch.setattr(published, "load_diffusers", {folder: net}.__getitem__)
    on = published.PublishedMaterial(zoo, *parts(made(denoiser="diffusers")))
    if words:
        with pytest.raises(SettingsError, match=re.escape(words)):
            on.denoiser  # noqa: B018
    else:
        assert on.denoiser is net and on.told == (config["num_class_embeds"] is not None)
        before = on.source
        (folder / "unet" / "model.safetensors").write_bytes(str(config).encode())
        assert published.PublishedMaterial(zoo, *parts(made(denoiser="diffusers"))).source != before


def test_files_are_read_before_anything_is_measured(zoo, given):
    for eps in EPS:
        torch.save(madry(resnet(eps)) if eps < 3 else {"model": {"a": 1}}, given / f"bad_eps{eps}.ckpt")
        torch.save(madry(network(ARCH, (3, 64, 64), 5)), given / f"other_eps{eps}.ckpt")
    with pytest.raises(SettingsError, match="bad_eps3.ckpt is not possible: it must be tensors by name"):
        published.measure(zoo, *parts(made(weights="bad_eps{eps}.ckpt")))
    with pytest.raises(SettingsError, match=r"other_eps0.ckpt .* head.2.weight of shape \(3, 64\); .* \(5, 64\)"):
        published.measure(zoo, *parts(made(weights="other_eps{eps}.ckpt")))
    assert not zoo.store.entries()


def test_without_imagenet_nothing_is_measured(zoo, given, tmp_path, monkeypatch):
    monkeypatch.setenv("REPRO_DATA", str(tmp_path))
    images._official.cache_clear()
    with pytest.raises(DataError, match="ILSVRC 2012"):
        published.measure(zoo, *parts(made(weights=str(given / "l2_eps{eps}.ckpt"), denoiser=str(given / "edm.pt"))))
    assert not zoo.store.entries()


def test_without_published_networks_nothing_is_asked_for(zoo):
    assert published.measure(zoo, *parts(settings.load("smoke"))) is None
    assert tables.published(Results(*parts(settings.load("smoke")), [])).empty


def test_the_papers_profile_has_them_commented_out(monkeypatch, given):
    monkeypatch.undo()  # ImageNet is as large as it is
    monkeypatch.setenv("REPRO_DATA", str(given))
    text = (ROOT / "configs" / "paper.yaml").read_text()
    section = text[text.index(f"\n{S}:"):]
    block = re.search(r"\n  # published:.*\n((?:  #   .*\n)+)", section)
    lines = yaml.safe_load("".join(line[4:] + "\n" for line in block[1].splitlines()))
    assert lines["weights"] == "robust-imagenet/resnet18_l2_eps{eps}.ckpt"
    assert "published" not in yaml.safe_load(text)[S]
    with pytest.raises(SettingsError, match="resnet18_l2_eps0.ckpt .*of the 10 files 10 are missing"):
        settings.load("paper", {f"{S}.published": lines})
    for path in ("eps0", "eps0.01", "eps0.03", "eps0.05", "eps0.1", "eps0.25", "eps0.5", "eps1", "eps3", "eps5"):
        file = given / "robust-imagenet" / f"resnet18_l2_{path}.ckpt"
        file.parent.mkdir(exist_ok=True)
        file.touch()
    (given / "imagenet-64").mkdir(exist_ok=True)
    how = settings.load("paper", {f"{S}.published": lines}).sections[S].published
    assert how.data.shape == (3, 224, 224) and how.data.test == 1000 and how.arch == ImageNetResNet(18, 64)
    assert how.sigma == 0.6 and set(how.eps) == set(published.CARD) and len(how.eps) == 10


# ------------------------------------------------------------------------------------------------------------ the judge


def measured(s, cosines=(0.1, 0.3, 0.2), right=(0.8, 0.6, 0.4), denoiser=0.01, lpips=None):
    """Made-up rows of 10 images for each eps, whose means are known."""
    rows = []
    for eps, cosine, share in zip(EPS, cosines, right, strict=True):
        for resize, more in ((BILINEAR, 0), (ANTIALIASED, 0.05)):
            for k, what in enumerate(("gradient", "white noise", "shuffled pairs", "negative high-pass")):
                for i in range(10):
                    value = (cosine + more if k == 0 else -0.1 * k) + 0.02 * (i - 4.5)
                    rows.append({"eps": eps, "index": i, "label": 0, "right": i < 10 * share, "resize": resize,
                                 "what": what, "cosine": value, "absolute": abs(value)}
                                | ({} if lpips is None else {"lpips": lpips + more - 0.1 * k}))
    return PublishedResults(s.sections[S].published, pd.DataFrame(rows),
                    {"denoiser": denoiser, "filter": 0.02, "told": True})


def found(**world):
    """A study of nothing else: networks without a regulariser and untrained ones that are never wrong."""
    s = made(**world.pop("settings", {}))
    cells = [c for c in networks.cells(*parts(s)) if c.condition.kind in (NONE, UNTRAINED, *POOL.values())]
    none = pd.DataFrame(columns=["where", "kind", "seed"])
    right = {"clean": Outcomes(pd.DataFrame({"clean": np.ones(50, bool)}))}
    nothing = pd.DataFrame(0.0, index=range(50), columns=[*COLUMNS])
    return Results(*parts(s), cells, dict.fromkeys(cells, right), theory=none,
                   sensitivity=dict.fromkeys(cells, nothing), published=measured(s, **world))


def test_the_judge_gets_one_number_of_each_and_decides_nothing():
    claim = claims.load(S)["C8"]
    f = found()
    ready = evidence(f)["C8"]
    assert {part: list(by) for part, by in ready.items()} == {"rises": ["ImageNet"], "falls": ["ImageNet"]}
    assert ready["rises"]["ImageNet"] == pytest.approx([1 / 3]) and ready["falls"]["ImageNet"] == pytest.approx([-1])
    judged = claims.judge(claim, ready, "paper", claim_preconditions(f)["C8"])
    assert judged.verdict == "undecided" and {row.seeds for row in judged.rows} == {1}
    assert [row.value for row in judged.rows] == pytest.approx([1 / 3, -1])
    assert claims.judge(claim, ready, "gpu", claim_preconditions(f)["C8"]).verdict == "not tested"
    flat = evidence(found(right=(0.5, 0.5, 0.5), cosines=(0.3, 0.2, 0.1)))["C8"]
    assert flat["falls"]["ImageNet"] == [0] and flat["rises"]["ImageNet"] == pytest.approx([-1])


@pytest.mark.parametrize("world, name", [
    ({"settings": {"clean": 0.85}}, "published networks know the images (accuracy 80.0% at eps 0, the best; 85%"),
    ({"denoiser": 0.03}, "the denoiser beats a linear filter (squared error 3.00e-02 at noise 0.6, told the class"),
])
def test_networks_or_a_score_that_know_nothing_stop_the_judge(world, name):
    f = found(**world)
    judged = claims.judge(claims.load(S)["C8"], evidence(f)["C8"], "paper", claim_preconditions(f)["C8"])
    assert judged.verdict == "not tested" and name in judged.reason


def test_their_table_holds_the_known_means():
    table = tables.published(found(lpips=0.7))
    assert list(table)[:5] == ["eps", "accuracy", "published accuracy", "alignment", "antialiased"]
    assert table.eps.tolist() == list(EPS) and table.accuracy.tolist() == pytest.approx([0.8, 0.6, 0.4])
    assert table.alignment.tolist() == pytest.approx([0.1, 0.3, 0.2])
    assert table.antialiased.tolist() == pytest.approx([0.15, 0.35, 0.25])
    row = table.iloc[1]
    assert [row["white noise"], row["shuffled pairs"], row["negative high-pass"]] == pytest.approx([-0.1, -0.2, -0.3])
    assert [row["1 - LPIPS"], row["1 - LPIPS, antialiased"]] == pytest.approx([0.7, 0.75])
    assert row["1 - LPIPS, shuffled pairs"] == pytest.approx(0.5)
    assert table["published accuracy"].isna().all(), "narrow networks are on no card"
    assert not [name for name in tables.published(found()) if "LPIPS" in name]
    whole = tables.published(found(settings={"arch": {"depth": 18}}))
    assert whole["published accuracy"].tolist() == [0.6979, 0.6549, 0.5312]


def test_the_card_is_that_of_the_claim():
    said = claims.load(S)["C8"].paper_value
    card = published.CARD
    assert all(f"{100 * card[eps]:.1f} % (eps {eps:g}" in said for eps in (0.01, 5))
    assert sorted(card) == list(card) and sorted({*card.values()} - {card[0.01]}, reverse=True) == [
        card[eps] for eps in card if eps != 0.01]


def test_the_study_measures_them_first(zoo):
    with contextlib.redirect_stdout(io.StringIO()):
        got = study.measure(zoo, [], *parts(made()))
    assert len(got.published.rows) == 3 * 7 * 2 * 4 and got.sensitivity == {}
    assert set(tables.published(got).eps) == set(EPS)
    assert Path(zoo.store.root / "sensitivity").is_dir()
