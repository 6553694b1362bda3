"""The notebook on perceptually aligned gradients (Ganz et al., ICML 2023): measure the networks of the plan, image by
image.

lib/papers/perceptually_aligned_gradients/networks.py says which networks;
lib/papers/perceptually_aligned_gradients/evidence.py makes evidence of the results for the judge.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fractions import Fraction

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from lib import results
from lib.alignment import generation
from lib.alignment import plane as toy
from lib.data import ImageSet
from lib.papers.perceptually_aligned_gradients import networks as plan
from lib.papers.perceptually_aligned_gradients.networks import (
    CLASSES,
    HEURISTICS,
    JUDGE,
    RANDOM,
    SCORE,
    TEACHER,
    TOY,
    VANILLA,
    Condition,
    StudyNetworks,
)
from lib.papers.perceptually_aligned_gradients.settings import Experiment, Section
from lib.papers.perceptually_aligned_gradients.truths import Truths
from lib.profiles.networks import Networks
from lib.statistics import bracket
from lib.training.evaluation import adversarial, evaluate, sweep, transferred
from lib.training.zoo import SEED, Trained, Zoo
from lib.values.attacks import PGD, Attack, fgsm
from lib.values.cell import Cell
from lib.values.keys import plain
from lib.values.threats import Threat

VERSION = 1  # raised when the same settings give other numbers
STEPS = 30  # steps of the generation of images; each has the length 2.5 far / STEPS
COLLAPSED = 0.05  # networks whose clean accuracy is at most this far above guessing have not learned the classes


@dataclass
class Results(results.Results):
    """All that was measured: outcomes of the studies' networks, `clean` and, for each threat of the study, by its norm.

    on_holdout[cell]: outcomes on H held-out images, `clean` and `robust` (PGD in the first threat), bool [H], by which
    weights are chosen; none if no images are held out. alignment[cell]: a row per image; columns `own, <truth>` and
    `others, <truth>`, cosines of the gradients of log-probabilities with the truth, for the image's own class and
    averaged over the other classes. rate[cell]: whether an independent robust network assigns a generated image to its
    intended class, bool [images x other classes]. curves: columns where, kind, weight, seed, norm, eps, robust.
    masking[cell]: by norm, outcomes on the query images: `verify`, `square`, `FGSM`, `PGD`, `largest ball` (PGD) and
    `from <kind>` (perturbations that fool another network). toy[cell]: a row per test point; columns right, PGD, exact,
    far (exact, at the toy's `far`). quality: by study, checks of the denoisers. ceilings[study]: by name, the mean
    cosine of the two denoisers' class scores and their accuracies as classifiers; {} without denoisers.
    """

    on_holdout: dict[Cell, dict[str, np.ndarray]] = field(default_factory=dict)
    alignment: dict[Cell, pd.DataFrame] = field(default_factory=dict)
    rate: dict[Cell, np.ndarray] = field(default_factory=dict)
    curves: pd.DataFrame = field(default_factory=pd.DataFrame)
    masking: dict[Cell, dict[str, dict[str, np.ndarray]]] = field(default_factory=dict)
    toy: dict[Cell, pd.DataFrame] = field(default_factory=dict)
    ceilings: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def studies(self) -> tuple[Experiment, ...]:
        return self.section.studies

    def study(self, name: str) -> Experiment:
        return next(study for study in self.studies if study.name == name)

    def networks_of(self, study: Experiment) -> StudyNetworks:
        return StudyNetworks(self.networks, study, self.seed)

    def take(self, zoo: Zoo, cell: Cell, name: Callable[[Threat, Attack], str | None]) -> None:
        """As in the base class; `clean` is read from the last threat."""
        super().take(zoo, cell, name)
        *_, self.outcomes[cell]["clean"] = self.outcomes[cell].values()

    def warnings(self, cell: Cell) -> list[str]:
        """Reasons to mistrust the attacks on a network."""
        norms = [threat.norm for threat in self.study(cell.condition.where).threats]
        return [sentence for norm in norms for sentence in self.outcomes[cell][norm].warnings]

    @property
    def papers(self) -> list[Experiment]:
        """The studies whose networks claims of the paper rest on."""
        return [study for study in self.studies if not study.side]

    def weights(self, where: str, kind: str) -> list[float]:
        """The weights of a kind at which no repetition failed, in increasing order; 0 even if one did, because it is
        not one of several.
        """
        weights = sorted({c.condition.weight for c in self.of(where=where, kind=kind)})
        failed = {c.condition.weight for c in self.of(where=where, kind=kind, failed=True) if c in self.failed}
        return [w for w in weights if w == 0 or w not in failed]

    def best(self, where: str, kind: str) -> list[Cell]:
        """The networks of a kind at the weight that is most robust on held-out images, among those at which they have
        not collapsed (among all if they have at each); none if a repetition failed at every weight.
        """
        every = [self.of(Condition(where, kind, w)) for w in self.weights(where, kind)]
        learned = [cells for cells in every if not self.collapsed(cells)]
        return max(learned or every, key=lambda cells: self.held_out(cells, "robust") if len(every) > 1 else 0,
                   default=[])

    def collapsed(self, cells: list[Cell]) -> bool:
        """Whether the clean accuracy of networks is within COLLAPSED of guessing, on held-out images or, where none are
        held out, on test images.
        """
        found = self.held_out(cells, "clean")
        if np.isnan(found):
            found = self.stacked(cells).mean()
        return bool(found <= self.chance(cells[0].condition) + COLLAPSED)

    def held_out(self, cells: list[Cell], which: str) -> float:
        """The mean of `clean` or `robust` outcomes on held-out images over networks; NaN if they were not measured."""
        return float(np.mean([self.on_holdout[c][which].mean() if c in self.on_holdout else np.nan for c in cells]))

    def curve(self, where: str, kind: str) -> list[list[Cell]]:
        """The networks of a kind at each weight, in increasing order from 0 (vanilla), without collapsed ones."""
        every = [self.best(where, VANILLA), *(self.of(Condition(where, kind, w)) for w in self.weights(where, kind))]
        return [cells for cells in every if cells and not self.collapsed(cells)]

    def around(self, where: str, kind: str, other: str) -> tuple[list[Cell], list[Cell], list[Cell]] | None:
        """The best networks of a kind, and those of two neighbouring weights of another kind between whose clean
        accuracies theirs lies, on held-out images. None if there are no such weights, or if the best have collapsed.
        """
        best, curve = self.best(where, kind), self.curve(where, other)
        if not best or self.collapsed(best) or not self.of(where=where, kind=other):
            return None
        found = bracket(self.held_out(best, "clean"), [self.held_out(cells, "clean") for cells in curve])
        return found and (best, curve[found[0]], curve[found[1]])

    def lost(self, where: str, *kinds: str) -> list[str]:
        """The `failures` of these kinds, at all weights, and a phrase for each weight at which they have collapsed."""
        found = []
        for kind in kinds:
            every = [self.of(Condition(where, kind, w)) for w in self.weights(where, kind)]
            found += self.failures(where=where, kind=kind)
            found += [f"{self.place(cells[0])}{self.label(cells[0].condition)}: collapsed, clean accuracy "
                      f"{self.stacked(cells).mean():.1%}" for cells in every if cells and self.collapsed(cells)]
        return found

    def label(self, condition: Condition) -> str:
        return f"{condition.kind} {condition.weight:g}"

    def place(self, cell: Cell) -> str:
        return f"{cell.condition.where}, "

    def references(self) -> list[Cell]:
        """As in the base class: without aligned gradients, and adversarially trained for the usual number of epochs."""
        return [cell for cell in super().references()
                if cell.condition.kind in (plan.VANILLA, *map(plan.adversarial, ("l2", "linf")))]

    def title(self, cell: Cell) -> str:
        return f"{cell.condition.where}: {cell.condition.kind}"


def measure(zoo: Zoo, cells: list[Cell], networks: Networks, section: Section, seed: Callable[[int], int]) -> Results:
    """Train (or load) every network and measure it; whatever the store holds is read from it."""
    found = Results(networks, section, seed, cells)
    truths = {study.name: Truths(zoo, found.networks_of(study)) for study in found.studies}

    def one(cell: Cell) -> None:
        where = cell.condition.where
        if cell.condition.kind in (TEACHER, JUDGE):
            return  # they are made when they are needed
        trained = found.train(zoo, cell)
        if where == TOY:
            _toy(zoo, trained, cell, found)
        else:
            _measure(zoo, trained, cell, found, truths[where])

    found.each(cells, "networks", one)
    curves = []
    for study in found.studies:
        if study.scored:
            found.quality[study.name] = truths[study.name].quality()
            found.ceilings[study.name] = truths[study.name].ceilings()
        curves += _curves(zoo, found, study)
        _generated(zoo, found, study)
        _masking(zoo, found, study)
    names = ["where", "kind", "weight", "seed", "norm", "eps", "robust"]
    found.curves = pd.DataFrame(curves, columns=names)
    return found


def _measure(zoo: Zoo, trained: Trained, cell: Cell, found: Results, truths: Truths) -> None:
    study, recipe = truths.study, cell.recipe
    found.take(zoo, cell, lambda threat, _: threat.norm)
    if recipe.data.holdout:
        threat = study.threats[0]
        attack = search(threat, 10)

        def held_out() -> pd.DataFrame:
            images = zoo.images(recipe.data, "holdout")
            found = evaluate(trained.net, images, threat, attack, seed_parts=SEED, checked=False)
            return found.table[["clean", "robust"]]

        table = zoo.table("held-out", recipe, [VERSION, threat, attack], held_out)
        found.on_holdout[cell] = {name: table[name].to_numpy(bool) for name in ("clean", "robust")}
    key = [VERSION, study.images, truths.key]
    found.alignment[cell] = zoo.table("alignment", recipe, key, lambda: truths.aligned(trained.net))


def search(threat: Threat, steps: int = 20) -> PGD:
    """PGD for curves and for the choice of weights, in steps of size 2.5 eps / steps (eps 1 if the threat has none)."""
    return PGD(steps, (threat.eps or Fraction(1)) * Fraction(5, 2) / steps)


# ------------------------------------------------------------------------------------------------ the whole study


def shown(study: Experiment) -> list[str]:
    """The kinds whose curves are drawn and whose images are generated."""
    kinds = [VANILLA, *(k for k in (*HEURISTICS, SCORE) if k in study.weights.of)]
    kinds += [k for k in (RANDOM, CLASSES) if k in study.weights.of]
    return kinds + [plan.adversarial(t.norm) for t in study.threats] * bool(study.adversarial)


def _curves(zoo: Zoo, f: Results, study: Experiment) -> list[tuple]:
    """Rows of `Results.curves`: robust accuracy on the query images at growing eps, for every threat of a study."""
    rows = []
    for threat in study.threats:
        threats = balls(f, threat)
        for cell in (c for kind in shown(study) for c in f.best(study.name, kind)):

            def make(cell=cell, threats=threats) -> pd.DataFrame:
                found = sweep(zoo.obtain(cell.recipe).net, _few(zoo, cell, f), threats, [search(t) for t in threats],
                              seed_parts=SEED)
                accuracies = [found[0].accuracy(), *(outcomes.accuracy("robust") for outcomes in found)]
                return pd.DataFrame({"eps": [0.0, *(float(t.eps) for t in threats)], "robust": accuracies})

            table = zoo.table("curve", cell.recipe, [VERSION, threats, _asked(cell, f)], make)
            c = cell.condition
            rows += [(study.name, c.kind, c.weight, cell.repetition, threat.norm, row.eps, row.robust)
                     for row in table.itertuples()]
    return rows


def balls(f: Results, threat: Threat) -> list[Threat]:
    """The threat at the multiples of its eps at which curves are measured; in linf eps is at most 1, since that ball
    holds every image.
    """
    most = 1 if threat.norm == "linf" else np.inf
    eps = dict.fromkeys(min(threat.eps * Fraction(m).limit_denominator(1000), most) for m in f.section.curve)
    return [replace(threat, eps=e) for e in eps]


def _few(zoo: Zoo, cell: Cell, f: Results) -> ImageSet:
    """The query images: the first test images. Test images are in random order, so all classes occur."""
    return zoo.images(cell.recipe.data, "test").take(slice(0, f.section.query_images))


def _asked(cell: Cell, f: Results) -> list:
    """What determines the query images, as part of a key."""
    return [plain(cell.recipe.data), f.section.query_images]


def independent(f: Results, study: Experiment, seed: int) -> Cell | None:
    """The robust network that judges the images generated in a repetition: adversarially trained under the last threat,
    of another repetition where there are several. None without adversarial training.
    """
    if not study.adversarial:
        return None
    cells = f.of(where=study.name, kind=plan.adversarial(study.threats[-1].norm))
    others = [c for c in cells if c.repetition != seed] or cells
    return next((c for c in others if c.repetition > seed), others[0]) if others else None


def _generated(zoo: Zoo, f: Results, study: Experiment) -> None:
    for kind in shown(study):
        for cell in f.best(study.name, kind):
            judge = independent(f, study, cell.repetition)
            if judge is None:
                continue

            def make(cell=cell, judge=judge) -> pd.DataFrame:
                test = zoo.images(cell.recipe.data, "test").take(slice(0, study.generated))
                images, targets = others_of(test, cell.recipe.data.info.classes)
                made = generated(zoo, cell, images, targets, study.far)
                taken = generation.target_rate(zoo.obtain(judge.recipe).net, made, targets)
                return pd.DataFrame({"target": targets.cpu(), "taken": taken.cpu()})

            key = [VERSION, study.generated, study.far, STEPS, judge.recipe.key, plain(cell.recipe.data)]
            f.rate[cell] = zoo.table("generated", cell.recipe, key, make)["taken"].to_numpy(bool)


def others_of(test: ImageSet, classes: int) -> tuple[Tensor, Tensor]:
    """Each image once for every class but its own: images [n (classes - 1), C, H, W], targets [n (classes - 1)]."""
    every = torch.arange(classes, device=test.labels.device).expand(len(test), -1)
    targets = every[every != test.labels[:, None]]
    return test.pixels().repeat_interleave(classes - 1, 0), targets


def generated(zoo: Zoo, cell: Cell, images: Tensor, targets: Tensor, far: float) -> Tensor:
    """Images [N, C, H, W] moved by the gradients of a cell's network towards the classes `targets` [N], by at most
    `far` in l2.
    """
    return generation.generate(zoo.obtain(cell.recipe).net, images, targets, far, STEPS, 2.5 * far / STEPS)


def _masking(zoo: Zoo, f: Results, study: Experiment) -> None:
    """Fill `Results.masking`: outcomes of the networks trained on scores that would reveal masked gradients (C9)."""
    sources = [k for k in (VANILLA, plan.adversarial(study.threats[0].norm)) if f.best(study.name, k)]
    for cell in f.best(study.name, SCORE):
        others = {kind: c for kind in sources for c in f.best(study.name, kind)
                  if c.repetition == cell.repetition}
        f.masking[cell] = {}
        for threat in study.threats:
            ways = {"verify": f.section.verify, "square": f.section.query, "FGSM": fgsm(threat), "PGD": search(threat)}
            largest = balls(f, threat)[-1]

            def make(cell=cell, threat=threat, largest=largest, ways=ways, others=others) -> pd.DataFrame:
                net, images = zoo.obtain(cell.recipe).net, _few(zoo, cell, f)
                asked = {name: (threat, way) for name, way in ways.items()}
                asked["largest ball"] = largest, search(largest)
                left = {name: evaluate(net, images, *how, seed_parts=SEED, checked=False).table["robust"]
                        for name, how in asked.items()}
                for kind, other in others.items():
                    moved = adversarial(zoo.obtain(other.recipe).net, images, threat, ways["PGD"], seed_parts=SEED)
                    left[f"from {kind}"] = transferred(net, images, moved).table["robust"]
                return pd.DataFrame(left)

            sources_of = [other.recipe.key for other in others.values()]
            key = [VERSION, threat, largest, list(ways.items()), sources_of, _asked(cell, f)]
            table = zoo.table("masking", cell.recipe, key, make)
            f.masking[cell][threat.norm] = {name: table[name].to_numpy(bool) for name in table}


# --------------------------------------------------------------------------------------------------------- the toy


def _toy(zoo: Zoo, trained: Trained, cell: Cell, f: Results) -> None:
    how, recipe = f.section.toy, cell.recipe
    threat = toy_threat(f)
    attack = PGD(how.attack_steps, threat.eps * 2 / 15, random_start=False)  # steps of 2 at eps 15

    def make() -> pd.DataFrame:
        test = zoo.images(recipe.data, "test")
        near, far = toy.exactly_robust(trained.net, test.pixels(), test.labels, (how.eps, how.far)).cpu().numpy()
        by_pgd = evaluate(trained.net, test, threat, attack, seed_parts=SEED, checked=False).table
        # the exhaustive search misses only regions narrower than its lattice, so PGD's finds are added
        return pd.DataFrame({"index": test.indices.cpu(), "right": by_pgd["clean"], "PGD": by_pgd["robust"],
                             "exact": near & by_pgd["robust"], "far": far & by_pgd["robust"]})

    key = [VERSION, how.eps, how.far, attack, plain(recipe.data)]
    f.toy[cell] = zoo.table("exact", recipe, key, make)


def toy_threat(f: Results) -> Threat:
    """The toy's l2 ball in units of pixels, not clipped to [0, 1]."""
    how = f.section.toy
    return Threat("l2", Fraction(how.eps) * Fraction(how.data.info.unit), box=False)
