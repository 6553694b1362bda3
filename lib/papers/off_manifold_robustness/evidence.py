"""Evidence and preconditions of the notebook on off-manifold robustness, from curves over the strengths of each
regulariser (curves.py) and digits next to a letter (letters.py); its claims are in claims/off_manifold_robustness.yaml.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lib import claims
from lib.claims.evidence import Evidence
from lib.claims.preconditions import Preconditions
from lib.papers.off_manifold_robustness.curves import LEAST, Curve, curves, log_ratio
from lib.papers.off_manifold_robustness.letters import add_letters, condition
from lib.papers.off_manifold_robustness.networks import (
    NONE,
    PER_BATCH,
    PER_IMAGE,
    POOL,
    STANDARD,
    UNTRAINED,
    Condition,
)
from lib.papers.off_manifold_robustness.results import BAYES, Results
from lib.papers.off_manifold_robustness.settings import Sweep

ALL = ("gradient norm", "smoothness", "noise", "PGD")
FEWEST = 4  # the fewest strengths, including 0, of a curve that can rise and fall
PAPERS_PAIR = ("1 - LPIPS", "sum of logits")  # measures of the paper's own pair; the second stands in for the first

OTHERS = {"pca": "PCA", "frequencies": "lowest frequencies", "other": "another image's"}  # part of C14: spaces


@dataclass(frozen=True)
class _Sweep:
    """What the parts of a sweep's claims are made of, and where they go."""

    f: Results
    sweep: Sweep
    curves: dict[str, Curve]
    found: Evidence

    @property
    def letter(self) -> str:
        return "a" if self.sweep.closed_form else "b"

    @property
    def pooled(self) -> bool:
        """Whether the sweep measures the pool's networks, too."""
        return self.sweep.data is None

    def column(self, kind: str, name: str) -> np.ndarray:
        """[S, m]: a column of the networks of a kind without a strength, NaN for those that failed."""
        return self.f.by_repetition(Condition(self.sweep.name, kind),
                                    lambda cell: self.f.sensitivity[cell][name], np.full(1, np.nan))

    def ratio(self, kind: str, over: str, under: str) -> np.ndarray:
        """`log_ratio` [S, m] of two columns of the networks of a kind."""
        return log_ratio(self.column(kind, over), self.column(kind, under))

    @property
    def columns(self) -> set[str]:
        """The columns that were measured."""
        return {*next((table for cell, table in self.f.sensitivity.items()
                       if cell.condition.where == self.sweep.name), ())}

    @property
    def nothing(self) -> np.ndarray:
        """What stands for values [S, m] that could not be measured: a claim that needs them is not tested."""
        return np.full((self.f.section.seeds, 1), np.nan)

    @property
    def matched(self) -> bool:
        """Whether there are steps off the manifold with the spectrum of steps along it."""
        return self.f.matching.get(self.sweep.name, ("", False, ""))[1]

    def add(self, claim: str, instance: str, parts: dict[str, np.ndarray]) -> None:
        self.found.add_parts(claim, instance, parts)

    def add_of_curve(self, claim: str, kind: str, parts: dict, part_ids: tuple[str, ...], why: str) -> None:
        """Add the parts of a regulariser. Those that are missing have no repetition, so that the claim is not tested,
        and the reason says why.
        """
        rows = {part: self.whole(parts[part]) if part in parts else self.nothing for part in part_ids}
        self.add(claim, f"{self.sweep.name}, {kind}", rows)
        if not {*part_ids} <= parts.keys():
            self.found.note(claim, [f"{self.sweep.name}, {kind}: {why}"])

    def whole(self, values: np.ndarray) -> np.ndarray:
        """Values [S, m] of a curve's repetitions with a row of NaN for each repetition that the sweep is without."""
        left = [cell.repetition for cell in self.f.of(Condition(self.sweep.name, NONE))]
        rows = np.full((self.f.section.seeds, *values.shape[1:]), np.nan)
        rows[left] = values
        return rows


