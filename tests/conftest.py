"""For all tests."""

import os

import pytest


@pytest.fixture(autouse=True)
def commands_leave_the_environment_alone():
    """A command that runs in a test may set variables for its jobs; the next test does not see them."""
    before = dict(os.environ)
    yield
    if dict(os.environ) != before:
        os.environ.clear()
        os.environ.update(before)
