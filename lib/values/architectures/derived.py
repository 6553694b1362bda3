"""Networks that are made from others, as values: stitched, probed and pruned ones."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from lib.errors import fraction, is_int, need, unknown
from lib.values.architectures.plain import Architecture, Mixer, Plain, ViT
from lib.values.keys import later

GRANULARITIES = ("weights", "channels")
RATES = ("uniform", "erk", "lamp", "global", "data-free", "parent", "learned")
CHANNEL_RATES = ("uniform", "parent", "learned")
SCORES = ("magnitude", "filters", "random", "gradient", "learned")
STARTS = ("uniform", "erk", "lamp")
LEAST_SQUARES = "least squares"
INITS = ("random", "identity", LEAST_SQUARES)


@dataclass(frozen=True)
class Stitch(Architecture):
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
    init: str = "random"
    fit: int | None = later(None)
    rank: int | None = later(None)

    joints = ()

    def __post_init__(self):
        if self.init not in INITS:
            raise unknown("joint init", self.init, INITS)
        counts = self.fit is None or (is_int(self.fit, 1) and self.init == LEAST_SQUARES)
        need(counts, "arch.fit", self.fit, f"a number of images of at least 1 for {LEAST_SQUARES}, or null")
        need(self.rank is None or is_int(self.rank, 1), "arch.rank", self.rank, "a whole number of at least 1, or null")

    @property
    def name(self) -> str:
        return f"stitch at {self.joint}" + (f", rank {self.rank}" if self.rank else "")


@dataclass(frozen=True)
class Probe(Architecture):
    """A linear probe: the parent's front up to and with stage `joint`, global average pooling, one linear layer."""

    joint: str

    joints = ()

    @property
    def name(self) -> str:
        return f"probe at {self.joint}"


@dataclass(frozen=True)
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

    of: Plain
    keep: Fraction
    granularity: str = "weights"
    rates: str = "uniform"
    scores: str = "magnitude"
    start: str = "uniform"
    start_keep: Fraction | None = None
    least: Fraction = Fraction(1, 10)

    def __post_init__(self):
        for name in ("keep", "start_keep", "least"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, fraction(value, f"arch.{name}"))
        need(0 < self.keep < 1, "arch.keep", self.keep, "a share between 0 and 1, both excluded")
        need(0 < self.least < 1, "arch.least", self.least, "a share between 0 and 1, both excluded")
        for name, known in (("granularity", GRANULARITIES), ("rates", RATES), ("scores", SCORES), ("start", STARTS)):
            if getattr(self, name) not in known:
                raise unknown(f"arch.{name}", getattr(self, name), known)
        if self.granularity == "channels":
            by_channel = f"one of {', '.join(CHANNEL_RATES)} for channels"
            need(self.rates in CHANNEL_RATES, "arch.rates", self.rates, by_channel)
            need(self.start == "uniform", "arch.start", self.start, "uniform for channels")
            need(not isinstance(self.of, (ViT, Mixer)), "arch.granularity", "channels", f"weights for {self.of.name}")
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
    def stages(self) -> tuple[str, ...]:
        return self.of.stages

    @property
    def joints(self) -> tuple[str, ...]:
        return self.of.joints

    @property
    def rectified(self) -> bool:
        return self.of.rectified

    @property
    def any_size(self) -> bool:
        return self.of.any_size

    @property
    def min_size(self) -> int:
        return self.of.min_size

    @property
    def patch(self) -> int:
        return self.of.patch

    @property
    def name(self) -> str:
        kind = "" if self.granularity == "weights" else " channels"
        return f"{self.of.name} keep {float(self.keep):g}{kind} ({self.rates} rates, {self.scores} scores)"
