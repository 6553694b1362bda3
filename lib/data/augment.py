"""Random crops, flips and affine maps for a whole batch at once, on its device, drawn for each image separately.

(torchvision's transforms draw a single offset and flip for the whole batch.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lib.errors import is_int, need, unknown
from lib.values.recipe import AUGMENTATIONS

DEGREES, SCALE = 5.0, (0.9, 1.1)  # for MNIST in the stitching paper's code
AREA, ASPECT, TRIES = (0.08, 1.0), (3 / 4, 4 / 3), 10  # torchvision's RandomResizedCrop


@dataclass(frozen=True, eq=False)
class Placement:
    """Where each image of a batch was put, to put a second batch (targets, gradients) into the same frame.

    dy, dx: int64 [B] in [-pad, pad]; output pixel (y, x) is input pixel (y + dy, x + dx), 0 outside; then images
    with `flip` (bool [B]) are mirrored left to right. matrix: float32 [B, 2, 2], maps an output pixel's (x, y) from
    the image's centre to the input's. box: int64 [B, 4], the top, left, height and width of the crop that was resized
    to `size` (height and width of the frame), measured from the frame's corner (and perhaps outside it where images are
    larger than the frame); then mirrored as `flip` says. Steps whose fields are None were not applied.
    """

    pad: int = 0
    dy: Tensor | None = None
    dx: Tensor | None = None
    flip: Tensor | None = None
    matrix: Tensor | None = None
    box: Tensor | None = None
    size: tuple[int, int] | None = None

    def apply(self, images: Tensor) -> Tensor:
        """`images` [B, C, H, W] of the recorded batch and size, with any C, moved in the same way; differentiable.

        Where boxes were drawn, larger images whose centre is the frame are possible too; if images are just the frame,
        their edge pixels are repeated outside it.
        """
        if self.dy is not None:
            return self._crop(images)
        if self.box is not None:
            return self._resize(images)
        return images if self.matrix is None else self._warp(images)

    def _crop(self, images: Tensor) -> Tensor:
        b, c, h, w = images.shape
        y = torch.arange(h, device=images.device)
        x = torch.arange(w, device=images.device)
        rows = (self.dy + self.pad)[:, None] + y
        columns = (self.dx + self.pad)[:, None] + torch.where(self.flip[:, None], w - 1 - x, x)
        # One gather of flat positions does crop and flip: three to four times faster than indexing by rows and columns
        position = rows[:, :, None] * (w + 2 * self.pad) + columns[:, None, :]
        padded = F.pad(images, (self.pad,) * 4).flatten(2)
        return padded.gather(2, position.view(b, 1, h * w).expand(b, c, h * w)).view(b, c, h, w)

    def _warp(self, images: Tensor) -> Tensor:
        h, w = images.shape[-2:]
        aspect = torch.tensor([[1, h / w], [w / h, 1]], device=images.device)  # grids are in half widths and heights
        theta = F.pad(self.matrix * aspect, (0, 1)).to(_precise(images))
        return _sample(images, F.affine_grid(theta, list(images.shape), align_corners=False))

    def _resize(self, images: Tensor) -> Tensor:
        (h, w), (height, width) = self.size, images.shape[-2:]
        top, left, tall, wide = self.box.unbind(1)
        rows = _positions(top + _before(height, h), tall, h, height, _precise(images))
        columns = _positions(left + _before(width, w), wide, w, width, _precise(images))
        columns = torch.where(self.flip[:, None], columns.flip(1), columns)
        return _sample(images, torch.stack(torch.broadcast_tensors(columns[:, None, :], rows[:, :, None]), dim=3))


def _precise(images: Tensor) -> torch.dtype:
    return torch.promote_types(images.dtype, torch.float32)


def _positions(start: Tensor, length: Tensor, count: int, whole: int, dtype: torch.dtype) -> Tensor:
    """Where to sample `count` pixels spread over a crop of `length` [B] pixels from `start` [B] on, out of `whole`:
    [B, count] in grid_sample's coordinates, not beyond the centres of the crop's first and last pixels, as if there
    were nothing outside the crop.
    """
    steps = (torch.arange(count, device=start.device, dtype=dtype) + 0.5) / count
    inside = (steps * length[:, None] - 0.5).clamp(min=0).minimum((length[:, None] - 1).to(dtype))
    return (2 * (start[:, None] + inside) + 1) / whole - 1


def _sample(images: Tensor, grid: Tensor) -> Tensor:
    """The images [B, C, H, W] sampled bilinearly at the grid [B, h, w, 2], in fp32 at least, returned in their type."""
    source = images.to(_precise(images))
    moved = F.grid_sample(source, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return moved.to(images.dtype) if images.is_floating_point() else moved.round().to(images.dtype)


def _before(whole: int, side: int) -> int:
    """Pixels left out before a window in the middle, rounded as torchvision's center_crop does."""
    return round((whole - side) / 2)


def centre(images: Tensor, side: int | None) -> Tensor:
    """The central window [..., side, side] of images [..., H, W]; the whole images for None."""
    if side is None:
        return images
    top, left = (_before(length, side) for length in images.shape[-2:])
    return images[..., top : top + side, left : left + side]


