"""The processes that do one training together (lib/training/together.py), as each of them sees itself and the others.

The first process alone steps, measures and writes. The others give it their gradients and take its weights. So an
update comes out as if one process had taken the shares in turn, but for the rounding of a sum. torch's
DistributedDataParallel does the same for one forward pass an update; losses here make many, in train and eval mode.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._pytree import tree_map_only


@dataclass(frozen=True)
class Team:
    """This process, number `rank` of `size` that train together. Alone, its methods change nothing."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        return self.rank == 0

    def mine(self, shares: int) -> range:
        """The numbers of this process's shares; `size` divides their count."""
        each = shares // self.size
        return range(self.rank * each, (self.rank + 1) * each)

    def add_up(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor of the first process by its sum over all processes."""
        for some in self._by_type(tensors):
            flat = torch.cat([tensor.flatten() for tensor in some])
            dist.reduce(flat, 0)
            if self.first:
                _fill(some, flat)

    def follow(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by that of the first process."""
        for some in self._by_type(tensors):
            flat = torch.cat([tensor.flatten() for tensor in some])
            dist.broadcast(flat, 0)
            _fill(some, flat)

    def told(self, value: Any) -> Any:
        """The first process's value, in all; its tensors are on the CPU."""
        if self.size == 1:
            return value
        said = [_on_cpu(value) if self.first else None]
        dist.broadcast_object_list(said, 0)
        return said[0]

    def collected(self, mine: dict) -> dict:
        """In the first process the entries of all, with tensors on the CPU; in the others its own."""
        if self.size == 1:
            return mine
        every = [None] * self.size if self.first else None
        dist.gather_object(_on_cpu(mine), every)
        return {name: value for each in every or [mine] for name, value in each.items()}

    def _by_type(self, tensors: Iterable[Tensor]) -> list[list[Tensor]]:
        """The tensors in groups of one type, in an order that is the same in all processes; none for one process."""
        groups: dict[torch.dtype, list[Tensor]] = {}
        for tensor in tensors if self.size > 1 else ():
            groups.setdefault(tensor.dtype, []).append(tensor)
        return list(groups.values())


ALONE = Team()


def _on_cpu(value: Any) -> Any:
    """The value with its tensors on the CPU: elsewhere each process would open the device that another one has."""
    return tree_map_only(Tensor, Tensor.cpu, value)


@torch.no_grad()
def _fill(tensors: list[Tensor], flat: Tensor) -> None:
    for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))
