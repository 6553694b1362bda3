"""A pool of images under attack, the common ground of all searches for adversarial images.

All its images are searched in step; at each step those still standing are packed into full batches, so a broken image
costs nothing from the step at which it breaks.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lib.attacks.pgd import adversarial_loss, input_gradient
from lib.attacks.threat import ball_noise, random_start
from lib.runtime import generator
from lib.threats import Threat


class AllBroken(Exception):
    """No image of the pool is standing: the end of a search, not a fault."""


class Pool:
    """A pool of images under attack: which are broken, by what, and the gradients for those that still stand.

    A `row` is a position in the pool. Forward passes run in batches of `batch_size`, channels_last. With precision bf16
    gradients and the hit test of a step use bf16 logits, but an image is broken only when an fp32 forward confirms it.
    """

    def __init__(self, net: nn.Module, images: Tensor, labels: Tensor, threat: Threat, indices: Tensor,
                 seed_parts: tuple, batch_size: int, precision: str):
        self.net, self.images, self.labels, self.threat = net, images, labels, threat
        self.indices, self.seed_parts = indices, seed_parts
        self.batch_size, self.precision = batch_size, precision
        self.broken = torch.zeros(len(images), dtype=torch.bool, device=images.device)
        self.adversarial = images.clone()

    @property
    def standing(self) -> Tensor:
        """The rows not yet broken, in order."""
        return (~self.broken).nonzero().squeeze(1)

    def start(self, rows: Tensor, *parts) -> Tensor:
        """Random starts for the rows, each drawn from (seed_parts, parts, index of the image) alone."""
        x = self.images[rows]
        shape = (1, *x.shape[1:])
        noise = [ball_noise(self.threat.norm, shape, generator(*self.seed_parts, *parts, index))
                 for index in self.indices[rows].tolist()]
        return random_start(x, self.threat, torch.cat(noise)) if noise else x

    def network(self, x: Tensor) -> Tensor:
        """fp32 logits of one batch; differentiable."""
        return self.net(x.contiguous(memory_format=torch.channels_last))

    @torch.no_grad()
    def logits(self, x: Tensor) -> Tensor:
        """fp32 logits [n, K] of images [n, C, H, W], batch by batch."""
        parts = [self.network(x[i:i + self.batch_size]) for i in range(0, max(len(x), 1), self.batch_size)]
        return torch.cat(parts)

    def confirm(self, x_adv: Tensor, rows: Tensor) -> None:
        """Mark as broken the rows whose image in `x_adv` [len(rows), C, H, W] is misclassified in fp32."""
        if len(rows):
            self._record(x_adv, rows, self.logits(x_adv).argmax(1) != self.labels[rows])

    def _record(self, x_adv: Tensor, rows: Tensor, hit: Tensor) -> None:
        self.broken[rows[hit]] = True
        self.adversarial[rows[hit]] = x_adv[hit]

    def gradient(self, x_adv: Tensor, rows: Tensor, loss: str, targets: Tensor | None = None,
                 reference: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Logits [n, K], losses [n] and input gradients at the iterates `x_adv` [n, C, H, W] of `rows` [n]; hits are
        recorded.

        Rows already broken are not computed; theirs are zeros. Raises AllBroken when none is left.
        """
        left = (~self.broken[rows]).nonzero().squeeze(1)
        if not len(left):
            raise AllBroken
        grad, logits, losses = torch.zeros_like(x_adv), [], []
        for i in range(0, len(left), self.batch_size):
            part = left[i:i + self.batch_size]
            at = [None if t is None else t[part] for t in (targets, reference)]
            values = input_gradient(
                self.net, x_adv[part].contiguous(memory_format=torch.channels_last),
                lambda z, y=self.labels[rows[part]], at=at: adversarial_loss(loss, z, y, *at), self.precision)
            logits.append(values[0])
            losses.append(values[1])
            grad[part] = values[2]
        logits, losses = torch.cat(logits), torch.cat(losses)
        hit = logits.argmax(1) != self.labels[rows[left]]
        if self.precision == "fp32":
            self._record(x_adv[left], rows[left], hit)
        else:
            self.confirm(x_adv[left[hit]], rows[left[hit]])
        return (logits.new_zeros(len(rows), logits.shape[1]).index_copy_(0, left, logits),
                losses.new_zeros(len(rows)).index_copy_(0, left, losses), grad)
