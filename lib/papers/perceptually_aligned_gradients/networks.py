"""The networks of the notebook on perceptually aligned gradients (Ganz et al., ICML 2023): of each study one without
aligned gradients, one for each realisation of the ground truth, controls, adversarially trained ones alone and with the
term added, and the two denoisers, one to learn from and one to judge by; and the toy in the plane.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction

from lib.papers.perceptually_aligned_gradients.settings import Study
from lib.papers.settings import Settings
from lib.profiles.networks import Denoiser, trained_as
from lib.values.attacks import PGD, Attack
from lib.values.objectives import TRADES, Adversarial, Aligned, CrossEntropy, GradientNorm, Targets
from lib.values.recipe import Recipe
from lib.values.threats import Threat

TOY = "toy"  # where the toy's networks are
VANILLA, SCORE, NORM = "vanilla", "score", "gradient norm"
HEURISTICS = "one image", "class mean", "nearest neighbour"
CENTRED = "class mean, centred", "nearest neighbour, centred"
RANDOM, CLASSES, IMAGES, LOGIT = "random direction", "permuted classes", "permuted images", "logit"
TEACHER, JUDGE = "denoiser", "denoiser that judges"  # the one that targets come from, and another one
TRADES_ALONE, TRADES_SCORE = "TRADES", "TRADES + score"
FAMILIES = {**dict.fromkeys((*HEURISTICS, *CENTRED), "heuristics"), SCORE: SCORE, LOGIT: SCORE,
            **dict.fromkeys((RANDOM, CLASSES, IMAGES), "controls"), TEACHER: "generative", JUDGE: "generative"}


def adversarial(norm: str) -> str:
    """The kind of adversarially trained networks in a norm."""
    return f"AT {norm}"


def combined(norm: str) -> str:
    """Adversarial training with the score's term added."""
    return f"AT {norm} + score"


def longer(norm: str) -> str:
    """Adversarial training that goes on longer."""
    return f"AT {norm}, longer"


@dataclass(frozen=True)
class Cell:
    """One network. where: the name of its study, or `toy`. kind: how it is trained, as tables name it. weight: of the
    term, or of the penalty on the gradient's norm; 0 without. diverges: whether the study may go on without it.
    """

    where: str
    kind: str
    weight: float
    seed: int
    recipe: Recipe
    measures: tuple[tuple[Threat, Attack], ...] = ()
    diverges: bool = False

    @property
    def job(self) -> str:
        """The batch job: a repetition of kinds that belong together; of data that are not read from files, all."""
        family = FAMILIES.get(self.kind, "others")
        if family == "generative":
            return f"{self.where}-{family}".replace(" ", "-")
        if not self.recipe.data.info.files:
            return TOY if self.where == TOY else f"small-{self.seed}"
        return f"{self.where}-{family}-{self.seed}".replace(" ", "-").replace(",", "")


def base(settings: Settings, study: Study, seed: int) -> Recipe:
    """The network that is trained on cross-entropy alone."""
    recipe = trained_as(settings.networks.member("N", seed, settings.seed), study.training)
    given = {name: getattr(study, name) for name in ("data", "arch", "batch_size", "augment")}
    given = {name: value for name, value in given.items() if value is not None}
    return replace(recipe, seed=settings.seed(seed), **given)


def denoising(settings: Settings, study: Study) -> Denoiser:
    """How the denoisers of a study are trained: its own way or the pool's."""
    return study.denoiser or settings.networks.denoiser


def teacher(settings: Settings, study: Study) -> Recipe:
    """The denoiser whose class scores are the ground truth of kind `score`."""
    data = study.data if study.denoiser and study.data else settings.networks.data
    return denoising(settings, study).recipe(data, settings.networks.precision, settings.seed(0))


def judge(settings: Settings, study: Study) -> Recipe:
    """The denoiser that alignment is measured by: of another seed, so that nobody learned from it."""
    return replace(teacher(settings, study), seed=settings.seed(1))


def ground_truth(settings: Settings, study: Study, kind: str) -> Targets:
    """The targets of a realisation or of a control."""
    if kind in (SCORE, CLASSES, IMAGES, LOGIT):
        permuted = {CLASSES: "classes", IMAGES: "images"}.get(kind)
        return Targets(SCORE, permuted=permuted, sigma=denoising(settings, study).sigma, draws=study.draws)
    name, centred = kind.removesuffix(", centred"), kind in CENTRED
    return Targets(name, centred=centred, sample=study.sample if name == "nearest neighbour" else None)


