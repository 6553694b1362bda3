"""HARP: what its tests share."""

import pytest

from tests.papers.harp_pruning.world import found, sized


@pytest.fixture(scope="session")
def planned():
    return sized()


@pytest.fixture(scope="session")
def made():
    return found()
