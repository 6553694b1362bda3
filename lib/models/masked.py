"""Pruned networks: convolutions and linear layers with masked weights.

`layer.weight` of a masked layer is its effective weight, so `forward`, interval bounds, counts of operations and BN
folding work as for torch's layers. The state dict has the dense weight under the same key.

A masked layer is in one of two states. *Fixed*: the mask is a buffer and weights are parameters; removed weights are 0
and get no gradient, so nothing revives them. *Searched*: weights and biases are buffers; the mask depends on scores,
one per weight or channel, and on the layer's keep rate, either of which may be learned. The mask keeps the largest
|scores|. It is recomputed when scores or rate change, once per update; attacks run on plain copies (lib.models.fold).
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator

import torch
from torch import nn

from lib.models import rates
from lib.modes import copied


class Masked:
    """What the masked layers share. by_channel: scores and mask are [input channels], else of the weight's shape;
    group: input features of a linear layer that come from one channel; lowest: the lower bound of keep rates;
    survivors: the entries that an earlier pruning kept, bool, None if there was none (searched layers only); keep: the
    target of the network; places: at how many places of an image the layer is applied; overall: whether the scores of
    the whole network are ranked together.
    """

    @property
    def weight(self) -> torch.Tensor:
        """The masked weight. While scores or the rate are learned, gradients pass the mask M straight through, as in
        HARP's code: dL/d|S| := dL/dM for scores S, and dL/da := the sum of dL/dM for the keep rate a.
        """
        if self.stand_in is not None:
            return self.stand_in
        if not self.searched:
            return self.dense_weight * self.mask
        if not torch.compiler.is_compiling():  # compiled code uses the mask from the last `refresh`
            self.refresh()
        gate = self.mask.to(self.dense_weight.dtype)
        if torch.is_grad_enabled():  # straight through: the value stays the mask's
            if self.scores.requires_grad:
                size = self.scores.abs()
                gate = gate + (size - size.detach())  # dL/d|S| := dL/dM
            if self.learned_quota is not None and self.learned_quota.requires_grad:
                share = self.rate()
                gate = gate + (share - share.detach())  # dL/da := the sum of dL/dM
        return self.dense_weight * self.spread(gate)

    @property
    def searched(self) -> bool:
        """Whether the mask is searched, with frozen weights; else it is fixed."""
        return "weight" in self._buffers

    @property
    def dense_weight(self) -> torch.Tensor:
        """The weight as if nothing were masked (fixed layers: with zeros where weights were removed)."""
        return (self._buffers if self.searched else self._parameters)["weight"]

    @property
    def learned_quota(self) -> torch.Tensor | None:
        """HARP's compression quota r, [], which is learned in place of the keep rate and may be shared with another
        layer; None where the number of kept entries is fixed.
        """
        return self.leader[0].learned_quota if self.leader else self._parameters.get("quota")

    def rate(self) -> torch.Tensor:
        """The keep rate, []: lowest + (1 - lowest) sigmoid(r) of the quota r, or the fixed count as a share."""
        if self.learned_quota is None:
            return self.count / self.scores.numel()
        return self.lowest + (1 - self.lowest) * torch.sigmoid(self.learned_quota)

    def to_keep(self) -> int:
        """How many of the mask's n entries are kept: all but floor((1 - rate) n)."""
        if self.learned_quota is None:
            return int(self.count)
        return rates.kept_of(self.scores.numel(), rates.from_raw(self.learned_quota.item(), self.lowest))

    @torch.no_grad()
    def refresh(self) -> None:
        """Recompute the mask if scores or rate have changed."""
        deciding = (self.scores, self.count if self.learned_quota is None else self.learned_quota)
        # in-place changes raise a tensor's version; a copy of the layer has other tensors
        if not self.found_for or any(ref() is not t or version != t._version
                                     for t, (ref, version) in zip(deciding, self.found_for, strict=True)):
            self.mask.copy_(self._best())
            self.found_for = [(weakref.ref(t), t._version) for t in deciding]

    def _best(self) -> torch.Tensor:
        """The mask of the largest |scores| among the survivors of an earlier pruning, or of all survivors if they are
        fewer than are to be kept.
        """
        if self.survivors is None:
            return largest(self.scores.abs(), self.to_keep())
        return largest(self.scores.abs().masked_fill(~self.survivors, -1), self.to_keep()) & self.survivors

    def kept_mask(self) -> torch.Tensor:
        """The current mask, bool, of the scores' shape."""
        if self.searched:
            self.refresh()
        return self.mask if self.searched or not self.by_channel else self.gather(self.mask.float()) > 0

    def spread(self, gate: torch.Tensor) -> torch.Tensor:
        """Values of the scores' shape in a shape that broadcasts with the weight."""
        return self._spread(gate) if self.by_channel else gate

    def gather(self, values: torch.Tensor) -> torch.Tensor:
        """Values of the weight's shape summed over the weights that one entry of the mask removes: the scores' shape.
        """
        return self._gather(values) if self.by_channel else values

    @torch.no_grad()
    def plain(self) -> nn.Module:
        """The layer of torch that computes the same, with zeros where weights are masked."""
        weight = self.weight
        layer = unmasked_like(self, len(weight), weight.shape[1] * getattr(self, "groups", 1))
        layer.weight.copy_(weight)
        if self.bias is not None:
            layer.bias.copy_(self.bias)
        return layer.train(self.training)


