"""The networks that the paper on representation similarity needs (Cianfarani et al., NeurIPS 2022): the pool's,
variants of them, and runs that overfit.

Kinds: N normal, R robust, U untrained (`U, 2` and so on are further ones), and M- and M+, normal but trained so briefly
that their clean accuracies lie below and above the robust networks'; the name of a variant (`l2`, `TRADES`, ...), or
`N <variant>` and `R <variant>` if it varies the architecture or the data; `overfits` and `control`, the two runs of the
overfitting claim, and their checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from lib.papers.representation_similarity.settings import Section, Variant
from lib.profiles import networks as profiles
from lib.profiles.networks import Networks, trained_as, varied
from lib.values.attacks import PGD, tier
from lib.values.cell import Cell
from lib.values.objectives import TRADES, Adversarial, Noise, Objective, fgsm_rs
from lib.values.recipe import Recipe

BRIEF = ("M-", "M+")  # the two kinds of briefly trained normal networks, the shorter first


@dataclass(frozen=True)
class Condition:
    """What the networks of all repetitions have in common: their kind, the variant that it belongs to and, for a
    checkpoint of a run, the number of epochs before it (at the run's end, all its epochs).
    """

    kind: str
    variant: Variant | None = None
    epoch: int | None = None

    def job(self, repetition: int) -> str:
        """The batch job: several networks of one repetition, because starting a job takes time."""
        if self.variant is not None:
            return f"arm-{self.variant.name}-{repetition}".replace(" ", "-").replace("/", "-of-")
        return f"{'controls' if self.kind[0] in 'UM' else self.kind}-{repetition}"


class Repetition(profiles.Repetition):
    """The networks of one repetition."""

    section: Section

    def of_pool(self, kind: str) -> Recipe:
        """The pool's network of a kind, with this paper's own data, architecture and training if it has them."""
        recipe = self.networks.member(kind, self.number, self.seed)
        return replace(recipe, objective=self.objective(self.networks.robust.attack)) if kind == "R" else recipe

    def objective(self, attack: PGD, variant: Variant | None = None) -> Objective:
        """The objective of robust networks, or of those of a variant, under an attack in training."""
        threat, training = (variant and variant.threat) or self.networks.threat, self.section.training
        return {
            "PGD-AT": lambda: replace(self.networks, threat=threat).objective(attack),
            "half": lambda: Adversarial(threat, attack, clean_loss=0.5, batchnorm="train"),
            "TRADES": lambda: TRADES(threat, attack),
            "FGSM-RS": lambda: fgsm_rs(threat),
            "noise": lambda: Noise(variant.sigma),
        }[(variant and variant.training) or training]()

    def matched(self) -> dict[str, Recipe]:
        """Two normal networks trained so briefly that their clean accuracies lie about the robust networks'."""
        shorter = trained_as(self.of_pool("N"), self.section.matched)
        return dict(zip(BRIEF, (shorter, replace(shorter, epochs=self.section.matched.longer)), strict=True))

    def untrained(self) -> dict[str, Recipe]:
        """Untrained networks: the pool's, and further ones with seeds that no other repetition has."""
        pooled, of_each = self.of_pool("U"), self.section.seeds
        return {kind: replace(pooled, seed=self.seed(self.number + further * of_each))
                for further, kind in enumerate(self.section.untrained_kinds)}

    def varied(self, variant: Variant, kind: str) -> Recipe:
        """The network of a variant; kind is N or R."""
        recipe = varied(self.of_pool(kind), variant)
        epochs = variant.epochs if kind == "R" else variant.normal_epochs
        recipe = replace(recipe, epochs=epochs or recipe.epochs)
        if kind == "N":
            return recipe
        return replace(recipe, objective=self.objective(variant.attack or self.networks.robust.attack, variant))

    def overfitting_runs(self) -> dict[str, Recipe]:
        """`overfits`: a robust run on few images; `control`: a run with as many updates on all images. Both keep
        weights after the same shares of their training.
        """
        o, robust = self.section.overfitting, self.of_pool("R")
        objective = self.objective(o.training.attack or self.networks.robust.attack)
        run = replace(trained_as(robust, o.training), objective=objective)
        small = replace(run, data=replace(run.data, train=o.train), epochs=o.epochs, keep=o.kept)
        long = max(2, round(o.epochs * o.train / run.data.n_train))
        kept = sorted({min(long - 1, max(1, round(n * long / o.epochs))) for n in o.kept})
        return {"overfits": small, "control": replace(run, epochs=long, keep=tuple(kept))}


def cells(networks: Networks, section: Section, seed: Callable[[int], int]) -> list[Cell]:
    """All networks, the pool's first."""
    every = [Repetition(section.own(networks), section, number, seed) for number in range(section.seeds)]
    found = [cell for one in every for cell in _pool(one)]
    for variant in section.arms:
        found += [cell for one in every[:section.arm_seeds] for cell in _variant(one, variant)]
    runs = section.overfitting.seeds if section.overfitting else 0
    return found + [cell for one in every[:runs] for cell in _runs(one)]


def _pool(r: Repetition) -> Iterator[Cell]:
    """The networks of the pool, and those that have not learned or have learned less."""
    threat, s = r.networks.threat, r.section
    search, verify, again = ((threat, how) for how in (s.search, s.verify, s.search.with_one_more_restart()))
    yield Cell(Condition("N"), r.number, r.of_pool("N"), (search,))
    yield Cell(Condition("R"), r.number, r.of_pool("R"), (search, verify, *[again] * (r.number == 0)))
    for kind, recipe in r.untrained().items():
        yield Cell(Condition(kind), r.number, recipe)
    for kind, recipe in r.matched().items():
        yield Cell(Condition(kind), r.number, recipe, (search,))


def _variant(r: Repetition, variant: Variant) -> Iterator[Cell]:
    """The networks of a variant; a variant with its own threat is also measured under that threat."""
    threat, search = r.networks.threat, r.section.search
    measures = ((threat, search),)
    if variant.threat and variant.threat != threat and len(variant.kinds) == 1:
        step = tier("pgd20", variant.threat).step_size
        measures += ((variant.threat, replace(search, step_size=step, restarts=1)),)
    for kind in variant.kinds:
        trained = kind[0] if len(variant.kinds) > 1 else "R"
        yield Cell(Condition(kind, variant), r.number, r.varied(variant, trained), measures)


def _runs(r: Repetition) -> Iterator[Cell]:
    """The overfitting runs with the weights that they keep, the last ones at the end."""
    measures = ((r.networks.threat, r.section.search),)
    for kind, run in r.overfitting_runs().items():
        for epoch in run.keep:
            kept = replace(run, parents=(run,), epochs=0, keep=(), checkpoint=epoch)
            yield Cell(Condition(kind, epoch=epoch), r.number, kept, measures)
        yield Cell(Condition(kind, epoch=run.epochs), r.number, run, measures)
