"""The section of the notebook on compact and robust networks."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from lib.architectures import Plain
from lib.errors import fraction, is_number, need, unknown
from lib.recipe import Data
from lib.settings.networks import Gates, Networks, Training, fewer_targets, repetitions
from lib.threats import PGD, Attack, Bounds, Certificate, Smoothing, Threat, compatible

# Which weights are kept; see lib.architectures.Pruned. Uniform rates, but for three that look at the whole network.
RULES = {
    "LWM": {"scores": "magnitude"},
    "random": {"scores": "random"},
    "SNIP": {"rates": "global", "scores": "gradient"},
    "HYDRA": {"scores": "learned"},
    "global magnitude": {"rates": "global", "scores": "magnitude"},
    "LAMP": {"rates": "lamp", "scores": "magnitude"},
    "iterative LWM": {"scores": "magnitude"},  # in several rounds, each with a part of the fine-tuning
    "filters": {"granularity": "channels", "scores": "filters"},
}
BENIGN, ROBUST = "benign", "robust"
EMPIRICAL = ("PGD-AT", "TRADES")
VERIFIABLE = ("IBP", "CROWN-IBP", "MixTrain", "smoothing")


@dataclass(frozen=True)
class Net:
    """One of the networks that are made compact: an architecture on a data set, and the robust objective of its first
    and last step.

    training: PGD-AT or TRADES (empirical robustness, `attack` of `pretrain` or the pool's), IBP, CROWN-IBP, MixTrain
    (eps of `threat`) or smoothing (stability training with noise of `sigma`). pretrain, finetune: the two steps; the
    benign objective goes through the same epochs. warm_up: epochs on clean images before the robust pre-training. data,
    arch, threat, pretrain, batch_size, augment: of the pool where they are left out.
    certificate: what verifies it, of linf within `threat` for bounds, of l2 within `certified` for smoothing; given
    for the verifiable objectives. gates: what the unpruned networks must show; verified: and how much of the test
    images must be verified. longer: the arm of benign pre-training gets, beside the usual fine-tuning, one with as many
    adversarial epochs as both steps have.
    """

    name: str
    training: str
    finetune: Training
    gates: Gates
    data: Data | None = None
    arch: Plain | None = None
    threat: Threat | None = None
    pretrain: Training | None = None
    batch_size: int | None = None
    augment: str | None = None
    warm_up: int = 0
    sigma: float = 0.25
    certificate: Certificate | None = None
    certified: Threat | None = None
    verified: float = 0.25
    longer: bool = False

    def __post_init__(self):
        if self.training not in EMPIRICAL + VERIFIABLE:
            raise unknown(f"training of the network {self.name}", self.training, EMPIRICAL + VERIFIABLE)
        kind = {"smoothing": Smoothing}.get(self.training, Bounds) if self.training in VERIFIABLE else type(None)
        need(isinstance(self.certificate, kind), f"certificate of the network {self.name}", self.certificate,
             f"left out for {self.training}" if kind is type(None) else f"{kind.__name__} for {self.training}")
        smoothed = self.training == "smoothing"
        need(smoothed == (self.certified is not None), f"certified of the network {self.name}", self.certified,
             "the l2 ball that counts, for smoothing, and left out otherwise")
        if smoothed:
            compatible(self.certified, self.certificate)
        for what in ("sigma", "verified"):
            value = getattr(self, what)
            need(is_number(value, 0), f"{what} of the network {self.name}", value, "a number of at least 0")
        need(self.finetune.attack is None, f"finetune.attack of the network {self.name}", self.finetune.attack,
             "left out: it is that of pretrain")
        own = self.threat is None or self.pretrain is not None
        need(own, f"pretrain of the network {self.name}", None, "given where the threat is not the pool's")

    @property
    def verifiable(self) -> bool:
        return self.certificate is not None


@dataclass(frozen=True)
class Compact:
    """The notebook on compact and robust networks. `seeds`: repetitions, each with networks of its own.

    nets: the networks. keep: the share of weights that is kept where objectives are compared (1/10: ten times as
    compact). rules_on: the name of the network that pruning rules are compared on, after the robust fine-tuning at
    every one of `keeps` (growing harsher, `keep` the first); benign_rules: those that are followed by the benign one
    too, at `keep`. rounds: what the iterative rule keeps before the last round. filters: shares of filters that are
    kept where whole ones are removed. score: the search of learned scores. search: the attack of the checks; verify:
    the stronger one that every network is measured under.
    """

    seeds: int
    nets: tuple[Net, ...]
    score: Training
    search: PGD
    verify: Attack
    keep: Fraction = Fraction(1, 10)
    keeps: tuple[Fraction, ...] = (Fraction(1, 10), Fraction(1, 100))
    rules_on: str = ""
    rules: tuple[str, ...] = ("LWM", "random", "SNIP", "HYDRA", "iterative LWM")
    benign_rules: tuple[str, ...] = ("LWM", "global magnitude", "SNIP", "HYDRA")
    rounds: tuple[Fraction, ...] = (Fraction(1, 2), Fraction(1, 4))
    filters: tuple[Fraction, ...] = (Fraction(1, 2),)

    def __post_init__(self):
        where = "compact_robust_pruning"
        repetitions(f"{where}.seeds", self.seeds)
        names = [net.name for net in self.nets]
        need(0 < len(names) == len({*names}), f"{where}.nets", names, "one or more, of different names")
        object.__setattr__(self, "rules_on", self.rules_on or names[0])
        if self.rules_on not in names:
            raise unknown(f"{where}.rules_on", self.rules_on, names)
        object.__setattr__(self, "keep", fraction(self.keep, f"{where}.keep"))
        need(0 < self.keep < 1, f"{where}.keep", self.keep, "a share between 0 and 1")
        for name in ("keeps", "rounds", "filters"):
            shares = tuple(fraction(k, f"{where}.{name}") for k in getattr(self, name))
            object.__setattr__(self, name, shares)
            falling = all(0 < k < 1 for k in shares) and list(shares) == sorted({*shares}, reverse=True)
            need(falling, f"{where}.{name}", [float(k) for k in shares], "falling shares between 0 and 1")
        first = self.keeps[:1] == (self.keep,)
        need(first, f"{where}.keeps", [float(k) for k in self.keeps], f"shares that begin with keep = {self.keep}")
        for name, known in (("rules", [*RULES][:-1]), ("benign_rules", [*RULES][:-2])):
            rules = getattr(self, name)
            need(len(rules) == len({*rules}), f"{where}.{name}", list(rules), "different names")
            for rule in rules:
                if rule not in known:
                    raise unknown(f"{where}.{name}", rule, known)
        above = not self.rounds or self.rounds[-1] > self.keep
        need(above, f"{where}.rounds", [float(k) for k in self.rounds], f"shares above keep = {self.keep}")
        need(self.score.attack is None, f"{where}.score.attack", self.score.attack, "left out: it is the networks'")
        need(not self.search.targeted, f"{where}.search.targeted", True, "false")
        need(self.search != self.verify, f"{where}.verify", self.verify, "another attack than search")

    @property
    def pool(self) -> int:
        """Networks of each type that it needs."""
        return self.seeds

    def check(self, networks: Networks) -> None:
        """Raise SettingsError unless the section fits the networks."""
        for net in self.nets:
            fewer_targets("compact_robust_pruning.verify.targets", self.verify, net.data or networks.data)
            if isinstance(net.certificate, Bounds):
                compatible(net.threat or networks.threat, net.certificate)
