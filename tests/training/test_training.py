"""The one loop: schedules, objectives, resuming after a kill, the golden training, the zoo."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from lib.attacks.pgd import input_gradient, pgd
from lib.data import load
from lib.errors import SettingsError
from lib.files import load_state, save_state
from lib.models import build
from lib.papers.stitching.networks import NOTHING
from lib.runtime import ROOT, device, generator
from lib.store import Store
from lib.training import loop, price
from lib.training.evaluation import evaluate
from lib.training.losses import Loss, Progress, TrainingBatch, loss_for
from lib.training.memory import InParts
from lib.training.schedule import Average, learning_rate
from lib.training.zoo import Zoo
from lib.values.architectures import CNN, Probe, ResNet, Stitch
from lib.values.attacks import PGD
from lib.values.data import Data
from lib.values.objectives import TRADES, Adversarial, CrossEntropy, FreeAdversarial
from lib.values.recipe import Choice, Optimiser, Recipe, Schedule
from lib.values.threats import Threat

THREAT = Threat("linf", "0.15")
ATTACK = PGD(3, "0.1")
BASE = Recipe(
    Data("digits", train=512),
    ResNet(16, (1, 1)),
    epochs=2,
    batch_size=64,
    augment="crop",
    optimiser=Optimiser(lr=0.1),
    schedule=Schedule("onecycle"),
)


def batch(n=20):
    images = load(BASE.data, "train").take(slice(0, n))
    return TrainingBatch(images.pixels(), images.labels, images.indices, None, generator("test"))


def test_schedules():
    piecewise = Schedule("piecewise")
    rates = [learning_rate(piecewise, 1.0, e / 30) for e in range(30)]
    assert (
        rates[:10] == [1.0] * 10
        and rates[10:20] == pytest.approx([0.1] * 10)
        and rates[20:] == pytest.approx([0.01] * 10)
    )
    onecycle = [learning_rate(Schedule("onecycle"), 2.0, s / 100) for s in range(100)]
    assert max(onecycle) == pytest.approx(2.0) and onecycle.index(max(onecycle)) == 25 and onecycle[0] == 0
    assert learning_rate(Schedule("cosine"), 1.0, 0.5) == pytest.approx(0.5)
    assert learning_rate(Schedule("constant"), 1.0, 0.99) == 1.0
    again = [learning_rate(replace(piecewise, period="3/10"), 1.0, e / 100) for e in range(100)]
    assert again == pytest.approx([10 ** -(e % 30 // 10) for e in range(100)])
    assert learning_rate(Schedule("linear"), 1.0, 0.75) == pytest.approx(0.25)
    for name in ("linear", "cosine"):
        assert learning_rate(Schedule(name, final=0.001), 0.1, 1.0) == pytest.approx(0.0001)
    with pytest.raises(SettingsError, match="schedule.final"):
        Schedule("onecycle", final=0.1)


@pytest.mark.parametrize("alpha, changed", [(0.0, 0), (0.5, 10), (0.29, 5), (1.0, 20)])
def test_alpha_is_the_share_of_adversarial_images(alpha, changed):
    net, seen = build(BASE).train(), []
    net.register_forward_pre_hook(lambda m, x: seen.append((m.training, x[0].detach().clone())))
    clean = batch()
    loss_for(Adversarial(THREAT, PGD(2, "0.1", random_start=False), alpha))(net, clean, Progress(0, 0, 0.0))
    trained_on = [x for training, x in seen if training]
    assert len(trained_on) == 1, "weights learn from one pass; the attack runs with BatchNorm in eval mode"
    moved = (trained_on[0] - clean.images).flatten(1).abs().amax(1)
    assert int((moved > 0).sum()) == changed
    assert moved.max() <= float(THREAT.eps) + 1e-6


def test_clean_statistics_adds_a_clean_pass_in_train_mode():
    net, seen = build(BASE).train(), []
    net.register_forward_pre_hook(lambda m, x: seen.append((m.training, x[0].detach().clone())))
    clean = batch()
    loss_for(Adversarial(THREAT, ATTACK, 1.0, clean_statistics=True))(net, clean, Progress(0, 0, 0.0))
    trained_on = [x for training, x in seen if training]
    assert len(trained_on) == 2 and torch.equal(trained_on[0], clean.images)
    assert not torch.equal(trained_on[1], clean.images)


def test_trades_is_cross_entropy_plus_beta_times_kl():
    net, clean = build(BASE).eval(), batch()
    now = Progress(0, 0, 0.0)
    loss = {
        b: loss_for(TRADES(THREAT, ATTACK, b))(net, replace(clean, generator=generator("x")), now)[0].item()
        for b in (0.0, 1.0, 2.0)
    }
    assert loss[0.0] == pytest.approx(loss_for(CrossEntropy())(net, clean, now)[0].item(), abs=1e-5)
    assert loss[1.0] > loss[0.0] + 1e-4, "the adversarial images move the prediction"
    assert loss[2.0] - loss[1.0] == pytest.approx(loss[1.0] - loss[0.0], rel=1e-3)


def test_training_learns_and_adversarial_training_makes_robust(tmp_path):
    zoo = Zoo(Store(tmp_path))
    whole = replace(BASE, data=Data("digits", holdout=200, test=300), epochs=10)
    robust = replace(whole, objective=Adversarial(THREAT, ATTACK), epochs=15)
    judge = PGD(10, "0.04")
    normal, hard = zoo.outcomes(whole, THREAT, judge), zoo.outcomes(robust, THREAT, judge)
    assert normal.accuracy("clean") > 0.9 and hard.accuracy("clean") > 0.8
    assert hard.accuracy("robust") > normal.accuracy("robust") + 0.2


STOPPED = {
    "half adversarial": {"objective": Adversarial(THREAT, ATTACK, 0.5)},
    "free": {"objective": FreeAdversarial(THREAT, 2)},
    "moving average": {"ema": 0.9},
    "chosen epoch": {"data": Data("digits", train=512, holdout=100), "choice": Choice(THREAT, ATTACK)},
}


@pytest.mark.parametrize("changes", STOPPED.values(), ids=STOPPED)
def test_stopped_training_goes_on_to_the_same_weights(tmp_path, monkeypatch, changes):
    recipe = replace(BASE, epochs=4, **changes)
    images, holdout = load(recipe.data, "train"), load(recipe.data, "holdout") if recipe.choice else None
    straight = build(recipe)
    loop.fit(straight, recipe, images, "cpu", holdout=holdout)
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY", 0.0)
    work, epochs_done = tmp_path, []

    class Killed(Exception):
        pass

    def save_then_die(*args):
        real(*args)
        epochs_done.append(1)
        if len(epochs_done) == 2:
            raise Killed

    real = loop._Training._save
    monkeypatch.setattr(loop._Training, "_save", save_then_die)
    with pytest.raises(Killed):
        loop.fit(build(recipe), recipe, images, "cpu", work, holdout)
    monkeypatch.setattr(loop._Training, "_save", real)
    resumed = build(recipe)
    rows = loop.fit(resumed, recipe, images, "cpu", work, holdout)
    assert [r["epoch"] for r in rows] == [0, 1, 2, 3]
    for name, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


KEPT = {"weights": {}, "moving average": {"ema": 0.9}, "chosen epoch": STOPPED["chosen epoch"]}


@pytest.mark.parametrize("changes", KEPT.values(), ids=KEPT)
def test_a_kept_epoch_is_the_network_of_a_training_stopped_there(tmp_path, monkeypatch, changes):
    recipe = replace(BASE, epochs=4, keep=(1, 3), **changes)
    images, holdout = load(recipe.data, "train"), load(recipe.data, "holdout") if recipe.choice else None
    loop.fit(build(recipe), recipe, images, "cpu", tmp_path, holdout)
    assert sorted(p.name for p in tmp_path.glob("epoch-*")) == ["epoch-1.safetensors", "epoch-3.safetensors"]
    real, kept = loop._Training._epoch, {n: load_file(tmp_path / f"epoch-{n}.safetensors") for n in recipe.keep}

    class Stopped(Exception):
        pass

    for n, weights in kept.items():
        seen = []

        def epoch(self, number, bar, n=n, seen=seen):
            if number == n:
                seen.append({k: v.clone() for k, v in self.candidate.state_dict().items()})
                raise Stopped
            return real(self, number, bar)

        monkeypatch.setattr(loop._Training, "_epoch", epoch)
        with pytest.raises(Stopped):
            loop.fit(build(recipe), recipe, images, "cpu", holdout=holdout)
        assert weights.keys() == seen[0].keys() and all(torch.equal(weights[k], v) for k, v in seen[0].items())
    assert not torch.equal(kept[1]["stem.0.weight"], kept[3]["stem.0.weight"])


def test_keeping_leaves_the_training_as_it_is(tmp_path):
    """Without a folder nothing can be kept: the same recipe, so the same draws."""
    recipe, images = replace(BASE, keep=(1,)), load(BASE.data, "train")
    with_folder, without = build(recipe), build(recipe)
    loop.fit(with_folder, recipe, images, "cpu", tmp_path)
    loop.fit(without, recipe, images, "cpu")
    assert all(torch.equal(v, without.state_dict()[k]) for k, v in with_folder.state_dict().items())
    assert (tmp_path / "epoch-1.safetensors").exists()
    assert recipe.key != BASE.key, "what the store holds of it differs"


def test_a_training_that_was_killed_keeps_the_same_epochs(tmp_path, monkeypatch):
    """Killed after an epoch was kept and before the next checkpoint: that epoch is trained and kept once more."""
    recipe = replace(BASE, epochs=4, keep=(1, 2, 3))
    images, whole, broken = load(recipe.data, "train"), tmp_path / "whole", tmp_path / "broken"
    whole.mkdir(), broken.mkdir()
    loop.fit(build(recipe), recipe, images, "cpu", whole)
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY", 0.0)

    class Killed(Exception):
        pass

    def save(self):
        if len(self.rows) == 3:
            raise Killed
        real(self)

    real = loop._Training._save
    monkeypatch.setattr(loop._Training, "_save", save)
    with pytest.raises(Killed):
        loop.fit(build(recipe), recipe, images, "cpu", broken)
    (broken / "epoch-3.safetensors").write_bytes(b"torn")
    monkeypatch.setattr(loop._Training, "_save", real)
    loop.fit(build(recipe), recipe, images, "cpu", broken)
    for n in recipe.keep:
        one, other = (load_file(folder / f"epoch-{n}.safetensors") for folder in (whole, broken))
        assert all(torch.equal(v, other[k]) for k, v in one.items())


def test_a_checkpoint_is_the_kept_network_and_no_training(tmp_path):
    zoo, run = Zoo(Store(tmp_path)), replace(BASE, keep=(1,))
    early = replace(run, parents=(run,), epochs=0, keep=(), checkpoint=1)
    net = zoo.obtain(early).net
    assert zoo.trained_here == [run.key] and not zoo.store.has("network", early.key)
    entry = zoo.store.load("network", run.key)
    kept = {k: v.clone() for k, v in entry.tensors("epoch-1").items()}  # not the file's own bytes, which change below
    final = zoo.obtain(run).net.state_dict()
    assert all(torch.equal(v, kept[k]) for k, v in net.state_dict().items())
    assert not torch.equal(net.state_dict()["stem.0.weight"], final["stem.0.weight"])
    assert not net.training and not any(p.requires_grad for p in net.parameters())
    assert "epoch-1.safetensors" in entry.meta["files"], "checked when it is read"
    (entry.path / "epoch-1.safetensors").write_bytes(b"torn")
    again = Zoo(Store(tmp_path))
    assert all(torch.equal(v, kept[k]) for k, v in again.obtain(early).net.state_dict().items())
    assert again.trained_here == [run.key], "made again"
    assert price.training(early) == 0 and "after 1 epochs" in early.describe()
    with pytest.raises(SettingsError, match="not in this run's plan"):
        Zoo(Store(tmp_path), allowed={early.key}).obtain(early)


@pytest.mark.parametrize("damage", ["torn", "empty", "of another layout"])
def test_a_checkpoint_that_cannot_serve_is_set_aside_and_leaves_no_trace(tmp_path, caplog, monkeypatch, damage):
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY", 0.0)
    recipe, images = BASE, load(BASE.data, "train")
    net, straight = build(recipe), build(recipe)
    loop.fit(straight, recipe, images, "cpu", tmp_path)
    file = tmp_path / "checkpoint.pt"
    if damage == "of another layout":
        found = []
        load_state(file, found.append)
        name = list(found[0]["net"])[-1]
        found[0]["net"][name] = found[0]["net"][name][:1]
        save_state(file, found[0])
    else:
        file.write_bytes(b"torn" if damage == "torn" else b"")
    loop.fit(net, recipe, images, "cpu", tmp_path)
    assert "its work starts over" in caplog.text and (tmp_path / "checkpoint.pt.damaged").exists()
    assert torch.equal(net.state_dict()["stem.0.weight"], straight.state_dict()["stem.0.weight"])


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"torn")])
def test_a_training_starts_over_if_an_epoch_it_kept_has_changed(tmp_path, caplog, monkeypatch, damage):
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY", 0.0)
    recipe = replace(BASE, epochs=3, keep=(1,))
    loop.fit(build(recipe), recipe, load(recipe.data, "train"), "cpu", tmp_path)
    before = (tmp_path / "epoch-1.safetensors").read_bytes()
    damage(tmp_path / "epoch-1.safetensors")
    loop.fit(build(recipe), recipe, load(recipe.data, "train"), "cpu", tmp_path)
    assert "epoch-1.safetensors has changed" in caplog.text
    assert (tmp_path / "epoch-1.safetensors").read_bytes() == before


@pytest.mark.slow
def test_kill_9_in_the_middle_then_the_same_command(tmp_path):
    """A process killed in the middle of a training; the next one goes on from its checkpoint to the same weights."""
    script = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
import torch; torch.set_num_threads(1)
from dataclasses import replace
from lib.training import loop; loop.CHECKPOINT_EVERY = 0.0
from tests.training.test_training import BASE, THREAT, ATTACK
from lib.values.objectives import Adversarial; from lib.store import Store; from lib.training.zoo import Zoo
recipe = replace(BASE, epochs=6, objective=Adversarial(THREAT, ATTACK))
Zoo(Store(sys.argv[1])).obtain(recipe)
"""
    interrupted, whole = tmp_path / "a", tmp_path / "b"
    first = subprocess.Popen([sys.executable, "-c", script, str(interrupted)], cwd=ROOT)
    deadline = time.monotonic() + 60
    while not list(interrupted.glob("making/*/checkpoint.pt")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert not list(interrupted.glob("network/*")), "nothing half made is in place"
    again = subprocess.run([sys.executable, "-c", script, str(interrupted)], cwd=ROOT, capture_output=True, text=True)
    assert "going on after epoch" in again.stdout, again.stderr
    subprocess.run([sys.executable, "-c", script, str(whole)], cwd=ROOT, check=True, capture_output=True)
    results = [next(p.glob("network/*/data.safetensors")).read_bytes() for p in (interrupted, whole)]
    assert results[0] == results[1]


def test_a_diverging_training_stops_and_names_recipe_step_and_checkpoint(tmp_path, monkeypatch):
    recipe = replace(BASE, optimiser=Optimiser(lr=1e12))
    with pytest.raises(loop.TrainingDiverged, match=rf"{recipe.key}.* step [1-8] of epoch 0 .*lr .*no checkpoint"):
        loop.fit(build(recipe), recipe, load(recipe.data, "train"), "cpu", tmp_path)
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY", 0.0)
    late = replace(BASE, epochs=3, schedule=Schedule("piecewise"))
    real = loop.learning_rate
    monkeypatch.setattr(loop, "learning_rate", lambda s, peak, share: 1e12 if share > 0.5 else real(s, peak, share))
    with pytest.raises(loop.TrainingDiverged, match=r"of epoch 1 .*last good checkpoint is .*checkpoint\.pt"):
        loop.fit(build(late), late, load(late.data, "train"), "cpu", tmp_path)
    found = []
    load_state(tmp_path / "checkpoint.pt", found.append)
    assert len(found[0]["rows"]) == 1 and all(v.isfinite().all() for v in found[0]["net"].values())


def test_the_moving_average_becomes_the_network():
    recipe, images = replace(BASE, ema=0.5), load(BASE.data, "train")
    live, averaged, by_hand = build(BASE), build(recipe), []

    class Watched(Average):
        def follow(self, update):
            by_hand.append({k: v.clone() for k, v in live_now.state_dict().items()})
            super().follow(update)

    live_now = averaged
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "Average", Watched)
        loop.fit(averaged, recipe, images, "cpu")
    weight = build(recipe).state_dict()["stem.0.weight"]
    for t, state in enumerate(by_hand):
        decay = min(0.5, (1 + t) / (10 + t))
        weight = decay * weight + (1 - decay) * state["stem.0.weight"]
    torch.testing.assert_close(averaged.state_dict()["stem.0.weight"], weight, rtol=1e-4, atol=1e-6)
    loop.fit(live, BASE, images, "cpu")
    assert not torch.equal(live.state_dict()["stem.0.weight"], weight)


