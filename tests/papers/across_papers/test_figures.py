"""Across the papers: its tables and what its figures show."""

import numpy as np
import pytest

from lib.errors import SettingsError
from lib.papers.across_papers import explorer, figures, tables
from tests.kit.figures import legend_texts, overlaps
from tests.papers.across_papers.world import SEEDS, USUAL, found, sized


@pytest.fixture(scope="module")
def lenses(made):
    return tables.lenses(made)


def test_every_lens_says_what_the_world_is(lenses):
    assert len(lenses) == len(USUAL) * SEEDS
    means = tables.summary(lenses)
    for kind, words in (("N", "normal"), ("by score", "by score"), ("pruned", "pruned")):
        clean, robust, fit, twin, cka, share = USUAL[kind]
        assert means.loc[words].to_numpy() == pytest.approx(
            [robust, clean, fit - twin, fit - twin, cka, share, np.log(.5), np.log(2)], abs=.02)


def test_the_contrast_names_its_neighbours_and_has_the_intervals_of_the_claims(made):
    table = tables.contrast(made)
    mine = table[table.kind == "by score"].set_index("measure")
    assert {*mine.between} == {"weak and middle"} and mine.aligned.all()
    assert mine.difference.to_numpy() == pytest.approx([.15, .15, -.25], abs=.03)
    assert (mine.low < mine.difference).all() and (mine.difference < mine.high).all()
    assert (mine.adversarial - mine.value).to_numpy() == pytest.approx(mine.difference.to_numpy())
    assert tables.in_words(table) == ("At equal robust accuracy, networks with aligned gradients fit a robust end less "
                                      "and resemble a robust network less and align with class scores more")
    outside = tables.contrast(found(by_score=(.93, .70, .25, .20, .45, .60)))
    assert outside.between.iloc[0] == "not between adversarial trainings" and np.isnan(outside.value.iloc[0])


def test_kinds_are_told_in_words():
    table = tables.kinds(sized().sections["across_papers"])
    told = dict(zip(table.kind, table.training, strict=True))
    assert told["weak"] == "PGD adversarial training, eps 0.02" and "10%" in told["pruned"]
    assert {*told} == {"normal", "robust", "untrained", *USUAL} - {"N", "R", "U"}


def test_the_contrast_is_drawn_with_a_line_through_the_eps(made, lenses):
    strengths = tables.strengths(made)
    assert strengths == {"weak": .02, "middle": .05, "robust": .15}
    figure = figures.contrast(lenses, strengths, tables.in_words(tables.contrast(made)))
    assert not overlaps(figure) and len({*legend_texts(figure)}) <= 6
    line = next(one for one in figure.axes[0].lines if one.get_label() == "adversarial training, by eps")
    assert line.get_xdata() == pytest.approx([.2, .4, .6], abs=.01)
    assert line.get_ydata() == pytest.approx([.1, .3, .4], abs=.01)
    with pytest.raises(SettingsError, match="adversarial = none"):
        figures.contrast(lenses, {})


def test_every_kind_is_drawn_through_every_lens(lenses):
    figure = figures.every_lens(lenses.assign(off=np.nan))
    assert not overlaps(figure) and len(figure.axes) == len(tables.LENSES)
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()][0] == "normal"


def test_two_lenses_can_be_chosen(lenses):
    shown = explorer.explorer(lenses, live=False)
    assert "52 networks: correlation" in shown.sentence()
    axis = shown.choose(across="alignment", up="cka").figure().axes[0]
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("alignment, share of ceiling", "same-layer CKA")