def evidence(f: Results) -> Evidence:
    """{claim: {part: {instance: array}}} for the judge; a regulariser that a claim is about and that could not be
    measured has no repetition left.
    """
    found, every = Evidence(), curves(f)
    _theory(f, found)
    for sweep in f.section.sweeps:
        _note_failures(f, sweep, found)
        of = _Sweep(f, sweep, every.get(sweep.name, {}), found)
        _without(of)
        if not sweep.closed_form and of.pooled:
            _pool(of)
        for kind, strengths in sweep.strengths.of.items():
            if f.section.seeds > 1 and len(strengths) + 1 >= FEWEST:
                _regularised(of, kind, of.curves.get(kind))
    if f.published is not None:
        found.add_parts("C8", "ImageNet", f.published.trends())  # one number: there is one network for each eps
    if f.section.distractor:
        add_letters(f, found)
    return found


def _without(of: _Sweep) -> None:
    """C3: networks without a regulariser, of the sweep and of the pool."""
    sweep, name = of.sweep, of.sweep.name
    kinds = {name: (NONE, UNTRAINED)}
    if of.pooled and not sweep.closed_form:
        kinds[f"{name}, pool"] = (POOL["N"], POOL["U"])
    for instance, (kind, untrained) in kinds.items():
        ratio = of.ratio(kind, "off", "on")
        of.add(f"C3{of.letter}", instance, {"off_over_on": ratio})
        if sweep.closed_form:
            continue
        of.add("C3c", instance, {"untrained": ratio - of.ratio(untrained, "off", "on")})
        for size in sweep.sizes[1:]:
            columns = [f"{side}, {sweep.tangents[0]}, {size:g}" for side in ("off", "on")]
            of.add("C3d", f"{instance}, length {size:g}", {"short": of.ratio(kind, *columns)})
        if of.matched:
            of.add("C3e", instance, {"matched": of.ratio(kind, "matched", "on")})


def _pool(of: _Sweep) -> None:
    """The pool's robust networks next to its normal ones in C4, C5, C13 and C14."""
    normal, robust, untrained = (POOL[kind] for kind in "NRU")
    name, ratio = f"{of.sweep.name}, pool", of.ratio(robust, "on", "off")
    before = of.ratio(normal, "off", "on")
    of.add("C4b", name, {"before": before, "flips": ratio, "gains": ratio + before})
    _flipped(of, name, lambda over, under: of.ratio(robust, over, under), of.ratio(untrained, "on", "off"))

    def gain(column: str) -> np.ndarray:
        return of.column(robust, column) - of.column(normal, column)

    rises = gain("alignment")
    of.add("C5b", name, {"rises": rises, "pairs": rises - gain("shuffled pairs")})
    pair, words = _papers_pair(of)
    of.add("C5c", f"{name}, {words}", {"rises": gain(pair), "pairs": gain(pair) - gain(f"{pair}, shuffled pairs")})
    of.add("C13", name, {"rises": gain("inside")})
    _insides(of, name, lambda column: of.column(robust, column))


def _papers_pair(of: _Sweep) -> tuple[str, str]:
    """The measure of the paper's own pair of gradient and score, and how it is named."""
    measure = next((name for name in PAPERS_PAIR if name in of.columns), PAPERS_PAIR[-1])
    return measure, measure if measure == PAPERS_PAIR[0] else "cosine as a proxy"


def _flipped(of: _Sweep, instance: str, read: Callable[[str, str], np.ndarray], untrained: np.ndarray) -> None:
    """The controls of C4. read: from two columns to the logarithm [S, m] of their ratio. untrained: this logarithm of
    on and off in untrained networks.
    """
    sweep = of.sweep
    if of.matched:
        of.add("C4c", instance, {"matched": read("on", "matched")})
    for size in sweep.sizes[1:]:
        columns = [f"{side}, {sweep.tangents[0]}, {size:g}" for side in ("on", "off")]
        of.add("C4d", f"{instance}, length {size:g}", {"short": read(*columns)})
    of.add("C4e", instance, {"untrained": read("on", "off") - untrained})


