"""Training a sparse network from scratch while its connections are sampled: Bayesian connectivity sampling (BCS-P)."""

from __future__ import annotations

import torch

from lib.errors import need
from lib.models.masked import masked_layers
from lib.training.losses.base import Wrapper, losses
from lib.values.objectives import Rewire

BORN = 1e-12  # absolute value of the weight of a connection that has just become active, as in the paper's code


@losses.register(Rewire)
class RewireLoss(Wrapper):
    """The wrapped objective, with connections rewired after every update (Özdenizci & Legenstein 2021; see
    lib.values.objectives.Rewire). `positive`: by layer, bool of the weight's shape, whether the sign of a position is
    +: the sign of the weight for connections that are active at the start, a random sign for the others. Raises
    SettingsError for a network without fixed masks of weights.
    """

    def __init__(self, spec):
        super().__init__(spec)
        self.positive: dict[str, torch.Tensor] = {}
        self.draw: torch.Generator | None = None
        self.rewired = 0

    def __call__(self, net, batch, progress):
        self.draw = batch.generator
        if not self.positive:
            for name, layer in _sparse(net).items():
                coin = torch.rand(layer.mask.shape, generator=self.draw, device=self.draw.device) < 0.5
                self.positive[name] = torch.where(layer.mask, layer.dense_weight > 0, coin)
        return self.inner(net, batch, progress)

    @torch.no_grad()
    def after_update(self, net, optimiser: torch.optim.Optimizer) -> None:
        """Rewire the layers that learn, with random numbers from the generator of the batch of this update."""
        super().after_update(net, optimiser)
        chosen = {name: layer for name, layer in _sparse(net).items() if layer.dense_weight.requires_grad}
        noise = self.spec.noise * optimiser.param_groups[0]["lr"]
        died = [self._put_to_rest(layer, self.positive[name], noise) for name, layer in chosen.items()]
        born = died
        if self.spec.scope == "network":
            sizes = [layer.mask.numel() for layer in chosen.values()]
            room = [int((~layer.mask).sum()) for layer in chosen.values()]
            born = shared_out(sum(died), sizes, room, self.draw)
        for (name, layer), count in zip(chosen.items(), born, strict=True):
            _forget(optimiser, layer)
            self._wake(layer, self.positive[name], count)
        self.rewired += sum(born)

    def _put_to_rest(self, layer, positive: torch.Tensor, noise: float) -> int:
        """Add noise to a layer's active weights, remove those that no longer have the sign of their position, and
        return how many were removed.
        """
        weight, mask = layer.dense_weight, layer.mask
        active = weight[mask]
        active += noise * torch.randn(len(active), generator=self.draw, device=self.draw.device, dtype=active.dtype)
        alive = torch.where(positive[mask], active > 0, active < 0)
        before = mask.clone()
        weight.masked_scatter_(before, torch.where(alive, active, 0))
        mask.masked_scatter_(before, alive)
        return len(alive) - int(alive.sum())

    def _wake(self, layer, positive: torch.Tensor, count: int) -> None:
        """Activate `count` dormant connections of a layer, all with the same probability."""
        if not count:
            return
        dormant = (~layer.mask).nonzero()
        order = torch.randperm(len(dormant), generator=self.draw, device=self.draw.device)
        at = dormant[order[:count]].unbind(1)
        layer.mask[at] = True
        layer.dense_weight[at] = torch.where(positive[at], BORN, -BORN).to(layer.dense_weight.dtype)

    def end_epoch(self, net) -> dict:
        """Column `rewired`: how many connections became active in the epoch."""
        count, self.rewired = self.rewired, 0
        return {**super().end_epoch(net), "rewired": count}

    def state_dict(self) -> dict:
        return {**super().state_dict(), "positive": self.positive, "rewired": self.rewired}

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        self.positive, self.rewired = state["positive"], state["rewired"]


def shared_out(count: int, sizes: list[int], room: list[int], generator: torch.Generator) -> list[int]:
    """How many of `count` items each place receives if each item falls into a place with probability proportional to
    its size, and no place receives more than its room. The total room must be at least `count`.
    """
    shares, most = (torch.tensor(t, dtype=torch.float64, device=generator.device) for t in (sizes, room))
    given = torch.zeros_like(most)
    while (left := count - int(given.sum())) > 0:
        places = torch.multinomial(shares * (given < most), left, replacement=True, generator=generator)
        given = torch.minimum(given + torch.bincount(places, minlength=len(sizes)), most)
    return [int(n) for n in given.tolist()]


def _forget(optimiser: torch.optim.Optimizer, layer) -> None:
    """Reset an optimiser's state of a layer's dormant weights to zero, so that a weight starts from rest when it wakes.
    The state stays zero until then: dormant weights are 0 and get no gradient.
    """
    for value in optimiser.state.get(layer.dense_weight, {}).values():
        if torch.is_tensor(value) and value.shape == layer.mask.shape:
            value.masked_fill_(~layer.mask, 0)


def _sparse(net) -> dict:
    """The masked layers of a network by name; raises SettingsError unless they have fixed masks of weights."""
    found = masked_layers(net)
    fit = bool(found) and not any(layer.searched or layer.by_channel for layer in found.values())
    need(fit, "objective", "Rewire", "another objective, since this network has no fixed masks of weights")
    return found
