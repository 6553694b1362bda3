"""Objectives as values: what training minimises, without torch. Each family has a module.

lib/training/losses computes them.
"""

from __future__ import annotations

from lib.values.objectives.adversarial import (
    ATTACKED,
    MART,
    TRADES,
    Adversarial,
    Attacked,
    FreeAdversarial,
    Transferred,
    fgsm_rs,
)
from lib.values.objectives.aligned import REPRESENTED, TARGETS, Aligned, Targets
from lib.values.objectives.base import Objective, Passes
from lib.values.objectives.certified import IBP, CrownIBP, MixTrain
from lib.values.objectives.generative import Denoising, Reconstruction
from lib.values.objectives.plain import CrossEntropy, GradientNorm, Noise, Smoothness, Stability
from lib.values.objectives.pruning import ADMM, SCOPES, Prune, Rewire, Saliency

__all__ = [
    "ADMM",
    "ATTACKED",
    "Adversarial",
    "Aligned",
    "Attacked",
    "CrossEntropy",
    "CrownIBP",
    "Denoising",
    "FreeAdversarial",
    "GradientNorm",
    "IBP",
    "MART",
    "MixTrain",
    "Noise",
    "Objective",
    "Passes",
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
    "fgsm_rs",
]
