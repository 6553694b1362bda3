"""Profiles: the YAML files under configs/ as frozen, typed settings.

A profile holds only numbers. Overrides from a notebook's parameters cell, from papermill and from run_all.sh come as
dotted names (`networks.robust.epochs`, `stitching.seeds`) and pass the same checks before any work: an unknown name or
an impossible value raises a one-line `SettingsError`, which suggests the nearest known name. An entry of a list is
reached by its `name` (`representation_similarity.arms.TRADES.epochs`).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from lib.errors import is_int, need, unknown
from lib.papers import papers
from lib.profiles import frozen as freezing
from lib.profiles import miniature
from lib.profiles.frozen import Frozen, FrozenPaper, drawn
from lib.profiles.loader import capped, make, read
from lib.profiles.networks import Networks
from lib.runtime import ROOT
from lib.values.cell import Cell
from lib.values.declared import Bound, Declared, OneOf, whole
from lib.values.keys import digest, later

DEVICES = ("auto", "cpu", "cuda")
DEVICE = Bound(lambda name: str(name).split(":")[0] in DEVICES,
               f"one of {', '.join(DEVICES)}, or one of several GPUs such as cuda:1")
JOBS = ("none", "seeds", "networks")
REHEARSAL = "rehearsal"  # the end of the name of a rehearsal's results folder


@dataclass(frozen=True)
class Settings(Declared):
    """All settings of a run. sections: {paper: its settings}; a paper without a section is not part of the profile."""

    networks: Networks
    sections: Mapping[str, Any] = dataclasses.field(hash=False)
    profile: str = "smoke"
    # where networks are trained and measured: cpu, cuda, one of several GPUs (cuda:1), or auto (a GPU if there is one)
    device: Annotated[str, DEVICE] = "auto"
    # what a batch job trains and measures before the notebooks: networks (one, or a few that belong together), seeds
    # (most of a repetition, for networks that train faster than a job starts), or none (the notebooks do everything)
    jobs: Annotated[str, OneOf(JOBS)] = "none"
    # the seed of the first repetition; the others count up from it, so that a run can be repeated on new seeds;
    # frozen: the one that was drawn when the profile was frozen
    first_seed: Annotated[int, whole(0)] = 0
    overrides: tuple[tuple[str, str], ...] = ()
    frozen: Frozen | None = None
    rehearsal: bool = later(False)  # whether all sizes are at their least (lib/profiles/miniature.py)

    def check_together(self):
        for section in self.sections.values():
            section.check(self.networks)
        self._size_pools()

    def _size_pools(self):
        """Grow the pools to what the papers need, since every repetition has its own networks. Raise SettingsError if
        an override asks for fewer.
        """
        least = max((section.pool for section in self.sections.values()), default=1)
        seeds = ", ".join(f"{name}.seeds = {s.seeds}" for name, s in self.sections.items() if s.pool == least)
        for kind in ("normal", "robust"):
            count, named = getattr(self.networks, kind).count, f"networks.{kind}.count"
            need(count >= least or named not in dict(self.overrides), named, count, f"at least {least} for {seeds}")
        object.__setattr__(self, "networks", self.networks.resolved(least))

    @property
    def notebooks(self) -> tuple[str, ...]:
        """The papers with a section in the profile, whose notebooks a run executes."""
        return tuple(self.sections)

    def networks_of(self, paper: str) -> Networks:
        """The common pool as a paper measures it: with the test images that were drawn when the paper was frozen."""
        return drawn(self.networks, _test_draw(self.frozen, paper))

    @functools.cached_property
    def _cells(self) -> dict[str, list[Cell]]:
        return {}

    def cells_of(self, paper: str) -> list[Cell]:
        """Every network that a paper needs, made once for these settings."""
        if paper not in self._cells:
            self._cells[paper] = papers()[paper].cells(self.networks_of(paper), self.sections[paper], self.seed)
        return self._cells[paper]

    def frozen_paper(self, paper: str) -> FrozenPaper | None:
        """What is frozen of a paper in this profile, or None."""
        return self.frozen.paper(paper) if self.frozen else None

    def note_start(self, papers: tuple[str, ...], how: str) -> None:
        """Log a start of papers, if one of them is frozen. how: run or interactive."""
        if any(map(self.frozen_paper, papers)):
            freezing.note_start(self.profile, self.run, papers, self.first_seed, dict(self.overrides), how)

    def seed(self, repetition: int) -> int:
        """The seed of the recipes of a repetition (from 0)."""
        return self.first_seed + repetition

    @property
    def run(self) -> str:
        """Name of the results folder: the profile, followed by a hash of the overrides if there are any, and by
        `rehearsal` if it is one.
        """
        changed = [digest(dict(self.overrides))[:8]] if self.overrides else []
        return "+".join([self.profile, *changed, *[REHEARSAL] * self.rehearsal])


# The settings at the top of a profile, which belong to no single paper.
SHARED = tuple(f.name for f in dataclasses.fields(Settings)
               if f.name not in ("sections", "profile", "overrides", "frozen", "rehearsal"))


def profiles() -> list[str]:
    """The names of all profiles, sorted."""
    return sorted(p.stem for p in (ROOT / "configs").glob("*.yaml"))


def load(profile: str = "smoke", overrides: dict | None = None) -> Settings:
    """The settings of a profile with overrides {dotted name: value} applied, in a rehearsal its miniature. Raises
    SettingsError for an unknown profile or name and for an impossible value.
    """
    with miniature.real_sizes():
        settings = _load(profile, overrides or {})
    return in_miniature(settings) if miniature.folder() else settings


def in_miniature(settings: Settings) -> Settings:
    """The settings with all sizes at their least. This process has the sizes of a rehearsal from then on."""
    miniature.enter()
    networks = miniature.shrunk(settings.networks)
    sections = {name: miniature.small_section(section, settings.networks, networks)
                for name, section in settings.sections.items()}
    return dataclasses.replace(settings, networks=networks, sections=sections, frozen=None, rehearsal=True)


def _load(profile: str, overrides: dict) -> Settings:
    if profile not in profiles():
        raise unknown("profile", profile, profiles())
    tree = read(ROOT / "configs" / f"{profile}.yaml")
    need(type(tree) is dict, f"configs/{profile}.yaml", tree, "a mapping of settings")
    for name, paper in papers().items():
        if is_int(most := overrides.get(f"{name}.seeds"), 1) and type(tree.get(name)) is dict:
            tree[name] = capped(paper.Section, tree[name], most)  # before other overrides, which may ask for more
    for name, value in overrides.items():
        tree = _with(tree, name.split("."), value)
    for name in tree:
        if name not in (*SHARED, *papers()):
            raise unknown("setting", name, (*SHARED, *papers()))
    frozen = freezing.load_frozen(profile)
    freezing.resolve_first_seed(tree, profile, frozen)
    given = {name: tree.pop(name, None) for name in papers()}
    sections = {name: drawn(make(papers()[name].Section, given[name], name), _test_draw(frozen, name))
                for name in given if given[name] is not None}
    noted = tuple(sorted((k, str(v)) for k, v in overrides.items()))
    return make(Settings, {**tree, "sections": sections, "profile": profile, "overrides": noted, "frozen": frozen}, "")


def _test_draw(frozen: Frozen | None, paper: str) -> int | None:
    """The draw of test images with which a paper is frozen, or None."""
    found = frozen.paper(paper) if frozen else None
    return found.test_draw if found else None


def _with(tree: Any, path: list[str], value: Any, at: int = 0) -> Any:
    """The tree of a profile with the value at a path of names of which `at` lie above the tree. It is copied along the
    path, since sections may share parts (YAML's `&` and `*`). Unknown settings are rejected later, when settings are
    made of the tree.
    """
    if at == len(path):
        return value
    name, here = ".".join(path), ".".join(path[:at])
    if type(tree) is not list:
        need(type(tree) is dict, name, value, f"a setting below '{path[at - 1]}', which is a single value")
        return {**tree, path[at]: _with(tree.get(path[at], {}), path, value, at + 1)}
    entries = [str(entry["name"]) if type(entry) is dict and "name" in entry else "" for entry in tree]
    need(any(entries), name, value, f"given with all of {here}, whose entries have no names")
    chosen = [entry for entry in entries if f"{'.'.join(path[at:])}.".startswith(f"{entry}.")]
    if not chosen:
        raise unknown(f"entry of {here}", path[at], filter(None, entries))
    below = at + len(chosen[0].split("."))
    return [_with(part, path, value, below) if entry == chosen[0] else part
            for part, entry in zip(tree, entries, strict=True)]
