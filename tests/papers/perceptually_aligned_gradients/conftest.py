"""Perceptually aligned gradients: what its tests share."""

import pytest

from lib.papers.perceptually_aligned_gradients.evidence import evidence
from tests.papers.perceptually_aligned_gradients.world import found, usual


@pytest.fixture(scope="session")
def planned():
    return usual()[0]


@pytest.fixture(scope="session")
def cells():
    return usual()[1]


@pytest.fixture(scope="session")
def made():
    return found()


@pytest.fixture(scope="session")
def measured(made):
    return evidence(made)
