"""Perceptually aligned gradients (Ganz et al., ICML 2023)."""
