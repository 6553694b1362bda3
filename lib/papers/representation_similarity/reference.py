"""The paper's numbers as far as they are known, to compare with ours: digitised from the figure in the authors'
repository (WRN-28-4, CIFAR-10, linf 0.031, 80 layers, benign test images; precise to about 0.01), and the exploratory
tables of their development code. Single cells of the published normal self map may be off by 0.1: it is not symmetric,
probably because its Gram matrices were multiplied in single precision without being centred first.
"""

from __future__ import annotations

SOURCE = "authors' figure, WRN-28-4"
SUMMARIES = {"mean off-diagonal": {"normal": 0.506, "robust": 0.696}, "block index": {"normal": 0.23, "robust": 0.09}}
SAME_LAYER = {("normal", "robust"): 0.58}
# by distance between layers: middle of the range, mean similarity
DISTANCES = (2.5, 7, 14.5, 24.5, 34.5, 44.5, 54.5, 69.5)
BY_DISTANCE = {"normal": (0.88, 0.77, 0.62, 0.48, 0.37, 0.30, 0.23, 0.18),
               "robust": (0.92, 0.85, 0.79, 0.74, 0.64, 0.55, 0.48, 0.33)}
DEPTH = 79  # the distance from the first to the last of 80 layers

# ResNet-18, CIFAR-10, the last convolution, biased CKA on 3,000 test images, l2 budgets
BUDGETS = ("normal", "0.25", "0.5", "1.0", "1.5", "2.0")
ACROSS_BUDGETS = ((1, .58, .57, .41, .43, .54), (.58, 1, .93, .86, .86, .85), (.57, .93, 1, .88, .89, .89),
                  (.41, .86, .88, 1, .96, .88), (.43, .86, .89, .96, 1, .91), (.54, .85, .89, .88, .91, 1))
CLEAN_AGAINST_ATTACKED = ((1.00, .73, .12, .03, .02, .02), (.99, 1.00, .99, .90, .81, .75),
                          (.97, .99, 1.00, .97, .91, .86), (.92, .95, .98, 1.00, .99, .97),
                          (.87, .91, .95, .99, 1.00, .99), (.69, .76, .83, .95, .99, 1.00))


def by_distance():
    """Columns kind, distance (share of the depth), similarity, source, for `figures.against_distance`."""
    import pandas as pd

    return pd.DataFrame([{"kind": kind, "distance": far / DEPTH, "similarity": value, "source": SOURCE}
                         for kind, values in BY_DISTANCE.items()
                         for far, value in zip(DISTANCES, values, strict=True)])


def summaries():
    """Columns kind, summary, value, source, for `figures.summary_strip`."""
    import pandas as pd

    return pd.DataFrame([{"kind": kind, "summary": summary, "value": value, "source": SOURCE}
                         for summary, values in SUMMARIES.items() for kind, value in values.items()])


def exploratory(which: tuple[tuple[float, ...], ...]):
    """One of the two exploratory tables as a DataFrame; rows and columns are training budgets."""
    import pandas as pd

    return pd.DataFrame(which, index=pd.Index(BUDGETS, name="trained at"), columns=BUDGETS)
