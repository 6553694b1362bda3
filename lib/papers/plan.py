"""What a run needs, as values: `plan(settings)` is pure, and the only truth.

The batch graph, the price list of --dry-run and the notebooks read the same plan; a notebook that asks for a network
outside it is refused by `Study`.
"""

from __future__ import annotations

from dataclasses import dataclass

from lib.errors import SettingsError, unknown
from lib.papers.compact_robust_pruning import networks as compact_robust_pruning
from lib.papers.harp_pruning import networks as harp_pruning
from lib.papers.off_manifold_robustness import networks as off_manifold_robustness
from lib.papers.perceptually_aligned_gradients import networks as perceptually_aligned_gradients
from lib.papers.representation_similarity import networks as representation_similarity
from lib.papers.settings import Settings
from lib.papers.stitching import networks as stitching
from lib.values.attacks import Attack
from lib.values.certificates import Certificate
from lib.values.recipe import Recipe
from lib.values.threats import Threat

NOTEBOOKS = {"stitching": stitching.cells, "representation_similarity": representation_similarity.cells,
             "perceptually_aligned_gradients": perceptually_aligned_gradients.cells,
             "off_manifold_robustness": off_manifold_robustness.cells, "harp_pruning": harp_pruning.cells,
             "compact_robust_pruning": compact_robust_pruning.cells}


@dataclass(frozen=True)
class Task:
    """A network to train and what to measure it under; `group` names the batch job that does it. diverges: whether the
    job may go on if the training diverges.
    """

    recipe: Recipe
    measures: tuple[tuple[Threat, Attack | Certificate], ...]
    group: str
    diverges: bool = False


def chosen(settings: Settings, notebooks: tuple[str, ...] = ()) -> tuple[str, ...]:
    """The notebooks named, or all that the profile has a section for. Raises SettingsError for an unknown notebook and
    for one without a section.
    """
    for name in notebooks:
        if name not in NOTEBOOKS:
            raise unknown("notebook", name, NOTEBOOKS)
        if name not in settings.notebooks:
            raise SettingsError(f"profile = {settings.profile} is not possible for the notebook {name}: "
                                f"configs/{settings.profile}.yaml has no section for it")
    return tuple(notebooks) or settings.notebooks


def plan(settings: Settings, notebooks: tuple[str, ...] = ()) -> list[Task]:
    """All networks of the notebooks (all of the profile if none is named), parents and sources before those that need
    them, each once."""
    tasks: dict[str, Task] = {}
    together = settings.jobs == "seeds"
    shared = {recipe.key: f"pool-{'' if together else kind}{repetition}"
              for (kind, repetition), recipe in settings.networks.pool(settings.seed).items()}

    def add(recipe: Recipe, measures: tuple[tuple[Threat, Attack | Certificate], ...], group: str, diverges=False):
        group = shared.get(recipe.key, group)
        for needed in (*recipe.parents, *recipe.sources):
            add(needed, (), group)
        old = tasks.get(recipe.key)
        if old is not None:
            if old.measures and not measures:
                recipe = old.recipe  # which knows how many test images it is measured on
            measures = tuple(dict.fromkeys(old.measures + measures))
            group, diverges = old.group, old.diverges and diverges
        tasks[recipe.key] = Task(recipe, measures, group, diverges)

    for name in chosen(settings, notebooks):
        cells = NOTEBOOKS[name](settings)
        sources = {recipe.key for cell in cells for recipe in cell.recipe.sources}  # which all repetitions wait for
        for cell in cells:
            job = cell.group if not together else "sources" if cell.recipe.key in sources else cell.seed
            group = f"{name}-{job}"
            add(cell.recipe, cell.measures, group, getattr(cell, "diverges", False))
    return list(tasks.values())
