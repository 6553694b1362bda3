"""Pruning: which weights or channels of a network are masked, and what a pruned network costs."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import nn

from lib.errors import SettingsError, need
from lib.models import rates
from lib.models.building import derivations, network
from lib.models.links import layers, links, positions
from lib.models.masked import Masked, MaskedConv2d, MaskedLinear, dense, masked_layers
from lib.modes import copied
from lib.values.architectures import Pruned
from lib.values.recipe import Recipe


@derivations.register(Pruned)
def _pruned(recipe: Recipe, parents: Sequence[nn.Module]) -> nn.Module:
    arch, data = recipe.arch, recipe.data
    if recipe.checkpoint is not None:
        return copy.deepcopy(parents[0])
    if arch.fine_tunes(recipe):
        return fixed(parents[0])
    need(recipe.epochs > 0 or not arch.searched, "epochs", recipe.epochs, f"at least 1 to find {arch.name}")
    parent, *pattern = parents or [network(arch.of, data.shape, data.info.classes, data.info.unit)]
    return prune(parent, arch, data.shape, *pattern)


def prune(parent: nn.Module, arch: Pruned, image_shape: tuple[int, int, int],
          pattern: nn.Module | None = None) -> nn.Module:
    """A copy of `parent`, dense or already pruned, with the masks of `arch`, for images of `image_shape` [C, H, W].

    Its layers are searched if `arch` learns scores or rates, else fixed. pattern: for rates `parent`, the pruned
    network from which the share of every layer is taken. Random scores come from torch's global generator (`build`
    seeds it). Scores `filters`: a layer keeps the input channels whose filters have the largest L1 norm over their
    remaining weights; if its input is a sum of several layers, the channels of largest L1 norm in all layers that read
    the sum.

    Weights that `parent` has already lost stay removed, and counts are shares of the dense network. Raises
    SettingsError for a layer whose weights are all 0, for a pattern with other layers, and for a pruned parent that has
    fewer entries left in a layer than are to be kept, or has lost single weights where channels are to be pruned.
    """
    before = _left_of(parent, arch)
    net = dense(parent).requires_grad_(True)
    places, link = positions(net, image_shape), links(net) if arch.granularity == "channels" else {}
    chosen = {name: layer for name, layer in layers(net).items() if not link or not link[name].images}
    leaders: dict[str, Masked] = {}
    weights = {name: layer.weight.detach() for name, layer in layers(net).items()}
    for name, layer in layers(net).items():
        layer.places = places.get(name, 0)  # 0: it never runs
    for name, layer in chosen.items():
        _convert(layer, arch, _group(net, layer, link.get(name)))
        leader = leaders.setdefault(link[name].source, layer) if link else layer
        layer.leader = [leader] if leader is not layer and arch.rates == "learned" else []  # in a list: not a child
    sizes = {name: layer.gather(layer.dense_weight.detach().abs()) for name, layer in chosen.items()}
    empty = [name for name, size in sizes.items() if not size.any()]
    if empty:
        raise SettingsError(f"layer {empty[0]} cannot be pruned: all its weights are 0")
    counts = _counts(chosen, sizes, arch, pattern)
    ranked = _made_by_filters(weights, link, sizes) if arch.scores == "filters" else sizes
    for (name, layer), count in zip(chosen.items(), counts, strict=True):
        _survive(layer, name, before.get(name), count, arch)
        _score(layer, arch, ranked[name])
        if arch.rates != "learned":
            layer.register_buffer("count", torch.tensor(count))
        elif not layer.leader:
            share = float(arch.start_share) if arch.start == "uniform" else count / sizes[name].numel()
            raw = torch.tensor(rates.to_raw(share, layer.lowest), dtype=layer.dense_weight.dtype)
            layer.register_parameter("quota", nn.Parameter(raw))
        if not arch.searched:
            _fix(layer)
    return net


@torch.no_grad()
def fixed(net: nn.Module) -> nn.Module:
    """A copy of a pruned network for fine-tuning: masks as they are, weights and biases parameters again."""
    net = copied(net)
    for layer in masked_layers(net).values():
        if layer.searched:
            _fix(layer)
    return net


def _left_of(parent: nn.Module, arch: Pruned) -> dict[str, torch.Tensor]:
    """Which weights the masks of a network keep, bool of the weight's shape, by layer; {} for a dense network. Raises
    SettingsError if single weights are missing where channels are to be pruned.
    """
    masked = masked_layers(parent)
    single = arch.granularity == "channels" and not all(layer.by_channel for layer in masked.values())
    need(not single, "arch.granularity", arch.granularity, "weights for a parent that has already lost single weights")
    return {name: layer.spread(layer.kept_mask()).expand_as(layer.dense_weight) for name, layer in masked.items()}


def _survive(layer: Masked, name: str, left: torch.Tensor | None, count: int, arch: Pruned) -> None:
    """Note which entries of a layer an earlier pruning kept. Raises SettingsError if they are fewer than `count`."""
    survivors = None if left is None else layer.gather(left.float()) > 0
    layer.register_buffer("survivors", survivors, persistent=False)
    if survivors is not None and arch.rates != "learned":
        number = int(survivors.sum())
        need(count <= number, "arch.keep", arch.keep,
             f"lower: layer {name} would keep {count} {arch.granularity}, but the parent has only {number} left")


def _made_by_filters(weights: dict, link: dict, slices: dict) -> dict[str, torch.Tensor]:
    """The rank of each layer's input channels, by layer: the L1 norms of the filters that produce them or, for a sum,
    of the slices of all layers that read it; 0 where a layer that reads the tensor has already lost the channel.
    """
    found = {}
    for name in slices:
        readers = torch.stack([size for other, size in slices.items() if link[other].source == link[name].source])
        producer = link[name].producer
        norms = readers.sum(0) if producer is None else weights[producer].abs().flatten(1).sum(1)
        found[name] = norms * (readers > 0).all(0)
    return found


def _group(net, layer, link) -> int:
    """How many input features of a linear layer come from one channel of the convolution before it."""
    if link is None or link.producer is None or not isinstance(layer, nn.Linear):
        return 1
    front = net.get_submodule(link.producer)
    return layer.in_features // front.out_channels if isinstance(front, nn.Conv2d) else 1


def _convert(layer: nn.Module, arch: Pruned, group: int) -> None:
    """Turn a layer into a masked one in place: searched, still without scores or rate."""
    layer.__class__ = MaskedConv2d if isinstance(layer, nn.Conv2d) else MaskedLinear
    layer.by_channel, layer.group = arch.granularity == "channels", group
    layer.keep, layer.lowest = arch.keep, float(arch.least * arch.keep)
    layer.overall = arch.rates == "global"
    layer.stand_in, layer.found_for = None, []
    for name in ("weight", "bias"):
        tensor = layer._parameters.pop(name)
        layer._buffers[name] = None if tensor is None else tensor.detach()


def _counts(chosen: dict, sizes: dict, arch: Pruned, pattern) -> list[int]:
    """How many entries of its mask each layer keeps; where rates are learned, at the start."""
    rule, keep = (arch.start, arch.start_share) if arch.rates == "learned" else (arch.rates, arch.keep)
    numbers = [size.numel() for size in sizes.values()]
    if keep == 1:
        return numbers
    if rule == "uniform":
        return rates.uniform(numbers, keep)
    if rule == "erk":
        return rates.erk([layer.dense_weight.shape for layer in chosen.values()], keep)
    if rule == "data-free":
        return [rates.kept_of(n, a) for n, a in zip(numbers, rates.data_free(numbers, keep), strict=True)]
    if rule == "parent":
        return _counts_of(chosen, pattern)
    return (rates.lamp if rule == "lamp" else rates.overall)(list(sizes.values()), keep)


def _counts_of(chosen: dict, pattern) -> list[int]:
    theirs = {} if pattern is None else masked_layers(pattern)
    same = list(theirs) == list(chosen) and all(
        theirs[name].kept_mask().numel() == layer.gather(layer.dense_weight).numel() for name, layer in chosen.items())
    need(same, "parents", type(pattern).__name__, "a dense network and a network of the same layers pruned at the same "
         "granularity, if arch.rates is parent")
    return [int(layer.kept_mask().sum()) for layer in theirs.values()]


def _score(layer: Masked, arch: Pruned, size: torch.Tensor) -> None:
    """Give a layer its scores, which are a parameter if they are learned, and a buffer for its mask."""
    if arch.scores == "random":
        scores = torch.rand_like(size)
    elif arch.scores == "gradient":
        scores = torch.zeros_like(size)
    elif arch.scores == "filters":
        scores = size  # not scaled: layers that read the same tensor must agree to the last bit
    else:  # HYDRA's scaled initialisation, sqrt(6 / fan_in) * theta / max |theta|, with the sign of the weight
        signed = size if layer.by_channel else layer.dense_weight
        scores = math.sqrt(6 / layer.dense_weight[0].numel()) * signed / size.max()
    scores = scores.detach().clone()
    if arch.scores == "learned":
        layer.register_parameter("scores", nn.Parameter(scores))
    else:
        layer.register_buffer("scores", scores)
    layer.register_buffer("mask", torch.zeros_like(scores, dtype=torch.bool), persistent=False)


@torch.no_grad()
def _fix(layer: Masked) -> None:
    mask = layer.spread(layer.kept_mask().clone())
    kept, bias = layer.dense_weight * mask, layer._buffers.pop("bias")
    for tensors in (layer._parameters, layer._buffers):
        tensors.clear()
    layer._non_persistent_buffers_set.clear()
    layer.leader, layer.found_for = [], []
    layer._parameters["weight"] = nn.Parameter(kept)
    layer._parameters["bias"] = None if bias is None else nn.Parameter(bias.clone())
    layer.register_buffer("mask", mask)


class Cost:
    """The cost of a pruned network as a function of its layers' keep rates a_l.

    Weights: the sum of n_l a_l over layers l with n_l weights. Channels: operations for one image, two per multiply-add
    of a convolution or linear layer and nothing for the rest; layer l has the share a_l of its inputs (layers that read
    images: all of them) and, of its outputs, the share kept by the one layer that reads them (all if a sum or several
    layers read them). The target is the cost of the same network with every rate at `keep`.
    """

    def __init__(self, net: nn.Module):
        self.layers = masked_layers(net)
        names, one = list(self.layers), len(self.layers)  # an additional last rate of 1 is for what has no mask
        by_channel = any(layer.by_channel for layer in self.layers.values())
        every, link = (layers(net), links(net)) if by_channel else (self.layers, {})
        self.index = {name: k for k, name in enumerate(names)}
        self.sizes = torch.tensor([_work(layer, by_channel) for layer in every.values()], dtype=torch.float64)
        self.sizes = self.sizes / self.sizes.sum()
        self.inputs = torch.tensor([self.index.get(name, one) for name in every])
        self.outputs = torch.tensor([self.index.get(link[name].reader, one) if link else one for name in every])
        self.keep = float(next(iter(self.layers.values())).keep)
        self.target = float(self.at(torch.full((one,), self.keep, dtype=torch.float64)))

    def at(self, shares: torch.Tensor) -> torch.Tensor:
        """The cost at keep rates [masked layers] as a share of the dense network's cost, []."""
        sizes, inputs, outputs = (t.to(shares.device) for t in (self.sizes, self.inputs, self.outputs))
        every = torch.cat([shares.double(), torch.ones(1, dtype=torch.float64, device=shares.device)])
        return (sizes * every[inputs] * every[outputs]).sum()

    def excess(self) -> torch.Tensor:
        """HARP's hardware loss L_hw, []: max(cost / target - 1, 0) at the current rates, differentiable in them."""
        shares = torch.stack([layer.rate() for layer in self.layers.values()])
        return (self.at(shares) / self.target - 1).clamp_min(0).float()

    def kept(self) -> float:
        """The cost of the current masks, by counting, as a share of the dense network's cost."""
        return float(self.at(torch.stack([layer.kept_mask().double().mean() for layer in self.layers.values()])))


def _work(layer: nn.Module, by_channel: bool) -> int:
    return layer.weight.numel() * (layer.places if by_channel else 1)
