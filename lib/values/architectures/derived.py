"""Networks made from other networks, as values: stitched, probed and pruned ones."""

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
    """Networks that start with a parent's stages up to and including `joint`. They cannot be cut themselves."""

    derived = True
    frozen_front = True
    joints = ()

    def _check_joint(self, recipe, wanted: int) -> None:
        """Raise `SettingsError` unless the recipe has `wanted` parents, all with stage `joint`."""
        need(len(recipe.parents) == wanted, "parents", len(recipe.parents), f"{wanted} for a {type(self).__name__}")
        for parent in recipe.parents:
            joints = parent.arch.joints
            maps = "networks with stages that give feature maps"
            need(bool(joints), "parents", parent.arch.name, maps)
            if self.joint not in joints:
                raise unknown("joint", self.joint, joints)

    def _front(self, parent) -> tuple[Any, slice]:
        return parent, slice(parent.arch.stages.index(self.joint) + 1)


@dataclass(frozen=True)
class Stitch(_Cut):
    """A stitched network: the front's stages up to and including `joint`, a 1x1 convolution T with bias, a ReLU (unless
    the end takes activations that are not rectified), and the end's stages after `joint`. Parents: (front, end), from
    which the weights start.

    init, how T starts: `random` (torch's default), `identity`, or `least squares`, the affine map that takes the
    front's activations closest to the end's own on the first `fit` training images (None: all) without augmentation.
    Left untrained (epochs 0), this is direct matching.

    rank: T = B A is two 1x1 convolutions with `rank` channels between them, which start as the map of this rank closest
    to `init` and are both trained (None: T is one convolution). With one parent, a stitched network with the same joint
    and start but no rank, it is that network with its T cut to the rank and not trained further, as in the paper's
    code.
    """

    joint: str
    init: Annotated[str, OneOf(INITS)] = "random"
    fit: Count | None = later(None)
    rank: Count | None = later(None)

    stages = ("front", "joint", "back")
    stitched = True

    def check_together(self):
        fits = self.fit is None or self.init == LEAST_SQUARES
        need(fits, "arch.fit", self.fit, f"null for the init {self.init}: only {LEAST_SQUARES} uses it")

    @property
    def name(self) -> str:
        return f"stitch at {self.joint}" + (f", rank {self.rank}" if self.rank else "")

    @property
    def matched(self) -> bool:
        return self.init == LEAST_SQUARES

    def check_recipe(self, recipe) -> None:
        """Raise `SettingsError` unless the recipe has a front that takes its images and an end with its number of
        classes, both with stage `joint`, or one stitched network whose joint is cut to the rank.
        """
        if self.rank and len(recipe.parents) == 1:
            full, whole = replace(self, rank=None), recipe.parents[0].arch
            allowed = f"a front and an end, or a {full.name} with the same start, whose joint is cut"
            need(whole == full, "parents", whole.name, allowed)
            need(recipe.epochs == 0, "epochs", recipe.epochs, "0 for a joint that is cut after its training")
        else:
            self._check_joint(recipe, 2)
        check_images(recipe, recipe.parents[0])
        check_classes(recipe, recipe.parents[-1])
        if recipe.matched:  # least squares compare what both parents make of the same images
            end, most = recipe.parents[1].data, recipe.data.n_train
            need(end.shape == recipe.data.shape, "arch.init", self.init,
                 f"random, because the end's images ({end.name}) have another shape than those of {recipe.data.name}")
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
    """A linear probe: the parent's stages up to and including `joint`, global average pooling, one linear layer."""

    joint: str

    stages = ("front", "head")

    @property
    def name(self) -> str:
        return f"probe at {self.joint}"

    def check_recipe(self, recipe) -> None:
        """Raise `SettingsError` unless the recipe has one parent, with stage `joint`, that takes its images."""
        self._check_joint(recipe, 1)
        check_images(recipe, recipe.parents[0])

    def halves(self, recipe) -> tuple[tuple[Any, slice], tuple[Any, slice]]:
        """The front only: the cost of the head is negligible."""
        parent = recipe.parents[0]
        return self._front(parent), (parent, slice(0))


@dataclass(frozen=True)
@forwards("of", "stages", "joints", "rectified", "any_size", "min_size", "patch")
class Pruned(Architecture):
    """A network of architecture `of` with masks that remove weights of convolutions and linear layers (not biases, not
    BatchNorm). It has the stages of `of`.

    keep: the share of the prunable weights that the whole network keeps, in (0, 1). With granularity `channels`: the
    share of input channels that every layer keeps, except layers that read images; the target is then the FLOPs of that
    network.

    rates, how much each layer keeps: `uniform`; `erk` (Erdos-Renyi kernel) and `lamp` (layer-adaptive magnitude);
    `global` (the network's largest weights by magnitude, or by gradient if the scores are gradients); `data-free` (the
    result of HARP's hardware loss and weight decay without any data); `parent` (the rates of the recipe's second
    parent, a pruned network of the same architecture); `learned` (HARP), which starts from the rates of the rule
    `start` at a share of `start_keep` (None: 1/10 or, if larger, `keep`; 1 for channels); then no layer keeps less than
    `least * keep`.

    scores, which weights a layer keeps: the largest by `magnitude` (channels: by the L1 norm of the layer's own input
    slice), `random` ones, the largest by their effect on the loss (`gradient`: |theta dL/dtheta| as in SNIP), or the
    largest by scores `learned` from the magnitudes with frozen weights (HYDRA, HARP). `filters`, for channels only: a
    channel's score is the L1 norm of its filter, all weights of this output channel in the layer before (Li et al.
    2017), so layers that read the same tensor keep the same channels. In residual networks several filters add up to a
    channel of a sum; its score is the total L1 norm of the input slices of all layers that read the sum. The sum is
    still computed in full: its channels are removed from the layers that read it.

    A recipe with this arch and a dense parent prunes it. If scores or rates are learned, the objective is Prune or
    Saliency and the weights stay as they are; otherwise the pruned weights are trained (fine-tuned) at once. A recipe
    whose first parent has the same arch fine-tunes it with the same masks. If the parent is pruned in another way, the
    recipe prunes it further (iterative pruning, such as 1/2, 1/4, 1/10): `keep` is still a share of the dense network,
    and weights that the parent has lost stay removed. Channels cannot be pruned after single weights.
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
            single = "another rule for weights: filters rank whole channels"
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
        """Whether scores or rates are searched for with frozen weights."""
        return self.rates == "learned" or self.scores in ("learned", "gradient")

    @property
    def dense(self) -> Architecture:
        return self.of

    @property
    def name(self) -> str:
        kind = "" if self.granularity == "weights" else " channels"
        return f"{self.of.name} keep {float(self.keep):g}{kind} ({self.rates} rates, {self.scores} scores)"

    def fine_tunes(self, recipe) -> bool:
        """Whether the recipe fine-tunes a network of this very architecture, with its masks."""
        return bool(recipe.parents) and recipe.parents[0].arch == self

    def check_recipe(self, recipe) -> None:
        """Raise `SettingsError` unless the recipe has at most one parent, a network of `of`, pruned or not (with rates
        `parent` a second one), and images that all of them take.
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
