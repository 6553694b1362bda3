"""Data sets: fixed balanced subsets, readers on files in torchvision's layouts, errors that say what to do."""

import dataclasses
import gzip
import hashlib
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from torchvision import datasets

from lib.data import DataError, ImageSet, distractor, images, load, relabelled
from lib.errors import SettingsError
from lib.runtime import ROOT, generator
from lib.values.data import DATASETS, Data

N_TRAIN, N_TEST = 30, 20
GOLDEN_TRAIN, GOLDEN_TEST = [1190, 432, 351, 1054, 633, 214], [587, 144, 352, 307, 526, 10]


# ------------------------------------------------------------------------------------------------------------ subsets


def counts(labels):
    return torch.bincount(labels, minlength=10)


def test_every_start_of_a_dealt_order_is_as_balanced_as_its_classes_allow():
    labels = torch.repeat_interleave(torch.arange(4), torch.tensor([3, 40, 17, 25]))
    dealt = images._dealt(torch.randperm(85, generator=generator("test")), labels)
    assert torch.equal(dealt.sort().values, torch.arange(85))
    total = torch.bincount(labels)
    for n in range(1, 86):
        got = torch.bincount(labels[dealt[:n]], minlength=4)
        level = got.max()
        assert ((got >= level - 1) | (got == total)).all(), (n, got)


def test_digits_splits_are_whole_balanced_and_fixed():
    train, test = load(Data("digits"), "train"), load(Data("digits"), "test")
    assert (len(train), len(test)) == (DATASETS["digits"].train, DATASETS["digits"].test)
    assert counts(test.labels).tolist() == [60] * 10
    assert train.images.shape == (1197, 1, 8, 8) and train.images.dtype == torch.uint8
    assert train.labels.dtype == train.indices.dtype == torch.int64
    assert train.images.min() == 0 and train.images.max() == 255
    assert torch.equal(train.indices.sort().values, torch.arange(1197))
    # Golden: whoever changes this order changes all results and raises the data set's version in lib/values/data.py.
    assert test.indices[:6].tolist() == GOLDEN_TEST and train.indices[:6].tolist() == GOLDEN_TRAIN


def test_digits_keep_their_sixteen_grey_levels_and_share_no_image_between_splits():
    from sklearn.datasets import load_digits

    train, test = load(Data("digits"), "train"), load(Data("digits"), "test")
    both = torch.cat([train.images, test.images]).flatten(1).float() * 16 / 255
    known = torch.as_tensor(load_digits().images).flatten(1).float()
    assert (both - both.round()).abs().max() < 0.05
    assert sorted(map(tuple, both.round().int().tolist())) == sorted(map(tuple, known.int().tolist()))


def test_subsets_are_nested_balanced_and_in_no_class_order():
    small, large = (load(Data("digits", train=n), "train") for n in (100, 205))
    assert torch.equal(large.indices[:100], small.indices)
    assert counts(small.labels).tolist() == [10] * 10 and set(counts(large.labels).tolist()) == {20, 21}
    assert len(torch.unique(small.labels.view(10, 10), dim=0)) > 1
    again = load(Data("digits", train=100), "train")
    assert torch.equal(again.images, small.images) and torch.equal(again.labels, small.labels)


@pytest.mark.parametrize("held", [10, 137, 598])
def test_holdout_and_training_are_disjoint_and_balanced_and_make_up_the_split(held):
    data = Data("digits", holdout=held)
    holdout, train = load(data, "holdout"), load(data, "train")
    assert len(holdout) == held and len(train) == data.n_train
    assert torch.equal(torch.cat([holdout.indices, train.indices]).sort().values, torch.arange(1197))
    assert np.ptp(counts(holdout.labels).tolist()) <= 1
    subset = load(dataclasses.replace(data, train=123), "train")
    assert np.ptp(counts(subset.labels).tolist()) <= 1 and torch.equal(subset.indices, train.indices[:123])
    assert torch.equal(subset.indices, load(Data("digits", train=123), "train").indices)  # the holdout does not matter


def test_a_caller_cannot_spoil_the_cached_images():
    first = load(Data("digits"), "test")
    kept = first.images.clone()
    first.images.zero_()
    assert torch.equal(load(Data("digits"), "test").images, kept)


def test_impossible_splits_are_refused():
    with pytest.raises(SettingsError, match="unknown split 'tset'; did you mean 'test'"):
        load(Data("digits"), "tset")
    with pytest.raises(SettingsError, match="data.holdout = 0"):
        load(Data("digits"), "holdout")


