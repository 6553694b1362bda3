"""Recipes: the values that specify a network completely.

A `Recipe` is frozen, checked when it is made, and built without importing torch, so that plans, price lists and
error messages cost nothing. Its `key` is a hash of everything that decides the weights: the recipe, its parents, the
version of the data and `NUMERICS`, the version of the code that computes.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import PurePath
from typing import Annotated

from lib.errors import is_int, need
from lib.values.architectures import Architecture
from lib.values.attacks import PGD, Attack
from lib.values.certificates import Certificate
from lib.values.data import Data
from lib.values.declared import (
    Bound,
    Count,
    Declared,
    NotNegative,
    OneOf,
    Positive,
    ProperShare,
    Share,
    below,
    between,
    whole,
)
from lib.values.keys import digest, later, plain, plain_fields
from lib.values.objectives import CrossEntropy, Objective
from lib.values.threats import Threat

# Increase when a change of the code changes the weights or outcomes of a recipe (tests/training/test_golden.py then
# fails).
NUMERICS = 1


@dataclass(frozen=True)
class Optimiser(Declared):
    """The rule by which gradients update the weights."""

    name: Annotated[str, OneOf(("sgd", "adam"))] = "sgd"  # the update rule
    lr: Positive = 0.1  # the learning rate at its peak
    momentum: Annotated[float, below(0, 1)] = 0.9  # the momentum of sgd
    nesterov: bool = True  # whether the momentum of sgd is Nesterov's
    weight_decay: NotNegative = 1e-4  # L2 weight decay, added to the gradient for both rules, as in the papers
    # parameters without weight decay, by the last part of their name (quota for conv1.quota)
    no_decay: tuple[str, ...] = later(())

    where = "optimiser"


SCHEDULES = ("constant", "piecewise", "cosine", "linear", "onecycle")


@dataclass(frozen=True)
class Schedule(Declared):
    """The learning rate over training, step by step."""

    # the shape of the schedule: constant; piecewise, times 1/10 at each drop; cosine or linear, down to the final
    # share; onecycle, linear up, then linear down to 0
    name: Annotated[str, OneOf(SCHEDULES)] = "piecewise"
    drops: tuple[ProperShare, ...] = (Fraction(1, 3), Fraction(2, 3))  # shares of training after which piecewise drops
    warmup: Share = 0.25  # the share of training during which onecycle rises
    final: Share = later(0.0)  # the share of the peak rate at which cosine and linear end
    period: ProperShare | None = later(None)  # the share of training after which the shape starts again; null: never

    where = "schedule"

    def check_together(self):
        ends = self.final == 0 or self.name in ("cosine", "linear")
        need(ends, "schedule.final", self.final, f"0 for {self.name}: only cosine and linear end at a share")


@dataclass(frozen=True)
class Choice(Declared):
    """Early choice: after every `every` epochs the network is measured on the held-out images of its data (never on
    test images), under `attack` within `threat` or, without these, clean; the best epoch's weights are kept.
    """

    threat: Threat | None = None
    attack: PGD | None = None
    every: Count = 1

    where = "choice"

    def check_together(self):
        paired = (self.threat is None) == (self.attack is None)
        need(paired, "choice.attack", self.attack, "given if and only if a threat is")


Digest = Annotated[str, Bound(lambda text: bool(re.fullmatch("[0-9a-f]{64}", str(text))),
                              "64 hexadecimal digits in lower case")]


@dataclass(frozen=True)
class Weights(Declared):
    """Weights that others trained, in a file: its path, and the SHA-256 that it must have, in hexadecimal. Only the
    content counts: the path enters no key and no comparison.
    """

    file: str = field(compare=False)
    sha256: Digest

    where = "weights"

    def as_plain(self) -> dict:
        return {"type": "Weights", "sha256": self.sha256}


AUGMENTATIONS = ("none", "crop", "crop-flip", "affine", "resized-crop-flip")
PRECISIONS = ("fp32", "tf32", "bf16")


@dataclass(frozen=True)
class Recipe(Declared):
    """Everything that decides a network's weights.

    data, arch, objective: what is learned, by which network, and how. epochs 0: an untrained network (or, with parents,
    one that is assembled but not trained). parents: the recipes of the networks from which a stitched, probed, pruned
    or fine-tuned network is made. trainable: prefixes of the parameters that are trained; (): all. batchnorm: `train`
    (batch statistics, running ones adapt) or `frozen`. precision: fp32, tf32 (fp32, but a GPU may round the factors of
    products to TF32, as torch does by default in convolutions) or bf16 (autocast; weights and loss stay fp32).
    seed: distinguishes repetitions. ema: the decay per step of an exponential moving average of the weights, which then
    is the network (None: no average). choice: how the epoch is chosen whose weights are kept (None: the last epoch).
    keep: further epochs after which the weights are kept, so that other recipes can take them; with a choice, the last
    epoch is possible, too.
    checkpoint: no training; the weights that the one parent kept after this epoch.
    sources: the recipes of the networks from which the objective takes its targets but no weights: a denoiser, if
    gradients are aligned with scores.
    weights: no training; the weights of a file, for a ResNet or an ImageNetResNet.
    shares: how many equal shares each batch is cut into. Each has draws and BatchNorm statistics of its own; an update
    follows the mean of their gradients and keeps the running statistics of the first. So an update comes out the same
    on one GPU, which takes the shares in turn, as on several, and as under torch's DataParallel.
    """

    data: Data
    arch: Architecture
    objective: Objective = field(default_factory=CrossEntropy)
    epochs: Annotated[int, whole(0)] = 1
    optimiser: Optimiser = field(default_factory=Optimiser)
    schedule: Schedule = field(default_factory=Schedule)
    batch_size: Annotated[int, whole(2)] = 128
    augment: Annotated[str, OneOf(AUGMENTATIONS)] = "none"
    parents: tuple[Recipe, ...] = ()
    trainable: tuple[str, ...] = ()
    batchnorm: Annotated[str, OneOf(("train", "frozen"))] = "train"
    precision: Annotated[str, OneOf(PRECISIONS)] = "fp32"
    seed: Annotated[int, whole(0)] = 0
    ema: Annotated[float, between(0, 1)] | None = later(None)
    choice: Choice | None = later(None)
    keep: tuple[int, ...] = later(())
    checkpoint: int | None = later(None)
    sources: tuple[Recipe, ...] = later(())
    weights: Weights | None = later(None)
    shares: Count = later(1)

    def check_together(self):
        most = self.data.n_train
        need(self.batch_size <= most, "batch_size", self.batch_size, f"at most the {most} training images")
        self._check_shares()
        held = self.choice is None or self.data.holdout > 0
        need(held, "data.holdout", self.data.holdout, "at least 1 where the best epoch is chosen on held-out images")
        in_order = all(is_int(n, 1) for n in self.keep) and list(self.keep) == sorted({*self.keep})
        inside = in_order and all(n < self.epochs + (self.choice is not None) for n in self.keep)
        below = "" if self.choice else "below "  # without a choice the last epoch's weights are the network's own
        need(inside, "keep", self.keep, f"increasing numbers of epochs from 1 to {below}epochs = {self.epochs}")
        self._check_parents()
        self._check_objective()
        if self.checkpoint is not None:
            need(len(self.parents) == 1, "parents", len(self.parents), "1 for a checkpoint, the network in training")
            need(self.epochs == 0, "epochs", self.epochs, "0 for a checkpoint")
            kept = self.parents[0].keep
            need(self.checkpoint in kept, "checkpoint", self.checkpoint, f"an epoch that the parent keeps: {kept}")
        if self.weights is not None:
            need(not self.parents, "parents", len(self.parents), "0 for a network with weights from a file")
            need(self.epochs == 0, "epochs", self.epochs, "0 for a network with weights from a file")
            allowed = "a ResNet or an ImageNetResNet for weights from a file"
            need(self.arch.reads_files, "arch", self.arch.name, allowed)

    def _check_shares(self):
        if self.shares == 1:
            return
        even = self.batch_size % self.shares == 0 and self.batch_size >= 2 * self.shares
        need(even, "shares", self.shares, f"1, or cut the batch of {self.batch_size} evenly, with 2 images in each")
        each = (self.objective, self.objective.inner or self.objective)
        name = type(self.objective).__name__
        need(all(one.in_shares for one in each), "shares", self.shares, f"1 for {name}, which needs whole batches")

    def _check_parents(self):
        arch = self.arch
        judged = self.choice is None or arch.gives == "classes"
        need(judged, "choice", "given", f"null for {arch.name}, which has no accuracy")
        arch.check_recipe(self)

    def _check_objective(self):
        """Check that there is one source if the objective needs scores, else none, and what the objective requires."""
        wanted = int(self.objective.needs_scores)
        allowed = "1, the denoiser that gives the scores" if wanted else "0 for an objective without scores"
        need(len(self.sources) == wanted, "number of sources", len(self.sources), allowed)
        if self.epochs:
            self.objective.check(self)

    def as_plain(self) -> dict:
        """What decides the weights, as plain data: parents and sources are represented by their keys, and the images to
        measure on are left out, so that networks are shared.
        """
        out = plain_fields(self, without=("parents", "sources"))
        out["data"] = self.data.training
        if self.sources:
            out["sources"] = [s.key for s in self.sources]
        return {**out, "parents": [p.key for p in self.parents]}

    @property
    def matched(self) -> bool:
        """Whether it is a stitched network whose joint starts as a least-squares map, fitted on training images."""
        return self.arch.matched and len(self.parents) == 2

    @functools.cached_property
    def lineage(self) -> tuple[str, ...]:
        """The keys of this network and of all that it cannot be made without."""
        made_from = [key for recipe in (*self.parents, *self.sources) for key in recipe.lineage]
        return tuple(dict.fromkeys((self.key, *made_from)))

    @property
    def stored(self) -> bool:
        """Whether the weights depend on images, so that they are made once and stored; other weights follow from the
        recipe and its parents alone.
        """
        return self.epochs > 0 or self.matched

    @functools.cached_property
    def key(self) -> str:
        """Sixteen hexadecimal digits: equal exactly when the weights are meant to be equal."""
        return digest({"numerics": NUMERICS, "data_version": self.data.info.version, "recipe": plain(self)})

    def describe(self) -> str:
        """A few words for logs: data set, architecture, objective, seed."""
        what = self.arch.name
        if self.parents:
            what += " of " + " + ".join(p.key[:6] for p in self.parents)
        how = self.objective.describe() if self.epochs else "untrained"
        if start := self.arch.describe(self):
            how = f"{start}, {how}" if self.epochs else start
        if self.checkpoint is not None:
            how = f"after {self.checkpoint} epochs"
        if self.weights is not None:
            how = f"weights of {PurePath(self.weights.file).name}"
        return f"{self.data.name} {what}, {how}, seed {self.seed} [{self.key}]"


def together(shares: int, there: int) -> int:
    """At most how many of so many GPUs can have equally many of the shares of a batch (`Recipe.shares`): 1 or more."""
    return max(n for n in range(1, max(1, min(shares, there)) + 1) if shares % n == 0)


def outcome_key(recipe: Recipe, threat: Threat | None, attack: Attack | Certificate | None) -> str:
    """The key of a network's per-image outcomes on its test images: clean, or within a threat under an attack or by a
    certificate. Raises SettingsError for networks that are not classifiers.
    """
    gives_classes = recipe.arch.gives == "classes"
    need(gives_classes, "arch", recipe.arch.name, "a classifier where accuracies are measured")
    data = plain(recipe.data)
    return digest({"numerics": NUMERICS, "network": recipe.key, "data": data, "threat": threat, "attack": attack})
