"""Tables by type: they find the code that needs torch from a value's type, so that the value itself needs no torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class ByType:
    """A table from types of values to what belongs to them, such as the losses of objectives.

        losses = ByType("loss")

        @losses.register(TRADES)
        class TRADESLoss(Loss): ...

        losses[TRADES(...)]  # TRADESLoss

    Types must match exactly: a subclass without an entry of its own raises TypeError and never uses its base's entry.
    """

    def __init__(self, what: str):
        self.what = what
        self.entries: dict[type, Any] = {}

    def register(self, *kinds: type) -> Callable[[Any], Any]:
        """Register the decorated function or class for these types. Raises ValueError for a type with an entry."""

        def enter(entry):
            for kind in kinds:
                if kind in self.entries:
                    raise ValueError(f"the {self.what} of {kind.__name__} is registered twice")
                self.entries[kind] = entry
            return entry

        return enter

    def __getitem__(self, value: Any) -> Any:
        """The entry of a value's type. Raises TypeError if there is none, and says how to add it."""
        kind = type(value)
        if kind not in self.entries:
            raise TypeError(f"{kind.__name__} has no {self.what}: register one for it")
        return self.entries[kind]
