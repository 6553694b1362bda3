"""The section of the stitching notebook."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Annotated

from lib.errors import need, unknown
from lib.profiles.networks import (
    UNTARGETED,
    Augmentation,
    FileName,
    Gates,
    Networks,
    Unattacked,
    fewer_targets,
    trained_as,
)
from lib.values.attacks import PGD, Attack
from lib.values.data import Data
from lib.values.declared import (
    Count,
    Declared,
    NotNegative,
    Positive,
    Repetitions,
    Share,
    different,
    length,
    whole,
)
from lib.values.external import External
from lib.values.objectives import Attacked
from lib.values.recipe import Optimiser, Recipe, Schedule

Joints = Annotated[tuple[str, ...], length(3)]


@dataclass(frozen=True)
class OtherTask(Declared):
    """Another task of as many classes, which ends of C5 and C6 have learned: networks of the pool's architecture,
    trained on clean images.
    """

    data: Data  # what they have learned
    clean: Share  # the accuracy that they must have on their own task
    training: Unattacked | None = None  # how they have learned it; null: as the pool's normal networks
    augment: Augmentation | None = None  # how images are varied; null: as the pool's

    where = "others"

    def recipe(self, networks: Networks, repetition: int, seed: Callable[[int], int]) -> Recipe:
        """The network that has learned the task, normally. seed: of the recipes of a repetition."""
        recipe = replace(networks.member("N", repetition, seed), data=self.data, seed=seed(repetition))
        recipe = trained_as(recipe, self.training) if self.training else recipe
        return replace(recipe, augment=self.augment or recipe.augment)


@dataclass(frozen=True)
class OtherSetting(Declared):
    """The core of the notebook once more, with networks of their own, on another data set or with another architecture
    (C7).
    """

    name: FileName  # for tables
    networks: Networks
    joints: Joints  # as in the section
    middle: str  # as in the section
    gates: Gates
    attack: PGD  # in the joint's training
    search: Annotated[PGD, UNTARGETED]  # the attack that every network is measured under
    augment: Augmentation | None = None  # how the joint's images are varied; null: as the networks'

    where = "elsewhere"


@dataclass(frozen=True)
class Section(Declared):
    """The stitching notebook."""

    seeds: Repetitions  # repetitions, each with networks and a joint of its own
    joints: Joints  # stages after which networks are cut, in order of depth; the first and the last block are read off
    middle: str  # the joint that C2 and C3 are about
    epochs: Count  # of a joint's training
    end_epochs: Count  # of the training of a new end
    attack: PGD  # in the joint's training
    search: Annotated[PGD, UNTARGETED]  # the attack that every network is measured under
    verify: Attack  # the stronger one, where a claim rests on it
    gates: Gates
    alphas: Annotated[tuple[Share, ...], different(1)] = (0.0, 1.0)  # shares of attacked images in training
    optimiser: Optimiser = field(default_factory=lambda: Optimiser("adam", lr=3e-2, weight_decay=1e-4))
    schedule: Schedule = field(default_factory=lambda: Schedule("cosine"))
    augment: Augmentation | None = None  # how images are varied; null: as the pool's
    # nats by which a joint's loss, mean over repetitions, may still fall in the last part of training (0.1: the true
    # class gains 10 %)
    converged: Positive = 0.1
    # by how much the robust accuracy of a middle joint may change when it is trained for twice the epochs
    budget: Share = 0.03
    # What goes beyond the core.
    others: Annotated[tuple[OtherTask, ...], different(of="data.name")] = ()  # other tasks that ends have learned
    # networks that others trained, in files that the user has, joined with the pool's of the other kind
    external: Annotated[tuple[External, ...], different(of="name")] = ()
    frozen: bool = False  # the whole cross once more with BatchNorm's statistics as they were
    trades: NotNegative | None = None  # the beta of middle joints of N->R and R->N trained by TRADES; null: none
    # whom the images are made to fool that middle joints of N->R and R->N are trained on (by the authors' code): front,
    # end, itself, one training each, and all of the first two together
    against: Annotated[tuple[Attacked, ...], different()] = ()
    ranks: Annotated[tuple[Count, ...], different()] = ()  # to which trained middle joints of N->R and R->N are cut
    direct: bool = False  # joints that match activations by least squares and are not trained, and such as start there
    fit: Annotated[int, whole(2)] | None = None  # training images that activations are matched on; null: all
    elsewhere: Annotated[tuple[OtherSetting, ...], different(of="name")] = ()  # other data sets and architectures

    where = "stitching"

    def check_together(self):
        inner = [j for j in self.joints[:-1] if j not in self.first]
        if self.middle not in inner:
            raise unknown("stitching.middle joint (between the first joints and the last)", self.middle, inner)

    def core_at(self, place: OtherSetting) -> Section:
        """The core of the section in another setting."""
        given = {name: getattr(place, name) for name in ("joints", "middle", "gates", "attack", "search", "augment")}
        return replace(self, **given, others=(), external=(), frozen=False, trades=None, against=(), ranks=(),
                       direct=False, elsewhere=())

    @property
    def first(self) -> tuple[str, ...]:
        """The joints before anything but low-level features: the stem, if it is one, and the first block."""
        return self.joints[:2] if self.joints[0] == "stem" else self.joints[:1]

    @property
    def pool(self) -> int:
        """Networks of each type that it needs: one a repetition, and pairs need two."""
        return max(2, self.seeds)

    def check(self, networks: Networks) -> None:
        """Raise SettingsError unless the section fits the networks."""
        stages = networks.arch.joints
        for joint in self.joints:
            if joint not in stages:
                raise unknown("joint", joint, stages)
        in_order = [j for j in stages if j in self.joints]
        need([*self.joints] == in_order, "stitching.joints", [*self.joints], "different stages in order of depth")
        fewer_targets("stitching.verify.targets", self.verify, networks.data)
        classes = networks.data.info.classes
        most = networks.data.n_train
        need(self.fit is None or self.fit <= most, "stitching.fit", self.fit, f"at most the {most} training images")
        for other in self.others:
            data = other.data
            need(data.name != networks.data.name, "stitching.others.data", data.name, "another than the pool's")
            need(data.info.classes == classes, "stitching.others.data", data.name, f"a set of {classes} classes")
        for one in self.external:
            need(one.known.arch == networks.arch, f"stitching.external {one.name}", one.known.arch.name,
                 f"of the pool's architecture, {networks.arch.name}")
            one.recipe(networks.data)  # its file must be there, and be the right one
        for place in self.elsewhere:
            self.core_at(place).check(place.networks)
