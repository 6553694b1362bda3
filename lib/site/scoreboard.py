"""What the files of a results folder say about its notebooks and their claims."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from lib.profiles import PROFILES, loader
from lib.runtime import ROOT
from lib.site import files
from lib.site.words import ASKS

if TYPE_CHECKING:
    from lib.claims import Claim

CAUSES = {"claim": "it does not hold here", "small": "the effect is smaller here", "seeds": "too few repetitions",
          "size": "this run is too small", "margin": "as large as its margin", "wording": "the paper leaves it open"}


def _read(path: Path, missing):
    if not path.exists():
        return missing
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return missing
    return found if isinstance(found, type(missing)) else missing


def readings(folder: Path) -> dict:
    """Explanations of a published run's verdicts, written by a person: {notebook: {claim: {verdict, cause, why}}}, read
    from `readings.yaml` next to the run's folder; {} if there is no such file. `cause` is one of CAUSES.
    """
    path = Path(folder).parent / "readings.yaml"
    return loader.read(path).get(Path(folder).name, {}) if path.is_file() else {}


def todays(paper: str, profile: str = "") -> dict[str, Claim]:
    """{name: claim} of a paper as a run of this profile judges it today ("": as it reads now); {} if this repository
    has no such paper.
    """
    from lib.claims import sheet  # imports scipy, which most commands do without

    return {one.id: one for one in sheet.load(paper, profile)} if (ROOT / "claims" / f"{paper}.yaml").is_file() else {}


def earlier(claim: dict, today: Claim | None) -> str:
    """How a claim that a run judged differs from today's, as a sentence; "" if it does not."""
    from lib.claims.verdict import asked

    if today is None:
        return "This claim has been replaced since."
    if claim["statement"] != today.statement:
        return f"Judged in an earlier form: “{claim['statement']}”"
    if claim.get("asked") != [asked(part) for part in today.parts] or claim["protocol"] != today.protocol:
        return "What is compared, its margin or its protocol has been corrected since."
    return ""


def _notebook(folder: Path, read: dict) -> dict:
    """All that the pages say about one notebook. read: {claim: reading}, see `readings`. Claims of a failed run are not
    shown, because they may be old; neither are readings of another verdict than the present one. Claims are in groups
    by whose question they are, the paper's own first.
    """
    card = _read(folder / "card.json", {"status": "failed", "error": "It stopped before its last cell."})
    ok = card.get("status") == "ok"
    claims = _read(folder / "claims.json", []) if ok else []
    pages = [folder / name for name in ("notebook.html", "notebook.ipynb") if (folder / name).exists()]
    by_seed = files.evidence(folder) if ok else {}
    today = todays(folder.name, str(card.get("profile", "")))
    for claim in claims:
        claim["earlier"] = earlier(claim, today.get(claim["id"])) if today else ""
        reading = read.get(claim["id"], {})
        claim["reading"] = reading if reading.get("verdict") == claim["verdict"] else None
        claim["warnings"] = [w["sentence"] for w in card.get("warnings", ())
                             if w["claims"] is None or claim["id"] in w["claims"]]
        claim["figures"] = files.figures(folder, claim.get("figure"))
        for part in claim["parts"]:
            part["by_seed"] = by_seed.get((claim["id"], part["name"]), [])
    kinds = ("claims.json", "evidence.npz", "tables/evidence.csv")
    groups = {asks: some for asks in ASKS if (some := [claim for claim in claims if claim["asks"] == asks])}
    return {"name": folder.name, "title": card.get("title") or folder.name.replace("_", " ").capitalize(), "ok": ok,
            "card": card, "folder": folder, "page": pages[0] if pages else None, "keyed": files.keyed(folder),
            "outcomes": [folder / kind for kind in kinds if (folder / kind).is_file()],
            "earlier": sum(bool(claim["earlier"]) for claim in claims), "groups": groups,
            "counts": {asks: Counter(c["verdict"] for c in some) for asks, some in groups.items()}}


def totals_of(notebooks: Iterable[dict]) -> dict[str, Counter]:
    """{whose question: {verdict: number of claims}} over all notebooks, without questions that nobody asks."""
    found = {asks: sum((n["counts"][asks] for n in notebooks if asks in n["counts"]), Counter()) for asks in ASKS}
    return {asks: counts for asks, counts in found.items() if counts}


def read_notebooks(folder: Path) -> list[dict]:
    """What the pages say about each notebook of a results folder."""
    marks = ("card.json", "claims.json", "notebook.html", "notebook.ipynb")
    read = readings(folder)
    return [_notebook(f, read.get(f.name, {})) for f in sorted(Path(folder).iterdir())
            if f.is_dir() and any((f / m).exists() for m in marks)]


def runs(reference: Path) -> list[Path]:
    """The folders of the published runs in the folder `reference`: the profiles in their order, then others by name."""
    folders = {path.parent.parent for path in Path(reference).glob("*/*/card.json")}
    return sorted(folders, key=lambda f: (PROFILES.index(f.name) if f.name in PROFILES else len(PROFILES), f.name))
