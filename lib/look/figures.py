"""The figures of a report: curves of accuracy, maps and depths of similarity, gradients, octaves of frequency."""

from __future__ import annotations

import textwrap
from itertools import cycle

import numpy as np
import pandas as pd

from lib.lenses.lens import NORMAL, ROBUST, SUBJECT, TWIN
from lib.lenses.manifold import RATIO, WHITE, octave_names
from lib.lenses.prunability import NUMBER, PRUNED, SHARE, WHOLE
from lib.look.report import Failure, Report
from lib.plots.common import as_picture, show_picture, signed
from lib.plots.maps import draw_map
from lib.plots.style import CLEAN, GREY, style
from lib.plots.style import ROBUST as RED
from lib.plots.titles import entitle, strength

OWN = ("#1a1a1a", "#7b3294", "#00664f", "#a6761d")  # of subjects, in turn
LOOKS = {TWIN: (GREY, ":", "untrained twin"), NORMAL: (CLEAN, "--", "normal references"),
         ROBUST: (RED, "-.", "robust references")}
NARROW = 6.4  # inches: narrower than notebooks, so that a phone shows letters
SHOWN = 5  # images whose gradients are shown


def figures(report: Report) -> dict[str, tuple[str, object]]:
    """{name of the figure: (name of the lens, matplotlib figure with a `description`)}. What cannot be drawn is added
    to the report's failures.
    """
    found = {}
    for lens in report.asked.lenses:
        tables = {one.subject.name: one.rows for one in report.seen if one.lens is lens}
        try:
            drawn = DRAWN[lens.name](tables, report) if tables and lens.name in DRAWN else {}
            found |= {title: (lens.name, figure) for title, figure in drawn.items()}
        except Exception as error:  # no figure is worth the numbers of the others
            report.failures.append(Failure.of(lens, f"figures of {', '.join(tables)}", error))
    return found


def _lines(axis, tables: dict[str, pd.DataFrame], chosen, label: bool = True) -> None:
    """A line for each network through the rows that `chosen` gives of it (columns place, value, low, high), in the
    order of their places; bounds of subjects are shaded.
    """
    every = pd.concat(tables.values()).drop_duplicates(["network", "measure", "against", "at"])
    seen, colours = set(), cycle(OWN)
    for role in (NORMAL, ROBUST, TWIN, SUBJECT):
        for name, rows in every[every["role"] == role].groupby("network", sort=False):
            rows = chosen(rows).dropna(subset=["value"]).sort_values("place")
            if role == SUBJECT:
                colour, line, told, wide = next(colours), "-", name, 2.2
                axis.fill_between(rows["place"], rows["low"], rows["high"], color=colour, alpha=0.12, linewidth=0)
            else:
                (colour, line, told), wide = LOOKS[role], 1.3
            axis.plot(rows["place"], rows["value"], line, color=colour, linewidth=wide, marker="o", markersize=3,
                      label=told if label and told not in seen else None)
            seen.add(told)


