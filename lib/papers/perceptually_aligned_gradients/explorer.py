"""Explore gradients: choose an image, a class and a strength, and see the image moved towards the class by the
gradients of each network.
"""

from __future__ import annotations

import functools

import torch

from lib.alignment import generation
from lib.papers.perceptually_aligned_gradients.networks import HEURISTICS, RANDOM
from lib.papers.perceptually_aligned_gradients.results import Results, independent, shown
from lib.papers.perceptually_aligned_gradients.settings import Experiment
from lib.papers.perceptually_aligned_gradients.tables import class_names
from lib.plots.common import as_picture, show_picture, signed
from lib.plots.explorer import Explorer, percent
from lib.plots.style import WIDTH, style
from lib.runtime import threads
from lib.training.ready import SMALL
from lib.training.zoo import Zoo

STEPS = 10  # fewer than in the figures, so that a change takes less than a second
STRENGTHS = (0.25, 0.5, 1.0)  # shares of the study's radius `far`


def explorer(zoo: Zoo, f: Results, live: bool | None = None) -> Explorer | None:
    """The controls `image` (the first test image of each class), `towards` (a class) and `strength` (the largest l2
    length of the move, in pixels), for the first study's networks of the first repetition; None without a study.
    """
    if not f.studies:
        return None
    study: Experiment = f.studies[0]
    cells = {kind: cell for kind in shown(study) if kind not in HEURISTICS and kind != RANDOM
             for cell in f.best(study.name, kind)[:1]}
    test = zoo.images(next(iter(cells.values())).recipe.data, "test")
    names = class_names(study.data or f.networks.data)
    first = {names[int(label)]: int((test.labels == label).nonzero()[0]) for label in test.labels.unique()}
    nets = {kind: zoo.obtain(cell.recipe).net for kind, cell in cells.items()}
    judge = independent(f, study, 0)
    judge = judge and zoo.obtain(judge.recipe).net
    accurate = {kind: [percent(f.accuracy(cell.condition, name)) for name in ("clean", study.threats[0].norm)]
                for kind, cell in cells.items()}

    @functools.cache
    def moved(kind: str, image: int, towards: int, strength: float):
        """The image before and after, the probability of the class in both, and whether the judge sees the class."""
        net, x = nets[kind], test.take([image]).pixels()
        aim = torch.tensor([towards], device=x.device)
        made = generation.generate(net, x, aim, strength, STEPS, 2.5 * strength / STEPS)
        with torch.no_grad():
            before, after = net(torch.cat([x, made])).softmax(1)[:, towards].tolist()
            seen = judge is not None and int(judge(made).argmax()) == towards
        return x[0].cpu().numpy(), made[0].cpu().numpy(), before, after, seen

    def draw(image: int, towards: int, strength: float) -> tuple:
        with threads(1 if test.images[0].numel() < SMALL else None):
            every = {kind: moved(kind, image, towards, strength) for kind in cells}
        hits = [kind for kind, found in every.items() if found[-1]]
        said = "No independent robust network judges the images."
        if judge is not None:
            said = (f"An independent robust network sees class {names[towards]} in the images of: "
                    f"{', '.join(hits) or 'none of them'} (green frames).")
        return _grid(every, accurate, names[towards]), said

    aims = {name: number for number, name in enumerate(names)}
    return Explorer({"image": first, "towards": dict(sorted(aims.items(), key=lambda aim: aim[1] != 3 % len(aims))),
                     "strength": {f"{share * study.far:.3g}": share * study.far for share in STRENGTHS[::-1]}},
                    draw, live)


def _grid(every: dict[str, tuple], accurate: dict[str, list[str]], aim: str):
    import matplotlib.pyplot as plt

    style()
    columns = len(every)
    figure, axes = plt.subplots(2, columns, figsize=(min(WIDTH, 1.5 * columns), 4.2), squeeze=False,
                                layout="constrained")
    for (kind, (x, made, before, after, seen)), (above, below) in zip(every.items(), axes.T, strict=True):
        show_picture(above, as_picture(made))
        show_picture(below, signed(made - x))
        words = kind.replace(" ", "\n", 1)
        above.set_title(f"{words}\nclean {accurate[kind][0]}\nrobust {accurate[kind][1]}", fontsize=7.5)
        below.set_xlabel(f"class {aim}:\n{before:.0%} → {after:.0%}", fontsize=7.5)
        for spine in above.spines.values():
            spine.set(visible=seen, color="#1b7f4f", linewidth=2)
    axes[0, 0].set_ylabel("moved image", fontsize=8)
    axes[1, 0].set_ylabel("what changed", fontsize=8)
    return figure
