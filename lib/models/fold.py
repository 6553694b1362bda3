"""Networks prepared for inference and input gradients: BatchNorm folded into the convolutions."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from lib.door import check_labels
from lib.errors import impossible, need
from lib.models.masked import MaskedConv2d, dense, masked_layers
from lib.models.staged import device_of, memory_format, precision_of
from lib.modes import evaluating

SAMPLE = 4  # images that a network from outside is tried on
ROUNDING = 1e-3  # of the largest logit: a correctly folded network differs by less, a wrongly folded one by more


def prepared(net: nn.Module, images: Tensor, labels: Tensor | None = None) -> nn.Module:
    """A copy of any network, ready to be attacked and measured: in eval mode, with frozen parameters, and with
    BatchNorm folded if this changes nothing. `net` is run once on the first of `images` [N, C, H, W] (floats); neither
    it nor the images change, even if it writes into its input. A network of another precision than float32 gets its
    images in that precision and returns its logits in the images' own.

    Raises SettingsError unless `net` is a module that maps the images to logits [N, K] of at least 2 classes, and
    `labels` [N], if given, are among these.
    """
    need(isinstance(net, nn.Module), "net", type(net).__name__, "a torch.nn.Module")
    dtype = precision_of(net)
    sample = images[:SAMPLE].detach().to(device_of(net))
    logits, writes = _tried(net, sample.to(dtype, copy=True))
    if labels is not None:
        check_labels(labels, classes=logits.shape[1])
    if dtype != torch.float32:
        return InputCopy(_copy(net), dtype)
    own = (lambda copy: InputCopy(copy, dtype)) if writes else (lambda copy: copy)
    made = own(folded(net))
    try:
        same = _equal(made(sample).float(), logits.float())
    except RuntimeError:  # it takes a `view` of maps, which must then lie in memory channel by channel
        return own(ChannelsFirst(_copy(net)))
    return made if same else own(_copy(net))


def _tried(net: nn.Module, images: Tensor) -> tuple[Tensor, bool]:
    """The logits of a network in eval mode, and whether it writes into the images."""
    before = images.clone()
    with evaluating(net), torch.no_grad():
        try:
            logits = net(images)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            reason = str(error).strip().split("\n")[0]
            raise impossible("net", type(net).__name__, f"a network that takes images {list(images.shape[1:])} of "
                             f"{str(images.dtype).removeprefix('torch.')} ({reason})") from None
    tensor = torch.is_tensor(logits)
    good = tensor and logits.dim() == 2 and len(logits) == len(images) and logits.shape[1] > 1
    need(good, "output of the network", list(logits.shape) if tensor else type(logits).__name__,
         f"logits [{len(images)}, K] of K classes, 2 or more")
    return logits, not torch.equal(images, before)


def _equal(one: Tensor, other: Tensor) -> bool:
    """Whether logits are the same up to rounding, and in the same places not finite."""
    finite = other.isfinite()
    if not torch.equal(one.isfinite(), finite):
        return False
    one, other = one[finite], other[finite]
    return not len(other) or float((one - other).abs().max()) <= ROUNDING * float(other.abs().max())


class InputCopy(nn.Module):
    """A network that is given a copy of its images, in its own precision."""

    def __init__(self, net: nn.Module, dtype: torch.dtype):
        super().__init__()
        self.net, self.dtype = net, dtype

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images.to(self.dtype, copy=True)).to(images.dtype)


class ChannelsFirst(nn.Module):
    """A network that is given its images in torch's usual layout, whatever theirs is."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images.contiguous())


def _copy(net: nn.Module) -> nn.Module:
    """A copy of `net` in eval mode with frozen parameters, without masks."""
    return dense(net).eval().requires_grad_(False)