def aligned(settings: Settings, study: Study, recipe: Recipe, kind: str, weight: float) -> Recipe:
    """The recipe with the term for a kind of targets added to its objective; second derivatives in fp32."""
    targets = ground_truth(settings, study, kind)
    first = study.first_weight if targets.kind == SCORE else None
    objective = Aligned(recipe.objective, targets, weight, classes=study.classes, first_weight=first,
                        gradient="logit" if kind == LOGIT else "log-probability")
    sources = (teacher(settings, study),) if targets.kind == SCORE else ()
    return replace(recipe, objective=objective, sources=sources, precision="fp32")


def attacked(study: Study, recipe: Recipe, number: int, trades: bool = False) -> Recipe:
    """The recipe with adversarial training in the study's threat of this number, at the training eps."""
    how, norm = study.adversarial, study.threats[number].norm
    threat = Threat(norm, how.eps[number])
    attack = PGD(how.steps, threat.eps * Fraction(5, 2) / how.steps)
    return replace(recipe, objective=TRADES(threat, attack, how.trades) if trades else Adversarial(threat, attack))


def cells(settings: Settings) -> list[Cell]:
    """Every network, those that others are measured with first."""
    section, out = settings.sections["perceptually_aligned_gradients"], []
    for study in section.studies:
        if study.scored:
            out += [Cell(study.name, TEACHER, 0, 0, teacher(settings, study)),
                    Cell(study.name, JUDGE, 0, 0, judge(settings, study))]
    out += [cell for seed in range(section.toy.seeds) for cell in _toy(settings, seed)]
    for seed in range(section.seeds):
        for study in section.studies:
            measures = tuple((threat, section.verify) for threat in study.threats)
            out += [replace(cell, measures=measures) for cell in _of_study(settings, study, seed)]
    return out


def _toy(settings: Settings, seed: int) -> list[Cell]:
    """One repetition of the toy: both arms start from the same weights and see the same batches."""
    toy = settings.sections["perceptually_aligned_gradients"].toy
    plain = Recipe(toy.data, toy.arch, batch_size=toy.batch_size, seed=settings.seed(seed))
    plain = trained_as(plain, toy.training)

    def with_targets(targets: Targets) -> Recipe:
        return replace(plain, objective=Aligned(CrossEntropy(), targets, toy.weight))

    near = "nearest neighbour"
    of_control = {RANDOM: Targets(RANDOM), CLASSES: Targets(near, permuted="classes")}
    return [Cell(TOY, VANILLA, 0, seed, plain), Cell(TOY, near, toy.weight, seed, with_targets(Targets(near))),
            *(Cell(TOY, name, toy.weight, seed, with_targets(of_control[name])) for name in toy.controls)]


def _of_study(settings: Settings, study: Study, seed: int) -> list[Cell]:
    """One repetition of a study."""
    plain, weights = base(settings, study, seed), study.weights.of
    fp32 = replace(plain, precision="fp32")
    out = [Cell(study.name, VANILLA, 0, seed, plain)]

    def add(kind: str, weight: float, recipe: Recipe) -> None:
        out.append(Cell(study.name, kind, weight, seed, recipe, diverges=weight > 0))

    def term(kind: str, weight: float) -> None:
        add(kind, weight, aligned(settings, study, plain, kind, weight))

    for kind, weight in weights.items():
        for value in study.sweep or (weight,) if kind == SCORE else (weight,):
            term(kind, value)
    for kind in study.controls:
        own = min(weights.values()) if kind == RANDOM else weights[SCORE]
        for value in study.sweep if kind == CLASSES and study.sweep else (own,):
            term(kind, value)
    for weight in study.gradient_norm:
        add(NORM, weight, replace(fp32, objective=GradientNorm(weight)))
    if how := study.adversarial:
        for number, threat in enumerate(study.threats):
            add(adversarial(threat.norm), 0, attacked(study, plain, number))
        norm = study.threats[0].norm
        if how.longer is not None:
            whole = replace(plain, epochs=round(plain.epochs * how.longer))
            add(longer(norm), 0, attacked(study, whole, 0))
        for weight in how.weights:
            add(combined(norm), weight, aligned(settings, study, attacked(study, fp32, 0), SCORE, weight))
        if how.trades is not None:
            add(TRADES_ALONE, 0, attacked(study, plain, 0, trades=True))
            for weight in how.weights:
                add(TRADES_SCORE, weight, aligned(settings, study, attacked(study, fp32, 0, True), SCORE, weight))
    return out
