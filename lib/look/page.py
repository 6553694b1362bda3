"""The files of a report: the page, the rows as a table, the figures, and what was measured as JSON."""

from __future__ import annotations

import base64
import io
import json
import shutil
import time

import pandas as pd

from lib.files import write_atomic
from lib.lenses.lens import SUBJECT, Lens, Pool
from lib.lenses.subject import Subject
from lib.look.figures import figures
from lib.look.report import Report
from lib.look.views import drawn, pairs, view_of
from lib.plots.titles import strength
from lib.runtime import provenance
from lib.site.pictures import SHOWN
from lib.site.words import template
from lib.training import price
from lib.values.keys import plain
from lib.values.recipe import Recipe

DOTS = 150  # of a figure, per inch


def write(report: Report) -> None:
    """Write `report.html`, `rows.csv`, `report.json` and figures/*.png into the report's folder."""
    import matplotlib.pyplot as plt

    folder, pictures = report.asked.folder, {}
    shutil.rmtree(folder / "figures", ignore_errors=True)  # of an earlier look under the same name
    for name, (lens, figure) in figures(report).items():
        data = io.BytesIO()
        figure.savefig(data, dpi=DOTS, bbox_inches="tight", metadata={"Description": figure.description}, format="png")
        plt.close(figure)
        report.figures.append(folder / "figures" / f"{name}.png")
        write_atomic(report.figures[-1], data.getvalue())
        pictures.setdefault(lens, []).append(_picture(report.figures[-1].stem, data, figure.description))
    write_atomic(folder / "rows.csv", report.rows.to_csv(index=False))
    about = described(report)
    write_atomic(folder / "report.json", json.dumps(about, indent=1, ensure_ascii=False))
    write_atomic(report.page, template("look.html.j2").render(
        about=about, lenses=[_lens(report, lens, pictures.get(lens.name, [])) for lens in report.asked.lenses],
        left=report.asked.left, failures=report.failures, several=len(report.asked.subjects) > 1,
        eps=strength(report.asked.pool.threat.eps),
        doubts=[(name, sentence) for name, notes in report.notes.items() for sentence in notes],
        **{role: [name for name in report.asked.pool.recipes if name[0] == kind]
           for kind, role in (("N", "normal"), ("R", "robust"))}))


def _picture(name: str, data: io.BytesIO, shows: str) -> dict:
    from PIL import Image

    with Image.open(data) as image:
        width, height = (round(size * SHOWN) for size in image.size)
    return {"name": name, "shows": shows, "caption": shows.partition(". ")[2], "width": width, "height": height,
            "data": base64.b64encode(data.getvalue()).decode()}


def described(report: Report) -> dict:
    """What was measured and how, as JSON types."""
    asked, pool = report.asked, report.asked.pool
    return {
        "name": asked.folder.name,
        "subjects": [{"name": one.name, "key": one.key, "normaliser": _normaliser(one), "layers": list(one.layers),
                      "parameters": sum(p.numel() for p in one.net.parameters()), "note": one.note,
                      "note on its twin": one.twin.note} for one in asked.subjects],
        "profile": asked.profile, "first seed": pool.seed(0), "data": pool.data.name, "images": asked.count,
        "threat": plain(pool.threat), "lenses": {lens.name: plain(lens) for lens in asked.lenses},
        "sentences": report.sentences(), "left out": list(asked.left),
        "failures": [{"lens": one.lens.name, "subject": one.subject, "error": one.sentence, "trace": one.trace}
                     for one in report.failures],
        "notes": report.notes,
        "trained": [_trained(name, recipe, pool) for name, recipe in asked.recipes.items()],
        "seconds": {name: {"in this call": here, "of its measurements when they were made": stored}
                    for name, (here, stored) in report.seconds.items()},
        "command": report.command, "made": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        **provenance(pool.zoo.device),
    }


def _trained(name: str, recipe: Recipe, pool: Pool) -> dict:
    """What a network that subjects are compared with was trained on, and what that cost where it was trained."""
    entry = pool.zoo.store.load("network", recipe.key)
    meta = entry.meta if entry else {}
    attack = getattr(recipe.objective, "attack", None)
    how = f"on images changed by {attack.title}" if attack else "on clean images"
    if recipe.arch.gives != "classes":
        how = "to remove noise, given the class"
    return {"network": name, "key": recipe.key, "architecture": recipe.arch.name, "data": recipe.data.name,
            "training images": recipe.data.n_train, "training": "again, " * bool(recipe.parents) + how,
            "epochs": recipe.epochs, "FLOPs": price.training(recipe), "seconds": meta.get("seconds"),
            "device": meta.get("device")}


def _normaliser(subject: Subject) -> str:
    if subject.normalise is None:
        return "inside the network"
    mean, std = (", ".join(f"{number:.4g}" for number in numbers.flatten().tolist())
                 for numbers in (subject.normalise.mean, subject.normalise.std))
    return f"mean {mean}, standard deviation {std}"


def _lens(report: Report, lens: Lens, pictures: list[dict]) -> dict:
    """A lens as the page shows it."""
    seen = [one for one in report.seen if one.lens is lens]
    tables = {one.subject.name: one.rows for one in seen}
    every = pd.concat(tables.values()) if seen else None
    view = view_of(lens, every) if seen else None
    lines = [line for line in view.lines if drawn(line, list(tables.values()), True)] if seen else []
    protocols = list(dict.fromkeys(every.loc[every["role"] == SUBJECT, "protocol"])) if seen else []
    return {
        "name": lens.name, "title": lens.title, "sentences": [one.sentence for one in seen], "view": view,
        "first": drawn(lines[0], list(tables.values()), True) if lines else None,
        "lines": [drawn(line, list(tables.values()), False) for line in lines], "pictures": pictures,
        "pairs": pairs(lines, tables),
        "protocols": protocols, "seconds": report.seconds.get(lens.name, (0.0, 0.0)),
        "failures": [one for one in report.failures if one.lens is lens],
    }
