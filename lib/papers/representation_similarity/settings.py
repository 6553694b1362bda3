"""The section of the representation similarity notebook."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from lib.errors import need
from lib.profiles.networks import UNTARGETED, Augmentation, BatchSize, Gates, Networks, Training, fewer_targets
from lib.values.architectures import FromScratch
from lib.values.attacks import PGD, Attack
from lib.values.data import Data
from lib.values.declared import Bound, Count, Declared, OneOf, Positive, Repetitions, Share, different, whole
from lib.values.threats import Threat

GROUPS = ("strength", "threat", "procedure", "architecture", "data")
PROCEDURES = ("PGD-AT", "half", "TRADES", "FGSM-RS", "noise")
KINDS = ("N", "R", "M", "U", "overfits", "control")
NO_KIND = Bound(lambda name: name not in KINDS, f"other than {', '.join(KINDS)}, the pool's kinds")
SECOND = ("procrustes", "svcca", "cca", "pwcca", "cka_biased", "cka")


@dataclass(frozen=True)
class Variant(Declared):
    """A further kind of network, in addition to the pool's normal and robust ones; null: as the pool's robust networks
    have it.
    """

    name: Annotated[str, NO_KIND]  # for tables
    # what it varies: strength (eps), threat, procedure (and the control noise), architecture or data; the last two
    # train both normal and robust networks
    group: Annotated[str, OneOf(GROUPS)]
    # half: clean and adversarial cross-entropy, half each; TRADES: with beta 6; noise: Gaussian, of `sigma`
    training: Annotated[str, OneOf(PROCEDURES)] = "PGD-AT"
    threat: Threat | None = None  # in training
    attack: PGD | None = None  # in training
    sigma: Positive | None = None  # the standard deviation of the noise
    arch: FromScratch | None = None  # given in the group architecture
    data: Data | None = None  # given in the group data
    epochs: Count | None = None  # passes over the training images
    normal_epochs: Count | None = None  # of normal networks of the groups that have them
    batch_size: BatchSize | None = None  # images an update
    augment: Augmentation | None = None  # how training images are varied

    where = "arms"

    def check_together(self):
        noisy, where = self.training == "noise", f"arms[{self.name}]"
        need(noisy == (self.sigma is not None), f"{where}.sigma", self.sigma, "given exactly for noise")
        strong = self.group != "strength" or self.threat is not None
        need(strong, f"{where}.threat", None, "given in the group strength")
        for name, groups in (("arch", ("architecture", "data")), ("data", ("data",))):
            value, what = getattr(self, name), f"{where}.{name}"
            need(value is not None or groups[0] != self.group, what, None, f"given in the group {groups[0]}")
            need(value is None or self.group in groups, what, value, f"left out in the group {self.group}")

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of networks of the arm: its name, or normal and robust ones of it."""
        both = self.group in ("architecture", "data")
        return (f"N {self.name}", f"R {self.name}") if both else (self.name,)


@dataclass(frozen=True)
class Overfitting(Declared):
    """A robust run on so few images that it overfits, and one of as many updates on all of them."""

    train: Count  # images of the small run
    epochs: Count  # of the small run
    every: Count  # epochs of the small run after which weights are kept
    training: Training  # of both, but for the epochs
    kept_from: Share = 0.5  # the share of training, after the learning rate's drop, from which weights are kept
    # by how much the robust accuracy on test images must fall from the epoch that is best on held-out images to the
    # last, or the claim is not tested
    fall: Share = 0.03
    seeds: Repetitions = 3  # runs of each kind

    where = "overfitting"

    def check_together(self):
        need(len(self.kept) >= 2, "overfitting.every", self.every, "small enough for two epochs to be kept")

    @property
    def kept(self) -> tuple[int, ...]:
        """Epochs of the small run after which weights are kept, the last not among them."""
        return tuple(n for n in range(self.every, self.epochs, self.every) if n >= self.kept_from * self.epochs)


@dataclass(frozen=True)
class Section(Declared):
    """The representation similarity notebook."""

    seeds: Repetitions  # networks of each kind of the pool
    # how normal networks are trained so briefly that their clean accuracy is that of the robust ones
    matched: Training
    search: Annotated[PGD, UNTARGETED]  # the attack that makes adversarial images and measures all networks
    verify: Attack  # the stronger one for the robust pool
    gates: Gates
    arm_seeds: Repetitions = 3  # networks of each further kind
    arms: Annotated[tuple[Variant, ...], different(of="name")] = ()  # further kinds of networks
    overfitting: Overfitting | None = None
    arch: FromScratch | None = None  # of all networks; null: the pool's
    images: Count | None = None  # how many of the test images are looked at; null: all
    batch: Annotated[int, whole(4)] = 256  # images a minibatch; the unbiased estimator needs four
    layers: Annotated[str, OneOf(("all", "relu", "stages"))] = "all"  # which are probed
    # further measures, on pooled activations
    second: tuple[Annotated[str, OneOf(SECOND)], ...] = ("procrustes", "svcca")
    matched_within: Share = 0.03  # how near the clean accuracy of matched networks must be

    where = "representation_similarity"

    def check_together(self):
        need(self.arm_seeds <= self.seeds, "representation_similarity.arm_seeds", self.arm_seeds,
             f"at most the {self.seeds} seeds: arms are compared with the pool's networks")

    @property
    def pool(self) -> int:
        """Networks of each type that it needs."""
        return self.seeds

    def check(self, networks: Networks) -> None:
        """Raise SettingsError unless the section fits the networks."""
        data = networks.data
        tests = data.test or data.info.test
        images = tests if self.images is None else self.images
        need(2 * self.batch <= images <= tests, "representation_similarity.images", images,
             f"from two minibatches of {self.batch} to the {tests} test images of networks.data")
        for arm in self.arms:
            same = arm.group != "strength" or arm.threat.norm == networks.threat.norm
            need(same, f"arms[{arm.name}].threat", arm.threat and arm.threat.norm, f"{networks.threat.norm}, the "
                 "pool's norm, in the group strength")
        fewer_targets("representation_similarity.verify.targets", self.verify, data)
        if self.overfitting is not None:
            need(data.holdout > 0, "networks.data.holdout", 0,
                 "at least 1: the best epoch of the overfitting runs is chosen on held-out images")
            most, runs = data.n_train, self.overfitting.seeds
            need(runs <= self.seeds, "overfitting.seeds", runs, f"at most the {self.seeds} seeds")
            need(self.overfitting.train < most, "overfitting.train", self.overfitting.train,
                 f"less than the {most} training images")
