"""Subjects: fronts and ends of other people's networks, twins, and a sentence for each network that does not fit."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision import models

from lib.errors import SettingsError
from lib.lenses.subject import NORMALISERS, Subject
from lib.models import Stitched, network
from lib.models.fold import prepared
from lib.runtime import generator, initialise_with
from lib.values.architectures import ResNet, ViT, WideResNet
from lib.values.data import Data

CIFAR = Data("cifar10")
LARGER = Data("stl10")  # for networks that halve an image five times


def pixels(count=4, data=CIFAR):
    return torch.rand(count, *data.shape, generator=generator("pixels", *data.shape))


def drawn(make):
    """A network in eval mode, with a random normalisation by BN."""
    with initialise_with("subjects"):
        net = make()
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.running_mean, 0, 0.3), nn.init.uniform_(module.running_var, 0.5, 2)
    return net.eval()


def vit():
    return models.VisionTransformer(32, 8, 3, 2, 16, 32, num_classes=10)


def swin():
    return models.SwinTransformer([4, 4], 16, [2, 2], [2, 4], [4, 4], num_classes=10)


def maxvit():
    return models.MaxVit((96, 96), 16, 6, [16, 32], [1, 1], 8, 0.0, num_classes=10)


# make, data, layers: as many nodes as others found through which everything passes (the first six)
THEIRS = {
    "ResNet-18": (lambda: models.resnet18(num_classes=10), CIFAR, 23),
    "VGG-11": (lambda: models.vgg11_bn(num_classes=10), CIFAR, 38),
    "DenseNet-121": (lambda: models.densenet121(num_classes=10), CIFAR, 25),
    "MobileNet-v2": (lambda: models.mobilenet_v2(num_classes=10), CIFAR, 73),
    "MobileNet-v3": (lambda: models.mobilenet_v3_small(num_classes=10), CIFAR, 59),
    "ViT": (vit, CIFAR, 15),
    "Swin": (swin, CIFAR, 19),
    "ShuffleNet": (lambda: models.shufflenet_v2_x0_5(num_classes=10), CIFAR, 89),
    "SqueezeNet": (lambda: models.squeezenet1_1(num_classes=10), LARGER, 34),
    "EfficientNet": (lambda: models.efficientnet_b0(num_classes=10), CIFAR, 79),
    "MaxViT": (maxvit, LARGER, 52),
    "ConvNeXt": (lambda: models.convnext_tiny(num_classes=10), CIFAR, 40),
    "GoogLeNet": (lambda: models.googlenet(num_classes=10, init_weights=False), LARGER, 26),
    "RegNet": (lambda: models.regnet_y_400mf(num_classes=10), CIFAR, 38),
}
QUICK = ("ResNet-18", "MobileNet-v3", "ViT", "Swin")


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
                                  for name in THEIRS])
def test_fronts_and_ends_are_the_network(name):
    make, data, count = THEIRS[name]
    net = drawn(make)
    subject = Subject.wrap(net, data=data, normaliser="half")
    assert not subject.note and len(subject.layers) == count
    x = pixels(5, data)
    with torch.no_grad():
        wanted = net((x - 0.5) / 0.5)
        assert torch.equal(subject.net(x), wanted)
        for layer in subject.layers[::max(1, count // 6)]:
            front, end = subject.cut(layer)
            found = front(x)
            assert found.shape == (5 * subject.shape(layer)[0], *subject.shape(layer)[1:])
            before = found.clone()
            assert (end(found) - wanted).abs().max() <= 1e-6 * wanted.abs().max(), layer
            assert torch.equal(found, before), f"the end after {layer} overwrites what it is given"


def test_a_foreign_network_stitched_to_itself_by_the_identity_is_itself():
    subject, x = Subject.wrap(drawn(THEIRS["ResNet-18"][0]), data=CIFAR, normaliser="imagenet"), pixels()
    for layer in ("relu", "layer2_0_relu_1", "layer4_1_relu_1"):  # rectified, so that the joint's ReLU changes nothing
        front, end = subject.cut(layer)
        joint = nn.Conv2d(subject.shape(layer)[1], subject.shape(layer)[1], 1)
        nn.init.dirac_(joint.weight), nn.init.zeros_(joint.bias)
        with torch.no_grad():
            assert torch.equal(Stitched(front, joint, end)(x), subject.net(x))


@pytest.mark.parametrize("arch", [ResNet(16, (1, 2)), WideResNet(10, 1), ViT()], ids=lambda arch: arch.name)
def test_networks_of_the_project_are_cut_at_their_stages(arch):
    net = drawn(lambda: network(arch, CIFAR.shape, 10))
    subject, x = Subject.wrap(net, data=CIFAR, normaliser="inside"), pixels()
    assert not subject.note
    with torch.no_grad():
        wanted = net(x)
        assert all(torch.equal(subject.cut(layer)[1](subject.cut(layer)[0](x)), wanted) for layer in subject.layers)


def test_one_pass_gives_the_tensors_of_several_layers():
    subject, x = Subject.wrap(drawn(vit), data=CIFAR, normaliser="none"), pixels()
    chosen = subject.layers[2:9:3]
    found = subject.features(x, chosen)
    assert tuple(found) == chosen
    for layer in chosen:
        assert torch.equal(found[layer], subject.cut(layer)[0](x))


def test_operations_are_counted_up_to_each_layer():
    shares = Subject.wrap(drawn(THEIRS["ResNet-18"][0]), data=CIFAR, normaliser="none").flops
    assert list(shares.values()) == sorted(shares.values()) and shares["fc"] == 1
    assert 0 < shares["conv1"] == shares["maxpool"] < shares["layer1_0_relu_1"] < 0.5


class Overwrites(nn.Module):
    """Reads a tensor again after it was overwritten in three ways, and counts its images."""

    def __init__(self):
        super().__init__()
        self.conv, self.relu, self.fc = nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Linear(4, 10)

    def forward(self, x, scale=2.0, flag=None):
        x = self.conv(x)
        y = self.relu(x) * scale + x  # x is rectified by now
        z = F.leaky_relu(y, 0.1, inplace=True)
        if flag is None:
            z = z.sub_(0.1) + y
        return self.fc(z.reshape(x.size(0), 4, -1).mean(2)) + self.fc.bias.expand(len(x), -1)


def test_what_works_in_place_is_followed():
    net = drawn(Overwrites)
    before, x = copy.deepcopy(net.state_dict()), pixels(6)
    subject = Subject.wrap(net, data=CIFAR, normaliser="none")
    assert not subject.note and len(subject.layers) > 3
    for layer in subject.layers:
        front, end = subject.cut(layer)
        assert torch.allclose(end(front(x)), net(x), atol=1e-6)
    assert net.relu.inplace and all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


class Viewing(nn.Module):
    """Takes a view of maps, which torch refuses if they lie in memory pixel by pixel."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2, self.fc = nn.Conv2d(3, 6, 5), nn.Conv2d(6, 16, 5), nn.Linear(400, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv2(F.max_pool2d(F.relu(self.conv1(x)), 2))), 2)
        return self.fc(x.view(-1, 16 * 5 * 5))


