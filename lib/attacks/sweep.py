"""Searches at growing budgets, which show at which budget each image breaks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lib.attacks.search import break_images
from lib.errors import need
from lib.values.attacks import Attack
from lib.values.threats import Threat


def sweep(net: nn.Module, images: Tensor, labels: Tensor, threats: Sequence[Threat], attacks: Sequence[Attack],
          indices: Tensor, seed_parts: tuple = (), **options) -> Tensor:
    """Whether image i is broken by attack t within threat t, or by an earlier attack within a smaller one: bool [T, N].

    An image broken at a small budget counts as broken at every larger one and is not attacked again, so each row
    includes the rows before it, and cost falls as the budget grows. Every threat has its own attack because step sizes
    depend on the budget. images [N, C, H, W], labels, indices and `options` (all but keep_images) are as for
    `break_images`. Raises SettingsError unless the threats have one norm and growing eps, and each has its attack.
    """
    need(len(attacks) == len(threats), "number of attacks", len(attacks), f"{len(threats)}, one for every threat")
    budgets = [threat.eps for threat in threats]
    need(len({threat.norm for threat in threats}) <= 1, "threats", [t.norm for t in threats], "of one norm")
    need(budgets == sorted(budgets), "eps of the threats", [str(eps) for eps in budgets], "growing")
    broken = torch.zeros(len(threats), len(images), dtype=torch.bool, device=images.device)
    standing = torch.arange(len(images), device=images.device)
    for row, (threat, attack) in enumerate(zip(threats, attacks, strict=True)):
        hit = break_images(net, images[standing], labels[standing], threat, attack, indices[standing], seed_parts,
                           keep_images=False, **options).broken
        broken[row:, standing[hit]] = True
        standing = standing[~hit]
    return broken
