"""What the judge gets from a notebook: the values of every instance of every part of its claims, and the contrasts
between conditions that give these values.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lib.claims.preconditions import Preconditions
from lib.claims.sheet import Claim
from lib.claims.verdict import Judged, judge
from lib.results import Results, mean


@dataclass(frozen=True)
class Contrast:
    """For each image, shares[0] times the sum of the outcomes of the conditions `over` minus shares[1] times the sum of
    the outcomes of the conditions `under`.
    """

    over: tuple
    under: tuple
    shares: tuple[float, float] = (1.0, 1.0)

    @property
    def conditions(self) -> tuple:
        return self.over + self.under

    def values(self, results: Results, measure: str) -> np.ndarray:
        """[S, m]: the contrast of a measure, on the same m images in the S repetitions that all conditions have, the
        first ones. The row of a repetition in which one of the networks failed is NaN.
        """
        correct = {c: results.correct(c, measure) for c in self.conditions}
        paired = min(map(len, correct.values()))
        over, under = (sum(correct[c][:paired] for c in conditions) for conditions in (self.over, self.under))
        return self.shares[0] * over - self.shares[1] * under


Contrasts = Mapping[str, Mapping[str, Mapping[str, Contrast]]]  # claim -> part -> instance


class Evidence(dict):
    """{claim: {part: {instance: float array}}}, as `claims.judge` takes its evidence, but the rows of repetitions that
    lack a network, because it failed, are NaN. lost: {claim: these networks and why they failed, in phrases}.
    """

    def __init__(self, *given):
        super().__init__(*given)
        self.lost: dict[str, list[str]] = {}

    def add(self, claim: str, part: str, instance: str, values: np.ndarray | tuple[np.ndarray, ...] | None,
            lost: Iterable[str] = ()) -> None:
        """Add an instance of a part of a claim; a tuple has an array for each set of images. Values None (could not be
        measured) are left out. lost: the networks that it lacks (`Results.failures`).
        """
        if values is not None:
            several = isinstance(values, tuple)
            self.setdefault(claim, {}).setdefault(part, {})[instance] = (
                tuple(np.asarray(one, float) for one in values) if several else np.asarray(values, float))
        self.note(claim, lost)

    def note(self, claim: str, lost: Iterable[str]) -> None:
        """Note networks that a claim lacks."""
        if lost := [*lost]:
            self.lost[claim] = list(dict.fromkeys([*self.lost.get(claim, []), *lost]))

    def add_parts(self, claim: str, instance: str, parts: Mapping[str, np.ndarray | None],
                  lost: Iterable[str] = ()) -> None:
        """Add the same instance of several parts of a claim."""
        for part, values in parts.items():
            self.add(claim, part, instance, values, lost)

    def add_contrast(self, results: Results, claim: str, part: str, instance: str, contrast: Contrast,
                     measure: str) -> None:
        """Add a contrast of a measure as an instance."""
        self.add(claim, part, instance, contrast.values(results, measure), results.failures(contrast.conditions))

    def judge(self, claim: Claim, profile: str, preconditions: Sequence = ()) -> Judged:
        """`claims.judge` on this evidence."""
        return judge(claim, self.get(claim.id, {}), profile, preconditions, self.lost.get(claim.id, ()))

    def add_contrasts(self, results: Results, contrasts: Contrasts, collapsed: Mapping[Any, float],
                      measure: Callable[[str], str], controls: Collection[tuple[str, str]] = ()) -> None:
        """Add the contrasts that are `comparable`; if a part has none, all of them. The name of an instance says which
        of its conditions collapsed. collapsed: {condition: its clean accuracy}. measure: from a part to the measure
        that it is about. controls: (claim, part) for each part that compares with a control.
        """
        for claim, parts in contrasts.items():
            for part, instances in parts.items():
                left = {name: one for name, one in instances.items()
                        if comparable(results, one, collapsed, measure(part), (claim, part) in controls)}
                for name, one in (left or instances).items():
                    fallen = [results.label(c) for c in one.conditions if c in collapsed]
                    named = f"{name} ({', '.join(fallen)} collapsed)" if fallen else name
                    self.add_contrast(results, claim, part, named, one, measure(part))


def comparable(results: Results, contrast: Contrast, collapsed: Collection, measure: str, control: bool) -> bool:
    """Whether a contrast is evidence: a condition that collapsed, that is, whose accuracy is near guessing, may lose,
    but it cannot win, and nothing is shown by a control that collapsed. control: whether `under` are controls.
    """
    over, under = ({*collapsed} & {*conditions} for conditions in (contrast.over, contrast.under))
    if not over and not under:
        return True
    lead = mean(contrast.values(results, measure))
    return not (over and lead > 0 or under and (control or lead < 0))


def above_chance(results: Results, contrasts: Contrasts, collapsed: Mapping[Any, float], measure: Callable[[str], str],
                 controls: Collection[tuple[str, str]] = ()) -> dict[str, Preconditions]:
    """{claim: the check that no collapsed condition decides it}. It holds if every part with instances has one that is
    `comparable`, and names the conditions that collapsed. The arguments are those of `Evidence.add_contrasts`.
    """
    found = {}
    for claim, parts in contrasts.items():
        used = {c for instances in parts.values() for one in instances.values() for c in one.conditions}
        said = [results.says_at_chance(c, value) for c, value in collapsed.items() if c in used]
        judged = all(not instances or any(
            comparable(results, one, collapsed, measure(part), (claim, part) in controls) for one in instances.values())
                     for part, instances in parts.items())
        found[claim] = Preconditions()
        found[claim].add("no collapsed network wins or is a control", judged,
                         f"collapsed: {'; '.join(said)}" if said else "no network is near guessing")
    return found
