"""Networks: sequences of named stages that take pixels in [0, 1] and contain their normaliser."""

from __future__ import annotations

import copy
import importlib
import pkgutil
from collections.abc import Sequence

from torch import nn

from lib.errors import need
from lib.models.building import derivations, network
from lib.models.external import load_resnet
from lib.models.flops import Undrawn, costs, forward_flops, stage_flops
from lib.models.fold import Twin, folded
from lib.models.generative import AtNoise, AutoEncoder, Denoiser
from lib.models.staged import Normalise, Staged, memory_format
from lib.models.stitched import Probe, Stitched, join, least_squares, stitch
from lib.runtime import initialise_with
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
    "Undrawn",
    "build",
    "costs",
    "folded",
    "forward_flops",
    "join",
    "least_squares",
    "memory_format",
    "network",
    "stage_flops",
    "stitch",
]

for _module in pkgutil.iter_modules(__path__):  # each registers what it builds
    importlib.import_module(f"{__name__}.{_module.name}")


def build(recipe: Recipe, parents: Sequence[nn.Module] = ()) -> nn.Module:
    """The network of `recipe` before its training: on the CPU, in train mode, all parameters learnable. It maps images
    [B, C, H, W] in [0, 1] to logits [B, classes] (generative networks: to images).

    Fresh weights depend on `recipe.key` only. `parents` are the trained networks of `recipe.parents`, in their order;
    they are copied, never shared or changed. A plain architecture with a parent becomes a copy of it (fine-tuning). A
    pruned one becomes the parent pruned or, if the parent was pruned in exactly this way, a copy with fixed masks.
    Weights from a file come with the file's normaliser or with none. A joint that starts from least squares is random
    here; the zoo, which has the images, sets it. Only the stages after the joint of a stitched network's end run, so
    the end may have been made for other images. Raises `SettingsError` when the parents do not fit the recipe or each
    other, and for a file that is not the recipe's.
    """
    arch, info = recipe.arch, recipe.data.info
    need(len(parents) == len(recipe.parents), "parents", len(parents), f"the {len(recipe.parents)} of the recipe")
    with initialise_with(recipe.key, "init"):
        if arch.derived:
            net = derivations[arch](recipe, parents)
        elif recipe.weights:
            net = load_resnet(recipe.weights.file, arch, info.classes, recipe.data.shape, recipe.weights.sha256)
        elif parents:
            net = copy.deepcopy(parents[0])
        else:
            net = network(arch, recipe.data.shape, info.classes, info.unit)
    return net.cpu().train().requires_grad_(True)