def _insides(of: _Sweep, instance: str, read: Callable[[str], np.ndarray]) -> None:
    """C14: how much more of the gradient is inside the auto-encoder's spaces than inside others. read: [S, m] of a
    column.
    """
    if of.sweep.tangents[0] == "auto-encoder":
        of.add("C14", instance, {part: read("inside") - read(f"inside, {name}") for part, name in OTHERS.items()
                                 if f"inside, {name}" in of.columns})


def _regularised(of: _Sweep, kind: str, curve: Curve | None) -> None:
    """C4 to C7, C9, C12 to C14: a regulariser at growing strengths. curve: None if no network without it is left."""
    sweep, letter = of.sweep, of.letter
    short = curve is None or len(curve.strengths) < FEWEST
    flips, peaks = (None, None) if short else (curve.flips(), curve.peaks())
    why = "fewer than three strengths are left" if short else "no network reacts"
    dead = [f"{sweep.name}, {kind} {strength:g}: not alive in every repetition"
            for strength in (curve.dead if curve else ())]
    for number in (4, 5, 6, 12):
        of.found.note(f"C{number}{letter}", dead)

    order = {} if flips is None else _order_of_changes(curve, flips)
    of.add_of_curve(f"C4{letter}", kind, order, ("before", "flips", "gains", "once"), why)
    rises = {} if peaks is None else _rises(curve, peaks)
    of.add_of_curve(f"C5{letter}", kind, rises, ("rises", "pairs", "slope"), why)
    falls, best = ({}, {}) if peaks is None else (_falls(curve, peaks), _accurate(curve, peaks))
    beyond = why if peaks is None else "no living network is beyond the peak"
    of.add_of_curve(f"C6{letter}", kind, falls, ("alignment", "accuracy"), beyond)
    of.add_of_curve(f"C12{letter}", kind, best, ("accuracy", "alignment"), why)
    if sweep.closed_form:
        return
    name = f"{sweep.name}, {kind}"

    def at_flips(over: str, under: str) -> np.ndarray:
        return of.nothing if flips is None else of.whole(curve.log_ratio(over, under, flips))

    def at_peaks(column: str) -> np.ndarray:
        return of.nothing if peaks is None else of.whole(curve.at(curve.values[column], peaks))

    _flipped(of, name, at_flips, of.ratio(UNTRAINED, "on", "off"))
    pair, words = _papers_pair(of)
    own = None if short else curve.peaks(pair)
    of.add_of_curve("C5c", f"{kind}, {words}", {} if own is None else _rises(curve, own, pair),
                    ("rises", "pairs"), why)
    of.add("C13", name, {"rises": at_peaks("inside") - of.column(NONE, "inside")})
    _insides(of, name, at_peaks)
    if sweep.strengths.of.keys() >= {*ALL}:
        of.add_of_curve("C7", kind, {**order, **rises}, ("flips", "rises"), why)
    if kind == "PGD" and sweep.data and sweep.data.name == "imagenet":
        parts = {"rises": rises.get("rises"), "falls": falls.get("alignment")}
        of.add_of_curve("C9", kind, {part: v for part, v in parts.items() if v is not None}, ("rises", "falls"), beyond)


