"""Sources: functions in files and packages, weights in other projects' layouts, and a sentence for all that fails."""

import sys

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision import models

from lib.errors import SettingsError
from lib.lenses.sources import load
from lib.lenses.subject import NORMALISERS
from lib.models import network
from lib.models.resnet import PreActBlock
from lib.runtime import generator, initialise_with
from lib.values.architectures import PreActResNet, ResNet, WideResNet
from lib.values.data import Data

CIFAR = Data("cifar10")
NETS = """
import helper
import torch
from torch import nn

def small():
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))

def needs(width):
    return small()

def fails():
    raise ValueError("no weights here\\nsecond line")

def nothing():
    pass

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, helper.CLASSES)

    def forward(self, x):
        return self.fc(x.mean((2, 3)))[:len(x)]
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder with the file nets.py, a module beside it, and the package theirs."""
    (tmp_path / "nets.py").write_text(NETS)
    (tmp_path / "helper.py").write_text("CLASSES = 10")
    (tmp_path / "broken.py").write_text("import no_such_module_anywhere")
    (tmp_path / "theirs_for_lenses.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in ("helper", "theirs_for_lenses"):
        sys.modules.pop(name, None)
    assert str(tmp_path) not in sys.path


def drawn(make):
    with initialise_with("sources"):
        net = make()
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.running_mean, 0, 0.3), nn.init.uniform_(module.running_var, 0.5, 2)
    return net.eval()


def pixels(count=4, data=CIFAR):
    return torch.rand(count, *data.shape, generator=generator("pixels", *data.shape))


@pytest.mark.parametrize("source", ["nets.py:small", "theirs_for_lenses:small", "nets.py:Net", "theirs_for_lenses:Net"])
def test_functions_and_classes_of_files_and_modules(source):
    subject = load(source, data=CIFAR, normaliser="cifar10")
    assert subject.name == source.partition(":")[2] and subject.net(pixels()).shape == (4, 10) and subject.layers


def test_a_network_of_a_package_with_weights(folder):
    made = drawn(lambda: models.resnet18(num_classes=1000))
    torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in made.state_dict().items()}}, "weights.pt")
    save_file(made.state_dict(), "weights.safetensors")
    data, x = Data("imagenet", size=64), pixels(2, Data("imagenet", size=64))
    for file in ("weights.pt", folder / "weights.safetensors"):
        subject = load("torchvision.models:resnet18", weights=file, data=data, normaliser="none", name="theirs")
        assert subject.name == "theirs" and torch.equal(subject.net(x), made(x))


def their_names(net, kind):
    """The weights of one of our networks under the names of RobustBench's."""
    pairs = {"ResNet": (("stem.0", "conv1"), ("stem.1", "bn1"), ("head.2", "linear"), ("shortcut.conv", "shortcut.0"),
                        ("shortcut.bn", "shortcut.1")),
             "PreAct": (("stem", "conv1"), ("head.0", "bn"), ("head.4", "linear"), ("shortcut.conv", "shortcut.0")),
             "Wide": (("stem", "conv1"), ("head.0", "bn1"), ("head.4", "fc"), ("shortcut.conv", "convShortcut"),
                      ("layer1", "block1.layer"), ("layer2", "block2.layer"), ("layer3", "block3.layer"))}[kind]
    out = {}
    for name, tensor in net.state_dict().items():
        if not name.startswith("normalise."):
            for ours, theirs in pairs:
                name = name.replace(ours, theirs)
            out[name] = tensor
    return out


@pytest.mark.parametrize("kind, arch", [("ResNet", ResNet(16, (1, 2))), ("PreAct", PreActResNet(16, (2, 1))),
                                        ("Wide", WideResNet(16, 2))])
@pytest.mark.parametrize("prefix", ["", "module.", "model."])
def test_weights_in_a_known_layout_tell_their_network(kind, arch, prefix):
    net, x = drawn(lambda: network(arch, CIFAR.shape, 10)), pixels()
    tensors = {prefix + name: tensor for name, tensor in their_names(net, kind).items()}
    torch.save({"state_dict": tensors}, "theirs.pt")
    net.normalise.mean.fill_(0.4), net.normalise.std.fill_(0.2)
    subject = load("theirs.pt", data=CIFAR, normaliser=(0.4, 0.2))
    assert subject.name == "theirs" and len(subject.layers) > 5 and torch.allclose(subject.net(x), net(x), atol=1e-5)
    tensors |= {prefix + "mu": torch.full((1, 3, 1, 1), 0.4), prefix + "sigma": torch.full((1, 3, 1, 1), 0.2)}
    torch.save(tensors, "own.pt")
    assert torch.equal(load("own.pt", data=CIFAR, normaliser="inside").net(x), subject.net(x))
    with pytest.raises(SettingsError, match="normaliser = None"):
        load("own.pt", data=CIFAR)


def test_the_first_block_that_trades_makes_twice_is_ignored():
    net, x = drawn(lambda: network(WideResNet(10, 1), CIFAR.shape, 10)), pixels()
    tensors = their_names(net, "Wide")
    tensors |= {"sub_" + name: torch.ones(1) for name in tensors if name.startswith("block1")}
    torch.save(tensors, "trades.pt")
    assert torch.equal(load("trades.pt", data=CIFAR, normaliser="quarter").net(x), net(x))


