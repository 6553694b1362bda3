"""Published numbers, to compare with ours.

The tables of the paper (arXiv 1906.06110) could not be obtained; `ABSTRACT` has the numbers of its abstract. `HYDRA`
has those of the authors' next paper (arXiv 2002.10509, the figure of results in its repository), not of this one. Its
LWM rows are the same three steps with robust objectives, one-shot; on CIFAR-10 they use 500,000 additional images.
"""

from __future__ import annotations

# Ten times compression: retained shares, means over four networks that are not named.
ABSTRACT = {"clean": 0.93, "robust": 0.925, "verified": 0.85}
ABSTRACT_SOURCE = "the paper's abstract, means over four networks"

KEEPS = (1, 0.1, 0.05, 0.01)
NEXT_PAPER = "authors' next paper (HYDRA)"
# robust: TRADES, accuracy under PGD, linf 8/255; verified: randomised smoothing, sigma 0.25
# measure, data, network -> rule: accuracies at KEEPS
HYDRA = {
    ("robust", "CIFAR-10", "VGG16"): {"LWM": (0.519, 0.488, 0.452, 0.343), "HYDRA": (0.519, 0.495, 0.487, 0.417)},
    ("robust", "CIFAR-10", "WRN-28-4"): {"LWM": (0.572, 0.538, 0.492, 0.373), "HYDRA": (0.572, 0.552, 0.542, 0.473)},
    ("robust", "SVHN", "VGG16"): {"LWM": (0.535, 0.515, 0.504, 0.290), "HYDRA": (0.535, 0.524, 0.517, 0.468)},
    ("robust", "SVHN", "WRN-28-4"): {"LWM": (0.601, 0.594, 0.534, 0.453), "HYDRA": (0.601, 0.628, 0.598, 0.524)},
    ("verified", "CIFAR-10", "VGG16"): {"LWM": (0.611, 0.596, 0.568, 0.441), "HYDRA": (0.611, 0.607, 0.599, 0.544)},
    ("verified", "CIFAR-10", "WRN-28-4"): {"LWM": (0.633, 0.610, 0.599, 0.491), "HYDRA": (0.633, 0.630, 0.625, 0.560)},
    ("verified", "SVHN", "VGG16"): {"LWM": (0.601, 0.599, 0.598, 0.519), "HYDRA": (0.601, 0.599, 0.593, 0.586)},
    ("verified", "SVHN", "WRN-28-4"): {"LWM": (0.622, 0.622, 0.614, 0.450), "HYDRA": (0.622, 0.623, 0.620, 0.596)},
}


def published():
    """Columns measure, share, source: the abstract's retained shares, which `figures.retained` draws. The share of
    verified accuracy is left out, because it depends on the certified objective, which is not known.
    """
    import pandas as pd

    return pd.DataFrame([{"measure": measure, "share": share, "source": ABSTRACT_SOURCE}
                         for measure, share in ABSTRACT.items() if measure != "verified"])


def table():
    """All numbers as one DataFrame: columns source, measure, data, network, rule, keep, accuracy, share (of the
    unpruned network's accuracy).
    """
    import pandas as pd

    rows = [{"source": ABSTRACT_SOURCE, "measure": measure, "data": "CIFAR-10", "network": "mean of four",
             "rule": "LWM", "keep": 0.1, "share": share} for measure, share in ABSTRACT.items()]
    for (measure, data, network), of_rules in HYDRA.items():
        extra = ", extra data" if data == "CIFAR-10" else ""
        rows += [{"source": NEXT_PAPER + extra, "measure": measure, "data": data, "network": network, "rule": rule,
                  "keep": keep, "accuracy": accuracy, "share": accuracy / accuracies[0]}
                 for rule, accuracies in of_rules.items() for keep, accuracy in zip(KEEPS, accuracies, strict=True)
                 if keep != 1 or rule == "LWM"]
    names = ["source", "measure", "data", "network", "rule", "keep", "accuracy", "share"]
    frame = pd.DataFrame(rows)[names]
    return frame.assign(rule=frame.rule.where(frame.keep != 1, "unpruned"))
