"""What the judge gets of the notebook on perceptually aligned gradients; how claims are worded stands in
claims/perceptually_aligned_gradients.yaml.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from lib.claims.preconditions import Checks, Evidence, at_least
from lib.papers.perceptually_aligned_gradients import networks as plan
from lib.papers.perceptually_aligned_gradients.networks import (
    CENTRED,
    CLASSES,
    HEURISTICS,
    IMAGES,
    NORM,
    RANDOM,
    SCORE,
    TOY,
    TRADES_ALONE,
    TRADES_SCORE,
    VANILLA,
)
from lib.papers.perceptually_aligned_gradients.results import Found
from lib.papers.perceptually_aligned_gradients.settings import Study
from lib.papers.perceptually_aligned_gradients.truths import INDEPENDENT, SHUFFLED
from lib.statistics import correlation
from lib.values.cell import Cell

REALISATIONS = (*HEURISTICS, SCORE)
FEWEST = 3  # weights of a sweep
TOY_CLEAN = 0.98  # accuracy of the toy's networks: its classes do not overlap

Put = Callable[[str, str, dict[str, np.ndarray | None]], None]  # Evidence.put


def evidence(f: Found) -> dict:
    """{claim: {part: {instance: array}}} for the judge; an instance that could not be measured is left out."""
    found = Evidence()
    put = found.put

    _toy(f, put)
    for study in f.studies:
        _images(f, study, put)
        for norm in (threat.norm for threat in study.threats):
            _methods(f, study, norm, put)
            _added(f, study, norm, put)
            _masking(f, study, norm, put)
        _strengths(f, study, put)
    return found


def robust(f: Found, cells: list[Cell], norm: str) -> np.ndarray | None:
    """Outcomes [S, M] of the networks of one kind and weight under the study's attack in a norm."""
    return np.stack([f.robust[c][norm] for c in cells]).astype(float) if cells else None


def _minus(one: np.ndarray | None, other: np.ndarray | None) -> np.ndarray | None:
    return None if one is None or other is None else one - other


def aligned(f: Found, cells: list[Cell], truth: str = INDEPENDENT) -> np.ndarray | None:
    """[S]: the mean cosine of the gradients with a truth over images and classes, the own class among them."""
    if not cells or f"own, {truth}" not in f.alignment[cells[0]]:
        return None
    classes = cells[0].recipe.data.info.classes
    rows = [(f.alignment[c][f"own, {truth}"] + (classes - 1) * f.alignment[c][f"others, {truth}"]) / classes
            for c in cells]
    return np.array([row.mean() for row in rows])


def _toy(f: Found, put: Put) -> None:
    of = {kind: [np.asarray(f.toy[c][["right", "exact", "far", "PGD"]], float) for c in f.of(TOY, kind)]
          for kind in (VANILLA, "nearest neighbour", CLASSES, RANDOM)}
    right, exact, far, _ = (np.stack([t[:, k] for t in of["nearest neighbour"]]) for k in range(4))
    plain = np.stack([t[:, 1] for t in of[VANILLA]])
    put("C1a", "nearest neighbour", {"clean": right, "gain": exact - plain, "collapse": far})
    put("C1a", VANILLA, {"clean": np.stack([t[:, 0] for t in of[VANILLA]])})
    for control in (RANDOM, CLASSES):
        if of[control]:
            put("C1b", control, {"gain": exact - np.stack([t[:, 1] for t in of[control]])})


def _images(f: Found, study: Study, put: Put) -> None:
    """C2: do the gradients, and the images that they generate, show the classes?"""
    plain = f.main(study.name, VANILLA)
    for kind in REALISATIONS:
        cells, instance = f.main(study.name, kind), f"{study.name}, {kind}"
        if not cells or not plain:
            continue
        if all(c in f.rate for c in cells + plain):
            rates = [np.stack([_by_image(f, c) for c in some]) for some in (cells, plain)]
            put("C2a", instance, {"rate": rates[0] - rates[1]})
        here, there = (aligned(f, some) for some in (cells, plain))
        if here is None:
            continue
        pairs = [aligned(f, some, SHUFFLED) for some in (cells, plain)]
        put("C2b", instance, {"cosine": here - there, "pairs": here - there - (pairs[0] - pairs[1])})


