"""Joints of stitched networks: what they start from, of which rank they are, which ends they reach."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from lib.data import load
from lib.errors import SettingsError
from lib.models import Twin, build, least_squares
from lib.models.stitched import cut
from lib.papers.stitching.networks import NOTHING
from lib.runtime import generator, initialise_with
from lib.store import Store
from lib.training import loop, zoo
from lib.training.zoo import Zoo
from lib.values.architectures import CNN, LEAST_SQUARES, ResNet, Stitch
from lib.values.attacks import PGD
from lib.values.data import Data
from lib.values.objectives import Adversarial
from lib.values.recipe import Optimiser, Recipe, Schedule
from lib.values.threats import Threat

DIGITS = Data("digits", train=512, test=200)
NET = Recipe(DIGITS, CNN(16, 3), epochs=4, batch_size=64, optimiser=Optimiser(lr=0.1), schedule=Schedule("onecycle"))
OTHER = replace(NET, seed=1)
JOINED = replace(NET, arch=Stitch("conv2"), parents=(NET, OTHER), trainable=("joint",), epochs=1,
                 optimiser=Optimiser("adam", lr=1e-2))
MATCHED = replace(JOINED, arch=Stitch("conv2", LEAST_SQUARES), epochs=0)
CIFAR = Recipe(Data("cifar10"), ResNet(16, (1, 1, 1, 1)))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    torch.set_num_threads(1)
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def box(root):
    return Zoo(Store(root))


def pixels(n=200):
    return load(DIGITS, "train").pixels(slice(0, n))


def maps(box, joint="conv2"):
    """What both parents make of the images at the joint, as networks."""
    return [box.obtain(recipe).net.front(joint) for recipe in (NET, OTHER)]


def weights(net):
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


# -------------------------------------------------------------------------------------------------- least squares


def known_map(channels, seed=0):
    with initialise_with("known map", seed):
        conv = nn.Conv2d(channels, 24, 1)
        nn.init.normal_(conv.weight)
        nn.init.normal_(conv.bias)
    return conv.requires_grad_(False)


def test_a_known_affine_map_is_recovered(box):
    first, _ = maps(box)
    conv = known_map(32)
    weight, bias = least_squares(first, nn.Sequential(first, conv), pixels(512).split(100))
    assert weight.shape == (24, 32) and weight.dtype == bias.dtype == torch.float64
    assert (weight - conv.weight.flatten(1)).abs().max() < 1e-4 and (bias - conv.bias).abs().max() < 1e-4


class Spoilt(nn.Module):
    """Maps in which channel 0 is dead, 1 a constant, 2 the tenth of 3, and 4 almost constant."""

    def forward(self, x):
        x = x.clone()
        x[:, 0], x[:, 1], x[:, 2], x[:, 4] = 0, 3.7, 0.1 * x[:, 3], 1 + 1e-3 * x[:, 4]
        return x


def test_dead_constant_and_double_channels_do_no_harm(box):
    whole, _ = maps(box)
    first, conv = nn.Sequential(whole, Spoilt()), known_map(32)
    target = nn.Sequential(first, conv)
    weight, bias = least_squares(first, target, [pixels(512)])
    with torch.no_grad():
        x, y = (net(pixels(512)).double().transpose(0, 1).flatten(1) for net in (first, target))
    assert (weight @ x + bias[:, None] - y).abs().max() < 1e-4
    known = conv.weight.flatten(1)
    assert (weight[:, :2] == 0).all() and (weight[:, 4:] - known[:, 4:]).abs().max() < 1e-3
    of_the_double = 0.1 * known[:, 2] + known[:, 3]  # which two channels share
    assert torch.allclose(0.1 * weight[:, 2], weight[:, 3], atol=1e-4)
    assert torch.allclose(2 * weight[:, 3], of_the_double.double(), atol=1e-4)


def test_it_is_the_minimum_however_images_are_batched(box):
    first, target = maps(box)
    weight, bias = least_squares(first, target, [pixels()])
    for size in (1, 7):
        again = least_squares(first, target, pixels().split(size))
        assert torch.allclose(again[0], weight, atol=1e-6) and torch.allclose(again[1], bias, atol=1e-6)
    with torch.no_grad():
        x, y = (net(pixels()).double().transpose(0, 1).flatten(1) for net in (first, target))
    rows = torch.cat([x, torch.ones_like(x[:1])])
    known = torch.linalg.lstsq(rows.T, y.T, driver="gelsd").solution.T
    assert torch.allclose(torch.cat([weight, bias[:, None]], 1), known, atol=1e-6)

    def error(w, b):
        return float((w @ x + b[:, None] - y).square().sum())

    least = error(weight, bias)
    assert least > 1, "these two networks differ by more than an affine map"
    moves = generator("moves")
    for _ in range(5):
        step = 1e-3 * torch.randn(weight.shape, generator=moves, dtype=torch.float64)
        assert error(weight + step, bias) > least and error(weight, bias + step[:, 0]) > least


def test_direct_matching_of_a_network_with_itself_is_the_network_and_is_stored(root, box, monkeypatch):
    """The identity is the known map here; nothing is trained, but images decide, so the joint is kept."""
    itself = replace(MATCHED, parents=(NET, NET))
    net, x = box.obtain(itself).net, load(DIGITS, "test").pixels()
    weight, bias = net.affine
    with torch.no_grad():
        assert (net(x) - box.obtain(NET).net(x)).abs().max() < 1e-3
    live = weight.diagonal() != 0  # a channel that is 0 for all images needs no row
    assert live.sum() > 20 and (weight - torch.diag(live.float())).abs().max() < 1e-4 and bias.abs().max() < 1e-4
    assert set(box.store.load("network", itself.key).tensors()) == {"joint.0.weight", "joint.0.bias"}
    monkeypatch.setattr(zoo, "least_squares", None)
    again = Zoo(Store(root)).obtain(itself).net
    assert all(torch.equal(v, weights(net)[k]) for k, v in again.state_dict().items())
    assert "direct matching" in itself.describe() and itself.stored and not replace(JOINED, epochs=0).stored


@pytest.mark.parametrize("fit", [None, 40])
def test_the_start_is_that_of_the_first_training_images_in_eval_mode(box, fit):
    recipe = replace(MATCHED, arch=replace(MATCHED.arch, fit=fit), augment="crop")
    net, count = box.obtain(recipe).net, fit or 512
    weight, bias = least_squares(*maps(box), [pixels(count)])
    assert torch.allclose(net.affine[0].double(), weight, atol=1e-5)
    assert torch.allclose(net.affine[1].double(), bias, atol=1e-5)
    parents = {**{f"front.{k}": v for k, v in box.obtain(NET).net.state_dict().items()},
               **{f"back.{k}": v for k, v in box.obtain(OTHER).net.state_dict().items()}}
    others = {k: v for k, v in net.state_dict().items() if not k.startswith("joint")}
    assert others and all(torch.equal(v, parents[k]) for k, v in others.items())


def test_fewer_images_make_another_start(box):
    few, many = (box.obtain(replace(MATCHED, arch=replace(MATCHED.arch, fit=n))).net.affine[0] for n in (40, None))
    assert (few - many).abs().max() > 1e-2


def test_training_starts_where_direct_matching_ends(box):
    """A rate of next to nothing: what training leaves is its start."""
    trained = replace(MATCHED, epochs=1, optimiser=Optimiser("adam", lr=1e-9, weight_decay=0))
    start, end = (box.obtain(recipe).net.affine for recipe in (MATCHED, trained))
    assert torch.allclose(start[0], end[0], atol=1e-6) and torch.allclose(start[1], end[1], atol=1e-6)
    adapted = box.obtain(replace(trained, trainable=NOTHING))
    assert torch.equal(adapted.net.affine[0], start[0]) and len(adapted.log) == 1


def test_direct_matching_is_better_than_chance_and_training_better_still(box):
    chance = box.outcomes(replace(JOINED, epochs=0)).accuracy()
    matched = box.outcomes(MATCHED).accuracy()
    assert matched > chance + 0.2
    assert box.outcomes(replace(MATCHED, epochs=2)).accuracy() > matched


def test_a_stopped_training_of_a_matched_joint_goes_on_to_the_same_weights(box, tmp_path, monkeypatch):
    recipe = replace(MATCHED, epochs=3)
    straight = weights(box.obtain(recipe).net)
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY", 0.0)
    real, died = loop._Training._save, []

    def save_then_die(self):
        real(self)
        if self.recipe == recipe and not died:
            died.append(len(self.rows))
            raise KeyboardInterrupt

    monkeypatch.setattr(loop._Training, "_save", save_then_die)
    other = Zoo(Store(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        other.obtain(recipe)
    again = Zoo(Store(tmp_path)).obtain(recipe)
    assert died == [1] and [row["epoch"] for row in again.log] == [0, 1, 2]
    assert all(torch.equal(v, straight[k]) for k, v in again.net.state_dict().items())


def test_a_torn_checkpoint_starts_over_from_the_same_map(box, tmp_path):
    recipe, store = replace(MATCHED, epochs=1), Store(tmp_path)
    work = store.workdir("network", recipe.key)
    work.mkdir(parents=True)
    (work / "checkpoint.pt").write_bytes(b"torn")
    again, straight = Zoo(store).obtain(recipe).net, box.obtain(recipe).net
    assert all(torch.equal(v, straight.state_dict()[k]) for k, v in again.state_dict().items())


# ----------------------------------------------------------------------------------------------------------- rank


def test_a_cut_joint_is_the_closest_of_its_rank(box):
    whole = box.obtain(JOINED).net
    weight, bias = whole.affine
    values = torch.linalg.svdvals(weight.double())
    for rank in (1, 5, 32):
        low = cut(whole, rank)
        got, same = low.affine
        assert torch.equal(same, bias) and [m.out_channels for m in low.joint[0]] == [rank, 32]
        assert torch.linalg.matrix_rank(got, rtol=1e-5) == rank
        error = (got - weight).double().square().sum()  # Eckart and Young: what the values left out add up to
        assert float(error) == pytest.approx(float(values[rank:].square().sum()), rel=1e-3, abs=1e-8)
    x = pixels(20)
    with torch.no_grad():
        by_hand = whole.back(torch.relu(nn.functional.conv2d(whole.front(x), got[..., None, None], bias)))
        assert torch.allclose(low(x), by_hand, atol=1e-4) and torch.allclose(low(x), whole(x), atol=1e-3)


def test_a_trained_joint_is_cut_without_training_and_without_a_place_in_the_store(box):
    recipe = replace(JOINED, arch=replace(JOINED.arch, rank=4), parents=(JOINED,), epochs=0)
    low, whole = box.obtain(recipe).net, box.obtain(JOINED).net
    assert not box.store.has("network", recipe.key) and not recipe.stored
    assert f"stitch at conv2, rank 4 of {JOINED.key[:6]}, joint cut after training" in recipe.describe()
    assert torch.allclose(low.affine[0], cut(whole, 4).affine[0], atol=1e-6)
    others = {k: v for k, v in low.state_dict().items() if not k.startswith("joint")}
    assert all(torch.equal(v, whole.state_dict()[k]) for k, v in others.items()), "BatchNorm as it has adapted"
    found = [box.outcomes(r).accuracy() for r in (replace(recipe, arch=replace(recipe.arch, rank=1)), recipe, JOINED)]
    assert found[0] < found[-1] - 0.2, "one direction does not carry ten classes"


def test_training_keeps_the_rank_and_moves_both_factors(box):
    recipe = replace(JOINED, arch=Stitch("conv2", rank=3))
    start = build(recipe, [box.obtain(p).net for p in recipe.parents])
    net = box.obtain(recipe).net
    changed = {k for k, v in net.state_dict().items() if not torch.equal(v, start.state_dict()[k])}
    assert {"joint.0.0.weight", "joint.0.1.weight", "joint.0.1.bias"} <= changed
    assert not {k for k in changed if "joint" not in k and "running" not in k and "num_batches" not in k}
    assert set(box.store.load("network", recipe.key).tensors()) == changed
    assert torch.linalg.matrix_rank(net.affine[0], rtol=1e-5) == 3


def test_a_low_rank_joint_can_start_as_least_squares(box):
    recipe = replace(MATCHED, arch=replace(MATCHED.arch, rank=4))
    got, full = box.obtain(recipe).net.affine, box.obtain(MATCHED).net
    assert box.store.has("network", recipe.key)
    assert torch.allclose(got[0], cut(full, 4).affine[0], atol=1e-5) and torch.allclose(got[1], full.affine[1])
    after = replace(recipe, parents=(MATCHED,))
    assert not after.stored and torch.allclose(box.obtain(after).net.affine[0], got[0], atol=1e-5)


def test_a_low_rank_joint_can_be_attacked_and_trained_so(box):
    attack = Adversarial(Threat("linf", "0.1"), PGD(2, "0.05"), 0.5)
    recipe = replace(JOINED, arch=Stitch("conv2", rank=6), objective=attack)
    net, x = box.obtain(recipe).net, pixels(20)
    with torch.no_grad():
        assert torch.allclose(Twin(net).follow()(x), net(x), atol=1e-4)


def test_what_came_later_changes_no_key():
    assert Stitch("conv2") == Stitch("conv2", "random", None, None)
    changes = ({"init": LEAST_SQUARES}, {"init": LEAST_SQUARES, "fit": 100}, {"rank": 2}, {"rank": 3})
    keys = {replace(JOINED, arch=Stitch("conv2", **change)).key for change in ({}, *changes)}
    assert len(keys) == 5 and JOINED.key == "279c579e765fb445"


# -------------------------------------------------------------------------------------------------------- other ends


def test_an_end_may_know_images_of_other_channels_and_sizes():
    """Its stem is not run: grey 28 x 28 images come down to the same 4 x 4 maps as photographs of 32 x 32."""
    mnist = Recipe(Data("mnist"), CIFAR.arch)
    front, end = build(CIFAR), build(mnist)
    recipe = Recipe(CIFAR.data, Stitch("layer4.0"), parents=(CIFAR, mnist))
    whole = build(recipe, [front, end]).eval()
    assert whole(torch.rand(2, 3, 32, 32)).shape == (2, 10) and list(whole.back.stages) == ["head"]
    same = build(replace(recipe, parents=(CIFAR, CIFAR)), [front, front])
    assert whole.joint[0].weight.shape == same.joint[0].weight.shape
    message = "joint = stem .*the front gives 32x32, the end expects 28x28"
    with pytest.raises(SettingsError, match=message):
        build(replace(recipe, arch=Stitch("stem")), [front, end])
    with pytest.raises(SettingsError, match="data = mnist .* 3 channel"):  # images pass through the front
        build(replace(recipe, data=mnist.data), [front, end])
    photograph = Recipe(Data("mnist_rgb32"), CIFAR.arch)
    for joint in photograph.arch.joints:
        build(replace(recipe, arch=Stitch(joint), parents=(CIFAR, photograph)), [front, build(photograph)])


def test_an_end_must_know_as_many_classes():
    hundred = Recipe(Data("cifar100"), CIFAR.arch)
    with pytest.raises(SettingsError, match="10 classes must be as many as the 100 of the parent on cifar100"):
        build(Recipe(CIFAR.data, Stitch("stem"), parents=(CIFAR, hundred)), [build(CIFAR), build(hundred)])


def test_an_end_for_other_classes_learns_the_fronts_labels(box):
    """The end's own head says another class for every digit; the joint is trained and judged on the front's labels."""
    front = replace(NET, epochs=8)
    end = replace(front, data=replace(DIGITS, name="digits_permuted"))
    last = replace(JOINED, arch=Stitch("conv3"), parents=(front, end), epochs=6)
    found = {recipe: box.outcomes(recipe).accuracy() for recipe in (front, end, last)}
    assert all(accuracy > 0.85 for accuracy in found.values()), found
    images = load(DIGITS, "test")
    with torch.no_grad():
        answers = box.obtain(end).net(images.pixels()).argmax(1)
    assert (answers == images.labels).float().mean() < 0.1, "alone, the end fails on these labels"


# ------------------------------------------------------------------------------------------------------------ errors

LOW = replace(JOINED.arch, rank=2)
GREY, PHOTOGRAPHS = (Recipe(Data(name), ResNet(16, (1, 1, 1, 1))) for name in ("mnist", "mnist_rgb32"))


@pytest.mark.parametrize("make, words", [
    (lambda: Stitch("stem", "lstsq"), ["unknown arch.init 'lstsq'", "least squares"]),
    (lambda: Stitch("stem", fit=100), ["arch.fit = 100", "least squares uses it"]),
    (lambda: Stitch("stem", LEAST_SQUARES, fit=0), ["arch.fit = 0", "at least 1"]),
    (lambda: Stitch("stem", rank=0), ["arch.rank = 0", "at least 1"]),
    (lambda: replace(MATCHED, arch=replace(MATCHED.arch, fit=600)), ["arch.fit = 600", "at most the 512"]),
    (lambda: replace(JOINED, arch=LOW, parents=(JOINED,)), ["epochs = 1", "0 for a joint that is cut"]),
    (lambda: replace(JOINED, arch=LOW, parents=(NET,)), ["parents = CNN", "a stitch at conv2"]),
    (lambda: replace(JOINED, arch=replace(LOW, joint="conv1"), parents=(JOINED,)), ["parents = stitch at conv2"]),
    (lambda: replace(JOINED, arch=replace(LOW, init=LEAST_SQUARES), parents=(JOINED,)), ["with the same start"]),
    (lambda: replace(JOINED, parents=(JOINED,)), ["parents = 1", "2 for a Stitch"]),
    (lambda: Recipe(PHOTOGRAPHS.data, Stitch("layer4.0", LEAST_SQUARES), parents=(PHOTOGRAPHS, GREY)),
     ["arch.init = least squares", "mnist", "another shape than those of mnist_rgb32"]),
    (lambda: build(replace(JOINED, arch=replace(LOW, rank=33)), [build(NET), build(OTHER)]),
     ["arch.rank = 33", "at most 32 for 32 to 32 channels"]),
])
def test_impossible_joints_are_one_sentence(make, words):
    with pytest.raises(SettingsError) as error:
        make()
    text = str(error.value)
    assert "\n" not in text and all(word in text for word in words), text
