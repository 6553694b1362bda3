"""Tidy tables of the notebook on compact and robust networks; lib.papers.compact_robust_pruning.figures draws some.

Accuracies and shares are in [0, 1]; seed counts repetitions from 0; intervals are 95 %.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from lib.papers.compact_robust_pruning.evidence import KEEPS, bounded
from lib.papers.compact_robust_pruning.networks import DENSE, Condition, Repetition, threat_of
from lib.papers.compact_robust_pruning.reference import ABSTRACT
from lib.papers.compact_robust_pruning.results import Results, reference_condition
from lib.papers.compact_robust_pruning.settings import BENIGN, ROBUST, NetworkSetup
from lib.results import mean
from lib.statistics import Interval, crossed, paired_difference, ratio, without_missing
from lib.values.threats import Threat

NOTHING = Interval(np.nan, np.nan, np.nan, 0, 0, 0.95, "every network failed")
CONDITION = ("net", "pre", "rule", "keep", "fine", "longer")


def describe(study) -> str:
    """One sentence on what a run compares: kept shares, rules, repetitions, attack and the number of trained networks.
    study: the notebook's `lib.study.Study`.
    """
    s = study.section
    keeps = ", ".join(f"{float(keep):.1%}" for keep in s.keeps)
    return (f"kept: {float(s.keep):.1%}; rules compared on {s.rules_on} at {keeps}; {s.seeds} repetitions; robust "
            f"accuracy under {s.verify.title}; {len(study.keys)} trained networks in the plan")


def networks(repetition: Repetition) -> pd.DataFrame:
    """A row per network of the settings: net, data, training images, test images, architecture, robust objective,
    threat, certificate, and the epochs of benign pre-training, robust pre-training and fine-tuning.
    """
    rows = []
    for net in repetition.section.nets:
        benign, robust = (repetition.pretrained(net, pre) for pre in (BENIGN, ROBUST))
        attack, threat = getattr(robust.objective, "attack", None), threat_of(repetition.networks, net)
        certificate = f"{net.certificate.title}, {_ball(net.certified or threat)}" if net.verifiable else "–"
        rows.append({"net": net.name, "data": robust.data.name, "training images": robust.data.n_train,
                     "test images": robust.data.n_test, "architecture": robust.arch.name,
                     "robust objective": f"{net.training}, {attack.title}" if attack else net.training,
                     "threat": _ball(threat), "certificate": certificate, "benign epochs": benign.epochs,
                     "robust epochs": " clean + ".join(str(r.epochs) for r in (*robust.parents, robust)),
                     "fine-tuning": net.finetune.epochs})
    return pd.DataFrame(rows)


def side_by_side(table: pd.DataFrame) -> pd.DataFrame:
    """The table of `networks` transposed for reading: a row per property, a column per network. The first column, which
    has no title, names the property.
    """
    return table.set_index("net").T.reset_index(names="")


def _ball(threat: Threat) -> str:
    return f"{threat.norm}, eps {threat.eps}"


def summary(f: Results) -> pd.DataFrame:
    """Mean accuracies by net, pre, rule, keep, fine and longer: clean, robust and, where there is a certificate,
    verified.
    """
    table = f.table()
    table = table[table.measure != "search"].fillna({"fine": "–"})
    wide = table.pivot_table(index=list(CONDITION), columns="measure", values="accuracy", sort=False)
    shown = [name for name in ("clean", "robust", "verified") if name in wide]
    return wide[shown].reset_index().rename_axis(columns=None)


# -------------------------------------------------------------------------------------------- what is retained


def _groups(f: Results) -> dict[str, tuple[list[NetworkSetup], tuple[str, ...]]]:
    """{name: (networks, measures)}: every network by itself, and the adversarially trained and the verifiable networks
    as groups where there are several.
    """
    of = {False: ("clean", "robust"), True: ("clean", "robust", "verified")}
    groups = {net.name: ([net], of[net.verifiable]) for net in f.section.nets}
    for name, nets in (("adversarial, mean", f.empirical), ("verifiable, mean", f.verifiable)):
        if len(nets) > 1:
            groups[name] = (nets, of[nets[0].verifiable])
    return groups


def _retained(f: Results):
    """Yield the columns net, measure and over, whether the paper's share is of such networks and of this reference, the
    outcomes (`Results.pairs`) and their pair of accuracies [2, S].
    """
    for name, (nets, measures) in _groups(f).items():
        for measure in measures:
            for over in ("unpruned", DENSE):
                asked = nets, measure, over
                yield ({"net": name, "measure": measure, "over": over}, over != DENSE and not nets[0].verifiable,
                       f.pairs(*asked), f.retained(*asked))


def shares(f: Results) -> pd.DataFrame:
    """Columns net, measure, over, seed, share, low, high: the retained share of each repetition (NaN if the reference
    accuracy is 0), and the 95 % interval of the geometric mean, over images and repetitions, repeated on every row of
    the same net, measure and over (`unpruned`, or `dense`: the unpruned network with the same fine-tuning).
    """
    rows = []
    for what, _, pairs, accuracies in _retained(f):
        bounds = _bounds(_interval(ratio, pairs))
        rows += [{**what, "seed": seed, "share": pruned / whole if whole else np.nan, **bounds}
                 for seed, (pruned, whole) in enumerate(accuracies.T)]
    return pd.DataFrame(rows)


def retention(f: Results) -> pd.DataFrame:
    """Columns net, measure, over, pruned, whole, share, low, high, paper, drop, drop_low, drop_high: mean accuracies of
    the pruned networks and of their references (`over`), the retained share (geometric mean over repetitions and
    networks), the paper's share (its mean over four networks; NaN where it has none of such networks) and the absolute
    drop. Intervals are over images and repetitions.
    """
    rows = []
    for what, of_paper, pairs, accuracies in _retained(f):
        share = _interval(ratio, pairs)
        drop = _interval(paired_difference, tuple(whole - pruned for pruned, whole in pairs))
        pruned, whole = map(mean, accuracies)
        rows.append({**what, "pruned": pruned, "whole": whole, "share": share.value, **_bounds(share),
                     "paper": ABSTRACT[what["measure"]] if of_paper else np.nan,
                     "drop": drop.value, "drop_low": drop.low, "drop_high": drop.high})
    return pd.DataFrame(rows)


def verified_minus_empirical(f: Results) -> pd.DataFrame:
    """Columns net, over, difference, low, high: the retained share of verified accuracy minus that of robust accuracy,
    mean over repetitions, for the networks that C6 judges, with its interval over images and repetitions.
    """
    rows = []
    for over in ("unpruned", DENSE):
        for net in bounded(f, over):
            found = _interval(lambda sets: crossed(sets[0]), (f.verified_minus_empirical(net, over),))
            rows.append({"net": net.name, "over": over, "difference": found.value, **_bounds(found)})
    return pd.DataFrame(rows, columns=["net", "over", "difference", "low", "high"])


def _interval(statistic: Callable, data: tuple[np.ndarray, ...]) -> Interval:
    """A statistic over the repetitions in which no network failed."""
    left = without_missing(data)
    return statistic(left) if left[0].shape[-2] else NOTHING


def _bounds(found: Interval) -> dict:
    """The bounds of an interval as columns; NaN for a missing one."""
    return {name: value if np.isfinite(value) else np.nan for name, value in (("low", found.low), ("high", found.high))}


# ------------------------------------------------------------------------------------------- objectives, rules


def grid(f: Results) -> pd.DataFrame:
    """Columns net, pre, fine, longer, measure, seed, accuracy: networks pruned by LWM, by the objectives of the first
    and the last step; fine is NaN for the unpruned networks.
    """
    table = f.table()
    lwm = (table.rule == "LWM") & (table.keep == float(f.section.keep))
    of_grid = (lwm | table.fine.isna()) & (table.measure != "search")
    return table.loc[of_grid, ["net", "pre", "fine", "longer", "measure", "seed", "accuracy"]].reset_index(drop=True)


def _ruled(f: Results) -> list[Condition]:
    """The conditions of the dense network and of every rule, after robust fine-tuning."""
    return [c for c in f.conditions if (c.net, c.pre, c.fine) == (f.section.rules_on, ROBUST, ROBUST)]


def rules(f: Results) -> pd.DataFrame:
    """Columns rule, keep, measure (clean or robust), seed, accuracy, for the network on which rules are compared, after
    robust fine-tuning; the rule `dense` has keep 1.
    """
    return pd.DataFrame([
        {"rule": c.rule, "keep": float(c.keep), "measure": measure, "seed": seed, "accuracy": value}
        for c in _ruled(f) for measure in ("clean", "robust") for seed, value in enumerate(f.accuracy(c, measure))
        if not np.isnan(value)])


def against_lwm(f: Results) -> pd.DataFrame:
    """Columns rule, keep, clean, robust, difference, low, high: mean accuracies, and the robust accuracy of a rule
    minus LWM's at the same keep, with its 95 % interval over images and repetitions.
    """
    conditions, rows = _ruled(f), []
    for c in conditions:
        row = {"rule": c.rule, "keep": float(c.keep),
               **{measure: mean(f.accuracy(c, measure)) for measure in ("clean", "robust")}}
        lwm = Condition(c.net, c.pre, "LWM", c.keep, c.fine)
        if lwm in conditions and c != lwm:
            more = _interval(paired_difference, (f.correct(c, "robust") - f.correct(lwm, "robust"),))
            row |= {"difference": more.value, "low": more.low, "high": more.high}
        rows.append(row)
    return pd.DataFrame(rows, columns=["rule", "keep", "clean", "robust", "difference", "low", "high"])


def benign(f: Results) -> pd.DataFrame:
    """A row per rule that prunes a robust network before benign fine-tuning. Columns, means over repetitions: rule,
    clean (accuracy), kept (share of the unpruned clean accuracy), robust (accuracy), unpruned (robust accuracy of the
    unpruned network), lost (share of it that is lost), counts (whether C1 takes the rule).
    """
    net = next(net for net in f.section.nets if net.name == f.section.rules_on)
    base, share, rows = mean(f.accuracy(reference_condition(net, "unpruned"), "robust")), f.benign_kept, []
    for rule, condition in f.benign_rules.items():
        clean, robust = (mean(f.accuracy(condition, which)) for which in ("clean", "robust"))
        rows.append({"rule": rule, "clean": clean, "kept": share[rule], "robust": robust,
                     "unpruned": base, "lost": 1 - robust / base if base else np.nan,
                     "counts": "yes" if share[rule] >= KEEPS else f"no, keeps less than {KEEPS:.0%}"})
    return pd.DataFrame(rows)
