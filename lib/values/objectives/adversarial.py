"""Objectives on adversarial images."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated

from lib.errors import need
from lib.values.attacks import PGD
from lib.values.declared import Count, NotNegative, OneOf, Share, below, different
from lib.values.keys import later
from lib.values.objectives.base import Objective, Passes
from lib.values.threats import PIXEL_NORMS, Threat

BATCHNORM = ("eval", "train")  # the mode of BatchNorm during an attack in training


def _training_attack(threat: Threat, attack: PGD) -> None:
    attack.check(threat)
    need(attack.restarts == 1, "attack.restarts", attack.restarts, "1 in training: one adversarial image per image")
    need(not attack.targeted, "attack.targeted", True, "false in training")


def _pixels(threat: Threat, objective) -> None:
    allowed = f"one of {', '.join(PIXEL_NORMS)} for {type(objective).__name__}, which starts from given pixels"
    need(not threat.perceptual, "threat.norm", threat.norm, allowed)


class _Attacking(Objective):
    """Objectives that attack images within their field `threat`."""

    @property
    def in_shares(self) -> bool:
        return self.threat.per != "batch"  # whose eps is for all images together


@dataclass(frozen=True)
class Adversarial(_Attacking):
    """PGD adversarial training (Madry et al. 2018): floor(alpha * B) random images of each batch of B are replaced by
    adversarial ones.

    `clean_statistics`: a forward pass over the clean batch precedes the mixed one, so that BatchNorm's running
    statistics blend both (as in the stitching paper's code for training a joint). `batchnorm`: the mode of BatchNorm
    during the attack: eval (running statistics) or train (batch statistics; the running ones adapt). FGSM-RS is
    `fgsm_rs(threat)`. `clean_loss`: the weight in the loss of the cross-entropy on the clean batch; the rest is the
    weight of the cross-entropy on the adversarial batch (alpha 1). `accumulated`: the loss is the sum over all iterates
    of the attack, the last one included (alpha 1), as if gradients were not set to zero after the attack (Srinivas et
    al. 2023, CIFAR-10 code).
    """

    threat: Threat
    attack: PGD
    alpha: Share = 1.0
    clean_statistics: bool = False
    batchnorm: Annotated[str, OneOf(BATCHNORM)] = later("eval")
    clean_loss: Annotated[float, below(0, 1)] = later(0.0)
    accumulated: bool = later(False)

    def check_together(self):
        need(self.alpha == 1 or not self.clean_loss, "objective.alpha", self.alpha, "1 where clean_loss is given")
        whole = self.alpha == 1 and not self.clean_loss and not self.threat.perceptual
        allowed = "false unless alpha is 1, clean_loss is 0 and the norm is of pixels"
        need(whole or not self.accumulated, "objective.accumulated", True, allowed)
        _training_attack(self.threat, self.attack)

    def passes(self, classes: int, batch_size: int) -> Passes:
        updates = 1 + bool(self.clean_loss) + self.accumulated * self.attack.steps
        return Passes(updates, self.clean_statistics, self.attack.steps * self.alpha)

    def describe(self) -> str:
        return f"{super().describe()} alpha {self.alpha:g}"


def fgsm_rs(threat: Threat) -> Adversarial:
    """Fast adversarial training (Wong et al. 2020): one step of 1.25 eps from a uniform start in the ball."""
    return Adversarial(threat, PGD(steps=1, step_size=threat.eps * Fraction(5, 4)))


@dataclass(frozen=True)
class TRADES(_Attacking):
    """Cross-entropy on clean images plus beta times KL(clean || adversarial) (Zhang et al. 2019, eq. 5).

    The attack maximises this KL from a Gaussian start of standard deviation 0.001; its own `loss` and `random_start`
    have no effect. `batchnorm` as in Adversarial.
    """

    threat: Threat
    attack: PGD
    beta: NotNegative = 6.0
    batchnorm: Annotated[str, OneOf(BATCHNORM)] = later("eval")

    def check_together(self):
        _training_attack(self.threat, self.attack)
        _pixels(self.threat, self)

    def passes(self, classes: int, batch_size: int) -> Passes:
        return Passes(2, 1, self.attack.steps)  # clean and adversarial images; the attack's clean prediction


@dataclass(frozen=True)
class MART(_Attacking):
    """Misclassification-aware adversarial training (Wang et al. 2020, eq. 11): boosted cross-entropy on adversarial
    images plus `weight` (their lambda) times KL(clean || adversarial) weighted by 1 - p_y(clean).

    The attack has a Gaussian start of standard deviation 0.001; its own `random_start` has no effect. `batchnorm` as in
    Adversarial.
    """

    threat: Threat
    attack: PGD
    weight: NotNegative = 5.0
    batchnorm: Annotated[str, OneOf(BATCHNORM)] = "eval"

    def check_together(self):
        _training_attack(self.threat, self.attack)
        _pixels(self.threat, self)

    def passes(self, classes: int, batch_size: int) -> Passes:
        return Passes(2, 0, self.attack.steps)  # clean and adversarial images


@dataclass(frozen=True)
class FreeAdversarial(_Attacking):
    """Free adversarial training (Shafahi et al. 2019, algorithm 1): every batch is replayed `replays` times; the
    single backward pass of each replay updates the weights and, by a step of eps, the perturbation, which carries over
    to the next batch. An epoch is one pass over the data, with `replays` updates per batch.
    """

    threat: Threat
    replays: Count = 4

    def check_together(self):
        _pixels(self.threat, self)

    def passes(self, classes: int, batch_size: int) -> Passes:
        return Passes(self.replays)


ATTACKED = ("front", "end", "itself")
Attacked = Annotated[str, OneOf(ATTACKED)]


@dataclass(frozen=True)
class Transferred(_Attacking):
    """Training a stitched network on images that fool other networks (the transfer-trained joints in the code of Balogh
    & Jelasity 2023): the sum of its cross-entropies on adversarial images against each network of `against` and, with
    `clean`, on the clean images.

    against: one or more of `front` and `end`, the whole networks from which the parts are cut, in eval mode and as they
    were trained (in the paper's code they share BatchNorm with the stitched network, so their statistics have moved),
    and `itself`, the current stitched network, which alone is Adversarial. The "representation union" of the code is
    the robust networks among front and end, with `clean` if one of the two is not robust. clean_statistics: as in
    Adversarial (in the code the clean batch passes after the update).
    """

    threat: Threat
    attack: PGD
    against: Annotated[tuple[Attacked, ...], different(1)] = ("front", "end")
    clean: bool = False
    clean_statistics: bool = False

    attacks_parents = True

    def check_together(self):
        # equal meanings are equal values
        object.__setattr__(self, "against", tuple(name for name in ATTACKED if name in self.against))
        _training_attack(self.threat, self.attack)

    def passes(self, classes: int, batch_size: int) -> Passes:
        count = len(self.against)  # each of these networks costs about as much as the stitched one
        return Passes(count + self.clean, self.clean_statistics, count * self.attack.steps)

    def check(self, recipe) -> None:
        super().check(recipe)
        cut, ours = recipe.arch.stitched, recipe.data.name
        need(cut, "objective", "Transferred", f"an objective without front and end for {recipe.arch.name}")
        for name, parent in zip(("front", "end"), recipe.parents, strict=True):
            judges = name not in self.against or parent.data.name == ours
            need(judges, f"data of the {name} network that is attacked", parent.data.name,
                 f"{ours}, whose images and labels the attack takes")

    def describe(self) -> str:
        return f"{super().describe()} from {' and '.join(self.against)}"
