"""Made-up worlds: outcomes of networks whose accuracies are known, and what the judge makes of the evidence."""

from __future__ import annotations

import functools

import numpy as np
import pandas as pd

from lib import claims
from lib.runtime import seed_of
from lib.training.evaluation import Outcomes


@functools.cache
def _ranks(count, seed_parts):
    return np.random.default_rng(seed_of(*seed_parts)).permutation(count)


def right(share, count, *seed_parts):
    """Which of `count` images are right, bool [count]; at the same seed what is right at a share is right at larger."""
    return _ranks(count, seed_parts) < round(count * share)


def outcomes(count, seed_parts, protocol=(), classes=10, **shares):
    """Outcomes of a network on `count` images. shares: {verdict: share of the images that are right}; of two networks
    with the same seed_parts the better one is right wherever the other is.
    """
    table = {"index": np.arange(count), "label": np.arange(count) % classes,
             **{verdict: right(share, count, *seed_parts) for verdict, share in shares.items()}}
    return Outcomes(pd.DataFrame(table), dict(protocol))


def shift(*parts):
    """A factor by which a network differs from its kind: three in a thousand at most."""
    return 1 + .003 * (seed_of("shift", *parts) % 5 - 2) / 2


def judged(paper, evidence, own, common=(), profile="paper"):
    """{claim id: judged} as Study.judge does it, by default at the profile that tests all claims. paper: its claims;
    own: {claim id: preconditions}; common: preconditions of all claims.
    """
    return {c.id: claims.judge(c, evidence.get(c.id, {}), profile, [*common, *own.get(c.id, [])]) for c in paper}


def failed(checks):
    """The names of the preconditions that do not hold."""
    return [check["name"] for check in checks if not check["ok"]]


def failed_by_claim(own):
    """{claim id: names of its own preconditions that do not hold}, claims without any left out."""
    return {claim: names for claim, checks in own.items() if (names := failed(checks))}


def contradicted_parts(got):
    """The parts, as 'claim part', with a row that the claim's opposite explains."""
    return {f"{claim} {row.name.split(':')[0]}" for claim, one in got.items() for row in one.rows
            if row.passed is False}
