"""Keys: frozen dataclasses as plain data and as digests.

Architectures, threats, objectives and recipes are values: equal when they mean the same, checked when they are made.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from fractions import Fraction
from typing import Any


def later(default: Any) -> Any:
    """A field that was added after keys were in use: while it has its default it does not enter the key, so results
    stored before are still found.
    """
    return dataclasses.field(default=default, metadata={"later": True})


def kinds_of(base: type) -> list[type]:
    """The dataclasses that derive from `base`, in the order of their definition; `base` itself if it is one."""
    own = [base] if dataclasses.is_dataclass(base) else []
    return own + [kind for derived in base.__subclasses__() for kind in kinds_of(derived)]


def plain(value: Any) -> Any:
    """A value made of dataclasses as JSON types; a value with `as_plain` supplies its own."""
    if value is None or type(value) in (str, int, bool):  # most values: the plan of a large profile has millions
        return value
    if hasattr(value, "as_plain"):
        return value.as_plain()
    if dataclasses.is_dataclass(value):
        return {"type": type(value).__name__, **plain_fields(value)}
    if isinstance(value, Fraction):
        return str(value)
    if isinstance(value, (tuple, list)):
        return [plain(v) for v in value]
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if type(value).__module__ == "numpy":
        value = value.item()
    if isinstance(value, float) and value.is_integer():
        return int(value)  # 1 and 1.0 mean the same recipe
    return value


def plain_fields(value: Any, without: tuple[str, ...] = ()) -> dict:
    """The fields of a dataclass value as plain data, except those added `later` that have their default."""
    return {
        f.name: plain(getattr(value, f.name))
        for f in dataclasses.fields(value)
        if f.name not in without and not (f.metadata.get("later") and getattr(value, f.name) == f.default)
    }


def digest(value: Any) -> str:
    """Sixteen hexadecimal digits of SHA-256 over the canonical JSON of `value`."""
    text = json.dumps(plain(value), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
