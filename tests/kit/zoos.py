"""A tiny zoo in a temporary store."""

from __future__ import annotations

import torch

from lib.papers.plan import plan
from lib.store import Store
from lib.training.zoo import Zoo


def tiny_zoo(folder, s, paper):
    """A zoo with its store in `folder`, on one thread, that trains only the networks in the paper's plan."""
    torch.set_num_threads(1)
    return Zoo(Store(folder), allowed={task.recipe.key for task in plan(s, (paper,))})
