"""The question that no single paper could ask: one pool of networks of all papers' kinds, through all lenses."""

PAPER_ORDER = 7
