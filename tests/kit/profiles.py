"""Profiles with changes, and the networks that a paper plans for them."""

from __future__ import annotations

import copy
from contextlib import contextmanager

import pytest

from lib.errors import SettingsError
from lib.papers import papers, settings


def load(paper, section, others=(), profile="smoke"):
    """Settings of a profile with changes, from seed 0. section: {setting of the paper: value}; others: {dotted setting:
    value}.
    """
    changes = {f"{paper}.{name}": value for name, value in copy.deepcopy({**section}).items()}
    return settings.load(profile, {"first_seed": 0, **dict(others), **changes})


def given(s, paper):
    """The arguments of a paper's plan and measurements: networks, section, and the function from repetition to seed."""
    return s.networks, s.sections[paper], s.seed


def cells_of(s, paper):
    """Every network that the paper needs, as a list of cells."""
    return papers()[paper].cells(*given(s, paper))


def profiles_of(paper):
    """The names of the profiles that run the paper's notebook."""
    return tuple(name for name in settings.profiles() if paper in settings.load(name).notebooks)


@contextmanager
def refused(words):
    """Assert that the code inside raises SettingsError with one line that matches the regular expression `words`."""
    with pytest.raises(SettingsError, match=words) as error:
        yield
    assert "\n" not in str(error.value)
