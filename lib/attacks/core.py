"""The ascent that every PGD shares: in training and in the search of an evaluation, on pixels and on scenes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lib.attacks import perceptual
from lib.attacks.geometry import ball_noise, project, random_start, start_noise, step
from lib.values.attacks import PGD
from lib.values.threats import Threat

Scene = dict[str, Tensor]


class Perturbed(ABC):
    """Images [B, C, H, W] in [0, 1] that an adversary changes within `threat`. A point is the adversary's position: the
    changed images themselves, or the scene from which they are rendered.
    """

    def __init__(self, images: Tensor, threat: Threat):
        self.images, self.threat = images, threat

    @abstractmethod
    def draw(self, generator: torch.Generator) -> Tensor | Scene:
        """Noise to start from, drawn for all images together."""

    @abstractmethod
    def draw_each(self, generators: Sequence[torch.Generator]) -> Tensor | Scene:
        """Noise to start from, drawn for each image from its own generator."""

    @abstractmethod
    def start(self, noise: Tensor | Scene | None) -> Tensor | Scene:
        """The point where an attack starts; without noise, the unchanged images (scenes always need noise)."""

    @abstractmethod
    def show(self, point: Tensor | Scene) -> Tensor:
        """The images [B, C, H, W] at a point."""

    @abstractmethod
    def step(self, point: Tensor | Scene, gradient: Tensor, size: float) -> Tensor | Scene:
        """The point after a step of length `size` uphill and the projection back into the threat. `gradient`
        [B, C, H, W] is the gradient at the images that the point shows.
        """

    @abstractmethod
    def keep(self, rows: Tensor, point: Tensor | Scene) -> tuple[Perturbed, Tensor | Scene]:
        """Only the images whose entry of `rows` (bool [B]) is true, and their point."""


class Pixels(Perturbed):
    """The adversary moves pixels: a point is a batch of images, and noise is in units of eps."""

    def draw(self, generator: torch.Generator) -> Tensor:
        return start_noise(self.threat, self.images.shape, generator)

    def draw_each(self, generators: Sequence[torch.Generator]) -> Tensor:
        shape = (1, *self.images.shape[1:])
        return torch.cat([ball_noise(self.threat.norm, shape, own) for own in generators])

    def start(self, noise: Tensor | None) -> Tensor:
        return self.images if noise is None else random_start(self.images, self.threat, noise)

    def show(self, point: Tensor) -> Tensor:
        return point

    def step(self, point: Tensor, gradient: Tensor, size: float) -> Tensor:
        return project(step(point, gradient, size, self.threat), self.images, self.threat)

    def keep(self, rows: Tensor, point: Tensor) -> tuple[Pixels, Tensor]:
        return Pixels(self.images[rows], self.threat), point[rows]


class Scenes(Perturbed):
    """The adversary moves the latent of a scene (see lib/attacks/perceptual.py): points and noise are scenes."""

    def draw(self, generator: torch.Generator) -> Scene:
        return perceptual.draw(self.threat, self.images.shape, generator)

    def draw_each(self, generators: Sequence[torch.Generator]) -> Scene:
        return perceptual.draw_each(self.threat, self.images.shape, generators)

    def start(self, noise: Scene) -> Scene:
        return {name: part.to(self.images.device) for name, part in noise.items()}

    def show(self, point: Scene) -> Tensor:
        return perceptual.render(self.images, point, self.threat)

    def step(self, point: Scene, gradient: Tensor, size: float) -> Scene:
        return perceptual.ascend_scene(self.images, point, gradient, size, self.threat)

    def keep(self, rows: Tensor, point: Scene) -> tuple[Scenes, Scene]:
        return Scenes(self.images[rows], self.threat), {name: part[rows] for name, part in point.items()}


def perturbed(images: Tensor, threat: Threat) -> Perturbed:
    """The images [B, C, H, W] in [0, 1] with the moves of an adversary of `threat`."""
    return (Scenes if threat.perceptual else Pixels)(images, threat)


def ascend(moved: Perturbed, point: Tensor | Scene, gradient: Callable[[Tensor], tuple[Tensor, Tensor | None]],
           attack: PGD) -> Tensor:
    """The images [n, C, H, W] after all steps of `attack` uphill from `point`. `gradient` maps the images shown,
    [B, C, H, W], to their gradients and to the images that go on (bool [B]; None: all); the others are dropped.
    """
    for _ in range(attack.steps):
        uphill, standing = gradient(moved.show(point))
        if standing is not None:
            (moved, point), uphill = moved.keep(standing, point), uphill[standing]
        point = moved.step(point, uphill, float(attack.step_size))
    return moved.show(point)
