"""Similarity of the representations of robust and normal networks (Cianfarani et al., NeurIPS 2022)."""

PAPER_ORDER = 2