def _by_image(f: Found, cell: Cell) -> np.ndarray:
    """The rate of each image, mean over its targets: what one image is moved to is no sample of its own."""
    return f.rate[cell].reshape(-1, cell.recipe.data.info.classes - 1).mean(1)


def _methods(f: Found, study: Study, norm: str, put: Put) -> None:
    """C3, C4, C6, C7: what each realisation adds to nothing, to controls, and the score to the others."""
    where = study.name
    of = {kind: robust(f, f.main(where, kind), norm) for kind in (VANILLA, *REALISATIONS, *CENTRED, RANDOM)}
    for kind in REALISATIONS:
        put("C3a", f"{where}, {kind}, {norm}", {"gain": _minus(of[kind], of[VANILLA])})
        put("C3c", f"{where}, {kind}, {norm}", {"random": _minus(of[kind], of[RANDOM])})
    for name, control in (("permuted", CLASSES), ("norm", NORM)):
        put("C3b", f"{where}, {norm}", {name: _minus(of[SCORE], robust(f, f.matched(where, control), norm))})
    put("C3d", f"{where}, {norm}", {"images": _minus(of[SCORE], robust(f, f.main(where, IMAGES), norm))})
    for kind in (*HEURISTICS, *CENTRED):
        put("C4", f"{where}, {kind}, {norm}", {"best": _minus(of[SCORE], of[kind])})
    gain = {"gain": _minus(of[SCORE], of[VANILLA])}
    if other_architecture(f, study):
        put("C6", f"{where}, {norm}", gain)
    elif len({f.networks_of(s).data.name for s in f.studies}) > 1:
        put("C7", f"{where}, {norm}", gain)


def other_architecture(f: Found, study: Study) -> bool:
    """Whether a study before this one has the same data: then it differs by its architecture."""
    data, before = f.networks_of(study).data, f.studies[:f.studies.index(study)]
    return any(f.networks_of(s).data.name == data.name for s in before)


def _strengths(f: Found, study: Study, put: Put) -> None:
    """C5: over the weights of the score, zero left out."""
    where, norms = study.name, [threat.norm for threat in study.threats]
    weights = f.weights(where, SCORE)
    if len(weights) < FEWEST:
        return
    cells, logs = [f.of(where, SCORE, w) for w in weights], np.log10(weights)
    closeness = np.array([aligned(f, row) for row in cells])  # [K, S]
    chance = [f.of(where, CLASSES, w) for w in weights]
    for norm in norms:
        levels = np.array([robust(f, row, norm).mean(1) for row in cells])
        parts = {"rises": np.polyfit(logs, levels, 1)[0],
                 "tracks": [correlation(a, r) for a, r in zip(closeness.T, levels.T, strict=True)]}
        if all(len(row) == f.section.seeds for row in chance):
            net = levels - np.array([robust(f, row, norm).mean(1) for row in chance])
            nearer = closeness - np.array([aligned(f, row) for row in chance])
            # the slope of a line through the origin: no better alignment, no more robustness
            parts["net"] = (net * nearer).sum(0) / (nearer**2).sum(0)
        put("C5", f"{where}, {norm}", parts)
    put("C5", where, {"aligns": np.polyfit(logs, closeness, 1)[0]})


def _added(f: Found, study: Study, norm: str, put: Put) -> None:
    """C8: the score's term beside adversarial training, at the weight that is best on held-out images."""
    first, where = study.threats[0].norm, study.name
    alone, at_cost = (robust(f, f.main(where, kind(first)), norm) for kind in (plan.adversarial, plan.longer))
    with_it = robust(f, f.best(where, plan.combined(first)), norm)
    put("C8", f"{where}, AT, {norm}", {"gain": _minus(with_it, alone), "cost": _minus(with_it, at_cost)})
    alone, with_it = (robust(f, some, norm) for some in (f.main(where, TRADES_ALONE), f.best(where, TRADES_SCORE)))
    put("C8", f"{where}, TRADES, {norm}", {"gain": _minus(with_it, alone)})


