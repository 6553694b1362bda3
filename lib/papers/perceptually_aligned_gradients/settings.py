"""Settings of the notebook on perceptually aligned gradients (Ganz et al., ICML 2023)."""

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

SCORED = ("permuted classes", "permuted images", "logit")  # controls whose targets are scores
TOY_CONTROLS = ("random direction", "permuted classes")
SMOOTH = "gradient norm, softplus"

Growing = Annotated[tuple[Positive, ...], growing()]


@dataclass(frozen=True)
class TermWeights(Declared):
    """The weights, in increasing order, of each realisation of the ground-truth gradients (the paper's lambda) and of
    each control; none: not trained. Of several weights one is chosen on held-out images.
    """

    one_image: Growing = ()  # targets that point to one training image of the class
    class_mean: Growing = ()  # targets that point to the mean of the class
    nearest_neighbour: Growing = ()  # targets that point to the nearest training image of the class
    score: Growing = ()  # targets that are a denoiser's score of the class
    centred_class_mean: Growing = ()  # `class_mean` targets, centred over classes
    centred_nearest_neighbour: Growing = ()  # `nearest_neighbour` targets, centred over classes
    random_direction: Growing = ()  # control: one fixed direction for each class
    permuted_classes: Growing = ()  # control: the score of another class
    permuted_images: Growing = ()  # control: the score of another image
    logit: Growing = ()  # control: the score's targets for the gradient of the logit, not of the log-probability
    gradient_norm: Growing = ()  # control: weights of a penalty on the gradient's squared norm
    smooth_gradient_norm: Growing = ()  # the same in a network with softplus in place of ReLU

    where = "weights"

    @property
    def of(self) -> dict[str, tuple[float, ...]]:
        """{realisation or control, named as in tables: its weights}, without those that have none."""
        named = {"one image": self.one_image, "class mean": self.class_mean,
                 "nearest neighbour": self.nearest_neighbour, "score": self.score,
                 "class mean, centred": self.centred_class_mean,
                 "nearest neighbour, centred": self.centred_nearest_neighbour,
                 "random direction": self.random_direction, "permuted classes": self.permuted_classes,
                 "permuted images": self.permuted_images, "logit": self.logit, "gradient norm": self.gradient_norm,
                 SMOOTH: self.smooth_gradient_norm}
        return {name: weights for name, weights in named.items() if weights}


SOME = Bound(lambda weights: bool(weights.of), "those of one realisation or more")


@dataclass(frozen=True)
class AdversarialTraining(Declared):
    """Adversarially trained networks for comparison, trained by PGD with steps of size 2.5 eps / steps."""

    eps: tuple[Annotated[Fraction, above(0)], ...]  # the eps in training, one per threat of the study
    steps: Count = 5  # PGD steps in training
    trades: NotNegative | None = None  # the beta of TRADES in the first norm; null: not trained
    # weights of the score's term added to adversarial training (and TRADES) in the first norm; the best on held-out
    # images is judged
    weights: Growing = ()
    # the factor by which adversarial training alone is lengthened, for a comparison at equal cost; null: not trained
    longer: Annotated[float, number(1)] | None = None
    # repetitions of adversarial training in the first norm, with and without the term; null: as many as of all others
    seeds: Repetitions | None = None
    clean: Share = 0.0  # the least clean accuracy required of adversarial training alone
    robust: Share = 0.05  # the least lower bound of its robust accuracy required, under the threat it was trained for

    where = "adversarial"

    def check_together(self):
        pairs = bool(self.weights) or self.longer is None
        need(pairs, "adversarial.longer", self.longer, "null where no weights are given: it is their control")


NOT_THE_TOY = Bound(lambda name: name != "toy", "another one: the toy in the plane has this name")


