"""The networks that the paper on compact and robust networks needs (Sehwag et al. 2019): pre-trained, pruned and
fine-tuned with every combination of objectives and by every rule.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction

from lib.papers.compact_robust_pruning.settings import BENIGN, IN_ROUNDS, ROBUST, RULES, NetworkSetup, Section
from lib.profiles import networks as profiles
from lib.profiles.networks import Networks, as_long, continued, halved, trained_as, varied, warmed_up
from lib.values.architectures import Architecture, Pruned
from lib.values.cell import Cell
from lib.values.objectives import IBP, TRADES, CrossEntropy, CrownIBP, MixTrain, Objective, Prune, Saliency, Stability
from lib.values.recipe import Recipe
from lib.values.threats import Threat

DENSE = "dense"


@dataclass(frozen=True)
class Condition:
    """What the networks of all repetitions have in common.

    net: the name of a network in the settings. pre: the objective of pre-training, `benign` or `robust`. rule: one of
    RULES, or `dense` if nothing is pruned; then keep is 1. fine: the objective of fine-tuning, None before it. longer:
    whether fine-tuning has as many epochs as pre-training and fine-tuning together. half: whether the search for scores
    has half as many epochs. compared: whether the condition belongs only to the comparison of rules.
    """

    net: str
    pre: str
    rule: str = DENSE
    keep: Fraction = Fraction(1)
    fine: str | None = None
    longer: bool = False
    half: bool = False
    compared: bool = field(default=False, compare=False)

    def job(self, repetition: int) -> str:
        """The batch job: one repetition's networks with the same pre-training; the comparison of rules is separate."""
        what = "rules" if self.compared else self.pre
        return f"{self.net}-{what}-{repetition}".replace(" ", "-")


def setup_named(section: Section, name: str) -> NetworkSetup:
    return next(setup for setup in section.nets if setup.name == name)


def threat_of(networks: Networks, setup: NetworkSetup) -> Threat:
    """The threat under which a network is trained and attacked."""
    return setup.threat or networks.threat


class Repetition(profiles.Repetition):
    """How the networks of one repetition are pre-trained, pruned and fine-tuned."""

    section: Section

    def objective(self, setup: NetworkSetup, which: str, ramp: bool = True, later: bool = True) -> Objective:
        """The benign or robust objective of a network. ramp: whether a certified objective raises eps from 0, as in
        pre-training; a network that has already been trained at eps is fine-tuned at eps from the start. later: whether
        it is the objective of searches and fine-tunings, which may have an attack of their own.
        """
        if which == BENIGN:
            return CrossEntropy()
        threat = threat_of(self.networks, setup)
        attack = later and setup.attack or setup.pretrain and setup.pretrain.attack or self.networks.robust.attack
        full = {"end": float(setup.ramp)} if setup.ramp else {}
        full = full if ramp else {"start": 0.0, "end": 0.0}
        return {
            "PGD-AT": lambda: replace(self.networks, threat=threat).objective(attack),
            "TRADES": lambda: TRADES(threat, attack),
            "IBP": lambda: IBP(threat.eps, **full),
            "CROWN-IBP": lambda: CrownIBP(threat.eps, **full),
            "MixTrain": lambda: MixTrain(threat.eps, images=setup.bounded, **full),
            "smoothing": lambda: Stability(setup.sigma),
        }[setup.training]()

    def pretrained(self, setup: NetworkSetup, pre: str) -> Recipe:
        """Recipe of the unpruned network. Without training settings of its own, the network comes from the shared pool.
        """
        recipe = varied(self.networks.member("R" if pre == ROBUST else "N", self.number, self.seed), setup)
        if setup.pretrain:
            recipe = trained_as(recipe, setup.pretrain)
        if setup.pretrain or setup.training != "PGD-AT":
            recipe = replace(recipe, objective=self.objective(setup, pre, later=False))
        return warmed_up(recipe, setup.pretrain) if pre == ROBUST else recipe

    def finetuned(self, setup: NetworkSetup, parent: Recipe, arch: Architecture, fine: str,
                  ramp: bool = False) -> Recipe:
        """Recipe of the last step, fine-tuning. The last epoch is kept, as in the code of the authors' next paper."""
        return continued(parent, arch, self.objective(setup, fine, ramp), setup.finetune)

    def searched(self, setup: NetworkSetup, base: Recipe, arch: Pruned, fine: str) -> Recipe:
        """Recipe of scores found with frozen weights on the objective of fine-tuning: SNIP's in one pass over the
        images, HYDRA's learned for as many epochs as the settings say.
        """
        loss = self.objective(setup, fine, ramp=False)
        if arch.scores == "gradient":
            return replace(base, arch=arch, parents=(base,), objective=Saliency(loss), epochs=1, shares=1)
        return continued(base, arch, Prune(loss), self.section.score)

    def in_rounds(self, setup: NetworkSetup, base: Recipe, condition: Condition) -> Recipe:
        """Recipe of iterative pruning: rounds of pruning a part and fine-tuning, in total as many epochs as one
        fine-tuning, but at least one each.
        """
        shares, epochs = [*self.section.rounds, condition.keep], setup.finetune.epochs
        recipe = base
        for number, share in enumerate(shares):
            own = epochs * (number + 1) // len(shares) - epochs * number // len(shares)
            arch = Pruned(base.arch, share, **RULES[condition.rule])
            recipe = replace(self.finetuned(setup, recipe, arch, condition.fine), epochs=max(1, own))
        return recipe

    def recipe_of(self, condition: Condition) -> Recipe:
        """The recipe of a condition's network."""
        setup = setup_named(self.section, condition.net)
        base = self.pretrained(setup, condition.pre)
        if condition.fine is None:
            return base
        if condition.rule == IN_ROUNDS:
            return self.in_rounds(setup, base, condition)
        parent, arch = base, base.arch
        if condition.rule != DENSE:
            arch = Pruned(base.arch, condition.keep, **RULES[condition.rule])
            parent = self.searched(setup, base, arch, condition.fine) if arch.searched else base
            parent = halved(parent) if condition.half else parent
        ramp = condition.pre == BENIGN  # a benign network has never seen eps
        recipe = self.finetuned(setup, parent, arch, condition.fine, ramp)
        if condition.longer:
            recipe = replace(recipe, epochs=self.pretrained(setup, ROBUST).epochs + recipe.epochs)
        return recipe


