"""The section of the notebook on compact and robust networks."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated

from lib.errors import need
from lib.profiles.networks import (
    UNTARGETED,
    Augmentation,
    BatchSize,
    FileName,
    Gates,
    Networks,
    Pretraining,
    Unattacked,
    fewer_targets,
)
from lib.values.architectures import FromScratch
from lib.values.attacks import PGD, Attack
from lib.values.certificates import Bounds, Certificate, Smoothing
from lib.values.data import Data
from lib.values.declared import Declared, OneOf, Positive, ProperShare, Repetitions, Share, different, falling
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


WEIGHTS = tuple(rule for rule, how in RULES.items() if "granularity" not in how)  # rules that keep single weights
AT_ONCE = tuple(rule for rule in WEIGHTS if rule != IN_ROUNDS)


@dataclass(frozen=True)
class NetworkSetup(Declared):
    """One of the networks that are made compact: an architecture on a data set, and the robust objective of its first
    and last step.
    """

    name: FileName  # for tables
    # the robust objective: PGD-AT or TRADES (empirical robustness, under the attack of pretrain or the pool's), IBP,
    # CROWN-IBP, MixTrain (eps of the threat) or smoothing (stability training with noise of sigma)
    training: Annotated[str, OneOf(EMPIRICAL + VERIFIABLE)]
    finetune: Unattacked  # the last step; the benign objective goes through the same epochs
    gates: Gates  # what the unpruned networks must show
    data: Data | None = None  # what networks learn; null: as the pool's
    arch: FromScratch | None = None  # what networks look like; null: as the pool's
    threat: Threat | None = None  # in training, and that counts for bounds; null: the pool's
    # the first step, null: the pool's; the benign objective goes through the same epochs, without a start on clean
    # images
    pretrain: Pretraining | None = None
    batch_size: BatchSize | None = None  # images an update; null: as the pool's
    augment: Augmentation | None = None  # how training images are varied; null: as the pool's
    sigma: Positive = 0.25  # the standard deviation of the noise of smoothing
    # what verifies it, of linf within the threat for bounds, of l2 within certified for smoothing; given for the
    # verifiable objectives
    certificate: Certificate | None = None
    certified: Threat | None = None  # the l2 ball that counts for smoothing
    verified: Share = 0.25  # the share of the test images that must be verified of unpruned networks
    # the arm of benign pre-training gets, besides the usual fine-tuning, one with as many adversarial epochs as both
    # steps have
    longer: bool = False

    where = "nets"

    def check_together(self):
        where, smoothed = f"nets[{self.name}]", self.training == "smoothing"
        kind, words = (Smoothing, "Smoothing") if smoothed else (Bounds, "Bounds")
        if self.training in EMPIRICAL:
            kind, words = type(None), "left out"
        need(type(self.certificate) is kind, f"{where}.certificate", self.certificate, f"{words} for {self.training}")
        need(smoothed == (self.certified is not None), f"{where}.certified", self.certified,
             "the l2 ball that counts, for smoothing, and left out otherwise")
        if smoothed:
            self.certificate.check(self.certified)
        own = self.threat is None or self.pretrain is not None
        need(own, f"{where}.pretrain", None, "given where the threat is not the pool's")

    @property
    def verifiable(self) -> bool:
        return self.certificate is not None


@dataclass(frozen=True)
class Section(Declared):
    """The notebook on compact and robust networks."""

    seeds: Repetitions  # repetitions, each with networks of its own
    nets: Annotated[tuple[NetworkSetup, ...], different(1, of="name")]  # the networks that are made compact
    score: Unattacked  # the search of learned scores, under the networks' attack
    search: Annotated[PGD, UNTARGETED]  # the attack of the checks
    verify: Attack  # the stronger one that every network is measured under
    # shares of the weights that are kept, growing harsher; objectives are compared at the first
    keeps: Annotated[tuple[ProperShare, ...], falling(1)] = (Fraction(1, 10), Fraction(1, 100))
    # the network, by its name, after whose robust fine-tuning pruning rules are compared; "": the first
    rules_on: str = ""
    # pruning rules that are compared at the first share
    rules: Annotated[tuple[Annotated[str, OneOf(WEIGHTS)], ...], different()] = (
        "LWM", "random", "SNIP", "HYDRA", "iterative LWM")
    harsher_rules: tuple[str, ...] | None = None  # those of them that are compared at the other shares; null: all
    # rules that are followed by the benign fine-tuning too, at the first share
    benign_rules: Annotated[tuple[Annotated[str, OneOf(AT_ONCE)], ...], different()] = (
        "LWM", "global magnitude", "SNIP", "HYDRA")
    # what the iterative rule keeps before the last round
    rounds: Annotated[tuple[ProperShare, ...], falling()] = (Fraction(1, 2), Fraction(1, 4))
    # shares of filters that are kept where whole ones are removed
    filters: Annotated[tuple[ProperShare, ...], falling()] = (Fraction(1, 2),)

    where = "compact_robust_pruning"

    def check_together(self):
        names = [net.name for net in self.nets]
        object.__setattr__(self, "rules_on", self.rules_on or names[0])
        OneOf(names).hold(self.rules_on, f"{self.where}.rules_on")
        if self.harsher_rules is None:
            object.__setattr__(self, "harsher_rules", self.rules)
        for rule in self.harsher_rules:
            OneOf(self.rules).hold(rule, f"{self.where}.harsher_rules")
        above = not self.rounds or self.rounds[-1] > self.keep
        need(above, f"{self.where}.rounds", [float(k) for k in self.rounds], f"shares above keeps[0] = {self.keep}")
        need(self.search != self.verify, f"{self.where}.verify", self.verify, "another attack than search")

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
            if net.verifiable and net.certified is None:
                net.certificate.check(net.threat or networks.threat)
