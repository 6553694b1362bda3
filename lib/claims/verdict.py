"""The judge: it makes a verdict and its reason from a claim and its measurements. The rules are in lib/claims."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from lib import statistics
from lib.claims.sheet import Claim, Part
from lib.errors import SettingsError, unknown
from lib.profiles.frozen import FrozenPaper
from lib.values.keys import digest

MIN_SEEDS = 3
SUPPORTED, WEAK, ABSENT, CONTRADICTED = "supported", "weak", "absent", "contradicted"
UNDECIDED, NOT_TESTED = "undecided", "not tested"
WORST_FIRST = (CONTRADICTED, ABSENT, UNDECIDED, WEAK, SUPPORTED)  # a claim is as good as its worst part
NOTHING = "nothing"  # is expected of a claim that was added after the paper was frozen
MISSED = (CONTRADICTED, ABSENT, WEAK)  # the effect is smaller than the margin, or has the other sign


@dataclass(frozen=True)
class Precondition:
    """Something that must hold for a verdict to count, such as "robust networks are robust"; `detail` has the numbers.
    """

    name: str
    ok: bool
    detail: str = ""


@dataclass(frozen=True)
class Row:
    """One instance of one part, with a verdict of its own.

    low, high: the interval at `level` (0.90 for side within, else 0.95). `threshold`: the part's margin. `p`: the
    one-sided p-value of what `verdict` says (of support if it is undecided). `p_holm`: the same after Holm's correction
    over all rows of the paper. `size`: whether the value is smaller than, consistent with or larger than the paper's
    number.
    """

    name: str
    what: str
    value: float
    low: float
    high: float
    level: float
    threshold: float
    null_value: float | None
    side: str
    statistic: str
    seeds: int
    images: int
    method: str
    verdict: str
    p: float
    p_holm: float = math.nan
    size: str | None = None


@dataclass(frozen=True)
class Judged:
    """A claim with its verdict. `p`: the one-sided p-value of the verdict (of support if it is undecided). `decisive`:
    the row that decides it. `at_best`: weak if the claim is undecided, but a part of it is weak. `withheld`: the
    verdict that failed preconditions withhold from a claim that is not tested. `lost`: networks that failed, see
    `judge`. `expected`: the verdict that was expected when the paper was frozen; "" if it was not. `changed`: whether
    the claim was changed after that. `margins_hash`: a hash of the claim's text and margins at the time of the verdict.
    """

    claim: Claim
    verdict: str
    reason: str
    rows: tuple[Row, ...] = ()
    decisive: Row | None = None
    p: float = math.nan
    p_holm: float = math.nan
    at_best: str = ""
    withheld: str = ""
    preconditions: tuple[Precondition, ...] = ()
    lost: tuple[str, ...] = ()
    expected: str = ""
    changed: bool = False

    @property
    def margins_hash(self) -> str:
        return digest(self.claim)

    def to_dict(self) -> dict:
        """The claim's entry in claims.json; numbers that are missing or infinite become null."""
        claim = self.claim
        return _json({
            "id": claim.id, "statement": claim.statement, "asks": claim.asks, "verdict": self.verdict,
            "at_best": self.at_best, "withheld": self.withheld,
            "parts": [asdict(row) for row in self.rows], "asked": [asked(part) for part in claim.parts],
            "paper_value": claim.paper_value, "paper_source": claim.paper_source, "protocol": claim.protocol,
            "figure": claim.figure, "reason": self.reason, "margins_hash": self.margins_hash,
            "p": self.p, "p_holm": self.p_holm, "preconditions": [asdict(check) for check in self.preconditions],
            "lost": self.lost,
            **({"expected": self.expected, "changed_after_seeing": self.changed} if self.expected else {}),
        })


def as_expected(judged: Sequence[Judged], frozen: FrozenPaper | None, profile: str) -> list[Judged]:
    """The verdicts, each with what was expected of it when the paper was frozen for a profile, and whether the claim
    was changed after that; as they are if the paper is not frozen. A claim that was added for other profiles is not
    changed.
    """
    if frozen is None:
        return [*judged]
    known = frozen.expected()
    return [replace(one, expected=known.get(one.claim.id, NOTHING),
                    changed=(one.claim.id in known or profile in one.claim.scope)
                    and frozen.changed(one.claim.id, one.margins_hash)) for one in judged]