def cells(networks: Networks, section: Section, seed: Callable[[int], int]) -> list[Cell]:
    """All networks, condition by condition; the last are of halved searches."""
    every = [Repetition(networks, section, number, seed) for number in range(section.seeds)]
    found = [Cell(condition, one.number, one.recipe_of(condition), _measures(one, condition))
            for condition in conditions(section) for one in every[:section.longer_seeds if condition.longer else None]]
    return [*found, *_halved(every)]


def learned(s: Section, keep: Fraction, half: bool = False) -> Condition:
    """The condition of scores learned by HYDRA, at a share, before robust fine-tuning."""
    return Condition(s.rules_on, ROBUST, "HYDRA", keep, ROBUST, half=half, compared=True)


def _halved(every: list[Repetition]) -> Iterator[Cell]:
    """Networks of HYDRA's search at half its length, if it is shorter than in its code. They are measured on held-out
    images only.
    """
    s = every[0].section
    for keep in dict.fromkeys((s.keep, s.keeps[-1])):
        whole, half = learned(s, keep), learned(s, keep, half=True)
        if whole in conditions(s) and not as_long(every[0].recipe_of(whole).parents[0], s.updates):
            yield from (Cell(half, one.number, one.recipe_of(half)) for one in every)


def _measures(r: Repetition, condition: Condition) -> tuple:
    """The measures of a condition's networks: the strong attack, the certificate if there is one, and for unpruned
    networks also the attack of the checks.
    """
    s, setup = r.section, setup_named(r.section, condition.net)
    threat = threat_of(r.networks, setup)
    measures = [(threat, s.verify)]
    if setup.verifiable:
        measures.append((setup.certified or threat, setup.certificate))
    if condition.fine is None:
        measures.append((threat, s.search))
        if condition.pre == ROBUST and r.number == 0:
            measures.append((threat, s.search.with_one_more_restart()))
    return tuple(measures)


def conditions(s: Section) -> list[Condition]:
    """All conditions: the objectives of each network, then those that only the comparison of rules has."""
    own = [condition for setup in s.nets for condition in _objectives(s, setup)]
    return own + [replace(condition, compared=True) for condition in _rules(s) if condition not in own]


def _objectives(s: Section, setup: NetworkSetup) -> Iterator[Condition]:
    """One network unpruned, dense and fine-tuned, and pruned by LWM with every combination of objectives."""
    yield Condition(setup.name, ROBUST)
    yield Condition(setup.name, BENIGN)
    yield Condition(setup.name, ROBUST, fine=ROBUST)
    for pre in (ROBUST, BENIGN):
        for fine in (ROBUST, BENIGN):
            yield Condition(setup.name, pre, "LWM", s.keep, fine)
    if setup.longer:
        yield Condition(setup.name, BENIGN, "LWM", s.keep, ROBUST, longer=True)


def _rules(s: Section) -> Iterator[Condition]:
    """One network pruned by every rule."""
    for keep in s.keeps:
        for rule in s.rules if keep == s.keep else s.harsher_rules:
            yield Condition(s.rules_on, ROBUST, rule, keep, ROBUST)
    for rule in s.benign_rules:
        yield Condition(s.rules_on, ROBUST, rule, s.keep, BENIGN)
    for share in s.filters:
        yield Condition(s.rules_on, ROBUST, "filters", share, ROBUST)
