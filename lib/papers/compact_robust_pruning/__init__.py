"""Compact and robust networks (Sehwag et al., 2019)."""

PAPER_ORDER = 6
