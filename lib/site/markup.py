"""The text of notebooks as HTML: Markdown, formulas, tables and whole notebooks."""

from __future__ import annotations

import functools
import os
import re
from html import escape

from lib.runtime import ROOT
from lib.site.measures import ACCURACIES, COLUMNS
from lib.site.words import TEMPLATES


def mathml(formula: str, block: bool = False) -> str | None:
    """A LaTeX formula as MathML, which browsers show without a script; None if it cannot be converted."""
    from latex2mathml.converter import convert

    known = re.sub(r"(begin|end)\{(aligned|align\*?|equation\*?)\}", r"\1{split}", formula)
    try:
        found = convert(known, display="block" if block else "inline")
    except Exception:  # the package's many errors share no base class
        return None
    return None if "\\" in found else found


def _from_page(url: str, folder: str) -> str:
    """A link of a notebook, rewritten for its page, which lies in another folder."""
    if re.match(r"[a-z]+:|[#/]", url):
        return url
    path, mark, anchor = url.partition("#")
    return os.path.relpath(ROOT / "notebooks" / path, folder) + mark + anchor


@functools.cache
def _renderer():
    """nbconvert's renderer of Markdown with our formulas and links. It is made on demand, because the import takes
    seconds.
    """
    from nbconvert.filters.markdown_mistune import IPythonRenderer

    def formula(source: str, block: bool) -> str:
        found = mathml(source, block) or f'<code class="unknown-formula">{escape(source)}</code>'
        return f'<span class="scroll">{found}</span>' if block else found

    class Renderer(IPythonRenderer):
        def inline_math(self, body):
            return formula(body, False)

        def block_math(self, body):
            return formula(body, True)

        def latex_environment(self, name, body):
            return formula(f"\\begin{{{name}}}{body}\\end{{{name}}}", True)

        def link(self, text, url, title=None):
            return super().link(text, _from_page(url, self.path), title)

    return Renderer


def markdown(source: str, path: str, attachments=()) -> str:
    """Markdown of a notebook as HTML for a page in the folder `path`."""
    from nbconvert.filters.markdown_mistune import MarkdownWithMath

    return MarkdownWithMath(renderer=_renderer()(escape=False, attachments=attachments or {}, embed_images=True,
                                                 path=path, anchor_link_text="#")).render(source)


@functools.cache
def exporter():
    """nbconvert's HTML exporter with our cells and Markdown."""
    from jinja2 import pass_context
    from nbconvert.exporters import HTMLExporter
    from traitlets.config import Config

    class Exporter(HTMLExporter):
        @pass_context
        def markdown2html(self, context, source):
            path = context.get("resources", {}).get("metadata", {}).get("path", "")
            return markdown(source, path, context.get("cell", {}).get("attachments"))

    # No widgets and no JavaScript: a page must say the same without a kernel and without a network.
    shown = ["text/html", "text/markdown", "image/svg+xml", "image/png", "image/jpeg", "text/latex", "text/plain"]
    return Exporter(template_name="cells", extra_template_basedirs=[str(TEMPLATES)], embed_images=True,
                    exclude_input_prompt=True, exclude_output_prompt=True,
                    config=Config({"NbConvertBase": {"display_data_priority": shown}}))


def text_of(html: str) -> str:
    """HTML as plain text on one line."""
    from bs4 import BeautifulSoup

    return " ".join(BeautifulSoup(html, "html.parser").get_text(" ").split())


def _readable(ground: str) -> str:
    """Black or white, whichever has the larger contrast (WCAG) with a colour such as #d6604d."""
    shares = (int(ground[at:at + 2], 16) / 255 for at in (1, 3, 5))
    light = (x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in shares)
    luminance = sum(weight * x for weight, x in zip((0.2126, 0.7152, 0.0722), light, strict=True))
    return "#000000" if (luminance + 0.05) ** 2 > 0.05 * 1.05 else "#ffffff"


def for_readers(body: str):
    """The notebook's HTML as a soup in which tables scroll on their own, have no empty headings, names of rows are
    headings of rows, numbers on a coloured ground can be read, and "N->R" has an arrow, as in texts and figures, at
    which no line breaks. Heads that name a measure say what it is.
    """
    from bs4 import BeautifulSoup

    soup = BeautifulSoup(body, "html.parser")
    styled = {name for style in soup.find_all("style") for name in re.findall(r"#(\w+)", style.get_text())}
    for style in soup.find_all("style"):
        style.string = re.sub(r"(background-color: (#\w{6});\s*color: )#\w{6}",
                              lambda found: found[1] + _readable(found[2]), style.get_text())
    for table in soup.find_all("table"):
        for cell in table.find_all(["th", "td"]):
            del cell["class"]  # pandas gives names to every cell, which make up half of a page
            if cell.get("id") not in styled:
                del cell["id"]
            if cell.name == "th" and not cell.get_text(strip=True):
                cell.name = "td"
            elif cell.name == "th" and cell.find_parent("tbody"):
                cell["scope"] = "row"
            if cell.name == "th" and (name := cell.get_text(strip=True)) in COLUMNS:
                cell["title"] = ACCURACIES[name].tip
            if cell.name == "th" and (formula := cell.find("math")):  # not every program reads MathML
                said = soup.new_tag("span", attrs={"class": "unseen"})
                said.string = text_of(str(formula))
                formula["aria-hidden"] = "true"
                formula.insert_before(said)
        for text in table.find_all(string=re.compile("->")):
            text.replace_with(text.replace("->", "→"))
        table.wrap(soup.new_tag("div", attrs={"class": "scroll"}))
    return soup


def take_title(soup, title: str) -> str:
    """Replace the notebook's first heading, which becomes the page's, and return it as HTML; by default the title."""
    heading = soup.find("h1")
    if not heading:
        return escape(title)
    if anchor := heading.find("a", class_="anchor-link"):
        anchor.extract()
    taken = heading.decode_contents()
    heading.name, heading["id"] = "h2", "the-notebook"
    heading.string = "The notebook"
    return taken
