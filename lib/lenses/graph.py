"""The graph of a network, traced by torch.fx and changed so that it can be cut wherever one tensor carries everything.

What depends only on the shape of the images is no data: the trace is run on batches of two and of three images, values
that are the same in both become constants, and multiples of the size of the batch are taken from the tensor at the cut.
Nothing works in place, since a front or an end would overwrite what it is given.
"""

from __future__ import annotations

import contextlib
import inspect
import operator
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from lib.errors import unknown
from lib.models.flops import FlopCounter

PIXELS = "pixels_as_the_network_takes_them"  # the normaliser's name in a traced network
MARKS = "marked_layers"  # the modules that stand after the layers of `Traced.marked`
ROUNDING = 1e-6  # of the largest logit: a trace that differs by more computes something else


class Untraceable(Exception):
    """torch.fx cannot follow the network; the message says where it stopped."""


@dataclass(frozen=True, eq=False)
class Traced:
    """A network as a graph. whole: maps images [B, C, H, W] in [0, 1] to logits. shapes: layer -> the shape of its
    tensor for one image, in the order of computation. A layer is a node through which everything passes; networks that
    cut images into windows have more than one row for an image.
    """

    whole: fx.GraphModule
    shapes: dict[str, tuple[int, ...]]

    def cut(self, layer: str) -> tuple[fx.GraphModule, fx.GraphModule]:
        """The front, from images to the tensor of `layer`, and the end, from there to logits. They share their weights
        with `whole`. Raises SettingsError for an unknown layer.
        """
        self.check([layer])
        nodes = list(self.whole.graph.nodes)
        place = next(k for k, node in enumerate(nodes) if node.name == layer)
        data, graph = _depend_on_images(nodes), fx.Graph()
        given = graph.placeholder("activations")
        rows = graph.call_method("size", (given, 0))
        made = {nodes[place]: given}
        for k, node in enumerate(nodes):
            if _counts_images(node):
                made[node] = graph.call_function(operator.floordiv, (rows, self.shapes[layer][0]))
            elif node not in made and (k > place or node not in data):
                made[node] = graph.node_copy(node, made.__getitem__)
        return self._upto([layer], lambda found: found[0]), _module(self.whole, graph)

    def tap(self, layers: Sequence[str]) -> fx.GraphModule:
        """A network from images to the tensors of `layers`, as a tuple in their order. Raises SettingsError for an
        unknown layer.
        """
        self.check(layers)
        return self._upto(layers, tuple)

    def _upto(self, layers: Sequence[str], of: Callable[[list[fx.Node]], Any]) -> fx.GraphModule:
        graph, made = fx.Graph(), {}
        for node in self.whole.graph.nodes:
            if node.op != "output":
                made[node] = graph.node_copy(node, made.__getitem__)
        named = {node.name: copy for node, copy in made.items()}
        graph.output(of([named[layer] for layer in layers]))
        return _module(self.whole, graph)

    def marked(self, layers: Sequence[str]) -> tuple[fx.GraphModule, tuple[str, ...]]:
        """The whole network with a module that changes nothing after each of `layers`, to be hooked, and the names of
        these modules. Raises SettingsError for an unknown layer.
        """
        self.check(layers)
        graph, made, root = fx.Graph(), {}, {}
        for node in self.whole.graph.nodes:
            made[node] = graph.node_copy(node, made.__getitem__)
            if node.op in ("call_module", "get_attr"):
                root[node.target] = operator.attrgetter(node.target)(self.whole)
            if node.name in layers:
                root[f"{MARKS}.{node.name}"] = nn.Identity()
                made[node] = graph.call_module(f"{MARKS}.{node.name}", (made[node],))
        return _module(root, graph), tuple(f"{MARKS}.{layer}" for layer in layers)

    def flops(self, images: Tensor) -> dict[str, float]:
        """layer -> the share, in [0, 1], of the floating-point operations of a forward pass that are done up to it."""
        counts: dict[str, int] = {}

        class Counted(fx.Interpreter):
            def run_node(self, node):
                out = super().run_node(node)
                counts[node.name] = counter.total
                return out

        with torch.no_grad(), FlopCounter() as counter:
            Counted(self.whole).run(images)
        return {layer: counts[layer] / max(1, counter.total) for layer in self.shapes}

    def check(self, layers: Sequence[str]) -> None:
        """Raise SettingsError for an unknown layer."""
        for layer in layers:
            if layer not in self.shapes:
                raise unknown("layer", layer, self.shapes)


