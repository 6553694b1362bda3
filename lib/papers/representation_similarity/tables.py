"""Tidy tables of the representation similarity notebook; lib.papers.representation_similarity.figures draws some.

Similarities are CKA unless said otherwise; accuracies are in [0, 1]; seed counts repetitions from 0.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from lib.papers.representation_similarity import reference
from lib.papers.representation_similarity.evidence import by_strength, overfitted, pairs_of
from lib.papers.representation_similarity.results import MOVED, POOL, Results
from lib.similarity.summaries import block_index, block_share, by_distance, mean_off_diagonal, same_layer, thirds


def describe(study) -> str:
    """Two lines on what a run compares: data, test images used, architecture and layers; threat, networks per kind,
    arms and the number of trained networks. study: the notebook's `lib.study.Study`.
    """
    s, networks = study.section, study.networks
    data, threat = networks.data, networks.threat
    return (f"{data.name}: {data.n_train} training images, {s.images or data.n_test} test images "
            f"looked at, in minibatches of {s.batch}; {s.arch or networks.arch}, layers: {s.layers}\n"
            f"threat: {threat.norm}, eps {threat.eps}; {s.seeds} networks of each kind, {s.arm_seeds} of each arm: "
            f"{', '.join(arm.name for arm in s.arms)}; {len(study.keys)} trained networks in the plan")


def title(kind: str) -> str:
    """The name of a kind of network in figures."""
    return POOL.get(kind, kind)


def kinds_of(f: Results) -> list[str]:
    """All kinds of networks with self maps: the pool's, then the arms' (normal and robust where an arm has both)."""
    return [*POOL, *(kind for arm in f.section.arms for kind in arm.kinds)]


def self_maps(f: Results):
    """Yield (kind, seed, map [L, L], layers) for every network's self map on clean test images."""
    for kind in kinds_of(f):
        maps = f.maps(kind)
        for seed in f.left((kind,), f.seeds(kind)):
            name = f"{kind}{seed}"
            yield kind, seed, maps.between(name, name), maps.layers[name]


def mean_map(f: Results, a: str, b: str) -> np.ndarray:
    """The mean map [L, L] of two kinds of the pool: over self maps if the kinds are the same, otherwise over pairs of
    different repetitions.
    """
    left = f.left((a, b), f.section.seeds)
    if a == b:
        return np.mean([f.pool.between(f"{a}{i}", f"{a}{i}") for i in left], axis=0)
    pairs = list(pairs_of(a, b, left))
    return np.mean([f.pool.between(f"{a}{i}", f"{b}{j}") for i, j in pairs], axis=0)


def maps_of(f: Results, panels: Mapping[str, tuple[str, str]]) -> tuple[dict, dict, dict]:
    """Three dictionaries by panel title, as plots.similarity_maps takes them: mean maps [L, L], notes with the
    accuracies of the kinds, names of the kinds for the axes. panels: {title: two kinds of the pool}; one whose networks
    failed is left out.
    """
    panels = {name: pair for name, pair in panels.items() if len(f.left(pair, f.section.seeds)) >= len({*pair})}
    maps = {name: mean_map(f, *pair) for name, pair in panels.items()}
    notes = {name: "; ".join(f.note(kind) for kind in dict.fromkeys(pair)) for name, pair in panels.items()}
    return maps, notes, {name: tuple(title(kind) for kind in pair) for name, pair in panels.items()}


def distances(f: Results) -> pd.DataFrame:
    """Columns kind, seed, distance (between layers, as a share of the depth), similarity (mean at that distance), for
    the pool's networks.
    """
    rows = [{"kind": title(kind), "seed": seed, "distance": (d + 1) / (len(values) - 1), "similarity": value}
            for kind, seed, values, _ in self_maps(f) if kind in POOL for d, value in enumerate(by_distance(values))]
    return pd.DataFrame(rows)


def summaries(f: Results) -> pd.DataFrame:
    """Columns kind, seed, summary, value: the summaries of every self map."""
    rows = []
    for kind, seed, values, layers in self_maps(f):
        found = {"mean off-diagonal": mean_off_diagonal(values), "block index": block_index(values, layers),
                 "block index, share of what is left": block_share(values, layers)}
        rows += [{"kind": title(kind), "seed": seed, "summary": name, "value": value} for name, value in found.items()]
    return pd.DataFrame(rows)


def second(f: Results) -> pd.DataFrame:
    """Columns kind, seed, summary, value: the mean off-diagonal of self maps by each further measure."""
    return pd.DataFrame([
        {"kind": title(name[0]), "seed": int(name[1:]), "summary": f"mean off-diagonal, {measure}",
         "value": mean_off_diagonal(maps.between(name, name))} for measure, maps in f.second.items()
        for name in maps.views])


def perturbed(f: Results) -> pd.DataFrame:
    """Columns kind, perturbation, seed, position (of the layer), similarity (of the layer on clean and on perturbed
    images).
    """
    return pd.DataFrame([
        {"kind": title(kind), "perturbation": words, "seed": seed, "position": position, "similarity": value}
        for (kind, seed), maps in f.moved.items() for name, words in MOVED.items()
        for position, value in enumerate(maps.between("clean", name).diagonal())])


