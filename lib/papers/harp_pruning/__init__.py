"""Holistic adversarially robust pruning, HARP (Zhao & Wressnegger, ICLR 2023)."""

PAPER_ORDER = 5
