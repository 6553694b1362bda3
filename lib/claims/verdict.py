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
from lib.values.keys import digest

MIN_SEEDS = 3
SUPPORTED, CONTRADICTED, UNDECIDED, NOT_TESTED = "supported", "contradicted", "undecided", "not tested"

@dataclass(frozen=True)
class Precondition:
    """Something that must hold for a verdict to count, such as "robust networks are robust"; `detail` has the numbers.
    """

    name: str
    ok: bool
    detail: str = ""


@dataclass(frozen=True)
class Row:
    """One instance of one part.

    low, high: the interval at `level` (0.90 for side within, else 0.95). `passed`: True, False or None (undecided).
    `p`: the one-sided p-value of what `passed` says (of passing if it is None). `p_holm`: the same after Holm's
    correction over all rows of the paper. `size`: whether the value is smaller than, consistent with or larger than
    the paper's number.
    """

    name: str
    what: str
    value: float
    low: float
    high: float
    level: float
    threshold: float
    side: str
    statistic: str
    seeds: int
    images: int
    method: str
    passed: bool | None
    p: float
    p_holm: float = math.nan
    size: str | None = None


@dataclass(frozen=True)
class Judged:
    """A claim with its verdict. `p`: the one-sided p-value of the verdict (of support if it is undecided). `decisive`:
    the row that decides it. `margins_hash`: a hash of the claim's text and margins at the time of the verdict.
    """

    claim: Claim
    verdict: str
    reason: str
    rows: tuple[Row, ...] = ()
    decisive: Row | None = None
    p: float = math.nan
    p_holm: float = math.nan

    @property
    def margins_hash(self) -> str:
        return digest(self.claim)

    def to_dict(self) -> dict:
        """The claim's entry in claims.json; numbers that are missing or infinite become null."""
        claim = self.claim
        return _json({
            "id": claim.id, "statement": claim.statement, "verdict": self.verdict,
            "parts": [asdict(row) for row in self.rows],
            "paper_value": claim.paper_value, "paper_source": claim.paper_source, "protocol": claim.protocol,
            "figure": claim.figure, "reason": self.reason, "margins_hash": self.margins_hash,
            "p": self.p, "p_holm": self.p_holm,
        })


def judge(claim: Claim, evidence: Mapping[str, Mapping[str, np.ndarray]], profile: str,
          preconditions: Sequence[Precondition | Mapping] = ()) -> Judged:
    """Judge a claim.

    evidence: part id -> instance name -> array. Its shape depends on the part's statistic: [S, m] for difference (per
    seed and image, in [-1, 1]) and accuracy (true or false), [2, S] for ratio (numerators and denominators, both above
    chance), [S] for seeds, [S, B] for map (per seed and minibatch of images, from `statistics.jackknife`).
    preconditions: `Precondition`s or mappings with their fields.
    Raises SettingsError for evidence of unknown parts or of wrong shape, which is a mistake in the notebook.
    """
    if profile not in claim.scope:
        why = f"it can be tested at {', '.join(claim.scope)}" if claim.scope else claim.needs
        return Judged(claim, NOT_TESTED, f"Not at profile {profile}: {why}.")
    for part_id in evidence:
        if part_id not in {p.id for p in claim.parts}:
            raise unknown(f"part of claim {claim.id}", part_id, [p.id for p in claim.parts])
    absent = [p.what for p in claim.parts if not evidence.get(p.id)]
    if absent:
        return Judged(claim, NOT_TESTED, f"No measurement of {'; '.join(absent)}.")
    checks = [Precondition(**c) if type(c) is dict else c for c in preconditions]
    failed = [f"{c.name} ({c.detail})" if c.detail else c.name for c in checks if not c.ok]
    if failed:
        return Judged(claim, NOT_TESTED, f"Precondition not met: {'; '.join(failed)}.")

    # How many comparisons could contradict the claim by chance: each instance of an `all`, an `any` only as a whole.
    family = sum(len(evidence[p.id]) if p.combine == "all" else 1 for p in claim.parts)
    parts = [_judge_part(claim, part, evidence[part.id], family) for part in claim.parts]
    rows = tuple(row for part in parts for row in part.rows)
    for verdict in (CONTRADICTED, UNDECIDED, SUPPORTED):
        deciding = [part for part in parts if part.verdict == verdict]
        if deciding:
            break
    if verdict == CONTRADICTED:
        part = min(deciding, key=lambda part: part.p)
        p = min(1.0, family * part.p)
    else:
        part = max(deciding, key=lambda part: _known(part.p))
        p = part.p
    return Judged(claim, verdict, part.reason, rows, part.decisive, p)