def test_maps_may_lie_in_memory_in_any_order():
    subject, x = Subject.wrap(drawn(Viewing), data=CIFAR, normaliser="half"), pixels()
    by_pixel = x.contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        wanted = subject.net(x)
        for layer in subject.layers:
            front, end = (half.to(memory_format=torch.channels_last) for half in subject.cut(layer))
            assert torch.allclose(end(front(by_pixel)), wanted, atol=1e-5), layer
        subject = Subject.wrap(drawn(Viewing), data=CIFAR, normaliser="half")
        ready = prepared(subject.net, x)
        assert torch.allclose(ready(by_pixel), wanted, atol=1e-5)


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3 * 32 * 32, 10)

    def forward(self, x):
        return self.fc(x.flatten(1)) * (2 if x.sum() > 0 else 1)


def test_a_network_that_cannot_be_traced_keeps_the_rest():
    net = drawn(Branches).train()
    subject = Subject.wrap(net, data=CIFAR, normaliser="none")
    assert subject.layers == () and "cannot be traced" in subject.note and "\n" not in subject.note
    assert net.training and not any(module.training for module in subject.net.modules())
    assert subject.net(pixels()).shape == (4, 10) and subject.flops == {}
    for ask in (lambda: subject.cut("fc"), lambda: subject.features(pixels(), ["fc"]), lambda: subject.shape("fc")):
        with pytest.raises(SettingsError, match="cannot be traced"):
            ask()
    assert "cannot be traced" in subject.twin.note


