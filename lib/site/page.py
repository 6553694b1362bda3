"""The page of one executed notebook: a summary, and below it the notebook."""

from __future__ import annotations

import os
import re
import textwrap
from collections import Counter
from html import escape
from pathlib import Path
from urllib.parse import quote

from lib.claims import sheet
from lib.files import read_json, write_atomic
from lib.profiles import loader
from lib.runtime import ROOT
from lib.site import files, glossary, images, words
from lib.site.answers import answers
from lib.site.markup import exporter, for_readers, markdown, take_title, text_of
from lib.site.pictures import Figure, figures
from lib.site.words import ASKS, template

MAIN = 3  # how many figures a summary shows at most
LONGEST = 400  # characters of the longest text for readers who cannot see a picture


def _error(cells) -> dict | None:
    """{id, text, left} of the first cell that failed: its link, its error, and how many code cells did not run."""
    for position, cell in enumerate(cells):
        for output in cell.get("outputs", ()):
            if output["output_type"] == "error":
                left = sum(c.cell_type == "code" and c.execution_count is None for c in cells[position + 1:])
                return {"id": f"cell-id={cell.id}" if "id" in cell else "", "left": left,
                        "text": f"{output['ename']}: {output['evalue']}"}
    return None


def described(figure: Figure) -> str:
    """What a figure shows, for readers who cannot see it, at most LONGEST long: in its own words or, if it has none,
    heading, name and the text above it.
    """
    if figure.shows:
        return textwrap.shorten(figure.shows, LONGEST, placeholder=" …")
    lead = text_of(markdown(figure.lead, str(figure.path.parent)))
    said = f"{figure.title}, figure {figure.name.replace('_', ' ')}. {lead}"
    return textwrap.shorten(said, LONGEST, placeholder=" …")


def image(figure: Figure) -> str:
    """A figure as HTML that refers to its file."""
    width, height = figure.pixels()
    return f'<img src="{figure.href}" alt="{escape(described(figure))}" width="{width}" height="{height}">'


def _main(found: list[tuple[Figure, list[dict], dict]]) -> list[tuple[Figure, list[dict], dict]]:
    """The figures for a summary, each with its claims and output, in order: those on which most of the paper's claims
    rest, one of each section, and of several data sets the last, which is the largest.
    """
    def weight(place: int) -> tuple[int, int]:
        return sum(claim["asks"] == "paper" for claim in found[place][1]), place

    best: dict[str, int] = {}
    for place, (figure, claims, _) in enumerate(found):
        if claims and weight(place) >= weight(best.setdefault(figure.title, place)):
            best[figure.title] = place
    return [found[place] for place in sorted(sorted(best.values(), key=lambda place: -weight(place)[0])[:MAIN])]


def because(claim: dict) -> str:
    """Why a claim has its verdict: the judge's reason or, if it holds, the weakest of the comparisons that do."""
    hold = [part for part in claim["parts"] if part["verdict"] == "supported"]
    if claim["reason"] or not hold:
        return claim["reason"].replace("->", "→")
    weakest = max(hold, key=lambda part: part["p"] or 0)
    count = len(claim["parts"])
    start = f"{len(hold)} of {count} comparisons hold. The weakest: " if count > 1 else ""
    return (f"{start}{weakest['what']}, {weakest['name'].split(': ', 1)[-1]}: {words.interval(weakest)}"
            f"{words.unit(weakest)}, needed {words.needed(weakest)}.").replace("->", "→")


def _answer(folder: Path):
    """Our answer to a paper's question, if the run in `folder` is published and the answer rests on its verdicts."""
    reference = folder.parent.parent
    answer = answers(reference).get(folder.name)
    return answer if answer and not answer.outdated(folder.name, reference) else None


def site_of(folder: Path) -> str:
    """The link from the page of the notebook in `folder` to the front page's folder: published runs share one site,
    every other run has its own.
    """
    return "../.." if (folder.parent.parent / "answers.yaml").is_file() else ".."


