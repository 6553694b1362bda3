"""The lens of stitching: the same as the paper's notebook, on networks whose answer is known, and what is undefined."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torchvision import models

from lib.errors import SettingsError
from lib.lenses import stitching
from lib.lenses.lens import NORMAL, ROBUST, SUBJECT, TWIN, Pool
from lib.lenses.stitching import (
    BEYOND,
    HALVES,
    HOSTS,
    MEASURE,
    NO_CEILING,
    SHARE,
    VERDICTS,
    Cut,
    Stitching,
    channels,
    last_layers,
)
from lib.lenses.subject import Subject
from lib.models import join, network
from lib.papers.settings import load as profile
from lib.papers.stitching.networks import DIRECT, Repetition
from lib.runtime import initialise_with
from lib.store import Store
from lib.training.evaluation import evaluate
from lib.training.loop import TrainingDiverged
from lib.training.zoo import SEED, Zoo
from lib.values.architectures import LEAST_SQUARES, MLP, ResNet, Stitch, ViT
from lib.values.data import Data

DIGITS = Data("digits", train=320, test=120)
LENS = Stitching(fit=100, epochs=1, steps=2)
JOINTS = {"layer1.0": "layer1_0_relu2", "layer2.0": "layer2_0_relu2"}  # stage of the paper's notebook -> layer


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    """Two normal and two robust networks, briefly trained."""
    torch.set_num_threads(1)
    given = profile("test").networks
    networks = replace(given, data=DIGITS, arch=ResNet(4, (1, 1, 1)), normal=replace(given.normal, epochs=4),
                       robust=replace(given.robust, epochs=6))
    return Pool(Zoo(Store(tmp_path_factory.mktemp("store"))), networks, lambda repetition: repetition)


def drawn(make):
    with initialise_with("stitching"):
        return make()


def wrapped(net, name, data=DIGITS):
    return Subject.wrap(net, data=data, normaliser="inside", name=name)


def values(rows, **where):
    """{(measure, layer): value} of the rows with these columns."""
    for column, value in where.items():
        rows = rows[rows[column] == value]
    return rows.set_index(["measure", "at"])["value"]


@pytest.fixture(scope="module")
def rows(copy, pool, images):
    return LENS.measure(copy, pool, images)


# ----------------------------------------------------------------------------------------------------------- answers


def test_a_copy_of_a_reference_matched_with_it_is_the_reference(rows, pool, images):
    found = evaluate(pool.references["R0"].net, images, pool.threat, LENS.attack(pool), seed_parts=SEED)
    own = values(rows, against="R0", network="copy")
    for verdict, (half, other), at in itertools.product(VERDICTS, HALVES.items(), JOINTS.values()):
        measure = MEASURE.format(verdict=verdict, half=half, other=other, way="matched")
        assert own[measure, at] == pytest.approx(found.accuracy(verdict), abs=1 / 120)


def test_shares_are_of_what_the_second_robust_network_gains_over_the_twin(rows):
    for against in HOSTS:
        own, theirs, below = (values(rows, against=against, network=one) for one in ("copy", "R1", "copy, untrained"))
        shares = own[own.index.get_level_values(0).str.endswith(SHARE)].dropna()
        assert len(shares)
        for (measure, at), share in shares.items():
            place = measure.removesuffix(SHARE), at
            assert share == pytest.approx((own[place] - below[place]) / (theirs[place] - below[place]))
            assert own[measure.removesuffix(SHARE) + BEYOND, at] == pytest.approx(own[place] - below[place])


def test_a_copy_of_the_second_robust_network_reaches_all_that_it_reaches(pool, images):
    second = Subject.of_recipe(pool.zoo, pool.recipes["R1"], "second")
    found = LENS.measure(second, pool, images)
    shares = found[found["measure"].str.endswith(SHARE) & found["value"].notna()]
    assert {*shares["role"]} == {SUBJECT, TWIN, NORMAL, ROBUST}
    assert np.allclose(shares.loc[shares["network"].isin(["second", "R1"]), "value"], 1)
    assert np.allclose(shares.loc[shares["role"] == TWIN, "value"], 0)


def test_the_reference_is_cut_at_two_depths_and_trained_at_the_middle_size(rows, pool):
    own = rows[(rows["role"] == SUBJECT) & (rows["against"] == "R0")]
    matched = own[own["measure"].str.contains("matched")]
    assert {*matched["at"]} == {*JOINTS.values()} and matched["place"].between(0.3, 0.8).all()
    assert {*own.loc[own["measure"].str.contains("trained joint"), "at"]} == {"layer2_0_relu2"}
    assert not rows[rows["network"] == rows["against"]].size, "no reference is stitched with itself"
    assert own["protocol"].str.contains("joint fitted to 100 training images|joint trained for 1 epochs").all()


# -------------------------------------------------------------------------------------------- one implementation


@pytest.fixture(scope="module")
def notebook(pool):
    """The first repetition of the paper's notebook, whose fronts and ends are N0 and R0."""
    return Repetition(pool.networks, profile("test").sections["stitching"], 0, pool.seed)


