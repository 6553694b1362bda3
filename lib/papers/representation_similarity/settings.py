"""The section of the representation similarity notebook."""

from __future__ import annotations

from dataclasses import dataclass

from lib.errors import SettingsError, is_int, is_number, need, unknown
from lib.profiles.networks import Gates, Networks, Training, fewer_targets, repetitions
from lib.values.architectures import FromScratch
from lib.values.attacks import PGD, Attack
from lib.values.data import Data
from lib.values.threats import Threat

GROUPS = ("strength", "threat", "procedure", "architecture", "data")
PROCEDURES = ("PGD-AT", "half", "TRADES", "FGSM-RS", "noise")
KINDS = ("N", "R", "M", "U", "overfits", "control")
SECOND = ("procrustes", "svcca", "cca", "pwcca", "cka_biased", "cka")


@dataclass(frozen=True)
class Variant:
    """A further kind of network, beside the pool's normal and robust ones.

    group: what it varies, `strength` (eps), `threat`, `procedure` (and the control `noise`), `architecture` or `data`;
    the last two train both normal and robust networks. training: PGD-AT, half (clean and adversarial cross-entropy,
    half each), TRADES (beta 6), FGSM-RS or noise (Gaussian, `sigma`). None: as the pool's robust networks have it.
    """

    name: str
    group: str
    training: str = "PGD-AT"
    threat: Threat | None = None
    attack: PGD | None = None
    sigma: float | None = None
    arch: FromScratch | None = None
    data: Data | None = None
    epochs: int | None = None
    normal_epochs: int | None = None
    batch_size: int | None = None
    augment: str | None = None

    def __post_init__(self):
        if self.group not in GROUPS:
            raise unknown(f"group of the arm {self.name}", self.group, GROUPS)
        if self.training not in PROCEDURES:
            raise unknown(f"training of the arm {self.name}", self.training, PROCEDURES)
        noisy = self.training == "noise"
        need(noisy == (self.sigma is not None), f"sigma of the arm {self.name}", self.sigma, "given exactly for noise")
        need(self.name not in KINDS, "name of an arm", self.name, f"other than {', '.join(KINDS)}, the pool's kinds")
        strong = self.group != "strength" or self.threat is not None
        need(strong, f"threat of the arm {self.name}", None, "given in the group strength")
        for name, groups in (("arch", ("architecture", "data")), ("data", ("data",))):
            value, what = getattr(self, name), f"{name} of the arm {self.name}"
            need(value is not None or groups[0] != self.group, what, None, f"given in the group {groups[0]}")
            need(value is None or self.group in groups, what, value, f"left out in the group {self.group}")

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of networks of the arm: its name, or normal and robust ones of it."""
        both = self.group in ("architecture", "data")
        return (f"N {self.name}", f"R {self.name}") if both else (self.name,)


@dataclass(frozen=True)
class Overfitting:
    """A robust run on so few images (`train`) that it overfits, and one of as many updates on all of them.

    Weights are kept every `every` epochs of the small run from `kept_from` (a share of training, after the learning
    rate's drop) on. fall: by how much the robust accuracy on test images must fall from the epoch that is best on
    held-out images to the last, or the claim is not tested. `seeds`: runs of each kind.
    """

    train: int
    epochs: int
    every: int
    training: Training
    kept_from: float = 0.5
    fall: float = 0.03
    seeds: int = 3

    def __post_init__(self):
        for name in ("train", "epochs", "every", "seeds"):
            value = getattr(self, name)
            need(is_int(value, 1), f"overfitting.{name}", value, "a whole number of at least 1")
        need(is_number(self.kept_from, 0, 1), "overfitting.kept_from", self.kept_from, "a share of training")
        need(len(self.kept) >= 2, "overfitting.every", self.every, "small enough for two epochs to be kept")

    @property
    def kept(self) -> tuple[int, ...]:
        """Epochs of the small run after which weights are kept, the last not among them."""
        return tuple(n for n in range(self.every, self.epochs, self.every) if n >= self.kept_from * self.epochs)


@dataclass(frozen=True)
class Section:
    """The representation similarity notebook. `seeds`: networks of each kind of the pool; `arm_seeds`: of each arm.

    matched: how normal networks are trained so briefly that their clean accuracy is that of the robust ones (within
    `matched_within`). arch: another architecture than the pool's for all networks. images: how many of the test images
    are looked at (None: all), in minibatches of `batch`. layers: which are probed (all, relu, stages). second: further
    measures, on pooled activations. search: the attack that makes adversarial images and measures all networks; verify:
    the stronger one for the robust pool.
    """

    seeds: int
    matched: Training
    search: PGD
    verify: Attack
    gates: Gates
    arm_seeds: int = 3
    arms: tuple[Variant, ...] = ()
    overfitting: Overfitting | None = None
    arch: FromScratch | None = None
    images: int | None = None
    batch: int = 256
    layers: str = "all"
    second: tuple[str, ...] = ("procrustes", "svcca")
    matched_within: float = 0.03

    def __post_init__(self):
        for name in ("seeds", "arm_seeds"):
            repetitions(f"representation_similarity.{name}", getattr(self, name))
        need(self.arm_seeds <= self.seeds, "representation_similarity.arm_seeds", self.arm_seeds,
             f"at most the {self.seeds} seeds: arms are compared with the pool's networks")
        need(is_int(self.batch, 4), "representation_similarity.batch", self.batch,
             "a whole number of at least 4: the unbiased estimator needs four images")
        if self.layers not in ("all", "relu", "stages"):
            raise unknown("representation_similarity.layers", self.layers, ("all", "relu", "stages"))
        for name in self.second:
            if name not in SECOND:
                raise unknown("measure", name, SECOND)
        names = [arm.name for arm in self.arms]
        need(len({*names}) == len(names), "representation_similarity.arms", names, "named differently")
        need(not self.search.targeted, "representation_similarity.search.targeted", True, "false")

    @property
    def pool(self) -> int:
        """Networks of each type that it needs."""
        return self.seeds

    def check(self, networks: Networks) -> None:
        """Raise SettingsError unless the section fits the networks."""
        data = networks.data
        tests = data.test or data.info.test
        images = tests if self.images is None else self.images
        need(is_int(images, 2 * self.batch) and images <= tests, "representation_similarity.images", images,
             f"from two minibatches of {self.batch} to the {tests} test images of networks.data")
        for arm in self.arms:
            same = arm.group != "strength" or arm.threat.norm == networks.threat.norm
            need(same, f"threat of the arm {arm.name}", arm.threat and arm.threat.norm, f"{networks.threat.norm}, the "
                 "pool's norm, in the group strength")
        fewer_targets("representation_similarity.verify.targets", self.verify, data)
        if self.overfitting is not None:
            if not data.holdout:
                raise SettingsError("networks.data.holdout = 0 is not possible: the best epoch of the overfitting "
                                    "runs is chosen on held-out images")
            most, runs = data.n_train, self.overfitting.seeds
            need(runs <= self.seeds, "overfitting.seeds", runs, f"at most the {self.seeds} seeds")
            need(self.overfitting.train < most, "overfitting.train", self.overfitting.train,
                 f"less than the {most} training images")
