"""Batches cut into shares: what an update then is, by one process that takes them in turn and by several together."""

import copy
import multiprocessing
import os
import signal
import threading
import time
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from lib.data import folders, load
from lib.errors import OneLineError, SettingsError
from lib.models import build
from lib.runtime import threads
from lib.store import Store
from lib.training.loop import CHECKPOINT, TrainingDiverged, fit
from lib.training.together import devices_for, fit_together
from lib.training.zoo import inputs_from
from lib.values.architectures import MLP, Pruned, ResNet
from lib.values.attacks import PGD
from lib.values.data import Data
from lib.values.objectives import Adversarial, CrossEntropy, FreeAdversarial, Rewire, Saliency
from lib.values.recipe import Choice, Optimiser, Recipe, Schedule, together
from lib.values.threats import Threat

THREAT = Threat("linf", "0.15")
TWO = ["cpu", "cpu"]
# five updates an epoch, and everything that a checkpoint holds
ATTACK = PGD(2, "0.1")
RECIPE = Recipe(Data("digits", train=320, holdout=100), ResNet(8, (1, 1)), batch_size=64, augment="crop", shares=2,
                objective=Adversarial(THREAT, ATTACK), optimiser=Optimiser(lr=0.1), schedule=Schedule("onecycle"),
                ema=0.9, choice=Choice(THREAT, ATTACK))


