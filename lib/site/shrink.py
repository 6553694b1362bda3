"""Make a notebook's results small enough for version control."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from lib.files import write_atomic
from lib.site.page import image, render
from lib.site.pictures import figures

FURTHEST, SPREAD = 24, 2.0  # of 255: how far a pixel may move, and the root mean square of all pixels' moves


def few_colours(png: bytes) -> bytes:
    """The same picture as a PNG of at most 256 colours, which for a drawing is about a third of the size. The picture
    keeps its colours if the change would be visible, as it is in photographs: a channel of a pixel would move by more
    than FURTHEST of 255 levels, or the root mean square of all moves would exceed SPREAD. It is returned as it is if
    nothing is gained or if it is not opaque RGB.
    """
    import numpy as np
    from PIL import Image

    image = Image.open(io.BytesIO(png))
    if image.mode not in ("RGB", "RGBA") or "transparency" in image.info or (
            image.mode == "RGBA" and image.getextrema()[3][0] < 255):
        return png
    image = image.convert("RGB")
    kept = [image]
    for colours in (256, 64):
        # a palette that covers all colours, not only frequent ones: thin lines and small dots keep theirs
        found = image.quantize(colours, method=Image.Quantize.MAXCOVERAGE, kmeans=3, dither=Image.Dither.NONE)
        moves = np.abs(np.asarray(found.convert("RGB"), int) - np.asarray(image, int)).max(-1)
        if moves.max() <= FURTHEST and np.sqrt((moves**2).mean()) <= SPREAD:
            kept.append(found)
    return min([png, *(_saved(one, image.info) for one in kept)], key=len)


def _saved(image, info: dict) -> bytes:
    from PIL.PngImagePlugin import PngInfo

    buffer, text = io.BytesIO(), PngInfo()
    if info.get("Description"):
        text.add_itxt("Description", info["Description"])
    image.save(buffer, "PNG", optimize=True, pnginfo=text, **({"dpi": info["dpi"]} if "dpi" in info else {}))
    return buffer.getvalue()


def shrink(folder: Path) -> None:
    """Make the results of one notebook small, in place, and store each picture once. Figures are reduced to few colours
    (`few_colours`), an SVG that is larger than its PNG is dropped, and the notebook shows saved figures from their
    files (JupyterLab follows the links). Then the page is made again. Texts, tables and numbers do not change, nor does
    a folder that is already small.
    """
    import nbformat

    folder = Path(folder)
    for path in sorted(folder.glob("figures/*.png")):
        data = path.read_bytes()
        if (small := few_colours(data)) != data:
            write_atomic(path, small)
        drawing = path.with_suffix(".svg")
        if drawing.is_file() and drawing.stat().st_size > len(small):
            drawing.unlink()
    notebook = folder / "notebook.ipynb"
    if not notebook.is_file():
        return
    page = nbformat.read(notebook, as_version=4)
    for output, figure in figures(page, folder):
        output["data"].pop("image/png", None)
        output["data"]["text/html"] = image(figure)
    for output in (output for cell in page.cells for output in cell.get("outputs", ())):
        if found := output.get("data", {}).get("image/png"):
            output["data"]["image/png"] = base64.b64encode(few_colours(base64.b64decode(found))).decode()
    write_atomic(notebook, nbformat.writes(page) + "\n")
    render(notebook)
