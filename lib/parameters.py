"""The parameters of a run, from a notebook's global names or a command line's `-p name=value`, as plain values.

No parameter is dropped: each is used or refused in one sentence.
"""

from __future__ import annotations

import ast
import dataclasses
import os
import reprlib
from collections.abc import ItemsView, KeysView, Mapping, Sequence, ValuesView
from decimal import Decimal
from difflib import get_close_matches
from fractions import Fraction
from numbers import Integral, Rational, Real
from types import ModuleType
from typing import Any

from lib.errors import SettingsError, impossible, need, unknown
from lib.papers import papers
from lib.papers.settings import SHARED

COMMON = {"profile", "overrides"}  # parameters of every notebook, next to the settings of its section
_KERNEL_NAMES = {"In", "Out", "get_ipython", "exit", "quit", "open"}


def plain_value(name: str, value: Any) -> Any:
    """The value of the parameter `name` as None, bool, int, float, text, list or dictionary; dataclasses (a threat, an
    attack) stay as they are. Numbers of other types keep the value they print as, and proper fractions become texts
    such as '8/255'; arrays, tensors, ranges and views become lists. Raises SettingsError for anything else: sets,
    which have no order, generators, functions, ...
    """
    try:
        return _plain(value)
    except Exception:  # the conversion of a foreign type may raise anything
        shown = " ".join(reprlib.repr(value).split())
        raise SettingsError(f"{name} = {shown} is not possible: it must be a number, a text, true or false, None, or a "
                            "list or dictionary of these (a set has no order)") from None


def _plain(value: Any) -> Any:
    match value:
        case None | bool():
            return value
        case str() | os.PathLike():
            return str.__str__(os.fspath(value))
        case Integral():
            return int(value)
        case Rational() | Decimal():
            exact = Fraction(value)
            return int(exact) if exact.denominator == 1 else str(exact)
        case Real():
            return float(str(value))  # float(np.float32(0.1)) would be 0.10000000149011612
        case Mapping():
            return {_text(key): _plain(entry) for key, entry in value.items()}
        case bytes() | bytearray():
            raise TypeError
        case Sequence() | KeysView() | ValuesView() | ItemsView():
            return [_plain(entry) for entry in value]
    if dataclasses.is_dataclass(type(value)):
        return value
    import numpy as np

    array = value.__array__()
    if array.ndim:
        return [_plain(entry) for entry in np.asarray(array)]
    return _plain(array[()] if array.dtype.kind == "f" else array.item())


def _text(key: Any) -> str:
    return str.__str__(key)  # raises TypeError unless the key is text


def parameters(names: dict, settings: set[str], made: set[str], last: dict | None) -> dict:
    """The parameters of a notebook with these `settings`, as plain values: those global `names` that cells assigned
    before its first Study, as they were last run. Imports, functions and classes do not count unless they have the name
    of a setting.

    A live kernel remembers the code that it ran, not the cells. So a cell run after the first Study is a parameters
    cell if it assigns `profile` or `overrides`, or if it assigns a name like a setting's and uses nothing that later
    cells made. It replaces the earlier parameters cell with which it shares at least half of the names, apart from
    typing errors. A name that no parameters cell assigns any more has the profile's value, and a message says so.

    made: the names bound to a Study. last: the parameters of the notebook's last Study, or None. Raises SettingsError
    for values that cannot be converted, and for parameters that a later cell has overwritten.
    """
    known = settings | COMMON
    given = {name: value for name, value in names.items()
             if name[0] != "_" and name not in _KERNEL_NAMES | made
             and (name in known or not (callable(value) or isinstance(value, ModuleType)))}
    mine, gone, later, assigned = _parameters_cells(names, known, made)
    unseen = given.keys() - assigned  # assigned by a magic command, or without a kernel
    mine |= unseen if last is None else unseen & (last.keys() if assigned else last.keys() | known)
    for name in sorted(gone & known & given.keys() - mine):
        print(f"{name} is no longer set in the parameters cell: it has the profile's value")
    for name in sorted(mine & later):
        raise impossible(name, reprlib.repr(given[name]), "set by the parameters cell, but a later cell has changed "
                         "it: run the parameters cell again")
    return {name: plain_value(name, value) for name, value in given.items() if name in mine}


def _parameters_cells(names: dict, known: set[str], made: set[str]) -> tuple[set, set, set, set]:
    """Four sets of global names: those that parameters cells assign now, those that they have ever assigned, those that
    later cells have assigned since, and those that any cell has assigned.
    """
    now, once, later, every, begun = [], set(), set(made), set(), False
    for source in names.get("In", []):  # in the order they ran
        try:
            nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)]
        except SyntaxError:
            continue  # it did not run
        stored = {node.id for node in nodes if isinstance(node.ctx, ast.Store)} & names.keys()
        every |= stored
        begun = begun or bool(stored & made)
        if not (stored := stored - made):
            continue
        uses = {node.id for node in nodes if isinstance(node.ctx, ast.Load)} & later - stored
        if not stored & COMMON and (uses or begun and not _alike(stored, known)):
            later |= stored if uses else set()
            continue
        injected = source.startswith("# Parameters")  # by papermill: never another version of a cell that people edit
        alike = [(_alike(stored, cell) / max(len(stored), len(cell)), cell) for was, cell in now if was == injected]
        share, former = max(alike, key=lambda pair: pair[0], default=(0, None))
        now = [(was, cell) for was, cell in now if share < 0.5 or cell is not former] + [(injected, stored)]
        once, later = once | stored, later - stored
    return set().union(*(cell for _, cell in now)), once, later, every


def _alike(names: set[str], known: set[str]) -> int:
    """How many of the names are known, or known apart from a typing error."""
    return sum(bool(get_close_matches(name, known, 1, 0.8)) for name in names)


def full_names(name: str, notebooks: tuple[str, ...]) -> list[str]:
    """The dotted names of the settings that a parameter's name means: itself if it begins with `networks`, a notebook
    or another name at the top of a profile; otherwise this setting, or one inside it (`prune.epochs`), of each of the
    `notebooks` that has it. Raises SettingsError if none has it.
    """
    first = name.split(".")[0]
    tops, sections = {*SHARED, *papers()}, {n: papers()[n].parameters for n in notebooks}
    if first in tops:
        return [name]
    found = [f"{notebook}.{name}" for notebook in notebooks if first in sections[notebook]]
    if not found:
        raise unknown("parameter", first, tops.union(*sections.values()), "docs/settings.md")
    return found


def put(found: dict, name: str, value: Any) -> None:
    """Add an override by its full dotted name. Raises SettingsError if it would undo an earlier one."""
    for other, earlier in found.items():
        undone = f"{other}.".startswith(f"{name}.") and (other, earlier) != (name, value)
        need(not undone, name, value, f"given once, before any setting inside it; it would undo {other} = {earlier}")
    found[name] = value


def overrides_of(notebook: str, given: dict) -> tuple[str, dict]:
    """Profile and overrides by full dotted names, from a notebook's parameters: bare names, and in `overrides` any
    names. None under a bare name means the profile's value.
    """
    given, found = dict(given), {}
    profile, more = given.pop("profile", "smoke"), given.pop("overrides", None)
    need(more is None or isinstance(more, dict), "overrides", more, "a dictionary of dotted names")
    for name, value in [*(more or {}).items(), *given.items()]:
        for full in full_names(name, (notebook,)):
            if name not in given or value is not None:
                put(found, full, value)
    return profile, found
