"""Data sets that come as a folder of photographs per class: found, checked, decoded once and then kept as one file.

A tree is `<tree>/{train,val}/<class>/<image>`. Images are brought to one size as is usual for ImageNet: the short side
is resized to 255/224 of the wanted side, then the centre is cut out. Test images are cut to the wanted side. Training
images are cut to squares of the resized short side and so keep a border of about 1/14 of the side all round, which
random resized crops use; without the border they equal test images pixel by pixel. Decoded images are cached as one
file per split and side, checked by its SHA-256 when it is read. The file's key depends on the names, sizes and times of
the tree's files, so a changed tree is decoded again.
"""

from __future__ import annotations

import functools
import os
import shutil
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from lib.errors import OneLineError, SettingsError
from lib.runtime import ProgressBar
from lib.store import Store
from lib.values.data import DATASETS
from lib.values.keys import digest

TREES = {"imagenette": "imagenette2", "imagenette_320": "imagenette2-320", "imagenette_160": "imagenette2-160",
         "imagewoof": "imagewoof2", "imagewoof_320": "imagewoof2-320", "imagewoof_160": "imagewoof2-160",
         "imagenet": "imagenet"}
CLASSES = {  # WordNet numbers; a class's label is its position here. ImageNet's are the folders that both splits have
    "imagenette": ("n01440764", "n02102040", "n02979186", "n03000684", "n03028079", "n03394916", "n03417042",
                   "n03425413", "n03445777", "n03888257"),
    "imagewoof": ("n02086240", "n02087394", "n02088364", "n02089973", "n02093754", "n02096294", "n02099601",
                  "n02105641", "n02111889", "n02115641"),
}
ARCHIVES = {name: f"{tree}.tgz" for name, tree in TREES.items() if name != "imagenet"}
PARTS = {"train": "train", "test": "val"}
FILE = "images.bin"
CHUNK = 256  # images decoded between two writes


class DataError(OneLineError):
    """A data set cannot be read; the message is one sentence naming the file, where it belongs and how to get it."""


def resized(side: int) -> int:
    """Pixels of the short side of an image before the centre of `side` pixels is cut out: 255 for 224."""
    return round(side * 255 / 224)


def there(name: str, folder: Path) -> bool:
    """Whether a folder has both splits of a set; nothing is said about their content."""
    return all((folder / TREES[name] / part).is_dir() for part in PARTS.values())


def read(name: str, split: str, side: int, folders: Sequence[Path], cache: Path) -> tuple[Tensor, Tensor]:
    """Images (uint8 [N, 3, S, S]) and labels (int64 [N]) of "train" (S = resized(side)) or "test" (S = side).

    The tree is the first one found in `folders`; it is never written to. The images are memory-mapped from a file in
    `cache`, into which they are decoded first if necessary (once, even if several processes ask for them). They are
    ordered by class, then by file name.

    Raises DataError when the tree is missing or incomplete, an image is corrupt, the cache's disk lacks the space
    (before anything is decoded) or the cache cannot be written.
    """
    tree = _tree(name, split, folders)
    short = resized(side)
    stored = side if split == "test" else short
    key = digest([DATASETS[name].version, short, stored, _listing(tree)])

    def make(work: Path) -> dict:
        _need_room(name, split, len(tree) * 3 * stored**2, work, cache)
        square = functools.partial(_square, short=short, side=stored)
        _decode_all(tree, f"{name} {split}: decoding", square, work / FILE, _again(name))
        return {"images": len(tree), "side": stored, "tree": str(tree.root)}

    try:
        entry = Store(cache).obtain(f"{name}-{split}", key, make)
    except (OSError, SettingsError) as error:  # the latter: a file where the cache should be
        raise DataError(f"{name} cannot be read because its decoded images cannot be kept in {cache} ({error}): free "
                        f"space there or make it writable") from error
    shape = (len(tree), 3, stored, stored)
    flat = torch.from_file(str(entry.path / FILE), shared=False, size=torch.Size(shape).numel(), dtype=torch.uint8)
    return flat.view(shape), torch.tensor(tree.targets)


def _tree(name: str, split: str, folders: Sequence[Path]):
    """torchvision's ImageFolder of a split. Raises DataError unless it has all classes and the known number of images.
    """
    from torchvision.datasets import ImageFolder

    place = Path(TREES[name]) / PARTS[split]
    folder = next((base / place for base in folders if (base / place).is_dir()), None)
    if folder is None:
        raise DataError(f"{name} cannot be read because {folders[0] / place} is missing: {_advice(name, folders)}")
    there = _folders(folder)
    wanted = set(CLASSES.get(name.split("_")[0]) or _classes_of_both(name, split, folder))
    for what, classes in (("lacks the class", wanted - there), ("has, in addition to its classes,", there - wanted)):
        if classes:
            raise DataError(f"the {split} split of {name} has the wrong classes: {folder} {what} "
                            f"{', '.join(sorted(classes)[:10])}; {_again(name)}")
    tree, expected = ImageFolder(str(folder), allow_empty=True), getattr(DATASETS[name], split)
    if len(tree) != expected:
        fewest = min(wanted, key=lambda c, n=Counter(tree.targets): (n[tree.class_to_idx[c]], c))
        raise DataError(f"the {split} split of {name} is incomplete: {folder} holds {len(tree):,} images where "
                        f"{expected:,} are expected (fewest in {fewest}); {_again(name)}")
    return tree