@pytest.mark.parametrize("choice", [Choice(), Choice(THREAT, ATTACK)], ids=["clean", "robust"])
def test_the_best_epoch_on_held_out_images_is_kept(choice):
    """With a rate far too high at the end, the last epoch is not the best one."""
    recipe = replace(BASE, data=Data("digits", train=512, holdout=100), epochs=6, choice=choice,
                     schedule=Schedule("constant"), optimiser=Optimiser(lr=0.5))
    images, holdout, net = load(recipe.data, "train"), load(recipe.data, "holdout"), build(recipe)
    rows = loop.fit(net, recipe, images, "cpu", holdout=holdout)
    best = max(row["holdout"] for row in rows)
    assert [r["holdout"] for r in rows if r["chosen"]] == [best] and best > min(row["holdout"] for row in rows)
    found = evaluate(net, holdout, choice.threat, choice.attack, seed_parts=("choice",))
    assert found.accuracy("robust" if choice.attack else "clean") == best


def test_choosing_needs_held_out_images():
    with pytest.raises(SettingsError, match=r"data\.holdout = 0"):
        replace(BASE, choice=Choice())


class OutOfMemory(Loss):
    """A loss whose update holds `room` images at most."""

    def __init__(self, room):
        self.room = room

    def __call__(self, net, batch, progress):
        if len(batch.labels) > self.room:
            raise torch.OutOfMemoryError("made up")
        logits = net(batch.images)
        return logits.square().mean(), logits