@pytest.mark.parametrize("joint", JOINTS)
def test_direct_matching_gives_the_numbers_of_the_notebook(notebook, rows, pool, joint):
    matched = {"arch": Stitch(joint, LEAST_SQUARES, LENS.fit), "epochs": 0, "trainable": ()}
    for pair, half, name, host in (("N->R", "front", "N0", "R0"), ("R->N", "end", "N0", "R0"),
                                   ("R->N", "front", "R0", "N0")):
        recipe = notebook.stitched(DIRECT, pair, joint, 0.0, **matched).recipe
        theirs = pool.zoo.outcomes(recipe, pool.threat, LENS.attack(pool))
        own = values(rows, network=name, against=host)
        for verdict in VERDICTS:
            measure = MEASURE.format(verdict=verdict, half=half, other=HALVES[half], way="matched")
            assert own[measure, JOINTS[joint]] == pytest.approx(theirs.accuracy(verdict), abs=1e-9), (pair, half)


def test_joints_are_trained_as_in_the_notebook(notebook, pool):
    recipe = notebook.stitched("frozen BN", "N->R", "layer1.0", 0.0, batchnorm="frozen").recipe
    front, end = (Cut(pool.references[name], JOINTS["layer1.0"]) for name in ("N0", "R0"))
    with initialise_with(recipe.key, "init"):
        whole = join(front.halves[0], end.halves[1], front.channels, end.channels)
    start, found = whole.affine, stitching.train_joint(whole, recipe, pool.zoo, ["as in the notebook"], {}).affine
    wanted = pool.zoo.obtain(recipe).net.affine
    assert all(torch.allclose(own, theirs, atol=1e-5) for own, theirs in zip(found, wanted, strict=True))
    assert (found[0] - start[0]).abs().max() > 0.01, "it was trained"


# -------------------------------------------------------------------------------------------------- foreign networks


class Louder(nn.Module):
    """A network whose maps between two stages are a thousand times larger, which changes nothing else."""

    def __init__(self, net, joint, after):
        super().__init__()
        self.front, self.back = net.front(joint), net.back(joint)
        with torch.no_grad():
            for conv in (self.back.stages[after].conv1, self.back.stages[after].shortcut.conv):
                conv.weight /= 1000

    def forward(self, x):
        return self.back(self.front(x) * 1000)


def test_the_scale_of_a_networks_channels_does_not_matter(rows, pool, images):
    loud = wrapped(Louder(pool.zoo.obtain(pool.recipes["R1"]).net, "layer2.0", "layer3.0"), "loud")
    assert last_layers(loud)[4, 4] == "mul"
    found = LENS.measure(loud, pool, images)
    for against in HOSTS:
        own, theirs = (values(of[~of["measure"].str.endswith((SHARE, BEYOND))], network=name, against=against)
                       for of, name in ((found, "loud"), (rows, "R1")))
        assert len(own) == 2 * 2 * (2 + (against == "R0"))
        assert np.allclose(own, theirs.loc[own.index], atol=2 / len(images))
        assert own.nunique() > 4


class Few(nn.Sequential):
    """Maps of 6x6, which no reference has."""

    def __init__(self):
        super().__init__(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))


def test_without_maps_of_the_size_shares_are_undefined_and_said(pool, images):
    found = LENS.measure(wrapped(drawn(Few), "few"), pool, images)
    own = found[found["role"] == SUBJECT]
    assert own["value"].isna().all() and len(own) == 2 * 2 * (3 + 2) * 3, "a joint is trained with the robust one only"
    assert {*own.loc[own["against"] == "R0", "note"]} == {
        f"undefined: no layer of few gives maps of {size}, as R0 does at {at}"
        for size, at in (("8x8", "layer1_0_relu2"), ("4x4", "layer2_0_relu2"))}
    assert found.loc[found["network"] == "R1", "value"].notna().any(), "references have accuracies"
    assert LENS.sentence(found) == ("Stitching with references says nothing of the robustness of few: no layer of few "
                                    "gives maps of 4x4, as R0 does at layer2_0_relu2.")


def test_tokens_are_no_maps(pool, images):
    tokens = drawn(lambda: network(ViT(16, 1, 2, 16, 4), DIGITS.shape, 10))
    found = LENS.measure(wrapped(tokens, "tokens"), pool, images)
    own = found[found["role"] == SUBJECT]
    assert own["value"].isna().all()
    assert {*own["note"]} == {"undefined: tokens has no layers that give maps of features"}


def test_references_without_maps_leave_everything_undefined(pool, images):
    flat = replace(pool, networks=replace(pool.networks, arch=MLP((8,))))
    found = LENS.measure(wrapped(drawn(lambda: network(ResNet(4, (1,)), DIGITS.shape, 10)), "theirs"), flat, images)
    assert found["value"].isna().all() and {*found["note"]} == {
        f"undefined: {name} has no layers that give maps of features" for name in ("R0", "N0")}
    assert "nan" not in LENS.sentence(found)


