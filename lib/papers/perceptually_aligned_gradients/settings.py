"""The section of the notebook on perceptually aligned gradients."""

from __future__ import annotations

from dataclasses import dataclass, fields
from fractions import Fraction

from lib.errors import fraction, is_int, is_number, need, unknown
from lib.profiles.networks import Denoiser, Networks, Training, fewer_targets, growing, repetitions
from lib.values.architectures import MLP, FromScratch
from lib.values.attacks import APGD, Attack, Square
from lib.values.data import Data
from lib.values.recipe import Optimiser, Schedule
from lib.values.threats import PIXEL_NORMS, Threat

CONTROLS = ("random direction", "permuted classes", "permuted images", "logit")
SCORED = ("permuted classes", "permuted images", "logit")  # of them, those whose targets are scores


def known_once(where: str, names: tuple[str, ...], known: tuple[str, ...]) -> None:
    """Check that names are among the known ones, each once."""
    for name in names:
        if name not in known:
            raise unknown(where, name, known)
    need(len(names) == len({*names}), where, list(names), "different from each other")


@dataclass(frozen=True)
class Weights:
    """The weight (the paper's lambda) of each realisation of the ground-truth gradients; None: not trained. `centred`
    ones are without the mean over classes.
    """

    one_image: float | None = None
    class_mean: float | None = None
    nearest_neighbour: float | None = None
    score: float | None = None
    centred_class_mean: float | None = None
    centred_nearest_neighbour: float | None = None

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            good = value is None or is_number(value, 0) and value > 0
            need(good, f"weights.{field.name}", value, "greater than 0, or null")

    @property
    def of(self) -> dict[str, float]:
        """{realisation as tables name it: its weight}, those without one left out."""
        named = {"one image": self.one_image, "class mean": self.class_mean,
                 "nearest neighbour": self.nearest_neighbour, "score": self.score,
                 "class mean, centred": self.centred_class_mean,
                 "nearest neighbour, centred": self.centred_nearest_neighbour}
        return {name: weight for name, weight in named.items() if weight is not None}


@dataclass(frozen=True)
class AdversarialTraining:
    """The adversarially trained networks that stand beside: the training eps of each norm, PGD of `steps` steps of
    2.5 eps / steps. TRADES, in the first norm, where `trades` gives its beta. weights: those of the score's term beside
    adversarial training in the first norm (and beside TRADES), growing; the best on held-out images is judged. longer:
    the factor by which adversarial training alone goes on longer, to compare at equal cost; None: not trained.
    """

    eps: tuple[Fraction, ...]
    steps: int = 5
    trades: float | None = None
    weights: tuple[float, ...] = ()
    longer: float | None = None

    def __post_init__(self):
        object.__setattr__(self, "eps", tuple(fraction(e, "adversarial.eps") for e in self.eps))
        for eps in self.eps:
            need(eps > 0, "adversarial.eps", eps, "greater than 0")
        need(is_int(self.steps, 1), "adversarial.steps", self.steps, "a whole number from 1 on")
        growing("adversarial.weights", self.weights)
        for name, least in (("trades", 0), ("longer", 1)):
            value = getattr(self, name)
            need(value is None or is_number(value, least), f"adversarial.{name}", value, f"at least {least}, or null")
        pairs = bool(self.weights) or self.longer is None
        need(pairs, "adversarial.longer", self.longer, "null where no weights are given: it is their control")


