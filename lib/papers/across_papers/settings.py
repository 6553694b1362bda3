"""Settings of the notebook across the papers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Annotated

from lib.errors import need
from lib.profiles.networks import UNTARGETED, Denoiser, Gates, Networks, Unattacked, fewer_targets
from lib.values.attacks import PGD, Attack
from lib.values.declared import Bound, Count, Declared, OneOf, Positive, ProperShare, Repetitions, different, whole
from lib.values.keys import later
from lib.values.threats import Threat

OF_POOL = {"N": "normal", "R": "robust", "U": "untrained"}
DENSE, PRUNED = "dense, fine-tuned", "pruned"  # kinds that are no arms
DENOISERS = "denoiser that teaches", "denoiser that judges"
REFERENCE = "reference"  # the name of the network that the others of a repetition are compared with
ALIGNED = ("class score", "class mean")  # trainings of aligned gradients, by what they align with
NO_ARM = Bound(lambda name: name not in (*OF_POOL, *OF_POOL.values(), DENSE, PRUNED, *DENOISERS, REFERENCE),
               f"other than {', '.join((*OF_POOL, DENSE, PRUNED))}, kinds that are there")


@dataclass(frozen=True)
class Arm(Declared):
    """A further kind of network: one training, in each repetition one network. What is null is as for the pool's robust
    networks in the trainings PGD-AT, TRADES and noise, and else as for its normal ones.
    """

    name: Annotated[str, NO_ARM]  # the kind's name in tables
    # normal (cross-entropy), noise (Gaussian noise added), gradient norm (penalised), PGD-AT, TRADES (beta 6), or
    # gradients aligned with a denoiser's class score or with the direction to the class mean
    training: Annotated[str, OneOf(("normal", "noise", "gradient norm", "PGD-AT", "TRADES", *ALIGNED))]
    # standard deviation of the noise, or weight of the penalty or of the alignment; left out in other trainings
    strength: Positive | None = None
    threat: Threat | None = None  # the threat of adversarial training; null: the pool's
    attack: PGD | None = None  # the attack of adversarial training; null: the pool's
    epochs: Count | None = None  # training epochs

    where = "arms"

    def check_together(self):
        strong = self.training in ("noise", "gradient norm", *ALIGNED)
        need(strong == (self.strength is not None), f"arms[{self.name}].strength", self.strength,
             f"{'given' if strong else 'left out'} for {self.training}")
        for name in ("threat", "attack"):
            need(getattr(self, name) is None or self.adversarial, f"arms[{self.name}].{name}", getattr(self, name),
                 f"left out for {self.training}")

    @property
    def adversarial(self) -> bool:
        return self.training in ("PGD-AT", "TRADES")


@dataclass(frozen=True)
class Pruning(Declared):
    """How a robust network is pruned: the smallest weights of each layer are removed, and the others fine-tuned."""

    # the fine-tuning, adversarial as the pool's, also of the dense network that the pruned one is compared with
    finetune: Unattacked
    keep: ProperShare = Fraction(1, 10)  # the share of weights that is kept
    attack: Annotated[PGD, UNTARGETED] | None = None  # the attack of fine-tuning; null: the pool's

    where = "pruning"


@dataclass(frozen=True)
class Section(Declared):
    """Settings of the notebook across the papers. All networks have the pool's architecture and data."""

    # repetitions, each with a network of every kind; the reference is the robust network of the next repetition
    seeds: Repetitions
    arms: Annotated[tuple[Arm, ...], different(1, of="name")]  # further kinds of networks
    pruning: Pruning  # the pruning of robust networks
    search: Annotated[PGD, UNTARGETED]  # the attack with which the preconditions are checked
    verify: Attack  # the attack under which every network is measured
    gates: Gates  # the accuracies required of the normal and the robust networks
    joint_epochs: Count = 2  # epochs of the trained joints
    joint_steps: Count = 20  # steps of the attack on stitched networks
    # whether training of a joint starts at the fitted one and takes 2,000 images and two steps of attack, instead of
    # all images and the robust networks' attack
    quick_joints: bool = later(False)
    images: Count | None = None  # how many test images the lenses look at; null: all
    batch: Annotated[int, whole(4)] = 256  # images per minibatch; the unbiased estimator of CKA needs at least four
    classes: Count | None = None  # the classes that are drawn for each image and update of aligned gradients; null: all
    denoiser: Denoiser | None = None  # gives scores and ceilings of alignment; null: the pool's

    where = "across_papers"

    @property
    def pool(self) -> int:
        """How many networks of each type of the common pool are needed; a lens has at least two references."""
        return max(2, self.seeds)

    def own(self, networks: Networks) -> Networks:
        """The pool with this notebook's denoiser."""
        return replace(networks, denoiser=self.denoiser or networks.denoiser)

    def seen(self, networks: Networks) -> int:
        """How many test images the lenses look at."""
        return self.images or networks.data.n_test

    def check(self, networks: Networks) -> None:
        """Raise SettingsError unless the section fits the networks."""
        images, tests, classes = self.seen(networks), networks.data.n_test, networks.data.info.classes
        need(2 * self.batch <= images <= tests, "across_papers.images", images,
             f"from two minibatches of {self.batch} to the {tests} test images")
        fewer_targets("across_papers.verify.targets", self.verify, networks.data)
        need(self.classes is None or self.classes <= classes, "across_papers.classes", self.classes,
             f"at most the {classes} classes of {networks.data.name}")
        need(self.own(networks).denoiser is not None, "across_papers.denoiser", None,
             "given where the pool has no denoiser: alignment is measured as a share of what two of them agree")
        norm = networks.threat.norm
        for arm in self.arms:
            need(arm.threat is None or arm.threat.norm == norm, f"arms[{arm.name}].threat", arm.threat, f"in {norm}, "
                 "the pool's norm: adversarial trainings differ in eps")
