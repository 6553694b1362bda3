"""The networks of the notebook on off-manifold robustness (Srinivas et al., NeurIPS 2023): of each data set one without
a regulariser and one of every regulariser and strength, the denoiser that gives the score, the auto-encoder that gives
tangent spaces; and the networks of the digits with a distractor.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction

from lib.papers.off_manifold_robustness.settings import Distractor, Sweep
from lib.papers.settings import Settings
from lib.profiles.networks import (
    Denoiser,
    trained_as,
)
from lib.values.attacks import (
    PGD,
)
from lib.values.data import Data
from lib.values.objectives import Adversarial, CrossEntropy, GradientNorm, Noise, Reconstruction, Smoothness
from lib.values.recipe import Recipe
from lib.values.threats import Threat

NONE, SCORE, MANIFOLD = "none", "score", "manifold"
POOL = {"N": "pool, normal", "R": "pool, robust"}
STANDARD, PER_IMAGE, PER_BATCH, UNTRAINED = "standard", "robust, eps per image", "robust, eps per batch", "untrained"
DISTRACTED = STANDARD, PER_IMAGE, PER_BATCH  # the trained networks of digits beside a letter
SHAKE = 0.1  # standard deviation of the smoothness penalty's noise, as in the paper's experiments
LR_FALLS_FROM = 0.061  # weight of the gradient norm above which the paper cuts the learning rate, in proportion


@dataclass(frozen=True)
class Cell:
    """One network. where: the name of its sweep or, of the distractor's, of its data set. kind: a regulariser, `none`,
    a control, a kind of the pool (POOL), `score`, `manifold`, or what a network of the distractor is. strength: in
    units of the data's own space. diverges: whether the sweep may go on without it.
    """

    where: str
    kind: str
    strength: float
    seed: int
    recipe: Recipe
    measures: tuple = ()
    diverges: bool = False

    @property
    def job(self) -> str:
        """The batch job: the networks of a repetition of one regulariser; small ones are a repetition's together."""
        what = "generative" if self.kind in (SCORE, MANIFOLD) else f"{self.kind}-{self.seed}"
        return f"{self.where}-{self.seed if self.small else what}".replace(", ", "-").replace(" ", "-")

    @property
    def small(self) -> bool:
        """Whether the network is of data in closed form or of the distractor: made in seconds."""
        return self.recipe.data.info.closed or self.kind in DISTRACTED


def unit(data: Data) -> Fraction:
    """The length in pixels of one unit of the data's own space: 1 for images."""
    return Fraction(data.info.unit) if data.info.closed else Fraction(1)


def base(settings: Settings, sweep: Sweep, seed: int) -> Recipe:
    """The network without a regulariser."""
    recipe = trained_as(settings.networks.member("N", seed, settings.seed), sweep.training)
    given = {name: getattr(sweep, name) for name in ("data", "arch", "batch_size", "augment")}
    given = {name: value for name, value in given.items() if value is not None}
    recipe = replace(recipe, seed=settings.seed(seed), **given)
    return replace(recipe, precision="fp32") if recipe.data.info.closed else recipe


def regularised(settings: Settings, sweep: Sweep, kind: str, strength: float, seed: int) -> Recipe:
    """The network of a regulariser at a strength in units of the data's own space; second derivatives in fp32."""
    recipe = base(settings, sweep, seed)
    pixels = unit(recipe.data)
    if kind == "gradient norm":  # a gradient by pixels is 1/unit times one by units
        return replace(recipe, objective=GradientNorm(float(strength * pixels**2)), precision="fp32")
    if kind == "smoothness":
        return replace(recipe, objective=Smoothness(strength, float(SHAKE * pixels)))
    if kind == "noise":
        return replace(recipe, objective=Noise(float(strength * pixels)))
    return replace(recipe, objective=l2_training(strength * pixels, sweep.attack_steps))


def l2_training(eps, steps: int, per: str = "image", batchnorm: str = "eval", **options) -> Adversarial:
    """l2 PGD as in the paper: steps of 2 eps / steps, a random start, images that may leave [0, 1]. With `per` batch
    eps is the budget of the whole batch. In the paper's code BatchNorm is in train mode during the attack.
    """
    eps = Fraction(eps).limit_denominator(10**9)
    return Adversarial(Threat("l2", eps, per, box=False), PGD(steps, 2 * eps / steps), batchnorm=batchnorm, **options)


