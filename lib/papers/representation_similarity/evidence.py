"""Evidence and preconditions of the representation similarity notebook; its claims are in
claims/representation_similarity.yaml. Every summary of maps is jackknifed over repetitions (networks) and minibatches
(images), see lib.statistics.jackknife.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from itertools import combinations, pairwise

import numpy as np

from lib.claims.evidence import Evidence
from lib.claims.preconditions import Preconditions, attack_warnings
from lib.papers.representation_similarity.networks import BRIEF, Condition
from lib.papers.representation_similarity.results import Results
from lib.similarity.maps import Maps
from lib.similarity.summaries import block_share, mean_off_diagonal, same_layer, thirds
from lib.statistics import jackknife
from lib.training.zoo import Zoo


def pairs_of(a: str, b: str, repetitions: Sequence[int]) -> Iterable[tuple[int, int]]:
    """The pairs of repetitions of two kinds of networks: all pairs of different repetitions; for a single kind, each
    unordered pair once.
    """
    if a == b:
        return combinations(repetitions, 2)
    return ((i, j) for i in repetitions for j in repetitions if i != j)


def across(maps: Maps, a: str, b: str, repetitions: Sequence[int], batch: int | None = None) -> float:
    """Mean same-layer similarity of networks of kinds a and b, over pairs of different repetitions. batch: a minibatch
    to leave out.
    """
    return float(np.mean([same_layer(maps.between(f"{a}{i}", f"{b}{j}", without=batch))
                          for i, j in pairs_of(a, b, repetitions)]))


def inside(maps: Maps, kind: str, repetitions: Sequence[int], batch: int | None = None,
           summary: Callable = mean_off_diagonal) -> float:
    """Mean over repetitions of a summary of self maps. batch: a minibatch to leave out."""
    names = [f"{kind}{i}" for i in repetitions]
    return float(np.mean([summary(maps.between(name, name, without=batch)) for name in names]))


def matched(f: Results, repetitions: Sequence[int], summary: Callable[[str], float]) -> float:
    """A summary of M, the normal networks of equal clean accuracy: the summaries of the two briefly trained kinds, by
    `summary(kind)`, interpolated linearly at the mean clean accuracy of the robust networks of these repetitions. Maps
    are interpolated likewise.
    """
    shorter, longer, robust = (f.accuracy(Condition(kind))[repetitions].mean() for kind in (*BRIEF, "R"))
    share = (robust - shorter) / (longer - shorter) if longer > shorter else 0.5
    return (1 - share) * summary("M-") + share * summary("M+")


def evidence(f: Results) -> Evidence:
    """{claim: {part: {instance: array}}} for the judge: jackknifed pseudo-values [S, B], over S repetitions and B
    minibatches, of differences between kinds of networks in units of CKA; for C9a and C9c pseudo-values [S] of a
    further measure. The rows of repetitions in which a network of these kinds failed are NaN.
    """
    found = Evidence()
    for part in (_within, _between, _perturbed, _overfitting, _arms, _second):
        part(f, found)
    return found


def _failures(f: Results, kinds: Collection[str]) -> list[str]:
    return f.failures([condition for condition in f.conditions if condition.kind in kinds])


def _jackknifed(summary: Callable[[list[int], int | None], float], left: list[int], seeds: int, batches: int,
                fewest: int = 1) -> np.ndarray:
    """[seeds, batches]: the pseudo-values of a summary of repetitions and all minibatches but one (None: of all), with
    a row of NaN for every repetition that is not `left`. fewest: how many repetitions the summary needs.
    """
    values = np.full((seeds, batches), np.nan)
    if len(left) >= fewest:
        values[left] = jackknife(lambda seed, batch: summary([i for k, i in enumerate(left) if k != seed], batch),
                                 len(left), batches)
    return values


def _within(f: Results, found: Evidence) -> None:
    """C1 and C2: self maps."""
    pool, seeds, untrained = f.pool, f.section.seeds, f.section.untrained_kinds
    share = partial(block_share, layers=next(iter(pool.layers.values())))

    def gap(claim: str, part: str, instance: str, kinds: Collection[str], summary: Callable) -> None:
        values = _jackknifed(summary, f.left(kinds, seeds), seeds, pool.batches)
        found.add(claim, part, instance, values, _failures(f, kinds))

    gap("C1a", "gap", "R minus N", "RN", lambda *w: inside(pool, "R", *w) - inside(pool, "N", *w))
    if brackets(f):
        gap("C1b", "beyond_underfitting", "R minus M", ("R", *BRIEF),
            lambda *w: inside(pool, "R", *w) - matched(f, w[0], lambda kind: inside(pool, kind, *w)))
    gap("C2a", "fades", "N minus R", "NR", lambda *w: inside(pool, "N", *w, share) - inside(pool, "R", *w, share))
    gap("C2b", "is_learned", "N minus U", ("N", *untrained), lambda *w: inside(pool, "N", *w, share) - np.mean(
        [inside(f.untrained, kind, *w, share) for kind in untrained]))


def _between(f: Results, found: Evidence) -> None:
    """C3: maps between networks."""
    pool, seeds = f.pool, f.section.seeds
    near = partial(across, pool)

    def gap(claim: str, part: str, instance: str, kinds: Collection[str], summary: Callable) -> None:
        values = _jackknifed(summary, f.left(kinds, seeds), seeds, pool.batches, fewest=2)
        found.add(claim, part, instance, values, _failures(f, kinds))

    if seeds < 3:
        return  # leaving one out leaves no pair
    for a in "NR":
        gap("C3a", "below_same_type", f"{a}-{a}' minus N-R", "NR",
            lambda *w, a=a: near(a, a, *w) - near("N", "R", *w))
    if brackets(f):
        gap("C3b", "below_matched", "N-M minus N-R", ("N", "R", *BRIEF),
            lambda *w: matched(f, w[0], lambda kind: near("N", kind, *w)) - near("N", "R", *w))


def _second(f: Results, found: Evidence) -> None:
    """C9a and C9c: self maps by further measures, which are on all images at once, without minibatches."""
    seeds = f.section.seeds

    def gap(claim: str, measure: str, kinds: Collection[str], summary: Callable) -> None:
        values = _jackknifed(lambda repetitions, _: summary(repetitions), f.left(kinds, seeds), seeds, 2)
        found.add(claim, "gap", measure, values[:, 0], _failures(f, kinds))

    for name, maps in f.second.items():
        own = partial(inside, maps)
        gap("C9a", name, "RN", lambda left, own=own: own("R", left) - own("N", left))
        if brackets(f):
            gap("C9c", name, ("R", *BRIEF), lambda left, own=own: own("R", left) - matched(
                f, left, lambda kind: own(kind, left)))


def _perturbed(f: Results, found: Evidence) -> None:
    """C4: clean compared with perturbed images, in early and deep layers (the first and the last third)."""
    seeds, failures = f.section.seeds, _failures(f, "NR")
    left = [i for i in range(seeds) if ("N", i) in f.moved]
    batches = next((maps.batches for maps in f.moved.values()), 1)

    def mean(kind: str, moved: str, read: Callable, repetitions, batch) -> float:
        return float(np.mean([read(*thirds(f.moved[kind, i].between("clean", moved, without=batch)))
                              for i in repetitions]))

    def add(claim: str, part: str, instance: str, summary: Callable) -> None:
        found.add(claim, part, instance, _jackknifed(summary, left, seeds, batches), failures)

    def early(first, last):
        return first

    def fall(first, last):
        return first - last

    add("C4a", "early_unchanged", "R", lambda *w: mean("R", "own", early, *w))
    for claim, name in (("C4c", "own"), ("C4d", "of N"), ("C4e", "of R")):
        add(claim, "deep_changes_less", name, lambda *w, n=name: mean("N", n, fall, *w) - mean("R", n, fall, *w))
    add("C4b", "early_above_normal", "R minus N",
        lambda *w: mean("R", "own", early, *w) - mean("N", "own", early, *w))
    add("C4b", "more_than_noise", "N", lambda *w: mean("N", "own", fall, *w) - mean("N", "noise", fall, *w))


def overfitted(f: Results) -> dict[int, tuple[int, float]]:
    """{seed: (best epoch, fall)} of the overfitting runs that did not fail: the kept epoch with the highest robust
    accuracy on held-out images, and by how much robust accuracy on test images fell from that epoch to the last.
    """
    found = {}
    for seed in [seed for kind, seed, split in f.runs if (kind, split) == ("overfits", "test")]:
        members = {c.condition.epoch: f.outcomes[c] for c in f.of(kind="overfits") if c.repetition == seed}
        best = max(members, key=lambda epoch: members[epoch]["holdout"].accuracy("robust"))
        tests = {epoch: got["search"].accuracy("robust") for epoch, got in members.items()}
        found[seed] = best, tests[best] - tests[max(tests)]
    return found


def _overfitting(f: Results, found: Evidence) -> None:
    """C5: how much more deep layers than early ones have changed since the best epoch, by itself and compared with the
    control run.
    """
    if not f.section.overfitting:
        return
    o, best = f.section.overfitting, overfitted(f)
    batches = next((maps.batches for maps in f.runs.values()), 1)

    def moved(kind: str, seed: int, batch) -> float:
        maps = f.runs[kind, seed, "test"]
        epochs = sorted(map(int, maps.views))
        share = best[seed][0] / o.epochs
        start = min(epochs[:-1], key=lambda epoch: abs(epoch / epochs[-1] - share))
        early, deep = thirds(maps.between(str(start), str(epochs[-1]), without=batch))
        return early - deep

    def mean(kind: str, repetitions, batch) -> float:
        return float(np.mean([moved(kind, i, batch) for i in repetitions]))

    def add(part: str, instance: str, needed: Collection[str], summary: Callable) -> None:
        values = _jackknifed(summary, f.left(needed, o.seeds), o.seeds, batches)
        found.add("C5", part, instance, values, _failures(f, needed))

    add("deep_moves", "deep minus early", ("overfits",), lambda *w: mean("overfits", *w))
    add("beyond_control", "overfitting run minus control", ("overfits", "control"),
        lambda *w: mean("overfits", *w) - mean("control", *w))


def _arms(f: Results, found: Evidence) -> None:
    """C6 to C9b: the arms, compared with each other and with normal and robust networks of the first repetitions."""
    s, maps = f.section, f.arms
    arms = {arm.name: arm for arm in s.arms}
    if s.arm_seeds < 3:
        return

    def add(claim: str, part: str, instance: str, kinds: Collection[str], summary: Callable, where: Maps | None = maps,
            fewest: int = 2) -> None:
        left = f.left(kinds, s.arm_seeds) if where else []
        values = _jackknifed(summary, left, s.arm_seeds, where.batches if where else 1, fewest)
        found.add(claim, part, instance, values, _failures(f, kinds))

    near = partial(across, maps)
    threats = ["R", *(name for name, arm in arms.items() if arm.group == "threat")]
    pairs = list(combinations(threats, 2))
    noise = next((name for name, arm in arms.items() if arm.training == "noise"), None)
    for a, b in pairs:
        add("C6a", "alike", f"{a}-{b}", (a, b, "N"),
            lambda *w, a=a, b=b: near(a, b, *w) - (near(a, "N", *w) + near(b, "N", *w)) / 2)
        if noise:
            add("C6b", "beyond_noise", f"{a}-{b}", (a, b, noise),
                lambda *w, a=a, b=b: near(a, b, *w) - (near(a, noise, *w) + near(b, noise, *w)) / 2)
    budgets = by_strength(f)
    if len(budgets) >= 2:
        first, last = budgets[0], budgets[-1]
        add("C7a", "falls_at_once", first, ("N", first), lambda *w: near("N", "N", *w) - near("N", first, *w))
        for a, b in pairwise(budgets):
            add("C7b", "neighbours_alike", f"{a}-{b}", (a, b, "N"),
                lambda *w, a=a, b=b: near(a, b, *w) - near("N", b, *w))
        add("C7c", "grows", f"{last} minus {first}", (first, last),
            lambda *w: inside(maps, last, *w) - inside(maps, first, *w), fewest=1)

    for claim, group in (("C8a", "procedure"), ("C8b", "architecture"), ("C9b", "data")):
        for name in [name for name, arm in arms.items() if arm.group == group and arm.training != "noise"]:
            kind, normal = (name, "N") if group == "procedure" else (f"R {name}", f"N {name}")
            where = f.maps(kind)
            add(claim, "gap", name, (kind, normal), lambda *w, k=kind, n=normal, where=where:
                inside(where, k, *w) - inside(where, n, *w), where, fewest=1)


def by_strength(f: Results) -> list[str]:
    """The kinds trained in the pool's norm, by growing eps, including the pool's robust networks; empty without arms of
    the group strength.
    """
    eps = {arm.name: arm.threat.eps for arm in f.section.arms if arm.group == "strength"}
    return sorted({**eps, "R": 0}, key={**eps, "R": f.networks.threat.eps}.get) if eps else []


def warnings(zoo: Zoo, f: Results) -> list[str]:
    """Reasons to mistrust robust accuracies, one sentence each, found on the pool's first robust network."""
    return attack_warnings(zoo, f.of(kind="R"), f.networks.threat, f.section.search)


