"""The networks of the notebook on compact and robust networks (Sehwag et al. 2019): pre-trained, pruned and fine-tuned
with every combination of objectives, by every rule.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction

from lib.papers.compact_robust_pruning.settings import BENIGN, IN_ROUNDS, ROBUST, RULES, Net
from lib.papers.settings import Settings
from lib.profiles.networks import trained_as, warmed_up
from lib.values.architectures import Pruned
from lib.values.attacks import Attack
from lib.values.certificates import Certificate
from lib.values.objectives import IBP, TRADES, CrossEntropy, CrownIBP, Loss, MixTrain, Prune, Saliency, Stability
from lib.values.recipe import Recipe
from lib.values.threats import Threat

DENSE = "dense"


@dataclass(frozen=True)
class Arm:
    """What the networks of the repetitions have in common. net: the name of a network of the settings; pre: the
    objective of its pre-training, `benign` or `robust`; rule: of RULES, or `dense` where nothing is pruned, and then
    keep is 1; fine: the objective of the fine-tuning, None before any. longer: fine-tuned for as many epochs as
    pre-training and fine-tuning have together.
    """

    net: str
    pre: str
    rule: str = DENSE
    keep: Fraction = Fraction(1)
    fine: str | None = None
    longer: bool = False


@dataclass(frozen=True)
class Cell:
    """One network: its arm, repetition, recipe and what it is measured under."""

    arm: Arm
    seed: int
    recipe: Recipe
    measures: tuple[tuple[Threat, Attack | Certificate], ...] = ()
    rules: bool = False

    @property
    def job(self) -> str:
        """The batch job: a repetition's networks of one pre-training, those of the comparison of rules apart."""
        what = "rules" if self.rules else self.arm.pre
        return f"{self.arm.net}-{what}-{self.seed}".replace(" ", "-")


def the(settings: Settings, name: str) -> Net:
    """The network of a name."""
    return next(net for net in settings.sections["compact_robust_pruning"].nets if net.name == name)


def threat_of(settings: Settings, net: Net) -> Threat:
    return net.threat or settings.networks.threat


def robust(settings: Settings, net: Net, warm: bool = True) -> Loss:
    """The robust objective of a network. warm: in pre-training certified objectives raise eps from 0; a fine-tuning
    starts from a network that has seen it, and has eps from the start on.
    """
    threat, n = threat_of(settings, net), settings.networks
    attack = net.pretrain.attack if net.pretrain and net.pretrain.attack else n.robust.attack
    ramp = {} if warm else {"start": 0.0, "end": 0.0}
    return {
        "PGD-AT": lambda: replace(n, threat=threat).objective(attack),
        "TRADES": lambda: TRADES(threat, attack),
        "IBP": lambda: IBP(threat.eps, **ramp),
        "CROWN-IBP": lambda: CrownIBP(threat.eps, **ramp),
        "MixTrain": lambda: MixTrain(threat.eps, **ramp),
        "smoothing": lambda: Stability(net.sigma),
    }[net.training]()


def aim(settings: Settings, net: Net, which: str, warm: bool = True) -> Loss:
    return robust(settings, net, warm) if which == ROBUST else CrossEntropy()


def pretrained(settings: Settings, net: Net, pre: str, seed: int) -> Recipe:
    """The unpruned network; one of the pool's where the network has no training of its own."""
    recipe = settings.networks.member("R" if pre == ROBUST else "N", seed, settings.seed)
    own = {name: getattr(net, name) for name in ("arch", "data", "batch_size", "augment")}
    recipe = replace(recipe, **{name: value for name, value in own.items() if value is not None})
    if net.pretrain:
        recipe = trained_as(recipe, net.pretrain)
    if net.pretrain or net.training != "PGD-AT":
        recipe = replace(recipe, objective=aim(settings, net, pre))
    return warmed_up(recipe, net.pretrain) if pre == ROBUST else recipe


def finetuned(settings: Settings, net: Net, parent: Recipe, arch, fine: str, epochs: int | None = None,
              warm: bool = False) -> Recipe:
    """The last step, of the network's own number of epochs or `epochs`; its last epoch is the network, as in the code
    of the authors' next paper.
    """
    objective = aim(settings, net, fine, warm)
    recipe = trained_as(replace(parent, arch=arch, parents=(parent,), objective=objective), net.finetune)
    return replace(recipe, epochs=epochs) if epochs else recipe


