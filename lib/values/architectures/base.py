"""The base of all architectures, and what decorates and checks them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from lib.errors import SettingsError, need
from lib.values.declared import Declared


class Architecture(Declared, ABC):
    """The structure of a network. Concrete architectures are frozen dataclasses; their bases have no fields, so keys
    depend on an architecture's own fields alone.
    """

    where = "arch"
    gives = "classes"  # the network's output: `classes` (logits), `images` or `denoised images`
    rectified = True  # whether the outputs of its stages come from a ReLU
    any_size = True  # whether the same network takes images of different sizes
    min_size = 1  # the smallest side of an image in pixels
    patch = 1  # a divisor of both sides of an image in pixels
    channels = True  # whether it has channels to prune
    reads_files = False  # whether it can take weights from other projects' files (lib/models/external.py)
    derived = False  # whether the network is assembled from trained ones
    stitched = False  # whether it is a front and an end with a joint between them
    frozen_front = False  # whether its first part is taken from another network and not trained
    matched = False  # whether, with two parents, it starts with a least-squares map between their activations

    @property
    @abstractmethod
    def name(self) -> str:
        """The network's name in logs and tables."""

    @property
    @abstractmethod
    def stages(self) -> tuple[str, ...]:
        """The names of the network's parts in order of computation; the last one of a classifier is its head."""

    @property
    def joints(self) -> tuple[str, ...]:
        """The stages after which networks can be cut and joined; their outputs are feature maps [B, C, H, W]."""
        return self.stages[:-1]

    @property
    def dense(self) -> Architecture:
        """The architecture without masks; itself, unless it is a pruned one."""
        return self

    @property
    def pruned(self) -> bool:
        """Whether masks remove weights."""
        return self.dense is not self

    def check(self, height: int, width: int) -> None:
        """Raise `SettingsError` unless the network takes images of `height` x `width` pixels."""
        size = f"{height}x{width} pixels"
        enough = min(height, width) >= self.min_size
        need(enough, "arch", self, f"a network for {size}; this one needs at least {self.min_size} a side")
        fits = height % self.patch == 0 and width % self.patch == 0
        need(fits, "arch.patch", self.patch, f"a divisor of both sides of {size}")

    def check_recipe(self, recipe) -> None:
        """Raise `SettingsError` unless a recipe (lib/values/recipe.py) of this architecture has suitable parents and
        images. Here: at most one parent, of the same architecture and number of classes, which is fine-tuned.
        """
        need(len(recipe.parents) <= 1, "parents", len(recipe.parents), "0 or 1 (fine-tuning)")
        self.check(*recipe.data.shape[1:])
        for parent in recipe.parents:
            check_images(recipe, parent)
            need(self == parent.arch, "arch", self, f"the parent's, {parent.arch}, for fine-tuning")
            check_classes(recipe, parent)

    def describe(self, recipe) -> str:
        """A few words for logs on how the recipe's network starts; "" if its parents say it."""
        return ""

    def halves(self, recipe) -> tuple[tuple[Any, slice], tuple[Any, slice]]:
        """The parts of a forward pass before and after the joint, each as the recipe of a network (trained from scratch
        or pruned) and a slice of its stages. Without a joint the first part is empty.
        """
        return (recipe, slice(0)), (recipe, slice(None))


def check_images(recipe, parent) -> None:
    """Raise `SettingsError` unless the parent's first stages take the recipe's images."""
    ours, theirs = recipe.data.info, parent.data.info
    need(ours.channels == theirs.channels, "data", recipe.data.name,
         f"a data set with the {theirs.channels} channel(s) that the parent on {parent.data.name} takes")
    height, width = size = parent.data.shape[1:]
    need(parent.arch.any_size or recipe.data.shape[1:] == size, "data", recipe.data.name,
         f"one of {height} x {width} pixels as the parent, {parent.arch.name} on {parent.data.name}, takes")
    need(ours.unit == theirs.unit, "data", recipe.data.name,
         f"a data set whose unit is {theirs.unit:g} pixels, as for the parent on {parent.data.name}")


def check_classes(recipe, parent) -> None:
    """Raise `SettingsError` unless the parent's head, which is kept, has as many classes as the recipe's data."""
    ours, theirs = recipe.data.info.classes, parent.data.info.classes
    if ours != theirs:
        raise SettingsError(f"data = {recipe.data.name} is not possible: its {ours} classes must be as many as "
                            f"the {theirs} of the parent on {parent.data.name}, whose head is kept")


def forwards(to: str, *names: str) -> Callable[[type], type]:
    """A class decorator: properties with these names return those of the value in the field `to`. It goes below
    `@dataclass`, which must run last because it determines which properties are still abstract.
    """

    def decorate(cls: type) -> type:
        for name in names:
            setattr(cls, name, property(lambda self, name=name: getattr(getattr(self, to), name)))
        return cls

    return decorate