def test_without_a_last_norm_the_shortcut_takes_the_blocks_own_input():
    net, x = drawn(lambda: network(PreActResNet(16, (2, 1)), CIFAR.shape, 10)), pixels()
    torch.save({k: v for k, v in their_names(net, "PreAct").items() if not k.startswith("bn.")}, "older.pt")
    found = load("older.pt", data=CIFAR, normaliser="quarter").net(x)

    def through(block, x):
        inner = block.conv2(block.bn2(block.conv1(block.bn1(x).relu())).relu())
        return inner + (x if block.shortcut is None else block.shortcut(x))

    out = net.stem(net.normalise(x))
    for stage in net.stages.values():
        out = through(stage, out) if isinstance(stage, PreActBlock) else out
    assert torch.allclose(found, net.head[4](out.mean((2, 3))), atol=1e-5)


@pytest.mark.parametrize("name, make, size", [("18", models.resnet18, 64),
                                              pytest.param("50", models.resnet50, 64, marks=pytest.mark.slow)])
def test_torchvisions_layout(name, make, size):
    made, data = drawn(lambda: make(num_classes=10)), Data("imagenette", size=size)
    save_file(made.state_dict(), f"{name}.safetensors")
    x = pixels(2, data)
    subject = load(f"{name}.safetensors", data=data, normaliser="imagenet")
    mean, std = (torch.tensor(numbers).view(3, 1, 1) for numbers in NORMALISERS["imagenet"])
    assert torch.allclose(subject.net(x), made((x - mean) / std), atol=1e-4)


def test_robustbench_by_name(folder, monkeypatch):
    with pytest.raises(SettingsError, match="robustbench:Wong2020Fast.*unless the package robustbench is installed"):
        load("robustbench:Wong2020Fast", data=CIFAR, normaliser="inside")
    (folder / "robustbench").mkdir()
    (folder / "robustbench" / "__init__.py").write_text("")
    (folder / "robustbench" / "utils.py").write_text(
        "from torch import nn\n"
        "def load_model(model_name, dataset, threat_model):\n"
        "    assert (model_name, dataset, threat_model) == ('Wong2020Fast', 'cifar10', 'Linf')\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))\n")
    monkeypatch.syspath_prepend(folder)
    assert load("robustbench:Wong2020Fast", data=CIFAR, normaliser="inside").name == "Wong2020Fast"
    monkeypatch.undo()
    for name in ("robustbench", "robustbench.utils"):
        sys.modules.pop(name, None)


class Unsafe:
    def __reduce__(self):
        return print, ("unpickled",)


@pytest.mark.parametrize("source, weights, words", [
    ("nets", None, ["source = nets", "FILE.py:function"]),
    ("missing.pt", None, ["source = missing.pt", "a file of weights"]),
    ("missing.py:small", None, ["source = missing.py:small", "an existing file"]),
    ("nets.py:smal", None, ["unknown function in nets.py 'smal'", "did you mean 'small'"]),
    ("no_such_module_anywhere:net", None, ["source = no_such", "ModuleNotFoundError"]),
    ("broken.py:net", None, ["source = broken.py:net", "no_such_module_anywhere"]),
    ("nets.py:needs", None, ["source = nets.py:needs", "without arguments", "width"]),
    ("nets.py:fails", None, ["source = nets.py:fails", "ValueError: no weights here"]),
    ("nets.py:nothing", None, ["net = NoneType", "a torch.nn.Module"]),
    ("nets.py:nothing", "ours.pt", ["what nets.py:nothing gives = NoneType"]),
    ("nets.py:small", "missing.pt", ["weights file = missing.pt", "an existing file"]),
    ("nets.py:small", "other keys.pt", ["weights file = other keys.pt", "with the tensor 1.weight and 1 more"]),
    ("nets.py:small", "more keys.pt", ["weights file = more keys.pt", "without the tensor 2.bias"]),
    ("nets.py:small", "shapes.pt", ["weights file = shapes.pt", "1.weight of shape (10, 3072); here it is (9, 3072)"]),
    ("nets.py:small", "unsafe.pt", ["weights file = unsafe.pt", "torch reads no tensors in it", "a print"]),
    ("nets.py:small", "text.pt", ["weights file = text.pt", "torch reads no tensors in it"]),
    ("nets.py:small", "text.safetensors", ["weights file = text.safetensors", "torch reads no tensors in it"]),
    ("other keys.pt", None, ["weights file = other keys.pt", "of a ResNet, PreActResNet or WideResNet", "it has a"]),
    ("ours.pt", "ours.pt", ["weights = ours.pt", "left out"]),
])
def test_what_is_no_source_is_refused_in_one_sentence(source, weights, words, capsys):
    good = {"1.weight": torch.zeros(10, 3072), "1.bias": torch.zeros(10)}
    contents = {"ours": good, "other keys": {"a": torch.ones(1)}, "more keys": {**good, "2.bias": good["1.bias"]},
                "shapes": {**good, "1.weight": torch.zeros(9, 3072)}, "unsafe": {"1.weight": Unsafe()}}
    for file, content in contents.items():
        torch.save(content, f"{file}.pt")
    for file in ("text.pt", "text.safetensors"):
        with open(file, "w") as text:
            text.write("no weights")
    with pytest.raises(SettingsError) as error:
        load(source, data=CIFAR, normaliser="inside", weights=weights)
    text = str(error.value)
    assert "\n" not in text and all(word in text for word in words), text
    assert "unpickled" not in capsys.readouterr().out
