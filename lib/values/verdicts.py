"""Verdicts as text."""

from __future__ import annotations


def said(verdict: str, withheld: str = "", at_best: str = "") -> str:
    """A verdict with what is known besides: 'undecided, at best weak', 'not tested (withheld: supported)'."""
    at_best = f", at best {at_best}" if at_best else ""
    return f"{verdict} (withheld: {withheld}{at_best})" if withheld else verdict + at_best
