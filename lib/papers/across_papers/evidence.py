"""Evidence and preconditions of the notebook across the papers; its claims are in claims/across_papers.yaml.

Aligned-gradient networks are compared with adversarially trained ones at equal robust accuracy: what two adversarial
trainings, neighbours in eps, give is interpolated at the aligned networks' robust accuracy. All intervals hold the
noise of repetitions and of test images, that of the interpolation's weights included.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from lib.claims.evidence import Evidence
from lib.claims.preconditions import Preconditions
from lib.papers.across_papers.measured import R
from lib.papers.across_papers.networks import Condition
from lib.papers.across_papers.results import Results
from lib.papers.across_papers.settings import DENSE, PRUNED
from lib.results import mean
from lib.statistics import jackknife, paired_difference, without_missing

KEPT = 0.8  # the share of a reference that counts as kept
N = Condition("N")
Summary = Callable[[Condition, Sequence[int], int | None], float]  # of repetitions, without a minibatch of images
LEAST_FIT = 0.05  # the margin of claims about fits: a front of adversarial training that fits no better decides nothing
# trainings that are compared with PGD adversarial training by their fit, besides those of aligned gradients
FURTHER = {"X3": ("noise", "gradient norm"), "X7": ("TRADES",)}


def evidence(f: Results) -> Evidence:
    """{claim: {part: {instance: array}}} for the judge. What has no adversarial trainings around it is left out."""
    found = Evidence()
    for claim, some in _by_fit(f).items():
        for one in some:
            if f.around(one) and _fits(f, one):
                found.add(claim, "fit", f.label(one), at_equal_accuracy(f, one), _failures(f, one))
    for claim, part, summary, sign in (("X2", "cka", similarity(f), 1), ("X5", "share", ceiling(f), -1)):
        for one in f.aligned:
            if f.around(one):
                found.add(claim, part, f.label(one), sign * gap(f, one, summary), _failures(f, one))
    dense, pruned = (f.net_fit(Condition(kind)) for kind in (DENSE, PRUNED))
    found.add("X4", "fit", f"keep {float(f.section.pruning.keep):g}", pruned - KEPT * dense,
              f.failures((Condition(DENSE), Condition(PRUNED))))
    return found


def _by_fit(f: Results) -> dict[str, list[Condition]]:
    """{claim: the kinds whose fit it compares with that of adversarial training}"""
    return {"X1": f.aligned, **{claim: f.of_training(*trainings) for claim, trainings in FURTHER.items()}}


def _fits(f: Results, condition: Condition) -> bool:
    """Whether fronts of the stronger of the two adversarial trainings around a condition fit by more than the margin:
    else fits are about 0 on both sides.
    """
    return _above(LEAST_FIT, f.net_fit(f.around(condition)[1]))[0]


def _failures(f: Results, condition: Condition) -> list[str]:
    return f.failures((condition, *f.around(condition)))


def at_equal_accuracy(f: Results, condition: Condition) -> np.ndarray:
    """[2, 3, S, m]: what `statistics.at_equal_cost` takes, whose mean is the net fit of adversarial training minus that
    of a condition where adversarial training is interpolated at the condition's robust accuracy.
    """
    three = (condition, *f.around(condition))
    every = [[-f.net_fit(one) for one in three], [f.robust(one) for one in three]]
    return np.array(np.broadcast_arrays(*every[0], *every[1])).reshape(2, 3, f.section.seeds, -1)


def gap(f: Results, condition: Condition, summary: Summary) -> np.ndarray:
    """[S, B]: jackknifed pseudo-values, over repetitions and minibatches, of a summary of adversarial training minus
    that of a condition, at equal robust accuracy; NaN for repetitions in which one of the networks failed, or the
    summary is not defined without one of the minibatches.
    """
    three = (condition, *f.around(condition))
    robust = {one: f.robust(one) for one in three}
    batches = next((maps.batches for maps in f.maps.values()), 2)
    left = [number for number in range(f.section.seeds)
            if all(np.isfinite(robust[one][number]).all() for one in three)
            and all(np.isfinite(summary(one, [number], batch)) for one in three for batch in (None, *range(batches)))]
    values = np.full((f.section.seeds, batches), np.nan)

    def without(seed: int | None, batch: int | None) -> float:
        some, images = [number for k, number in enumerate(left) if k != seed], _without(f, batch)
        at, weaker, stronger = (float(robust[one][some][:, images].mean()) for one in three)
        own, *ends = (summary(one, some, batch) for one in three)
        return interpolated(at, (weaker, stronger), ends) - own

    if left:
        values[left] = jackknife(without, len(left), batches)
    return values


def interpolated(at: float, robust: Sequence[float], ends: Sequence[float]) -> float:
    """What two adversarial trainings give at a robust accuracy, on the line through both. robust, ends: their robust
    accuracies and what they give.
    """
    share = (at - robust[0]) / (robust[1] - robust[0]) if robust[1] != robust[0] else 0.5
    return (1 - share) * ends[0] + share * ends[1]


def similarity(f: Results) -> Summary:
    """Mean same-layer CKA with the reference."""
    return lambda one, left, batch: float(np.mean([f.similarity(one, number, batch) for number in left]))


def ceiling(f: Results) -> Summary:
    """Alignment as a share of the teacher's ceiling."""
    return lambda one, left, batch: float(np.mean([f.share_of_ceiling(one, number, _without(f, batch))
                                                   for number in left]))


