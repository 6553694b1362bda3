"""The figures of an executed notebook: which of its pictures is which saved file, and what it shows."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

from lib.site import files

SHOWN = 100 / 150  # pixels of a page for each pixel of a figure: notebooks show 100 dots per inch, files have 150
LINK = re.compile(r'<img src="figures/([^"]+)"')  # a picture in a notebook that `shrink` has made small


@dataclass(frozen=True)
class Figure:
    """A saved figure where its notebook shows it. `cell`: the id of the cell. `title`: the heading above it. `lead`:
    the first paragraph of the text above it, in Markdown; "" if there is none. `tables`: the names of the tables that
    the same cell saves.
    """

    path: Path
    cell: str
    title: str
    lead: str
    tables: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def href(self) -> str:
        """The link from the notebook's folder."""
        return f"figures/{quote(self.path.name)}"

    def pixels(self) -> tuple[int, int]:
        """Width and height on a page."""
        from PIL import Image

        with Image.open(self.path) as image:
            return tuple(round(size * SHOWN) for size in image.size)

    @property
    def shows(self) -> str:
        """What it shows, as the file says; "" if it does not say."""
        return shows(self.path)

    def claims(self, claims: dict[str, dict]) -> list[dict]:
        """Those of a notebook's claims that refer to this figure."""
        folder = self.path.parent.parent
        return [claim for claim in claims.values() if self.path in files.figures(folder, claim["figure"])]


def shows(path: Path) -> str:
    """What a picture shows, in the words that `Study.figure` saved in its file; "" without any, as in other formats."""
    from PIL import Image

    if path.suffix != ".png":
        return ""
    with Image.open(path) as image:
        return image.info.get("Description", "")


def figures(notebook, folder: Path) -> Iterator[tuple[dict, Figure]]:
    """(output, figure) for each output of the notebook that shows one of the figures saved in `folder`, in order."""
    heading = lead = ""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            heading, lead = _read(cell.source, heading)
            continue
        every = sorted(folder.glob("figures/*.png"))
        named_by_variable = re.search(r"study\.figure\(\s*[A-Za-z_]\w*\s*,", cell.source)
        left = every if named_by_variable else _saved(cell.source, "figure", every)
        tables = tuple(path.stem for path in _saved(cell.source, "table", folder.glob("tables/*.csv")))
        for output in cell.outputs:
            if path := _file(output, left, folder):
                left = [other for other in left if other != path]
                yield output, Figure(path, cell.get("id", ""), heading, lead, tables)


def _read(markdown: str, heading: str) -> tuple[str, str]:
    """(heading, lead) below this Markdown text: its last heading, by default the one before, without the claims that it
    names in brackets; and the first paragraph below it.
    """
    blocks = [block.strip() for block in markdown.split("\n\n")]
    if heads := [at for at, block in enumerate(blocks) if block.startswith("#")]:
        heading = re.sub(r"\s*\([CX]\d[^)]*\)", "", blocks[heads[-1]].splitlines()[0].lstrip("# "))
        blocks = blocks[heads[-1] + 1:]
    texts = [block for block in blocks if block and not re.match(r"\$\$|[*-] |\|", block)]
    return heading, " ".join(texts[0].split()) if texts else ""


def _saved(source: str, what: str, files: Iterable[Path]) -> list[Path]:
    """Those of these files that a cell's calls of `study.figure` or `study.table` save, by name. A name that is made in
    a loop, such as f"curves_{part.name}", stands for every name of its form.
    """
    calls = re.findall(rf"""study\.{what}\(\s*(f?)(["'])(.+?)\2\s*,""", source)
    names = [".+".join(map(re.escape, re.split(r"\{.*?\}", name))) if made else re.escape(name)
             for made, _, name in calls]
    return sorted((path for path in files if any(re.fullmatch(name, path.stem) for name in names)),
                  key=lambda path: path.stem)


def _file(output, candidates: list[Path], folder: Path) -> Path | None:
    """The saved figure that an output shows: the one it links to, or of the candidates the one that looks like it."""
    data = output.get("data", {})
    if linked := LINK.match(data.get("text/html", "")):
        path = folder / "figures" / unquote(linked[1])
        return path if path.is_file() else None
    if "image/png" not in data or not candidates:
        return None
    shown = _thumbnail(io.BytesIO(base64.b64decode(data["image/png"])))
    return min(candidates, key=lambda path: ((_thumbnail(path) - shown) ** 2).mean())


def _thumbnail(image):
    """A picture as grey levels [64, 64]: figures in a notebook and in their files differ in resolution."""
    import numpy as np
    from PIL import Image

    with Image.open(image) as found:
        return np.asarray(found.convert("L").resize((64, 64), Image.Resampling.BOX), float)