@pytest.mark.parametrize("room, advice", [(20, "a batch_size of 16 fits"), (0, "not even a single image fits")])
def test_an_update_out_of_memory_says_which_batch_fits(monkeypatch, room, advice):
    monkeypatch.setattr(loop, "loss_for", lambda spec: OutOfMemory(room))
    with pytest.raises(loop.OutOfMemory, match=rf"{BASE.key}.*step 0 with batches of 64.*{advice}"):
        loop.fit(build(BASE), BASE, load(BASE.data, "train"), "cpu")


def test_an_attack_out_of_memory_goes_on_in_parts(capsys):
    sizes = []

    def attack(images, noise):
        assert noise is None
        sizes.append(len(images))
        if len(images) > 3:
            raise torch.OutOfMemoryError("made up")
        return images + 1

    parts, images = InParts("a test"), torch.arange(10.0)
    for _ in range(2):
        torch.testing.assert_close(parts(attack, images, None), images + 1)
    assert max(sizes[-4:]) == 3 and sizes[0] == 10 and sizes.count(10) == 1, "what fits is remembered"
    assert "out of memory, going on in 4 parts" in capsys.readouterr().out
    with pytest.raises(torch.OutOfMemoryError):
        InParts("a test")(lambda x: attack(torch.zeros(9), None), torch.zeros(4))


