"""Ground-truth gradients: each kind by hand, its controls, scores from the store, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from lib.data import ImageSet, load
from lib.errors import SettingsError
from lib.gradients.scores import class_score
from lib.gradients.targets import SCORES, TrainingTargets, _noise, save_scores
from lib.runtime import derangement, generator
from lib.store import Store
from lib.training.losses import loss_for
from lib.training.zoo import Zoo
from lib.values.architectures import MLP, AutoEncoder, DenoisingMLP
from lib.values.data import Data
from lib.values.objectives import Aligned, CrossEntropy, Denoising, Noise, Prune, Reconstruction, Targets
from lib.values.recipe import Optimiser, Recipe

CLASSES, SHAPE = 4, (2, 3, 3)
HEURISTICS = ("one image", "class mean", "nearest neighbour")


def drawn(*shape, name="test"):
    return torch.rand(*shape, generator=generator(name))


def images(order=None, count=40):
    """Random images of four classes, their official indices neither in order nor next to each other."""
    made = ImageSet(drawn(count, *SHAPE, name="images"), torch.arange(count) % CLASSES, (7 * torch.arange(count)) % 83,
                    "made", "train")
    return made if order is None else made.take(order)


def every(count):
    return torch.arange(CLASSES).expand(count, -1)


def targets(spec, some, images_=None):
    """All classes' targets of the first `some` training images, [some, classes, C, H, W]."""
    found = images() if images_ is None else images_
    return TrainingTargets.of(spec, found, CLASSES).at(found.pixels(slice(0, some)), every(some), found.indices[:some])


def nearest_by_hand(queries, own, sample=None):
    """[n, classes, C, H, W]; `own` are the queries' positions among the training images, which are left out."""
    some, rows = images(), []
    for n, query in enumerate(queries):
        for label in range(CLASSES):
            positions = [p for p in range(len(some)) if some.labels[p] == label][:sample]
            distance = {p: float((some.images[p] - query).norm()) for p in positions if own is None or p != own[n]}
            rows.append(some.images[min(distance, key=distance.get)])
    return torch.stack(rows).view(len(queries), CLASSES, *SHAPE)


# ---------------------------------------------------------------------------------------------------------- heuristics


def test_one_image_is_the_way_to_one_training_image_of_the_class():
    some = images()
    found = targets(Targets("one image"), 12)
    representatives = found + some.images[:12, None]
    torch.testing.assert_close(representatives, representatives[:1].expand_as(representatives))
    for label in range(CLASSES):
        own = some.images[some.labels == label]
        assert ((own - representatives[0, label]).abs().amax((1, 2, 3)) < 1e-6).sum() == 1
    again = images(torch.randperm(40, generator=generator("order")))
    bank = TrainingTargets.of(Targets("one image"), again, CLASSES).bank
    torch.testing.assert_close(bank, representatives[0], msg="drawn by the data, not by the order of the images")


def test_class_mean_is_the_way_to_the_mean_of_the_training_images():
    some = images()
    by_hand = torch.stack([some.images[some.labels == label].mean(0) for label in range(CLASSES)])
    torch.testing.assert_close(targets(Targets("class mean"), 5), by_hand - some.images[:5, None])
    fewer = images(slice(0, 12))
    assert not torch.allclose(TrainingTargets.of(Targets("class mean"), fewer, CLASSES).bank, by_hand, atol=1e-3)


@pytest.mark.parametrize("sample", [None, 3])
def test_nearest_neighbour_leaves_the_image_itself_out(sample):
    some, spec = images(), Targets("nearest neighbour", sample=sample)
    found = targets(spec, 40)
    torch.testing.assert_close(found, nearest_by_hand(some.images, range(40), sample) - some.images[:, None])
    assert found.flatten(2).norm(dim=2).min() > 0.1
    grounds = TrainingTargets.of(spec, some, CLASSES)
    torch.testing.assert_close(grounds.of_training(some.indices, every(40)), found)
    new = drawn(6, *SHAPE, name="test images")
    torch.testing.assert_close(grounds.at(new, every(6)), nearest_by_hand(new, None, sample) - new[:, None])
    assert grounds.at(some.images[:1], every(1))[0, some.labels[0]].norm() == 0, "not known to be a training image"