@dataclass(frozen=True)
class _JudgedPart:
    verdict: str
    rows: tuple[Row, ...]
    decisive: Row
    p: float
    reason: str


def _judge_part(claim: Claim, part: Part, instances: Mapping[str, np.ndarray], family: int) -> _JudgedPart:
    rows, p_pass, p_fail = [], [], []
    for name, data in instances.items():
        try:
            estimate = statistics.estimate(part.statistic, data)
        except SettingsError as error:
            raise SettingsError(f"claim {claim.id}, part {part.id}, {name}: {error}") from None
        row, passing, failing = _row(part, name, estimate, family)
        rows, p_pass, p_fail = [*rows, row], [*p_pass, passing], [*p_fail, failing]

    if part.combine == "any":
        # Instances with too few seeds cannot pass, but they were looked at and count among the comparisons.
        p_pass = [float(p) for p in statistics.holm(
            [_known(p) if row.seeds >= MIN_SEEDS else 1.0 for row, p in zip(rows, p_pass, strict=True)])]
        rows = [replace(row, passed=None) if row.passed and p >= alpha(row) else row
                for row, p in zip(rows, p_pass, strict=True)]
        enough, ruined = any, all
    else:
        enough, ruined = all, any

    if enough(row.passed is True for row in rows):
        verdict, p_values, chosen = SUPPORTED, p_pass, True
    elif ruined(row.passed is False for row in rows):
        verdict, p_values, chosen = CONTRADICTED, p_fail, False
    else:
        verdict, p_values, chosen = UNDECIDED, p_pass, None
    # The decisive row: the least convincing one of an `all`, the most convincing one of an `any`; if contradicted, the
    # other way round.
    among = [i for i, row in enumerate(rows) if row.passed is chosen]
    pick = min if (part.combine == "any") != (verdict == CONTRADICTED) else max
    at = pick(among, key=lambda i: _known(p_values[i]))
    return _JudgedPart(verdict, tuple(rows), rows[at], p_values[at], _reason(part, rows[at], verdict, family))


def _row(part: Part, name: str, estimate: statistics.Estimate, family: int) -> tuple[Row, float, float]:
    """The row of one instance, the p-value of passing and the p-value of failing."""
    level = 0.90 if part.side == "within" else 0.95
    shown, usual = estimate(level), estimate(0.95)
    least, most = _range(part)
    passing = max(statistics.p_value(estimate, least, "above"), statistics.p_value(estimate, most, "below"))
    failing = min(statistics.p_value(estimate, least, "below"), statistics.p_value(estimate, most, "above"))
    passed = None
    if shown.n_seeds >= MIN_SEEDS and least < shown.low and shown.high < most:
        passed = True
    elif shown.n_seeds >= MIN_SEEDS and _misses(part, estimate(statistics.bonferroni(0.95, family))):
        passed = False
    size = None
    if part.paper_value is not None and not math.isnan(usual.low):
        paper = part.paper_value
        size = "smaller" if usual.high < paper else "larger" if usual.low > paper else "consistent"
    row = Row(f"{part.id}: {name}", part.what, shown.value, shown.low, shown.high, level, part.margin, part.side,
              part.statistic, shown.n_seeds, shown.n_images, shown.method, passed,
              failing if passed is False else passing, size=size)
    return row, passing, failing


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
    if math.isnan(row.low):
        same = "in every minibatch of images" if "minibatches" in row.method else f"for each of {seeds}"
        return f"{subject} is {measured(row)} {same}, so their spread is unknown."
    best = "at best " if part.combine == "any" else ""
    if verdict == CONTRADICTED:
        return f"{subject} is {best}{measured(row)}; for the claim it must be {limit(row)}."
    if _misses(part, row) and part.combine == "all" and family > 1:
        return (f"{subject} is {measured(row)}; for the claim it must be {limit(row)}, but one such miss among "
                f"{family} comparisons may be chance.")
    return f"{subject} is {best}{measured(row)}, so it may or may not be {limit(row)}."


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
