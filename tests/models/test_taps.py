"""Taps: which layers, in which order, and that a tap reads what its module returned."""

import pytest
import torch
from torch import nn

from lib.errors import SettingsError
from lib.models import network
from lib.models.stitched import stitch
from lib.models.taps import Tap, as_overwritten, tapped, taps
from lib.runtime import generator, initialise_with
from lib.values.architectures import CNN, Mixer, ResNet, ViT, WideResNet

SHAPE = (3, 32, 32)


def made(arch, shape=SHAPE):
    with initialise_with("taps", arch):
        return network(arch, shape, 10).eval()


def images(count):
    return torch.rand(count, *SHAPE, generator=generator("taps", count))


class InPlace(nn.Module):
    """BN, an in-place ReLU that is called twice, and a residual sum, as torchvision's networks have them."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        x = self.relu(self.bn(self.conv(x)))
        return self.head(self.relu(self.conv2(x) + x).mean((2, 3)))


@pytest.fixture
def in_place():
    with initialise_with("in place"):
        return InPlace().eval()


@pytest.mark.parametrize("widen,count", [(1, 79), (2, 80)])
def test_layers_of_wide_resnets_are_those_of_the_paper(widen, count):
    found = taps(made(WideResNet(28, widen)), SHAPE)
    assert len(found) == count and len(taps(made(WideResNet(28, widen)), SHAPE, "relu")) == 25
    assert found[0].label == "stem" and [tap.kind for tap in found[-4:]] == [
        "BatchNorm2d", "ReLU", "AdaptiveAvgPool2d", "Linear"]
    assert [tap.kind for tap in found[1:7]] == ["BatchNorm2d", "ReLU", "Conv2d"] * 2
    if widen == 2:
        assert [k for k, tap in enumerate(found) if "shortcut" in tap.name] == [7, 32, 57]
        assert all(tap.stage.startswith(f"layer{1 + (k - 1) // 25}.") for k, tap in enumerate(found[1:76], 1))
    assert all(tap.stage == "head" for tap in found[-4:])


def test_stages_are_the_residual_sums():
    net = made(ResNet(16, (1, 2)))
    found = taps(net, SHAPE, "stages")
    assert [tap.label for tap in found] == list(net.stages) == [tap.stage for tap in found]
    seen, x = {}, images(2)
    with torch.no_grad():
        with tapped(net, found, seen.__setitem__):
            logits = net(x)
        assert torch.equal(seen[1], net.front("layer1.0")(x))
    assert torch.equal(seen[len(found) - 1], logits)


def test_a_stitched_network_has_taps_on_both_sides():
    a, b = made(CNN(8, 2)), made(CNN(8, 2))
    found = taps(stitch(a, b, "conv1", "random", SHAPE), SHAPE, "stages")
    assert [(tap.label, tap.stage) for tap in found] == [
        ("front.conv1", "conv1"), ("joint", "joint"), ("back.conv2", "conv2"), ("back.head", "head")]


def test_networks_of_tokens_have_their_own_kinds():
    for arch in (ViT(32, 2, heads=4, mlp=16, patch=4), Mixer(16, 2, token_mlp=8, channel_mlp=32, patch=4)):
        net = made(arch)
        kinds = {tap.kind for tap in taps(net, SHAPE)}
        assert kinds == {"Conv2d", "LayerNorm", "GELU", "Linear"}
        assert {tap.kind for tap in taps(net, SHAPE, "relu")} == {"GELU"}


def test_a_share_is_evenly_spaced():
    net = made(WideResNet(28, 2))
    every = taps(net, SHAPE)
    assert taps(net, SHAPE, 1.0) == every
    half = [every.index(tap) for tap in taps(net, SHAPE, 0.5)]
    assert len(half) == 40 and {b - a for a, b in zip(half, half[1:], strict=False)} == {2}
    few = [every.index(tap) for tap in taps(net, SHAPE, 0.1)]
    assert len(few) == 8 and min(few) < 10 and max(few) >= 70
    assert len(taps(net, SHAPE, 0.001)) == 1


def test_labels_come_in_the_order_of_execution(in_place):
    assert [tap.label for tap in taps(in_place, SHAPE)] == ["conv", "bn", "relu", "conv2", "relu#1", "head"]
    found = taps(in_place, SHAPE, ["relu#1", "conv"])
    assert found == (Tap("conv", 0, "Conv2d", "conv"), Tap("relu", 1, "ReLU", "relu"))


@pytest.mark.parametrize("layers,said", [
    (["layer1.0.con1"], "did you mean 'layer1.0.conv1'"), ("al", "did you mean 'all'"), (0.0, "a share in"),
    (1.5, "a share in"), (None, "a share in"), ([], "at least one layer"), (["stem", "stem"], "without repetitions"),
])
def test_impossible_choices_are_named(layers, said):
    with pytest.raises(SettingsError, match=said.replace("(", r"\(")):
        taps(made(WideResNet(10, 1)), SHAPE, layers)


def test_a_network_without_such_layers():
    with pytest.raises(SettingsError, match="at least one layer"):
        taps(nn.Sequential(nn.Flatten(), nn.PReLU()), SHAPE)


def test_outputs_are_read_before_they_are_overwritten(in_place):
    found, x = taps(in_place, SHAPE), images(5)
    copies, kept = {}, {}

    def visit(position, output):
        copies[found[position].label], kept[found[position].label] = output.clone(), output

    with torch.no_grad():
        with tapped(in_place, found, visit):
            in_place(x)
        assert torch.equal(copies["bn"], in_place.bn(in_place.conv(x))) and (copies["bn"] < 0).any()
    assert torch.equal(copies["relu"], copies["bn"].relu())
    assert torch.equal(kept["bn"], copies["relu"]), "this network does overwrite what a late reader would find"
    assert (copies["relu#1"] - copies["relu"]).abs().max() > 0.01, "two calls are two layers"


def test_calls_are_counted_for_each_forward_pass_anew(in_place):
    heard = []
    with torch.no_grad(), tapped(in_place, taps(in_place, SHAPE, ["relu#1"]), lambda k, output: heard.append(output)):
        in_place(images(2))
        in_place(images(3))
    assert [len(output) for output in heard] == [2, 3]


def test_hooks_are_gone_afterwards(in_place):
    def hooks():
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in in_place.modules())

    before, found = in_place(images(2)).shape, taps(in_place, SHAPE)
    assert hooks() == 0
    with pytest.raises(ZeroDivisionError), tapped(in_place, found, lambda k, output: 1 / 0):
        in_place(images(2))
    assert hooks() == 0 and in_place(images(2)).shape == before
    with pytest.raises(SettingsError, match="did you mean 'conv2'"):
        with tapped(in_place, [found[0], Tap("conv22")], lambda k, output: None):
            pass
    assert hooks() == 0


def test_finding_taps_changes_nothing():
    net = made(WideResNet(10, 1)).train()
    state = {name: value.clone() for name, value in net.state_dict().items()}
    taps(net, SHAPE)
    assert all(module.training for module in net.modules())
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())


def test_what_relus_in_place_would_overwrite(in_place):
    net = made(WideResNet(28, 2))
    found = taps(net, SHAPE)
    over = as_overwritten(net, SHAPE, found)
    assert len(set(over)) == 55
    for k, (tap, source) in enumerate(zip(found, over, strict=True)):
        assert source == (found[k + 1] if tap.kind == "BatchNorm2d" else tap)
    over = as_overwritten(in_place, SHAPE, taps(in_place, SHAPE))
    assert [tap.label for tap in over] == ["conv", "relu", "relu", "conv2", "relu#1", "head"]
