"""Evidence and preconditions of the notebook on off-manifold robustness, from curves over the strengths of each
regulariser and log ratios of the distractor; its claims are in claims/off_manifold_robustness.yaml.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lib import claims
from lib.claims.evidence import Evidence
from lib.claims.preconditions import Preconditions
from lib.papers.off_manifold_robustness.networks import NONE, PER_BATCH, PER_IMAGE, STANDARD, UNTRAINED, Condition
from lib.papers.off_manifold_robustness.results import BAYES, Results
from lib.papers.off_manifold_robustness.settings import Sweep
from lib.statistics import correlation
from lib.values.cell import Cell

FIGURE = ("gradient norm", "noise", "PGD")  # regularisers in the paper's summary figure
ALL = ("gradient norm", "smoothness", "noise", "PGD")
FEWEST = 4  # the fewest strengths, including 0, of a curve that can rise and fall
ON_AT_FLIP = 0.05  # the on-manifold change that a network must exceed to be the flip
BELOW = 0.5  # changes below this multiple of 1 / images are raised to it before taking logarithms


@dataclass(frozen=True)
class Curve:
    """A regulariser of a sweep over its strengths, 0 first, without the repetitions whose network without a regulariser
    failed, and without the strengths at which one of the other repetitions failed.

    values[column]: [K, S, m] for K strengths, S repetitions and m images (the columns are
    lib.papers.off_manifold_robustness.results.COLUMNS). right: [K, S, M], 1 for a test image that is classified
    correctly. classes: their number, for the accuracy of guessing. chance, on: a network is alive if its accuracy is
    more than `chance` above guessing and its on-manifold change is above `on`.
    """

    strengths: tuple[float, ...]
    values: dict[str, np.ndarray]
    right: np.ndarray
    classes: int
    chance: float
    on: float

    @property
    def seeds(self) -> int:
        return self.right.shape[1]

    def mean(self, column: str) -> np.ndarray:
        """[K, S]: the mean over images."""
        return self.values[column].mean(2)

    @property
    def accuracy(self) -> np.ndarray:
        """[K, S]: the mean over test images."""
        return self.right.mean(2)

    def peaks(self) -> list[int] | None:
        """For each repetition, the index of the strength with the highest alignment in the other repetitions, among
        living networks only: the gradients of a constant network have arbitrary alignment. None if there is none.
        """
        return self._picked(np.where(self.alive, self.mean("alignment"), -np.inf))

    def flips(self) -> list[int] | None:
        """For each repetition, the index of the strength with the largest on-minus-off change in the other repetitions,
        among networks whose on-manifold change is above ON_AT_FLIP. None if there is none.
        """
        alive = self.mean("on") > ON_AT_FLIP
        return self._picked(np.where(alive, self.mean("on") - self.mean("off"), -np.inf))

    def most_accurate(self) -> list[int] | None:
        return self._picked(self.accuracy)

    def _picked(self, score: np.ndarray) -> list[int] | None:
        """For each repetition, the index of the strength whose score [K, S] has the largest mean over the other
        repetitions. None with a single repetition, or if no finite score is left.
        """
        if self.seeds < 2:
            return None
        others = [np.delete(score, s, axis=1).mean(1) for s in range(self.seeds)]
        return [int(o.argmax()) for o in others] if all(np.isfinite(o).any() for o in others) else None

    @property
    def alive(self) -> np.ndarray:
        """[K, S]: whether a network is alive (see the class)."""
        return (self.accuracy > 1 / self.classes + self.chance) & (self.mean("on") > self.on)

    def strongest(self) -> int:
        """The index of the largest strength whose networks are alive in every repetition; 0 if there is none."""
        return max((k for k in range(len(self.strengths)) if self.alive[k].all()), default=0)

    def at(self, values: np.ndarray, picked: list[int]) -> np.ndarray:
        """values [K, S, ...] at the strength picked for each repetition: [S, ...]."""
        return np.stack([values[k, s] for s, k in enumerate(picked)])


def curves(f: Results) -> dict[str, dict[str, Curve]]:
    """{sweep: {regulariser: curve}}"""
    found: dict[str, dict[str, Curve]] = {}
    for sweep in f.section.sweeps:
        for kind, strengths in sweep.strengths.of.items():
            plain = f.of(Condition(sweep.name, NONE))
            left = [cell.repetition for cell in plain]
            every = {strength: [c for c in f.of(Condition(sweep.name, kind, strength)) if c.repetition in left]
                     for strength in strengths}
            kept = {0.0: plain} | {strength: cells for strength, cells in every.items() if len(cells) == len(left)}
            if not plain:
                continue
            first, *_ = plain
            columns = [c for c in f.sensitivity[first] if c not in ("index", "label")]
            values = {c: np.array([[f.sensitivity[cell][c].to_numpy(float) for cell in cells]
                                   for cells in kept.values()]) for c in columns}
            right = np.array([f.stacked(cells) for cells in kept.values()])
            found.setdefault(sweep.name, {})[kind] = Curve(tuple(kept), values, right,
                                                           first.recipe.data.info.classes, f.section.chance,
                                                           f.section.on)
    return found


def _by_repetition(f: Results, sweep: Sweep, values) -> np.ndarray | None:
    """Values of a curve's repetitions, [S, ...], with a row of NaN for each repetition that the sweep is without."""
    left = [cell.repetition for cell in f.of(Condition(sweep.name, NONE))]
    if values is None or len(left) == f.section.seeds:
        return values
    values = np.asarray(values, float)
    rows = np.full((f.section.seeds, *values.shape[1:]), np.nan)
    rows[left] = values
    return rows


