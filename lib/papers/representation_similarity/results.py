"""The representation similarity notebook (Cianfarani et al., NeurIPS 2022): measure the networks of the plan, and look
at them layer by layer. Which networks stands in lib/papers/representation_similarity/networks.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from lib.papers.representation_similarity.settings import Section
from lib.profiles.networks import Networks
from lib.runtime import ProgressBar
from lib.similarity.looks import Look, Moved, look_at
from lib.similarity.maps import Maps
from lib.training.evaluation import Outcomes, columns
from lib.training.zoo import Zoo
from lib.values.cell import Cell

POOL = {"U": "untrained", "M": "matched normal", "N": "normal", "R": "robust"}  # kinds, as figures name them
MOVED = {"own": "own adversarial", "of N": "adversarial for a normal network",
         "of R": "adversarial for a robust network", "noise": "noise of equal size"}


@dataclass
class Found:
    """All that was measured.

    outcomes[cell]: verdicts per image by the measure's name (clean, train, search, verify, own, holdout). pool: views
    N0, R0, M0, U0, N1, ... on clean images. arms: N, R and the arms; elsewhere[arm]: those on other data.
    moved[kind, seed]: the views `clean` and those of MOVED of one network. second[measure]: self maps by a further
    measure. runs[kind, seed, split]: the checkpoints of a run, views named by their epochs.
    """

    networks: Networks
    section: Section
    seed: Callable[[int], int]
    cells: list[Cell]
    outcomes: dict[Cell, dict[str, Outcomes]] = field(default_factory=dict)
    pool: Maps | None = None
    arms: Maps | None = None
    elsewhere: dict[str, Maps] = field(default_factory=dict)
    moved: dict[tuple[str, int], Maps] = field(default_factory=dict)
    second: dict[str, Maps] = field(default_factory=dict)
    runs: dict[tuple[str, int, str], Maps] = field(default_factory=dict)

    def right(self, kind: str, which: str = "clean", verdict: str = "clean") -> np.ndarray:
        """Outcomes [S, m] of the networks of a kind: `verdict` of the measure `which` (clean, search, verify)."""
        rows = [self.outcomes[c][which].table[verdict] for c in self.cells
                if c.condition.kind == kind and which in self.outcomes[c] and c.condition.epoch is None]
        return np.stack([row.to_numpy(bool) for row in rows]).astype(float)

    def accuracy(self, kind: str, which: str = "clean", verdict: str = "clean") -> float:
        return float(self.right(kind, which, verdict).mean())

    def note(self, kind: str) -> str:
        """Clean accuracy and robust accuracy under the search attack, for the title of a map."""
        return f"clean {self.accuracy(kind):.0%}, PGD-{self.section.search.steps} " \
               f"{self.accuracy(kind, 'search', 'robust'):.0%}"

    def maps(self, kind: str) -> Maps:
        """The clean maps that hold the networks of a kind."""
        if kind in POOL:
            return self.pool
        return self.elsewhere.get(kind.partition(" ")[2], self.arms)

    def seeds(self, kind: str) -> int:
        return self.section.seeds if kind in POOL else self.section.arm_seeds

    def table(self):
        """A tidy DataFrame: a row per network and measure, with its protocol."""
        import pandas as pd

        rows = []
        for cell, found in self.outcomes.items():
            for which, outcome in found.items():
                verdict = "clean" if which in ("clean", "train") else "robust"
                rows.append({"kind": cell.condition.kind, "seed": cell.repetition, "epoch": cell.condition.epoch,
                             "measure": which, "accuracy": outcome.accuracy(verdict), "network": cell.recipe.key,
                             "warnings": "; ".join(outcome.warnings), **columns(outcome.protocol)})
        return pd.DataFrame(rows)


def measure(zoo: Zoo, cells: list[Cell], networks: Networks, section: Section, seed: Callable[[int], int]) -> Found:
    """Train (or load) every network, measure its accuracies and make all maps; all from the store if it is there."""
    s, found = section, Found(networks, section, seed, cells)
    with ProgressBar(len(cells), "networks", "network") as bar:
        for cell in cells:
            found.outcomes[cell] = _accuracies(zoo, cell, s)
            bar.step(1, network=f"{cell.condition.kind} {cell.repetition}")
    options = {"images": s.images, "layers": s.layers, "batch": s.batch}
    clean = [c for c in cells if c.condition.epoch is None]
    of_pool = [_look(c) for c in clean if c.condition.kind in POOL]
    found.pool = look_at(zoo, of_pool, **options)
    arms = [c for c in clean if c.condition.variant]
    here = [c for c in arms if c.recipe.data == networks.data]
    if here:
        beside = [look for look in of_pool if look.name[0] in "NR" and int(look.name[1:]) < s.arm_seeds]
        found.arms = look_at(zoo, beside + [_look(c) for c in here], **options)
    for name in dict.fromkeys(c.condition.variant.name for c in arms if c not in here):
        theirs = [_look(c) for c in arms if c.condition.variant.name == name]
        found.elsewhere[name] = look_at(zoo, theirs, **options)
    for name in s.second:
        own = [look for look in of_pool if look.name[0] in "NRM"]
        found.second[name] = look_at(zoo, own, **options, measure=name, pooled=True,
                                     pairs=[(look.name, look.name) for look in own])
    _look_at_moved_images(zoo, found, options)
    _look_at_checkpoints(zoo, found, options)
    return found


def _accuracies(zoo: Zoo, cell: Cell, s) -> dict[str, Outcomes]:
    """Clean on test images, on training images (pool and runs), under each attack of the cell."""
    found, names = {"clean": zoo.outcomes(cell.recipe)}, {s.search: "search", s.verify: "verify"}
    for n, (threat, attack) in enumerate(cell.measures):
        which = "own" if cell.condition.variant and n else names.get(attack, "restart")
        found[which] = zoo.outcomes(cell.recipe, threat, attack)
    if cell.condition.kind in ("N", "R", "M"):
        found["train"] = zoo.outcomes(cell.recipe, split="train")
    if cell.condition.epoch is not None:
        found["holdout"] = zoo.outcomes(cell.recipe, *cell.measures[0], split="holdout")
    return found


def _look(cell: Cell) -> Look:
    return Look(f"{cell.condition.kind}{cell.repetition}", cell.recipe)


def _look_at_moved_images(zoo: Zoo, found: Found, options: dict) -> None:
    """Every normal and robust network on clean images, on its own adversarial images, on those of a normal and of a
    robust network of another repetition, and on noise of the size of its own ones.
    """
    s, threat = found.section, found.networks.threat
    nets = {(c.condition.kind, c.repetition): c.recipe for c in found.cells
            if c.condition.kind in ("N", "R") and c.condition.epoch is None}
    with ProgressBar(len(nets), "adversarial images", "network") as bar:
        for (kind, seed), recipe in nets.items():
            other = (seed + 1) % s.seeds
            sources = {"own": recipe, "of N": nets["N", other], "of R": nets["R", other], "noise": recipe}
            looks = [Look(name, recipe, Moved(source, threat, s.search, noise=name == "noise"))
                     for name, source in sources.items()]
            everything = [Look("clean", recipe), *looks]
            found.moved[kind, seed] = look_at(zoo, everything, **options,
                                              pairs=[("clean", look.name) for look in everything])
            bar.step(1, network=f"{kind}{seed}")


def _look_at_checkpoints(zoo: Zoo, found: Found, options: dict) -> None:
    """The checkpoints of every overfitting run and its control, on test and on training images."""
    runs: dict[tuple[str, int], list[Cell]] = {}
    data = found.networks.data
    for cell in found.cells:
        if cell.condition.epoch is not None:
            runs.setdefault((cell.condition.kind, cell.repetition), []).append(cell)
    for (kind, seed), members in runs.items():
        looks = [Look(str(cell.condition.epoch), cell.recipe) for cell in members]
        last = looks[-1].name
        for split in ("test", "train"):
            images = options["images"] or data.test or data.info.test
            found.runs[kind, seed, split] = look_at(zoo, looks, **{**options, "images": images}, split=split,
                                                    pairs=[(look.name, last) for look in looks])
