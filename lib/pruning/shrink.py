"""Turn a network with pruned channels into a truly smaller network."""

from __future__ import annotations

import torch
from torch import nn

from lib.door import in_own_state
from lib.errors import need
from lib.models.links import Link, layers, links
from lib.models.masked import dense, masked_layers, unmasked_like


class SelectChannels(nn.Module):
    """Select the channels `picked` (int64, a buffer) of maps [B, C, H, W] or features [B, C]."""

    def __init__(self, picked: torch.Tensor):
        super().__init__()
        self.register_buffer("picked", picked)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.index_select(1, self.picked)


@in_own_state
@torch.no_grad()
def shrunk(net: nn.Module) -> nn.Module:
    """A network without masks, with smaller convolutions and linear layers, that gives the same outputs as `net` (up to
    rounding).

    A layer loses the input channels that its mask removes. The layer in front of it no longer computes them, if no
    other layer reads them, and BN between the two loses them as well. If other layers read them (the sums of residual
    networks), a `SelectChannels` in front of the layer selects its channels. Module names stay the same, except that a
    layer behind a `SelectChannels` has `.1` appended to its name. Raises SettingsError for a network whose channels are
    not pruned.
    """
    masked = masked_layers(net)
    by_channel = bool(masked) and all(layer.by_channel for layer in masked.values())
    allowed = "one whose channels are pruned, because pruning single weights makes no layer smaller"
    need(by_channel, "network", type(net).__name__, allowed)
    channels = {name: layer.kept_mask().nonzero().flatten() for name, layer in masked.items()}
    groups = {name: layer.group for name, layer in masked.items()}
    small = dense(net)
    link, modules = links(small), layers(small)
    for name, layer in modules.items():
        made = _smaller(layer, _features(channels, groups, name), channels.get(link[name].reader))
        if name in channels and not _reduced(link, name):
            made = nn.Sequential(SelectChannels(_features(channels, groups, name)), made)
        _put(small, name, made)
        for between in link[name].between:
            module = small.get_submodule(between)
            if isinstance(module, nn.BatchNorm2d) and link[name].reader in channels:
                _put(small, between, _smaller_norm(module, channels[link[name].reader]))
    return small.train(net.training)


def _reduced(link: dict[str, Link], name: str) -> bool:
    """Whether the layer's input has only the channels that the layer keeps."""
    producer = link[name].producer
    return producer is not None and link[producer].reader == name


def _features(channels: dict, groups: dict, name: str) -> torch.Tensor | None:
    """The inputs that a layer keeps, int64, or None if it keeps all. A linear layer may have several inputs a channel.
    """
    if name not in channels:
        return None
    within = torch.arange(groups[name], device=channels[name].device)
    return (channels[name][:, None] * groups[name] + within).flatten()


def _smaller(layer: nn.Module, inputs: torch.Tensor | None, outputs: torch.Tensor | None) -> nn.Module:
    weight, bias = layer.weight, layer.bias
    if inputs is not None:
        weight = weight[:, inputs]
    if outputs is not None:
        weight, bias = weight[outputs], None if bias is None else bias[outputs]
    made = unmasked_like(layer, *weight.shape[:2])
    made.weight.copy_(weight)
    if bias is not None:
        made.bias.copy_(bias)
    return made


def _smaller_norm(norm: nn.BatchNorm2d, channels: torch.Tensor) -> nn.BatchNorm2d:
    made = nn.BatchNorm2d(len(channels), norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    made = made.to(channels.device)
    made.load_state_dict({k: v if v.dim() == 0 else v[channels] for k, v in norm.state_dict().items()})
    return made


def _put(net: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    net.get_submodule(parent)._modules[child] = module
