"""Weights from elsewhere: other projects' key layouts, and a sentence for each way in which a file does not fit."""

import hashlib
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision import datasets, models

from lib.data import images as reading
from lib.data import load
from lib.errors import SettingsError
from lib.models import build, folded, network
from lib.models.external import autoattack_example, load_resnet
from lib.runtime import ROOT, generator, initialise_with
from lib.store import Store
from lib.training.evaluation import evaluate
from lib.training.zoo import Zoo
from lib.values import external
from lib.values.architectures import ImageNetResNet, PreActResNet, ResNet, Stitch
from lib.values.attacks import PGD
from lib.values.data import Data
from lib.values.external import External, Known
from lib.values.recipe import Recipe, Weights
from lib.values.threats import Threat

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
        return load_resnet(tmp_path / "weights.pt", **{"arch": ARCH, "classes": 7, "shape": SHAPE, **options})

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
        (theirs, {"arch": PreActResNet(16, (1, 2))}, ["arch = PreActResNet", "a ResNet or an ImageNetResNet"]),
    ]:
        with pytest.raises(SettingsError) as error:
            read(content, **options)
        text = str(error.value)
        assert "\n" not in text and all(word in text for word in words), text


def test_files_that_are_none(tmp_path):
    with pytest.raises(SettingsError, match="nowhere.pt is not possible: it must be an existing file"):
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


# ------------------------------------------------------------------------------------------- networks by their names

ROBUSTBENCH = ["Sehwag2021Proxy_R18", "Addepalli2021Towards_RN18"]
BATCHNORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
CIFAR10 = Data("cifar10")


def robustbench_layout() -> set[str]:
    """The names of the tensors in RobustBench's files of ResNet-18."""
    norms, others = ["bn1"], ["conv1.weight", "linear.weight", "linear.bias"]
    for block in (f"layer{stage}.{k}" for stage in (1, 2, 3, 4) for k in (0, 1)):
        others += [f"{block}.conv1.weight", f"{block}.conv2.weight"]
        norms += [f"{block}.bn1", f"{block}.bn2"]
        if block in ("layer2.0", "layer3.0", "layer4.0"):
            others += [f"{block}.shortcut.0.weight"]
            norms += [f"{block}.shortcut.1"]
    return {*others, *(f"{norm}.{name}" for norm in norms for name in BATCHNORM)}


def torchvisions():
    """RobustBench's function, made of torchvision's modules: a stem of 3 x 3 with stride 1, and no pooling after it."""
    net = models.resnet18(weights=None, num_classes=10)
    net.conv1, net.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
    return net


@pytest.fixture(scope="module")
def robust():
    return made(torchvisions)


@pytest.fixture
def given(robust, tmp_path, monkeypatch):
    """Write the weights of `robust` into a data folder as RobustBench names them, and point REPRO_DATA at it."""
    monkeypatch.setenv("REPRO_DATA", str(tmp_path))
    tensors = {name.replace("downsample", "shortcut").replace("fc.", "linear."): tensor
               for name, tensor in robust.state_dict().items()}
    assert {*tensors} == robustbench_layout() and sum(p.numel() for p in robust.parameters()) == 11_173_962

    def write(name, content=None):
        path = tmp_path / "robustbench" / "cifar10" / "Linf" / f"{name}.pt"
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(content or {"state_dict": {f"module.{key}": tensor for key, tensor in tensors.items()}}, path)
        return path

    write.tensors = tensors
    return write


@pytest.fixture
def zoo(tmp_path):
    return Zoo(Store(tmp_path / "store"))


@pytest.mark.parametrize("name, bare", [(ROBUSTBENCH[0], False), (ROBUSTBENCH[1], True)])
def test_robustbenchs_networks_load_by_their_names(robust, given, zoo, name, bare):
    path = given(name, given.tensors if bare else None)
    recipe = External(name).recipe(CIFAR10)
    net, x = zoo.obtain(recipe).net, pixels(4, 3, 32, 32)
    with torch.no_grad():
        out = robust(x)
        assert torch.allclose(net(x), out, atol=1e-5 * out.abs().max().item())
        assert torch.equal(net.normalise(x), x), "RobustBench gives it pixels in [0, 1]"
    assert not net.training and not any(p.requires_grad for p in net.parameters())
    assert path.name in recipe.describe() and not (zoo.store.root / "network").exists()


