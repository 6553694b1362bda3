"""How networks are built: the modules of this room register a function for the exact type of an architecture."""

from __future__ import annotations

from torch import nn

from lib.models.staged import Normalise
from lib.values.architectures import FromScratch, Generative
from lib.values.by_type import ByType

builders = ByType("network")  # for networks with their own weights: (arch, shape, classes) -> network
derivations = ByType("derivation")  # for networks made from others: (recipe, networks of its parents) -> network


def network(arch: FromScratch | Generative, shape: tuple[int, int, int], classes: int, unit: float = 0.25) -> nn.Module:
    """A network of `arch` for images of `shape` [C, H, W] in [0, 1], with weights drawn from torch's global generator
    (`build` seeds it). Its normaliser subtracts 0.5 and divides by `unit`. Raises `SettingsError` for images that the
    architecture cannot take.
    """
    arch.check(*shape[1:])
    net = builders[arch](arch, shape, classes)
    for module in net.modules():
        if isinstance(module, Normalise):
            module.std.fill_(unit)
    return net
