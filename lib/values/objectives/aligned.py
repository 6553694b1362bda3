"""Input gradients that align with given directions, and the directions (Ganz et al. 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated

from lib.errors import need
from lib.values.declared import Count, Declared, NotNegative, OneOf, Positive, ProperShare, whole
from lib.values.objectives.adversarial import BATCHNORM, TRADES, Adversarial
from lib.values.objectives.base import Passes, Wrapping
from lib.values.objectives.plain import CrossEntropy

TARGETS = ("one image", "class mean", "nearest neighbour", "score", "random direction")
REPRESENTED = TARGETS[:3]  # the heuristics: the direction from an image to a representative of a class
PERMUTED = ("classes", "images")


@dataclass(frozen=True)
class Targets(Declared):
    """The directions with which the input gradients of a classifier are aligned: g(x, t) for each image x and class t
    (the ground-truth gradients of Ganz et al. 2023).

    kind: `one image`, r_t - x with r_t one arbitrary training image of the class; `class mean`, r_t the mean of its
    training images; `nearest neighbour`, r_t the one nearest to x (l2) among its first `sample` training images (None:
    all), x itself excluded; `score`, the class-conditional score minus the unconditional one of the recipe's source, a
    denoiser, at noise `sigma` (pixels in [0, 1]): at the clean image (`draws` 0) or averaged over `draws` noisy ones;
    `random direction`, a Gaussian direction per class, the same for all images, as a control.
    centred: subtract the mean over all classes, so that an image's targets sum to zero, as sum_t p_t grad log p_t does.
    permuted: a control; `classes` gives each class the targets of another class, `images` gives each training image the
    targets of another image.
    """

    kind: Annotated[str, OneOf(TARGETS)]
    centred: bool = False
    permuted: Annotated[str, OneOf(PERMUTED)] | None = None
    sample: Annotated[int, whole(2)] | None = None
    sigma: Positive | None = None
    draws: Annotated[int, whole(0)] = 0

    where = "targets"

    def check_together(self):
        kind, heuristics = self.kind, ", ".join(REPRESENTED)
        need(kind in REPRESENTED or not self.centred, "targets.centred", self.centred,
             f"false for {kind}, true or false for {heuristics}")
        need(kind != "random direction" or self.permuted is None, "targets.permuted", self.permuted,
             "null for random direction, which is a control already")
        fixed = self.centred and kind in ("one image", "class mean")
        need(not fixed or self.permuted != "images", "targets.permuted", self.permuted,
             f"classes or null for centred {kind}, which is the same for all images")
        sampled = self.sample is None or kind == "nearest neighbour"
        need(sampled, "targets.sample", self.sample,
             "a number of images of each class of at least 2 for nearest neighbour, null for other kinds")
        if kind == "score":
            need(self.sigma is not None, "targets.sigma", None, "a noise level greater than 0 for score")
        else:
            need(self.sigma is None, "targets.sigma", self.sigma, f"null for {kind}: only score has a noise level")
            need(self.draws == 0, "targets.draws", self.draws, f"0 for {kind}: only score has draws")


GRADIENTS = ("log-probability", "logit")


@dataclass(frozen=True)
class Aligned(Wrapping):
    """`objective` plus `weight` (the paper's lambda) times the mean over images of the sum over all classes t
    (the image's own included) of 1 - cos(grad_x log p_t(x), g(x, t)), with g the `targets` (Ganz et al. 2023). The
    gradients are taken at the clean augmented images, even if `objective` is Adversarial or TRADES.

    classes: the number of classes drawn for each image and update; a factor of C / classes makes their sum an unbiased
    estimate of the sum over all C classes (None: all). gradient: of the `log-probability`, as in the paper's code, or
    of the `logit`, as in its equation. batchnorm: `train` takes the network in training mode, so that gradients also
    flow through the batch statistics, as in the paper's code; CrossEntropy then shares the forward pass. `eval` takes a
    separate pass at BatchNorm's running statistics, which do not change.
    first_weight: the weight in the first `first_share` of training (their ViT: 2, then 3); None: `weight` throughout.
    """

    objective: CrossEntropy | Adversarial | TRADES
    targets: Targets
    weight: NotNegative
    classes: Count | None = None
    gradient: Annotated[str, OneOf(GRADIENTS)] = "log-probability"
    batchnorm: Annotated[str, OneOf(BATCHNORM)] = "train"
    first_weight: NotNegative | None = None
    first_share: ProperShare = Fraction(1, 2)

    @property
    def active(self) -> bool:
        """Whether the weight is ever positive; if not, this is the plain objective and needs no targets."""
        return bool(self.weight or self.first_weight)

    def weight_at(self, share: float) -> float:
        """The weight after the share `share` in [0, 1] of training."""
        return self.weight if self.first_weight is None or share >= self.first_share else self.first_weight

    @property
    def shared(self) -> bool:
        """Whether the gradients share the forward pass of the objective, which is cross-entropy."""
        return isinstance(self.objective, CrossEntropy) and self.batchnorm == "train"

    @property
    def needs_scores(self) -> bool:
        return self.targets.kind == "score"

    def passes(self, classes: int, batch_size: int) -> Passes:
        found = super().passes(classes, batch_size)
        if not self.active:
            return found
        updates = found.updates + 2 * (self.classes or classes)  # per class: its gradient, and differentiating it
        return found._replace(updates=updates, forwards=found.forwards + (not self.shared))

    def check(self, recipe) -> None:
        super().check(recipe)
        most, sigma = recipe.data.info.classes, self.targets.sigma
        need(self.classes is None or self.classes <= most, "classes", self.classes,
             f"at most the {most} classes of {recipe.data.name}")
        for source in recipe.sources:
            denoises = source.arch.gives == "denoised images" and source.epochs > 0
            need(denoises, "sources", source.arch.name, "a denoiser that was trained")
            ours, theirs = ((data.shape, data.info.classes) for data in (recipe.data, source.data))
            need(ours == theirs, "data of the source", source.data.name,
                 f"images of shape {ours[0]} and {ours[1]} classes, as in {recipe.data.name}")
            how = source.objective
            need(how.low <= sigma <= how.high, "targets.sigma", sigma,
                 f"a noise level that the source knows, from {how.low:g} to {how.high:g}")
            need(0 < how.label_dropout < 1, "label_dropout of the source", how.label_dropout,
                 "between 0 and 1, both excluded, to give scores with and without a class")

    def describe(self) -> str:
        return f"{super().describe()} {self.targets.kind} {self.weight:g}"