def _folders(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_dir()}


def _classes_of_both(name: str, split: str, folder: Path) -> set[str]:
    """The classes of the other split, which both splits must have. Raises DataError unless both have the known number.
    """
    other = folder.parent / PARTS["train" if split == "test" else "test"]
    if not other.is_dir():
        raise DataError(f"{name} cannot be read because {other} is missing, whose classes both splits must have: "
                        f"{_again(name)}")
    expected = DATASETS[name].classes
    for part in (folder, other):
        count = len(_folders(part))
        if count != expected:
            raise DataError(f"{name} has the wrong classes: {part} holds {count:,} folders of classes where "
                            f"{expected:,} are expected; {_again(name)}")
    return _folders(other)


def _need_room(name: str, split: str, size: int, work: Path, cache: Path) -> None:
    """Raise DataError if decoded images of `size` bytes do not fit on the disk of the cache."""
    torn = work / FILE  # left by a decoding that was killed; it is overwritten
    free = shutil.disk_usage(work).free + (torn.stat().st_size if torn.exists() else 0)
    if size > free:
        raise DataError(f"{name} cannot be read because its decoded {split} images need {size:,} bytes in {cache} and "
                        f"{free:,} are free: free more space there, or set data.size to fewer pixels")


def _advice(name: str, folders: Sequence[Path]) -> str:
    """What to do about a missing tree."""
    if name not in ARCHIVES:
        return (f"put the images of ILSVRC 2012 there, a folder for each class, or name the folder that holds the tree "
                f"{TREES[name]} in REPRO_DATA (see data/README.md)")
    kin = [other for other in TREES if other != name and other.split("_")[0] == name.split("_")[0]]
    lies = [other for other in kin if any((base / TREES[other]).is_dir() for base in folders)]
    instead = f", or take the data set {lies[0]}, whose tree {TREES[lies[0]]} is there" if lies else ""
    return (f"download {ARCHIVES[name]} and unpack it in {folders[0]}, or name the folder that holds the tree in "
            f"REPRO_DATA (see data/README.md){instead}")


def _again(name: str) -> str:
    """What to do about an incomplete tree."""
    return f"unpack {ARCHIVES[name]} again" if name in ARCHIVES else "lay it out again as data/README.md says"


def _listing(tree) -> list:
    """Name, size in bytes and modification time of each file."""
    stats = ((path, os.stat(path)) for path, _ in tree.samples)
    return [[os.path.relpath(path, tree.root), stat.st_size, stat.st_mtime_ns] for path, stat in stats]


def _decode_all(tree, text: str, square, target: Path, again: str) -> None:
    """Write all images of a tree one after another, decoded by as many threads as torch may use. `again`: the advice in
    the error for a corrupt image.
    """

    def decoded(sample: tuple[str, int]) -> bytes:
        try:
            return square(_opened(sample[0]))
        except Exception as error:  # whatever Pillow raises: OSError, SyntaxError, struct.error ...
            raise DataError(f"{sample[0]} cannot be decoded ({type(error).__name__}: {' '.join(str(error).split())}): "
                            f"{again}") from error

    with (
        open(target, "wb") as file,
        ThreadPoolExecutor(torch.get_num_threads()) as pool,
        ProgressBar(len(tree), text, "image") as bar,
    ):
        for start in range(0, len(tree), CHUNK):
            for image in pool.map(decoded, tree.samples[start : start + CHUNK]):
                file.write(image)
                bar.step()


def _opened(path: str):
    """An RGB picture from a file. Pillow cuts what has more than 8 bits in its only channel; that is refused."""
    from PIL import Image

    with Image.open(path) as image:
        if image.mode[0] in "IF":
            raise ValueError(f"its pixels have more than 8 bits, mode {image.mode}: write it anew with 8")
        return image.convert("RGB")


def _square(image, short: int, side: int) -> bytes:
    """The centre, [3, side, side] as bytes, of an RGB picture after its short side was resized to `short` pixels."""
    import numpy as np
    from torchvision.transforms import functional

    image = functional.center_crop(functional.resize(image, short), [side, side])
    return np.asarray(image).transpose(2, 0, 1).tobytes()
