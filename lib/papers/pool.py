"""The common pool: normal and robust networks that all six notebooks share, and their untrained twins."""

from __future__ import annotations

from dataclasses import dataclass, replace

from lib.papers.settings import Settings
from lib.profiles.networks import Denoiser, Pretraining, Training, objective
from lib.values.data import Data
from lib.values.objectives import CrossEntropy, Denoising
from lib.values.recipe import Recipe


@dataclass(frozen=True)
class Member:
    """One network of the pool; kind `N` (normal), `R` (robust) or `U` (untrained); `seed` counts repetitions from 0."""

    kind: str
    seed: int
    recipe: Recipe


def member(settings: Settings, kind: str, seed: int) -> Member:
    """The pool's network of a kind and a seed; seeds beyond the pool's count wrap around (R1 and R2 of a pair)."""
    n = settings.networks
    sizes = n.robust if kind == "R" else n.normal
    if kind != "U":
        seed %= sizes.count
    recipe = Recipe(
        data=n.data,
        arch=n.arch,
        objective=objective(n, sizes.attack if kind == "R" else None),
        epochs=0 if kind == "U" else sizes.epochs,
        optimiser=sizes.optimiser,
        schedule=sizes.schedule,
        batch_size=n.batch_size,
        augment=n.augment,
        precision=n.precision,
        seed=settings.seed(seed),
    )
    return Member(kind, seed, recipe)


def pool(settings: Settings) -> list[Member]:
    """Every trained network of the pool, normal and robust alternating so that an interrupted run has pairs."""
    n = settings.networks
    wanted = [
        (kind, seed)
        for seed in range(max(n.normal.count, n.robust.count))
        for kind, sizes in (("N", n.normal), ("R", n.robust))
        if seed < sizes.count
    ]
    return [member(settings, kind, seed) for kind, seed in wanted]


def trained_as(recipe: Recipe, training: Training) -> Recipe:
    """The recipe with the epochs, the optimiser and the schedule of the settings."""
    return replace(recipe, epochs=training.epochs, optimiser=training.optimiser, schedule=training.schedule)


def warmed_up(recipe: Recipe, training: Pretraining | None) -> Recipe:
    """The training, started from a network that saw clean images for its `warm_up` epochs (0: from scratch)."""
    if training is None or not training.warm_up:
        return recipe
    return replace(recipe, parents=(replace(recipe, objective=CrossEntropy(), epochs=training.warm_up),))


def denoiser(settings: Settings, data: Data, how: Denoiser) -> Recipe:
    """The class-conditional denoiser of a data set, which gives scores with and without a class."""
    recipe = Recipe(data=how.data or data, arch=how.arch, objective=Denoising(how.low, how.high, how.label_dropout),
                    batch_size=how.batch_size, precision=settings.networks.precision, ema=how.ema,
                    seed=settings.seed(0))
    return trained_as(recipe, how)
