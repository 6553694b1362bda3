"""What a paper claims and how each claim is judged, read from claims/<paper>.yaml and checked before any work."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

from lib import statistics
from lib.errors import SettingsError, need, unknown
from lib.profiles import LADDER, PROFILES
from lib.profiles.loader import make, read
from lib.runtime import ROOT
from lib.values.declared import Bound, Declared, OneOf, Text
from lib.values.keys import plain_fields
from lib.values.verdicts import VERDICTS

FOLDER = ROOT / "claims"
# Whose question a claim is. paper: the paper claims it. control: does the pattern exceed what could explain it? ours:
# data, measures or limits that the paper does not have.
ASKS = ("paper", "control", "ours")


def _said(value) -> bool:
    return bool(value.strip()) if type(value) is str else type(value) in (int, float) and math.isfinite(value)


# Whole or not: numbers are shown as they stand in the file.
Finite = Annotated[int | float, Bound(lambda v: type(v) in (int, float) and math.isfinite(v), "a finite number")]
Identifier = Annotated[str, Bound(lambda v: bool(re.fullmatch(r"[CX]\d+[a-z]?", v)),
                                  "C (X across papers), a number and perhaps a letter, such as C1a")]
Url = Annotated[str, Bound(lambda v: bool(re.fullmatch(r"https://[^\s()|]+", v)),
                           "an address that begins with https://, without spaces, brackets and |")]


@dataclass(frozen=True)
class Part(Declared):
    """One comparison. `statistic` is one of `statistics.estimate`. `margin`, the smallest effect of interest, is in the
    statistic's unit: shares for accuracies and differences (0.02 is two points), the unit of the summary for maps (such
    as CKA). `null_value`, in the same unit, is the value of no effect; a bar, such as "keeps 0.8 of a reference", has
    none, and neither has side within. `paper_value` is the paper's number in that unit, where it gives one. Raises
    SettingsError for impossible values.
    """

    id: Text
    what: Text
    statistic: Annotated[str, OneOf(statistics.STATISTICS)]
    side: Annotated[str, OneOf(("above", "below", "within"))]
    margin: Finite
    null_value: Finite | None = None
    combine: Annotated[str, OneOf(("all", "any"))] = "all"
    paper_value: Finite | None = None

    def check_together(self):
        low, high = {"difference": (-1, 1), "accuracy": (0, 1), "ratio": (0, math.inf)}.get(
            self.statistic, (-math.inf, math.inf))
        need(low <= self.margin <= high, "margin", self.margin,
             f"a number from {low:g} to {high:g} for statistic {self.statistic} (shares: 0.02 is two points)")
        need(self.side != "within" or (self.margin > 0 and self.statistic in ("difference", "seeds", "map")),
             "margin", self.margin,
             f"greater than 0 and belong to a difference, seeds or a map for side within (here: {self.statistic})")
        if self.null_value is not None:
            need(self.side != "within", "null_value", self.null_value, "left out for side within")
            beyond = self.null_value > self.margin if self.side == "above" else self.null_value < self.margin
            need(not beyond, "null_value", self.null_value,
                 f"at {'most' if self.side == 'above' else 'least'} the margin {self.margin:g} for side {self.side}")


@dataclass(frozen=True)
class Expectation(Declared):
    """The verdict that we expect of a claim at a profile, written down before its run."""

    profile: Annotated[str, OneOf(PROFILES)]
    verdict: Annotated[str, OneOf(VERDICTS)]

    where = "expected"


@dataclass(frozen=True)
class Claim(Declared):
    """A statement and how it is judged. `asks` says whose question it is, see ASKS.

    `expected`: files give it as {profile: verdict}. `scope`: the profiles that may test it; files give it as `from` and
    `skips` (see `tested_from`). `needs`: what is missing if the scope is empty. `until`: the last profile of the ladder
    that still judges by this wording, because it was frozen there ("": no such end, see `load`). Digests depend neither
    on `expected` nor on `until`, which do not change what a profile judges by the wording. Raises SettingsError for
    impossible values.
    """

    id: Identifier
    statement: Text
    asks: Annotated[str, OneOf(ASKS)]
    paper_value: Annotated[str | int | float, Bound(_said, "a number or text (such as: number not found)")]
    paper_source: Text
    protocol: Text
    scope: tuple[str, ...]
    parts: tuple[Part, ...] = ()
    figure: str = ""
    needs: str = ""
    expected: tuple[Expectation, ...] = ()
    until: Annotated[str, OneOf(("", *LADDER))] = ""

    def as_plain(self) -> dict:
        return {"type": "Claim", **plain_fields(self, without=("expected", "until"))}

    def expected_at(self, profile: str) -> str | None:
        """The verdict that we expect at a profile: `not tested` outside the claim's scope, None if none is written."""
        if profile not in self.scope:
            return "not tested"
        return next((one.verdict for one in self.expected if one.profile == profile), None)

    def check_together(self):
        need(bool(self.parts or not self.scope), "parts", "none", "given, because the scope is not empty")
        need(bool(self.scope or self.needs), "needs", "empty", "given, because the scope is empty")
        _need_distinct("part ids", [p.id for p in self.parts])


