"""The section of the notebook on perceptually aligned gradients."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated

from lib.errors import need
from lib.profiles.networks import (
    Augmentation,
    BatchSize,
    Denoiser,
    FileName,
    Networks,
    Training,
    Unattacked,
    fewer_targets,
)
from lib.values.architectures import MLP, FromScratch
from lib.values.attacks import Attack, Square
from lib.values.data import Data
from lib.values.declared import (
    Bound,
    Count,
    Declared,
    NotNegative,
    OneOf,
    Positive,
    Repetitions,
    Share,
    above,
    different,
    growing,
    number,
    whole,
)
from lib.values.recipe import Optimiser, Schedule
from lib.values.threats import PIXEL_NORMS, Threat

CONTROLS = ("random direction", "permuted classes", "permuted images", "logit")
SCORED = ("permuted classes", "permuted images", "logit")  # of them, those whose targets are scores


Growing = Annotated[tuple[Positive, ...], growing()]


@dataclass(frozen=True)
class TermWeights(Declared):
    """The weight (the paper's lambda) of each realisation of the ground-truth gradients; null: not trained."""

    one_image: Positive | None = None  # towards one training image of the class
    class_mean: Positive | None = None  # towards the mean of the class
    nearest_neighbour: Positive | None = None  # towards the nearest training image of the class
    score: Positive | None = None  # along a denoiser's score of the class
    centred_class_mean: Positive | None = None  # class_mean without the mean over classes
    centred_nearest_neighbour: Positive | None = None  # nearest_neighbour without the mean over classes

    where = "weights"

    @property
    def of(self) -> dict[str, float]:
        """{realisation as tables name it: its weight}, those without one left out."""
        named = {"one image": self.one_image, "class mean": self.class_mean,
                 "nearest neighbour": self.nearest_neighbour, "score": self.score,
                 "class mean, centred": self.centred_class_mean,
                 "nearest neighbour, centred": self.centred_nearest_neighbour}
        return {name: weight for name, weight in named.items() if weight is not None}


SOME = Bound(lambda weights: bool(weights.of), "that of one realisation or more")


@dataclass(frozen=True)
class AdversarialTraining(Declared):
    """The adversarially trained networks that are compared with, by PGD in steps of 2.5 eps / steps."""

    eps: tuple[Annotated[Fraction, above(0)], ...]  # of each threat, in training
    steps: Count = 5  # of PGD
    trades: NotNegative | None = None  # the beta of TRADES in the first norm; null: not trained
    # of the score's term added to adversarial training in the first norm (and to TRADES); the best on held-out images
    # is judged
    weights: Growing = ()
    # the factor by which adversarial training alone goes on longer, to compare at equal cost; null: not trained
    longer: Annotated[float, number(1)] | None = None

    where = "adversarial"

    def check_together(self):
        pairs = bool(self.weights) or self.longer is None
        need(pairs, "adversarial.longer", self.longer, "null where no weights are given: it is their control")


NOT_THE_TOY = Bound(lambda name: name != "toy", "another one: the toy in the plane has this name")


@dataclass(frozen=True)
class Experiment(Declared):
    """Networks of one architecture on one data set, trained for aligned gradients in each way, and what they are
    compared with.
    """

    name: Annotated[FileName, NOT_THE_TOY]  # for tables and files
    training: Unattacked  # adversarial images: see adversarial
    threats: tuple[Threat, ...]  # what robustness is judged under, an l2 one first
    weights: Annotated[TermWeights, SOME]
    clean: Share  # the accuracy that networks trained without alignment must have
    far: Positive  # by how much in l2 images are moved at most towards a class where the target rate is measured
    vanilla: Share = 0.05  # the largest robust accuracy, in each threat, that networks without alignment may have
    data: Data | None = None  # what networks learn; null: as the pool's
    arch: FromScratch | None = None  # what networks look like; null: as the pool's
    batch_size: BatchSize | None = None  # images an update; null: as the pool's
    augment: Augmentation | None = None  # how training images are varied; null: as the pool's
    denoiser: Denoiser | None = None  # that scores are taken from; null: the pool's, if its data are these
    classes: Count | None = None  # targets an image and update; null: all of them
    # images of each class that nearest neighbours are looked for among; null: all
    sample: Annotated[int, whole(2)] | None = None
    draws: Annotated[int, whole(0)] = 0  # of noise that a score is the mean over; 0: the score at the image itself
    sweep: Growing = ()  # weights of the score and of the control permuted classes, the score's own among them (C5)
    # a random direction for each class, at the smallest weight of a realisation; at the score's weight permuted
    # classes, permuted images and logit (the gradient of the logit instead of the log-probability's)
    controls: Annotated[tuple[Annotated[str, OneOf(CONTROLS)], ...], different()] = ()
    gradient_norm: Growing = ()  # weights of the penalty that is matched in clean accuracy
    adversarial: AdversarialTraining | None = None
    # the score's weight during the first half of training (the paper's recipe for ViT); null: as in the second
    first_weight: NotNegative | None = None
    generated: Annotated[int, whole(2)] = 40  # how many of the test images the target rate is measured on
    images: Annotated[int, whole(2)] = 200  # how many of the test images alignment is measured on

    where = "studies"

    def check_together(self):
        where, norms = f"studies[{self.name}]", [threat.norm for threat in self.threats]
        fit = norms[:1] == ["l2"] and len(norms) == len({*norms}) and {*norms} <= {*PIXEL_NORMS}
        need(fit, f"{where}.threats", norms, f"l2 first, then others of {', '.join(PIXEL_NORMS)}, each once")
        for threat in self.threats:
            need(threat.eps > 0, f"{where}.threats.eps", threat.eps, "greater than 0")
            need(threat.per == "image", f"{where}.threats.per", threat.per, "image: verdicts are given image by image")
            need(threat.box, f"{where}.threats.box", threat.box, "true: attacked images stay in [0, 1]")
        asked = [c for c in self.controls if c in SCORED] + ["sweep"] * bool(self.sweep)
        asked += ["adversarial.weights"] * bool(self.adversarial and self.adversarial.weights)
        asked += ["first_weight"] * (self.first_weight is not None)
        good = not asked or self.weights.score is not None
        need(good, f"{where}.weights.score", None, f"given for {', '.join(asked)}")
        inside = not self.sweep or self.weights.score in self.sweep
        need(inside, f"{where}.sweep", [*self.sweep], f"with weights.score = {self.weights.score} among them")
        if self.adversarial:
            given, wanted = len(self.adversarial.eps), len(self.threats)
            need(given == wanted, f"{where}.adversarial.eps", given, f"one for each of the {wanted} threats")
            for threat, eps in zip(self.threats, self.adversarial.eps, strict=True):
                fits = threat.norm != "linf" or eps <= 1
                need(fits, f"{where}.adversarial.eps", eps, "at most 1 for linf (pixels lie in [0, 1])")

    @property
    def scored(self) -> bool:
        """Whether any network takes its targets from a denoiser."""
        return self.weights.score is not None


OF_THE_TOY = Bound(lambda name: name == "line_of_modes", "line_of_modes", of="name")


@dataclass(frozen=True)
class Toy(Declared):
    """The toy in the plane: points on a line, classes alternating, and an attack of which the exact outcome is known.
    Distances in the toy's own units; adjacent modes are 44.7 apart, so at `eps` a perfect network loses nothing and at
    `far`, beyond half of it, everything.
    """

    seeds: Repetitions = 5  # networks of every kind
    arch: MLP = MLP((32,))  # what networks look like
    training: Unattacked = Training(100, Optimiser("adam", lr=0.01, weight_decay=0), Schedule("constant"))
    data: Annotated[Data, OF_THE_TOY] = Data("line_of_modes")
    batch_size: BatchSize = 128  # points an update
    weight: Positive = 1.0  # of the alignment with nearest neighbours (the paper's is not known)
    eps: Positive = 15.0  # a distance at which a perfect network loses nothing
    far: Positive = 30.0  # a distance at which it loses everything
    attack_steps: Count = 10  # of PGD, next to the exact attack
    # with a random direction for each class, and with the classes' targets exchanged
    controls: Annotated[tuple[Annotated[str, OneOf(CONTROLS[:2])], ...], different()] = CONTROLS[:2]

    where = "toy"

    def check_together(self):
        need(self.far >= self.eps, "toy.far", self.far, f"a number of at least eps ({self.eps:g})")


@dataclass(frozen=True)
class Section(Declared):
    """The notebook on perceptually aligned gradients."""

    seeds: Repetitions  # networks of every kind; the toy has its own number
    studies: Annotated[tuple[Experiment, ...], different(1, of="name")]
    verify: Attack  # the attack that robustness is judged under
    toy: Toy = Toy()
    query: Square = Square(1000)  # the attack without gradients (C9)
    query_images: Annotated[int, whole(2)] = 200  # how many of the test images it is given
    # multiples of a threat's eps that curves are measured at, the last one so large that nothing may survive
    curve: Annotated[tuple[Positive, ...], growing(2)] = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)

    where = "perceptually_aligned_gradients"
    pool = 1  # of which the notebook needs nothing but its data and denoiser

    def check(self, networks: Networks) -> None:
        """Raise SettingsError unless the section fits the networks."""
        for study in self.studies:
            data, where = study.data or networks.data, f"studies[{study.name}]"
            need(not data.info.closed, f"{where}.data", data.name, "images, not points in closed form")
            given = study.denoiser or (networks.denoiser if data.name == networks.data.name else None)
            need(not study.scored or given is not None, f"{where}.denoiser", None,
                 f"given for {data.name}, or for the pool if its data are these")
            classes = data.info.classes
            good = study.classes is None or study.classes <= classes
            need(good, f"{where}.classes", study.classes, f"a whole number from 1 to {classes}, or null for all")
            per_class = data.n_train // classes
            good = study.sample is None or study.sample <= per_class
            need(good, f"{where}.sample", study.sample, f"a whole number from 2 to {per_class}, or null for all")
            most = data.test or data.info.test
            for name in ("images", "generated"):
                value = getattr(study, name)
                need(value <= most, f"{where}.{name}", value, f"at most the {most} test images")
            held = not (study.scored or study.gradient_norm) or data.holdout > 0
            need(held, f"{where}.data.holdout", data.holdout,
                 "at least 1, where weights are chosen and matched on held-out images")
            fewer_targets("perceptually_aligned_gradients.verify.targets", self.verify, data)
