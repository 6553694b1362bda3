"""Made-up worlds: outcomes of networks whose accuracies are known, and what the judge makes of the evidence."""

from __future__ import annotations

import functools

import numpy as np
import pandas as pd

from lib.claims.verdict import MISSED
from lib.runtime import seed_of
from lib.training.evaluation import Outcomes


@functools.cache
def _ranks(count, seed_parts):
    return np.random.default_rng(seed_of(*seed_parts)).permutation(count)


def right(share, count, *seed_parts):
    """bool [count]: which of `count` images are classified correctly, a share `share` of them. With the same seed, what
    is correct at one share is also correct at every larger share.
    """
    return _ranks(count, seed_parts) < round(count * share)


def outcomes(count, seed_parts, protocol=(), classes=10, **shares):
    """Outcomes of a network on `count` images. shares: {column: share of images that are correct}. Of two networks with
    the same seed_parts, the better one is correct wherever the other is.
    """
    table = {"index": np.arange(count), "label": np.arange(count) % classes,
             **{verdict: right(share, count, *seed_parts) for verdict, share in shares.items()}}
    return Outcomes(pd.DataFrame(table), dict(protocol))


def shift(*parts):
    """A factor by which a network differs from its kind, from 0.997 to 1.003; `parts` seed it."""
    return 1 + .003 * (seed_of("shift", *parts) % 5 - 2) / 2


def judged(paper, evidence, own, common=(), profile="paper"):
    """{claim id: result of Evidence.judge}, as Study.judge does it; by default for the profile that tests all claims.
    paper: the paper's claims. own: {claim id: preconditions}. common: preconditions of all claims.
    """
    return {c.id: evidence.judge(c, profile, [*common, *own.get(c.id, [])]) for c in paper}


def failed(checks):
    """The names of the preconditions that do not hold."""
    return [check["name"] for check in checks if not check["ok"]]


def failed_by_claim(own):
    """{claim id: names of its own preconditions that do not hold}, without claims that have none."""
    return {claim: names for claim, checks in own.items() if (names := failed(checks))}


def lose(f, *lost, why="the loss is nan"):
    """Let these networks of a study fail: nothing was measured of them."""
    for cell in lost:
        f.failed[cell] = why
        for measured in vars(f).values():
            if isinstance(measured, dict) and measured is not f.failed:
                measured.pop(cell, None)
    return f


def missed_parts(got):
    """The parts, as 'claim part', with a row that misses its margin."""
    return {f"{claim} {row.name.split(':')[0]}" for claim, one in got.items() for row in one.rows
            if row.verdict in MISSED}
