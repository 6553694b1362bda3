"""Bounds that are declared with a field: what is refused, in which words, and under which name."""

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Annotated

import pytest

from lib.errors import SettingsError
from lib.profiles.loader import make
from lib.values.declared import (
    Bound,
    Count,
    Declared,
    OneOf,
    Positive,
    ProperShare,
    Repetitions,
    Share,
    below,
    different,
    falling,
    growing,
    length,
    number,
)

KINDS = {"plain": 1, "robust": 2}


@dataclass(frozen=True)
class Part(Declared):
    name: str
    share: Share = 0.5

    where = "part"


@dataclass(frozen=True)
class Whole(Declared):
    seeds: Repetitions = 3
    steps: Count | None = None
    kind: Annotated[str, OneOf(KINDS)] = "plain"
    momentum: Annotated[float, below(0, 1)] = 0.9
    exact: ProperShare = Fraction(1, 2)
    ratio: Annotated[float, number(1)] | None = None
    quick: bool = False
    sizes: Annotated[tuple[Positive, ...], growing(2)] = (1, 2)
    keeps: Annotated[tuple[ProperShare, ...], falling()] = ()
    stages: Annotated[tuple[str, ...], length(1, 3)] = ("stem",)
    parts: Annotated[tuple[Part, ...], different(of="name")] = ()
    part: Annotated[Part, Bound(lambda share: share > 0, "more than none", of="share")] = Part("one")

    where = "whole"

    def check_together(self):
        if self.seeds == 99:
            raise SettingsError("together")


@pytest.mark.parametrize("given, words", [
    ({"seeds": 0}, "whole.seeds = 0 is not possible: it must be a whole number from 1 to 100"),
    ({"seeds": True}, "whole.seeds = True"), ({"seeds": 2.0}, "whole.seeds = 2.0"), ({"seeds": None}, "seeds = "),
    ({"steps": 0}, "whole.steps = 0 is not possible: it must be a whole number of at least 1, or null"),
    ({"kind": "robst"}, "unknown whole.kind 'robst'; did you mean 'robust'? (known: plain, robust)"),
    ({"kind": ["plain"]}, "unknown whole.kind"),
    ({"momentum": 1}, "whole.momentum = 1"), ({"momentum": "0.5"}, "whole.momentum = 0.5"),
    ({"exact": "1"}, "whole.exact = 1 is not possible: it must be a number between 0 and 1, both excluded"),
    ({"exact": "1/0"}, "whole.exact = '1/0' is not a number"),
    ({"ratio": 0.5}, "a number of at least 1, or null"), ({"quick": 1}, "whole.quick = 1"),
    ({"sizes": (2, 1)}, "whole.sizes = [2, 1] is not possible: it must be 2 or more increasing numbers"),
    ({"sizes": (1,)}, "whole.sizes = [1]"), ({"sizes": (0, 1)}, "whole.sizes = 0"), ({"sizes": 3}, "sizes = 3"),
    ({"keeps": ("1/10", "1/2")}, "whole.keeps = [1/10, 1/2] is not possible: it must be decreasing numbers"),
    ({"stages": ()}, "whole.stages = [] is not possible: it must be 1 to 3 entries long"),
    ({"parts": (Part("a"), Part("a", 1))}, "whole.parts.name = [a, a] is not possible: it must be different ones"),
    ({"part": Part("a", 0)}, "whole.part.share = 0 is not possible: it must be more than none"),
    ({"part": "a"}, "whole.part = a is not possible: it must be Part"), ({"seeds": 99}, "together"),
])
def test_values_are_checked_when_they_are_made(given, words):
    with pytest.raises(SettingsError) as error:
        Whole(**given)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_numbers_are_exact_and_lists_are_tuples():
    whole = Whole(exact="1/3", keeps=[0.5, 0.1], parts=[Part("a")])
    assert whole == replace(Whole(), exact=Fraction(1, 3), keeps=(Fraction(1, 2), Fraction(1, 10)), parts=(Part("a"),))
    assert {type(whole.keeps), type(whole.parts)} == {tuple} and hash(whole) == hash(replace(whole))


@pytest.mark.parametrize("tree, words", [
    ({"seeds": "three"}, "top.seeds = 'three' is not possible: it must be a whole number from 1 to 100"),
    ({"parts": [{"name": "a"}, {"name": "b", "share": 2}]}, "top.parts[b].share = 2.0"),
    ({"parts": [{"share": 1}]}, "top.parts[0].name is missing"),
    ({"part": {"name": "a", "shares": 1}}, "did you mean 'top.part.share'"),
    ({"quick": "yes"}, "top.quick = 'yes'"), ({"stages": [1]}, "top.stages = 1"), ({"part": 1}, "top.part = 1"),
    ({"parts": {"name": "a"}}, "top.parts = "), ({"seeds": None}, "top.seeds = null"),
])
def test_profiles_are_checked_at_the_full_name(tree, words):
    with pytest.raises(SettingsError) as error:
        make(Whole, tree, "top")
    assert words in str(error.value) and "\n" not in str(error.value)
