"""Data sets as values: what is known of each before it is read, and how much of it is used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from lib.errors import need
from lib.values.declared import Count, Declared, OneOf, whole
from lib.values.keys import later, plain


@dataclass(frozen=True)
class DatasetInfo:
    """What is known of a data set before it is read: image shape, classes and the sizes of its official splits.

    size: the height of the images in pixels and, unless `width` is given, their width. sizes: the smallest and the
    largest side that `Data.size` may be, for sets whose images have various sizes and are resized; None: only `size`.
    unit: the length in pixels of one unit of the set's own space, whose origin is mid-grey: pixels = 0.5 + unit * x,
    and networks see x. files: whether the set is read from a data folder. closed: whether the set is drawn from a
    distribution that is known in closed form, whose coordinates are the pixels.
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
        """Channels, height and width of an image of the default size."""
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
    # Sets of fast.ai. The versions with the short side resized to 320 or 160 pixels have other pixels, so they are sets
    # of their own; no side up to their largest enlarges an image, whose short side becomes 255/224 of the side.
    "imagenette": DatasetInfo(3, 224, 10, 9_469, 3_925, sizes=(64, 512)),
    "imagenette_320": DatasetInfo(3, 224, 10, 9_469, 3_925, sizes=(64, 280)),
    "imagenette_160": DatasetInfo(3, 128, 10, 9_469, 3_925, sizes=(64, 140)),
    "imagewoof": DatasetInfo(3, 224, 10, 9_025, 3_929, sizes=(64, 512)),
    "imagewoof_320": DatasetInfo(3, 224, 10, 9_025, 3_929, sizes=(64, 280)),
    "imagewoof_160": DatasetInfo(3, 128, 10, 9_025, 3_929, sizes=(64, 140)),
    "imagenet": DatasetInfo(3, 224, 1000, 1_281_167, 50_000, sizes=(64, 512)),
    # Each image is a digit and a letter, one above the other (lib/data/distractor.py).
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
CLASS_NAMES = {  # where classes are no digits or letters
    "cifar10": ("plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    "stl10": ("plane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"),
}


@dataclass(frozen=True)
class Data(Declared):
    """A data set and how much of it is used; every subset is random, class-balanced and fixed."""

    name: Annotated[str, OneOf(DATASETS)]  # the data set
    train: Count | None = None  # training images; null: all of the training split that are not held out
    holdout: Annotated[int, whole(0)] = 0  # training images held out to choose epochs and strengths
    test: Count | None = None  # test images; null: the whole test split
    # the side in pixels to which images are resized; null: the set's default, the only choice if all have one size
    size: Count | None = later(None)
    # which test images; null: the first of one fixed order; otherwise the first of an order that this number seeds
    draw: Count | None = later(None)

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
            object.__setattr__(self, "size", None)  # equal meanings are equal values with equal keys

    @property
    def training(self) -> dict:
        """What decides the training images, as plain data: all but the images to measure on."""
        return {name: value for name, value in plain(self).items() if name not in ("test", "draw")}

    @property
    def info(self) -> DatasetInfo:
        return DATASETS[self.name]

    @property
    def side(self) -> int:
        """The side in pixels to which images of various sizes are resized; for sets of one size, their height."""
        return self.size or self.info.size

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the images that networks see."""
        return (self.info.channels, self.size, self.size) if self.size else self.info.shape

    @property
    def n_train(self) -> int:
        return self.info.train - self.holdout if self.train is None else self.train

    @property
    def n_test(self) -> int:
        return self.test or self.info.test

    def count(self, split: str) -> int:
        """The number of images of the split `train`, `test` or `holdout`."""
        return {"train": self.n_train, "test": self.n_test, "holdout": self.holdout}[split]
