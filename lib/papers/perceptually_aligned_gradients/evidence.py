"""What the judge gets of the notebook on perceptually aligned gradients; how claims are worded stands in
claims/perceptually_aligned_gradients.yaml.
"""

from __future__ import annotations

import numpy as np

from lib.claims.evidence import Evidence
from lib.claims.preconditions import Preconditions, lower_bound
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
    Condition,
)
from lib.papers.perceptually_aligned_gradients.results import Results
from lib.papers.perceptually_aligned_gradients.settings import Experiment
from lib.papers.perceptually_aligned_gradients.truths import INDEPENDENT, SHUFFLED
from lib.statistics import correlation
from lib.values.cell import Cell

REALISATIONS = (*HEURISTICS, SCORE)
FEWEST = 3  # weights of a sweep
TOY_CLEAN = 0.98  # accuracy of the toy's networks: its classes do not overlap


def evidence(f: Results) -> Evidence:
    """{claim: {part: {instance: array}}} for the judge; an instance that could not be measured is left out."""
    found = Evidence()
    _toy(f, found)
    for study in f.studies:
        _images(f, study, found)
        for norm in (threat.norm for threat in study.threats):
            _methods(f, study, norm, found)
            _added(f, study, norm, found)
            _masking(f, study, norm, found)
        _strengths(f, study, found)
    return found


def robust(f: Results, cells: list[Cell], norm: str) -> np.ndarray | None:
    """Outcomes [S, M] of the networks of one kind and weight under the study's attack in a norm."""
    return f.stacked(cells, norm) if cells else None


def _minus(one: np.ndarray | None, other: np.ndarray | None) -> np.ndarray | None:
    return None if one is None or other is None else one - other


def aligned(f: Results, cells: list[Cell], truth: str = INDEPENDENT) -> np.ndarray | None:
    """[S]: the mean cosine of the gradients with a truth over images and classes, the own class among them."""
    if not cells or f"own, {truth}" not in f.alignment[cells[0]]:
        return None
    classes = cells[0].recipe.data.info.classes
    rows = [(f.alignment[c][f"own, {truth}"] + (classes - 1) * f.alignment[c][f"others, {truth}"]) / classes
            for c in cells]
    return np.array([row.mean() for row in rows])


def _toy(f: Results, found: Evidence) -> None:
    of = {kind: np.array([f.toy[c][["right", "exact", "far"]].to_numpy(float).T for c in f.of(where=TOY, kind=kind)])
          for kind in (VANILLA, "nearest neighbour", CLASSES, RANDOM)}
    right, exact, far = of["nearest neighbour"].swapaxes(0, 1)
    found.add_parts("C1a", "nearest neighbour", {"clean": right, "gain": exact - of[VANILLA][:, 1], "collapse": far})
    found.add("C1a", "clean", VANILLA, of[VANILLA][:, 0])
    for control in (RANDOM, CLASSES):
        if len(of[control]):
            found.add("C1b", "gain", control, exact - of[control][:, 1])


def _images(f: Results, study: Experiment, found: Evidence) -> None:
    """C2: do the gradients, and the images that they generate, show the classes?"""
    plain = f.at_own_weight(study.name, VANILLA)
    for kind in REALISATIONS:
        cells, instance = f.at_own_weight(study.name, kind), f"{study.name}, {kind}"
        if not cells or not plain:
            continue
        if all(c in f.rate for c in cells + plain):
            rates = [np.stack([_by_image(f, c) for c in some]) for some in (cells, plain)]
            found.add("C2a", "rate", instance, rates[0] - rates[1])
        here, there = (aligned(f, some) for some in (cells, plain))
        if here is None:
            continue
        pairs = [aligned(f, some, SHUFFLED) for some in (cells, plain)]
        found.add("C2b", "cosine", instance, here - there)
        found.add("C2b", "pairs", instance, here - there - (pairs[0] - pairs[1]))


def _by_image(f: Results, cell: Cell) -> np.ndarray:
    """The rate of each image, mean over its targets: what one image is moved to is no sample of its own."""
    return f.rate[cell].reshape(-1, cell.recipe.data.info.classes - 1).mean(1)