@dataclass(frozen=True)
class ClaimSheet(Declared):
    """A paper and its claims: iterate over them, or take one as `paper["C1a"]`."""

    title: Text
    authors: Text
    venue: Text
    key: Text
    url: Url | None  # the paper's page: arXiv, DOI or its proceedings; null: a question of our own
    claims: tuple[Claim, ...]

    def check_together(self):
        _need_distinct("claim ids", [c.id for c in self.claims])

    def __iter__(self) -> Iterator[Claim]:
        return iter(self.claims)

    def __getitem__(self, claim_id: str) -> Claim:
        found = {c.id: c for c in self.claims}
        if claim_id not in found:
            raise unknown("claim", claim_id, found)
        return found[claim_id]


def load(paper: str | Path, profile: str = "") -> ClaimSheet:
    """Read the claims of a paper by its name ('stitching' reads claims/stitching.yaml) or of a YAML file by its path.

    profile: claims that were corrected after this profile was frozen are given as they were frozen, that is, where the
    file has a claim of the same id `until` this profile or a larger one. "": as they are now. Raises SettingsError for
    an unknown name and for the first fault in the file, saying where it stands.
    """
    path = FOLDER / f"{paper}.yaml" if type(paper) is str else paper
    if not path.is_file():
        raise unknown("claims file", path.stem, [p.stem for p in path.parent.glob("*.yaml")])
    raw = read(path)
    with _named(f"{path.parent.name}/{path.name}"):
        keys = ", ".join(map(str, raw)) if type(raw) is dict else ""
        need(type(raw) is dict and set(raw) == {"paper", "claims"}, "the file", f"one with {keys or 'no keys'}",
             "a mapping of exactly paper and claims")
        claims = _worded(tuple(_claim(c) for c in _list(raw["claims"], "claims")), profile)
        _mapping(raw["paper"], "paper")
        with _named("paper"):
            return make(ClaimSheet, {**raw["paper"], "claims": claims}, "")


def _worded(claims: Sequence[Claim], profile: str) -> tuple[Claim, ...]:
    """The claims in the wording that a profile judges by."""
    size = LADDER.index(profile) if profile in LADDER else len(LADDER)
    kept = [claim for claim in claims if claim.until and size <= LADDER.index(claim.until)]
    ids = {claim.id for claim in kept}
    return tuple(claim for claim in claims if claim in kept or not claim.until and claim.id not in ids)


def _claim(raw) -> Claim:
    _mapping(raw, "a claim")
    with _named(f"claim {raw.get('id', '(no id)')}"):
        names = {f.name for f in fields(Claim)} - {"scope"} | {"from", "skips"}
        for key in raw:
            if key not in names:
                raise unknown("setting", key, names)
        given = {**raw, "parts": tuple(_part(p) for p in _list(raw.get("parts", []), "parts"))}
        expected = given.get("expected", {})
        _mapping(expected, "expected")
        given["expected"] = tuple({"profile": profile, "verdict": verdict} for profile, verdict in expected.items())
        given["scope"] = tested_from(given.pop("from", None), _list(given.pop("skips", []), "skips"))
        return make(Claim, given, "")


def _part(raw) -> Part:
    _mapping(raw, "a part")
    with _named(f"part {raw.get('id', '(no id)')}"):
        part = make(Part, raw, "")
        need("null_value" in raw or part.side == "within", "null_value", "left out", "the value of no effect, or null "
             "for a bar")
        return part


def tested_from(first: str | None, skips: Sequence[str] = ()) -> tuple[str, ...]:
    """The profiles that may test a claim: `first` and all larger ones of the ladder, except `skips`. If `first` is not
    on the ladder, it is the only one; if it is None, there is none. Raises SettingsError for an unknown profile.
    """
    if first is None:
        found = ()
    elif first in PROFILES:
        found = LADDER[LADDER.index(first):] if first in LADDER else (first,)
    else:
        raise unknown("profile in from", first, PROFILES)
    for profile in skips:
        if profile not in found:
            raise unknown("profile in skips", profile, found)
    return tuple(profile for profile in found if profile not in skips)


@contextlib.contextmanager
def _named(where: str):
    """Let errors raised inside say where in the file they occurred."""
    try:
        yield
    except SettingsError as error:
        raise SettingsError(f"{where}, {error}") from None


def _list(value, where: str) -> list:
    need(type(value) is list, where, value, "a list")
    return value


def _mapping(value, where: str) -> None:
    need(type(value) is dict, where, value, "a mapping")


def _need_distinct(what: str, names: Sequence[str]) -> None:
    twice = sorted({n for n in names if names.count(n) > 1})
    need(not twice, what, ", ".join(twice), "different from each other")

