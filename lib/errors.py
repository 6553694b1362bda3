"""The errors that every module raises before any work: one sentence that says what is wrong with a value."""

from __future__ import annotations

import difflib
from fractions import Fraction
from numbers import Integral, Real

MANY = 24  # so many known names are given, of more only the nearest
LARGEST = 100_000  # the largest denominator of a fraction that a float is read as


class OneLineError(Exception):
    """Something the user can fix; the message is one sentence, which is shown without a traceback on the command line
    and in notebooks.
    """

    def _render_traceback_(self) -> list[str]:
        """What IPython shows instead of a traceback."""
        return [f"{type(self).__name__}: {self}"]


class NetworkFailed(OneLineError):
    """A network cannot be made or measured; everything else goes on without it. Advice follows after a semicolon.
    lasting: whether it would fail again, on any machine. noted: whether its zoo has noted it under the network's key.
    """

    lasting = True
    noted = False

    @property
    def reason(self) -> str:
        """Why, without advice."""
        return str(self).split(";")[0]


class SettingsError(OneLineError, ValueError):
    """A parameter has an impossible value; the message is one sentence naming parameter, value and what is allowed."""


def unknown(what: str, name: str, known, place: str = "") -> SettingsError:
    """An error for an unknown name, with the nearest known one. Of many known names it gives only the nearest few,
    and the `place` that lists all.
    """
    known = sorted(str(k) for k in known)
    near = difflib.get_close_matches(str(name), known, n=4, cutoff=0.5)
    near[1:] = difflib.get_close_matches(str(name), near[1:], n=3, cutoff=0.65)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    if len(known) <= MANY or not near and not place:
        return SettingsError(f"unknown {what} '{name}'{hint} (known: {', '.join(known)})")
    hint = f"; did you mean {' or '.join(repr(one) for one in near)}?" if near else ""
    return SettingsError(f"unknown {what} '{name}'{hint} ({len(known)} are known{f', see {place}' if place else ''})")


def impossible(name: str, value, allowed: str) -> SettingsError:
    """An error for an impossible value, naming parameter, value and what is allowed."""
    shown = repr(value) if type(value).__name__ == "ndarray" else value  # str writes array(20) as 20
    return SettingsError(f"{name} = {shown!s} is not possible: it must be {allowed}")


def need(ok: bool, name: str, value, allowed: str) -> None:
    """Raise the error of `impossible` unless `ok`."""
    if not ok:
        raise impossible(name, value, allowed)


def fraction(value, name: str = "value") -> Fraction:
    """An exact number from an int, a decimal or a text like '8/255'. A float is read as the decimal it prints as, or,
    if this has many digits, as a fraction with a denominator up to LARGEST and the same float, such as 8 / 255. Raises
    SettingsError for anything else.
    """
    try:
        exact = value if isinstance(value, Fraction) else Fraction(str(value).replace(" ", ""))
        if isinstance(value, float) and exact.denominator > LARGEST:
            simple = exact.limit_denominator(LARGEST)
            return simple if float(simple) == value else exact
        return exact
    except (ValueError, ZeroDivisionError):
        raise SettingsError(
            f"{name} = {value!r} is not a number: write a decimal or a fraction such as 8/255"
        ) from None


def is_int(value, low: int) -> bool:
    """Whether `value` is a whole number (an int or NumPy's) of at least `low`; True and False are not."""
    return isinstance(value, Integral) and not isinstance(value, bool) and value >= low


def is_number(value, low: float, high: float = float("inf")) -> bool:
    """Whether `value` is a number (Python's or NumPy's) from `low` to `high`; True and False are not."""
    return isinstance(value, Real) and not isinstance(value, bool) and low <= value <= high
