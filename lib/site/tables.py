"""Tables in Markdown: the answers in the README, and the page of all published claims."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from lib.errors import SettingsError
from lib.files import write_atomic
from lib.profiles import PROFILES
from lib.runtime import ROOT
from lib.site.answers import answers
from lib.site.scoreboard import CAUSES, read_notebooks, runs, totals_of
from lib.site.words import ASKS, VERDICTS, counted, interval, needed, said, template, unit, words

if TYPE_CHECKING:
    from lib.claims.sheet import ClaimSheet

OUTDATED = "to be answered anew"  # stands for an answer whose verdicts have changed
FOOTNOTES = "¹²³⁴⁵⁶⁷⁸⁹"


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
    if claim["earlier"]:
        found += " (an earlier form of the claim)"
    return f"{VERDICTS[claim['verdict']]} {said(claim)}{found}"


def _table(lines: list[list[str]]) -> str:
    """A Markdown table; the first line is its head."""
    lines = [lines[0], ["---"] * len(lines[0]), *lines[1:]]
    tidy = [[" ".join(cell.replace("|", "\\|").split()) for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in tidy)


def _sheet(paper: str):
    from lib import claims  # imports scipy, which most commands do without

    return claims.load(paper)


def answers_markdown(reference: Path) -> str:
    """The table of the papers' questions and our answers, for a file two folders above `reference`, the folder of the
    published runs. One row for each answer of `answers.yaml` about a paper, with the verdicts of its own claims at the
    largest published profile. An outdated answer is left out. Below the table stand what the symbols mean and which
    networks are below the gates.
    """
    lines = [["Paper", "Its question", "Our answer", "Its own claims"]]
    notes = []
    for paper, one in answers(reference).items():
        sheet = _sheet(paper)
        if not sheet.url:  # a question of ours
            continue
        answer = OUTDATED if one.outdated(paper, reference) else one.answer
        if one.gates and answer != OUTDATED:
            answer += f" {FOOTNOTES[len(notes)]}"
            notes.append(f"{FOOTNOTES[len(notes)]} {one.gates}")
        lines.append([_titled(sheet), one.question, answer, _verdicts(paper, reference)])
    symbols = ", ".join(f"{symbol} {verdict}" for verdict, symbol in VERDICTS.items())
    return f"{_table(lines)}\n\n" + " \\\n".join([f"{symbols}.", *notes])


def _verdicts(paper: str, reference: Path) -> str:
    """The verdicts of the paper's own claims at its largest published profile, with a link to that run."""
    found = [run for run in runs(reference) if run.name in PROFILES and (run / paper / "claims.json").is_file()]
    if not found:
        return ""
    notebook = next(one for one in read_notebooks(found[-1]) if one["name"] == paper)
    counts = notebook["counts"].get("paper", Counter())
    page = next(path for name in ("notebook.ipynb", "notebook.html", "claims.json")
                if (path := found[-1] / paper / name).is_file())
    place = page.relative_to(reference.parents[1]).as_posix()
    numbers = ", ".join(f"{symbol} {counts[v]}" for v, symbol in VERDICTS.items() if counts[v])
    return f"{numbers} at [{found[-1].name}]({place})"


def counts_markdown(folders: Iterable[Path]) -> str:
    """The numbers of verdicts, by whose question the claims are; one column for each results folder."""
    counts = {Path(folder).name: totals_of(read_notebooks(folder)) for folder in folders}
    lines = [["Verdicts", *counts]]
    for asks, (*_, many) in ASKS.items():
        if any(asks in found for found in counts.values()):
            lines.append([many, *(f"{found[asks].total()}: {counted(found[asks])}" if asks in found else ""
                                  for found in counts.values())])
    return _table(lines)


def claims_table_markdown(folders: Iterable[Path]) -> str:
    """All claims, one row each, by whose question they are; one column for each results folder (named by its profile).
    """
    found_in = {Path(folder).name: {n["name"]: n for n in read_notebooks(folder)} for folder in folders}
    lines = [["Claim", "The paper", *found_in]]
    for name in sorted({name for run in found_in.values() for name in run}):
        for asks, (_, group, _) in ASKS.items():
            found = {}  # claim id -> {run: claim}, in the order of the files
            for run, notebooks in found_in.items():
                for claim in notebooks[name]["groups"].get(asks, ()) if name in notebooks else ():
                    found.setdefault(claim["id"], {})[run] = claim
            if found:
                lines.append([f"**{name}: {group[0].lower()}{group[1:]}**", *[""] * (1 + len(found_in))])
            for key, by_run in found.items():
                first = next(iter(by_run.values()))
                # what the paper says about a question that it does not ask stands on the scoreboard only
                told = ("paper_value", "paper_source") if asks == "paper" else ()
                paper = " · ".join(words(first[k]) for k in told if first[k] is not None)
                lines.append([f"{key}: {first['statement']}", paper, *(_cell(by_run.get(run)) for run in found_in)])
    return _table(lines)


def _titled(sheet: ClaimSheet) -> str:
    """The title, linked to the paper's page if there is a paper."""
    return f"[{sheet.title}]({sheet.url})" if sheet.url else sheet.title


def reference_markdown(reference: Path) -> str:
    """The page of the published runs in the folder `reference`: what lies where, how to read it, and all claims."""
    folders = runs(reference)
    papers = [["Paper", "Its files here", *(folder.name for folder in folders)]]
    for name in sorted({n["name"] for folder in folders for n in read_notebooks(folder) if n["ok"]}):
        sheet = _sheet(name)
        own = ", ".join(f"[{what}](../../{place})" for what, place in (
            ("notebook", f"notebooks/{name}.ipynb"), ("claims", f"claims/{name}.yaml"),
            ("differences from the paper", f"claims/{name}.md"), ("code", f"lib/papers/{name}")))
        links = [", ".join(f"[{what}]({folder.name}/{name}/{file})" for what, file in (
            ("notebook", "notebook.ipynb"), ("page", "notebook.html"), ("tables", "tables"), ("claims", "claims.json"))
            if (folder / name / file).exists()) for folder in folders]
        papers.append([f"{_titled(sheet)}, {sheet.authors}, {sheet.venue}", own, *links])
    return template("reference.md.j2").render(papers=_table(papers), counts=counts_markdown(folders),
                                              claims=claims_table_markdown(folders))


def readme(path: Path = ROOT / "README.md") -> None:
    """Put the tables of the published runs (results/reference/) between the README's marks `answers` and `counts`, and
    write results/reference/README.md.

    Raises SettingsError if marks are missing.
    """
    path = Path(path)
    reference = path.parent / "results" / "reference"
    text = path.read_text(encoding="utf-8")
    for name, table in (("answers", answers_markdown(reference)), ("counts", counts_markdown(runs(reference)))):
        begin, end = f"<!-- {name}:begin -->\n", f"<!-- {name}:end -->"
        found = re.fullmatch(rf"(.*{begin}).*?({end}.*)", text, re.DOTALL)
        if not found:
            raise SettingsError(f"{path} has no place for the {name}: it needs {begin.strip()} and {end}")
        text = f"{found[1]}{table}\n{found[2]}"
    write_atomic(path, text)
    write_atomic(reference / "README.md", reference_markdown(reference))
