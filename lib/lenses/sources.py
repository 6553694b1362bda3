"""Where subjects come from: a function in a file or a package, RobustBench's models by name, or a file of weights whose
names of tensors tell the network.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from lib.door import in_own_state
from lib.errors import SettingsError, impossible, need, unknown
from lib.lenses.subject import INSIDE, Numbers, Subject, normaliser_of
from lib.models import load_resnet, network
from lib.models.external import check_tensors, read_tensors
from lib.models.resnet import PreActBlock
from lib.models.staged import Normalise
from lib.runtime import initialise_with
from lib.values.architectures import FromScratch, ImageNetResNet, PreActResNet, ResNet, WideResNet
from lib.values.data import Data
from lib.values.keys import digest

ROBUSTBENCH = "robustbench"
PREFIX = r"^(?:(?:module|model)\.)+"
COPIES = "sub_block1."  # the code of TRADES makes the first block a second time, without using it
KINDS = (f"FILE.py:function, package.module:function, {ROBUSTBENCH}:NAME, or a file of weights of a ResNet, "
         "PreActResNet or WideResNet")
# Names of tensors in RobustBench's networks -> in ours.
WIDE = ((r"^conv1\.", "stem."), (r"^block(\d)\.layer\.", r"layer\1."), (r"\.convShortcut\.", ".shortcut.conv."),
        (r"^bn1\.", "head.0."), (r"^fc\.", "head.4."))
PREACT = ((r"^conv1\.", "stem."), (r"\.shortcut\.0\.", ".shortcut.conv."), (r"^bn\.", "head.0."),
          (r"^linear\.", "head.4."))
NORMALISER = {"mean": ("mean", "mu"), "std": ("std", "sigma")}


@in_own_state
def load(source: str, *, data: Data, normaliser: str | tuple[Numbers, Numbers] | Normalise | None = None,
         weights: Path | str | None = None, name: str | None = None, **options) -> Subject:
    """The subject of a source; see `Subject.wrap` for the other arguments.

    source: `FILE.py:function` or `package.module:function`, a function (or class) that is called without arguments and
    gives a network; `robustbench:NAME`, a model of RobustBench for this data set and l_inf, if the user has installed
    RobustBench, which may download it; or a file of weights in the layout of RobustBench's ResNet-18, PreActResNet-18
    and WideResNets, of pytorch-cifar's, or of torchvision's and timm's ResNet-18 and ResNet-50. weights: a file whose
    tensors the function's network gets: safetensors or torch.save, of which only tensors are unpickled. With "inside",
    the network of a file of weights has the file's own normaliser, or none if it holds none. name: None: the source's
    last part.

    Raises SettingsError for a source or weights that do not exist or do not fit, and as `Subject.wrap` does.
    """
    place, _, function = str(source).rpartition(":")
    if place and not Path(source).exists():
        net = _of_robustbench(function, data) if place == ROBUSTBENCH else _called(source, place, function)
        if weights is not None:
            need(isinstance(net, nn.Module), f"what {source} gives", type(net).__name__, "a torch.nn.Module")
            _fill(net, Path(weights))
        return Subject.wrap(net, data=data, normaliser=normaliser, name=name or function, **options)
    need(Path(source).is_file(), "source", source, KINDS)
    need(weights is None, "weights", weights, "left out if the source is a file of weights itself")
    net = of_weights(Path(source), data, normaliser)
    return Subject.wrap(net, data=data, normaliser=normaliser and INSIDE, name=name or Path(source).stem, **options)


def of_weights(path: Path, data: Data, normaliser: str | tuple[Numbers, Numbers] | Normalise | None) -> nn.Module:
    """The network, with its normaliser, of a file of weights in one of the layouts that `load` names. Raises
    SettingsError for other files.
    """
    chosen = None if normaliser is None else normaliser_of(normaliser, data.shape[0])
    tensors = {re.sub(PREFIX, "", name): tensor for name, tensor in read_tensors(path, advise=True).items()}
    if "block1.layer.0.conv1.weight" in tensors:
        blocks, widen = _count(tensors, "block1.layer."), len(tensors["block1.layer.0.conv1.weight"]) // 16
        return _renamed(path, tensors, WideResNet(6 * blocks + 4, max(1, widen)), WIDE, data, chosen)
    need("layer1.0.conv1.weight" in tensors and "conv1.weight" in tensors, "weights file", path, "one with the tensors "
         f"of a ResNet, PreActResNet or WideResNet (it has {next(iter(tensors))}); else give the function that makes "
         "its network as the source, and the file as weights")
    counts = tuple(_count(tensors, f"layer{k}.") for k in range(1, 1 + _count(tensors, "layer")))
    width, bottlenecks = len(tensors["conv1.weight"]), "layer1.0.conv3.weight" in tensors
    if "bn1.weight" not in tensors:
        need(not bottlenecks, "weights file", path, "one of a PreActResNet without bottlenecks")
        return _renamed(path, tensors, PreActResNet(width, counts), PREACT, data, chosen)
    if tensors["conv1.weight"].shape[-1] == 7:
        arch = ImageNetResNet(50 if bottlenecks else 18, width)
        need(counts == arch.blocks, "weights file", path, f"one of a ResNet-18 or a ResNet-50, not with {counts} "
             "blocks: give the function that makes its network as the source, and the file as weights")
    else:
        need(not bottlenecks, "weights file", path, "one of a ResNet without bottlenecks where the stem is 3x3")
        arch = ResNet(width, counts)
    numbers = None if chosen is None else (chosen.mean.flatten(), chosen.std.flatten())
    return load_resnet(path, arch, data.info.classes, data.shape, normaliser=numbers)


class ShortcutOfSum(PreActBlock):
    """The block of RobustBench's PreActResNet without a last BN, whose 1x1 convolution takes the block's input itself,
    before BN and ReLU.
    """

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv2(self.relu2(self.bn2(self.conv1(self.relu1(self.bn1(x))))))
        return out + (x if self.shortcut is None else self.shortcut(x))


def _renamed(path: Path, tensors: Mapping[str, Tensor], arch: FromScratch, names: Sequence[tuple[str, str]], data: Data,
             normaliser: Normalise | None) -> nn.Module:
    """Our network of `arch` with these tensors. A PreActResNet without a last BN gets the blocks that belong to it."""
    given = {name: tensor for name, tensor in tensors.items() if not name.startswith(COPIES)}
    own = {which: next((given.pop(name) for name in known if name in given), None)
           for which, known in NORMALISER.items()}
    if normaliser is None:
        mean, std = own["mean"], own["std"]
        normaliser = normaliser_of((0.0 if mean is None else mean, 1.0 if std is None else std), data.shape[0])
    arch.check(*data.shape[1:])
    with initialise_with("external"):
        net = network(arch, data.shape, data.info.classes)
    if names is PREACT and "bn.weight" not in given:
        names = (*PREACT[:-1], (r"^linear\.", "head.2."))
        net.head = nn.Sequential(*net.head[2:])
        for module in net.modules():
            if type(module) is PreActBlock:
                module.__class__ = ShortcutOfSum
    for pattern, ours in names:
        given = {re.sub(pattern, ours, name): tensor for name, tensor in given.items()}
    net.normalise = normaliser
    check_tensors(path, given, {k: v for k, v in net.state_dict().items() if not k.startswith("normalise.")})
    net.load_state_dict(given, strict=False)
    return net.eval()


def _count(tensors: Mapping[str, Tensor], start: str) -> int:
    """How many numbers follow `start` in the names of tensors."""
    return len({found[1] for name in tensors if (found := re.match(rf"{re.escape(start)}(\d+)\.", name))})


def _fill(net: nn.Module, path: Path) -> None:
    """Load the tensors of a file into a network. Raises SettingsError unless they are the network's."""
    given, wanted = dict(read_tensors(path, advise=True)), net.state_dict()
    if not given.keys() <= wanted.keys():
        given = {re.sub(PREFIX, "", name): tensor for name, tensor in given.items()}
    check_tensors(path, given, wanted)
    net.load_state_dict(given, strict=False)


