"""Curves of Srinivas et al. (2023) on CIFAR-10 (ResNet-18), read off the summary figure of their repository, which has
no tables. The reading error is about 0.02 for changes and 0.005 for accuracies and 1 - LPIPS.
"""

from __future__ import annotations

import pandas as pd

SOURCE = "read off the summary figure (images/landing.png of the authors' repository)"
BATCH = 128
PER_IMAGE = {"gradient norm": 1e5 / BATCH**2, "PGD": BATCH**-0.5, "noise": 1.0}  # code's strengths to ours
COLUMNS = ("strength", "on", "off", "accuracy", "1 - LPIPS")
CURVES = {
    "gradient norm": (
        (1e-5, 0.49, 1.12, 0.949, 0.747), (9.2e-5, 0.52, 1.06, 0.944, 0.782), (8.5e-4, 0.60, 1.00, 0.933, 0.812),
        (2.6e-3, 0.62, 0.87, 0.920, 0.831), (7.9e-3, 0.58, 0.68, 0.904, 0.851), (0.0137, 0.57, 0.62, 0.900, 0.860),
        (0.024, 0.57, 0.55, 0.895, 0.867), (0.0728, 0.45, 0.37, 0.862, 0.878), (0.221, 0.28, 0.20, 0.753, 0.876),
        (0.672, 0.14, 0.06, 0.528, 0.830), (2.04, 0.06, 0.03, 0.368, 0.864), (6.2, 0.03, 0.01, 0.265, 0.805),
        (10.8, 0.01, 0.01, 0.231, 0.739), (100, 0.01, 0.01, 0.146, 0.719)),
    "PGD": (
        (1e-5, 0.56, 1.12, 0.950, 0.731), (3e-3, 0.55, 1.14, 0.949, 0.736), (0.053, 0.57, 1.11, 0.949, 0.788),
        (0.22, 0.62, 1.04, 0.941, 0.840), (0.45, 0.60, 0.90, 0.933, 0.863), (0.92, 0.63, 0.74, 0.921, 0.880),
        (1.89, 0.60, 0.52, 0.902, 0.877), (3.9, 0.57, 0.43, 0.874, 0.864), (16, 0.42, 0.27, 0.799, 0.815),
        (33, 0.28, 0.17, 0.761, 0.804), (67, 0.64, 0.61, 0.839, 0.840), (137, 0.57, 0.49, 0.781, 0.830),
        (281, 0.53, 0.14, 0.621, 0.800), (574, 0.28, 0.12, 0.246, 0.751), (4.9e3, 0.03, 0.01, 0.153, 0.777)),
    "noise": (
        (0.001, 0.51, 1.13, 0.946, 0.709), (0.011, 0.51, 1.12, 0.947, 0.749), (0.024, 0.55, 1.10, 0.944, 0.794),
        (0.053, 0.61, 0.92, 0.923, 0.849), (0.079, 0.63, 0.55, 0.906, 0.874), (0.117, 0.67, 0.20, 0.875, 0.877),
        (0.174, 0.66, 0.12, 0.834, 0.845), (0.26, 0.63, 0.07, 0.772, 0.787), (0.57, 0.40, 0.03, 0.609, 0.636),
        (1.27, 0.16, 0.01, 0.405, 0.450), (4.2, 0.03, 0.01, 0.242, 0.370), (30, 0.01, 0.01, 0.155, 0.349)),
}


def published() -> pd.DataFrame:
    """Columns kind, strength (the code's), per image (the strength in this notebook's units, if images share a batch's
    budget evenly), on, off (as in the figure; the figure and the notebook of the authors name different norms),
    accuracy, 1 - LPIPS.
    """
    rows = [{"kind": kind, **dict(zip(COLUMNS, row, strict=True))} for kind, curve in CURVES.items() for row in curve]
    frame = pd.DataFrame(rows)
    return frame.assign(**{"per image": frame.strength * frame.kind.map(PER_IMAGE)})