@dataclass(frozen=True)
class Study:
    """Networks of one architecture on one data set, trained for aligned gradients in each way, and what they are
    compared with.

    data, arch, batch_size, augment, denoiser: of the pool where they are left out. threats: what robustness is judged
    under, an l2 one first. weights: of the realisations. sweep: growing weights of the score and of the control
    `permuted classes`, the score's own among them (C5). classes: how many targets an image and update, None for all of
    them. sample: how many images of each class nearest neighbours are looked for among, None for all. draws: of noise
    that a score is the mean over; 0: the score at the image itself. controls: a `random direction` for each class, at
    the smallest weight of a realisation; at the score's weight `permuted classes`, `permuted images` and `logit` (the
    gradient of the logit instead of the log-probability's). gradient_norm: growing weights of the penalty that is
    matched in clean accuracy. adversarial: see there. first_weight: the score's weight during the first half of
    training (the paper's recipe for ViT). clean: the accuracy that networks trained without alignment must have,
    vanilla: the largest robust accuracy, in each threat, that they may have. generated: how many test images the target
    rate is measured on, moved by at most `far` in l2 towards each class. images: how many of the test images alignment
    is measured on.
    """

    name: str
    training: Training
    threats: tuple[Threat, ...]
    weights: Weights
    clean: float
    far: float
    vanilla: float = 0.05
    data: Data | None = None
    arch: FromScratch | None = None
    batch_size: int | None = None
    augment: str | None = None
    denoiser: Denoiser | None = None
    classes: int | None = None
    sample: int | None = None
    draws: int = 0
    sweep: tuple[float, ...] = ()
    controls: tuple[str, ...] = ()
    gradient_norm: tuple[float, ...] = ()
    adversarial: AdversarialTraining | None = None
    first_weight: float | None = None
    generated: int = 40
    images: int = 200

    def __post_init__(self):
        where = f"study {self.name}"
        plain = bool(self.name) and all(c.isalnum() or c in " -._" for c in self.name)
        need(plain, "name of a study", self.name, "of letters, digits, spaces, '-', '.' and '_': files are named by it")
        need(self.name != "toy", "name of a study", self.name, "another one: the toy in the plane has this name")
        given = self.training.attack
        need(given is None, f"{where}, training.attack", given, "left out: see adversarial")
        norms = [threat.norm for threat in self.threats]
        fit = norms[:1] == ["l2"] and len(norms) == len({*norms}) and {*norms} <= {*PIXEL_NORMS}
        need(fit, f"{where}, threats", norms, f"l2 first, then others of {', '.join(PIXEL_NORMS)}, each once")
        for threat in self.threats:
            need(threat.eps > 0, f"{where}, threats.eps", threat.eps, "greater than 0")
            need(threat.per == "image", f"{where}, threats.per", threat.per, "image: verdicts are given image by image")
            need(threat.box, f"{where}, threats.box", threat.box, "true: attacked images stay in [0, 1]")
        need(bool(self.weights.of), f"{where}, weights", "none", "that of one realisation or more")
        known_once(f"{where}, controls", self.controls, CONTROLS)
        asked = [c for c in self.controls if c in SCORED] + ["sweep"] * bool(self.sweep)
        asked += ["adversarial.weights"] * bool(self.adversarial and self.adversarial.weights)
        asked += ["first_weight"] * (self.first_weight is not None)
        good = not asked or self.weights.score is not None
        need(good, f"{where}, weights.score", None, f"given for {', '.join(asked)}")
        growing(f"{where}, sweep", self.sweep)
        inside = not self.sweep or self.weights.score in self.sweep
        need(inside, f"{where}, sweep", list(self.sweep), f"with weights.score = {self.weights.score} among them")
        growing(f"{where}, gradient_norm", self.gradient_norm)
        first = self.first_weight is None or is_number(self.first_weight, 0)
        need(first, f"{where}, first_weight", self.first_weight, "a number of at least 0, or null")
        if self.adversarial:
            given, wanted = len(self.adversarial.eps), len(self.threats)
            need(given == wanted, f"{where}, adversarial.eps", given, f"one for each of the {wanted} threats")
            for threat, eps in zip(self.threats, self.adversarial.eps, strict=True):
                fits = threat.norm != "linf" or eps <= 1
                need(fits, f"{where}, adversarial.eps", eps, "at most 1 for linf (pixels lie in [0, 1])")
        for name in ("clean", "vanilla"):
            value = getattr(self, name)
            need(is_number(value, 0, 1), f"{where}, {name}", value, "an accuracy in [0, 1]")
        need(is_number(self.far, 0) and self.far > 0, f"{where}, far", self.far, "a distance in l2 greater than 0")
        for name, least in (("draws", 0), ("generated", 2), ("images", 2)):
            value = getattr(self, name)
            need(is_int(value, least), f"{where}, {name}", value, f"a whole number from {least} on")

    @property
    def scored(self) -> bool:
        """Whether any network takes its targets from a denoiser."""
        return self.weights.score is not None


