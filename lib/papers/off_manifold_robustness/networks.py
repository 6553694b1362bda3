"""The networks that the paper on off-manifold robustness needs (Srinivas et al., NeurIPS 2023): for each data set one
without a regulariser, one for every regulariser and strength, a denoiser for the score, and an auto-encoder for tangent
spaces; and the networks for digits with a distractor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction

from lib.papers.off_manifold_robustness.settings import Distractor, Section, Sweep
from lib.profiles.networks import Denoiser, Networks, trained_as, varied
from lib.values.attacks import PGD, Attack
from lib.values.cell import Cell
from lib.values.data import Data
from lib.values.objectives import Adversarial, CrossEntropy, GradientNorm, Noise, Reconstruction, Smoothness
from lib.values.recipe import Recipe
from lib.values.threats import Threat

NONE, SCORE, MANIFOLD = "none", "score", "manifold"
POOL = {"N": "pool, normal", "R": "pool, robust", "U": "pool, untrained"}
STANDARD, PER_IMAGE, PER_BATCH, UNTRAINED = "standard", "robust, eps per image", "robust, eps per batch", "untrained"
SHAKE = 0.1  # standard deviation of the smoothness penalty's noise, as in the paper's experiments
# The strengths above which the paper cuts the learning rate, in proportion: its 0.01, 10 and 100 in our units.
LR_FALLS_FROM = {"gradient norm": 0.061, "smoothness": 10.0, "PGD": 8.84}


@dataclass(frozen=True)
class Condition:
    """What the networks of all repetitions have in common.

    where: the name of the sweep, or for the distractor of the data set. kind: a regulariser, `none`, a control, a kind
    of the pool (POOL), `score`, `manifold`, or a kind of network for the distractor. strength: in units of the data's
    own space. small: whether it takes only seconds to train, on closed forms or for the distractor.
    """

    where: str
    kind: str
    strength: float = 0
    small: bool = field(default=False, compare=False)

    def job(self, repetition: int) -> str:
        """The batch job: a repetition's networks with one regulariser; all its small networks are one job."""
        what = "generative" if self.kind in (SCORE, MANIFOLD) else f"{self.kind}-{repetition}"
        return f"{self.where}-{repetition if self.small else what}".replace(", ", "-").replace(" ", "-")


def unit(data: Data) -> Fraction:
    """The length, in pixels, of one unit of the data's own space: 1 for images."""
    return Fraction(data.info.unit) if data.info.closed else Fraction(1)


def l2_training(eps, steps: int, per: str = "image", batchnorm: str = "eval", **options) -> Adversarial:
    """Training on l2 PGD as in the paper's code: steps of length 2 eps / steps, a random start, and no clipping to [0,
    1]. With `per` batch, eps is the budget of the whole batch. The paper's code has BatchNorm in train mode in the
    attack.
    """
    eps = Fraction(eps).limit_denominator(10**9)
    return Adversarial(Threat("l2", eps, per, box=False), PGD(steps, 2 * eps / steps), batchnorm=batchnorm, **options)


def slowed(recipe: Recipe, kind: str, strength: float) -> Recipe:
    """The recipe with the learning rate that the paper has at a strength of a regulariser."""
    share = min(1.0, LR_FALLS_FROM.get(kind, math.inf) / strength)
    return replace(recipe, optimiser=replace(recipe.optimiser, lr=recipe.optimiser.lr * share))


