"""What the loop calls: the base class of all losses with its hooks, a loss around another, and what both are given."""

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
    """A new loss for an objective, as training starts with it. Raises TypeError for a type without a loss."""
    return losses[objective](objective)


@dataclass(frozen=True)
class TrainingBatch:
    """What a loss sees: augmented images float32 [B,C,H,W] in [0, 1], labels int64 [B], indices int64 [B] (positions
    in the official split), what the augmentation did, and the generator this step draws from.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    placement: object
    generator: torch.Generator

    def take(self, count: int) -> TrainingBatch:
        """The first `count` images of the batch; the augmentation's record is left out."""
        return TrainingBatch(self.images[:count], self.labels[:count], self.indices[:count], None, self.generator)


@dataclass(frozen=True)
class Progress:
    """Where training stands: epoch from 0, step (update) from 0 over all epochs, the share done in [0, 1), and which
    replay of the batch this is, from 0.
    """

    epoch: int
    step: int
    share: float
    precision: str = "fp32"
    replay: int = 0


class Loss(ABC):
    """What an update minimises, for one training of one network. Every hook but the call itself has a default that does
    nothing; a loss that draws, draws from the batch's generator alone.

    second_order: whether the loss differentiates a gradient, which torch.compile cannot do. replays: updates that are
    made on each batch.
    """

    second_order: bool = False
    replays: int = 1

    def __init__(self, spec: Objective):
        self.spec = spec

    @abstractmethod
    def __call__(self, net: nn.Module, batch: TrainingBatch, progress: Progress) -> tuple[Tensor, Tensor | None]:
        """The scalar to minimise, and the logits [B, classes] of the images it trained on, for the running accuracy;
        None in their place from a loss that trains no classifier.
        """

    def prepare(self, images: ImageSet, classes: int, scores: Tensor | None = None) -> None:
        """Called once before training, with the training images, the number of classes, and what `Zoo.targets` gives
        for an objective that needs scores.
        """

    def with_parents(self, networks: Sequence[nn.Module]) -> None:
        """Called once before training, with the networks of the recipe's parents, in their order, for an objective that
        attacks them; with none for others.
        """

    def after_update(self, net: nn.Module, optimiser: torch.optim.Optimizer) -> None:
        """Called after every step of the optimiser, for what changes weights or masks besides it."""

    def end_epoch(self, net: nn.Module) -> dict:
        """Called after every epoch: columns for the epoch's row of the log."""
        return {}

    def acceptable(self, net: nn.Module) -> bool:
        """Whether the epoch that has just ended may be chosen."""
        return True

    def finish(self, net: nn.Module) -> None:
        """Called once, with the final weights in the network."""

    def state_dict(self) -> dict:
        """What a checkpoint has to hold so that a killed training ends with the same weights: plain values, tensors."""
        return {}

    def load_state_dict(self, state: dict) -> None:
        """Take up a state that `state_dict` gave."""


class Wrapper(Loss):
    """A loss around another, `inner`, that of the objective inside its own. Every hook is passed on to it, so one that
    is overridden calls that of this class too.
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
        self.inner.load_state_dict(state.get("inner") or {})  # older checkpoints have none where there is no state
