"""What is measured: a name, a title, a sentence, a unit and which direction is better, for tables and the glossary."""

from __future__ import annotations

from dataclasses import dataclass

BETTER = {"up": "Higher is better.", "down": "Lower is better.", "": ""}


@dataclass(frozen=True)
class Measure:
    """A measure by its name in tables and claims. better: "up", "down", or "" where neither is."""

    name: str
    title: str
    sentence: str
    unit: str = ""
    better: str = ""

    @property
    def tip(self) -> str:
        """The sentence, and which direction is better."""
        return f"{self.sentence} {BETTER[self.better]}".strip()


def _named(*measures: Measure) -> dict[str, Measure]:
    return {measure.name: measure for measure in measures}


ACCURACIES = _named(  # of single networks
    Measure("clean", "clean", "The share of test images that are classified correctly.", "%", "up"),
    Measure("search", "robust, search", "The share of test images that are classified correctly and stay so under the "
            "weaker attack, which measures many networks.", "%", "up"),
    Measure("verify", "robust, verify", "The share of test images that are classified correctly and stay so under the "
            "stronger attack, on which claims about robust accuracy rest.", "%", "up"),
    Measure("robust", "robust", "The share of test images that are classified correctly and stay so under the one "
            "attack of the notebooks on pruning.", "%", "up"),
    Measure("robust linf", "robust, linf", "The share of test images that are classified correctly and stay so under "
            "attacks whose changes are bounded in the largest pixel.", "%", "up"),
    Measure("robust l2", "robust, l2", "The share of test images that are classified correctly and stay so under "
            "attacks whose changes are bounded in Euclidean length.", "%", "up"),
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
# Columns that mean the same in every notebook's tables. `robust` does not: each notebook has another attack.
COLUMNS = tuple(name for name in ACCURACIES if name != "robust")
