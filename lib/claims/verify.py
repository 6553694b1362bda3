"""Compute the verdicts of a finished run again from the files that it has left, without its networks."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from pathlib import Path

from lib.claims.evidence_file import read_evidence
from lib.claims.sheet import Claim, Part
from lib.claims.summary import evidence_table, with_holm
from lib.claims.verdict import as_expected, judge
from lib.errors import OneLineError, SettingsError, need
from lib.files import read_json
from lib.profiles.frozen import FrozenPaper
from lib.profiles.loader import make

CLOSE = 1e-9  # the relative difference that another processor's rounding may make


def verify(folder: Path) -> tuple[int, list[str]]:
    """Judge the claims of all notebooks in a folder (of a notebook, a run, or several runs) again. Returns the number
    of rows (comparisons) that were computed, and a sentence for everything that differs from claims.json and from the
    table `evidence`.

    The arrays of evidence.npz are judged by the claims of snapshot.json, with the preconditions that claims.json
    records. Raises SettingsError if there is no finished notebook, and OneLineError for a damaged file.
    """
    places = sorted(path.parent for path in folder.glob("**/claims.json") if (path.parent / "snapshot.json").is_file())
    need(bool(places), "folder", folder, "the folder of a finished run, such as results/smoke")
    count, wrong = 0, []
    for place in places:
        rows, found = _notebook(place)
        count += rows
        wrong += [f"{place.relative_to(folder.parent)}: {sentence}" for sentence in found]
    return count, wrong


def _notebook(folder: Path) -> tuple[int, list[str]]:
    try:
        written = {entry["id"]: entry for entry in read_json(folder / "claims.json")}
        kept = read_json(folder / "snapshot.json")
        claims = [_claim(entry) for entry in kept["claims"]]
        frozen = make(FrozenPaper, kept["frozen"], "frozen") if "frozen" in kept else None
        profile = read_json(folder / "card.json")["profile"]
        given = {name: (entry["preconditions"], entry["lost"]) for name, entry in written.items()}
    except (TypeError, KeyError, SettingsError) as error:
        raise OneLineError(f"{folder} is damaged ({error}); run its notebook again") from None
    evidence = read_evidence(folder)
    judged = as_expected(
        [judge(claim, evidence.get(claim.id, {}), profile, *given.get(claim.id, ())) for claim in claims], frozen,
        profile)
    wrong = [f"claim {name} is not in snapshot.json" for name in written.keys() - {claim.id for claim in claims}]
    for one in with_holm(judged):
        wrong += _differences(one.claim.id, written.get(one.claim.id, {}), one.to_dict())
    return sum(len(one.rows) for one in judged), [*wrong, *_table(folder, evidence_table(judged, evidence))]


def _fields(plain: dict) -> dict:
    return {name: value for name, value in plain.items() if name != "type"}


def _claim(entry: dict) -> Claim:
    parts = tuple(make(Part, _fields(part), "") for part in entry["parts"])
    return make(Claim, {**_fields(entry), "parts": parts}, "")


def _differences(where: str, written, computed) -> Iterator[str]:
    """A sentence for each value that differs between two structures of plain data."""
    if type(written) is dict and type(computed) is dict:
        for key in dict.fromkeys([*computed, *written]):
            yield from _differences(f"{where}, {key}", written.get(key), computed.get(key))
    elif type(written) is list and type(computed) is list and len(written) == len(computed):
        for one, other in zip(written, computed, strict=True):
            name = other.get("name", "") if type(other) is dict else ""
            yield from _differences(f"{where}, {name}".strip(", "), one, other)
    elif not _equal(written, computed):
        yield f"{where} is {written}, by its evidence {computed}"


def _equal(one, other) -> bool:
    if {type(one), type(other)} <= {int, float}:
        return math.isclose(one, other, rel_tol=CLOSE, abs_tol=CLOSE)
    return one == other


def _table(folder: Path, computed) -> Iterator[str]:
    """A sentence for each repetition whose value differs in the table `evidence`."""
    path = folder / "tables" / "evidence.csv"
    names = ["claim", "part", "instance", "seed"]
    with path.open(newline="", encoding="utf-8") as file:
        written = {tuple(row[name] for name in names): float(row["value"] or "nan") for row in csv.DictReader(file)}
    expected = {tuple(map(str, row[:4])): row[4] for row in computed[[*names, "value"]].itertuples(index=False)}
    for key in dict.fromkeys([*written, *expected]):
        one, other = written.get(key), expected.get(key)
        if None in (one, other) or not (_equal(one, other) or math.isnan(one) and math.isnan(other)):
            yield f"evidence.csv, {': '.join(key[:3])}, seed {key[3]} is {one}, by its evidence {other}"
