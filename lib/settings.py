"""Profiles: the YAML files under configs/ as frozen, typed settings.

A profile holds only numbers. Overrides from a notebook's parameters cell, from papermill and from run_all.sh come as
dotted names (`networks.robust.epochs`, `stitching.seeds`) and pass the same checks: an unknown name suggests the
nearest known one, an impossible value is a one-line `SettingsError` before any work.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path

import yaml

from lib.architectures import Plain, ResNet
from lib.errors import SettingsError, fraction, need, unknown
from lib.objectives import Adversarial, CrossEntropy
from lib.recipe import Data, Optimiser, Schedule
from lib.runtime import ROOT
from lib.threats import APGD, PGD, Attack, Threat
from lib.values import digest

# Words of profiles for values with options of their own; all other values go by the name of their class.
SHORT = {"ResNet18": ResNet(64, (2, 2, 2, 2))}


@dataclass(frozen=True)
class Pool:
    """How one type of network of the common pool is trained. `attack` None: on clean images."""

    count: int
    epochs: int
    optimiser: Optimiser = field(default_factory=Optimiser)
    schedule: Schedule = field(default_factory=Schedule)
    attack: PGD | None = None

    def __post_init__(self):
        need(
            isinstance(self.count, int) and 1 <= self.count <= 100, "count", self.count, "a whole number from 1 to 100"
        )


@dataclass(frozen=True)
class Networks:
    """The common pool that all notebooks choose from."""

    data: Data
    arch: Plain
    threat: Threat
    normal: Pool
    robust: Pool
    batch_size: int = 128
    augment: str = "crop-flip"
    precision: str = "auto"

    def __post_init__(self):
        need(
            self.robust.attack is not None, "networks.robust.attack", "null", "an attack: robust networks train on one"
        )
        need(self.normal.attack is None, "networks.normal.attack", self.normal.attack, "null")
        if self.precision not in ("auto", "fp32", "bf16"):
            raise unknown("precision", self.precision, ("auto", "fp32", "bf16"))


@dataclass(frozen=True)
class Gates:
    """What a pool must show before a claim about it is judged (accuracies in [0, 1]; see the notebook's checks)."""

    normal_clean: float
    normal_robust: float
    robust_clean: float
    robust_robust: float


@dataclass(frozen=True)
class Stitching:
    """The stitching notebook. `seeds`: repetitions, each with networks and a joint of its own. `joints`: stages after
    which networks are cut; the first block and the last block are read from them, `middle` is where C2 and C3 look.
    `alphas`: shares of adversarial images in the joint's training. `search` is the attack of every cell, `verify` the
    stronger one of the cells that a claim rests on. `end_epochs`: training of the newly trained ends. `converged`: by
    how many nats a joint's loss may still fall in the last part of training (0.1: the true class gains 10 %).
    `budget`: by how much the robust accuracy of a middle joint may change when it is trained for twice the epochs.
    """

    seeds: int
    joints: tuple[str, ...]
    middle: str
    epochs: int
    end_epochs: int
    attack: PGD
    search: PGD
    verify: Attack
    gates: Gates
    alphas: tuple[float, ...] = (0.0, 1.0)
    optimiser: Optimiser = field(default_factory=lambda: Optimiser("adam", lr=3e-2, weight_decay=1e-4))
    schedule: Schedule = field(default_factory=lambda: Schedule("cosine"))
    augment: str | None = None
    converged: float = 0.1
    budget: float = 0.03

    def __post_init__(self):
        need(
            isinstance(self.seeds, int) and 1 <= self.seeds <= 100,
            "stitching.seeds",
            self.seeds,
            "a whole number from 1 to 100",
        )
        need(len(self.joints) >= 3, "stitching.joints", list(self.joints), "at least three stages")
        need(
            len(set(self.alphas)) == len(self.alphas) > 0 and all(0 <= a <= 1 for a in self.alphas),
            "stitching.alphas",
            self.alphas,
            "different numbers from 0 to 1",
        )
        inner = [j for j in self.joints[:-1] if j not in self.first]
        if self.middle not in inner:
            raise unknown("stitching.middle joint (between the first joints and the last)", self.middle, inner)
        for name in ("epochs", "end_epochs"):
            need(getattr(self, name) >= 1, f"stitching.{name}", getattr(self, name), "1 or more")
        need(not self.search.targeted, "stitching.search.targeted", True, "false: evaluation is untargeted")

    @property
    def first(self) -> tuple[str, ...]:
        """The joints before anything but low-level features: the stem, if it is one, and the first block."""
        return self.joints[:2] if self.joints[0] == "stem" else self.joints[:1]


@dataclass(frozen=True)
class Settings:
    """All that a run needs to know. `jobs`: train networks as jobs of their own before the notebook (True), or inside
    it (small networks are done before a job has started). `run` is the name of the results folder.
    """

    networks: Networks
    stitching: Stitching
    profile: str = "smoke"
    device: str = "auto"
    jobs: bool = False
    overrides: tuple[tuple[str, str], ...] = ()

    def __post_init__(self):
        if self.device.split(":")[0] not in ("auto", "cpu", "cuda"):
            raise unknown("device", self.device, ("auto", "cpu", "cuda"))
        s, stages = self.stitching, self.networks.arch.joints
        for joint in s.joints:
            if joint not in stages:
                raise unknown("joint", joint, stages)
        in_order = [j for j in stages if j in s.joints]
        need(list(s.joints) == in_order, "stitching.joints", list(s.joints), "different stages in the order of depth")
        classes = self.networks.data.info.classes
        targets = s.verify.targets if isinstance(s.verify, APGD) else 0
        need(targets < classes, "stitching.verify.targets", targets, f"less than the {classes} classes")
        self._size_pools()

    def _size_pools(self):
        """Every repetition has its own networks, and pairs need two: pools grow to that unless told not to."""
        least, networks = max(2, self.stitching.seeds), self.networks
        for kind in ("normal", "robust"):
            pool = getattr(networks, kind)
            named = f"networks.{kind}.count"
            enough = pool.count >= least or named not in dict(self.overrides)
            need(enough, named, pool.count, f"at least {least} for {self.stitching.seeds} repetitions")
            networks = replace(networks, **{kind: replace(pool, count=max(least, pool.count))})
        object.__setattr__(self, "networks", replace(networks, precision=_precision(networks.precision)))

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


def _precision(name: str) -> str:
    """`auto` is bf16 where the hardware multiplies in it (otherwise it is slower than fp32), fp32 elsewhere."""
    if name != "auto":
        return name
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        flags = ""
    fast = "avx512_bf16" in flags or "amx_bf16" in flags or Path("/dev/nvidia0").exists()
    return "bf16" if fast else "fp32"


def _set(tree: dict, name: str, value) -> None:
    """Set a dotted name in the tree of a profile; unknown names are refused when the tree is made into settings."""
    *folders, last = name.split(".")
    for folder in folders:
        child = tree.setdefault(folder, {})
        need(isinstance(child, dict), name, value, f"a setting below '{folder}', which is a single value")
        tree = child
    tree[last] = value


def parse(text: str):
    """A value from a command line: YAML, so that 3, 0.5, true, null and [a, b] mean what they say; 8/255 stays text."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise SettingsError(
            f"the value {text!r} cannot be read: write a number, a word or a list like [a, b]"
        ) from None


def make(cls, tree, where: str):
    """An instance of a settings dataclass from nested plain data; `where` is the dotted name for messages."""
    if not isinstance(tree, dict):
        raise SettingsError(f"{where} = {tree!r} is not possible: it must be a section with named settings")
    hints = typing.get_type_hints(cls)
    known = {f.name: f for f in dataclasses.fields(cls)}
    values = {}
    for name, value in tree.items():
        if name not in known:
            raise unknown("setting", f"{where}.{name}".strip("."), [f"{where}.{k}".strip(".") for k in known])
        values[name] = _value(hints[name], value, f"{where}.{name}".strip("."))
    for name, f in known.items():
        if name not in values and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            raise SettingsError(f"{f'{where}.{name}'.strip('.')} is missing: the profile must give it")
    return cls(**values)


def _value(hint, value, where: str):
    """One value as its annotation wants it."""
    options = typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)
    if value is None:
        need(type(None) in options, where, "null", "given")
        return None
    options = [o for o in options if o is not type(None)]
    if all(dataclasses.is_dataclass(o) for o in options):
        return _typed(options, value, where)
    hint = options[0]
    if hint is Fraction:
        return fraction(value, where)
    if typing.get_origin(hint) is tuple:
        need(isinstance(value, (list, tuple)), where, value, "a list")
        inner = typing.get_args(hint)
        return tuple(_value(inner[0], v, where) for v in value) if inner[-1] is Ellipsis else tuple(value)
    if hint is float:
        return float(fraction(value, where))
    if hint in (int, bool, str):
        good = type(value) is hint
        need(good, where, repr(value), {int: "a whole number", bool: "true or false", str: "a word"}[hint])
    return value


def _typed(options: list, value, where: str):
    """A dataclass value; where several types are possible, a word or the entry `type` says which."""
    if not isinstance(value, (dict, str)):
        raise SettingsError(f"{where} = {value!r} is not possible: it must be a section with named settings")
    names = {o.__name__: o for o in options}
    short = {name: ready for name, ready in SHORT.items() if type(ready) in options}
    value = {"type": value} if isinstance(value, str) else dict(value)
    kind = value.pop("type", options[0].__name__ if len(options) == 1 else None)
    if kind in short and not value:
        return short[kind]
    if kind not in names:
        raise unknown(f"{where} type", kind, [*names, *short])
    return make(names[kind], value, where)


def objective(networks: Networks, attack: PGD | None, alpha: float = 1.0, **options):
    """Cross-entropy, or adversarial training against the pool's threat with a share alpha of adversarial images."""
    return Adversarial(networks.threat, attack, alpha, **options) if attack and alpha else CrossEntropy()


def sections() -> dict[str, set[str]]:
    """The names of the settings of each notebook's section."""
    hints = typing.get_type_hints(Settings)
    return {
        name: {f.name for f in dataclasses.fields(hint)}
        for name, hint in hints.items()
        if dataclasses.is_dataclass(hint) and name != "networks"
    }
