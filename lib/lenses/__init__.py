"""Lenses: any network, next to its untrained twin and to reference networks, seen as the papers see theirs."""