def _note_failures(f: Results, sweep: Sweep, found: Evidence) -> None:
    """Note the failed networks of a sweep: a strength that failed is missing from every curve over strengths."""
    letter, plain = "a" if sweep.closed_form else "b", f.failures((Condition(sweep.name, NONE),))
    needs = {f"C3{letter}": (), **{f"C{number}{letter}": ALL for number in (4, 5, 6, 12)}}
    if not sweep.closed_form:
        needs |= {name: () for name in ("C3c", "C3d", "C3e")}
        needs |= {name: ALL for name in ("C4c", "C4d", "C4e", "C5c", "C7", "C13", "C14")}
    of_pool = {"C3b": "NU", "C3c": "NU", "C3d": "N", "C3e": "N"} | dict.fromkeys(
        ("C4b", "C4c", "C4d", "C4e", "C5b", "C5c", "C13", "C14"), "NRU")
    for claim, kinds in needs.items():
        lost = plain + [phrase for kind in kinds for phrase in f.failures(where=sweep.name, kind=kind)]
        lost += [phrase for kind in of_pool.get(claim, "") for phrase in f.failures(where=sweep.name, kind=POOL[kind])]
        found.note(claim, lost)


def _theory(f: Results, found: Evidence) -> None:
    """C1 and C2: rho1 and rho2 on closed forms."""
    for (where, kind), rows in f.theory.groupby(["where", "kind"]):
        if kind != BAYES:
            found.note("C1", f.failures(where=where, kind=NONE) + f.failures(where=where, kind="noise"))
        runs = {seed: run.sort_values("sigma") for seed, run in rows.groupby("seed")}

        def each(read: Callable, runs: dict = runs) -> list[float]:
            return [read(runs[seed]) if seed in runs else np.nan for seed in range(f.section.seeds)]

        if kind == BAYES:
            found.add("C2", "aligned", where, each(lambda run: run["worst rho2"].iloc[0]))
            found.add("C2", "robust", where, each(lambda run: run.rho1.iloc[0]))
            continue
        found.add("C1", "order", f"{where}, {kind}", each(_order))
        found.add("C1", "limit", f"{where}, {kind}", each(lambda run: run.rho1.iloc[0] - run.rho2.iloc[0]))


def _order(run: pd.DataFrame) -> float:
    """The exponent with which |rho1 - rho2| falls with the noise."""
    gap = (run.rho1 - run.rho2).abs().clip(lower=1e-300)
    return np.polyfit(np.log(run.sigma), np.log(gap), 1)[0]


def theory_margins() -> dict[str, float]:
    """{column of `Results.theory`: the margin of its part in C2}"""
    margins = {part.id: part.margin for part in claims.load("off_manifold_robustness")["C2"].parts}
    return {"rho1": margins["robust"], "worst rho2": margins["aligned"]}


def _order_of_changes(curve: Curve, flips: np.ndarray) -> dict[str, np.ndarray]:
    """The parts of C4, each [S, m]."""
    before, after = curve.log_ratio("off", "on"), curve.log_ratio("on", "off", flips)
    lowest = curve.log_ratio("on", "off", curve.lowest_after(flips))
    return {"before": before, "flips": after, "gains": after + before, "once": lowest}


def _rises(curve: Curve, peaks: np.ndarray, column: str = "alignment") -> dict[str, np.ndarray]:
    """The parts of C5 (or, for the paper's pair, C5c), each [S, m]; without a slope if fewer than three strengths have
    living networks.
    """
    chance = curve.values["shuffled pairs" if column == "alignment" else f"{column}, shuffled pairs"]
    own = curve.values[column]
    rise, by_chance = (curve.at(values, peaks) - values[0] for values in (own, chance))
    found, living = {"rises": rise, "pairs": rise - by_chance}, curve.alive.all(1)
    if living.sum() >= 3:
        contrast = (curve.mean("on") - curve.mean("off"))[living]
        apart = contrast - contrast.mean(0)
        weights = apart / np.maximum(np.square(apart).sum(0), LEAST)
        found["slope"] = np.einsum("ks,ksi->si", weights, (own - chance)[living])
    return found


def _falls(curve: Curve, peaks: np.ndarray) -> dict[str, np.ndarray]:
    """The parts of C6, beyond the peak: alignment [S, m] and accuracy [S, M]; empty if no strength is beyond it."""
    end = curve.strongest()
    if end <= peaks.max():
        return {}
    alignment, right = curve.values["alignment"], curve.right
    return {"alignment": curve.at(alignment, peaks) - alignment[end], "accuracy": curve.at(right, peaks) - right[end]}


