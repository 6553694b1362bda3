"""Numbers read off maps, on maps whose numbers are known."""

from dataclasses import dataclass

import numpy as np
import pytest

from lib.errors import SettingsError
from lib.papers.representation_similarity import reference
from lib.similarity.summaries import (
    block_index,
    block_share,
    blocks,
    by_distance,
    mean_off_diagonal,
    same_layer,
    thirds,
)


@dataclass(frozen=True)
class Layer:
    stage: str


def layers(**counts):
    """So many layers of each stage; `layer1` in two blocks."""
    return [Layer(f"{stage}.{k % 2}" if stage.startswith("layer") else stage)
            for stage, count in counts.items() for k in range(count)]


def of_blocks(sizes, means):
    """A self map that is constant in every block: means[a, b] for stages a <= b."""
    of = np.repeat(np.arange(len(sizes)), sizes)
    values = np.array([[means[min(a, b), max(a, b)] for b in of] for a in of])
    np.fill_diagonal(values, 1)
    return values


# WRN-28-4: the stem and 25 layers, twice 25, and the head's 4; stage means digitised from the published figure.
WRN = layers(stem=1, layer1=25, layer2=25, layer3=25, head=4)
PUBLISHED = {
    "normal": {(0, 0): .71, (1, 1): .78, (2, 2): .70, (3, 3): .97, (0, 1): .47, (1, 2): .53, (0, 2): .27, (0, 3): .18,
               (1, 3): .29, (2, 3): .60},
    "robust": {(0, 0): .89, (1, 1): .86, (2, 2): .76, (3, 3): .91, (0, 1): .80, (1, 2): .69, (0, 2): .55, (0, 3): .26,
               (1, 3): .32, (2, 3): .50},
}


@pytest.mark.parametrize("kind, share", [("normal", 0.47), ("robust", 0.30)])
def test_the_published_block_means_give_the_published_summaries(kind, share):
    values = of_blocks((26, 25, 25, 4), PUBLISHED[kind])
    known = {name: by_kind[kind] for name, by_kind in reference.SUMMARIES.items()}
    assert block_index(values, WRN) == pytest.approx(known["block index"], abs=0.005)
    assert mean_off_diagonal(values) == pytest.approx(known["mean off-diagonal"], abs=0.01)
    assert block_share(values, WRN) == pytest.approx(share, abs=0.01)


def test_the_paper_s_differences_are_those_of_its_networks():
    """The sizes that the claims are compared with come from the same table as the reference in the figures."""
    from lib import claims

    paper, known = claims.load("representation_similarity"), reference.SUMMARIES
    sizes = {claim.id: claim.parts[0].paper_value for claim in paper if claim.parts}
    bright, index = known["mean off-diagonal"], known["block index"]
    assert sizes["C1a"] == pytest.approx(bright["robust"] - bright["normal"], abs=0.005)
    left = {kind: index[kind] / (1 - bright[kind]) for kind in index}
    assert sizes["C2a"] == pytest.approx(left["normal"] - left["robust"], abs=0.01)


def test_the_stem_counts_to_the_first_stage_and_the_head_to_none():
    some = layers(stem=1, layer1=2, layer2=2, head=2)
    assert blocks(some) == [[0, 1, 2], [3, 4]]
    values = of_blocks((3, 2, 2), {(0, 0): .8, (1, 1): .6, (2, 2): .5, (0, 1): .3, (0, 2): .2, (1, 2): .1})
    assert block_index(values, some) == pytest.approx((.8 + .6) / 2 - .3)
    headless = values.copy()
    headless[5:] = headless[:, 5:] = 0.99
    assert block_index(headless, some) == pytest.approx(block_index(values, some))
    other = values.copy()
    other[0, 1:3] = other[1:3, 0] = 0.2  # the stem and the first stage: 4 of its 6 cells
    assert block_index(other, some) == pytest.approx(((.8 * 2 + .2 * 4) / 6 + .6) / 2 - .3)


def test_stages_weigh_the_same_however_many_layers_they_have():
    some = layers(stem=1, layer1=9, layer2=2, layer3=1)
    values = of_blocks((10, 2, 1), {(0, 0): .9, (1, 1): .5, (2, 2): 1, (0, 1): .4, (1, 2): .2, (0, 2): 0})
    assert block_index(values, some) == pytest.approx((.9 + .5) / 2 - (.4 + .2) / 2), "one layer has no other within"


def test_blocks_need_two_stages():
    with pytest.raises(SettingsError, match="stages = 1 is not possible: it must be at least 2"):
        block_index(np.eye(4), layers(stem=1, layer1=2, head=1))


def test_a_brighter_map_has_a_smaller_block_index_but_the_same_share():
    values = of_blocks((26, 25, 25, 4), PUBLISHED["normal"])
    brighter = 1 - 0.3 * (1 - values)
    assert block_index(brighter, WRN) == pytest.approx(0.3 * block_index(values, WRN))
    assert block_share(brighter, WRN) == pytest.approx(block_share(values, WRN))


def test_the_diagonal_of_a_self_map_says_nothing():
    values = np.array([[7.0, .1, .2], [.3, 7.0, .4], [.5, .6, 7.0]])
    assert mean_off_diagonal(values) == pytest.approx(.35)
    assert same_layer(values) == 7
    for summary, square in ((mean_off_diagonal, "square: a self map"), (same_layer, "with as many layers")):
        with pytest.raises(SettingsError, match=rf"map = of shape \(3, 2\) is not possible.*{square}"):
            summary(values[:, :2])


@pytest.mark.parametrize("count, early, deep", [(1, [0], [0]), (2, [0], [1]), (3, [0], [2]), (7, [0, 1], [5, 6]),
                                                (9, [0, 1, 2], [6, 7, 8])])
def test_thirds_are_the_first_and_the_last_layers(count, early, deep):
    depth = np.arange(count) ** 2.0
    values = np.full((count, count), -1.0)
    np.fill_diagonal(values, depth)
    assert thirds(values) == (depth[early].mean(), depth[deep].mean())


def test_by_distance_is_the_mean_of_each_diagonal():
    values = np.array([[1, .9, .5, .1], [.9, 1, .7, .3], [.5, .7, 1, .8], [.1, .3, .8, 1]])
    assert by_distance(values).tolist() == pytest.approx([.8, .4, .1])


def test_an_undefined_layer_counts_as_if_it_were_not_there():
    rng, some = np.random.default_rng(0), layers(stem=1, layer1=4, layer2=4, head=2)
    values, gone = rng.random((11, 11)), 6
    values[gone] = values[:, gone] = np.nan
    rest = np.delete(np.delete(values, gone, 0), gone, 1)
    without = some[:gone] + some[gone + 1:]
    assert mean_off_diagonal(values) == pytest.approx(mean_off_diagonal(rest))
    assert same_layer(values) == pytest.approx(same_layer(rest))
    assert block_index(values, some) == pytest.approx(block_index(rest, without))
    assert block_share(values, some) == pytest.approx(block_share(rest, without))
    assert thirds(values)[1] == pytest.approx(values.diagonal()[8:].mean())
    values[9, 9] = np.nan
    assert thirds(values)[1] == pytest.approx((values[8, 8] + values[10, 10]) / 2)
    assert np.isfinite(by_distance(values)).all()
    assert by_distance(values)[0] == pytest.approx(np.nanmean([values[i, i + 1] for i in range(10)]))
