"""Taps: the outputs of a network's layers, named by module and call, and read while a forward pass runs.

A tap is identified by (module, call number) and read when the module returns. A hook that keeps the output for later
sees it after an in-place ReLU has changed it, and a single entry per module confuses the calls of a module that is used
twice; the similarity paper's code does both.
"""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from lib.errors import is_number, need, unknown
from lib.models.staged import Staged, dry_run

ACTIVATIONS = (nn.ReLU, nn.GELU, nn.Softplus)
KINDS = (nn.Conv2d, nn.BatchNorm2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.Linear, nn.LayerNorm, *ACTIVATIONS)
CHOICES = ("all", "relu", "stages")


@dataclass(frozen=True)
class Tap:
    """The output of module `name` (qualified) at call number `call` (from 0) of a forward pass.

    kind: the module's class. stage: the stage of `lib.models.Staged` that contains it (in other networks the outermost
    module), "" if there is none.
    """

    name: str
    call: int = 0
    kind: str = ""
    stage: str = ""

    @property
    def label(self) -> str:
        """The name, followed by the number of the call from the second call on: `relu`, `relu#1`."""
        return f"{self.name}#{self.call}" if self.call else self.name


@dataclass(frozen=True)
class _Run:
    """The result of a dry run: every layer and stage in the order in which they returned."""

    layers: tuple[Tap, ...]
    rectified: tuple[Tap, ...]
    stages: tuple[Tap, ...]
    either: tuple[Tap, ...]  # layers and stages; some are both
    relu_of: dict[Tap, Tap]  # layer -> the ReLU that directly takes its output


def taps(net: nn.Module, shape: tuple[int, int, int], layers: str | float | Sequence[str] = "all") -> tuple[Tap, ...]:
    """The taps of `net` for images of `shape` [C, H, W] in the order of execution, found by one dry run.

    layers: "all", every output of a convolution, BN, ReLU, average pooling or linear layer (and of LayerNorm, GELU and
    softplus), which are the layers in the similarity paper's code: 80 for WRN-28-k, 79 for k = 1; "relu", the outputs
    of ReLU, GELU and softplus; "stages", the outputs of the stages, where residual sums and the joints of stitching
    are; a number in (0, 1], that share of "all", evenly spaced; or labels of layers or stages. Raises SettingsError for
    anything else.
    """
    run = _observed(net, shape)
    if isinstance(layers, str):
        if layers not in CHOICES:
            raise unknown("choice of layers", layers, CHOICES)
        found = {"all": run.layers, "relu": run.rectified, "stages": run.stages}[layers]
    elif isinstance(layers, Sequence):
        found = _labelled(run.either, layers)
    else:
        need(is_number(layers, 0, 1) and layers > 0, "layers", layers,
             f"one of {', '.join(CHOICES)}, a share in (0, 1] or a list of labels")
        count = max(1, round(layers * len(run.layers)))
        found = tuple(run.layers[int((k + 0.5) * len(run.layers) / count)] for k in range(count))
    need(len(found) > 0, "layers", layers, "a choice that names at least one layer of this network")
    return found


def as_overwritten(net: nn.Module, shape: tuple[int, int, int], wanted: Sequence[Tap]) -> tuple[Tap, ...]:
    """For each tap the tap whose output it would hold after the forward pass if every ReLU worked in place: the ReLU
    that takes its output, if there is one, else itself. In WRN-28-k, k > 1, the 80 taps then hold 55 different outputs,
    as in the similarity paper's code.
    """
    relu_of = _observed(net, shape).relu_of
    return tuple(relu_of.get(tap, tap) for tap in wanted)


@contextlib.contextmanager
def tapped(net: nn.Module, wanted: Sequence[Tap], visit: Callable[[int, Tensor], object]) -> Iterator[None]:
    """Inside the block every forward pass of `net` calls `visit(position in wanted, output)` when the module returns.

    The output [B, ...] is the network's own tensor: do not change it, and use it before `visit` returns, since a later
    in-place operation may overwrite it. Hooks are always removed at the end. Raises SettingsError for a tap of a module
    that `net` does not have.
    """
    modules = dict(net.named_modules())
    places = collections.defaultdict(dict)
    for position, tap in enumerate(wanted):
        if tap.name not in modules:
            raise unknown("layer", tap.name, (name for name in modules if name))
        places[tap.name][tap.call] = position
    calls = collections.Counter()

    def hook(name: str):
        def returned(module, given, output):
            position = places[name].get(calls[name])
            calls[name] += 1
            if position is not None:
                visit(position, output)
        return returned

    with contextlib.ExitStack() as hooks:
        hooks.callback(net.register_forward_pre_hook(lambda module, given: calls.clear()).remove)
        for name in places:
            hooks.callback(modules[name].register_forward_hook(hook(name)).remove)
        yield


def _observed(net: nn.Module, shape: tuple[int, int, int]) -> _Run:
    """One forward pass of a black image through a copy of `net`, in which every layer and stage is noted on return."""
    stages, calls = _stages(net), collections.Counter()
    layers, rectified, ends, either, relu_of = [], [], [], [], {}
    made: dict[int, tuple[Tensor, Tap]] = {}  # tensors are kept so that their ids are not used again

    def hook(name: str, stage: str):
        def returned(module, given, output):
            tap = Tap(name, calls[name], type(module).__name__, stage)
            calls[name] += 1
            either.append(tap)
            if name in stages:
                ends.append(tap)
            if not isinstance(module, KINDS):
                return
            layers.append(tap)
            if isinstance(module, ACTIVATIONS):
                rectified.append(tap)
            if isinstance(module, nn.ReLU) and given and id(given[0]) in made:
                relu_of[made[id(given[0])][1]] = tap
            made[id(output)] = (output, tap)
        return returned

    with contextlib.ExitStack() as hooks:
        for name, module in net.named_modules():
            if name and (isinstance(module, KINDS) or name in stages):
                handle = module.register_forward_hook(hook(name, _stage_of(name, stages)))
                hooks.callback(handle.remove)
        dry_run(net, shape)
    return _Run(tuple(layers), tuple(rectified), tuple(ends), tuple(either), relu_of)


def _stages(net: nn.Module, prefix: str = "") -> dict[str, str]:
    """Qualified name -> stage name: the stages of every `Staged` inside, elsewhere the outermost modules."""
    if isinstance(net, Staged):
        return {prefix + name: name for name in net.stages}
    found = {}
    for name, child in net.named_children():
        inside = any(isinstance(module, Staged) for module in child.modules())
        found |= _stages(child, f"{prefix}{name}.") if inside else {prefix + name: name}
    return found


def _stage_of(name: str, stages: dict[str, str]) -> str:
    return next((stage for full, stage in stages.items() if name == full or name.startswith(full + ".")), "")


def _labelled(known: Sequence[Tap], labels: Sequence[str]) -> tuple[Tap, ...]:
    """The taps with these labels in the order of execution. Raises SettingsError for unknown or repeated labels."""
    by_label = {tap.label: tap for tap in known}
    for label in labels:
        if label not in by_label:
            raise unknown("layer", label, by_label)
    need(len(set(labels)) == len(labels), "layers", list(labels), "labels without repetitions")
    return tuple(tap for label, tap in by_label.items() if label in set(labels))
