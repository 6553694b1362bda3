"""Claims: what a paper says, written down in claims/<paper>.yaml before the run, and the verdict that a run gives.

A claim has parts, and a part has instances (a joint, an ordered pair, ...), for which a notebook hands over arrays with
one row per seed. The claim holds when all its parts hold. The rules, in this order:

1. `not tested`: the profile is out of scope, a measurement is absent, or a precondition or sanity check failed.
2. `supported`, `contradicted` or `undecided`: intervals are compared with a margin fixed beforehand.
   side above: the 95 % interval's lower bound lies above the margin (below: mirrored);
   side within: the 90 % interval lies inside +-margin; contradicted when the 95 % interval lies wholly outside.
   combine all: every instance must pass by itself; contradicted if one of them fails even at the level corrected for
   all comparisons of the claim (Bonferroni). combine any: the best must pass after Holm's correction; contradicted if
   all fail.
3. Fewer than three seeds decide nothing.

Verdicts are not corrected for the number of claims; `expected_false_decisions` and Holm's p-values give the price.
"""

from lib.claims.sheet import Claim, ClaimSheet, Part, load
from lib.claims.summary import evidence_table, expected_false_decisions, save, table, with_holm
from lib.claims.verdict import Judged, Precondition, Row, judge, measured

__all__ = ["Claim", "Judged", "ClaimSheet", "Part", "Precondition", "Row", "evidence_table", "expected_false_decisions",
           "judge", "load", "measured", "save", "table", "with_holm"]
