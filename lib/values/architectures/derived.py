"""Networks that are made from others, as values: stitched, probed and pruned ones."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Annotated, Any

from lib.errors import need, unknown
from lib.values.architectures.base import Architecture, check_classes, check_images, forwards
from lib.values.architectures.plain import FromScratch
from lib.values.declared import Count, OneOf, ProperShare
from lib.values.keys import later

GRANULARITIES = ("weights", "channels")
RATES = ("uniform", "erk", "lamp", "global", "data-free", "parent", "learned")
CHANNEL_RATES = ("uniform", "parent", "learned")
SCORES = ("magnitude", "filters", "random", "gradient", "learned")
STARTS = ("uniform", "erk", "lamp")
LEAST_SQUARES = "least squares"
INITS = ("random", "identity", LEAST_SQUARES)


class _Cut(Architecture):
    """Networks that start with a parent's stages up to and with `joint`. They are not cut themselves."""

    derived = True
    frozen_front = True
    joints = ()

    def _check_joint(self, recipe, wanted: int) -> None:
        """Raise `SettingsError` unless the recipe has so many parents, all with stage `joint`."""
        need(len(recipe.parents) == wanted, "parents", len(recipe.parents), f"{wanted} for a {type(self).__name__}")
        for parent in recipe.parents:
            joints = parent.arch.joints
            maps = "networks with stages that give feature maps, which this one has not"
            need(bool(joints), "parents", parent.arch.name, maps)
            if self.joint not in joints:
                raise unknown("joint", self.joint, joints)

    def _front(self, parent) -> tuple[Any, slice]:
        return parent, slice(parent.arch.stages.index(self.joint) + 1)


@dataclass(frozen=True)
class Stitch(_Cut):
    """A stitched network: the parents' front up to and with stage `joint`, a 1x1 convolution T with bias and a ReLU
    (none where the end takes what is not rectified), the other parent's stages after `joint`. Parents: (front, end).
    Weights start as the parents'.

    init, what T starts as: `random` (torch's default), `identity`, or `least squares`, the affine map that takes the
    front's activations closest to the end's own on the first `fit` training images (None: all), un-augmented. Left at
    that (epochs 0) it is direct matching.

    rank: T = B A passes through so many channels, a 1x1 convolution each, started as the map of that rank closest to
    `init`; both learn (None: T is one convolution). With one parent, a stitched network of the same joint and start
    without a rank, it is that network with its T cut to the rank and not trained on, as in the paper's code.
    """

    joint: str
    init: Annotated[str, OneOf(INITS)] = "random"
    fit: Count | None = later(None)
    rank: Count | None = later(None)

    stages = ("front", "joint", "back")
    stitched = True

    def check_together(self):
        fits = self.fit is None or self.init == LEAST_SQUARES
        need(fits, "arch.fit", self.fit, f"null for the init {self.init}: {LEAST_SQUARES} has it")

    @property
    def name(self) -> str:
        return f"stitch at {self.joint}" + (f", rank {self.rank}" if self.rank else "")

    @property
    def matched(self) -> bool:
        return self.init == LEAST_SQUARES

    def check_recipe(self, recipe) -> None:
        """Raise `SettingsError` unless the recipe has a front that takes its images and an end that knows its classes,
        both with stage `joint`, or one stitched network whose joint is cut to the rank.
        """
        if self.rank and len(recipe.parents) == 1:
            full, whole = replace(self, rank=None), recipe.parents[0].arch
            allowed = f"2, a front and an end, or a {full.name} that starts in the same way, whose joint is cut"
            need(whole == full, "parents", whole.name, allowed)
            need(recipe.epochs == 0, "epochs", recipe.epochs, "0 for a joint that is cut after its training")
        else:
            self._check_joint(recipe, 2)
        check_images(recipe, recipe.parents[0])
        check_classes(recipe, recipe.parents[-1])
        if recipe.matched:  # least squares compare what both parents make of the same images
            end, most = recipe.parents[1].data, recipe.data.n_train
            need(end.shape == recipe.data.shape, "arch.init", self.init,
                 f"random where the end's images ({end.name}) have another shape than those of {recipe.data.name}")
            need(self.fit is None or self.fit <= most, "arch.fit", self.fit, f"at most the {most} training images")

    def describe(self, recipe) -> str:
        if len(recipe.parents) == 1:
            return "joint cut after training"
        if self.matched:
            return LEAST_SQUARES if recipe.epochs else "direct matching"
        return ""

    def halves(self, recipe) -> tuple[tuple[Any, slice], tuple[Any, slice]]:
        if len(recipe.parents) == 1:  # cut after its training
            return recipe.parents[0].arch.halves(recipe.parents[0])
        front, end = recipe.parents
        return self._front(front), (end, slice(end.arch.stages.index(self.joint) + 1, None))


@dataclass(frozen=True)
class Probe(_Cut):
    """A linear probe: the parent's front up to and with stage `joint`, global average pooling, one linear layer."""

    joint: str

    stages = ("front", "head")

    @property
    def name(self) -> str:
        return f"probe at {self.joint}"

    def check_recipe(self, recipe) -> None:
        """Raise `SettingsError` unless the recipe has one parent with stage `joint`, which takes its images."""
        self._check_joint(recipe, 1)
        check_images(recipe, recipe.parents[0])

    def halves(self, recipe) -> tuple[tuple[Any, slice], tuple[Any, slice]]:
        """The front only: the head costs next to nothing."""
        parent = recipe.parents[0]
        return self._front(parent), (parent, slice(0))