def test_neighbours_do_not_depend_on_how_the_search_is_cut(monkeypatch):
    whole = TrainingTargets.of(Targets("nearest neighbour"), images(), CLASSES)
    monkeypatch.setattr("lib.gradients.targets._AT_ONCE", 3)
    parts = TrainingTargets.of(Targets("nearest neighbour"), images(), CLASSES)
    assert torch.equal(whole.neighbours, parts.neighbours)
    torch.testing.assert_close(TrainingTargets.of(Targets("class mean"), images(), CLASSES).bank,
                               targets(Targets("class mean"), 1)[0] + images().images[0])


def test_chosen_classes_are_those_of_each_image():
    some, chosen = images(), torch.tensor([[3, 0], [1, 2], [2, 2]])
    for kind in (*HEURISTICS, "random direction"):
        grounds = TrainingTargets.of(Targets(kind), some, CLASSES)
        whole = grounds.at(some.images[:3], every(3), some.indices[:3])
        found = grounds.at(some.images[:3], chosen, some.indices[:3])
        assert found.shape == (3, 2, *SHAPE) and found.dtype == torch.float32
        torch.testing.assert_close(found, whole[torch.arange(3)[:, None], chosen])


@pytest.mark.parametrize("kind", HEURISTICS)
def test_centred_targets_are_the_others_minus_their_mean_and_sum_to_zero(kind):
    plain, centred = targets(Targets(kind), 6), targets(Targets(kind, centred=True), 6)
    assert plain.sum(1).abs().max() > 0.1 and centred.sum(1).abs().max() < 1e-5
    torch.testing.assert_close(centred, plain - plain.mean(1, keepdim=True))
    new = drawn(2, *SHAPE, name="new")
    plain, centred = (TrainingTargets.of(Targets(kind, centred=c), images(), CLASSES).at(new, every(2))
                      for c in (False, True))
    torch.testing.assert_close(centred, plain - plain.mean(1, keepdim=True))


# ------------------------------------------------------------------------------------------------------------ controls


@pytest.mark.parametrize("count", [2, 3, 10, 1197])
def test_a_derangement_leaves_none_in_its_place(count):
    moved = derangement(count, "some", "parts")
    assert (moved != torch.arange(count)).all() and torch.equal(moved.sort().values, torch.arange(count))
    assert torch.equal(moved, derangement(count, "some", "parts"))
    assert count < 10 or not torch.equal(moved, derangement(count, "other", "parts"))


@pytest.mark.parametrize("kind", HEURISTICS)
def test_permuted_classes_have_each_the_targets_of_another(kind):
    plain, permuted = targets(Targets(kind), 6), targets(Targets(kind, permuted="classes"), 6)
    apart = (plain[:, None] - permuted[:, :, None]).flatten(3).norm(dim=3)  # [image, class, whose targets it has]
    whose = apart.argmin(2)
    assert apart.amin(2).max() < 1e-5 and (whose == whose[0]).all()
    assert (whose[0] != torch.arange(CLASSES)).all() and len(whose[0].unique()) == CLASSES


@pytest.mark.parametrize("kind", HEURISTICS)
def test_permuted_images_have_each_the_targets_of_another_whatever_their_order(kind):
    plain, permuted = targets(Targets(kind), 40), targets(Targets(kind, permuted="images"), 40)
    whose = (plain[None] - permuted[:, None]).flatten(2).norm(dim=2).argmin(1)
    torch.testing.assert_close(plain[whose], permuted)
    assert (whose != torch.arange(40)).all() and len(whose.unique()) == 40
    order = torch.randperm(40, generator=generator("order"))
    again = images(order)
    found = TrainingTargets.of(Targets(kind, permuted="images"), again, CLASSES).of_training(again.indices, every(40))
    torch.testing.assert_close(found, permuted[order])


def test_random_directions_are_the_same_for_all_images_and_another_for_each_class():
    some = load(Data("digits", train=50), "train")
    grounds = TrainingTargets.of(Targets("random direction"), some, 10)
    found = grounds.at(some.pixels(), torch.arange(10).expand(50, -1))
    assert torch.equal(found, found[:1].expand_as(found)) and abs(found[0].std() - 1) < 0.1
    unit = found[0].flatten(1) / found[0].flatten(1).norm(dim=1, keepdim=True)
    assert (unit @ unit.T - torch.eye(10)).abs().max() < 0.5


