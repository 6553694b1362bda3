"""Verdicts and how they read."""

from __future__ import annotations

VERDICTS = ("supported", "weak", "absent", "contradicted", "undecided", "not tested")


def said(verdict: str, withheld: str = "", at_best: str = "", changed: bool = False) -> str:
    """A verdict with what is known besides: 'undecided, at best weak', 'not tested (withheld: supported)', 'supported,
    changed after seeing' if the claim was changed after its paper was frozen.
    """
    at_best = f", at best {at_best}" if at_best else ""
    known = f"{verdict} (withheld: {withheld}{at_best})" if withheld else verdict + at_best
    return known + ", changed after seeing" * changed