def preconditions(f: Results, warnings: list[str]) -> Preconditions:
    """What must hold before any claim is judged: the pool's networks are trained, exactly the robust ones are robust,
    the attack works (`warnings`), and every layer has a defined similarity.
    """
    s, checks = f.section, Preconditions()
    checks.pool(s.gates, s.verify, *f.of_pool(Condition("N"), Condition("R")))
    checks.attack(warnings)
    every = [f.pool, f.untrained, f.arms,
             *(maps for some in (f.elsewhere, f.moved, f.second, f.runs) for maps in some.values())]
    undefined = [f"{label} of {view}: {why}" for maps in every if maps for (view, label), why in maps.undefined.items()]
    said = f"{len(undefined)} have none, the first is {undefined[0]}" if undefined else "no layer is near-constant"
    checks.add("every layer has a number", not undefined, said)
    return checks


def brackets(f: Results) -> bool:
    """Whether the two briefly trained kinds lie about the robust networks, so that M can be interpolated."""
    return all(check["ok"] for check in _matching(f))


def _matching(f: Results) -> Preconditions:
    found = Preconditions()

    def bracket(accuracies: np.ndarray) -> tuple[bool, str]:
        shorter, longer, robust = accuracies.mean(0)
        return shorter < robust < longer, (
            f"the briefly trained normal networks' clean accuracies are {shorter:.1%} and {longer:.1%}; the robust "
            f"ones' {robust:.1%} must lie between them")

    for which, where in (("clean", "test"), ("train", "training")):
        every = np.stack([f.accuracy(Condition(kind), which) for kind in (*BRIEF, "R")], 1)
        found.about(f"accuracies can be matched on {where} images", every, bracket, _failures(f, (*BRIEF, "R")))
    return found


def named_checks(f: Results) -> dict[str, Preconditions]:
    """Further preconditions by subject: `matched` (the robust networks' mean clean accuracies, on test and on training
    images, lie between those of the two kinds of briefly trained normal networks) and, with overfitting runs,
    `overfitting` (they overfit).
    """
    s, found = f.section, {"matched": _matching(f)}

    def falls(values: np.ndarray) -> tuple[bool, str]:
        return values.mean() >= s.overfitting.fall, (
            f"robust accuracy on test images fell by {values.mean():.1%} from its best epoch, at least "
            f"{s.overfitting.fall:.0%} needed")

    if s.overfitting:
        found["overfitting"] = Preconditions()
        found["overfitting"].about("the run overfits", [fall for _, fall in overfitted(f).values()], falls,
                                   _failures(f, ("overfits",)))
    return found


def claim_preconditions(f: Results) -> dict[str, Preconditions]:
    """{claim: the `named_checks` that must also hold before it is judged}"""
    checks = named_checks(f)
    found = dict.fromkeys(("C1b", "C3b", "C9c"), checks["matched"])
    return found | ({"C5": checks["overfitting"]} if "overfitting" in checks else {})
