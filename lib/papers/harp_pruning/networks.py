"""The networks that HARP needs (Zhao & Wressnegger, ICLR 2023): one dense network for each repetition, pruned by every
method and always fine-tuned in the same way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction

from lib.papers.harp_pruning.settings import BY_CHANNEL, HALVED, METHODS, Section
from lib.profiles import networks as profiles
from lib.profiles.networks import Networks, as_long, halved, trained_as, warmed_up
from lib.values.architectures import FromScratch, Pruned
from lib.values.attacks import PGD
from lib.values.cell import Cell
from lib.values.objectives import ADMM, MART, TRADES, FreeAdversarial, Objective, Prune, Rewire
from lib.values.recipe import Choice, Recipe

DENSE = ("N", "pre-trained", "dense")
ADMM_RATES = {"R-ADMM": "uniform", "R-ADMM + ERK": "erk", "R-ADMM + LAMP": "lamp"}
CHOSEN = ("dense", "HARP", "HYDRA")  # methods that show what choosing the epoch on test images adds
MOST_KEPT = 10  # the largest number of epochs whose weights they keep


@dataclass(frozen=True)
class Condition:
    """What the networks of all repetitions have in common.

    method: one of METHODS, `dense` (the dense network with the same fine-tuning), `pre-trained` (the network that all
    are made from) or `N` (a normally trained network). keep: the target share, 1 for dense networks. epoch: for weights
    kept during a fine-tuning, the number of epochs; else None. half: whether the search has half as many epochs.
    """

    method: str
    keep: Fraction = Fraction(1)
    granularity: str = "weights"
    loss: str = "PGD-AT"
    epoch: int | None = None
    half: bool = False

    @property
    def compared(self) -> bool:
        """Whether claims compare the networks on test images."""
        return self.epoch is None and not self.half

    def job(self, repetition: int) -> str:
        """The batch job: the dense networks of a repetition, or one pruned network with its search."""
        if self.method in DENSE:
            return f"dense-{self.loss}-{repetition}"
        words = self.method.replace(",", " ").replace("+", " ").split()
        shorter = ["half"] * self.half
        return "-".join([*words, f"{float(self.keep):g}", self.granularity, self.loss, *shorter, str(repetition)])


class Repetition(profiles.Repetition):
    """How the networks of one repetition are trained, pruned and fine-tuned."""

    section: Section

    @property
    def attack(self) -> PGD:
        """The attack of searches and fine-tunings."""
        return self.section.attack or training_attack(self.networks, self.section)

    @property
    def choice(self) -> Choice:
        """Choose the best epoch of a training on held-out images, under its training attack."""
        return Choice(self.networks.threat, self.attack)

    def normal(self) -> Recipe:
        """Recipe of a normally trained dense network."""
        return self._dense("N")

    def pretrained(self, loss: str) -> Recipe:
        """Recipe of the dense network that all others are made from, trained with a robust loss."""
        recipe, how = self._dense("R"), self.section.pretrain
        recipe = trained_as(recipe, how) if how else recipe
        objective = self.robust(loss, training_attack(self.networks, self.section))
        return warmed_up(replace(recipe, objective=objective), how)

    def _dense(self, kind: str) -> Recipe:
        recipe, s = self.networks.member(kind, self.number, self.seed), self.section
        return replace(recipe, arch=s.arch or recipe.arch, data=s.data or recipe.data)

    def robust(self, loss: str, attack: PGD | None = None) -> Objective:
        """The objective of a robust loss by its name. attack: None for the attack of searches and fine-tunings."""
        threat, attack = self.networks.threat, attack or self.attack
        if loss == "PGD-AT":
            return self.networks.objective(attack)
        if loss == "Free-AT":
            return FreeAdversarial(threat, replays=4)
        return (TRADES if loss == "TRADES" else MART)(threat, attack)

    def searched(self, base: Recipe, arch: Pruned, condition: Condition, pattern: Recipe | None = None) -> Recipe:
        """Recipe of the pruning stage: scores or rates learned on the robust loss, with frozen weights. pattern: the
        network from which rates are taken.
        """
        s, method = self.section, condition.method
        constant = method == "HARP, constant gamma"
        penalty = {"gamma": s.constant_gamma if constant else s.gamma, "growing": not constant}
        penalty = penalty if arch.rates == "learned" else {}  # fixed rates have no penalty
        optimiser = replace(s.prune.optimiser, no_decay=("quota",) if method == "HARP, no decay on rates" else ())
        search = replace(trained_as(base, s.prune), arch=arch, objective=Prune(self.robust(condition.loss), **penalty),
                         optimiser=optimiser, parents=(base, pattern) if pattern else (base,))
        return halved(search) if condition.half else search

    def finetuned(self, parent: Recipe, arch: FromScratch | Pruned, condition: Condition, *pattern: Recipe) -> Recipe:
        """Recipe of the fine-tuning, the same for every method and the dense network. pattern: the network from which
        rates are taken, if this is no longer the parent's.
        """
        return replace(trained_as(parent, self.section.finetune), arch=arch, objective=self.robust(condition.loss),
                       parents=(parent, *pattern), choice=self.choice, keep=kept_epochs(self.section, condition))

    def towards_sparse(self, base: Recipe, condition: Condition) -> Recipe:
        """Recipe of R-ADMM's first stage, dense training, by default with the learning rate of fine-tuning, for as many
        epochs as other methods search.
        """
        s = self.section
        dense = trained_as(base, s.admm or replace(s.finetune, epochs=s.prune.epochs))
        objective = ADMM(self.robust(condition.loss), condition.keep, every=max(1, round(0.3 * dense.epochs)),
                         rates=ADMM_RATES[condition.method])
        return replace(dense, objective=objective, parents=(base,))

    def from_scratch(self, base: Recipe, arch: Pruned, condition: Condition) -> Recipe:
        """Recipe of BCS-P: one sparse training as long as the three stages of the other methods together."""
        epochs = base.epochs + self.section.prune.epochs + self.section.finetune.epochs
        return replace(base, arch=arch, objective=Rewire(self.robust(condition.loss)), parents=(), epochs=epochs,
                       choice=self.choice, shares=1)

    def pruned(self, condition: Condition) -> Recipe:
        """The recipe of a pruned condition's fine-tuned network."""
        base = self.pretrained(condition.loss)
        arch = Pruned(base.arch, condition.keep, condition.granularity, **METHODS[condition.method])
        if condition.method in ADMM_RATES:
            lamp = replace(base, arch=replace(arch, rates="lamp"), parents=(base,), epochs=0)
            pattern = [lamp] if arch.rates == "parent" else []
            return self.finetuned(self.towards_sparse(base, condition), arch, condition, *pattern)
        if condition.method == "BCS-P":
            return self.from_scratch(base, arch, condition)
        if not arch.searched:
            return self.finetuned(base, arch, condition)
        pattern = None
        if arch.rates == "parent":
            harp = replace(condition, method="HARP")
            pattern = self.searched(base, replace(arch, **METHODS["HARP"]), harp)
        return self.finetuned(self.searched(base, arch, condition, pattern), arch, condition)


