"""The networks that attacks are timed on: one that falls at once, and robust ones, which are what costs time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction

from torch import nn

from benchmarks.timing import Run
from lib.data import ImageSet, load
from lib.models import memory_format
from lib.models.external import autoattack_example
from lib.store import Store
from lib.training.zoo import Zoo
from lib.values.architectures import ResNet
from lib.values.attacks import PGD
from lib.values.data import Data
from lib.values.objectives import Adversarial, CrossEntropy, fgsm_rs
from lib.values.recipe import Optimiser, Recipe, Schedule
from lib.values.threats import Threat

LINF8 = Threat("linf", "8/255")


@dataclass(frozen=True, eq=False)
class Subject:
    """A network under attack: eval mode, on the device, in its own layout; test images and the threat."""

    name: str
    net: nn.Module
    images: ImageSet
    threat: Threat

    @property
    def pgd20(self) -> PGD:
        """PGD-20 with a random start and steps of a quarter of the radius: 2/255 at 8/255."""
        return PGD(20, self.threat.eps * Fraction(1, 4))


def subjects(run: Run, count: int = 500, large: bool = True) -> list[Subject]:
    """The networks, each with `count` test images; those that the store lacks are trained (some minutes).

    `--quick`: small ones on digits. Otherwise on CIFAR-10: a normal and a robust ResNet of the laptop profile's width
    and, if `large`, two ResNet-18: the one in the AutoAttack authors' package, which is not robust, and a robust one.
    Fast adversarial training on a few thousand images makes them somewhat robust at little cost: enough, for what an
    attack costs depends on how many images withstand it.
    """
    zoo = Zoo(Store(), run.device)
    if run.quick:
        threat = Threat("linf", "0.15")
        return [_trained(zoo, name, _digits(objective), count, threat)
                for name, objective in (("normal digits network", CrossEntropy()),
                                        ("robust digits network", Adversarial(threat, PGD(5, "0.04"))))]
    found = [_trained(zoo, f"{word} ResNet of width 16", recipe, count, LINF8)
             for word, recipe in (("normal", replace(NARROW, objective=CrossEntropy())), ("robust", NARROW))]
    if large:
        net = autoattack_example().to(run.device)
        images = load(Data("cifar10", test=count), "test", run.device)
        found.append(Subject("normal ResNet-18", net.to(memory_format=memory_format(net)), images, LINF8))
        found.append(_trained(zoo, "robust ResNet-18", RESNET18, count, LINF8))
    return found


RESNET18 = Recipe(Data("cifar10", train=2000), ResNet(), fgsm_rs(LINF8), epochs=5, batch_size=64, augment="crop-flip",
                  optimiser=Optimiser(lr=0.05, weight_decay=5e-4), schedule=Schedule("onecycle"))
NARROW = replace(RESNET18, data=Data("cifar10", train=5000), arch=ResNet(16, (1, 1, 1, 1)), epochs=10,
                 optimiser=Optimiser(lr=0.1, weight_decay=5e-4))


def _digits(objective) -> Recipe:
    return Recipe(Data("digits"), ResNet(16, (1, 1)), objective, epochs=6, batch_size=64,
                  optimiser=Optimiser(lr=0.1), schedule=Schedule("onecycle"))


def _trained(zoo: Zoo, name: str, recipe: Recipe, count: int, threat: Threat) -> Subject:
    images = zoo.images(recipe.data, "test")
    return Subject(name, zoo.obtain(recipe).net, images.take(slice(0, count)), threat)
