"""The words of the glossary that a page uses."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lib.runtime import ROOT

SOURCE = ROOT / "docs" / "glossary.md"
GENERAL = ("Networks", "Evaluation", "Experiments and claims")  # groups whose words mean the same in every paper
MOST = 0.5  # the share of another group's words from which on a page is about the group


@dataclass(frozen=True)
class Entry:
    """A row of the glossary. words: what it explains; label: the same as one text; meaning: in Markdown."""

    group: str
    words: tuple[str, ...]
    label: str
    meaning: str

    def occurs(self, text: str, names_only: bool = False) -> bool:
        """Whether one of the words, perhaps in the plural, stands in a text. Names, which are words with a capital or a
        sign, must stand there in the same case. names_only: leave out other words, which may mean something else there.
        """
        return any(re.search(rf"(?<![\w→]){re.escape(word)}s?(?![\w→])", text, 0 if _is_name(word) else re.IGNORECASE)
                   for word in self.words if len(word) > 1 or word != word.lower() or not word.isascii()
                   if _is_name(word) or not names_only)


def _is_name(word: str) -> bool:
    return not re.fullmatch("[a-z][a-z -]*", word)


def entries(source: Path = SOURCE) -> Iterator[Entry]:
    """The rows of the tables of a glossary in Markdown, by the headings above them."""
    group = ""
    for line in source.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            group = line.removeprefix("## ")
        cells = [cell.strip() for cell in line.strip("|").split(" | ")] if line.startswith("| ") else []
        if len(cells) == 2 and cells[0] != "word":
            label = re.sub(r"[*`]", "", cells[0])
            words = [word.strip() for part in label.split(",") for word in re.split(r"[()]", part)]
            yield Entry(group, tuple(word for word in words if word), label, cells[1])


def used(text: str, source: Path = SOURCE) -> list[Entry]:
    """The rows that explain words of a text. Ordinary words of a group that is not GENERAL are explained only if at
    least the share MOST of its rows occurs: elsewhere they may mean something else.
    """
    groups: dict[str, list[Entry]] = {}
    for entry in entries(source):
        groups.setdefault(entry.group, []).append(entry)
    found = []
    for name, group in groups.items():
        here = [entry for entry in group if entry.occurs(text)]
        apart = name not in GENERAL and len(here) < MOST * len(group)
        found += [entry for entry in here if entry.occurs(text, names_only=apart)]
    return found
