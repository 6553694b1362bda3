"""A run held against the published one: do the claims' values still come out?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lib.errors import SettingsError
from lib.site import files

if TYPE_CHECKING:  # pandas takes a second to import, which every batch job would pay
    import pandas as pd

COLUMNS = ["notebook", "claim", "comparison", "published", "here", "equal", "agrees", "why"]


def compare(run: Path, published: Path) -> pd.DataFrame:
    """A row for each comparison of each claim of the notebooks that both folders hold: its value published and here,
    whether both are equal (to 6 digits, as they are on like machines), whether they agree, and if not why.

    Two values agree where their intervals meet, whatever the machine's arithmetic; where a repetition's spread is
    unknown in either, nothing can be said, and they count as agreeing. No claim may go from supported to contradicted
    or back, nor be worded or judged otherwise than the published one. Raises SettingsError where the folders share no
    finished notebook.
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
    flipped = set(verdicts) == {"supported", "contradicted"}
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
