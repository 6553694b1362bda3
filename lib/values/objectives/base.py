"""The base of all objectives: what an objective wraps, what it requires of a recipe, and what it costs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

from lib.errors import need
from lib.values.declared import Declared
from lib.values.keys import kinds_of


class Passes(NamedTuple):
    """The cost of an objective per image and epoch: updates (forward pass, gradients of images and weights), forward
    passes, and attack steps (forward pass, gradient of the image).
    """

    updates: float
    forwards: float = 0
    attacks: float = 0


class Objective(Declared, ABC):
    """What training minimises. Each objective is a frozen dataclass that derives from this class and defines `passes`;
    its loss registers itself for the type (lib/training/losses). This class has no fields, so keys depend on an
    objective's own fields alone.
    """

    where = "objective"
    inner: ClassVar[Objective | None] = None  # the objective that this one wraps
    needs_scores: ClassVar[bool] = False  # whether it takes class scores from the recipe's one source, a denoiser
    replays: ClassVar[int] = 1  # updates per batch
    attacks_parents: ClassVar[bool] = False  # whether it attacks the networks of the recipe's parents
    in_shares: ClassVar[bool] = True  # whether updates can be made of the shares of a batch (Recipe.shares)

    @abstractmethod
    def passes(self, classes: int, batch_size: int) -> Passes:
        """The cost per image and epoch, averaged over all epochs. Other operations count as passes of the same cost:
        differentiating a gradient once more counts as another update.
        """

    def relus(self, batch_size: int) -> float:
        """Updates per image and epoch, in addition to `passes`, for each unstable ReLU of an image."""
        return 0

    @classmethod
    def alone_trains(cls, recipe) -> str:
        """The allowed objective in errors (`Denoising for U-Net`) if only this one can train the recipe's network;
        otherwise "".
        """
        return ""

    def check(self, recipe) -> None:
        """Raise SettingsError unless this objective (the recipe's own or one that it wraps) can train the recipe's
        network, given its architecture, parents, sources and classes. Not called if nothing is trained.
        """
        own = type(recipe.objective)
        for kind in kinds_of(Objective):
            allowed = kind.alone_trains(recipe)
            need(kind is own or not allowed, "objective", own.__name__, allowed)

    def describe(self) -> str:
        """A few words for logs, on one line."""
        return type(self).__name__.lower()


class Wrapping(Objective):
    """An objective that wraps the one in its field `objective`, whose cost and requirements it has by default."""

    @property
    def inner(self) -> Objective:
        return self.objective

    def passes(self, classes: int, batch_size: int) -> Passes:
        return self.inner.passes(classes, batch_size)

    def relus(self, batch_size: int) -> float:
        return self.inner.relus(batch_size)

    def check(self, recipe) -> None:
        super().check(recipe)
        self.inner.check(recipe)