@dataclass(frozen=True)
class Toy:
    """The toy in the plane: points on a line, classes alternating, and an attack of which the exact outcome is known.

    Distances in the toy's own units; adjacent modes are 44.7 apart, so at `eps` a perfect network loses nothing and at
    `far`, beyond half of it, everything. `weight`: of the alignment with nearest neighbours (the paper's is not known).
    controls: with a random direction for each class, and with the classes' targets exchanged.
    """

    seeds: int = 5
    arch: MLP = MLP((32,))
    training: Training = Training(100, Optimiser("adam", lr=0.01, weight_decay=0), Schedule("constant"))
    data: Data = Data("line_of_modes")
    batch_size: int = 128
    weight: float = 1.0
    eps: float = 15.0
    far: float = 30.0
    attack_steps: int = 10
    controls: tuple[str, ...] = ("random direction", "permuted classes")

    def __post_init__(self):
        repetitions("toy.seeds", self.seeds)
        need(self.data.name == "line_of_modes", "toy.data.name", self.data.name, "line_of_modes")
        given = self.training.attack
        need(given is None, "toy.training.attack", given, "left out: no image of the toy is adversarial")
        for name in ("weight", "eps"):
            value = getattr(self, name)
            need(is_number(value, 0) and value > 0, f"toy.{name}", value, "greater than 0")
        need(is_number(self.far, self.eps), "toy.far", self.far, f"a number of at least eps ({self.eps:g})")
        need(is_int(self.attack_steps, 1), "toy.attack_steps", self.attack_steps, "a whole number from 1 on")
        known_once("toy.controls", self.controls, CONTROLS[:2])


@dataclass(frozen=True)
class Section:
    """The notebook on perceptually aligned gradients. `seeds`: networks of every kind; the toy has its own number.

    verify: the attack that robustness is judged under; query: the one without gradients (C9), on the first
    `query_images` test images; curve: the multiples of a threat's eps that curves are measured at, growing, the last
    one so large that nothing may survive.
    """

    seeds: int
    studies: tuple[Study, ...]
    verify: Attack
    toy: Toy = Toy()
    query: Square = Square(1000)
    query_images: int = 200
    curve: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)

    pool = 1  # of which the notebook needs nothing but its data and denoiser

    def __post_init__(self):
        repetitions("perceptually_aligned_gradients.seeds", self.seeds)
        names = [study.name for study in self.studies]
        need(0 < len(names) == len({*names}), "perceptually_aligned_gradients.studies", names,
             "one or more, of different names")
        growing("curve", self.curve, 2)
        good = is_int(self.query_images, 2)
        need(good, "query_images", self.query_images, "a whole number from 2 on")

    def check(self, networks: Networks) -> None:
        """Raise SettingsError unless the section fits the networks."""
        for study in self.studies:
            data, where = study.data or networks.data, f"study {study.name}"
            need(not data.info.closed, f"{where}, data", data.name, "images, not points in closed form")
            given = study.denoiser or (networks.denoiser if data.name == networks.data.name else None)
            need(not study.scored or given is not None, f"{where}, denoiser", None,
                 f"given for {data.name}, or for the pool if its data are these")
            classes = data.info.classes
            good = study.classes is None or is_int(study.classes, 1) and study.classes <= classes
            need(good, f"{where}, classes", study.classes, f"a whole number from 1 to {classes}, or null for all")
            per_class = data.n_train // classes
            good = study.sample is None or is_int(study.sample, 2) and study.sample <= per_class
            need(good, f"{where}, sample", study.sample, f"a whole number from 2 to {per_class}, or null for all")
            most = data.test or data.info.test
            for name in ("images", "generated"):
                value = getattr(study, name)
                need(value <= most, f"{where}, {name}", value, f"at most the {most} test images")
            held = not (study.scored or study.gradient_norm) or data.holdout > 0
            need(held, f"{where}, data.holdout", data.holdout,
                 "at least 1, where weights are chosen and matched on held-out images")
            if isinstance(self.verify, APGD):
                fewer_targets("perceptually_aligned_gradients.verify.targets", self.verify, data)
