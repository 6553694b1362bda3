"""Which layers of a network read the output of which, found by tracing: needed to prune channels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import fx, nn

from lib.errors import impossible
from lib.models.resnet import EverySecond
from lib.models.staged import Normalise, device_of, precision_of
from lib.modes import evaluating

# What gives every channel from the same channel of its input, and nothing else.
CHANNEL_BY_CHANNEL = (
    nn.Identity, nn.BatchNorm2d, nn.InstanceNorm2d, Normalise, EverySecond, nn.Flatten, nn.Dropout, nn.Dropout2d,
    nn.MaxPool2d, nn.AvgPool2d, nn.LPPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.ZeroPad2d,
    nn.ReflectionPad2d, nn.ReplicationPad2d, nn.Upsample, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU,
    nn.GELU, nn.SiLU, nn.Mish, nn.Softplus, nn.Hardswish, nn.Hardtanh, nn.Hardsigmoid, nn.Tanh, nn.Sigmoid)


@dataclass(frozen=True)
class Link:
    """What a convolution or linear layer reads and which layer reads it, by module names.

    source: the same value for all layers that read the same tensor (up to operations on single channels). producer: the
    layer whose outputs it reads, None for a sum of several. images: whether it reads the images. reader: the one layer
    that reads its outputs, None if a sum, several layers or none read them. between: the modules from here to `reader`.
    """

    source: str
    producer: str | None
    images: bool
    reader: str | None
    between: tuple[str, ...]


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, name: str) -> bool:
        return not list(m.children())


def layers(net: nn.Module) -> dict[str, nn.Module]:
    """The convolutions and linear layers of a network by name, in the order of its modules."""
    return {name: m for name, m in net.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))}


def links(net: nn.Module) -> dict[str, Link]:
    """The links of every convolution and linear layer, by name. An operation that is not a module (such as a sum), a
    module that mixes channels and a module that is called more than once end a link, so a network with unknown parts
    has fewer links, not wrong ones. Raises SettingsError for a network that torch.fx cannot trace.
    """
    try:
        nodes = list(_Tracer().trace(net).nodes)
    except Exception as error:  # whatever the network does with a stand-in for its images
        reason = str(error).strip().split("\n")[0]
        raise impossible("network", type(net).__name__, "one that runs the same operations for all images, so that "
                         f"torch.fx can trace them ({reason})") from None
    named: dict[str, list[fx.Node]] = {}
    for node in nodes:
        if node.op == "call_module":
            named.setdefault(node.target, []).append(node)
    once = {name for name, calls in named.items() if len(calls) == 1}
    passing = {name for name in once if type(net.get_submodule(name)) in CHANNEL_BY_CHANNEL}
    prunable, found = layers(net), {}
    for name in prunable:
        if name not in named:
            found[name] = Link(name, None, False, None, ())  # it never runs
            continue
        node = named[name][0]
        source = node.args[0] if name in once else node
        while source.op == "call_module" and source.target in passing:
            source = source.args[0]
        readers = list(_readers(node, prunable, once, passing, ())) if name in once else []
        reader, between = readers[0] if len(readers) == 1 else (None, ())
        producer = source.target if source.target in once & prunable.keys() and source is not node else None
        found[name] = Link(source.name, producer, source.op == "placeholder", reader, between if reader else ())
    return found


def _readers(node: fx.Node, prunable, once: set[str], passing: set[str],
             between: tuple[str, ...]) -> Iterator[tuple[str | None, tuple[str, ...]]]:
    """(layer, modules in between) for all that reads the channels of `node`; None where it is no layer, or one that
    reads others too.
    """
    for user in node.users:
        if user.op == "call_module" and user.target in prunable:
            yield (user.target, between) if user.target in once else (None, ())
        elif user.op == "call_module" and user.target in passing:
            yield from _readers(user, prunable, once, passing, (*between, user.target))
        else:
            yield None, ()


def positions(net: nn.Module, image_shape: tuple[int, int, int]) -> dict[str, int]:
    """At how many places of one image [C, H, W] each layer is applied: the pixels of a convolution's output, 1 for
    linear layers. The mode of `net` does not change.
    """
    counts, handles = {}, []
    for name, layer in layers(net).items():
        def note(module, inputs, output, name=name):
            counts[name] = output[0, 0].numel() if output.dim() == 4 else 1

        handles.append(layer.register_forward_hook(note))
    with torch.no_grad(), evaluating(net):
        net(torch.zeros(1, *image_shape, device=device_of(net), dtype=precision_of(net)))
    for handle in handles:
        handle.remove()
    return counts
