"""Model stitching of robust and normal networks: what is measured, judged and shown."""

from lib.plan.stitching import PAIRS
from lib.stitching.evidence import evidence, further, preconditions
from lib.stitching.study import Measured, last_change, measure, self_stitch_gap
from lib.stitching.tables import beside_controls

__all__ = ["PAIRS", "Measured", "beside_controls", "evidence", "further", "last_change", "measure", "preconditions",
           "self_stitch_gap"]
