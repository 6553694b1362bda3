"""What a run needs, as values: `plan(settings)` is pure, and the only truth.

The batch graph, the price list of --dry-run and the notebooks read the same plan; a notebook that asks for a network
outside it is refused by `Study`.
"""

from __future__ import annotations

from dataclasses import dataclass

from lib.errors import unknown
from lib.plan import stitching
from lib.plan.pool import pool
from lib.recipe import Recipe
from lib.settings import Settings
from lib.threats import Attack, Threat

NOTEBOOKS = {"stitching": stitching.cells}


@dataclass(frozen=True)
class Task:
    """A network to train and the attacks to measure it under; `group` names the batch job that does it."""

    recipe: Recipe
    attacks: tuple[Attack, ...]
    threat: Threat
    group: str


def plan(settings: Settings, notebooks: tuple[str, ...] = ()) -> list[Task]:
    """All networks of the notebooks (all of them if none is named), parents before children, each once."""
    for name in notebooks:
        if name not in NOTEBOOKS:
            raise unknown("notebook", name, NOTEBOOKS)
    tasks: dict[str, Task] = {}

    def add(recipe: Recipe, attacks: tuple[Attack, ...], group: str):
        for parent in recipe.parents:
            add(parent, (), group)
        old = tasks.get(recipe.key)
        if old is not None:
            attacks = tuple(dict.fromkeys(old.attacks + attacks))
            group = old.group
        tasks[recipe.key] = Task(recipe, attacks, settings.networks.threat, group)

    for member in pool(settings):
        add(member.recipe, (), f"pool-{member.kind}{member.seed}")
    for name in notebooks or NOTEBOOKS:
        for cell in NOTEBOOKS[name](settings):
            add(cell.recipe, cell.attacks, f"{name}-{cell.group}")
    return list(tasks.values())