def training_attack(networks: Networks, section: Section) -> PGD:
    """The attack in the training of the dense networks: the section's own or else the pool's."""
    own = section.pretrain and section.pretrain.attack
    return own or networks.robust.attack


def kept_epochs(section: Section, condition: Condition) -> tuple[int, ...]:
    """The epochs whose weights a fine-tuning keeps, including its last; () for conditions whose choice of an epoch is
    not examined.
    """
    keep = Fraction(1) if condition.method in DENSE else section.keeps[-1]
    if condition.method not in CHOSEN or condition != Condition(condition.method, keep, loss=section.losses[0]):
        return ()
    epochs = section.finetune.epochs
    return tuple(sorted({math.ceil(epochs * k / MOST_KEPT) for k in range(1, MOST_KEPT + 1)}))


def search_of(recipe: Recipe) -> Recipe | None:
    """The recipe of a fine-tuned network's pruning stage; None if it had no search for scores or rates."""
    return next((parent for parent in recipe.parents if isinstance(parent.objective, Prune)), None)


def cells(networks: Networks, section: Section, seed: Callable[[int], int]) -> list[Cell]:
    """All networks: those that are compared, those of halved searches, then the kept epochs of some that are compared.
    """
    every = [Repetition(networks, section, number, seed) for number in range(section.seeds)]
    found = [*_unpruned(every), *_pruned(every)]
    kept = [cell for run in found for cell in _kept(run, ((networks.threat, section.search),))]
    return [*found, *_halved(every), *kept]


def _measures(r: Repetition) -> tuple:
    """The measures of every network that is compared."""
    threat = r.networks.threat
    return tuple((threat, attack) for attack in (r.section.verify, *r.section.further(threat)))


def _unpruned(every: list[Repetition]) -> Iterator[Cell]:
    """The dense networks. One normal network shows that the task can be learned and that normal training is not robust.
    """
    first, s = every[0], every[0].section
    search, again = ((first.networks.threat, how) for how in (s.search, s.search.with_one_more_restart()))
    yield Cell(Condition("N"), 0, first.normal(), (search,))
    for loss in s.losses:
        for one in every:
            base, condition = one.pretrained(loss), Condition("dense", loss=loss)
            checked = (search, again) if (loss, one.number) == (s.losses[0], 0) else ()
            yield Cell(Condition("pre-trained", loss=loss), one.number, base, _measures(one) + checked)
            yield Cell(condition, one.number, one.finetuned(base, base.arch, condition), _measures(one))


def _pruned(every: list[Repetition]) -> Iterator[Cell]:
    """The pruned networks, condition by condition."""
    for condition in conditions(every[0].section):
        for one in every:
            yield Cell(condition, one.number, one.pruned(condition), _measures(one))


def _halved(every: list[Repetition]) -> Iterator[Cell]:
    """Networks of searches of half the length, at the harshest share, if searches are shorter than the paper's. They
    are measured on held-out images only.
    """
    s = every[0].section
    for method in HALVED:
        whole = Condition(method, s.keeps[-1], loss=s.losses[0])
        if method in s.methods and not as_long(search_of(every[0].pruned(whole)), s.updates):
            half = replace(whole, half=True)
            yield from (Cell(half, one.number, one.pruned(half)) for one in every)


def conditions(s: Section) -> Iterator[Condition]:
    """The pruned conditions: first by keep and method, then with other robust losses, then with channels pruned."""
    first, harshest = s.losses[0], s.keeps[-1]
    for keep in s.keeps:
        for method in s.methods:
            if keep == harshest or method in s.milder_methods:
                yield Condition(method, keep, loss=first)
    for loss in s.losses[1:]:
        for method in ("HARP", "HYDRA"):
            yield Condition(method, harshest, loss=loss)
    for keep in s.channels:
        for method in s.methods:
            if method in BY_CHANNEL:
                yield Condition(method, keep, "channels", first)


def _kept(run: Cell, measures: tuple) -> Iterator[Cell]:
    """The kept epochs of a fine-tuning. The paper's code chooses the epoch that is best on test images, this notebook
    the epoch that is best on held-out images.
    """
    for epoch in run.recipe.keep:
        weights = replace(run.recipe, parents=(run.recipe,), epochs=0, choice=None, keep=(), checkpoint=epoch)
        yield Cell(replace(run.condition, epoch=epoch), run.repetition, weights, measures)
