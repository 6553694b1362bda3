"""Similarity of representations: what its tests share."""

import pytest

from tests.papers.representation_similarity.world import found


@pytest.fixture(scope="session")
def made():
    return found()
