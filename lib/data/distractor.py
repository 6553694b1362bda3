"""A digit and a letter, one above the other: the letter says nothing about the label.

MNIST with a distractor, as in the off-manifold robustness paper (Srinivas et al. 2023, figure 5): an image has two
blocks of the base set's size, one above the other, so it is twice as high as wide. A fair coin puts the digit into the
upper or the lower block; the other block shows a letter, white on black. In the paper's code the letter is an A in
every image (`..._letter_a`); `..._letters` draws one of A to Z for each image. Position and letter are drawn once for
each image, whatever its label; both sets of a base have the same positions, and subsets hold the same images as those
of the base.
Letters are as high as digits and set in DejaVu Sans Mono, which comes with matplotlib (the paper's code uses FreeMono).
"""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

import torch
from torch import Tensor

from lib.data.folders import DataError
from lib.errors import unknown
from lib.runtime import generator
from lib.values.data import DATASETS

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
# Data set -> (the base, whose digits are shown; the letters to draw from)
SETS = {"mnist_letter_a": ("mnist", "A"), "mnist_letters": ("mnist", ALPHABET),
        "digits_letter_a": ("digits", "A"), "digits_letters": ("digits", ALPHABET)}
HEIGHT = {28: 20, 8: 8}  # side of a block -> height of its letters in pixels, the same as that of the digits
FINE = 16  # letters are drawn this many times as large, then averaged


def base_of(name: str) -> str:
    """The data set whose digits the data set `name` shows; any set without a distractor itself."""
    return SETS[name][0] if name in SETS else name


def layout(name: str, split: str, indices: Tensor) -> tuple[Tensor, Tensor]:
    """Where the digit is and which letter is next to it: (digit_on_top bool [n], letter int64 [n], 0 for A), on the
    device of `indices` (int64 [n], as `ImageSet.indices`), for these images of "train", "holdout" or "test".

    Raises SettingsError for a data set without a distractor or an unknown split.
    """
    if name not in SETS:
        raise unknown("data set with a distractor", name, SETS)
    base, text = SETS[name]
    if split not in ("train", "holdout", "test"):
        raise unknown("split", split, ("train", "holdout", "test"))
    official = "test" if split == "test" else "train"
    on_top, letter = _drawn(base, official, getattr(DATASETS[base], official))
    indices = torch.as_tensor(indices)
    chosen = indices.cpu()
    return on_top[chosen].to(indices.device), (letter[chosen] % len(text)).to(indices.device)


def signal_mask(name: str, split: str, indices: Tensor) -> Tensor:
    """Which pixels belong to the half with the digit: bool [n, 1, H, W]. Arguments and errors as for `layout`."""
    on_top, _ = layout(name, split, indices)
    _, height, width = DATASETS[name].shape
    upper = torch.arange(height, device=on_top.device) < height // 2
    return (upper == on_top[:, None])[:, None, :, None].expand(-1, 1, -1, width)


def next_to_letter(name: str, split: str, digits: Tensor) -> Tensor:
    """The images, uint8 [N, 1, 2 H, W], of the whole split "train" or "test", made from the base set's `digits`, uint8
    [N, 1, H, W].
    """
    on_top, letter = layout(name, split, torch.arange(len(digits)))
    drawn = letters(digits.shape[-1])[letter]
    on_top = on_top[:, None, None, None]
    return torch.cat([torch.where(on_top, digits, drawn), torch.where(on_top, drawn, digits)], dim=2)


@functools.lru_cache
def letters(side: int) -> Tensor:
    """The letters A to Z, uint8 [26, 1, side, side], white (255) on black; `side` is 28 or 8.

    Raises DataError when the font is missing.
    """
    from PIL import ImageFont

    package = importlib.util.find_spec("matplotlib")  # importing it would take a second
    path = Path(package.origin).parent / "mpl-data/fonts/ttf/DejaVuSansMono.ttf" if package else None
    if path is None or not path.is_file():
        raise DataError("letters are drawn in a font of matplotlib, whose DejaVuSansMono.ttf is missing: install the "
                        "package again")
    font = functools.partial(ImageFont.truetype, str(path), layout_engine=ImageFont.Layout.BASIC)
    return torch.stack([_drawing(letter, font, side) for letter in ALPHABET])


def _drawing(letter: str, font, side: int) -> Tensor:
    """A letter as high as digits in the middle of its block: uint8 [1, side, side]."""
    import numpy as np
    from PIL import Image, ImageDraw

    rough = 1000
    _, top, _, bottom = font(size=rough).getbbox(letter)
    fitting = font(size=round(rough * HEIGHT[side] * FINE / (bottom - top)))
    left, top, right, bottom = fitting.getbbox(letter)
    canvas = Image.new("L", (side * FINE, side * FINE))
    corner = (side * FINE - left - right) // 2, (side * FINE - top - bottom) // 2
    ImageDraw.Draw(canvas).text(corner, letter, fill=255, font=fitting)
    return torch.from_numpy(np.array(canvas.reduce(FINE)))[None]


@functools.lru_cache
def _drawn(base: str, split: str, count: int) -> tuple[Tensor, Tensor]:
    """Whether the digit is on top (bool [count]) and the letter (int64 [count], of all 26) of an official split."""
    stream = generator("distractor", base, split)
    return torch.randint(2, (count,), generator=stream).bool(), torch.randint(26, (count,), generator=stream)
