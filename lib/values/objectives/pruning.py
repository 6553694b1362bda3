"""Objectives that prune: searches for masks, training towards sparsity, sampled connections."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from lib.errors import need
from lib.values.declared import Count, NotNegative, OneOf, ProperShare, number
from lib.values.objectives.base import Objective, Wrapping


class _Pruning(Wrapping):
    """Around an objective that trains all weights of the network itself, whose gradients it needs."""

    def check_together(self):
        name, kind = f"objective of {type(self).__name__}", type(self.objective).__name__
        need(self.objective.inner is None, name, kind, "one that trains weights, prunes none and aligns no gradients")
        need(not self.objective.attacks_parents, name, kind, "one that attacks the network it trains")


class _Search(_Pruning):
    """What finds the mask of a network whose weights stay as they are."""

    by_gradient = False  # whether it gives scores `gradient`, or else learned scores and rates

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
        return "" if fine_tuned else f"{cls.__name__} for {arch.name}, whose mask is searched"


@dataclass(frozen=True)
class Prune(_Search):
    """The search for a pruned network's scores and rates with frozen weights (HARP; HYDRA where only scores are
    learned): `objective` at the masked network plus g * L_hw, L_hw = max(cost / target cost - 1, 0) where rates are
    learned (costs by the layers' keep rates: weights, or FLOPs for channels), else 0.

    growing: in epoch e = 0, 1, ... g = (e + 1) * gamma, until an epoch ends with an L_hw that rounds to 0.0000; from
    then on g stays. Otherwise g = gamma throughout. A search that ends above its target is an error.
    """

    objective: Objective
    gamma: NotNegative = 0.01
    growing: bool = True


@dataclass(frozen=True)
class Saliency(_Search):
    """No training: the scores of a pruned network become the sum over the epochs' batches of theta * dL/dtheta, L the
    `objective` at the dense network; their absolute values rank weights (channels: the sums over a channel's weights).
    On one batch this is SNIP (Lee et al. 2019).
    """

    objective: Objective

    by_gradient = True


@dataclass(frozen=True)
class ADMM(_Pruning):
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

    objective: Objective
    keep: ProperShare
    rho: NotNegative = 0.001
    growth: Annotated[float, number(1)] = 1.3
    every: Count = 30

    def check(self, recipe) -> None:
        super().check(recipe)
        dense = "the dense network, which is trained before a recipe of its own prunes it, for ADMM"
        need(not recipe.arch.pruned, "arch", recipe.arch.name, dense)


SCOPES = ("network", "layer")


@dataclass(frozen=True)
class Rewire(_Pruning):
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
    next to the momentum, by 5e-4 an update at lr 0.1, which is what an L2 weight decay of 5e-4 comes to under momentum
    0.9.
    """

    objective: Objective
    noise: NotNegative = 1e-6
    scope: Annotated[str, OneOf(SCOPES)] = "network"

    def check(self, recipe) -> None:
        super().check(recipe)
        arch = recipe.arch
        if arch.pruned:
            need(arch.granularity == "weights" and arch.scores == "random", "arch", arch.name,
                 "pruned by weights with random scores for Rewire")
            need(not recipe.parents, "parents", len(recipe.parents), "0 for Rewire, which trains from scratch")
