"""A pool of images under attack, which all searches for adversarial images share.

All images of a pool take every step together. At each step those still standing are packed into full batches, so an
image costs nothing once it is broken.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lib.attacks.core import Pixels
from lib.attacks.pgd import adversarial_loss, input_gradient
from lib.door import correct
from lib.runtime import autocast, generator
from lib.values.by_type import ByType
from lib.values.threats import Threat


class AllBroken(Exception):
    """No image of the pool is standing: the end of a search, not a fault."""


@dataclass(frozen=True)
class Stage:
    """A part of an attack, run on all survivors of the part before it. `run` searches a pool of at most `batches`
    batches (None: the device's usual number). `name` appears in tables as what broke an image.
    """

    name: str
    run: Callable[[Pool], None]
    batches: int | None = None


# The type of an attack -> a function (attack, threat, number of classes) that gives the stages of its search in order.
stages = ByType("search")


@torch.no_grad()
def logits(net: nn.Module, x: Tensor, batch_size: int, precision: str = "fp32") -> Tensor:
    """Logits [n, K], as fp32, of images [n, C, H, W] in [0, 1], computed batch by batch."""
    with autocast(x.device, precision):
        return torch.cat([net(part.contiguous(memory_format=torch.channels_last)).float()
                          for part in x.split(batch_size)])


class Pool:
    """Images [n, C, H, W] in [0, 1] under attack: which of them are broken (`broken`, bool [n]), the images that broke
    them (`adversarial`), and gradients for those that still stand.

    A `row` is a position in the pool; `indices` [n] are the images' positions in their split. Forward passes run in
    batches of `batch_size`, channels_last. With precision bf16 or tf32 a search uses such logits and gradients, but an
    image is broken only when an fp32 forward pass confirms it. `clean` [n, K]: the fp32 logits of the clean images, for
    attacks that need them. `targets` [n]: the classes that a targeted attack aims at.
    """

    def __init__(self, net: nn.Module, images: Tensor, labels: Tensor, threat: Threat, indices: Tensor,
                 seed_parts: tuple, batch_size: int, precision: str, clean: Tensor | None = None,
                 targets: Tensor | None = None):
        self.net, self.images, self.labels, self.threat = net, images, labels, threat
        self.indices, self.seed_parts = indices, seed_parts
        self.batch_size, self.precision = batch_size, precision
        self.clean, self.targets = clean, targets
        self.broken = torch.zeros(len(images), dtype=torch.bool, device=images.device)
        self.adversarial = images.clone()

    @property
    def standing(self) -> Tensor:
        """The rows not yet broken, in order."""
        return (~self.broken).nonzero().squeeze(1)

    def generators(self, rows: Tensor, *parts) -> list[torch.Generator]:
        """A generator for each row, seeded by (seed_parts, parts, index of the image) alone."""
        return [generator(*self.seed_parts, *parts, index) for index in self.indices[rows].tolist()]

    def start(self, rows: Tensor, *parts) -> Tensor:
        """Random starts [n, C, H, W] for the rows [n], each drawn from (seed_parts, parts, index of the image) only."""
        moved = Pixels(self.images[rows], self.threat)
        return moved.start(moved.draw_each(self.generators(rows, *parts)))

    def target_of_rank(self, rows: Tensor, rank: int) -> Tensor:
        """For each row [n] the wrong class with the `rank`-th largest clean logit (rank 1: the largest): int64 [n]."""
        others = self.clean[rows].scatter(1, self.labels[rows, None], float("-inf"))
        return others.argsort(dim=1, descending=True, stable=True)[:, rank - 1]

    def logits(self, x: Tensor, precision: str = "fp32") -> Tensor:
        """Logits [n, K], as fp32, of images [n, C, H, W], without gradients."""
        return logits(self.net, x, self.batch_size, precision)

    def confirm(self, x_adv: Tensor, rows: Tensor) -> None:
        """Mark as broken the rows whose image in `x_adv` [len(rows), C, H, W] is misclassified in fp32."""
        if len(rows):
            self.record(x_adv, rows, ~correct(self.logits(x_adv), self.labels[rows]))

    def record(self, x_adv: Tensor, rows: Tensor, hit: Tensor) -> None:
        """Mark as broken the rows whose entry of `hit` (bool [len(rows)]) is true, and keep their images of `x_adv`."""
        self.broken[rows[hit]] = True
        self.adversarial[rows[hit]] = x_adv[hit]

    def judge(self, x_adv: Tensor, rows: Tensor, logits: Tensor) -> None:
        """`record` the rows that these logits of a search misclassify, unless it is in fp32 only when confirmed."""
        hit = ~correct(logits, self.labels[rows])
        if self.precision == "fp32":
            self.record(x_adv, rows, hit)
        else:
            self.confirm(x_adv[hit], rows[hit])

    def gradient(self, x_adv: Tensor, rows: Tensor, loss: str, targets: Tensor | None = None,
                 reference: Tensor | None = None, judge: bool = True) -> tuple[Tensor, Tensor, Tensor]:
        """Logits [n, K], losses [n] and input gradients [n, C, H, W] at the iterates `x_adv` [n, C, H, W] of `rows`
        [n]. `judge`: whether misclassified iterates are recorded, which is right only if they lie within the threat.

        Rows already broken are skipped: their entries are zeros. Raises AllBroken when no row is left.
        """
        left = (~self.broken[rows]).nonzero().squeeze(1)
        if not len(left):
            raise AllBroken
        grad, logits, losses = torch.zeros_like(x_adv), [], []
        for part in left.split(self.batch_size):
            at = [None if t is None else t[part] for t in (targets, reference)]
            values = input_gradient(
                self.net, x_adv[part].contiguous(memory_format=torch.channels_last),
                lambda z, y=self.labels[rows[part]], at=at: adversarial_loss(loss, z, y, *at), self.precision)
            logits.append(values[0])
            losses.append(values[1])
            grad[part] = values[2]
        logits, losses = torch.cat(logits), torch.cat(losses)
        if judge:
            self.judge(x_adv[left], rows[left], logits)
        return (logits.new_zeros(len(rows), logits.shape[1]).index_copy_(0, left, logits),
                losses.new_zeros(len(rows)).index_copy_(0, left, losses), grad)
