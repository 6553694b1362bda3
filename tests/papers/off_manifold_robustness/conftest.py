"""Off-manifold robustness: what its tests share."""

import pytest

from lib.papers.off_manifold_robustness import networks
from lib.papers.off_manifold_robustness.evidence import evidence
from tests.papers.off_manifold_robustness.world import found, given, sized


@pytest.fixture(scope="session")
def planned():
    return sized()


@pytest.fixture(scope="session")
def cells(planned):
    return networks.cells(*given(planned))


@pytest.fixture(scope="session")
def made():
    return found()


@pytest.fixture(scope="session")
def measured(made):
    return evidence(made)
