"""Image folders: photographs brought to one size, decoded once, refused if not whole, crops from a border."""

import dataclasses
import os
import re
import shutil
import threading
import time

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as V
from PIL import Image
from torchvision import transforms
from torchvision.datasets import ImageFolder

from lib.data import DataError, folders, images, load
from lib.errors import SettingsError
from lib.runtime import generator
from lib.values.data import DATASETS, Data
from lib.values.recipe import Recipe

SIDE, SHORT = 64, 73  # 64 * 255 / 224 = 72.9
EACH = {"train": 4, "val": 3}
SHAPES = [(80, 100), (131, 75), (73, 73), (9, 7), (64, 64), (300, 90), (90, 301)]  # height, width


def picture(path, number):
    """A smooth picture of its own, in colour or grey, written as JPEG whatever its name says."""
    rng, (height, width) = np.random.default_rng(number), SHAPES[number % len(SHAPES)]
    coarse = Image.fromarray(rng.integers(0, 256, (5, 4, 3), dtype=np.uint8))
    mode = ("RGB", "L", "CMYK", "RGB")[number % 4]
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse.resize((width, height), Image.Resampling.BICUBIC).convert(mode).save(path, "JPEG", quality=92)


def grow(base, name="imagenette"):
    """A tree with EACH images a class below `base`."""
    number = 0
    for part, count in EACH.items():
        for label in folders.CLASSES[name.split("_")[0]]:
            for i in range(count):
                picture(base / folders.TREES[name] / part / label / f"{label}_{i}.JPEG", number)
                number += 1


@pytest.fixture(scope="module")
def grown(tmp_path_factory):
    base = tmp_path_factory.mktemp("grown")
    grow(base)
    return base


@pytest.fixture
def data(grown, tmp_path, monkeypatch):
    """REPRO_DATA with an Imagenette of 70 images, an empty data folder of our own, empty results."""
    for name in folders.TREES:
        small = dataclasses.replace(DATASETS[name], train=10 * EACH["train"], test=10 * EACH["val"])
        monkeypatch.setitem(DATASETS, name, small)
    shutil.copytree(grown, tmp_path / "given")
    monkeypatch.setattr(images, "OWN", tmp_path / "own")
    monkeypatch.setenv("REPRO_DATA", str(tmp_path / "given"))
    monkeypatch.setenv("REPRO_RESULTS", str(tmp_path / "results"))
    return tmp_path / "given"


@pytest.fixture
def decoded(monkeypatch):
    """The sides that images were cut to, one for each image decoded."""
    sides, square = [], folders._square

    def counted(image, short, side):
        sides.append(side)
        return square(image, short=short, side=side)

    monkeypatch.setattr(folders, "_square", counted)
    return sides


def read(given, split="test", side=SIDE, name="imagenette"):
    return folders.read(name, split, side, (given,), given.parent / "cache")


def tree(given, part, *steps):
    return ImageFolder(given / "imagenette2" / part, transforms.Compose([*steps, transforms.PILToTensor()]))


# ------------------------------------------------------------------------------------------------------------- reading


def test_test_images_are_resized_and_cut_as_torchvision_does_it(data):
    got = load(Data("imagenette", size=SIDE), "test")
    known = tree(data, "val", transforms.Resize(SHORT), transforms.CenterCrop(SIDE))
    assert got.images.shape == (30, 3, SIDE, SIDE) and got.images.dtype == torch.uint8 and got.side is None
    assert sorted(got.indices.tolist()) == list(range(30)) and got.labels.dtype == torch.int64
    for image, label, index in zip(got.images, got.labels, got.indices, strict=True):
        assert torch.equal(image, known[index][0]) and label == known[index][1]
    assert torch.equal(got.pixels(), got.images / 255)


