"""Weights from elsewhere: other projects' key layouts, and a sentence for each way in which a file does not fit."""

import hashlib
import os
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision import datasets, models

from lib.architectures import ImageNetResNet, ResNet
from lib.data import images as reading
from lib.data import load
from lib.errors import SettingsError
from lib.models import folded, network
from lib.models.external import autoattack_example, load_resnet
from lib.recipe import Data
from lib.runtime import ROOT, generator, initialise_with
from lib.threats import PGD, Threat
from lib.training.evaluation import evaluate

ARCH = ResNet(16, (1, 2))
SHAPE = (3, 16, 16)
THEIRS = (("stem.0", "conv1"), ("stem.1", "bn1"), ("head.2", "linear"), ("shortcut.conv", "shortcut.0"),
          ("shortcut.bn", "shortcut.1"))


def made(make):
    """What `make` gives, in eval mode with BN statistics that are all different."""
    with initialise_with("test"):
        net = make()
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.running_mean, 0, 0.3), nn.init.uniform_(module.running_var, 0.5, 2)
    return net.eval()


@pytest.fixture
def ours():
    net = made(lambda: network(ARCH, SHAPE, 7))
    net.normalise.mean.zero_(), net.normalise.std.fill_(1)
    return net


@pytest.fixture
def theirs(ours):
    """The weights of `ours` under pytorch-cifar's names."""
    out = {}
    for name, tensor in ours.state_dict().items():
        for mine, other in THEIRS:
            name = name.replace(mine, other)
        if not name.startswith("normalise."):
            out[name] = tensor
    return out


@pytest.fixture
def read(tmp_path):
    """Save what is given as a file and load it as `ARCH`."""

    def call(content, **options):
        torch.save(content, tmp_path / "weights.pt")
        return load_resnet(tmp_path / "weights.pt", ARCH, 7, SHAPE, **options)

    return call


def pixels(*shape):
    return torch.rand(*shape, generator=generator("pixels"))


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "module.model."])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "net", "model_state_dict", "model"])
def test_every_layout_gives_the_same_network(ours, theirs, read, prefix, wrapper):
    tensors = {prefix + name: tensor for name, tensor in theirs.items()}
    state = torch.get_rng_state()
    net = read(tensors if wrapper is None else {"epoch": 3, wrapper: tensors})
    assert torch.equal(torch.get_rng_state(), state)
    assert not net.training and not any(p.requires_grad for p in net.parameters())
    x = pixels(4, *SHAPE)
    assert torch.equal(net(x), ours(x))
    assert tuple(net.stages) == ARCH.stages and list(net.state_dict()) == list(ours.state_dict())


def test_old_files_without_counts_of_batches(ours, theirs, read):
    net, x = read({k: v for k, v in theirs.items() if "num_batches" not in k}), pixels(2, *SHAPE)
    assert torch.equal(net(x), ours(x))


