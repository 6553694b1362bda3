"""Compact and robust networks (Sehwag et al., 2019)."""
