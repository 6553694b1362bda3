"""Data sets as values: what is known of each before it is read, and how much of it is used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from lib.errors import need
from lib.values.declared import Count, Declared, OneOf, whole
from lib.values.keys import later


@dataclass(frozen=True)
class DatasetInfo:
    """What is known of a data set before it is read: image shape, classes and the sizes of its official splits.

    size: the height of its images in pixels and, unless `width` says otherwise, their width. sizes: the smallest and
    the largest side that `Data.size` may ask for instead, where images come in sizes of their own and are resized; None
    where `size` is all there is. unit: the length in pixels of one unit of the set's own space, whose origin is plain
    grey: pixels = 0.5 + unit * x; networks are given x. files: whether it is read from a data folder. closed: whether
    it is drawn from a distribution that is known in closed form, whose pixels are coordinates.
    """

    channels: int
    size: int
    classes: int
    train: int
    test: int
    version: str = "1"  # raised when the project's own split or reading of the set changes
    sizes: tuple[int, int] | None = None
    width: int | None = None
    unit: float = 0.25
    files: bool = True
    closed: bool = False

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image of the size that is the set's own."""
        return self.channels, self.size, self.width or self.size


DATASETS = {
    # scikit-learn's 1,797 images, split here (class-balanced, fixed)
    "digits": DatasetInfo(1, 8, 10, 1197, 600, files=False),
    "mnist": DatasetInfo(1, 28, 10, 60_000, 10_000),
    "fashion_mnist": DatasetInfo(1, 28, 10, 60_000, 10_000),
    "cifar10": DatasetInfo(3, 32, 10, 50_000, 10_000),
    "cifar100": DatasetInfo(3, 32, 100, 50_000, 10_000),
    "svhn": DatasetInfo(3, 32, 10, 73_257, 26_032),
    "stl10": DatasetInfo(3, 96, 10, 5_000, 8_000),
    # Trees of fast.ai, each also with the short side brought to 320 and 160 pixels before: other pixels, so other sets.
    # Up to the largest side no image of those two is enlarged, whose short side becomes 255/224 of the side.
    "imagenette": DatasetInfo(3, 224, 10, 9_469, 3_925, sizes=(64, 512)),
    "imagenette_320": DatasetInfo(3, 224, 10, 9_469, 3_925, sizes=(64, 280)),
    "imagenette_160": DatasetInfo(3, 128, 10, 9_469, 3_925, sizes=(64, 140)),
    "imagewoof": DatasetInfo(3, 224, 10, 9_025, 3_929, sizes=(64, 512)),
    "imagewoof_320": DatasetInfo(3, 224, 10, 9_025, 3_929, sizes=(64, 280)),
    "imagewoof_160": DatasetInfo(3, 128, 10, 9_025, 3_929, sizes=(64, 140)),
    "imagenet": DatasetInfo(3, 224, 1000, 1_281_167, 50_000, sizes=(64, 512)),
    # A digit and a letter, one above the other (lib/data/distractor.py).
    "mnist_letter_a": DatasetInfo(1, 56, 10, 60_000, 10_000, width=28),
    "mnist_letters": DatasetInfo(1, 56, 10, 60_000, 10_000, width=28),
    "digits_letter_a": DatasetInfo(1, 16, 10, 1197, 600, width=8, files=False),
    "digits_letters": DatasetInfo(1, 16, 10, 1197, 600, width=8, files=False),
    # Made from other sets (lib/data/relabelled.py): the same images with other classes, or in another format.
    "cifar10_permuted": DatasetInfo(3, 32, 10, 50_000, 10_000),
    "digits_permuted": DatasetInfo(1, 8, 10, 1197, 600, files=False),
    "mnist_rgb32": DatasetInfo(3, 32, 10, 60_000, 10_000),
    # Drawn from closed forms (lib/data/closed_forms.py); their pixels are coordinates.
    "gaussian_subspace": DatasetInfo(1, 8, 4, 50_000, 10_000, width=16, files=False, closed=True),
    "curved_torus": DatasetInfo(1, 8, 4, 50_000, 10_000, width=16, files=False, closed=True),
    "line_of_modes": DatasetInfo(1, 1, 2, 6000, 600, width=2, unit=1 / 256, files=False, closed=True),
}


@dataclass(frozen=True)
class Data(Declared):
    """A data set and how much of it is used; every subset is random, class-balanced and fixed."""

    name: Annotated[str, OneOf(DATASETS)]  # the data set
    train: Count | None = None  # images of the training split that are trained on; null: all that are not held out
    holdout: Annotated[int, whole(0)] = 0  # images of the training split set aside for choosing (epochs, strengths)
    test: Count | None = None  # images of the test split that are measured on; null: all
    # the side in pixels that images of any size are brought to; null, and nothing else for sets of one size: their own
    size: Count | None = later(None)

    where = "data"

    def check_together(self):
        info = self.info
        self._check_size()
        half, most = info.train // 2, info.train - self.holdout
        need(self.holdout <= half, "data.holdout", self.holdout, f"a whole number from 0 to {half} for {self.name}")
        need(self.train is None or info.classes <= self.train <= most, "data.train", self.train,
             f"a whole number from {info.classes} to {most} for {self.name} with {self.holdout} held out, or null")
        need(self.test is None or info.classes <= self.test <= info.test, "data.test", self.test,
             f"a whole number from {info.classes} to {info.test} for {self.name}, or null for all")

    def _check_size(self):
        info = self.info
        if info.sizes is None:
            _, height, width = info.shape
            fixed = f"null for {self.name}, whose images all have {height} x {width} pixels"
            need(self.size is None, "data.size", self.size, fixed)
            return
        low, high = info.sizes
        fits = self.size is None or low <= self.size <= high
        allowed = f"a whole number of pixels from {low} to {high} for {self.name}, or null for {info.size}"
        need(fits, "data.size", self.size, allowed)
        if self.size == info.size:
            object.__setattr__(self, "size", None)  # what means the same is the same value and has the same key

    @property
    def info(self) -> DatasetInfo:
        return DATASETS[self.name]

    @property
    def side(self) -> int:
        """The side in pixels that images of any size are brought to; for sets of one size, their height."""
        return self.size or self.info.size

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the images that networks see."""
        return (self.info.channels, self.size, self.size) if self.size else self.info.shape

    @property
    def n_train(self) -> int:
        return self.info.train - self.holdout if self.train is None else self.train
