"""Model stitching of robust and normal networks (Balogh & Jelasity, ICML 2023)."""

PAPER_ORDER = 1
