"""All claims of one paper together: corrected p-values, expected false verdicts, claims.json and the table shown."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from lib import statistics
from lib.claims.verdict import MIN_SEEDS, NOT_TESTED, Judged, Row, alpha, limit, measured
from lib.files import write_atomic
from lib.values.verdicts import said


def with_holm(judged: Sequence[Judged]) -> list[Judged]:
    """The claims of one paper with Holm's p-values filled in, corrected over the claims and over all their rows. Claims
    that are not tested have none.
    """
    of_claims = statistics.holm([j.p for j in judged])
    of_rows = iter(statistics.holm([math.nan if j.verdict == NOT_TESTED else row.p for j in judged for row in j.rows]))
    out = []
    for j, p in zip(judged, of_claims, strict=True):
        rows = tuple(replace(row, p_holm=float(next(of_rows))) for row in j.rows)
        decisive = rows[j.rows.index(j.decisive)] if j.decisive else None
        out.append(replace(j, rows=rows, decisive=decisive, p_holm=float(p)))
    return out


def expected_false_decisions(judged: Sequence[Judged]) -> float:
    """The number of false verdicts that chance alone gives among these claims, at most.

    The rate is at most 2.5 % for a claim with a bar that could be decided: it is either true or false, so it can only
    be wrongly contradicted or wrongly supported. It is at most 5 % for a claim with a null value, because an effect
    between null value and margin can wrongly be called either, and for a claim that something is unchanged.
    """
    def rate(row: Row) -> float:
        return alpha(row) * (1 if row.null_value in (None, row.threshold) else 2)

    return sum(max(map(rate, j.rows)) for j in judged
               if j.verdict != NOT_TESTED and any(row.seeds >= MIN_SEEDS for row in j.rows))


def save(judged: Sequence[Judged], path: str | Path) -> None:
    """Write one paper's claims.json atomically: a reader sees the old file or the whole new one."""
    text = json.dumps([j.to_dict() for j in with_holm(judged)], indent=1, ensure_ascii=False, allow_nan=False)
    write_atomic(Path(path), text + "\n")


def evidence_table(judged: Sequence[Judged], evidence: Mapping[str, Mapping[str, Mapping[str, np.ndarray]]]):
    """The evidence {claim: {part: {instance: array}}} behind the verdicts as a pandas DataFrame, with one row for each
    repetition of a comparison. Columns: claim, part, instance, statistic, seed (repetitions from 0, as in all tables),
    value, and over (the number of images or minibatches that the value is a mean of).

    The value of a comparison is the mean over the seeds, except for ratios, where it is their geometric mean. The
    values of maps are pseudo-values (`statistics.jackknife`).
    """
    import pandas as pd

    rows = []
    for claim in (j.claim for j in judged):
        for part in claim.parts:
            for instance, data in evidence.get(claim.id, {}).get(part.id, {}).items():
                values, over = statistics.by_seed(part.statistic, data)
                rows += [{"claim": claim.id, "part": part.id, "instance": instance, "statistic": part.statistic,
                          "seed": seed, "value": value, "over": over} for seed, value in enumerate(values)]
    return pd.DataFrame(rows, columns=["claim", "part", "instance", "statistic", "seed", "value", "over"])


def table(judged: Sequence[Judged]):
    """One paper's claims as a pandas DataFrame for display, each with the comparison that decides its verdict."""
    import pandas as pd

    rows = []
    for j in with_holm(judged):
        row = j.decisive
        rows.append({
            "claim": j.claim.id, "statement": j.claim.statement, "asks": j.claim.asks,
            "verdict": said(j.verdict, j.withheld, j.at_best, j.changed),
            "decided by": row.name if row else "", "measured": measured(row) if row else "",
            "needed": limit(row) if row else "",
            "seeds": row.seeds if row else None, "images": row.images if row else None,
            "paper": j.claim.paper_value, "p": j.p, "p (Holm)": j.p_holm, "reason": j.reason,
        })
    return pd.DataFrame(rows).astype({"seeds": "Int64", "images": "Int64"}) if rows else pd.DataFrame()
