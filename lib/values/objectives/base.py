"""What every objective says of itself: what it is around, what it needs of a recipe, what it costs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

from lib.errors import need
from lib.values.declared import Declared
from lib.values.keys import kinds_of


class Passes(NamedTuple):
    """What an objective asks of an image in an epoch: updates (forward, gradients for images and weights), forward
    passes, attack steps (forward, gradient for the image).
    """

    updates: float
    forwards: float = 0
    attacks: float = 0


class Objective(Declared, ABC):
    """What a training minimises. Each objective is a frozen dataclass that derives from this class and says `passes`;
    its loss registers itself for the type (lib/training/losses). There are no fields here, so that keys are made of the
    objective's own alone.
    """

    where = "objective"
    inner: ClassVar[Objective | None] = None  # the objective that this one is around
    needs_scores: ClassVar[bool] = False  # whether the recipe has one source, a denoiser, that class scores are of
    replays: ClassVar[int] = 1  # updates that a batch serves for
    attacks_parents: ClassVar[bool] = False  # whether it makes images that fool the networks of the recipe's parents

    @abstractmethod
    def passes(self, classes: int, batch_size: int) -> Passes:
        """The passes per image and epoch, averaged over all epochs, for so many classes and images a batch. Terms that
        are not passes count as what costs as much: differentiating a gradient once more as another update.
        """

    @classmethod
    def alone_trains(cls, recipe) -> str:
        """What a recipe is told that has another objective but a network that only this one trains (`Denoising for
        U-Net`); empty where others train it too.
        """
        return ""

    def check(self, recipe) -> None:
        """Raise SettingsError unless this objective, the recipe's own or the one inside it, can train the recipe's
        network: its architecture, parents, sources and classes. Not called where nothing is trained.
        """
        own = type(recipe.objective)
        for kind in kinds_of(Objective):
            allowed = kind.alone_trains(recipe)
            need(kind is own or not allowed, "objective", own.__name__, allowed)

    def describe(self) -> str:
        """A few words for logs, on one line."""
        return type(self).__name__.lower()


class Wrapping(Objective):
    """An objective around the one in its field `objective`: unless it says otherwise it costs as much and needs what
    that one needs.
    """

    @property
    def inner(self) -> Objective:
        return self.objective

    def passes(self, classes: int, batch_size: int) -> Passes:
        return self.inner.passes(classes, batch_size)

    def check(self, recipe) -> None:
        super().check(recipe)
        self.inner.check(recipe)
