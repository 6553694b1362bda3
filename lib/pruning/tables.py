"""Tables of pruned networks."""

from __future__ import annotations

from torch import nn

from lib.models.links import layers
from lib.models.masked import masked_layers


def kept(net: nn.Module):
    """What the masks of `net` keep, counted: a DataFrame with a row for each convolution and linear layer in order.

    Columns: layer (its name), weights, kept (of them), share (kept / weights, in [0, 1]) and, where whole input
    channels are pruned, channels and kept_channels. Layers without a mask (those that read images, where channels are
    pruned) keep everything. Biases and BN, which are never pruned, are not counted.
    """
    import pandas as pd

    masked, rows = masked_layers(net), []
    for name, layer in layers(net).items():
        weights = left = layer.weight.numel()
        row = {"layer": name, "weights": weights}
        if name in masked:
            mask = layer.kept_mask()
            left = int(mask.sum()) * (weights // mask.numel())
            if layer.by_channel:
                row |= {"channels": mask.numel(), "kept_channels": int(mask.sum())}
        rows.append(row | {"kept": left, "share": left / weights})
    return pd.DataFrame(rows)
