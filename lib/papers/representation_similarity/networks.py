"""The networks of the representation similarity notebook (Cianfarani et al., NeurIPS 2022).

Kinds: N normal, R robust, U untrained, M normal but trained so briefly that its clean accuracy is the robust ones';
the name of an arm (`l2`, `TRADES`, ...), or `N <arm>` and `R <arm>` where an arm varies the architecture or the data;
`overfits` and `control`, the two runs of the overfitting claim, and their checkpoints.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from lib.papers.representation_similarity.settings import Arm
from lib.papers.settings import Settings
from lib.profiles.networks import (
    trained_as,
)
from lib.values.attacks import (
    Attack,
    tier,
)
from lib.values.objectives import TRADES, Adversarial, Noise, fgsm_rs
from lib.values.recipe import Recipe
from lib.values.threats import Threat


@dataclass(frozen=True)
class Cell:
    """One network: its kind, repetition, recipe, what it is measured under, the arm it belongs to and, for a checkpoint
    of a run, after how many epochs (the run's own end: its number of epochs).
    """

    kind: str
    seed: int
    recipe: Recipe
    measures: tuple[tuple[Threat, Attack], ...] = ()
    arm: Arm | None = None
    epoch: int | None = None

    @property
    def job(self) -> str:
        """The batch job: a few networks of one repetition, so that a job is worth its start."""
        if self.arm is not None:
            return f"arm-{self.arm.name}-{self.seed}".replace(" ", "-").replace("/", "-of-")
        return f"{'controls' if self.kind in 'UM' else self.kind}-{self.seed}"


def base(settings: Settings, kind: str, seed: int) -> Recipe:
    """A network of the pool, in this notebook's own architecture if it has one."""
    recipe = settings.networks.member(kind, seed, settings.seed)
    arch = settings.sections["representation_similarity"].arch
    return replace(recipe, arch=arch) if arch else recipe


def matched(settings: Settings, seed: int) -> Recipe:
    """A normal network whose training is so short that its clean accuracy is that of the robust ones."""
    return trained_as(base(settings, "N", seed), settings.sections["representation_similarity"].matched)


def of_arm(settings: Settings, arm: Arm, kind: str, seed: int) -> Recipe:
    """The network of an arm; kind N or R."""
    recipe, n = base(settings, kind, seed), settings.networks
    given = {name: getattr(arm, name) for name in ("arch", "data", "batch_size", "augment")}
    epochs = arm.epochs if kind == "R" else arm.normal_epochs
    recipe = replace(recipe, **{name: value for name, value in given.items() if value is not None},
                     **({"epochs": epochs} if epochs else {}))
    if kind == "N":
        return recipe
    threat, attack = arm.threat or n.threat, arm.attack or n.robust.attack
    aims = {
        "PGD-AT": lambda: replace(n, threat=threat).objective(attack),
        "half": lambda: Adversarial(threat, attack, clean_loss=0.5),
        "TRADES": lambda: TRADES(threat, attack),
        "FGSM-RS": lambda: fgsm_rs(threat),
        "noise": lambda: Noise(arm.sigma),
    }
    return replace(recipe, objective=aims[arm.training]())


def overfitting_runs(settings: Settings, seed: int) -> dict[str, Recipe]:
    """`overfits`: a robust run on few images; `control`: one of as many updates on all of them. Both keep the weights
    of the same shares of training.
    """
    o, r = settings.sections["representation_similarity"].overfitting, base(settings, "R", seed)
    plan = {"optimiser": o.training.optimiser, "schedule": o.training.schedule}
    plan["objective"] = settings.networks.objective(o.training.attack or settings.networks.robust.attack)
    small = replace(r, **plan, data=replace(r.data, train=o.train), epochs=o.epochs, keep=o.kept)
    long = max(2, round(o.epochs * o.train / r.data.n_train))
    kept = sorted({min(long - 1, max(1, round(n * long / o.epochs))) for n in o.kept})
    return {"overfits": small, "control": replace(r, **plan, epochs=long, keep=tuple(kept))}


def checkpoints(run: Recipe) -> dict[int, Recipe]:
    """{epochs: recipe} of a run's kept weights and of its end."""
    kept = {n: replace(run, parents=(run,), epochs=0, keep=(), checkpoint=n) for n in run.keep}
    return kept | {run.epochs: run}


def cells(settings: Settings) -> list[Cell]:
    """Every network, the pool first."""
    s, n = settings.sections["representation_similarity"], settings.networks
    search = ((n.threat, s.search),)
    out = []
    for seed in range(s.seeds):
        robust = (*search, (n.threat, s.verify))
        if seed == 0:
            robust += ((n.threat, s.search.with_one_more_restart()),)
        for kind, measures in (("N", search), ("R", robust), ("U", search)):
            out.append(Cell(kind, seed, base(settings, kind, seed), measures))
        out.append(Cell("M", seed, matched(settings, seed), search))
    for arm in s.arms:
        for seed in range(s.arm_seeds):
            if len(arm.kinds) > 1:
                out += [Cell(kind, seed, of_arm(settings, arm, kind[0], seed), search, arm) for kind in arm.kinds]
            else:
                own = ((arm.threat, _own(arm, s.search)),) if arm.threat and arm.threat != n.threat else ()
                out.append(Cell(arm.name, seed, of_arm(settings, arm, "R", seed), search + own, arm))
    for seed in range(s.overfitting.seeds if s.overfitting else 0):
        for kind, run in overfitting_runs(settings, seed).items():
            out += [Cell(kind, seed, recipe, search, epoch=epoch) for epoch, recipe in checkpoints(run).items()]
    return out


def _own(arm: Arm, search):
    """The search attack in the arm's own threat, with the steps of the tier pgd20 there."""
    return replace(search, step_size=tier("pgd20", arm.threat).step_size, restarts=1)
