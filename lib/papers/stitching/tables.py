"""Tidy tables of the stitching notebook; lib.papers.stitching.figures draws some. Accuracies and shares are in [0, 1].
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from lib.papers.stitching.networks import CORE, DIRECT, EXTERNAL, MIXED, OTHER, STARTED
from lib.papers.stitching.results import Results
from lib.plots.titles import percent
from lib.runtime import ProgressBar
from lib.statistics import accuracy, without_missing
from lib.stitching.measures import (
    IMAGES,
    LIKENESS,
    agreement,
    comparable,
    endpoints,
    joint_likeness,
    predictions,
    relative_accuracy,
)
from lib.training.evaluation import columns
from lib.training.zoo import Zoo
from lib.values.attacks import Attack
from lib.values.cell import Cell
from lib.values.recipe import Recipe
from lib.values.threats import Threat

if TYPE_CHECKING:
    import pandas as pd


def describe(study) -> str:
    """Two lines on what a run compares: data, architecture and joints; threat, repetitions, and the numbers of cells
    and trained networks. study: the notebook's `lib.study.Study`.
    """
    s, n = study.section, study.networks
    data, test = n.data, study.zoo.images(n.data, "test")
    return (f"{data.name}: {data.n_train} training images, {data.holdout} held out, {len(test)} test images "
            f"(random, class-balanced, the same for every network); {n.arch}, cut after {', '.join(s.joints)}\n"
            f"threat: {n.threat.norm}, eps {n.threat.eps}; {s.seeds} repetitions of what C2 and C3 compare, {s.fewer} "
            f"of the rest; {len(study.cells)} cells, {len(study.keys)} trained networks in the plan")


def _here(m: Results) -> list[Cell]:
    """The measured cells of the setting of `m`, without the endpoints of other tasks, which are measured on other
    images.
    """
    data, here = m.networks.data.name, m.of(where=m.where)
    return [c for c in here if c.condition.role != "endpoint" or c.recipe.data.name == data]


def measured_at(cells: pd.DataFrame, place: str = "") -> pd.DataFrame:
    """The rows of the table of cells that were measured in the setting `place`; empty: the notebook's own."""
    return cells[cells["where"] == place] if "where" in cells else cells


def endpoint_accuracies(cells: pd.DataFrame) -> pd.DataFrame:
    """Accuracies of the networks that are stitched, over repetitions: a row per network (index pair), columns (mean,
    min or max; measure). NaN where a network was not measured under an attack. cells: as returned by `measured_at`.
    """
    return cells[cells.role == "endpoint"].pivot_table(index="pair", columns="measure", values="accuracy",
                                                      aggfunc=["mean", "min", "max"])


def clean_controls(cells: pd.DataFrame, joints: Sequence[str]) -> pd.DataFrame:
    """Clean accuracy of joints trained on clean images or only fitted, and of their controls, means over repetitions:
    columns role, pair, and each of `joints`, NaN where a control has no such joint. cells: as by `measured_at`.
    """
    core = (cells.measure == "clean") & (cells.alpha == 0) & cells.role.isin((*CORE, DIRECT))
    shown = cells[core & (cells.joint.fillna("") != "")]
    wide = shown.pivot_table(index=["role", "pair"], columns="joint", values="accuracy")
    return wide[list(joints)].reset_index()


def shares_of_endpoints(cells: pd.DataFrame, joints: Sequence[str]) -> pd.DataFrame:
    """Clean accuracy of the mixed pairs, their joints trained on clean images or only fitted, and its ratios to the
    accuracies of the weaker endpoint and of the end, of means over repetitions: columns pair, joint, role, clean, `of
    weaker`, `of end`. Rows follow the pair, then the order of `joints`. cells: as returned by `measured_at`.
    """
    import pandas as pd

    clean = cells[(cells.measure == "clean") & (cells.alpha == 0)].groupby(["role", "pair", "joint"], dropna=False)
    known = {(role, pair, joint if role != "endpoint" else ""): value
             for (role, pair, joint), value in clean.accuracy.mean().items()}
    rows = []
    for pair, joint, role in product(MIXED, joints, ("pair", DIRECT)):
        if (role, pair, joint) in known:
            accuracy, ends = known[role, pair, joint], [known["endpoint", kind, ""] for kind in pair.split("->")]
            shares = relative_accuracy(accuracy, *ends)
            rows.append({"pair": pair, "joint": joint, "role": role, "clean": accuracy, **shares})
    return pd.DataFrame(rows, columns=["pair", "joint", "role", "clean", "of weaker", "of end"])


def fitted_in_words(cells: pd.DataFrame, joint: str) -> str:
    """A sentence on the robust accuracy of N->R under the search attack after one joint, fitted or trained on clean
    images. cells: as returned by `measured_at`.
    """
    here = cells[(cells.pair == "N->R") & (cells.joint == joint) & (cells.alpha == 0) & (cells.measure == "search")]
    kept = {role: here.accuracy[here.role == role].dropna() for role in (DIRECT, "pair")}
    fitted, trained = (f"{percent(found.mean())} ({percent(found.min(), found.max())} over repetitions)"
                       if len(found) else "an accuracy that could not be measured" for found in kept.values())
    return (f"After {joint}, N→R keeps a robust accuracy of {fitted} with a joint that is only fitted, and of "
            f"{trained} with one trained on clean images. Neither joint has seen an adversarial image.")