# ------------------------------------------------------------------------------------------------------- functions


def _called(source: str, place: str, function: str) -> nn.Module:
    """What a function of a file or module gives. Raises SettingsError if there is no such function, or if it fails."""
    with _searched(Path(place).resolve().parent if place.endswith(".py") else Path.cwd()):
        module = _imported(source, place)
        known = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        if function not in known:
            raise unknown(f"function in {place}", function, known)
        return _given(source, getattr(module, function))


def _given(source: str, function: Callable[[], nn.Module]) -> nn.Module:
    try:
        return function()
    except Exception as error:  # it is somebody else's code
        raise impossible("source", source, "a function that is called without arguments and gives a network "
                         f"({_reason(error)})") from None


def _imported(source: str, place: str):
    """The module of a file or of a dotted name."""
    try:
        if not place.endswith(".py"):
            return importlib.import_module(place)
        path = Path(place).resolve()
        need(path.is_file(), "source", source, "an existing file and a function in it, FILE.py:function")
        name = f"subject_{digest([str(path), path.read_text(encoding='utf-8')])}"
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        return module
    except SettingsError:
        raise
    except Exception as error:  # it is somebody else's code
        raise impossible("source", source, f"code that can be imported ({_reason(error)})") from None


@contextlib.contextmanager
def _searched(folder: Path) -> Iterator[None]:
    """Inside the block modules are also looked for in `folder`."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(str(folder))


def _of_robustbench(name: str, data: Data) -> nn.Module:
    installed = importlib.util.find_spec(ROBUSTBENCH) is not None
    need(installed, "source", f"{ROBUSTBENCH}:{name}", f"one of the others ({KINDS}) unless the package {ROBUSTBENCH} "
         "is installed")
    load_model = importlib.import_module(f"{ROBUSTBENCH}.utils").load_model
    return _given(f"{ROBUSTBENCH}:{name}", lambda: load_model(name, dataset=data.name, threat_model="Linf"))


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().split(chr(10))[0]}"
