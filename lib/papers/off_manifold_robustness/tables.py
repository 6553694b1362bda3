"""Tidy tables of the notebook on off-manifold robustness. Accuracies and shares are in [0, 1]; seed counts repetitions
from 0.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pandas as pd

from lib.gradients.lpips import why_no_lpips
from lib.papers.off_manifold_robustness import reference
from lib.papers.off_manifold_robustness.letters import log_ratios
from lib.papers.off_manifold_robustness.networks import (
    MANIFOLD,
    NONE,
    PER_BATCH,
    PER_IMAGE,
    SCORE,
    STANDARD,
    UNTRAINED,
    SweepNetworks,
)
from lib.papers.off_manifold_robustness.published import ANTIALIASED, CARD
from lib.papers.off_manifold_robustness.results import COLUMNS, Results
from lib.papers.off_manifold_robustness.settings import OF_THE_LR
from lib.values.architectures import ImageNetResNet

MEASURES = ("accuracy", "training loss", "training accuracy")
# columns of `summary` that the notebook shows: changes along and off the manifold, and alignment with its controls
CHANGES = ("kind", "strength", *MEASURES, "on", "off", "other", "matched")
INSIDES = ("kind", "strength", "inside", "inside, PCA", "inside, local PCA", "inside, lowest frequencies",
           "inside, another image's")
ALIGNMENTS = ("kind", "strength", "alignment", "shuffled pairs", "white noise", "high-pass", "sum of logits",
              "sum of logits, shuffled pairs", "score, high-pass", "1 - LPIPS", "1 - LPIPS, shuffled pairs")


def describe(study) -> str:
    """Lines on what a run compares: repetitions and trained networks; data, architecture, epochs, tangent spaces, step
    lengths and strengths of every sweep; whether 1 - LPIPS is left out. study: the notebook's `lib.study.Study`.
    """
    lines = [f"{study.section.seeds} repetitions; {len(study.keys)} trained networks in the plan"]
    for sweep in study.section.sweeps:
        base = SweepNetworks(study.networks, sweep, study.settings.seed).base(0)
        sizes = " and ".join(f"{size:g}" for size in sweep.sizes)
        lines += ["", f"{sweep.name}: {base.data.n_train} examples to train on, {base.arch.name}, {base.epochs} "
                      f"epochs; tangent spaces: {', '.join(sweep.tangents)}; steps of length {sizes}, {sweep.draws} "
                      f"each on {sweep.images} test examples"]
        lines += [f"   {kind}: {', '.join(f'{strength:g}' for strength in strengths)}"
                  for kind, strengths in sweep.strengths.of.items()]
    if why_no_lpips():
        lines += ["", "1 − LPIPS is left out: AlexNet's weights are not at hand "
                      "(lib.gradients.lpips.why_no_lpips() says where they belong)"]
    return "\n".join(lines)


def networks(f: Results) -> pd.DataFrame:
    """A row per network of the sweeps, and per network of the distractor that failed. Columns: where, kind, strength
    (in units of the data's space), seed, the MEASURES, means over images of the COLUMNS (without `matched` where there
    is no such control) and of changes for every tangent space and length, diverged (why it failed, or empty), network
    (key). The training loss is of the last epoch and includes the penalty.
    """
    rows = []
    for cell in f.cells:
        c = cell.condition
        if c.kind in (MANIFOLD, SCORE) or cell in f.distractor:
            continue
        row = {"where": c.where, "kind": c.kind, "strength": c.strength, "seed": cell.repetition}
        if cell in f.outcomes:
            last = f.last_epoch.get(cell, {})
            row |= {"accuracy": f.measured(cell).accuracy(), "training loss": last.get("loss", np.nan),
                    "training accuracy": last.get("accuracy", np.nan)}
            row |= f.sensitivity[cell].drop(columns=["index", "label"]).mean().to_dict()
            if not f.matching.get(c.where, ("", True, ""))[1]:
                row.pop("matched")
        rows.append({**row, "diverged": f.failed.get(cell, ""), "network": cell.recipe.key})
    return pd.DataFrame(rows)


def summary(f: Results, where: str) -> pd.DataFrame:
    """Means over repetitions for one sweep, without failed networks: kind, strength, and those of MEASURES and
    COLUMNS that were measured.
    """
    table = networks(f)
    table = table[(table["where"] == where) & (table.diverged == "")]
    kept = [name for name in (*MEASURES, *COLUMNS) if name in table and table[name].notna().any()]
    order = {kind: n for n, kind in enumerate(dict.fromkeys(table.kind))}
    means = table.groupby(["kind", "strength"])[kept].mean().reset_index()
    return means.sort_values(["kind", "strength"], key=lambda c: c.map(order) if c.name == "kind" else c,
                             kind="stable").reset_index(drop=True)


def only(table: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """A table with only these columns; those that it lacks are skipped."""
    return table[[name for name in columns if name in table]]


def controls(f: Results, where: str) -> pd.DataFrame:
    """Rows of `summary` about the controls of one sweep and about the networks that they are compared with: PGD at the
    same strength or, for `reduced lr` and `full lr`, gradient norm. Columns: kind, strength, the MEASURES, on, off,
    alignment, shuffled pairs.
    """
    others, table = f.sweep(where).controls, summary(f, where)
    conditions = {c.condition for c in f.cells if c.condition.where == where and c.condition.kind in others}
    usual = {("gradient norm" if c.kind in OF_THE_LR else "PGD", c.strength) for c in conditions}
    shown = [row.kind in others or (row.kind, row.strength) in usual for row in table.itertuples()]
    return table[shown][["kind", "strength", *MEASURES, "on", "off", "alignment", "shuffled pairs"]]


def untrained(f: Results, where: str) -> pd.DataFrame:
    """The rows of `networks` about the untrained networks of a sweep."""
    table = networks(f)
    return table[(table["where"] == where) & (table.kind == UNTRAINED)]


def theory_at_smallest_noise(f: Results) -> pd.DataFrame:
    """Columns where, kind, rho1, rho2, worst rho2 (of the worst point): means over repetitions at the smallest noise.
    """
    table = f.theory[f.theory.sigma == f.theory.sigma.min()]
    return table.groupby(["where", "kind"], sort=False)[["rho1", "rho2", "worst rho2"]].mean().reset_index()


def guessing(f: Results) -> dict[str, float]:
    """{sweep: the accuracy of guessing one of its classes}"""
    return {sweep.name: 1 / f.networks_of(sweep).data.info.classes for sweep in f.section.sweeps}


def published_curves(f: Results) -> dict[str, pd.DataFrame]:
    """{sweep: the paper's curves (lib.papers.off_manifold_robustness.reference)} for the sweeps on CIFAR-10."""
    return {sweep.name: reference.published() for sweep in f.section.sweeps
            if f.networks_of(sweep).data.name == "cifar10"}


def ends_and_peaks(curves: pd.DataFrame) -> pd.DataFrame:
    """The rows of published curves with the smallest and the largest strength of each kind, and with the highest 1 -
    LPIPS. Needs the columns kind and 1 - LPIPS, and rows in order of strength.
    """
    kinds = curves.groupby("kind", sort=False)
    return curves.loc[sorted({*kinds.head(1).index, *kinds["1 - LPIPS"].idxmax(), *kinds.tail(1).index})]


def by_strength(f: Results, where: str) -> pd.DataFrame:
    """Rows of `networks` as curves over strength, for one sweep: the unregularised networks are repeated as strength 0
    of every regulariser (kind).
    """
    table = networks(f)
    table = table[(table["where"] == where) & (table.diverged == "")]
    none = table[table.kind == NONE]
    kinds = f.sweep(where).strengths.of
    return pd.concat([part for kind in kinds for part in (none.assign(kind=kind), table[table.kind == kind])],
                     ignore_index=True)


def distractor(f: Results) -> pd.DataFrame:
    """Columns where, kind, position (of the digit), seed, noise (standard deviation, for pixels in [0, 1]), log ratio
    (logarithm of the change by noise on the digit over the change by noise on the letter), counts (whether one of the
    changes is large enough for the ratio to be meaningful), accuracy.
    """
    rows = []
    how = f.section.distractor
    for data in how.data if how else ():
        for kind, above in itertools.product((UNTRAINED, STANDARD, PER_IMAGE, PER_BATCH), (True, False)):
            logs, counts = log_ratios(f, data.name, kind, above)
            every = f.of(where=data.name, kind=kind, failed=True)
            for cell, values, keep in zip(every, logs.mean(2), counts, strict=True):
                if cell in f.failed:
                    continue
                rows += [{"where": data.name, "kind": kind, "position": "digit above" if above else "digit below",
                          "seed": cell.repetition, "noise": sigma, "log ratio": value, "counts": bool(k),
                          "accuracy": f.measured(cell).accuracy()}
                         for sigma, value, k in zip(how.noise, values, keep, strict=True)]
    return pd.DataFrame(rows)


def energies(f: Results) -> pd.DataFrame:
    """Columns where, kind, seed, position (of the digit), share (of the squared gradient in the digit's half),
    accuracy, network (key).
    """
    rows = []
    for cell, table in f.distractor.items():
        for above, part in table.groupby("above"):
            rows.append({"where": cell.condition.where, "kind": cell.condition.kind, "seed": cell.repetition,
                         "position": "digit above" if above else "digit below", "share": part["energy"].mean(),
                         "accuracy": f.measured(cell).accuracy(), "network": cell.recipe.key})
    return pd.DataFrame(rows)


def quality(f: Results) -> pd.DataFrame:
    """Columns where, check, holds ('yes' or 'NO'), detail: checks of tangent spaces and scores."""
    rows = [{"where": where, "check": what, "holds": "yes" if good else "NO", "detail": detail}
            for where, checks in f.quality.items() for what, good, detail in checks]
    return pd.DataFrame(rows)


def published(f: Results) -> pd.DataFrame:
    """Published networks on ImageNet (C8), a row for each eps; empty if there are none. Columns: the accuracy here and
    on the model card, and means over images of the cosine with the score: alignment (of the gradient, resized as in the
    paper's code), antialiased (resized with antialiasing), shuffled pairs, white noise, negative high-pass. With
    AlexNet's weights also 1 - LPIPS of the gradient, of shuffled pairs and of the negative high-pass.
    """
    found = f.published
    if found is None:
        return pd.DataFrame()
    means = {"accuracy": found.means("right"), "alignment": found.means("cosine"),
             "antialiased": found.means("cosine", resize=ANTIALIASED)}
    controls = ("shuffled pairs", "white noise", "negative high-pass")
    means |= {what: found.means("cosine", what) for what in controls}
    if "lpips" in found.rows:
        means |= {"1 - LPIPS": found.means("lpips"), "1 - LPIPS, antialiased": found.means("lpips", resize=ANTIALIASED)}
        means |= {f"1 - LPIPS, {what}": found.means("lpips", what) for what in controls}
    table = pd.DataFrame(means).reset_index()
    known = CARD if f.section.published.arch == ImageNetResNet(18) else {}
    table.insert(2, "published accuracy", table.eps.map(known))
    return table
