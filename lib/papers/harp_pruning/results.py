"""The HARP notebook (Zhao & Wressnegger, ICLR 2023): measure the networks of the plan, count what they keep, and hand
the judge its evidence.

Which networks stands in lib/papers/harp_pruning/networks.py; how claims are worded in claims/harp_pruning.yaml.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
from torch import Tensor

from lib.claims.preconditions import Checks
from lib.models.links import layers
from lib.papers.harp_pruning.networks import Arm, Cell
from lib.papers.harp_pruning.settings import METHODS
from lib.papers.settings import Settings
from lib.pruning import results as shared
from lib.pruning.results import Contrast, above_chance, sound
from lib.runtime import Progress
from lib.training.zoo import Zoo

UNIFORM = tuple(name for name, rule in METHODS.items() if rule["rates"] == "uniform")
MOST_OVER = 1.02  # of its target: what a pruned network may keep
FIXED = ("HYDRA + data-free", "HYDRA + LAMP", "HYDRA + ERK")  # learned scores at rates that need no data


@dataclass(frozen=True)
class KeptEpoch:
    """What a fine-tuning had reached after an epoch, in [0, 1]. holdout: robust accuracy on held-out images under the
    training's attack, which chooses the epoch; robust (under `search`), clean: on test images.
    """

    arm: Arm
    seed: int
    epoch: int
    holdout: float
    robust: float
    clean: float


@dataclass
class Found(shared.Found):
    """All that was measured: outcomes `search`, `verify` and those of further attacks.

    logs[cell]: a row per epoch of its search. dense_weights[seed]: the prunable tensors by layer of the networks that
    all are made from. choices: a row per kept epoch of a fine-tuning (`KeptEpoch`).
    """

    logs: dict[Cell, list[dict]] = field(default_factory=dict)
    dense_weights: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    choices: list[KeptEpoch] = field(default_factory=list)

    @property
    def section(self):
        return self.settings.sections["harp_pruning"]

    def right(self, arm: Arm, which: str = "verify") -> np.ndarray:
        return super().right(arm, which)


def measure(zoo: Zoo, cells: list[Cell], settings: Settings) -> Found:
    """Train (or load) every network, measure it and count what it keeps; everything from the store if it is there."""
    s, found = settings.sections["harp_pruning"], Found(settings, [cell for cell in cells if cell.epoch is None])
    names = {attack: attack.title for attack in s.further(settings.networks.threat)}
    names |= {s.search: "search", s.verify: "verify"}
    with Progress(len(cells), "pruned networks", "network") as bar:
        for cell in cells:
            if cell.epoch is not None:
                found.choices.append(_kept_epoch(zoo, cell))
                bar.step(1, network=f"{cell.arm.method} {cell.seed}, epoch {cell.epoch}")
                continue
            found.take(zoo, cell, names)
            if cell.arm == Arm("pre-trained", loss=s.losses[0]):
                net = zoo.obtain(cell.recipe).net
                found.dense_weights[cell.seed] = {name: layer.weight for name, layer in layers(net).items()}
            if cell.search is not None:
                found.logs[cell] = zoo.obtain(cell.search).log
            bar.step(1, network=f"{cell.arm.method} {float(cell.arm.keep):g} {cell.seed}")
    return found


def _kept_epoch(zoo: Zoo, cell: Cell) -> KeptEpoch:
    """A kept epoch: what its fine-tuning noted of it, and what it does on test images."""
    run, = cell.recipe.parents
    found = zoo.outcomes(cell.recipe, *cell.measures[0])
    return KeptEpoch(cell.arm, cell.seed, cell.epoch, zoo.obtain(run).log[cell.epoch - 1]["holdout"],
                  found.accuracy("robust"), found.accuracy("clean"))


# -------------------------------------------------------------------------------------------------- for the judge


def contrasts(f: Found) -> dict[str, dict[str, dict[str, Contrast]]]:
    """{claim: {part: {instance: contrast}}} of every claim about accuracies, as far as its arms were trained."""
    s = f.section
    mild, harsh = s.keeps[0], s.keeps[-1]
    trained = {*f.arms}

    def pairs(*names: tuple[str, str], keep: Fraction = harsh, granularity: str = "weights",
              loss: str = s.losses[0]) -> dict[str, Contrast]:
        made = {f"{a} minus {b}": (Arm(a, keep, granularity, loss), Arm(b, keep, granularity, loss)) for a, b in names}
        return {name: Contrast((a,), (b,)) for name, (a, b) in made.items() if {a, b} <= trained}

    def harp_over(*others: str, **where) -> dict[str, Contrast]:
        return pairs(*(("HARP", other) for other in others), **where)

    found: dict[str, dict[str, dict[str, Contrast]]] = {}
    harp, base = Arm("HARP", harsh, loss=s.losses[0]), Arm("dense", loss=s.losses[0])
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
    if (s.data or f.settings.networks.data).name == "imagenet":
        kept, beaten = found.get("C1", {}), found["C2a"]
        found["C9"] = {f"{name}_{part}": instances for name, parts in (("retains", kept), ("beats", beaten))
                       for part, instances in parts.items()}
    return found


def evidence(f: Found) -> dict:
    """{claim: {part: {instance: array}}} for the judge: differences of outcomes [S, m]; C10: one number a repetition.

    Robust accuracy is that under the stronger attack. Of several instances those with an arm at chance are left out.
    """
    broken = f.at_chance(f.section.above_chance)
    found = {claim: {part: {name: one.values(f, "clean" if part.endswith("clean") else "verify")
                            for name, one in sound(broken, instances).items()}
                     for part, instances in parts.items()} for claim, parts in contrasts(f).items()}
    s = f.section
    harp, *free = (Arm(method, s.keeps[-1], loss=s.losses[0]) for method in ("HARP", "HYDRA + data-free", "data-free"))
    if harp in f.arms:
        found["C10"] = {"ends_kept": {"HARP": _ends(f, harp)}}
        for arm in [arm for arm in free if arm in f.arms][:1]:
            found["C10"]["beyond_data_free"] = {f"HARP minus {arm.method}": _ends(f, harp) - _ends(f, arm)}
    return found


def _ends(f: Found, arm: Arm) -> np.ndarray:
    """[S]: the mean kept share of the first and the last layer minus that of the widest ones, those of most weights."""
    values = []
    for cell in f.of(arm):
        counted = f.layers[cell]
        widest = counted.share[counted.weights == counted.weights.max()]
        values.append((counted.share.iloc[0] + counted.share.iloc[-1]) / 2 - widest.mean())
    return np.array(values)


def preconditions(f: Found, warnings: list[str]) -> Checks:
    """What must hold before any claim is judged: trained dense networks that are robust, a normal one that is not, a
    working attack (`warnings` of `attack_warnings`), pruned networks that keep what they may keep.
    """
    s, checks = f.section, Checks()
    normal, base = Arm("N"), Arm("pre-trained", loss=s.losses[0])
    checks.pool(s.gates, s.verify, f.right(normal, "clean"), f.right(normal, "search"), f.right(base, "clean"),
                f.right(base))
    checks.attack(warnings)
    over = [f"{cell.arm.method} at {float(cell.arm.keep):g} keeps {left} of {every} weights"
            for cell in f.layers if cell.arm.granularity == "weights" for left, every in [f.weights(cell)]
            if left > MOST_OVER * cell.arm.keep * every + len(f.layers[cell])]  # rules round up layer by layer
    checks.add("pruned networks meet their targets", not over, "; ".join(over) or "counted weight by weight")
    return checks


def own_preconditions(f: Found) -> dict[str, Checks]:
    """What must hold for single claims: arms that are not at chance. It fails where no instance of a part is left, and
    otherwise says which were left out.
    """
    broken, found = f.at_chance(f.section.above_chance), {}
    for claim, parts in contrasts(f).items():
        found[claim] = Checks()
        found[claim].add("compared arms are above chance", *above_chance(f, broken, parts, _words))
    return found


def _words(arm: Arm) -> str:
    return f"{arm.method} at {float(arm.keep):g}"
