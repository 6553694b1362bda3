"""Two representations of the same images: Gram matrices of features, and measures of how similar they are."""

from lib.representations.measures import INVARIANCES, MEASURES, Measure, compare, named

__all__ = ["INVARIANCES", "MEASURES", "Measure", "compare", "named"]
