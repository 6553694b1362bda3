"""Evidence and preconditions of the stitching notebook; its claims are in claims/stitching.yaml."""

from __future__ import annotations

from functools import partial
from itertools import product

import numpy as np

from lib.claims.evidence import Contrast, Evidence
from lib.claims.preconditions import Preconditions, attack_warnings, lower_bound
from lib.papers.stitching import results
from lib.papers.stitching.networks import MIXED, OTHER, Condition
from lib.papers.stitching.results import Results
from lib.results import mean
from lib.training.zoo import Zoo
from lib.values.cell import Cell

C7 = (("C1a", "retained"), ("C2a", "same_type_above_mixed"), ("C3a", "drop"), ("C4a", "recovers"), ("C4a", "rises"),
      ("C4a", "takes_the_fronts_weakness"))  # the claims and parts that C7 asks of other settings


def evidence(m: Results) -> Evidence:
    """{claim: {part: {instance: array}}} for the judge: per-image differences (or outcomes) [S, m]. Claims on clean
    accuracy read joints trained with alpha 0, claims on robust accuracy joints trained with alpha 1, as declared before
    the run.
    """
    found = _core(m)
    _other_tasks(m, found)
    for place in m.section.elsewhere:
        there = _core(m.at(place))
        for claim, part in C7:
            for instance, values in there.get(claim, {}).get(part, {}).items():
                found.add("C7", part, f"{place.name}: {instance}", values, there.lost.get(claim, ()))
    return found


def _core(m: Results) -> Evidence:
    """The evidence of the core's claims, in the setting of `m`."""
    s, found = m.section, Evidence()
    first, middle, last = s.first, s.middle, s.joints[-1]
    add = partial(_add, m, found)

    def endpoint(kind: str) -> Condition:
        return m.condition("endpoint", kind)

    def clean(pair: str, joint: str, role: str = "pair") -> Condition:
        return m.condition(role, pair, joint)

    def robust(pair: str, joint: str, role: str = "pair") -> Condition:
        return m.condition(role, pair, joint, 1.0)

    def weaker(pair: str) -> Condition:
        return min((endpoint(kind) for kind in pair.split("->")), key=lambda end: mean(m.correct(end)))

    if 0 in s.alphas:
        for p, j in product(MIXED, s.joints):
            untrained_front = clean(f"U->{p[-1]}", j, "untrained front")
            add("C1a", "retained", f"{p} at {j}", clean(p, j), weaker(p), share=0.9)
            add("C1b", "beats_untrained_front", f"{p} at {j}", clean(p, j), untrained_front)
            add("C1b", "not_below_probe", f"{p} at {j}", clean(p, j), clean(p[0], j, "linear probe"))
    if 1 in s.alphas:
        strong = partial(add, measure="verify")
        for p in MIXED:
            mixed, ceiling = robust(p, middle), f"{p[0]}->new"
            strong("C2a", "same_type_above_mixed", f"R->R2 minus {p}", robust("R->R2", middle), mixed)
            strong("C2b", "ceiling_above_mixed", f"{ceiling} minus {p}", robust(ceiling, middle, "new end"), mixed)
        for j in first:
            strong("C3a", "drop", f"{j} minus {middle}", robust("N->R", j), robust("N->R", middle))
            strong("C3b", "beats_untrained_front", j, robust("N->R", j), robust("U->R", j, "untrained front"))
        recovered, untrained_end = robust("R->N", last), robust("R->U", last, "untrained end")
        strong("C4a", "recovers", "R->N", recovered, endpoint("R"), share=0.9)
        strong("C4a", "rises", f"{last} minus {middle}", recovered, robust("R->N", middle))
        if 0 in s.alphas:
            add("C4a", "takes_the_fronts_weakness", "N->R", clean("N->R", last), measure="search")
            add("C4a", "keeps_clean", "N->R minus N", clean("N->R", last), endpoint("N"))
        strong("C4b", "beats_untrained_end", "R->N minus R->U", recovered, untrained_end)
        for (part, measure), p in product((("same_robust", "verify"), ("same_clean", "clean")), ("R->N", "R->R2")):
            add("C6", part, f"{p} minus R->U", robust(p, last), untrained_end, measure=measure)
    return found


def _add(m: Results, found: Evidence, claim: str, part: str, instance: str, over: Condition,
         under: Condition | None = None, share: float = 1.0, measure: str = "clean") -> None:
    """Add the outcomes of a condition, minus a share of the outcomes of another."""
    contrast = Contrast((over,), () if under is None else (under,), (1.0, share))
    found.add_contrast(m, claim, part, instance, contrast, measure)


def _other_tasks(m: Results, found: Evidence) -> None:
    """C5, and the parts of C6 about ends that have learned another task."""
    s, add = m.section, partial(_add, m, found)
    middle, last = s.middle, s.joints[-1]
    alone, untrained_end = m.condition("endpoint", "R"), m.condition("untrained end", "R->U", last, 1.0)

    def robust(pair: str, joint: str) -> Condition:
        return m.condition(OTHER, pair, joint, 1.0)

    for name in [other.data.name for other in s.others]:
        end = f"R->{name}"
        if 1 in s.alphas:
            strong = partial(add, measure="verify")
            strong("C5a", "recovers", end, robust(end, last), alone, share=0.9)
            strong("C5a", "rises", f"{end}, {last} minus {middle}", robust(end, last), robust(end, middle))
            strong("C5b", "beats_untrained_end", f"{end} minus R->U", robust(end, last), untrained_end)
            strong("C6", "other_task_robust", f"{end} minus R->U", robust(end, last), untrained_end)
            add("C6", "other_task_clean", f"{end} minus R->U", robust(end, last), untrained_end)
        if 0 in s.alphas:
            there = m.condition(OTHER, f"N->{name}", last)
            add("C5a", "keeps_clean", f"N->{name} minus N", there, m.condition("endpoint", "N"))


