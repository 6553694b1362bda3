"""Made-up data sets for rehearsals: noise with a colour for each class, in the files of the real sets, so that the real
readers read them.
"""

from __future__ import annotations

import gzip
import pickle
from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np

from lib.data import distractor, folders, relabelled
from lib.runtime import seed_of
from lib.values.data import DATASETS
from lib.values.external import KNOWN

PHOTOGRAPH = (96, 80)  # height and width of a made-up photograph


def write(names: Collection[str], weights: Collection[str], place: Path) -> list[str]:
    """Write the files of the sets `names` with the sizes that DATASETS now has, and the files of the networks `weights`
    that others trained (keys of KNOWN), into the folder `place`. Returns the sets that were written, sorted.
    """
    bases = {relabelled.base_of(distractor.base_of(name)) for name in names}
    made = sorted(name for name in bases if DATASETS[name].files)
    place.mkdir(parents=True, exist_ok=True)
    for name in made:
        writer: Callable = _tree if name in folders.TREES else WRITERS[name]
        for split in ("train", "test"):
            writer(name, split, *_images(name, split), place)
    for name in weights:
        _weights(name, Path(KNOWN[name].file))
    return made


def _images(name: str, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images, uint8 [N, C, H, W], and labels [N], the classes in turn."""
    info = DATASETS[name]
    count, classes = getattr(info, split), info.classes
    shape = (3, *PHOTOGRAPH) if name in folders.TREES else info.shape
    draw = np.random.default_rng(seed_of("made up", name, split))
    labels = np.arange(count) % classes
    colours = np.random.default_rng(seed_of("made up", name)).integers(40, 216, (classes, shape[0], 1, 1))
    noise = draw.normal(0, 30, (count, *shape))
    return (colours[labels] + noise).clip(0, 255).astype(np.uint8), labels


def _cifar(name: str, split: str, images: np.ndarray, labels: np.ndarray, place: Path) -> None:
    ten = name == "cifar10"
    folder = place / ("cifar-10-batches-py" if ten else "cifar-100-python")
    folder.mkdir(parents=True, exist_ok=True)
    parts = [f"data_batch_{number}" for number in range(1, 6)] if ten and split == "train" else [
        "test_batch" if ten else split]
    kind = "labels" if ten else "fine_labels"
    for part, rows in zip(parts, np.array_split(np.arange(len(labels)), len(parts)), strict=True):
        batch = {"data": images[rows].reshape(len(rows), -1), kind: labels[rows].tolist()}
        (folder / part).write_bytes(pickle.dumps(batch))
    names = {("label_names" if ten else "fine_label_names"): [str(k) for k in range(DATASETS[name].classes)]}
    (folder / ("batches.meta" if ten else "meta")).write_bytes(pickle.dumps(names))


def _svhn(name: str, split: str, images: np.ndarray, labels: np.ndarray, place: Path) -> None:
    from scipy.io import savemat

    place.mkdir(parents=True, exist_ok=True)
    digits = np.where(labels == 0, 10, labels).astype(np.uint8)  # the digit 0 is called 10 there
    savemat(place / f"{split}_32x32.mat", {"X": images.transpose(2, 3, 1, 0), "y": digits[:, None]})


def _stl10(name: str, split: str, images: np.ndarray, labels: np.ndarray, place: Path) -> None:
    folder = place / "stl10_binary"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{split}_X.bin").write_bytes(images.transpose(0, 1, 3, 2).tobytes())  # by columns
    (folder / f"{split}_y.bin").write_bytes((labels + 1).astype(np.uint8).tobytes())


def _idx(name: str, split: str, images: np.ndarray, labels: np.ndarray, place: Path) -> None:
    folder = place / {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}[name] / "raw"
    folder.mkdir(parents=True, exist_ok=True)
    start = "train" if split == "train" else "t10k"
    for what, array in (("images-idx3", images[:, 0]), ("labels-idx1", labels.astype(np.uint8))):
        header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
        (folder / f"{start}-{what}-ubyte.gz").write_bytes(gzip.compress(header + array.tobytes()))


def _tree(name: str, split: str, images: np.ndarray, labels: np.ndarray, place: Path) -> None:
    from PIL import Image

    folder = place / folders.TREES[name] / folders.PARTS[split]
    classes = folders.CLASSES.get(name.split("_")[0]) or [f"n{k:08}" for k in range(DATASETS[name].classes)]
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        path = folder / classes[label] / f"{number}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.transpose(1, 2, 0)).save(path, "JPEG")


def _weights(name: str, path: Path) -> None:
    """An untrained network with the tensor names that `lib.models.external` takes from other projects."""
    import torch

    from lib.models import network
    from lib.runtime import initialise_with

    info = DATASETS[KNOWN[name].data]
    with initialise_with("made up", name):
        net = network(KNOWN[name].arch, info.shape, info.classes)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({k: v for k, v in net.state_dict().items() if not k.startswith("normalise.")}, path)


WRITERS = {"cifar10": _cifar, "cifar100": _cifar, "svhn": _svhn, "stl10": _stl10, "mnist": _idx, "fashion_mnist": _idx}