@dataclass(frozen=True)
@forwards("of", "stages", "joints", "rectified", "any_size", "min_size", "patch")
class Pruned(Architecture):
    """A network of `of` in which masks remove weights of convolutions and linear layers (no biases, no BN). Its stages
    are those of `of`.

    keep: the share of the prunable weights that the whole network keeps, in (0, 1); with granularity `channels`, the
    share of input channels of every layer but those that read images, and the target is the FLOPs of that network.

    rates, how much each layer keeps: `uniform`; `erk` (Erdos-Renyi kernel) and `lamp` (layer-adaptive magnitude);
    `global` (the network's best weights by magnitude, or by gradient where scores are); `data-free` (what HARP's
    hardware loss and weight decay give without any data); `parent` (those of the recipe's second parent, a pruned
    network of the same architecture); `learned` (HARP), from `start`, a rule's rates at a share of `start_keep` (None:
    1/10 or, if that is more, `keep`; 1 for channels), where no layer keeps less than `least * keep`.

    scores, which weights a layer keeps: those of largest `magnitude` (channels: largest L1 norm of the layer's own
    input slice), `random` ones, those whose loss changes most (`gradient`: |theta dL/dtheta| as in SNIP), or by scores
    `learned` from the magnitudes with frozen weights (HYDRA, HARP). `filters`, for channels only: those made by the
    filters of largest L1 norm, all weights of an output channel of the layer in front (Li et al. 2017), so that layers
    that read the same tensor keep the same channels. A sum, as in residual networks, is made by several filters; its
    channels rank by the L1 norms of the input slices of all layers that read it, added up. What a sum reads is still
    computed whole: its channels leave the layers that read them, not the sum.

    A recipe with this arch and a dense parent prunes it. Where scores or rates come from training, the objective is
    Prune or Saliency and the weights stay as they are; otherwise the pruned weights are trained (fine-tuned) at once.
    A recipe whose first parent has the same arch fine-tunes it: masks as they are. With a parent that is pruned in
    another way it prunes once more (iterative pruning, say 1/2, 1/4, 1/10): `keep` is still a share of the dense
    network, and what the parent has lost stays lost. Channels cannot follow where single weights were removed.
    """

    of: FromScratch
    keep: ProperShare
    granularity: Annotated[str, OneOf(GRANULARITIES)] = "weights"
    rates: Annotated[str, OneOf(RATES)] = "uniform"
    scores: Annotated[str, OneOf(SCORES)] = "magnitude"
    start: Annotated[str, OneOf(STARTS)] = "uniform"
    start_keep: Fraction | None = None
    least: ProperShare = Fraction(1, 10)

    derived = True

    def check_together(self):
        if self.granularity == "channels":
            by_channel = f"one of {', '.join(CHANNEL_RATES)} for channels"
            need(self.rates in CHANNEL_RATES, "arch.rates", self.rates, by_channel)
            need(self.start == "uniform", "arch.start", self.start, "uniform for channels")
            need(self.of.channels, "arch.granularity", "channels", f"weights for {self.of.name}")
        else:
            single = "another rule for weights: filters make whole channels"
            need(self.scores != "filters", "arch.scores", "filters", single)
        need(self.rates != "global" or self.scores in ("magnitude", "gradient"), "arch.rates", "global",
             f"another rule for {self.scores} scores: only magnitudes and gradients are comparable between layers")
        need(self.rates != "learned" or self.scores != "gradient", "arch.scores", "gradient",
             "another rule where rates are learned")
        if self.rates == "learned":
            share = self.start_share
            above = f"a share above least * keep = {self.least * self.keep}, the lowest rate, and at most 1"
            need(self.least * self.keep < share <= 1, "arch.start_keep", share, above)
        else:
            plain = (self.start, self.start_keep, self.least) == ("uniform", None, Fraction(1, 10))
            need(plain, "arch.start", (self.start, self.start_keep, self.least), "left out unless rates are learned")

    @property
    def start_share(self) -> Fraction:
        """The share that learned rates start from."""
        if self.start_keep is not None:
            return self.start_keep
        return Fraction(1) if self.granularity == "channels" else max(self.keep, Fraction(1, 10))

    @property
    def searched(self) -> bool:
        """Whether scores or rates come from a training with frozen weights."""
        return self.rates == "learned" or self.scores in ("learned", "gradient")

    @property
    def dense(self) -> Architecture:
        return self.of

    @property
    def name(self) -> str:
        kind = "" if self.granularity == "weights" else " channels"
        return f"{self.of.name} keep {float(self.keep):g}{kind} ({self.rates} rates, {self.scores} scores)"

    def fine_tunes(self, recipe) -> bool:
        """Whether the recipe trains what is left of a network that is pruned in just this way: masks as they are."""
        return bool(recipe.parents) and recipe.parents[0].arch == self

    def check_recipe(self, recipe) -> None:
        """Raise `SettingsError` unless the recipe has at most one parent, a network of `of`, pruned or not, and with
        rates `parent` a second one, and images that it and they take.
        """
        transplant = self.rates == "parent" and not self.fine_tunes(recipe)
        good = len(recipe.parents) == 2 if transplant else len(recipe.parents) <= 1
        allowed = "2, the network and the one whose rates it takes" if transplant else "1, or 0 to start from scratch"
        need(good, "parents", len(recipe.parents), f"{allowed}, for {self.name}")
        self.check(*recipe.data.shape[1:])
        for parent in recipe.parents:
            check_images(recipe, parent)
            need(self.of == parent.arch.dense, "arch.of", self.of, f"the parent's, {parent.arch.dense}")
        if recipe.parents:
            check_classes(recipe, recipe.parents[-1])