def kinds_of_joints(cells: pd.DataFrame, joint: str) -> pd.DataFrame:
    """Accuracies of the mixed pairs at one joint, for every way to make the joint, means over repetitions: columns
    pair, role, alpha, joint_batchnorm and each measure, NaN where it was not measured. cells: as returned by
    `measured_at`.
    """
    controls = cells.role.isin(["untrained front", "untrained end", "linear probe"])
    shown = cells[(cells.joint == joint) & cells.pair.isin(MIXED) & ~controls]
    wide = shown.pivot_table(index=["pair", "role", "alpha", "joint_batchnorm"], columns="measure", values="accuracy",
                             sort=False)
    return wide.reset_index()


def against_controls(m: Results, joint: str):
    """Clean and robust accuracy, with 95 % intervals over images and repetitions, of every condition with alpha 1 at
    one joint and of the endpoints: columns what, measure (clean or robust), value, low, high, under (clean, search or
    verify).
    """
    import pandas as pd

    rows = []
    for condition in dict.fromkeys(c.condition for c in _here(m)):
        role, pair = condition.role, condition.pair
        if (role, pair) == ("endpoint", "U") or role != "endpoint" and (condition.joint, condition.alpha) != (joint, 1):
            continue
        name = f"{pair.replace('->', ' → ')} alone" if role == "endpoint" else pair.replace("->", " → ")
        strong = "verify" if all("verify" in m.outcomes[cell] for cell in m.of(condition)) else "search"
        for measure, which in (("clean", "clean"), ("robust", strong)):
            got = accuracy(without_missing(m.correct(condition, which)))
            rows.append({"what": name if role in ("endpoint", "pair") else f"{name}  ({role})", "measure": measure,
                         "value": got.value, "low": got.low, "high": got.high, "under": which})
    return pd.DataFrame(rows)


def mixed_cells(m: Results) -> list[Cell]:
    """The cells of the mixed pairs, in the notebook's own setting, whose joints were trained with alpha 0 or 1, only
    fitted, or trained from the fit.
    """
    return [cell for cell in m.of(where="") if cell.condition.role in ("pair", DIRECT, STARTED)
            and cell.condition.pair in MIXED and cell.condition.alpha in (0, 1)]


def accuracy_and_similarity(zoo: Zoo, m: Results, cells: Sequence[Cell] | None = None,
                            images: int = IMAGES) -> pd.DataFrame:
    """A row per stitched cell of `cells` (None: all that were measured). Columns: role, pair, joint, alpha, seed; clean
    and robust accuracy and their ratios to the endpoints' (`clean of end`, `clean of front`, `clean of weaker`, `robust
    of end` and so on); `agrees with end` and `agrees with front`, shares of the test images with the same prediction;
    `cka`, `cka before`, `cka shuffled` and `unexplained` on the first `images` test images (lib.stitching.measures);
    network (key).

    Robust accuracy is under the search attack, under which all networks were measured. A value is NaN if it would need
    a comparison with a network on other data, with another image shape, or with an endpoint that was not measured.
    """
    import pandas as pd

    rows, wanted = [], [c for c in (m.of() if cells is None else cells) if c.recipe.arch.stitched]
    with ProgressBar(len(wanted), "stitched networks", "network") as bar:
        for cell in wanted:
            rows.append({**_names(cell), **_relative(zoo, m, cell), **_agreements(zoo, cell.recipe),
                         **dict.fromkeys(LIKENESS, np.nan), "network": cell.recipe.key})
            if comparable(cell.recipe):
                rows[-1] |= joint_likeness(zoo, cell.recipe, images)
            bar.step(1)
    return pd.DataFrame(rows)


def mean_similarity(table: pd.DataFrame, joints: Sequence[str]) -> pd.DataFrame:
    """Means over repetitions of `accuracy_and_similarity`, for reading: columns role, pair, alpha, joint, accuracies
    and their ratios, agreements, similarities. Rows follow role (trained joints first), pair, alpha, and the order of
    `joints`.
    """
    keys, depth = ["role", "pair", "alpha", "joint"], {joint: k for k, joint in enumerate(joints)}
    numbers = ["clean", "clean of end", "clean of weaker", "robust", "robust of end", "agrees with end",
               "agrees with front", "cka before", "cka", "cka shuffled", "unexplained"]
    means = table.reindex(columns=[*keys, *numbers]).groupby(keys)[numbers].mean().reset_index()
    return means.sort_values(keys, key=lambda column: column.map(depth) if column.name == "joint" else column,
                             ascending=[False, True, True, True])


