"""What the page says and draws about each lens, in a reader's words."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import pandas as pd

from lib.lenses.alignment import NEAREST, SCORE, SHARE
from lib.lenses.lens import NORMAL, ROBUST, SUBJECT, TWIN
from lib.lenses.manifold import ALONG, MATCHED, OFF, RATIO
from lib.lenses.prunability import KEPT, NUMBER, PRUNED, WHOLE
from lib.lenses.prunability import SHARE as SAME_SHARE
from lib.lenses.similarity import TO, WITHIN
from lib.lenses.stitching import MATCHED as FITTED
from lib.lenses.stitching import MEASURE, TRAINED
from lib.site.words import marks, number

WIDTH = 240  # of a drawing, in its own units
RATIOS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 10, 20, 50, 100)  # that an axis may mark
LANES = {SUBJECT: "", TWIN: "its untrained twin", NORMAL: "normal references", ROBUST: "robust references"}


@dataclass(frozen=True)
class Line:
    """A measure that is drawn with all networks on one axis. what: in a reader's words. scale: "share" (percent),
    "number", or "ratio" (a logarithm, shown as the ratio). at, against: of which rows ("": any). ends: what the axis
    contains in any case; empty for values that lie close together.
    """

    measure: str
    what: str
    scale: str = "number"
    at: str = ""
    against: str = ""
    ends: tuple[float, ...] = (0.0,)

    def rows(self, rows: pd.DataFrame) -> pd.DataFrame:
        """One row for each network that has a value."""
        found = rows[(rows["measure"] == self.measure) & rows["value"].notna()]
        for name in ("at", "against"):
            if wanted := getattr(self, name):
                found = found[found[name] == wanted]
        return found.drop_duplicates("network")

    def text(self, value: float) -> str:
        """A value: '63 %', '0.123', '1.20 ×'."""
        if not math.isfinite(value):
            return number(None)
        told = {"share": f"{100 * value:z.0f} %", "ratio": f"{math.exp(value):.2f} ×"}.get(self.scale)
        return (told or f"{value:z.2f}").replace("-", "−")

    def interval(self, low: float, high: float) -> str:
        """Bounds in the unit of `text`, without it: '[58, 68]'; "" if there are none."""
        if not (math.isfinite(low) and math.isfinite(high)):
            return ""
        return "[" + ", ".join(self.text(bound).rstrip(" %×") for bound in (low, high)) + "]"


@dataclass(frozen=True)
class View:
    """A lens on the page. asks: its question. how: how it is answered. lines: the first one stands at the top."""

    asks: str
    how: str
    lines: tuple[Line, ...]


_STITCHED, _FITTED = (MEASURE.replace("{way}", way) for way in (TRAINED, FITTED))
VIEWS = {
    "accuracy": View(
        "How often is the network right, and how often does it stay right when images are changed to fool it?",
        "Each image may be changed, in every pixel or in length, by at most eps. APGD looks for such a change with the "
        "network's gradients, Square without them; where Square finds more, the gradients mislead, and the robust "
        "accuracy is too high. An untrained twin often gives every image the same answer, which no attack changes: the "
        "accuracy of chance under attack is no robustness.",
        (Line("robust", "accuracy under attack with gradients", "share", ends=(0.0, 1.0)),
         Line("clean", "accuracy on clean images", "share", ends=(0.0, 1.0)),
         Line("robust without gradients", "accuracy under attack without gradients", "share", ends=(0.0, 1.0)))),
    "stitching": View(
        "Does the network's front work with the end of a reference, and its end on a reference's front?",
        "Front and end are joined by an affine map of channels while both halves stay as they are. With the robust "
        "reference it is trained on attacked images, with the normal one only fitted to activations. Even an untrained "
        "front reaches much with a good end, so compare each network with its untrained twin and with the other robust "
        "references.",
        (Line(_STITCHED.format(verdict="robust", half="front", other="end"),
              "accuracy under attack of its front with the end of robust reference R0", "share", against="R0"),
         Line(_STITCHED.format(verdict="robust", half="end", other="front"),
              "accuracy under attack of its end on the front of R0", "share", against="R0"),
         Line(_FITTED.format(verdict="clean", half="front", other="end"),
              "accuracy on clean images of its front with the end of normal reference N0", "share", against="N0"),
         Line(_FITTED.format(verdict="clean", half="end", other="front"),
              "accuracy on clean images of its end on the front of N0", "share", against="N0"))),
    "similarity": View(
        "Do the network's layers resemble one another, and those of the references?",
        "CKA compares what two layers say about the same images: 1 if one is the other turned and scaled, near 0 if "
        "they share nothing. Up to ten layers are taken, evenly spread over the operations. In robust networks "
        "different layers resemble one another more than in normal ones. With a reference, each layer is paired with "
        "the one that fits best; this favours every network, so what counts is how far the network exceeds its "
        "untrained twin.",
        (Line(WITHIN.format("cka"), "mean CKA of different layers of the network", ends=()),
         Line(TO.format("cka"), "mean CKA with reference N0", against="N0", ends=()),
         Line(TO.format("cka"), "mean CKA with reference R0", against="R0", ends=()))),
    "alignment": View(
        "Do the network's gradients point to where images of a class lie, as a person would see it?",
        "A gradient of a class says which change of the image raises that class most. It is compared with pictures of "
        "the class that were made without the network: the class score of a denoiser, which points to where images of "
        "the class are more likely, and the nearest training image of the class. From each cosine we subtract the "
        "cosine with another image's pictures. Two denoisers, trained with different seeds, show how much agreement is "
        "possible.",
        (Line(SHARE, "alignment with class scores, as a share of what two denoisers agree on", "share"),
         Line("cosine of the image's class, minus another image's", "cosine with class scores beyond another image's",
              against=SCORE),
         Line("cosine of the image's class, minus another image's",
              "cosine with nearest neighbours beyond another image's", against=NEAREST))),
    "manifold": View(
        "Does the network heed changes along the images' manifold more than changes that lead off it?",
        "Steps of equal length are taken from each image: along the directions in which its nearest training images "
        "differ (the manifold), and at right angles to them. We compare how far they move the margin, by which the "
        "logit of the predicted class exceeds the best other one. A ratio below 1 means that the network heeds the "
        "manifold more. Steps along it are also smoother, so the second line takes steps off it that are as smooth, "
        "where there are such steps.",
        (Line(RATIO.format(OFF, ALONG), "change of the margin, off the manifold over along it", "ratio", at="long"),
         Line(RATIO.format(MATCHED, ALONG), "the same with equally smooth steps off the manifold", "ratio",
              at="long"))),
    "prunability": View(
        "How much of its accuracy does the network keep when most of its weights are removed?",
        "Most weights of each convolution and linear layer are set to zero for good, and the others are trained for a "
        "few epochs on attacked images. What is kept is a share of what the same network has with all its weights "
        "after the same fine-tuning. A large network has more weights to spare, so it is also pruned to as many as the "
        "references have left. Fine-tuning alone gives some accuracy: see the untrained twin. Intervals are over the "
        "images; another training of the same network would differ, too.",
        (Line(KEPT.format(verdict="robust", way=SAME_SHARE),
              "accuracy under attack that is kept with as large a share of the weights as references keep", "share",
              ends=(0.0, 1.0)),
         Line(KEPT.format(verdict="robust", way=NUMBER),
              "accuracy under attack that is kept with as many weights as references keep", "share", ends=(0.0, 1.0)),
         Line(KEPT.format(verdict="clean", way=SAME_SHARE),
              "accuracy on clean images that is kept with as large a share of the weights", "share", ends=(0.0, 1.0)),
         Line(WHOLE.format(verdict="robust"), "accuracy under attack, unpruned after the same fine-tuning", "share",
              ends=(0.0, 1.0)),
         Line(PRUNED.format(verdict="robust", way=SAME_SHARE),
              "accuracy under attack, pruned to as large a share of the weights", "share", ends=(0.0, 1.0)))),
}


def view_of(lens, rows: pd.DataFrame) -> View:
    """The view of a lens; of one without its own, the first measure that all networks have."""
    if lens.name in VIEWS:
        return VIEWS[lens.name]
    for measure in dict.fromkeys(rows["measure"]):
        line = Line(measure, measure)
        if {*line.rows(rows)["network"]} == {*rows["network"]}:
            return View("", "", (line,))
    return View("", "", ())


def drawn(line: Line, tables: list[pd.DataFrame], grouped: bool) -> dict | None:
    """A line as the template draws it: {what, lanes: [{name, kind, points: [{low, value, high}], said}], axis: [(place,
    text)], null}; None without a value of a subject. tables: the rows of each subject. grouped: references of one kind
    share a lane.
    """
    found = pd.concat([line.rows(table) for table in tables]).drop_duplicates(["network", "key"])
    if SUBJECT not in {*found["role"]}:
        return None
    bounds = found[["value", "low", "high"]]
    least, most = min(*line.ends, *bounds.min()), max(*line.ends, *bounds.max())
    room = (most - least or 1) * 0.06

    def place(value: float) -> float:
        return round((value - least + room) / (most - least + 2 * room) * WIDTH, 1)

    found = found.assign(order=found["role"].map([*LANES].index)).sort_values("order", kind="stable")
    lanes: dict[str, list] = {}
    for one in found.itertuples():
        several = grouped and one.role in (NORMAL, ROBUST)
        name = LANES[one.role] if several or one.role == TWIN and len(tables) == 1 else one.network
        lanes.setdefault(name, []).append(one)
    said = []
    for name, some in lanes.items():
        points = [{"value": place(one.value)} | (
            {"low": place(one.low), "high": place(one.high)} if math.isfinite(one.low) else {}) for one in some]
        low, high = (line.text(end) for end in (min(one.value for one in some), max(one.value for one in some)))
        span = low if low == high else f"{low.rstrip(' %×')} to {high}"
        text = f"{low} {line.interval(some[0].low, some[0].high)}".strip() if len(some) == 1 else span
        said.append({"name": name, "kind": some[0].role.split()[0], "points": points, "said": text})
    zero = least < 0 < most or line.scale == "ratio"
    return {"what": line.what, "lanes": said, "null": place(0.0) if zero else None,
            "axis": [(round(100 * place(mark) / WIDTH, 1), text) for mark, text in _axis(line, least, most)]}


def _axis(line: Line, least: float, most: float) -> list[tuple[float, str]]:
    """(value, text) of the marks of an axis."""
    if line.scale != "ratio":
        return [(mark, f"{100 * mark:.3g} %" if line.scale == "share" else f"{mark:.3g}".replace("-", "−"))
                for mark in marks(least, most)]
    known = [one for one in RATIOS if least <= math.log(one) <= most]
    apart = -(-len(known) // 5)
    return [(math.log(one), f"{one:g} ×") for one in known[::-1][::apart][::-1]]


def pairs(lines: tuple[Line, ...], tables: dict[str, pd.DataFrame]) -> dict[tuple[str, str], list[dict]]:
    """{names of two subjects: a row for each line that has both: {what, values, said}}, where `said` is what their
    bounds allow to say.
    """
    found = {}
    for first, second in itertools.combinations(tables, 2):
        rows = []
        for line in lines:
            both = [line.rows(tables[name][tables[name]["role"] == SUBJECT]) for name in (first, second)]
            if all(len(one) for one in both):
                a, b = (one.iloc[0] for one in both)
                said = "they overlap" if math.isfinite(a["low"] + b["low"]) else "there are none"
                if a["low"] > b["high"] or b["low"] > a["high"]:
                    said = f"{first if a['value'] > b['value'] else second} has more"
                values = [f"{line.text(one['value'])} {line.interval(one['low'], one['high'])}" for one in (a, b)]
                rows.append({"what": line.what, "values": values, "said": said})
        if rows:
            found[first, second] = rows
    return found
