"""The site over one run or several: a front page, all claims, a page for each claim, the networks and the documents."""

from __future__ import annotations

import csv
import io
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import quote, urlencode

from lib.claims.verdict import NOT_TESTED
from lib.files import write_atomic
from lib.papers import papers
from lib.profiles import loader
from lib.profiles.frozen import STARTS
from lib.runtime import ROOT
from lib.site import documents, images
from lib.site.answers import answers
from lib.site.measures import ACCURACIES, STATISTICS
from lib.site.networks import cost, networks
from lib.site.pictures import shows
from lib.site.scoreboard import CAUSES, read_notebooks, runs, todays, totals_of
from lib.site.words import ASKS, OPEN, TEMPLATES, anchor, template

COLUMNS = ("run", "paper", "claim", "asks", "verdict", "comparison", "instance", "statistic", "value", "low", "high",
           "level", "side", "needed", "null", "verdict of the comparison", "seeds", "images", "p", "p_holm",
           "paper's value", "source", "expected", "changed after seeing", "statement", "page")
FULL = ("paper", "imagenet")  # profiles of the papers' own scale
SHOWN = (".png", ".svg", ".jpg")  # what a browser shows as a picture; other figures are links only


def _authors(names: str) -> str:
    """Authors as they are cited: 'Balogh and Jelasity', 'Cianfarani et al.'."""
    families = [name.split()[-1] for name in re.split(r", | and ", names) if name.strip()]
    return " and ".join(families) if len(families) < 3 else f"{families[0]} et al."


def index(folder: Path) -> Path:
    """Write the site of one run in its results folder; returns its front page."""
    folder = Path(folder)
    return site(folder, {folder.name: folder})


def published(reference: Path) -> Path:
    """Write the site over all published runs in the folder `reference`; returns its front page, to which the index page
    of each run leads.
    """
    reference = Path(reference)
    found = {folder.name: folder for folder in runs(reference)}
    for folder in found.values():
        write_atomic(folder / "index.html", template("moved.html.j2").render(to="../index.html"))
    return site(reference, found)


def site(root: Path, folders: Mapping[str, Path]) -> Path:
    """Write the site over the runs {name: results folder}, the smallest first, into the folder `root`, which contains
    them: from their files, the documents of this repository, and the answers, readings and corrections of the published
    runs where `root` has them. Returns the front page.
    """
    return _Site(Path(root).absolute(), {name: Path(folder).absolute() for name, folder in folders.items()}).write()


