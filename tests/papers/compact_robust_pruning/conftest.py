"""Compact and robust networks: what its tests share."""

import pytest

from tests.papers.compact_robust_pruning.world import found


@pytest.fixture(scope="session")
def made():
    return found()
