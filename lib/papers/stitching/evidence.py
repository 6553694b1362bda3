"""What the judge gets of the stitching notebook: the evidence of its claims (claims/stitching.yaml) and what must hold
before any of them is judged.
"""

from __future__ import annotations

import numpy as np

from lib.claims.preconditions import Checks, at_least
from lib.papers.stitching.networks import MIXED, OTHER, Condition
from lib.papers.stitching.results import Measured

C7 = (("C1a", "retained"), ("C2a", "same_type_above_mixed"), ("C3a", "drop"), ("C4a", "recovers"), ("C4a", "rises"),
      ("C4a", "takes_the_fronts_weakness"))  # of which claims and parts the pattern elsewhere consists


def evidence(m: Measured) -> dict:
    """{claim: {part: {instance: array}}}: [S, m] arrays of per-image differences (or outcomes), as the claims file
    wants them. Clean claims read joints trained with alpha 0, robust ones alpha 1, declared before the run.
    """
    found = _core(m)
    _other_tasks(m, found)
    for place in m.section.elsewhere:
        there = _core(m.at(place))
        for claim, part in C7:
            for instance, values in there.get(claim, {}).get(part, {}).items():
                found.setdefault("C7", {}).setdefault(part, {})[f"{place.name}: {instance}"] = values
    return found


def _core(m: Measured) -> dict:
    """The evidence of the core's claims, here or elsewhere."""
    s = m.section
    first, middle, last = s.first, s.middle, s.joints[-1]
    found: dict[str, dict] = {}

    def endpoint(kind: str, which: str = "clean"):
        return m.correct(which, "endpoint", kind)

    def clean(pair: str, joint: str, role: str = "pair"):
        return m.correct("clean", role, pair, joint, 0.0)

    def robust(pair: str, joint: str, role: str = "pair", which: str = "verify"):
        return m.correct(which, role, pair, joint, 1.0)

    def weaker(pair: str):
        return min((endpoint(kind) for kind in pair.split("->")), key=np.mean)

    if 0 in s.alphas:
        found["C1a"] = {"retained": {f"{p} at {j}": clean(p, j) - 0.9 * weaker(p) for p in MIXED for j in s.joints}}
        found["C1b"] = {
            "beats_untrained_front": {
                f"{p} at {j}": clean(p, j) - clean(f"U->{p[-1]}", j, "untrained front") for p in MIXED for j in s.joints
            },
            "not_below_probe": {
                f"{p} at {j}": clean(p, j) - clean(p[0], j, "linear probe") for p in MIXED for j in s.joints
            },
        }
    if 1 in s.alphas:
        same_type = robust("R->R2", middle)
        found["C2a"] = {"same_type_above_mixed": {f"R->R2 minus {p}": same_type - robust(p, middle) for p in MIXED}}
        found["C2b"] = {
            "ceiling_above_mixed": {
                f"{p[0]}->new minus {p}": robust(f"{p[0]}->new", middle, "new end") - robust(p, middle) for p in MIXED
            }
        }
        found["C3a"] = {"drop": {f"{j} minus {middle}": robust("N->R", j) - robust("N->R", middle) for j in first}}
        found["C3b"] = {
            "beats_untrained_front": {j: robust("N->R", j) - robust("U->R", j, "untrained front") for j in first}
        }
        recovered, untrained_end = robust("R->N", last), robust("R->U", last, "untrained end")
        found["C4a"] = {
            "recovers": {"R->N": recovered - 0.9 * endpoint("R", "verify")},
            "rises": {f"{last} minus {middle}": recovered - robust("R->N", middle)},
        }
        if 0 in s.alphas:
            found["C4a"] |= {
                "takes_the_fronts_weakness": {"N->R": m.correct("search", "pair", "N->R", last, 0.0)},
                "keeps_clean": {"N->R minus N": clean("N->R", last) - endpoint("N")},
            }
        found["C4b"] = {"beats_untrained_end": {"R->N minus R->U": recovered - untrained_end}}
        found["C6"] = {
            part: {
                f"{p} minus R->U": robust(p, last, which=which) - robust("R->U", last, "untrained end", which)
                for p in ("R->N", "R->R2")
            }
            for part, which in (("same_robust", "verify"), ("same_clean", "clean"))
        }
    return found


