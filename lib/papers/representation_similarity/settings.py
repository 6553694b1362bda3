"""Settings of the representation similarity notebook (Cianfarani et al., NeurIPS 2022)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated

from lib.errors import need
from lib.profiles.networks import (
    ATTACK,
    NO_ATTACK,
    UNTARGETED,
    Augmentation,
    BatchSize,
    Gates,
    Networks,
    Training,
    Unattacked,
    fewer_targets,
)
from lib.values.architectures import FromScratch
from lib.values.attacks import PGD, Attack
from lib.values.data import Data
from lib.values.declared import Bound, Count, Declared, OneOf, Positive, Repetitions, Share, different, whole
from lib.values.threats import Threat

GROUPS = ("strength", "threat", "procedure", "architecture", "data")
ROBUST = ("PGD-AT", "half", "TRADES", "FGSM-RS")
PROCEDURES = (*ROBUST, "noise")
KINDS = ("N", "R", "M", "M-", "M+", "U", "overfits", "control")
NO_KIND = Bound(lambda name: name not in KINDS, f"other than {', '.join(KINDS)}, the pool's kinds")
SECOND = ("procrustes", "svcca", "cca", "pwcca", "cka_biased", "cka")


@dataclass(frozen=True)
class Variant(Declared):
    """A further kind of network, in addition to the pool's normal and robust ones. Settings that are null are as for
    the pool's robust networks.
    """

    name: Annotated[str, NO_KIND]  # the kind's name in tables
    # what the kind varies: strength (eps), threat, procedure (including the control noise), architecture or data; the
    # last two have both normal and robust networks
    group: Annotated[str, OneOf(GROUPS)]
    # the training procedure; half: clean and adversarial cross-entropy in equal parts, with BatchNorm in train mode
    # during the attack; TRADES: with beta 6; noise: Gaussian noise of standard deviation `sigma`; null: as for the
    # pool's robust networks
    training: Annotated[str, OneOf(PROCEDURES)] | None = None
    threat: Threat | None = None  # the threat in training; null: the pool's
    attack: PGD | None = None  # the attack in training; null: as for the pool's robust networks
    sigma: Positive | None = None  # the standard deviation of the noise, for the training noise only
    arch: FromScratch | None = None  # the architecture, for the groups architecture and data; null: the pool's
    data: Data | None = None  # the data that the networks learn, for the group data only
    epochs: Count | None = None  # training epochs of robust networks; null: as in the pool
    normal_epochs: Count | None = None  # training epochs of normal networks; null: as in the pool
    batch_size: BatchSize | None = None  # images per update; null: as in the pool
    augment: Augmentation | None = None  # the augmentation of training images; null: as in the pool

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
        """The kinds of networks of the arm: its name, or `N <name>` and `R <name>` where it has both."""
        both = self.group in ("architecture", "data")
        return (f"N {self.name}", f"R {self.name}") if both else (self.name,)


@dataclass(frozen=True)
class Matched(Training):
    """Short training of normal networks, for two kinds whose clean accuracies must bracket the robust networks'. What a
    claim compares is interpolated between the two. `epochs` are the shorter kind's.
    """

    longer: Count = field(kw_only=True)  # training epochs of the kind that is trained longer

    where = "matched"

    def check_together(self):
        NO_ATTACK.hold(self, "matched")
        need(self.longer > self.epochs, "matched.longer", self.longer, f"more than the {self.epochs} epochs")


@dataclass(frozen=True)
class Overfitting(Declared):
    """A robust run on so few images that it overfits, and a control run with as many updates on all images."""

    train: Count  # training images of the overfitting run
    epochs: Count  # epochs of the overfitting run
    every: Count  # the interval, in epochs of the overfitting run, at which weights are kept
    training: Training  # training settings of both runs, except for the epochs
    kept_from: Share = 0.5  # the share of training from which weights are kept, after the learning rate has dropped
    # the fall of robust test accuracy, from the epoch that is best on held-out images to the last, without which C5 is
    # not tested
    fall: Share = 0.03
    seeds: Repetitions = 3  # repetitions, each with an overfitting and a control run

    where = "overfitting"

    def check_together(self):
        need(len(self.kept) >= 2, "overfitting.every", self.every, "small enough for two epochs to be kept")

    @property
    def kept(self) -> tuple[int, ...]:
        """The epochs of the overfitting run after which weights are kept, without the last epoch."""
        return tuple(n for n in range(self.every, self.epochs, self.every) if n >= self.kept_from * self.epochs)


@dataclass(frozen=True)
class Section(Declared):
    """Settings of the representation similarity notebook."""

    seeds: Repetitions  # repetitions, each with a network of every kind of the pool
    matched: Matched  # short training of normal networks, so that their clean accuracies bracket the robust networks'
    search: Annotated[PGD, UNTARGETED]  # the attack that makes adversarial images and measures all networks
    verify: Attack  # the stronger attack, for the pool's robust networks
    gates: Gates
    arm_seeds: Repetitions = 3  # repetitions of the further kinds of networks, at most `seeds`
    arms: Annotated[tuple[Variant, ...], different(of="name")] = ()  # further kinds of networks
    overfitting: Overfitting | None = None
    data: Data | None = None  # the data that the networks learn; null: the pool's
    arch: FromScratch | None = None  # the architecture of all networks; null: the pool's
    normal: Unattacked | None = None  # the training of normal networks; null: as in the pool
    robust: Annotated[Training, ATTACK] | None = None  # the training of robust networks; null: as in the pool
    training: Annotated[str, OneOf(ROBUST)] = "PGD-AT"  # the training procedure of robust networks, as in `arms`
    images: Count | None = None  # how many test images similarity is measured on; null: all
    batch: Annotated[int, whole(4)] = 256  # images per minibatch; the unbiased estimator of CKA needs at least four
    layers: Annotated[str, OneOf(("all", "relu", "stages"))] = "all"  # the layers that are compared
    # further similarity measures, on pooled activations
    second: tuple[Annotated[str, OneOf(SECOND)], ...] = ("procrustes", "svcca")
    untrained: Count = 5  # untrained networks in each repetition, whose maps differ more than trained ones'

    where = "representation_similarity"

    def check_together(self):
        need(self.arm_seeds <= self.seeds, "representation_similarity.arm_seeds", self.arm_seeds,
             f"at most the {self.seeds} seeds: arms are compared with the pool's networks")

    @property
    def untrained_kinds(self) -> tuple[str, ...]:
        """The kinds of untrained networks: `U`, which is compared with other kinds, and further ones like it."""
        return "U", *(f"U, {number}" for number in range(2, self.untrained + 1))

    @property
    def pool(self) -> int:
        """How many networks of each type of the common pool are needed."""
        return self.seeds

    def own(self, networks: Networks) -> Networks:
        """The pool with this paper's own data, architecture and training."""
        given = {name: getattr(self, name) for name in ("data", "arch")}
        for kind in ("normal", "robust"):
            how, pool = getattr(self, kind), getattr(networks, kind)
            given[kind] = how and replace(pool, epochs=how.epochs, optimiser=how.optimiser, schedule=how.schedule,
                                          attack=how.attack, shares=how.shares)
        return replace(networks, **{name: value for name, value in given.items() if value is not None})

    def check(self, networks: Networks) -> None:
        """Raise SettingsError unless the section fits the networks."""
        networks = self.own(networks)
        data = networks.data
        tests = data.n_test
        images = tests if self.images is None else self.images
        need(2 * self.batch <= images <= tests, "representation_similarity.images", images,
             f"from two minibatches of {self.batch} to the {tests} test images")
        for arm in self.arms:
            same = arm.group != "strength" or arm.threat.norm == networks.threat.norm
            need(same, f"arms[{arm.name}].threat", arm.threat and arm.threat.norm, f"{networks.threat.norm}, the "
                 "pool's norm, in the group strength")
        fewer_targets("representation_similarity.verify.targets", self.verify, data)
        if self.overfitting is not None:
            need(data.holdout > 0, "data.holdout of representation_similarity", 0,
                 "at least 1: the best epoch of the overfitting runs is chosen on held-out images")
            most, runs = data.n_train, self.overfitting.seeds
            need(runs <= self.seeds, "overfitting.seeds", runs, f"at most the {self.seeds} seeds")
            need(self.overfitting.train < most, "overfitting.train", self.overfitting.train,
                 f"less than the {most} training images")
