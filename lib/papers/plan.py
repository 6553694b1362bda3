"""The plan of a run: all networks to train and measure, as values. `plan(settings)` is a pure function.

The batch graph, the price list of --dry-run and the notebooks all read this plan. A notebook that asks for a network
outside it gets an error.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from lib.errors import SettingsError, unknown
from lib.papers import papers
from lib.papers.settings import Settings
from lib.values.attacks import Attack
from lib.values.certificates import Certificate
from lib.values.measurement import Measurement, Storable
from lib.values.recipe import Recipe
from lib.values.threats import Threat


@dataclass(frozen=True)
class Task:
    """A network to train, and its measures: each the recipe on whose test images it is measured (papers differ in
    them), a threat, and an attack or certificate. job: its batch job.
    """

    recipe: Recipe
    measures: tuple[tuple[Recipe, Threat, Attack | Certificate], ...]
    job: str


def chosen(settings: Settings, names: tuple[str, ...] = ()) -> tuple[str, ...]:
    """The named papers, or all with a section in the profile if none is named. Raises SettingsError for an unknown
    paper and for one without a section.
    """
    for name in names:
        if name not in papers():
            raise unknown("notebook", name, papers())
        if name not in settings.sections:
            raise SettingsError(f"profile = {settings.profile} is not possible for the notebook {name}: "
                                f"configs/{settings.profile}.yaml has no section for it")
    return tuple(names) or settings.notebooks


def plan(settings: Settings, names: tuple[str, ...] = ()) -> list[Task]:
    """All networks of the named papers (of all in the profile if none is named), each once, and each after its parents
    and sources.
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
            task = replace(old, measures=tuple(dict.fromkeys(old.measures + task.measures)))
        tasks[recipe.key] = task

    for name in chosen(settings, names):
        cells = settings.cells_of(name)
        sources = {recipe.key for cell in cells for recipe in cell.recipe.sources}  # all repetitions wait for them
        for cell in cells:
            job = cell.job if not together else "sources" if cell.recipe.key in sources else cell.repetition
            add(Task(cell.recipe, tuple((cell.recipe, *measure) for measure in cell.measures), f"{name}-{job}"))
    return list(tasks.values())


def measured(settings: Settings, names: tuple[str, ...]) -> dict[str, tuple[str, list[Storable]]]:
    """{batch job: (paper, what it makes)} of what the named papers measure besides networks and their accuracies. Empty
    unless each network is a job of its own: small measurements take less time than the start of a job.
    """
    return {_of_paper(name, job): (name, made) for name in names if settings.jobs == "networks" for job, made in
            papers()[name].measured(settings.networks_of(name), settings.sections[name], settings.seed).items()}


def measurements(settings: Settings, names: tuple[str, ...]) -> dict[str, list[Measurement]]:
    """{paper: what is measured in addition to the accuracies of networks}, for prices, each with the full name of its
    batch job, which is `<paper>-notebook` for what no job makes.
    """
    jobs = settings.jobs == "networks"
    return {name: [replace(one, job=_of_paper(name, jobs and one.job or "notebook")) for one in papers()[name].
                   measurements(settings.networks_of(name), settings.sections[name], settings.seed)] for name in names}


def _of_paper(name: str, job: str) -> str:
    """The full name of a paper's batch job, as one word that is safe in shell commands and file names."""
    return f"{name}-{re.sub(r'[^A-Za-z0-9._-]', '-', job)}"