def controls(settings: Settings, sweep: Sweep, seed: int) -> dict[str, tuple[float, Recipe]]:
    """{control: (strength, recipe)}: per batch, with the budget that gives each of the images the middle eps if they
    share it evenly; accumulated, at the middle eps; reduced lr, at the strongest gradient norm.
    """
    recipe, found = base(settings, sweep, seed), {}
    pixels = unit(recipe.data)
    if sweep.strengths.pgd:
        middle = sweep.strengths.pgd[len(sweep.strengths.pgd) // 2]
        shared = middle * recipe.batch_size**0.5
        steps, mode = sweep.attack_steps, "train"
        found["per batch"] = middle, l2_training(shared * pixels, steps, "batch", mode)
        found["accumulated"] = middle, l2_training(middle * pixels, steps, batchnorm=mode, accumulated=True)
    made = {name: (strength, replace(recipe, objective=objective)) for name, (strength, objective) in found.items()}
    if sweep.strengths.gradient_norm:
        most = sweep.strengths.gradient_norm[-1]
        slow = replace(recipe.optimiser, lr=recipe.optimiser.lr * min(1.0, LR_FALLS_FROM / most))
        strongest = regularised(settings, sweep, "gradient norm", most, seed)
        made["reduced lr"] = most, replace(strongest, optimiser=slow)
    return {name: made[name] for name in sweep.controls}


def manifold(settings: Settings, sweep: Sweep) -> Recipe:
    """The auto-encoder of a sweep."""
    recipe, how = base(settings, sweep, 0), sweep.autoencoder
    return replace(trained_as(recipe, how), arch=how.arch, objective=Reconstruction(), batch_size=how.batch_size,
                   augment="none")


def denoising(settings: Settings, sweep: Sweep) -> Denoiser | None:
    """How the denoiser of a sweep is trained, its own or the pool's; None where the score is known in closed form."""
    if (sweep.data or settings.networks.data).info.closed:
        return None
    return sweep.denoiser or settings.networks.denoiser


def score(settings: Settings, sweep: Sweep) -> Recipe | None:
    """The denoiser of a sweep."""
    how = denoising(settings, sweep)
    return how and how.recipe(sweep.data or settings.networks.data, settings.networks.precision,
                              settings.seed(0))


def of_distractor(settings: Settings, how: Distractor, data: Data, kind: str, seed: int) -> Recipe:
    """A network of digits beside a letter."""
    recipe = replace(trained_as(settings.networks.member("N", seed, settings.seed), how.training), data=data,
                     arch=how.arch, batch_size=how.batch_size, augment="none", seed=settings.seed(seed))
    if kind == UNTRAINED:
        return replace(recipe, epochs=0)
    aims = {STANDARD: CrossEntropy(), PER_IMAGE: l2_training(how.per_image, how.attack_steps),
            PER_BATCH: l2_training(how.per_batch, how.attack_steps, "batch", "train")}
    return replace(recipe, objective=aims[kind])


def cells(settings: Settings) -> list[Cell]:
    """Every network, those that others are measured with first."""
    s, out = settings.sections["off_manifold_robustness"], []
    for sweep in s.sweeps:
        if sweep.autoencoder:
            out.append(Cell(sweep.name, MANIFOLD, 0, 0, manifold(settings, sweep)))
        if denoises := score(settings, sweep):
            out.append(Cell(sweep.name, SCORE, 0, 0, denoises))
    for seed in range(s.seeds):
        for sweep in s.sweeps:
            out += _swept(settings, sweep, seed)
        if how := s.distractor:
            out += [Cell(data.name, kind, {PER_IMAGE: how.per_image, PER_BATCH: how.per_batch}.get(kind, 0), seed,
                         of_distractor(settings, how, data, kind, seed))
                    for data in how.data for kind in (UNTRAINED, STANDARD, PER_IMAGE, PER_BATCH)]
    return out


def _swept(settings: Settings, sweep: Sweep, seed: int) -> list[Cell]:
    """One repetition of a sweep: untrained, none, every strength, controls and, on the pool's data, its networks."""
    plain = base(settings, sweep, seed)
    out = [Cell(sweep.name, UNTRAINED, 0, seed, replace(plain, epochs=0)), Cell(sweep.name, NONE, 0, seed, plain)]
    out += [Cell(sweep.name, kind, strength, seed, regularised(settings, sweep, kind, strength, seed), diverges=True)
            for kind, strengths in sweep.strengths.of.items() for strength in strengths]
    out += [Cell(sweep.name, kind, strength, seed, recipe, diverges=True)
            for kind, (strength, recipe) in controls(settings, sweep, seed).items()]
    if sweep.data is None:
        out += [Cell(sweep.name, name, 0, seed, settings.networks.member(kind, seed, settings.seed))
                for kind, name in POOL.items()]
    return out
