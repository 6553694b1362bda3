"""What a run needs, as values: `plan(settings)` is pure, and the only truth.

The batch graph, the price list of --dry-run and the notebooks read the same plan; a notebook that asks for a network
outside it is refused by `Study`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from lib.errors import SettingsError, unknown
from lib.papers import papers
from lib.papers.settings import Settings
from lib.values.attacks import Attack
from lib.values.certificates import Certificate
from lib.values.recipe import Recipe
from lib.values.threats import Threat


@dataclass(frozen=True)
class Task:
    """A network to train and what to measure it under. job: the batch job that does it. may_diverge: whether the job
    may go on if the training diverges.
    """

    recipe: Recipe
    measures: tuple[tuple[Threat, Attack | Certificate], ...]
    job: str
    may_diverge: bool = False


def chosen(settings: Settings, names: tuple[str, ...] = ()) -> tuple[str, ...]:
    """The papers named, or all that the profile has a section for. Raises SettingsError for an unknown paper and for
    one without a section.
    """
    for name in names:
        if name not in papers():
            raise unknown("notebook", name, papers())
        if name not in settings.sections:
            raise SettingsError(f"profile = {settings.profile} is not possible for the notebook {name}: "
                                f"configs/{settings.profile}.yaml has no section for it")
    return tuple(names) or settings.notebooks


def plan(settings: Settings, names: tuple[str, ...] = ()) -> list[Task]:
    """All networks of the papers (all of the profile if none is named), parents and sources before those that need
    them, each once.
    """
    tasks: dict[str, Task] = {}
    together = settings.jobs == "seeds"
    shared = {recipe.key: f"pool-{'' if together else kind}{repetition}"
              for (kind, repetition), recipe in settings.networks.pool(settings.seed).items()}

    def add(task: Task) -> None:
        recipe, job = task.recipe, shared.get(task.recipe.key, task.job)
        for needed in (*recipe.parents, *recipe.sources):
            add(Task(needed, (), job))
        task = replace(task, job=job)
        if old := tasks.get(recipe.key):
            if old.measures and not task.measures:
                recipe = old.recipe  # which knows how many test images it is measured on
            measures = tuple(dict.fromkeys(old.measures + task.measures))
            task = Task(recipe, measures, old.job, old.may_diverge and task.may_diverge)
        tasks[recipe.key] = task

    for name in chosen(settings, names):
        cells = papers()[name].cells(settings.networks, settings.sections[name], settings.seed)
        sources = {recipe.key for cell in cells for recipe in cell.recipe.sources}  # which all repetitions wait for
        for cell in cells:
            job = cell.job if not together else "sources" if cell.recipe.key in sources else cell.repetition
            add(Task(cell.recipe, cell.measures, f"{name}-{job}", cell.may_diverge))
    return list(tasks.values())
