"""Fields of dataclasses that declare which values they allow.

    @dataclass(frozen=True)
    class Smoothed(Declared):
        where = "smoothed"

        seeds: Repetitions                                  # a whole number from 1 to 100
        sigma: Annotated[float, above(0)] = 0.25
        kind: Annotated[str, OneOf(KINDS)] | None = None
        sizes: Annotated[tuple[Share, ...], growing()] = ()

Bounds are checked when a value is made, and before that by the loader of profiles (lib/profiles/loader.py), which knows
the full dotted name. Conditions on several fields together are written by hand in `check_together`. A bound with a
function of its own is a named constant of its module: annotations are evaluated late, and a lambda inside one would not
see the module's globals.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from operator import attrgetter
from typing import Annotated, Any

from lib.errors import fraction, is_int, is_number, need, unknown


@dataclass(frozen=True, eq=False)
class Bound:
    """A condition on a value: `fits` checks it, `allowed` completes the error "it must be ...". of: the attribute of
    the value, or of the entries of a tuple, that is checked; "": the value itself.
    """

    fits: Callable[[Any], bool]
    allowed: str
    of: str = ""

    @property
    def words(self) -> str:
        """What is allowed, in a few words."""
        return f"{self.of}: {self.allowed}".removeprefix(": ")

    def hold(self, value: Any, name: str, optional: bool = False) -> None:
        """Raise SettingsError, with `name` for the value, unless it fits. optional: whether null is allowed."""
        if self.of:
            part, name = attrgetter(self.of), f"{name}.{self.of}"
            value = tuple(map(part, value)) if type(value) is tuple else part(value)
        shown = f"[{', '.join(map(str, value))}]" if type(value) is tuple else "''" if value == "" else value
        need(self.fits(value), name, shown, self.allowed + ", or null" * optional)


@dataclass(frozen=True, eq=False)  # known names may be unhashable
class OneOf:
    """A value must be one of the known names; an error suggests the nearest."""

    known: Iterable[str]

    @property
    def words(self) -> str:
        """What is allowed, in a few words."""
        return f"one of {', '.join(self.known)}"

    def hold(self, value: Any, name: str, optional: bool = False) -> None:
        """Raise SettingsError, with `name` for the value, unless it is known. optional: whether null is allowed."""
        if value not in [*self.known]:
            raise unknown(name, value, [*self.known, *["null"] * optional])


def whole(low: int, high: float = math.inf) -> Bound:
    """A whole number from `low` to `high`."""
    span = f"from {low} to {high}" if high < math.inf else f"of at least {low}"
    return Bound(lambda v: is_int(v, low) and v <= high, f"a whole number {span}")


def number(low: float, high: float = math.inf) -> Bound:
    """A number from `low` to `high`."""
    span = f"from {low:g} to {high:g}" if high < math.inf else f"of at least {low:g}"
    return Bound(lambda v: is_number(v, low, high), f"a number {span}")


def above(low: float) -> Bound:
    """A number greater than `low`."""
    return Bound(lambda v: is_number(v, low) and v > low, f"a number greater than {low:g}")


def below(low: float, high: float) -> Bound:
    """A number of at least `low` that is less than `high`."""
    return Bound(lambda v: is_number(v, low, high) and v < high, f"a number from {low:g} to below {high:g}")


def between(low: float, high: float) -> Bound:
    """A number greater than `low` and less than `high`."""
    return Bound(lambda v: is_number(v, low, high) and low < v < high,
                 f"a number between {low:g} and {high:g}, both excluded")


def length(low: int, high: float = math.inf) -> Bound:
    """From `low` to `high` entries."""
    count = f"{low} to {high}" if high < math.inf else f"{low} or more"
    return Bound(lambda v: low <= len(v) <= high, f"{count} entries long")


def different(least: int = 0, of: str = "") -> Bound:
    """At least `least` entries of which no two are equal (with `of`: in this attribute)."""
    return _ordered("different ones", lambda v: [*dict.fromkeys(v)], least, of)


def growing(least: int = 0) -> Bound:
    """At least `least` strictly increasing numbers."""
    return _ordered("increasing numbers", lambda v: sorted({*v}), least)


def falling(least: int = 0) -> Bound:
    """At least `least` strictly decreasing numbers."""
    return _ordered("decreasing numbers", lambda v: sorted({*v}, reverse=True), least)


def _ordered(what: str, order: Callable[[tuple], list], least: int, of: str = "") -> Bound:
    many = f"{'one' if least == 1 else least} or more " if least else ""
    return Bound(lambda v: len(v) >= least and [*v] == order(v), many + what, of)


Count = Annotated[int, whole(1)]
Repetitions = Annotated[int, whole(1, 100)]
Share = Annotated[float, number(0, 1)]
ProperShare = Annotated[Fraction, between(0, 1)]  # exact
Positive = Annotated[float, above(0)]
NotNegative = Annotated[float, number(0)]
Text = Annotated[str, Bound(lambda v: type(v) is str and bool(v.strip()), "text that is not empty")]


@dataclass(frozen=True)
class Hint:
    """A parsed annotation. types: the types that a value may have; optional: whether it may be None; bounds: the
    conditions on it; each: the hint of a tuple's entries.
    """

    types: tuple[type, ...]
    optional: bool = False
    bounds: tuple[Bound | OneOf, ...] = ()
    each: Hint | None = None

    @classmethod
    def of(cls, annotation: Any) -> Hint:
        """The hint of a field, a union's member or a tuple's entries, from its resolved annotation."""
        origin, args = typing.get_origin(annotation), typing.get_args(annotation)
        if origin is Annotated:
            hint = cls.of(args[0])
            return dataclasses.replace(hint, bounds=hint.bounds + args[1:])
        if origin in (typing.Union, types.UnionType):
            parts = [cls.of(arg) for arg in args if arg is not types.NoneType]
            kinds = tuple(kind for part in parts for kind in part.types)
            return dataclasses.replace(parts[0], types=kinds, optional=types.NoneType in args)
        return cls((origin or annotation,), each=cls.of(args[0]) if origin is tuple and args[-1] is ... else None)

    @functools.cached_property
    def declared(self) -> bool:
        """Whether the values are instances of `Declared`."""
        return all(issubclass(kind, Declared) for kind in self.types)

    def fit(self, value: Any, name: str) -> Any:
        """The value, with exact fractions and with tuples for lists. Raises SettingsError, with `name` for the value,
        unless it is allowed.
        """
        if value is None and self.optional:
            return None
        if self.each:
            need(type(value) in (list, tuple), name, value, "a list")
            value = tuple(self.each.fit(entry, name) for entry in value)
        elif self.types == (Fraction,):
            value = fraction(value, name)
        elif self.types == (bool,):
            need(type(value) is bool, name, value, "true or false")
        elif self.declared:
            need(isinstance(value, self.types), name, value, " or ".join(kind.__name__ for kind in self.types))
        for bound in self.bounds:
            bound.hold(value, name, self.optional)
        return value


@functools.cache
def hints_of(cls: type) -> dict[str, Hint]:
    """{field: hint} of a dataclass."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {f.name: Hint.of(hints[f.name]) for f in dataclasses.fields(cls)}


class Declared:
    """The base of frozen dataclasses whose fields are checked when a value is made. It has no fields, so keys depend on
    a value's own fields alone.
    """

    where = ""  # the prefix of its fields' names in messages

    def __post_init__(self):
        for name, hint in hints_of(type(self)).items():
            value = getattr(self, name)
            fitted = hint.fit(value, f"{self.where}.{name}".strip("."))
            if fitted is not value:
                object.__setattr__(self, name, fitted)
        self.check_together()

    def check_together(self) -> None:
        """Raise SettingsError unless the fields, each possible by itself, fit together."""
