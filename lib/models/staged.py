"""A network as a sequence of named stages, so that its front and back are slices of the sequence."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import nn

from lib.errors import unknown
from lib.modes import copied


class Normalise(nn.Module):
    """Maps pixels x [B, C, H, W] in [0, 1] to (x - mean) / std; mean and std, one number or one for each channel, are
    buffers [1, C, 1, 1] and saved with the network.

    The same default for every data set (0.5 and 0.25) keeps networks that were trained on different ones exchangeable.
    """

    def __init__(self, channels: int, mean: float | Sequence[float] = 0.5, std: float | Sequence[float] = 0.25):
        super().__init__()
        for name, value in (("mean", mean), ("std", std)):
            tensor = torch.as_tensor(value, dtype=torch.float32).reshape(1, -1, 1, 1)
            self.register_buffer(name, tensor.expand(1, channels, 1, 1).clone())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return (images - self.mean) / self.std


class Blocks(nn.Sequential):
    """Holds consecutive blocks whose dotted stage names share a beginning (`layer1.0`, `layer1.1`)."""


class Staged(nn.Sequential):
    """Maps images [B, C, H, W] in [0, 1] to logits [B, classes], through `normalise` and then the stages in order.

    Made from a mapping of names to modules. A dotted name puts a block into a `Blocks` container, so qualified module
    names, stage names and state-dict keys agree. `front` and `back` share the modules and keep the names.
    """

    def __init__(self, modules: Mapping[str, nn.Module]):
        super().__init__()
        for name, module in modules.items():
            container, _, block = name.partition(".")
            if not block:
                self.add_module(name, module)
                continue
            if container not in self._modules:
                self.add_module(container, Blocks())
            self._modules[container].add_module(block, module)

    @property
    def stages(self) -> dict[str, nn.Module]:
        """Stage name -> module, in order of computation, without the normaliser."""
        stages = {}
        for name, child in self._modules.items():
            if isinstance(child, Blocks):
                stages.update({f"{name}.{block}": module for block, module in child._modules.items()})
            elif name != "normalise":
                stages[name] = child
        return stages

    def front(self, joint: str) -> Staged:
        """The normaliser and the stages up to and including `joint`; raises `SettingsError` for an unknown stage."""
        names = self._upto(joint)
        normalise = {"normalise": self.normalise} if "normalise" in self._modules else {}
        return Staged(normalise | {name: self.stages[name] for name in names})

    def back(self, joint: str) -> Staged:
        """The stages after `joint`; raises `SettingsError` for an unknown stage."""
        first = self._upto(joint)
        return Staged({name: stage for name, stage in self.stages.items() if name not in first})

    def _upto(self, joint: str) -> list[str]:
        names = list(self.stages)
        if joint not in names:
            raise unknown("joint", joint, names)
        return names[: names.index(joint) + 1]


def pooled_linear(channels: int, classes: int) -> nn.Sequential:
    """Global average pooling and one linear layer: [B, channels, H, W] to logits [B, classes], for any H and W."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


def kaiming(net: nn.Module) -> nn.Module:
    """`net` with convolutions redrawn Kaiming-normal by fan-out (He et al. 2015) and their biases 0; all else stays."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return net


def dry_run(net: nn.Module, image_shape: tuple[int, int, int]) -> torch.Tensor:
    """The output of `net` for one black image [C, H, W] in eval mode: for shapes and counts. Nothing in `net` changes.

    A real image is cheaper than the meta device, whose first convolution spends six seconds on importing compilers.
    """
    with torch.no_grad():
        return copied(net).eval()(torch.zeros(1, *image_shape, device=device_of(net), dtype=precision_of(net)))


def precision_of(net: nn.Module) -> torch.dtype:
    """The floating dtype of a network's tensors; float32 if it has none."""
    return next((t.dtype for t in tensors_of(net) if t.is_floating_point()), torch.float32)


def device_of(net: nn.Module) -> torch.device:
    """The device of a network's tensors; the CPU if it has none."""
    return next((t.device for t in tensors_of(net)), torch.device("cpu"))


def tensors_of(net: nn.Module) -> Iterator[torch.Tensor]:
    """The parameters and buffers of a network."""
    return itertools.chain(net.parameters(), net.buffers())


def memory_format(net: nn.Module) -> torch.memory_format:
    """The layout in which to use `net` and its images: channels_last, unless `net` contains a strided 1x1 convolution
    of fewer than 16 channels, whose backward pass corrupts the heap in that layout on some CPUs.

    The networks built here never contain one (`lib.models.resnet` avoids it); networks from elsewhere may.
    """
    risky = any(isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1) and m.stride != (1, 1) and m.in_channels < 16
                for m in net.modules())
    return torch.contiguous_format if risky else torch.channels_last
