"""Claims: what a paper says, written down in claims/<paper>.yaml before the run, and the verdict that a run gives.

A claim has parts, and a part has instances (a joint, an ordered pair, ...), for which a notebook hands over arrays with
one row per seed. The claim holds when all its parts hold. The rules, in this order:

1. `not tested`: the profile is out of scope, a measurement is absent, or a precondition or sanity check failed (then
   the verdict that the measurements give is shown as withheld).
2. Intervals are compared with a margin, the smallest effect of interest, and with a null value, the value of no effect;
   both are fixed beforehand. For side above (below is mirrored):
   `supported`: the 95 % interval's lower bound is above the margin;
   `contradicted`: its upper bound is below the null value, so the effect has the other sign;
   `weak`: its upper bound is below the margin, and its lower bound above the null value: the direction is right, the
   effect is too small to matter;
   `absent`: its upper bound is below the margin, and the sign is open;
   `undecided`: otherwise.
   A bar (keeps 0.8 of a reference) has no null value: an upper bound below its margin is `contradicted`.
   side within: `supported` if the 90 % interval is inside +-margin, `contradicted` if the 95 % interval is wholly
   outside, otherwise `undecided`.
   combine all: every instance must pass by itself; one of them misses the margin only by the interval at the level
   corrected for all comparisons of the claim (Bonferroni). combine any: the best must pass after Holm's correction.
   A claim is as good as its worst part: contradicted, absent, undecided, weak, supported.
3. Fewer than three seeds decide nothing.
4. Of a frozen paper (lib/papers/freeze.py) each claim says which verdict was expected, and whether its text or margins
   were changed after the freeze.

Verdicts are not corrected for the number of claims; `expected_false_decisions` and Holm's p-values give the price.
"""

from lib.claims.evidence_file import read_evidence, write_evidence
from lib.claims.sheet import Claim, ClaimSheet, Part, load
from lib.claims.summary import evidence_table, expected_false_decisions, save, table, with_holm
from lib.claims.verdict import Judged, Precondition, Row, as_expected, judge, measured
from lib.claims.verify import verify

__all__ = ["Claim", "Judged", "ClaimSheet", "Part", "Precondition", "Row", "as_expected", "evidence_table",
           "expected_false_decisions", "judge", "load", "measured", "read_evidence", "save", "table", "verify",
           "with_holm", "write_evidence"]
