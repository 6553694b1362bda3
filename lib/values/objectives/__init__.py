"""Objectives as values: what a training minimises, without torch; one file a family.

How they are computed stands in lib/training/losses.
"""

from __future__ import annotations

from lib.errors import need
from lib.values.architectures import Arch, AutoEncoder, Denoisers, Generative, Stitch
from lib.values.objectives.adversarial import ATTACKED, MART, TRADES, Adversarial, FreeAdversarial, Transferred, fgsm_rs
from lib.values.objectives.aligned import REPRESENTED, TARGETS, Aligned, Targets
from lib.values.objectives.certified import IBP, CrownIBP, MixTrain
from lib.values.objectives.generative import Denoising, Reconstruction
from lib.values.objectives.plain import CrossEntropy, GradientNorm, Noise, Smoothness, Stability
from lib.values.objectives.pruning import ADMM, SCOPES, Loss, Prune, Rewire, Saliency

__all__ = [
    "ADMM",
    "ATTACKED",
    "Adversarial",
    "Aligned",
    "CrossEntropy",
    "CrownIBP",
    "Denoising",
    "FreeAdversarial",
    "GradientNorm",
    "IBP",
    "Loss",
    "MART",
    "MixTrain",
    "Noise",
    "Objective",
    "Prune",
    "REPRESENTED",
    "Reconstruction",
    "Rewire",
    "SCOPES",
    "Saliency",
    "Smoothness",
    "Stability",
    "TARGETS",
    "TRADES",
    "Targets",
    "Transferred",
    "check_objective",
    "fgsm_rs",
]

Objective = Loss | Transferred | Aligned | Prune | Saliency | ADMM | Rewire


def check_objective(arch: Arch, objective: Objective) -> None:
    """Raise `SettingsError` unless `objective` trains networks of `arch`: Denoising denoisers, Reconstruction
    auto-encoders, Transferred stitched networks, all others networks that give classes.
    """
    if isinstance(arch, Generative):
        wanted = Denoising if isinstance(arch, Denoisers) else Reconstruction
        need(isinstance(objective, wanted), "objective", type(objective).__name__, f"{wanted.__name__} for {arch.name}")
        return
    cut = isinstance(arch, Stitch) or not isinstance(objective, Transferred)
    need(cut, "objective", "Transferred", f"one that needs no front and end for {arch.name}")
    inner = getattr(objective, "objective", objective)
    takes = {Denoising: Denoisers, Reconstruction: AutoEncoder}.get(type(inner))
    need(takes is None, "objective", type(inner).__name__, f"one that trains a classifier for {arch.name}")