@dataclass(frozen=True)
class SweepNetworks:
    """How the networks of a sweep are trained."""

    networks: Networks
    sweep: Sweep
    seed: Callable[[int], int]  # repetition -> seed of its recipes

    @property
    def data(self) -> Data:
        return self.sweep.data or self.networks.data

    def base(self, repetition: int) -> Recipe:
        """The network without a regulariser."""
        recipe = trained_as(self.networks.member("N", repetition, self.seed), self.sweep.training)
        recipe = replace(varied(recipe, self.sweep), seed=self.seed(repetition))
        return replace(recipe, precision="fp32") if self.data.info.closed else recipe

    def regularised(self, kind: str, strength: float, repetition: int) -> Recipe:
        """The network with a regulariser at a strength, in units of the data's own space."""
        recipe, pixels = self.base(repetition), unit(self.data)
        recipe = slowed(recipe, kind, strength) if self.sweep.reduced else recipe
        if kind == "gradient norm":  # a gradient per pixel is 1/unit times one per unit
            precision = "fp32" if self.data.info.closed else self.networks.second_order
            return replace(recipe, objective=GradientNorm(float(strength * pixels**2)), precision=precision)
        if kind == "smoothness":
            return replace(recipe, objective=Smoothness(strength, float(SHAKE * pixels)))
        if kind == "noise":
            return replace(recipe, objective=Noise(float(strength * pixels)))
        return replace(recipe, objective=l2_training(strength * pixels, self.sweep.attack_steps))

    def controls(self, repetition: int) -> dict[str, tuple[float, Recipe]]:
        """{control: (strength, recipe)}. per batch: a budget for the batch that gives each image the middle eps if they
        share it evenly. accumulated: at the middle eps. reduced lr, full lr: at the strongest gradient norm.
        """
        recipe, strengths, found = self.base(repetition), self.sweep.strengths, {}
        pixels, steps = unit(self.data), self.sweep.attack_steps
        if strengths.pgd:
            middle = strengths.pgd[len(strengths.pgd) // 2]
            shared = l2_training(middle * recipe.batch_size**0.5 * pixels, steps, "batch", "train")
            summed = l2_training(middle * pixels, steps, batchnorm="train", accumulated=True)
            found["per batch"] = middle, replace(recipe, objective=shared)
            found["accumulated"] = middle, replace(recipe, objective=summed)
        if strengths.gradient_norm:
            most = strengths.gradient_norm[-1]
            strong = self.regularised("gradient norm", most, repetition)
            full = replace(strong, optimiser=recipe.optimiser)
            found |= {"full lr": (most, full), "reduced lr": (most, slowed(full, "gradient norm", most))}
        return {name: found[name] for name in self.sweep.controls}

    def autoencoder(self) -> Recipe | None:
        """The sweep's auto-encoder; None unless tangent spaces come from a decoder."""
        how = self.sweep.autoencoder
        return how and replace(trained_as(self.base(0), how), data=how.data or self.data, arch=how.arch,
                               objective=Reconstruction(), batch_size=how.batch_size, augment="none")

    @property
    def denoising(self) -> Denoiser | None:
        """Settings of the denoiser, the sweep's own or the pool's; None if the score is known in closed form."""
        return None if self.data.info.closed else self.sweep.denoiser or self.networks.denoiser

    def denoiser(self) -> Recipe | None:
        """Recipe of the denoiser that gives the score; None if the score is known in closed form."""
        how = self.denoising
        return how and how.recipe(self.data, self.networks.precision, self.seed(0))


def cells(networks: Networks, section: Section, seed: Callable[[int], int]) -> list[Cell]:
    """All networks, first those with which others are measured."""
    sweeps = [SweepNetworks(networks, sweep, seed) for sweep in section.sweeps]
    found = [cell for of in sweeps for cell in _generative(of)]
    for repetition in range(max(section.seeds, section.letters)):
        for of in sweeps if repetition < section.seeds else ():
            for kind, strength, recipe in _swept(of, repetition):
                condition = Condition(of.sweep.name, kind, strength, small=of.data.info.closed)
                found.append(Cell(condition, repetition, recipe, _gates(networks, section, kind)))
        if section.distractor and repetition < section.letters:
            found += _distracted(networks, section.distractor, repetition, seed)
    return found


def _gates(networks: Networks, section: Section, kind: str) -> tuple[tuple[Threat, Attack], ...]:
    """The threat and the attack by which a pool's network of a kind is checked."""
    attack = {POOL["N"]: section.search, POOL["R"]: section.verify}.get(kind)
    return ((networks.threat, attack),) if attack else ()


def _generative(of: SweepNetworks) -> Iterator[Cell]:
    """The auto-encoder and the denoiser of a sweep."""
    for kind, recipe in ((MANIFOLD, of.autoencoder()), (SCORE, of.denoiser())):
        if recipe:
            yield Cell(Condition(of.sweep.name, kind), 0, recipe)


def _swept(of: SweepNetworks, repetition: int) -> Iterator[tuple[str, float, Recipe]]:
    """(kind, strength, recipe) of one repetition of a sweep: untrained, without regulariser, all strengths, controls
    and, on the pool's data, the pool's networks.
    """
    base = of.base(repetition)
    yield UNTRAINED, 0, replace(base, epochs=0)
    yield NONE, 0, base
    for kind, strengths in of.sweep.strengths.of.items():
        for strength in strengths:
            yield kind, strength, of.regularised(kind, strength, repetition)
    for kind, (strength, recipe) in of.controls(repetition).items():
        yield kind, strength, recipe
    if of.sweep.data is None:
        for kind, name in POOL.items():
            yield name, 0, of.networks.member(kind, repetition, of.seed)


def _distracted(networks: Networks, how: Distractor, repetition: int, seed: Callable[[int], int]) -> Iterator[Cell]:
    """One repetition of the networks for digits with a letter."""
    steps = how.attack_steps
    trained = {STANDARD: (0, CrossEntropy()), PER_IMAGE: (how.per_image, l2_training(how.per_image, steps)),
               PER_BATCH: (how.per_batch, l2_training(how.per_batch, steps, "batch", "train"))}
    for data in how.data:
        recipe = replace(trained_as(networks.member("N", repetition, seed), how.training), data=data, arch=how.arch,
                         batch_size=how.batch_size, augment="none", seed=seed(repetition))
        yield Cell(Condition(data.name, UNTRAINED), repetition, replace(recipe, epochs=0))
        for kind, (strength, objective) in trained.items():
            condition = Condition(data.name, kind, strength, small=True)
            yield Cell(condition, repetition, replace(recipe, objective=objective))
