"""What figures of several papers share."""

import numpy as np
import pytest

from lib.plots.common import signed


def test_signed_pictures_are_grey_at_0_and_cut_at_three_standard_deviations():
    gradient = np.random.default_rng(0).normal(size=(3, 8, 8))
    gradient[0, 0, :3] = 0, 100, -100
    picture = signed(gradient)
    assert picture.shape == (8, 8, 3)
    assert picture[0, :3, 0] == pytest.approx([0.5, 1, 0])
    assert picture[1, 1, 2] == pytest.approx(0.5 + gradient[2, 1, 1] / (6 * gradient.std()))
    assert signed(gradient[:1] * 1e-20) == pytest.approx(signed(gradient[:1])), "whatever the scale"
    for nothing in (np.zeros((1, 4, 4)), np.full((1, 4, 4), np.nan)):
        assert (signed(nothing) == 0.5).all()