def render(notebook: Path, site: str | None = None) -> Path:
    """Write the page of an executed notebook, complete or stopped halfway, next to it; returns the page's path.
    Pictures that are saved figures are shown from their files, other ones are embedded. site: the link to the folder
    of the front page, by default `site_of` the notebook's folder.
    """
    import nbformat
    from pygments.formatters import HtmlFormatter

    notebook = Path(notebook)
    folder = notebook.parent
    nb = nbformat.read(notebook, as_version=4)
    # papermill adds cells of its own that report a failure; the page reports it once, at the top
    nb.cells = [cell for cell in nb.cells if "papermill-error-cell-tag" not in cell.metadata.get("tags", ())]
    title = _describe(nb.cells, folder.name.replace("_", " "))
    card = folder / "card.json"  # missing if the run stopped early
    card = read_json(card) if card.exists() else {}
    done = card.get("status") == "ok" and (folder / "claims.json").is_file()  # others' claims may be old
    claims = files.claims(folder) if done else {}
    groups = {asks: some for asks in ASKS if (some := [c for c in claims.values() if c["asks"] == asks])}
    run = {"card": card, "site": site or site_of(folder), "folder": folder.name, "profile": folder.parent.name,
           "code": quote(os.path.relpath(ROOT / "lib" / "papers" / folder.name, folder))}
    parts = template("parts.html.j2").module
    shown = [(figure, figure.claims(claims), output) for output, figure in figures(nb, folder)]
    titles = Counter(figure.title for figure, *_ in shown)
    run["several"] = {figure.name for figure, *_ in shown
                      if titles[figure.title] > 1 and figure.name != figure.title.lower()}
    for figure, about, output in shown:
        output["data"] = {"text/html": str(parts.figure(figure, image(figure), "", about, run))}
    for cell in nb.cells if claims else ():
        for output in cell.get("outputs", ()) if "study.judge(" in cell.source else ():
            if "text/html" in output.get("data", ()):
                reasons = {key: because(claim) for key, claim in claims.items()}
                output["data"] = {"text/html": str(parts.verdicts(groups, reasons, run))}
    body, _ = exporter().from_notebook_node(nb, {"metadata": {"path": str(folder), "name": notebook.stem}})
    soup = for_readers(body)
    heading = take_title(soup, title)
    pictured = images.page(folder.name, folder.parent.name) if done and images.networks(folder) else ""
    main = [parts.figure(figure, image(figure), markdown(figure.lead, str(folder)), about, run, True)
            for figure, about, _ in _main(shown)]
    contents = [(one["id"], text_of(one.decode_contents()).removesuffix(" #")) for one in soup.find_all("h2", id=True)]
    light, dark = (HtmlFormatter(style=style).get_style_defs(".highlight") for style in ("default", "github-dark"))
    style = f"{light}\n@media screen and (prefers-color-scheme: dark) {{ {dark} }}"
    page = notebook.with_suffix(".html")
    write_atomic(page, template("notebook.html.j2").render(
        title=title, heading=heading, paper=_paper(folder.name), answer=_answer(folder), groups=groups, main=main,
        figures=len(shown), contents=contents, body=str(soup), code_style=style, error=_error(nb.cells),
        source=notebook.name, images=pictured, explained=_explained(body, groups), **run))
    return page


def _describe(cells, title: str) -> str:
    """Give each picture a text for readers who cannot see it. Returns the notebook's title, by default this one."""
    heading = title
    for cell in cells:
        if cell.cell_type == "markdown":
            title = next(iter(re.findall(r"^# (.+)$", cell.source, re.MULTILINE)), title)
            heading = (re.findall(r"^#+ (.+)$", cell.source, re.MULTILINE) or [heading])[-1]
        for output in cell.get("outputs", ()):
            if "image/png" in output.get("data", ()):
                said = output["data"].get("text/plain", "<")
                output["metadata"]["alt"] = f"{heading}: {said}" if said[0] != "<" else (
                    f"Figure of the section: {heading}")
    return title


def _explained(body: str, groups: dict[str, list[dict]]) -> list[tuple[str, str]]:
    """The words of the glossary that a notebook's HTML, without code and formulas, or its claims use: (words, HTML)."""
    from bs4 import BeautifulSoup

    soup = BeautifulSoup(body, "html.parser")
    for part in soup.select("script, style, pre, code, math, svg"):
        part.decompose()
    text = " ".join([soup.get_text(" "), *(claim["statement"] for claims in groups.values() for claim in claims)])
    return [(entry.label, markdown(re.sub(r"\[(.*?)\]\(.*?\)", r"\1", entry.meaning), ""))  # links lead elsewhere here
            for entry in glossary.used(text)]


def _paper(name: str) -> dict | None:
    """The header of claims/<name>.yaml, if there is such a paper."""
    path = sheet.FOLDER / f"{name}.yaml"
    return loader.read(path)["paper"] if path.is_file() else None
