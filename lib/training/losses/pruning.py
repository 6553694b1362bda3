"""Searching for the mask of a pruned network: HARP's and HYDRA's training of scores and rates, and saliency.

Weights and biases are frozen (masked layers hold them as buffers); BatchNorm's parameters and statistics adapt.
"""

from __future__ import annotations

import torch

from lib.errors import NetworkFailed, need
from lib.models import rates
from lib.models.masked import masked_layers, opened, refresh
from lib.models.prune import Cost
from lib.training.losses.base import Wrapper, losses
from lib.values.objectives import Prune, Saliency

SLACK = 0.01  # a search may end this share above its target, since L_hw only has a gradient where it is positive


class TargetMissed(NetworkFailed):
    """A search ended with a network larger than its target."""


@losses.register(Prune)
class PruneLoss(Wrapper):
    """loss + g * L_hw (HARP, Zhao & Wressnegger 2023; see lib.values.objectives.Prune). `frozen` is g once it no longer
    grows. Raises SettingsError for a network without scores or rates to learn.
    """

    def __init__(self, spec):
        super().__init__(spec)
        self.frozen: float | None = None
        self.epoch = 0
        self.cost: Cost | None = None
        self.seen = None

    def __call__(self, net, batch, progress):
        self.epoch = progress.epoch
        refresh(net)
        loss, logits = self.inner(net, batch, progress)
        if cost := self._cost(net):
            loss = loss + self.gamma * cost.excess()
        return loss, logits

    @property
    def gamma(self) -> float:
        """g in the current epoch."""
        if not self.spec.growing:
            return self.spec.gamma
        return (self.epoch + 1) * self.spec.gamma if self.frozen is None else self.frozen

    def _cost(self, net) -> Cost | None:
        """The cost of the network; None if no rates are learned."""
        if self.seen is not net:
            searched = [layer for layer in masked_layers(net).values() if layer.searched]
            need(bool(searched), "objective", type(self.spec).__name__, "one that trains weights, since no layer of "
                 "this network has scores or rates to learn")
            learned = any(layer.learned_quota is not None for layer in searched)
            self.seen, self.cost = net, Cost(net) if learned else None
        return self.cost

    def end_epoch(self, net) -> dict:
        """Freeze g if the target is met. Columns: the epoch's L_hw (`hardware_loss`), the cost of its masks as a share
        of the dense network's cost (`kept`), and its g (`gamma`).
        """
        row, cost, gamma = super().end_epoch(net), self._cost(net), self.gamma
        if cost is None:
            return row
        excess = float(cost.excess().detach())
        if self.frozen is None and round(excess, 4) == 0:
            self.frozen = gamma
        return {**row, "hardware_loss": excess, "kept": cost.kept(), "gamma": gamma}

    def acceptable(self, net) -> bool:
        """Whether the network meets its target, up to `SLACK`."""
        return super().acceptable(net) and self._meets_target(net)

    def _meets_target(self, net) -> bool:
        cost = self._cost(net)
        return cost is None or float(cost.excess().detach()) <= SLACK

    def finish(self, net) -> None:
        """Raise `TargetMissed` unless the network meets its target."""
        super().finish(net)
        if self._meets_target(net):
            return
        cost = self._cost(net)
        raise TargetMissed(
            f"the search has not met its target: the network's cost is {cost.kept():.4g} of the dense network's and "
            f"keep = {cost.keep:.4g} allows {cost.target:.4g}; raise gamma ({self.spec.gamma:g}), epochs or "
            "optimiser.lr"
        )

    def state_dict(self) -> dict:
        return {**super().state_dict(), "frozen": self.frozen}

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        self.frozen = state["frozen"]


@losses.register(Saliency)
class SaliencyLoss(Wrapper):
    """Adds theta * dL/dtheta to the scores (SNIP, Lee et al. 2019); no parameter gets a gradient. See
    lib.values.objectives.Saliency. Raises SettingsError for a network without scores.
    """

    def __call__(self, net, batch, progress):
        with opened(net) as weights:
            need(bool(weights), "objective", "Saliency", "one that trains weights, since this network has no scores")
            loss, logits = self.inner(net, batch, progress)
            gradients = torch.autograd.grad(loss, list(weights.values()))
        with torch.no_grad():
            for (layer, weight), gradient in zip(weights.items(), gradients, strict=True):
                layer.scores += layer.gather(weight * gradient)
        return loss.detach().requires_grad_(), logits

    def finish(self, net) -> None:
        """Set how many weights each layer keeps if the scores of the whole network are ranked together. Raises
        NetworkFailed for a network whose scores are all 0.
        """
        super().finish(net)
        layers = list(masked_layers(net).values())
        if not any(layer.scores.any() for layer in layers):
            raise NetworkFailed("no weight of the network changes its loss: there is no saliency to prune by")
        if layers[0].overall:
            counts = rates.overall([layer.scores for layer in layers], layers[0].keep)
            for layer, count in zip(layers, counts, strict=True):
                layer.count.fill_(count)
