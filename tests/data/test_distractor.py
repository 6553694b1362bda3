"""Digits with a letter above or below them: what is drawn, where it is put, and that it says nothing of the label."""

import math

import pytest
import torch

from lib.data import distractor, load
from lib.errors import SettingsError
from lib.store import Store
from lib.training.price import measured_rate
from lib.training.zoo import Zoo
from lib.values.architectures import CNN, ResNet
from lib.values.data import DATASETS, Data
from lib.values.recipe import Recipe

SETS = list(distractor.SETS)
SMALL = ["digits_letter_a", "digits_letters"]


def where(name, split="train"):
    return distractor.layout(name, split, torch.arange(getattr(DATASETS[name], split)))


def halves(images, on_top):
    """(the half with the digit, the half with the letter) of each image."""
    upper, lower = images.chunk(2, dim=2)
    first = on_top[:, None, None, None]
    return torch.where(first, upper, lower), torch.where(first, lower, upper)


# ------------------------------------------------------------------------------------------------------------- letters


@pytest.mark.parametrize("side, height", [(28, 20), (8, 8)])
def test_letters_differ_and_are_of_a_digits_size(side, height):
    drawn = distractor.letters(side)
    assert drawn.shape == (26, 1, side, side) and drawn.dtype == torch.uint8
    assert drawn.flatten(1).amax(1).min() > 200  # white, even where strokes are thinner than a pixel
    apart = torch.cdist(drawn.flatten(1).double(), drawn.flatten(1).double(), p=1) / 255
    nearest = (apart + 1e9 * torch.eye(26, dtype=torch.float64)).min()
    assert nearest > (3 if side == 8 else 20)  # pixels
    for letter in drawn[:, 0] > 32:
        rows, columns = letter.any(1).nonzero(), letter.any(0).nonzero()
        assert height - 1 <= rows.max() - rows.min() + 1 <= height + 1
        for ends in (rows, columns):
            assert abs(ends.min() + ends.max() - (side - 1)) <= 2, "not in the middle"


def test_letters_have_about_as_much_ink_as_digits():
    digits = load(Data("digits"), "train").pixels()
    ratio = distractor.letters(8).float().mean() / 255 / digits.mean()
    assert 0.75 < ratio < 1.25
    ink = distractor.letters(28).float().mean() / 255
    assert 0.75 < ink / 0.1307 < 1.25  # the mean of MNIST's training images


def test_an_a_is_an_a():
    """Symmetric, with a bar, open below; the pixels are left to the font."""
    a = distractor.letters(28)[0, 0].float() / 255
    assert (a - a.flip(1)).abs().mean() < 0.02
    top, foot = a[4:6], a[22:24]
    assert top[:, 12:16].mean() > 0.5 > 0.1 > foot[:, 12:16].mean() and foot[:, 4:9].max() > 0.9
    bar = a[:, 13:15].mean(1)
    assert bar[15:20].max() > 0.9 and bar[10:13].max() < 0.1


# -------------------------------------------------------------------------------------------------------------- layout


def test_positions_and_letters_are_fair_and_independent():
    """z-scores of counts over the 60,000 training images; layouts need no files."""
    on_top, letter = where("mnist_letters")
    count = len(on_top)
    assert abs(on_top.double().mean() - 0.5) < 4 * 0.5 / math.sqrt(count)
    for k in range(26):
        mine = letter == k
        expected, spread = count / 26, math.sqrt(count * (1 / 26) * (25 / 26))
        assert abs(mine.sum() - expected) < 4.5 * spread
        assert abs(on_top[mine].double().mean() - 0.5) < 4.5 * 0.5 / math.sqrt(mine.sum())
    assert not torch.equal(on_top[:10_000], where("mnist_letters", "test")[0])  # each split has draws of its own


