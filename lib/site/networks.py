"""The networks of a run: what was trained, what it reached and what it cost, each counted once."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from lib.site import files
from lib.site.measures import ACCURACIES

# Measures that tables with a column for each have under another name, or under one that is not always theirs.
COLUMNS = {"clean": "clean", "accuracy": "clean", "robust l2": "robust l2", "robust linf": "robust linf"}


def networks(notebooks: Iterable[dict]) -> list[dict]:
    """The networks of a run's notebooks, each once though several notebooks share it: {key, what (its recipe in words),
    papers, seconds (of its training; None if no table says it), accuracies ({measure: accuracy})}.
    """
    found: dict[str, dict] = {}
    for notebook in notebooks:
        if not notebook["ok"]:
            continue
        for key in notebook["card"].get("networks") or ():
            one = found.setdefault(key, {"key": key, "what": "", "papers": [], "seconds": None, "accuracies": {}})
            one["papers"].append(notebook["name"])
        table = notebook["folder"] / "tables" / "networks.csv"
        for row in files.rows(table) if table.is_file() else ():
            if one := found.get(row["key"]):
                one["what"] = re.sub(r" *\[\w+\]$", "", row["what"])
                one["seconds"] = float(row["seconds"]) if row["seconds"] else None
        for table in notebook["keyed"]:
            for row in files.rows(table):
                if one := found.get(row["network"]):
                    for name, value in _accuracies(row):
                        one["accuracies"].setdefault(name, value)
    return [*found.values()]


def _accuracies(row: dict[str, str]):
    columns = {"accuracy": row["measure"]} if "measure" in row else COLUMNS
    for column, name in columns.items():
        value = float(row.get(column) or "nan")
        if name in ACCURACIES and math.isfinite(value):
            yield name, value


def cost(found: Iterable[dict]) -> dict:
    """What some networks cost: {networks, seconds, unknown (the number whose time no table says)}."""
    seconds = [one["seconds"] for one in found]
    known = [value for value in seconds if value is not None]
    return {"networks": len(seconds), "seconds": sum(known), "unknown": len(seconds) - len(known)}
