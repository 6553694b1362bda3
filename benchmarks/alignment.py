"""A training step with aligned input gradients of K classes an image: `fit` of lib against plain fp32 steps of the same
batch, which the bar counts in, and against the paper's way, K copies of each image in one pass.

Images of CIFAR-10's shape; what they show does not change the time.
"""

from __future__ import annotations

import copy
import statistics
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.timing import Run, compared, race
from benchmarks.training import LR, made_up
from lib.data import ImageSet
from lib.gradients.targets import TrainingTargets
from lib.models import build
from lib.runtime import generator
from lib.training.loop import fit
from lib.values.architectures import ResNet
from lib.values.data import Data
from lib.values.objectives import Aligned, CrossEntropy, Targets
from lib.values.recipe import Optimiser, Recipe, Schedule

LAPTOP, TINY = ResNet(16, (1, 1, 1, 1)), ResNet(16, (1,))
CLASSES, TARGETS, WEIGHT = 10, Targets("random direction"), 1.0  # other kinds add a subtraction
PLAIN, COPIES = "a plain step of lib", "K copies of each image"


def bar(count: int) -> float:
    """How many plain steps one with the gradients of `count` classes may cost."""
    return 1 + 4.5 * count


def rows(run: Run) -> Iterator[dict]:
    """Rows of seconds a step for K = 1, 2 and, in real sizes, all 10 classes; notes hold ours in plain steps beside the
    bar.
    """
    arch, size, steps = (TINY, 16, 2) if run.quick else (LAPTOP, 64, 20 if run.gpu else 3)
    images = made_up(steps * size, run.device)
    recipe = Recipe(Data("cifar10"), arch, batch_size=size, optimiser=Optimiser(lr=LR), schedule=Schedule("constant"))
    start = build(recipe)
    for count in (1, 2) if run.quick else (1, 2, CLASSES):
        contenders = {
            "lib": _fit(start, recipe, Aligned(CrossEntropy(), TARGETS, WEIGHT, classes=count), images, run),
            PLAIN: _fit(start, recipe, CrossEntropy(), images, run),
            COPIES: _copies(start, images, size, count, run),
        }
        _, seconds = race(contenders, run, run.rounds(3))
        cost = statistics.median(ours / plain for ours, plain in zip(seconds["lib"], seconds[PLAIN], strict=True))
        met = "met" if cost <= bar(count) else "missed"
        said = f"lib takes {cost:.2f} plain steps, the bar of {bar(count):g} is {met}; all in fp32; {run.place()}"
        name = f"alignment: K = {count}, {arch.name}, batch {size}"
        yield from compared(name, ["lib"], seconds, lambda mine, peer, said=said: said, per=steps)


def _fit(start: nn.Module, recipe: Recipe, objective, images: ImageSet, run: Run):
    net = copy.deepcopy(start)
    recipe = Recipe(recipe.data, recipe.arch, objective, batch_size=recipe.batch_size, optimiser=recipe.optimiser,
                    schedule=recipe.schedule)
    return lambda: fit(net, recipe, images, run.device)[0]["loss"]


def _copies(start: nn.Module, images: ImageSet, size: int, count: int, run: Run):
    """One epoch of a plain loop in the default layout that forms the gradients as the paper's code does."""
    net = copy.deepcopy(start).to(device=run.device, memory_format=torch.contiguous_format).train()
    grounds = TrainingTargets.of(TARGETS, images, CLASSES)
    draw = generator("benchmarks", "alignment", device=run.device)
    optimiser = torch.optim.SGD(net.parameters(), LR, momentum=0.9, weight_decay=1e-4, nesterov=True)

    def step(pixels: Tensor, labels: Tensor, indices: Tensor) -> None:
        chosen = torch.rand(len(labels), CLASSES, generator=draw, device=run.device).argsort(1)[:, :count]
        copies = pixels.repeat_interleave(count, 0).requires_grad_()
        negative = -F.cross_entropy(net(copies), chosen.flatten(), reduction="sum")
        found, = torch.autograd.grad(negative, copies, create_graph=True)
        wanted = grounds.of_training(indices, chosen).flatten(0, 1)
        term = CLASSES * (1 - F.cosine_similarity(found.flatten(1), wanted.flatten(1)).mean())
        optimiser.zero_grad()
        (F.cross_entropy(net(pixels), labels) + WEIGHT * term).backward()
        optimiser.step()

    def epoch() -> None:
        for some in torch.arange(len(images), device=run.device).split(size):
            step(images.pixels(some), images.labels[some], images.indices[some])

    return epoch