def accuracy(tables: dict[str, pd.DataFrame], report: Report) -> dict:
    """Accuracy against eps."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import PercentFormatter

    threat = report.asked.pool.threat
    style()
    figure, axis = plt.subplots(figsize=(NARROW, 3.6), layout="constrained")
    _lines(axis, tables, lambda rows: rows[rows["measure"].isin(["robust at eps"]) | (rows["measure"] == "clean")])
    axis.axvline(float(threat.eps), color="#999999", linewidth=0.8)
    axis.annotate("the references' eps", (float(threat.eps), 1), (3, 3), "data", "offset points", fontsize=9,
                  color="#555555", annotation_clip=False)
    axis.set_xlabel(f"eps, the largest change in {threat.norm} (0: clean images)")
    axis.set_ylabel("accuracy")
    axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axis.set_ylim(-0.02, 1.02)
    axis.legend(frameon=False, fontsize=9)
    eps = strength(threat.eps)
    said = [f"{name}: {_at(rows, eps=float(threat.eps)):.0%}" for name, rows in tables.items()]
    return {"accuracy_over_eps": entitle(
        figure, f"Accuracy under PGD as the allowed change grows (at eps {eps}, {', '.join(said)})",
        "Accuracy against eps, a line for each network; shaded: the 95 % interval over the images.")}


def _at(rows: pd.DataFrame, eps: float) -> float:
    own = rows[(rows["role"] == SUBJECT) & (rows["measure"] == "robust at eps")]
    return float(own["value"].iloc[int((own["place"] - eps).abs().argmin())])


def similarity(tables: dict[str, pd.DataFrame], report: Report) -> dict:
    """Maps of every subject's own layers next to a normal and a robust reference's, and similarity by depth."""
    found = {}
    for number, (name, rows) in enumerate(tables.items(), 1):
        end = f"_{number}" * (len(tables) > 1)
        found[f"similarity_maps{end}"] = _maps(name, rows)
        found[f"similarity_by_depth{end}"] = _depths(name, rows)
    return found


def _maps(name: str, rows: pd.DataFrame):
    import matplotlib.pyplot as plt

    rows = rows[rows["measure"] == "cka of two layers"]
    names = [name, f"{name}, untrained", "N0", "R0"]
    style()
    figure, axes = plt.subplots(2, 2, figsize=(NARROW, 6.0), layout="constrained")
    for axis, one in zip(axes.flat, names, strict=True):
        own = rows[rows["network"] == one]
        layers = list(dict.fromkeys(own["at"]))
        values = own["value"].to_numpy(float).reshape(len(layers), len(layers))
        image = draw_map(axis, values, "CKA")
        shares = own.drop_duplicates("at")["place"]
        ticks = sorted({0, len(layers) // 2, len(layers) - 1})
        for way in "xy":
            getattr(axis, f"set_{way}ticks")(ticks, [f"{shares.iloc[tick]:.0%}" for tick in ticks], fontsize=9)
        axis.set_title({"N0": "N0, normal", "R0": "R0, robust"}.get(one, one), loc="left", fontsize=9.5)
    figure.colorbar(image, ax=axes, pad=0.02, shrink=0.5).set_label("CKA")
    figure.supxlabel("layers, by the share of the network's operations up to them", fontsize=10)
    return entitle(figure, f"How much different layers of one network resemble each other: {name} and references",
                   "Maps of CKA from 0 to 1 of every pair of layers of one network, first layers at the lower left.")


def _depths(name: str, rows: pd.DataFrame):
    import matplotlib.pyplot as plt

    rows = rows[rows["measure"] == "cka along the best order of depths"]
    kinds = {"N": "with normal references", "R": "with robust references"}
    style()
    figure, axes = plt.subplots(1, 2, figsize=(NARROW + 0.8, 3.4), sharey=True, layout="constrained")
    means = {}
    for axis, (kind, told) in zip(axes, kinds.items(), strict=True):
        for role, colour, line in ((SUBJECT, OWN[0], "-"), (TWIN, GREY, ":")):
            own = rows[(rows["role"] == role) & rows["against"].str.startswith(kind)]
            for number, (_, one) in enumerate(own.groupby(own["against"].str.split(" ").str[0])):
                axis.plot(one["place"], one["value"], line, color=colour, marker="o", markersize=3,
                          label=(name if role == SUBJECT else "its untrained twin") if not number else None)
            means[role, kind] = own["value"].mean()
        axis.set_title(told, loc="left", fontsize=10)
        axis.set_xlabel("layer, by the share of operations up to it")
        axis.xaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    axes[0].set_ylabel("CKA with the layer that fits best")
    axes[0].set_ylim(-0.02, 1.02)
    axes[0].legend(frameon=False, fontsize=9)
    said = " and ".join(f"{means[SUBJECT, kind]:.2f} {told}" for kind, told in kinds.items())
    return entitle(figure, f"Similarity of {name}'s layers to the references': on average {said}",
                   "CKA of each layer with the best-fitting layer of a reference, against depth, a line for each "
                   "reference; dotted lines: the untrained twin.")


def alignment(tables: dict[str, pd.DataFrame], report: Report) -> dict:
    """Gradients of the true class of a few test images, network by network."""
    import matplotlib.pyplot as plt
    import torch

    from lib.alignment.measures import class_gradients

    images, pool = report.asked.images.take(slice(0, SHOWN)), report.asked.pool
    subjects = [one.subject for one in report.seen if one.lens.name == "alignment"]
    networks = [*((one.name, one) for one in subjects), ("untrained twin", subjects[0].twin),
                *((f"{name}, {told}", pool.references[name]) for name, told in (("N0", "normal"), ("R0", "robust")))]
    style()
    figure, axes = plt.subplots(SHOWN, 1 + len(networks), figsize=(1.25 * (1 + len(networks)) + 0.2, 1.2 * SHOWN + 0.7),
                                squeeze=False, layout="constrained")
    x = images.pixels()
    for row, image in enumerate(x.cpu()):
        show_picture(axes[row, 0], as_picture(image))
    axes[0, 0].set_title("test image", fontsize=9)
    for column, (name, network) in enumerate(networks, 1):
        gradients = class_gradients(network.net, x)
        gradients = gradients - gradients.mean(1, keepdim=True)
        for row, label in enumerate(images.labels.tolist()):
            show_picture(axes[row, column], signed(torch.as_tensor(gradients[row, label]).cpu().numpy()))
        axes[0, column].set_title(textwrap.fill(name, 16), fontsize=9)
    return {"gradients": entitle(figure, "Gradients of the true class", (
        f"{SHOWN} test images, and for each network the gradient of the image's class with respect to the pixels: "
        "white where more brightness raises the class, black where less does, grey where nothing changes."))}


def manifold(tables: dict[str, pd.DataFrame], report: Report) -> dict:
    """The change of the margin by noise of each octave of frequency, over white noise."""
    import matplotlib.pyplot as plt

    bands = octave_names(report.asked.pool.data.shape)
    measures = {RATIO.format(band, WHITE): place for place, band in enumerate(bands)}

    def of_bands(rows: pd.DataFrame) -> pd.DataFrame:
        rows = rows[rows["measure"].isin(measures) & (rows["at"] == "long")]
        return rows.assign(place=rows["measure"].map(measures), **{
            name: np.exp(rows[name]) for name in ("value", "low", "high")})

    style()
    figure, axis = plt.subplots(figsize=(NARROW, 3.4), layout="constrained")
    _lines(axis, tables, of_bands)
    axis.axhline(1, color="#999999", linewidth=0.8)
    axis.set_xticks(range(len(bands)), [band.removesuffix(" cycles an image") for band in bands])
    axis.set_xlabel("frequency of the noise, in cycles an image (low: smooth, high: fine)")
    axis.set_ylabel("change of the margin\nover that by white noise")
    axis.legend(frameon=False, fontsize=9)
    peaks = []
    for name, rows in tables.items():
        own = of_bands(rows[rows["role"] == SUBJECT]).dropna(subset=["value"])
        if len(own):
            band = bands[int(own.loc[own["value"].idxmax(), "place"])]
            peaks.append(f"{name} at {band.removesuffix(' cycles an image')}")
    return {"frequencies": entitle(
        figure, f"Sensitivity to noise of each frequency, in cycles an image (highest: {', '.join(peaks)})",
        "The change of the margin by noise within an octave of spatial frequency, over that by white noise of the same "
        "length, a line for each network. Above 1: more sensitive to this frequency than to white noise.")}


def prunability(tables: dict[str, pd.DataFrame], report: Report) -> dict:
    """Clean and robust accuracy of each network, unpruned and pruned, after the same fine-tuning."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import PercentFormatter

    every = pd.concat(tables.values()).drop_duplicates(["network", "measure"])
    order = [*every["network"].unique()]
    order.sort(key=lambda name: [*LOOKS, SUBJECT][::-1].index(every.loc[every["network"] == name, "role"].iloc[0]))
    drawn = {WHOLE: ("o", "none", "unpruned"), PRUNED.replace("{way}", SHARE): ("o", None, "the same share of weights"),
             PRUNED.replace("{way}", NUMBER): ("D", None, "the same number of weights")}
    style()
    figure, axes = plt.subplots(1, 2, figsize=(NARROW + 0.8, 1.6 + 0.3 * len(order)), sharey=True, layout="constrained")
    for axis, verdict in zip(axes, ("clean", "robust"), strict=True):
        for place, name in enumerate(order):
            of_one = every[every["network"] == name]
            colour = LOOKS.get(of_one["role"].iloc[0], (OWN[0],))[0]
            values = of_one.set_index("measure")["value"].reindex([one.format(verdict=verdict) for one in drawn])
            if values.notna().any():
                axis.plot([values.min(), values.max()], [place, place], color=colour, linewidth=1, alpha=0.5)
            for value, (marker, face, _) in zip(values, drawn.values(), strict=True):
                axis.plot(value, place, marker, color=colour, markerfacecolor=face or colour, markersize=5)
        axis.set_title({"clean": "clean images", "robust": "under attack"}[verdict], loc="left", fontsize=10)
        axis.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axis.set_xlim(-0.02, 1.02)
        axis.set_xlabel("accuracy after fine-tuning")
    axes[0].set_yticks(range(len(order)), [textwrap.fill(name, 24) for name in order], fontsize=9)
    axes[0].invert_yaxis()
    for marker, face, told in drawn.values():
        axes[1].plot([], [], marker, color="#555555", markerfacecolor=face or "#555555", markersize=5, label=told)
    figure.legend(*axes[1].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    keep, said = "", []
    for name in tables:
        own = every[every["network"] == name].set_index("measure")
        whole, pruned = (own.loc[one.format(verdict="robust")] for one in list(drawn)[:2])
        keep = pruned["at"] or keep
        if np.isfinite(whole["value"] + pruned["value"]):
            said.append(f"{name}: {whole['value']:.0%} and {pruned['value']:.0%}")
    told = f" (under attack, {', '.join(said)})" if said else ""
    return {"accuracy_pruned": entitle(
        figure, f"Accuracy with all and with {keep} of the weights, after the same fine-tuning{told}",
        "Accuracy after fine-tuning, a row for each network: unpruned (hollow), pruned to the same share of its "
        "weights as the references (dot), and to the same number (diamond).")}


DRAWN = {"accuracy": accuracy, "similarity": similarity, "alignment": alignment, "manifold": manifold,
         "prunability": prunability}
