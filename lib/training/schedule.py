"""Learning rates, optimisers and the moving average of weights."""

from __future__ import annotations

import copy
import math

import torch
from torch import nn

from lib.values.recipe import Optimiser, Schedule


def learning_rate(schedule: Schedule, peak: float, share: float) -> float:
    """The learning rate after the share `share`, in [0, 1), of training; `peak` is the largest rate."""
    if schedule.period:
        period = float(schedule.period)
        share = (share + 1e-9) % period / period  # the slack keeps a new start from being late by one step
    if schedule.name == "constant":
        return peak
    if schedule.name == "piecewise":
        # the small slack keeps a drop at exactly 1/3 of the steps, where float rounding could be late by one step
        return peak * 0.1 ** sum(share + 1e-9 >= float(d) for d in schedule.drops)
    if schedule.name == "onecycle":
        up = schedule.warmup
        return peak * (share / up if share < up else (1 - share) / (1 - up))
    left = 1 - share if schedule.name == "linear" else 0.5 * (1 + math.cos(math.pi * share))
    return peak * (schedule.final + (1 - schedule.final) * left)


def make_optimiser(spec: Optimiser, named) -> torch.optim.Optimizer | None:
    """SGD or Adam with L2 weight decay for the learnable ones of the (name, parameter) pairs `named`; parameters named
    in `spec.no_decay` do not decay. None if nothing is learnable.
    """
    learning = [(name.rpartition(".")[2], p) for name, p in named if p.requires_grad]
    if not learning:
        return None
    free = [p for name, p in learning if name in spec.no_decay]
    groups = [{"params": [p for name, p in learning if name not in spec.no_decay]}]
    groups += [{"params": free, "weight_decay": 0.0}] if free else []
    if spec.name == "adam":
        return torch.optim.Adam(groups, lr=spec.lr, weight_decay=spec.weight_decay)
    return torch.optim.SGD(
        groups,
        lr=spec.lr,
        momentum=spec.momentum,
        weight_decay=spec.weight_decay,
        nesterov=spec.nesterov and spec.momentum > 0,
    )


class Average:
    """An exponential moving average of a network's weights and BatchNorm statistics, in `net`.

    The decay at update t (from 0) is min(decay, (1 + t) / (10 + t)), so the first, untrained weights are soon
    forgotten.
    """

    def __init__(self, live: nn.Module, decay: float):
        self.net, self.decay = copy.deepcopy(live).requires_grad_(False), decay
        pairs = list(zip(self.net.state_dict().values(), live.state_dict().values(), strict=True))
        self.moving = [pair for pair in pairs if pair[0].is_floating_point()]
        self.counters = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def follow(self, update: int) -> None:
        """Include the live network's state after update number `update` in the average."""
        weight = 1 - min(self.decay, (1 + update) / (10 + update))
        torch._foreach_lerp_([mine for mine, _ in self.moving], [theirs for _, theirs in self.moving], weight)
        for mine, theirs in self.counters:
            mine.copy_(theirs)