def augment(images: Tensor, kind: str, generator: torch.Generator, side: int | None = None) -> tuple[Tensor, Placement]:
    """Augment a batch [B, C, H, W] of uint8 or floating point; returns it, of the same type, and its Placement.

    side: height and width of the frame, the part that networks see: the centre of images that have a border for resized
    crops (None: the whole image). The batch is returned in the frame's size.

    kind: `none`; `crop`, a random window of the frame's size out of the frame padded with zeros by 1/8 of its size (4
    pixels at 28 and 32); `crop-flip`, this and a left-right flip with probability 1/2; `affine`, rotation and
    horizontal shear of up to 5 degrees, scale 0.9 to 1.1, bilinear, with edge pixels repeated outside;
    `resized-crop-flip`, a box of 8 to 100 percent of the whole image's area and aspect ratio 3/4 to 4/3, drawn as in
    torchvision's RandomResizedCrop, resized bilinearly to the frame's size, and a flip. There is no antialiasing: a box
    is at most as large as the image, which is hardly larger than the frame. All draws come from `generator`, on its
    device, so a CPU generator gives the same placements on every device.

    Raises SettingsError for an unknown kind, for images of another type or shape, and for a side larger than they are.
    """
    if kind not in AUGMENTATIONS:
        raise unknown("augmentation", kind, AUGMENTATIONS)
    need(images.ndim == 4 and (images.dtype == torch.uint8 or images.is_floating_point()), "images",
         f"{images.dtype} {list(images.shape)}", "a uint8 or floating-point batch [B, C, H, W]")
    if side is not None:
        most = min(images.shape[-2:])
        need(is_int(side, 1) and side <= most, "side", side, f"a whole number of pixels from 1 to {most}")
    if kind == "resized-crop-flip":
        placement = _box(images, side, generator)
        return placement.apply(images), placement
    images = centre(images, side)
    if kind == "none":
        return images, Placement()
    placement = _affine(images, generator) if kind == "affine" else _window(images, kind == "crop-flip", generator)
    return placement.apply(images), placement


def _window(images: Tensor, flips: bool, generator: torch.Generator) -> Placement:
    pad = max(1, round(min(images.shape[-2:]) / 8))
    b, draw = len(images), {"generator": generator, "device": generator.device}
    dy, dx = torch.randint(-pad, pad + 1, (2, b), **draw).to(images.device)
    flip = _flip(images, generator) if flips else torch.zeros_like(dy).bool()
    return Placement(pad, dy, dx, flip)


def _flip(images: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randint(0, 2, (len(images),), generator=generator, device=generator.device).to(images.device).bool()


def _box(images: Tensor, side: int | None, generator: torch.Generator) -> Placement:
    """For each image its first try that fits; if none does, the largest centred box of an allowed aspect ratio."""
    height, width = images.shape[-2:]
    frame = (height, width) if side is None else (side, side)
    b, draw = len(images), {"generator": generator, "device": generator.device}
    shares, aspects, corners = torch.rand(2 * TRIES + 2, b, **draw).split((TRIES, TRIES, 2))
    area = height * width * (AREA[0] + (AREA[1] - AREA[0]) * shares)
    aspect = (math.log(ASPECT[0]) + math.log(ASPECT[1] / ASPECT[0]) * aspects).exp()
    tall, wide = (area / aspect).sqrt().round().long(), (area * aspect).sqrt().round().long()
    fits = (tall >= 1) & (tall <= height) & (wide >= 1) & (wide <= width)
    first, found = fits.long().argmax(0, keepdim=True), fits.any(0)
    limited = min(max(width / height, ASPECT[0]), ASPECT[1])
    tall = torch.where(found, tall.gather(0, first)[0], min(height, round(width / limited)))
    wide = torch.where(found, wide.gather(0, first)[0], min(width, round(height * limited)))
    top, left = (torch.where(found, (corner * (free + 1)).long().minimum(free), free // 2)
                 for corner, free in zip(corners, (height - tall, width - wide), strict=True))
    box = torch.stack([top - _before(height, frame[0]), left - _before(width, frame[1]), tall, wide], dim=1)
    return Placement(box=box.to(images.device), flip=_flip(images, generator), size=frame)


def _affine(images: Tensor, generator: torch.Generator) -> Placement:
    draw = torch.rand(3, len(images), generator=generator, device=generator.device).to(images.device)
    angle, shear = math.radians(DEGREES) * (2 * draw[:2] - 1)
    scale = SCALE[0] + (SCALE[1] - SCALE[0]) * draw[2]
    cos, sin, tan = angle.cos(), angle.sin(), shear.tan()
    # The inverse of scale * rotation(angle) * [[1, -tan], [0, 1]]: sampling goes from output to input.
    rows = torch.stack([cos - sin * tan, sin + cos * tan]), torch.stack([-sin, cos])
    return Placement(matrix=(torch.stack(rows) / scale).permute(2, 0, 1))
