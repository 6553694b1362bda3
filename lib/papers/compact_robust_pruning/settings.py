"""The section of the notebook on compact and robust networks."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from lib.errors import is_number, need, unknown
from lib.profiles.networks import Gates, Networks, Pretraining, Training, falling_shares, fewer_targets, repetitions
from lib.values.architectures import FromScratch
from lib.values.attacks import PGD, Attack
from lib.values.certificates import Bounds, Certificate, Smoothing
from lib.values.data import Data
from lib.values.threats import Threat

IN_ROUNDS = "iterative LWM"  # pruned in several rounds, each with a part of the fine-tuning
# Which weights are kept; see lib.values.architectures.Pruned. Uniform rates, but for three that look at the whole
# network.
RULES = {
    "LWM": {"scores": "magnitude"},
    "random": {"scores": "random"},
    "SNIP": {"rates": "global", "scores": "gradient"},
    "HYDRA": {"scores": "learned"},
    "global magnitude": {"rates": "global", "scores": "magnitude"},
    "LAMP": {"rates": "lamp", "scores": "magnitude"},
    IN_ROUNDS: {"scores": "magnitude"},
    "filters": {"granularity": "channels", "scores": "filters"},
}
BENIGN, ROBUST = "benign", "robust"
EMPIRICAL = ("PGD-AT", "TRADES")
VERIFIABLE = ("IBP", "CROWN-IBP", "MixTrain", "smoothing")


@dataclass(frozen=True)
class NetworkSetup:
    """One of the networks that are made compact: an architecture on a data set, and the robust objective of its first
    and last step.

    training: PGD-AT or TRADES (empirical robustness, `attack` of `pretrain` or the pool's), IBP, CROWN-IBP, MixTrain
    (eps of `threat`) or smoothing (stability training with noise of `sigma`). pretrain, finetune: the two steps; the
    benign objective goes through the same epochs, without a start on clean images. data, arch, threat, pretrain,
    batch_size, augment: of the pool where they are left out. certificate: what verifies it, of linf within `threat` for
    bounds, of l2 within `certified` for smoothing; given for the verifiable objectives. gates: what the unpruned
    networks must show; verified: and how much of the test images must be verified. longer: the arm of benign pre-
    training gets, beside the usual fine-tuning, one with as many adversarial epochs as both steps have.
    """

    name: str
    training: str
    finetune: Training
    gates: Gates
    data: Data | None = None
    arch: FromScratch | None = None
    threat: Threat | None = None
    pretrain: Pretraining | None = None
    batch_size: int | None = None
    augment: str | None = None
    sigma: float = 0.25
    certificate: Certificate | None = None
    certified: Threat | None = None
    verified: float = 0.25
    longer: bool = False

    def __post_init__(self):
        if self.training not in EMPIRICAL + VERIFIABLE:
            raise unknown(f"training of the network {self.name}", self.training, EMPIRICAL + VERIFIABLE)
        smoothed = self.training == "smoothing"
        kind, words = (Smoothing, "Smoothing") if smoothed else (Bounds, "Bounds")
        if self.training in EMPIRICAL:
            kind, words = type(None), "left out"
        need(isinstance(self.certificate, kind), f"certificate of the network {self.name}", self.certificate,
             f"{words} for {self.training}")
        need(smoothed == (self.certified is not None), f"certified of the network {self.name}", self.certified,
             "the l2 ball that counts, for smoothing, and left out otherwise")
        if smoothed:
            self.certificate.check(self.certified)
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
class Section:
    """The notebook on compact and robust networks. `seeds`: repetitions, each with networks of its own.

    nets: the networks. keeps: shares of the weights that are kept, growing harsher; objectives are compared at the
    first, `keep` (1/10: ten times as compact). Pruning rules are compared after the robust fine-tuning of the network
    `rules_on` (its name): `rules` at `keep`, `harsher_rules` at the others, all of them where nothing is given.
    benign_rules: those that are followed by the benign fine-tuning too, at `keep`. rounds: what the iterative rule
    keeps before the last round. filters: shares of filters that are kept where whole ones are removed. score: the
    search of learned scores. search: the attack of the checks; verify: the stronger one that every network is measured
    under.
    """

    seeds: int
    nets: tuple[NetworkSetup, ...]
    score: Training
    search: PGD
    verify: Attack
    keeps: tuple[Fraction, ...] = (Fraction(1, 10), Fraction(1, 100))
    rules_on: str = ""
    rules: tuple[str, ...] = ("LWM", "random", "SNIP", "HYDRA", "iterative LWM")
    harsher_rules: tuple[str, ...] | None = None
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
        falling_shares(self, where, "keeps", "rounds", "filters")
        need(len(self.keeps) > 0, f"{where}.keeps", [], "one share or more")
        weights = [rule for rule, how in RULES.items() if "granularity" not in how]
        for name, known in (("rules", weights), ("benign_rules", [rule for rule in weights if rule != IN_ROUNDS])):
            rules = getattr(self, name)
            need(len(rules) == len({*rules}), f"{where}.{name}", list(rules), "different names")
            for rule in rules:
                if rule not in known:
                    raise unknown(f"{where}.{name}", rule, known)
        if self.harsher_rules is None:
            object.__setattr__(self, "harsher_rules", self.rules)
        for rule in self.harsher_rules:
            if rule not in self.rules:
                raise unknown(f"{where}.harsher_rules", rule, self.rules)
        above = not self.rounds or self.rounds[-1] > self.keep
        need(above, f"{where}.rounds", [float(k) for k in self.rounds], f"shares above keeps[0] = {self.keep}")
        need(self.score.attack is None, f"{where}.score.attack", self.score.attack, "left out: it is the networks'")
        need(not self.search.targeted, f"{where}.search.targeted", True, "false")
        need(self.search != self.verify, f"{where}.verify", self.verify, "another attack than search")

    @property
    def keep(self) -> Fraction:
        """The share of weights that is kept where objectives are compared."""
        return self.keeps[0]

    @property
    def pool(self) -> int:
        """Networks of each type that it needs."""
        return self.seeds

    def check(self, networks: Networks) -> None:
        """Raise SettingsError unless the section fits the networks."""
        for net in self.nets:
            fewer_targets("compact_robust_pruning.verify.targets", self.verify, net.data or networks.data)
            if isinstance(net.certificate, Bounds):
                net.certificate.check(net.threat or networks.threat)
