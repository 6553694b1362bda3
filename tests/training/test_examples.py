"""Single test images with what an attack does to them: which are chosen, and what the picture holds."""

import io
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from lib.store import Store
from lib.training.examples import choose, measure_of, strip
from lib.training.zoo import Zoo
from lib.values.architectures import CNN
from lib.values.attacks import tier
from lib.values.cell import Cell
from lib.values.data import Data
from lib.values.objectives import Adversarial
from lib.values.recipe import Optimiser, Recipe
from lib.values.threats import Threat

THREAT = Threat("linf", "0.1")
ATTACK = tier("pgd20", THREAT)
OTHER = ATTACK.with_one_more_restart()
NORMAL = Recipe(Data("digits", train=256, test=60), CNN(8, 2), epochs=4, batch_size=64, optimiser=Optimiser(lr=0.05))
CELLS = [("normal", Cell("N", 0, NORMAL, ((THREAT, ATTACK), (THREAT, OTHER)))),
         ("robust", Cell("R", 0, replace(NORMAL, objective=Adversarial(THREAT, ATTACK)), ((THREAT, ATTACK),)))]


def outcomes(broken, wrong, standing):
    kinds = [(True, False)] * broken + [(False, False)] * wrong + [(True, True)] * standing
    return pd.DataFrame(kinds[::-1], columns=["clean", "robust"])


@pytest.mark.parametrize(("counts", "shown"), [
    ((50, 50, 50), (4, 2, 2)), ((50, 1, 50), (5, 1, 2)), ((1, 0, 50), (1, 0, 7)), ((0, 50, 1), (0, 7, 1)),
    ((2, 1, 2), (2, 1, 2)), ((50, 0, 0), (8, 0, 0))])
def test_failures_come_first_and_take_the_places_that_are_left(counts, shown):
    table = outcomes(*counts)
    chosen = table.iloc[choose(table, 8)]
    kinds = [0 if clean and not robust else 1 if not clean else 2
             for clean, robust in zip(chosen.clean, chosen.robust, strict=True)]
    assert kinds == sorted(kinds) and tuple(kinds.count(kind) for kind in range(3)) == shown
    assert chosen.index.is_unique


def test_pictures_are_of_the_strong_attack_where_it_was_measured():
    (_, normal), (_, robust) = CELLS
    assert measure_of(normal, OTHER) == (THREAT, OTHER)
    assert measure_of(robust, OTHER) == measure_of(robust, None) == (THREAT, ATTACK)
    assert measure_of(replace(robust, measures=()), OTHER) is None


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    torch.set_num_threads(1)
    return Zoo(Store(tmp_path_factory.mktemp("store")))


def test_the_picture_shows_the_images_and_changes_that_break_them(zoo):
    png, table = strip(zoo, CELLS, OTHER)
    sheet = np.asarray(Image.open(io.BytesIO(png)), float) / 255
    assert sheet.shape == (8 * len(table), 16) and table.what.unique().tolist() == ["normal", "robust"]
    assert len(png) < 200_000 and (table.groupby("what").size() == 24).all()
    for (name, cell), how in zip(CELLS, (OTHER, ATTACK), strict=True):
        mine, found = table[table.what == name], zoo.outcomes(cell.recipe, THREAT, how)
        assert mine.attack.unique().tolist() == [how.title] and mine.eps.unique().tolist() == ["1/10"]
        assert mine.robust.iloc[0] == found.accuracy("robust")
        test, net = zoo.images(cell.recipe.data, "test"), zoo.obtain(cell.recipe).net
        at = {index: place for place, index in enumerate(test.indices.tolist())}
        for row in mine.itertuples():
            image, change = np.hsplit(sheet[row.top:row.top + row.height], 2)
            pixels = test.pixels(slice(at[row.index], at[row.index] + 1))
            assert np.abs(image - pixels[0, 0].numpy()).max() < 0.01
            change = (change - 128 / 255) / row.amplified
            assert np.abs(change).max() < 0.1 + 0.01
            if row.attacked != "":
                moved = pixels + torch.as_tensor(change, dtype=torch.float32)
                assert net(moved).argmax() != row.label, "8 bits are enough for these images"
            assert (row.attacked == "") == (row.broken_by in ("", "clean")) == (np.abs(change).max() < 0.01)
            assert (row.prediction == row.label) == (row.broken_by != "clean")
    again, same = strip(zoo, CELLS, OTHER)
    assert again == png and same.equals(table)


def test_without_an_attacked_network_there_is_no_picture(zoo):
    assert strip(zoo, [], OTHER) is None
    assert strip(zoo, [("clean", replace(CELLS[0][1], measures=()))], OTHER) is None


def test_a_picture_of_large_images_stays_small():
    from lib.training import examples

    large = replace(NORMAL, data=Data("imagenette", test=60))
    assert examples._step(Cell("N", 0, large)) == 4 and examples._bytes(Cell("N", 0, large)) == 3 * 56 * 56
