"""Summaries of a similarity map, which figures show and claims are about. Undefined cells (NaN) are left out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lib.errors import need


def mean_off_diagonal(values: np.ndarray) -> float:
    """Mean similarity of different layers of one network: the mean of a self map [L, L] without its diagonal. Raises
    SettingsError for a map that is not square.
    """
    need(len({*values.shape}) == 1, "map", f"of shape {values.shape}", "square: a self map")
    return float(np.nanmean(values[~np.eye(len(values), dtype=bool)]))


def same_layer(values: np.ndarray) -> float:
    """Mean similarity of layers at equal depth of two networks of one architecture: the mean of the diagonal of a map
    [L, L]. Raises SettingsError for a map that is not square.
    """
    need(values.shape[0] == values.shape[1], "map", f"of shape {values.shape}", "of two networks with as many layers")
    return float(np.nanmean(values.diagonal()))


def thirds(values: np.ndarray) -> tuple[float, float]:
    """The means of the first third (early layers) and of the last third (deep layers) of a map's diagonal [L]."""
    diagonal = values.diagonal()
    n = max(1, len(diagonal) // 3)
    return float(np.nanmean(diagonal[:n])), float(np.nanmean(diagonal[-n:]))


def blocks(layers: Sequence) -> list[list[int]]:
    """The positions of the layers of each stage of a residual network. The stem counts to the first stage; the head is
    left out.
    """
    names = [layer.stage.partition(".")[0] for layer in layers]
    order = [name for name in dict.fromkeys(names) if name not in ("stem", "head")]
    return [[i for i, name in enumerate(names) if name == stage or (name == "stem" and stage == order[0])]
            for stage in order]


def block_index(values: np.ndarray, layers: Sequence) -> float:
    """How pronounced the blocks of a self map [L, L] are: the mean similarity of different layers within a stage
    (averaged over stages) minus the mean similarity of layers of adjacent stages (averaged over pairs of stages).
    Raises SettingsError for fewer than two stages.
    """
    stages = blocks(layers)
    need(len(stages) >= 2, "stages", len(stages), "at least 2 to have blocks")
    within = [mean_off_diagonal(values[np.ix_(own, own)]) for own in stages if len(own) > 1]
    between = [np.nanmean(values[np.ix_(a, b)]) for a, b in zip(stages, stages[1:], strict=False)]
    return float(np.mean(within) - np.mean(between))


def block_share(values: np.ndarray, layers: Sequence) -> float:
    """The block index divided by (1 - mean off the diagonal), because a self map that is bright everywhere has a small
    block index for that reason alone. Raises SettingsError as `block_index` does.
    """
    return block_index(values, layers) / (1 - mean_off_diagonal(values))


def by_distance(values: np.ndarray) -> np.ndarray:
    """Mean similarity of layers that are 1, 2, ..., L - 1 apart in a self map [L, L]: an array [L - 1]."""
    return np.array([np.nanmean(values.diagonal(d)) for d in range(1, len(values))])
