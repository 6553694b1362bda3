"""The networks that the paper on perceptually aligned gradients needs (Ganz et al., ICML 2023): for each study one
without aligned gradients, one for each realisation of the ground truth, controls, adversarially trained ones with and
without the alignment term, and two denoisers, one to learn from and one to judge by; and the toy in the plane.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction

from lib.papers.perceptually_aligned_gradients.settings import SMOOTH, Experiment, Section, Toy
from lib.profiles.networks import Denoiser, Networks, trained_as, varied
from lib.values.attacks import PGD
from lib.values.cell import Cell
from lib.values.data import Data
from lib.values.objectives import TRADES, Adversarial, Aligned, CrossEntropy, GradientNorm, Targets
from lib.values.recipe import Recipe
from lib.values.threats import Threat

TOY = "toy"  # `where` of the toy's networks
VANILLA, SCORE, NORM = "vanilla", "score", "gradient norm"
HEURISTICS = "one image", "class mean", "nearest neighbour"
CENTRED = "class mean, centred", "nearest neighbour, centred"
RANDOM, CLASSES, IMAGES, LOGIT = "random direction", "permuted classes", "permuted images", "logit"
TEACHER, JUDGE = "denoiser", "denoiser that judges"  # the source of targets, and an independent one
TRADES_ALONE, TRADES_SCORE = "TRADES", "TRADES + score"
FAMILIES = {**dict.fromkeys((*HEURISTICS, *CENTRED), "heuristics"), SCORE: SCORE, LOGIT: SCORE,
            **dict.fromkeys((RANDOM, CLASSES, IMAGES), "controls"), NORM: "norms", SMOOTH: "norms",
            TEACHER: "generative", JUDGE: "generative"}


def adversarial(norm: str) -> str:
    """The name of the kind: adversarial training in a norm."""
    return f"AT {norm}"


def combined(norm: str) -> str:
    """The name of the kind: adversarial training with the score's term added."""
    return f"AT {norm} + score"


def longer(norm: str) -> str:
    """The name of the kind: adversarial training for more epochs."""
    return f"AT {norm}, longer"


@dataclass(frozen=True)
class Condition:
    """What the networks of all repetitions have in common.

    where: the name of the study, or `toy`. kind: how they are trained, as tables name it. weight: of the alignment term
    or of the penalty on the gradient norm; 0 without either. small: whether their data are not read from files.
    """

    where: str
    kind: str
    weight: float = 0
    small: bool = field(default=False, compare=False)

    def job(self, repetition: int) -> str:
        """The batch job: a repetition of kinds that belong together; all its small networks are one job."""
        family = FAMILIES.get(self.kind, "others")
        if family == "generative":
            return f"{self.where}-{family}".replace(" ", "-")
        if self.small:
            return TOY if self.where == TOY else f"small-{repetition}"
        return f"{self.where}-{family}-{repetition}".replace(" ", "-").replace(",", "")


@dataclass(frozen=True)
class StudyNetworks:
    """How the networks of a study are trained."""

    networks: Networks
    study: Experiment
    seed: Callable[[int], int]  # repetition -> seed of its recipes

    @property
    def data(self) -> Data:
        return self.study.data or self.networks.data

    def vanilla(self, repetition: int) -> Recipe:
        """The network trained on cross-entropy alone."""
        recipe = trained_as(self.networks.member("N", repetition, self.seed), self.study.training)
        return replace(varied(recipe, self.study), seed=self.seed(repetition))

    @property
    def denoising(self) -> Denoiser:
        """Settings of the denoisers, the study's own or the pool's."""
        return self.study.denoiser or self.networks.denoiser

    def teacher(self) -> Recipe:
        """The denoiser whose class scores are the targets of the kind `score`."""
        data = self.data if self.study.denoiser else self.networks.data
        return self.denoising.recipe(data, self.networks.precision, self.seed(0))

    def judge(self) -> Recipe:
        """The denoiser that measures alignment. It has another seed, and no network learned from it."""
        return replace(self.teacher(), seed=self.seed(1))

    def targets(self, kind: str) -> Targets:
        """The targets of a realisation or of a control."""
        if kind in (SCORE, CLASSES, IMAGES, LOGIT):
            permuted = {CLASSES: "classes", IMAGES: "images"}.get(kind)
            return Targets(SCORE, permuted=permuted, sigma=self.denoising.sigma, draws=self.study.draws)
        name, centred = kind.removesuffix(", centred"), kind in CENTRED
        return Targets(name, centred=centred, sample=self.study.sample if name == "nearest neighbour" else None)

    def aligned(self, recipe: Recipe, kind: str, weight: float) -> Recipe:
        """The recipe with the alignment term for a kind of targets added to its objective.
        """
        targets = self.targets(kind)
        scored = targets.kind == SCORE
        objective = Aligned(recipe.objective, targets, weight, classes=self.study.classes,
                            first_weight=self.study.first_weight if scored else None,
                            gradient="logit" if kind == LOGIT else "log-probability")
        return replace(recipe, objective=objective, sources=(self.teacher(),) if scored else (),
                       precision=self.networks.second_order)

    def penalised(self, recipe: Recipe, kind: str, weight: float) -> Recipe:
        """The recipe with a penalty on the gradient's norm, in a network with softplus if the kind is so."""
        arch = replace(recipe.arch, activation="softplus") if kind == SMOOTH else recipe.arch
        return replace(recipe, arch=arch, objective=GradientNorm(weight), precision=self.networks.second_order)

    def attacked(self, recipe: Recipe, number: int, trades: bool = False) -> Recipe:
        """The recipe with adversarial training under the study's threat number `number`, at the training eps."""
        how, norm = self.study.adversarial, self.study.threats[number].norm
        threat = Threat(norm, how.eps[number])
        attack = PGD(how.steps, threat.eps * Fraction(5, 2) / how.steps)
        return replace(recipe, objective=TRADES(threat, attack, how.trades) if trades else Adversarial(threat, attack))