def test_training_images_keep_a_border_that_only_crops_see(data):
    train = load(Data("imagenette", size=SIDE, holdout=10), "train")
    holdout = load(Data("imagenette", size=SIDE, holdout=10), "holdout")
    known = tree(data, "train", transforms.Resize(SHORT), transforms.CenterCrop(SHORT))
    for part in (train, holdout):
        assert part.images.shape[1:] == (3, SHORT, SHORT) and part.side == SIDE
        for image, seen, index in zip(part.images, part.pixels(), part.indices, strict=True):
            assert torch.equal(image, known[index][0])
            assert torch.equal(seen, V.center_crop(known[index][0], [SIDE, SIDE]) / 255)
    assert sorted(torch.cat([train.indices, holdout.indices]).tolist()) == list(range(40))
    assert torch.bincount(holdout.labels).tolist() == [1] * 10
    some = train.take([3, 1])
    assert some.side == SIDE and torch.equal(some.pixels(), train.pixels(torch.tensor([3, 1])))


def test_the_side_is_the_data_sets_own_unless_it_is_named(data):
    assert load(Data("imagenette", test=10), "test").images.shape == (10, 3, 224, 224)
    train = load(Data("imagenette", train=10), "train")
    assert train.images.shape == (10, 3, 255, 255)
    assert torch.equal(train.pixels(), V.center_crop(train.images, [224, 224]) / 255)


def test_the_given_tree_is_only_read_and_the_cache_is_our_own(data):
    before = sorted(data.rglob("*"))
    load(Data("imagenette", size=SIDE), "test")
    assert sorted(data.rglob("*")) == before
    assert len(list((images.OWN / "cache").rglob(folders.FILE))) == 1


def test_the_tree_is_also_found_in_our_own_folder(data):
    shutil.move(data / "imagenette2", images.OWN / "imagenette2")
    assert len(load(Data("imagenette", size=SIDE), "test")) == 30


def test_the_variants_of_a_tree_are_sets_of_their_own(data):
    with pytest.raises(DataError, match=r"take the data set imagenette, whose tree imagenette2 is there"):
        load(Data("imagenette_160"), "test")
    (data / "imagenette2").rename(data / "imagenette2-160")
    assert load(Data("imagenette_160"), "test").images.shape == (30, 3, 128, 128)
    with pytest.raises(DataError, match="imagenette_160"):
        load(Data("imagenette"), "test")


# --------------------------------------------------------------------------------------------------------------- cache


def test_images_are_decoded_once(data, decoded):
    first = read(data)
    assert decoded == [SIDE] * 30
    again = read(data)
    assert len(decoded) == 30 and torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    read(data, "train")
    read(data, side=96)
    assert decoded[30:] == [SHORT] * 40 + [96] * 30


def test_jobs_that_start_together_decode_once(data, decoded):
    got = []
    jobs = [threading.Thread(target=lambda: got.append(read(data)[0])) for _ in range(3)]
    [job.start() for job in jobs]
    [job.join() for job in jobs]
    assert len(decoded) == 30 and len(got) == 3 and torch.equal(got[0], got[2])


@pytest.mark.parametrize("change", ["content", "time", "name"])
def test_a_changed_tree_is_decoded_again(data, decoded, change):
    before = read(data)[0].clone()
    path = data / "imagenette2" / "val" / "n03028079" / "n03028079_1.JPEG"
    if change == "content":
        picture(path, 1000)
    elif change == "time":
        os.utime(path, (time.time(), path.stat().st_mtime + 5))
    else:
        path.rename(path.with_name("n03028079_9.JPEG"))
    after = read(data)[0]
    assert len(decoded) == 60
    changed = (before != after).flatten(1).any(1).nonzero().squeeze(1).tolist()
    assert changed == {"content": [13], "time": [], "name": [13, 14]}[change]


def test_a_version_of_the_reading_has_its_own_cache(data, decoded, monkeypatch):
    read(data)
    monkeypatch.setitem(DATASETS, "imagenette", dataclasses.replace(DATASETS["imagenette"], version="2"))
    read(data)
    assert len(decoded) == 60


