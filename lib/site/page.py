"""The page of one executed notebook."""

from __future__ import annotations

import functools
import json
import os
import re
from html import escape
from pathlib import Path

from lib.files import write_atomic
from lib.runtime import ROOT
from lib.site.words import TEMPLATES, template


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
def _exporter():
    """nbconvert's HTML exporter with our cells and formulas. It is made on demand, because the import takes seconds."""
    from jinja2 import pass_context
    from nbconvert.exporters import HTMLExporter
    from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
    from traitlets.config import Config

    def formula(source: str, block: bool) -> str:
        return mathml(source, block) or f'<code class="unknown-formula">{escape(source)}</code>'

    class Renderer(IPythonRenderer):
        def inline_math(self, body):
            return formula(body, False)

        def block_math(self, body):
            return formula(body, True)

        def latex_environment(self, name, body):
            return formula(f"\\begin{{{name}}}{body}\\end{{{name}}}", True)

        def link(self, text, url, title=None):
            return super().link(text, _from_page(url, self.path), title)

    class Exporter(HTMLExporter):
        @pass_context
        def markdown2html(self, context, source):
            path = context.get("resources", {}).get("metadata", {}).get("path", "")
            renderer = Renderer(escape=False, attachments=context.get("cell", {}).get("attachments", {}),
                                embed_images=True, path=path, anchor_link_text="#")
            return MarkdownWithMath(renderer=renderer).render(source)

    # No widgets and no JavaScript: a page must say the same without a kernel and without a network.
    shown = ["text/html", "text/markdown", "image/svg+xml", "image/png", "image/jpeg", "text/latex", "text/plain"]
    return Exporter(template_name="cells", extra_template_basedirs=[str(TEMPLATES)], embed_images=True,
                    exclude_input_prompt=True, exclude_output_prompt=True,
                    config=Config({"NbConvertBase": {"display_data_priority": shown}}))


def _error(cells) -> dict | None:
    """{id, text, left} of the first cell that failed: its link, its error, and how many code cells did not run."""
    for position, cell in enumerate(cells):
        for output in cell.get("outputs", ()):
            if output["output_type"] == "error":
                left = sum(c.cell_type == "code" and c.execution_count is None for c in cells[position + 1:])
                return {"id": f"cell-id={cell.id}" if "id" in cell else "", "left": left,
                        "text": f"{output['ename']}: {output['evalue']}"}
    return None


def render(notebook: Path) -> Path:
    """Write the page of an executed notebook, complete or stopped halfway, next to it; returns the page's path."""
    import nbformat
    from pygments.formatters import HtmlFormatter

    notebook = Path(notebook)
    nb = nbformat.read(notebook, as_version=4)
    # papermill adds cells of its own that report a failure; the page reports it once, at the top
    nb.cells = [cell for cell in nb.cells if "papermill-error-cell-tag" not in cell.metadata.get("tags", ())]
    title = heading = notebook.parent.name.replace("_", " ")
    for cell in nb.cells:
        if cell.cell_type == "markdown":
            title = next(iter(re.findall(r"^# (.+)$", cell.source, re.MULTILINE)), title)
            heading = (re.findall(r"^#+ (.+)$", cell.source, re.MULTILINE) or [heading])[-1]
        else:
            cell.metadata.setdefault("alt", f"Figure of the section: {heading}")  # for readers who cannot see pictures
    body, _ = _exporter().from_notebook_node(nb, {"metadata": {"path": str(notebook.parent), "name": notebook.stem}})
    headings = re.findall(r'<h2 id="([^"]+)">(.*?)<a class="anchor-link"', body)
    light, dark = (HtmlFormatter(style=style).get_style_defs(".highlight") for style in ("default", "github-dark"))
    style = f"{light}\n@media screen and (prefers-color-scheme: dark) {{ {dark} }}"
    card = notebook.with_name("card.json")  # missing if the run stopped early
    card = json.loads(card.read_text(encoding="utf-8")) if card.exists() else {}
    page = notebook.with_suffix(".html")
    write_atomic(page, template("notebook.html.j2").render(
        title=title, card=card, body=body, headings=headings, code_style=style,
        error=_error(nb.cells), folder=notebook.parent.name, profile=notebook.parent.parent.name, source=notebook.name))
    return page
