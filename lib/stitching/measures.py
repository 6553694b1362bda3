"""Measures of a stitched network that say more than its accuracy: accuracy relative to its endpoints, agreement of
predictions with them, and how similar the joint's output is to the end's own activations.

The code of Balogh & Jelasity (2023) logs all of them. An end can classify well on activations that it has never seen,
so a good relative accuracy does not show that two representations are similar.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from lib.door import in_own_state
from lib.errors import need
from lib.models import Staged, Stitched
from lib.representations import compare
from lib.runtime import generator
from lib.training.zoo import Zoo
from lib.values.keys import plain
from lib.values.recipe import Recipe

if TYPE_CHECKING:
    import pandas as pd

VERSION = 1  # raised when the same settings give other numbers
IMAGES = 256  # number of images whose activations are compared: their Gram matrices are made at once
BATCH = 128
LIKENESS = ("cka", "cka before", "cka shuffled", "unexplained")


def relative_accuracy(stitched: float, front: float, end: float) -> dict[str, float]:
    """The accuracy of a stitched network (in [0, 1], clean or robust) divided by the same accuracy of its endpoints:
    `of end` (`rel_acc` of the paper's code), `of front`, and `of weaker`, the lower of the two (C1). NaN if that
    accuracy is 0 or NaN.
    """
    whole = {"of end": end, "of front": front, "of weaker": np.minimum(front, end)}
    return {name: float(stitched / accuracy) if accuracy else np.nan for name, accuracy in whole.items()}


def agreement(one, other) -> float:
    """The share, in [0, 1], of images for which two networks give the same class. one, other: classes [m] of the same
    images. Raises SettingsError for other or different shapes, or no image.
    """
    one, other = np.asarray(one), np.asarray(other)
    same = one.ndim == 1 and one.shape == other.shape and len(one) > 0
    need(same, "classes", f"of shape {one.shape} and {other.shape}", "of the same images, one or more")
    return float((one == other).mean())


def predictions(zoo: Zoo, recipe: Recipe) -> pd.DataFrame:
    """The class that a network predicts for each test image of its data, a DataFrame with columns index, label and
    predicted. From the store if it was made before.
    """
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
    """Activations at a joint for the same n images, on the CPU. front: the front's output, [n, C_front, H, W]. joined:
    the output of the joint (with its ReLU), which the end receives, [n, C_end, H, W]. end: the output of the end's own
    first half, [n, C_end, H, W].
    """

    front: Tensor
    joined: Tensor
    end: Tensor


@in_own_state
@torch.no_grad()
def at_joint(stitched: Stitched, end: Staged, joint: str, pixels: Tensor) -> AtJoint:
    """The activations of a stitched network at its joint, and of `end` after its stage `joint`, for pixels [n, C, H, W]
    in [0, 1]. The networks stay in the mode they are in. Raises SettingsError for an unknown stage.
    """
    own, rows = end.front(joint), []
    for part in pixels.split(BATCH):
        part = _laid_out(part)
        front = stitched.front(part)
        rows.append([found.float().cpu() for found in (front, stitched.joint(front), own(part))])
    return AtJoint(*(torch.cat(found) for found in zip(*rows, strict=True)))


def likeness(at: AtJoint) -> dict[str, float]:
    """How similar the joint's output is to the end's own activations, over images.

    `cka`: linear CKA of the two (lib.representations.compare, unbiased; every channel at every position is a feature).
    `cka before`: linear CKA of the front's output, before the joint, and the end's own activations. `cka shuffled`: as
    `cka`, but with the joint's output for other images; it is near 0. `unexplained`: the squared difference of the two,
    divided by the squared deviation of the end's activations from their channel means. It is 0 for a perfect match and
    1 for a joint that is no better than these means; a least-squares joint makes it small. NaN if activations do not
    differ between images. Raises SettingsError for fewer than 4 images.
    """
    front, joined, end = (found.flatten(1) for found in (at.front, at.joined, at.end))
    others = torch.randperm(len(joined), generator=generator("shuffled", len(joined)))
    spread = (at.end - at.end.mean((0, 2, 3), keepdim=True)).double().square().sum()
    missed = (at.joined - at.end).double().square().sum()
    found = (compare(joined, end), compare(front, end), compare(joined[others], end),
             float(missed / spread) if spread > 0 else np.nan)
    return dict(zip(LIKENESS, found, strict=True))


def each_image(at: AtJoint) -> pd.DataFrame:
    """A DataFrame with one row per image and columns cosine and cka, of the joint's output and the end's own
    activations. cosine: in [-1, 1], after the mean over images is subtracted from both (without that, any two rectified
    maps are similar). cka: linear CKA with the image's positions as samples and channels as features. NaN if one of the
    two does not vary; cka also for fewer than 4 positions.
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
    """`likeness` of a stitched recipe on the first `images` of its test images, which are in a fixed, class-balanced
    random order. From the store if it was measured before. Raises SettingsError for a network that is not stitched and
    for an end that takes images of another shape.
    """
    import pandas as pd

    need(recipe.arch.stitched, "arch", recipe.arch.name, "a stitched network")
    _, end = endpoints(recipe)
    need(comparable(recipe), "data of the end", end.data.name, f"one with images of shape {recipe.data.shape}")

    def make() -> pd.DataFrame:
        pixels = zoo.images(recipe.data, "test").pixels(slice(0, images))
        nets = zoo.obtain(recipe).net, zoo.obtain(end).net
        return pd.DataFrame([likeness(at_joint(*nets, recipe.arch.joint, pixels))])

    return zoo.table("joint", recipe, [VERSION, images, plain(recipe.data)], make).iloc[0].to_dict()


def endpoints(recipe: Recipe) -> tuple[Recipe, Recipe]:
    """The front network and the end network of a stitched recipe, also if its joint was truncated after training."""
    front, end = recipe.parents if len(recipe.parents) == 2 else recipe.parents[0].parents
    return front, end


def comparable(recipe: Recipe) -> bool:
    """Whether the end of a stitched recipe takes images of the same shape as the stitched network."""
    return endpoints(recipe)[1].data.shape == recipe.data.shape


def _parts(count: int) -> list[slice]:
    return [slice(first, first + BATCH) for first in range(0, count, BATCH)]


def _laid_out(pixels: Tensor) -> Tensor:
    return pixels.contiguous(memory_format=torch.channels_last)
