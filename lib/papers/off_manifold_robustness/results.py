"""The notebook on off-manifold robustness (Srinivas et al., NeurIPS 2023): measure the networks of the plan on and off
the manifold, image by image.

lib/papers/off_manifold_robustness/networks.py says which networks; lib/papers/off_manifold_robustness/curves.py makes
curves of the results for the judge.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from lib import results
from lib.data import closed_forms
from lib.data.distractor import layout, signal_mask
from lib.files import write_atomic
from lib.gradients import inputs, lpips
from lib.manifold import sensitivity
from lib.manifold.spaces import Tangents
from lib.papers.off_manifold_robustness import published
from lib.papers.off_manifold_robustness.material import VERSION, Material
from lib.papers.off_manifold_robustness.networks import MANIFOLD, NONE, SCORE, Condition, SweepNetworks, unit
from lib.papers.off_manifold_robustness.settings import Distractor, Section, Sweep
from lib.profiles.networks import Networks
from lib.training.zoo import Zoo
from lib.values.cell import Cell
from lib.values.keys import digest, plain

BAYES = "Bayes"
# The columns of `Results.sensitivity`. Changes are total variations (0 to 1); gradients are of the log-probability of
# the predicted class.
COLUMNS = {
    "on": "change by steps along the manifold, first tangent spaces and length",
    "off": "change by steps orthogonal to it",
    "other": "change by steps along the tangent space of another image, without their part along its own",
    "matched": "change by steps orthogonal to it with the Fourier spectrum of steps along it",
    "l2 on": "l2 distance of the probabilities, steps along the manifold",
    "l2 off": "l2 distance of the probabilities, steps orthogonal to it",
    "inside": "share of the squared gradient along the manifold, 0 for a gradient of zero",
    "inside, PCA": "the same for other spaces of the same dimension: of principal components",
    "inside, local PCA": "of those of each image's nearest neighbours",
    "inside, lowest frequencies": "of the lowest Fourier modes",
    "inside, another image's": "the tangent space of another image",
    "alignment": "cosine of gradient and class score (closed forms: Bayes gradient)",
    "shuffled pairs": "cosine with the class score of another image",
    "white noise": "cosine with white noise",
    "high-pass": "cosine with the negative high-pass of the image",
    "sum of logits": "cosine of the gradient of all logits' sum and the score without a class, the paper's pair",
    "sum of logits, shuffled pairs": "the same with the score of another image",
    "score, high-pass": "cosine of the score without a class and the negative high-pass",
    "1 - LPIPS": "perceptual alignment of the paper's pair, where the weights are there",
    "1 - LPIPS, shuffled pairs": "the same with the score of another image",
}


@dataclass
class Results(results.Results):
    """All that was measured: outcomes `clean`.

    sensitivity[cell]: a row per image, for the networks of a sweep (COLUMNS). theory: columns where, kind, seed, sigma
    (in units of the data's space), rho1, rho2, worst rho2. distractor[cell]: a row per image; columns above (whether
    the digit is above the letter), energy (share of the squared gradient in the digit's half), and `signal <sigma>` and
    `distractor <sigma>`, the changes by noise on the digit's and on the letter's half. quality: by sweep, checks of its
    tangent spaces and scores. matching: by sweep of images, the check of the steps that match the spectrum of steps
    along the manifold. published: results of published networks, None without any.
    """

    sensitivity: dict[Cell, pd.DataFrame] = field(default_factory=dict)
    theory: pd.DataFrame = field(default_factory=pd.DataFrame)
    distractor: dict[Cell, pd.DataFrame] = field(default_factory=dict)
    matching: dict[str, tuple[str, bool, str]] = field(default_factory=dict)
    published: published.PublishedResults | None = None

    def sweep(self, name: str) -> Sweep:
        return next(sweep for sweep in self.section.sweeps if sweep.name == name)

    def networks_of(self, sweep: Sweep) -> SweepNetworks:
        return SweepNetworks(self.networks, sweep, self.seed)

    def label(self, condition: Condition) -> str:
        return f"{condition.kind} {condition.strength:g}" if condition.strength else condition.kind

    def place(self, cell: Cell) -> str:
        return f"{cell.condition.where}, "


def measure(zoo: Zoo, cells: list[Cell], networks: Networks, section: Section, seed: Callable[[int], int]) -> Results:
    """Train (or load) every network and measure it; whatever the store holds is read from it."""
    given = networks, section, seed
    found = Results(*given, cells, published=published.measure(zoo, *given))  # first: its files may not fit
    materials: dict[str, Material] = {}

    def one(cell: Cell) -> None:
        if cell.condition.kind not in (MANIFOLD, SCORE):
            found.train(zoo, cell)
            _measure(zoo, cell, found, materials)

    found.each(cells, "networks", one)
    found.theory = _theory(zoo, found)
    return found


def _measure(zoo: Zoo, cell: Cell, found: Results, materials: dict[str, Material]) -> None:
    found.take(zoo, cell, lambda threat, attack: "search" if attack == found.section.search else "verify")
    found.outcomes[cell]["clean"] = zoo.outcomes(cell.recipe)
    how = found.section.distractor
    if how and cell.condition.where in [data.name for data in how.data]:
        found.distractor[cell] = _stored(zoo, cell, ["distractor", plain(how)], lambda: _halves(zoo, cell, how))
        return
    sweep = found.sweep(cell.condition.where)
    of = found.networks_of(sweep)
    if sweep.name not in materials:
        materials[sweep.name] = Material(zoo, of)
        found.quality[sweep.name] = materials[sweep.name].quality
        if not sweep.closed_form:
            found.matching[sweep.name] = materials[sweep.name].matching
    denoises, made_with, how = of.denoising, (of.denoiser(), of.autoencoder()), plain(sweep)
    key = [{name: how[name] for name in ("tangents", "pca", "neighbours", "images", "draws", "sizes")},
           [recipe and recipe.key for recipe in made_with], denoises and denoises.sigma]
    key += [] if lpips.why_no_lpips() else ["LPIPS"]
    found.sensitivity[cell] = _stored(zoo, cell, key, lambda: _sensitivity(zoo, cell, sweep, materials[sweep.name]))


def _stored(zoo: Zoo, cell: Cell, key: list, make) -> pd.DataFrame:
    """A table of one network from the store, made if it is missing."""
    return zoo.table("sensitivity", cell.recipe, [VERSION, plain(cell.recipe.data), key], make)


# ------------------------------------------------------------------------------------------------- one network


def _sensitivity(zoo: Zoo, cell: Cell, sweep: Sweep, on: Material) -> pd.DataFrame:
    """A row per image: COLUMNS, and `on` and `off` for all tangent spaces and lengths."""
    net, images = zoo.obtain(cell.recipe).net, on.images
    row: dict[str, Tensor] = {"index": on.test.indices, "label": on.test.labels}
    for (name, size), both in on.steps.items():
        row[f"on, {name}, {size:g}"] = sensitivity.output_change(net, images, both.on) / 2
        row[f"off, {name}, {size:g}"] = sensitivity.output_change(net, images, both.off) / 2
    name, size = sweep.tangents[0], sweep.sizes[0]
    row["on"], row["off"] = row[f"on, {name}, {size:g}"], row[f"off, {name}, {size:g}"]
    row["l2 on"] = sensitivity.output_change(net, images, on.steps[name, size].on, norm="l2")
    row["l2 off"] = sensitivity.output_change(net, images, on.steps[name, size].off, norm="l2")
    row |= {what: sensitivity.output_change(net, images, moves) / 2 for what, moves in on.controls.items()}
    return pd.DataFrame({k: v.cpu().numpy() for k, v in {**row, **_alignment(net, on)}.items()})


def _alignment(net, on: Material) -> dict[str, Tensor]:
    """The columns about gradients, each [n]. A zero gradient has no direction, so its cosine is 0."""
    with torch.no_grad():
        predicted = net(on.images).argmax(1)
    gradient = inputs.input_gradient(net, on.images, "predicted log-probability")
    every = torch.arange(len(predicted), device=predicted.device)
    ideal, theirs = on.by_class[every, predicted], on.by_class[on.partners, predicted]
    noise = sensitivity.normal_draws(on.images, on.test.indices, 1, "white noise")[0]
    found = {"alignment": inputs.cosine(gradient, ideal), "shuffled pairs": inputs.cosine(gradient, theirs),
             "white noise": inputs.cosine(gradient, noise)}
    found |= {name: sensitivity.inside(gradient, spaces).nan_to_num(0) for name, spaces in on.insides.items()}
    found["inside"] = found.pop(f"inside, {on.sweep.tangents[0]}")
    if on.of_density is not None:
        whole = inputs.input_gradient(net, on.images, "sum of logits")
        pairs = {"": on.of_density, ", shuffled pairs": on.of_density[on.partners]}
        found |= {f"sum of logits{words}": inputs.cosine(whole, density) for words, density in pairs.items()}
        edges = -inputs.high_pass(on.images)
        found["high-pass"] = inputs.cosine(gradient, edges)
        found["score, high-pass"] = inputs.cosine(on.of_density, edges)
        if not lpips.why_no_lpips():
            found |= {f"1 - LPIPS{words}": lpips.lpips(whole, density) for words, density in pairs.items()}
    return found


def _halves(zoo: Zoo, cell: Cell, how: Distractor) -> pd.DataFrame:
    """A row per image of a digit next to a letter (see `Results.distractor`)."""
    net, data = zoo.obtain(cell.recipe).net, cell.recipe.data
    test = zoo.images(data, "test").take(slice(0, how.images))
    images, mask = test.pixels(), signal_mask(data.name, "test", test.indices).to(test.images.device)
    above, _ = layout(data.name, "test", test.indices)
    noise = sensitivity.normal_draws(images, test.indices, how.draws, "halves")
    moved = sensitivity.noise_changes(net, images, mask, how.noise, noise)
    share = sensitivity.energy(inputs.input_gradient(net, images, "predicted logit"), mask)
    row = {"index": test.indices, "above": above, "energy": share.nan_to_num(0.5)}
    for k, sigma in enumerate(how.noise):
        row |= {f"signal {sigma:g}": moved.signal[k] / 2, f"distractor {sigma:g}": moved.distractor[k] / 2}
    return pd.DataFrame({name: values.cpu().numpy() for name, values in row.items()})


# ------------------------------------------------------------------------------------------------------ the pictures


@dataclass(frozen=True)
class Pictures:
    """What a grid of gradients shows of a sweep, arrays [n, C, H, W]. images: pixels in [0, 1]. score: the score of the
    noisy density without a class (None for closed forms). class_score: the score of each image's own class. gradients:
    by (kind, strength), the gradients of the label's log-probability.
    """

    images: np.ndarray
    score: np.ndarray | None
    class_score: np.ndarray
    gradients: dict[tuple[str, float], np.ndarray]


def pictures(zoo: Zoo, f: Results, where: str, shown: Sequence[tuple[str, float]], count: int = 6) -> Pictures:
    """The first test image of each of the first `count` classes of a sweep, with the gradients of the networks of the
    first repetition that did not fail for each (kind, strength).
    """
    on = Material(zoo, f.networks_of(f.sweep(where)))
    labels = on.test.labels
    first = [int((labels == c).nonzero()[0]) for c in labels.unique()[:count]]
    x, y = on.images[first], labels[first]
    found = {}
    for kind, strength in shown:
        for cell in f.of(Condition(where, kind, strength))[:1]:
            found[kind, strength] = inputs.input_gradient(zoo.obtain(cell.recipe).net, x, "label log-probability", y)
    density = None if on.of_density is None else on.of_density[first].cpu().numpy()
    of_class = on.by_class[first, y].cpu().numpy()
    return Pictures(x.cpu().numpy(), density, of_class, {name: g.cpu().numpy() for name, g in found.items()})


def letter_pictures(zoo: Zoo, f: Results, where: str, count: int = 4) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The first `count` test images of digits next to a letter, [count, 1, 2 H, W], and by kind of network (first
    repetition) the gradients of the predicted class's logit, of the same shape.
    """
    cells = [c for c in f.distractor if c.condition.where == where and c.repetition == 0]
    x = zoo.images(cells[0].recipe.data, "test").take(slice(0, count)).pixels()
    found = {c.condition.kind: inputs.input_gradient(zoo.obtain(c.recipe).net, x, "predicted logit") for c in cells}
    return x.cpu().numpy(), {kind: g.cpu().numpy() for kind, g in found.items()}


# ------------------------------------------------------------------------------------------------------- the theory


def _theory(zoo: Zoo, f: Results) -> pd.DataFrame:
    """rho1 at growing noise, and rho2, on closed forms in float64: for networks without a regulariser, for those with
    the middle strength of noise, and for the Bayes classifier.
    """
    rows = []
    for sweep in f.section.sweeps:
        if not sweep.closed_form:
            continue
        middle = sweep.strengths.noise[len(sweep.strengths.noise) // 2:][:1]
        for seed in range(f.section.seeds):
            wanted = [c for kind, strength in ((NONE, 0), *(("noise", strength) for strength in middle))
                      for c in f.of(Condition(sweep.name, kind, strength)) if c.repetition == seed]
            for cell in [*wanted, None]:
                kind = f.label(cell.condition) if cell else BAYES
                for row in _rhos(zoo, f, sweep, seed, cell).to_dict("records"):
                    rows.append({"where": sweep.name, "kind": kind, "seed": seed, **row})
    return pd.DataFrame(rows, columns=["where", "kind", "seed", "sigma", "rho1", "rho2", "worst rho2"])


def _rhos(zoo: Zoo, f: Results, sweep: Sweep, seed: int, cell: Cell | None) -> pd.DataFrame:
    how, data = f.section.theory, f.networks_of(sweep).data

    def made(work: Path) -> dict:
        form, test = closed_forms.of(data.name), zoo.images(data, "test")
        test = test.take(slice(seed * how.points, (seed + 1) * how.points))
        images = test.pixels().double()
        net = copy.deepcopy(zoo.obtain(cell.recipe).net).double() if cell else form.log_posterior
        tangents = Tangents(form.tangents(images))
        draws = sensitivity.orthogonal_draws(images, test.indices, "theory")
        exact = sensitivity.rho2(net, images, tangents)
        worst, length = float(exact.per_image.nan_to_num().max()), float(unit(data))
        rows = [{"sigma": sigma, "rho1": sensitivity.rho1(net, images, tangents, sigma * length, draws).pooled,
                 "rho2": exact.pooled, "worst rho2": worst} for sigma in how.sigmas]
        write_atomic(work / "table.csv", pd.DataFrame(rows).to_csv(index=False))
        return {"networks": [cell.recipe.key] if cell else [], "what": f"rho1 and rho2 on {data.name}"}

    key = digest([VERSION, "theory", plain(data), plain(how), seed, cell.recipe.key if cell else BAYES])
    return zoo.store.obtain("sensitivity", key, made).table()
