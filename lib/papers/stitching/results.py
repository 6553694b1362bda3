"""Model stitching (Balogh & Jelasity, ICML 2023): measure the cells of the plan.

What is stitched where stands in lib/papers/stitching/networks.py; how a stitched network is put together in
lib/models/stitched.py; what the judge gets in lib/papers/stitching/evidence.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from lib.models import build
from lib.papers.stitching.networks import Condition
from lib.papers.stitching.settings import OtherSetting, Section
from lib.profiles.networks import Networks
from lib.runtime import ProgressBar
from lib.training.evaluation import columns
from lib.training.zoo import Zoo
from lib.values.architectures import Stitch
from lib.values.cell import Cell
from lib.values.recipe import Recipe


@dataclass
class Measured:
    """Per-image outcomes of every cell; `outcomes[cell][which]` is bool [m], which in `clean`, `search`, `verify`.
    `warnings[cell][which]`: reasons to mistrust them.
    """

    networks: Networks
    section: Section
    seed: Callable[[int], int]
    cells: list[Cell]
    outcomes: dict[Cell, dict[str, np.ndarray]]
    protocols: dict[Cell, dict[str, dict]]
    converged: dict[Cell, float] = field(default_factory=dict)
    warnings: dict[Cell, dict[str, list[str]]] = field(default_factory=dict)
    where: str = ""  # what `correct` and `has` are about: the name of another setting, or here

    def at(self, place: OtherSetting) -> Measured:
        """What was measured in another setting."""
        return replace(self, networks=place.networks, section=self.section.core_at(place), where=place.name)

    def correct(self, which: str, role: str, pair: str, joint: str = "", alpha: float = 0.0) -> np.ndarray:
        """Outcomes [S, m] over repetitions of one kind of cell; images are the same for every repetition."""
        condition = Condition(role, pair, joint, alpha, self.where)
        rows = [self.outcomes[c][which] for c in self.cells if c.condition == condition]
        if not rows:
            raise KeyError(f"no cell {role} {pair} at {joint!r}, alpha {alpha}, was measured")
        return np.stack(rows).astype(float)

    def has(self, role: str, pair: str, joint: str = "", alpha: float = 0.0, which: str = "clean") -> bool:
        condition = Condition(role, pair, joint, alpha, self.where)
        return any(c.condition == condition and which in self.outcomes[c] for c in self.cells)

    def table(self):
        """A tidy DataFrame: a row per cell and measurement, with its protocol."""
        import pandas as pd

        rows, elsewhere = [], any(cell.condition.where for cell in self.cells)
        for cell in self.cells:
            condition = cell.condition
            for which, right in self.outcomes[cell].items():
                rows.append(
                    {
                        **({"where": condition.where} if elsewhere else {}),
                        "role": condition.role,
                        "pair": condition.pair,
                        "joint": condition.joint,
                        "alpha": condition.alpha,
                        "seed": cell.repetition,
                        "measure": which,
                        "accuracy": right.mean(),
                        "images": len(right),
                        "network": cell.recipe.key,
                        "last_change_of_loss": self.converged.get(cell),
                        "joint_batchnorm": cell.recipe.batchnorm,
                        "warnings": "; ".join(self.warnings.get(cell, {}).get(which, [])),
                        **columns(self.protocols[cell][which]),
                    }
                )
        return pd.DataFrame(rows)


def measure(zoo: Zoo, cells: list[Cell], networks: Networks, section: Section, seed: Callable[[int], int]) -> Measured:
    """Train (or load) every cell and measure it: clean, under the search attack, and under the stronger one where a
    claim rests on it. Everything comes from the store when it is there."""
    found = Measured(networks, section, seed, cells, {}, {})
    names = {section.verify: "verify", **{one.search: "search" for one in (section, *section.elsewhere)}}
    with ProgressBar(len(cells), "stitching cells", "cell") as bar:
        for cell in cells:
            found.outcomes[cell], found.protocols[cell], found.warnings[cell] = {}, {}, {}
            for threat, attack in (m for m in cell.measures if m[1] in names):
                outcome = zoo.outcomes(cell.recipe, threat, attack)
                which = names[attack]
                found.outcomes[cell]["clean"] = outcome.table["clean"].to_numpy(bool)
                found.outcomes[cell][which] = outcome.table["robust"].to_numpy(bool)
                found.protocols[cell][which], found.warnings[cell][which] = outcome.protocol, outcome.warnings
                found.protocols[cell]["clean"] = {
                    k: v for k, v in outcome.protocol.items() if not k.startswith(("attack", "threat", "eps", "norm"))
                }
            found.converged[cell] = last_change(zoo, cell.recipe)
            bar.step(1, cell=f"{cell.condition.role} {cell.condition.pair} {cell.condition.joint}")
    return found


def last_change(zoo: Zoo, recipe: Recipe) -> float:
    """By how much (in nats) the training loss still fell from the last but one part of training to the last; NaN for an
    untrained network. A part is a sixth of training, rounded to quarters of an epoch. Small is needed but not enough: a
    rate that falls to zero ends flat, hence the cells with twice the epochs."""
    entry = zoo.store.load("network", recipe.key) if recipe.epochs else None
    loss = [q for row in entry.meta["log"] for q in row["quarters"]] if entry else []
    n = max(1, round(len(loss) / 6))
    return float(np.mean(loss[-2 * n : -n]) - np.mean(loss[-n:])) if len(loss) > 1 else float("nan")


def self_stitch_gap(zoo: Zoo, recipe: Recipe, joint: str, images) -> float:
    """Largest difference of logits between a network and itself stitched by an identity joint; 0 when exact, because
    the activation is rectified already and ReLU leaves it as it is."""
    net = zoo.obtain(recipe).net
    stitched = build(Recipe(recipe.data, Stitch(joint, "identity"), parents=(recipe, recipe), epochs=0), [net, net])
    pixels = images.pixels(slice(0, 64))
    with torch.no_grad():
        return float((stitched.eval().to(pixels.device)(pixels) - net(pixels)).abs().max())
