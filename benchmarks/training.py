"""A training step: `fit` of lib against plain loops, adversarial (PGD-10) and standard, on made-up images.

Images of CIFAR-10's shape; what they show does not change the time. A step is timed within a run of several.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch

from benchmarks import peers
from benchmarks.peers import BF16
from benchmarks.timing import Run, compared, race
from lib.data import ImageSet
from lib.models import build
from lib.runtime import generator
from lib.training.loop import fit
from lib.values.architectures import ResNet
from lib.values.attacks import PGD
from lib.values.data import Data
from lib.values.objectives import Adversarial, CrossEntropy
from lib.values.recipe import Optimiser, Recipe, Schedule
from lib.values.threats import Threat

THREAT, ATTACK, LR = Threat("linf", "8/255"), PGD(10, "2/255"), 0.01
RESNET18, LAPTOP, TINY = ResNet(), ResNet(16, (1, 1, 1, 1)), ResNet(16, (1,))
OBJECTIVES = {"PGD-10 step": Adversarial(THREAT, ATTACK), "standard step": CrossEntropy()}


def rows(run: Run) -> Iterator[dict]:
    """Rows of seconds a step, ResNet-18 and the laptop profile's network, batch 128, in fp32 and, where the device
    multiplies in it, in bf16.
    """
    archs = {"tiny ResNet": TINY} if run.quick else {"ResNet-18": RESNET18, "ResNet of width 16": LAPTOP}
    batch_size = 16 if run.quick else 128
    for arch_name, arch in archs.items():
        for step_name, objective in OBJECTIVES.items():
            for precision in run.precisions():
                name = f"training: {step_name}, {arch_name}, batch {batch_size}, {precision}"
                recipe = Recipe(Data("cifar10"), arch, objective, batch_size=batch_size, precision=precision,
                                optimiser=Optimiser(lr=LR), schedule=Schedule("constant"))
                yield from _rows(name, recipe, run)


def _steps(recipe: Recipe, run: Run) -> int:
    """Updates in one timed run: seconds on a processor, enough on a GPU for what happens once a run to weigh little."""
    if run.gpu and not run.quick:
        return 50
    if run.quick:
        return 2
    return 1 if isinstance(recipe.objective, Adversarial) and recipe.arch == RESNET18 else 6


def _rows(name: str, recipe: Recipe, run: Run) -> Iterator[dict]:
    steps = _steps(recipe, run)
    images = made_up(steps * recipe.batch_size, run.device)
    start = build(recipe)
    ours = {f"lib ({recipe.precision})": _fit(copy.deepcopy(start), recipe, images, run)}
    if run.gpu and not run.quick:  # as lib does for trainings long enough to pay for compiling, which is not timed here
        ours[f"lib ({recipe.precision}, compiled)"] = _fit(copy.deepcopy(start), recipe, images, run, compiled=True)
    others = _others(start.to(run.device), recipe, images)
    results, seconds = race(ours | others, run, run.rounds(3 if not run.gpu else 5))

    def note(mine, peer):
        return (f"seconds a step; mean loss {results[mine]:.3f} and {results[peer]:.3f}; {_peers(recipe, peer)}; "
                f"{run.place()}")

    yield from compared(name, list(ours), seconds, note, per=steps)


def _fit(net, recipe: Recipe, images: ImageSet, run: Run, compiled: bool = False):
    """One epoch of lib's loop over the images, as a contender that returns its mean loss."""
    return lambda: fit(net, recipe, images, run.device, compiled=compiled)[0]["loss"]


def _others(net, recipe: Recipe, images: ImageSet) -> dict:
    """The peers' loops for the recipe's objective, each on its own copy of the network."""
    attacks = {"a plain loop": None}
    if isinstance(recipe.objective, Adversarial):
        attacks = {
            "a plain loop that also forms weight gradients": peers.with_weight_gradients(THREAT, ATTACK),
            "a loop like robustness's, gradients for the input only": peers.for_the_input_only(THREAT, ATTACK),
            f"a plain loop on {peers.titled('torchattacks')}": peers.torchattacks_pgd(THREAT, ATTACK),
        }
    pixels = images.pixels()

    def loop(net, attack, bf16=False):
        def train():
            with peers.tf32(recipe.precision != "fp32"):
                return peers.train(net, pixels, images.labels, recipe.batch_size, LR, attack, bf16)

        return train

    found = {name: loop(copy.deepcopy(net), attack) for name, attack in attacks.items()}
    if recipe.precision == "bf16":  # so that a ratio also says what is ours, and not the arithmetic's
        found |= {f"{name}{BF16}": loop(copy.deepcopy(net), attack, True) for name, attack in attacks.items()}
    return found


def _peers(recipe: Recipe, peer: str) -> str:
    """What a peer computes in: fp32, and where ours is bf16, what torch calls fp32 by default on a GPU."""
    if peer.endswith(BF16):
        return "the peer in bf16 autocast"
    return "the peer in fp32" + (" (TF32 convolutions on a GPU, torch's default)" if recipe.precision != "fp32" else "")


def made_up(count: int, device) -> ImageSet:
    """Random images of CIFAR-10's shape with random labels, on the device."""
    draw = generator("benchmarks", count)
    images = torch.randint(0, 256, (count, 3, 32, 32), generator=draw, dtype=torch.uint8)
    labels = torch.randint(0, 10, (count,), generator=draw)
    return ImageSet(images, labels, torch.arange(count), "made up", "train").to(device)
