"""The section of the HARP notebook."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

from lib.errors import need
from lib.profiles.networks import UNTARGETED, Gates, Networks, Pretraining, Unattacked, fewer_targets
from lib.values.architectures import FromScratch
from lib.values.attacks import PGD, TIER_LISTS, Attack, tiers
from lib.values.data import Data
from lib.values.declared import (
    Count,
    Declared,
    NotNegative,
    OneOf,
    ProperShare,
    Repetitions,
    Share,
    different,
    falling,
    whole,
)
from lib.values.threats import Threat

# What decides how much of each layer is kept (rates) and which of its weights (scores); see
# lib.values.architectures.Pruned.
METHODS = {
    "HARP": {"rates": "learned", "scores": "learned"},
    "rates only": {"rates": "learned", "scores": "magnitude"},
    "HYDRA": {"rates": "uniform", "scores": "learned"},
    "LWM": {"rates": "uniform", "scores": "magnitude"},
    "random": {"rates": "uniform", "scores": "random"},
    "global magnitude": {"rates": "global", "scores": "magnitude"},
    "LAMP": {"rates": "lamp", "scores": "magnitude"},
    "ERK": {"rates": "erk", "scores": "magnitude"},
    "data-free": {"rates": "data-free", "scores": "magnitude"},
    "HYDRA + LAMP": {"rates": "lamp", "scores": "learned"},
    "HYDRA + ERK": {"rates": "erk", "scores": "learned"},
    "HYDRA + data-free": {"rates": "data-free", "scores": "learned"},
    "HYDRA + HARP rates": {"rates": "parent", "scores": "learned"},
    "HARP, no decay on rates": {"rates": "learned", "scores": "learned"},
    "HARP, constant gamma": {"rates": "learned", "scores": "learned"},
    "R-ADMM": {"rates": "uniform", "scores": "magnitude"},  # after dense training towards a sparse network
    "BCS-P": {"rates": "uniform", "scores": "random"},  # the start of a sparse training from scratch
}
BY_CHANNEL = ("HARP", "rates only", "HYDRA", "LWM", "random")
LOSSES = ("PGD-AT", "TRADES", "MART", "Free-AT")
UPDATES = 20 * 391  # of the paper's search on CIFAR-10: 20 epochs of batches of 128


Step = Annotated[Unattacked, replace(whole(1), of="epochs")]


@dataclass(frozen=True)
class Section(Declared):
    """The HARP notebook."""

    seeds: Repetitions  # repetitions, each with a dense network of its own that all methods prune
    keeps: Annotated[tuple[ProperShare, ...], falling(1)]  # shares of the prunable weights kept, growing harsher
    prune: Step  # the search for scores and rates with frozen weights, under the attack of the dense networks
    finetune: Step  # the training of what is left, under the attack of the dense networks
    search: Annotated[PGD, UNTARGETED]  # the attack of the checks
    verify: Attack  # the stronger one that every network is measured under
    gates: Gates
    # at the harshest share; the dense network with the same fine-tuning is always compared with them
    methods: Annotated[tuple[Annotated[str, OneOf(METHODS)], ...], different(1)] = (
        "HARP", "HYDRA", "LWM", "HYDRA + data-free")
    milder_methods: tuple[str, ...] | None = None  # those of the methods at the other shares too; null: all
    # of all three stages, the first for every method, the others for HARP and HYDRA at the harshest share
    losses: Annotated[tuple[Annotated[str, OneOf(LOSSES)], ...], different(1)] = ("PGD-AT",)
    # the first weight of the hardware loss, which grows by as much every epoch, in a search of `updates`; raised for a
    # shorter one (lib.papers.harp_pruning.networks.search_speedup)
    gamma: NotNegative = 0.01
    constant_gamma: NotNegative = 0.1  # the weight where it does not grow, raised likewise
    # of the search that gamma, constant_gamma and the weight decay of prune are meant for: as long as the paper's
    updates: Count = UPDATES
    # shares of input channels that are kept where channels are pruned, by the methods that can
    channels: Annotated[tuple[ProperShare, ...], falling()] = ()
    attacks: tuple[Attack, ...] = ()  # further ones that every network is measured under
    tier: Annotated[str, OneOf(TIER_LISTS)] | None = None  # a list of further attacks by its name
    data: Data | None = None  # of the dense networks; null: the pool's
    arch: FromScratch | None = None  # of the dense networks; null: the pool's
    pretrain: Pretraining | None = None  # of the dense networks that are trained adversarially; null: the pool's
    above_chance: Share = 0.05  # arms whose clean accuracy is not this far above chance are not compared

    where = "harp_pruning"

    def check_together(self):
        if self.milder_methods is None:
            object.__setattr__(self, "milder_methods", self.methods)
        for method in self.milder_methods:
            OneOf(self.methods).hold(method, "harp_pruning.milder_methods")
        every = [self.search, self.verify, *self.attacks]
        need(len({*every}) == len(every), "harp_pruning.attacks", self.attacks,
             "other than search, verify and each other")

    def further(self, threat: Threat) -> tuple[Attack, ...]:
        """What networks are measured under in addition to `verify`: `attacks` and those of the list `tier`."""
        every = dict.fromkeys((*self.attacks, *(tiers(self.tier, threat) if self.tier else ())))
        return tuple(attack for attack in every if attack != self.verify)

    @property
    def pool(self) -> int:
        """Networks of each type that it needs."""
        return self.seeds

    def check(self, networks: Networks) -> None:
        """Raise SettingsError unless the section fits the networks."""
        data = self.data or networks.data
        fewer_targets("harp_pruning.verify.targets", self.verify, data)
        need(data.holdout > 0, "data.holdout of harp_pruning", data.holdout,
             "at least 1: fine-tunings choose their epoch on held-out images")
