"""The test images that a run has saved: what each network of them saw, and where it is in the run's picture."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from lib.site import files
from lib.site.words import anchor

OUTCOMES = {"broken": "Broken by the attack", "clean": "Misclassified without an attack", "": "Standing"}


@dataclass(frozen=True)
class Network:
    """A network with some of its test images. what: its name. row: the columns of the table that are one for all its
    images, as text. images: the others, with `outcome`, a key of OUTCOMES.
    """

    what: str
    row: dict[str, str]
    images: list[dict]

    @property
    def eps(self) -> str:
        """The size of the perturbations: 'ε = 8/255 in linf', 'ε = 0.15 in linf'."""
        value = Fraction(self.row["eps"])
        grey = value * 255
        said = f"{grey}/255" if grey.denominator == 1 and value.denominator > 100 else f"{float(value):g}"
        return f"ε = {said} in {self.row['threat']}"

    @property
    def shares(self) -> dict[str, float]:
        """The share of all test images with each outcome."""
        clean, robust = float(self.row["clean"]), float(self.row["robust"])
        return {"broken": clean - robust, "clean": 1 - clean, "": robust}


def place(folder: Path) -> Path:
    """The picture in the folder of a notebook."""
    return folder / "images" / "strip.png"


def page(paper: str, run: str) -> str:
    """The page in the folder of the site."""
    return f"images/{anchor(f'{paper}-{run}')}.html"


def networks(folder: Path) -> list[Network]:
    """The networks whose test images a notebook has saved in its folder; [] if it has saved none."""
    table = folder / "tables" / "images.csv"
    if not (table.is_file() and place(folder).is_file()):
        return []
    found: dict[str, list[dict]] = {}
    for row in files.rows(table):
        outcome = row["broken_by"] if row["broken_by"] in ("", "clean") else "broken"
        found.setdefault(row["what"], []).append({**row, "outcome": outcome} | {
            name: int(row[name]) for name in ("top", "width", "height")})
    return [Network(what, rows[0], rows) for what, rows in found.items()]


def size(folder: Path) -> tuple[int, int]:
    """Width and height of the picture, in pixels."""
    from PIL import Image

    with Image.open(place(folder)) as image:
        return image.size
