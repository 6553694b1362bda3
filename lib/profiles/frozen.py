"""What was frozen before a profile's published runs, and the log of their starts.

Nobody can have looked at data that a hash has chosen. So the first seed of a profile is drawn from the values of its
common pool, when its first paper is frozen, and each paper's test images from the values of its claims and settings.
claims/frozen/<profile>.json writes both down, with a digest and the expected verdict of each claim; they are read there
ever after, also when settings or claims have changed (lib/papers/freeze.py writes the file).
"""

from __future__ import annotations

import csv
import dataclasses
import io
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from lib.errors import SettingsError
from lib.files import append, read_json
from lib.profiles.loader import make
from lib.runtime import ROOT, commit, results
from lib.values.data import Data
from lib.values.declared import Declared, Text, whole

FOLDER = ROOT / "claims" / "frozen"
FROZEN = "frozen"  # the value of first_seed that asks for the drawn one
STARTS = "starts.csv"


@dataclass(frozen=True)
class FrozenClaim(Declared):
    """A claim of a frozen paper: the digest of its text and margins, and the verdict that was expected of it."""

    id: Text
    digest: Text
    expected: Text

    where = "claim"


@dataclass(frozen=True)
class FrozenPaper(Declared):
    """A paper as it was frozen. digest: of the values of its claims and settings. test_draw: see `Data.draw`."""

    name: Text
    frozen: Text  # the day
    commit: Text
    digest: Text
    test_draw: Annotated[int, whole(1)]
    claims: tuple[FrozenClaim, ...]

    where = "paper"

    def expected(self) -> dict[str, str]:
        """{claim: the verdict that was expected of it}"""
        return {claim.id: claim.expected for claim in self.claims}

    def changed(self, claim: str, digest: str) -> bool:
        """Whether a claim's text or margins are no longer those that were frozen, or the claim is new."""
        return {one.id: one.digest for one in self.claims}.get(claim) != digest


@dataclass(frozen=True)
class Frozen(Declared):
    """What is frozen of a profile. pool: the digest of the values of its section `networks`, from which first_seed was
    drawn.
    """

    first_seed: Annotated[int, whole(1)]
    pool: Text
    papers: tuple[FrozenPaper, ...]

    where = "frozen"

    def paper(self, name: str) -> FrozenPaper | None:
        """The paper of this name, or None if it is not frozen."""
        return next((paper for paper in self.papers if paper.name == name), None)


def place(profile: str) -> Path:
    """The file with what is frozen of a profile."""
    return FOLDER / f"{profile}.json"


def load_frozen(profile: str) -> Frozen | None:
    """What is frozen of a profile, or None. Raises SettingsError for a damaged file."""
    path = place(profile)
    return make(Frozen, read_json(path), f"{path.parent.name}/{path.name}") if path.is_file() else None


def resolve_first_seed(tree: dict, profile: str, frozen: Frozen | None) -> None:
    """Replace the value `frozen` of first_seed, in the plain data of a profile, by the seed that was drawn."""
    if tree.get("first_seed") != FROZEN:
        return
    if frozen is None:
        raise SettingsError(f"first_seed = {FROZEN} is not possible: it must be a whole number until "
                            f"`./run_all.sh freeze --profile {profile}` has drawn one")
    tree["first_seed"] = frozen.first_seed


def drawn(value: Any, draw: int | None) -> Any:
    """Settings with this draw of test images in all their data; without a draw as they are."""
    if draw is None:
        return value
    if isinstance(value, Data):
        return dataclasses.replace(value, draw=draw)
    if isinstance(value, tuple):
        return tuple(drawn(one, draw) for one in value)
    if isinstance(value, dict):
        return {name: drawn(one, draw) for name, one in value.items()}
    if dataclasses.is_dataclass(value):
        old = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.init}
        new = {name: found for name, one in old.items() if (found := drawn(one, draw)) != one}
        return dataclasses.replace(value, **new) if new else value
    return value


def note_start(profile: str, run: str, papers: tuple[str, ...], first_seed: int, overrides: Mapping[str, str],
               how: str) -> None:
    """Add a line to the log of starts, `starts.csv` in the folder of all results. how: run or interactive."""
    path = results() / STARTS
    line = [time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), profile, run, " ".join(papers), first_seed,
            " ".join(f"{name}={value}" for name, value in overrides.items()), commit(), how]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    if not path.exists():
        table.writerow(["started", "profile", "run", "papers", "first_seed", "overrides", "commit", "how"])
    table.writerow(line)
    append(path, text.getvalue())


def starts(profile: str, published: Path) -> str:
    """The lines about a profile of the log of starts and of the `published` one, which may be of another folder of
    results, each once and by time, with their head; "" if there are none.
    """
    found, head = {}, []
    for path in (published, results() / STARTS):
        if path.is_file():
            with path.open(newline="", encoding="utf-8") as file:
                head, *lines = csv.reader(file)
            found |= dict.fromkeys(tuple(line) for line in lines if line[1:2] == [profile])
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([head, *sorted(found, key=lambda line: line[0])] if found else [])
    return text.getvalue()
