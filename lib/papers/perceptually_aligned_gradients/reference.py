"""Those numbers of Ganz et al. (2023) that could be found, in figures of the authors' repository and of a course blog
post; the paper's tables could not be obtained. They are robust accuracies in percent under AutoAttack, on CIFAR-10 with
ResNet-18, at l2 0.5 and at a linf eps that is not stated (8/255 is customary).
"""

from __future__ import annotations

import pandas as pd

TEASER, WEIGHTS = "teaser figure of the authors' repository", "figure of weights, in a course blog post"
NUMBERS = (  # training, weight, l2, linf, source
    ("vanilla", 0.0, 0.00, 0.00, TEASER),
    ("one image", None, 46.63, 13.50, TEASER),
    ("class mean", None, 47.25, 11.24, TEASER),
    ("nearest neighbour", None, 42.12, 7.51, TEASER),
    ("score", 2.0, 55.39, 23.97, TEASER),
    ("score", 0.1, 22.53, 0.43, WEIGHTS),
    ("score", 0.5, 48.34, 11.21, WEIGHTS),
    ("score", 1.0, 50.87, 15.97, WEIGHTS),
)


def published() -> pd.DataFrame:
    """Columns kind, weight (the paper's lambda, missing if it could not be found), l2 and linf (robust accuracies in
    [0, 1]), source.
    """
    frame = pd.DataFrame(NUMBERS, columns=["kind", "weight", "l2", "linf", "source"])
    return frame.assign(l2=frame.l2 / 100, linf=frame.linf / 100)


def weights() -> pd.DataFrame:
    """Columns weight, accuracy (robust, l2 0.5), source: the figure of weights."""
    frame = published()
    frame = frame[(frame.kind == "score") & frame.weight.notna()].sort_values("weight")
    source = "paper, ResNet-18, CIFAR-10, l2 0.5"
    return frame.rename(columns={"l2": "accuracy"})[["weight", "accuracy"]].assign(source=source)