def _names(cell: Cell) -> dict:
    c = cell.condition
    return {**({"where": c.where} if c.where else {}), "role": c.role, "pair": c.pair, "joint": c.joint,
            "alpha": c.alpha, "seed": cell.repetition}


def _relative(zoo: Zoo, m: Results, cell: Cell) -> dict[str, float]:
    both = endpoints(cell.recipe)
    ends = [_accuracy(zoo, one) if one.data.name == cell.recipe.data.name else np.nan for one in both]
    clean = m.outcomes[cell]["clean"].accuracy()
    found = {"clean": clean, **{f"clean {name}": share for name, share in relative_accuracy(clean, *ends).items()}}
    data = cell.recipe.data.name
    measured = {c.recipe.key: m.outcomes[c]["search"].accuracy("robust") for c in m.of(role="endpoint")
                if c.recipe.data.name == data}
    robust = m.outcomes[cell]["search"].accuracy("robust")
    shares = relative_accuracy(robust, *(measured.get(one.key, np.nan) for one in both))
    return {**found, "robust": robust, **{f"robust {name}": share for name, share in shares.items()}}


def _accuracy(zoo: Zoo, recipe: Recipe) -> float:
    table = predictions(zoo, recipe)
    return float((table["predicted"] == table["label"]).mean())


def _agreements(zoo: Zoo, recipe: Recipe) -> dict[str, float]:
    own, found = predictions(zoo, recipe)["predicted"], {}
    for name, one in zip(("front", "end"), endpoints(recipe), strict=True):
        same = one.data.name == recipe.data.name
        found[f"agrees with {name}"] = agreement(own, predictions(zoo, one)["predicted"]) if same else np.nan
    return found


def transferred_cells(m: Results) -> list[Cell]:
    """The mixed pairs to which attacks are transferred: adversarially trained joints, the first middle and the last."""
    return [cell for cell in m.of(role="pair", alpha=1.0, where="") if cell.condition.pair in MIXED
            and cell.condition.joint in (m.section.middle[0], m.section.last)]


def transfers(zoo: Zoo, cells: Sequence[Cell], threat: Threat, attack: Attack) -> pd.DataFrame:
    """Attacks transferred from the endpoints to the stitched network. Columns: role, pair, joint, alpha, seed; source
    (front or end); robust, the share of test images that the stitched network classifies correctly both clean and
    perturbed by the attack on the source; robust of source, the same share for the source itself; network and source
    network (keys); warnings; the protocol. Endpoints trained on other data are not used as sources.
    """
    import pandas as pd

    rows, wanted = [], [c for c in cells if c.recipe.arch.stitched]
    with ProgressBar(2 * len(wanted), "transfers", "transfer") as bar:
        for cell in wanted:
            for name, source in zip(("front", "end"), endpoints(cell.recipe), strict=True):
                if source.data.name == cell.recipe.data.name:
                    found = zoo.transfer(source, cell.recipe, threat, attack)
                    own = columns({k: v for k, v in found.protocol.items() if k != "source"})
                    rows.append({**_names(cell), "source": name, "robust": found.accuracy("robust"),
                                 "robust of source": float(found.table["source_robust"].mean()),
                                 "network": cell.recipe.key, "source network": source.key,
                                 "warnings": "; ".join(found.warnings), **own})
                bar.step(1)
    return pd.DataFrame(rows)


def mean_transfers(table: pd.DataFrame) -> pd.DataFrame:
    """Means over repetitions of `transfers`: columns pair, joint, source, robust, robust of source."""
    keys, numbers = ["pair", "joint", "source"], ["robust", "robust of source"]
    return table.reindex(columns=[*keys, *numbers]).groupby(keys, sort=False)[numbers].mean().reset_index()


ENDS = ("pair", "untrained front", "untrained end", OTHER, EXTERNAL)


def matrix(m: Results, joint: str, roles: Sequence[str] = ENDS):
    """Every front with every end at one joint: columns front, end (empty for a network by itself), measure, accuracy,
    seed, under (which attack), as drawn by lib.papers.stitching.figures.stitching_matrix.

    Clean accuracy is of joints trained on clean images. Robust accuracy is of joints trained on adversarial images,
    under the stronger attack if it was measured. R2 and N2, networks of another repetition, appear as R and N. Networks
    of another task appear only as ends.
    """
    import pandas as pd

    rows = []
    for cell in _here(m):
        c, found = cell.condition, m.outcomes[cell]
        alone = c.role == "endpoint"
        if not alone and (c.role not in roles or c.joint != joint):
            continue
        front, _, end = c.pair.replace("N2", "N").replace("R2", "R").partition("->")
        strong = "verify" if "verify" in found else "search"
        for measure, which, alpha in (("clean", "clean", 0.0), ("robust", strong, 1.0)):
            if alone or c.alpha == alpha:
                rows.append({"front": front, "end": end, "measure": measure, "accuracy": found[which].accuracy(measure),
                             "seed": cell.repetition, "under": which})
    return pd.DataFrame(rows, columns=["front", "end", "measure", "accuracy", "seed", "under"])
