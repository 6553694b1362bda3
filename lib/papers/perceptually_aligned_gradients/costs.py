"""What the notebook measures in addition to accuracies, for prices: the functions of `results.measure` in turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from lib.papers.perceptually_aligned_gradients.networks import JUDGE, SCORE, TEACHER, StudyNetworks, cells
from lib.papers.perceptually_aligned_gradients.results import STEPS, search, shown
from lib.papers.perceptually_aligned_gradients.settings import Section
from lib.profiles.networks import Networks
from lib.values.cell import Cell
from lib.values.measurement import Measurement

NOTES = ("not priced: the exhaustive attack on the toy in the plane, Wiener filters (linear algebra)",)


def measurements(networks: Networks, section: Section, seed: Callable[[int], int]) -> list[Measurement]:
    """Gradients and held-out accuracies of all networks; curves, generated images and checks for masked gradients of
    one weight of each kind.
    """
    every = cells(networks, section, seed)
    return [one for study in section.studies
            for one in _of_study(StudyNetworks(networks, study, seed), section,
                                 [cell for cell in every if cell.condition.where == study.name])]


def _of_study(of: StudyNetworks, section: Section, every: list[Cell]) -> Iterator[Measurement]:
    study, classes = of.study, of.data.info.classes
    if study.scored:
        yield Measurement("class scores", of.judge(), study.images, classes + 2)
        yield Measurement("class scores", of.teacher(), study.images, 1)
    one_of: dict[tuple[str, int], Cell] = {}  # of each kind one weight: whichever is the best, it costs as much
    for cell in every:
        kind, recipe = cell.condition.kind, cell.recipe
        if kind in (TEACHER, JUDGE):
            continue
        yield Measurement("gradients of every class", recipe, study.images, 1 + classes)
        if recipe.data.holdout:
            passes = search(study.threats[0], 10).passes(0.5)
            yield Measurement("attack on held-out images", recipe, recipe.data.holdout, passes)
        one_of.setdefault((kind, cell.repetition), cell)
    queried, curve = section.query_images, len(section.curve) * search(study.threats[0]).passes(0.5)
    for (kind, _), cell in one_of.items():
        if kind in shown(study):
            yield Measurement("curves of robust accuracy", cell.recipe, queried, len(study.threats) * curve)
            if study.adversarial:  # a forward and a backward pass for each step
                yield Measurement("generated images", cell.recipe, study.generated * (classes - 1), 2 * STEPS)
        if kind == SCORE:
            ways = (section.verify, section.query, *[search(study.threats[0])] * 2)
            passes = sum(way.passes(0.5, classes) for way in ways)
            yield Measurement("checks for masked gradients", cell.recipe, queried, len(study.threats) * passes)