@dataclass(frozen=True)
class Experiment(Declared):
    """Networks of one architecture on one data set, trained for aligned gradients with each realisation, and the
    networks that they are compared with.
    """

    name: Annotated[FileName, NOT_THE_TOY]  # the study's name in tables and files
    training: Unattacked  # how networks are trained; adversarial images come from `adversarial`
    threats: tuple[Threat, ...]  # the threats under which robustness is judged, an l2 threat first
    weights: Annotated[TermWeights, SOME]  # of the alignment term and of controls
    clean: Share  # the least clean accuracy required of networks trained without alignment
    far: Positive  # the largest l2 distance by which images are moved towards a class, for the target rate
    vanilla: Share = 0.05  # the largest robust accuracy, under each threat, allowed of networks without alignment
    data: Data | None = None  # the data that the networks learn; null: the pool's
    arch: FromScratch | None = None  # the architecture of the networks; null: the pool's
    batch_size: BatchSize | None = None  # images per update; null: as in the pool
    augment: Augmentation | None = None  # the augmentation of training images; null: as in the pool
    denoiser: Denoiser | None = None  # the denoiser that gives scores; null: the pool's, if the data are the pool's
    classes: Count | None = None  # the number of classes with a target, per image and update; null: all
    # the number of training images per class among which nearest neighbours are searched; null: all
    sample: Annotated[int, whole(2)] | None = None
    draws: Annotated[int, whole(0)] = 0  # draws of noise that a score is averaged over; 0: the score at the clean image
    adversarial: AdversarialTraining | None = None
    # the score's weight in the first half of training (the paper's recipe for ViT); null: as in the second half
    first_weight: NotNegative | None = None
    generated: Annotated[int, whole(2)] = 40  # how many test images the target rate is measured on
    images: Annotated[int, whole(2)] = 200  # how many test images alignment is measured on
    # whether claims of the paper leave this study out, because its data or networks are too far from the paper's
    side: bool = False

    where = "studies"

    def check_together(self):
        where, norms = f"studies[{self.name}]", [threat.norm for threat in self.threats]
        fit = norms[:1] == ["l2"] and len(norms) == len({*norms}) and {*norms} <= {*PIXEL_NORMS}
        need(fit, f"{where}.threats", norms, f"l2 first, then others of {', '.join(PIXEL_NORMS)}, each once")
        for threat in self.threats:
            need(threat.eps > 0, f"{where}.threats.eps", threat.eps, "greater than 0")
            need(threat.per == "image", f"{where}.threats.per", threat.per, "image: verdicts are given image by image")
            need(threat.box, f"{where}.threats.box", threat.box, "true: attacked images stay in [0, 1]")
        asked = [kind for kind in SCORED if kind in self.weights.of]
        asked += ["adversarial.weights"] * bool(self.adversarial and self.adversarial.weights)
        asked += ["first_weight"] * (self.first_weight is not None)
        need(self.weights.score or not asked, f"{where}.weights.score", "none", f"given for {', '.join(asked)}")
        smooth = not self.weights.smooth_gradient_norm or hasattr(self.arch, "activation")
        need(smooth, f"{where}.arch", self.arch and self.arch.name, "one that has softplus, for smooth_gradient_norm")
        if self.adversarial:
            given, wanted = len(self.adversarial.eps), len(self.threats)
            need(given == wanted, f"{where}.adversarial.eps", given, f"one for each of the {wanted} threats")
            for threat, eps in zip(self.threats, self.adversarial.eps, strict=True):
                fits = threat.norm != "linf" or eps <= 1
                need(fits, f"{where}.adversarial.eps", eps, "at most 1 for linf (pixels lie in [0, 1])")

    @property
    def scored(self) -> bool:
        """Whether any network takes its targets from a denoiser."""
        return bool(self.weights.score)


OF_THE_TOY = Bound(lambda name: name == "line_of_modes", "line_of_modes", of="name")


@dataclass(frozen=True)
class Toy(Declared):
    """The toy in the plane: points on a line with alternating classes, and an exhaustive attack. Distances are in the
    toy's own units. Adjacent modes are 44.7 apart, so a perfect network loses nothing at `eps`. At `far`, more than
    half of this distance, it is right on one of two neighbouring modes at most, and loses at least half of the points.
    """

    seeds: Repetitions = 5  # repetitions of the toy, each with networks of every kind
    arch: MLP = MLP((32,))  # the architecture of the networks
    training: Unattacked = Training(100, Optimiser("adam", lr=0.01, weight_decay=0), Schedule("constant"))
    data: Annotated[Data, OF_THE_TOY] = Data("line_of_modes")
    batch_size: BatchSize = 128  # points per update
    weight: Positive = 1.0  # the weight of alignment with nearest neighbours (the paper's is not known)
    eps: Positive = 15.0  # a distance at which a perfect network loses nothing
    far: Positive = 30.0  # a distance at which even a perfect network loses at least half of the points
    attack_steps: Count = 10  # steps of PGD, which is run in addition to the exhaustive attack
    # controls: a random direction for each class, and nearest-neighbour targets with permuted classes
    controls: Annotated[tuple[Annotated[str, OneOf(TOY_CONTROLS)], ...], different()] = TOY_CONTROLS

    where = "toy"

    def check_together(self):
        need(self.far >= self.eps, "toy.far", self.far, f"a number of at least eps ({self.eps:g})")


@dataclass(frozen=True)
class Section(Declared):
    """Settings of the notebook on perceptually aligned gradients."""

    seeds: Repetitions  # repetitions of the studies, each with networks of every kind
    studies: Annotated[tuple[Experiment, ...], different(1, of="name")]
    verify: Attack  # the attack under which robustness is judged
    toy: Toy = Toy()
    query: Square = Square(1000)  # the query attack, which needs no gradients (C9)
    query_images: Annotated[int, whole(2)] = 200  # how many test images curves and masking (C9) are measured on
    # multiples of each threat's eps at which curves are measured, the last so large that no image may survive
    curve: Annotated[tuple[Positive, ...], growing(2)] = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)

    where = "perceptually_aligned_gradients"
    pool = 1  # the least; the notebook takes only data and denoiser from the pool

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
            most = data.n_test
            for name in ("images", "generated"):
                value = getattr(study, name)
                need(value <= most, f"{where}.{name}", value, f"at most the {most} test images")
            chosen = max(map(len, study.weights.of.values())) > 1
            need(data.holdout > 0 or not chosen, f"{where}.data.holdout", data.holdout,
                 "at least 1, where weights are chosen on held-out images")
            how = study.adversarial
            more = how is None or how.seeds is None or how.seeds >= self.seeds
            need(more, f"{where}.adversarial.seeds", how and how.seeds, f"at least the {self.seeds} of all others")
            fewer_targets("perceptually_aligned_gradients.verify.targets", self.verify, data)
