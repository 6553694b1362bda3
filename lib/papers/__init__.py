"""The papers, a folder each: its settings, networks, results, evidence, tables, figures and the numbers that the paper
reports. There is no list to maintain: `papers()` finds the folders.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from lib.profiles.networks import Networks
from lib.values.cell import Cell
from lib.values.measurement import Measurement, Storable

if TYPE_CHECKING:
    from lib.results import Results
    from lib.training.zoo import Zoo


@dataclass(frozen=True)
class Paper:
    """A paper by the name of its folder, which is also the name of its section, notebook and claims. Its modules are
    imported on first use; `settings` and `networks` do not import torch.
    """

    name: str

    def module(self, name: str) -> ModuleType:
        """One of the folder's modules."""
        return import_module(f"lib.papers.{self.name}.{name}")

    @property
    def Section(self) -> type:
        """The class of its settings: a frozen dataclass with `seeds` (repetitions), `pool` (how many networks of each
        kind of the common pool are needed) and `check(networks)`, which raises SettingsError unless the section fits
        the networks.
        """
        return self.module("settings").Section

    @property
    def parameters(self) -> set[str]:
        """The names of the settings of its section."""
        return {field.name for field in fields(self.Section)}

    def cells(self, networks: Networks, section: Any, seed: Callable[[int], int]) -> list[Cell]:
        """Every network that the paper needs. seed: from a repetition (from 0) to the seed of its recipes."""
        return self.module("networks").cells(networks, section, seed)

    def measured(self, networks: Networks, section: Any, seed: Callable[[int], int]) -> dict[str, list[Storable]]:
        """{batch job: what it makes}: what jobs can make for its notebook besides networks and their accuracies, as its
        module `measured` says it; nothing without that module.
        """
        return self.module("measured").measured(networks, section, seed) if self._has("measured") else {}

    def make(self, zoo: Zoo, one: Storable) -> None:
        """Make one of what `measured` lists, unless the store has it."""
        self.module("results").make(zoo, one)

    def measurements(self, networks: Networks, section: Any, seed: Callable[[int], int]) -> list[Measurement]:
        """What is measured in addition to the accuracies of the cells, for prices: what `measured` costs, and what the
        module `costs` adds, if there is one.
        """
        jobs = self.measured(networks, section, seed)
        own = self.module("costs").measurements(networks, section, seed) if self._has("costs") else ()
        return [*own, *(replace(cost, job=job) for job, made in jobs.items() for one in made for cost in one.costs())]

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences for the price list: what `measurements` leaves out, and files without which the notebook leaves
        something out.
        """
        return self.module("costs").NOTES if self._has("costs") else ()

    def _has(self, module: str) -> bool:
        return (Path(__file__).parent / self.name / f"{module}.py").exists()

    def measure(self, zoo: Zoo, cells: list[Cell], networks: Networks, section: Any,
                seed: Callable[[int], int]) -> Results:
        """Measure the cells; the zoo trains (or loads) every network."""
        return self.module("results").measure(zoo, cells, networks, section, seed)


@functools.cache
def papers() -> dict[str, Paper]:
    """{name: paper} for every folder with settings, by the PAPER_ORDER in its `__init__`. If several papers need the
    same network, the first makes it.
    """
    names = [path.parent.name for path in Path(__file__).parent.glob("*/settings.py")]
    order = {name: import_module(f"lib.papers.{name}").PAPER_ORDER for name in names}
    return {name: Paper(name) for name in sorted(names, key=lambda name: (order[name], name))}
