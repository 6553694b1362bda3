"""Tidy tables of the notebook on perceptually aligned gradients. Accuracies, shares and rates are in [0, 1], cosines in
[-1, 1]; seed counts repetitions from 0.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pandas as pd

from lib.papers.perceptually_aligned_gradients import networks as plan
from lib.papers.perceptually_aligned_gradients import reference
from lib.papers.perceptually_aligned_gradients.evidence import (
    across,
    aligned,
    at_equal_accuracy,
    comparisons,
    line_of,
)
from lib.papers.perceptually_aligned_gradients.networks import (
    CLASSES,
    IMAGES,
    LOGIT,
    NORM,
    RANDOM,
    SCORE,
    TOY,
    TRADES_ALONE,
    TRADES_SCORE,
    VANILLA,
    Condition,
)
from lib.papers.perceptually_aligned_gradients.results import Results
from lib.papers.perceptually_aligned_gradients.settings import SMOOTH, Experiment, Toy
from lib.statistics import accuracy, estimate, without_missing
from lib.values.data import CLASS_NAMES, Data
from lib.values.threats import Threat

CONTROLS = RANDOM, CLASSES, IMAGES, NORM, SMOOTH, LOGIT
FEWEST = 4  # kinds of networks, for an interval of their correlation


def describe(study) -> str:
    """Lines on what a run compares: repetitions, trained networks and attack; for each study data, architecture,
    epochs, radii and the weight of every realisation. study: the notebook's `lib.study.Study`.
    """
    s = study.section
    lines = [f"{s.seeds} repetitions ({s.toy.seeds} of the toy); {len(study.keys)} trained networks in the plan; "
             f"attack: {s.verify.title}"]
    for part in s.studies:
        base = plan.StudyNetworks(study.networks, part, study.settings.seed).vanilla(0)
        radii = ", ".join(f"{threat.norm} {float(threat.eps):.3g}" for threat in part.threats)
        lines += ["", f"{part.name}: {base.data.n_train} images to train on, {base.arch.name}, {base.epochs} epochs; "
                      f"{part.classes or 'all'} of {base.data.info.classes} classes for each image and update; judged "
                      f"at {radii}" + "; no claim of the paper rests on it" * part.side,
                  "   " + "; ".join(f"{kind} {', '.join(f'{weight:g}' for weight in weights)}"
                                    for kind, weights in part.weights.of.items())]
    return "\n".join(lines)


def group(kind: str) -> str:
    """The group of a kind of training, named as in figures."""
    if kind == VANILLA:
        return "vanilla"
    if kind in CONTROLS:
        return "control"
    if kind.startswith(("AT ", TRADES_ALONE)):
        return "adversarial training" + " with alignment" * kind.endswith(f"+ {SCORE}")
    return "realisation"


def class_names(data: Data) -> list[str]:
    """The names of the classes in figures: words for CIFAR-10 and STL-10, numbers for other data."""
    return list(CLASS_NAMES.get(data.name, map(str, range(data.info.classes))))


def threat_name(threat: Threat) -> str:
    """Norm and eps for tables and figures, such as 'l2 0.75' and 'linf 4/255'; eps is a decimal if that is short."""
    short = Fraction(f"{float(threat.eps):g}") == threat.eps
    grey = threat.eps * 255
    return f"{threat.norm} {float(threat.eps):g}" if short or grey.denominator > 1 else f"{threat.norm} {grey}/255"


def networks(f: Results) -> pd.DataFrame:
    """A row per network of the studies. Columns: where, kind, weight, seed, clean, robust (one per norm, at the study's
    eps), held-out clean and held-out robust if measured, rate (share of generated images that an independent network
    assigns to the intended class), mean cosines with each truth for the own class and for the others, loss, cosine and
    clamped (share of pairs) of the last training epoch, diverged (why it failed, or empty), network (key), warnings
    (about the attacks).
    """
    rows = []
    for cell in f.cells:
        c = cell.condition
        if c.where == TOY or cell not in f.outcomes and cell not in f.failed:
            continue
        row = {"where": c.where, "kind": c.kind, "weight": c.weight, "seed": cell.repetition}
        if cell in f.outcomes:
            row["clean"] = f.measured(cell).accuracy()
            row |= {f"robust {threat.norm}": f.measured(cell, threat.norm).accuracy("robust")
                    for threat in f.study(c.where).threats}
            if cell in f.on_holdout:
                row |= {f"held-out {which}": values.mean() for which, values in f.on_holdout[cell].items()}
            row["rate"] = f.rate[cell].mean() if cell in f.rate else np.nan
            row |= f.alignment[cell].drop(columns=["index", "label"]).mean().to_dict()
            row |= {name: f.last_epoch[cell].get(name, np.nan) for name in ("loss", "cosine", "clamped")}
        warnings = f.warnings(cell) if cell in f.outcomes else []
        rows.append({**row, "diverged": f.failed.get(cell, ""), "network": cell.recipe.key,
                     "warnings": "; ".join(warnings)})
    return pd.DataFrame(rows)


def summary(f: Results, where: str) -> pd.DataFrame:
    """Means over repetitions for one study, without failed networks: kind, weight, the measures of `networks`, and
    `spread`, the standard deviation over repetitions of robust accuracy under the first threat.
    """
    table = networks(f)
    table = table[(table["where"] == where) & (table.diverged == "")]
    numbers = [c for c in table if table[c].dtype.kind == "f" and c != "weight" and table[c].notna().any()]
    grouped = table.groupby(["kind", "weight"], sort=False)
    means = grouped[numbers].mean()
    first = f"robust {f.study(where).threats[0].norm}"
    means.insert(list(means).index(first) + 1, "spread", grouped[first].std())
    return means.reset_index()


def main_measures(table: pd.DataFrame) -> pd.DataFrame:
    """The main columns of `summary`; missing ones are skipped: kind, weight, clean and robust accuracies, spread, rate,
    cosines with the independent score, clamped.
    """
    robust_ = [name for name in table if name.startswith("robust ")]
    wanted = ["kind", "weight", "clean", *robust_, "spread", "rate", "own, independent score",
              "others, independent score", "clamped"]
    return table[[name for name in wanted if name in table]]


def share_columns(table: pd.DataFrame) -> list[str]:
    """The names of the columns of a table that hold accuracies, shares or rates."""
    return [name for name in table if name.startswith(("clean", "robust", "rate", "held-out", "spread", "clamped"))]


def by_strength(f: Results, where: str, kinds: tuple[str, ...] = (VANILLA, SCORE, CLASSES)) -> pd.DataFrame:
    """Columns method, group, weight, seed, threat, accuracy (robust) and alignment (mean cosine with the independent
    score over all classes), best (`yes` at the weight that is most robust on held-out images), for a study's networks
    of these kinds at all their weights.
    """
    rows = []
    for kind in kinds:
        best = f.best(where, kind)
        for cell in sorted(f.of(where=where, kind=kind), key=lambda c: c.condition.weight):
            close = aligned(f, [cell])
            rows += [{"method": kind, "group": group(kind), "weight": cell.condition.weight, "seed": cell.repetition,
                      "threat": threat_name(threat), "accuracy": f.measured(cell, threat.norm).accuracy("robust"),
                      "alignment": np.nan if close is None else float(close.mean()),
                      "best": "yes" if cell in best else ""} for threat in f.study(where).threats]
    return pd.DataFrame(rows)


def everything(f: Results, where: str) -> pd.DataFrame:
    """As `by_strength`, for all kinds of the study that were measured."""
    return by_strength(f, where, tuple(_kinds(f, where, f.outcomes)))


def under_first(study: Experiment, table: pd.DataFrame) -> pd.DataFrame:
    """The rows of `by_strength` or `everything` under the first threat of the study."""
    return table[table.threat == threat_name(study.threats[0])]


def published_weights(f: Results) -> dict[str, pd.DataFrame | None]:
    """{study: the paper's robust accuracies by weight (lib.papers.perceptually_aligned_gradients.reference)}; None for
    a study that is not on CIFAR-10.
    """
    return {study.name: reference.weights() if f.networks_of(study).data.name == "cifar10" else None
            for study in f.studies}


def _kinds(f: Results, where: str, measured) -> list[str]:
    """The kinds of a study's networks that were measured, in the order of the plan."""
    of_study = [c for c in f.cells if c.condition.where == where]
    return list(dict.fromkeys(c.condition.kind for c in of_study if c in measured))


def curves(f: Results, where: str) -> pd.DataFrame:
    """Columns method, group, weight, threat (its norm), eps, seed, accuracy: robust accuracy by eps, for one study."""
    names = {"kind": "method", "norm": "threat", "robust": "accuracy"}
    table = f.curves[f.curves["where"] == where].rename(columns=names)
    return table.assign(group=[group(kind) for kind in table.method])


def toy(f: Results) -> pd.DataFrame:
    """A row per network of the toy. Columns: kind, seed, clean (accuracy), PGD (robust accuracy), exact (share of
    points around which neither PGD nor the exhaustive search finds a misclassified point within `eps`), far (the same
    within `far`), network (key).
    """
    rows = []
    for cell, table in f.toy.items():
        row = table[["right", "PGD", "exact", "far"]].mean().to_dict()
        rows.append({"kind": cell.condition.kind, "seed": cell.repetition, "clean": row.pop("right"), **row,
                     "network": cell.recipe.key})
    return pd.DataFrame(rows)


def toy_notes(table: pd.DataFrame) -> dict[str, str]:
    """{kind: the exact robust accuracy of its first network, in words}. table: as returned by `toy`."""
    first = table[table.seed == 0]
    return {kind: f"exactly robust: {exact:.0%}" for kind, exact in zip(first.kind, first.exact, strict=True)}


def toy_ranges(table: pd.DataFrame, how: Toy) -> pd.DataFrame:
    """A row per kind (index), for reading: clean, PGD and exact accuracy as text with mean, least and largest value
    over repetitions; columns are named with the radius. table: as returned by `toy`.
    """
    runs = table.groupby("kind", sort=False)[["clean", "PGD", "exact", "far"]]
    mean, (least, most) = runs.mean(), (values.map("{:.0%}".format) for values in (runs.min(), runs.max()))
    words = mean.map("{:.1%}".format) + "  (" + least + " to " + most + ")"
    return words.rename(columns={"PGD": f"PGD, l2 {how.eps:g}", "exact": f"exact, l2 {how.eps:g}",
                                 "far": f"exact, l2 {how.far:g}"})


def masking(f: Results) -> pd.DataFrame:
    """Columns where, weight, seed, norm, attack, robust, network (key): robust accuracy on the query images under each
    attack, for the networks trained on scores.
    """
    rows = [{"where": c.condition.where, "weight": c.condition.weight, "seed": c.repetition, "norm": norm,
             "attack": name, "robust": v.mean(), "network": c.recipe.key}
            for c, by_norm in f.masking.items() for norm, by_way in by_norm.items() for name, v in by_way.items()]
    return pd.DataFrame(rows, columns=["where", "weight", "seed", "norm", "attack", "robust", "network"])


def mean_masking(table: pd.DataFrame) -> pd.DataFrame:
    """Means of `masking` over repetitions and weights: a row per where and norm (index), a column per attack, NaN where
    it was not run. table: as returned by `masking`.
    """
    return table.groupby(["where", "norm", "attack"], sort=False)["robust"].mean().unstack(sort=False)


def truths(f: Results, where: str) -> pd.DataFrame:
    """Mean cosines over images and repetitions for one study: a row per kind at its best weight, and two columns per
    truth, for the own class and for the others.
    """
    rows = []
    for kind in _kinds(f, where, f.alignment):
        cells = f.best(where, kind)
        if cells:
            means = pd.concat([f.alignment[c] for c in cells]).drop(columns=["index", "label"]).mean()
            rows.append({"kind": kind, "weight": cells[0].condition.weight, **means.to_dict()})
    return pd.DataFrame(rows)


def methods(f: Results, where: str) -> pd.DataFrame:
    """Columns method, group, weight, threat (or `clean`), seed, accuracy, low, high (95 % interval of the method's
    mean, over repetitions and images). Each kind is at the weight that is most robust on held-out images.
    """
    study, rows = f.study(where), []
    for kind in _kinds(f, where, f.outcomes):  # no denoisers
        cells = f.best(where, kind)
        values = {"clean": f.stacked(cells)} if cells else {}
        values |= {threat_name(t): f.stacked(cells, t.norm) for t in study.threats if cells}
        for threat, right in values.items():
            whole = accuracy(right)
            rows += [{"method": kind, "group": group(kind), "weight": cell.condition.weight, "threat": threat,
                      "seed": cell.repetition, "accuracy": row.mean(), "low": whole.low, "high": whole.high}
                     for cell, row in zip(cells, right, strict=True)]
    return pd.DataFrame(rows)


def trade_offs(f: Results, where: str) -> pd.DataFrame:
    """Columns method, group, weight, clean, accuracy (robust under the first threat), collapsed (`yes` or empty), best
    (`yes` for the weight that is most robust on held-out images): a row per kind and weight of one study, means over
    repetitions.
    """
    norm, rows = f.study(where).threats[0].norm, []
    for kind in _kinds(f, where, f.outcomes):
        best = f.best(where, kind)
        for weight in f.weights(where, kind):
            cells = f.of(Condition(where, kind, weight))
            if cells:
                rows.append({"method": kind, "group": group(kind), "weight": weight, "clean": f.stacked(cells).mean(),
                             "accuracy": f.stacked(cells, norm).mean(),
                             "collapsed": "yes" if f.collapsed(cells) else "", "best": "yes" if cells == best else ""})
    return pd.DataFrame(rows)


EQUAL = ("where", "norm", "claim", "method", "opponent", "interpolated", "weight", "clean", "robust", "lower weight",
         "clean, lower", "robust, lower", "upper weight", "clean, upper", "robust, upper", "difference", "low", "high")


def equal(f: Results) -> pd.DataFrame:
    """The comparisons at equal clean accuracy, on test images, means over repetitions. Columns: where, norm, claim,
    method, opponent, interpolated (which of the two); weight, clean, robust of the other one; the same of the two
    weights on both sides (`lower` and `upper`); difference (method minus opponent), low, high (95 % interval over
    repetitions and images).
    """
    rows = []
    for study in f.papers:
        for (claim, _), some in comparisons(study).items():
            for method, opponent in some:
                line = line_of(f, study.name, method, opponent)
                for threat in study.threats if line else ():
                    row = [study.name, threat.norm, claim, method, opponent, line[0]]
                    for one in line[1]:
                        row += [one[0].condition.weight, f.stacked(one).mean(), f.stacked(one, threat.norm).mean()]
                    found = estimate("difference", without_missing(
                        at_equal_accuracy(f, study.name, threat.norm, method, opponent)))(0.95)
                    rows.append([*row, found.value, found.low, found.high])
    return pd.DataFrame(rows, columns=EQUAL)


def ceilings(f: Results) -> pd.DataFrame:
    """Columns where, `cosine of the two denoisers` (of their class scores: no alignment with the judging one can be
    expected to exceed it), `accuracy, denoiser`, `accuracy, denoiser that judges` (as classifiers), alignment (of the
    score's networks at their best weight), share (of the first that the alignment reaches).
    """
    rows = []
    for study in f.studies:
        if found := f.ceilings.get(study.name):
            cells = f.best(study.name, SCORE)
            reached = float(aligned(f, cells).mean()) if cells and aligned(f, cells) is not None else np.nan
            rows.append([study.name, found["cosine"], found[plan.TEACHER], found[plan.JUDGE], reached,
                         reached / found["cosine"]])
    return pd.DataFrame(rows, columns=["where", "cosine of the two denoisers", "accuracy, denoiser",
                                       "accuracy, denoiser that judges", "alignment", "share"])


def across_methods(f: Results) -> pd.DataFrame:
    """Columns where, norm, kinds (how many kinds of training are compared, each at its best weight, without vanilla and
    collapsed ones), correlation (of their alignments and robust accuracies), low, high (Fisher's 95 % interval, kinds
    as units; NaN for fewer than FEWEST kinds). It describes: few kinds decide nothing.
    """
    rows = []
    for study in f.papers:
        for threat in study.threats:
            pairs = np.array([*across(f, study, threat.norm).values()]).reshape(-1, 2)
            count = len(pairs)
            r = np.corrcoef(pairs.T)[0, 1] if count > 2 and pairs.std(0).all() else np.nan
            half = 1.96 / np.sqrt(count - 3) if count >= FEWEST else np.nan
            low, high = np.tanh(np.arctanh(np.clip(r, -1 + 1e-12, 1 - 1e-12)) + np.array([-half, half]))
            rows.append([study.name, threat.norm, count, r, low, high])
    return pd.DataFrame(rows, columns=["where", "norm", "kinds", "correlation", "low", "high"])


def added(f: Results) -> pd.DataFrame:
    """Columns where, kind, weight, clean, robust (one per norm), held-out robust, chosen (`yes` if the verdict takes
    this weight): adversarial training with and without the score's term, means over repetitions.
    """
    rows = []
    for study in f.studies:
        if not study.adversarial or not study.adversarial.weights or study.side:
            continue
        first = study.threats[0].norm
        kinds = plan.adversarial(first), plan.longer(first), plan.combined(first), TRADES_ALONE, TRADES_SCORE
        for kind in kinds:
            for weight in f.weights(study.name, kind):
                cells = f.of(Condition(study.name, kind, weight))
                row = {"where": study.name, "kind": kind, "weight": weight,
                       "clean": np.mean([f.measured(c).accuracy() for c in cells])}
                row |= {f"robust {t.norm}": f.stacked(cells, t.norm).mean() for t in study.threats}
                row["held-out robust"] = np.mean([f.on_holdout[c]["robust"].mean() if c in f.on_holdout else np.nan
                                                  for c in cells])
                rows.append({**row, "chosen": "yes" if weight and cells == f.best(study.name, kind) else ""})
    return pd.DataFrame(rows)
