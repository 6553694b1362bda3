"""Tidy tables of the representation similarity notebook; lib.papers.representation_similarity.figures draws some.

Similarities are CKA unless said otherwise; accuracies are in [0, 1]; seed counts repetitions from 0. `matched normal`
(M) is interpolated between two kinds of briefly trained networks, and left out if they do not lie about the robust ones
in clean accuracy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from lib.papers.representation_similarity import reference
from lib.papers.representation_similarity.evidence import brackets, by_strength, matched, overfitted, pairs_of
from lib.papers.representation_similarity.measured import MOVED
from lib.papers.representation_similarity.networks import BRIEF
from lib.papers.representation_similarity.results import POOL, Results
from lib.similarity.summaries import block_index, block_share, by_distance, mean_off_diagonal, same_layer, thirds


def describe(study) -> str:
    """Two lines on what a run compares: data, test images used, architecture and layers; threat, networks per kind,
    arms and the number of trained networks. study: the notebook's `lib.study.Study`.
    """
    s, networks = study.section, study.section.own(study.networks)
    data, threat = networks.data, networks.threat
    return (f"{data.name}: {data.n_train} training images, {s.images or data.n_test} test images "
            f"looked at, in minibatches of {s.batch}; {networks.arch}, layers: {s.layers}\n"
            f"threat: {threat.norm}, eps {threat.eps}; {s.seeds} networks of each kind, {s.arm_seeds} of each arm: "
            f"{', '.join(arm.name for arm in s.arms)}; {len(study.keys)} trained networks in the plan")


def title(kind: str) -> str:
    """The name of a kind of network in figures."""
    named = POOL | {"M": "matched normal"}
    return named["U"] if kind.startswith("U, ") else named.get(kind, kind)


def needed(kind: str) -> tuple[str, ...]:
    """The kinds of networks that a kind of the pool needs: M is interpolated between two at the accuracy of a third."""
    return (*BRIEF, "R") if kind == "M" else (kind,)


def kinds_of(f: Results) -> list[str]:
    """All kinds with self maps: the pool's, then the arms' (normal and robust where an arm has both)."""
    pool = [*POOL]
    pool[3:3] = ["M"] if brackets(f) else []
    return [*f.section.untrained_kinds, *pool[1:], *(kind for arm in f.section.arms for kind in arm.kinds)]


def of_self_maps(f: Results, read: Callable, kinds: Sequence[str] = ()) -> Iterator[tuple[str, int, object]]:
    """Yield (kind, seed, read(map [L, L], layers)) for every network's self map on clean test images, of these kinds or
    of all. Further untrained networks of a repetition have further seeds.
    """
    further = f.section.untrained_kinds
    for kind in kinds or kinds_of(f):
        left = f.left(needed(kind), f.seeds(needed(kind)[0]))

        def of_view(one: str, maps, seed: int):
            return read(maps.between(f"{one}{seed}", f"{one}{seed}"), maps.layers[f"{one}{seed}"])

        for seed in left:
            if kind == "M":
                yield kind, seed, matched(f, left, lambda one, seed=seed: of_view(one, f.pool, seed))
            else:
                beyond = further.index(kind) * f.section.seeds if kind in further else 0
                yield kind, seed + beyond, of_view(kind, f.maps(kind), seed)


def mean_map(f: Results, a: str, b: str) -> np.ndarray:
    """The mean map [L, L] of two kinds of the pool, or M: over self maps if the kinds are the same (of untrained
    networks over all that each repetition has), otherwise over pairs of different repetitions.
    """
    if a == b == "U":
        further = f.section.untrained_kinds
        return np.mean([values for kind, _, values in of_self_maps(f, lambda values, _: values, further)], axis=0)
    left = f.left((*needed(a), *needed(b)), f.section.seeds)
    if "M" in (a, b):
        return matched(f, left, lambda kind: _mean_map(f, *(kind if one == "M" else one for one in (a, b)), left))
    return _mean_map(f, a, b, left)


def _mean_map(f: Results, a: str, b: str, left: list[int]) -> np.ndarray:
    pairs = [(i, i) for i in left] if a == b else list(pairs_of(a, b, left))
    return np.mean([f.pool.between(f"{a}{i}", f"{b}{j}") for i, j in pairs], axis=0)


def control_panels(f: Results) -> dict[str, tuple[str, str]]:
    """The panels of the controls, for `maps_of`; with M if it can be interpolated, otherwise with the kind of briefly
    trained networks that learned longer.
    """
    brief = "M" if brackets(f) else "M+"
    return {"untrained": ("U", "U"), title(brief): (brief, brief), f"normal and {title(brief)}": ("N", brief)}


def maps_of(f: Results, panels: Mapping[str, tuple[str, str]]) -> tuple[dict, dict, dict]:
    """Three dictionaries by panel title, as plots.similarity_maps takes them: mean maps [L, L], notes with the
    accuracies of the kinds, names of the kinds for the axes. panels: {title: two kinds of the pool}; one whose networks
    failed is left out.
    """
    panels = {name: (a, b) for name, (a, b) in panels.items()
              if len(f.left((*needed(a), *needed(b)), f.section.seeds)) >= len({a, b})}
    maps = {name: mean_map(f, *pair) for name, pair in panels.items()}
    notes = {name: "; ".join(_note(f, kind) for kind in dict.fromkeys(pair)) for name, pair in panels.items()}
    return maps, notes, {name: tuple(title(kind) for kind in pair) for name, pair in panels.items()}


def _note(f: Results, kind: str) -> str:
    return "interpolated between two trainings" if kind == "M" else f.note(kind)


def distances(f: Results) -> pd.DataFrame:
    """Columns kind, seed, distance (between layers, as a share of the depth), similarity (mean at that distance), for
    the pool's networks and M.
    """
    shown = {"U", "N", "R"} | ({"M"} if brackets(f) else {*BRIEF})
    rows = [{"kind": title(kind), "seed": seed, "distance": (d + 1) / len(values), "similarity": value}
            for kind, seed, values in of_self_maps(f, lambda values, layers: by_distance(values)) if kind in shown
            for d, value in enumerate(values)]
    return pd.DataFrame(rows)


def summaries(f: Results) -> pd.DataFrame:
    """Columns kind, seed, summary, value: the summaries of every self map."""
    names = ("mean off-diagonal", "block index", "block index, share of what is left")

    def read(values, layers) -> np.ndarray:
        return np.array([mean_off_diagonal(values), block_index(values, layers), block_share(values, layers)])

    return pd.DataFrame([{"kind": title(kind), "seed": seed, "summary": name, "value": value}
                         for kind, seed, found in of_self_maps(f, read)
                         for name, value in zip(names, found, strict=True)])


def second(f: Results) -> pd.DataFrame:
    """Columns kind, seed, summary, value: the mean off-diagonal of self maps by each further measure."""
    kinds = [*BRIEF, *(["M"] if brackets(f) else []), "N", "R"]
    rows = []
    for measure, maps in f.second.items():
        def bright(kind: str, seed: int, maps=maps) -> float:
            return mean_off_diagonal(maps.between(f"{kind}{seed}", f"{kind}{seed}"))

        for kind in kinds:
            left = f.left(needed(kind), f.section.seeds)
            rows += [{"kind": title(kind), "seed": seed, "summary": f"mean off-diagonal, {measure}",
                      "value": matched(f, left, lambda one, seed=seed, read=bright: read(one, seed)) if kind == "M" else
                      bright(kind, seed)} for seed in left]
    return pd.DataFrame(rows)


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
            every = (*needed(a), *needed(b))
            maps = f.pool if {*every} <= {*POOL} else f.arms
            left = f.left(every, f.section.seeds if maps is f.pool else f.section.arm_seeds)
            if {f"{kind}{seed}" for kind in every for seed in left} <= set(maps.views):
                rows += [{"kind": title(a), "other": title(b), "seed": i, "other_seed": j,
                          "similarity": _near(f, maps, a, b, i, j, left)} for i, j in pairs_of(a, b, left)]
    return pd.DataFrame(rows)


def _near(f: Results, maps, a: str, b: str, i: int, j: int, left: list[int]) -> float:
    """The mean same-layer similarity of network i of kind a and network j of kind b, of which one or both may be M."""
    if "M" in (a, b):
        return matched(f, left, lambda kind: _near(f, maps, *(kind if one == "M" else one for one in (a, b)), i, j,
                                                   left))
    return same_layer(maps.between(f"{a}{i}", f"{b}{j}"))


def pool_kinds(f: Results) -> tuple[str, ...]:
    """The kinds that C3 compares, for `kinds`: with M if it can be interpolated, otherwise with its two kinds."""
    return ("U", *(["M"] if brackets(f) else BRIEF), "N", "R")


def neighbours(pairs: pd.DataFrame) -> pd.DataFrame:
    """Columns of (robust or untrained), kind, seed, similarity: the mean same-layer similarity of one network of the
    first kind with those of another kind and of other repetitions. pairs: as returned by `kinds`.
    """
    turned = pairs.rename(columns={"kind": "other", "other": "kind", "seed": "other_seed", "other_seed": "seed"})
    both = pd.concat([pairs, turned])
    found = both[both.kind.isin(["robust", "untrained"])].groupby(["kind", "other", "seed"], sort=False).similarity
    return found.mean().reset_index().rename(columns={"kind": "of", "other": "kind"})


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
    table = table.assign(kind=table.kind.map(title))
    wide = table.pivot_table(index="kind", columns="measure", values="accuracy", sort=False)
    names = {"clean": "clean (test)", "train": "clean (training)", "search": f"PGD-{f.section.search.steps}",
             "verify": "stronger attack", "own": "PGD, own threat"}
    wide = wide.rename(columns=names)
    return wide[[name for name in names.values() if name in wide]]