def _robust(m: Results) -> list[Cell]:
    return m.of(m.condition("endpoint", "R"))


def warnings(zoo: Zoo, m: Results) -> list[str]:
    """Reasons to mistrust robust accuracies, one sentence each, found on the first robust network."""
    return attack_warnings(zoo, _robust(m), m.networks.threat, m.section.search)


def self_stitch_gap(zoo: Zoo, m: Results) -> float:
    """The largest `self_stitch_gap` of the first robust network, over all joints; NaN without one."""
    test = zoo.images(m.networks.data, "test")
    return max((results.self_stitch_gap(zoo, cell.recipe, joint, test) for cell in _robust(m)[:1]
                for joint in m.section.joints), default=np.nan)


def preconditions(m: Results, self_gap: float, warnings: list[str]) -> Preconditions:
    """What must hold before any claim is judged: networks are trained, joints have converged, the self-stitch is exact
    (`self_gap`), the attack works (`warnings`).
    """
    s, checks = m.section, Preconditions()
    checks.pool(s.gates, s.verify, *m.of_pool(*(m.condition("endpoint", kind) for kind in "NR")))
    changes: dict[Condition, list[float]] = {}  # averaged over repetitions: batch noise is too large for one
    for cell, change in m.converged.items():
        if cell.recipe.trainable in (("joint",), ("head",)) and np.isfinite(change):  # NaN: too short to say
            changes.setdefault(cell.condition, []).append(change)
    slowest = max(changes, key=lambda joint: np.mean(changes[joint]), default=None)
    worst = float(np.mean(changes[slowest])) if slowest else 0.0
    which = f"{slowest.pair} at {slowest.joint}, alpha {slowest.alpha:g}" if slowest else "none"
    checks.add("joints converged", worst <= s.converged,
               f"in the last part of training the slowest joint ({which}) lowered its loss by {worst:.3f} nats, mean "
               f"over repetitions, at most {s.converged:g} allowed")
    once, twice = (m.condition(role, "N->R", s.middle, 1.0) for role in ("pair", "twice the epochs"))
    if m.of(twice, failed=True):
        def close(pairs: np.ndarray) -> tuple[bool, str]:
            once, twice = pairs.mean(0)
            return abs(twice - once) <= s.budget, (
                f"robust accuracy of N->R at {s.middle} {once:.1%}, after twice the epochs {twice:.1%}, at most "
                f"{s.budget:.0%} apart allowed")

        pairs = np.stack(np.broadcast_arrays(*(m.correct(one, "verify").mean(-1) for one in (once, twice))), 1)
        checks.about("twice the epochs change little", pairs, close, m.failures((once, twice)))
    for one in s.external:
        def known(correct: np.ndarray, wanted=one.known.clean) -> tuple[bool, str]:
            found = float(correct.mean())
            return abs(found - wanted) <= 0.02, (
                f"clean accuracy {found:.1%}, at most 2 points from the {wanted:.1%} on all test images")

        end = m.condition("endpoint", one.name)
        checks.about(f"{one.name} is the network that it should be", m.correct(end), known, m.failures((end,)))
    checks.add("self-stitch is exact", self_gap == 0, f"largest difference of logits {self_gap:g}")
    checks.attack(warnings)
    return checks


def named_checks(m: Results) -> dict[str, Preconditions]:
    """Further preconditions by subject: `others` (networks of other tasks have learned them) and `elsewhere` (networks
    of other settings fulfil the preconditions of the notebook's own). Each is empty if there are no such networks.
    """
    s, others, places = m.section, Preconditions(), Preconditions()
    for other in s.others:
        end = m.condition("endpoint", other.data.name)
        others.about(f"networks of the other task {other.data.name} are trained", m.correct(end),
                     partial(_learned, other.clean), m.failures((end,)))
    for place in s.elsewhere:
        ends = (m.at(place).condition("endpoint", kind) for kind in "NR")
        places.pool(place.gates, s.verify, *m.of_pool(*ends), where=place.name)
    return {"others": others, "elsewhere": places}


def _learned(least: float, correct: np.ndarray) -> tuple[bool, str]:
    """Whether outcomes [S, m] show that networks have learned their task, and the numbers."""
    low = lower_bound(correct)
    return low >= least, f"lower bound of their accuracy {low:.1%}, at least {least:.0%} needed"


def claim_preconditions(m: Results) -> dict[str, Preconditions]:
    """{claim: the `named_checks` that must also hold before it is judged}"""
    checks = named_checks(m)
    return {**dict.fromkeys(("C5a", "C5b", "C6"), checks["others"]), "C7": checks["elsewhere"]}
