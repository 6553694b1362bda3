"""The ground truths that gradients are compared with, at a study's test images, and checks of the denoisers that they
come from.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pandas as pd
import torch
from torch import Tensor

from lib.alignment import measures
from lib.data import ImageSet
from lib.errors import NetworkFailed
from lib.gradients import scores
from lib.gradients.targets import TrainingTargets
from lib.papers.perceptually_aligned_gradients.networks import HEURISTICS, JUDGE, TEACHER, StudyNetworks
from lib.papers.perceptually_aligned_gradients.settings import Experiment
from lib.runtime import generator
from lib.training.zoo import Zoo
from lib.values.data import Data
from lib.values.keys import plain
from lib.values.objectives import Targets
from lib.values.recipe import Recipe

DRAWS = 4  # noise draws of an image, for denoisers as classifiers
VERSION = 1  # raised when the same settings give other errors of denoisers
INDEPENDENT = "independent score"  # class scores of the judging denoiser
SHUFFLED = "another image's score"


@dataclass(frozen=True, eq=False)
class Truths:
    """The test images of a study that alignment is measured on, and what gradients there are compared with."""

    zoo: Zoo
    networks: StudyNetworks
    made: dict = field(default_factory=dict)

    @property
    def study(self) -> Experiment:
        return self.networks.study

    @property
    def data(self) -> Data:
        return self.networks.data

    @property
    def test(self) -> ImageSet:
        return self.zoo.images(self.data, "test").take(slice(0, self.study.images))

    @property
    def sources(self) -> list[Recipe]:
        """The denoisers: the source of targets and the judging one."""
        return [self.networks.teacher(), self.networks.judge()]

    @property
    def key(self) -> list:
        """What the truths depend on besides the test images, for their key."""
        scored = [*(r.key for r in self.sources), self.networks.denoising.sigma]
        return [scored if self.study.scored else [], self.study.sample, plain(self.data)]

    def by_name(self) -> dict[str, Tensor]:
        """{name: [N, classes, C, H, W]}: the heuristics at the test images and, where there are denoisers, the class
        scores of the one that judges, unless its training failed, and those of another image.
        """
        if not self.made:
            test, classes = self.test, self.data.info.classes
            images, train = test.pixels(), self.zoo.images(self.data, "train")
            every = torch.arange(classes, device=images.device).expand(len(images), -1)
            for kind in HEURISTICS:
                spec = Targets(kind, sample=self.study.sample if kind == HEURISTICS[2] else None)
                self.made[kind] = TrainingTargets.of(spec, train, classes).at(images, every, None)
            if self.study.scored:
                try:
                    judge = self.zoo.obtain(self.sources[1]).net
                except NetworkFailed as error:
                    if not error.lasting:  # what is stored holds on every machine
                        raise
                    return self.made
                of_class = scores.class_score(judge, images, self.networks.denoising.sigma)
                self.made[INDEPENDENT] = of_class
                self.made[SHUFFLED] = of_class.roll(1, 0)
        return self.made

    def aligned(self, net) -> pd.DataFrame:
        """Cosines of a network's gradients with the truths, a row per test image; columns as in `Results.alignment`."""
        test = self.test
        gradients = measures.class_gradients(net, test.pixels())
        row = {"index": test.indices.cpu(), "label": test.labels.cpu()}
        for name, truth in self.by_name().items():
            own, others = measures.own_and_others(gradients, truth, test.labels)
            row |= {f"own, {name}": own.cpu(), f"others, {name}": others.cpu()}
        return pd.DataFrame(row)

    def quality(self) -> list[tuple[str, bool, str]]:
        """Checks of the denoisers: (what is checked, whether it holds, the numbers)."""
        sigma, test = self.networks.denoising.sigma, self.test
        found = []
        for name, recipe in zip((TEACHER, JUDGE), self.sources, strict=True):

            def make(recipe=recipe) -> pd.DataFrame:
                images, train = test.pixels(), self.zoo.images(recipe.data, "train").pixels()
                draw = generator("quality", self.data.name)
                noise = torch.randn(1, *images.shape, generator=draw).to(images)
                errors = scores.errors_against_wiener(self.zoo.obtain(recipe).net, train, images, sigma, noise)
                return pd.DataFrame({which: error.cpu() for which, error in errors.items()})

            key = [VERSION, sigma, self.study.images, plain(self.data)]
            try:
                table = self.zoo.table("quality", recipe, key, make)
            except NetworkFailed as error:
                found.append((f"the {name} could be trained", False, error.reason))
                continue
            found.append(scores.beats_wiener(name, table["denoiser"].mean(), table["Wiener"].mean(), sigma))
        return found

    def ceilings(self) -> dict[str, float]:
        """What no network can be asked to exceed: the mean cosine over images and classes of the class scores of the
        two denoisers, and the accuracy of each as a classifier, all on the images that alignment is measured on. Empty
        unless both could be trained.
        """
        sigma, test, nets = self.networks.denoising.sigma, self.test, {}
        for name, recipe in zip((TEACHER, JUDGE), self.sources, strict=True):
            try:
                nets[name] = self.zoo.obtain(recipe).net
            except NetworkFailed as error:
                if not error.lasting:
                    raise
                return {}

        def make() -> pd.DataFrame:
            images = test.pixels()
            draw = generator("ceilings", self.data.name)
            noise = torch.randn(DRAWS, *images.shape, generator=draw).to(images)
            agreement = measures.cosines(*(scores.class_score(net, images, sigma) for net in nets.values()))
            found = {name: scores.classified(net, images, sigma, noise) == test.labels for name, net in nets.items()}
            return pd.DataFrame({"cosine": agreement.mean(1).cpu(), **{k: v.double().cpu() for k, v in found.items()}})

        key = [VERSION, "ceilings", self.key, self.study.images]
        return self.zoo.table("quality", self.sources[0], key, make).mean().to_dict()
