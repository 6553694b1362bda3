"""What is measured: a name, a title, a sentence, a unit and which direction is better, for tables and the glossary."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Measure:
    """A measure by its name in tables and claims. better: "up", "down", or "" where neither is."""

    name: str
    title: str
    sentence: str
    unit: str = ""
    better: str = ""


def _named(*measures: Measure) -> dict[str, Measure]:
    return {measure.name: measure for measure in measures}


ACCURACIES = _named(  # of single networks
    Measure("clean", "clean", "The share of test images that are classified correctly.", "%", "up"),
    Measure("search", "robust, search", "The share of test images that are classified correctly and stay so under the "
            "weaker attack, which measures many networks.", "%", "up"),
    Measure("verify", "robust, verify", "The same under the stronger attack, on which claims about robust accuracy "
            "rest.", "%", "up"),
    Measure("robust", "robust", "The same under the one attack of the notebooks on pruning.", "%", "up"),
    Measure("robust linf", "robust, linf", "The same for changes that are bounded in the largest pixel.", "%", "up"),
    Measure("robust l2", "robust, l2", "The same for changes that are bounded in Euclidean length.", "%", "up"),
    Measure("verified", "verified", "The share of test images that are classified correctly and proven to stay so.",
            "%", "up"),
)
STATISTICS = _named(  # of the comparisons that claims consist of
    Measure("difference", "difference", "A difference of accuracies of the same images and repetitions.", "points"),
    Measure("accuracy", "accuracy", "An accuracy: the mean over repetitions and images.", "%"),
    Measure("ratio", "ratio", "A ratio of accuracies: the geometric mean over repetitions."),
    Measure("seeds", "number per repetition", "A number of each repetition, such as a correlation; their mean."),
    Measure("map", "mean", "A mean over repetitions and minibatches (or single images) of a number without a unit, "
            "such as a similarity or the logarithm of a ratio."),
)
