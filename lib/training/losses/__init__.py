"""Objectives: one file a family; `of(recipe.objective)` gives the object that the loop calls.

An objective is called with `(net, batch, progress)` and returns `(loss, logits)`: the scalar to minimise and the
logits of the images it trained on, for the running accuracy (None from one that trains no classifier). One with state
gives `state_dict` and `load_state_dict`. One that prunes gives `end_epoch(net)` (called after every epoch; returns
columns for the epoch's row), `acceptable(net)` (whether an epoch may be chosen) and `finish(net)` (called once the
final weights are in the network), and one that changes weights or masks besides the optimiser `after_update(net,
optimiser)` (called after every update). One that needs to know the training images gives `prepare(images, classes,
scores)` (called once before training, with the training images, the number of classes, and what `Zoo.targets` gives),
one that needs the networks that a stitched one is made from `with_parents(networks)` (likewise, in the recipe's order).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lib.errors import unknown
from lib.values.objectives import (
    ADMM,
    IBP,
    MART,
    TRADES,
    Adversarial,
    Aligned,
    CrossEntropy,
    CrownIBP,
    Denoising,
    FreeAdversarial,
    GradientNorm,
    MixTrain,
    Noise,
    Prune,
    Reconstruction,
    Rewire,
    Saliency,
    Smoothness,
    Stability,
    Transferred,
)


@dataclass(frozen=True)
class Batch:
    """What an objective sees: augmented images float32 [B,C,H,W] in [0, 1], labels int64 [B], indices int64 [B]
    (positions in the official split), what the augmentation did, and the generator this step draws from.
    """

    images: torch.Tensor
    labels: torch.Tensor
    indices: torch.Tensor
    placement: object
    generator: torch.Generator

    def take(self, count: int) -> Batch:
        """The first `count` images of the batch; the augmentation's record is left out."""
        return Batch(self.images[:count], self.labels[:count], self.indices[:count], None, self.generator)


@dataclass(frozen=True)
class Moment:
    """Where training stands: epoch from 0, step (update) from 0 over all epochs, the share done in [0, 1), and which
    replay of the batch this is, from 0.
    """

    epoch: int
    step: int
    share: float
    precision: str = "fp32"
    replay: int = 0


def of(spec):
    """The objective object of a recipe's objective value."""
    from lib.training.losses import (
        admm,
        adversarial,
        alignment,
        certified,
        clean,
        generative,
        noise,
        penalties,
        pruning,
        rewire,
    )

    table = {
        CrossEntropy: clean.CleanLoss,
        Adversarial: adversarial.AdversarialLoss,
        Transferred: adversarial.TransferredLoss,
        TRADES: adversarial.TradesLoss,
        MART: adversarial.MartLoss,
        FreeAdversarial: adversarial.FreeLoss,
        Noise: noise.NoiseLoss,
        Stability: noise.StabilityLoss,
        GradientNorm: penalties.GradientNormLoss,
        Smoothness: penalties.SmoothnessLoss,
        IBP: certified.IBPLoss,
        CrownIBP: certified.CrownIBPLoss,
        MixTrain: certified.MixTrainLoss,
        Denoising: generative.DenoisingLoss,
        Reconstruction: generative.ReconstructionLoss,
    }
    around = {Prune: pruning.PruneLoss, Saliency: pruning.SaliencyLoss, ADMM: admm.ADMMLoss,
              Rewire: rewire.RewireLoss, Aligned: alignment.AlignedLoss}
    if type(spec) in around:
        return around[type(spec)](spec, of(spec.objective))
    if type(spec) not in table:
        raise unknown("objective", type(spec).__name__, [t.__name__ for t in (*table, *around)])
    return table[type(spec)](spec)
