"""Training a dense network towards a sparse one: the alternating direction method of multipliers (R-ADMM)."""

from __future__ import annotations

from fractions import Fraction

import torch

from lib.models import rates
from lib.models.links import layers
from lib.models.masked import largest
from lib.training.losses.base import Wrapper, losses
from lib.values.objectives import ADMM


@losses.register(ADMM)
class ADMMLoss(Wrapper):
    """loss + rho / 2 sum ||W - Z + U||^2 (R-ADMM, Ye et al. 2019; see lib.values.objectives.ADMM). `sparse` and `dual`
    are Z and U by layer, of the weights' shapes; they change only every `every` epochs. `shares` are what layers keep.
    """

    def __init__(self, spec):
        super().__init__(spec)
        self.rho, self.epoch = spec.rho, 0
        self.sparse: dict[str, torch.Tensor] = {}
        self.dual: dict[str, torch.Tensor] = {}
        self.shares: dict[str, Fraction] = {}

    def __call__(self, net, batch, progress):
        self.epoch = progress.epoch
        if not self.sparse:
            weights = _weights(net)
            self.shares = shares(weights, self.spec)
            self.sparse = {name: projection(w, self.shares[name]) for name, w in weights.items()}
            self.dual = {name: torch.zeros_like(w) for name, w in weights.items()}
        loss, logits = self.inner(net, batch, progress)
        return loss + self.penalty(net), logits

    def penalty(self, net) -> torch.Tensor:
        """rho / 2 sum ||W - Z + U||^2 at the network's current weights, []."""
        parts = [(layer.weight - self.sparse[name] + self.dual[name]).square().sum()
                 for name, layer in layers(net).items()]
        return 0.5 * self.rho * torch.stack(parts).sum()

    def end_epoch(self, net) -> dict:
        """Update Z, U and rho every `every` epochs. Columns, before this update: `residual`, ||W - Z|| / ||W|| over all
        layers, and `rho`.
        """
        weights = _weights(net)
        apart = sum(float((w - self.sparse[name]).square().sum()) for name, w in weights.items())
        length = sum(float(w.square().sum()) for w in weights.values())
        row = {**super().end_epoch(net), "residual": (apart / length) ** 0.5, "rho": self.rho}
        if (self.epoch + 1) % self.spec.every == 0:
            for name, w in weights.items():
                self.sparse[name] = projection(w + self.dual[name], self.shares[name])
                self.dual[name] += w - self.sparse[name]
            self.rho *= self.spec.growth
        return row

    def state_dict(self) -> dict:
        return {**super().state_dict(), "rho": self.rho, "sparse": self.sparse, "dual": self.dual,
                "shares": {name: str(share) for name, share in self.shares.items()}}

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        self.rho, self.sparse, self.dual = state["rho"], state["sparse"], state["dual"]
        self.shares = {name: Fraction(share) for name, share in state["shares"].items()}


def shares(weights: dict[str, torch.Tensor], spec: ADMM) -> dict[str, Fraction]:
    """The share of every layer's weights that the projection keeps, by layer."""
    if spec.rates == "uniform":
        return dict.fromkeys(weights, spec.keep)
    every = list(weights.values())
    counts = rates.lamp(every, spec.keep) if spec.rates == "lamp" else rates.erk([w.shape for w in every], spec.keep)
    return {name: Fraction(count, weights[name].numel()) for name, count in zip(weights, counts, strict=True)}


def projection(weight: torch.Tensor, keep) -> torch.Tensor:
    """The nearest tensor (least squares) in which only the share `keep` of the n entries is not 0: the
    floor((1 - keep) n) entries smallest in absolute value are set to 0.
    """
    return weight * largest(weight.abs(), rates.kept_of(weight.numel(), keep))


def _weights(net) -> dict[str, torch.Tensor]:
    return {name: layer.weight.detach() for name, layer in layers(net).items()}
