"""What a paper claims and how each claim is judged, read from claims/<paper>.yaml and checked before any work."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path

import yaml

from lib import statistics
from lib.errors import SettingsError, need, unknown
from lib.profiles import LADDER, PROFILES
from lib.runtime import ROOT

FOLDER = ROOT / "claims"


@dataclass(frozen=True)
class Part:
    """One comparison. `statistic` as in `statistics.estimate`; `margin` in the statistic's own unit (accuracies and
    differences: shares, 0.02 is two points; of maps: what their summary is in, such as CKA); `paper_value`: the
    paper's number in that unit, where it gives one.
    """

    id: str
    what: str
    statistic: str
    side: str
    margin: float
    combine: str = "all"
    paper_value: float | None = None

    def __post_init__(self):
        _need_text(self, "id", "what")
        for name, allowed in (("statistic", tuple(statistics.STATISTICS)), ("side", ("above", "below", "within")),
                              ("combine", ("all", "any"))):
            if getattr(self, name) not in allowed:
                raise unknown(name, getattr(self, name), allowed)
        low, high = {"difference": (-1, 1), "accuracy": (0, 1), "ratio": (0, math.inf)}.get(
            self.statistic, (-math.inf, math.inf))
        need(_is_number(self.margin) and low <= self.margin <= high, "margin", self.margin,
             f"a number from {low:g} to {high:g} for statistic {self.statistic} (shares: 0.02 is two points)")
        need(self.side != "within" or (self.margin > 0 and self.statistic in ("difference", "seeds", "map")),
             "margin", self.margin,
             f"greater than 0, of a difference, seeds or a map, for side within (here: {self.statistic})")
        need(self.paper_value is None or _is_number(self.paper_value), "paper_value", self.paper_value, "a number")


@dataclass(frozen=True)
class Claim:
    """`scope`: the profiles that may test it, which a file gives as `from` and `skips` (see `scope`); `needs`: what is
    missing where the scope is empty.
    """

    id: str
    statement: str
    paper_value: str | float
    paper_source: str
    protocol: str
    scope: tuple[str, ...]
    parts: tuple[Part, ...] = ()
    figure: str = ""
    needs: str = ""

    def __post_init__(self):
        _need_text(self, "id", "statement", "paper_source", "protocol")
        need(bool(re.fullmatch(r"C\d+[a-z]?", self.id)), "id", self.id, "C, a number and perhaps a letter, such as C1a")
        need(_is_number(self.paper_value) or (isinstance(self.paper_value, str) and bool(self.paper_value.strip())),
             "paper_value", self.paper_value, "a number or text (such as: number not found)")
        for profile in self.scope:
            if profile not in PROFILES:
                raise unknown("profile in scope", profile, PROFILES)
        need(bool(self.parts or not self.scope), "parts", "none", "given where the scope is not empty")
        need(bool(self.scope or self.needs), "needs", "empty", "said where the scope is empty")
        _need_distinct("part ids", [p.id for p in self.parts])


@dataclass(frozen=True)
class Paper:
    """A paper and its claims: iterate over them, or take one as `paper["C1a"]`."""

    title: str
    authors: str
    venue: str
    key: str
    claims: tuple[Claim, ...]

    def __post_init__(self):
        _need_text(self, "title", "authors", "venue", "key")
        _need_distinct("claim ids", [c.id for c in self.claims])

    def __iter__(self) -> Iterator[Claim]:
        return iter(self.claims)

    def __getitem__(self, claim_id: str) -> Claim:
        found = {c.id: c for c in self.claims}
        if claim_id not in found:
            raise unknown("claim", claim_id, found)
        return found[claim_id]


def load(paper: str | Path) -> Paper:
    """The claims of a paper by name ('stitching': claims/stitching.yaml) or of a YAML file by path, all checked."""
    path = paper if isinstance(paper, Path) else FOLDER / f"{paper}.yaml"
    if not path.is_file():
        raise unknown("claims file", path.stem, [p.stem for p in path.parent.glob("*.yaml")])
    where = f"{path.parent.name}/{path.name}"
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" at line {mark.line + 1}" if mark else ""
        raise SettingsError(f"{where} is not YAML{line}: {getattr(error, 'problem', error)}") from None
    need(isinstance(raw, dict) and set(raw) == {"paper", "claims"}, where, f"a file with {_keys(raw)}",
         "a mapping of exactly paper and claims")
    claims = tuple(_claim(c, where) for c in _list(raw["claims"], f"{where}, claims"))
    need(isinstance(raw["paper"], dict), f"{where}, paper", raw["paper"], "a mapping")
    return _make(Paper, {**raw["paper"], "claims": claims}, f"{where}, paper")


def _claim(raw, where: str) -> Claim:
    need(isinstance(raw, dict), f"{where}, a claim", raw, "a mapping")
    where = f"{where}, claim {raw.get('id', '(no id)')}"
    names = {f.name for f in fields(Claim)} - {"scope"} | {"from", "skips"}
    for key in raw:
        if key not in names:
            raise unknown(f"key in {where}:", key, names)
    others = {key: value for key, value in raw.items() if key not in ("from", "skips")}
    parts = tuple(
        _make(Part, p, f"{where}, part {p.get('id', '(no id)') if isinstance(p, dict) else p}")
        for p in _list(raw.get("parts", []), f"{where}, parts")
    )
    try:
        tested = scope(raw.get("from"), _list(raw.get("skips", []), "skips"))
    except SettingsError as error:
        raise SettingsError(f"{where}: {error}") from None
    return _make(Claim, {**others, "parts": parts, "scope": tested}, where)


def scope(first: str | None, skips: Sequence[str] = ()) -> tuple[str, ...]:
    """The profiles that may test a claim: from `first` on up the ladder, but for those it skips; only `first` itself
    where that stands apart from the ladder; none where it is None. Raises SettingsError for other names.
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


def _make(cls, raw, where: str):
    need(isinstance(raw, dict), where, raw, "a mapping")
    known = {f.name: f.default is MISSING for f in fields(cls)}
    for key in raw:
        if key not in known:
            raise unknown(f"key in {where}:", key, known)
    missing = [name for name, required in known.items() if required and name not in raw]
    need(not missing, where, f"without {', '.join(missing)}",
         f"given with {', '.join(name for name, required in known.items() if required)}")
    try:
        return cls(**raw)
    except SettingsError as error:
        raise SettingsError(f"{where}: {error}") from None


def _list(value, where: str) -> list:
    need(isinstance(value, list), where, value, "a list")
    return value


def _keys(raw) -> str:
    return ", ".join(map(str, raw)) if isinstance(raw, dict) and raw else "no keys"


def _need_text(value, *names: str) -> None:
    for name in names:
        text = getattr(value, name)
        need(isinstance(text, str) and bool(text.strip()), name, repr(text), "text")


def _need_distinct(what: str, names: Sequence[str]) -> None:
    twice = sorted({n for n in names if names.count(n) > 1})
    need(not twice, what, ", ".join(twice), "different from each other")


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