def traced(net: nn.Module, normalise: nn.Module | None, images: Tensor, leaves: Sequence[type[nn.Module]] = ()
           ) -> Traced:
    """The graph of `net`, which is in eval mode, after `normalise` (None: nothing). `net` is taken over and changed, so
    give a copy. images: [B, C, H, W] with B >= 3, on which the graph is tried. leaves: classes of modules that are not
    looked into, in addition to torch's own.

    Raises Untraceable for a network whose way through its code depends on the images, and for a graph that computes
    something else than the network.
    """
    with torch.no_grad():
        wanted = net((normalise or nn.Identity())(images.clone()))
    graph = _graph(net, leaves)
    given = next(node for node in graph.nodes if node.op == "placeholder")
    if normalise is not None:
        net.add_module(PIXELS, normalise)
        with graph.inserting_after(given):
            pixels = graph.call_module(PIXELS, (given,))
        given.replace_all_uses_with(pixels, lambda user: user is not pixels)
    _out_of_place(net, graph)
    _in_any_layout(graph)
    small, large = (_values(net, graph, images[:count]) for count in (2, 3))
    _fix_sizes(graph, given, small, large)
    whole = _module(net, graph)
    with torch.no_grad():
        found = whole(images.clone())
    if not torch.allclose(found, wanted, rtol=0, atol=ROUNDING * float(wanted.abs().max())):
        raise Untraceable("its graph gives other logits than the network itself")
    shapes = {}
    for node in _alone(list(graph.nodes)):
        one, other = small[node], large[node]
        if torch.is_tensor(one) and one.dim() > 1 and one.shape[1:] == other.shape[1:] and node.name != PIXELS:
            rows = len(other) - len(one)
            if rows > 0 and len(one) == 2 * rows:
                shapes[node.name] = (rows, *one.shape[1:])
    return Traced(whole, shapes)


class _Tracer(fx.Tracer):
    def __init__(self, leaves: Sequence[type[nn.Module]]):
        super().__init__()
        self.leaves = tuple(leaves)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, self.leaves) or super().is_leaf_module(m, module_qualified_name)


def _graph(net: nn.Module, leaves: Sequence[type[nn.Module]]) -> fx.Graph:
    """The graph as torch.fx finds it; arguments of `forward` with a default keep it. The modes of `net` stay."""
    others = list(inspect.signature(net.forward).parameters.values())[1:]
    fixed = {one.name: one.default for one in others if one.default is not inspect.Parameter.empty}
    try:
        with _counting(net):
            return _Tracer(leaves).trace(net, fixed or None)
    except Exception as error:  # whatever somebody else's code does with a stand-in for a tensor
        raise Untraceable(_first_line(error)) from None
    finally:
        net.eval()  # a failed trace may leave it in training mode


@contextlib.contextmanager
def _counting(net: nn.Module) -> Iterator[None]:
    """Inside the block `len` gives a node of the graph in the code of the network's classes; Python's own must give an
    integer.
    """
    def length(of):
        return of.tracer.create_proxy("call_function", len, (of,), {}) if isinstance(of, fx.Proxy) else len(of)

    names = {kind.__module__ for module in net.modules() for kind in type(module).__mro__}
    spaces = [vars(sys.modules[name]) for name in names if name in sys.modules and name.split(".")[0] != "torch"]
    spaces = [space for space in spaces if "len" not in space]
    try:
        for space in spaces:
            space["len"] = length
        yield
    finally:
        for space in spaces:
            space.pop("len", None)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__


def _out_of_place(net: nn.Module, graph: fx.Graph) -> None:
    """Let every operation that works in place give a new tensor, which later users of the overwritten one get."""
    order, modules = {node: k for k, node in enumerate(graph.nodes)}, dict(net.named_modules())
    for node in graph.nodes:
        writes = False
        if node.op == "call_module":
            writes = getattr(modules[node.target], "inplace", False) is True
        elif node.op in ("call_function", "call_method"):
            writes = node.kwargs.get("inplace") is True
            if writes:
                node.kwargs = {**node.kwargs, "inplace": False}
            elif other := _without_underscore(node.target):
                node.target, writes = other, True
        if writes and isinstance(node.args[0], fx.Node):
            node.args[0].replace_all_uses_with(node, lambda user, k=order[node]: order[user] > k)
    for module in modules.values():
        if getattr(module, "inplace", False) is True:
            module.inplace = False


def _in_any_layout(graph: fx.Graph) -> None:
    """Let maps lie in memory channel by channel or, as where networks are measured, pixel by pixel, which `reshape`
    takes and `view` does not.
    """
    for node in graph.nodes:
        if node.op == "call_method" and node.target == "view" and not isinstance(node.args[1], torch.dtype):
            node.target = "reshape"