def cells(networks: Networks, section: Section, seed: Callable[[int], int]) -> list[Cell]:
    """Every network, those that others are measured with first."""
    studies, found = [StudyNetworks(networks, study, seed) for study in section.studies], []
    for of in studies:
        if of.study.scored:
            found += [Cell(Condition(of.study.name, TEACHER), 0, of.teacher()),
                      Cell(Condition(of.study.name, JUDGE), 0, of.judge())]
    for repetition in range(section.toy.seeds):
        found += [Cell(Condition(TOY, kind, weight, small=True), repetition, recipe)
                  for kind, weight, recipe in _toy(section.toy, seed(repetition))]
    more = max([section.seeds, *(of.study.adversarial.seeds or 0 for of in studies if of.study.adversarial)])
    for repetition in range(more):
        for of in studies:
            measures = tuple((threat, section.verify) for threat in of.study.threats)
            for kind, weight, recipe in _trained(of, repetition, repetition < section.seeds):
                condition = Condition(of.study.name, kind, weight, small=not of.data.info.files)
                found.append(Cell(condition, repetition, recipe, measures))
    return found


def _toy(toy: Toy, seed: int) -> Iterator[tuple[str, float, Recipe]]:
    """(kind, weight, recipe) of one repetition of the toy. All start from the same weights and see the same batches."""
    plain = trained_as(Recipe(toy.data, toy.arch, batch_size=toy.batch_size, seed=seed), toy.training)
    near = "nearest neighbour"
    of_control = {RANDOM: Targets(RANDOM), CLASSES: Targets(near, permuted="classes")}
    yield VANILLA, 0, plain
    for kind, targets in {near: Targets(near), **{name: of_control[name] for name in toy.controls}}.items():
        yield kind, toy.weight, replace(plain, objective=Aligned(CrossEntropy(), targets, toy.weight))


def _trained(of: StudyNetworks, repetition: int, every: bool) -> Iterator[tuple[str, float, Recipe]]:
    """(kind, weight, recipe) of one repetition of a study; every: of all kinds, else only those with repetitions of
    their own.
    """
    study, vanilla = of.study, of.vanilla(repetition)
    if every:
        yield VANILLA, 0, vanilla
        for kind, weights in study.weights.of.items():
            made = of.penalised if kind in (NORM, SMOOTH) else of.aligned
            for weight in weights:
                yield kind, weight, made(vanilla, kind, weight)
    if study.adversarial and (every or repetition < (study.adversarial.seeds or 0)):
        yield from _adversarial(of, vanilla, every)


def _adversarial(of: StudyNetworks, vanilla: Recipe, every: bool) -> Iterator[tuple[str, float, Recipe]]:
    """(kind, weight, recipe) of adversarial training in the first norm (every: in every norm), also for more epochs and
    with the score's term added.
    """
    how, norms = of.study.adversarial, [threat.norm for threat in of.study.threats]
    for number, norm in enumerate(norms if every else norms[:1]):
        yield adversarial(norm), 0, of.attacked(vanilla, number)
    if how.longer is not None:
        yield longer(norms[0]), 0, of.attacked(replace(vanilla, epochs=round(vanilla.epochs * how.longer)), 0)
    for weight in how.weights:
        yield combined(norms[0]), weight, of.aligned(of.attacked(vanilla, 0), SCORE, weight)
    if how.trades is not None:
        yield TRADES_ALONE, 0, of.attacked(vanilla, 0, trades=True)
        for weight in how.weights:
            yield TRADES_SCORE, weight, of.aligned(of.attacked(vanilla, 0, trades=True), SCORE, weight)