@pytest.mark.parametrize("make, wanted", [
    (lambda: models.resnet18(num_classes=10), {(16, 16): "relu", (8, 8): "layer1_1_relu_1", (4, 4): "layer2_1_relu_1",
                                               (2, 2): "layer3_1_relu_1"}),
    (lambda: models.SwinTransformer([4, 4], 16, [2, 2], [2, 4], [4, 4], num_classes=10), {(4, 4): "permute_1"}),
    (lambda: models.VisionTransformer(32, 8, 3, 2, 16, 32, num_classes=10), {}),
], ids=["ResNet-18", "Swin", "ViT"])
def test_networks_are_cut_at_the_last_layer_with_maps_of_a_size(make, wanted):
    own = wrapped(drawn(make).eval(), "theirs", Data("cifar10"))
    assert last_layers(own) == wanted


# ------------------------------------------------------------------------------------------------- sentence and store


def test_the_sentence_says_shares_and_what_has_none(rows):
    made = rows.copy()
    share = made["measure"].str.endswith(SHARE) & made["measure"].str.contains("trained joint")
    made.loc[share, ["value", "low", "high", "note"]] = [0.5, 0.25, 0.75, ""]
    reached = "50% (25% to 75%)"
    assert LENS.sentence(made) == (
        "On a scale of robust accuracy from its untrained twin, 0%, to a second robust network, 100%, the front of "
        f"copy stands at {reached} with a robust end after a joint was trained, its end {reached} with a robust front.")
    made.loc[share, ["value", "low", "high"]] = [-2.0, -3.0, -1.0]
    assert "its end -200% (-300% to -100%), less robust than the twin, with a robust front" in LENS.sentence(made)
    made.loc[share, ["value", "low", "high"]] = [0.5, 0.25, 0.75]
    lost = share & made["measure"].str.contains("its front")
    made.loc[lost, ["value", "low", "high", "note"]] = [np.nan, np.nan, np.nan, NO_CEILING]
    text = LENS.sentence(made)
    assert "an undefined share with a robust end" in text and "nan" not in text
    assert text.endswith("; undefined: a second robust network reaches no more than the untrained twin, as far as the "
                         "images tell.")


def test_a_joint_is_trained_once_for_all_images(rows, copy, pool, images, monkeypatch):
    monkeypatch.setattr(stitching, "fit", None)
    fewer = images.take(slice(0, 40))
    assert (LENS.measure(copy, pool, fewer)["images"] == 40).all()


def test_a_joint_that_diverges_is_said(pool, images, monkeypatch):
    def diverges(*given):
        raise TrainingDiverged("the loss of step 3 is inf; lower optimiser.lr")

    monkeypatch.setattr(stitching, "fit", diverges)
    found = LENS.measure(wrapped(drawn(lambda: network(ResNet(4, (2, 1)), DIGITS.shape, 10)), "new"), pool, images)
    own = found[found["role"] == SUBJECT]
    trained = own["measure"].str.contains("trained joint")
    assert own.loc[trained, "value"].isna().all() and own.loc[~trained, "value"].notna().any()
    assert (own.loc[trained, "note"] == "undefined: the loss of step 3 is inf").all()


def test_channels_are_those_of_all_images_and_pixels():
    x = torch.rand(10, 3, 4, 4) * torch.tensor([1.0, 5.0, 0.0])[:, None, None] - torch.tensor([0, 1.0, -2.0])[:, None,
                                                                                                           None]
    found = channels(nn.Identity(), x.split(4))
    flat = x.double().transpose(0, 1).flatten(1)
    assert torch.allclose(found.mean.double(), flat.mean(1), atol=1e-6)
    assert torch.allclose(found.std[:2].double(), flat[:2].std(1, correction=0), atol=1e-6) and found.std[2] == 1
    assert not found.rectified and channels(nn.ReLU(), x.split(4)).rectified


def test_a_quick_training_starts_at_the_fitted_joint_and_sees_fewer_images(copy, pool, images, monkeypatch):
    monkeypatch.setattr(stitching, "QUICK", 64)
    starts = []

    def fit(whole, recipe, images, *rest):
        starts.append([len(images), evaluate(whole.eval(), pool.zoo.images(DIGITS, "test")).accuracy()])
        return []

    monkeypatch.setattr(stitching, "fit", fit)
    found = replace(LENS, quick=True).measure(copy, pool, images)
    clean = evaluate(pool.references["R0"].net, images).accuracy()
    assert {count for count, _ in starts} == {64} and starts[0][1] == pytest.approx(clean), "a copy is fitted exactly"
    assert len({start for _, start in starts}) > 3
    said = found.loc[found["measure"].str.contains("trained joint"), "protocol"]
    assert said.str.endswith("joint trained for 1 epochs on 64 images, attacked by PGD-2, from the fitted one").all()
    attack = LENS.recipe(pool).objective.attack
    assert attack == pool.networks.robust.attack and LENS.recipe(pool).data == pool.data


@pytest.mark.parametrize("options, words", [
    ((1,), "fit = 1"), ((2, 0), "epochs = 0"), ((2, 1, 0), "steps = 0"), ((2, 1, 1, 2), "quick = 2")])
def test_impossible_settings_are_refused(options, words):
    with pytest.raises(SettingsError, match=words):
        Stitching(*options)
