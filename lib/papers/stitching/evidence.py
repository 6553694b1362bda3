"""Evidence and preconditions of the stitching notebook; its claims are in claims/stitching.yaml."""

from __future__ import annotations

from itertools import product

import numpy as np

from lib.claims.evidence import Evidence
from lib.claims.preconditions import Preconditions, attack_warnings, lower_bound
from lib.papers.stitching import results
from lib.papers.stitching.networks import MIXED, OTHER, Condition
from lib.papers.stitching.results import Results
from lib.training.zoo import Zoo
from lib.values.recipe import Recipe

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
                found.add("C7", part, f"{place.name}: {instance}", values)
    return found


def _core(m: Results) -> Evidence:
    """The evidence of the core's claims, in the setting of `m`."""
    s, found = m.section, Evidence()
    first, middle, last = s.first, s.middle, s.joints[-1]

    def endpoint(kind: str, measure: str = "clean"):
        return m.correct(m.condition("endpoint", kind), measure)

    def clean(pair: str, joint: str, role: str = "pair"):
        return m.correct(m.condition(role, pair, joint))

    def robust(pair: str, joint: str, role: str = "pair", measure: str = "verify"):
        return m.correct(m.condition(role, pair, joint, 1.0), measure)

    def weaker(pair: str):
        return min((endpoint(kind) for kind in pair.split("->")), key=np.mean)

    if 0 in s.alphas:
        for p, j in product(MIXED, s.joints):
            untrained_front = clean(f"U->{p[-1]}", j, "untrained front")
            found.add("C1a", "retained", f"{p} at {j}", clean(p, j) - 0.9 * weaker(p))
            found.add("C1b", "beats_untrained_front", f"{p} at {j}", clean(p, j) - untrained_front)
            found.add("C1b", "not_below_probe", f"{p} at {j}", clean(p, j) - clean(p[0], j, "linear probe"))
    if 1 in s.alphas:
        for p in MIXED:
            mixed, ceiling = robust(p, middle), f"{p[0]}->new"
            found.add("C2a", "same_type_above_mixed", f"R->R2 minus {p}", robust("R->R2", middle) - mixed)
            found.add("C2b", "ceiling_above_mixed", f"{ceiling} minus {p}", robust(ceiling, middle, "new end") - mixed)
        for j in first:
            found.add("C3a", "drop", f"{j} minus {middle}", robust("N->R", j) - robust("N->R", middle))
            found.add("C3b", "beats_untrained_front", j, robust("N->R", j) - robust("U->R", j, "untrained front"))
        recovered = robust("R->N", last)
        found.add("C4a", "recovers", "R->N", recovered - 0.9 * endpoint("R", "verify"))
        found.add("C4a", "rises", f"{last} minus {middle}", recovered - robust("R->N", middle))
        if 0 in s.alphas:
            weak = m.correct(m.condition("pair", "N->R", last), "search")
            found.add("C4a", "takes_the_fronts_weakness", "N->R", weak)
            found.add("C4a", "keeps_clean", "N->R minus N", clean("N->R", last) - endpoint("N"))
        found.add("C4b", "beats_untrained_end", "R->N minus R->U", recovered - robust("R->U", last, "untrained end"))
        for (part, measure), p in product((("same_robust", "verify"), ("same_clean", "clean")), ("R->N", "R->R2")):
            untrained_end = robust("R->U", last, "untrained end", measure)
            found.add("C6", part, f"{p} minus R->U", robust(p, last, measure=measure) - untrained_end)
    return found


def _other_tasks(m: Results, found: Evidence) -> None:
    """C5, and the parts of C6 about ends that have learned another task."""
    s = m.section
    middle, last = s.middle, s.joints[-1]

    def robust(pair: str, joint: str, role: str = OTHER, measure: str = "verify"):
        return m.correct(m.condition(role, pair, joint, 1.0), measure)

    for name in [other.data.name for other in s.others]:
        end = f"R->{name}"
        if 1 in s.alphas:
            alone = m.correct(m.condition("endpoint", "R"), "verify")
            found.add("C5a", "recovers", end, robust(end, last) - 0.9 * alone)
            found.add("C5a", "rises", f"{end}, {last} minus {middle}", robust(end, last) - robust(end, middle))
            gaps = {measure: robust(end, last, measure=measure) - robust("R->U", last, "untrained end", measure)
                    for measure in ("verify", "clean")}
            found.add("C5b", "beats_untrained_end", f"{end} minus R->U", gaps["verify"])
            found.add("C6", "other_task_robust", f"{end} minus R->U", gaps["verify"])
            found.add("C6", "other_task_clean", f"{end} minus R->U", gaps["clean"])
        if 0 in s.alphas:
            there, normal = (m.correct(m.condition(role, pair, joint)) for role, pair, joint in
                             ((OTHER, f"N->{name}", last), ("endpoint", "N", "")))
            found.add("C5a", "keeps_clean", f"N->{name} minus N", there - normal)


def _first_robust(m: Results) -> Recipe:
    return m.of(m.condition("endpoint", "R"))[0].recipe


def warnings(zoo: Zoo, m: Results) -> list[str]:
    """Reasons to mistrust robust accuracies, one sentence each, found on the first robust network."""
    return attack_warnings(zoo, _first_robust(m), m.networks.threat, m.section.search)


def self_stitch_gap(zoo: Zoo, m: Results) -> float:
    """The largest `self_stitch_gap` of the first robust network, over all joints."""
    first, test = _first_robust(m), zoo.images(m.networks.data, "test")
    return max(results.self_stitch_gap(zoo, first, joint, test) for joint in m.section.joints)


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
    if m.of(twice):
        once, twice = (m.correct(one, "verify").mean() for one in (once, twice))
        checks.add("twice the epochs change little", abs(twice - once) <= s.budget,
                   f"robust accuracy of N->R at {s.middle} {once:.1%}, after twice the epochs {twice:.1%}, at most "
                   f"{s.budget:.0%} apart allowed")
    for one in s.external:
        found = float(m.correct(m.condition("endpoint", one.name)).mean())
        checks.add(f"{one.name} is the network that it should be", abs(found - one.known.clean) <= 0.02,
                   f"clean accuracy {found:.1%}, at most 2 points from the {one.known.clean:.1%} on all test images")
    checks.add("self-stitch is exact", self_gap == 0, f"largest difference of logits {self_gap:g}")
    checks.attack(warnings)
    return checks


def named_checks(m: Results) -> dict[str, Preconditions]:
    """Further preconditions by subject: `others` (networks of other tasks have learned them) and `elsewhere` (networks
    of other settings fulfil the preconditions of the notebook's own). Each is empty if there are no such networks.
    """
    s, others, places = m.section, Preconditions(), Preconditions()
    for other in s.others:
        low = lower_bound(m.correct(m.condition("endpoint", other.data.name)))
        others.add(f"networks of the other task {other.data.name} are trained", low >= other.clean,
                   f"lower bound of their accuracy {low:.1%}, at least {other.clean:.0%} needed")
    for place in s.elsewhere:
        ends = (m.at(place).condition("endpoint", kind) for kind in "NR")
        places.pool(place.gates, s.verify, *m.of_pool(*ends), where=place.name)
    return {"others": others, "elsewhere": places}


def claim_preconditions(m: Results) -> dict[str, Preconditions]:
    """{claim: the `named_checks` that must also hold before it is judged}"""
    checks = named_checks(m)
    return {**dict.fromkeys(("C5a", "C5b", "C6"), checks["others"]), "C7": checks["elsewhere"]}
