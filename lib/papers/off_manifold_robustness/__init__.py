"""Off-manifold robustness (Srinivas et al., NeurIPS 2023)."""

PAPER_ORDER = 4
