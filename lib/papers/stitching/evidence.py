"""Evidence and preconditions of the stitching notebook; its claims are in claims/stitching.yaml."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import product

import numpy as np

from lib.claims.evidence import Contrast, Evidence
from lib.claims.preconditions import Preconditions, attack_warnings, lower_bound
from lib.papers.stitching import results
from lib.papers.stitching.networks import DIRECT, MIXED, OTHER, Condition
from lib.papers.stitching.results import Results
from lib.papers.stitching.settings import STEM
from lib.results import mean
from lib.training.zoo import Zoo
from lib.values.cell import Cell

ABOVE_CHANCE = 0.05  # a network whose clean accuracy is at most this above guessing has collapsed
FLOOR = 0.02  # a robust accuracy below this is at its floor, where more training could not lower it
C7 = (("C1a", "retained"), ("C2a", "same_type_above_mixed"), ("C3a", "drop"), ("C4a", "recovers"), ("C4a", "rises"))
PLACES = {"MNIST": "C7a", "Fashion-MNIST": "C7b"}  # the claims about these other settings; C7c is about all others


@dataclass(frozen=True)
class Comparison:
    """An instance of a claim's part: the outcomes of `over`, minus a share of the outcomes of `under`.

    measure: `clean`, `search` or `verify`. control: whether `under` is a control, which must not have collapsed; other
    networks that have may lose, but not win.
    """

    claim: str
    part: str
    instance: str
    over: Condition
    under: Condition
    share: float = 1.0
    measure: str = "clean"
    control: bool = False

    @property
    def conditions(self) -> tuple[Condition, Condition]:
        return self.over, self.under

    def paired(self, m: Results) -> Results:
        """The results of the repetitions that both have."""
        return m.of_first(min(len(m.of(one, failed=True)) for one in self.conditions))

    def values(self, m: Results) -> np.ndarray:
        """[S, m]: the difference for each repetition and image."""
        return Contrast((self.over,), (self.under,), (1.0, self.share)).values(self.paired(m), self.measure)

    def collapsed(self, m: Results) -> list[Condition]:
        """Those of its networks whose clean accuracy is near guessing."""
        return [one for one in self.conditions if mean(m.correct(one)) <= m.chance(one) + ABOVE_CHANCE]

    def means_something(self, m: Results) -> bool:
        """Whether no collapsed network is a control, wins, or makes an equivalence (C6)."""
        collapsed = self.collapsed(m)
        if not collapsed or self.control or self.claim[:2] == "C6":
            return not collapsed
        loser = self.under if mean(self.values(m)) > 0 else self.over
        return collapsed == [loser]


def evidence(m: Results) -> Evidence:
    """{claim: {part: {instance: array}}} for the judge: per-image differences [S, m]. Claims on clean accuracy read
    joints trained with alpha 0, claims on robust accuracy joints trained with alpha 1, C6 and C3c both, as declared
    before the run. Comparisons that a collapsed network makes meaningless are left out; a collapsed loser counts, and
    the instance names it.
    """
    found = Evidence()
    for one, there in _every(m):
        if one.means_something(there):
            lost = one.paired(there).failures(one.conditions)
            named = "".join(f" ({c.pair} collapsed)" for c in one.collapsed(there))
            found.add(one.claim, one.part, one.instance + named, one.values(there), lost)
    return found


def comparisons(m: Results) -> list[Comparison]:
    """What the claims about the notebook's own networks compare."""
    s = m.section
    found = [*_core(m)]
    found += _clean_controls(m) if 0 in s.alphas else []
    found += _robust_controls(m) if 1 in s.alphas else []
    return found + [*_ends(m)]


def _every(m: Results) -> Iterator[tuple[Comparison, Results]]:
    """All comparisons, each with the results that it reads; those of C7 read another setting."""
    yield from ((one, m) for one in comparisons(m))
    for place in m.section.elsewhere:
        there, claim = m.at(place), PLACES.get(place.name, "C7c")
        for one in _core(there):
            if (one.claim, one.part) in C7:
                where = f"{place.name}: {one.instance}"
                yield Comparison(claim, one.part, where, one.over, one.under, one.share, one.measure), there


def _core(m: Results) -> Iterator[Comparison]:
    """C1a, C2a, C3a and C4a, in the setting of `m`."""
    s = m.section
    robust, n, r = partial(_joined, m, alpha=1.0), m.condition("endpoint", "N"), m.condition("endpoint", "R")
    strong = {"measure": "verify"}
    if 0 in s.alphas:
        for p, j in product(MIXED, s.blocks):
            yield Comparison("C1a", "retained", f"{p} at {j}", _joined(m, p, j), _weaker(m, p), 0.9)
    if 1 in s.alphas:
        for j, p in product(s.middle, MIXED):
            yield Comparison("C2a", "same_type_above_mixed", f"R->R2 minus {p} at {j}", robust("R->R2", j),
                             robust(p, j), **strong)
        yield Comparison("C3a", "drop", f"{s.first} minus {s.middle[0]}", robust("N->R", s.first),
                         robust("N->R", s.middle[0]), **strong)
        recovered = robust("R->N", s.last)
        yield Comparison("C4a", "recovers", "R->N", recovered, r, 0.9, **strong)
        yield Comparison("C4a", "rises", f"{s.last} minus {s.late}", recovered, robust("R->N", s.late), **strong)
    if 0 in s.alphas and not m.where:
        yield Comparison("C4a", "keeps_clean", "N->R minus N", _joined(m, "N->R", s.last), n)


