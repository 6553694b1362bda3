"""Tables of pruned networks."""

from __future__ import annotations

from torch import nn

from lib.models.links import layers
from lib.models.masked import masked_layers


def kept(net: nn.Module):
    """Count what the masks of `net` keep: a DataFrame with one row for each convolution and linear layer, in order.

    Columns: layer (its name), weights (all of them), kept, share (kept / weights, in [0, 1]) and, if whole input
    channels are pruned, channels and kept_channels. A layer without a mask keeps everything; if channels are pruned,
    this is the layer that reads the image. Biases and BN are never pruned and not counted.
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