def _without(f: Results, batch: int | None) -> np.ndarray:
    """bool [m]: the images of the lenses without those of a minibatch of the similarity maps."""
    images = np.ones(f.section.seen(f.networks), bool)
    if batch is not None:
        ends = np.cumsum([0, *(next(iter(f.maps.values())).sizes if f.maps else [len(images) // 2] * 2)])
        images[ends[batch]:ends[batch + 1]] = False
    return images


def preconditions(f: Results, warnings: list[str]) -> Preconditions:
    """What must hold before any claim is judged: the pool's networks are trained, exactly the robust ones are robust,
    and the attack works (`warnings`, see `attack_warnings`).
    """
    checks = Preconditions()
    checks.pool(f.section.gates, f.section.verify, *f.of_pool(N, R))
    checks.attack(warnings)
    return checks


def claim_preconditions(f: Results) -> dict[str, Preconditions]:
    """{claim: what must also hold before it is judged}: adversarial trainings lie around one of the kinds that it
    compares with them, and for claims about fronts, fronts of the stronger one fit.
    """
    found = {}
    for claims, some in ((("X2", "X5"), f.aligned), *(((claim,), some) for claim, some in _by_fit(f).items())):
        around = Preconditions()
        around.add("adversarial training at two eps has robust accuracies around that of at least one kind",
                   any(map(f.around, some)), "; ".join(_placed(f, one) for one in some) or "no such kind")
        found |= dict.fromkeys(claims, around)
    for claim, some in _by_fit(f).items():
        placed = {one: f.around(one)[1] for one in some if f.around(one)}
        said = [f"next to {f.label(one)}, {f.label(strong)}: {_above(LEAST_FIT, f.net_fit(strong))[1]}"
                for one, strong in placed.items()]
        found[claim].add("fronts of adversarial training fit", any(_fits(f, one) for one in placed),
                         "; ".join(said) or "none is compared")
    found["X4"] = Preconditions()
    found["X4"].about("fronts of dense networks fit", f.net_fit(Condition(DENSE)), partial(_above, 0.0),
                      f.failures((Condition(DENSE),)))
    return found


def _above(least: float, values: np.ndarray) -> tuple[bool, str]:
    left = without_missing(values)
    if not len(left):
        return False, "no network is left"
    found = paired_difference(left)
    low = found.low if np.isfinite(found.low) else found.value  # a single repetition gives no bound
    return low > least, f"lower bound of the net robust accuracy {low:.1%}, more than {least:.0%} needed"


def _placed(f: Results, condition: Condition) -> str:
    robust = mean(f.robust(condition))
    if f.collapsed(condition):
        return f.says_at_chance(condition, mean(f.correct(condition)))
    if pair := f.around(condition):
        ends = " and ".join(f"{mean(f.robust(one)):.1%} ({f.label(one)})" for one in pair)
        return f"{f.label(condition)} {robust:.1%} between {ends}"
    every = ", ".join(f"{mean(f.robust(one)):.1%}" for one in f.adversarial)
    return f"{f.label(condition)} {robust:.1%}, not between neighbours of {every}"
