"""Data sets as tensors, each as a whole on one device, and the fixed subsets that runs use.

Files are looked for in the folder that `REPRO_DATA` names, then in the project's own `data/`; a missing set that
torchvision knows is downloaded into `data/` (never into `REPRO_DATA`), and a corrupt file is named and left as it is.
`data/README.md` says where each file belongs.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import importlib.util
import math
import os
import socket
import zlib
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lib.data import closed_forms, distractor, folders, relabelled
from lib.data.augment import Placement, augment, centre
from lib.data.folders import DataError
from lib.errors import need, unknown
from lib.profiles import miniature
from lib.runtime import ROOT, generator, results
from lib.values.data import DATASETS, Data

SPLITS = ("train", "holdout", "test")
OWN = ROOT / "data"
TORCHVISION = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "cifar10": "CIFAR10", "cifar100": "CIFAR100",
               "svhn": "SVHN", "stl10": "STL10"}
UNPACKED = {  # md5 of a packed file of MNIST (first four) or Fashion-MNIST, and of what is inside
    "f68b3c2dcbeaaa9fbdd348bbdeb94873": "6bbc9ace898e44ae57da46a324031adb",
    "d53e105ee54ea40749a09fcbcd1e9432": "a25bea736e30d166cdddb491f175f624",
    "9fb629c4189551a2d022fa330f9573f3": "2646ac647ad5339dbf082846283269ea",
    "ec29112dd5afa0611ce80d1b7f02629c": "27ae3e4e09519cfbb04c329615203637",
    "8d4fb7e6c68d591d4c3dfef9ec88bf0d": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
    "25c81989df183df01b3e8a0aad5dffbe": "9018921c3c673c538a1fc5bad174d6f9",
    "bef4ecab320f06d8554ea6380940ec79": "8181f5470baa50b63fa0f6fddb340f0a",
    "bb300cfdad3c16e7a12a480ee83cd310": "15d484375f8d13e6eb1aabb0c3f46965",
}


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Labelled images on one device.

    images: uint8 [N, C, H, W], or float32 pixels if they come from a closed form. labels: int64 [N]. indices: int64
    [N], each image's position in its official split ("digits": in this project's split). name: the data set. split:
    "train", "holdout" or "test". side: height and width of the part that networks see, which is the centre of images
    that have a border for resized crops (None: the whole image).
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    name: str
    split: str
    side: int | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device) -> ImageSet:
        """The same images on another device."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device),
                       indices=self.indices.to(device))

    def take(self, positions) -> ImageSet:
        """The images at these positions of this set (int64 tensor, list or slice), in that order."""
        if not isinstance(positions, slice):
            positions = torch.as_tensor(positions, device=self.images.device)
        return replace(self, images=self.images[positions], labels=self.labels[positions],
                       indices=self.indices[positions])

    def pixels(self, sel=None) -> Tensor:
        """The pixels, float32 [n, C, H, W] in [0, 1] (bytes / 255; closed forms may leave it), of all images or of
        those that the index `sel` picks, without their border.
        """
        return _pixels(centre(self.images if sel is None else self.images[sel], self.side))

    def augmented(self, sel, kind: str, generator: torch.Generator) -> tuple[Tensor, Placement]:
        """The images that the index `sel` picks, float32 [n, C, H, W], after `augment`, and where each was put; resized
        crops use the border too. Raises what `augment` raises.
        """
        return augment(_pixels(self.images[sel]), kind, generator, self.side)


def _pixels(images: Tensor) -> Tensor:
    """A copy as float32, with bytes divided by 255."""
    return images.clone() if images.is_floating_point() else images.to(torch.float32) / 255


