"""Profiles: the YAML files under configs/ as frozen, typed settings.

A profile holds only numbers. Overrides from a notebook's parameters cell, from papermill and from run_all.sh come as
dotted names (`networks.robust.epochs`, `stitching.seeds`) and pass the same checks: an unknown name suggests the
nearest known one, an impossible value is a one-line `SettingsError` before any work.
"""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import dataclass

import yaml

from lib.errors import is_int, need, unknown
from lib.papers.compact_robust_pruning.settings import Compact
from lib.papers.harp_pruning.settings import Harp
from lib.papers.off_manifold_robustness.settings import OffManifold
from lib.papers.perceptually_aligned_gradients.settings import AlignedGradients
from lib.papers.representation_similarity.settings import Similarity
from lib.papers.stitching.settings import Stitching
from lib.profiles.loader import make, parse
from lib.profiles.networks import Denoiser, Gates, Networks, Pool, Pretraining, Training
from lib.runtime import ROOT
from lib.values.keys import digest

__all__ = ["AlignedGradients", "Compact", "Denoiser", "Gates", "Harp", "Networks", "OffManifold", "Pool",
           "Pretraining", "Settings", "Similarity", "Stitching", "Training", "load", "parse", "profiles",
           "sections"]
JOBS = ("none", "seeds", "networks")


@dataclass(frozen=True)
class Settings:
    """All that a run needs to know. `jobs` says what is trained and measured as a batch job of its own, before the
    notebooks: `networks` (one each, or a few that belong together), `seeds` (much of a repetition: small networks are
    done before a job has started), or `none` (everything inside the notebooks). `first_seed`: the seed of the first
    repetition, further ones count up from it, so that a run can be repeated on seeds nobody has seen. `run` is the name
    of the results folder. A notebook without a section is not part of the profile.
    """

    networks: Networks
    stitching: Stitching | None = None
    representation_similarity: Similarity | None = None
    perceptually_aligned_gradients: AlignedGradients | None = None
    off_manifold_robustness: OffManifold | None = None
    harp_pruning: Harp | None = None
    compact_robust_pruning: Compact | None = None
    profile: str = "smoke"
    device: str = "auto"
    jobs: str = "none"
    first_seed: int = 0
    overrides: tuple[tuple[str, str], ...] = ()

    def __post_init__(self):
        if self.device.split(":")[0] not in ("auto", "cpu", "cuda"):
            raise unknown("device", self.device, ("auto", "cpu", "cuda"))
        if self.jobs not in JOBS:
            raise unknown("jobs", self.jobs, JOBS)
        need(is_int(self.first_seed, 0), "first_seed", self.first_seed, "a whole number of at least 0")
        for name in self.notebooks:
            getattr(self, name).check(self.networks)
        self._size_pools()

    def _size_pools(self):
        """Every repetition has its own networks: pools grow to what the notebooks need unless told not to."""
        sections = {name: getattr(self, name) for name in self.notebooks}
        least = max((s.pool for s in sections.values()), default=1)
        seeds = ", ".join(f"{name}.seeds = {s.seeds}" for name, s in sections.items() if s.pool == least)
        for kind in ("normal", "robust"):
            count, named = getattr(self.networks, kind).count, f"networks.{kind}.count"
            need(count >= least or named not in dict(self.overrides), named, count, f"at least {least} for {seeds}")
        object.__setattr__(self, "networks", self.networks.resolved(least))

    @property
    def notebooks(self) -> tuple[str, ...]:
        """The notebooks that the profile has a section for."""
        return tuple(name for name in sections() if getattr(self, name) is not None)

    def seed(self, repetition: int) -> int:
        """The seed of the recipes of a repetition (from 0)."""
        return self.first_seed + repetition

    @property
    def run(self) -> str:
        """Name of the results folder: the profile, with a hash of the overrides if there are any."""
        return f"{self.profile}+{digest(dict(self.overrides))[:8]}" if self.overrides else self.profile


def profiles() -> list[str]:
    return sorted(p.stem for p in (ROOT / "configs").glob("*.yaml"))


def load(profile: str = "smoke", overrides: dict | None = None) -> Settings:
    """The settings of a profile with overrides {dotted name: value} applied."""
    if profile not in profiles():
        raise unknown("profile", profile, profiles())
    tree = yaml.safe_load((ROOT / "configs" / f"{profile}.yaml").read_text())
    overrides = overrides or {}
    for name, value in overrides.items():
        _set(tree, name, value)
    noted = tuple(sorted((k, str(v)) for k, v in overrides.items()))
    return make(Settings, {**tree, "profile": profile, "overrides": noted}, "")


def _set(tree: dict, name: str, value) -> None:
    """Set a dotted name in the tree of a profile; unknown names are refused when the tree is made into settings."""
    *folders, last = name.split(".")
    for folder in folders:
        child = tree.setdefault(folder, {})
        need(isinstance(child, dict), name, value, f"a setting below '{folder}', which is a single value")
        tree = child
    tree[last] = value


def sections() -> dict[str, set[str]]:
    """The names of the settings of each notebook's section."""
    found = {}
    for name, hint in typing.get_type_hints(Settings).items():
        for kind in typing.get_args(hint):
            if dataclasses.is_dataclass(kind):
                found[name] = {f.name for f in dataclasses.fields(kind)}
    return found