# -------------------------------------------------------------------------------------------------------------- scores


class Curved(nn.Module):
    """A denoiser of the four classes that is not linear in the image."""

    classes = CLASSES

    def __init__(self):
        super().__init__()
        self.pictures = drawn(CLASSES + 1, *SHAPE, name="pictures")

    def forward(self, images, sigma, labels=None):
        labels = torch.full((len(images),), -1) if labels is None else labels
        return images / 2 + 0.1 * (3 * images).sin() * self.pictures[labels]


def saved(path, draws, some=None):
    save_scores(path, Curved(), some or images(), 0.2, draws)
    return load_file(path)[SCORES]


@pytest.mark.parametrize("draws", [0, 3])
def test_scores_that_are_looked_up_are_those_computed_directly(tmp_path, draws):
    some, spec = images(), Targets("score", sigma=0.2, draws=draws)
    scores = saved(tmp_path / "data.safetensors", draws)
    assert scores.dtype == torch.float16 and scores.shape == (40, CLASSES, *SHAPE)
    noise = _noise(some, draws) if draws else None
    direct = class_score(Curved(), some.images, 0.2, noise)
    order = torch.tensor([31, 2, 2, 17])
    found = TrainingTargets.of(spec, some, CLASSES, scores).at(some.images[order], every(4), some.indices[order])
    torch.testing.assert_close(found, direct[order], rtol=2e-3, atol=1e-3 * float(direct.abs().max()))
    if draws:
        assert (direct - class_score(Curved(), some.images, 0.2)).abs().max() > 0.1, "noise matters"
        assert abs(noise.std() - 1) < 0.05 and torch.equal(_noise(some.take([5, 9]), draws), noise[:, [5, 9]])


def test_permuted_scores_are_those_of_other_classes_or_images(tmp_path):
    some, scores = images(), saved(tmp_path / "data.safetensors", 0)
    plain, classes, others = (
        TrainingTargets.of(Targets("score", sigma=0.2, permuted=p), some, CLASSES, scores
                           ).of_training(some.indices, every(40))
        for p in (None, "classes", "images"))
    for permuted, whole in ((classes[0], plain[0]), (others, plain)):
        whose = (whole[None] - permuted[:, None]).flatten(2).norm(dim=2).argmin(1)
        assert torch.equal(whole[whose], permuted) and len(whose.unique()) == len(whole)
        assert (whose != torch.arange(len(whole))).all()


def test_scores_of_a_run_that_was_stopped_are_gone_on_with(tmp_path):
    many = images(torch.arange(40).repeat(4))
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    saved(whole, 2, many)
    torn.write_bytes(whole.read_bytes()[:-12345])
    calls, net = [], Curved()
    net.register_forward_pre_hook(lambda module, given: calls.append(len(given[0])))
    save_scores(torn, net, many, 0.2, 2)
    assert torn.read_bytes() == whole.read_bytes()
    assert 0 < sum(calls) < 2 * 5 * len(many) * 0.6, "only what is missing is computed"


DENOISER = Recipe(Data("digits"), DenoisingMLP(32, 1), Denoising(0.1, 0.5), epochs=1,
                  optimiser=Optimiser("adam", lr=1e-3, weight_decay=0))
SCORED = Recipe(Data("digits", test=200), MLP((16,)), Aligned(CrossEntropy(), Targets("score", sigma=0.25), 0.1, 1),
                epochs=1, batch_size=64, sources=(DENOISER,))


