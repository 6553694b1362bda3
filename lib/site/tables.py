"""The tables of claims in Markdown."""

from __future__ import annotations

import re
from pathlib import Path

from lib.errors import SettingsError
from lib.files import write_atomic
from lib.profiles import PROFILES
from lib.runtime import ROOT
from lib.site.scoreboard import CAUSES, _notebooks, _totals
from lib.site.words import ASKS, VERDICTS, counted, interval, needed, said, unit, words


def _cell(claim: dict | None) -> str:
    if claim is None:
        return ""
    parts = claim["parts"]
    if claim["verdict"] == "not tested" or not parts:
        found = ""
    elif len(parts) == 1:
        found = f" {interval(parts[0])}{unit(parts[0])}, needed {needed(parts[0])}"
    else:
        found = f" ({sum(part['verdict'] == 'supported' for part in parts)} of {len(parts)} hold)"
    if reading := claim["reading"]:
        found += f": {CAUSES[reading['cause']]}"
    return f"{VERDICTS[claim['verdict']]} {said(claim)}{found}"


def _table(lines: list[list[str]]) -> str:
    """A Markdown table; the first line is its head."""
    lines = [lines[0], ["---"] * len(lines[0]), *lines[1:]]
    tidy = [[" ".join(cell.replace("|", "\\|").split()) for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in tidy)


def claims_table_markdown(folders) -> str:
    """Two Markdown tables with one column for each results folder (named by its profile): the numbers of verdicts, and
    all claims, one row each. Both tell apart whose question a claim is.
    """
    runs = {Path(folder).name: {n["name"]: n for n in _notebooks(folder)} for folder in folders}
    counts = {run: _totals([*notebooks.values()]) for run, notebooks in runs.items()}
    totals = [["Verdicts", *runs]]
    for asks, (*_, many) in ASKS.items():
        if any(asks in found for found in counts.values()):
            totals.append([many, *(f"{found[asks].total()}: {counted(found[asks])}" if asks in found else ""
                                   for found in counts.values())])
    lines = [["Claim", "The paper", *runs]]
    for name in sorted({name for run in runs.values() for name in run}):
        for asks, (_, group, _) in ASKS.items():
            found = {}  # claim id -> {run: claim}, in the order of the files
            for run, notebooks in runs.items():
                for claim in notebooks[name]["groups"].get(asks, ()) if name in notebooks else ():
                    found.setdefault(claim["id"], {})[run] = claim
            if found:
                lines.append([f"**{name}: {group[0].lower()}{group[1:]}**", *[""] * (1 + len(runs))])
            for key, claims in found.items():
                first = next(iter(claims.values()))
                # what the paper says about a question that it does not ask stands on the scoreboard only
                told = ("paper_value", "paper_source") if asks == "paper" else ()
                paper = " · ".join(words(first[k]) for k in told if first[k] is not None)
                lines.append([f"{key}: {first['statement']}", paper, *(_cell(claims.get(run)) for run in runs)])
    return f"{_table(totals)}\n\n{_table(lines)}"


def readme(path: Path = ROOT / "README.md") -> None:
    """Put the tables of the published runs (results/reference/) between the README's two `claims` marks.

    Raises SettingsError if the marks are not there.
    """
    path = Path(path)
    folders = [f for f in (path.parent / "results" / "reference").glob("*") if f.is_dir()]
    # columns: the profiles in their order, then other runs by name
    folders.sort(key=lambda f: (PROFILES.index(f.name) if f.name in PROFILES else len(PROFILES), f.name))
    text = path.read_text(encoding="utf-8")
    found = re.fullmatch(r"(.*<!-- claims:begin -->\n).*?(<!-- claims:end -->.*)", text, re.DOTALL)
    if not found:
        raise SettingsError(f"{path} has no place for the claims: it needs <!-- claims:begin --> and "
                            "<!-- claims:end -->")
    write_atomic(path, f"{found[1]}{claims_table_markdown(folders)}\n{found[2]}")
