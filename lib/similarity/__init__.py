"""Similarity of representations: measures on features, and maps between all layers of networks."""

from lib.representations.measures import INVARIANCES, MEASURES, Measure, compare, named
from lib.similarity.maps import Maps, View, maps

__all__ = ["INVARIANCES", "MEASURES", "Maps", "Measure", "View", "compare", "maps", "named"]