def test_the_zoo_makes_scores_once_for_all_networks_of_a_source(tmp_path, monkeypatch):
    zoo = Zoo(Store(tmp_path))
    rows = zoo.obtain(SCORED).log
    assert zoo.trained_here == [DENOISER.key, SCORED.key] and "other cosine" in rows[-1]
    some = zoo.images(SCORED.data, "train")
    denoiser = zoo.obtain(DENOISER).net
    direct = class_score(denoiser, some.pixels(slice(0, 20)), 0.25)
    stored = zoo.targets(SCORED)
    assert stored.dtype == torch.float16 and len(stored) == 1197
    torch.testing.assert_close(stored[:20].float() / 0.25**2, direct, rtol=2e-3, atol=1e-3 * float(direct.abs().max()))

    monkeypatch.setattr("lib.training.zoo.save_scores", None)  # what is stored is not made again
    zoo.obtain(replace(SCORED, seed=1, data=Data("digits")))
    assert len(list((tmp_path / "targets").iterdir())) == 1
    off = replace(SCORED, objective=replace(SCORED.objective, weight=0.0, targets=Targets("score", sigma=0.3)))
    assert zoo.targets(off) is None, "nothing is made for a term that does not count"
    sharper = replace(SCORED.objective, targets=Targets("score", sigma=0.3))
    with pytest.raises(TypeError):
        zoo.targets(replace(SCORED, objective=sharper))
    zoo.store.prune({("network", DENOISER.key)})
    assert len(list((tmp_path / "targets").iterdir())) == 1, "kept as long as its source is"
    zoo.store.prune({("network", SCORED.key)})
    assert not list((tmp_path / "targets").iterdir())


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc to tell copies from mapped files")
def test_stored_scores_are_mapped_not_copied(tmp_path):
    rows = 30_000
    scores = torch.zeros(rows, 10, 1, 8, 8, dtype=torch.float16)
    head = json.dumps({SCORES: {"dtype": "F16", "shape": scores.shape, "data_offsets": [0, scores.nbytes]}}).encode()
    (tmp_path / "data.safetensors").write_bytes(len(head).to_bytes(8, "little") + head + scores.numpy().tobytes())
    del scores

    def own():
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) / 1024 for line in status if line.startswith("RssAnon"))

    before = own()
    found = load_file(tmp_path / "data.safetensors")[SCORES]
    assert found[torch.arange(0, rows, 100)[:, None], torch.tensor([[1, 2]])].shape[:2] == (300, 2)
    assert found.nbytes > 35e6 and own() - before < 10, "MB"


# -------------------------------------------------------------------------------------------------------------- values


@pytest.mark.parametrize("wrong, words", [
    ({"kind": "class man"}, "unknown targets.kind 'class man'; did you mean 'class mean'"),
    ({"kind": "one image", "permuted": "class"}, "unknown targets.permuted 'class'"),
    ({"kind": "random direction", "centred": True}, "targets.centred = True is not possible.*one image"),
    ({"kind": "score", "sigma": 0.2, "centred": True}, "targets.centred = True"),
    ({"kind": "random direction", "permuted": "classes"}, "targets.permuted = classes.*a control already"),
    ({"kind": "class mean", "centred": True, "permuted": "images"}, "targets.permuted = images.*same for all images"),
    ({"kind": "class mean", "sample": 3}, "targets.sample = 3"),
    ({"kind": "nearest neighbour", "sample": 1}, "targets.sample = 1.*at least 2"),
    ({"kind": "score"}, "targets.sigma = None"), ({"kind": "score", "sigma": 0.0}, "targets.sigma = 0.0"),
    ({"kind": "score", "sigma": 0.2, "draws": 1.5}, "targets.draws = 1.5"),
    ({"kind": "class mean", "sigma": 0.2}, "targets.sigma = 0.2.*only score has"),
    ({"kind": "class mean", "draws": 2}, "targets.draws = 2"),
])
def test_impossible_targets_are_one_sentence(wrong, words):
    with pytest.raises(SettingsError, match=words) as error:
        Targets(**wrong)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("wrong, words", [
    ({"objective": Noise(0.1)}, "objective = Noise.* CrossEntropy or Adversarial or TRADES"),
    ({"weight": -1}, "weight = -1"),
    ({"classes": 0}, "classes = 0"), ({"gradient": "logits"}, "objective.gradient 'logits'; did you mean"),
    ({"batchnorm": "frozen"}, "unknown objective.batchnorm 'frozen'"), ({"first_weight": -0.1}, "first_weight = -0.1"),
    ({"first_share": 1}, "first_share = 1"), ({"targets": "score"}, "targets = score"),
])
def test_an_impossible_aligned_objective_is_one_sentence(wrong, words):
    with pytest.raises(SettingsError, match=words) as error:
        Aligned(**{"objective": CrossEntropy(), "targets": Targets("class mean"), "weight": 1.0, **wrong})
    assert "\n" not in str(error.value)


def test_no_mask_is_searched_with_aligned_gradients():
    with pytest.raises(SettingsError, match="objective of Prune = Aligned"):
        Prune(SCORED.objective)


