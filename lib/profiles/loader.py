"""Frozen values (settings, claims) from the nested plain data of a YAML file, with errors that name what is wrong."""

from __future__ import annotations

import dataclasses
import inspect
import re
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from lib.errors import SettingsError, fraction, impossible, is_int, need, unknown
from lib.files import named
from lib.values.architectures import ResNet
from lib.values.declared import Hint, Repetitions, hints_of
from lib.values.keys import kinds_of

# Short names in profiles for values with options; all other values go by the name of their class.
SHORT = {"ResNet18": ResNet(64, (2, 2, 2, 2))}
PLAIN = {int: "a whole number", float: "a number", bool: "true or false", str: "a word or a text"}


class Reader(yaml.SafeLoader):
    """YAML as profiles, claims and command lines use it. `true`, `false` and `null` (or `~`, or nothing) are those
    values; decimal digits are a whole number, also after zeros (010 is ten); with a point or an exponent they are a
    number (1e3 is 1000.0), and so are .inf and .nan. Everything else is a text: yes, no, on, off, 0x10, 0o10, 1_000,
    1:30, 8/255, dates. A name that is given twice in one section is an error.
    """

    def compose_mapping_node(self, anchor):
        """A section as it is written, before others are merged into it (`<<`)."""
        node, seen = super().compose_mapping_node(anchor), set()
        for key, _ in node.value:
            if str(key.value) in seen:
                raise yaml.composer.ComposerError(None, None, f"'{key.value}' is given twice", key.start_mark)
            seen.add(str(key.value))
        return node


Reader.yaml_implicit_resolvers = {}
for tag, pattern, starts in (
    ("null", "|~|null|Null|NULL", ["", *"~nN"]), ("bool", "true|True|TRUE|false|False|FALSE", [*"tTfF"]),
    ("int", "[-+]?[0-9]+", [*"-+0123456789"]), ("merge", "<<", ["<"]),
    ("float", r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan", [*"-+.0123456789"]),
):
    Reader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(f"({pattern})$"), starts)
Reader.add_constructor("tag:yaml.org,2002:int", lambda reader, node: int(reader.construct_scalar(node)))


def read(path: Path):
    """The plain data of a YAML file. Raises SettingsError if it is not YAML, FileError if it cannot be read."""
    try:
        with named(f"{path} cannot be read"):
            return yaml.load(path.read_text(encoding="utf-8"), Reader)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: bytes that are not text
        mark = getattr(error, "problem_mark", None)
        line = f" at line {mark.line + 1}" if mark else ""
        problem = " ".join(str(getattr(error, "problem", error)).split())
        raise SettingsError(f"{path.parent.name}/{path.name} is not YAML{line}: {problem}") from None


def parse(text: str, name: str = "the value"):
    """A value from a command line, as `Reader` reads it: 3, 0.5, true, null and [a, b] mean what they say; 8/255 stays
    text. Raises SettingsError, with `name` for the value, if the text is not YAML.
    """
    try:
        return yaml.load(text, Reader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # the last two for too many digits or brackets
        problem = getattr(error, "problem", None) or type(error).__name__
        raise SettingsError(f"{name} = {reprlib.repr(text)} cannot be read ({problem}): write a number, a word or a "
                            "list like [a, b]") from None


def make(cls, tree, where: str):
    """An instance of a dataclass from nested plain data; `where` is its dotted name in messages ("": none). Fields may
    be instances already. Raises SettingsError for unknown names, missing fields, and values that the class's
    annotations or checks do not allow.
    """
    need(type(tree) is dict, where, repr(tree), "a section with named settings")
    hints = hints_of(cls)
    values = {}
    for name, value in tree.items():
        if name not in hints:
            raise unknown("setting", f"{where}.{name}".strip("."), [f"{where}.{k}".strip(".") for k in hints])
        values[name] = _value(hints[name], value, f"{where}.{name}".strip("."))
    for f in dataclasses.fields(cls):
        if f.name not in values and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            raise SettingsError(f"{f'{where}.{f.name}'.strip('.')} is missing: it must be given")
    return cls(**values)


def capped(cls: type, tree: Mapping[str, Any], most: int) -> dict[str, Any]:
    """The plain data of a dataclass with every number of repetitions in it, also in parts of it, at most `most`; so are
    those that the data leave to their defaults.
    """
    found = dict(tree)
    for field in dataclasses.fields(cls):
        hint, value = hints_of(cls)[field.name], tree.get(field.name, field.default)
        part = hint.each or hint
        inner = next(iter(part.types), None) if part.declared and not any(map(inspect.isabstract, part.types)) else None
        if any(bound in Repetitions.__metadata__ for bound in hint.bounds) and is_int(value, most):
            found[field.name] = most
        elif type(value) is list and inner:
            found[field.name] = [capped(inner, one, most) if type(one) is dict else one for one in value]
        elif type(value) is dict and inner:
            found[field.name] = capped(inner, value, most)
        elif isinstance(value, inner or ()) and field.name not in tree:  # a default
            found[field.name] = dataclasses.replace(value, **capped(inner, vars(value), most))
    return found


def _value(hint: Hint, value, where: str):
    """A value converted as its annotation requires. Raises SettingsError unless it is within its bounds."""
    if value is None:
        need(hint.optional, where, "null", "given")
        return None
    if hint.each:
        need(type(value) in (list, tuple), where, value, "a list")
        value = tuple(_value(hint.each, entry, _entry(where, number, entry)) for number, entry in enumerate(value))
    elif hint.declared:
        value = _typed(hint.types, value, where)
    elif hint.types == (float,):
        value = float(fraction(value, where))
    if type(value) is str and hint.types in ((int,), (bool,)):  # in quotes, because it may look like an allowed value
        raise impossible(where, repr(value), hint.bounds[0].words if hint.bounds else PLAIN[hint.types[0]])
    value = hint.fit(value, where)
    if all(kind in PLAIN for kind in hint.types):
        need(type(value) in hint.types, where, repr(value), " or ".join(PLAIN[kind] for kind in hint.types))
    return value


def _entry(where: str, number: int, entry) -> str:
    """The name of a list's entry in messages; a section has its own name or its number, counted from 0."""
    return f"{where}[{entry.get('name', number)}]" if type(entry) is dict else where


def _typed(bases: tuple, value, where: str):
    """A declared value; if several types are possible, a word or the entry `type` names one."""
    options = [kind for base in bases for kind in (kinds_of(base) if inspect.isabstract(base) else [base])]
    if type(value) in options:
        return value
    need(type(value) in (dict, str), where, repr(value), "a section with named settings")
    names = {o.__name__: o for o in options}
    short = {name: ready for name, ready in SHORT.items() if type(ready) in options}
    value = {"type": value} if type(value) is str else dict(value)
    kind = str(value.pop("type", options[0].__name__ if len(options) == 1 else None))
    if kind in short and not value:
        return short[kind]
    if kind not in names:
        raise unknown(f"{where} type", kind, [*names, *short])
    return make(names[kind], value, where)
