"""Objectives that prune: searches for masks, training towards sparsity, sampled connections."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from lib.errors import fraction, is_int, is_number, need, unknown
from lib.values.objectives.adversarial import MART, TRADES, Adversarial, FreeAdversarial, Transferred
from lib.values.objectives.aligned import Aligned
from lib.values.objectives.certified import IBP, CrownIBP, MixTrain
from lib.values.objectives.generative import Denoising, Reconstruction
from lib.values.objectives.plain import CrossEntropy, GradientNorm, Noise, Smoothness, Stability

# What prunes may be wrapped around.
Loss = (
    CrossEntropy | Adversarial | TRADES | MART | FreeAdversarial | Noise | Stability | GradientNorm | Smoothness | IBP
    | CrownIBP | MixTrain | Denoising | Reconstruction
)


def _no_search(objective, name: str) -> None:
    need(not isinstance(objective, (Prune, Saliency, ADMM, Rewire)), f"objective of {name}", type(objective).__name__,
         "one that trains weights and prunes none")
    need(not isinstance(objective, Aligned), f"objective of {name}", "Aligned", "one without aligned gradients")
    alone = not isinstance(objective, Transferred)
    need(alone, f"objective of {name}", "Transferred", "one that attacks the network it trains")


@dataclass(frozen=True)
class Prune:
    """The search for a pruned network's scores and rates with frozen weights (HARP; HYDRA where only scores are
    learned): `objective` at the masked network plus g * L_hw, L_hw = max(cost / target cost - 1, 0) where rates are
    learned (costs by the layers' keep rates: weights, or FLOPs for channels), else 0.

    growing: in epoch e = 0, 1, ... g = (e + 1) * gamma, until an epoch ends with an L_hw that rounds to 0.0000; from
    then on g stays. Otherwise g = gamma throughout. A search that ends above its target is an error.
    """

    objective: Loss
    gamma: float = 0.01
    growing: bool = True

    def __post_init__(self):
        _no_search(self.objective, "Prune")
        need(is_number(self.gamma, 0), "gamma", self.gamma, "a number of at least 0")


@dataclass(frozen=True)
class Saliency:
    """No training: the scores of a pruned network become the sum over the epochs' batches of theta * dL/dtheta, L the
    `objective` at the dense network; their absolute values rank weights (channels: the sums over a channel's weights).
    On one batch this is SNIP (Lee et al. 2019).
    """

    objective: Loss

    def __post_init__(self):
        _no_search(self.objective, "Saliency")


@dataclass(frozen=True)
class ADMM:
    """Training a dense network towards a sparse one by the alternating direction method of multipliers (R-ADMM, Ye et
    al. 2019): `objective` plus rho / 2 times the sum over convolutions and linear layers of ||W - Z + U||^2 (weights,
    no biases).

    Z starts as the projection of W, with the floor((1 - keep) n) smallest of n absolute values set to 0, U as 0. After
    every `every` epochs Z becomes the projection of W + U, then U grows by W - Z, and rho becomes `growth` times as
    large; as in their code U is not rescaled for the new rho. The network stays dense. What follows is a recipe with
    Pruned(rates uniform, scores magnitude) and this one as its parent.

    Their code resets the learning rate at every update of Z, and drops it to a tenth at each third in between. No
    Schedule does that: here the rate follows the recipe's schedule once over all epochs.
    """

    objective: Loss
    keep: Fraction
    rho: float = 0.001
    growth: float = 1.3
    every: int = 30

    def __post_init__(self):
        _no_search(self.objective, "ADMM")
        object.__setattr__(self, "keep", fraction(self.keep, "objective.keep"))
        need(0 < self.keep < 1, "objective.keep", self.keep, "a share between 0 and 1, both excluded")
        need(is_number(self.rho, 0), "rho", self.rho, "a number of at least 0")
        need(is_number(self.growth, 1), "growth", self.growth, "a number of at least 1")
        need(is_int(self.every, 1), "every", self.every, "a whole number of epochs of at least 1")


SCOPES = ("network", "layer")


@dataclass(frozen=True)
class Rewire:
    """Training a sparse network from scratch while its connections are sampled (Bayesian connectivity sampling,
    Özdenizci & Legenstein 2021, with the deep rewiring of Bellec et al. 2018): `objective` at a network of fixed masks
    that start random.

    Every position of a weight has a sign for good. After each update every active weight gets Gaussian noise of
    standard deviation `noise` times the learning rate; a connection whose weight no longer has its position's sign
    becomes dormant, and for each of them a dormant one becomes active at a weight of 1e-12 with its position's sign.
    scope `network`: it lies in a layer drawn with a chance proportional to the layer's number of weights (one with room
    for it) and is any dormant one of that layer, so the network's number of connections stays and the layers' change;
    `layer`: it lies in the same layer, so each layer's number stays. An optimiser's memory of a weight ends when it
    becomes dormant, which it does not in their code.

    Their code starts from rates of its own for each network, which are not among those of Pruned; and it decays weights
    beside the momentum, by 5e-4 an update at lr 0.1, which is what an L2 weight decay of 5e-4 comes to under momentum
    0.9.
    """

    objective: Loss
    noise: float = 1e-6
    scope: str = "network"

    def __post_init__(self):
        _no_search(self.objective, "Rewire")
        need(is_number(self.noise, 0), "noise", self.noise, "a number of at least 0")
        if self.scope not in SCOPES:
            raise unknown("scope", self.scope, SCOPES)
