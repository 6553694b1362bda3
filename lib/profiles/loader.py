"""Frozen values (settings, claims) from the nested plain data of a YAML file, with errors that name what is wrong."""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from fractions import Fraction
from pathlib import Path

import yaml

from lib.errors import SettingsError, fraction, need, unknown
from lib.values.architectures import ResNet
from lib.values.keys import kinds_of

# Words of profiles for values with options of their own; all other values go by the name of their class.
SHORT = {"ResNet18": ResNet(64, (2, 2, 2, 2))}
PLAIN = {int: "a whole number", float: "a number", bool: "true or false", str: "a word or a text"}


def read(path: Path):
    """The plain data of a YAML file; a SettingsError names the file and the line that cannot be read."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" at line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", error)
        raise SettingsError(f"{path.parent.name}/{path.name} is not YAML{line}: {problem}") from None


def parse(text: str):
    """A value from a command line: YAML, so that 3, 0.5, true, null and [a, b] mean what they say; 8/255 stays text."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise SettingsError(
            f"the value {text!r} cannot be read: write a number, a word or a list like [a, b]"
        ) from None


def make(cls, tree, where: str):
    """An instance of a dataclass from nested plain data; `where` is the dotted name for messages ("": the fields' names
    alone). Fields may be given as values that are made already. Raises SettingsError for names that the class does not
    have, fields that are missing, and values that are not as the class annotates them or as it checks them.
    """
    if not isinstance(tree, dict):
        raise SettingsError(f"{where} = {tree!r} is not possible: it must be a section with named settings")
    hints = typing.get_type_hints(cls)
    known = {f.name: f for f in dataclasses.fields(cls)}
    values = {}
    for name, value in tree.items():
        if name not in known:
            raise unknown("setting", f"{where}.{name}".strip("."), [f"{where}.{k}".strip(".") for k in known])
        values[name] = _value(hints[name], value, f"{where}.{name}".strip("."))
    for name, f in known.items():
        if name not in values and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            raise SettingsError(f"{f'{where}.{name}'.strip('.')} is missing: it must be given")
    return cls(**values)


def _value(hint, value, where: str):
    """One value as its annotation wants it."""
    options = typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)
    if value is None:
        need(type(None) in options, where, "null", "given")
        return None
    options = [o for o in options if o is not type(None)]
    options = [kind for o in options for kind in (kinds_of(o) if inspect.isabstract(o) else [o])]
    if all(dataclasses.is_dataclass(o) for o in options):
        return _typed(options, value, where)
    if len(options) > 1:  # of plain types: the value stays as it is written
        need(type(value) in options, where, repr(value), " or ".join(PLAIN[o] for o in options))
        return value
    hint = options[0]
    if hint is Fraction:
        return fraction(value, where)
    if typing.get_origin(hint) is tuple:
        need(isinstance(value, (list, tuple)), where, value, "a list")
        inner = typing.get_args(hint)
        return tuple(_value(inner[0], v, where) for v in value) if inner[-1] is Ellipsis else tuple(value)
    if hint is float:
        return float(fraction(value, where))
    if hint in PLAIN:
        need(type(value) is hint, where, repr(value), PLAIN[hint])
    return value


def _typed(options: list, value, where: str):
    """A dataclass value; where several types are possible, a word or the entry `type` says which."""
    if type(value) in options:
        return value
    if not isinstance(value, (dict, str)):
        raise SettingsError(f"{where} = {value!r} is not possible: it must be a section with named settings")
    names = {o.__name__: o for o in options}
    short = {name: ready for name, ready in SHORT.items() if type(ready) in options}
    value = {"type": value} if isinstance(value, str) else dict(value)
    kind = value.pop("type", options[0].__name__ if len(options) == 1 else None)
    if kind in short and not value:
        return short[kind]
    if kind not in names:
        raise unknown(f"{where} type", kind, [*names, *short])
    return make(names[kind], value, where)