def _clean_controls(m: Results) -> Iterator[Comparison]:
    """C1b to C1f: what else could explain clean accuracy; the stem."""
    s = m.section
    for p, j in product(MIXED, s.joints):
        front, end = p.split("->")
        mixed, name = _joined(m, p, j), f"{p} at {j}"
        untrained_front = _joined(m, f"U->{end}", j, role="untrained front")
        if j == STEM:
            yield Comparison("C1f", "retained", name, mixed, _weaker(m, p), 0.9)
            yield Comparison("C1f", "beats_untrained_front", name, mixed, untrained_front, control=True)
            continue
        probe = _joined(m, front, j, role="linear probe")
        yield Comparison("C1b", "beats_untrained_front", name, mixed, untrained_front, control=True)
        yield Comparison("C1b", "not_below_probe", name, mixed, probe, control=True)
        if j != s.last and s.more_controls:
            untrained_end = _joined(m, f"{front}->U", j, role="untrained end")
            yield Comparison("C1c", "beats_untrained_end", name, mixed, untrained_end, control=True)
        if s.direct:
            yield Comparison("C1d", "retained", name, _joined(m, p, j, role=DIRECT), _weaker(m, p), 0.9)
        if j == s.middle[0] and s.more_controls:
            new = _joined(m, f"{front}->new", j, role="new end")
            yield Comparison("C1e", "near_new_end", name, mixed, new, 0.9, control=True)
    if s.direct:
        fitted = _joined(m, "N->R", s.first, role=DIRECT)
        yield Comparison("C3c", "fitted_above_trained", f"N->R at {s.first}", fitted, _joined(m, "N->R", s.first),
                         measure="verify")


def _robust_controls(m: Results) -> Iterator[Comparison]:
    """C2b, C3b and C4b: what else could explain robust accuracy."""
    s, robust = m.section, partial(_joined, m, alpha=1.0)
    strong = {"measure": "verify", "control": True}
    for front in s.new_ends:
        p, = (one for one in MIXED if one[0] == front)
        yield Comparison("C2b", "ceiling_above_mixed", f"{front}->new minus {p}",
                         robust(f"{front}->new", s.middle[0], role="new end"), robust(p, s.middle[0]), measure="verify")
    yield Comparison("C3b", "beats_untrained_front", s.first, robust("N->R", s.first),
                     robust("U->R", s.first, role="untrained front"), **strong)
    yield Comparison("C4b", "beats_untrained_end", "R->N minus R->U", robust("R->N", s.last),
                     robust("R->U", s.last, role="untrained end"), **strong)


def _ends(m: Results) -> Iterator[Comparison]:
    """C5, about ends that have learned another task, and C6, about all ends of robust fronts."""
    s = m.section
    names = [other.data.name for other in s.others]
    for name, a in product(names, s.alphas):
        end, other = f"R->{name}", partial(_joined, m, alpha=a, role=OTHER)
        if a == 1:
            alone = m.condition("endpoint", "R")
            untrained = _joined(m, "R->U", s.last, 1.0, "untrained end")
            last = other(end, s.last)
            yield Comparison("C5a", "recovers", end, last, alone, 0.9, "verify")
            yield Comparison("C5a", "rises", f"{end}, {s.last} minus {s.late}", last, other(end, s.late),
                             measure="verify")
            yield Comparison("C5b", "beats_untrained_end", f"{end} minus R->U", last, untrained, measure="verify",
                             control=True)
        if a == 0:
            yield Comparison("C5a", "keeps_clean", f"N->{name} minus N", other(f"N->{name}", s.last),
                             m.condition("endpoint", "N"))
    for (claim, j), a in product((("C6a", s.last), ("C6b", s.late)), s.alphas):
        untrained = _joined(m, "R->U", j, a, "untrained end")
        for which, roles in (("same", ("R->N", "R->R2")), ("other_task", [f"R->{name}" for name in names])):
            for p, (part, measure) in product(roles, (("robust", "verify"), ("clean", "clean"))):
                if a in (0, 1):
                    over = _joined(m, p, j, a, "pair" if which == "same" else OTHER)
                    yield Comparison(claim, f"{which}_{part}", f"{p} minus R->U, alpha {a:g}", over, untrained,
                                     measure=measure)


def _joined(m: Results, pair: str, joint: str, alpha: float = 0.0, role: str = "pair") -> Condition:
    return m.condition(role, pair, joint, float(alpha))


def _weaker(m: Results, pair: str) -> Condition:
    """The endpoint with the lower clean accuracy."""
    return min((m.condition("endpoint", kind) for kind in pair.split("->")), key=lambda end: mean(m.correct(end)))


