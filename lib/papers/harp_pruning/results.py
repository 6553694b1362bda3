"""The HARP notebook (Zhao & Wressnegger, ICLR 2023): measure the networks of the plan, count what they keep, and hand
the judge its evidence.

Which networks stands in lib/papers/harp_pruning/networks.py; how claims are worded in claims/harp_pruning.yaml.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
from torch import Tensor

from lib.claims.preconditions import Checks
from lib.models.links import layers
from lib.papers.harp_pruning.networks import Condition, search_of
from lib.papers.harp_pruning.settings import METHODS, Section
from lib.profiles.networks import Networks
from lib.pruning import results as shared
from lib.pruning.results import Contrast, above_chance, sound
from lib.runtime import ProgressBar
from lib.training.zoo import Zoo
from lib.values.cell import Cell

UNIFORM = tuple(name for name, rule in METHODS.items() if rule["rates"] == "uniform")
MOST_OVER = 1.02  # of its target: what a pruned network may keep
FIXED = ("HYDRA + data-free", "HYDRA + LAMP", "HYDRA + ERK")  # learned scores at rates that need no data


@dataclass(frozen=True)
class KeptEpoch:
    """What a fine-tuning had reached after an epoch (the condition's), in [0, 1]. holdout: robust accuracy on held-out
    images under the training's attack, which chooses the epoch; robust (under `search`), clean: on test images.
    """

    condition: Condition
    repetition: int
    holdout: float
    robust: float
    clean: float


@dataclass
class Found(shared.Found):
    """All that was measured: outcomes `search`, `verify` and those of further attacks.

    logs[cell]: a row per epoch of its search. dense_weights[repetition]: the prunable tensors by layer of the networks
    that all are made from. choices: a row per kept epoch of a fine-tuning (`KeptEpoch`).
    """

    logs: dict[Cell, list[dict]] = field(default_factory=dict)
    dense_weights: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    choices: list[KeptEpoch] = field(default_factory=list)

    def right(self, condition: Condition, which: str = "verify") -> np.ndarray:
        return super().right(condition, which)


def measure(zoo: Zoo, cells: list[Cell], networks: Networks, section: Section, seed: Callable[[int], int]) -> Found:
    """Train (or load) every network, measure it and count what it keeps; everything from the store if it is there."""
    s, compared = section, [cell for cell in cells if cell.condition.epoch is None]
    found = Found(networks, section, seed, compared)
    names = {attack: attack.title for attack in s.further(networks.threat)}
    names |= {s.search: "search", s.verify: "verify"}
    with ProgressBar(len(cells), "pruned networks", "network") as bar:
        for cell in cells:
            condition, number = cell.condition, cell.repetition
            if condition.epoch is not None:
                found.choices.append(_kept_epoch(zoo, cell))
                bar.step(1, network=f"{condition.method} {number}, epoch {condition.epoch}")
                continue
            found.take(zoo, cell, names)
            if condition == Condition("pre-trained", loss=s.losses[0]):
                net = zoo.obtain(cell.recipe).net
                found.dense_weights[number] = {name: layer.weight for name, layer in layers(net).items()}
            if search := search_of(cell.recipe):
                found.logs[cell] = zoo.obtain(search).log
            bar.step(1, network=f"{condition.method} {float(condition.keep):g} {number}")
    return found


def _kept_epoch(zoo: Zoo, cell: Cell) -> KeptEpoch:
    """A kept epoch: what its fine-tuning noted of it, and what it does on test images."""
    run, = cell.recipe.parents
    found = zoo.outcomes(cell.recipe, *cell.measures[0])
    log = zoo.obtain(run).log[cell.condition.epoch - 1]
    return KeptEpoch(cell.condition, cell.repetition, log["holdout"], found.accuracy("robust"), found.accuracy("clean"))


# -------------------------------------------------------------------------------------------------- for the judge


def contrasts(f: Found) -> dict[str, dict[str, dict[str, Contrast]]]:
    """{claim: {part: {instance: contrast}}} of every claim about accuracies, as far as its conditions were trained."""
    s = f.section
    mild, harsh = s.keeps[0], s.keeps[-1]
    trained = {*f.conditions}

    def pairs(*names: tuple[str, str], keep: Fraction = harsh, granularity: str = "weights",
              loss: str = s.losses[0]) -> dict[str, Contrast]:
        where = keep, granularity, loss
        made = {f"{a} minus {b}": (Condition(a, *where), Condition(b, *where)) for a, b in names}
        return {name: Contrast((a,), (b,)) for name, (a, b) in made.items() if {a, b} <= trained}

    def harp_over(*others: str, **where) -> dict[str, Contrast]:
        return pairs(*(("HARP", other) for other in others), **where)

    found: dict[str, dict[str, dict[str, Contrast]]] = {}
    harp, base = Condition("HARP", harsh, loss=s.losses[0]), Condition("dense", loss=s.losses[0])
    if harp in trained:
        both = {f"HARP at {float(harsh):g} minus dense": Contrast((harp,), (base,))}
        found["C1"] = {"clean": both, "robust": both}
    found["C2a"] = {"clean": harp_over(*UNIFORM), "robust": harp_over(*UNIFORM)}
    if mild != harsh:
        near = harp_over("HYDRA", keep=mild)
        found["C3"] = {"clean": near, "robust": near}
        found["C2b"] = {"grows": {
            f"{name}, {float(harsh):g} minus {float(mild):g}": Contrast(far.over + near[name].under,
                                                                        far.under + near[name].over, (0.5, 0.5))
            for name, far in harp_over("HYDRA").items()}}
    found["C4a"] = {"above_uniform": pairs(("HYDRA + HARP rates", "HYDRA"), ("rates only", "LWM"))}
    found["C4b"] = {"above_fixed_rates": harp_over(*FIXED)}
    found["C5"] = {"above_rates_only": harp_over("rates only"), "above_scores_only": harp_over("HYDRA")}
    found["C6"] = {"growing": harp_over("HARP, constant gamma")}
    found["C7"] = {"robust": {f"{loss}: {name}": contrast for loss in s.losses[1:]
                              for name, contrast in harp_over("HYDRA", loss=loss).items()}}
    if s.channels:
        found["C8"] = {"robust": harp_over("HYDRA", keep=s.channels[-1], granularity="channels")}
    if (s.data or f.networks.data).name == "imagenet":
        kept, beaten = found.get("C1", {}), found["C2a"]
        found["C9"] = {f"{name}_{part}": instances for name, parts in (("retains", kept), ("beats", beaten))
                       for part, instances in parts.items()}
    return found


def evidence(f: Found) -> dict:
    """{claim: {part: {instance: array}}} for the judge: differences of outcomes [S, m]; C10: one number a repetition.

    Robust accuracy is that under the stronger attack. Of several instances those with a condition at chance are left
    out.
    """
    broken = f.at_chance(f.section.above_chance)
    found = {claim: {part: {name: one.values(f, "clean" if part.endswith("clean") else "verify")
                            for name, one in sound(broken, instances).items()}
                     for part, instances in parts.items()} for claim, parts in contrasts(f).items()}
    s = f.section
    methods = "HARP", "HYDRA + data-free", "data-free"
    harp, *free = (Condition(method, s.keeps[-1], loss=s.losses[0]) for method in methods)
    if harp in f.conditions:
        found["C10"] = {"ends_kept": {"HARP": _ends(f, harp)}}
        for one in [one for one in free if one in f.conditions][:1]:
            found["C10"]["beyond_data_free"] = {f"HARP minus {one.method}": _ends(f, harp) - _ends(f, one)}
    return found


def _ends(f: Found, condition: Condition) -> np.ndarray:
    """[S]: the mean kept share of the first and the last layer minus that of the widest ones, those of most weights."""
    values = []
    for cell in f.of(condition):
        counted = f.layers[cell]
        widest = counted.share[counted.weights == counted.weights.max()]
        values.append((counted.share.iloc[0] + counted.share.iloc[-1]) / 2 - widest.mean())
    return np.array(values)


def preconditions(f: Found, warnings: list[str]) -> Checks:
    """What must hold before any claim is judged: trained dense networks that are robust, a normal one that is not, a
    working attack (`warnings` of `attack_warnings`), pruned networks that keep what they may keep.
    """
    s, checks = f.section, Checks()
    normal, base = Condition("N"), Condition("pre-trained", loss=s.losses[0])
    checks.pool(s.gates, s.verify, f.right(normal, "clean"), f.right(normal, "search"), f.right(base, "clean"),
                f.right(base))
    checks.attack(warnings)
    over = [f"{_words(cell.condition)} keeps {left} of {every} weights"
            for cell in f.layers if cell.condition.granularity == "weights" for left, every in [f.weights(cell)]
            if left > MOST_OVER * cell.condition.keep * every + len(f.layers[cell])]  # rules round up layer by layer
    checks.add("pruned networks meet their targets", not over, "; ".join(over) or "counted weight by weight")
    return checks


def own_preconditions(f: Found) -> dict[str, Checks]:
    """What must hold for single claims: conditions that are not at chance. It fails where no instance of a part is
    left, and otherwise says which were left out.
    """
    broken, found = f.at_chance(f.section.above_chance), {}
    for claim, parts in contrasts(f).items():
        found[claim] = Checks()
        found[claim].add("compared arms are above chance", *above_chance(f, broken, parts, _words))
    return found


def _words(condition: Condition) -> str:
    return f"{condition.method} at {float(condition.keep):g}"
