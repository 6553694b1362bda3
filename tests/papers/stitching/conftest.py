"""Stitching: what its tests share."""

import pytest

from lib.store import Store
from lib.training.zoo import Zoo


@pytest.fixture(scope="session")
def zoo(tmp_path_factory):
    return Zoo(Store(tmp_path_factory.mktemp("store")))
