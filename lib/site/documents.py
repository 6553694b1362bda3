"""Markdown files of this repository as pages of the site."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Mapping
from html import escape
from pathlib import Path


def title(source: Path) -> str:
    """The first heading of a Markdown file."""
    return next(iter(re.findall(r"^# (.+)$", source.read_text(encoding="utf-8"), re.MULTILINE)), source.stem)


def slug(heading: str) -> str:
    """The anchor of a heading, as GitHub makes it: 'Choices, again' is #choices-again."""
    return re.sub(r"[^\w\- ]", "", re.sub("<.*?>", "", heading).lower()).replace(" ", "-")


def headings(source: Path) -> dict[str, str]:
    """{heading: anchor} of a Markdown file's sections."""
    found = re.findall(r"^## (.+)$", source.read_text(encoding="utf-8"), re.MULTILINE)
    return {heading: slug(heading) for heading in found}


def body(source: Path, page: Path, pages: Mapping[Path, Path]) -> str:
    """The HTML of a Markdown file for the page `page`, without its title. Markup in the file is shown as text. Links
    and pictures that are relative lead to the page of a file, {file: page}, or else to the file.
    """
    import mistune

    def address(url: str) -> str:
        if re.match(r"[a-z]+:|[#/]", url):
            return url
        path, mark, anchor = url.partition("#")
        target = (source.parent / path).resolve()
        return os.path.relpath(pages.get(target, target), page.parent) + mark + anchor

    class Renderer(mistune.HTMLRenderer):
        def link(self, text, url, title=None):
            return super().link(text, address(url), title)

        def image(self, text, url, title=None):
            return super().image(text, address(url), title)

        def heading(self, text, level, **_):
            return "" if level == 1 else f'<h{level} id="{slug(text)}">{text}</h{level}>\n'

    render = mistune.create_markdown(renderer=Renderer(escape=True), plugins=["table"])
    html = render(source.read_text(encoding="utf-8"))
    count = itertools.count(1)
    label = escape(title(source), quote=True)

    def wide(table: re.Match) -> str:  # it scrolls by itself, also by keyboard
        return (f'<div class="scroll" role="region" tabindex="0" aria-label="Table {next(count)}: {label}">{table[0]}'
                "</div>")

    return re.sub(r"(?s)<table>.*?</table>", wide, html)
