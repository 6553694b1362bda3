"""Across the papers: what its tests share."""

import pytest

from tests.papers.across_papers.world import found


@pytest.fixture(scope="session")
def made():
    return found()