def made(settings: Settings, arm: Arm, seed: int) -> Recipe:
    """The network of an arm."""
    net = the(settings, arm.net)
    base = pretrained(settings, net, arm.pre, seed)
    if arm.fine is None:
        return base
    if arm.rule == IN_ROUNDS:
        return _in_rounds(settings, net, base, arm)
    parent, arch, epochs = base, base.arch, None
    if arm.rule != DENSE:
        arch = Pruned(base.arch, arm.keep, **RULES[arm.rule])
        parent = _searched(settings, net, base, arch, arm.fine) if arch.searched else base
    if arm.longer:
        epochs = pretrained(settings, net, ROBUST, seed).epochs + net.finetune.epochs
    warm = arm.pre == BENIGN  # a benign network has never seen eps
    return finetuned(settings, net, parent, arch, arm.fine, epochs, warm)


def _searched(settings: Settings, net: Net, base: Recipe, arch: Pruned, fine: str) -> Recipe:
    """Scores that are found with frozen weights, on the objective of the fine-tuning: SNIP's by one pass over the
    images, HYDRA's learned as long as the settings say.
    """
    loss, score = aim(settings, net, fine, warm=False), settings.sections["compact_robust_pruning"].score
    if arch.scores == "gradient":
        return replace(base, arch=arch, parents=(base,), objective=Saliency(loss), epochs=1)
    return trained_as(replace(base, arch=arch, parents=(base,), objective=Prune(loss)), score)


def _in_rounds(settings: Settings, net: Net, base: Recipe, arm: Arm) -> Recipe:
    """Rounds of pruning a part and fine-tuning, of as many epochs in all as one fine-tuning has (one each at least)."""
    shares = [*settings.sections["compact_robust_pruning"].rounds, arm.keep]
    recipe = base
    for number, share in enumerate(shares):
        left = net.finetune.epochs * (number + 1) // len(shares) - net.finetune.epochs * number // len(shares)
        recipe = finetuned(settings, net, recipe, Pruned(base.arch, share, **RULES[arm.rule]), arm.fine, max(1, left))
    return recipe


def arms(settings: Settings) -> list[tuple[Arm, bool]]:
    """Every arm, and whether it belongs to the comparison of rules only."""
    s = settings.sections["compact_robust_pruning"]
    out = []
    for net in s.nets:
        out += [Arm(net.name, pre) for pre in (ROBUST, BENIGN)]
        out.append(Arm(net.name, ROBUST, fine=ROBUST))
        out += [Arm(net.name, pre, "LWM", s.keep, fine) for pre in (ROBUST, BENIGN) for fine in (ROBUST, BENIGN)]
        out += [Arm(net.name, BENIGN, "LWM", s.keep, ROBUST, longer=True)] * net.longer
    compared = [Arm(s.rules_on, ROBUST, rule, keep, ROBUST) for keep in s.keeps
                for rule in (s.rules if keep == s.keep else s.harsher_rules)]
    compared += [Arm(s.rules_on, ROBUST, rule, s.keep, BENIGN) for rule in s.benign_rules]
    compared += [Arm(s.rules_on, ROBUST, "filters", share, ROBUST) for share in s.filters]
    return [(arm, False) for arm in out] + [(arm, True) for arm in compared if arm not in out]


def cells(settings: Settings) -> list[Cell]:
    """Every network, repetition by repetition within an arm."""
    s, out = settings.sections["compact_robust_pruning"], []
    for arm, rules in arms(settings):
        net = the(settings, arm.net)
        threat = threat_of(settings, net)
        measures = ((threat, s.verify),)
        if net.verifiable:
            measures += ((net.certified or threat, net.certificate),)
        for seed in range(s.seeds):
            more = ()
            if arm in (Arm(net.name, ROBUST), Arm(net.name, BENIGN)):
                more = ((threat, s.search),)
            if arm == Arm(net.name, ROBUST) and seed == 0:
                more += ((threat, s.search.with_one_more_restart()),)
            out.append(Cell(arm, seed, made(settings, arm, seed), measures + more, rules))
    return out
