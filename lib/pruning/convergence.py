"""Whether searches for scores and rates are long enough: does half of the search give the same verdicts, and about the
same numbers?

Both are compared on held-out images, so that test images decide nothing but the claims.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lib.claims.evidence import Contrast, Evidence
from lib.claims.preconditions import Preconditions
from lib.claims.sheet import Claim
from lib.claims.verdict import Row
from lib.profiles.networks import as_long, updates
from lib.pruning.results import Results
from lib.values.recipe import Recipe


@dataclass(frozen=True)
class HeldOut:
    """Outcomes on held-out images, as `Contrast.values` reads them. halved: {condition: the same after half the search}
    """

    results: Results
    halved: Mapping[Any, Any]

    def correct(self, condition, measure: str) -> np.ndarray:
        return self.results.held_out(self.halved.get(condition, condition), measure)


def check_search(checks: Preconditions, results: Results, claim: Claim, contrasts: Mapping[str, Mapping[str, Contrast]],
                 halved: Mapping[Any, Any], search: Recipe, published: int, steady: bool = False) -> None:
    """Add the check that a search was long enough for a claim: it made about as many updates as the `published` one, or
    half of it gives no other verdict and no other sign of an effect.

    contrasts: {part: {instance: contrast}} of the claim, between conditions that have outcomes on held-out images;
    parts about clean accuracy end in `clean`. halved: {condition: the same after half the search}. steady: whether
    the second half must, besides, move every value by less than its margin, the smallest effect of interest. Then a
    verdict also stands in favour of a side that alone has searched if the second half moved the value in its favour.
    """
    name, made = "the search has converged", f"{updates(search):,} updates"
    if as_long(search, published):
        checks.add(name, True, f"{made}, the published search {published:,}")
        return
    half, whole = (_rows(results, claim, contrasts, of) for of in (halved, {}))
    pairs = [(half[key], row) for key, row in whole.items() if key in half]
    searched = {instance: _searched(contrast, halved) for every in contrasts.values()
                for instance, contrast in every.items()}
    said = [f"{row.name} {_shown(one)} after half of the search, {_shown(row)} after all of it" for one, row in pairs]
    wanted = sum(map(len, contrasts.values()))
    lost = "" if len(pairs) == wanted > 0 else "; networks are missing" if pairs else "no network of half a search"

    def stands(one: Row, row: Row) -> bool:
        alone = searched[row.name.partition(": ")[2]]
        return _agree(one, row) and (_near(one, row) or not steady) or steady and alone and _confirmed(one, row)

    checks.add(name, not lost and all(stands(*pair) for pair in pairs),
               f"{made}, on held-out images: {'; '.join(said)}{lost}")


def _rows(results: Results, claim: Claim, contrasts: Mapping[str, Mapping[str, Contrast]],
          halved: Mapping[Any, Any]) -> dict[str, Row]:
    """{row's name: the row} of a claim's parts, judged on held-out images."""
    evidence, held_out = Evidence(), HeldOut(results, halved)
    for part, instances in contrasts.items():
        for instance, contrast in instances.items():
            measure = "clean" if part.endswith("clean") else "robust"
            evidence.add(claim.id, part, instance, contrast.values(held_out, measure))
    of_parts = replace(claim, parts=tuple(part for part in claim.parts if part.id in contrasts))
    return {row.name: row for row in evidence.judge(of_parts, claim.scope[-1]).rows}


def _agree(one: Row, other: Row) -> bool:
    """Whether two rows have the same verdict, and no intervals on different sides of no effect (of a bar's margin)."""
    middle = one.threshold if one.null_value is None else one.null_value
    opposite = one.low > middle > other.high or other.low > middle > one.high
    return one.verdict == other.verdict and not opposite


def _near(one: Row, other: Row) -> bool:
    """Whether the values of two rows differ by less than their margin, of either sign."""
    return abs(other.value - one.value) < abs(other.threshold)


def _searched(contrast: Contrast, halved: Mapping[Any, Any]) -> bool:
    """Whether the conditions over the contrast have searched and those under it have not."""
    over, under = ({*some} & halved.keys() for some in (contrast.over, contrast.under))
    return bool(over) and not under


def _confirmed(one: Row, other: Row) -> bool:
    """Whether the claim is supported after all of a search, whose second half moved the value in its favour."""
    return other.side == "above" and other.verdict == "supported" and other.value > one.value


def _shown(row: Row) -> str:
    return f"{100 * row.value:+.1f} points ({row.verdict})"
