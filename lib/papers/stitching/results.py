"""Model stitching (Balogh & Jelasity, ICML 2023): measure the cells of the plan.

lib/papers/stitching/networks.py says what is stitched where, lib/models/stitched.py how a stitched network is built,
lib/papers/stitching/evidence.py what the judge gets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from lib import results
from lib.models import build
from lib.papers.stitching.networks import DIRECT, Condition
from lib.papers.stitching.settings import OtherSetting, Section
from lib.profiles.networks import Networks
from lib.stitching.measures import AtJoint, at_joint
from lib.training.evaluation import Outcomes
from lib.training.zoo import Zoo
from lib.values.architectures import Stitch
from lib.values.attacks import Attack
from lib.values.cell import Cell
from lib.values.recipe import Recipe
from lib.values.threats import Threat


@dataclass
class Results(results.Results):
    """All that was measured: outcomes `clean`, `search` and, where a claim depends on it, `verify`.

    converged[cell]: see `last_change`. where: the name of the other setting that `condition` refers to; empty for the
    notebook's own.
    """

    converged: dict[Cell, float] = field(default_factory=dict)
    where: str = ""

    def at(self, place: OtherSetting) -> Results:
        """The same results, read in another setting."""
        return replace(self, networks=place.networks, section=self.section.core_at(place), where=place.name)

    def of_first(self, count: int) -> Results:
        """The results of the first `count` repetitions."""
        return replace(self, cells=[cell for cell in self.cells if cell.repetition < count])

    def condition(self, role: str, pair: str, joint: str = "", alpha: float = 0.0) -> Condition:
        """A condition in the setting `where`."""
        return Condition(role, pair, joint, alpha, self.where)

    def references(self) -> list[Cell]:
        """As in the base class, of the pool alone."""
        return [cell for cell in super().references() if cell.condition in (Condition("endpoint", k) for k in "NR")]

    def take(self, zoo: Zoo, cell: Cell, name: Callable[[Threat, Attack], str | None]) -> None:
        """As in the base class; `clean` is read from the last measure. Only the columns that are read are kept, because
        there are thousands of tables.
        """
        super().take(zoo, cell, name)
        found = {which: replace(one, table=one.table[["index", "clean", "robust"]])
                 for which, one in self.outcomes[cell].items()}
        *_, last = found.values()
        protocol = {k: v for k, v in last.protocol.items() if not k.startswith(("attack", "threat", "eps", "norm"))}
        self.outcomes[cell] = {"clean": replace(last, protocol=protocol, warnings=[]), **found}
        self.converged[cell] = last_change(zoo, cell.recipe)

    def named(self, cell: Cell) -> dict:
        """As in the base class; the column where exists only in runs with other settings."""
        found = super().named(cell)
        where = found.pop("where")
        return {"where": where, **found} if self.section.elsewhere else found

    def counted(self, cell: Cell, outcomes: Outcomes, column: str) -> dict:
        return {"images": len(outcomes.table)}

    def noted(self, cell: Cell) -> dict:
        return {"last_change_of_loss": self.converged.get(cell), "joint_batchnorm": cell.recipe.batchnorm}


def measure(zoo: Zoo, cells: list[Cell], networks: Networks, section: Section, seed: Callable[[int], int]) -> Results:
    """Train (or load) every network and measure it: clean, under the search attack, and under the stronger one where a
    claim depends on it. Whatever the store holds is read from it.
    """
    found = Results(networks, section, seed, cells)
    names = {section.verify: "verify", **{one.search: "search" for one in (section, *section.elsewhere)}}
    found.each(cells, "stitched networks", lambda cell: found.take(zoo, cell, lambda _, attack: names.get(attack)))
    return found


def last_change(zoo: Zoo, recipe: Recipe) -> float:
    """By how much (in nats) the training loss fell from the last but one part of training to the last; NaN for an
    untrained network or a very short training. A part is a sixth of training, rounded to quarters of an epoch. A small
    value is necessary but not sufficient for convergence, because a learning rate that falls to zero flattens the loss;
    therefore some cells train for twice the epochs.
    """
    entry = zoo.store.load("network", recipe.key) if recipe.epochs else None
    loss = [q for row in entry.meta["log"] for q in row["quarters"]] if entry else []
    n = max(1, round(len(loss) / 6))
    return float(np.mean(loss[-2 * n : -n]) - np.mean(loss[-n:])) if len(loss) > 1 else float("nan")


def self_stitch_gap(zoo: Zoo, recipe: Recipe, joint: str, images) -> float:
    """Largest absolute difference of logits, on the first 64 images, between a network and the same network stitched to
    itself by an identity joint. It should be exactly 0: the activations at a joint are already rectified, so another
    ReLU does not change them.
    """
    net = zoo.obtain(recipe).net
    stitched = build(Recipe(recipe.data, Stitch(joint, "identity"), parents=(recipe, recipe), epochs=0), [net, net])
    pixels = images.pixels(slice(0, 64))
    with torch.no_grad():
        return float((stitched.eval().to(pixels.device)(pixels) - net(pixels)).abs().max())


def middle_joints(zoo: Zoo, m: Results, pixels: torch.Tensor) -> dict[str, AtJoint]:
    """{role: activations of N->R at the first middle joint} in the first repetition, for pixels [n, C, H, W] in [0, 1].
    The roles are the joint trained on clean images (`pair`) and the one that was only fitted (`direct matching`), if
    they were measured.
    """
    found = {}
    for role in ("pair", DIRECT):
        for cell in m.of(Condition(role, "N->R", m.section.middle[0]))[:1]:
            stitched, end = (zoo.obtain(recipe).net for recipe in (cell.recipe, cell.recipe.parents[1]))
            found[role] = at_joint(stitched, end, cell.condition.joint, pixels)
    return found
