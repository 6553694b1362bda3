"""Tidy tables of the notebook across the papers; lib.papers.across_papers.figures draws some."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd

from lib.papers.across_papers.evidence import FURTHER, at_equal_accuracy, ceiling, gap, interpolated, similarity
from lib.papers.across_papers.networks import Condition
from lib.papers.across_papers.results import Results
from lib.papers.across_papers.settings import OF_POOL
from lib.plots.titles import strength
from lib.results import mean
from lib.statistics import Interval, estimate, repetitions, without_missing

# {column of `lenses`: what it is}
LENSES = {
    "robust": "robust accuracy", "clean": "clean accuracy", "fit": "fit in a robust end", "fit, matched":
    "the same, direct matching", "cka": "same-layer CKA", "alignment": "alignment, share of ceiling",
    "off": "log-ratio, off / along", "low": "log-ratio, low / all",
}


def describe(study) -> str:
    """Two lines on what a run looks at. study: the notebook's `lib.study.Study`."""
    s, networks = study.section, study.networks
    data, threat = networks.data, networks.threat
    return (f"{data.name}: {data.n_train} training images, lenses on {s.seen(networks)} of {data.n_test} test "
            f"images; {networks.arch.name}; threat "
            f"{threat.norm}, eps {threat.eps}, attacked by {s.verify.title}\n"
            f"{s.seeds} repetitions of {len(OF_POOL) + len(s.arms) + 2} kinds; {len(study.keys)} trained networks in "
            "the plan")


def kinds(section) -> pd.DataFrame:
    """A row for each kind: kind, training, in words."""
    rows = [{"kind": OF_POOL[kind], "training": words} for kind, words in (
        ("N", "cross-entropy"), ("R", "PGD adversarial training at the pool's eps"), ("U", "none"))]
    for arm in section.arms:
        how = {"normal": "cross-entropy", "noise": "cross-entropy on images with Gaussian noise",
               "gradient norm": "cross-entropy with a penalty on the squared norm of its gradient",
               "PGD-AT": "PGD adversarial training", "TRADES": "TRADES",
               "class score": "cross-entropy; gradients aligned with a denoiser's class scores",
               "class mean": "cross-entropy; gradients aligned with directions to class means"}[arm.training]
        more = [f"eps {strength(arm.threat.eps)}" if arm.threat else "",
                f"strength {arm.strength:g}" if arm.strength else "", _epochs(arm.epochs) if arm.epochs else ""]
        rows.append({"kind": arm.name, "training": ", ".join(filter(None, (how, *more)))})
    keep, epochs = section.pruning.keep, section.pruning.finetune.epochs
    rows.append({"kind": "pruned", "training": f"the robust network with its largest weights, {float(keep):.0%}, "
                 f"fine-tuned adversarially for {_epochs(epochs)}"})
    rows.append({"kind": "dense, fine-tuned", "training": "the robust network with the same fine-tuning"})
    return pd.DataFrame(rows)


def _epochs(count: int) -> str:
    return f"{count} epoch{'s' * (count > 1)}"


def lenses(f: Results) -> pd.DataFrame:
    """Columns kind, seed, training (of arms, else the kind) and those of LENSES: what each lens says of each network
    that did not fail, NaN where it is not defined. Accuracies and fits are shares; fits are net of the network's
    untrained twin.
    """
    cells = [cell for condition in f.classifiers for cell in f.of(condition)]
    return pd.DataFrame([{**f.named(cell), "training": cell.condition.training or f.label(cell.condition),
                          **f.readings(cell)} for cell in cells],
                        columns=["kind", "seed", "training", *LENSES])


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Means over repetitions: a row for each kind. table: as returned by `lenses`."""
    return table.groupby("kind", sort=False)[[*LENSES]].mean().rename(columns=LENSES)


def strengths(f: Results) -> dict[str, float]:
    """{kind: eps} of the adversarial trainings, by growing eps."""
    eps = {arm.name: float((arm.threat or f.networks.threat).eps) for arm in f.section.arms}
    return {f.label(one): eps.get(one.kind, float(f.networks.threat.eps)) for one in f.adversarial}


def contrast(f: Results) -> pd.DataFrame:
    """Each kind of aligned gradients, noise, gradient norms and TRADES next to adversarial training at equal robust
    accuracy. Columns: kind; aligned, whether its gradients are; robust and clean accuracy; adversarial clean, that of
    adversarial training, interpolated; between, the two adversarial trainings; measure, of LENSES; value of the kind;
    adversarial, its interpolated value; difference, adversarial minus kind; low, high, 95 %.
    """
    rows = []
    for one in (*f.aligned, *f.of_training(*itertools.chain(*FURTHER.values()))):
        row = {"kind": f.label(one), "aligned": one in f.aligned, "robust": mean(f.robust(one)),
               "clean": mean(f.correct(one))}
        pair = f.around(one)
        if pair is None:
            rows.append({**row, "between": "not between adversarial trainings"})
            continue
        row["between"] = " and ".join(map(f.label, pair))
        row["adversarial clean"] = interpolated(row["robust"], [mean(f.robust(other)) for other in pair],
                                                [mean(f.correct(other)) for other in pair])
        found = {"fit": (mean(f.net_fit(one)), _interval("difference", at_equal_accuracy(f, one)))}
        for name, read in (("cka", similarity(f)), ("alignment", ceiling(f))):
            own = [read(one, [number], None) for number in range(f.section.seeds)]
            found[name] = mean(np.array(own)), _interval("map", gap(f, one, read))
        rows += [{**row, "measure": LENSES[name], "value": value, "adversarial": value + more.value,
                  "difference": more.value, "low": more.low, "high": more.high}
                 for name, (value, more) in found.items()]
    return pd.DataFrame(rows, columns=["kind", "aligned", "robust", "clean", "adversarial clean", "between", "measure",
                                       "value", "adversarial", "difference", "low", "high"])


def _interval(statistic: str, data: np.ndarray) -> Interval:
    """The 95 % interval of evidence, on the repetitions in which no network failed; NaN without one."""
    left = without_missing(data)
    if not repetitions(left):
        return Interval(np.nan, np.nan, np.nan, 0, 0, 0.95, "no repetition is left")
    return estimate(statistic, left)(0.95)


def pruned(f: Results) -> pd.DataFrame:
    """Columns kind, fit, robust: means of the pruned networks, of the same without pruning, and of the robust ones."""
    rows = [(one, mean(f.net_fit(one)), mean(f.robust(one)))
            for one in map(Condition, ("R", "dense, fine-tuned", "pruned"))]
    return pd.DataFrame([{"kind": f.label(one), "fit": fit, "robust": robust} for one, fit, robust in rows])


def in_words(table: pd.DataFrame) -> str:
    """A title that says where aligned gradients differ from adversarial training at equal robust accuracy, "" if their
    intervals leave everything open. table: as returned by `contrast`.
    """
    said = []
    for measure, words in (("fit", "fit a robust end"), ("cka", "resemble a robust network"),
                           ("alignment", "align with class scores")):
        mine = table[(table["measure"] == LENSES[measure]) & table["aligned"]]
        for way, sure in (("less", mine["low"] > 0), ("more", mine["high"] < 0)):
            if len(mine) and sure.all():
                said.append(f"{words} {way}")
    return f"At equal robust accuracy, networks with aligned gradients {' and '.join(said)}" if said else ""
