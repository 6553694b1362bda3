"""Read back what a run leaves in its folder: claims and tables as plain values."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from lib.errors import OneLineError
from lib.files import read_json


def claims(folder: Path) -> dict[str, dict]:
    """The rows of a notebook's claims.json by the claims' ids. Raises OneLineError where it is damaged."""
    path = folder / "claims.json"
    try:
        return {claim["id"]: claim for claim in read_json(path)}
    except (TypeError, KeyError):
        raise OneLineError(f"{path} is damaged: it is no list of claims; run its notebook again") from None


def rows(table: Path) -> Iterator[dict[str, str]]:
    """The rows of a table, as {column: text}."""
    with table.open(newline="", encoding="utf-8") as file:
        yield from csv.DictReader(file)


def evidence(folder: Path) -> dict[tuple[str, str], list[float]]:
    """The values of a notebook's claims by repetition: {(claim, name of the part's row): values}, NaN for a repetition
    without a number. Empty if the notebook has no table of evidence.
    """
    found: dict[tuple[str, str], list[float]] = {}
    table = folder / "tables" / "evidence.csv"
    for row in rows(table) if table.is_file() else ():
        values = found.setdefault((row["claim"], f"{row['part']}: {row['instance']}"), [])
        values.append(float(row["value"] or "nan"))  # pandas writes NaN as an empty cell
    return found


def keyed(folder: Path) -> list[Path]:
    """A notebook's tables whose rows are about single networks: those with a column `network`, the recipe key."""
    return [path for path in sorted(folder.glob("tables/*.csv")) if "network" in next(rows(path), {})]


def about(key: str, run: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    """(table, row) for every row of a run's tables that is about the network of the recipe key `key`."""
    for folder in sorted(path.parent for path in run.glob("*/card.json")):
        for table in keyed(folder):
            yield from ((table, row) for row in rows(table) if row["network"] == key)


def figures(folder: Path, name: str) -> list[Path]:
    """The files of a claim's figure: one, or one for each data set (curves_digits.png of "curves")."""
    if not name:
        return []
    named = (folder / name, folder / "figures" / name, folder / "figures" / f"{name}.png")
    return [path for path in named if path.is_file()][:1] or sorted(folder.glob(f"figures/{name}_*.png"))
