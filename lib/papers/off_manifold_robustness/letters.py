"""Evidence from digits next to a letter: which half of the image networks react to."""

from __future__ import annotations

import numpy as np

from lib.claims.evidence import Evidence
from lib.papers.off_manifold_robustness.curves import log_ratio
from lib.papers.off_manifold_robustness.networks import PER_BATCH, PER_IMAGE, STANDARD, UNTRAINED, Condition
from lib.papers.off_manifold_robustness.results import Results
from lib.values.cell import Cell


def log_ratios(f: Results, where: str, kind: str, above: bool | None = None) -> tuple[np.ndarray, np.ndarray]:
    """For S networks of a kind, L noise levels and m images: `log_ratio` [S, L, m] of the changes by noise on the
    digit's half and by noise on the letter's half, and whether a level counts [S, L] (one of the mean changes reaches
    `least`). For a network that failed, everything is NaN and counts. above: only images whose digit is above the
    letter (True) or below (False); None: all.
    """
    how = f.section.distractor

    def read(cell: Cell) -> np.ndarray:
        table = f.distractor[cell]
        rows = table if above is None else table[table.above == above]
        return np.array([[rows[f"{half} {sigma:g}"] for sigma in how.noise] for half in ("signal", "distractor")])

    found = f.by_repetition(condition(f, where, kind), read, np.full((2, len(how.noise), 1), np.nan))
    signal, letter = found.swapaxes(0, 1)
    return log_ratio(signal, letter), ~(np.maximum(signal.mean(2), letter.mean(2)) < how.least)


def condition(f: Results, where: str, kind: str) -> Condition:
    """The condition of a kind of networks for digits next to a letter."""
    return f.of(where=where, kind=kind, failed=True)[0].condition


def add_letters(f: Results, found: Evidence) -> None:
    """C10 and C11: log ratios of changes, and gradient energy in the digit's half."""
    for data in f.section.distractor.data:
        for kind in (PER_IMAGE, PER_BATCH):
            energies = {k: f.by_repetition(condition(f, data.name, k), lambda c: f.distractor[c]["energy"],
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
    """[S, m]: the mean of log ratios [S, L, m] over the noise levels that count; None if a repetition has none."""
    if not counts.any(1).all():
        return None
    return np.array([row[keep].mean(0) for row, keep in zip(logs, counts, strict=True)])
