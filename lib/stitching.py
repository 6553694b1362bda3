"""Model stitching (Balogh & Jelasity, ICML 2023): measure the cells of the plan and hand the judge its evidence.

What is stitched where stands in lib/plan/stitching.py; how a stitched network is put together in
lib/models/stitched.py; how claims are worded in claims/stitching.yaml.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from lib.architectures import Stitch
from lib.models import build
from lib.plan.stitching import PAIRS, Cell
from lib.recipe import Recipe
from lib.runtime import Progress
from lib.settings import Settings
from lib.statistics import accuracy
from lib.training.evaluation import columns
from lib.training.gates import Checks
from lib.training.zoo import Zoo

MIXED = ("N->R", "R->N")


@dataclass
class Measured:
    """Per-image outcomes of every cell; `outcomes[cell][which]` is bool [m], which in `clean`, `search`, `verify`.
    `warnings[cell][which]`: reasons to mistrust them.
    """

    settings: Settings
    cells: list[Cell]
    outcomes: dict[Cell, dict[str, np.ndarray]]
    protocols: dict[Cell, dict[str, dict]]
    converged: dict[Cell, float] = field(default_factory=dict)
    warnings: dict[Cell, dict[str, list[str]]] = field(default_factory=dict)

    def correct(self, which: str, role: str, pair: str, joint: str = "", alpha: float = 0.0) -> np.ndarray:
        """Outcomes [S, m] over repetitions of one kind of cell; images are the same for every repetition."""
        rows = [
            self.outcomes[c][which]
            for c in self.cells
            if (c.role, c.pair, c.joint, c.alpha) == (role, pair, joint, alpha)
        ]
        if not rows:
            raise KeyError(f"no cell {role} {pair} at {joint!r}, alpha {alpha}, was measured")
        return np.stack(rows).astype(float)

    def has(self, role: str, pair: str, joint: str = "", alpha: float = 0.0, which: str = "clean") -> bool:
        return any(
            (c.role, c.pair, c.joint, c.alpha) == (role, pair, joint, alpha) and which in self.outcomes[c]
            for c in self.cells
        )

    def table(self):
        """A tidy DataFrame: a row per cell and measurement, with its protocol."""
        import pandas as pd

        rows = []
        for cell in self.cells:
            for which, right in self.outcomes[cell].items():
                rows.append(
                    {
                        "role": cell.role,
                        "pair": cell.pair,
                        "joint": cell.joint,
                        "alpha": cell.alpha,
                        "seed": cell.seed,
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


def measure(zoo: Zoo, cells: list[Cell], settings: Settings) -> Measured:
    """Train (or load) every cell and measure it: clean, under the search attack, and under the stronger one where a
    claim rests on it. Everything comes from the store when it is there."""
    found = Measured(settings, cells, {}, {})
    names = {settings.stitching.search: "search", settings.stitching.verify: "verify"}
    with Progress(len(cells), "stitching cells", "cell") as bar:
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
            bar.step(1, cell=f"{cell.role} {cell.pair} {cell.joint}")
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


# -------------------------------------------------------------------------------------------------- for the judge


def evidence(m: Measured) -> dict:
    """{claim: {part: {instance: array}}}: [S, m] arrays of per-image differences (or outcomes), as the claims file
    wants them. Clean claims read joints trained with alpha 0, robust ones alpha 1, declared before the run.
    """
    s = m.settings.stitching
    first, middle, last = s.first, s.middle, s.joints[-1]
    found: dict[str, dict] = {}

    def endpoint(kind: str, which: str = "clean"):
        return m.correct(which, "endpoint", kind)

    def clean(pair: str, joint: str, role: str = "pair"):
        return m.correct("clean", role, pair, joint, 0.0)

    def robust(pair: str, joint: str, role: str = "pair", which: str = "verify"):
        return m.correct(which, role, pair, joint, 1.0)

    def weaker(pair: str):
        return min((endpoint(kind) for kind in PAIRS[pair][:2]), key=np.mean)

    if 0 in s.alphas:
        found["C1a"] = {"retained": {f"{p} at {j}": clean(p, j) - 0.9 * weaker(p) for p in MIXED for j in s.joints}}
        found["C1b"] = {
            "beats_untrained_front": {
                f"{p} at {j}": clean(p, j) - clean(f"U->{p[-1]}", j, "untrained front") for p in MIXED for j in s.joints
            },
            "not_below_probe": {
                f"{p} at {j}": clean(p, j) - clean(p[0], j, "linear probe") for p in MIXED for j in s.joints
            },
        }
    if 1 in s.alphas:
        same_type = robust("R->R2", middle)
        found["C2a"] = {"same_type_above_mixed": {f"R->R2 minus {p}": same_type - robust(p, middle) for p in MIXED}}
        found["C2b"] = {
            "ceiling_above_mixed": {
                f"{p[0]}->new minus {p}": robust(f"{p[0]}->new", middle, "new end") - robust(p, middle) for p in MIXED
            }
        }
        found["C3a"] = {"drop": {f"{j} minus {middle}": robust("N->R", j) - robust("N->R", middle) for j in first}}
        found["C3b"] = {
            "beats_untrained_front": {j: robust("N->R", j) - robust("U->R", j, "untrained front") for j in first}
        }
        recovered, untrained_end = robust("R->N", last), robust("R->U", last, "untrained end")
        found["C4a"] = {
            "recovers": {"R->N": recovered - 0.9 * endpoint("R", "verify")},
            "rises": {f"{last} minus {middle}": recovered - robust("R->N", middle)},
        }
        if 0 in s.alphas:
            found["C4a"] |= {
                "takes_the_fronts_weakness": {"N->R": m.correct("search", "pair", "N->R", last, 0.0)},
                "keeps_clean": {"N->R minus N": clean("N->R", last) - endpoint("N")},
            }
        found["C4b"] = {"beats_untrained_end": {"R->N minus R->U": recovered - untrained_end}}
        found["C6"] = {
            part: {
                f"{p} minus R->U": robust(p, last, which=which) - robust("R->U", last, "untrained end", which)
                for p in ("R->N", "R->R2")
            }
            for part, which in (("same_robust", "verify"), ("same_clean", "clean"))
        }
    return found


def preconditions(m: Measured, self_gap: float, warnings: list[str]) -> Checks:
    """What must hold before any claim is judged: trained networks, converged joints, an exact self-stitch, a working
    attack (`warnings` of `attack_warnings`)."""
    s, checks = m.settings.stitching, Checks()
    endpoints = [("clean", "N"), ("search", "N"), ("clean", "R"), ("verify", "R")]
    checks.pool(s.gates, s.verify, *(m.correct(which, "endpoint", kind) for which, kind in endpoints))
    joints = [(v, c) for c, v in m.converged.items() if c.recipe.trainable in (("joint",), ("head",))]
    joints = [(v, c) for v, c in joints if np.isfinite(v)]  # no number: too short to say
    worst, cell = max(joints, key=lambda pair: pair[0], default=(0.0, None))
    which = f"{cell.pair} at {cell.joint}, alpha {cell.alpha:g}" if cell else "none"
    checks.add(
        "joints converged",
        worst <= s.converged,
        f"in the last part of training the slowest joint ({which}) lowered its loss by {worst:.3f} nats, "
        f"at most {s.converged:g} allowed",
    )
    if m.has("twice the epochs", "N->R", s.middle, 1.0):
        once, twice = (m.correct("verify", role, "N->R", s.middle, 1.0).mean() for role in ("pair", "twice the epochs"))
        checks.add(
            "twice the epochs change little",
            abs(twice - once) <= s.budget,
            f"robust accuracy of N->R at {s.middle} {once:.1%}, after twice the epochs {twice:.1%}, "
            f"at most {s.budget:.0%} apart allowed",
        )
    checks.add("self-stitch is exact", self_gap == 0, f"largest difference of logits {self_gap:g}")
    checks.attack(warnings)
    return checks


# ------------------------------------------------------------------------------------------------- for the reader


def beside_controls(m: Measured, joint: str):
    """Clean and robust accuracy with intervals of every alpha 1 cell at one joint and of the endpoints, as a DataFrame
    with rows `what`, `measure`, `value`, `low`, `high`."""
    import pandas as pd

    rows = []
    wanted = dict.fromkeys(
        (c.role, c.pair, c.joint, c.alpha)
        for c in m.cells
        if c.role == "endpoint" or (c.joint == joint and c.alpha == 1)
    )
    for role, pair, at, alpha in wanted:
        if (role, pair) == ("endpoint", "U"):
            continue
        name = f"{pair.replace('->', ' → ')} alone" if role == "endpoint" else pair.replace("->", " → ")
        strong = "verify" if m.has(role, pair, at, alpha, "verify") else "search"
        for measure, which in (("clean", "clean"), ("robust", strong)):
            got = accuracy(m.correct(which, role, pair, at, alpha))
            rows.append(
                {
                    "what": name if role in ("endpoint", "pair") else f"{name}  ({role})",
                    "measure": measure,
                    "value": got.value,
                    "low": got.low,
                    "high": got.high,
                    "under": which,
                }
            )
    return pd.DataFrame(rows)
