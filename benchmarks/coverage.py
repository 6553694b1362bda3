"""How often the intervals that judge claims hold the true value, by simulation.

    benchmarks/run.sh coverage

For every statistic, the coverage of the 95 % interval and the errors of its two bounds (2.5 % each are meant), from
repeated made-up studies. A study has outcomes of networks on images: whether a network is right about an image depends
on the image, which all networks find about as hard, on the network's condition, on its seed, which moves its accuracy,
and on chance. All numbers are drawn by fixed generators.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from scipy import special

from lib import statistics
from lib.cli import Parser
from lib.errors import need
from lib.runtime import seed_of

LEAST, MOST = 0.92, 0.985  # coverage that is reported if it lies below or above
KEEPS = 0.8
NETWORKS = 3  # of means over networks
SEEDS, IMAGES, BATCHES = (3, 5, 8), (1000, 2000), 8
ACCURACIES = (0.005, 0.1, 0.5, 0.995)
SDS = (0.0, 0.006, 0.02, 0.05)
GAPS = (0.05, 0.15)  # between the costs of two strengths
# Shares of the variance of what decides an outcome: the image, the image for one condition, and chance. At an accuracy
# of one half two conditions then differ in 12 % of the images, two seeds of one condition in 8 %.
IMAGE, CONDITION, CHANCE = 0.93, 0.04, 0.03
ALIKE = 0.9  # share of the image's part that networks of different architectures have in common

# One study's intervals, each with its name and the true value.
Study = Iterable[tuple[str, statistics.Interval, float]]


# ------------------------------------------------------------------------------------------------- made-up studies


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape, dtype=np.float32)


def part(share: float) -> np.float32:
    """The factor that gives a standard normal number this share of a variance of 1."""
    return np.float32(math.sqrt(share))


def conditions(rng: np.random.Generator, rates: list[tuple[float, float]], seeds: int, image: np.ndarray) -> np.ndarray:
    """Outcomes [conditions, seeds, images] (float, 0 or 1) of one network on the same images, with paired seeds.

    rates: the accuracy of each condition and the standard deviation by which its seeds scatter (a beta distribution).
    image: how hard each image is, standard normal.
    """
    drawn = []
    for mean, sd in rates:
        total = mean * (1 - mean) / sd**2 - 1 if sd else 0  # the sum of the distribution's two parameters
        drawn.append(rng.beta(mean * total, (1 - mean) * total, seeds) if sd else np.full(seeds, mean))
    fixed = part(IMAGE) * image + part(CONDITION) * normal(rng, len(rates), 1, len(image))
    hard = fixed + part(CHANCE) * normal(rng, len(rates), seeds, len(image))
    return (hard < special.ndtri(drawn).astype(np.float32)[..., None]).astype(float)


def study_of_outcomes(rng: np.random.Generator, accuracy: float, sd: float, seeds: int, images: int) -> Study:
    """A difference of two conditions of this accuracy, whose seeds scatter by sd; one of a - 0.8 b with b of this
    accuracy and a truth of 0, of one network and of several on the same and on other images; the ratio of its a and b;
    and one condition's accuracy, whose seeds scatter by sd.
    """
    equal = [(accuracy, sd / math.sqrt(2))] * 2
    a, b = conditions(rng, equal, seeds, normal(rng, images))
    yield "difference", statistics.paired_difference(a - b), 0.0
    single, = conditions(rng, [(accuracy, sd)], seeds, normal(rng, images))
    yield "accuracy", statistics.accuracy(single), accuracy

    kept = [(KEEPS * accuracy, sd / math.sqrt(2)), (accuracy, sd / KEEPS / math.sqrt(2))]
    image = normal(rng, images)
    same = np.stack([conditions(rng, kept, seeds, part(ALIKE) * image + part(1 - ALIKE) * normal(rng, images))
                     for _ in range(NETWORKS)], 1)
    others = [same[:, 0], *(conditions(rng, kept, seeds, normal(rng, images)) for _ in range(NETWORKS - 1))]
    d = same[0] - KEEPS * same[1]
    yield f"a - {KEEPS} b", statistics.paired_difference(d[0]), 0.0
    yield f"a - {KEEPS} b, {NETWORKS} networks, same images", statistics.paired_difference(d), 0.0
    other = statistics.paired_difference(tuple(a - KEEPS * b for a, b in others))
    yield f"a - {KEEPS} b, {NETWORKS} networks, other images", other, 0.0
    yield "ratio", statistics.ratio(same[:, 0]), KEEPS


def study_at_equal_cost(rng: np.random.Generator, gap: float, sd: float, seeds: int, images: int) -> Study:
    """A method of 50 % clean and 20 % robust accuracy on a line through two strengths of another one, whose clean
    accuracies are `gap` apart; it lies a third of the way from one to the other. Seeds scatter each by sd.
    """
    clean, robust = (0.5, 0.5 + gap / 3, 0.5 - 2 * gap / 3), (0.2, 0.2 - gap / 6, 0.2 + gap / 3)
    image = normal(rng, images)
    both = [conditions(rng, [(accuracy, sd) for accuracy in some], seeds, image) for some in (robust, clean)]
    yield "difference at equal cost", statistics.paired_difference(np.stack(both)), 0.0


def study_of_seeds(rng: np.random.Generator, seeds: int) -> Study:
    """One number a seed, with normal errors and with skewed ones (exponential)."""
    yield "normal", statistics.seeds(rng.normal(size=seeds)), 0.0
    yield "exponential", statistics.seeds(rng.exponential(size=seeds)), 1.0


def groups(rng: np.random.Generator, seeds: int, batches: int, sd: float = 0.03) -> tuple[Callable, float]:
    """Self-similarities of two types of networks, each a ratio taken once over its minibatches: the difference of their
    means as a function of the networks and minibatches taken, and the truth. Types share part of the image noise. sd:
    of the networks of one type.
    """
    scale, image = 1 + 0.1 * rng.normal(size=batches), rng.normal(size=batches)
    top = {}
    for kind, mean in (("N", 0.5), ("R", 0.7)):
        noise = 0.02 * (image + rng.normal(size=batches)) + 0.005 * rng.normal(size=(seeds, batches))
        top[kind] = scale * (mean + sd * rng.normal(size=(seeds, 1))) + noise

    def summary(nets: list[int], images: list[int]) -> float:
        means = {kind: values[np.ix_(nets, images)].mean() / scale[images].mean() for kind, values in top.items()}
        return means["R"] - means["N"]

    return summary, 0.2


def pairs(rng: np.random.Generator, seeds: int, batches: int, sd: float = 0.05, *,
          within: bool) -> tuple[Callable, float]:
    """As `groups`: the mean similarity of pairs of networks; each network moves all of its pairs, an image all pairs
    alike. within: pairs of different networks of one type, otherwise every network of one type with every one of
    another.
    """
    x, y = sd * rng.normal(size=(2, seeds))
    pair = 0.02 * rng.normal(size=(seeds, seeds))
    cells = np.outer(0.8 + x, 0.8 + x if within else 0.7 + y) + (pair + pair.T) / math.sqrt(2)
    cells = cells[..., None] + 0.05 * rng.normal(size=batches) + 0.01 * rng.normal(size=(seeds, seeds, batches))

    def summary(nets: list[int], images: list[int]) -> float:
        means = cells[np.ix_(nets, nets, images)].mean(2)
        return means[np.triu_indices(len(nets), 1)].mean() if within else means.mean()

    return summary, 0.64 if within else 0.56


def without(summary: Callable, seeds: int, batches: int) -> Callable:
    """`summary` of what is left, as `statistics.jackknife` asks for it."""
    return lambda s, b: summary([i for i in range(seeds) if i != s], [i for i in range(batches) if i != b])


def study_of_maps(rng: np.random.Generator, sd: float, seeds: int) -> Study:
    """Summaries of similarity maps of networks that scatter by sd."""
    made = {"over networks": groups(rng, seeds, BATCHES, sd),
            "over pairs between types": pairs(rng, seeds, BATCHES, sd, within=False),
            "over pairs within a type": pairs(rng, seeds, BATCHES, sd, within=True)}
    for name, (summary, true) in made.items():
        values = statistics.jackknife(without(summary, seeds, BATCHES), seeds, BATCHES)
        yield name, statistics.crossed(values), true


# ----------------------------------------------------------------------------------------------------- the counting


@dataclass(frozen=True)
class Coverage:
    """Of repeated studies: the shares whose lower bound lies above the true value, and whose upper bound below it."""

    low: float
    high: float

    @property
    def covered(self) -> float:
        return 1 - self.low - self.high

    @property
    def mark(self) -> str:
        return "<" if self.covered < LEAST else ">" if self.covered > MOST else " "

    def __str__(self):
        return f"{100 * self.covered:5.1f}{self.mark}({100 * self.low:3.1f} {100 * self.high:3.1f})"


def coverage(study: Callable[..., Study], repetitions: int, *sizes) -> dict[str, Coverage]:
    """{statistic: its coverage} in studies of these sizes. An interval without bounds claims nothing, so errs nowhere.
    """
    rng = np.random.default_rng(seed_of("coverage", study.__name__, *sizes))
    counts: dict[str, np.ndarray] = {}
    for _ in range(repetitions):
        for name, interval, true in study(rng, *sizes):
            slack = 1e-12  # of rounding
            misses = np.array([interval.low > true + slack, interval.high < true - slack])
            counts[name] = counts.get(name, 0) + misses
    return {name: Coverage(*(misses / repetitions).tolist()) for name, misses in counts.items()}


def scatters(accuracy: float) -> list[float]:
    """The standard deviations of seeds that are possible: at most half of the distance to 0 and to 1."""
    return sorted({min(sd, accuracy / 2, (1 - accuracy) / 2) for sd in SDS})


def tables(repetitions: int) -> Iterable[tuple[str, dict[str, dict[str, Coverage]]]]:
    """Yield a title and {row: {column: coverage}} for each statistic."""
    found: dict[str, dict[str, dict[str, Coverage]]] = {}
    for accuracy in ACCURACIES:
        for sd in scatters(accuracy):
            for seeds in SEEDS:
                for images in IMAGES:
                    for name, one in coverage(study_of_outcomes, repetitions, accuracy, sd, seeds, images).items():
                        rows = found.setdefault(f"{name} (seeds x images)", {})
                        row = rows.setdefault(f"accuracy {100 * accuracy:g} %, seed SD {100 * sd:g} points", {})
                        row[f"{seeds} x {images}"] = one
    for gap, sd, seeds, images in itertools.product(GAPS, SDS, SEEDS, IMAGES):
        for name, one in coverage(study_at_equal_cost, repetitions, gap, sd, seeds, images).items():
            row = f"costs {100 * gap:g} points apart, seed SD {100 * sd:g} points"
            found.setdefault(f"{name} (seeds x images)", {}).setdefault(row, {})[f"{seeds} x {images}"] = one
    for seeds in SEEDS:
        for name, one in coverage(study_of_seeds, repetitions, seeds).items():
            found.setdefault("seeds", {}).setdefault(f"{name} errors", {})[f"{seeds} seeds"] = one
        for sd in SDS:
            for name, one in coverage(study_of_maps, repetitions, sd, seeds).items():
                rows = found.setdefault(f"map, mean {name} ({BATCHES} minibatches)", {})
                rows.setdefault(f"networks' SD {sd:g}", {})[f"{seeds} seeds"] = one
    return found.items()


def main(argv: list[str]) -> int:
    """Print the tables, and what lies below 92 % or above 98.5 %."""
    parser = Parser(prog="benchmarks/run.sh coverage", description=__doc__.splitlines()[0])
    parser.script = parser.prog
    parser.add_argument("--repetitions", type=int, default=2000, metavar="N", help="studies per cell (default 2000)")
    args = parser.parse_args(argv)
    need(args.repetitions >= 1, "--repetitions", args.repetitions, "at least 1")
    error = math.sqrt(0.05 * 0.95 / args.repetitions)
    print("Coverage of 95 % intervals in percent; in brackets: lower bound too high, upper bound too low.\n"
          f"{args.repetitions} studies each, standard error {100 * error:.2f} at 95 %. "
          f"<: below {100 * LEAST:g}, >: above {100 * MOST:g}.")
    outside = {"<": [], " ": [], ">": []}
    for title, rows in tables(args.repetitions):
        columns = list(next(iter(rows.values())))
        print(f"\n{title}\n{'':40}" + "".join(f"{column:>19}" for column in columns))
        for row, cells in rows.items():
            print(f"{row:40}" + "".join(f"{cells[column]!s:>19}" for column in columns), flush=True)
            for column, one in cells.items():
                outside[one.mark].append(f"{title}: {row}, {column}: {one}")
    for mark, words in (("<", f"below {100 * LEAST:g} %"), (">", f"above {100 * MOST:g} %")):
        print(f"\n{len(outside[mark])} {words}", *outside[mark], sep="\n  ")
    return 0
