"""The representation similarity notebook (Cianfarani et al., NeurIPS 2022): measure the networks of the plan, look at
them layer by layer, and hand the judge its evidence.

Which networks stands in lib/plan/representation_similarity.py; how claims are worded in
claims/representation_similarity.yaml. Every summary of maps is jackknifed over repetitions (networks) and minibatches
(images); see lib.statistics.jackknife.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from lib.plan.representation_similarity import Cell
from lib.runtime import Progress
from lib.settings import Settings
from lib.similarity.looks import Look, Moved, look_at
from lib.similarity.maps import Maps
from lib.similarity.summaries import block_index, block_share, mean_off_diagonal, same_layer, thirds
from lib.statistics import jackknife
from lib.training.evaluation import Outcomes, columns
from lib.training.gates import Checks
from lib.training.zoo import Zoo

POOL = {"U": "untrained", "M": "matched normal", "N": "normal", "R": "robust"}  # kinds, as figures name them
MOVED = {"own": "own adversarial", "of N": "adversarial for a normal network",
         "of R": "adversarial for a robust network", "noise": "noise of equal size"}


@dataclass
class Found:
    """All that was measured.

    accuracies: a row per network and measure. pool: views N0, R0, M0, U0, N1, ... on clean images. arms: N, R and the
    arms. moved[kind, seed]: the views `clean` and those of MOVED of one network. second[measure]: self maps by a
    further measure. runs[kind, seed, split]: the checkpoints of a run, views named by their epochs.
    """

    settings: Settings
    cells: list[Cell]
    outcomes: dict[Cell, dict[str, Outcomes]] = field(default_factory=dict)
    pool: Maps | None = None
    arms: Maps | None = None
    elsewhere: dict[str, Maps] = field(default_factory=dict)
    moved: dict[tuple[str, int], Maps] = field(default_factory=dict)
    second: dict[str, Maps] = field(default_factory=dict)
    runs: dict[tuple[str, int, str], Maps] = field(default_factory=dict)

    @property
    def section(self):
        return self.settings.representation_similarity

    def right(self, kind: str, which: str = "clean", verdict: str = "clean") -> np.ndarray:
        """Outcomes [S, m] of the networks of a kind: `verdict` of the measure `which` (clean, search, verify)."""
        rows = [self.outcomes[c][which].table[verdict] for c in self.cells
                if c.kind == kind and which in self.outcomes[c] and c.epoch is None]
        return np.stack([row.to_numpy(bool) for row in rows]).astype(float)

    def accuracy(self, kind: str, which: str = "clean", verdict: str = "clean") -> float:
        return float(self.right(kind, which, verdict).mean())

    def note(self, kind: str) -> str:
        """Clean accuracy and robust accuracy under the search attack, for the title of a map."""
        return f"clean {self.accuracy(kind):.0%}, PGD-{self.section.search.steps} " \
               f"{self.accuracy(kind, 'search', 'robust'):.0%}"

    def maps(self, kind: str) -> Maps:
        """The clean maps that hold the networks of a kind."""
        if kind in POOL:
            return self.pool
        return self.elsewhere.get(kind.partition(" ")[2], self.arms)

    def seeds(self, kind: str) -> int:
        return self.section.seeds if kind in POOL else self.section.arm_seeds

    def table(self):
        """A tidy DataFrame: a row per network and measure, with its protocol."""
        import pandas as pd

        rows = []
        for cell, found in self.outcomes.items():
            for which, outcome in found.items():
                verdict = "clean" if which in ("clean", "train") else "robust"
                rows.append({"kind": cell.kind, "seed": cell.seed, "epoch": cell.epoch, "measure": which,
                             "accuracy": outcome.accuracy(verdict), "network": cell.recipe.key,
                             "warnings": "; ".join(outcome.warnings), **columns(outcome.protocol)})
        return pd.DataFrame(rows)


def measure(zoo: Zoo, cells: list[Cell], settings: Settings) -> Found:
    """Train (or load) every network, measure its accuracies and make all maps; all from the store if it is there."""
    s, found = settings.representation_similarity, Found(settings, cells)
    with Progress(len(cells), "networks", "network") as bar:
        for cell in cells:
            found.outcomes[cell] = _accuracies(zoo, cell, s)
            bar.step(1, network=f"{cell.kind} {cell.seed}")
    options = {"images": s.images, "layers": s.layers, "batch": s.batch}
    clean = [c for c in cells if c.epoch is None]
    of_pool = [Look(f"{c.kind}{c.seed}", c.recipe) for c in clean if c.kind in POOL]
    found.pool = look_at(zoo, of_pool, **options)
    arms = [c for c in clean if c.arm]
    here = [c for c in arms if c.recipe.data == settings.networks.data]
    if here:
        beside = [look for look in of_pool if look.name[0] in "NR" and int(look.name[1:]) < s.arm_seeds]
        found.arms = look_at(zoo, beside + [_look(c) for c in here], **options)
    for name in dict.fromkeys(c.arm.name for c in arms if c not in here):
        found.elsewhere[name] = look_at(zoo, [_look(c) for c in arms if c.arm.name == name], **options)
    for name in s.second:
        own = [look for look in of_pool if look.name[0] in "NRM"]
        found.second[name] = look_at(zoo, own, **options, measure=name, pooled=True,
                                     pairs=[(look.name, look.name) for look in own])
    _look_at_moved_images(zoo, found, options)
    _look_at_checkpoints(zoo, found, options)
    return found


def _accuracies(zoo: Zoo, cell: Cell, s) -> dict[str, Outcomes]:
    """Clean on test images, on training images (pool and runs), under each attack of the cell."""
    found, names = {"clean": zoo.outcomes(cell.recipe)}, {s.search: "search", s.verify: "verify"}
    for n, (threat, attack) in enumerate(cell.measures):
        which = "own" if cell.arm and n else names.get(attack, "restart")
        found[which] = zoo.outcomes(cell.recipe, threat, attack)
    if cell.kind in ("N", "R", "M"):
        found["train"] = zoo.outcomes(cell.recipe, split="train")
    if cell.epoch is not None:
        found["holdout"] = zoo.outcomes(cell.recipe, *cell.measures[0], split="holdout")
    return found


def _look(cell: Cell) -> Look:
    return Look(f"{cell.kind}{cell.seed}", cell.recipe)


def _look_at_moved_images(zoo: Zoo, found: Found, options: dict) -> None:
    """Every normal and robust network on clean images, on its own adversarial images, on those of a normal and of a
    robust network of another repetition, and on noise of the size of its own ones.
    """
    s, threat = found.section, found.settings.networks.threat
    nets = {(c.kind, c.seed): c.recipe for c in found.cells if c.kind in ("N", "R") and c.epoch is None}
    with Progress(len(nets), "adversarial images", "network") as bar:
        for (kind, seed), recipe in nets.items():
            other = (seed + 1) % s.seeds
            sources = {"own": recipe, "of N": nets["N", other], "of R": nets["R", other], "noise": recipe}
            looks = [Look(name, recipe, Moved(source, threat, s.search, noise=name == "noise"))
                     for name, source in sources.items()]
            everything = [Look("clean", recipe), *looks]
            found.moved[kind, seed] = look_at(zoo, everything, **options,
                                              pairs=[("clean", look.name) for look in everything])
            bar.step(1, network=f"{kind}{seed}")


def _look_at_checkpoints(zoo: Zoo, found: Found, options: dict) -> None:
    """The checkpoints of every overfitting run and its control, on test and on training images."""
    runs: dict[tuple[str, int], list[Cell]] = {}
    data = found.settings.networks.data
    for cell in found.cells:
        if cell.epoch is not None:
            runs.setdefault((cell.kind, cell.seed), []).append(cell)
    for (kind, seed), members in runs.items():
        looks = [Look(str(cell.epoch), cell.recipe) for cell in members]
        last = looks[-1].name
        for split in ("test", "train"):
            images = options["images"] or data.test or data.info.test
            found.runs[kind, seed, split] = look_at(zoo, looks, **{**options, "images": images}, split=split,
                                                    pairs=[(look.name, last) for look in looks])


# -------------------------------------------------------------------------------------------------- for the judge


def pairs_of(a: str, b: str, seeds: int, without: int | None) -> Iterable[tuple[int, int]]:
    """The pairs of networks of two kinds: all of different repetitions, and each unordered pair once within a kind."""
    chosen = [seed for seed in range(seeds) if seed != without]
    return combinations(chosen, 2) if a == b else ((i, j) for i in chosen for j in chosen if i != j)


def across(maps: Maps, a: str, b: str, seeds: int, seed: int | None = None, batch: int | None = None) -> float:
    """Mean same-layer similarity of networks of kinds a and b, leaving out one repetition and one minibatch."""
    return float(np.mean([same_layer(maps.between(f"{a}{i}", f"{b}{j}", without=batch))
                          for i, j in pairs_of(a, b, seeds, seed)]))


def inside(maps: Maps, kind: str, seeds: int, summary: Callable = mean_off_diagonal, seed: int | None = None,
           batch: int | None = None) -> float:
    """Mean over repetitions of a summary of self maps."""
    names = [f"{kind}{i}" for i in range(seeds) if i != seed]
    return float(np.mean([summary(maps.between(name, name, without=batch)) for name in names]))


def evidence(f: Found) -> dict:
    """{claim: {part: {instance: array}}} for the judge: jackknifed pseudo-values [S, B] of differences between kinds of
    networks, in units of CKA.
    """
    found: dict[str, dict] = {}
    _within(f, found)
    _between(f, found)
    _perturbed(f, found)
    if f.runs:
        _overfitting(f, found)
    _arms(f, found)
    found["C9a"] = {"gap": {name: _per_seed(f, maps) for name, maps in f.second.items()}}
    return found


def _within(f: Found, found: dict) -> None:
    """C1 and C2: self maps."""
    pool, seeds = f.pool, f.section.seeds
    layers = pool.layers["N0"]

    def gap(a: str, b: str, summary: Callable = mean_off_diagonal) -> np.ndarray:
        return jackknife(lambda seed, batch: inside(pool, a, seeds, summary, seed, batch)
                         - inside(pool, b, seeds, summary, seed, batch), seeds, pool.batches)

    found["C1a"] = {"gap": {"R minus N": gap("R", "N")}}
    found["C1b"] = {"beyond_underfitting": {"R minus M": gap("R", "M")}}
    found["C2a"] = {"fades": {"N minus R": gap("N", "R", lambda m: block_index(m, layers))}}
    share = lambda m: block_share(m, layers)  # noqa: E731
    found["C2b"] = {"fades_beyond_brightness": {"N minus R": gap("N", "R", share)},
                    "is_learned": {"N minus U": gap("N", "U", share)}}


def _between(f: Found, found: dict) -> None:
    """C3: maps between networks."""
    pool, seeds = f.pool, f.section.seeds

    def gap(a: tuple[str, str], b: tuple[str, str]) -> np.ndarray:
        return jackknife(lambda *w: across(pool, *a, seeds, *w) - across(pool, *b, seeds, *w), seeds, pool.batches)

    if seeds < 3:
        return  # leaving one out leaves no pair
    found["C3a"] = {"below_same_type": {f"{a}-{a}' minus N-R": gap((a, a), ("N", "R")) for a in "NR"}}
    found["C3b"] = {"below_matched": {"N-M minus N-R": gap(("N", "M"), ("N", "R"))}}


def _perturbed(f: Found, found: dict) -> None:
    """C4: clean against perturbed, by depth. Early and deep: the first and the last third of the layers."""
    seeds = f.section.seeds

    def mean(kind: str, moved: str, read: Callable, seed, batch) -> float:
        chosen = [i for i in range(seeds) if i != seed]
        return float(np.mean([read(*thirds(f.moved[kind, i].between("clean", moved, without=batch))) for i in chosen]))

    def values(summary: Callable) -> np.ndarray:
        return jackknife(summary, seeds, f.moved["N", 0].batches)

    def early(first, last):
        return first

    def fall(first, last):
        return first - last

    found["C4a"] = {
        "early_unchanged": {"R": values(lambda *w: mean("R", "own", early, *w))},
        "deep_changes_less": {name: values(lambda *w, n=name: mean("N", n, fall, *w) - mean("R", n, fall, *w))
                              for name in ("own", "of N", "of R")},
    }
    apart = values(lambda *w: mean("R", "own", early, *w) - mean("N", "own", early, *w))
    aimed = values(lambda *w: mean("N", "own", fall, *w) - mean("N", "noise", fall, *w))
    found["C4b"] = {"early_above_normal": {"R minus N": apart}, "more_than_noise": {"N": aimed}}


def overfitted(f: Found) -> dict[int, tuple[int, float]]:
    """{seed: (best epoch, fall)} of the overfitting runs: the kept epoch of the highest robust accuracy on held-out
    images, and by how much the robust accuracy on test images fell from there to the end.
    """
    found = {}
    for seed in range(f.section.overfitting.seeds):
        members = {c.epoch: f.outcomes[c] for c in f.cells if (c.kind, c.seed) == ("overfits", seed)}
        best = max(members, key=lambda epoch: members[epoch]["holdout"].accuracy("robust"))
        tests = {epoch: got["search"].accuracy("robust") for epoch, got in members.items()}
        found[seed] = best, tests[best] - tests[max(tests)]
    return found


def _overfitting(f: Found, found: dict) -> None:
    """C5: how much deep layers have moved away from the best epoch more than early ones, against the control run."""
    o, best = f.section.overfitting, overfitted(f)

    def moved(kind: str, seed: int, batch) -> float:
        maps = f.runs[kind, seed, "test"]
        epochs = sorted(map(int, maps.views))
        share = best[seed][0] / o.epochs
        start = min(epochs[:-1], key=lambda epoch: abs(epoch / epochs[-1] - share))
        early, deep = thirds(maps.between(str(start), str(epochs[-1]), without=batch))
        return early - deep

    def mean(kind: str, seed, batch) -> float:
        return float(np.mean([moved(kind, i, batch) for i in range(o.seeds) if i != seed]))

    batches = f.runs["overfits", 0, "test"].batches
    found["C5"] = {
        "deep_moves": {"deep minus early": jackknife(lambda *w: mean("overfits", *w), o.seeds, batches)},
        "beyond_control": {"overfitting run minus control": jackknife(
            lambda *w: mean("overfits", *w) - mean("control", *w), o.seeds, batches)},
    }


def _arms(f: Found, found: dict) -> None:
    """C6 to C9b: the arms, each against the normal and robust networks of the first repetitions."""
    s, maps = f.section, f.arms
    arms = {arm.name: arm for arm in s.arms}
    if s.arm_seeds < 3:
        return

    def values(summary: Callable, where: Maps = maps) -> np.ndarray:
        return jackknife(summary, s.arm_seeds, where.batches)

    def near(a: str, b: str, w) -> float:
        return across(maps, a, b, s.arm_seeds, *w)

    threats = ["R", *(name for name, arm in arms.items() if arm.group == "threat")]
    pairs = list(combinations(threats, 2))
    noise = next((name for name, arm in arms.items() if arm.training == "noise"), None)
    if pairs:
        found["C6a"] = {"alike": {f"{a}-{b}": values(lambda *w, a=a, b=b: near(a, b, w) - (
            near(a, "N", w) + near(b, "N", w)) / 2) for a, b in pairs}}
    if pairs and noise:
        found["C6b"] = {"beyond_noise": {f"{a}-{b}": values(lambda *w, a=a, b=b: near(a, b, w) - (
            near(a, noise, w) + near(b, noise, w)) / 2) for a, b in pairs}}
    budgets = by_strength(f)
    if len(budgets) >= 2:
        ladder = list(zip(budgets, budgets[1:], strict=False))
        found["C7"] = {
            "falls_at_once": {budgets[0]: values(lambda *w: near("N", "N", w) - near("N", budgets[0], w))},
            "neighbours_alike": {f"{a}-{b}": values(lambda *w, a=a, b=b: near(a, b, w) - near("N", b, w))
                                 for a, b in ladder},
            "grows": {f"{budgets[-1]} minus {budgets[0]}": values(
                lambda *w: inside(maps, budgets[-1], s.arm_seeds, mean_off_diagonal, *w)
                - inside(maps, budgets[0], s.arm_seeds, mean_off_diagonal, *w))},
        }

    def gap(kind: str, normal: str) -> np.ndarray:
        where = f.maps(kind) if kind in f.elsewhere else f.elsewhere.get(kind.partition(" ")[2], maps)
        return values(lambda *w: inside(where, kind, s.arm_seeds, mean_off_diagonal, *w)
                      - inside(where, normal, s.arm_seeds, mean_off_diagonal, *w), where)

    for claim, group in (("C8a", "procedure"), ("C8b", "architecture"), ("C9b", "data")):
        chosen = [name for name, arm in arms.items() if arm.group == group and arm.training != "noise"]
        names = {name: (name, "N") if group == "procedure" else (f"R {name}", f"N {name}") for name in chosen}
        if names:
            found[claim] = {"gap": {name: gap(*kinds) for name, kinds in names.items()}}


def by_strength(f: Found) -> list[str]:
    """The kinds trained at growing eps of the pool's norm, the pool's robust networks among them."""
    eps = {arm.name: arm.threat.eps for arm in f.section.arms if arm.group == "strength"}
    return sorted({**eps, "R": 0}, key={**eps, "R": f.settings.networks.threat.eps}.get) if eps else []


def _per_seed(f: Found, maps: Maps) -> np.ndarray:
    """Robust minus normal, repetition by repetition [S]: exact measures have no minibatches."""
    own = {name: mean_off_diagonal(maps.between(name, name)) for name in maps.views}
    return np.array([own[f"R{i}"] - own[f"N{i}"] for i in range(f.section.seeds)])


def preconditions(f: Found, warnings: list[str]) -> Checks:
    """What must hold before any claim is judged: trained networks of the pool, normal ones matched in clean accuracy, a
    working attack (`warnings` of `attack_warnings`), no layer without a number.
    """
    s, checks = f.section, Checks()
    checks.pool(s.gates, s.verify, f.right("N"), f.right("N", "search", "robust"), f.right("R"),
                f.right("R", "verify", "robust"))
    checks.attack(warnings)
    every = [f.pool, f.arms, *f.elsewhere.values(), *f.moved.values(), *f.second.values(), *f.runs.values()]
    undefined = [f"{label} of {view}: {why}" for maps in every if maps for (view, label), why in maps.undefined.items()]
    said = f"{len(undefined)} have none, the first is {undefined[0]}" if undefined else "no layer is near-constant"
    checks.add("every layer has a number", not undefined, said)
    return checks


def own_preconditions(f: Found) -> dict[str, list[dict]]:
    """What must hold for single claims: matched accuracies (C1b, C3b), a run that overfits (C5)."""
    s, matching = f.section, Checks()
    for which, where in (("clean", "test"), ("train", "training")):
        gap = f.accuracy("M", which) - f.accuracy("R", which)
        matching.add(f"matched on {where} images", abs(gap) <= s.matched_within,
                     f"the briefly trained normal networks' clean accuracy is {f.accuracy('M', which):.1%}, the robust "
                     f"ones' {f.accuracy('R', which):.1%}, at most {s.matched_within:.0%} apart allowed")
    found = {"C1b": matching, "C3b": matching}
    if f.runs:
        fall, check = np.mean([fall for _, fall in overfitted(f).values()]), Checks()
        check.add("the run overfits", fall >= s.overfitting.fall,
                  f"robust accuracy on test images fell by {fall:.1%} from its best epoch, at least "
                  f"{s.overfitting.fall:.0%} needed")
        found["C5"] = check
    return found
