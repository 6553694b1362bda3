"""Which networks HARP needs (Zhao & Wressnegger, ICLR 2023): one dense network a repetition, pruned by every method,
each fine-tuned in the same way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction

from lib.papers.harp_pruning.settings import BY_CHANNEL, METHODS, Section
from lib.profiles import networks as profiles
from lib.profiles.networks import Networks, trained_as, warmed_up
from lib.values.architectures import FromScratch, Pruned
from lib.values.attacks import PGD
from lib.values.cell import Cell
from lib.values.objectives import ADMM, MART, TRADES, FreeAdversarial, Objective, Prune, Rewire
from lib.values.recipe import Choice, Recipe

DENSE = ("N", "pre-trained", "dense")
CHOSEN = ("dense", "HARP", "HYDRA")  # whose fine-tuning shows what choosing its epoch on test images would add
MOST_KEPT = 10  # epochs of such a fine-tuning


@dataclass(frozen=True)
class Condition:
    """What the networks of the repetitions have in common. method: of METHODS; `dense`: the dense network with the same
    fine-tuning; `pre-trained`: the one that all are made from; `N`: a normally trained one. keep: the target, 1 for
    dense networks. epoch: of a fine-tuning's weights after so many epochs, else None.
    """

    method: str
    keep: Fraction = Fraction(1)
    granularity: str = "weights"
    loss: str = "PGD-AT"
    epoch: int | None = None

    def job(self, repetition: int) -> str:
        """The batch job: the dense networks of a repetition, else one network with its search."""
        if self.method in DENSE:
            return f"dense-{self.loss}-{repetition}"
        words = self.method.replace(",", " ").replace("+", " ").split()
        return "-".join([*words, f"{float(self.keep):g}", self.granularity, self.loss, str(repetition)])


class Repetition(profiles.Repetition):
    """How the networks of one repetition are trained, pruned and fine-tuned."""

    section: Section

    @property
    def attack(self) -> PGD:
        """The attack of all three stages."""
        return training_attack(self.networks, self.section)

    @property
    def choice(self) -> Choice:
        """The best epoch of a training that is measured: on held-out images, under the attack that it trains on."""
        return Choice(self.networks.threat, self.attack)

    def normal(self) -> Recipe:
        """A normally trained dense network."""
        return self._dense("N")

    def pretrained(self, loss: str) -> Recipe:
        """The dense network that all are made from, adversarially trained with a robust loss."""
        recipe, how = self._dense("R"), self.section.pretrain
        recipe = trained_as(recipe, how) if how else recipe
        return warmed_up(replace(recipe, objective=self.robust(loss)), how)

    def _dense(self, kind: str) -> Recipe:
        recipe, s = self.networks.member(kind, self.number, self.seed), self.section
        return replace(recipe, arch=s.arch or recipe.arch, data=s.data or recipe.data)

    def robust(self, loss: str) -> Objective:
        """The robust loss of a name."""
        threat, attack = self.networks.threat, self.attack
        if loss == "PGD-AT":
            return self.networks.objective(attack)
        if loss == "Free-AT":
            return FreeAdversarial(threat, replays=4)
        return (TRADES if loss == "TRADES" else MART)(threat, attack)

    def searched(self, base: Recipe, arch: Pruned, condition: Condition, pattern: Recipe | None = None) -> Recipe:
        """The pruning stage: scores or rates learned on the robust loss, weights frozen. pattern: whose rates are
        taken.
        """
        s, method, speedup = self.section, condition.method, search_speedup(self.section, base)
        constant = method == "HARP, constant gamma"
        penalty = {"gamma": speedup * (s.constant_gamma if constant else s.gamma), "growing": not constant}
        penalty = penalty if arch.rates == "learned" else {}  # given rates have none
        optimiser = replace(s.prune.optimiser, weight_decay=speedup * s.prune.optimiser.weight_decay,
                            no_decay=("quota",) if method == "HARP, no decay on rates" else ())
        return replace(trained_as(base, s.prune), arch=arch, objective=Prune(self.robust(condition.loss), **penalty),
                       optimiser=optimiser, parents=(base, pattern) if pattern else (base,))

    def finetuned(self, parent: Recipe, arch: FromScratch | Pruned, condition: Condition) -> Recipe:
        """The fine-tuning that every method and the dense network go through."""
        return replace(trained_as(parent, self.section.finetune), arch=arch, objective=self.robust(condition.loss),
                       parents=(parent,), choice=self.choice, keep=kept_epochs(self.section, condition))

    def towards_sparse(self, base: Recipe, condition: Condition) -> Recipe:
        """R-ADMM's first stage, for as many epochs as others search: dense, at the rate of the fine-tuning."""
        epochs = self.section.prune.epochs
        objective = ADMM(self.robust(condition.loss), condition.keep, every=max(1, round(0.3 * epochs)))
        return replace(trained_as(base, self.section.finetune), objective=objective, epochs=epochs, parents=(base,))

    def from_scratch(self, base: Recipe, arch: Pruned, condition: Condition) -> Recipe:
        """BCS-P: one sparse training, as long as the others' three stages."""
        epochs = base.epochs + self.section.prune.epochs + self.section.finetune.epochs
        return replace(base, arch=arch, objective=Rewire(self.robust(condition.loss)), parents=(), epochs=epochs,
                       choice=self.choice)

    def pruned(self, condition: Condition) -> Recipe:
        """The fine-tuned network of a pruned condition."""
        base = self.pretrained(condition.loss)
        arch = Pruned(base.arch, condition.keep, condition.granularity, **METHODS[condition.method])
        if condition.method == "R-ADMM":
            return self.finetuned(self.towards_sparse(base, condition), arch, condition)
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
    """The attack that networks train on: the pre-training's own or the pool's."""
    own = section.pretrain and section.pretrain.attack
    return own or networks.robust.attack