@pytest.mark.parametrize("changes, words", [
    ({"sources": ()}, "number of sources = 0.*1, the denoiser"),
    ({"sources": (DENOISER, DENOISER)}, "number of sources = 2"),
    ({"objective": CrossEntropy()}, "number of sources = 1.*0 for an objective without scores"),
    ({"objective": replace(SCORED.objective, targets=Targets("class mean"))}, "number of sources = 1"),
    ({"sources": (replace(DENOISER, epochs=0),)}, "sources = .*a denoiser that was trained"),
    ({"sources": (Recipe(Data("digits"), AutoEncoder(4), Reconstruction()),)}, "sources = auto-encoder"),
    ({"sources": (replace(DENOISER, data=Data("mnist")),)}, "data of the source = mnist.*10 classes"),
    ({"objective": replace(SCORED.objective, targets=Targets("score", sigma=0.6))}, "targets.sigma = 0.6.*0.1 to 0.5"),
    ({"sources": (replace(DENOISER, objective=Denoising(0.1, 0.5, 0.0)),)}, "label_dropout of the source = 0"),
    ({"objective": replace(SCORED.objective, classes=11)}, "classes = 11.*10 classes of digits"),
    ({"arch": DenoisingMLP()}, "objective = Aligned"),
])
def test_impossible_sources_are_one_sentence(changes, words):
    with pytest.raises(SettingsError, match=words) as error:
        replace(SCORED, **changes)
    assert "\n" not in str(error.value)


def test_sources_tell_networks_apart_by_their_keys_only():
    other = replace(SCORED, sources=(replace(DENOISER, seed=1),))
    measured = replace(SCORED, sources=(replace(DENOISER, data=Data("digits", test=100)),))
    assert SCORED.key == measured.key != other.key
    assert SCORED.as_plain()["sources"] == [DENOISER.key] and "sources" not in DENOISER.as_plain()
    assert "aligned score 0.1" in SCORED.describe()


@pytest.mark.parametrize("call, words", [
    (lambda: TrainingTargets.of(Targets("score", sigma=0.2), images(), CLASSES), "scores = left out"),
    (lambda: TrainingTargets.of(Targets("class mean"), images(), CLASSES, torch.zeros(1)), "scores = given"),
    (lambda: TrainingTargets.of(Targets("score", sigma=0.2), images(), CLASSES, torch.zeros(40, 3, *SHAPE)),
     "shape of scores"),
    (lambda: TrainingTargets.of(Targets("nearest neighbour", sample=11), images(), CLASSES),
     "targets.sample = 11.*10 images"),
    (lambda: TrainingTargets.of(Targets("nearest neighbour"), images(slice(0, 7)), CLASSES), "images of a class = 1"),
    (lambda: TrainingTargets.of(Targets("one image"), images(slice(0, 3)), CLASSES), "images of class 3 = 0"),
    (lambda: TrainingTargets.of(Targets("class mean"), images(slice(0, 3)), CLASSES), "images of a class = 0"),
    (lambda: TrainingTargets.of(Targets("class mean"), images(), CLASSES).at(images().images[:1],
                                                                             every(1), torch.tensor([82])),
     "indices = of other images"),
    (lambda: TrainingTargets.of(Targets("class mean", permuted="images"), images(), CLASSES).at(images().images[:1],
                                                                                                every(1)),
     "indices = left out"),
    (lambda: derangement(1, "x"), "number of things to permute = 1"),
])
def test_targets_that_cannot_be_had_are_one_sentence(call, words):
    with pytest.raises(SettingsError, match=words) as error:
        call()
    assert "\n" not in str(error.value)


def test_scores_cannot_be_looked_up_for_other_images(tmp_path):
    grounds = TrainingTargets.of(Targets("score", sigma=0.2), images(), CLASSES, saved(tmp_path / "data", 0))
    with pytest.raises(SettingsError, match="indices = left out"):
        grounds.at(images().images[:1], every(1))


def test_the_objective_says_that_it_was_not_prepared():
    from lib.errors import OneLineError

    with pytest.raises(OneLineError, match="no targets yet"):
        loss_for(SCORED.objective)(nn.Flatten(), None, type("Now", (), {"share": 0.0}))