def _other_tasks(m: Measured, found: dict) -> None:
    """C5, and what C6 says of ends that have learned another task."""
    s = m.section
    middle, last, names = s.middle, s.joints[-1], [other.data.name for other in s.others]

    def robust(name: str, joint: str, which: str = "verify"):
        return m.correct(which, OTHER, f"R->{name}", joint, 1.0)

    if not names:
        return
    found["C5a"] = {}
    if 1 in s.alphas:
        alone = m.correct("verify", "endpoint", "R")
        found["C5a"] |= {
            "recovers": {f"R->{name}": robust(name, last) - 0.9 * alone for name in names},
            "rises": {f"R->{name}, {last} minus {middle}": robust(name, last) - robust(name, middle) for name in names},
        }
        untrained = {which: m.correct(which, "untrained end", "R->U", last, 1.0) for which in ("verify", "clean")}
        gaps = {which: {f"R->{name} minus R->U": robust(name, last, which) - untrained[which] for name in names}
                for which in untrained}
        found["C5b"] = {"beats_untrained_end": gaps["verify"]}
        found["C6"] |= {"other_task_robust": gaps["verify"], "other_task_clean": gaps["clean"]}
    if 0 in s.alphas:
        normal = m.correct("clean", "endpoint", "N")
        found["C5a"]["keeps_clean"] = {f"N->{name} minus N": m.correct("clean", OTHER, f"N->{name}", last) - normal
                                       for name in names}


def preconditions(m: Measured, self_gap: float, warnings: list[str]) -> Checks:
    """What must hold before any claim is judged: trained networks, converged joints, an exact self-stitch, a working
    attack (`warnings` of `attack_warnings`)."""
    s, checks = m.section, Checks()
    endpoints = [("clean", "N"), ("search", "N"), ("clean", "R"), ("verify", "R")]
    checks.pool(s.gates, s.verify, *(m.correct(which, "endpoint", kind) for which, kind in endpoints))
    changes: dict[Condition, list[float]] = {}  # of one joint the noise of the batches is as large as what is allowed
    for cell, change in m.converged.items():
        if cell.recipe.trainable in (("joint",), ("head",)) and np.isfinite(change):  # no number: too short to say
            changes.setdefault(cell.condition, []).append(change)
    slowest = max(changes, key=lambda joint: np.mean(changes[joint]), default=None)
    worst = float(np.mean(changes[slowest])) if slowest else 0.0
    which = f"{slowest.pair} at {slowest.joint}, alpha {slowest.alpha:g}" if slowest else "none"
    checks.add(
        "joints converged",
        worst <= s.converged,
        f"in the last part of training the slowest joint ({which}) lowered its loss by {worst:.3f} nats, mean over "
        f"repetitions, at most {s.converged:g} allowed",
    )
    if m.has("twice the epochs", "N->R", s.middle, 1.0):
        once, twice = (m.correct("verify", role, "N->R", s.middle, 1.0).mean() for role in ("pair", "twice the epochs"))
        checks.add(
            "twice the epochs change little",
            abs(twice - once) <= s.budget,
            f"robust accuracy of N->R at {s.middle} {once:.1%}, after twice the epochs {twice:.1%}, "
            f"at most {s.budget:.0%} apart allowed",
        )
    for one in s.external:
        found = float(m.correct("clean", "endpoint", one.name).mean())
        checks.add(f"{one.name} is the network that it should be", abs(found - one.known.clean) <= 0.02,
                   f"clean accuracy {found:.1%}, at most 2 points from the {one.known.clean:.1%} on all test images")
    checks.add("self-stitch is exact", self_gap == 0, f"largest difference of logits {self_gap:g}")
    checks.attack(warnings)
    return checks


def further(m: Measured) -> dict[str, Checks]:
    """{claim: what must hold besides before it is judged}: ends of other tasks that have learned them; elsewhere,
    networks as the notebook's own must be.
    """
    s, others, places = m.section, Checks(), Checks()
    for other in s.others:
        low = at_least(m.correct("clean", "endpoint", other.data.name))
        others.add(f"networks of the other task {other.data.name} are trained", low >= other.clean,
                   f"lower bound of their accuracy {low:.1%}, at least {other.clean:.0%} needed")
    for place in s.elsewhere:
        there = m.at(place)
        ends = [there.correct(which, "endpoint", kind)
                for which, kind in (("clean", "N"), ("search", "N"), ("clean", "R"), ("verify", "R"))]
        places.pool(place.gates, s.verify, *ends, where=place.name)
    return {"C5a": others, "C5b": others, "C6": others, "C7": places}
