"""The scoreboard of a results folder."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from lib.files import write_atomic
from lib.profiles import loader
from lib.site import files
from lib.site.words import ASKS, OPEN, template, words

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
