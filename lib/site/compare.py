"""A run compared with another, such as the published one: does it give the same values and verdicts of the claims?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lib import statistics
from lib.claims.evidence_file import NAME, read_evidence
from lib.errors import SettingsError
from lib.files import read_json, write_atomic
from lib.site import files
from lib.site.words import template, words
from lib.statistics.two_way import two_way

if TYPE_CHECKING:  # importing pandas takes a second, in every batch job
    import pandas as pd

OPPOSITE = ({"supported", "absent"}, {"supported", "contradicted"}, {"weak", "contradicted"})
COLUMNS = ["notebook", "claim", "comparison", "published", "here", "equal", "agrees", "why"]


def compare(run: Path, published: Path) -> pd.DataFrame:
    """Compare the results folder `run` with `published`. The DataFrame has one row for each comparison of each claim of
    the notebooks that both folders hold: the published value, the value here, whether the two are equal (to 6 digits,
    as they are on similar machines), whether they agree, and if not, why.

    Two values agree if their intervals overlap, which must hold on any machine. They also count as agreeing if either
    has no interval. A claim disagrees if its verdict went from supported to absent or contradicted, from weak to
    contradicted, or back, or if its text or margins differ from the published ones. Other changes of a verdict, such
    as from supported to weak or undecided, are no disagreement: its values are compared by themselves. Raises
    SettingsError if the folders share no finished notebook.
    """
    import pandas as pd

    rows = []
    for name in _shared(run, published):
        old, new = (files.claims(Path(folder) / name) for folder in (published, run))
        for key in dict.fromkeys([*old, *new]):
            rows += [(name, key, *row) for row in _of_claim(old.get(key), new.get(key))]
    return pd.DataFrame(rows, columns=COLUMNS)


def _shared(run: Path, published: Path) -> list[str]:
    """The notebooks that both folders hold."""
    shared = sorted(path.parent.name for path in Path(published).glob("*/claims.json")
                    if (Path(run) / path.parent.name / "claims.json").exists())
    if not shared:
        raise SettingsError(f"run = {Path(run).name} is not possible: it must share a finished notebook with the "
                            f"published run {Path(published).name}")
    return shared


def _of_claim(old: dict | None, new: dict | None) -> list[tuple]:
    if old is None or new is None:
        return [("", None, None, False, False, "only one of the two has this claim")]
    if old["margins_hash"] != new["margins_hash"]:
        return [("", None, None, False, False, "the claim's text or margins have changed since")]
    verdicts = old["verdict"], new["verdict"]
    flipped = {*verdicts} in OPPOSITE
    rows = [("verdict", *verdicts, verdicts[0] == verdicts[1], not flipped,
             f"{verdicts[0]} became {verdicts[1]}" if flipped else "")]
    before, after = ({part["name"]: part for part in claim["parts"]} for claim in (old, new))
    if before and after:
        rows += [_of_part(name, before.get(name), after.get(name)) for name in dict.fromkeys([*before, *after])]
    return rows


def _of_part(name: str, old: dict | None, new: dict | None) -> tuple:
    if old is None or new is None:
        return (name, old and old["value"], new and new["value"], False, False, "only one of the two has it")
    one, other = old["value"], new["value"]
    equal = one == other or None not in (one, other) and f"{one:.6g}" == f"{other:.6g}"
    ends = [part[end] for part in (old, new) for end in ("low", "high")]
    meet = None in ends or old["low"] <= new["high"] and new["low"] <= old["high"]
    return (name, one, other, equal, equal or meet, "" if equal or meet else "their intervals do not meet")


# ------------------------------------------------------------------------------------------------ as a page


@dataclass(frozen=True)
class Side:
    """A claim's comparison in two runs, first the other run (`old`), then the run (`new`); None where one lacks it.
    paired: the difference new minus old as a part with `value`, `low` and `high`; None if the two are not paired. over:
    what is paired, in words; "equal" if all paired values are.
    """

    name: str
    old: dict | None
    new: dict | None
    paired: dict | None = None
    over: str = ""


def settings_of(card: Mapping) -> dict[str, str]:
    """The settings of a notebook's run by their dotted names, as text."""
    def flat(name: str, value) -> Iterator[tuple[str, str]]:
        if isinstance(value, dict):
            for key, one in value.items():
                yield from flat(f"{name}.{key}", one) if key != "type" else [(f"{name} (kind)", str(one))]
        elif isinstance(value, list) and any(isinstance(one, dict) for one in value):
            for number, one in enumerate(value, 1):
                yield from flat(f"{name} {number}", one)
        else:
            yield name, words(value)

    return dict([*flat("networks", card.get("networks_section") or {}),
                 *flat(str(card.get("notebook")), card.get("parameters") or {})])


def differing(old: Mapping, new: Mapping) -> list[tuple[str, str, str]]:
    """What differs between the cards of two runs of a notebook: (name, before, after) of code, machine, libraries,
    seeds and settings; "–" for a setting that one of them does not have.
    """
    def facts(card: Mapping) -> dict[str, str]:
        names = ("profile", "commit", "device", "threads", "seeds", "first_seed")
        own = {name: str(card.get(name, "–")) for name in names}
        versions = {f"version of {name}": str(value) for name, value in (card.get("versions") or {}).items()}
        return own | versions | settings_of(card)

    before, after = facts(old), facts(new)
    return [(name.replace("_", " "), before.get(name, "–"), after.get(name, "–"))
            for name in dict.fromkeys([*before, *after]) if before.get(name) != after.get(name)]