class _Site:
    """The pages, and what several of them show. Runs stand with the largest first."""

    def __init__(self, root: Path, folders: dict[str, Path]):
        self.root, self.folders = root, folders
        self.runs = {name: {n["name"]: n for n in read_notebooks(folders[name])} for name in reversed(folders)}
        self.networks = {name: networks(found.values()) for name, found in self.runs.items()}
        known = [*papers()]
        names = {name for found in self.runs.values() for name in found}
        self.papers = [self._paper(name) for name in [*(n for n in known if n in names), *sorted(names - {*known})]]
        self.claims = [claim for paper in self.papers for claim in paper["claims"]]
        self.documents = self._documents()
        self.written: set[Path] = set()

    def write(self) -> Path:
        write_atomic(self.root / "style.css", (TEMPLATES / "style.css").read_text(encoding="utf-8"))
        write_atomic(self.root / "claims.csv", self._csv())
        self._page("claims.html", "claims.html.j2", csv=self.root / "claims.csv")
        self._page("networks.html", "networks.html.j2", networks=self.networks, cost=cost, measures=ACCURACIES)
        for before, claim, after in zip([None, *self.claims], self.claims, [*self.claims[1:], None], strict=False):
            self._page(claim["page"], "claim.html.j2", claim=claim, before=before, after=after, causes=CAUSES,
                       shown=SHOWN, shows=shows)
        for paper in self.papers:
            for run, notebook in paper["notebooks"].items():
                if page := notebook["images"]:
                    folder = notebook["folder"]
                    self._page(page, "images.html.j2", paper=paper, run=run, notebook=notebook,
                               found=images.networks(folder), strip=images.place(folder), size=images.size(folder),
                               table=folder / "tables" / "images.csv", outcomes=images.OUTCOMES)
        pages = {self.root.resolve() / "README.md": self.root / "claims.html"} | self.documents
        for source, page in self.documents.items():
            measures = [*ACCURACIES.values(), *STATISTICS.values()] if source.stem == "glossary" else ()
            self._page(page, "document.html.j2", title=documents.title(source), measures=measures,
                       body=documents.body(source, page, pages))
        for folder in ("claims", "docs", "images"):  # pages of what is no more
            for page in {*(self.root / folder).glob("*.html")} - self.written:
                page.unlink()
        corrections = next((source for source in self.documents if source.stem == "corrections"), None)
        return self._page("index.html", "index.html.j2", cost=cost, networks=self.networks, expected=self._expected(),
                          foreseen=self._foreseen(), old=self._old(), small=self._small(), cited=self._cited(),
                          causes=CAUSES,
                          starts={run: file for run, folder in self.folders.items()
                                  if (file := folder / STARTS).is_file()},
                          totals={run: totals_of(found.values()) for run, found in self.runs.items()},
                          failed=[n for found in self.runs.values() for n in found.values() if not n["ok"]],
                          dated=documents.headings(corrections) if corrections else {},
                          data={run: self._data(found) for run, found in self.runs.items()})

    def _page(self, name: str | Path, layout: str, **values) -> Path:
        page = self.root / name

        def to(target, place: str = "", **query) -> str:
            """The link from this page to a file, or to a page of the site by its name; query: what to filter there."""
            path = target if isinstance(target, Path) else self.root / target
            mark = place or urlencode(query)
            return quote(Path(os.path.relpath(path, page.parent)).as_posix()) + (f"#{mark}" if mark else "")

        page.parent.mkdir(exist_ok=True)
        write_atomic(page, template(layout).render(
            to=to, here=page, runs=self.runs, papers=self.papers, claims=self.claims, documents=self.documents,
            titles={source: documents.title(source) for source in self.documents}, **values))
        self.written.add(page)
        return page

    def _paper(self, name: str) -> dict:
        """What the pages say about a paper: its header in claims/<paper>.yaml, its notebooks by run, its claims, its
        question and our answer where it has one, and the verdicts on which this no longer rests.
        """
        notebooks = {run: found[name] for run, found in self.runs.items() if name in found}
        for run, notebook in notebooks.items():
            made = notebook["ok"] and images.networks(notebook["folder"])
            notebook["images"] = self.root / images.page(name, run) if made else None
        sheet, deviations = (ROOT / "claims" / f"{name}.{kind}" for kind in ("yaml", "md"))
        notebook, code = ROOT / "notebooks" / f"{name}.ipynb", ROOT / "lib" / "papers" / name
        header = loader.read(sheet)["paper"] if sheet.is_file() else {}
        worded = {name: one.statement for name, one in todays(name).items()}
        answer = answers(self.root).get(name)
        address = str(header.get("url") or "")
        return {"name": name, "title": next(iter(notebooks.values()))["title"], "header": header,
                "short": (documents.title(deviations).partition(":")[0] if deviations.is_file()
                          else name.replace("_", " ").capitalize()),
                "authors": _authors(header.get("authors", "")),
                "url": address if address.startswith(("https://", "http://")) else None, "notebooks": notebooks,
                "claims": self._claims(name, notebooks, worded), "answer": answer,
                "notebook": notebook if notebook.is_file() else None, "code": code if code.is_dir() else None,
                "outdated": answer.outdated(name, self.root) if answer else [],
                "deviations": self.root / "claims" / f"{name}.html" if deviations.is_file() else None}

    def _claims(self, paper: str, notebooks: Mapping[str, dict], worded: Mapping[str, str]) -> list[dict]:
        """The claims of a paper, the paper's own first, each with what its runs say about it; where runs judged several
        wordings, in today's (`worded`, by claim).
        """
        found: dict[str, dict] = {}
        for asks in ASKS:
            for run, notebook in notebooks.items():
                for claim in notebook["groups"].get(asks, ()):
                    name = anchor(f"{paper}-{claim['id']}")
                    claim["anchor"] = anchor(run)
                    for count, part in enumerate(claim["parts"], 1):
                        part["anchor"] = f"{claim['anchor']}-{count}"
                    one = found.setdefault(claim["id"], {
                        **claim, "paper": paper, "runs": {}, "verdicts": {}, "notebooks": notebooks,
                        "page": self.root / "claims" / f"{name}.html"})
                    if claim["statement"] == worded.get(claim["id"]):
                        of_text = ("statement", "paper_value", "paper_source", "protocol")
                        one.update({name: claim[name] for name in of_text})
                    one["runs"][run] = claim
                    one["verdicts"][run] = claim["verdict"]
        return [*found.values()]

    def _documents(self) -> dict[Path, Path]:
        """{Markdown file: its page}: the documents of this repository, how each paper's reproduction differs from it,
        and the corrections of the published runs.
        """
        found = {path: self.root / "docs" / f"{path.stem}.html" for path in sorted((ROOT / "docs").glob("*.md"))}
        found |= {ROOT / "claims" / f"{paper['name']}.md": paper["deviations"] for paper in self.papers
                  if paper["deviations"]}
        corrections = self.root.resolve() / "corrections.md"
        return found | ({corrections: self.root / "corrections.html"} if corrections.is_file() else {})

    @staticmethod
    def _data(notebooks: Mapping[str, dict]) -> str:
        """The data sets of the pool of networks that a run's notebooks share, in words."""
        sections = [n["card"].get("networks_section") for n in notebooks.values()]
        names = dict.fromkeys(section["data"]["name"] for section in sections if section)
        return ", ".join({"cifar10": "CIFAR-10", "digits": "8×8 digits"}.get(name, name) for name in names)

    def _foreseen(self) -> dict[str, tuple[int, int]]:
        """{run: (verdicts that were expected when papers were frozen, how many of them came out so)}; only runs with
        such papers, and without claims that were expected to be not tested.
        """
        found = {}
        for run in self.runs:
            every = [one for claim in self.claims if (one := claim["runs"].get(run))]
            ours = [one for one in every if one.get("expected", NOT_TESTED) != NOT_TESTED]
            if ours:
                found[run] = len(ours), sum(one["expected"] == one["verdict"] for one in ours)
        return found

    def _cited(self) -> int:
        """How many papers the notebooks are about: one asks a question of ours, across the papers."""
        return sum(not paper["header"] or bool(paper["url"]) for paper in self.papers)

    def _old(self) -> dict[str, int]:
        """{run: how many claims of papers it judged in an earlier form}."""
        return {run: sum(bool(one["earlier"]) for n in found.values() for one in n["groups"].get("paper", ()))
                for run, found in self.runs.items()}

    def _small(self) -> str:
        """How often the runs repeat their experiments, '3 to 5', if none has a paper's own scale; "" otherwise."""
        cards = [n["card"] for found in self.runs.values() for n in found.values() if n["ok"]]
        counts = sorted({card["seeds"] for card in cards if card.get("seeds")})
        if not counts or any(card["profile"] in FULL for card in cards):
            return ""
        return " to ".join(map(str, dict.fromkeys((counts[0], counts[-1]))))

    def _expected(self) -> dict[str, tuple[int, int, float]]:
        """{run: (verdicts, decisions among them, how many of these chance alone makes false at most)}."""
        found = {}
        for run, notebooks in self.runs.items():
            counts = sum((c for n in notebooks.values() for c in n["counts"].values()), Counter())
            decided = counts.total() - sum(counts[verdict] for verdict in OPEN)
            wrong = sum(n["card"].get("expected_false_decisions") or 0 for n in notebooks.values() if n["ok"])
            found[run] = counts.total(), decided, wrong
        return found

    def _csv(self) -> str:
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self._rows())
        return text.getvalue()

    def _rows(self) -> Iterator[dict]:
        """The rows of claims.csv: one for each comparison that a run made, or for a claim on which it made none."""
        for claim in self.claims:
            for run, one in claim["runs"].items():
                about = {"run": run, "paper": claim["paper"], "claim": one["id"], "asks": one["asks"],
                         "verdict": one["verdict"], "paper's value": one["paper_value"],
                         "source": one["paper_source"], "expected": one.get("expected", ""),
                         "changed after seeing": one.get("changed_after_seeing", ""), "statement": one["statement"],
                         "page": claim["page"].relative_to(self.root).as_posix()}
                for part in one["parts"]:
                    yield about | {name: part[name] for name in ("statistic", "value", "low", "high", "level", "side",
                                                                 "seeds", "images", "p", "p_holm")} | {
                        "comparison": part["what"], "instance": part["name"].split(": ", 1)[-1],
                        "needed": part["threshold"], "null": part["null_value"],
                        "verdict of the comparison": part["verdict"]}
                if not one["parts"]:
                    yield about
