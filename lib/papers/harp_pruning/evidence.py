"""Evidence and preconditions of the HARP notebook; its claims are in claims/harp_pruning.yaml."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from lib.claims.evidence import Contrast, Evidence, above_chance
from lib.claims.preconditions import Preconditions, attack_warnings
from lib.papers.harp_pruning.networks import Condition
from lib.papers.harp_pruning.results import Results
from lib.papers.harp_pruning.settings import METHODS
from lib.training.zoo import Zoo
from lib.values.cell import Cell

UNIFORM = tuple(name for name, rule in METHODS.items() if rule["rates"] == "uniform")
MOST_OVER = 1.02  # a pruned network may keep at most this multiple of its target
FIXED = ("HYDRA + data-free", "HYDRA + LAMP", "HYDRA + ERK")  # learned scores at rates that need no data


def contrasts(f: Results) -> dict[str, dict[str, dict[str, Contrast]]]:
    """{claim: {part: {instance: contrast}}} of every claim about accuracies, for the conditions that were trained."""
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


def evidence(f: Results) -> Evidence:
    """{claim: {part: {instance: array}}} for the judge: differences of outcomes [S, m]; for C10 one number per
    repetition.

    Robust accuracy is accuracy under the stronger attack. Instances with a condition at chance are left out, unless no
    other is left.
    """
    s, found = f.section, Evidence()
    broken = f.at_chance(s.above_chance)
    found.add_contrasts(f, contrasts(f), broken, lambda part: "clean" if part.endswith("clean") else "verify")
    methods = "HARP", "HYDRA + data-free", "data-free"
    harp, *free = (Condition(method, s.keeps[-1], loss=s.losses[0]) for method in methods)
    if harp in f.conditions:
        found.add("C10", "ends_kept", "HARP", _ends(f, harp), f.failures((harp,)))
        for one in [one for one in free if one in f.conditions][:1]:
            found.add("C10", "beyond_data_free", f"HARP minus {one.method}", _ends(f, harp) - _ends(f, one),
                      f.failures((harp, one)))
    return found


def _ends(f: Results, condition: Condition) -> np.ndarray:
    """[S]: the mean kept share of the first and the last layer minus the mean kept share of the widest layers, which
    have the most weights.
    """
    def read(cell: Cell) -> float:
        counted = f.layers[cell]
        widest = counted.share[counted.weights == counted.weights.max()]
        return (counted.share.iloc[0] + counted.share.iloc[-1]) / 2 - widest.mean()

    return f.by_repetition(condition, read)


def warnings(zoo: Zoo, f: Results) -> list[str]:
    """Reasons to mistrust robust accuracies, one sentence each, found on the first dense robust network."""
    robust = f.of(Condition("pre-trained", loss=f.section.losses[0]))
    return attack_warnings(zoo, robust, f.networks.threat, f.section.search)


def preconditions(f: Results, warnings: list[str]) -> Preconditions:
    """What must hold before any claim is judged: the dense networks are trained and robust, the normal one is trained
    and not robust, the attack works (`warnings`), pruned networks meet their targets.
    """
    s, checks = f.section, Preconditions()
    normal, base = Condition("N"), Condition("pre-trained", loss=s.losses[0])
    checks.pool(s.gates, s.verify, *f.of_pool(normal, base))
    checks.attack(warnings)
    over = [f"{f.label(cell.condition)} keeps {left} of {every} weights"
            for cell in f.layers if cell.condition.granularity == "weights" for left, every in [f.weights(cell)]
            if left > MOST_OVER * cell.condition.keep * every + len(f.layers[cell])]  # rules round up layer by layer
    checks.add("pruned networks meet their targets", not over, "; ".join(over) or "counted weight by weight")
    return checks


def claim_preconditions(f: Results) -> dict[str, Preconditions]:
    """{claim: a check that the conditions of every part are above chance}. It fails if a part has no instance left, and
    otherwise says which conditions were left out.
    """
    return above_chance(f, contrasts(f), f.at_chance(f.section.above_chance), "compared arms are above chance")
