"""Architectures as values: the options of networks and the names of their stages, without torch.

lib/models builds the networks.
"""

from lib.values.architectures.base import Architecture
from lib.values.architectures.derived import INITS, LEAST_SQUARES, Probe, Pruned, Stitch
from lib.values.architectures.generative import AutoEncoder, Denoisers, DenoisingMLP, Generative, UNet
from lib.values.architectures.plain import (
    CNN,
    MLP,
    VGG11,
    VGG16,
    CNNLarge,
    CNNSmall,
    FromScratch,
    ImageNetResNet,
    Mixer,
    PreActResNet,
    ResNet,
    ViT,
    WideResNet,
)

__all__ = [
    "CNN",
    "INITS",
    "LEAST_SQUARES",
    "MLP",
    "VGG11",
    "VGG16",
    "Architecture",
    "AutoEncoder",
    "CNNLarge",
    "CNNSmall",
    "Denoisers",
    "DenoisingMLP",
    "FromScratch",
    "Generative",
    "ImageNetResNet",
    "Mixer",
    "PreActResNet",
    "Probe",
    "Pruned",
    "ResNet",
    "Stitch",
    "UNet",
    "ViT",
    "WideResNet",
]