def test_ends_of_stitched_networks(robust, given, zoo):
    front = External(ROBUSTBENCH[0], str(given("one"))).recipe(CIFAR10)
    end = Recipe(CIFAR10, ResNet(16), epochs=0)
    x = pixels(2, 3, 32, 32)
    itself, other = (zoo.obtain(Recipe(CIFAR10, Stitch("layer3.0", init), epochs=0, parents=(front, back))).net
                     for back, init in ((front, "identity"), (end, "random")))
    with torch.no_grad():
        assert torch.equal(itself(x), zoo.obtain(front).net(x))
        seen = zoo.obtain(front).net.front("layer3.0")(x)
        assert torch.equal(other(x), zoo.obtain(end).net.back("layer3.0")(other.joint(seen)))
    assert other.joint[0].weight.shape == (64, 256, 1, 1)


def test_a_joint_is_trained_on_a_network_from_a_file(tmp_path, monkeypatch, zoo):
    monkeypatch.setenv("REPRO_DATA", str(tmp_path))
    arch, data = ResNet(16, (1, 1)), Data("digits", train=64, test=20)
    monkeypatch.setitem(external.KNOWN, "tiny", Known("N", "digits", "tiny.pt", 0.9, 0.0, arch))
    net = made(lambda: network(arch, (1, 8, 8), 10))
    net.normalise.mean.zero_(), net.normalise.std.fill_(1)
    torch.save({k: v for k, v in net.state_dict().items() if "normalise" not in k}, tmp_path / "tiny.pt")

    def joined():
        front = External("tiny").recipe(data)
        return Recipe(data, Stitch("layer1.0"), epochs=1, batch_size=32, parents=(front, replace(front, weights=None)),
                      trainable=("joint",))

    recipe = joined()
    trained, x = zoo.obtain(recipe).net, pixels(4, 1, 8, 8)
    kept = {*zoo.store.load("network", recipe.key).tensors()}
    assert {"joint.0.weight", "joint.0.bias"} < kept and not any("conv" in name for name in kept)
    again = Zoo(zoo.store)
    with torch.no_grad():
        assert torch.equal(again.obtain(joined()).net(x), trained(x)) and not again.trained_here
        assert torch.equal(trained.front[1][0].weight.cpu(), net.stem[0].weight)
    assert zoo.outcomes(recipe.parents[0]).table["clean"].shape == (20,)
    torch.save({**torch.load(tmp_path / "tiny.pt"), "head.2.bias": torch.ones(10)}, tmp_path / "tiny.pt")
    assert joined().key != recipe.key, "other weights, another network"


def test_what_is_in_the_file_makes_the_key_and_not_where_it_lies(given):
    path = given("one")
    first, second = (External(ROBUSTBENCH[0], str(one)) for one in (path, shutil.copy(path, path.with_name("two"))))
    assert first.path != second.path and first.recipe(CIFAR10) == second.recipe(CIFAR10)
    key = first.recipe(CIFAR10).key
    assert key == second.recipe(CIFAR10).key != replace(first.recipe(CIFAR10), weights=None).key
    given("one", {**given.tensors, "linear.bias": torch.zeros(10)})
    assert first.recipe(CIFAR10).key != key


def test_a_file_that_changes_after_it_was_named_is_not_read(given):
    recipe = External(ROBUSTBENCH[0], str(given("one"))).recipe(CIFAR10)
    given("one", {**given.tensors, "linear.bias": torch.zeros(10)})
    with pytest.raises(SettingsError, match=f"the file with SHA-256 {recipe.weights.sha256}; this one has"):
        build(recipe)


