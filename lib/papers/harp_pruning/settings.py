"""The section of the HARP notebook."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from lib.errors import is_int, is_number, need, unknown
from lib.profiles.networks import Gates, Networks, Pretraining, Training, falling_shares, fewer_targets, repetitions
from lib.values.architectures import FromScratch
from lib.values.attacks import PGD, TIER_LISTS, Attack, tiers
from lib.values.data import Data
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


@dataclass(frozen=True)
class Section:
    """The HARP notebook. `seeds`: repetitions, each with a dense network of its own that all methods prune.

    keeps: shares of the prunable weights that are kept, growing harsher. methods: of METHODS, at the harshest keep;
    milder_methods: those of them at the others too, all where nothing is given. The dense network with the same
    fine-tuning is always beside them. data, arch, pretrain: of the dense networks, where they are
    not those of the common pool; pretrain is of the adversarially trained ones. prune: the search for scores and rates
    (frozen weights); finetune: the training of what is left. losses: of all three stages, the first for every method,
    the others for HARP and HYDRA at the harshest keep. gamma: the first weight of the hardware loss, which grows by as
    much every epoch; constant_gamma: where it does not grow. Both, and the weight decay of `prune`, are those of a
    search of `updates`, as long as the paper's; the plan raises them for a shorter one
    (lib.papers.harp_pruning.networks.search_speedup).
    channels: shares of input channels that are kept where channels are pruned, by those of `methods` in BY_CHANNEL.
    search: the attack of the checks; verify: the stronger one that every network is measured under; attacks: any more;
    tier: the name of a list of more (lib.values.attacks.TIER_LISTS). above_chance: arms whose clean accuracy is not
    this far above chance are not compared.
    """

    seeds: int
    keeps: tuple[Fraction, ...]
    prune: Training
    finetune: Training
    search: PGD
    verify: Attack
    gates: Gates
    methods: tuple[str, ...] = ("HARP", "HYDRA", "LWM", "HYDRA + data-free")
    milder_methods: tuple[str, ...] | None = None
    losses: tuple[str, ...] = ("PGD-AT",)
    gamma: float = 0.01
    constant_gamma: float = 0.1
    updates: int = UPDATES
    channels: tuple[Fraction, ...] = ()
    attacks: tuple[Attack, ...] = ()
    tier: str | None = None
    data: Data | None = None
    arch: FromScratch | None = None
    pretrain: Pretraining | None = None
    above_chance: float = 0.05

    def __post_init__(self):
        repetitions("harp_pruning.seeds", self.seeds)
        falling_shares(self, "harp_pruning", "keeps", "channels")
        need(len(self.keeps) > 0, "harp_pruning.keeps", [], "one share or more")
        for name, known in (("methods", METHODS), ("losses", LOSSES)):
            values = getattr(self, name)
            for value in values:
                if value not in known:
                    raise unknown(f"harp_pruning.{name}", value, known)
            distinct = 0 < len(values) == len({*values})
            need(distinct, f"harp_pruning.{name}", list(values), "different names, at least one")
        if self.milder_methods is None:
            object.__setattr__(self, "milder_methods", self.methods)
        for value in self.milder_methods:
            if value not in self.methods:
                raise unknown("harp_pruning.milder_methods", value, self.methods)
        for name in ("gamma", "constant_gamma"):
            value = getattr(self, name)
            need(is_number(value, 0), f"harp_pruning.{name}", value, "a number of at least 0")
        for name in ("prune", "finetune"):
            epochs = getattr(self, name).epochs
            need(is_int(epochs, 1), f"harp_pruning.{name}.epochs", epochs, "a whole number of at least 1")
            attack = getattr(self, name).attack
            need(attack is None, f"harp_pruning.{name}.attack", attack, "left out: it is that of the dense networks")
        need(is_int(self.updates, 1), "harp_pruning.updates", self.updates, "a whole number of at least 1")
        if self.tier is not None and self.tier not in TIER_LISTS:
            raise unknown("harp_pruning.tier", self.tier, TIER_LISTS)
        share = is_number(self.above_chance, 0, 1)
        need(share, "harp_pruning.above_chance", self.above_chance, "a share of the images from 0 to 1")
        need(not self.search.targeted, "harp_pruning.search.targeted", True, "false")
        every = [self.search, self.verify, *self.attacks]
        need(len({*every}) == len(every), "harp_pruning.attacks", self.attacks, "other than search, verify and each "
             "other")

    def further(self, threat: Threat) -> tuple[Attack, ...]:
        """What networks are measured under beside `verify`: `attacks` and those of the list `tier`."""
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
