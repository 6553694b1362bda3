"""Evidence and preconditions of the HARP notebook; its claims are in claims/harp_pruning.yaml."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from lib import claims
from lib.claims.evidence import Contrast, Evidence, above_chance
from lib.claims.preconditions import Preconditions, attack_warnings
from lib.papers.harp_pruning.networks import Condition, search_of
from lib.papers.harp_pruning.results import Results, rates_without_data
from lib.papers.harp_pruning.settings import HALVED, METHODS
from lib.pruning.convergence import check_search
from lib.training.zoo import Zoo
from lib.values.cell import Cell

UNIFORM = tuple(name for name, rule in METHODS.items() if rule["rates"] == "uniform")
MOST_OVER = 1.02  # a pruned network may keep at most this multiple of its target
TRANSPLANTED = "HYDRA + HARP rates"
FIXED = ("HYDRA + LAMP", "HYDRA + ERK", "HYDRA + data-free")  # learned scores at rates that need no data
CONTROLS = {("C4b", "above_fixed_rates")}  # parts that compare with a control
# {claim: claims that rest on searches for which its verdict on held-out images must be the same after half of a search}
SEARCHED = {"C1b": ("C1a", "C1b"), "C2a": ("C2a", "C2b", "C3", "C4a", "C4b", "C5", "C10", "C10a", "C10b")}


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
    harp = Condition("HARP", harsh, loss=s.losses[0])
    for claim, method in (("C1a", "pre-trained"), ("C1b", "dense")) if harp in trained else ():
        both = {f"{f.label(harp)} minus {method}": Contrast((harp,), (Condition(method, loss=s.losses[0]),))}
        found[claim] = {"clean": both, "robust": both}
    found["C2a"] = {"clean": harp_over(*UNIFORM), "robust": harp_over(*UNIFORM)}
    if mild != harsh:
        near = harp_over("HYDRA", keep=mild)
        found["C3"] = {"clean": near, "robust": near}
        found["C2b"] = {"grows": {
            f"{name}, {float(harsh):g} minus {float(mild):g}": Contrast(far.over + near[name].under,
                                                                        far.under + near[name].over, (0.5, 0.5))
            for name, far in harp_over("HYDRA").items()}}
    found["C4a"] = {"above_uniform": pairs((TRANSPLANTED, "HYDRA"))}
    found["C4b"] = {"above_fixed_rates": pairs(*((TRANSPLANTED, fixed) for fixed in FIXED))}
    found["C5"] = {"above_rates_only": harp_over("rates only"), "above_scores_only": harp_over("HYDRA")}
    found["C6"] = {"growing": harp_over("HARP, constant gamma")}
    found["C7"] = {"robust": {f"{loss}: {name}": contrast for loss in s.losses[1:]
                              for name, contrast in harp_over("HYDRA", loss=loss).items()}}
    if s.channels:
        found["C8"] = {"robust": harp_over("HYDRA", keep=s.channels[-1], granularity="channels")}
    if (s.data or f.networks.data).name == "imagenet":
        kept, beaten = found.get("C1b", {}), found["C2a"]
        found["C9"] = {f"{name}_{part}": instances for name, parts in (("retains", kept), ("beats", beaten))
                       for part, instances in parts.items()}
    return found


def evidence(f: Results) -> Evidence:
    """{claim: {part: {instance: array}}} for the judge: differences of outcomes [S, m]; for C10, C10a and C10b one
    number per repetition.

    Robust accuracy is accuracy under the stronger attack. Of conditions near guessing see `Evidence.add_contrasts`.
    """
    s, found = f.section, Evidence()
    found.add_contrasts(f, contrasts(f), f.at_chance(s.above_chance), _measure, CONTROLS)
    harp = f.searched("HARP")
    if harp in f.conditions:
        kept, free = (f.by_repetition(harp, lambda cell, way=way: _ends(f, cell, way), np.full(2, np.nan))
                      for way in (False, True))
        for claim, part, of in (("C10", "ends_kept", [0, 1]), ("C10a", "kept", [0]), ("C10b", "kept", [1])):
            found.add(claim, part, "HARP", kept[:, of].mean(1), f.failures((harp,)))
            found.add(claim, "beyond_data_free", "HARP minus data-free rates", (kept - free)[:, of].mean(1))
    return found


def _measure(part: str) -> str:
    return "clean" if part.endswith("clean") else "verify"


def _ends(f: Results, cell: Cell, data_free: bool) -> np.ndarray:
    """The kept shares of the first and of the last layer, [2], minus the mean kept share of the widest layers, which
    have the most weights. data_free: at the rates that the network's search would have reached without images.
    """
    counted = f.layers[cell]
    share = counted.share.to_numpy()
    if data_free:
        share = np.array(rates_without_data(search_of(cell.recipe), [int(n) for n in counted.weights]))
    return share[[0, -1]] - share[(counted.weights == counted.weights.max()).to_numpy()].mean()


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
    """{claim: what else must hold before it is judged}: no collapsed network decides it, and searches are long enough.

    Half of a search must give the same verdicts on held-out images: about HARP minus the dense network for C1, about
    HARP minus HYDRA and minus LWM for C2a, about HARP minus HYDRA for the others, which LWM says nothing about (without
    `steady` minus LWM for them too).
    """
    made = contrasts(f)
    found = above_chance(f, made, f.at_chance(f.section.above_chance), _measure, CONTROLS)
    searches = [search for cell in f.of(f.searched("HARP"), failed=True) if (search := search_of(cell.recipe))]
    dense, hydra, lwm = Condition("dense", loss=f.section.losses[0]), f.searched("HYDRA"), f.searched("LWM")
    halved = {f.searched(method): f.searched(method, half=True) for method in HALVED}
    for margins, rest in SEARCHED.items() if searches else ():
        for claim in rest:
            rivals = {dense, hydra, lwm} if claim == margins or not f.section.steady else {dense, hydra}
            asked = {part: {name: one for name, one in instances.items() if {*one.under} <= rivals}
                     for part, instances in made[margins].items()}
            check_search(found.setdefault(claim, Preconditions()), f, claims.load("harp_pruning")[margins], asked,
                         halved, searches[0], f.section.updates, f.section.steady)
    return found
