"""Settings of the HARP notebook (Zhao & Wressnegger, ICLR 2023)."""

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
from lib.values.keys import later
from lib.values.threats import Threat

# How each method decides which share of a layer is kept (rates) and which of its weights (scores); see
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
    # after dense ADMM training towards a sparse network
    "R-ADMM": {"rates": "uniform", "scores": "magnitude"},
    "R-ADMM + ERK": {"rates": "erk", "scores": "magnitude"},
    "R-ADMM + LAMP": {"rates": "parent", "scores": "magnitude"},  # LAMP's of the network before ADMM
    "BCS-P": {"rates": "uniform", "scores": "random"},  # where sparse training from scratch starts
}
BY_CHANNEL = ("HARP", "rates only", "HYDRA", "LWM", "random")
LOSSES = ("PGD-AT", "TRADES", "MART", "Free-AT")
UPDATES = 20 * 391  # length of the paper's search on CIFAR-10: 20 epochs of batches of 128
HALVED = ("HARP", "HYDRA")  # methods whose searches are also made at half their length


Step = Annotated[Unattacked, replace(whole(1), of="epochs")]


@dataclass(frozen=True)
class Section(Declared):
    """Settings of the HARP notebook."""

    seeds: Repetitions  # repetitions, each with a dense network of its own that all methods prune
    keeps: Annotated[tuple[ProperShare, ...], falling(1)]  # shares of prunable weights kept, in decreasing order
    # the search for scores and rates with frozen weights
    prune: Annotated[Unattacked, replace(whole(2), of="epochs")]
    finetune: Step  # fine-tuning of the kept weights
    search: Annotated[PGD, UNTARGETED]  # the weaker attack, for the preconditions and on held-out images
    verify: Attack  # the stronger attack, under which every network is measured
    gates: Gates
    # pruning methods at the harshest share; the dense network with the same fine-tuning is always added
    methods: Annotated[tuple[Annotated[str, OneOf(METHODS)], ...], different(1)] = (
        "HARP", "HYDRA", "LWM", "HYDRA + data-free")
    milder_methods: tuple[str, ...] | None = None  # the `methods` at the other shares too; null: all
    # robust losses, each for all three stages: the first for every method, the others for HARP and HYDRA at the
    # harshest share
    losses: Annotated[tuple[Annotated[str, OneOf(LOSSES)], ...], different(1)] = ("PGD-AT",)
    gamma: NotNegative = 0.01  # the first weight of the hardware loss and its growth per epoch
    constant_gamma: NotNegative = 0.1  # the constant weight of the hardware loss in its ablation
    # the number of updates of the paper's search; where `prune` makes clearly fewer, HARP and HYDRA also search half as
    # long at the harshest share, and claims are judged only if that changes no verdict on held-out images
    updates: Count = UPDATES
    # whether such claims also need that the second half of the searches moves what they compare by less than the margin
    steady: bool = later(False)
    attack: Annotated[PGD, UNTARGETED] | None = None  # in searches and fine-tunings; null: as for the dense networks
    # shares of input channels kept where channels are pruned, for the methods that can prune channels
    channels: Annotated[tuple[ProperShare, ...], falling()] = ()
    attacks: tuple[Attack, ...] = ()  # further attacks under which every network is measured
    tier: Annotated[str, OneOf(TIER_LISTS)] | None = None  # the name of a list of further attacks
    data: Data | None = None  # the data that the networks learn; null: the pool's
    arch: FromScratch | None = None  # the architecture of the networks; null: the pool's
    pretrain: Pretraining | None = None  # adversarial training of the dense networks; null: as in the pool
    # R-ADMM's dense training, in which Z is updated after every 3/10 of the epochs; null: for as many epochs as other
    # methods search, with the learning rate of fine-tuning
    admm: Unattacked | None = None
    above_chance: Share = 0.05  # the least clean accuracy above chance of an arm that is compared

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
        """The attacks under which networks are measured in addition to `verify`: `attacks` and the list `tier`."""
        every = dict.fromkeys((*self.attacks, *(tiers(self.tier, threat) if self.tier else ())))
        return tuple(attack for attack in every if attack != self.verify)

    @property
    def pool(self) -> int:
        """How many networks of each type of the common pool are needed."""
        return self.seeds

    def check(self, networks: Networks) -> None:
        """Raise SettingsError unless the section fits the networks."""
        data = self.data or networks.data
        fewer_targets("harp_pruning.verify.targets", self.verify, data)
        need(data.holdout > 0, "data.holdout of harp_pruning", data.holdout,
             "at least 1: fine-tunings choose their epoch on held-out images")
