"""Lenses: any network, next to its untrained twin and to reference networks, seen as the papers see theirs."""

VERSION = 1  # raised when the same networks and settings give other numbers
