"""The networks of the notebook across the papers: one architecture, a kind for each way of training in the papers.

Where settings agree, recipes are those of the papers' notebooks, so that networks are shared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from lib.papers.across_papers.settings import ALIGNED, DENOISERS, DENSE, OF_POOL, PRUNED, Arm, Section
from lib.profiles import networks as profiles
from lib.profiles.networks import Networks, trained_as
from lib.values.architectures import Pruned
from lib.values.cell import Cell
from lib.values.objectives import TRADES, Adversarial, Aligned, CrossEntropy, GradientNorm, Noise, Targets
from lib.values.recipe import Recipe


@dataclass(frozen=True)
class Condition:
    """What the networks of all repetitions have in common: their kind, N (normal), R (robust), U (untrained), the name
    of an arm, `pruned`, `dense, fine-tuned` or one of DENOISERS. training: of an arm.
    """

    kind: str
    training: str = ""

    def job(self, repetition: int) -> str:
        """The batch job: a repetition of one training; pruned and dense networks have one together."""
        shared = {DENSE: PRUNED, **dict.fromkeys(DENOISERS, "denoiser")}
        name = self.training or shared.get(self.kind, self.kind)
        return f"{name}-{repetition}".replace(" ", "-")


class Repetition(profiles.Repetition):
    """The networks of one repetition."""

    section: Section

    def of_pool(self, kind: str) -> Recipe:
        """The pool's network of a kind, N, R or U."""
        return self.networks.member(kind, self.number, self.seed)

    def teacher(self, number: int = 0) -> Recipe:
        """The denoiser whose class scores are targets, the same for all repetitions; number 1: the one that judges."""
        return self.section.own(self.networks).denoiser.recipe(self.networks.data, self.networks.precision,
                                                               self.seed(number))

    def arm(self, arm: Arm) -> Recipe:
        """The recipe of an arm."""
        threat, attack = arm.threat or self.networks.threat, arm.attack or self.networks.robust.attack
        robust = arm.adversarial or arm.training == "noise"
        recipe = self.of_pool("R" if robust else "N")
        recipe = replace(recipe, epochs=arm.epochs or recipe.epochs)
        if arm.training in ALIGNED:
            return self._aligned(recipe, arm)
        if arm.training == "gradient norm":
            recipe = replace(recipe, precision=self.networks.second_order)
        return replace(recipe, objective={
            "normal": CrossEntropy, "noise": lambda: Noise(arm.strength),
            "gradient norm": lambda: GradientNorm(arm.strength), "PGD-AT": lambda: Adversarial(threat, attack),
            "TRADES": lambda: TRADES(threat, attack)}[arm.training]())

    def _aligned(self, recipe: Recipe, arm: Arm) -> Recipe:
        scored = arm.training == "class score"
        teacher = self.teacher()
        targets = Targets("score", sigma=self.section.own(self.networks).denoiser.sigma) if scored else Targets(
            "class mean")
        objective = Aligned(CrossEntropy(), targets, arm.strength, classes=self.section.classes)
        return replace(recipe, objective=objective, sources=(teacher,) if scored else (),
                       precision=self.networks.second_order)

    def finetuned(self, pruned: bool) -> Recipe:
        """The robust network after fine-tuning, with its smallest weights removed before or with all weights."""
        base, how = self.of_pool("R"), self.section.pruning
        arch = Pruned(base.arch, how.keep, scores="magnitude") if pruned else base.arch
        objective = self.networks.objective(how.attack or self.networks.robust.attack)
        return trained_as(replace(base, arch=arch, parents=(base,), objective=objective), how.finetune)


def cells(networks: Networks, section: Section, seed: Callable[[int], int]) -> list[Cell]:
    """All networks of all repetitions, the pool's first, each measured under `verify`; and the two denoisers."""
    every = [Repetition(networks, section, number, seed) for number in range(section.seeds)]
    denoisers = [Cell(Condition(kind), 0, every[0].teacher(number)) for number, kind in enumerate(DENOISERS)]
    return [*(cell for one in every for cell in _of(one)), *denoisers]


def _of(r: Repetition) -> Iterator[Cell]:
    threat, s = r.networks.threat, r.section
    verify, search, again = ((threat, how) for how in (s.verify, s.search, s.search.with_one_more_restart()))
    more = {"N": (search,), "R": (search, again) if r.number == 0 else (search,)}
    for kind in OF_POOL:
        yield Cell(Condition(kind), r.number, r.of_pool(kind), (verify, *more.get(kind, ())))
    for arm in s.arms:
        yield Cell(Condition(arm.name, arm.training), r.number, r.arm(arm), (verify,))
    for kind, pruned in ((DENSE, False), (PRUNED, True)):
        yield Cell(Condition(kind), r.number, r.finetuned(pruned), (verify,))