def test_tracing_leaves_the_code_as_it_was():
    import sys

    Subject.wrap(drawn(Overwrites), data=CIFAR, normaliser="none")
    assert "len" not in vars(sys.modules[Overwrites.__module__]) and not hasattr(nn, "len")


def test_a_subject_does_not_follow_the_callers_network():
    net, x = drawn(THEIRS["ResNet-18"][0]), pixels()
    subject = Subject.wrap(net, data=CIFAR, normaliser="none")
    before = subject.net(x)
    net.train()(x), nn.init.zeros_(net.fc.weight)
    assert torch.equal(subject.net(x), before) and not any(p.requires_grad for p in subject.net.parameters())
    with pytest.raises(SettingsError, match="unknown layer 'layer1_0_relu1'; did you mean 'layer1_0_relu_1'"):
        subject.cut("layer1_0_relu1")


def test_what_wraps_a_network_is_taken_off():
    net = drawn(lambda: network(ResNet(8, (1,)), CIFAR.shape, 10))
    plain, spread = (Subject.wrap(one, data=CIFAR, normaliser="inside") for one in (net, nn.DataParallel(net)))
    assert plain.key == spread.key and plain.layers == spread.layers


def test_keys_tell_weights_code_and_normaliser_apart():
    class Another(Branches):
        def forward(self, x):
            return self.fc(x.flatten(1)) * (2 if x.sum() > 0 else -1)

    nets = [drawn(THEIRS["ResNet-18"][0]), drawn(Branches), drawn(Another)]
    changed = copy.deepcopy(nets[0])
    changed.bn1.running_mean[3] += 0.1
    keys = [Subject.wrap(net, data=CIFAR, normaliser="none").key for net in (*nets, changed)]
    keys.append(Subject.wrap(nets[0], data=CIFAR, normaliser="imagenet").key)
    assert len({*keys}) == 5
    assert keys[0] == Subject.wrap(copy.deepcopy(nets[0]), data=CIFAR, normaliser=(0.0, (1.0, 1.0, 1.0))).key


@pytest.mark.parametrize("name", ["inside", *NORMALISERS])
def test_every_named_normaliser(name):
    net = drawn(lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 10)))
    data = Data("mnist")
    if name != "inside" and len(NORMALISERS[name][0]) == 3:
        with pytest.raises(SettingsError, match="each 1 or 1 finite numbers"):
            Subject.wrap(net, data=data, normaliser=name)
        return
    mean, std = (0, 1) if name == "inside" else (numbers[0] for numbers in NORMALISERS[name])
    x = pixels(3, data)
    assert torch.allclose(Subject.wrap(net, data=data, normaliser=name).net(x), net((x - mean) / std))


# ------------------------------------------------------------------------------------------------------------- twins