def evidence(f: Results) -> Evidence:
    """{claim: {part: {instance: array}}} for the judge; an instance that could not be measured is left out."""
    found = Evidence()
    _theory(f, found)
    for sweep in f.section.sweeps:
        _note_failures(f, sweep, found)
    for name, every in curves(f).items():
        sweep, plain = f.sweep(name), next(iter(every.values()))
        letter = "a" if sweep.closed_form else "b"
        none = {column: values[0] for column, values in plain.values.items()}

        def add(claim: str, instance: str, parts: dict, sweep: Sweep = sweep) -> None:
            rows = {part: _by_repetition(f, sweep, values) for part, values in parts.items()}
            found.add_parts(claim, instance, rows)

        add(f"C3{letter}", name, {"off_over_on": none["off"] - none["on"]})
        if not sweep.closed_form:
            add("C3c", name, {"phases": none["phases"] - none["on"]})
        long = {kind: curve for kind, curve in every.items() if len(curve.strengths) >= FEWEST}
        for kind, curve in long.items():
            instance, flips, rises, falls = f"{name}, {kind}", _flips(curve), _rises(curve), _falls(curve)
            if kind in FIGURE:
                add(f"C4{letter}", instance, {part: flips.get(part) for part in ("flips", "first")})
                add(f"C5{letter}", instance, rises)
                add(f"C6{letter}", instance, falls)
                add(f"C12{letter}", instance, _accurate(curve))
                if not sweep.closed_form:
                    add("C4c", instance, {"phases": flips.get("phases")})
            if not sweep.closed_form and long.keys() >= {*ALL}:
                add("C7", instance, {"flips": flips.get("flips"), "rises": rises.get("rises")})
            if kind == "PGD" and sweep.data and sweep.data.name == "imagenet":
                add("C9", instance, {"rises": rises.get("rises"), "falls": falls.get("alignment")})
    if f.published is not None:
        found.add_parts("C8", "ImageNet", f.published.trends())  # one number: there is one network for each eps
    if f.section.distractor:
        _distractor(f, found)
    return found


