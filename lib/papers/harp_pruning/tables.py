"""Tidy tables of the HARP notebook; lib.papers.harp_pruning.figures draws some.

Accuracies and shares are in [0, 1]; seed counts repetitions from 0.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd

from lib.models import rates as by_rule
from lib.papers.harp_pruning.networks import Condition, search_of, training_attack
from lib.papers.harp_pruning.results import Results, rates_without_data
from lib.papers.harp_pruning.settings import Section
from lib.profiles.networks import updates
from lib.statistics import paired_difference, ratio, seeds, without_missing


def describe(study) -> str:
    """Two lines on what a run compares: data, architecture, threat and attack; kept shares, methods, repetitions,
    epochs and the number of trained networks. study: the notebook's `lib.study.Study`.
    """
    s, networks = study.section, study.networks
    data, threat = s.data or networks.data, networks.threat
    base = next(cell.recipe for cell in study.cells if cell.condition == Condition("pre-trained", loss=s.losses[0]))
    return (f"{data.name}: {data.n_train} training images, {data.holdout} held out for the choice of epochs, "
            f"{data.n_test} test images; {base.arch.name}; threat {threat.norm}, eps {threat.eps}, "
            f"trained against {training_attack(networks, s).title}\n"
            f"kept: {', '.join(f'{float(keep):.1%}' for keep in s.keeps)}; methods: {'; '.join(s.methods)}; "
            f"{s.seeds} repetitions; {base.epochs} epochs of training, {s.prune.epochs} of searching "
            f"({updates(replace(base, epochs=s.prune.epochs)):,} updates), {s.finetune.epochs} of fine-tuning; "
            f"{len(study.keys)} trained networks in the plan")


def summary(f: Results) -> pd.DataFrame:
    """Mean accuracies over repetitions by training, granularity, keep and method, clean and under each attack. If the
    classes differ in size, also the mean accuracies over classes (`clean, balanced`).
    """
    table = f.table()
    names = {"clean": "clean", "search": f.section.search.title, "verify": f.section.verify.title}
    first = next(iter(f.outcomes.values()))
    uneven = next(iter(first.values())).table["label"].value_counts().nunique() > 1
    keys = ["training", "granularity", "keep", "method"]
    wide = table.pivot_table(index=keys, columns="measure", values="accuracy", sort=False)
    wide = wide.rename(columns=names)[[names.get(n, n) for n in dict.fromkeys(table.measure)]]
    if uneven:
        even = table[table.measure.isin(["clean", "verify"])].pivot_table(index=keys, columns="measure",
                                                                         values="balanced", sort=False)
        wide = wide.join(even.rename(columns=lambda n: f"{names[n]}, balanced"))
    return wide.reset_index()


def retention(f: Results) -> pd.DataFrame:
    """Columns keep, weights, measure, over, whole, pruned, difference, low, high, share, share low, share high, a row
    per keep, measure (clean or robust) and reference of HARP: mean accuracies of the reference and of HARP, their
    difference, and the share that HARP keeps, with 95 % intervals over images and repetitions. weights: kept ones.
    """
    rows, loss = [], f.section.losses[0]
    for keep in f.section.keeps:
        harp = Condition("HARP", keep, loss=loss)
        for (name, measure), over in product({"clean": "clean", "robust": "verify"}.items(), ("pre-trained", "dense")):
            pair = [f.correct(c, measure) for c in (harp, Condition(over, loss=loss))] if f.of(harp) else []
            pair = without_missing(np.stack(np.broadcast_arrays(*pair))) if pair else np.empty((2, 0, 0))
            if not pair.shape[1]:
                continue
            more, share = paired_difference(pair[0] - pair[1]), ratio(pair)
            rows.append({"keep": float(keep), "weights": f.weights(f.of(harp)[0])[0], "measure": name, "over": over,
                         "whole": pair[1].mean(), "pruned": pair[0].mean(), "difference": more.value, "low": more.low,
                         "high": more.high, "share": share.value, "share low": share.low, "share high": share.high})
    return pd.DataFrame(rows, columns=["keep", "weights", "measure", "over", "whole", "pruned", "difference", "low",
                                       "high", "share", "share low", "share high"])


def by_updates(f: Results) -> pd.DataFrame:
    """Columns method, seed, updates, measure (clean or verify), accuracy: accuracies on held-out images, after the same
    fine-tuning, of HARP and HYDRA after half and all of the search. HYDRA after 0 updates is LWM. The dense network has
    0 updates. Empty if searches are as long as the paper's.
    """
    rows = []
    for cell, outcomes in f.on_holdout.items():
        search, method = search_of(cell.recipe), cell.condition.method
        rows += [{"method": "HYDRA" if method == "LWM" else method, "seed": cell.repetition,
                  "updates": updates(search) if search else 0, "measure": name, "accuracy": outcomes.accuracy(measure)}
                 for name, measure in (("clean", "clean"), ("verify", "robust"))]
    return pd.DataFrame(rows, columns=["method", "seed", "updates", "measure", "accuracy"])


def rates(f: Results) -> pd.DataFrame:
    """Columns method, keep, granularity, training, seed, position, layer, weights, kept, share: a row per layer of
    every pruned network.
    """
    return pd.DataFrame([{**f.named(cell), "position": position, **row} for cell, counted in f.layers.items()
                         for position, row in enumerate(counted.to_dict("records"))])


def rules(f: Results) -> pd.DataFrame:
    """As `rates`, at every keep, for the rules that need no images, applied to the dense networks: `data-free` (where
    HARP's search would end without images) and `LAMP`. Without training, weights and kept.
    """
    rows = []
    for keep in f.section.keeps:
        harp = f.of(Condition("HARP", keep, loss=f.section.losses[0]), failed=True)
        for seed, tensors in f.dense_weights.items():
            sizes = [tensor.numel() for tensor in tensors.values()]
            shares = {"data-free": rates_without_data(search_of(harp[0].recipe), sizes) if harp
                      else by_rule.data_free(sizes, keep),
                      "LAMP": [count / n for count, n in zip(by_rule.lamp(list(tensors.values()), keep), sizes,
                                                             strict=True)]}
            rows += [{"method": method, "keep": float(keep), "granularity": "weights", "seed": seed,
                      "position": position, "layer": name, "share": share}
                     for method, found in shares.items()
                     for position, (name, share) in enumerate(zip(tensors, found, strict=True))]
    return pd.DataFrame(rows)


def of_weights(table: pd.DataFrame, section: Section) -> pd.DataFrame:
    """The rows of a table about networks pruned by weight (and unpruned ones), trained and pruned with the section's
    first loss. Needs the columns granularity and training.
    """
    return table[(table.granularity == "weights") & (table.training == section.losses[0])]


def of_channels(table: pd.DataFrame, section: Section) -> pd.DataFrame:
    """The rows of a table about networks pruned by channel and about dense ones, with the section's first loss. Needs
    the columns method, granularity and training.
    """
    shown = (table.granularity == "channels") | (table.method == "dense")
    return table[shown & (table.training == section.losses[0])]


def searches(f: Results) -> pd.DataFrame:
    """Columns method, keep, granularity, training, seed, epoch, loss, accuracy, hardware_loss, share, gamma: a row per
    epoch of every search that learns rates. share: the cost of the masked network as a share of the dense network's.
    """
    rows = [{**f.named(cell), "epoch": row["epoch"] + 1, "loss": row["loss"], "accuracy": row["accuracy"],
             "hardware_loss": row["hardware_loss"], "share": row["kept"], "gamma": row["gamma"]}
            for cell, log in f.logs.items() for row in log if "gamma" in row]
    return pd.DataFrame(rows, columns=["method", "keep", "granularity", "training", "seed", "epoch", "loss", "accuracy",
                                       "hardware_loss", "share", "gamma"])


def choices(f: Results) -> pd.DataFrame:
    """Columns method, keep, seed, epoch, holdout, robust, clean, on holdout, on test: a row per kept epoch of a
    fine-tuning. The last two say whether it is the best on held-out images and the best on test images (the first of
    equals, as in training).
    """
    table = pd.DataFrame([{"method": one.condition.method, "keep": float(one.condition.keep), "seed": one.repetition,
                           "epoch": one.condition.epoch, "holdout": one.holdout, "robust": one.robust,
                           "clean": one.clean} for one in f.choices])
    runs = table.groupby(["method", "keep", "seed"], sort=False)
    for name, by in (("on holdout", "holdout"), ("on test", "robust")):
        table[name] = table.index.isin(runs[by].idxmax())
    return table


def choice_summary(f: Results) -> pd.DataFrame:
    """Columns method, keep, epochs, on holdout, on test, added, low, high, a row per method and keep. on holdout, on
    test: robust test accuracy of the kept epoch chosen on held-out and on test images, means over repetitions. added:
    the difference, with its 95 % t interval over repetitions. epochs: the ones chosen on held-out images, one per
    repetition.
    """
    rows = []
    for (method, keep), runs in choices(f).groupby(["method", "keep"], sort=False):
        fair, best = (runs[runs[name]].set_index("seed") for name in ("on holdout", "on test"))
        added = seeds((best.robust - fair.robust).to_numpy())
        rows.append({"method": method, "keep": keep, "epochs": ", ".join(str(n) for n in fair.epoch),
                     "on holdout": fair.robust.mean(), "on test": best.robust.mean(), "added": added.value,
                     "low": added.low, "high": added.high})
    return pd.DataFrame(rows)
