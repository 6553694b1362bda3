"""The section of the stitching notebook."""

from __future__ import annotations

from dataclasses import dataclass, field

from lib.errors import need, unknown
from lib.recipe import Optimiser, Schedule
from lib.settings.networks import Gates, Networks, fewer_targets, repetitions
from lib.threats import PGD, Attack


@dataclass(frozen=True)
class Stitching:
    """The stitching notebook. `seeds`: repetitions, each with networks and a joint of its own. `joints`: stages after
    which networks are cut; the first block and the last block are read from them, `middle` is where C2 and C3 look.
    `alphas`: shares of adversarial images in the joint's training. `search` is the attack of every cell, `verify` the
    stronger one of the cells that a claim rests on. `end_epochs`: training of the newly trained ends. `converged`: by
    how many nats a joint's loss may still fall in the last part of training (0.1: the true class gains 10 %).
    `budget`: by how much the robust accuracy of a middle joint may change when it is trained for twice the epochs.
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