class MaskedConv2d(Masked, nn.Conv2d):
    """A convolution with a mask; see the module's docstring."""

    def _spread(self, gate: torch.Tensor) -> torch.Tensor:
        return gate.view(1, -1, 1, 1)

    def _gather(self, values: torch.Tensor) -> torch.Tensor:
        return values.flatten(2).sum((0, 2))


class MaskedLinear(Masked, nn.Linear):
    """A linear layer with a mask; see the module's docstring."""

    def _spread(self, gate: torch.Tensor) -> torch.Tensor:
        return gate.repeat_interleave(self.group).view(1, -1)

    def _gather(self, values: torch.Tensor) -> torch.Tensor:
        return values.sum(0).view(-1, self.group).sum(1)


def masked_layers(net: nn.Module) -> dict[str, MaskedConv2d | MaskedLinear]:
    """The masked layers of a network by name."""
    return {name: module for name, module in net.named_modules() if isinstance(module, Masked)}


def refresh(net: nn.Module) -> None:
    """Bring the masks of a searched network up to date with its scores and rates."""
    for layer in masked_layers(net).values():
        if layer.searched:
            layer.refresh()


def unmasked_like(layer: nn.Module, outputs: int, inputs: int) -> nn.Module:
    """A convolution or linear layer like `layer` but of other sizes, with uninitialised tensors."""
    options = {"bias": layer.bias is not None, "device": layer.weight.device, "dtype": layer.weight.dtype}
    if isinstance(layer, nn.Linear):
        return nn.utils.skip_init(nn.Linear, inputs, outputs, **options)
    return nn.utils.skip_init(nn.Conv2d, inputs, outputs, layer.kernel_size, layer.stride, layer.padding,
                              layer.dilation, layer.groups, padding_mode=layer.padding_mode, **options)


def dense(net: nn.Module) -> nn.Module:
    """A copy of `net` without masks that computes the same: removed weights are zeros of torch's own layers."""
    return copied(net, {id(layer): layer.plain() for layer in masked_layers(net).values()})


def largest(values: torch.Tensor, count: int) -> torch.Tensor:
    """Whether each of `values` is among the `count` largest: bool of their shape, with exactly `count` true entries."""
    flat = values.detach().flatten()
    few = 2 * count <= flat.numel()
    chosen = flat.topk(count if few else flat.numel() - count, largest=few, sorted=False).indices
    mask = torch.full_like(flat, not few, dtype=torch.bool)
    mask[chosen] = few
    return mask.view(values.shape)


@contextlib.contextmanager
def opened(net: nn.Module) -> Iterator[dict[Masked, torch.Tensor]]:
    """Inside the block the searched layers of `net` use all their weights, which are leaves with a gradient."""
    searched = [layer for layer in masked_layers(net).values() if layer.searched]
    try:
        for layer in searched:
            layer.stand_in = layer.dense_weight.detach().clone().requires_grad_()
        yield {layer: layer.stand_in for layer in searched}
    finally:
        for layer in searched:
            layer.stand_in = None