def test_each_of_many_networks_in_a_process_is_compiled(monkeypatch):
    compiled = []

    def count(graph, inputs):
        compiled.append(graph)
        return graph.forward

    monkeypatch.setattr(loop, "COMPILER", count)
    ends = replace(BASE, epochs=0), replace(BASE, epochs=0, seed=1)
    images, fronts = load(BASE.data, "train").take(slice(0, 64)), [build(end) for end in ends]
    recipe = replace(BASE, arch=Stitch("layer1.0"), parents=ends, trainable=("joint",), epochs=1)
    for seed in range(14):
        before, one = len(compiled), replace(recipe, seed=seed)
        loop.fit(build(one, fronts), one, images, "cpu", compiled=True)
        assert len(compiled) > before, f"network {seed + 1} was not"


@pytest.mark.slow
def test_compiled_training_gives_the_same_network():
    recipe = replace(BASE, arch=CNN(16, 1), objective=Adversarial(THREAT, PGD(2, "0.1")), epochs=1,
                     data=Data("digits", train=256))
    images, plain, compiled = load(recipe.data, "train"), build(recipe), build(recipe)
    loop.fit(plain, recipe, images, "cpu")
    loop.fit(compiled, recipe, images, "cpu", compiled=True)
    assert compiled._compiled_call_impl is None, "compiled for its training only"
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(value, compiled.state_dict()[name], rtol=1e-3, atol=1e-4)