def test_decoding_that_was_killed_leaves_nothing_that_is_read(data, monkeypatch):
    square, done = folders._square, []

    def killed(image, short, side):
        done.append(side)
        if len(done) == 8:
            raise KeyboardInterrupt
        return square(image, short=short, side=side)

    monkeypatch.setattr(folders, "CHUNK", 3)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(folders, "_square", killed)
        read(data)
    (torn,) = (data.parent / "cache").rglob(folders.FILE)
    assert "making" in torn.parts and 0 < torn.stat().st_size < 30 * 3 * SIDE**2
    known = tree(data, "val", transforms.Resize(SHORT), transforms.CenterCrop(SIDE))
    assert torch.equal(read(data)[0], torch.stack([image for image, _ in known]))


def test_a_damaged_cache_is_noticed_and_made_again(data, decoded):
    whole = read(data)[0].clone()
    (file,) = (data.parent / "cache" / "imagenette-test").rglob(folders.FILE)
    content = bytearray(file.read_bytes())
    content[1000] ^= 255
    file.write_bytes(content)
    assert torch.equal(read(data)[0], whole) and len(decoded) == 60


def test_what_is_read_can_be_changed_without_changing_the_cache(data):
    first = read(data)[0]
    kept = first.clone()
    first.zero_()
    assert torch.equal(read(data)[0], kept)


def test_a_cache_that_cannot_lie_with_the_data_lies_with_the_results(data, tmp_path):
    images.OWN.write_text("a file, so no folder can be made in it")
    assert len(load(Data("imagenette", size=SIDE), "test")) == 30
    assert len(list((tmp_path / "results" / "cache").rglob(folders.FILE))) == 1
    with pytest.raises(DataError, match=re.escape(f"cannot be kept in {images.OWN}")):
        folders.read("imagenette", "test", SIDE, (data,), images.OWN)


@pytest.mark.parametrize("short_of", [0, 1])
def test_a_disk_without_room_is_named_before_anything_is_decoded(data, decoded, monkeypatch, short_of):
    needed, asked = 40 * 3 * SHORT**2, []

    def usage(path):
        asked.append(path)
        return shutil._ntuple_diskusage(10 * needed, 10 * needed - needed + short_of, needed - short_of)

    monkeypatch.setattr(folders.shutil, "disk_usage", usage)
    if not short_of:
        assert len(read(data, "train")[0]) == 40
    else:
        with pytest.raises(DataError, match=f"its decoded train images need {needed:,} bytes") as error:
            read(data, "train")
        text = str(error.value)
        assert f"{needed - 1:,} are free" in text and str(data.parent / "cache") in text and "data.size" in text
    assert len(decoded) == (0 if short_of else 40)
    if not short_of:
        read(data, "train")
    assert len(asked) == 1, "what was decoded before needs no room"


# ----------------------------------------------------------------------------------------------------- incomplete trees


def test_a_missing_tree_is_named_with_its_place_and_the_way_to_get_it(data):
    with pytest.raises(DataError) as error:
        load(Data("imagewoof"), "train")
    text = str(error.value)
    assert str(data / "imagewoof2" / "train") in text and "imagewoof2.tgz" in text and "\n" not in text
    assert "REPRO_DATA" in text and "data/README.md" in text and "://" not in text


def test_a_download_that_was_cut_off_does_not_pass(data):
    part = data / "imagenette2" / "val"
    (part / "n03888257" / "n03888257_2.JPEG").unlink()
    with pytest.raises(DataError, match=r"holds 29 images where 30 are expected \(fewest in n03888257\)") as error:
        read(data)
    assert str(part) in str(error.value)
    for path in (part / "n03888257").iterdir():
        path.unlink()
    with pytest.raises(DataError, match=r"holds 27 images where 30 are expected \(fewest in n03888257\)"):
        read(data)
    (part / "n03888257").rmdir()
    with pytest.raises(DataError, match="lacks the class n03888257"):
        read(data)
    assert len(read(data, "train")[1]) == 40  # the other split is whole


def test_a_class_too_many_is_named(data):
    (data / "imagenette2" / "val" / "n00000001").mkdir()
    with pytest.raises(DataError, match="in addition to its classes, n00000001"):
        read(data)


