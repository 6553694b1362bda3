"""The table of settings: up to date, complete, and read off the fields."""

from dataclasses import dataclass

import pytest

from lib.papers import papers
from lib.papers.settings import SHARED, Settings
from lib.runtime import ROOT
from lib.site.settings import page, sentences, settings, written
from lib.values.declared import Count, Declared, Share


@dataclass(frozen=True)
class Section(Declared):
    seeds: Count  # repetitions
    # a sentence
    # of two lines
    share: Share = 0.5
    bare: int = 0


@dataclass(frozen=True)
class Longer(Section):
    more: bool = False  # a "#" is no comment


def test_the_table_is_up_to_date():
    assert page() == (ROOT / "docs" / "settings.md").read_text(encoding="utf-8"), "run: python -m lib settings"


def test_what_is_said_of_a_setting_stands_at_its_field():
    said = {"seeds": "repetitions", "share": "a sentence of two lines", "bare": ""}
    assert sentences(Section) == said and sentences(Longer) == said | {"more": 'a "#" is no comment'}
    rows = {row.name: (row.default, row.what) for row in settings(Section, "top.")}
    assert rows == {"top.seeds": ("set by the profile", "repetitions"), "top.bare": ("`0`", ""),
                    "top.share": ("`0.5`", "a sentence of two lines")}


@pytest.mark.parametrize("name", ["", *papers()])
def test_every_setting_says_what_it_is(name):
    rows = settings(papers()[name].Section, f"{name}.") if name else settings(Settings, "", SHARED)
    assert not [row.name for row in rows if not row.what]


@pytest.mark.parametrize("value, text", [(1, "1"), (True, "true"), (None, "null"), ("", '""'), ([0.5, "8/255"],
                                         "[0.5, 8/255]"), ({"norm": "l2", "box": False}, "{norm: l2, box: false}")])
def test_values_are_written_as_in_profiles(value, text):
    assert written(value) == text
