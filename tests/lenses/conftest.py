"""What tests of lenses share. Each module has its own `pool`, whose networks have learned as much as it needs."""

import pytest

from lib.lenses.subject import Subject


@pytest.fixture(scope="module")
def images(pool):
    return pool.zoo.images(pool.data, "test")


@pytest.fixture(scope="module")
def copy(pool):
    """A robust reference as a subject."""
    return Subject.of_recipe(pool.zoo, pool.recipes["R0"], "copy")
