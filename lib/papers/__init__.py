"""The papers: a folder each, with its settings, networks, results, evidence, tables, figures and the paper's own
numbers. Nobody lists them: `papers()` finds the folders.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, fields
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from lib.profiles.networks import Networks
from lib.values.cell import Cell

if TYPE_CHECKING:
    from lib.results import Results
    from lib.training.zoo import Zoo


@dataclass(frozen=True)
class Paper:
    """A paper by the name of its folder, which is also that of its section, notebook and claims. Its modules are
    imported when they are asked for; `settings` and `networks` import no torch.
    """

    name: str

    def module(self, name: str) -> ModuleType:
        """One of the folder's modules."""
        return import_module(f"lib.papers.{self.name}.{name}")

    @property
    def Section(self) -> type:
        """What a profile may set: a frozen dataclass with `seeds` (repetitions), `pool` (networks of each kind of the
        common pool that it needs) and `check(networks)`, which raises SettingsError unless the section fits them.
        """
        return self.module("settings").Section

    @property
    def parameters(self) -> set[str]:
        """The names of the settings of its section."""
        return {field.name for field in fields(self.Section)}

    def cells(self, networks: Networks, section: Any, seed: Callable[[int], int]) -> list[Cell]:
        """Every network that the paper needs. seed: of the recipes of a repetition (from 0)."""
        return self.module("networks").cells(networks, section, seed)

    def measure(self, zoo: Zoo, cells: list[Cell], networks: Networks, section: Any,
                seed: Callable[[int], int]) -> Results:
        """What was measured of the cells, every network trained (or loaded) by the zoo."""
        return self.module("results").measure(zoo, cells, networks, section, seed)


@functools.cache
def papers() -> dict[str, Paper]:
    """{name: paper} of every folder with settings, in the order of PAPER_ORDER in its `__init__`: of several papers
    that need a network the first makes it.
    """
    names = [path.parent.name for path in Path(__file__).parent.glob("*/settings.py")]
    order = {name: import_module(f"lib.papers.{name}").PAPER_ORDER for name in names}
    return {name: Paper(name) for name in sorted(names, key=lambda name: (order[name], name))}
