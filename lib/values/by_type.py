"""Tables by type: what needs torch is found from a value's type, so that the value itself needs none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class ByType:
    """What belongs to values of a type, such as the loss of an objective.

        losses = ByType("loss")

        @losses.register(TRADES)
        class TRADESLoss(Loss): ...

        losses[TRADES(...)]  # TRADESLoss

    The type must be exactly the one registered: a subclass without an entry of its own is an error, never its base.
    """

    def __init__(self, what: str):
        self.what = what
        self.entries: dict[type, Any] = {}

    def register(self, *kinds: type) -> Callable[[Any], Any]:
        """Enter the decorated function or class for these types. Raises ValueError for a type that has an entry."""

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
