"""What all figures share: one palette for the whole suite, one meaning a colour, sizes and axes."""

from lib.plots.maps import similarity_maps
from lib.plots.style import CLEAN, GREY, KINDS, ROBUST, VERIFIED, colours, style

__all__ = ["CLEAN", "GREY", "KINDS", "ROBUST", "VERIFIED", "colours", "similarity_maps", "style"]
