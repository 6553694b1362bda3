"""The modes of a network while it is measured or attacked: these blocks change them and restore them at the end.
Also copies of networks.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


@contextlib.contextmanager
def frozen(net: nn.Module) -> Iterator[nn.Module]:
    """Inside the block no parameter requires a gradient, so an attack computes none for the weights."""
    learning = [p for p in net.parameters() if p.requires_grad]
    for p in learning:
        p.requires_grad_(False)
    try:
        yield net
    finally:
        for p in learning:
            p.requires_grad_(True)


@contextlib.contextmanager
def evaluating(net: nn.Module) -> Iterator[nn.Module]:
    """Inside the block every module is in eval mode: BatchNorm uses its running statistics and does not update them."""
    modes = [(module, module.training) for module in net.modules()]
    net.eval()
    try:
        yield net
    finally:
        for module, mode in modes:
            module.training = mode


@contextlib.contextmanager
def frozen_eval(net: nn.Module) -> Iterator[nn.Module]:
    """Both `frozen` and `evaluating`."""
    with evaluating(net), frozen(net):
        yield net


def copied(net: nn.Module, replaced: dict[int, nn.Module] | None = None) -> nn.Module:
    """A copy of the network; replaced: {id of a module: what stands in its place}.

    Weights that hooks compute (torch's weight_norm, spectral_norm, prune) are plain attributes with a history, which
    deepcopy refuses; they are copied without it, and the hooks of the copy compute them anew.
    """
    computed = [(vars(module), name, value) for module in net.modules() for name, value in vars(module).items()
                if getattr(value, "grad_fn", None) is not None]
    for attributes, name, value in computed:
        attributes[name] = value.detach()
    try:
        return copy.deepcopy(net, dict(replaced or {}))
    finally:
        for attributes, name, value in computed:
            attributes[name] = value
