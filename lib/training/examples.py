"""Single test images of a network and what its attack does to them, as a picture for people.

The images that an attack broke are attacked again with the same random numbers, so that the outcomes that were
measured need not keep any picture.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from lib.attacks.pool import logits
from lib.attacks.search import break_images
from lib.files import save_tensors, write_atomic
from lib.training.ready import ready
from lib.training.zoo import SEED, Zoo
from lib.values.attacks import Attack
from lib.values.cell import Cell
from lib.values.data import CLASS_NAMES
from lib.values.keys import digest
from lib.values.recipe import outcome_key
from lib.values.threats import Threat

if TYPE_CHECKING:
    import pandas as pd

MOST = 24  # images of a network
NETWORKS = 6  # in a picture
LARGEST = 190_000  # bytes of a picture that is not compressed; the file is smaller
SIDE = 64  # pixels: larger images are shown in steps of several pixels


def measure_of(cell: Cell, verify: Attack | None) -> tuple[Threat, Attack] | None:
    """The threat and the attack of a network's pictures: `verify` where it was measured, else the first attack; None
    for a network that was not attacked.
    """
    attacks = [(threat, how) for threat, how in cell.measures if isinstance(how, Attack)]
    return next((pair for pair in attacks if pair[1] == verify), attacks[0] if attacks else None)


def choose(table: pd.DataFrame, count: int) -> list[int]:
    """Positions of at most `count` rows of `Outcomes.table`: half of them broken by the attack, a quarter misclassified
    without it and a quarter that stand, in this order; images of the first kinds take places that are left.
    """
    kinds = table.clean & ~table.robust, ~table.clean, table.robust
    groups = [np.flatnonzero(kind).tolist() for kind in kinds]
    places = [count // 2, count // 4, count - count // 2 - count // 4]
    left = count - sum(min(len(group), most) for group, most in zip(groups, places, strict=True))
    chosen = []
    for group, most in zip(groups, places, strict=True):
        more = min(left, max(0, len(group) - most))
        left -= more
        chosen += group[:most + more]
    return chosen


def examples(zoo: Zoo, cell: Cell, threat: Threat, attack: Attack, count: int) -> tuple[pd.DataFrame, Tensor]:
    """At most `count` test images of a network, its failures first, from the store if they were made before.

    Returns a row per image with columns index (position in the official split), label, prediction, attacked (the
    prediction after the attack, -1 without a perturbation that breaks it) and broken_by (as in `Outcomes`); and the
    images and their perturbations, float32 [n, 2, C, H, W] with images in [0, 1]. Images that were not broken have a
    perturbation of 0.
    """
    recipe = cell.recipe
    outcomes = zoo.outcomes(recipe, threat, attack).table
    positions = choose(outcomes, count)

    def make(work: Path) -> dict:
        net, images, batch = ready(zoo.obtain(recipe).net, zoo.images(recipe.data, "test").take(positions), None,
                                   threat.box)
        pixels, labels = images.pixels(), images.labels
        rows = outcomes.iloc[positions]
        broken = torch.as_tensor((rows.clean & ~rows.robust).tolist(), device=labels.device).nonzero().squeeze(1)
        moved = pixels.clone()
        moved[broken] = break_images(net, pixels[broken], labels[broken], threat, attack, images.indices[broken], SEED,
                                     batch_size=batch, precision=recipe.precision).adversarial
        with torch.no_grad():
            said, after = (logits(net, x, batch).argmax(1).cpu().numpy() for x in (pixels, moved))
        attacked = np.where(after != rows["label"], after, -1)
        attacked[~(rows.clean & ~rows.robust).to_numpy()] = -1
        table = rows[["index", "label", "broken_by"]].assign(prediction=said, attacked=attacked)
        save_tensors(work / "data.safetensors", {"tiles": torch.stack([pixels, moved - pixels], 1).cpu()})
        write_atomic(work / "table.csv", table.to_csv(index=False))
        return {"network": recipe.key, "what": f"pictures of {attack.title} on {recipe.describe()}"}

    entry = zoo.store.obtain("examples", digest([outcome_key(recipe, threat, attack), positions]), make)
    table = entry.table()
    return table.assign(broken_by=table["broken_by"].fillna("")).astype({"broken_by": str}), entry.tensors()["tiles"]


def strip(zoo: Zoo, cells: Sequence[tuple[str, Cell]], verify: Attack | None) -> tuple[bytes, pd.DataFrame] | None:
    """A picture of test images of the first NETWORKS networks with the perturbations that break them, as a PNG of less
    than 200 kB, and its table; None if no network was attacked on images. cells: each with its name.

    An image and, right of it, its perturbation around mid-grey, amplified, are a row of the picture. Columns of the
    table: what (the network's name), key, data, images (tested), clean and robust (accuracies), threat, eps, attack,
    amplified (the factor, one for each network), index, label, prediction, attacked and broken_by (see `examples`;
    classes as words where the data have them), and top, width and height of the image in the picture, in pixels.
    """
    import pandas as pd

    attacked = [(name, cell, pair) for name, cell in cells if (pair := measure_of(cell, verify))
                and not cell.recipe.data.info.closed][:NETWORKS]
    if not attacked:
        return None
    count = LARGEST // sum(2 * _bytes(cell) for _, cell, _ in attacked)
    pictures, tables, top = [], [], 0
    for name, cell, (threat, attack) in attacked:
        rows, tiles = examples(zoo, cell, threat, attack, min(MOST, max(1, count)))
        step = _step(cell)
        tiles = tiles[..., ::step, ::step]
        largest = float(tiles[:, 1].abs().max())
        factor = max(1, int(0.5 / largest)) if largest else 1
        shown = torch.stack([tiles[:, 0], 0.5 + factor * tiles[:, 1]], 1).clamp(0, 1)
        n, _, _, height, width = shown.shape
        pictures.append(shown.permute(0, 3, 1, 4, 2).reshape(n * height, 2 * width, -1))  # [rows, columns, C]
        outcomes = zoo.outcomes(cell.recipe, threat, attack)
        names = dict(enumerate(CLASS_NAMES.get(cell.recipe.data.name, ())))
        tables.append(pd.DataFrame({
            "what": name, "key": cell.recipe.key, "data": cell.recipe.data.name, "images": len(outcomes.table),
            "clean": outcomes.accuracy("clean"), "robust": outcomes.accuracy("robust"), "threat": threat.norm,
            "eps": str(threat.eps), "attack": attack.title, "amplified": factor, "index": rows["index"],
            **{one: [names.get(value, value) if value >= 0 else "" for value in rows[one]]
               for one in ("label", "prediction", "attacked")},
            "broken_by": rows["broken_by"], "top": top + height * np.arange(n), "width": width, "height": height}))
        top += n * height
    return _png(pictures), pd.concat(tables, ignore_index=True)


def _step(cell: Cell) -> int:
    """Of how many pixels one is shown, in each direction."""
    return -(-max(cell.recipe.data.shape[1:]) // SIDE)


def _bytes(cell: Cell) -> int:
    """The size of an image in the picture."""
    channels, height, width = cell.recipe.data.shape
    step = _step(cell)
    return channels * -(-height // step) * -(-width // step)


def _png(pictures: Sequence[Tensor]) -> bytes:
    """Pictures [rows, columns, C] with values in [0, 1] below one another, in grey if all are grey."""
    from PIL import Image

    channels, width = (max(one.shape[axis] for one in pictures) for axis in (2, 1))
    sheet = np.concatenate([np.pad((one.numpy() * 255).round().astype(np.uint8).repeat(channels // one.shape[2], 2),
                                   ((0, 0), (0, width - one.shape[1]), (0, 0))) for one in pictures])
    found = io.BytesIO()
    Image.fromarray(sheet.squeeze(2) if channels == 1 else sheet).save(found, "PNG", optimize=True)
    return found.getvalue()