class Own(nn.Module):
    """Weights that no module draws."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(10, 3 * 32 * 32))
        self.scale = nn.Parameter(torch.full((10,), 0.3))

    def forward(self, x):
        return F.linear(x.flatten(1), self.weight) * self.scale


def test_a_twin_is_drawn_anew_and_always_the_same():
    net = drawn(THEIRS["ResNet-18"][0])
    subject = Subject.wrap(net, data=CIFAR, normaliser="imagenet", name="theirs")
    state = torch.get_rng_state()
    twin, again = subject.twin, Subject.wrap(net, data=CIFAR, normaliser="imagenet").twin
    assert torch.equal(torch.get_rng_state(), state) and twin.key == again.key != subject.key
    assert twin.name == "theirs, untrained" and twin.note == "" and twin.layers == subject.layers
    own, other = subject.net.state_dict(), twin.net.state_dict()
    assert all(not torch.equal(own[k], other[k]) for k in own if k.endswith(("conv1.weight", "fc.weight", "_mean")))
    assert torch.equal(own["normalise.std"], other["normalise.std"])
    assert other["net.bn1.running_var"].eq(1).all()


def test_a_twin_of_weights_that_no_module_draws_is_permuted_and_says_so():
    subject = Subject.wrap(drawn(Own), data=CIFAR, normaliser="none")
    own, other = subject.inner.weight, subject.twin.inner.weight
    assert subject.twin.note == "no module draws weight anew, so their entries are permuted"
    assert torch.equal(own.flatten().sort().values, other.flatten().sort().values)
    assert abs(float(torch.corrcoef(torch.stack([own.flatten(), other.flatten()]))[0, 1])) < 0.05


def test_weights_that_hooks_compute_are_drawn_anew():
    net = drawn(lambda: nn.Sequential(nn.Flatten(), nn.utils.parametrizations.weight_norm(nn.Linear(3072, 10))))
    subject, x = Subject.wrap(net, data=CIFAR, normaliser="none"), pixels(50)
    one, other = subject.net(x).flatten(), subject.twin.net(x).flatten()
    assert torch.equal(one, net(x).flatten()) and not torch.allclose(one, other, atol=0.1 * float(one.std()))


# --------------------------------------------------------------------------------------------- what is no subject


class Net(nn.Module):
    """A linear classifier, of which each test changes one thing."""

    def __init__(self, classes=10):
        super().__init__()
        self.fc = nn.Linear(3 * 32 * 32, classes)

    def forward(self, x):
        return self.fc(x.flatten(1))


class Pair(Net):
    def forward(self, x):
        return super().forward(x), x


class Maps(Net):
    def forward(self, x):
        return x


class Nan(Net):
    def forward(self, x):
        return super().forward(x).log()


class OnGPU(Net):
    def forward(self, x):
        return super().forward(x.cuda())


class WritesIntoItsInput(Net):
    def forward(self, x):
        return super().forward(x.sub_(0.5))


class Random(Net):
    def forward(self, x):
        return super().forward(x + 0.1 * torch.randn_like(x))


class OfTheBatch(Net):
    def forward(self, x):
        return super().forward(x - x.mean(0))


class Locked(Net):
    def __deepcopy__(self, memo):
        raise TypeError("cannot pickle 'lock' object")


class Small(Net):
    def forward(self, x):
        return super().forward(F.avg_pool2d(x, 2))


@pytest.mark.parametrize("net, options, words", [
    (dict(Net().state_dict()), {}, ["net = dict", "a torch.nn.Module"]),
    (Net().forward, {}, ["net = method", "a torch.nn.Module"]),
    (Net(), {"normaliser": None}, ["normaliser = None", "(mean, std)", '"inside"']),
    (Net(), {"normaliser": "imagnet"}, ["normaliser = imagnet", "imagenet"]),
    (Net(), {"normaliser": ((0.5, 0.5), 1.0)}, ["normaliser = ", "each 1 or 3 finite numbers"]),
    (Net(), {"normaliser": (0.5, 0.0)}, ["normaliser = ", "std above 0"]),
    (Net(), {"normaliser": (125.0, 60.0)}, ["normaliser = ", "mean from -1 to 1"]),
    (Net(), {"normaliser": 0.5}, ["normaliser = 0.5", "(mean, std)"]),
    (Net(), {"data": "cifar10"}, ["data = 'cifar10'", "a Data"]),
    (Pair(), {}, ["output of net = tuple", "logits [4, 10]"]),
    (Maps(), {}, ["output of net = [4, 3, 32, 32]", "logits [4, 10]"]),
    (Net(100), {}, ["number of classes = 100", "10, the classes of cifar10"]),
    (Nan(), {}, ["output of net = NaN or infinite", "finite logits"]),
    (OnGPU(), {}, ["net = OnGPU", "moves nothing to a GPU"]),
    (WritesIntoItsInput(), {}, ["net = WritesIntoItsInput", "leaves its images as they are"]),
    (Random(), {}, ["net = Random", "the same logits for the same images"]),
    (OfTheBatch(), {}, ["net = OfTheBatch", "treats each image by itself"]),
    (Locked(), {}, ["net = Locked", "can be copied", "lock"]),
    (Small(), {}, ["net = Small", "takes images [3, 32, 32] of cifar10", "shapes cannot be multiplied"]),
    (Net(), {"data": Data("mnist")}, ["net = Net", "takes images [1, 28, 28] of mnist"]),
], ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "")
def test_what_is_no_subject_is_refused_in_one_sentence(net, options, words):
    if torch.cuda.is_available() and isinstance(net, OnGPU):
        pytest.skip("there is a GPU")
    with pytest.raises(SettingsError) as error:
        Subject.wrap(net, **{"data": CIFAR, "normaliser": "inside", **options})
    text = str(error.value)
    assert "\n" not in text and all(word in text for word in words), text
