"""Perceptually aligned gradients (Ganz et al., ICML 2023)."""

PAPER_ORDER = 3