def judge(claim: Claim, evidence: Mapping[str, Mapping[str, np.ndarray]], profile: str,
          preconditions: Sequence[Precondition | Mapping] = (), lost: Sequence[str] = ()) -> Judged:
    """Judge a claim, on the repetitions whose values are not NaN.

    evidence: part id -> instance name -> array. Its shape depends on the part's statistic: [S, m] for difference (per
    seed and image, in [-1, 1]; at equal cost [2, 3, S, m], see `statistics.at_equal_cost`) and accuracy (true or
    false), [2, S, m] for ratio (outcomes of numerator and denominator), [S] for seeds, [S, B] for map (per seed and
    minibatch of images, from `statistics.jackknife`). For means over K networks, see `statistics.paired_difference`.
    preconditions: `Precondition`s or mappings with their fields. lost: networks that the claim lacks because they
    failed, in phrases, which its reason repeats; a part that needs every instance has no measurement if one of them has
    no repetition left.
    Raises SettingsError for evidence of unknown parts or of wrong shape, which is a mistake in the notebook.
    """
    if profile not in claim.scope:
        why = f"it can be tested at {', '.join(claim.scope)}" if claim.scope else claim.needs
        return Judged(claim, NOT_TESTED, f"Not at profile {profile}: {why}.")
    for part_id in evidence:
        if part_id not in {p.id for p in claim.parts}:
            raise unknown(f"part of claim {claim.id}", part_id, [p.id for p in claim.parts])
    checks = tuple(Precondition(**c) if type(c) is dict else c for c in preconditions)
    found = _judge(claim, {part.id: _left(part, evidence.get(part.id, {})) for part in claim.parts}, checks)
    if lost:
        found = replace(found, reason=f"{found.reason} Left out, as it failed: {'; '.join(lost)}.".strip())
    return replace(found, preconditions=checks, lost=tuple(lost))


