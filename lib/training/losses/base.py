"""The interface of the loop: the base class of all losses with its hooks, a loss that wraps another, and their inputs.
"""

# ruff: noqa: B027 (a hook does nothing unless a loss overrides it)

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lib.data import ImageSet
from lib.values.by_type import ByType
from lib.values.objectives import Objective

losses = ByType("loss")


def loss_for(objective: Objective) -> Loss:
    """A new loss for an objective, for the start of a training. Raises TypeError for a type without a loss."""
    return losses[objective](objective)


@dataclass(frozen=True)
class TrainingBatch:
    """The batch that a loss receives: augmented images, float32 [B, C, H, W] in [0, 1]; labels, int64 [B]; indices,
    int64 [B] (positions in the official split); the `Placement` of the augmentation; and the generator from which this
    step draws.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    placement: object
    generator: torch.Generator

    def take(self, count: int) -> TrainingBatch:
        """The first `count` images of the batch, without the record of the augmentation."""
        return TrainingBatch(self.images[:count], self.labels[:count], self.indices[:count], None, self.generator)


@dataclass(frozen=True)
class Progress:
    """The progress of training: epoch from 0, step (update) from 0 over all epochs, the share done in [0, 1), the
    precision, and the number of the replay of the batch, from 0.
    """

    epoch: int
    step: int
    share: float
    precision: str = "fp32"
    replay: int = 0


class Loss(ABC):
    """The quantity that updates minimise, for one training of one network. Every hook except the call itself does
    nothing by default. A loss takes random numbers only from the batch's generator.

    second_order: whether the loss differentiates a gradient, which torch.compile cannot do. replays: the number of
    updates on each batch.
    """

    second_order: bool = False
    replays: int = 1

    def __init__(self, spec: Objective):
        self.spec = spec

    @abstractmethod
    def __call__(self, net: nn.Module, batch: TrainingBatch, progress: Progress) -> tuple[Tensor, Tensor | None]:
        """The scalar to minimise, and the logits [B, classes] of the images trained on, for the running accuracy, or
        None if no classifier is trained.
        """

    def prepare(self, images: ImageSet, classes: int, scores: Tensor | None = None) -> None:
        """Called once before training, with the training images, the number of classes and, for an objective that
        needs scores, the result of `Zoo.targets`.
        """

    def with_parents(self, networks: Sequence[nn.Module]) -> None:
        """Called once before training: with the networks of the recipe's parents, in their order, if the objective
        attacks them, else with none.
        """

    def after_update(self, net: nn.Module, optimiser: torch.optim.Optimizer) -> None:
        """Called after every step of the optimiser, for losses that also change weights or masks themselves."""

    def end_epoch(self, net: nn.Module) -> dict:
        """Called after every epoch; returns columns for the epoch's row of the log."""
        return {}

    def acceptable(self, net: nn.Module) -> bool:
        """Whether the epoch that has just ended may be chosen."""
        return True

    def finish(self, net: nn.Module) -> None:
        """Called once, with the final weights in the network."""

    def state_dict(self) -> dict:
        """The state that a checkpoint needs so that a resumed training ends with the same weights: plain values and
        tensors.
        """
        return {}

    def load_state_dict(self, state: dict) -> None:
        """Restore a state from `state_dict`."""


class Wrapper(Loss):
    """A loss that wraps `inner`, the loss of its objective's inner objective. Every hook calls the inner one, so a hook
    that is overridden must call this class's hook too.
    """

    def __init__(self, spec: Objective):
        super().__init__(spec)
        self.inner = loss_for(spec.inner)

    @property
    def second_order(self) -> bool:
        return self.inner.second_order

    @property
    def replays(self) -> int:
        return self.inner.replays

    def prepare(self, images: ImageSet, classes: int, scores: Tensor | None = None) -> None:
        self.inner.prepare(images, classes, scores)

    def with_parents(self, networks: Sequence[nn.Module]) -> None:
        self.inner.with_parents(networks)

    def after_update(self, net: nn.Module, optimiser: torch.optim.Optimizer) -> None:
        self.inner.after_update(net, optimiser)

    def end_epoch(self, net: nn.Module) -> dict:
        return self.inner.end_epoch(net)

    def acceptable(self, net: nn.Module) -> bool:
        return self.inner.acceptable(net)

    def finish(self, net: nn.Module) -> None:
        self.inner.finish(net)

    def state_dict(self) -> dict:
        return {"inner": self.inner.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        self.inner.load_state_dict(state["inner"])
