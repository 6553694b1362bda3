"""The kinds of work in a plan, and what all work of a kind needs at its real size."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from lib.papers.plan import Task
from lib.training import price
from lib.values.architectures import Probe, Pruned, Stitch
from lib.values.attacks import Attack
from lib.values.certificates import Certificate
from lib.values.measurement import Measurement
from lib.values.recipe import Recipe
from lib.values.threats import Threat


@dataclass(frozen=True)
class Step:
    """A training (`measure` is None) or a measurement of a network, and its kind, in words without sizes."""

    kind: str
    recipe: Recipe
    measure: tuple[Recipe, Threat, Attack | Certificate] | None = None

    @property
    def flops(self) -> float:
        return price.measuring(self.measure[0], self.measure[2]) if self.measure else price.training(self.recipe)


def steps(task: Task) -> list[Step]:
    """What a task does: the training, if there is one, then the measurements."""
    recipe = task.recipe
    found = [Step(f"training of {family(recipe)}, {_objective(recipe)}, {recipe.data.name}", recipe)] * recipe.stored
    return found + [Step(f"{_attack(*measure[1:])} on {family(recipe)}, {recipe.data.name}", recipe, measure)
                    for measure in task.measures]


def family(recipe: Recipe) -> str:
    """A network by its family: `stitched ResNet`, `VGG16 pruned by channels`, `published ResNet`."""
    arch, base = recipe.arch, type(price.last_part(recipe).arch.dense).__name__
    if isinstance(arch, Pruned):
        rule = f"{arch.rates} rates, {arch.scores} scores"
        return f"{base} pruned by {arch.granularity} ({rule})"
    how = {Stitch: "stitched ", Probe: "probes of "}.get(type(arch), "published " if recipe.weights else "")
    return how + base


def _objective(recipe: Recipe) -> str:
    if not recipe.epochs:
        return "least squares"
    return re.sub(r"( alpha)? [-+\d.e]+$", "", recipe.objective.describe())


def _attack(threat: Threat | None, attack: Attack | Certificate | None) -> str:
    if attack is None:
        return "clean accuracy"
    name = re.sub(r"-\d+$", "", attack.title.split(" (")[0])
    loss = getattr(attack, "loss", "ce")
    return f"{name}{'' if loss == 'ce' else f' of the {loss} loss'} in {threat.norm}"


def measured_kind(notebook: str, one: Measurement) -> str:
    """The kind of a notebook's own measurement."""
    return f"{one.what} by {family(one.recipe)}, {one.recipe.data.name} (in {notebook})"


@dataclass
class Need:
    """What all work of a kind needs at its real size: how often it is done, FLOPs, seconds on the device of the
    prices, and bytes: of memory for the largest training, of disk for the networks of all.
    """

    count: int = 0
    flops: float = 0.0
    seconds: float = 0.0
    memory: float = 0.0
    disk: float = 0.0

    def add(self, recipe: Recipe, like: str, flops: float, prices, trains: bool) -> None:
        self.count += 1
        self.flops += flops
        self.seconds += prices.seconds(recipe, like, flops)
        if trains:
            self.memory, self.disk = max(self.memory, price.memory(recipe)), self.disk + price.disk(recipe)


def needs(tasks: Iterable[Task], measured: dict[str, list[Measurement]], prices) -> dict[str, Need]:
    """{kind: what it needs} of a plan and of the notebooks' own measurements. prices: as for `lib.prices.seconds_of`.
    """
    found: dict[str, Need] = {}
    for task in tasks:
        for step in steps(task):
            like = price.like_outcomes(*step.measure) if step.measure else price.like_training(step.recipe)
            found.setdefault(step.kind, Need()).add(step.recipe, like, step.flops, prices, step.measure is None)
    for notebook, every in measured.items():
        for one in every:
            kind = found.setdefault(measured_kind(notebook, one), Need())
            kind.add(one.recipe, "", price.measurement(one), prices, False)
    return found