def test_a_training_reports_its_speed_and_prices_its_like(tmp_path, capsys):
    store, recipe = Store(tmp_path), replace(BASE, epochs=1)
    zoo = Zoo(store)
    meta = zoo.obtain(recipe).meta
    assert meta["images_per_second"] > 0 and 0 < meta["share_of_matmul"] < 1.5
    assert meta["tflop_per_second"] / meta["matmul_tflop_per_second"] == pytest.approx(meta["share_of_matmul"])
    prices = price.Prices(store, "cpu")
    like = replace(recipe, seed=5)
    assert prices.seconds(like, price.like_training(like), 1e15) == meta["seconds"]
    other = replace(recipe, arch=ResNet(16, (1,)))
    guess = prices.seconds(other, price.like_training(other), price.training(other))
    measured, = prices.measured.values()  # what was never trained here is priced by a rate measured now
    assert guess == pytest.approx(price.training(other) / measured) and 1e8 < measured < 1e15


@pytest.mark.parametrize(
    "trainable, batchnorm, weights, statistics",
    [
        (("joint",), "train", {"joint"}, True),
        (("joint",), "frozen", {"joint"}, False),
        (("joint", "back"), "train", {"joint", "back"}, True),
        (NOTHING, "train", set(), True),
    ],
)
def test_only_what_is_trainable_changes_and_only_that_is_stored(tmp_path, trainable, batchnorm, weights, statistics):
    zoo = Zoo(Store(tmp_path))
    parent = replace(BASE, epochs=1)
    recipe = replace(
        BASE,
        arch=Stitch("layer1.0"),
        parents=(parent, replace(parent, seed=1)),
        trainable=trainable,
        batchnorm=batchnorm,
        epochs=1,
        optimiser=Optimiser("adam", lr=1e-3),
    )
    trained = zoo.obtain(recipe).net.state_dict()
    start = build(recipe, [zoo.obtain(p).net for p in recipe.parents]).state_dict()
    changed = {n for n in start if not torch.equal(start[n], trained[n])}
    buffers = {n for n in changed if "running_" in n or "num_batches" in n}
    assert bool(buffers) == statistics
    assert {n.split(".")[0] for n in changed - buffers} == weights
    assert set(zoo.store.load("network", recipe.key).tensors()) == changed
    again = Zoo(Store(tmp_path)).obtain(recipe)
    assert all(torch.equal(v, trained[n]) for n, v in again.net.state_dict().items())