def _masking(f: Found, study: Study, norm: str, put: Put) -> None:
    """C9: attacks that need no gradients of this network break no more; a huge ball leaves nothing."""
    cells = [c for c in f.main(study.name, SCORE) if c in f.masking]
    if not cells:
        return
    by_way = {name: np.stack([f.masking[c][norm][name] for c in cells]).astype(float)
              for name in f.masking[cells[0]][norm]}
    put("C9", f"{study.name}, {norm}", {"square": by_way["square"] - by_way["verify"],
                                        "steps": by_way["FGSM"] - by_way["PGD"], "zero": by_way["largest ball"]})
    for name, values in by_way.items():
        if name.startswith("from "):
            put("C9", f"{study.name}, {norm}, {name}", {"transfer": values - by_way["verify"]})


def preconditions(f: Found) -> dict[str, Checks]:
    """{claim: what must hold before it is judged}: networks that have learned, a radius that breaks the one without
    aligned gradients, an attack that can be trusted, denoisers that deserve their name, and what single claims need
    besides: every realisation, a robust network that judges images, adversarial training that makes robust.
    """
    plain, toy, main, whole, judged, added = (Checks() for _ in range(6))
    for kind, checks in ((VANILLA, (plain, toy)), ("nearest neighbour", (toy,))):
        low = at_least(np.stack([f.right[c] for c in f.of(TOY, kind)]))
        for some in checks:
            some.add(f"toy: {kind} networks are trained", low >= TOY_CLEAN,
                     f"lower bound of the accuracy {low:.1%}, at least {TOY_CLEAN:.0%} needed")
    for study in f.studies:
        cells = f.main(study.name, VANILLA)
        low = at_least(np.stack([f.right[c] for c in cells]))
        main.add(f"{study.name}: vanilla networks are trained", low >= study.clean,
                 f"lower bound of the accuracy {low:.1%}, at least {study.clean:.0%} needed")
        for threat in study.threats:
            left = robust(f, cells, threat.norm).mean()
            main.add(f"{study.name}: vanilla networks are not robust, {threat.norm}", left <= study.vanilla,
                     f"robust accuracy {left:.1%}, at most {study.vanilla:.0%} allowed")
        doubts = sorted({w for c in (*cells, *f.main(study.name, SCORE)) for w in f.warnings[c]})
        main.add(f"{study.name}: the attack can be trusted", not doubts,
                 "; ".join(doubts) or "no sanity check raised a doubt")
        for what, good, detail in f.quality.get(study.name, ()):
            main.add(f"{study.name}: {what}", good, detail)
        lost = [kind for kind in study.weights.of if not f.main(study.name, kind)]
        whole.add(f"{study.name}: no training of a realisation diverged", not lost, ", ".join(lost) or "none")
        if how := study.adversarial:
            norms = study.threats[0].norm, study.threats[-1].norm
            for norm, checks, wanted in zip(norms, (added, judged), (how.weights, True), strict=True):
                if wanted:
                    _robust(f, study, norm, checks)
    of = {"C1a": plain, "C1b": toy, "C2a": Checks([*main, *judged]), "C8": added}
    of |= dict.fromkeys(("C3a", "C3c", "C4"), Checks([*main, *whole]))
    return of | dict.fromkeys(("C2b", "C3b", "C3d", "C5", "C6", "C7", "C9"), main)


def _robust(f: Found, study: Study, norm: str, checks: Checks) -> None:
    """Adversarial training in a norm saves more there than vanilla networks may keep."""
    alone, plain = (robust(f, f.main(study.name, k), norm) for k in (plan.adversarial(norm), VANILLA))
    gain = at_least(np.maximum(alone - plain, 0).astype(bool))
    checks.add(f"{study.name}: adversarial training makes robust, {norm}", gain >= study.vanilla,
               f"it saves at least {gain:.1%} of the images in {norm} ({study.vanilla:.0%} needed)")