def load(data: Data, split: str, device="cpu") -> ImageSet:
    """The images of `split` "train", "holdout" or "test" that `data` names, on `device`.

    Train and holdout both come from the official training split and are disjoint. Every subset is class-balanced
    (counts differ by at most 1 while each class has images left), random, in a fixed order, and the same on every
    call and machine: it is the beginning of one fixed order, of test images one for each `data.draw`, so smaller
    subsets are contained in larger ones.

    Raises SettingsError for an unknown split or a holdout of size 0, DataError when files are missing, corrupt or
    cannot be opened.
    """
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    need(split != "holdout" or data.holdout > 0, "data.holdout", data.holdout, "at least 1 to have a holdout split")
    official = "test" if split == "test" else "train"
    try:
        images, labels = _official(data.name, official, root() if data.info.files else None, data.side)
    except OSError as error:
        raise DataError(f"{data.name} cannot be read because {error.filename or 'one of its files'} cannot be opened "
                        f"({error.strerror or error}): let it be read, or name a folder with a good copy in REPRO_DATA"
                        ) from error
    dealer = distractor.base_of(relabelled.base_of(data.name))  # the same images in all sets of a base
    drawn = ("draw", data.draw) if split == "test" and data.draw else ()
    shuffled = torch.randperm(len(labels),
                              generator=generator("split", dealer, DATASETS[dealer].version, official, *drawn))
    first = _dealt(shuffled, labels)
    if split == "test":
        chosen = first[: data.test]
    elif split == "holdout":
        chosen = first[: data.holdout]
    else:  # dealt from the other end, so that small training subsets do not change with the size of the holdout
        rest = shuffled.flip(0)
        rest = rest[~torch.isin(rest, first[: data.holdout])]
        chosen = _dealt(rest, labels)[: data.train]
    side = None if images.shape[1:] == data.shape else data.side
    return ImageSet(images[chosen], labels[chosen], chosen, data.name, split, side).to(device)


def root() -> Path:
    """The folder that data are read from: `REPRO_DATA`, else the project's own `data/`. Raises DataError if REPRO_DATA
    names no folder.
    """
    named = os.environ.get("REPRO_DATA")
    if not named:
        return OWN
    folder = Path(named).expanduser().resolve()
    if not folder.is_dir():
        raise DataError(f"REPRO_DATA = {named} is not a folder: name one that holds the data sets, or unset it")
    return folder


def absent(names: Collection[str]) -> list[str]:
    """The sets from which the data sets `names` are made or read and whose files are in neither folder that they are
    read from, sorted. Nothing is read or downloaded.
    """
    bases = {relabelled.base_of(distractor.base_of(name) if name in distractor.SETS else name) for name in names}
    places = (Path(os.environ.get("REPRO_DATA") or OWN).expanduser(), OWN)
    return sorted(name for name in bases
                  if DATASETS[name].files and not any(_holds(place, name) for place in places))


def _holds(folder: Path, name: str) -> bool:
    if name in folders.TREES:
        return folders.there(name, folder)
    from torchvision import datasets

    kind = getattr(datasets, TORCHVISION[name])
    return not any(_missing(kind, split, folder) for split in ("train", "test"))


def _dealt(order: Tensor, labels: Tensor) -> Tensor:
    """`order` rearranged into rounds of one image per class, so that every beginning of it is balanced; the order
    within a class stays.
    """
    classes = labels[order]
    grouped = torch.argsort(classes, stable=True)
    counts = torch.bincount(classes)
    turn = torch.empty_like(order)
    turn[grouped] = torch.arange(len(order)) - (counts.cumsum(0) - counts)[classes[grouped]]
    return order[torch.argsort(turn, stable=True)]


# --------------------------------------------------------------------------------------------------- official splits


