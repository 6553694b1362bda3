"""A run compared with the published one: does it give the same values and verdicts of the claims?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lib.errors import SettingsError
from lib.site import files

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

    shared = sorted(path.parent.name for path in Path(published).glob("*/claims.json")
                    if (Path(run) / path.parent.name / "claims.json").exists())
    if not shared:
        raise SettingsError(f"run = {Path(run).name} is not possible: it must share a finished notebook with the "
                            f"published run {Path(published).name}")
    rows = []
    for name in shared:
        old, new = (files.claims(Path(folder) / name) for folder in (published, run))
        for key in dict.fromkeys([*old, *new]):
            rows += [(name, key, *row) for row in _of_claim(old.get(key), new.get(key))]
    return pd.DataFrame(rows, columns=COLUMNS)


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
