"""Tidy tables of the HARP notebook, as lib.plots.pruning draws them."""

from __future__ import annotations

import pandas as pd

from lib.models import rates as by_rule
from lib.plan.harp_pruning import Cell
from lib.pruning.study import Found
from lib.training.evaluation import attack_name, columns
from lib.training.gates import Checks


def _named(cell: Cell) -> dict:
    arm = cell.arm
    return {"method": arm.method, "keep": float(arm.keep), "granularity": arm.granularity, "training": arm.loss,
            "seed": cell.seed}


def accuracies(f: Found) -> pd.DataFrame:
    """A row per network and measure (clean, search, verify, ...): accuracy and balanced accuracy (the mean over
    classes), the counted share of weights that are kept, and the protocol.
    """
    rows = []
    for cell, found in f.outcomes.items():
        left, every = f.weights(cell) if cell in f.layers else (1, 1)
        for which in ("clean", *found):
            outcome = found[which] if which in found else next(iter(found.values()))
            verdict = "clean" if which == "clean" else "robust"
            rows.append({**_named(cell), "measure": which, "accuracy": outcome.accuracy(verdict),
                         "balanced": outcome.balanced_accuracy(verdict), "kept": left / every,
                         "network": cell.recipe.key, "warnings": "; ".join(outcome.warnings),
                         **columns(outcome.protocol)})
    return pd.DataFrame(rows)


def summary(f: Found) -> pd.DataFrame:
    """Mean accuracies by training, granularity, keep and method, clean and under each attack, with their balanced twins
    (`clean, balanced`) where classes are not of one size.
    """
    table = accuracies(f)
    names = {"clean": "clean", "search": attack_name(f.section.search), "verify": attack_name(f.section.verify)}
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


def rates(f: Found) -> pd.DataFrame:
    """Rows method, keep, granularity, training, seed, position, layer, weights, kept, share: every layer of every
    pruned network.
    """
    return pd.DataFrame([{**_named(cell), "position": position, **row} for cell, counted in f.layers.items()
                         for position, row in enumerate(counted.to_dict("records"))])


def rules(f: Found) -> pd.DataFrame:
    """As `rates`, for rules that see no image, at every keep: `data-free` and `LAMP` on the dense networks' weights."""
    rows = []
    for keep in f.section.keeps:
        for seed, tensors in f.dense_weights.items():
            sizes = [tensor.numel() for tensor in tensors.values()]
            shares = {"data-free": by_rule.data_free(sizes, keep),
                      "LAMP": [count / n for count, n in zip(by_rule.lamp(list(tensors.values()), keep), sizes,
                                                             strict=True)]}
            rows += [{"method": method, "keep": float(keep), "granularity": "weights", "seed": seed,
                      "position": position, "layer": name, "share": share}
                     for method, found in shares.items()
                     for position, (name, share) in enumerate(zip(tensors, found, strict=True))]
    return pd.DataFrame(rows)


def counts(f: Found) -> pd.DataFrame:
    """Rows training, granularity, keep, method, kept, of, share, emptiest layer, its weights: what pruned networks
    keep, counted, means over repetitions; and the layer that keeps the fewest in any of them.
    """
    rows = []
    for cell, counted in f.layers.items():
        left, every = f.weights(cell)
        least = counted.loc[counted.kept.idxmin()]
        rows.append({**_named(cell), "kept": left, "of": every, "share": left / every, "emptiest layer": least.layer,
                     "its weights": int(least.kept)})
    table = pd.DataFrame(rows)
    keys = ["training", "granularity", "keep", "method"]
    numbers = table.groupby(keys, sort=False)[["kept", "of", "share"]].mean()
    least = table.loc[table.groupby(keys, sort=False)["its weights"].idxmin(), [*keys, "emptiest layer", "its weights"]]
    return numbers.reset_index().merge(least, on=keys)


def searches(f: Found) -> pd.DataFrame:
    """Rows method, keep, granularity, training, seed, epoch, loss, accuracy, hardware_loss, share, gamma of every
    search in which rates are learned: its trajectory. share: the cost of the masks as one of the dense network's.
    """
    return pd.DataFrame([
        {**_named(cell), "epoch": row["epoch"] + 1, "loss": row["loss"], "accuracy": row["accuracy"],
         "hardware_loss": row["hardware_loss"], "share": row["kept"], "gamma": row["gamma"]}
        for cell, log in f.logs.items() for row in log if "gamma" in row])


def own_checks(own: dict[str, Checks]) -> pd.DataFrame:
    """Rows claim, check, holds, detail of the preconditions of single claims."""
    found = pd.concat([checks.table().assign(claim=claim) for claim, checks in own.items()], ignore_index=True)
    return found[["claim", "check", "holds", "detail"]]
