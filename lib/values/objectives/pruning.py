"""Objectives that prune: searches for masks, training towards sparsity, sampled connections."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from lib.errors import need
from lib.values.declared import Count, NotNegative, OneOf, ProperShare, number
from lib.values.keys import later
from lib.values.objectives.base import Objective, Wrapping


class _Pruning(Wrapping):
    """Objectives that wrap one that trains all weights of the network and takes gradients of this network alone."""

    def check_together(self):
        name, kind = f"objective of {type(self).__name__}", type(self.objective).__name__
        need(self.objective.inner is None, name, kind, "one that trains weights without pruning or aligning gradients")
        need(not self.objective.attacks_parents, name, kind, "one that attacks the network it trains")


class _Search(_Pruning):
    """Searches for the mask of a network whose weights are frozen."""

    by_gradient = False  # whether it computes `gradient` scores instead of learning scores and rates

    def check(self, recipe) -> None:
        super().check(recipe)
        found = recipe.arch.pruned and not self.alone_trains(recipe)
        need(not found, "objective", type(self).__name__, f"one that trains weights for {recipe.arch.name}")

    @classmethod
    def alone_trains(cls, recipe) -> str:
        arch = recipe.arch
        if not (arch.pruned and arch.searched and (arch.scores == "gradient") == cls.by_gradient):
            return ""
        fine_tuned = recipe.parents and recipe.parents[0].arch == arch
        return "" if fine_tuned else f"{cls.__name__} for {arch.name}, whose mask is searched for"


@dataclass(frozen=True)
class Prune(_Search):
    """The search for a pruned network's scores and rates with frozen weights (HARP; HYDRA if only scores are
    learned): `objective` at the masked network plus g * L_hw, with L_hw = max(cost / target cost - 1, 0) if rates are
    learned (the cost at the layers' rates, in weights or, for channels, in FLOPs), else 0.

    growing: in epoch e = 0, 1, ... g = (e + 1) * gamma, until an epoch ends with an L_hw that rounds to 0.0000; from
    then on g stays. Otherwise g = gamma throughout. A search that ends above its target is an error.
    """

    objective: Objective
    gamma: NotNegative = 0.01
    growing: bool = True


@dataclass(frozen=True)
class Saliency(_Search):
    """No training: the scores of a pruned network are sums of theta * dL/dtheta over the batches of all epochs, with L
    the `objective` at the dense network; their absolute values rank weights (channels: the sums over a channel's
    weights). On one batch this is SNIP (Lee et al. 2019).
    """

    objective: Objective

    by_gradient = True
    in_shares = False


FIXED_RATES = ("uniform", "erk", "lamp")


@dataclass(frozen=True)
class ADMM(_Pruning):
    """Training a dense network towards a sparse one by the alternating direction method of multipliers (R-ADMM, Ye et
    al. 2019): `objective` plus rho / 2 times the sum over convolutions and linear layers of ||W - Z + U||^2 (weights,
    not biases).

    Z starts as the projection of W, which sets the floor((1 - keep) n) smallest of n absolute values to 0, and U as 0.
    rates: whether every layer keeps the share `keep` (`uniform`), or the network does and layers keep what ERK or LAMP
    say of the first weights (as Pruned).
    After every `every` epochs Z becomes the projection of W + U, then U grows by W - Z, and rho becomes `growth` times
    as large; as in their code, U is not rescaled for the new rho. The network stays dense. Another recipe, with
    Pruned(rates uniform, scores magnitude) and this one as its parent, prunes it afterwards.

    Their code resets the learning rate at every update of Z and divides it by 10 at each third in between: a schedule
    with a `period`.
    """

    objective: Objective
    keep: ProperShare
    rho: NotNegative = 0.001
    growth: Annotated[float, number(1)] = 1.3
    every: Count = 30
    rates: Annotated[str, OneOf(FIXED_RATES)] = later("uniform")

    def check(self, recipe) -> None:
        super().check(recipe)
        dense = "the dense network, which another recipe prunes afterwards, for ADMM"
        need(not recipe.arch.pruned, "arch", recipe.arch.name, dense)


SCOPES = ("network", "layer")


@dataclass(frozen=True)
class Rewire(_Pruning):
    """Training a sparse network from scratch while its connections are sampled (Bayesian connectivity sampling,
    Özdenizci & Legenstein 2021, with the deep rewiring of Bellec et al. 2018): `objective` at a network of fixed masks
    that start random.

    Every weight position has a fixed sign. After each update every active weight gets Gaussian noise of standard
    deviation `noise` times the learning rate. A connection whose weight no longer has the sign of its position becomes
    dormant, and in exchange a dormant one becomes active, with a weight of 1e-12 and the sign of its position.
    scope `network`: the new connection is a random dormant one of a layer that is drawn with probability proportional
    to its number of weights (among layers with room for it), so the number of connections is constant in the network
    but not in each layer; `layer`: it is in the same layer, whose number is constant, too. The optimiser's state of a
    weight is reset when the weight becomes dormant; in their code it is not.

    Their code starts from layer rates of its own for each network, which Pruned does not have. It decays weights
    outside the momentum, by 5e-4 per update at lr 0.1, which equals an L2 weight decay of 5e-4 under momentum 0.9.
    """

    objective: Objective
    noise: NotNegative = 1e-6
    scope: Annotated[str, OneOf(SCOPES)] = "network"

    in_shares = False

    def check(self, recipe) -> None:
        super().check(recipe)
        arch = recipe.arch
        if arch.pruned:
            need(arch.granularity == "weights" and arch.scores == "random", "arch", arch.name,
                 "pruned by weights with random scores for Rewire")
            need(not recipe.parents, "parents", len(recipe.parents), "0 for Rewire, which trains from scratch")
