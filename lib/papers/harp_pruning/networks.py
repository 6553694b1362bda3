"""The networks of the HARP notebook (Zhao & Wressnegger, ICLR 2023): one dense network a repetition, pruned by every
method, each fine-tuned in the same way.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction

from lib.papers.harp_pruning.settings import BY_CHANNEL, METHODS
from lib.papers.settings import Settings
from lib.profiles.networks import trained_as, warmed_up
from lib.values.architectures import Plain, Pruned
from lib.values.attacks import PGD, Attack
from lib.values.objectives import ADMM, MART, TRADES, FreeAdversarial, Loss, Prune, Rewire
from lib.values.recipe import Choice, Recipe
from lib.values.threats import Threat

DENSE = ("N", "pre-trained", "dense")
CHOSEN = ("dense", "HARP", "HYDRA")  # whose fine-tuning shows what choosing its epoch on test images would add
MOST_KEPT = 10  # epochs of such a fine-tuning


@dataclass(frozen=True)
class Arm:
    """What the networks of the repetitions have in common. method: of METHODS; `dense`: the dense network with the same
    fine-tuning; `pre-trained`: the one that all are made from; `N`: a normally trained one. keep: the target, 1 for
    dense networks.
    """

    method: str
    keep: Fraction = Fraction(1)
    granularity: str = "weights"
    loss: str = "PGD-AT"


@dataclass(frozen=True)
class Cell:
    """One network: its arm, repetition, recipe and what it is measured under. search: the recipe of its pruning stage
    where scores or rates are searched. epoch: of a fine-tuning's weights after so many epochs, else None.
    """

    arm: Arm
    seed: int
    recipe: Recipe
    measures: tuple[tuple[Threat, Attack], ...] = ()
    search: Recipe | None = None
    epoch: int | None = None

    @property
    def job(self) -> str:
        """The batch job: the dense networks of a repetition, else one network with its search."""
        if self.arm.method in DENSE:
            return f"dense-{self.arm.loss}-{self.seed}"
        words = self.arm.method.replace(",", " ").replace("+", " ").split()
        return "-".join([*words, f"{float(self.arm.keep):g}", self.arm.granularity, self.arm.loss, str(self.seed)])


def dense(settings: Settings, kind: str, seed: int, loss: str = "PGD-AT") -> Recipe:
    """A dense network: normal (kind N) or adversarially trained (R) with a robust loss."""
    s, recipe = settings.sections["harp_pruning"], settings.networks.member(kind, seed, settings.seed)
    recipe = replace(recipe, arch=s.arch or recipe.arch, data=s.data or recipe.data)
    if kind == "N":
        return recipe
    if s.pretrain:
        recipe = trained_as(recipe, s.pretrain)
    return warmed_up(replace(recipe, objective=robust(settings, loss)), s.pretrain)


def training_attack(settings: Settings) -> PGD:
    """The attack of all three stages."""
    s, n = settings.sections["harp_pruning"], settings.networks
    return s.pretrain.attack if s.pretrain and s.pretrain.attack else n.robust.attack


def robust(settings: Settings, loss: str) -> Loss:
    """The robust loss of a name."""
    n, attack = settings.networks, training_attack(settings)
    if loss == "PGD-AT":
        return n.objective(attack)
    if loss == "Free-AT":
        return FreeAdversarial(n.threat, replays=4)
    return (TRADES if loss == "TRADES" else MART)(n.threat, attack)


def pace(settings: Settings, base: Recipe) -> float:
    """How many updates of the paper's search one update of ours stands for: what gamma and the weight decay of the
    search are multiplied by. With both, rates that see no data come to the same values in far fewer updates; without,
    the size penalty overshoots and the decay, which spares small layers, does nothing.
    """
    s, replays = settings.sections["harp_pruning"], getattr(base.objective, "replays", 1)
    return s.updates / (s.prune.epochs * (base.data.n_train // base.batch_size) * replays)


def searching(settings: Settings, base: Recipe, arch: Pruned, method: str, loss: str,
              pattern: Recipe | None = None) -> Recipe:
    """The pruning stage: scores or rates learned on the robust loss, weights frozen. pattern: whose rates are taken."""
    s, faster = settings.sections["harp_pruning"], pace(settings, base)
    constant = method == "HARP, constant gamma"
    penalty = {"gamma": faster * (s.constant_gamma if constant else s.gamma), "growing": not constant}
    aim = Prune(robust(settings, loss), **(penalty if arch.rates == "learned" else {}))  # given rates have no penalty
    optimiser = replace(s.prune.optimiser, weight_decay=faster * s.prune.optimiser.weight_decay,
                        no_decay=("quota",) if method == "HARP, no decay on rates" else ())
    return replace(trained_as(base, s.prune), arch=arch, objective=aim, optimiser=optimiser,
                   parents=(base, pattern) if pattern else (base,))


def finetuned(settings: Settings, parent: Recipe, arch: Plain | Pruned, arm: Arm) -> Recipe:
    """The fine-tuning that every method and the dense network go through; its epoch is chosen on held-out images."""
    s, n = settings.sections["harp_pruning"], settings.networks
    return replace(trained_as(parent, s.finetune), arch=arch, objective=robust(settings, arm.loss), parents=(parent,),
                   choice=Choice(n.threat, training_attack(settings)), keep=kept_epochs(settings, arm))


def kept_epochs(settings: Settings, arm: Arm) -> tuple[int, ...]:
    """The epochs whose weights a fine-tuning keeps, its last among them; () for arms whose choice is not looked at."""
    s = settings.sections["harp_pruning"]
    keep = Fraction(1) if arm.method in DENSE else s.keeps[-1]
    if arm.method not in CHOSEN or arm != Arm(arm.method, keep, loss=s.losses[0]):
        return ()
    epochs = s.finetune.epochs
    return tuple(sorted({math.ceil(epochs * k / MOST_KEPT) for k in range(1, MOST_KEPT + 1)}))


def towards_sparse(settings: Settings, base: Recipe, arm: Arm) -> Recipe:
    """R-ADMM's first stage, for as many epochs as others search: dense, at the rate of the fine-tuning."""
    s = settings.sections["harp_pruning"]
    aim = ADMM(robust(settings, arm.loss), arm.keep, every=max(1, round(0.3 * s.prune.epochs)))
    return replace(trained_as(base, s.finetune), objective=aim, epochs=s.prune.epochs, parents=(base,))