def same_images_other_classes(name, **used):
    """Compare a permuted set with its base, split by split."""
    for split in ("train", "holdout", "test") if "holdout" in used else ("train", "test"):
        base, twin = (load(Data(n, **used), split) for n in (relabelled.base_of(name), name))
        assert (twin.name, twin.split) == (name, split)
        assert torch.equal(twin.images, base.images) and torch.equal(twin.indices, base.indices)
        classes = DATASETS[name].classes
        told = [twin.labels[base.labels == k].unique() for k in range(classes)]
        assert all(len(t) == 1 for t in told) and sorted(int(t) for t in told) == list(range(classes))
        assert not (twin.labels == base.labels).any(), "no class keeps its number"
        assert torch.equal(twin.labels, (base.labels + 1) % classes)  # golden: fixed, the same in both splits


@pytest.mark.parametrize("used", [{}, {"train": 205, "holdout": 95, "test": 33}])
def test_permuted_digits_are_the_digits_with_other_classes(used):
    same_images_other_classes("digits_permuted", **used)


def test_a_twin_has_the_shape_and_the_splits_of_its_format():
    for name, base in relabelled.SETS.items():
        ours, theirs, photographs = (DATASETS[n] for n in (name, base, "cifar10"))
        assert (ours.classes, ours.train, ours.test) == (theirs.classes, theirs.train, theirs.test)
        assert ours.shape == (photographs if name == "mnist_rgb32" else theirs).shape
        assert ours.files == theirs.files and ours.version == theirs.version
    assert relabelled.base_of("svhn") == "svhn"


def test_image_set_takes_and_gives_pixels():
    whole = ImageSet(torch.arange(256, dtype=torch.uint8).view(64, 1, 2, 2), torch.arange(64), torch.arange(64) + 5,
                     "digits", "train")
    part = whole.take(torch.tensor([3, 1]))
    assert len(part) == 2 and part.indices.tolist() == [8, 6] and part.images[0, 0, 0, 0] == 12
    assert len(whole.take(slice(4))) == len(whole.take([0, 1, 2, 3])) == 4
    pixels = whole.pixels()
    assert pixels.dtype == torch.float32 and pixels.min() == 0 and pixels.max() == 1
    assert torch.equal(pixels, whole.images / 255) and torch.equal(whole.pixels(torch.tensor([3, 1])), part.pixels())
    real = dataclasses.replace(whole, images=whole.images.float() / 100)
    assert torch.equal(real.pixels(), whole.images / 100)  # float images are pixels already
    moved = whole.to("meta")
    assert moved.images.device.type == moved.labels.device.type == moved.indices.device.type == "meta"


