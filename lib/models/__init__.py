"""Networks: sequences of named stages that take pixels in [0, 1] and own their normaliser."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from torch import nn

from lib.errors import need
from lib.models.external import load_resnet
from lib.models.flops import forward_flops, stage_flops
from lib.models.fold import Twin, folded
from lib.models.generative import AtNoise, AutoEncoder, Denoiser, auto_encoder, denoising_mlp, unet
from lib.models.masked import fixed, prune
from lib.models.plain import cnn, cnn_large, cnn_small, mlp, vgg11, vgg16
from lib.models.resnet import imagenet_resnet, preact_resnet, resnet, wide_resnet
from lib.models.staged import Normalise, Staged, memory_format
from lib.models.stitched import Probe, Stitched, cut, least_squares, probe, stitch
from lib.models.tokens import mixer, vit
from lib.runtime import initialise_with
from lib.values.architectures import (
    CNN,
    MLP,
    VGG11,
    VGG16,
    CNNLarge,
    CNNSmall,
    DenoisingMLP,
    FromScratch,
    Generative,
    ImageNetResNet,
    Mixer,
    PreActResNet,
    Pruned,
    ResNet,
    Stitch,
    UNet,
    ViT,
    WideResNet,
)
from lib.values.architectures import AutoEncoder as AutoEncoderArch
from lib.values.architectures import Probe as ProbeArch
from lib.values.recipe import Recipe

__all__ = [
    "AtNoise",
    "AutoEncoder",
    "Denoiser",
    "Normalise",
    "Probe",
    "Staged",
    "Stitched",
    "Twin",
    "build",
    "folded",
    "forward_flops",
    "least_squares",
    "memory_format",
    "network",
    "stage_flops",
    "stitch",
]

_PLAIN = {
    ResNet: resnet,
    PreActResNet: preact_resnet,
    WideResNet: wide_resnet,
    ImageNetResNet: imagenet_resnet,
    CNN: cnn,
    VGG11: vgg11,
    VGG16: vgg16,
    CNNSmall: cnn_small,
    CNNLarge: cnn_large,
    MLP: mlp,
    ViT: vit,
    Mixer: mixer,
}
_GENERATIVE = {UNet: unet, DenoisingMLP: denoising_mlp, AutoEncoderArch: auto_encoder}


def network(arch: FromScratch | Generative, shape: tuple[int, int, int], classes: int, unit: float = 0.25) -> nn.Module:
    """A network of `arch` for images of `shape` [C, H, W] in [0, 1], its weights drawn from torch's global generator
    (`build` seeds it). Its normaliser takes off 0.5 and divides by `unit`. Raises `SettingsError` for images that the
    architecture cannot take.
    """
    arch.check(*shape[1:])
    net = (_PLAIN | _GENERATIVE)[type(arch)](arch, shape, classes)
    for module in net.modules():
        if isinstance(module, Normalise):
            module.std.fill_(unit)
    return net


def build(recipe: Recipe, parents: Sequence[nn.Module] = ()) -> nn.Module:
    """The network of `recipe` before its training: on the CPU, in train mode, all parameters learnable.

    Fresh weights depend on `recipe.key` only. `parents` are the trained networks of `recipe.parents`, in their order;
    they are copied, never shared, and stay as they are. A plain architecture with a parent is a copy of it
    (fine-tuning), a pruned one the parent pruned or, of a parent pruned in just this way, a copy with fixed masks.
    Weights of a file come with the file's normaliser or with none. A joint that least squares are to start is random
    here: what images decide is the zoo's to do. Of a stitched network's end only the stages after the joint run, so it
    may have been made for other images. Raises `SettingsError` when the parents do not fit the recipe or each other,
    and for a file that is not the recipe's.
    """
    arch, info = recipe.arch, recipe.data.info
    need(len(parents) == len(recipe.parents), "parents", len(parents), f"the {len(recipe.parents)} of the recipe")
    shape = recipe.data.shape
    with initialise_with(recipe.key, "init"):
        if isinstance(arch, Stitch) and len(parents) == 1:
            net = cut(parents[0], arch.rank)
        elif isinstance(arch, Stitch):
            end = recipe.parents[1]
            net = stitch(*parents, arch.joint, arch.init, shape, end.arch.rectified, end.data.shape, arch.rank)
        elif isinstance(arch, ProbeArch):
            net = probe(*parents, arch.joint, info.classes, shape)
        elif isinstance(arch, Pruned) and recipe.checkpoint is None:
            net = _pruned(recipe, parents or [network(arch.of, shape, info.classes, info.unit)], shape)
        elif recipe.weights:
            net = load_resnet(recipe.weights.file, arch, info.classes, shape, recipe.weights.sha256)
        elif parents:
            net = copy.deepcopy(parents[0])
        else:
            net = network(arch, shape, info.classes, info.unit)
    return net.cpu().train().requires_grad_(True)


def _pruned(recipe: Recipe, parents: Sequence[nn.Module], shape: tuple[int, int, int]) -> nn.Module:
    arch = recipe.arch
    if arch.fine_tunes(recipe):
        return fixed(parents[0])
    need(recipe.epochs > 0 or not arch.searched, "epochs", recipe.epochs, f"at least 1 to find {arch.name}")
    return prune(parents[0], arch, shape, parents[1] if len(parents) > 1 else None)