def _without_underscore(target: Callable | str) -> Callable | str | None:
    """The operation that does the same as `target`, such as relu_ or add_, but not in place; None for all others."""
    name = target if isinstance(target, str) else getattr(target, "__name__", "")
    if not name.endswith("_") or name.endswith("__"):
        return None
    if isinstance(target, str):
        return name[:-1] if hasattr(Tensor, name[:-1]) else None
    return getattr(torch, name[:-1], None) or getattr(F, name[:-1], None)


def _values(net: nn.Module, graph: fx.Graph, images: Tensor) -> dict[fx.Node, Any]:
    """What every node gives for these images; of tensors only the shape, as tensors without content."""
    values: dict[fx.Node, Any] = {}

    class Noted(fx.Interpreter):
        def run_node(self, node):
            out = super().run_node(node)
            values[node] = out.to("meta") if torch.is_tensor(out) else out
            return out

    try:
        with torch.no_grad():
            Noted(fx.GraphModule(net, graph)).run(images.clone())
    except Exception as error:
        raise Untraceable(_first_line(error)) from None
    return values


def _fix_sizes(graph: fx.Graph, images: fx.Node, small: dict[fx.Node, Any], large: dict[fx.Node, Any]) -> None:
    """Replace what depends only on shapes, by constants or by multiples of the number of images. small, large: the
    values for two and for three images.
    """
    with graph.inserting_after(images):
        count = graph.call_method("size", (images, 0))
    multiples = {1: count}

    def at_any(one, other):
        """The value for any number of images; raises LookupError where it is unclear."""
        if isinstance(one, (tuple, list)) and isinstance(other, type(one)) and len(one) == len(other):
            return tuple(at_any(*pair) for pair in zip(one, other, strict=True))
        if torch.is_tensor(one) or type(one) is not type(other):
            raise LookupError
        if one == other:
            return one
        times = other - one if isinstance(one, int) else 0
        if times <= 0 or one != 2 * times:
            raise LookupError
        if times not in multiples:
            with graph.inserting_after(count):
                multiples[times] = graph.call_function(operator.mul, (count, times))
        return multiples[times]

    free = {count}
    for node in list(graph.nodes):
        if node in (images, count) or node.op == "output":
            continue
        if _reads_shape(node) or free.issuperset(node.all_input_nodes):
            free.add(node)
            try:
                value = at_any(small[node], large[node])
            except LookupError:
                continue
            free.update(multiples.values())
            for user in list(node.users):
                user.args, user.kwargs = (
                    fx.map_arg(given, lambda one, node=node, value=value: value if one is node else one)
                    for given in (user.args, user.kwargs))
            graph.erase_node(node)


SHAPES = (len, "shape", "ndim", "dtype", "device", "is_cuda", "size", "dim", "ndimension", "numel",
          "is_floating_point", "is_contiguous", "get_device")


def _reads_shape(node: fx.Node) -> bool:
    """Whether a node asks a tensor for its shape or type."""
    asked = node.args[1] if node.target is getattr else node.target
    return asked in SHAPES


def _counts_images(node: fx.Node) -> bool:
    return node.target == "size" and node.args[0].op == "placeholder"


def _depend_on_images(nodes: Sequence[fx.Node]) -> set[fx.Node]:
    """The nodes whose value depends on the images, not only on how many there are."""
    found: set[fx.Node] = set()
    for node in nodes:
        if not _counts_images(node) and (node.op == "placeholder" or found.intersection(node.all_input_nodes)):
            found.add(node)
    return found


def _alone(nodes: Sequence[fx.Node]) -> list[fx.Node]:
    """The nodes after which nothing else that depends on the images is needed."""
    data, order = _depend_on_images(nodes), {node: k for k, node in enumerate(nodes)}
    last = {node: max((order[user] for user in node.users if user in data), default=-1) for node in data}
    found, alive = [], set()
    for k, node in enumerate(nodes):
        alive = {one for one in alive if last[one] > k} | ({node} if last.get(node, -1) > k else set())
        if alive == {node} and node.op != "placeholder":
            found.append(node)
    return found


def _module(root: nn.Module | dict, graph: fx.Graph) -> fx.GraphModule:
    made = fx.GraphModule(root, graph)
    graph.eliminate_dead_code()
    graph.lint()
    made.recompile()
    made.delete_all_unused_submodules()
    return made.eval()