def test_zoo_refuses_what_is_not_planned(tmp_path):
    with pytest.raises(SettingsError, match="not in this run's plan"):
        Zoo(Store(tmp_path), allowed=set()).obtain(BASE)


def test_untrained_networks_need_no_store(tmp_path):
    zoo = Zoo(Store(tmp_path))
    one, two = (zoo.obtain(replace(BASE, epochs=0)).net.state_dict() for _ in range(2))
    assert all(torch.equal(one[n], two[n]) for n in one) and not list(tmp_path.iterdir())


@pytest.mark.parametrize("name, gpu, found", [("cpu", False, "cpu"), ("auto", False, "cpu"), ("cpu", True, "cpu"),
                                             ("auto", True, "cuda"), ("cuda:1", True, "cuda:1")])
def test_wherever_things_run_fp32_is_not_rounded_to_tf32(monkeypatch, name, gpu, found):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)  # as torch has it
    assert str(device(name)) == found
    assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32


def test_tf32_holds_for_the_passes_of_its_networks_alone(monkeypatch):
    """Forward and backward passes of a training in tf32, and not the code around it."""
    seen = []

    class Looks(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            seen.append(("forward", torch.backends.cudnn.allow_tf32))
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            seen.append(("backward", torch.backends.cudnn.allow_tf32))
            return grad

    class Looking(torch.nn.Module):
        def __init__(self, net):
            super().__init__()
            self.net = net

        def forward(self, x):
            return Looks.apply(self.net(x))

    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    images = load(BASE.data, "train").take(slice(0, 64))
    for precision, allowed in (("tf32", True), ("fp32", False)):
        seen.clear()
        recipe = replace(BASE, epochs=1, batch_size=64, precision=precision)
        loop.fit(Looking(build(recipe)), recipe, images, "cpu")
        assert {*seen} == {("forward", allowed), ("backward", allowed)}
        input_gradient(Looking(build(recipe)), images.pixels(), lambda logits: logits.sum(1), precision)
        assert {*seen} == {("forward", allowed), ("backward", allowed)}
    assert not torch.backends.cudnn.allow_tf32



def test_training_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    recipe = replace(BASE, epochs=1, objective=Adversarial(THREAT, ATTACK))
    loop.fit(build(recipe), recipe, load(recipe.data, "train"), "cpu")
    assert torch.equal(before, torch.get_rng_state())


def test_attack_in_training_is_the_one_of_the_recipe():
    net, clean = build(BASE).eval(), batch()
    made = pgd(net, clean.images, clean.labels, THREAT, ATTACK, generator=generator("a"))
    assert (made - clean.images).abs().max() <= float(THREAT.eps) + 1e-6


def test_a_child_of_other_weights_of_its_parent_is_made_again(tmp_path, caplog):
    from safetensors.torch import save_file

    from lib.files import sha256, write_atomic

    parent = replace(BASE, epochs=1)
    child = replace(BASE, arch=Stitch("layer1.0"), parents=(parent, parent), trainable=("joint",), epochs=1)
    zoo = Zoo(Store(tmp_path))
    zoo.obtain(child)
    Zoo(Store(tmp_path)).obtain(child)
    assert "parents" not in caplog.text
    entry = zoo.store.load("network", parent.key)
    save_file({k: v + 1 for k, v in entry.tensors().items()}, entry.path / "data.safetensors")
    entry.meta["files"]["data.safetensors"] = sha256(entry.path / "data.safetensors")
    write_atomic(entry.path / "meta.json", json.dumps(entry.meta))
    again = Zoo(Store(tmp_path))
    again.obtain(child)
    assert "other weights of its parents" in caplog.text and again.trained_here == [child.key]


def test_price_counts_only_what_a_joint_and_a_probe_run():
    """An update of a joint goes forward through front and back, and back through the back; a probe runs its front."""
    whole, parents = price.forward(BASE), (BASE, replace(BASE, seed=1))
    joint = replace(BASE, arch=Stitch("layer1.0"), parents=parents, trainable=("joint",), epochs=1)
    probe = replace(BASE, arch=Probe("layer1.0"), parents=parents[:1], trainable=("head",), epochs=1)
    clean, seen = price.training(joint) / 512, price.training(probe) / 512
    assert price.forward(joint) == whole
    back = clean - whole
    assert seen == whole - back and 0 < back < whole
    attacked = price.training(replace(joint, objective=Adversarial(THREAT, ATTACK))) / 512
    assert attacked == clean + 2 * ATTACK.steps * whole
    assert price.training(BASE) == 3 * whole * 512 * BASE.epochs