@pytest.mark.parametrize("split", ["train", "test"])
def test_neither_position_nor_letter_depends_on_the_label(split):
    images = load(Data("digits_letters"), split)
    on_top, letter = distractor.layout("digits_letters", split, images.indices)
    for label in range(10):
        mine = images.labels == label
        count = int(mine.sum())
        assert abs(on_top[mine].double().mean() - 0.5) < 3.5 * 0.5 / math.sqrt(count)
        assert abs(letter[mine].double().mean() - 12.5) < 3.5 * 7.5 / math.sqrt(count)  # 7.5: the spread of 0 .. 25


@pytest.mark.parametrize("base", ["digits", "mnist"])
def test_both_sets_of_a_base_have_the_same_positions(base):
    (top_a, letter_a), (top, letter) = where(f"{base}_letter_a"), where(f"{base}_letters")
    assert torch.equal(top_a, top) and not letter_a.any() and len(letter.unique()) == 26


@pytest.mark.parametrize("name", SMALL)
def test_layouts_are_those_of_the_images_however_they_are_asked_for(name):
    for split in ("train", "holdout", "test"):
        images, base = (load(Data(n, train=300, holdout=100, test=200), split) for n in (name, "digits"))
        assert torch.equal(images.indices, base.indices) and torch.equal(images.labels, base.labels)
        on_top, letter = distractor.layout(name, split, images.indices)
        digit, beside = halves(images.images, on_top)
        assert torch.equal(beside, distractor.letters(8)[letter]) and torch.equal(digit, base.images)
        few = distractor.layout(name, split, images.indices[[5, 2]])
        assert torch.equal(few[0], on_top[[5, 2]]) and torch.equal(few[1], letter[[5, 2]])


@pytest.mark.parametrize("name", SMALL)
def test_masks_cover_the_digit_and_leave_the_letter(name):
    images = load(Data(name), "test")
    on_top, letter = distractor.layout(name, "test", images.indices)
    mask = distractor.signal_mask(name, "test", images.indices)
    assert mask.dtype == torch.bool and mask.shape == images.images.shape
    assert (mask.flatten(1).sum(1) == 64).all()
    digit, _ = halves(images.images, on_top)
    assert torch.equal(images.images[mask].view(-1, 64), digit.flatten(1))
    assert torch.equal(images.images[~mask].view(-1, 64), distractor.letters(8)[letter].flatten(1))


def test_masks_of_the_larger_set():
    mask = distractor.signal_mask("mnist_letters", "train", torch.tensor([3, 1, 4]))
    on_top, _ = distractor.layout("mnist_letters", "train", torch.tensor([3, 1, 4]))
    assert mask.shape == (3, 1, 56, 28)
    assert torch.equal(mask[:, 0, :28].all((1, 2)), on_top) and torch.equal(mask[:, 0, 28:].all((1, 2)), ~on_top)
    assert (mask.flatten(1).sum(1) == 28 * 28).all()


@pytest.mark.parametrize("ask, words", [
    (lambda: distractor.layout("mnist", "test", torch.arange(3)), ["with a distractor 'mnist'", "mnist_letters"]),
    (lambda: distractor.signal_mask("digits_letters", "tset", torch.arange(3)), ["split 'tset'", "mean 'test'"]),
])
def test_impossible_values_are_one_sentence(ask, words):
    with pytest.raises(SettingsError) as error:
        ask()
    text = str(error.value)
    assert "\n" not in text and all(word in text for word in words), text


# ------------------------------------------------------------------------------------------------------------ networks


def test_a_network_learns_the_digit_beside_the_letter(tmp_path):
    recipe = Recipe(Data("digits_letters"), CNN(16, 3), epochs=4, augment="crop", batch_size=64)
    found = Zoo(Store(tmp_path)).outcomes(recipe)
    assert found.accuracy() > 0.5  # of ten classes
    assert measured_rate(Recipe(Data("digits_letters"), ResNet(16, (1, 1))), "cpu", 0.01) > 0