@pytest.mark.parametrize("fault", ["cut", "empty", "text"])
def test_a_corrupt_image_is_named_and_nothing_is_kept(data, fault):
    path = data / "imagenette2" / "val" / "n02102040" / "n02102040_0.JPEG"
    content = path.read_bytes()
    path.write_bytes({"cut": content[: len(content) // 2], "empty": b"", "text": b"<html>not found</html>"}[fault])
    with pytest.raises(DataError) as error:
        read(data)
    assert str(path) in str(error.value) and "imagenette2.tgz" in str(error.value) and "\n" not in str(error.value)
    path.write_bytes(content)
    assert len(read(data)[0]) == 30


@pytest.mark.parametrize("kind, values", [
    ("PNG", np.full((80, 80), 60 * 257, np.uint16)), ("TIFF", np.full((80, 80), 60 * 257, np.uint16)),
    ("TIFF", np.full((80, 80), 60 / 255, np.float32)), ("TIFF", np.full((80, 80), 60, np.int32)),
])
def test_a_grey_image_of_more_than_8_bits_is_refused(data, kind, values):
    path = data / "imagenette2" / "val" / "n02102040" / "n02102040_0.JPEG"
    Image.fromarray(values).save(path, kind)
    with pytest.raises(DataError, match="its pixels have more than 8 bits") as error:
        read(data)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("mode, told", [("L", 60), ("RGB", 60), ("RGBA", 60), ("P", 60), ("1", 255)])
def test_images_of_8_bits_keep_their_values(data, mode, told):
    path = data / "imagenette2" / "val" / "n01440764" / "n01440764_0.JPEG"  # the first
    Image.new("L", (80, 80), 60 if told == 60 else 255).convert(mode).save(path, "PNG")
    assert (read(data)[0][0] == told).all()


def test_a_folder_that_may_not_be_read_is_named(data, monkeypatch):
    real, wanted = os.scandir, str(data / "imagenette2" / "val")

    def refuse(path="."):
        if str(path).startswith(wanted):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"imagenette cannot be read because .*val\S* cannot be opened \(Perm"):
        load(Data("imagenette", size=SIDE), "test")


# ------------------------------------------------------------------------------------------------------------ ImageNet


@pytest.fixture
def imagenet(tmp_path, monkeypatch):
    """REPRO_DATA with an ImageNet of three classes, whose names the code does not know."""
    monkeypatch.setitem(DATASETS, "imagenet", dataclasses.replace(DATASETS["imagenet"], train=12, test=9, classes=3))
    number = 0
    for part, count in EACH.items():
        for label in ("n00000007", "n00000003", "n00000005"):
            for i in range(count):
                picture(tmp_path / "given" / "imagenet" / part / label / f"{label}_{i}.JPEG", number)
                number += 1
    monkeypatch.setattr(images, "OWN", tmp_path / "own")
    monkeypatch.setenv("REPRO_DATA", str(tmp_path / "given"))
    return tmp_path / "given"


def test_imagenet_has_the_classes_that_both_splits_have(imagenet):
    train, test = (load(Data("imagenet", size=SIDE), split) for split in ("train", "test"))
    assert train.images.shape == (12, 3, SHORT, SHORT) and test.images.shape == (9, 3, SIDE, SIDE)
    assert torch.bincount(train.labels).tolist() == [4] * 3 and torch.bincount(test.labels).tolist() == [3] * 3
    known = ImageFolder(imagenet / "imagenet" / "val", transforms.Compose(
        [transforms.Resize(SHORT), transforms.CenterCrop(SIDE), transforms.PILToTensor()]))
    for image, label, index in zip(test.images, test.labels, test.indices, strict=True):
        assert torch.equal(image, known[index][0]) and label == known[index][1]


def test_an_imagenet_that_is_not_whole_is_refused(imagenet):
    def refused(words):
        with pytest.raises(DataError, match=words) as error:
            read(imagenet, name="imagenet")
        text = str(error.value)
        assert "\n" not in text and ".tgz" not in text and "data/README.md" in text

    train, test = (imagenet / "imagenet" / part for part in ("train", "val"))
    (train / "n00000003").rename(train / "n00000004")
    refused(f"{test} lacks the class n00000004")
    (train / "n00000004").rename(train / "n00000003")
    (train / "n00000009").mkdir()
    refused(f"{train} holds 4 folders of classes where 3 are expected")
    (train / "n00000009").rmdir()
    (test / "n00000005" / "n00000005_2.JPEG").unlink()
    refused(r"holds 8 images where 9 are expected \(fewest in n00000005\)")
    shutil.rmtree(test / "n00000005")
    refused(f"{test} holds 2 folders of classes where 3 are expected")
    train.rename(imagenet / "aside")
    refused(f"{train} is missing")
    shutil.rmtree(imagenet / "imagenet")
    refused("ILSVRC 2012")


def test_imagenet_is_as_large_as_it_is():
    info = DATASETS["imagenet"]
    assert (info.train, info.test, info.classes, info.size, info.sizes) == (1_281_167, 50_000, 1000, 224, (64, 512))


# --------------------------------------------------------------------------------------------------------------- crops


def test_resized_crops_draw_from_the_border_and_are_as_large_as_the_frame(data):
    train = load(Data("imagenette", size=SIDE), "train")
    chosen = torch.arange(40)
    crops, placement = train.augmented(chosen, "resized-crop-flip", generator("a"))
    assert crops.shape == (40, 3, SIDE, SIDE) and crops.dtype == torch.float32
    border = round((SHORT - SIDE) / 2)
    reaching = 0
    for i in range(40):
        top, left, tall, wide = placement.box[i].tolist()
        reaching += min(top, left) < 0 or max(top + tall, left + wide) > SIDE
        wanted = V.resized_crop(train.images[i] / 255, top + border, left + border, tall, wide, [SIDE, SIDE],
                                antialias=False)
        wanted = V.horizontal_flip(wanted) if placement.flip[i] else wanted
        torch.testing.assert_close(crops[i], wanted, atol=1e-4, rtol=0)
    assert reaching > 5
    again, _ = train.augmented(chosen, "resized-crop-flip", generator("a"))
    assert torch.equal(crops, again)


@pytest.mark.parametrize("kind", ["none", "crop", "crop-flip", "affine"])
def test_other_augmentations_see_the_frame_only(data, kind):
    train = load(Data("imagenette", size=SIDE), "train")
    framed = dataclasses.replace(train, images=V.center_crop(train.images, [SIDE, SIDE]), side=None)
    for part in (slice(0, 7), torch.tensor([5, 2])):
        ours, theirs = (some.augmented(part, kind, generator("b"))[0] for some in (train, framed))
        assert torch.equal(ours, theirs)


# -------------------------------------------------------------------------------------------------------------- values


def test_sizes_are_checked_and_the_own_size_needs_no_naming():
    assert Data("imagenette", size=96).side == 96 and Data("imagenette", size=96).shape == (3, 96, 96)
    assert Data("imagenette").shape == (3, 224, 224) and Data("cifar10").shape == (3, 32, 32)
    assert Data("imagenette", size=224) == Data("imagenette")
    assert DATASETS["imagewoof"].train == 9025 and DATASETS["imagewoof"].test == 3929
    with pytest.raises(SettingsError, match="data.size = 32 .* must be null for cifar10, .* 32 x 32 pixels"):
        Data("cifar10", size=32)
    for name, size in (("imagenette", 63), ("imagenette", 513), ("imagenette_160", 224)):
        with pytest.raises(SettingsError, match=rf"data.size = {size} .* from 64 to"):
            Data(name, size=size)
    with pytest.raises(SettingsError, match="data.size = 96.0 .* a whole number"):
        Data("imagewoof", size=96.0)


@pytest.mark.parametrize("name", folders.TREES)
def test_images_of_the_small_trees_are_never_enlarged(name):
    tree = folders.TREES[name].partition("-")[2]
    assert folders.resized(DATASETS[name].sizes[1]) <= int(tree or 600)
    assert folders.resized(224) == 255


def test_a_size_is_part_of_the_key_only_where_it_is_set():
    from lib.values.architectures import CNN

    keys = {size: Recipe(Data("imagenette", size=size), CNN()).key for size in (None, 224, 96, 128)}
    assert keys[None] == keys[224] and len(set(keys.values())) == 3
