"""Interval bounds: they hold, they are as tight as intervals can be, and what they do not know they refuse."""

import itertools

import pytest
import torch
from torch import nn

from lib.attacks.pgd import pgd
from lib.certify.intervals import interval, margins, verified, worst_margins
from lib.errors import SettingsError
from lib.models import Probe, folded, network, stitch
from lib.models.staged import pooled_linear
from lib.runtime import generator, initialise_with
from lib.values.architectures import (
    CNN,
    MLP,
    VGG11,
    VGG16,
    CNNLarge,
    CNNSmall,
    ImageNetResNet,
    PreActResNet,
    ResNet,
    ViT,
    WideResNet,
)
from lib.values.attacks import PGD
from lib.values.threats import Threat

ARCHS = [
    ResNet(4, (1, 1)),
    PreActResNet(4, (1, 1)),
    WideResNet(10, 1),
    ImageNetResNet(18, 2),
    ImageNetResNet(50, 4),
    CNN(4, 2),
    VGG11(2),
    VGG16(2),
    CNNSmall(),
    CNNLarge(),
    MLP((12, 12)),
]
EPS = 0.02


def made(arch, channels=2):
    """A network in eval mode whose BatchNorms have statistics and weights as training might leave them, in fp64, so
    that rounding does not hide what bounds do not hold.
    """
    with initialise_with("bounds"):
        net = network(arch, (channels, *[max(8, arch.min_size)] * 2), 5)
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.running_mean, 0, 0.3)
                nn.init.uniform_(module.running_var, 0.5, 2)
                nn.init.normal_(module.weight)  # negative ones too
                nn.init.normal_(module.bias, 0, 0.3)
    return net.double().eval()


def some(arch, count=3, channels=2):
    size = max(8, arch.min_size)
    x = torch.rand(count, channels, size, size, generator=generator("images"), dtype=torch.float64)
    return x, torch.arange(count) % 5


def ball(x, eps=EPS):
    return (x - eps).clamp_min(0), (x + eps).clamp_max(1)


def points(net, x, labels, eps=EPS):
    """Images of the ball: at random, corners, and where PGD goes."""
    draw, threat = generator("points"), Threat("linf", str(eps))
    for _ in range(5):
        noise = torch.rand(x.shape, generator=draw, dtype=x.dtype) * 2 - 1
        yield (x + eps * noise).clamp(0, 1)
        yield (x + eps * noise.sign()).clamp(0, 1)
    for loss in ("ce", "cw"):
        yield pgd(net, x, labels, threat, PGD(10, str(eps / 4), loss=loss), draw)


@pytest.mark.parametrize("arch", ARCHS, ids=str)
def test_bounds_contain_the_logits_and_margins_of_every_point(arch):
    net, (x, labels) = made(arch), some(arch)
    with torch.no_grad():
        lower, upper = interval(net, *ball(x))
        lowest, worst = margins(net, x, labels, EPS), worst_margins(net, x, labels, EPS)
    rounding = 1e-9 * upper.abs().max()
    for point in points(net, x, labels):
        with torch.no_grad():
            logits = net(point)
        assert (logits >= lower - rounding).all() and (logits <= upper + rounding).all()
        found = logits.gather(1, labels[:, None]) - logits
        assert (found >= lowest - rounding).all()
        rivals = found.scatter(1, labels[:, None], float("inf")).amin(1)
        assert (rivals >= worst - rounding).all()


@pytest.mark.parametrize("arch", ARCHS, ids=str)
def test_without_a_ball_bounds_are_the_logits(arch):
    net, (x, labels) = made(arch), some(arch)
    with torch.no_grad():
        logits = net(x)
        for bound in interval(net, x, x):
            torch.testing.assert_close(bound, logits)
        torch.testing.assert_close(margins(net, x, labels, 0), logits.gather(1, labels[:, None]) - logits)


@pytest.mark.parametrize("arch", ARCHS, ids=str)
def test_the_difference_in_the_last_layer_is_tighter(arch):
    net, (x, labels) = made(arch), some(arch)
    with torch.no_grad():
        lower, upper = interval(net, *ball(x))
        apart = (lower.gather(1, labels[:, None]) - upper).scatter(1, labels[:, None], 0)
        together = margins(net, x, labels, EPS)
    others = torch.arange(5) != labels[:, None]
    assert (together.gather(1, labels[:, None]) == 0).all()
    assert (together[others] >= apart[others] - 1e-9).all() and together[others].mean() > apart[others].mean()


@pytest.mark.parametrize("arch", [ResNet(4, (1, 1)), VGG11(2), PreActResNet(4, (1, 1))], ids=str)
def test_folding_does_not_change_the_bounds(arch):
    net, (x, labels) = made(arch), some(arch)
    with torch.no_grad():
        torch.testing.assert_close(margins(folded(net), x, labels, EPS), margins(net, x, labels, EPS))