# ---------------------------------------------------------------------------------------------- files that tests write


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def put(path: Path, content: bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return md5(path)


def write(name: str, folder: Path, monkeypatch) -> dict:
    """A small data set in torchvision's on-disk layout, with the md5 sums that torchvision then expects."""
    info = dataclasses.replace(DATASETS[name], train=N_TRAIN, test=N_TEST)
    monkeypatch.setitem(DATASETS, name, info)
    kind = getattr(datasets, images.TORCHVISION[name])
    rng = np.random.default_rng(0)
    truth = {split: (rng.integers(0, 256, (n, info.channels, info.size, info.size), dtype=np.uint8),
                     np.arange(n) % info.classes) for split, n in (("train", N_TRAIN), ("test", N_TEST))}
    if name.startswith("cifar"):
        key = "labels" if name == "cifar10" else "fine_labels"
        files = {"train": kind.train_list[0][0], "test": kind.test_list[0][0]}
        sums = {split: put(folder / kind.base_folder / file,
                           pickle.dumps({"data": truth[split][0].reshape(-1, 3072), key: truth[split][1].tolist()}))
                for split, file in files.items()}
        meta = put(folder / kind.base_folder / kind.meta["filename"], pickle.dumps({kind.meta["key"]: list("abc")}))
        monkeypatch.setattr(kind, "train_list", [[files["train"], sums["train"]]])
        monkeypatch.setattr(kind, "test_list", [[files["test"], sums["test"]]])
        monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": meta})
    elif name.endswith("mnist"):
        sums = []
        for (file, _), (split, part) in zip(kind.resources, [(s, p) for s in truth for p in (0, 1)], strict=True):
            values = truth[split][part].astype(np.uint8)
            shape = values.squeeze(1).shape if part == 0 else values.shape
            header = bytes([0, 0, 8, len(shape)]) + np.array(shape, dtype=">i4").tobytes()
            sums.append((file, put(folder / kind.__name__ / "raw" / file, gzip.compress(header + values.tobytes()))))
        monkeypatch.setattr(kind, "resources", sums)
    elif name == "svhn":
        from scipy.io import savemat

        table = {}
        for split, (x, y) in truth.items():
            file, tens = f"{split}_32x32.mat", np.where(y == 0, 10, y)  # the files call the digit 0 class 10
            savemat(folder / file, {"X": x.transpose(2, 3, 1, 0), "y": tens[:, None]})
            table[split] = ["-", file, md5(folder / file)]
        monkeypatch.setattr(kind, "split_list", table)
    else:
        for split, (x, y) in truth.items():
            base = folder / kind.base_folder
            listed = [[f"{split}_X.bin", put(base / f"{split}_X.bin", x.transpose(0, 1, 3, 2).tobytes())],
                      [f"{split}_y.bin", put(base / f"{split}_y.bin", (y + 1).astype(np.uint8).tobytes())]]
            monkeypatch.setattr(kind, f"{split}_list", listed + [["unlabeled_X.bin", "-"]] * (split == "train"))
    return truth


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty REPRO_DATA, an empty data folder of our own beside it, and no network."""
    monkeypatch.setattr(images, "OWN", tmp_path / "own")
    monkeypatch.setenv("REPRO_DATA", str(tmp_path / "given"))

    def refuse(self):
        raise URLError("no network here")

    for kind in ("CIFAR10", "MNIST", "SVHN", "STL10"):
        monkeypatch.setattr(getattr(datasets, kind), "download", refuse)
    (tmp_path / "given").mkdir()
    return tmp_path / "given"


@pytest.mark.parametrize("name", images.TORCHVISION)
def test_readers_give_the_images_and_labels_of_the_files(name, folder, monkeypatch):
    truth = write(name, folder, monkeypatch)
    before = sorted(folder.rglob("*"))
    for split, (x, y) in truth.items():
        got = load(Data(name), split)
        assert torch.equal(got.images, torch.as_tensor(x)[got.indices]) and got.images.is_contiguous()
        assert torch.equal(got.labels, torch.as_tensor(y)[got.indices]) and got.labels.dtype == torch.int64
        assert sorted(got.indices.tolist()) == list(range(len(x)))
    assert sorted(folder.rglob("*")) == before  # the given folder is only read


@pytest.mark.parametrize("name", ["mnist_letter_a", "mnist_letters"])
def test_digits_with_a_letter_are_read_from_the_files_of_their_base(name, folder, monkeypatch):
    with pytest.raises(DataError, match="mnist cannot be read because .*t10k-images-idx3-ubyte.gz .*no network here"):
        load(Data(name), "test")
    truth = write("mnist", folder, monkeypatch)
    monkeypatch.setitem(DATASETS, name, dataclasses.replace(DATASETS[name], train=N_TRAIN, test=N_TEST))
    for split, (x, y) in truth.items():
        got = load(Data(name), split)
        on_top, letter = distractor.layout(name, split, got.indices)
        assert got.images.shape == (len(y), 1, 56, 28) and got.images.dtype == torch.uint8 and got.side is None
        upper, lower = got.images.split(28, dim=2)
        where = on_top[:, None, None, None]
        assert torch.equal(torch.where(where, upper, lower), torch.as_tensor(x)[got.indices])
        assert torch.equal(torch.where(where, lower, upper), distractor.letters(28)[letter])
        assert torch.equal(got.labels, torch.as_tensor(y)[got.indices])
    with pytest.raises(DataError, match="mnist cannot be read because .* is corrupt"):
        path = folder / "MNIST" / "raw" / "train-images-idx3-ubyte.gz"
        path.write_bytes(path.read_bytes()[:-7])
        images._official.cache_clear()
        load(Data(name), "train")


def test_permuted_cifar10_is_read_from_the_files_of_its_base(folder, monkeypatch):
    with pytest.raises(DataError, match="cifar10 cannot be read because .*no network here"):
        load(Data("cifar10_permuted"), "test")
    write("cifar10", folder, monkeypatch)
    small = dataclasses.replace(DATASETS["cifar10_permuted"], train=N_TRAIN, test=N_TEST)
    monkeypatch.setitem(DATASETS, "cifar10_permuted", small)
    same_images_other_classes("cifar10_permuted")
    same_images_other_classes("cifar10_permuted", train=12, holdout=11, test=15)


def test_mnist_as_photographs_is_mnist_enlarged_in_three_equal_channels(folder, monkeypatch):
    from PIL import Image

    truth = write("mnist", folder, monkeypatch)
    small = dataclasses.replace(DATASETS["mnist_rgb32"], train=N_TRAIN, test=N_TEST)
    monkeypatch.setitem(DATASETS, "mnist_rgb32", small)
    for split, (x, y) in truth.items():
        got, base = load(Data("mnist_rgb32"), split), load(Data("mnist"), split)
        assert got.images.shape == (len(y), 3, 32, 32) and got.images.dtype == torch.uint8 and got.side is None
        assert got.images.is_contiguous() and (got.images == got.images[:, :1]).all()
        assert torch.equal(got.indices, base.indices) and torch.equal(got.labels, base.labels)
        for image, index in zip(got.images[:, 0], got.indices, strict=True):
            known = np.array(Image.fromarray(x[index, 0]).resize((32, 32), Image.Resampling.BILINEAR))
            assert np.abs(image.numpy().astype(int) - known).max() <= 1  # PIL rounds twice
    part = load(Data("mnist_rgb32", train=13, holdout=10), "train")
    assert torch.equal(part.indices, load(Data("mnist", train=13, holdout=10), "train").indices)


def unpack(folder: Path) -> None:
    for packed in list(folder.rglob("*.gz")):
        packed.with_suffix("").write_bytes(gzip.decompress(packed.read_bytes()))
        packed.unlink()


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_unpacked_mnist_is_read_too(name, folder, monkeypatch):
    truth = write(name, folder, monkeypatch)
    unpack(folder)
    for split, (x, y) in truth.items():
        got = load(Data(name), split)
        assert torch.equal(got.images, torch.as_tensor(x)[got.indices])
        assert torch.equal(got.labels, torch.as_tensor(y)[got.indices])


def idx(values: np.ndarray) -> bytes:
    return bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">i4").tobytes() + values.astype(np.uint8).tobytes()


BLACK, TEN = np.zeros((N_TEST, 28, 28)), np.arange(N_TEST) % 10


@pytest.mark.parametrize("images_file, labels_file, words", [
    (idx(BLACK)[:-100], None, "images-idx3-ubyte is not a whole IDX file"),
    (idx(BLACK) + b"more", None, "images-idx3-ubyte is not a whole IDX file"),
    (bytes(16) + BLACK.astype(np.uint8).tobytes(), None, "images-idx3-ubyte is not a whole IDX file"),
    (b"", None, "is not a whole IDX file"), (b"\0\0\x08", None, "is not a whole IDX file"),
    (b"\0\0\x08\x03\0", None, "is not a whole IDX file"), (b"<html>not found</html>", None, "not a whole IDX file"),
    (b"\0\0\x09" + idx(BLACK)[3:], None, "is not a whole IDX file"),  # signed bytes
    (idx(BLACK[:-1]), None, "the test split of mnist is incomplete"),
    (idx(BLACK[:, :-1]), None, "the test split of mnist is incomplete"),
    (None, bytes(8) + bytes(N_TEST), "labels-idx1-ubyte is not a whole IDX file"),
    (None, idx(TEN[:-1]), "the test split of mnist is incomplete"),
    (None, idx(TEN + 1), "its labels are 1 to 10 where 0 to 9 are expected"),
    (None, idx(np.full(N_TEST, 200)), "its labels are 200 to 200 where 0 to 9 are expected"),
])
def test_an_unpacked_file_is_checked_as_far_as_it_can_be(images_file, labels_file, words, folder, monkeypatch):
    write("mnist", folder, monkeypatch)
    unpack(folder)
    for part, content in (("images-idx3", images_file), ("labels-idx1", labels_file)):
        if content is not None:
            (folder / "MNIST" / "raw" / f"t10k-{part}-ubyte").write_bytes(content)
    with pytest.raises(DataError, match=words) as error:
        load(Data("mnist"), "test")
    assert "\n" not in str(error.value)


def test_an_unpacked_file_of_another_content_is_corrupt(folder, monkeypatch):
    write("mnist", folder, monkeypatch)
    unpack(folder)
    packed = dict(datasets.MNIST.resources)["t10k-images-idx3-ubyte.gz"]
    path = folder / "MNIST" / "raw" / "t10k-images-idx3-ubyte"
    monkeypatch.setitem(images.UNPACKED, packed, md5(path))
    assert len(load(Data("mnist"), "test")) == N_TEST
    path.write_bytes(idx(BLACK))
    images._official.cache_clear()
    with pytest.raises(DataError, match="t10k-images-idx3-ubyte is corrupt"):
        load(Data("mnist"), "test")


@pytest.mark.parametrize("name", images.TORCHVISION)
def test_labels_beyond_the_classes_are_refused(name, folder, monkeypatch):
    truth = write(name, folder, monkeypatch)
    monkeypatch.setitem(DATASETS, name, dataclasses.replace(DATASETS[name], classes=7))
    high = truth["test"][1].max()
    with pytest.raises(DataError, match=f"test split of {name} .* labels are 0 to {high} where 0 to 6 are expected"):
        load(Data(name), "test")


def test_labels_below_0_are_refused(folder, monkeypatch):
    write("cifar10", folder, monkeypatch)
    path = folder / "cifar-10-batches-py" / "test_batch"
    held = pickle.loads(path.read_bytes())
    held["labels"][3] = -1
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [["test_batch", put(path, pickle.dumps(held))]])
    with pytest.raises(DataError, match="labels are -1 to 9 where 0 to 9 are expected"):
        load(Data("cifar10"), "test")


@pytest.mark.parametrize("name", ["cifar10", "mnist", "svhn", "stl10"])
def test_a_file_that_may_not_be_read_is_named(name, folder, monkeypatch):
    write(name, folder, monkeypatch)
    path, real = images._files(getattr(datasets, images.TORCHVISION[name]), "test", folder)[0][0], open

    def refuse(file, *args, **kwargs):
        if str(file) == str(path):
            raise PermissionError(13, "Permission denied", str(path))
        return real(file, *args, **kwargs)

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(DataError) as error:
        load(Data(name), "test")
    text = str(error.value)
    assert f"{name} cannot be read because {path} cannot be opened (Permission denied)" in text and "\n" not in text


@pytest.mark.parametrize("name", images.TORCHVISION)
def test_a_missing_file_is_named_with_its_place_and_the_way_to_get_it(name, folder):
    with pytest.raises(DataError) as error:
        load(Data(name), "test")
    text = str(error.value)
    kind = getattr(datasets, images.TORCHVISION[name])
    assert str(images._files(kind, "test", folder)[0][0]) in text and "no network here" in text
    assert "REPRO_DATA" in text and "data/README.md" in text and "\n" not in text
    assert not list(folder.iterdir())


@pytest.mark.parametrize("name", images.TORCHVISION)
def test_a_corrupt_file_is_named_and_left_as_it_is(name, folder, monkeypatch):
    write(name, folder, monkeypatch)
    kind = getattr(datasets, images.TORCHVISION[name])
    path = images._files(kind, "test", folder)[0][0]
    path.write_bytes(path.read_bytes()[:-7])
    cut = path.read_bytes()
    with pytest.raises(DataError) as error:
        load(Data(name), "test")
    assert f"{path} is corrupt" in str(error.value) and "\n" not in str(error.value)
    assert path.read_bytes() == cut
    assert len(load(Data(name), "train")) == N_TRAIN  # the other split is whole


@pytest.mark.parametrize("name", images.TORCHVISION)
def test_a_split_needs_no_file_of_the_other(name, folder, monkeypatch):
    write(name, folder, monkeypatch)
    kind = getattr(datasets, images.TORCHVISION[name])
    needed = {path for path, _ in images._files(kind, "test", folder)}
    for path, _ in images._files(kind, "train", folder):
        if path not in needed:
            path.unlink()
    assert len(load(Data(name), "test")) == N_TEST
    with pytest.raises(DataError, match="is missing"):
        load(Data(name), "train")


def test_a_download_goes_to_our_own_folder_once(folder, monkeypatch):
    asked = []

    def download(self):
        asked.append(Path(self.root))
        write("cifar10", Path(self.root), monkeypatch)

    monkeypatch.setattr(datasets.CIFAR10, "download", download)
    monkeypatch.setitem(DATASETS, "cifar10", dataclasses.replace(DATASETS["cifar10"], train=N_TRAIN, test=N_TEST))
    assert len(load(Data("cifar10"), "train")) == N_TRAIN and len(load(Data("cifar10"), "test")) == N_TEST
    assert asked == [images.OWN] and not list(folder.iterdir())


def test_a_corrupt_file_stops_the_download_that_would_replace_it(folder, monkeypatch):
    write("cifar10", images.OWN, monkeypatch)
    asked = []
    monkeypatch.setattr(datasets.CIFAR10, "download", asked.append)
    base = images.OWN / "cifar-10-batches-py"
    (base / "test_batch").unlink()
    (base / "data_batch_1").write_bytes(b"cut")
    with pytest.raises(DataError, match="data_batch_1 is corrupt"):
        load(Data("cifar10"), "test")
    assert not asked


def test_repro_data_must_be_a_folder_and_is_optional(monkeypatch, tmp_path):
    monkeypatch.setenv("REPRO_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="nowhere is not a folder"):
        load(Data("mnist"), "test")
    assert len(load(Data("digits", test=10), "test")) == 10  # needs no files
    monkeypatch.delenv("REPRO_DATA")
    assert images.root() == ROOT / "data"


def test_importing_needs_torch_only():
    code = "import sys, lib.data; print([m for m in ('torchvision', 'sklearn', 'scipy', 'pandas') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.stdout.strip() == "[]", done.stderr


# ---------------------------------------------------------------------------------------------------------- real data


@pytest.fixture
def real(monkeypatch):
    """Points REPRO_DATA at a folder with the whole data set, or skips."""

    def point(name):
        kind = getattr(datasets, images.TORCHVISION[name])
        beside = ROOT.parent / "shared" / "data"  # a data folder beside the checkout
        for folder in (os.environ.get("REPRO_DATA"), images.OWN, beside):
            if folder and not any(images._missing(kind, split, Path(folder)) for split in ("train", "test")):
                monkeypatch.setenv("REPRO_DATA", str(folder))
                return Path(folder)
        pytest.skip(f"no {name} in REPRO_DATA, in data/ or in a data folder beside the checkout")

    return point


def test_real_cifar10(real):
    root = real("cifar10")
    test = load(Data("cifar10", test=500), "test")
    known = datasets.CIFAR10(root, train=False)
    assert np.array_equal(test.images.numpy(), known.data[test.indices].transpose(0, 3, 1, 2))
    assert test.labels.tolist() == [known.targets[i] for i in test.indices]
    assert counts(test.labels).tolist() == [50] * 10
    data = Data("cifar10", train=2000, holdout=1000)
    train, holdout = load(data, "train"), load(data, "holdout")
    assert counts(train.labels).tolist() == [200] * 10 and counts(holdout.labels).tolist() == [100] * 10
    assert not set(train.indices.tolist()) & set(holdout.indices.tolist())
    assert train.pixels().mean() == pytest.approx(0.473, abs=0.01)


def test_real_unpacked_files_are_told_apart_by_their_md5(real, folder, monkeypatch):
    for name, kind in (("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")):
        source = real(name) / kind / "raw"
        monkeypatch.setenv("REPRO_DATA", str(folder))
        for path in source.glob("*.gz"):
            put(folder / kind / "raw" / path.name, path.read_bytes())
        unpack(folder / kind)
        assert len(load(Data(name), "test")) == 10_000 and len(load(Data(name), "train")) == 60_000
    shutil.copytree(folder / "FashionMNIST", folder / "MNIST", dirs_exist_ok=True)
    images._official.cache_clear()
    with pytest.raises(DataError, match="mnist cannot be read because .*t10k-images-idx3-ubyte is corrupt"):
        load(Data("mnist"), "test")


def test_real_mnist_as_photographs(real):
    real("mnist")
    got, base = (load(Data(name, test=500), "test") for name in ("mnist_rgb32", "mnist"))
    assert got.pixels().mean() == pytest.approx(float(base.pixels().mean()), abs=0.005)
    assert torch.equal(got.indices, base.indices) and counts(got.labels).tolist() == [50] * 10


def test_real_mnist(real):
    real("mnist")
    test, train = load(Data("mnist"), "test"), load(Data("mnist", train=1000), "train")
    assert counts(test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert counts(train.labels).tolist() == [100] * 10 and train.images.shape == (1000, 1, 28, 28)
    assert test.labels[test.indices.argsort()[:5]].tolist() == [7, 2, 1, 0, 4]
    assert test.pixels().mean() == pytest.approx(0.1325, abs=1e-3)