def _methods(f: Results, study: Experiment, norm: str, found: Evidence) -> None:
    """C3, C4, C6, C7: what each realisation adds to nothing, to controls, and the score to the others."""
    where = study.name
    of = {kind: robust(f, f.at_own_weight(where, kind), norm) for kind in (VANILLA, *REALISATIONS, *CENTRED, RANDOM)}
    for kind in REALISATIONS:
        found.add("C3a", "gain", f"{where}, {kind}, {norm}", _minus(of[kind], of[VANILLA]))
        found.add("C3c", "random", f"{where}, {kind}, {norm}", _minus(of[kind], of[RANDOM]))
    for name, control in (("permuted", CLASSES), ("norm", NORM)):
        matched = robust(f, f.matched_control(where, control), norm)
        found.add("C3b", name, f"{where}, {norm}", _minus(of[SCORE], matched))
    images = robust(f, f.at_own_weight(where, IMAGES), norm)
    found.add("C3d", "images", f"{where}, {norm}", _minus(of[SCORE], images))
    for kind in (*HEURISTICS, *CENTRED):
        found.add("C4", "best", f"{where}, {kind}, {norm}", _minus(of[SCORE], of[kind]))
    gain = _minus(of[SCORE], of[VANILLA])
    if other_architecture(f, study):
        found.add("C6", "gain", f"{where}, {norm}", gain)
    elif len({f.networks_of(s).data.name for s in f.studies}) > 1:
        found.add("C7", "gain", f"{where}, {norm}", gain)


def other_architecture(f: Results, study: Experiment) -> bool:
    """Whether a study before this one has the same data: then it differs by its architecture."""
    data, before = f.networks_of(study).data, f.studies[:f.studies.index(study)]
    return any(f.networks_of(s).data.name == data.name for s in before)


def _strengths(f: Results, study: Experiment, found: Evidence) -> None:
    """C5: over the weights of the score, zero left out."""
    where, norms = study.name, [threat.norm for threat in study.threats]
    weights = f.weights(where, SCORE)
    if len(weights) < FEWEST:
        return
    cells, logs = [f.of(Condition(where, SCORE, w)) for w in weights], np.log10(weights)
    closeness = np.array([aligned(f, row) for row in cells])  # [K, S]
    chance = [f.of(Condition(where, CLASSES, w)) for w in weights]
    for norm in norms:
        levels = np.array([robust(f, row, norm).mean(1) for row in cells])
        parts = {"rises": np.polyfit(logs, levels, 1)[0],
                 "tracks": [correlation(a, r) for a, r in zip(closeness.T, levels.T, strict=True)]}
        if all(len(row) == f.section.seeds for row in chance):
            net = levels - np.array([robust(f, row, norm).mean(1) for row in chance])
            nearer = closeness - np.array([aligned(f, row) for row in chance])
            # the slope of a line through the origin: no better alignment, no more robustness
            parts["net"] = (net * nearer).sum(0) / (nearer**2).sum(0)
        found.add_parts("C5", f"{where}, {norm}", parts)
    found.add("C5", "aligns", where, np.polyfit(logs, closeness, 1)[0])


def _added(f: Results, study: Experiment, norm: str, found: Evidence) -> None:
    """C8: the score's term added to adversarial training, at the weight that is best on held-out images."""
    first, where = study.threats[0].norm, study.name
    alone, at_cost = (robust(f, f.at_own_weight(where, kind(first)), norm) for kind in (plan.adversarial, plan.longer))
    with_it = robust(f, f.best_on_holdout(where, plan.combined(first)), norm)
    found.add("C8", "gain", f"{where}, AT, {norm}", _minus(with_it, alone))
    found.add("C8", "cost", f"{where}, AT, {norm}", _minus(with_it, at_cost))
    alone = robust(f, f.at_own_weight(where, TRADES_ALONE), norm)
    with_it = robust(f, f.best_on_holdout(where, TRADES_SCORE), norm)
    found.add("C8", "gain", f"{where}, TRADES, {norm}", _minus(with_it, alone))


