"""Material for pictures in the notebook on perceptually aligned gradients: decision maps of the toy, targets at an
image, and images made by following gradients.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from lib.alignment import generation, measures
from lib.alignment import plane as toy
from lib.papers.perceptually_aligned_gradients.results import STEPS, Results, independent, shown
from lib.papers.perceptually_aligned_gradients.truths import SHUFFLED, Truths
from lib.training.zoo import Zoo


def toy_maps(zoo: Zoo, f: Results, span: float = 75.0, resolution: float = 0.5) -> dict[str, toy.Plane]:
    """{kind: decision map of the plane around the toy's points}, for the toy's networks of the first repetition. span,
    resolution: in the toy's own units.
    """
    cells, window = [c for c in f.toy if c.repetition == 0], ((-span, span), (-1.6 * span, 1.6 * span))
    return {c.condition.kind: toy.decision_map(zoo.obtain(c.recipe).net, *window, resolution) for c in cells}


def toy_points(zoo: Zoo, f: Results) -> tuple[np.ndarray, np.ndarray]:
    """The toy's test points [N, 2] in its own units, and their classes [N]."""
    how = f.section.toy
    test = zoo.images(how.data, "test")
    return ((test.pixels().flatten(1) - 0.5) / how.data.info.unit).cpu().numpy(), test.labels.cpu().numpy()


@dataclass(frozen=True)
class Pictures:
    """Test images of different classes, [n, C, H, W]. By kind of network, first repetition: the images moved towards
    each class by its gradients, [n, classes, C, H, W], and whether an independent robust network sees that class in
    them (empty if there is no such network).
    """

    images: np.ndarray
    made: dict[str, np.ndarray]
    hits: dict[str, np.ndarray]


def pictures(zoo: Zoo, f: Results, where: str, count: int = 2) -> Pictures:
    """The `Pictures` of a study, for the first test images of `count` classes."""
    study = f.study(where)
    truths = Truths(zoo, f.networks_of(study))
    test, classes = truths.test, truths.data.info.classes
    first = [int((test.labels == c).nonzero()[0]) for c in test.labels.unique()[:count]]
    images, made, hits = test.pixels()[first], {}, {}
    judge = independent(f, study, 0)
    for kind in shown(study):
        for cell in f.best(where, kind)[:1]:
            grid = generation.grid(zoo.obtain(cell.recipe).net, images, range(classes), study.far, STEPS,
                                   2.5 * study.far / STEPS)
            made[kind] = grid.cpu().numpy()
            if judge:
                aims = torch.arange(classes, device=images.device).repeat(len(images))
                seen = generation.target_rate(zoo.obtain(judge.recipe).net, grid.flatten(0, 1), aims)
                hits[kind] = seen.view(len(images), classes).cpu().numpy()
    return Pictures(images.cpu().numpy(), made, hits)


def targets(zoo: Zoo, f: Results, where: str) -> tuple[np.ndarray, dict[str, np.ndarray], int]:
    """The first test image [C, H, W], its ground-truth gradients by realisation, [classes, C, H, W], and its class."""
    truths = Truths(zoo, f.networks_of(f.study(where)))
    first = {name: truth[0].cpu().numpy() for name, truth in truths.by_name().items() if name != SHUFFLED}
    return truths.test.pixels()[0].cpu().numpy(), first, int(truths.test.labels[0])


def bounds(zoo: Zoo, f: Results, where: str) -> pd.DataFrame:
    """Columns truth, between classes (mean cosine between the targets of two classes), attainable (the largest mean
    cosine that gradients of log-probabilities can have with the targets, at equal class probabilities).
    """
    truths = Truths(zoo, f.networks_of(f.study(where))).by_name()
    rows = [{"truth": name, "between classes": measures.between_classes(truth),
             "attainable": measures.attainable(truth)} for name, truth in truths.items() if name != SHUFFLED]
    return pd.DataFrame(rows)