def alone(recipe, work=None):
    """The network that one process trains, and the rows of its epochs: with as many threads as each of two has, because
    others add numbers in another order.
    """
    net = build(recipe)
    holdout = load(recipe.data, "holdout") if recipe.choice else None
    with threads(max(1, torch.get_num_threads() // 2)):
        return net, fit(net, recipe, load(recipe.data, "train"), "cpu", work, holdout)


def by_two(recipe, folder):
    """The network that two processes train, and the rows of its epochs."""
    net = build(recipe)
    folder.mkdir(exist_ok=True)
    inputs = partial(inputs_from, Store(folder.parent / "store"), recipe)
    return net, fit_together(net, recipe, inputs, TWO, folder)


def check_same(one, other):
    """Two networks with their rows differ by the rounding of sums only."""
    for name, value in one[0].state_dict().items():
        theirs = other[0].state_dict()[name].double()
        assert (value - theirs).norm() <= 1e-5 * value.double().norm(), name
    for mine, theirs in zip(one[1], other[1], strict=True):
        assert mine.keys() == theirs.keys()
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
        assert mine["accuracy"] == pytest.approx(theirs["accuracy"])
        assert mine.get("holdout") == theirs.get("holdout")


def test_shares_give_the_update_of_the_whole_where_nothing_sees_the_batch():
    whole = Recipe(Data("digits", train=64), MLP((32,)), batch_size=64, optimiser=Optimiser(lr=0.1))
    net = build(whole)
    cut = copy.deepcopy(net)
    images = load(whole.data, "train")
    [row] = fit(net, whole, images, "cpu")
    [other] = fit(cut, replace(whole, shares=4), images, "cpu")
    check_same((net, [row]), (cut, [other]))


def test_running_statistics_follow_the_first_share_alone():
    net, _ = alone(RECIPE)
    counts = [value for name, value in net.state_dict().items() if name.endswith("num_batches_tracked")]
    assert counts and all(count == 5 for count in counts)


def test_recipes_without_shares_keep_their_keys():
    assert replace(RECIPE, shares=1).key != RECIPE.key
    assert "shares" not in replace(RECIPE, shares=1).as_plain()


@pytest.mark.parametrize("changed, said", [
    ({"shares": 3}, "shares = 3 is not possible: it must be 1, or cut the batch of 64 evenly"),
    ({"shares": 64}, "with 2 images in each"),
    ({"arch": Pruned(ResNet(8, (1, 1)), 0.1, scores="gradient"), "objective": Saliency(CrossEntropy()), "ema": None,
      "choice": None, "parents": (replace(RECIPE, shares=1),)}, "shares = 2 is not possible: it must be 1 for Sal"),
    ({"arch": Pruned(ResNet(8, (1, 1)), 0.1, scores="random"), "objective": Rewire(CrossEntropy())}, "1 for Rewire"),
    ({"objective": Adversarial(Threat("l2", "0.5", per="batch"), ATTACK)}, "1 for Adversarial, which needs"),
])
def test_shares_that_are_not_possible(changed, said):
    with pytest.raises(SettingsError) as error:
        replace(RECIPE, **changed)
    assert said in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("shares, there, count", [(4, 8, 4), (4, 3, 2), (6, 4, 3), (5, 4, 1), (1, 8, 1), (2, 0, 1)])
def test_as_many_gpus_as_get_equal_numbers_of_shares(shares, there, count):
    assert together(shares, there) == count


def test_a_cpu_trains_alone():
    assert devices_for(RECIPE, torch.device("cpu")) == ["cpu"]


def test_two_processes_train_as_one(tmp_path):
    """Attack, augmentation, average of weights and choice of the epoch included."""
    recipe = replace(RECIPE, epochs=2)
    check_same(by_two(recipe, tmp_path / "work"), alone(recipe))
    assert not [path for path in (tmp_path / "work").iterdir() if path.name != CHECKPOINT]


@pytest.fixture
def imagenette(tmp_path, monkeypatch):
    """REPRO_DATA with a whole Imagenette, whose photographs are a few links to each of 40 small pictures."""
    draw = np.random.default_rng(0)
    for part, count in (("train", 9_469), ("val", 3_925)):
        for i in range(count):
            label = folders.CLASSES["imagenette"][i % 10]
            first = tmp_path / "pictures" / f"{label}_{i % 40}.JPEG"
            if not first.exists():
                first.parent.mkdir(exist_ok=True)
                Image.fromarray(draw.integers(0, 256, (12, 10, 3), dtype=np.uint8)).save(first)
            place = tmp_path / "data" / folders.TREES["imagenette"] / part / label
            place.mkdir(parents=True, exist_ok=True)
            os.link(first, place / f"{i}.JPEG")
    for name, folder in (("REPRO_DATA", "data"), ("REPRO_STORE", "store"), ("REPRO_RESULTS", "results")):
        monkeypatch.setenv(name, str(tmp_path / folder))


@pytest.mark.slow
def test_two_processes_train_a_resnet18_on_folders_of_photographs(imagenette, tmp_path):
    recipe = Recipe(Data("imagenette", train=160, test=10, size=64), ResNet(64, (2, 2, 2, 2)), batch_size=32, shares=2,
                    augment="resized-crop-flip", optimiser=Optimiser(lr=0.1), schedule=Schedule("onecycle"))
    check_same(by_two(recipe, tmp_path / "work"), alone(recipe))


@pytest.mark.slow
@pytest.mark.parametrize("changed", [
    {"objective": FreeAdversarial(THREAT, 3)},  # each share has a perturbation of its own, which is carried over
    {"objective": CrossEntropy(), "shares": 4},
], ids=["Free", "two shares each"])
def test_two_processes_train_as_one_with(changed, tmp_path):
    recipe = replace(RECIPE, **changed)
    check_same(by_two(recipe, tmp_path / "work"), alone(recipe))


def kill_one(after):
    """Kill one of the processes that this one has started as soon as the file `after` exists."""
    def wait():
        while not after.exists():
            time.sleep(0.01)
        os.kill(multiprocessing.active_children()[-1].pid, signal.SIGKILL)

    threading.Thread(target=wait, daemon=True).start()


@pytest.mark.slow
def test_a_killed_process_ends_all_and_the_training_resumes(tmp_path):
    """One sentence, no process left, and then the weights of a training that nothing stopped."""
    recipe = replace(RECIPE, objective=FreeAdversarial(THREAT, 3), epochs=150)
    work = tmp_path / "work"
    kill_one(work / CHECKPOINT)
    with pytest.raises(OneLineError) as error:
        by_two(recipe, work)
    assert "of the 2 that train it was killed by signal 9; the same command goes on" in str(error.value)
    assert not multiprocessing.active_children()
    assert (work / CHECKPOINT).exists()
    check_same(by_two(recipe, work), alone(recipe))


@pytest.mark.slow
def test_a_training_that_diverges_says_so_from_a_team_too(tmp_path):
    with pytest.raises(TrainingDiverged, match="lower optimiser.lr"):
        by_two(replace(RECIPE, optimiser=Optimiser(lr=1e6), choice=None, ema=None, epochs=3), tmp_path / "work")