def _left(part: Part, instances: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The evidence of a part without the repetitions whose values are NaN; {} if it is not enough for a verdict."""
    left = {name: statistics.without_missing(data) for name, data in instances.items()}
    some = {name: data for name, data in left.items() if statistics.repetitions(data)}
    return some if len(some) == len(left) or part.combine == "any" else {}


def _judge(claim: Claim, evidence: Mapping[str, Mapping[str, np.ndarray]], checks: Sequence[Precondition]) -> Judged:
    failed = [f"{c.name} ({c.detail})" if c.detail else c.name for c in checks if not c.ok]
    not_met = f"Precondition not met: {'; '.join(failed)}."
    absent = [p.what for p in claim.parts if not evidence.get(p.id)]
    if absent:
        why = not_met if failed else f"No measurement of {'; '.join(absent)}."
        return Judged(claim, NOT_TESTED, why)

    # How many comparisons could contradict the claim by chance: each instance of an `all`, an `any` only as a whole.
    family = sum(len(evidence[p.id]) if p.combine == "all" else 1 for p in claim.parts)
    parts = [_judge_part(claim, part, evidence[part.id], family) for part in claim.parts]
    rows = tuple(row for part in parts for row in part.rows)
    verdict = min((part.verdict for part in parts), key=WORST_FIRST.index)
    deciding = [part for part in parts if part.verdict == verdict]
    if verdict in MISSED:
        part = min(deciding, key=lambda part: part.p)
        p = min(1.0, family * part.p)
    else:
        part = max(deciding, key=lambda part: _known(part.p))
        p = part.p
    reason, at_best, withheld = part.reason, "", ""
    if verdict == UNDECIDED and WEAK in (other.verdict for other in parts):
        at_best = WEAK
    if failed:
        verdict, withheld, p, reason = NOT_TESTED, verdict, math.nan, not_met
    return Judged(claim, verdict, reason, rows, part.decisive, p, at_best=at_best, withheld=withheld)


@dataclass(frozen=True)
class _JudgedPart:
    verdict: str
    rows: tuple[Row, ...]
    decisive: Row
    p: float
    reason: str


def _judge_part(claim: Claim, part: Part, instances: Mapping[str, np.ndarray], family: int) -> _JudgedPart:
    rows, p_pass = [], []
    for name, data in instances.items():
        try:
            estimate = statistics.estimate(part.statistic, data)
        except SettingsError as error:
            raise SettingsError(f"claim {claim.id}, part {part.id}, {name}: {error}") from None
        row, passing = _row(part, name, estimate, family)
        rows, p_pass = [*rows, row], [*p_pass, passing]

    if part.combine == "any":
        # Instances with too few seeds cannot pass, but they were looked at and count among the comparisons.
        p_pass = [float(p) for p in statistics.holm(
            [_known(p) if row.seeds >= MIN_SEEDS else 1.0 for row, p in zip(rows, p_pass, strict=True)])]
        rows = [replace(row, verdict=UNDECIDED) if row.verdict == SUPPORTED and p >= alpha(row) else row
                for row, p in zip(rows, p_pass, strict=True)]
    found = {row.verdict for row in rows}
    if part.combine == "all":
        verdict = min(found, key=WORST_FIRST.index)
    elif SUPPORTED in found:
        verdict = SUPPORTED
    else:  # an instance that is open may still pass
        verdict = UNDECIDED if UNDECIDED in found else max(found, key=WORST_FIRST.index)
    # The decisive row: the least convincing one of an `all`, the most convincing one of an `any`; for a part that
    # misses its margin, the other way round.
    among = [i for i, row in enumerate(rows) if row.verdict == verdict]
    p_values = p_pass if verdict in (SUPPORTED, UNDECIDED) else [row.p for row in rows]
    pick = min if (part.combine == "any") != (verdict in MISSED) else max
    at = pick(among, key=lambda i: _known(p_values[i]))
    return _JudgedPart(verdict, tuple(rows), rows[at], p_values[at], _reason(part, rows[at], verdict, family))


def _row(part: Part, name: str, estimate: statistics.Estimate, family: int) -> tuple[Row, float]:
    """The row of one instance, and the p-value of its support."""
    level = 0.90 if part.side == "within" else 0.95
    shown, usual = estimate(level), estimate(0.95)
    verdict = _verdict(part, shown, estimate(statistics.bonferroni(0.95, family)))
    least, most = _range(part)
    passing = max(statistics.p_value(estimate, least, "above"), statistics.p_value(estimate, most, "below"))
    size = None
    if part.paper_value is not None and not math.isnan(usual.low):
        paper = part.paper_value
        size = "smaller" if usual.high < paper else "larger" if usual.low > paper else "consistent"
    row = Row(f"{part.id}: {name}", part.what, shown.value, shown.low, shown.high, level, part.margin, part.null_value,
              part.side, part.statistic, shown.n_seeds, shown.n_images, shown.method, verdict,
              _p(part, estimate, verdict, passing), size=size)
    return row, passing


def _verdict(part: Part, shown: statistics.Interval, corrected: statistics.Interval) -> str:
    """The verdict of one instance. shown: its interval. corrected: its interval at the level that is corrected for all
    comparisons of the claim, which a miss needs.
    """
    least, most = _range(part)
    if shown.n_seeds < MIN_SEEDS:
        return UNDECIDED
    if least < shown.low and shown.high < most:
        return SUPPORTED
    if not _misses(part, corrected):
        return UNDECIDED
    if part.null_value is None:
        return CONTRADICTED
    above = part.side == "above"
    if corrected.high < part.null_value if above else corrected.low > part.null_value:
        return CONTRADICTED
    return WEAK if (shown.low > part.null_value if above else shown.high < part.null_value) else ABSENT


def _p(part: Part, estimate: statistics.Estimate, verdict: str, passing: float) -> float:
    """The one-sided p-value of what a verdict says."""
    if verdict not in MISSED:
        return passing
    other = "below" if part.side == "above" else "above"
    missing = min(statistics.p_value(estimate, end, way) for end, way in
                  zip(_range(part), ("below", "above"), strict=True))
    if part.null_value is None or verdict == ABSENT:
        return missing
    if verdict == CONTRADICTED:
        return statistics.p_value(estimate, part.null_value, other)
    return max(missing, statistics.p_value(estimate, part.null_value, part.side))


def _range(part: Part) -> tuple[float, float]:
    """The bounds between which a part's true value must lie."""
    return {"above": (part.margin, math.inf), "below": (-math.inf, part.margin),
            "within": (-part.margin, part.margin)}[part.side]


def _misses(part: Part, interval: statistics.Interval | Row) -> bool:
    least, most = _range(part)
    return interval.high < least or interval.low > most


def alpha(row: Row) -> float:
    """The allowed rate of false support of one comparison: 0.025 (one bound of a 95 % interval), or 0.05 for side
    within (of a 90 % interval).
    """
    return 0.05 if row.side == "within" else 0.025


def _known(p: float) -> float:
    return 1.0 if math.isnan(p) else p


# -------------------------------------------------------------------------------------------------------------- words


def _reason(part: Part, row: Row, verdict: str, family: int) -> str:
    if verdict == SUPPORTED:
        return ""
    subject = f"{part.what[0].upper()}{part.what[1:]}, {row.name.split(': ', 1)[1]},"
    seeds = f"{row.seeds} seed{'s' if row.seeds > 1 else ''}"
    if row.seeds < MIN_SEEDS:
        return f"{subject} is {measured(row)} from {seeds}; fewer than {MIN_SEEDS} decide nothing."
    if row.method == statistics.ALIKE:
        return f"{subject} is {measured(row)}; the two strengths that it is compared with cost about the same."
    if math.isnan(row.low):
        same = "in every minibatch of images" if "minibatches" in row.method else f"for each of {seeds}"
        return f"{subject} is {measured(row)} {same}, so their spread is unknown."
    best = "at best " if part.combine == "any" else ""
    said = f"{subject} is {best}{measured(row)}"
    if verdict == WEAK:
        return f"{said}: the effect has the claimed direction, but the claim needs {limit(row)}."
    if verdict == ABSENT:
        return f"{said}: the claim needs {limit(row)}, and the direction of a smaller effect is open."
    if verdict == CONTRADICTED:
        other = "" if row.null_value is None or row.side == "within" else "the effect has the other direction; "
        return f"{said}: {other}the claim needs {limit(row)}."
    if _misses(part, row) and part.combine == "all" and family > 1:
        return (f"{said}; the claim needs {limit(row)}, but one such miss among {family} comparisons may be chance.")
    return f"{said}, so it may or may not be {limit(row)}."


def limit(row: Row) -> str:
    """The range that a row must lie in, as text: 'more than +5.0 points'."""
    number = re.sub(r"^\+0\.0+(?!\d)", "0", _number(row.threshold, row.statistic))
    return {"above": f"more than {number}", "below": f"less than {number}",
            "within": f"within ±{number.lstrip('+')}"}[row.side]


def measured(row: Row) -> str:
    """A row's value and interval as text: '+3.1 points (95 % interval +1.0 to +5.2)'."""
    value = _number(row.value, row.statistic)
    if math.isnan(row.low):
        return value
    low, high = (_number(x, row.statistic).split(" ")[0] for x in (row.low, row.high))
    return f"{value} ({100 * row.level:.0f} % interval {low} to {high})"


def _number(x: float, statistic: str) -> str:
    if statistic == "difference":
        return f"{100 * x:+.1f} points"
    if statistic == "map":
        return f"{x:+.3f}"
    return f"{100 * x:.1f} %" if statistic == "accuracy" else f"{x:.3g}"


def asked(part: Part) -> dict:
    """What must hold in a part, with the names that a row has for it."""
    return {"what": part.what, "statistic": part.statistic, "side": part.side, "threshold": part.margin,
            "null_value": part.null_value}


def _json(value):
    """Plain JSON values: NaN and infinite numbers become null."""
    match value:
        case dict():
            return {k: _json(v) for k, v in value.items()}
        case list() | tuple():
            return [_json(v) for v in value]
        case float():
            return float(value) if math.isfinite(value) else None
    return value
