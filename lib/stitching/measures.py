"""What tells more of a stitched network than its accuracy: accuracy relative to its endpoints, agreement with them, and
how like the end's own activations those are that the joint gives it.

The code of Balogh & Jelasity (2023) logs all of them. A network can classify well on activations that its end never saw
before, so good relative accuracy does not make two representations alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from lib.errors import need
from lib.models import Staged, Stitched
from lib.representations import compare
from lib.runtime import generator
from lib.training.zoo import Zoo
from lib.values.architectures import Stitch
from lib.values.keys import plain
from lib.values.recipe import Recipe

if TYPE_CHECKING:
    import pandas as pd

VERSION = 1  # raised when the same settings give other numbers
IMAGES = 256  # whose activations are compared: Gram matrices of them are taken at once
BATCH = 128
LIKENESS = ("cka", "cka before", "cka shuffled", "unexplained")


def relative_accuracy(stitched: float, front: float, end: float) -> dict[str, float]:
    """An accuracy of a stitched network as a share of the same accuracy of its endpoints: `of end` (the paper's code),
    `of front`, and `of weaker`, the lower of the two (C1). NaN where that is 0 or NaN.
    """
    whole = {"of end": end, "of front": front, "of weaker": np.minimum(front, end)}
    return {name: float(stitched / accuracy) if accuracy else np.nan for name, accuracy in whole.items()}


def agreement(one, other) -> float:
    """The share of images for which two networks give the same class; one, other: classes [m] of the same images."""
    one, other = np.asarray(one), np.asarray(other)
    same = one.ndim == 1 and one.shape == other.shape and len(one) > 0
    need(same, "classes", f"of shape {one.shape} and {other.shape}", "of the same images, one or more")
    return float((one == other).mean())


def predictions(zoo: Zoo, recipe: Recipe) -> pd.DataFrame:
    """Rows index, label, predicted: the class that the network gives each test image of its data, from the store."""
    import pandas as pd

    @torch.no_grad()
    def make() -> pd.DataFrame:
        net, images = zoo.obtain(recipe).net, zoo.images(recipe.data, "test")
        found = [net(_laid_out(images.pixels(part))).argmax(1) for part in _parts(len(images))]
        return pd.DataFrame({"index": images.indices.cpu(), "label": images.labels.cpu(),
                             "predicted": torch.cat(found).cpu()})

    return zoo.table("predictions", recipe, [VERSION, plain(recipe.data)], make)


# ------------------------------------------------------------------------------------------------------- at the joint


@dataclass(frozen=True, eq=False)
class AtJoint:
    """Activations at a joint for the same n images, on the CPU. front: what the front gives, [n, C_front, H, W].
    joined: what the joint (with its ReLU) makes of it and the end goes on with, [n, C_end, H, W]. end: what the end's
    own first half gives instead, of the shape of joined.
    """

    front: Tensor
    joined: Tensor
    end: Tensor


@torch.no_grad()
def at_joint(stitched: Stitched, end: Staged, joint: str, pixels: Tensor) -> AtJoint:
    """What the halves of a stitched network and the first half of `end`, up to and with stage `joint`, make of pixels
    [n, C, H, W] in [0, 1], in the mode the networks are in. Raises SettingsError for an unknown stage.
    """
    own, rows = end.front(joint), []
    for part in pixels.split(BATCH):
        part = _laid_out(part)
        front = stitched.front(part)
        rows.append([found.float().cpu() for found in (front, stitched.joint(front), own(part))])
    return AtJoint(*(torch.cat(found) for found in zip(*rows, strict=True)))


def likeness(at: AtJoint) -> dict[str, float]:
    """How like the end's own activations the joined ones are, over images.

    `cka`: their linear CKA (lib.representations.compare, unbiased; every channel at every position is a feature).
    `cka before`: that of the front's, before the joint. `cka shuffled`: that of the joined ones of other images, near
    0. `unexplained`: the squared difference as a share of the end's squared deviation from its channels' means, which
    a least-squares joint makes small: 0 for a perfect match, 1 for what is no better than these means. NaN where
    activations do not differ. Raises SettingsError for fewer than 4 images.
    """
    front, joined, end = (found.flatten(1) for found in (at.front, at.joined, at.end))
    others = torch.randperm(len(joined), generator=generator("shuffled", len(joined)))
    spread = (at.end - at.end.mean((0, 2, 3), keepdim=True)).double().square().sum()
    missed = (at.joined - at.end).double().square().sum()
    found = (compare(joined, end), compare(front, end), compare(joined[others], end),
             float(missed / spread) if spread > 0 else np.nan)
    return dict(zip(LIKENESS, found, strict=True))


def each_image(at: AtJoint) -> pd.DataFrame:
    """Rows cosine, cka, one for each image. cosine: between the joined and the end's own activations, each less its
    mean over the images (without that any two rectified maps are alike). cka: their linear CKA with the positions of
    the image as samples and channels as features. NaN where one does not vary, cka also for fewer than 4 positions.
    """
    import pandas as pd

    joined, end = (found.double() for found in (at.joined, at.end))
    cosines = torch.nn.functional.cosine_similarity(
        (joined - joined.mean(0)).flatten(1), (end - end.mean(0)).flatten(1), eps=0)
    positions = joined.shape[2] * joined.shape[3]
    pairs = zip(joined.flatten(2).mT, end.flatten(2).mT, strict=True)
    ckas = [compare(one, other) if positions >= 4 else np.nan for one, other in pairs]
    return pd.DataFrame({"cosine": cosines.numpy(), "cka": ckas})


def joint_likeness(zoo: Zoo, recipe: Recipe, images: int = IMAGES) -> dict[str, float]:
    """`likeness` of a stitched recipe on the first `images` of its test images, which are in a fixed class-balanced
    random order; from the store. Raises SettingsError for other networks, and for an end that takes images of another
    shape.
    """
    import pandas as pd

    need(isinstance(recipe.arch, Stitch), "arch", recipe.arch.name, "a stitched network")
    _, end = endpoints(recipe)
    need(comparable(recipe), "data of the end", end.data.name, f"one with images of shape {recipe.data.shape}")

    def make() -> pd.DataFrame:
        pixels = zoo.images(recipe.data, "test").pixels(slice(0, images))
        nets = zoo.obtain(recipe).net, zoo.obtain(end).net
        return pd.DataFrame([likeness(at_joint(*nets, recipe.arch.joint, pixels))])

    return zoo.table("joint", recipe, [VERSION, images, plain(recipe.data)], make).iloc[0].to_dict()


def endpoints(recipe: Recipe) -> tuple[Recipe, Recipe]:
    """The front network and the end network of a stitched recipe, also of one whose joint is cut after its training."""
    front, end = recipe.parents if len(recipe.parents) == 2 else recipe.parents[0].parents
    return front, end


def comparable(recipe: Recipe) -> bool:
    """Whether the end of a stitched recipe could look at the recipe's images itself."""
    return endpoints(recipe)[1].data.shape == recipe.data.shape


def _parts(count: int) -> list[slice]:
    return [slice(first, first + BATCH) for first in range(0, count, BATCH)]


def _laid_out(pixels: Tensor) -> Tensor:
    return pixels.contiguous(memory_format=torch.channels_last)
