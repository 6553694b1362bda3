"""Titles that say what a run found, and the one rule for when they may: intervals that do not overlap."""

from __future__ import annotations

import textwrap
from math import nan
from typing import NamedTuple

from lib.statistics import seeds

FEWEST = 3  # repetitions without which a title states no finding


class Mean(NamedTuple):
    """A mean and its 95 % interval; the bounds are NaN if they are not known."""

    value: float
    low: float
    high: float


def mean(values) -> Mean:
    """The mean of one number per repetition (missing ones are left out), with Student's t interval; without bounds for
    fewer than three repetitions and for equal values.
    """
    known = [float(value) for value in values if value == value]
    if len(known) < FEWEST:
        return Mean(sum(known) / len(known) if known else nan, nan, nan)
    found = seeds(known)
    return Mean(found.value, found.low, found.high)


def above(first, second) -> bool:
    """Whether a title may say that `first` is larger than `second`: its interval lies wholly above the other's. Both
    have `low` and `high`; without bounds nothing may be said.
    """
    return bool(first.low > second.high)


def percent(*shares: float, digits: int = 1) -> str:
    """Shares as '28.0 %', or, from the smallest to the largest, as '0.6 to 6.5 %'."""
    return span(*(100 * share for share in shares), digits=digits) + "\u00a0%"  # no line ends between number and sign


def span(*values: float, digits: int = 2) -> str:
    """Numbers as '0.51', or, from the smallest to the largest, as '0.51 to 0.70'."""
    near = 10 ** -(digits + 6)  # a tie is rounded up, whatever the last bits of a mean
    ends = dict.fromkeys(f"{value + near:.{digits}f}".replace("-", "−") for value in (min(values), max(values)))
    return " to ".join(ends)


def strength(eps) -> str:
    """A bound of a threat as '0.5' if that is exact, or in grey levels, such as '8/255'."""
    eps = float(eps)
    levels = round(255 * eps)
    exact = abs(float(f"{eps:g}") - eps) < 1e-9
    return f"{eps:g}" if exact or abs(255 * eps - levels) > 1e-6 else f"{levels}/255"


def entitle(figure, title: str, shows: str):
    """Write a title of at most two lines above a figure, and return the figure. Its attribute `description` is the
    title and `shows`, one or two sentences on what is on the axes, for readers who cannot see it.
    """
    lines = textwrap.wrap(title, max(40, int(12 * figure.get_figwidth())), break_on_hyphens=False)
    figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=11)
    figure.description = f"{title}. {shows}"
    return figure