@pytest.mark.parametrize("names", [("mu", "sigma"), ("module.mean", "module.std"), ("normalize.mean", "normalize.std")])
@pytest.mark.parametrize("shape", [(3,), (3, 1, 1), (1, 3, 1, 1)])
def test_the_normaliser_is_the_files_unless_the_caller_says(theirs, read, names, shape):
    mean, std = [0.49, 0.48, 0.44], [0.2, 0.3, 0.4]
    tensors = {names[0]: torch.tensor(mean).reshape(shape), names[1]: torch.tensor(std).reshape(shape), **theirs}
    x = pixels(2, *SHAPE)
    expected = (x - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    assert torch.allclose(read(tensors).normalise(x), expected)
    assert torch.allclose(read(tensors, normaliser=((0.5,), (0.25,))).normalise(x), (x - 0.5) * 4)
    assert torch.equal(read(theirs).normalise(x), x)


def test_every_misfit_is_one_sentence_that_names_it(theirs, read):
    def without(name):
        return {k: v for k, v in theirs.items() if k != name}

    for content, options, words in [
        (without("layer2.0.shortcut.0.weight"), {}, ["with the tensor layer2.0.shortcut.conv.weight"]),
        (without("linear.bias"), {}, ["with the tensor head.2.bias"]),
        ({**theirs, "layer2.2.conv1.weight": torch.ones(1)}, {}, ["without the tensor layer2.2.conv1.weight"]),
        ({**theirs, "linear.weight": torch.ones(10, 32)}, {}, ["head.2.weight", "(7, 32)", "(10, 32)"]),
        ({**theirs, "mu": torch.ones(4)}, {}, ["normaliser mean", "1 or 3 numbers"]),
        (theirs, {"normaliser": ([0.5] * 3, [1.0] * 2)}, ["normaliser std", "1 or 3 numbers"]),
        (theirs, {"sha256": "0" * 64}, ["SHA-256 0000", "this one has"]),
        ({}, {}, ["tensors by name"]),
        ({"state_dict": {"epoch": 3}}, {}, ["tensors by name"]),
        (torch.ones(3), {}, ["tensors by name"]),
        ({"net": Path("x")}, {}, ["reads no tensors in it"]),  # unpickling may run anything: refused
    ]:
        with pytest.raises(SettingsError) as error:
            read(content, **options)
        text = str(error.value)
        assert "\n" not in text and all(word in text for word in words), text


def test_files_that_are_none(tmp_path):
    with pytest.raises(SettingsError, match="nowhere.pt is not possible: it must be a file that is there"):
        load_resnet(tmp_path / "nowhere.pt")
    for content in (b"", b"not a file of tensors"):
        (tmp_path / "broken.pt").write_bytes(content)
        with pytest.raises(SettingsError, match="broken.pt is not possible: torch reads no tensors"):
            load_resnet(tmp_path / "broken.pt")


def test_the_right_digest_passes(theirs, read, tmp_path):
    read(theirs)
    digest = hashlib.sha256((tmp_path / "weights.pt").read_bytes()).hexdigest()
    assert load_resnet(tmp_path / "weights.pt", ARCH, 7, SHAPE, sha256=digest.upper())


@pytest.mark.parametrize("depth", [18, 50])
def test_imagenet_resnets_are_torchvisions(depth, tmp_path):
    theirs = made(lambda: getattr(models, f"resnet{depth}")(weights=None, num_classes=12))
    torch.save(theirs.state_dict(), tmp_path / "weights.pt")
    net, x = load_resnet(tmp_path / "weights.pt", ImageNetResNet(depth), 12, (3, 64, 64)), pixels(2, 3, 64, 80)
    out = theirs(x)
    assert torch.allclose(net(x), out, atol=1e-5 * out.abs().max().item())


# ------------------------------------------------------------------------------------------------- the network in reach


@pytest.fixture
def cifar10(monkeypatch):
    """Points REPRO_DATA at a folder with CIFAR-10, or skips."""
    for folder in (os.environ.get("REPRO_DATA"), reading.OWN, ROOT.parent / "shared" / "data"):
        if folder and not reading._missing(datasets.CIFAR10, "test", Path(folder)):
            return monkeypatch.setenv("REPRO_DATA", str(folder))
    pytest.skip("no cifar10 in REPRO_DATA, in data/ or in a data folder beside the checkout")


@pytest.mark.slow
def test_autoattacks_example_has_its_clean_accuracy(cifar10):
    net, test = folded(autoattack_example()), load(Data("cifar10"), "test")
    with torch.no_grad():
        right = [(net(test.pixels(part)).argmax(1) == test.labels[part]).sum().item()
                 for part in torch.arange(len(test)).split(250)]
    assert len(test) == 10_000 and sum(right) / 10_000 == pytest.approx(0.9422, abs=0.0002)


@pytest.mark.slow
def test_autoattacks_example_is_not_robust(cifar10):
    found = evaluate(autoattack_example(), load(Data("cifar10", test=200), "test"), Threat("linf", "8/255"),
                     PGD(20, "2/255"))
    assert found.accuracy() > 0.9 and found.accuracy("robust") < 0.02
