"""The section of the stitching notebook."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from lib.errors import is_int, is_number, need, unknown
from lib.profiles.networks import Gates, Networks, Training, fewer_targets, repetitions, trained_as
from lib.values.attacks import PGD, Attack
from lib.values.data import Data
from lib.values.external import External
from lib.values.objectives import ATTACKED
from lib.values.recipe import Optimiser, Recipe, Schedule


@dataclass(frozen=True)
class OtherTask:
    """Another task of as many classes, which ends of C5 and C6 have learned: networks of the pool's architecture,
    trained on clean images. training, augment: those of the pool's normal networks where they are left out. clean: the
    accuracy that they must have on their own task.
    """

    data: Data
    clean: float
    training: Training | None = None
    augment: str | None = None

    def __post_init__(self):
        need(is_number(self.clean, 0, 1), "stitching.others.clean", self.clean, "an accuracy in [0, 1]")
        attack = self.training and self.training.attack
        need(attack is None, "stitching.others.training.attack", attack, "left out: ends of other tasks are normal")

    def recipe(self, networks: Networks, repetition: int, seed: Callable[[int], int]) -> Recipe:
        """The network that has learned the task, normally. seed: of the recipes of a repetition."""
        recipe = replace(networks.member("N", repetition, seed), data=self.data, seed=seed(repetition))
        recipe = trained_as(recipe, self.training) if self.training else recipe
        return replace(recipe, augment=self.augment or recipe.augment)


@dataclass(frozen=True)
class OtherSetting:
    """The core of the notebook once more, with networks of their own, on another data set or with another architecture
    (C7). Joints, middle and gates as in `Section`.
    """

    name: str
    networks: Networks
    joints: tuple[str, ...]
    middle: str
    gates: Gates
    attack: PGD
    search: PGD
    augment: str | None = None

    def __post_init__(self):
        good = bool(self.name) and all(c.isalnum() or c in " -._" for c in self.name)
        need(good, "stitching.elsewhere.name", self.name, "of letters, digits, spaces, '-', '.' and '_'")


@dataclass(frozen=True)
class Section:
    """The stitching notebook. `seeds`: repetitions, each with networks and a joint of its own. `joints`: stages after
    which networks are cut; the first block and the last block are read from them, `middle` is where C2 and C3 look.
    `alphas`: shares of adversarial images in the joint's training. `search` is the attack of every cell, `verify` the
    stronger one of the cells that a claim rests on. `end_epochs`: training of the newly trained ends. `converged`: by
    how many nats a joint's loss, mean over repetitions, may still fall in the last part of training (0.1: the true
    class gains 10 %).
    `budget`: by how much the robust accuracy of a middle joint may change when it is trained for twice the epochs.

    What goes beyond the core. `others`: other tasks that ends have learned. `external`: networks that others trained,
    in files that the user has, joined with the pool's of the other kind. `frozen`: the whole cross once more with
    BatchNorm's statistics as they were. At the middle joint of N->R and R->N: `trades`, the beta of joints trained by
    TRADES; `against`, whom the images are made to fool that joints are trained on (by the authors' code: `front`,
    `end`, `itself`, one training each, and all of the first two together); `ranks`, to which a trained joint is cut.
    `direct`: joints that match activations by least squares and are not trained (`fit` images), and joints that start
    there. `elsewhere`: other data sets and architectures.
    """

    seeds: int
    joints: tuple[str, ...]
    middle: str
    epochs: int
    end_epochs: int
    attack: PGD
    search: PGD
    verify: Attack
    gates: Gates
    alphas: tuple[float, ...] = (0.0, 1.0)
    optimiser: Optimiser = field(default_factory=lambda: Optimiser("adam", lr=3e-2, weight_decay=1e-4))
    schedule: Schedule = field(default_factory=lambda: Schedule("cosine"))
    augment: str | None = None
    converged: float = 0.1
    budget: float = 0.03
    others: tuple[OtherTask, ...] = ()
    external: tuple[External, ...] = ()
    frozen: bool = False
    trades: float | None = None
    against: tuple[str, ...] = ()
    ranks: tuple[int, ...] = ()
    direct: bool = False
    fit: int | None = None
    elsewhere: tuple[OtherSetting, ...] = ()

    def __post_init__(self):
        repetitions("stitching.seeds", self.seeds)
        need(len(self.joints) >= 3, "stitching.joints", list(self.joints), "at least three stages")
        need(
            len(set(self.alphas)) == len(self.alphas) > 0 and all(0 <= a <= 1 for a in self.alphas),
            "stitching.alphas",
            self.alphas,
            "different numbers from 0 to 1",
        )
        inner = [j for j in self.joints[:-1] if j not in self.first]
        if self.middle not in inner:
            raise unknown("stitching.middle joint (between the first joints and the last)", self.middle, inner)
        for name in ("epochs", "end_epochs"):
            need(getattr(self, name) >= 1, f"stitching.{name}", getattr(self, name), "1 or more")
        need(not self.search.targeted, "stitching.search.targeted", True, "false: evaluation is untargeted")
        for name in self.against:
            if name not in ATTACKED:
                raise unknown("stitching.against", name, ATTACKED)
        named = {"others": [o.data.name for o in self.others], "external": [e.name for e in self.external],
                 "ranks": list(self.ranks), "against": list(self.against),
                 "elsewhere": [e.name for e in self.elsewhere]}
        for name, given in named.items():
            need(len({*given}) == len(given), f"stitching.{name}", given, "different ones")
        need(self.trades is None or is_number(self.trades, 0), "stitching.trades", self.trades, "a beta of at least 0")
        need(all(is_int(r, 1) for r in self.ranks), "stitching.ranks", list(self.ranks), "whole numbers from 1 on")

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
        need(
            list(self.joints) == in_order, "stitching.joints", list(self.joints), "different stages in order of depth"
        )
        fewer_targets("stitching.verify.targets", self.verify, networks.data)
        classes = networks.data.info.classes
        need(self.fit is None or is_int(self.fit, 2) and self.fit <= networks.data.n_train, "stitching.fit", self.fit,
             f"a whole number from 2 to the {networks.data.n_train} training images, or null")
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