def _accurate(curve: Curve, peaks: np.ndarray) -> dict[str, np.ndarray]:
    """The parts of C12, the most accurate strength against the peak: accuracy [S, M] and alignment [S, m]."""
    best, right, alignment = curve.most_accurate(), curve.right, curve.values["alignment"]
    return {"accuracy": curve.at(right, best) - curve.at(right, peaks),
            "alignment": curve.at(alignment, peaks) - curve.at(alignment, best)}


# --------------------------------------------------------------------------------------------------- preconditions


def named_checks(f: Results) -> dict[str, Preconditions]:
    """Preconditions by subject: `exact` (sweeps on closed forms), `images` (the other sweeps), `pool` (the pool's
    networks, where a sweep measures them), `matched` (steps off the manifold with the spectrum of steps along it),
    `letters` (digits next to a letter); each is empty if the run has no such networks. Networks must have learned, and
    tangent spaces, scores and controls must be good enough.
    """
    names = ("exact", "images", "pool", "matched", "letters")
    exact, images, pool, matched, letters = found = [Preconditions() for _ in names]
    for sweep in f.section.sweeps:
        checks = exact if sweep.closed_form else images
        plain = Condition(sweep.name, NONE)
        checks.trained(f"{sweep.name}: networks without a regulariser", f.correct(plain), sweep.clean,
                       f.failures((plain,)))
        lost = f.failures(where=sweep.name)
        checks.add(f"{sweep.name}: trainings did not diverge", True, "; ".join(lost) or "none did")
        for what, better, detail in f.quality.get(sweep.name, ()):
            checks.add(f"{sweep.name}: {what}", better, detail)
        if sweep.data is None:
            normal, robust = (Condition(sweep.name, POOL[kind]) for kind in "NR")
            if f.section.gates:
                pool.pool(f.section.gates, f.section.verify, *f.of_pool(normal, robust), where=f"{sweep.name}, pool")
            else:
                pool.trained(f"{sweep.name}: the pool's normal networks", f.correct(normal), sweep.clean,
                             f.failures((normal,)))
    if f.matching:
        said = "; ".join(f"{where}: {detail}" for where, (_, _, detail) in f.matching.items())
        matched.add("there are steps off the manifold with the spectrum of steps along it",
                    any(holds for _, holds, _ in f.matching.values()), said)
    if how := f.section.distractor:
        for data in how.data:
            for kind in (STANDARD, PER_IMAGE, PER_BATCH):
                of = condition(f, data.name, kind)
                letters.trained(f"{data.name}: {kind} networks", f.correct(of), how.clean, f.failures((of,)))
    return dict(zip(names, found, strict=True))


ABOUT = {
    "exact": ("C1", "C2", "C3a", "C4a", "C5a", "C6a", "C12a"),
    "images": ("C3b", "C3c", "C3d", "C3e", "C4b", "C4c", "C4d", "C4e", "C5b", "C5c", "C6b", "C7", "C8", "C9", "C12b",
               "C13", "C14"),
    "pool": ("C3b", "C3c", "C3d", "C3e", "C4b", "C4c", "C4d", "C4e", "C5b", "C5c", "C13", "C14"),
    "matched": ("C3e", "C4c"),
    "letters": ("C10a", "C10b", "C11"),
}


def claim_preconditions(f: Results) -> dict[str, Preconditions]:
    """{claim: the `named_checks` that must hold before it is judged}; for C8 the checks of published networks, if there
    are any.
    """
    by: dict[str, Preconditions] = {}
    for name, checks in named_checks(f).items():
        for claim in ABOUT[name]:
            by.setdefault(claim, Preconditions()).extend(checks)
    return by if f.published is None else {**by, "C8": f.published.checks()}