def test_every_misnomer_is_one_sentence_before_any_work(given, tmp_path):
    path = given(ROBUSTBENCH[0])
    right = hashlib.sha256(path.read_bytes()).hexdigest()
    assert External(ROBUSTBENCH[0], sha256=right).weights == Weights("anywhere", right)
    plain = Recipe(CIFAR10, ResNet(), epochs=0)
    weights = External(ROBUSTBENCH[0]).weights
    for make, words in [
        (lambda: External("Sehwag2021Proxy"), ["Sehwag2021Proxy", "did you mean 'Sehwag2021Proxy_R18'"]),
        (lambda: External(ROBUSTBENCH[1]).recipe(CIFAR10),
         [ROBUSTBENCH[1], str(tmp_path / "robustbench/cifar10/Linf/Addepalli2021Towards_RN18.pt"), "data/README.md"]),
        (lambda: External(ROBUSTBENCH[0], "elsewhere.pt").weights, [str(tmp_path / "elsewhere.pt"), "is there"]),
        (lambda: External(ROBUSTBENCH[0], sha256="0" * 64).weights, [str(path), "0000", f"this one has {right}"]),
        (lambda: External(ROBUSTBENCH[0], sha256="12"), ["sha256", "12", "64 hexadecimal digits"]),
        (lambda: External("pyautoattack", str(path)).weights, ["399f52da9f914c32", f"this one has {right}"]),
        (lambda: External(ROBUSTBENCH[0]).recipe(Data("svhn")), ["svhn", "cifar10, which it was trained on"]),
        (lambda: replace(plain, weights=weights, epochs=1), ["epochs = 1", "0 for a network with weights"]),
        (lambda: replace(plain, weights=weights, parents=(plain,)), ["parents = 1", "0 for a network with weights"]),
        (lambda: replace(plain, weights=weights, arch=PreActResNet()), ["arch = PreActResNet", "an ImageNetResNet"]),
        (lambda: Weights("x.pt", "abc"), ["weights.sha256 = abc", "64 hexadecimal digits"]),
    ]:
        with pytest.raises(SettingsError) as error:
            make()
        text = str(error.value)
        assert "\n" not in text and all(word in text for word in words), text


# ------------------------------------------------------------------------------------------------- the network in reach


@pytest.fixture
def cifar10(monkeypatch):
    """Points REPRO_DATA at a folder with CIFAR-10, or skips."""
    for folder in (os.environ.get("REPRO_DATA"), reading.OWN, ROOT.parent / "shared" / "data"):
        if folder and not reading._missing(datasets.CIFAR10, "test", Path(folder)):
            return monkeypatch.setenv("REPRO_DATA", str(folder))
    pytest.skip("no cifar10 in REPRO_DATA, in data/ or in a data folder beside the checkout")


def counted(zoo, test=None):
    """How many of the test images AutoAttack's example classifies rightly, by its recipe."""
    data = Data("cifar10", test=test)
    net, images = folded(zoo.obtain(External("pyautoattack").recipe(data)).net), load(data, "test")
    with torch.no_grad():
        return sum((net(images.pixels(part)).argmax(1) == images.labels[part]).sum().item()
                   for part in torch.arange(len(images)).split(250))


def test_autoattacks_example_knows_five_hundred_images(cifar10, zoo):
    assert counted(zoo, 500) == pytest.approx(473, abs=1)  # one image may lie on the border of two classes


@pytest.mark.slow
def test_autoattacks_example_has_its_clean_accuracy(cifar10, zoo):
    assert counted(zoo) / 10_000 == pytest.approx(0.9422, abs=0.0001)


@pytest.mark.slow
def test_autoattacks_example_is_not_robust(cifar10):
    found = evaluate(autoattack_example(), load(Data("cifar10", test=200), "test"), Threat("linf", "8/255"),
                     PGD(20, "2/255"))
    assert found.accuracy() > 0.9 and found.accuracy("robust") < 0.02


@pytest.mark.parametrize("change, words", [
    (lambda d: d | {f"module.{name}": tensor + 1 for name, tensor in d.items()}, "under several names"),
    (lambda d: d | {"conv1.weight": d["conv1.weight"] * float("nan")}, "finite numbers, unlike those of stem.0.weight"),
    (lambda d: d | {"mean": torch.zeros(3), "std": torch.tensor([0.2, 0.0, 0.2])}, "normaliser std = "),
    (lambda d: d | {"mean": torch.tensor([125.0, 123, 114]), "std": torch.tensor([63.0, 62, 67])},
     "normaliser mean = "),
])
def test_tensors_that_would_silently_give_another_network_are_refused(change, words, tmp_path):
    net = load_resnet_file_of(tmp_path, lambda d: d)
    assert isinstance(net, nn.Module)
    with pytest.raises(SettingsError, match=words):
        load_resnet_file_of(tmp_path, change)


def load_resnet_file_of(folder, change):
    """A ResNet of width 8 read back from a file in RobustBench's layout that was changed."""
    arch = ResNet(16, (1,))
    net = network(arch, (3, 8, 8), 10)
    ours = {"stem.0": "conv1", "stem.1": "bn1", "head.2": "linear"}
    tensors = {".".join([ours.get(name.rpartition(".")[0], name.rpartition(".")[0]), name.rpartition(".")[2]]): tensor
               for name, tensor in net.state_dict().items() if not name.startswith("normalise")}
    torch.save(change(tensors), folder / "net.pt")
    return load_resnet(folder / "net.pt", arch, shape=(3, 8, 8))