def _note_failures(f: Results, sweep: Sweep, found: Evidence) -> None:
    """Note the failed networks of a sweep: a strength that failed is missing from every curve over strengths."""
    letter, plain = "a" if sweep.closed_form else "b", f.failures((Condition(sweep.name, NONE),))
    needs = {f"C3{letter}": (), **{f"C{number}{letter}": FIGURE for number in (4, 5, 6, 12)}}
    needs |= {} if sweep.closed_form else {"C3c": (), "C4c": FIGURE, "C7": ALL}
    for claim, kinds in needs.items():
        found.note(claim, plain + [phrase for kind in kinds for phrase in f.failures(where=sweep.name, kind=kind)])


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


def _logs(changes: np.ndarray, images: int) -> np.ndarray:
    """Logarithms of mean changes over so many images, bounded from below (BELOW)."""
    return np.log(np.maximum(changes, BELOW / images))


def _flips(curve: Curve) -> dict[str, np.ndarray]:
    """The parts of C4 at the flip: flips and phases [S, m], first [S]; empty if there is no flip."""
    picked = curve.flips()
    if picked is None:
        return {}
    on, off = curve.values["on"], curve.values["off"]
    fall = {}
    for name in ("on", "off"):
        logs = _logs(curve.mean(name), on.shape[2])
        fall[name] = logs[0] - curve.at(logs, picked)
    found = {"flips": curve.at(on - off, picked), "first": fall["off"] - fall["on"]}
    if "phases" in curve.values:
        found["phases"] = curve.at(on - curve.values["phases"], picked)
    return found


def _rises(curve: Curve) -> dict[str, np.ndarray]:
    """The parts of C5, up to the peak of alignment: rises, pairs and tracks [S]; empty if there is no peak."""
    picked = curve.peaks()
    if picked is None:
        return {}
    alignment, off = curve.mean("alignment"), curve.mean("off")
    rise, by_chance = (curve.at(a, picked) - a[0] for a in (alignment, curve.mean("shuffled pairs")))
    found, last = {"rises": rise, "pairs": rise - by_chance}, round(float(np.median(picked)))
    if last >= 2:
        robust = -_logs(off, curve.values["off"].shape[2])
        found["tracks"] = [correlation(alignment[:last + 1, s], robust[:last + 1, s]) for s in range(curve.seeds)]
    return found


def _falls(curve: Curve) -> dict[str, np.ndarray]:
    """The parts of C6, beyond the peak: alignment [S] and accuracy [S, M]; empty if no strength is beyond it."""
    picked, end = curve.peaks(), curve.strongest()
    if picked is None or end <= max(picked):
        return {}
    alignment, right = curve.mean("alignment"), curve.right
    return {"alignment": curve.at(alignment, picked) - alignment[end], "accuracy": curve.at(right, picked) - right[end]}


def _accurate(curve: Curve) -> dict[str, np.ndarray]:
    """The parts of C12, the most accurate strength against the peak: accuracy [S, M] and alignment [S]."""
    peak, best = curve.peaks(), curve.most_accurate()
    if peak is None or best is None:
        return {}
    right, alignment = curve.right, curve.mean("alignment")
    return {"accuracy": curve.at(right, best) - curve.at(right, peak),
            "alignment": curve.at(alignment, peak) - curve.at(alignment, best)}


# ------------------------------------------------------------------------------------------------- the distractor


