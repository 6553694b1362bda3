"""Evidence and preconditions of the representation similarity notebook; its claims are in
claims/representation_similarity.yaml. Every summary of maps is jackknifed over repetitions (networks) and minibatches
(images), see lib.statistics.jackknife.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from itertools import combinations, pairwise

import numpy as np

from lib.claims.evidence import Evidence
from lib.claims.preconditions import Preconditions, attack_warnings
from lib.papers.representation_similarity.networks import Condition
from lib.papers.representation_similarity.results import Results
from lib.similarity.maps import Maps
from lib.similarity.summaries import block_index, block_share, mean_off_diagonal, same_layer, thirds
from lib.statistics import jackknife
from lib.training.zoo import Zoo


def pairs_of(a: str, b: str, seeds: int, without: int | None) -> Iterable[tuple[int, int]]:
    """The pairs of repetitions of two kinds of networks: all pairs of different repetitions; for a single kind, each
    unordered pair once. without: a repetition to leave out.
    """
    chosen = [seed for seed in range(seeds) if seed != without]
    return combinations(chosen, 2) if a == b else ((i, j) for i in chosen for j in chosen if i != j)


def across(maps: Maps, a: str, b: str, seeds: int, seed: int | None = None, batch: int | None = None) -> float:
    """Mean same-layer similarity of networks of kinds a and b, over pairs of different repetitions. seed, batch: a
    repetition and a minibatch to leave out.
    """
    return float(np.mean([same_layer(maps.between(f"{a}{i}", f"{b}{j}", without=batch))
                          for i, j in pairs_of(a, b, seeds, seed)]))


def inside(maps: Maps, kind: str, seeds: int, summary: Callable = mean_off_diagonal, seed: int | None = None,
           batch: int | None = None) -> float:
    """Mean over repetitions of a summary of self maps. seed, batch: a repetition and a minibatch to leave out."""
    names = [f"{kind}{i}" for i in range(seeds) if i != seed]
    return float(np.mean([summary(maps.between(name, name, without=batch)) for name in names]))


def evidence(f: Results) -> Evidence:
    """{claim: {part: {instance: array}}} for the judge: jackknifed pseudo-values [S, B], over S repetitions and B
    minibatches, of differences between kinds of networks in units of CKA; for C9a values [S] of a further measure.
    """
    found = Evidence()
    for part in (_within, _between, _perturbed, _overfitting, _arms):
        part(f, found)
    for name, maps in f.second.items():
        found.add("C9a", "gap", name, _per_seed(f, maps))
    return found


def _within(f: Results, found: Evidence) -> None:
    """C1 and C2: self maps."""
    pool, seeds = f.pool, f.section.seeds
    layers = pool.layers["N0"]

    def gap(a: str, b: str, summary: Callable = mean_off_diagonal) -> np.ndarray:
        return jackknife(lambda seed, batch: inside(pool, a, seeds, summary, seed, batch)
                         - inside(pool, b, seeds, summary, seed, batch), seeds, pool.batches)

    blocks, share = (partial(summary, layers=layers) for summary in (block_index, block_share))
    found.add("C1a", "gap", "R minus N", gap("R", "N"))
    found.add("C1b", "beyond_underfitting", "R minus M", gap("R", "M"))
    found.add("C2a", "fades", "N minus R", gap("N", "R", blocks))
    found.add("C2b", "fades_beyond_brightness", "N minus R", gap("N", "R", share))
    found.add("C2b", "is_learned", "N minus U", gap("N", "U", share))


def _between(f: Results, found: Evidence) -> None:
    """C3: maps between networks."""
    pool, seeds = f.pool, f.section.seeds

    def gap(a: tuple[str, str], b: tuple[str, str]) -> np.ndarray:
        return jackknife(lambda *w: across(pool, *a, seeds, *w) - across(pool, *b, seeds, *w), seeds, pool.batches)

    if seeds < 3:
        return  # leaving one out leaves no pair
    for a in "NR":
        found.add("C3a", "below_same_type", f"{a}-{a}' minus N-R", gap((a, a), ("N", "R")))
    found.add("C3b", "below_matched", "N-M minus N-R", gap(("N", "M"), ("N", "R")))


def _perturbed(f: Results, found: Evidence) -> None:
    """C4: clean compared with perturbed images, in early and deep layers (the first and the last third)."""
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

    found.add("C4a", "early_unchanged", "R", values(lambda *w: mean("R", "own", early, *w)))
    for name in ("own", "of N", "of R"):
        less = values(lambda *w, n=name: mean("N", n, fall, *w) - mean("R", n, fall, *w))
        found.add("C4a", "deep_changes_less", name, less)
    apart = values(lambda *w: mean("R", "own", early, *w) - mean("N", "own", early, *w))
    found.add("C4b", "early_above_normal", "R minus N", apart)
    aimed = values(lambda *w: mean("N", "own", fall, *w) - mean("N", "noise", fall, *w))
    found.add("C4b", "more_than_noise", "N", aimed)


def overfitted(f: Results) -> dict[int, tuple[int, float]]:
    """{seed: (best epoch, fall)} of the overfitting runs: the kept epoch with the highest robust accuracy on held-out
    images, and by how much robust accuracy on test images fell from that epoch to the last.
    """
    found = {}
    for seed in range(f.section.overfitting.seeds):
        members = {c.condition.epoch: f.outcomes[c] for c in f.of(kind="overfits") if c.repetition == seed}
        best = max(members, key=lambda epoch: members[epoch]["holdout"].accuracy("robust"))
        tests = {epoch: got["search"].accuracy("robust") for epoch, got in members.items()}
        found[seed] = best, tests[best] - tests[max(tests)]
    return found


def _overfitting(f: Results, found: Evidence) -> None:
    """C5: how much more deep layers than early ones have changed since the best epoch, by itself and compared with the
    control run.
    """
    if not f.runs:
        return
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
    moves = jackknife(lambda *w: mean("overfits", *w), o.seeds, batches)
    found.add("C5", "deep_moves", "deep minus early", moves)
    beyond = jackknife(lambda *w: mean("overfits", *w) - mean("control", *w), o.seeds, batches)
    found.add("C5", "beyond_control", "overfitting run minus control", beyond)


def _arms(f: Results, found: Evidence) -> None:
    """C6 to C9b: the arms, compared with each other and with normal and robust networks of the first repetitions."""
    s, maps = f.section, f.arms
    arms = {arm.name: arm for arm in s.arms}
    if s.arm_seeds < 3:
        return

    def values(summary: Callable, where: Maps = maps) -> np.ndarray:
        return jackknife(summary, s.arm_seeds, where.batches)

    def near(a: str, b: str, w) -> float:
        return across(maps, a, b, s.arm_seeds, *w)

    threats = ["R", *(name for name, arm in arms.items() if arm.group == "threat")]
    pairs = list(combinations(threats, 2))
    noise = next((name for name, arm in arms.items() if arm.training == "noise"), None)
    for a, b in pairs:
        alike = values(lambda *w, a=a, b=b: near(a, b, w) - (near(a, "N", w) + near(b, "N", w)) / 2)
        found.add("C6a", "alike", f"{a}-{b}", alike)
        if noise:
            beyond = values(lambda *w, a=a, b=b: near(a, b, w) - (near(a, noise, w) + near(b, noise, w)) / 2)
            found.add("C6b", "beyond_noise", f"{a}-{b}", beyond)
    budgets = by_strength(f)
    if len(budgets) >= 2:
        first, last = budgets[0], budgets[-1]
        found.add("C7", "falls_at_once", first, values(lambda *w: near("N", "N", w) - near("N", first, w)))
        for a, b in pairwise(budgets):
            found.add("C7", "neighbours_alike", f"{a}-{b}",
                      values(lambda *w, a=a, b=b: near(a, b, w) - near("N", b, w)))
        found.add("C7", "grows", f"{last} minus {first}", values(
            lambda *w: inside(maps, last, s.arm_seeds, mean_off_diagonal, *w)
            - inside(maps, first, s.arm_seeds, mean_off_diagonal, *w)))

    def gap(kind: str, normal: str) -> np.ndarray:
        where = f.maps(kind)
        return values(lambda *w: inside(where, kind, s.arm_seeds, mean_off_diagonal, *w)
                      - inside(where, normal, s.arm_seeds, mean_off_diagonal, *w), where)

    for claim, group in (("C8a", "procedure"), ("C8b", "architecture"), ("C9b", "data")):
        for name in [name for name, arm in arms.items() if arm.group == group and arm.training != "noise"]:
            kinds = (name, "N") if group == "procedure" else (f"R {name}", f"N {name}")
            found.add(claim, "gap", name, gap(*kinds))


def by_strength(f: Results) -> list[str]:
    """The kinds trained in the pool's norm, by growing eps, including the pool's robust networks; empty without arms of
    the group strength.
    """
    eps = {arm.name: arm.threat.eps for arm in f.section.arms if arm.group == "strength"}
    return sorted({**eps, "R": 0}, key={**eps, "R": f.networks.threat.eps}.get) if eps else []


def _per_seed(f: Results, maps: Maps) -> np.ndarray:
    """[S]: robust minus normal in every repetition. Measures on pooled activations use all images at once, without
    minibatches.
    """
    own = {name: mean_off_diagonal(maps.between(name, name)) for name in maps.views}
    return np.array([own[f"R{i}"] - own[f"N{i}"] for i in range(f.section.seeds)])


def warnings(zoo: Zoo, f: Results) -> list[str]:
    """Reasons to mistrust robust accuracies, one sentence each, found on the pool's first robust network."""
    first, *_ = f.of(kind="R")
    return attack_warnings(zoo, first.recipe, f.networks.threat, f.section.search)