@functools.lru_cache(maxsize=8)
def _official(name: str, split: str, folder: Path | None, side: int) -> tuple[Tensor, Tensor]:
    """All images ([N, C, H, W]) and labels (int64 [N]) of an official split, read or drawn once per process. Raises
    DataError for files that are missing, corrupt or incomplete.
    """
    if name in folders.TREES:
        return folders.read(name, split, side, (folder, OWN), _cache())
    if name in closed_forms.FORMS:
        return closed_forms.of(name).sample(split)
    if name in distractor.SETS:
        base = distractor.base_of(name)
        digits, labels = _official(base, split, folder, DATASETS[base].size)
        return distractor.next_to_letter(name, split, digits), labels
    if name in relabelled.SETS:
        base = relabelled.base_of(name)
        return relabelled.relabel(name, *_official(base, split, folder, DATASETS[base].size))
    images, labels = _digits(split) if name == "digits" else _files_read(name, split, folder)
    shape = (getattr(DATASETS[name], split), *DATASETS[name].shape)
    if images.numel() != torch.Size(shape).numel() or len(labels) != shape[0]:
        raise DataError(f"the {split} split of {name} is incomplete: {len(labels)} labels and {images.numel()} pixel "
                        f"values were read where {shape[0]} images of {shape[1:]} are expected; fetch its files again")
    if labels.min() < 0 or labels.max() >= DATASETS[name].classes:
        raise DataError(f"the {split} split of {name} is not as it should be: its labels are {labels.min()} to "
                        f"{labels.max()} where 0 to {DATASETS[name].classes - 1} are expected; fetch its files again")
    return images.reshape(shape), labels.long()


def _cache() -> Path:
    """Where decoded images are kept: in the project's `data/` or, if that cannot be written, among the results."""
    place = (miniature.folder() or OWN) / "cache"
    with contextlib.suppress(OSError):
        place.mkdir(parents=True, exist_ok=True)
    return place if os.access(place, os.W_OK) else results() / "cache"


def _digits(split: str) -> tuple[Tensor, Tensor]:
    """scikit-learn's digits, with pixels from 0 to 16, in a class-balanced split of our own (they have none).

    Their file is read here as `load_digits` does: importing scikit-learn would cost every process five seconds.
    """
    package = importlib.util.find_spec("sklearn")
    file = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz" if package else None
    if file is None or not file.exists():
        raise DataError("the digits come with scikit-learn, whose digits.csv.gz is missing: install the package again")
    try:
        rows = torch.as_tensor(np.loadtxt(file, delimiter=",", ndmin=2))
        if rows.shape != (1797, 65):
            raise ValueError(f"{rows.shape[0]} rows of {rows.shape[1]} numbers")
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(f"the digits come with scikit-learn, whose digits.csv.gz cannot be read "
                        f"({' '.join(str(error).split())}): install the package again") from error
    images, labels = rows[:, :-1].mul(255 / 16).round().to(torch.uint8), rows[:, -1].long()
    shuffled = torch.randperm(len(labels), generator=generator("split", "digits", DATASETS["digits"].version))
    dealt, n_test = _dealt(shuffled, labels), DATASETS["digits"].test
    mine = (dealt[:n_test] if split == "test" else dealt[n_test:]).sort().values
    return images[mine], labels[mine]


def _files_read(name: str, split: str, folder: Path) -> tuple[Tensor, Tensor]:
    """Find (or download), verify and read a split through torchvision."""
    from torchvision import datasets

    kind = getattr(datasets, TORCHVISION[name])
    folder = _found(name, kind, split, folder)
    files = _files(kind, split, folder)
    _verify(name, files)
    if hasattr(kind, "resources"):  # torchvision reads these unpacked only, and without looking at their md5
        return tuple(_idx(name, path) for path, _ in files)
    # torchvision's own check hashes both splits (and STL-10's unlabelled 2.6 GB); ours has seen what is read here.
    known = {"meta": {**kind.meta, "md5": None}} if hasattr(kind, "meta") else {}
    checked = type(kind.__name__, (kind,), {"_check_integrity": lambda self: True, **known})
    read = checked(folder, **_which(kind, split))
    images = torch.as_tensor(read.data)
    if images.shape[-1] == 3:  # CIFAR comes as NHWC
        images = images.permute(0, 3, 1, 2)
    return images.contiguous(), torch.as_tensor(read.labels if hasattr(read, "labels") else read.targets)


