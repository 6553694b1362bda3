"""The scoreboard of a results folder, and the table of claims in the README."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from lib.errors import SettingsError
from lib.files import write_atomic
from lib.profiles import PROFILES, loader
from lib.runtime import ROOT
from lib.site import files
from lib.site.words import ASKS, OPEN, VERDICTS, counted, interval, needed, said, template, unit, words

CAUSES = {"claim": "it does not hold here", "small": "the effect is smaller here", "seeds": "too few repetitions",
          "size": "the profile is too small", "margin": "as large as its margin", "wording": "the paper leaves it open"}
SHOWN = (".png", ".svg", ".jpg")  # what a browser shows as a picture; other figures are links only


def _read(path: Path, missing):
    if not path.exists():
        return missing
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return missing
    return found if isinstance(found, type(missing)) else missing


def _figure(folder: Path, name: str) -> dict | None:
    """A claim's figure: its name, its link from the scoreboard, and whether it can be shown there."""
    if not name:
        return None
    for path in (folder / name, folder / "figures" / name, folder / "figures" / f"{name}.png"):
        if path.is_file():
            href = path.relative_to(folder.parent).as_posix()
            return {"name": path.stem, "href": href, "shown": path.suffix in SHOWN}
    return None


def readings(folder: Path) -> dict:
    """Explanations of a published run's verdicts, written by a person: {notebook: {claim: {verdict, cause, why}}}, read
    from `readings.yaml` next to the run's folder; {} if there is no such file. `cause` is one of CAUSES.
    """
    path = Path(folder).parent / "readings.yaml"
    return loader.read(path).get(Path(folder).name, {}) if path.is_file() else {}


def _notebook(folder: Path, read: dict) -> dict:
    """All that the scoreboard says about one notebook. read: {claim: reading}, see `readings`. Claims of a failed run
    are not shown, because they may be old; neither are readings of another verdict than the present one. Claims are
    in groups by whose question they are, the paper's own first.
    """
    card = _read(folder / "card.json", {"status": "failed", "error": "It stopped before its last cell."})
    ok = card.get("status") == "ok"
    claims = _read(folder / "claims.json", []) if ok else []
    figures = {claim["figure"]: figure for claim in claims if (figure := _figure(folder, claim.get("figure")))}
    pages = [name for name in ("notebook.html", "notebook.ipynb") if (folder / name).exists()]
    by_seed = files.evidence(folder) if ok else {}
    for claim in claims:
        reading = read.get(claim["id"], {})
        claim["reading"] = reading if reading.get("verdict") == claim["verdict"] else None
        claim["warnings"] = [w["sentence"] for w in card.get("warnings", ()) if claim["id"] in (w["claims"] or ())]
        for part in claim["parts"]:
            part["by_seed"] = by_seed.get((claim["id"], part["name"]), [])
    kinds = ("tables/*.csv", "*.json", "*.npz", "*.ipynb")
    downloads = [path for kind in kinds for path in sorted(folder.glob(kind))]
    groups = {asks: some for asks in ASKS if (some := [claim for claim in claims if claim["asks"] == asks])}
    return {"name": folder.name, "title": card.get("title") or folder.name.replace("_", " ").capitalize(), "ok": ok,
            "card": card, "page": f"{folder.name}/{pages[0]}" if pages else None, "files": downloads,
            "keyed": [path.name for path in files.keyed(folder)], "figures": figures,
            "groups": groups, "counts": {asks: Counter(c["verdict"] for c in some) for asks, some in groups.items()}}


def _totals(notebooks: Iterable[dict]) -> dict[str, Counter]:
    """{whose question: {verdict: number of claims}} over all notebooks, without questions that nobody asks."""
    found = {asks: sum((n["counts"][asks] for n in notebooks if asks in n["counts"]), Counter()) for asks in ASKS}
    return {asks: counts for asks, counts in found.items() if counts}


def _notebooks(folder: Path) -> list[dict]:
    marks = ("card.json", "claims.json", "notebook.html", "notebook.ipynb")
    read = readings(folder)
    return [_notebook(f, read.get(f.name, {})) for f in sorted(Path(folder).iterdir())
            if f.is_dir() and any((f / m).exists() for m in marks)]


def index(folder: Path) -> Path:
    """Write the scoreboard `index.html` of a results folder from the files in it; returns its path."""
    folder = Path(folder)
    notebooks = _notebooks(folder)
    counts = _totals(notebooks)
    every = sum(counts.values(), Counter())
    decided = every.total() - sum(every[verdict] for verdict in OPEN)
    done = [n["card"] for n in notebooks if n["ok"]]
    same = {name: found.pop() for name in ("device", "threads", "commit")
            if len(found := {words(card[name]) for card in done if card.get(name) is not None}) == 1}
    page = folder / "index.html"
    write_atomic(page, template("index.html.j2").render(
        profile=folder.name, notebooks=notebooks, counts=counts, judged=every.total(), decided=decided,
        causes=CAUSES, expected=sum(card.get("expected_false_decisions") or 0 for card in done), same=same,
        failed=[n for n in notebooks if not n["ok"]], seconds=sum(card.get("seconds") or 0 for card in done),
        training=sum(card.get("training_seconds") or 0 for card in done)))
    return page


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