def preconditions(f: Results, warnings: list[str]) -> Preconditions:
    """What must hold before any claim is judged: the pool's networks are trained, exactly the robust ones are robust,
    the attack works (`warnings`), and every layer has a defined similarity.
    """
    s, checks = f.section, Preconditions()
    checks.pool(s.gates, s.verify, *f.of_pool(Condition("N"), Condition("R")))
    checks.attack(warnings)
    every = [f.pool, f.arms, *f.elsewhere.values(), *f.moved.values(), *f.second.values(), *f.runs.values()]
    undefined = [f"{label} of {view}: {why}" for maps in every if maps for (view, label), why in maps.undefined.items()]
    said = f"{len(undefined)} have none, the first is {undefined[0]}" if undefined else "no layer is near-constant"
    checks.add("every layer has a number", not undefined, said)
    return checks


def named_checks(f: Results) -> dict[str, Preconditions]:
    """Further preconditions by subject: `matched` (briefly trained normal networks have the clean accuracies of robust
    ones on test and training images) and, with overfitting runs, `overfitting` (they overfit).
    """
    s, found = f.section, {"matched": Preconditions()}
    for which, where in (("clean", "test"), ("train", "training")):
        brief, robust = (f.correct(Condition(kind), which).mean() for kind in "MR")
        found["matched"].add(f"matched on {where} images", abs(brief - robust) <= s.matched_within,
                             f"the briefly trained normal networks' clean accuracy is {brief:.1%}, the robust ones' "
                             f"{robust:.1%}, at most {s.matched_within:.0%} apart allowed")
    if f.runs:
        fall, found["overfitting"] = np.mean([fall for _, fall in overfitted(f).values()]), Preconditions()
        found["overfitting"].add("the run overfits", fall >= s.overfitting.fall,
                                 f"robust accuracy on test images fell by {fall:.1%} from its best epoch, at least "
                                 f"{s.overfitting.fall:.0%} needed")
    return found


def claim_preconditions(f: Results) -> dict[str, Preconditions]:
    """{claim: the `named_checks` that must also hold before it is judged}"""
    checks = named_checks(f)
    found = {"C1b": checks["matched"], "C3b": checks["matched"]}
    return found | ({"C5": checks["overfitting"]} if "overfitting" in checks else {})
