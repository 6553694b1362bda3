"""Settings of the stitching notebook (Balogh & Jelasity, ICML 2023)."""

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
    OneOf,
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

STEM = "stem"  # the joint before the first block
Front = Annotated[str, OneOf(("N", "R"))]
Joints = Annotated[tuple[str, ...], length(3)]
Middle = Annotated[tuple[str, ...], length(1)]


@dataclass(frozen=True)
class OtherTask(Declared):
    """Another task with as many classes, which the ends in C5 and C6 have learned: networks of the pool's architecture,
    trained on clean images.
    """

    data: Data  # the data of the other task
    clean: Share  # the least clean accuracy required on the other task
    training: Unattacked | None = None  # training on the other task; null: as for the pool's normal networks
    augment: Augmentation | None = None  # the augmentation of training images; null: as in the pool

    where = "others"

    def recipe(self, networks: Networks, repetition: int, seed: Callable[[int], int]) -> Recipe:
        """Recipe of a network trained normally on the task. seed: from a repetition to the seed of its recipes."""
        recipe = replace(networks.member("N", repetition, seed), data=self.data, seed=seed(repetition))
        recipe = trained_as(recipe, self.training) if self.training else recipe
        return replace(recipe, augment=self.augment or recipe.augment)


@dataclass(frozen=True)
class OtherSetting(Declared):
    """The comparisons of the paper repeated with other networks, on another data set or with another architecture (C7).
    """

    name: FileName  # the setting's name in tables
    networks: Networks
    joints: Joints  # stages after which networks are cut, in order of depth
    middle: Middle  # the joints of C2, in order of depth; C3 compares with the first of them, C4 with the last
    gates: Gates
    attack: PGD  # the attack in the training of joints
    search: Annotated[PGD, UNTARGETED]  # the attack under which every network is measured
    augment: Augmentation | None = None  # the augmentation in the training of joints; null: as for the networks

    where = "elsewhere"


@dataclass(frozen=True)
class Section(Declared):
    """Settings of the stitching notebook."""

    seeds: Repetitions  # repetitions of what C2 and C3 compare, each with networks and joints of its own
    joints: Joints  # stages after which networks are cut, in order of depth
    middle: Middle  # the joints of C2, in order of depth; C3 compares with the first of them, C4 to C6 with the last
    epochs: Count  # training epochs of a joint
    end_epochs: Count  # training epochs of a new end
    attack: PGD  # the attack in the training of joints
    search: Annotated[PGD, UNTARGETED]  # the attack under which every network is measured
    verify: Attack  # the stronger attack, where a claim depends on it
    gates: Gates
    other_seeds: Repetitions | None = None  # repetitions of all other networks, at most `seeds`; null: as many
    alphas: Annotated[tuple[Share, ...], different(1)] = (0.0, 1.0)  # shares of adversarial images in training a joint
    optimiser: Optimiser = field(default_factory=lambda: Optimiser("adam", lr=3e-2, weight_decay=1e-4))
    schedule: Schedule = field(default_factory=lambda: Schedule("cosine"))
    augment: Augmentation | None = None  # the augmentation in the training of joints; null: as in the pool
    # the largest change of a joint's loss in the last part of training, in nats, mean of absolute values over
    # repetitions, at which the joint counts as converged (0.1: the probability of the true class grows by 10 %)
    converged: Positive = 0.1
    # the largest change allowed in the robust accuracy of a joint when it is trained for twice the epochs
    budget: Share = 0.03
    new_ends: Annotated[tuple[Front, ...], different()] = ("N", "R")  # fronts that get a new, adversarially trained end
    # whether to add controls: untrained ends at every joint, new ends trained on clean images, two normal networks with
    # a middle joint trained on adversarial images, and twice the epochs at the last middle joint, too
    more_controls: bool = False
    # Beyond the core.
    others: Annotated[tuple[OtherTask, ...], different(of="data.name")] = ()  # other tasks that ends have learned
    # networks trained by others, in files that the user has, stitched with the pool's networks of the other kind
    external: Annotated[tuple[External, ...], different(of="name")] = ()
    frozen: bool = False  # whether all joints of N->R and R->N are also trained with frozen BatchNorm statistics
    trades: NotNegative | None = None  # the beta of middle joints of N->R and R->N trained by TRADES; null: none
    # the networks that training images are made to fool, for further middle joints of N->R and R->N: front, end or
    # itself (one joint each), as in the authors' code; with both front and end, one more joint for the two together
    against: Annotated[tuple[Attacked, ...], different()] = ()
    ranks: Annotated[tuple[Count, ...], different()] = ()  # ranks to which middle joints of N->R and R->N are truncated
    direct: bool = False  # whether to add joints fitted to activations by least squares, with and without training
    fit: Annotated[int, whole(2)] | None = None  # the number of training images for the least-squares fit; null: all
    elsewhere: Annotated[tuple[OtherSetting, ...], different(of="name")] = ()  # other data sets and architectures

    where = "stitching"

    def check_together(self):
        inner = [*dict.fromkeys(j for j in self.joints[:-1] if j not in (STEM, *self.blocks[:1]))]
        for joint in self.middle:
            if joint not in inner:
                raise unknown("stitching.middle joint (between the first block and the last joint)", joint, inner)
        in_order = [joint for joint in inner if joint in self.middle]
        need([*self.middle] == in_order, "stitching.middle", [*self.middle], "different joints in order of depth")

    def core_at(self, place: OtherSetting) -> Section:
        """What is compared in another setting, as settings of its own."""
        given = {name: getattr(place, name) for name in ("joints", "middle", "gates", "attack", "search", "augment")}
        return replace(self, **given, seeds=self.fewer, other_seeds=None, more_controls=False, others=(),
                       external=(), frozen=False, trades=None, against=(), ranks=(), direct=False, elsewhere=())

    @property
    def fewer(self) -> int:
        """The number of repetitions of what C2 and C3 do not compare."""
        return min(self.seeds, self.other_seeds or self.seeds)

    @property
    def blocks(self) -> tuple[str, ...]:
        """The joints after blocks: all but the stem, which is a joint of ours."""
        return tuple(joint for joint in self.joints if joint != STEM)

    @property
    def first(self) -> str:
        """The joint after the first block."""
        return self.blocks[0]

    @property
    def late(self) -> str:
        """The joint before the last layers: the last of the middle ones."""
        return self.middle[-1]

    @property
    def last(self) -> str:
        """The last joint."""
        return self.joints[-1]

    @property
    def decisive(self) -> dict[str, str]:
        """{name: joint} of the joints that most claims are about: `middle`, `late` (where it is another) and `last`."""
        return {name: joint for name, joint in (("middle", self.middle[0]), ("late", self.late), ("last", self.last))
                if name != "late" or joint != self.middle[0]}

    @property
    def pool(self) -> int:
        """How many networks of each type of the common pool are needed: one per repetition, and at least two for pairs.
        """
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
