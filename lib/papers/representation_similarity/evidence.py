"""What the judge of the representation similarity notebook gets. How claims are worded stands in
claims/representation_similarity.yaml; every summary of maps is jackknifed over repetitions (networks) and minibatches
(images), see lib.statistics.jackknife.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from itertools import combinations

import numpy as np

from lib.claims.preconditions import Checks
from lib.papers.representation_similarity.results import Found
from lib.similarity.maps import Maps
from lib.similarity.summaries import block_index, block_share, mean_off_diagonal, same_layer, thirds
from lib.statistics import jackknife


def pairs_of(a: str, b: str, seeds: int, without: int | None) -> Iterable[tuple[int, int]]:
    """The pairs of networks of two kinds: all of different repetitions, and each unordered pair once within a kind."""
    chosen = [seed for seed in range(seeds) if seed != without]
    return combinations(chosen, 2) if a == b else ((i, j) for i in chosen for j in chosen if i != j)


def across(maps: Maps, a: str, b: str, seeds: int, seed: int | None = None, batch: int | None = None) -> float:
    """Mean same-layer similarity of networks of kinds a and b, leaving out one repetition and one minibatch."""
    return float(np.mean([same_layer(maps.between(f"{a}{i}", f"{b}{j}", without=batch))
                          for i, j in pairs_of(a, b, seeds, seed)]))


def inside(maps: Maps, kind: str, seeds: int, summary: Callable = mean_off_diagonal, seed: int | None = None,
           batch: int | None = None) -> float:
    """Mean over repetitions of a summary of self maps."""
    names = [f"{kind}{i}" for i in range(seeds) if i != seed]
    return float(np.mean([summary(maps.between(name, name, without=batch)) for name in names]))


def evidence(f: Found) -> dict:
    """{claim: {part: {instance: array}}} for the judge: jackknifed pseudo-values [S, B] of differences between kinds of
    networks, in units of CKA.
    """
    second = {"C9a": {"gap": {name: _per_seed(f, maps) for name, maps in f.second.items()}}}
    return _within(f) | _between(f) | _perturbed(f) | _overfitting(f) | _arms(f) | second


def _within(f: Found) -> dict:
    """C1 and C2: self maps."""
    pool, seeds = f.pool, f.section.seeds
    layers = pool.layers["N0"]

    def gap(a: str, b: str, summary: Callable = mean_off_diagonal) -> np.ndarray:
        return jackknife(lambda seed, batch: inside(pool, a, seeds, summary, seed, batch)
                         - inside(pool, b, seeds, summary, seed, batch), seeds, pool.batches)

    blocks, share = (partial(summary, layers=layers) for summary in (block_index, block_share))
    return {
        "C1a": {"gap": {"R minus N": gap("R", "N")}},
        "C1b": {"beyond_underfitting": {"R minus M": gap("R", "M")}},
        "C2a": {"fades": {"N minus R": gap("N", "R", blocks)}},
        "C2b": {"fades_beyond_brightness": {"N minus R": gap("N", "R", share)},
                "is_learned": {"N minus U": gap("N", "U", share)}},
    }


def _between(f: Found) -> dict:
    """C3: maps between networks."""
    pool, seeds = f.pool, f.section.seeds

    def gap(a: tuple[str, str], b: tuple[str, str]) -> np.ndarray:
        return jackknife(lambda *w: across(pool, *a, seeds, *w) - across(pool, *b, seeds, *w), seeds, pool.batches)

    if seeds < 3:
        return {}  # leaving one out leaves no pair
    return {
        "C3a": {"below_same_type": {f"{a}-{a}' minus N-R": gap((a, a), ("N", "R")) for a in "NR"}},
        "C3b": {"below_matched": {"N-M minus N-R": gap(("N", "M"), ("N", "R"))}},
    }


def _perturbed(f: Found) -> dict:
    """C4: clean against perturbed, by depth. Early and deep: the first and the last third of the layers."""
    seeds = f.section.seeds

    def mean(kind: str, moved: str, read: Callable, seed, batch) -> float:
        chosen = [i for i in range(seeds) if i != seed]
        return float(np.mean([read(*thirds(f.moved[kind, i].between("clean", moved, without=batch))) for i in chosen]))

    def values(summary: Callable) -> np.ndarray:
        return jackknife(summary, seeds, f.moved["N", 0].batches)

    def early(first, last):
        return first

    def fall(first, last):
        return first - last

    unchanged = values(lambda *w: mean("R", "own", early, *w))
    less = {name: values(lambda *w, n=name: mean("N", n, fall, *w) - mean("R", n, fall, *w))
            for name in ("own", "of N", "of R")}
    apart = values(lambda *w: mean("R", "own", early, *w) - mean("N", "own", early, *w))
    aimed = values(lambda *w: mean("N", "own", fall, *w) - mean("N", "noise", fall, *w))
    return {"C4a": {"early_unchanged": {"R": unchanged}, "deep_changes_less": less},
            "C4b": {"early_above_normal": {"R minus N": apart}, "more_than_noise": {"N": aimed}}}


def overfitted(f: Found) -> dict[int, tuple[int, float]]:
    """{seed: (best epoch, fall)} of the overfitting runs: the kept epoch of the highest robust accuracy on held-out
    images, and by how much the robust accuracy on test images fell from there to the end.
    """
    found = {}
    for seed in range(f.section.overfitting.seeds):
        members = {c.condition.epoch: f.outcomes[c] for c in f.cells
                   if (c.condition.kind, c.repetition) == ("overfits", seed)}
        best = max(members, key=lambda epoch: members[epoch]["holdout"].accuracy("robust"))
        tests = {epoch: got["search"].accuracy("robust") for epoch, got in members.items()}
        found[seed] = best, tests[best] - tests[max(tests)]
    return found


def _overfitting(f: Found) -> dict:
    """C5: how much deep layers have moved away from the best epoch more than early ones, against the control run."""
    if not f.runs:
        return {}
    o, best = f.section.overfitting, overfitted(f)

    def moved(kind: str, seed: int, batch) -> float:
        maps = f.runs[kind, seed, "test"]
        epochs = sorted(map(int, maps.views))
        share = best[seed][0] / o.epochs
        start = min(epochs[:-1], key=lambda epoch: abs(epoch / epochs[-1] - share))
        early, deep = thirds(maps.between(str(start), str(epochs[-1]), without=batch))
        return early - deep

    def mean(kind: str, seed, batch) -> float:
        return float(np.mean([moved(kind, i, batch) for i in range(o.seeds) if i != seed]))

    batches = f.runs["overfits", 0, "test"].batches
    return {"C5": {
        "deep_moves": {"deep minus early": jackknife(lambda *w: mean("overfits", *w), o.seeds, batches)},
        "beyond_control": {"overfitting run minus control": jackknife(
            lambda *w: mean("overfits", *w) - mean("control", *w), o.seeds, batches)},
    }}


def _arms(f: Found) -> dict:
    """C6 to C9b: the arms, each against the normal and robust networks of the first repetitions."""
    s, maps = f.section, f.arms
    arms = {arm.name: arm for arm in s.arms}
    found: dict[str, dict] = {}
    if s.arm_seeds < 3:
        return found

    def values(summary: Callable, where: Maps = maps) -> np.ndarray:
        return jackknife(summary, s.arm_seeds, where.batches)

    def near(a: str, b: str, w) -> float:
        return across(maps, a, b, s.arm_seeds, *w)

    threats = ["R", *(name for name, arm in arms.items() if arm.group == "threat")]
    pairs = list(combinations(threats, 2))
    noise = next((name for name, arm in arms.items() if arm.training == "noise"), None)
    if pairs:
        found["C6a"] = {"alike": {f"{a}-{b}": values(lambda *w, a=a, b=b: near(a, b, w) - (
            near(a, "N", w) + near(b, "N", w)) / 2) for a, b in pairs}}
    if pairs and noise:
        found["C6b"] = {"beyond_noise": {f"{a}-{b}": values(lambda *w, a=a, b=b: near(a, b, w) - (
            near(a, noise, w) + near(b, noise, w)) / 2) for a, b in pairs}}
    budgets = by_strength(f)
    if len(budgets) >= 2:
        ladder = list(zip(budgets, budgets[1:], strict=False))
        found["C7"] = {
            "falls_at_once": {budgets[0]: values(lambda *w: near("N", "N", w) - near("N", budgets[0], w))},
            "neighbours_alike": {f"{a}-{b}": values(lambda *w, a=a, b=b: near(a, b, w) - near("N", b, w))
                                 for a, b in ladder},
            "grows": {f"{budgets[-1]} minus {budgets[0]}": values(
                lambda *w: inside(maps, budgets[-1], s.arm_seeds, mean_off_diagonal, *w)
                - inside(maps, budgets[0], s.arm_seeds, mean_off_diagonal, *w))},
        }

    def gap(kind: str, normal: str) -> np.ndarray:
        where = f.maps(kind)
        return values(lambda *w: inside(where, kind, s.arm_seeds, mean_off_diagonal, *w)
                      - inside(where, normal, s.arm_seeds, mean_off_diagonal, *w), where)

    for claim, group in (("C8a", "procedure"), ("C8b", "architecture"), ("C9b", "data")):
        chosen = [name for name, arm in arms.items() if arm.group == group and arm.training != "noise"]
        names = {name: (name, "N") if group == "procedure" else (f"R {name}", f"N {name}") for name in chosen}
        if names:
            found[claim] = {"gap": {name: gap(*kinds) for name, kinds in names.items()}}
    return found


def by_strength(f: Found) -> list[str]:
    """The kinds trained at growing eps of the pool's norm, the pool's robust networks among them."""
    eps = {arm.name: arm.threat.eps for arm in f.section.arms if arm.group == "strength"}
    return sorted({**eps, "R": 0}, key={**eps, "R": f.networks.threat.eps}.get) if eps else []


def _per_seed(f: Found, maps: Maps) -> np.ndarray:
    """Robust minus normal, repetition by repetition [S]: exact measures have no minibatches."""
    own = {name: mean_off_diagonal(maps.between(name, name)) for name in maps.views}
    return np.array([own[f"R{i}"] - own[f"N{i}"] for i in range(f.section.seeds)])


def preconditions(f: Found, warnings: list[str]) -> Checks:
    """What must hold before any claim is judged: trained networks of the pool, normal ones matched in clean accuracy, a
    working attack (`warnings` of `attack_warnings`), no layer without a number.
    """
    s, checks = f.section, Checks()
    checks.pool(s.gates, s.verify, f.right("N"), f.right("N", "search", "robust"), f.right("R"),
                f.right("R", "verify", "robust"))
    checks.attack(warnings)
    every = [f.pool, f.arms, *f.elsewhere.values(), *f.moved.values(), *f.second.values(), *f.runs.values()]
    undefined = [f"{label} of {view}: {why}" for maps in every if maps for (view, label), why in maps.undefined.items()]
    said = f"{len(undefined)} have none, the first is {undefined[0]}" if undefined else "no layer is near-constant"
    checks.add("every layer has a number", not undefined, said)
    return checks


def own_preconditions(f: Found) -> dict[str, list[dict]]:
    """What must hold for single claims: matched accuracies (C1b, C3b), a run that overfits (C5)."""
    s, matching = f.section, Checks()
    for which, where in (("clean", "test"), ("train", "training")):
        gap = f.accuracy("M", which) - f.accuracy("R", which)
        matching.add(f"matched on {where} images", abs(gap) <= s.matched_within,
                     f"the briefly trained normal networks' clean accuracy is {f.accuracy('M', which):.1%}, the robust "
                     f"ones' {f.accuracy('R', which):.1%}, at most {s.matched_within:.0%} apart allowed")
    found = {"C1b": matching, "C3b": matching}
    if f.runs:
        fall, check = np.mean([fall for _, fall in overfitted(f).values()]), Checks()
        check.add("the run overfits", fall >= s.overfitting.fall,
                  f"robust accuracy on test images fell by {fall:.1%} from its best epoch, at least "
                  f"{s.overfitting.fall:.0%} needed")
        found["C5"] = check
    return found