def search_speedup(section: Section, base: Recipe) -> float:
    """How many updates of the paper's search one update of ours stands for: what gamma and the weight decay of the
    search are multiplied by. With both, rates that see no data come to the same values in far fewer updates; without,
    the size penalty overshoots and the decay, which spares small layers, does nothing.
    """
    updates = base.data.n_train // base.batch_size * base.objective.replays
    return section.updates / (section.prune.epochs * updates)


def kept_epochs(section: Section, condition: Condition) -> tuple[int, ...]:
    """The epochs whose weights a fine-tuning keeps, its last among them; () for conditions whose choice is not looked
    at.
    """
    keep = Fraction(1) if condition.method in DENSE else section.keeps[-1]
    if condition.method not in CHOSEN or condition != Condition(condition.method, keep, loss=section.losses[0]):
        return ()
    epochs = section.finetune.epochs
    return tuple(sorted({math.ceil(epochs * k / MOST_KEPT) for k in range(1, MOST_KEPT + 1)}))


def search_of(recipe: Recipe) -> Recipe | None:
    """The pruning stage of a fine-tuned network, where its scores or rates were searched."""
    return next((parent for parent in recipe.parents if isinstance(parent.objective, Prune)), None)


def cells(networks: Networks, section: Section, seed: Callable[[int], int]) -> list[Cell]:
    """Every network: those that are compared, then the kept epochs of some."""
    every = [Repetition(networks, section, number, seed) for number in range(section.seeds)]
    found = [*_unpruned(every), *_pruned(every)]
    return found + [cell for run in found for cell in _kept(run, ((networks.threat, section.search),))]


def _measures(r: Repetition) -> tuple:
    """What every network that is compared is measured under."""
    threat = r.networks.threat
    return tuple((threat, attack) for attack in (r.section.verify, *r.section.further(threat)))


def _unpruned(every: list[Repetition]) -> Iterator[Cell]:
    """The dense networks. One normal network shows that the task is learned and that normal training is not robust."""
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


def conditions(s: Section) -> Iterator[Condition]:
    """The pruned conditions: by keep and method, then other robust losses, then channels."""
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
    """The kept epochs of a fine-tuning: the paper's code keeps the epoch that is best on test images, this notebook the
    one that is best on held-out images.
    """
    for epoch in run.recipe.keep:
        weights = replace(run.recipe, parents=(run.recipe,), epochs=0, choice=None, keep=(), checkpoint=epoch)
        yield Cell(replace(run.condition, epoch=epoch), run.repetition, weights, measures)
