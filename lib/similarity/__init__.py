"""Similarity of representations: measures on features, and maps between all layers of networks."""

from lib.similarity.maps import Maps, View, maps
from lib.similarity.measures import INVARIANCES, MEASURES, Measure, compare, named

__all__ = ["INVARIANCES", "MEASURES", "Maps", "Measure", "View", "compare", "maps", "named"]