# ------------------------------------------------------------------------------------------------------ preconditions


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
    """What must hold before any claim is judged: networks are trained, the self-stitch is exact (`self_gap`), the
    attack works (`warnings`).
    """
    s, checks = m.section, Preconditions()
    checks.pool(s.gates, s.verify, *m.of_pool(*(m.condition("endpoint", kind) for kind in "NR")))
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


def claim_preconditions(m: Results) -> dict[str, Preconditions]:
    """{claim: what must also hold before it is judged}: the joints that it rests on have converged, twice the epochs
    change little, collapsed networks only lose, and networks of other tasks (C5, C6) and of other settings (C7) are
    trained.
    """
    s, found = m.section, {}
    every: dict[str, list[tuple[Comparison, Results]]] = {}
    for one, there in _every(m):
        every.setdefault(one.claim, []).append((one, there))
    for claim, mine in every.items():
        found[claim] = checks = Preconditions()
        used = dict.fromkeys(condition for one, _ in mine for condition in one.conditions)
        _converged(checks, m, used)
        _twice(checks, m, used)
        _above_chance(checks, mine)
        for other in s.others if claim[:2] in ("C5", "C6") else ():
            end = m.condition("endpoint", other.data.name)
            checks.about(f"networks of the other task {other.data.name} are trained", m.correct(end),
                         partial(_learned, other.clean), m.failures((end,)))
        for place in s.elsewhere:
            if claim == PLACES.get(place.name, "C7c"):
                ends = (m.at(place).condition("endpoint", kind) for kind in "NR")
                checks.pool(place.gates, s.verify, *m.of_pool(*ends), where=place.name)
    return found


def last_changes(m: Results) -> dict[Condition, float]:
    """{condition: the last change of the loss of its joints, in nats, mean of absolute values over repetitions},
    without trainings that are too short to say.
    """
    found: dict[Condition, list[float]] = {}
    for cell, change in m.converged.items():
        if cell.recipe.trainable in (("joint",), ("head",)) and np.isfinite(change):
            found.setdefault(cell.condition, []).append(abs(change))
    return {condition: float(np.mean(changes)) for condition, changes in found.items()}


def _converged(checks: Preconditions, m: Results, used: Mapping[Condition, None]) -> None:
    changes = {condition: change for condition, change in last_changes(m).items() if condition in used}
    if not changes:
        return
    slowest = max(changes, key=changes.get)
    checks.add("joints converged", changes[slowest] <= m.section.converged,
               f"in the last part of training the loss of the slowest joint ({slowest.pair} at {slowest.joint}, alpha "
               f"{slowest.alpha:g}) changed by {changes[slowest]:.3f} nats, in absolute value and as a mean over "
               f"repetitions, at most {m.section.converged:g} allowed")


def _twice(checks: Preconditions, m: Results, used: Mapping[Condition, None]) -> None:
    """Joints that also trained for twice the epochs."""
    s = m.section
    for twice in dict.fromkeys(cell.condition for cell in m.of(role="twice the epochs", where="", failed=True)):
        once = m.condition("pair", twice.pair, twice.joint, twice.alpha)
        if once not in used:
            continue

        def close(pairs: np.ndarray, of=twice) -> tuple[bool, str]:
            before, after = pairs.mean(0)
            floor = ", which is its floor, so this says nothing" if max(before, after) < FLOOR else ""
            return abs(after - before) <= s.budget, (
                f"robust accuracy of {of.pair} at {of.joint} under {s.search.title} {before:.1%}, after twice the "
                f"epochs {after:.1%}{floor}, at most {s.budget:.0%} apart allowed")

        some = m.of_first(min(len(m.of(one, failed=True)) for one in (once, twice)))
        pairs = np.stack(np.broadcast_arrays(*(some.correct(one, "search").mean(-1) for one in (once, twice))), 1)
        checks.about(f"twice the epochs change little ({twice.pair} at {twice.joint})", pairs, close,
                     some.failures((once, twice)))


def _above_chance(checks: Preconditions, mine: list[tuple[Comparison, Results]]) -> None:
    """Whether every part of a claim has a comparison without a collapsed control, and no other collapsed network does
    anything but lose.
    """
    said, judged, holds = [], set(), True
    for one, there in mine:
        collapsed, counts = one.collapsed(there), one.means_something(there)
        judged |= {one.part} if counts else set()
        holds &= counts or one.control
        why = ", ".join(there.says_at_chance(c, mean(there.correct(c))) for c in collapsed)
        said += [f"{one.instance} {'counts' if counts else 'is left out'}: {why}"] * bool(collapsed)
    if said:
        every = {one.part for one, _ in mine}
        checks.add("collapsed networks lose, and are no controls", holds and judged == every, "; ".join(said))


def _learned(least: float, correct: np.ndarray) -> tuple[bool, str]:
    """Whether outcomes [S, m] show that networks have learned their task, and the numbers."""
    low = lower_bound(correct)
    return low >= least, f"lower bound of their accuracy {low:.1%}, at least {least:.0%} needed"