def _which(kind, split: str) -> dict:
    return {"split": split} if kind.__name__ in ("SVHN", "STL10") else {"train": split == "train"}


def _files(kind, split: str, folder: Path) -> list[tuple[Path, str | None]]:
    """Path and md5 (from torchvision's tables) of each file that the split is read from."""
    if hasattr(kind, "split_list"):  # SVHN
        _, file, md5 = kind.split_list[split]
        return [(folder / file, md5)]
    if hasattr(kind, "resources"):  # MNIST and its like: images, then labels; an unpacked file will do
        raw = folder / kind.__name__ / "raw"
        pair = kind.resources[:2] if split == "train" else kind.resources[2:4]
        there = [(raw / Path(file).stem).is_file() and not (raw / file).is_file() for file, _ in pair]
        return [(raw / Path(file).stem, UNPACKED.get(md5)) if unpacked else (raw / file, md5)
                for (file, md5), unpacked in zip(pair, there, strict=True)]
    listed = [pair for pair in (kind.train_list if split == "train" else kind.test_list) if "unlabeled" not in pair[0]]
    if hasattr(kind, "meta"):
        listed.append((kind.meta["filename"], kind.meta["md5"]))
    return [(folder / kind.base_folder / file, md5) for file, md5 in listed]


def _missing(kind, split: str, folder: Path) -> list[Path]:
    return [path for path, _ in _files(kind, split, folder) if not path.is_file()]


def _found(name: str, kind, split: str, folder: Path) -> Path:
    """The folder that has all files of the split: `folder`, else the project's own, after a download if necessary."""
    from filelock import FileLock

    missing = _missing(kind, split, folder)
    if not missing:
        return folder
    if miniature.folder():
        raise DataError(f"{name} cannot be read because {missing[0]} is missing, which the rehearsal has not made up")
    timeout = socket.getdefaulttimeout()
    try:
        OWN.mkdir(parents=True, exist_ok=True)
        with FileLock(OWN / f".{name}.lock"):  # jobs that start together download once
            if _missing(kind, split, OWN):
                _verify(name, [(p, md5) for s in ("train", "test") for p, md5 in _files(kind, s, OWN) if p.is_file()])
                socket.setdefaulttimeout(30)  # torchvision sets none: without it a dead network hangs for minutes
                kind(OWN, **_which(kind, split), download=True)
    except DataError:
        raise
    except Exception as error:  # whatever torchvision, urllib, tarfile or the file system raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise DataError(
            f"{name} cannot be read because {missing[0]}{more} is missing and the download failed ({reason}): put the "
            f"file there, or name the folder that holds the data sets in REPRO_DATA (see data/README.md)") from error
    finally:
        socket.setdefaulttimeout(timeout)
    return OWN


def _verify(name: str, files: list[tuple[Path, str | None]]) -> None:
    from torchvision.datasets.utils import check_integrity

    for path, md5 in files:
        if not check_integrity(path, None if miniature.folder() else md5):  # a rehearsal has made its files up
            raise DataError(f"{name} cannot be read because {path} is corrupt (its md5 is not {md5}): delete the file "
                            f"and fetch it again, or name a folder with a good copy in REPRO_DATA")


def _idx(name: str, path: Path) -> Tensor:
    """The uint8 values of an IDX file, packed or not, in the shape that its header names."""
    content = path.read_bytes()
    content = gzip.decompress(content) if path.suffix == ".gz" else content
    header = 4 + 4 * sum(content[3:4])  # how many lengths follow, each in four bytes
    shape = [int.from_bytes(content[start : start + 4]) for start in range(4, header, 4)]
    if content[:3] != b"\0\0\x08" or not shape or len(content) != header + math.prod(shape):
        raise DataError(f"{name} cannot be read because {path} is not a whole IDX file of bytes: delete the file and "
                        f"fetch it again, or name a folder with a good copy in REPRO_DATA")
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=header).reshape(shape)
