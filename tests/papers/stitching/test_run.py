"""Stitching: joints that are trained, and what is measured of them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from lib.models import build
from lib.papers.stitching import results
from lib.store import Store
from lib.training import loop
from lib.training.zoo import Zoo
from lib.values.architectures import ResNet
from lib.values.data import Data
from lib.values.objectives import TRADES, Adversarial, Transferred
from lib.values.recipe import Recipe
from tests.papers.stitching.world import ATTACK, DIGITS, JOINT, THREAT, N, as_the_paper_says, made_up


def test_self_stitch_is_exact_and_the_table_is_tidy(tmp_path):
    data = Data("digits", train=256, test=100)
    recipe = Recipe(data, ResNet(16, (1, 1)), epochs=1, batch_size=64)
    zoo = Zoo(Store(tmp_path))
    for joint in recipe.arch.stages[:-1]:
        assert results.self_stitch_gap(zoo, recipe, joint, zoo.images(data, "test")) == 0
    table = made_up(as_the_paper_says).table()
    assert {"role", "pair", "joint", "alpha", "seed", "measure", "accuracy", "images", "network"} <= set(table.columns)
    assert sorted(table.seed.unique()) == [0, 1, 2, 3], "a column of the protocol must not hide one of the cell's"


def test_convergence_is_read_from_the_training_log(tmp_path):
    zoo = Zoo(Store(tmp_path))
    recipe = Recipe(Data("digits", train=256, test=100), ResNet(16, (1, 1)), epochs=2, batch_size=64)
    zoo.obtain(recipe)
    loss = [q for row in zoo.store.load("network", recipe.key).meta["log"] for q in row["quarters"]]
    assert len(loss) == 8 and results.last_change(zoo, recipe) == pytest.approx(loss[6] - loss[7])
    assert np.isnan(results.last_change(zoo, replace(recipe, arch=ResNet(16, (1,)), epochs=0)))


@pytest.mark.parametrize("batchnorm", ["train", "frozen"])
@pytest.mark.parametrize("objective", [
    Adversarial(THREAT, ATTACK, alpha=0.5, clean_statistics=True), Adversarial(THREAT, ATTACK, alpha=0.5),
    TRADES(THREAT, ATTACK, beta=2.0)], ids=["half after a clean pass", "half", "TRADES"])
def test_only_the_joint_learns_and_statistics_follow_the_regime(zoo, objective, batchnorm):
    recipe = replace(JOINT, objective=objective, batchnorm=batchnorm)
    trained, ends = zoo.obtain(recipe), [zoo.obtain(parent).net for parent in recipe.parents]
    before, after = build(recipe, ends).state_dict(), trained.net.state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    statistics = {name for name in after if name.rpartition(".")[2] in
                  ("running_mean", "running_var", "num_batches_tracked")}
    assert {"joint.0.weight", "joint.0.bias"} <= changed
    assert changed - {"joint.0.weight", "joint.0.bias"} == (statistics if batchnorm == "train" else set())
    assert trained.log[-1]["loss"] < trained.log[0]["loss"] - 0.1
    passes = sum(m.num_batches_tracked.item() for m in trained.net.front.modules() if isinstance(m, nn.BatchNorm2d))
    own = sum(m.num_batches_tracked.item() for m in ends[0].front("layer1.0").modules()
              if isinstance(m, nn.BatchNorm2d))
    twice = isinstance(objective, TRADES) or objective.clean_statistics  # a clean batch passes for itself
    layers, steps = 3, 3 * (512 // 64)
    assert passes - own == (layers * steps * (1 + twice) if batchnorm == "train" else 0)


TRANSFERRED = replace(JOINT, objective=Transferred(THREAT, ATTACK, ("front",)))


@pytest.mark.parametrize("against, clean", [(("front",), False), (("end",), False), (("front", "end"), True)])
def test_joints_learn_from_images_made_against_the_endpoints(zoo, against, clean):
    recipe = replace(JOINT, objective=Transferred(THREAT, ATTACK, against, clean))
    trained = zoo.obtain(recipe)
    images = len(against) + clean
    assert trained.log[-1]["loss"] < trained.log[0]["loss"] - 0.1 * images
    assert zoo.outcomes(recipe).accuracy("clean") > 0.4
    asked = recipe.objective.passes(10, 50)
    assert (asked.updates, asked.attacks) == (images, 2 * len(against))


def test_each_network_is_attacked_as_it_was_trained(zoo, monkeypatch):
    """The gradients followed in training are those of the front network, as it lies in the store."""
    from lib.training.losses import adversarial

    attacked, real = [], adversarial.pgd
    monkeypatch.setattr(adversarial, "pgd", lambda net, *args, **kw: attacked.append(net) or real(net, *args, **kw))
    recipe = replace(TRANSFERRED, seed=5)
    zoo.obtain(recipe)
    pixels = zoo.images(DIGITS, "test").pixels(slice(0, 20))
    assert len(attacked) == 3 * (512 // 64)
    torch.testing.assert_close(attacked[-1](pixels), zoo.obtain(N).net(pixels), rtol=1e-4, atol=1e-4)


def test_a_transfer_trained_joint_resumes_bit_for_bit(zoo, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY", 0.0)
    parents = [zoo.obtain(parent).net for parent in TRANSFERRED.parents]
    images, states = zoo.images(DIGITS, "train"), []

    class Stopped(Exception):
        pass

    def train(stop):
        net, save = build(TRANSFERRED, parents), loop._Training._save

        def killed(self):
            save(self)
            if len(self.rows) == stop:
                raise Stopped

        with monkeypatch.context() as patched:
            patched.setattr(loop._Training, "_save", killed)
            work = tmp_path / str(bool(stop or states))
            work.mkdir(exist_ok=True)
            loop.fit(net, TRANSFERRED, images, "cpu", work, parents=parents)
        return net.state_dict()

    states.append(train(None))
    with pytest.raises(Stopped):
        train(1)
    states.append(train(None))
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