def kinds(f: Results, which: tuple[str, ...]) -> pd.DataFrame:
    """Columns kind, other, seed, other_seed, similarity: the mean same-layer similarity of two networks of different
    repetitions, for all pairs of the kinds `which` that are on the same maps.
    """
    rows = []
    for n, a in enumerate(which):
        for b in which[n:]:
            maps = f.pool if a in POOL and b in POOL else f.arms
            seeds = f.left((a, b), f.section.seeds if maps is f.pool else f.section.arm_seeds)
            names = {f"{kind}{seed}" for kind in (a, b) for seed in seeds}
            if names <= set(maps.views):
                rows += [{"kind": title(a), "other": title(b), "seed": i, "other_seed": j,
                          "similarity": same_layer(maps.between(f"{a}{i}", f"{b}{j}"))}
                         for i, j in pairs_of(a, b, seeds)]
    return pd.DataFrame(rows)


def threat_kinds(f: Results) -> tuple[str, ...]:
    """The kinds that C6 compares: normal networks, networks trained on random noise, robust networks of every threat.
    """
    arms = f.section.arms
    return ("N", *(arm.name for arm in arms if arm.training == "noise"),
            "R", *(arm.name for arm in arms if arm.group == "threat"))


def same_layer_in_words(table: pd.DataFrame) -> str:
    """A sentence on normal and robust networks: their mean same-layer similarity, its least and largest value over
    pairs of networks, and the paper's number. table: as returned by `kinds`.
    """
    ours = table[(table.kind == "normal") & (table.other == "robust")].similarity
    return (f"normal and robust, mean of the diagonal: {ours.mean():.2f} here ({ours.min():.2f} to {ours.max():.2f}); "
            f"the paper's networks: {reference.SAME_LAYER['normal', 'robust']}")


def strengths(f: Results) -> pd.DataFrame:
    """Columns eps, seed, to_normal, self, for normal networks (eps 0) and networks trained in the pool's norm at
    growing eps. to_normal: mean same-layer similarity to the normal networks of other repetitions; self: mean
    off-diagonal similarity of the self map.
    """
    maps, seeds, threat = f.arms or f.pool, f.section.arm_seeds, f.networks.threat
    eps = {arm.name: arm.threat.eps for arm in f.section.arms if arm.group == "strength"}
    rows = []
    for kind in ["N", *by_strength(f)]:
        budget = float({**eps, "N": 0, "R": threat.eps}[kind])
        for seed in f.left((kind,), seeds):
            name = f"{kind}{seed}"
            near = [same_layer(maps.between(name, f"N{j}")) for j in f.left(("N",), seeds) if j != seed]
            rows.append({"eps": budget, "seed": seed, "to_normal": np.mean(near) if near else np.nan,
                         "self": mean_off_diagonal(maps.between(name, name))})
    return pd.DataFrame(rows)


def runs(f: Results) -> pd.DataFrame:
    """Columns kind, seed, epoch, images (test or train), quantity, value, for the checkpoints of overfitting and
    control runs. quantity: `early` and `deep`, the similarity of these layers to the last checkpoint, and `accuracy`,
    robust on test images.
    """
    rows = []
    for (kind, seed, split), maps in f.runs.items():
        last = maps.views[-1]
        for epoch in maps.views:
            for quantity, value in zip(("early", "deep"), thirds(maps.between(epoch, last)), strict=True):
                rows.append({"kind": kind, "seed": seed, "epoch": int(epoch), "images": split, "quantity": quantity,
                             "value": value})
    for cell in f.of():
        if cell.condition.epoch is not None:
            rows.append({"kind": cell.condition.kind, "seed": cell.repetition, "epoch": cell.condition.epoch,
                         "images": "test", "quantity": "accuracy",
                         "value": f.outcomes[cell]["search"].accuracy("robust")})
    return pd.DataFrame(rows)


def falls(f: Results) -> pd.DataFrame:
    """Columns seed, best epoch (on held-out images), fall (of robust test accuracy from that epoch to the last)."""
    return pd.DataFrame([{"seed": seed, "best epoch": best, "fall": fall}
                         for seed, (best, fall) in overfitted(f).items()])


def notes_of_pool(f: Results) -> dict[str, str]:
    """{view of the pool, such as N0: its clean and its robust accuracy as text}."""
    table = f.table()
    table = table[table.epoch.isna() & table.measure.isin(["clean", "search"])]
    found: dict[str, list[str]] = {}
    for row in table.sort_values("measure").itertuples():
        found.setdefault(f"{row.kind}{row.seed}", []).append(
            f"{'clean' if row.measure == 'clean' else 'robust'} {row.accuracy:.1%}".replace("%", " %"))
    return {view: ", ".join(found[view]) for view in f.pool.views if view in found}


def accuracies(f: Results) -> pd.DataFrame:
    """A row per kind, means over repetitions: clean accuracy on test and on training images, robust accuracy under the
    weaker and the stronger attack, and under the variant's own threat.
    """
    table = f.table()
    table = table[table.epoch.isna()]
    wide = table.pivot_table(index="kind", columns="measure", values="accuracy", sort=False)
    names = {"clean": "clean (test)", "train": "clean (training)", "search": f"PGD-{f.section.search.steps}",
             "verify": "stronger attack", "own": "PGD, own threat"}
    wide = wide.rename(index=title, columns=names)
    return wide[[name for name in names.values() if name in wide]]