def folded(net: nn.Module) -> nn.Module:
    """A copy of `net` in eval mode, in its `memory_format`, with frozen parameters and BN folded into the convolutions.

    It computes the same as `net.eval()` (up to rounding) with fewer passes over memory. A BatchNorm2d is folded if it
    directly follows a Conv2d in an `nn.Sequential`, or if a module class lists the pair in `fold_pairs`. An Identity
    replaces it, so module names stay. Masked layers become torch's own layers with the masked weights. Everything else
    is copied unchanged. `net` does not change.
    """
    net = _copy(net)
    for module in list(net.modules()):
        for conv_name, bn_name in _foldable(module):
            conv = module._modules[conv_name]
            weight, bias = _fold(conv, module._modules[bn_name])
            conv.weight, conv.bias = (nn.Parameter(t, requires_grad=False) for t in (weight, bias))
            module._modules[bn_name] = nn.Identity()
    return net.to(memory_format=memory_format(net))


class Twin:
    """A folded copy of a network that is being trained; `follow()` brings it up to date without a new copy.

    Attacks during training run on it: folding costs one pass over the weights, and every attack step saves the forward
    and backward passes of BN.
    """

    def __init__(self, net: nn.Module):
        self.net, self.copy = net, folded(net)
        if net._compiled_call_impl is not None:  # a copy is not compiled even if its original is
            self.copy.compile()
        made = dict(self.copy.named_modules())
        self.folds = [(module._modules[c], module._modules[b], made[name]._modules[c])
                      for name, module in net.named_modules() for c, b in _foldable(module)]
        self.masked = [(layer, made[name]) for name, layer in masked_layers(net).items()
                       if not any(layer is conv for conv, _, _ in self.folds)]
        done = {id(t) for conv, bn, _ in self.folds for m in (conv, bn) for t in (*m.parameters(), *m.buffers())}
        done |= {id(t) for layer, _ in self.masked for t in (*layer.parameters(), *layer.buffers())}
        tensors = dict(itertools.chain(self.copy.named_parameters(), self.copy.named_buffers()))
        self.others = [(tensors[name], t) for name, t in itertools.chain(net.named_parameters(), net.named_buffers())
                       if id(t) not in done]

    @torch.no_grad()
    def follow(self) -> nn.Module:
        """The copy, in eval mode with frozen parameters, updated to the network's current weights and statistics."""
        for conv, bn, into in self.folds:
            weight, bias = _fold(conv, bn)
            into.weight.copy_(weight)
            into.bias.copy_(bias)
        for layer, into in self.masked:
            into.weight.copy_(layer.weight)
            if layer.bias is not None:
                into.bias.copy_(layer.bias)
        for into, tensor in self.others:
            into.copy_(tensor)
        return self.copy


def _foldable(module: nn.Module) -> list[tuple[str, str]]:
    """(name of the convolution, name of the BN) of every pair of children of `module` that can be folded."""
    found = []
    for conv_name, bn_name in _pairs(module):
        conv, bn = module._modules[conv_name], module._modules[bn_name]
        # Exact types: a subclass or a parametrised layer may compute something else.
        known = type(conv) in (nn.Conv2d, MaskedConv2d) and type(bn) is nn.BatchNorm2d
        if known and bn.affine and bn.track_running_stats and not _hooked(conv) and not _hooked(bn):
            found.append((conv_name, bn_name))
    return found


def _hooked(module: nn.Module) -> bool:
    """Whether hooks may compute its weights, or change or read what goes in or out."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _pairs(module: nn.Module) -> list[tuple[str, str]]:
    if isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward:
        return list(itertools.pairwise(module._modules))
    return list(getattr(module, "fold_pairs", ()))


def _fold(conv: nn.Conv2d, bn: nn.BatchNorm2d) -> tuple[torch.Tensor, torch.Tensor]:
    """BN(W x + b) = (s W) x + s (b - mean) + beta with s = gamma / sqrt(var + eps), computed in fp64."""
    scale = bn.weight.double() / (bn.running_var.double() + bn.eps).sqrt()
    bias = -bn.running_mean.double() if conv.bias is None else conv.bias.double() - bn.running_mean.double()
    weight = conv.weight.double() * scale.view(-1, 1, 1, 1)
    return weight.to(conv.weight.dtype), (bn.bias.double() + scale * bias).to(conv.weight.dtype)
