"""The figures. Every function takes tidy tables or plain arrays and returns a matplotlib figure; notebooks save it
through Study. One palette for the whole suite, one meaning per colour (lib/plots/look.py).
"""

from lib.plots.alignment import alignment_against_robustness, eps_curves, generated, methods, strengths, toy_maps
from lib.plots.compact import objective_grid, pruning_rules, retained
from lib.plots.gradients import distractor_gradients, distractor_ratio, gradient_grid, target_grid
from lib.plots.look import CLEAN, GREY, KINDS, ROBUST, VERIFIED, colours, style
from lib.plots.manifold import alignment_variants, off_manifold_theory, step_controls
from lib.plots.pruning import compression, keep_rates, pruning_search
from lib.plots.regimes import regime_curves, representatives
from lib.plots.similarity import (
    against_distance,
    checkpoints,
    dose_response,
    kind_matrix,
    per_layer,
    similarity_maps,
    summary_strip,
)
from lib.plots.stitching import bars_beside_controls, joint_activations, stitching_depth, stitching_matrix

__all__ = [
    "CLEAN",
    "GREY",
    "KINDS",
    "ROBUST",
    "VERIFIED",
    "against_distance",
    "alignment_against_robustness",
    "alignment_variants",
    "bars_beside_controls",
    "checkpoints",
    "colours",
    "compression",
    "distractor_gradients",
    "distractor_ratio",
    "dose_response",
    "eps_curves",
    "generated",
    "gradient_grid",
    "joint_activations",
    "keep_rates",
    "kind_matrix",
    "methods",
    "objective_grid",
    "off_manifold_theory",
    "per_layer",
    "pruning_rules",
    "pruning_search",
    "regime_curves",
    "representatives",
    "retained",
    "similarity_maps",
    "step_controls",
    "stitching_depth",
    "stitching_matrix",
    "strengths",
    "style",
    "summary_strip",
    "target_grid",
    "toy_maps",
]
