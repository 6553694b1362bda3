"""Networks made ready for inference and input gradients, and what a forward pass costs."""

from __future__ import annotations

import copy
import itertools

import torch
from torch import nn

from lib.models.staged import dry_run


def folded(net: nn.Module) -> nn.Module:
    """A copy of `net` in eval mode, in channels_last, with frozen parameters and BN folded into the convolutions.

    Gives what `net.eval()` gives (to rounding) with fewer passes over memory. Folded are the neighbours Conv2d and
    BatchNorm2d in `nn.Sequential`s and the pairs that a module class names in `fold_pairs`; a folded BN leaves an
    Identity, so module names stay. Whatever else is in the network is copied as it is. `net` does not change.
    """
    net = copy.deepcopy(net).eval().requires_grad_(False)
    for module in list(net.modules()):
        for conv_name, bn_name in _pairs(module):
            conv, bn = module._modules[conv_name], module._modules[bn_name]
            # Exact types: a subclass or a parametrised layer may compute something else.
            if type(conv) is nn.Conv2d and type(bn) is nn.BatchNorm2d and bn.affine and bn.track_running_stats:
                _fold(conv, bn)
                module._modules[bn_name] = nn.Identity()
    return net.to(memory_format=torch.channels_last)


def _pairs(module: nn.Module) -> list[tuple[str, str]]:
    if isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward:
        return list(itertools.pairwise(module._modules))
    return list(getattr(module, "fold_pairs", ()))


def _fold(conv: nn.Conv2d, bn: nn.BatchNorm2d) -> None:
    """BN(W x + b) = (s W) x + s (b - mean) + beta with s = gamma / sqrt(var + eps), worked out in fp64."""
    scale = bn.weight.double() / (bn.running_var.double() + bn.eps).sqrt()
    bias = -bn.running_mean.double() if conv.bias is None else conv.bias.double() - bn.running_mean.double()
    weight = conv.weight.double() * scale.view(-1, 1, 1, 1)
    dtype = conv.weight.dtype
    conv.weight = nn.Parameter(weight.to(dtype), requires_grad=False)
    conv.bias = nn.Parameter((bn.bias.double() + scale * bias).to(dtype), requires_grad=False)


def forward_flops(net: nn.Module, image_shape: tuple[int, int, int]) -> int:
    """Floating-point operations of one forward pass for one image [C, H, W]: two per multiply-add of convolutions and
    linear layers, nothing for the rest (as `torch.utils.flop_counter` counts).
    """
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        dry_run(net, image_shape)
    return counter.get_total_flops()