def why_not_paired(old: Mapping, new: Mapping) -> str:
    """Why the values of two runs of a notebook cannot be paired, in a sentence; "" if they can: their repetitions have
    the same seeds, and they are about the same data and test images.
    """
    if (old.get("first_seed"), old.get("seeds")) != (new.get("first_seed"), new.get("seeds")):
        return "They are not paired, because the runs have other seeds or another number of repetitions."
    before, after = settings_of(old), settings_of(new)
    moved = [name for name in dict.fromkeys([*before, *after]) if before.get(name) != after.get(name)
             and {"data", "test", "draw", "images"} & {*name.replace(" ", ".").split(".")}]
    return f"They are not paired, because the data or test images differ ({', '.join(moved)})." if moved else ""


def paired(statistic: str, old, new) -> tuple[statistics.Interval, str] | None:
    """The mean of new minus old with its 95 % interval, and what is paired: images where both are outcomes of single
    images, [S, m] or [K, S, m], else repetitions. old, new: evidence as `statistics.estimate` takes it. None if their
    sizes differ.
    """
    if statistic in ("difference", "accuracy") and all(isinstance(one, np.ndarray) and one.ndim <= 3
                                                         for one in (old, new)):
        if old.shape != new.shape:
            return None
        change = new - old
        left = ~np.isnan(change).any(tuple(k for k in range(change.ndim) if k != change.ndim - 2))
        change = np.compress(left, change, change.ndim - 2)
        change = change if change.ndim == 3 else change[None]
        if change.size == 0:
            return None
        most = 2.0 if statistic == "difference" else 1.0
        return two_way([change], -most, most)(0.95), "repetitions and test images"
    before, after = (statistics.by_seed(statistic, one)[0] for one in (old, new))
    if len(before) != len(after):
        return None
    change = (after - before)[~np.isnan(after - before)]
    return (statistics.seeds(change), "repetitions") if len(change) else None


def _pairs(old, new) -> list[tuple]:
    """The arrays of two pieces of evidence, in pairs."""
    sets = [[getattr(part, "means", part) for part in (one if isinstance(one, tuple) else (one,))]
            for one in (old, new)]
    return [*zip(*sets, strict=False)]


def page(run: Path, other: Path, place: Path) -> Path:
    """Write a page that compares the results folder `run` with `other`, claim by claim, to `place`; returns it. Raises
    SettingsError if they share no finished notebook.
    """
    found = [_notebook(name, Path(other) / name, Path(run) / name) for name in _shared(run, other)]
    names = [str(Path(folder).name) if Path(folder).parent.name != "reference" else f"{Path(folder).name}, published"
             for folder in (other, run)]
    write_atomic(place, template("compare.html.j2").render(names=names, notebooks=found))
    return place


def _notebook(name: str, old: Path, new: Path) -> dict:
    cards = [read_json(folder / "card.json") if (folder / "card.json").is_file() else {} for folder in (old, new)]
    claims = [files.claims(folder) for folder in (old, new)]
    why = why_not_paired(*cards)
    evidence = [read_evidence(folder) if not why and (folder / NAME).is_file() else {} for folder in (old, new)]
    rows = []
    for key in dict.fromkeys([*claims[0], *claims[1]]):
        both = [found.get(key) for found in claims]
        reworded = None not in both and both[0]["margins_hash"] != both[1]["margins_hash"]
        rows.append({"id": key, "old": both[0], "new": both[1], "reworded": reworded,
                     "sides": [] if reworded else [*_sides(key, both, evidence)]})
    return {"name": name, "title": cards[1].get("title") or name, "claims": rows, "differs": differing(*cards),
            "why": why, "moved": sum(1 for row in rows if row["old"] and row["new"]
                                     and row["old"]["verdict"] != row["new"]["verdict"])}


def _sides(key: str, both: list[dict | None], evidence: list[dict]) -> Iterator[Side]:
    parts = [{part["name"]: part for part in claim["parts"]} if claim else {} for claim in both]
    for name in dict.fromkeys([*parts[0], *parts[1]]):
        old, new = (found.get(name) for found in parts)
        group, _, instance = name.partition(": ")
        data = [one.get(key, {}).get(group, {}).get(instance) for one in evidence]
        known = old and new and all(one is not None for one in data)
        made = paired(new["statistic"], *data) if known else None
        if not made:
            yield Side(name, old, new)
            continue
        change, over = made
        if change.value == 0 and all(np.array_equal(*pair, equal_nan=True) for pair in _pairs(*data)):
            over = "equal"
        statistic = "difference" if new["statistic"] in ("difference", "accuracy") else new["statistic"]
        yield Side(name, old, new, {"statistic": statistic, "value": change.value, "low": change.low,
                                    "high": change.high}, over)
