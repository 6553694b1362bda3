"""Make a notebook's results small enough for version control."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

from lib.files import write_atomic
from lib.site.page import render

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
    # a palette that covers all colours, not only frequent ones: thin lines and small dots keep theirs
    found = image.quantize(256, method=Image.Quantize.MAXCOVERAGE, kmeans=3, dither=Image.Dither.NONE)
    moves = np.abs(np.asarray(found.convert("RGB"), int) - np.asarray(image, int)).max(-1)
    kept = found if moves.max() <= FURTHEST and np.sqrt((moves**2).mean()) <= SPREAD else image
    buffer = io.BytesIO()
    kept.save(buffer, "PNG", optimize=True, **({"dpi": image.info["dpi"]} if "dpi" in image.info else {}))
    return min(png, buffer.getvalue(), key=len)


def shrink(folder: Path) -> None:
    """Make the results of one notebook small, in place: reduce figures and the notebook's pictures to few colours
    (`few_colours`), drop each SVG that is larger than its PNG, and make the page again. Texts, tables and numbers do
    not change, nor does a folder that is already small.
    """
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
    page = json.loads(notebook.read_text(encoding="utf-8"))
    for output in (o for cell in page["cells"] for o in cell.get("outputs", ())):
        if found := output.get("data", {}).get("image/png"):
            small = few_colours(base64.b64decode("".join(found)))
            output["data"]["image/png"] = base64.b64encode(small).decode()
    write_atomic(notebook, json.dumps(page, indent=1, ensure_ascii=False))
    render(notebook)
