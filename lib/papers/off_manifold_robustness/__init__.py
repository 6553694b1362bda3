"""Off-manifold robustness (Srinivas et al., NeurIPS 2023)."""
