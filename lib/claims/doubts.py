"""Which claims a warning touches."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from lib.results import Results
from lib.training.evaluation import Outcomes


def alike(warning: str) -> str:
    """A warning without its numbers: warnings that differ only in them are shown once."""
    return re.sub(r"[\d.]+", "#", warning)


def touched(results: Results, evidence: Callable[[Results], Mapping]) -> dict[str, list[str]]:
    """{a warning of the outcomes, without its numbers (`alike`): the claims whose numbers rest on outcomes with it}.

    evidence: the function that gives the evidence of all claims, {claim: {part: {instance: array}}}. A claim rests on
    outcomes if its evidence changes when no image counts as correct in them: under an attack or certificate, when no
    image is robust or verified.
    """
    doubted: dict[str, set[tuple]] = {}
    for cell, every in results.outcomes.items():
        for measure, one in every.items():
            for warning in one.warnings:
                doubted.setdefault(alike(warning), set()).add((cell, measure))
    found, before = {}, evidence(results) if doubted else {}
    for warning, places in doubted.items():
        without = {cell: {measure: _without(one) if (cell, measure) in places else one
                          for measure, one in every.items()} for cell, every in results.outcomes.items()}
        with np.errstate(all="ignore"):  # shares of accuracies that are now 0
            after = evidence(replace(results, outcomes=without))
        found[warning] = [claim for claim, parts in before.items() if not _same(parts, after.get(claim, {}))]
    return found


def _without(outcomes: Outcomes) -> Outcomes:
    """Outcomes in which no image is robust or verified, or, without an attack or certificate, none is correct."""
    columns = [name for name in ("robust", "verified") if name in outcomes.table] or ["clean"]
    return replace(outcomes, table=outcomes.table.assign(**dict.fromkeys(columns, False)))


def _same(one: Mapping[str, Mapping[str, np.ndarray]], other: Mapping[str, Mapping[str, np.ndarray]]) -> bool:
    """Whether a claim's evidence is the same."""
    return one.keys() == other.keys() and all(
        one[part].keys() == other[part].keys()
        and all(_equal(values, other[part][name]) for name, values in one[part].items())
        for part in one)


def _equal(one: np.ndarray | tuple, other: np.ndarray | tuple) -> bool:
    """Whether two arrays, or two tuples of arrays (one for each set of images), are the same."""
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(_equal, one, other))
    return np.array_equal(one, other, equal_nan=True)
