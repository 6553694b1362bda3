"""Settings of the notebook on compact and robust networks (Sehwag et al. 2019)."""

from __future__ import annotations

from dataclasses import dataclass, replace
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
from lib.values.declared import (
    Count,
    Declared,
    OneOf,
    Positive,
    ProperShare,
    Repetitions,
    Share,
    different,
    falling,
    whole,
)
from lib.values.threats import Threat

IN_ROUNDS = "iterative LWM"  # prunes in several rounds, each with a part of the fine-tuning
# How each rule chooses the weights it keeps; see lib.values.architectures.Pruned. Rates are uniform unless given here.
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
    """A network to prune: its architecture and data, and the robust objective of its first and last steps (pre-training
    and fine-tuning).
    """

    name: FileName  # the network's name in tables
    # the robust objective: PGD-AT or TRADES (empirical robustness, with the attack of `pretrain` or of the pool), IBP,
    # CROWN-IBP or MixTrain (certified within `threat`), or smoothing (stability training with Gaussian noise of
    # standard deviation `sigma`)
    training: Annotated[str, OneOf(EMPIRICAL + VERIFIABLE)]
    finetune: Unattacked  # fine-tuning, the last step, with the same epochs for the robust and the benign objective
    gates: Gates  # the accuracies required of the unpruned networks
    data: Data | None = None  # the data that the networks learn; null: the pool's
    arch: FromScratch | None = None  # the architecture of the networks; null: the pool's
    threat: Threat | None = None  # the threat in training, attacks and bounds; null: the pool's
    # pre-training, the first step; the benign objective has the same epochs but no warm-up; null: as in the pool
    pretrain: Pretraining | None = None
    attack: Annotated[PGD, UNTARGETED] | None = None  # in searches and fine-tunings; null: as in pre-training
    batch_size: BatchSize | None = None  # images per update; null: as in the pool
    augment: Augmentation | None = None  # the augmentation of training images; null: as in the pool
    sigma: Positive = 0.25  # the standard deviation of the noise in smoothing
    bounded: Count = 5  # random images of a batch that MixTrain bounds
    # the share of pre-training after which eps has reached the threat's, for certified objectives; null: the
    # objective's own
    ramp: ProperShare | None = None
    # the certificate of a verifiable objective: bounds (linf, within `threat`) or smoothing (l2, within `certified`);
    # left out for PGD-AT and TRADES
    certificate: Certificate | None = None
    certified: Threat | None = None  # the l2 ball in which smoothing certifies
    verified: Share = 0.25  # the least verified accuracy required of the unpruned networks
    # whether benign pre-training is also followed by a fine-tuning with as many adversarial epochs as both steps
    # together
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
    """Settings of the notebook on compact and robust networks."""

    seeds: Repetitions  # repetitions, each with networks of its own
    nets: Annotated[tuple[NetworkSetup, ...], different(1, of="name")]  # the networks to prune
    # the search for learned scores, under the attack of each network's fine-tuning
    score: Annotated[Unattacked, replace(whole(2), of="epochs")]
    search: Annotated[PGD, UNTARGETED]  # the attack on unpruned networks, for the preconditions, and on held-out images
    verify: Attack  # the stronger attack, under which every network is measured
    # shares of weights that are kept, in decreasing order; objectives are compared at the first
    keeps: Annotated[tuple[ProperShare, ...], falling(1)] = (Fraction(1, 10), Fraction(1, 100))
    # the name of the network on which pruning rules are compared, after robust fine-tuning; "": the first
    rules_on: str = ""
    # pruning rules that are compared at the first share of `keeps`
    rules: Annotated[tuple[Annotated[str, OneOf(WEIGHTS)], ...], different()] = (
        "LWM", "random", "SNIP", "HYDRA", "iterative LWM")
    harsher_rules: tuple[str, ...] | None = None  # the `rules` that are compared at the other shares too; null: all
    # pruning rules that are also followed by benign fine-tuning, at the first share of `keeps`
    benign_rules: Annotated[tuple[Annotated[str, OneOf(AT_ONCE)], ...], different()] = (
        "LWM", "global magnitude", "SNIP", "HYDRA")
    # shares of weights that iterative LWM keeps before its last round
    rounds: Annotated[tuple[ProperShare, ...], falling()] = (Fraction(1, 2), Fraction(1, 4))
    # shares of filters that are kept where whole filters are removed
    filters: Annotated[tuple[ProperShare, ...], falling()] = (Fraction(1, 2),)
    # the number of updates of HYDRA's search in its code; where `score` makes clearly fewer, it is also made half as
    # long, and rules are judged only if that changes no verdict on held-out images
    updates: Count = 20 * 391
    longer_seeds: Repetitions | None = None  # repetitions of the longer fine-tunings; null: all

    where = "compact_robust_pruning"

    def check_together(self):
        names = [net.name for net in self.nets]
        object.__setattr__(self, "rules_on", self.rules_on or names[0])
        OneOf(names).hold(self.rules_on, f"{self.where}.rules_on")
        if self.harsher_rules is None:
            object.__setattr__(self, "harsher_rules", self.rules)
        if self.longer_seeds is None:
            object.__setattr__(self, "longer_seeds", self.seeds)
        for rule in self.harsher_rules:
            OneOf(self.rules).hold(rule, f"{self.where}.harsher_rules")
        above = not self.rounds or self.rounds[-1] > self.keep
        need(above, f"{self.where}.rounds", [float(k) for k in self.rounds], f"shares above keeps[0] = {self.keep}")
        need(self.search != self.verify, f"{self.where}.verify", self.verify, "another attack than search")

    @property
    def keep(self) -> Fraction:
        """The share of weights that is kept where objectives are compared, the first of `keeps`."""
        return self.keeps[0]

    @property
    def pool(self) -> int:
        """How many networks of each type of the common pool are needed."""
        return self.seeds

    def check(self, networks: Networks) -> None:
        """Raise SettingsError unless the section fits the networks."""
        for net in self.nets:
            fewer_targets("compact_robust_pruning.verify.targets", self.verify, net.data or networks.data)
            if net.verifiable and net.certified is None:
                net.certificate.check(net.threat or networks.threat)
            held_out = (net.data or networks.data).holdout
            need(held_out > 0 or net.name != self.rules_on or "HYDRA" not in self.rules,
                 f"data.holdout of {net.name}", held_out, "at least 1: HYDRA's search is checked on held-out images")