LAYERS = {
    "convolution": nn.Conv2d(1, 2, 2, padding=1, dtype=torch.float64),
    "strided": nn.Conv2d(1, 2, 2, stride=2, bias=False, dtype=torch.float64),
    "around the edge": nn.Conv2d(1, 2, 2, padding=1, padding_mode="circular", dtype=torch.float64),
    "linear": nn.Sequential(nn.Flatten(), nn.Linear(4, 3, dtype=torch.float64)),
    "max-pooling": nn.MaxPool2d(2),
    "mean-pooling": nn.AdaptiveAvgPool2d(1),
    "relu": nn.ReLU(),
}


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_bounds_of_one_layer_are_those_of_the_corners(layer):
    draw = generator("corners")
    for parameter in layer.parameters():
        parameter.data.normal_(generator=draw)
    lower = torch.randn(1, 1, 2, 2, generator=draw, dtype=torch.float64)
    upper = lower + torch.rand(1, 1, 2, 2, generator=draw, dtype=torch.float64)
    corners = torch.cat([torch.where(torch.tensor(bits).view(1, 1, 2, 2), upper, lower)
                         for bits in itertools.product([False, True], repeat=4)])
    with torch.no_grad():
        reached, bounds = layer(corners), interval(layer, lower, upper)
    torch.testing.assert_close(bounds[0], reached.amin(0, keepdim=True))
    torch.testing.assert_close(bounds[1], reached.amax(0, keepdim=True))


def test_margins_of_a_linear_network_by_hand():
    """z = (x, 0, -2x): of label 0 the margins are x and 3x, of label 1 -x and 2x."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(1, 3, bias=False))
    net[1].weight.data = torch.tensor([[1.0], [0.0], [-2.0]])
    x, labels = torch.tensor([0.6, 0.9]).view(2, 1, 1, 1), torch.tensor([0, 1])
    found = margins(net, x, labels, 0.1)
    torch.testing.assert_close(found, torch.tensor([[0.0, 0.5, 1.5], [-1.0, 0.0, 1.6]]))
    torch.testing.assert_close(margins(net, x, labels, 0.4)[1], torch.tensor([-1.0, 0.0, 1.0]))  # 1.3 is no image
    torch.testing.assert_close(worst_margins(net, x, labels, 0.1), torch.tensor([0.5, -1.0]))
    assert verified(net.eval(), x, labels, 0.1).tolist() == [True, False]
    assert verified(net.eval(), x, labels, 0.6).tolist() == [False, False]


def test_in_training_batchnorm_takes_the_statistics_of_the_middles():
    net, (x, _) = made(CNN(4, 2)).train(), some(CNN(4, 2), 6)
    before = {name: value.clone() for name, value in net.named_buffers()}
    lower, upper = interval(net, x, x)
    assert all(torch.equal(value, before[name]) for name, value in net.named_buffers())
    logits = net(x)
    torch.testing.assert_close(lower, logits)
    torch.testing.assert_close(upper, logits)


def test_bounds_can_be_learned_from():
    net, (x, labels) = made(CNN(4, 2)).train(), some(CNN(4, 2), 6)
    worst_margins(net, x, labels, EPS).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    assert net.conv1[0].weight.grad.abs().sum() > 0


def test_stitched_and_probed_networks_have_bounds():
    net, (x, labels) = made(ResNet(4, (1, 1))), some(ResNet(4, (1, 1)))
    with initialise_with("joint"):
        joined = stitch(net, net, "layer1.0", "random", (2, 8, 8)).double().eval()
        probed = Probe(net.front("layer1.0"), pooled_linear(4, 5).double()).eval()
    for other in (joined, probed):
        with torch.no_grad():
            lower, upper = interval(other, *ball(x))
            assert all((lower <= other(point)).all() and (other(point) <= upper).all()
                       for point in points(other, x, labels))
            assert worst_margins(other, x, labels, EPS).isfinite().all()


class Masked(nn.Conv2d):
    def forward(self, x):
        return nn.functional.conv2d(x, self.weight * 2)


@pytest.mark.parametrize("module, name", [(nn.GELU(), "GELU"), (Masked(1, 1, 1), "Masked")])
def test_a_module_without_a_rule_is_named(module, name):
    with pytest.raises(SettingsError, match=f"unknown module for interval bounds '{name}'.*known: .*Conv2d"):
        interval(nn.Sequential(module), torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2))


def test_networks_without_bounds_and_train_mode_are_refused():
    net, (x, labels) = made(ViT(8, 1, 2, 8, 4)), some(ViT(8, 1, 2, 8, 4))
    with pytest.raises(SettingsError, match="unknown module for interval bounds"):
        margins(net, x, labels, EPS)
    with pytest.raises(SettingsError, match="with ReLU at its end.*ends in a linear layer"):
        margins(nn.Sequential(nn.Flatten(), nn.ReLU()), x, labels, EPS)
    with pytest.raises(SettingsError, match="net.training = True"):
        verified(made(CNN(4, 2)).train(), x, labels, EPS)
