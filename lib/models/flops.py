"""The cost of a forward pass, by counting its operations."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lib.models.staged import Staged, dry_run

_PRODUCTS = (torch.matmul, torch.bmm, Tensor.matmul, Tensor.__matmul__, Tensor.bmm)

# torch.nn.init's functions reach a mode whole, and what they call does not
_DRAWN = (Tensor.normal_, Tensor.uniform_, nn.init.normal_, nn.init.uniform_, nn.init.trunc_normal_,
          nn.init.kaiming_normal_, nn.init.kaiming_uniform_, nn.init.xavier_normal_, nn.init.xavier_uniform_)
_COUNTED = (F.conv2d, F.linear, F.conv_transpose2d, F.scaled_dot_product_attention, *_PRODUCTS)


def _conv2d(x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    """Zeros of the shape of a convolution's output, found with one channel."""
    one = F.conv2d(x[..., :1, :, :], weight[:1, :1], None, stride, padding, dilation)
    return x.new_zeros(*x.shape[:-3], len(weight), *one.shape[-2:])


def _linear(x, weight, bias=None):
    return x.new_zeros(*x.shape[:-1], len(weight))


_ZEROS = {F.conv2d: _conv2d, F.linear: _linear}


class FlopCounter(TorchFunctionMode):
    """Counts two operations per multiply-add of convolutions, linear layers and matrix products, nothing for the rest.
    Convolutions and linear layers are not carried out: they give zeros, so that counting takes no time and a network
    that is only counted no memory.

    `torch.utils.flop_counter` counts the same (the tests compare them), but it imports compilers, which would cost each
    process more than five seconds.
    """

    total = 0
    outputs = 0  # numbers that these operations gave

    def __torch_function__(self, function, types, args=(), kwargs=None):
        out = _ZEROS.get(function, function)(*args, **(kwargs or {}))
        if function in (F.conv2d, F.linear):
            self.total += 2 * out.numel() * args[1][0].numel()
        elif function is F.conv_transpose2d:
            self.total += 2 * args[0].numel() * args[1][0].numel()
        elif function in _PRODUCTS:
            self.total += 2 * out.numel() * args[0].shape[-1]
        elif function is F.scaled_dot_product_attention:
            query, key, value = args[:3]
            self.total += 2 * query[..., 0].numel() * key.shape[-2] * (query.shape[-1] + value.shape[-1])
        if function in _COUNTED:
            self.outputs += out.numel()
        return out


class Undrawn(TorchFunctionMode):
    """Within the block networks are built with zeros in place of random weights, for counts: torch's generator stays as
    it is. The meta device would do as well, but what it lacks is written in Python and imports compilers.
    """

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in _DRAWN:
            with torch.no_grad():
                return (args[0] if args else kwargs["tensor"]).zero_()
        if function is torch.randn:
            function = torch.zeros
        return function(*args, **(kwargs or {}))


def stage_flops(net: Staged, image_shape: tuple[int, int, int]) -> dict[str, int]:
    """Floating-point operations of each stage for a forward pass of one image [C, H, W], in order; leaves `net` in eval
    mode.
    """
    return dict(zip(net.stages, costs(net, image_shape)[0], strict=True))


@torch.no_grad()
def costs(net: nn.Module, image_shape: tuple[int, int, int]) -> tuple[tuple[int, ...], int]:
    """For a forward pass of one image [C, H, W]: the floating-point operations of each stage, in order (of a network
    that is no sequence of stages, of all of it), and how many numbers its convolutions, linear layers and matrix
    products give, which is the size of the activations up to a small factor. Leaves `net` in eval mode.
    """
    net.eval()
    x, parts, totals = torch.zeros(1, *image_shape), [net], [0]
    if isinstance(net, Staged):
        x, parts = net.normalise(x), net.stages.values()
    with FlopCounter() as counter:
        for part in parts:
            x = part(x)
            totals.append(counter.total)
    return tuple(after - before for before, after in itertools.pairwise(totals)), counter.outputs


def forward_flops(net: nn.Module, image_shape: tuple[int, int, int]) -> int:
    """Floating-point operations of a forward pass of one image [C, H, W]; nothing in `net` changes."""
    with FlopCounter() as counter:
        dry_run(net, image_shape)
    return counter.total