def log_ratios(f: Results, where: str, kind: str, above: bool | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Two arrays [S, L], for S networks of a kind and L noise levels: the logarithm of the mean change by noise on the
    digit's half over the mean change by noise on the letter's half, and whether it counts (one of the changes reaches
    `least`). For a network that failed, everything is NaN and counts. above: only images whose digit is above the
    letter (True) or below (False); None: all.
    """
    how = f.section.distractor

    def read(cell: Cell) -> np.ndarray:
        table = f.distractor[cell]
        rows = table if above is None else table[table.above == above]
        return np.array([[rows[f"{half} {sigma:g}"].mean() for sigma in how.noise]
                         for half in ("signal", "distractor")])

    found = f.by_repetition(_condition(f, where, kind), read, np.full((2, len(how.noise)), np.nan))
    signal, letter = found.swapaxes(0, 1)
    logs = np.log(np.maximum(signal, 1e-6)) - np.log(np.maximum(letter, 1e-6))
    return logs, ~(np.maximum(signal, letter) < how.least)


def _condition(f: Results, where: str, kind: str) -> Condition:
    """The condition of a kind of networks for digits next to a letter."""
    return f.of(where=where, kind=kind, failed=True)[0].condition


def _distractor(f: Results, found: Evidence) -> None:
    """C10 and C11: log ratios of changes, and gradient energy in the digit's half."""
    for data in f.section.distractor.data:
        for kind in (PER_IMAGE, PER_BATCH):
            energies = {k: f.by_repetition(_condition(f, data.name, k), lambda c: f.distractor[c]["energy"],
                                           np.full(1, np.nan)) for k in (kind, STANDARD, UNTRAINED)}
            lost = {k: f.failures(where=data.name, kind=k) for k in energies}
            for claim, others in (("C11", energies), ("C10a", (kind, STANDARD)), ("C10b", (kind, UNTRAINED))):
                found.note(claim, [phrase for k in others for phrase in lost[k]])
            for other in (STANDARD, UNTRAINED):
                found.add("C11", other, f"{data.name}, {kind}", energies[kind] - energies[other])
            for above, words in ((True, "digit above"), (False, "digit below")):
                instance = f"{data.name}, {kind}, {words}"
                robust, counted = log_ratios(f, data.name, kind, above)
                found.add("C10a", "one", instance, _area(robust, counted))
                for claim, other in (("C10a", STANDARD), ("C10b", UNTRAINED)):
                    theirs, too = log_ratios(f, data.name, other, above)
                    found.add(claim, other, instance, _area(robust - theirs, counted & too))


def _area(logs: np.ndarray, counts: np.ndarray) -> np.ndarray | None:
    """[S]: the mean of log ratios [S, L] over the noise levels that count; None if a repetition has no such level."""
    if not counts.any(1).all():
        return None
    return np.array([row[keep].mean() for row, keep in zip(logs, counts, strict=True)])


# --------------------------------------------------------------------------------------------------- preconditions


def named_checks(f: Results) -> dict[str, Preconditions]:
    """Preconditions by subject: `exact` (sweeps on closed forms), `images` (the other sweeps), `letters` (digits next
    to a letter); each is empty if the run has no such networks. Networks must have learned, and tangent spaces and
    scores must be good enough.
    """
    exact, images, letters = Preconditions(), Preconditions(), Preconditions()
    for sweep in f.section.sweeps:
        checks = exact if sweep.closed_form else images
        plain = Condition(sweep.name, NONE)
        checks.trained(f"{sweep.name}: networks without a regulariser", f.correct(plain), sweep.clean,
                       f.failures((plain,)))
        lost = f.failures(where=sweep.name)
        checks.add(f"{sweep.name}: trainings did not diverge", True, "; ".join(lost) or "none did")
        for what, better, detail in f.quality.get(sweep.name, ()):
            checks.add(f"{sweep.name}: {what}", better, detail)
    if how := f.section.distractor:
        for data in how.data:
            for kind in (STANDARD, PER_IMAGE, PER_BATCH):
                condition = _condition(f, data.name, kind)
                letters.trained(f"{data.name}: {kind} networks", f.correct(condition), how.clean,
                                f.failures((condition,)))
    return {"exact": exact, "images": images, "letters": letters}


def claim_preconditions(f: Results) -> dict[str, Preconditions]:
    """{claim: the `named_checks` that must hold before it is judged}; for C8 the checks of published networks, if there
    are any.
    """
    about = {"exact": ("C1", "C2", "C3a", "C4a", "C5a", "C6a", "C12a"),
             "images": ("C3b", "C3c", "C4b", "C4c", "C5b", "C6b", "C7", "C8", "C9", "C12b"),
             "letters": ("C10a", "C10b", "C11")}
    by = {claim: checks for name, checks in named_checks(f).items() for claim in about[name]}
    return by if f.published is None else {**by, "C8": f.published.checks()}
