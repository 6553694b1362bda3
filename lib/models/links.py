"""Which layers of a network read the output of which, found by tracing: needed to prune channels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import fx, nn

from lib.modes import evaluating


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
    """The links of every convolution and linear layer, by name. An operation that is not a module (such as a sum) ends
    a link, so a network with unknown parts has fewer links, not wrong ones.
    """
    prunable, nodes = layers(net), list(_Tracer().trace(net).nodes)
    named = {node.target: node for node in nodes if node.op == "call_module"}
    found = {}
    for name in prunable:
        source = _origin(named[name].args[0], prunable)
        readers = list(_readers(named[name], prunable, ()))
        reader, between = readers[0] if len(readers) == 1 else (None, ())
        found[name] = Link(source.name, source.target if source.target in prunable else None,
                           source.op == "placeholder", reader, between if reader else ())
    return found


def _origin(node: fx.Node, prunable) -> fx.Node:
    """The node that produced the channels of `node`."""
    while node.op == "call_module" and node.target not in prunable:
        node = node.args[0]
    return node


def _readers(node: fx.Node, prunable, between: tuple[str, ...]) -> Iterator[tuple[str | None, tuple[str, ...]]]:
    """(layer, modules in between) for everything that reads the channels of `node`; None for what is not a layer."""
    for user in node.users:
        if user.op != "call_module":
            yield None, ()
        elif user.target in prunable:
            yield user.target, between
        else:
            yield from _readers(user, prunable, (*between, user.target))


def positions(net: nn.Module, image_shape: tuple[int, int, int]) -> dict[str, int]:
    """At how many places of one image [C, H, W] each layer is applied: the pixels of a convolution's output, 1 for
    linear layers. The mode of `net` does not change.
    """
    counts, handles = {}, []
    for name, layer in layers(net).items():
        def note(module, inputs, output, name=name):
            counts[name] = output[0, 0].numel() if output.dim() == 4 else 1

        handles.append(layer.register_forward_hook(note))
    like = next(net.parameters())
    with torch.no_grad(), evaluating(net):
        net(torch.zeros(1, *image_shape, device=like.device, dtype=like.dtype))
    for handle in handles:
        handle.remove()
    return counts
