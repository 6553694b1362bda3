"""Miniatures of profiles, for rehearsals: the same settings with every size at its least, so that the same plan is made
of small work. Conditions stay: regularisers, strengths, methods, joints, threats, attacks.

A rehearsal is told to all its processes by the environment variable REPRO_REHEARSAL, which names its folder. In such a
process data sets have the sizes of `small_set` and a version of their own, so that no key of a recipe is a key of a
real one, and `lib.papers.settings.load` gives miniatures.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from lib.errors import SettingsError
from lib.profiles.networks import Networks
from lib.values.architectures import CNN, ImageNetResNet, ResNet
from lib.values.attacks import TIER_LISTS, TIERS, AutoAttack
from lib.values.data import DATASETS, Data, DatasetInfo
from lib.values.external import KNOWN

TRAIN, HOLDOUT, TEST = 32, 16, 16  # images of a set that are used; a made-up set has twice as many training images
CLASSES = 12  # at most so many classes: more than the targets of AutoAttack and the classes that a study draws
SIDE = 64  # pixels of photographs
REPETITIONS = 2  # the least from which a spread can be computed


def up_to(least: float) -> Callable[[float], float]:
    return lambda value: min(value, least)


def logarithm(count: int) -> int:
    """1, 2, 3, 3, 4, ... for 1, 2, 3, 4, 5, ...: lengths that differ clearly still differ, since two attacks that must
    be different ones have to stay so.
    """
    return math.ceil(math.log2(count)) + 1 if count else 0


def quarter(width: int) -> int:
    """A quarter, but at least 16: narrower layers are no test of what runs on wide ones."""
    return min(width, max(16, math.ceil(width / 4)))


def heavy(weight: float) -> float:
    """A search of a few updates meets its target only under a heavy penalty."""
    return max(weight, 1e4)


# {name of a setting: function from its value to the least that is tried first}. Where a section does not allow these
# together, one of them grows until it does.
LEAST: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("seeds", "arm_seeds", "other_seeds", "longer_seeds", "count", "untrained"), up_to(REPETITIONS)),
    **dict.fromkeys(("epochs", "end_epochs", "joint_epochs", "normal_epochs", "longer", "classes", "sample",
                     "generated"), up_to(2)),
    **dict.fromkeys(("warm_up", "every", "draws", "blocks"), up_to(1)),
    **dict.fromkeys(("batch", "pca", "latent", "neighbours", "points"), up_to(4)),
    **dict.fromkeys(("images", "query_images"), up_to(8)),
    **dict.fromkeys(("batch_size", "train", "fit"), up_to(16)),
    **dict.fromkeys(("steps", "attack_steps", "joint_steps", "fab_steps", "queries", "restarts", "targets", "few",
                     "many", "widen"), logarithm),
    **dict.fromkeys(("width", "widths", "mlp", "token_mlp", "channel_mlp"), quarter),
    "depth": up_to(2),
    "shares": up_to(1),  # BatchNorm over a share of so few images lets deep networks diverge
    "ranks": lambda rank: math.ceil(rank / 4),
    **dict.fromkeys(("gamma", "constant_gamma"), heavy),
    # preconditions hold, so that claims are judged to the end
    **dict.fromkeys(("normal_clean", "robust_clean", "robust_robust", "clean", "robust", "verified", "fall"),
                    up_to(0.0)),
    **dict.fromkeys(("normal_robust", "vanilla"), lambda share: 1.0),
}
WHOLE = {CNN: ("depth",), ImageNetResNet: ("depth",), ResNet: ("blocks",)}  # what names the stages of a network


def folder() -> Path | None:
    """The folder of the rehearsal that this process is part of, or None."""
    named = os.environ.get("REPRO_REHEARSAL")
    return Path(named) if named else None


def length(steps: int) -> int:
    """The length of a search that is no setting: `steps`, in a rehearsal its logarithm."""
    return logarithm(steps) if folder() else steps


def small_set(info: DatasetInfo) -> DatasetInfo:
    """What is known of a data set in a rehearsal. Sets without files are made as large as they are."""
    sizes = {"train": 2 * TRAIN, "test": TEST, "classes": min(info.classes, CLASSES)} if info.files else {}
    return replace(info, version=f"{info.version}, made up", **sizes)


_REAL: dict[str, Any] = {}  # what `enter` has replaced


def enter() -> None:
    """Replace the sizes of data sets, and of attacks whose length is no setting, in this process."""
    if _REAL:
        return
    _REAL.update(data={**DATASETS}, known={**KNOWN}, tiers={**TIERS}, lists={**TIER_LISTS},
                 attack={name: getattr(AutoAttack, name) for name in ("apgd", "fab_steps", "square")})
    DATASETS.update({name: small_set(info) for name, info in DATASETS.items()})
    KNOWN.update({name: replace(one, arch=shrunk(one.arch), file=str(weights_of(name)), package=None, sha256=None)
                  for name, one in KNOWN.items()})
    TIERS.update({name: _shortened(make) for name, make in TIERS.items()})
    TIER_LISTS.update({name: _shortened(make) for name, make in TIER_LISTS.items()})
    AutoAttack.apgd, AutoAttack.square = shrunk(AutoAttack.apgd), shrunk(AutoAttack.square)
    AutoAttack.fab_steps = logarithm(AutoAttack.fab_steps)


def leave() -> None:
    """Undo `enter`."""
    if _REAL:
        for table, name in ((DATASETS, "data"), (KNOWN, "known"), (TIERS, "tiers"), (TIER_LISTS, "lists")):
            table.update(_REAL[name])
        for name, value in _REAL["attack"].items():
            setattr(AutoAttack, name, value)
        _REAL.clear()


@contextlib.contextmanager
def real_sizes() -> Iterator[None]:
    """A block in which everything has its real size, also in a process of a rehearsal."""
    entered = bool(_REAL)
    leave()
    try:
        yield
    finally:
        if entered:
            enter()


def weights_of(name: str) -> Path:
    """The file that stands for weights that others trained, in a rehearsal, whose networks are narrower."""
    return (folder() or Path()) / "data" / "weights" / f"{name}.pt"


def _shortened(make: Callable) -> Callable:
    return lambda *given: shrunk(make(*given))


def shrunk(value: Any, fits: Callable[[Any], None] = lambda value: None) -> Any:
    """A setting with all sizes in it at their least. fits: raises SettingsError unless the value fits what is outside
    it. Raises SettingsError if nothing smaller fits.
    """
    if isinstance(value, Data):
        return _small_data(value)
    if isinstance(value, tuple):
        return tuple(shrunk(one) for one in value)
    if not is_dataclass(value) or isinstance(value, type):
        return value
    inner = {f.name: shrunk(old) for f in fields(value) if f.init and (old := getattr(value, f.name)) is not None}
    left = {name for kind, names in WHOLE.items() if isinstance(value, kind) for name in names}
    own = {f.name: getattr(value, f.name) for f in fields(value) if f.name in LEAST and f.name not in left}
    small = {name: least for name, old in own.items() if (least := _least(name, old)) != old}
    return _first_that_fits(value, inner | small, {name: own[name] for name in small}, fits)


def _least(name: str, value: Any) -> Any:
    if isinstance(value, tuple) and value and all(type(one) is int for one in value):
        return tuple(LEAST[name](one) for one in value)
    return LEAST[name](value) if type(value) in (int, float) else value


def _first_that_fits(value: Any, changed: dict, real: dict, fits: Callable[[Any], None]) -> Any:
    """The value with the `changed` fields, of which those in `real` may grow, one at a time, up to their real value."""
    grown = [{}] + [{name: larger} for name, most in real.items() if type(most) is int
                    for larger in _between(changed[name], most)]
    error = None
    for more in grown:
        try:
            found = replace(value, **(changed | more))
            fits(found)
            return found
        except SettingsError as refused:
            error = error or refused
    raise error


def _between(low: int, high: int) -> Iterator[int]:
    """Growing numbers above `low` up to `high`: all of the first, then some."""
    while low < high:
        low = min(high, low + max(1, low // 16))
        yield low


def _small_data(data: Data) -> Data:
    info = data.info
    train = TRAIN if data.train or not info.files else None
    test = TEST if data.test or not info.files else None
    return replace(data, train=train, holdout=min(data.holdout, HOLDOUT), test=test, size=info.sizes and SIDE)


def small_section(section: Any, real: Networks, networks: Networks) -> Any:
    """A paper's section in miniature, which fits the miniature `networks` of the `real` pool. A count of updates keeps
    its ratio to the updates of a search, so that searches are found as long, or as short, as they are.
    """
    small = shrunk(section, lambda one: one.check(networks))
    if hasattr(section, "updates"):
        with real_sizes():
            steps = updates_of_search(section, real)
        ratio = updates_of_search(small, networks) / steps
        small = replace(small, updates=max(1, round(section.updates * ratio)))
    return small


def updates_of_search(section: Any, networks: Networks) -> int:
    """Updates of the pruning search of a section, on its own data or the pool's."""
    search = section.prune if hasattr(section, "prune") else section.score
    data = getattr(section, "data", None) or networks.data
    return search.epochs * (data.n_train // networks.batch_size)