def from_scratch(settings: Settings, base: Recipe, arch: Pruned, loss: str) -> Recipe:
    """BCS-P: one sparse training, as long as the others' three stages."""
    s = settings.sections["harp_pruning"]
    return replace(base, arch=arch, objective=Rewire(robust(settings, loss)), parents=(),
                   epochs=base.epochs + s.prune.epochs + s.finetune.epochs,
                   choice=Choice(settings.networks.threat, training_attack(settings)))


def pruned(settings: Settings, arm: Arm, seed: int) -> tuple[Recipe, Recipe | None]:
    """The fine-tuned network of an arm and its search for scores or rates, where there is one."""
    base = dense(settings, "R", seed, arm.loss)
    arch, pattern = Pruned(base.arch, arm.keep, arm.granularity, **METHODS[arm.method]), None
    if arm.method == "R-ADMM":
        return finetuned(settings, towards_sparse(settings, base, arm), arch, arm), None
    if arm.method == "BCS-P":
        return from_scratch(settings, base, arch, arm.loss), None
    if arch.rates == "parent":
        pattern = searching(settings, base, replace(arch, **METHODS["HARP"]), "HARP", arm.loss)
    found = searching(settings, base, arch, arm.method, arm.loss, pattern) if arch.searched else None
    return finetuned(settings, found or base, arch, arm), found


def arms(settings: Settings) -> list[Arm]:
    """The pruned arms: by keep and method, then other robust losses, then channels."""
    s = settings.sections["harp_pruning"]
    out = [Arm(method, keep, loss=s.losses[0]) for keep in s.keeps for method in s.methods
           if keep == s.keeps[-1] or method in s.milder_methods]
    out += [Arm(method, s.keeps[-1], loss=loss) for loss in s.losses[1:] for method in ("HARP", "HYDRA")]
    return out + [Arm(method, keep, "channels", s.losses[0]) for keep in s.channels
                  for method in s.methods if method in BY_CHANNEL]


def compared(settings: Settings) -> list[Cell]:
    """Every network that is compared: dense ones first, then by arm. One normal network shows that the task is learned
    and that normal training is not robust.
    """
    s, n = settings.sections["harp_pruning"], settings.networks
    check = ((n.threat, s.search),)
    full = tuple((n.threat, attack) for attack in (s.verify, *s.further(n.threat)))
    out = [Cell(Arm("N"), 0, dense(settings, "N", 0), check)]
    for loss in s.losses:
        for seed in range(s.seeds):
            base = dense(settings, "R", seed, loss)
            again = (*check, (n.threat, s.search.with_one_more_restart())) if (loss, seed) == (s.losses[0], 0) else ()
            out.append(Cell(Arm("pre-trained", loss=loss), seed, base, full + again))
            arm = Arm("dense", loss=loss)
            out.append(Cell(arm, seed, finetuned(settings, base, base.arch, arm), full))
    for arm in arms(settings):
        out += [Cell(arm, seed, recipe, full, found) for seed in range(s.seeds)
                for recipe, found in [pruned(settings, arm, seed)]]
    return out


def checkpoints(settings: Settings) -> list[Cell]:
    """The kept epochs of the fine-tunings of `CHOSEN`, measured under `search`: the paper's code keeps the epoch that
    is best on test images, this notebook the one that is best on held-out images.
    """
    measures = ((settings.networks.threat, settings.sections["harp_pruning"].search),)
    return [Cell(cell.arm, cell.seed, replace(run, parents=(run,), epochs=0, choice=None, keep=(), checkpoint=epoch),
                 measures, epoch=epoch)
            for cell in compared(settings) for run in [cell.recipe] for epoch in run.keep]


def cells(settings: Settings) -> list[Cell]:
    """Every network: those that are compared, then the kept epochs of some."""
    return compared(settings) + checkpoints(settings)