def _masking(f: Results, study: Experiment, norm: str, found: Evidence) -> None:
    """C9: attacks that need no gradients of this network break no more; a huge ball leaves nothing."""
    cells = [c for c in f.at_own_weight(study.name, SCORE) if c in f.masking]
    if not cells:
        return
    by_way = {name: np.stack([f.masking[c][norm][name] for c in cells]).astype(float)
              for name in f.masking[cells[0]][norm]}
    found.add_parts("C9", f"{study.name}, {norm}", {
        "square": by_way["square"] - by_way["verify"], "steps": by_way["FGSM"] - by_way["PGD"],
        "zero": by_way["largest ball"]})
    for name, values in by_way.items():
        if name.startswith("from "):
            found.add("C9", "transfer", f"{study.name}, {norm}, {name}", values - by_way["verify"])


def warnings(f: Results) -> list[str]:
    """What a study goes on without, because trainings diverged, one sentence each."""
    return [f"{study.name} goes on without {words}" for study in f.studies
            for words in f.sentences_of_divergence(where=study.name)]


def named_checks(f: Results) -> dict[str, Preconditions]:
    """What must hold, by what it is about: `toy`; `images`, the studies and the robust network that judges images;
    `added`, adversarial training with the term. Empty where there are none.
    """
    checks = claim_preconditions(f)
    return {"toy": checks["C1b"], "images": checks["C2a"], "added": checks["C8"]}


def claim_preconditions(f: Results) -> dict[str, Preconditions]:
    """{claim: what must hold before it is judged}: networks that have learned, a radius that breaks the one without
    aligned gradients, an attack that can be trusted, denoisers that deserve their name, and what single claims need
    besides: every realisation, a robust network that judges images, adversarial training that makes robust.
    """
    plain, toy, main, whole, judged, added = (Preconditions() for _ in range(6))
    for kind, checks in ((VANILLA, (plain, toy)), ("nearest neighbour", (toy,))):
        right = np.stack([f.toy[c]["right"] for c in f.of(where=TOY, kind=kind)])
        for some in checks:
            some.trained(f"toy: {kind} networks", right, TOY_CLEAN)
    for study in f.studies:
        cells = f.at_own_weight(study.name, VANILLA)
        main.trained(f"{study.name}: vanilla networks", f.stacked(cells), study.clean)
        for threat in study.threats:
            left = robust(f, cells, threat.norm).mean()
            main.add(f"{study.name}: vanilla networks are not robust, {threat.norm}", left <= study.vanilla,
                     f"robust accuracy {left:.1%}, at most {study.vanilla:.0%} allowed")
        warnings = sorted({w for c in (*cells, *f.at_own_weight(study.name, SCORE)) for w in f.warnings(c)})
        main.attack(warnings, study.name)
        for what, good, detail in f.quality.get(study.name, ()):
            main.add(f"{study.name}: {what}", good, detail)
        lost = [kind for kind in study.weights.of if not f.at_own_weight(study.name, kind)]
        whole.add(f"{study.name}: no training of a realisation diverged", not lost, ", ".join(lost) or "none")
        if how := study.adversarial:
            norms = study.threats[0].norm, study.threats[-1].norm
            for norm, checks, wanted in zip(norms, (added, judged), (how.weights, True), strict=True):
                if wanted:
                    _robust(f, study, norm, checks)
    of = {"C1a": plain, "C1b": toy, "C2a": Preconditions([*main, *judged]), "C8": added}
    of |= dict.fromkeys(("C3a", "C3c", "C4"), Preconditions([*main, *whole]))
    return of | dict.fromkeys(("C2b", "C3b", "C3d", "C5", "C6", "C7", "C9"), main)


def _robust(f: Results, study: Experiment, norm: str, checks: Preconditions) -> None:
    """Adversarial training in a norm saves more there than vanilla networks may keep."""
    alone, plain = (robust(f, f.at_own_weight(study.name, k), norm) for k in (plan.adversarial(norm), VANILLA))
    gain = lower_bound(np.maximum(alone - plain, 0).astype(bool))
    checks.add(f"{study.name}: adversarial training makes robust, {norm}", gain >= study.vanilla,
               f"it saves at least {gain:.1%} of the images in {norm} ({study.vanilla:.0%} needed)")
