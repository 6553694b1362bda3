"""The notebook on off-manifold robustness (Srinivas et al., NeurIPS 2023): measure the networks of the plan on and off
the manifold, image by image, and hand the judge its curves (lib/manifold/evidence.py).

Which networks stands in lib/plan/off_manifold_robustness.py; how claims are worded in
claims/off_manifold_robustness.yaml.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from lib import score as scores
from lib.data import closed_forms
from lib.data.distractor import layout, signal_mask
from lib.manifold import published, spaces
from lib.manifold.spaces import Tangents
from lib.plan import off_manifold_robustness as plan
from lib.plan.off_manifold_robustness import MANIFOLD, NONE, SCORE, Cell, unit
from lib.runtime import Progress
from lib.settings import Settings
from lib.settings.off_manifold_robustness import Distractor, Sweep
from lib.store import write_atomic
from lib.training.zoo import Zoo
from lib.values import digest, plain

BAYES = "Bayes"
# Of `Found.sensitivity`; changes are total variations (0 to 1), gradients those of the predicted log-probability.
COLUMNS = {
    "on": "change by steps along the manifold, first tangent spaces and length",
    "off": "change by steps orthogonal to it",
    "other": "change by steps along the tangent space of another image, without their part along its own",
    "phases": "change by steps along the manifold of new Fourier phases, without their part along it",
    "l2 on": "l2 distance of the probabilities, steps along the manifold",
    "l2 off": "l2 distance of the probabilities, steps orthogonal to it",
    "inside": "share of the squared gradient along the manifold",
    "alignment": "cosine of gradient and class score (closed forms: Bayes gradient)",
    "shuffled pairs": "cosine with the class score of another image",
    "white noise": "cosine with white noise",
    "high-pass": "cosine with the negative high-pass of the image",
    "sum of logits": "cosine of the gradient of all logits' sum and the score without a class, the paper's pair",
    "score, high-pass": "cosine of the score without a class and the negative high-pass",
    "1 - LPIPS": "perceptual alignment of the paper's pair, where the weights are there",
}
VERSION = 2  # raised when the same settings give other numbers


@dataclass
class Found:
    """All that was measured.

    right[cell]: whether test images are classified rightly, [M]. sensitivity[cell]: a row per image of a sweep's
    network (COLUMNS). fit[cell]: loss and accuracy of the last epoch of training. gone[cell]: why a training diverged.
    theory: rows where, kind, seed, sigma (in units of the space), rho1, rho2, worst rho2. distractor[cell]: a row per
    image: above (the digit is), energy (share of the squared gradient in the digit's half), and `signal <sigma>` and
    `distractor <sigma>`, the changes by noise on either half. quality[sweep]: checks (what, whether it holds, the
    numbers) of its tangent spaces and scores. published: of networks in files that the user has, where there are any.
    """

    settings: Settings
    cells: list[Cell]
    right: dict[Cell, np.ndarray] = field(default_factory=dict)
    sensitivity: dict[Cell, pd.DataFrame] = field(default_factory=dict)
    fit: dict[Cell, dict[str, float]] = field(default_factory=dict)
    gone: dict[Cell, str] = field(default_factory=dict)
    theory: pd.DataFrame = field(default_factory=pd.DataFrame)
    distractor: dict[Cell, pd.DataFrame] = field(default_factory=dict)
    quality: dict[str, list[tuple[str, bool, str]]] = field(default_factory=dict)
    published: published.Measured | None = None

    @property
    def section(self):
        return self.settings.off_manifold_robustness

    def sweep(self, name: str) -> Sweep:
        return next(sweep for sweep in self.section.sweeps if sweep.name == name)

    def of(self, where: str, kind: str) -> list[Cell]:
        """The networks of a kind, by strength and repetition."""
        found = [c for c in self.cells if (c.where, c.kind) == (where, kind)]
        return sorted(found, key=lambda c: (c.strength, c.seed))

    def diverged(self, where: str) -> list[str]:
        """What the sweep goes on without, in words."""
        gone = {c: why for c, why in self.gone.items() if c.where == where}
        return [f"{c.kind} {c.strength:g}, repetition {c.seed}: {why}" for c, why in gone.items()]


@dataclass(frozen=True)
class Ground:
    """What the networks of a sweep are measured on: images [N, C, H, W] and labels [N], tangent spaces by name, and the
    gradients that theirs are compared with, [N, classes, C, H, W] (by class) and [N, C, H, W] (of the density; None for
    closed forms). length: pixels of one unit.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    tangents: dict[str, Tangents]
    by_class: Tensor
    of_density: Tensor | None
    length: float


def measure(zoo: Zoo, cells: list[Cell], settings: Settings) -> Found:
    """Train (or load) every network and measure it; everything from the store if it is there."""
    found = Found(settings, cells, published=published.measure(zoo, settings))  # first: its files may not fit
    grounds: dict[str, Ground] = {}
    with Progress(len(cells), "networks", "network") as bar:
        for cell in cells:
            if cell.kind not in (MANIFOLD, SCORE):
                _measure(zoo, cell, found, grounds)
            bar.step(1, network=f"{cell.where}: {cell.kind} {cell.strength:g}, {cell.seed}")
    found.theory = _theory(zoo, found)
    return found


def _measure(zoo: Zoo, cell: Cell, found: Found, grounds: dict[str, Ground]) -> None:
    trained = zoo.attempt(cell.recipe) if cell.diverges else zoo.obtain(cell.recipe)
    if isinstance(trained, str):
        found.gone[cell] = trained
        return
    found.right[cell] = zoo.outcomes(cell.recipe).table["clean"].to_numpy(bool)
    if trained.log:
        found.fit[cell] = {name: trained.log[-1][name] for name in ("loss", "accuracy")}
    how = found.section.distractor
    if how and cell.where in [data.name for data in how.data]:
        found.distractor[cell] = _stored(zoo, cell, ["distractor", plain(how)], lambda: _halves(zoo, cell, how))
        return
    sweep = found.sweep(cell.where)
    if sweep.name not in grounds:
        grounds[sweep.name] = ground(zoo, found.settings, sweep)
        found.quality[sweep.name] = _quality(zoo, found.settings, sweep, grounds[sweep.name])
    denoises = plan.denoising(found.settings, sweep)
    made_with = plan.score(found.settings, sweep), sweep.autoencoder and plan.manifold(found.settings, sweep)
    how = plain(sweep)
    key = [{name: how[name] for name in ("tangents", "pca", "neighbours", "images", "draws", "sizes")},
           [recipe and recipe.key for recipe in made_with], denoises and denoises.sigma]
    key += [] if scores.why_no_lpips() else ["LPIPS"]
    found.sensitivity[cell] = _stored(zoo, cell, key, lambda: _sensitivity(zoo, cell, sweep, grounds[sweep.name]))


def _stored(zoo: Zoo, cell: Cell, key: list, make) -> pd.DataFrame:
    """A table of one network from the store, made if it is missing."""

    def made(work: Path) -> dict:
        write_atomic(work / "table.csv", make().to_csv(index=False))
        return {"network": cell.recipe.key, "what": f"sensitivity of {cell.recipe.describe()}"}

    whole = digest([VERSION, cell.recipe.key, plain(cell.recipe.data), key])
    return zoo.store.obtain("sensitivity", whole, made).table()


# ------------------------------------------------------------------------------------------------------- the ground


def ground(zoo: Zoo, settings: Settings, sweep: Sweep) -> Ground:
    """The images of a sweep with their tangent spaces and ideal gradients."""
    data = plan.base(settings, sweep, 0).data
    test = zoo.images(data, "test").take(slice(0, sweep.images))
    images, length = test.pixels(), float(unit(data))
    if data.info.closed:
        form = closed_forms.of(data.name)
        by_class, of_density = _bayes_gradients(form, images), None
    else:
        sigma, net = plan.denoising(settings, sweep).sigma, zoo.obtain(plan.score(settings, sweep)).net
        by_class = scores.class_score(net, images, sigma)
        of_density = scores.score(net, images, sigma)
    tangents = {name: _tangents(zoo, settings, sweep, name, images) for name in sweep.tangents}
    return Ground(images, test.labels, test.indices, tangents, by_class, of_density, length)


def _bayes_gradients(form, images: Tensor) -> Tensor:
    """The gradients of the exact log-posterior of each class, [N, classes, C, H, W]."""
    x = images.double().requires_grad_()
    every = form.log_posterior(x)
    rows = [torch.autograd.grad(every[:, c].sum(), x, retain_graph=True)[0] for c in range(every.shape[1])]
    return torch.stack(rows, 1).to(images.dtype)


def _tangents(zoo: Zoo, settings: Settings, sweep: Sweep, name: str, images: Tensor) -> Tangents:
    """Tangent spaces of a kind at the images, from the store where they take a while."""
    data = plan.base(settings, sweep, 0).data
    if name == "closed form":
        return Tangents(closed_forms.of(data.name).tangents(images))
    encoder = plan.manifold(settings, sweep) if name == "auto-encoder" else None

    def made(work: Path) -> dict:
        from safetensors.torch import save_file

        if encoder:
            net = zoo.obtain(encoder).net
            with torch.no_grad():
                latents = net.encode(images)
            found = spaces.decoder_tangents(net.decode, latents, images.shape[1:])
        else:
            train = zoo.images(data, "train").pixels()
            found = (spaces.global_pca(train, sweep.pca) if name == "PCA"
                     else spaces.local_pca(images, train, sweep.pca, sweep.neighbours))
        save_file({"bases": found.bases.cpu().contiguous()}, work / "data.safetensors")
        return {"networks": [encoder.key] if encoder else [], "what": f"tangent spaces, {name}, of {data.name}"}

    source = encoder.key if encoder else [sweep.pca, sweep.neighbours]
    key = digest([VERSION, "tangents", name, source, plain(data), sweep.images])
    return Tangents(zoo.store.obtain("tangents", key, made).tensors()["bases"].to(images.device))


# ------------------------------------------------------------------------------------------------- one network


def _sensitivity(zoo: Zoo, cell: Cell, sweep: Sweep, on: Ground) -> pd.DataFrame:
    """A row per image; what the columns are: COLUMNS, and `on` and `off` of all tangent spaces and lengths."""
    net = zoo.obtain(cell.recipe).net
    row: dict[str, Tensor] = {"index": on.indices, "label": on.labels}
    noise = spaces.normal_draws(on.images, on.indices, sweep.draws, "steps")
    order = spaces.derangement(len(on.images), "pairs").to(on.images.device)
    for name, tangents in on.tangents.items():
        for size in sweep.sizes:
            both = spaces.steps(noise, tangents, size * on.length)
            row[f"on, {name}, {size:g}"] = spaces.output_change(net, on.images, both.on) / 2
            row[f"off, {name}, {size:g}"] = spaces.output_change(net, on.images, both.off) / 2
    name, size = sweep.tangents[0], sweep.sizes[0]
    first = on.tangents[name]
    row["on"], row["off"] = row[f"on, {name}, {size:g}"], row[f"off, {name}, {size:g}"]
    both = spaces.steps(noise, first, size * on.length)
    row["l2 on"] = spaces.output_change(net, on.images, both.on, norm="l2")
    row["l2 off"] = spaces.output_change(net, on.images, both.off, norm="l2")
    if len(first.bases) > 1 and not sweep.closed_form:  # points of a subspace share their tangent space
        theirs = spaces.steps(noise, first.at(order), size * on.length).on
        row["other"] = spaces.output_change(net, on.images, spaces.off_part(theirs, first, size * on.length)) / 2
    if not sweep.closed_form:
        smooth = spaces.phase_randomised(both.on, on.images, on.indices)
        row["phases"] = spaces.output_change(net, on.images, spaces.off_part(smooth, first, size * on.length)) / 2
    return pd.DataFrame({k: v.cpu().numpy() for k, v in {**row, **_alignment(net, on, first, order)}.items()})


def _alignment(net, on: Ground, tangents: Tangents, order: Tensor) -> dict[str, Tensor]:
    """The columns about gradients. A gradient of zero has no direction, so its cosine is 0."""
    with torch.no_grad():
        predicted = net(on.images).argmax(1)
    gradient = scores.input_gradient(net, on.images, "predicted log-probability")
    every = torch.arange(len(predicted), device=predicted.device)
    ideal, theirs = on.by_class[every, predicted], on.by_class[order, predicted]
    generator = torch.Generator().manual_seed(0)
    found = {"alignment": scores.cosine(gradient, ideal), "shuffled pairs": scores.cosine(gradient, theirs),
             "white noise": scores.cosine(gradient, torch.randn(ideal.shape, generator=generator).to(ideal)),
             "inside": spaces.inside(gradient, tangents)}
    if on.of_density is not None:
        whole = scores.input_gradient(net, on.images, "sum of logits")
        found["sum of logits"] = scores.cosine(whole, on.of_density)
        edges = -scores.high_pass(on.images)
        found["high-pass"] = scores.cosine(gradient, edges)
        found["score, high-pass"] = scores.cosine(on.of_density, edges)
        if not scores.why_no_lpips():
            found["1 - LPIPS"] = scores.lpips(whole, on.of_density)
    return found


def _halves(zoo: Zoo, cell: Cell, how: Distractor) -> pd.DataFrame:
    """A row per image of digits beside a letter."""
    net, data = zoo.obtain(cell.recipe).net, cell.recipe.data
    test = zoo.images(data, "test").take(slice(0, how.images))
    images, mask = test.pixels(), signal_mask(data.name, "test", test.indices).to(test.images.device)
    above, _ = layout(data.name, "test", test.indices)
    noise = spaces.normal_draws(images, test.indices, how.draws, "halves")
    moved = spaces.noise_changes(net, images, mask, how.noise, noise)
    share = spaces.energy(scores.input_gradient(net, images, "predicted logit"), mask)
    row = {"index": test.indices, "above": above, "energy": share.nan_to_num(0.5)}
    for k, sigma in enumerate(how.noise):
        row |= {f"signal {sigma:g}": moved.signal[k] / 2, f"distractor {sigma:g}": moved.distractor[k] / 2}
    return pd.DataFrame({name: values.cpu().numpy() for name, values in row.items()})


# ------------------------------------------------------------------------------------------------------ the pictures


@dataclass(frozen=True)
class Pictures:
    """What a grid of gradients shows of a sweep: images [n, C, H, W], the score of each with noise of the density
    (closed forms: none), the class score of its own class, and by (kind, strength) the gradients of the label's
    log-probability.
    """

    images: np.ndarray
    score: np.ndarray | None
    class_score: np.ndarray
    gradients: dict[tuple[str, float], np.ndarray]


def pictures(zoo: Zoo, f: Found, where: str, shown: Sequence[tuple[str, float]], count: int = 6) -> Pictures:
    """The first `count` test images of a sweep, of different classes where there are as many, with the gradients of the
    first repetition's networks of each (kind, strength).
    """
    on = ground(zoo, f.settings, f.sweep(where))
    first = [int((on.labels == c).nonzero()[0]) for c in on.labels.unique()[:count]]
    x, y = on.images[first], on.labels[first]
    found = {}
    for kind, strength in shown:
        cell = next(c for c in f.of(where, kind) if (c.strength, c.seed) == (strength, 0))
        if cell not in f.gone:
            found[kind, strength] = scores.input_gradient(zoo.obtain(cell.recipe).net, x, "label log-probability", y)
    density = None if on.of_density is None else on.of_density[first].cpu().numpy()
    of_class = on.by_class[first, y].cpu().numpy()
    return Pictures(x.cpu().numpy(), density, of_class, {name: g.cpu().numpy() for name, g in found.items()})


def letter_pictures(zoo: Zoo, f: Found, where: str, count: int = 4) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The first test images of digits beside a letter [count, 1, 2 H, W], and by kind of network (first repetition) the
    gradients of the predicted class's logit.
    """
    cells = [c for c in f.distractor if c.where == where and c.seed == 0]
    x = zoo.images(cells[0].recipe.data, "test").take(slice(0, count)).pixels()
    found = {c.kind: scores.input_gradient(zoo.obtain(c.recipe).net, x, "predicted logit") for c in cells}
    return x.cpu().numpy(), {kind: g.cpu().numpy() for kind, g in found.items()}


# ------------------------------------------------------------------------------------------------------- the theory


def _theory(zoo: Zoo, f: Found) -> pd.DataFrame:
    """rho1 at growing noise and rho2, of networks without a regulariser, with the middle strength of noise, and of the
    Bayes classifier, on closed forms in float64.
    """
    rows = []
    for sweep in f.section.sweeps:
        if not sweep.closed_form:
            continue
        middle = sweep.strengths.noise[len(sweep.strengths.noise) // 2:][:1]
        for seed in range(f.section.seeds):
            wanted = [c for c in f.of(sweep.name, NONE) if c.seed == seed]
            wanted += [c for c in f.of(sweep.name, "noise") if c.seed == seed and c.strength in middle]
            for cell in [c for c in wanted if c not in f.gone] + [None]:
                kind = BAYES if cell is None else f"{cell.kind} {cell.strength:g}" if cell.strength else cell.kind
                for row in _rhos(zoo, f, sweep, seed, cell).to_dict("records"):
                    rows.append({"where": sweep.name, "kind": kind, "seed": seed, **row})
    return pd.DataFrame(rows, columns=["where", "kind", "seed", "sigma", "rho1", "rho2", "worst rho2"])


def _rhos(zoo: Zoo, f: Found, sweep: Sweep, seed: int, cell: Cell | None) -> pd.DataFrame:
    how, data = f.section.theory, plan.base(f.settings, sweep, 0).data

    def made(work: Path) -> dict:
        form, test = closed_forms.of(data.name), zoo.images(data, "test")
        test = test.take(slice(seed * how.points, (seed + 1) * how.points))
        images = test.pixels().double()
        net = copy.deepcopy(zoo.obtain(cell.recipe).net).double() if cell else form.log_posterior
        tangents = Tangents(form.tangents(images))
        draws = spaces.orthogonal_draws(images, test.indices, "theory")
        exact = spaces.rho2(net, images, tangents)
        rows = [{"sigma": sigma, "rho1": spaces.rho1(net, images, tangents, sigma * float(unit(data)), draws).pooled,
                 "rho2": exact.pooled, "worst rho2": float(exact.per_image.nan_to_num().max())} for sigma in how.sigmas]
        write_atomic(work / "table.csv", pd.DataFrame(rows).to_csv(index=False))
        return {"networks": [cell.recipe.key] if cell else [], "what": f"rho1 and rho2 on {data.name}"}

    key = digest([VERSION, "theory", plain(data), plain(how), seed, cell.recipe.key if cell else BAYES])
    return zoo.store.obtain("sensitivity", key, made).table()


# ------------------------------------------------------------------------------------------------------ the quality


def _quality(zoo: Zoo, settings: Settings, sweep: Sweep, on: Ground) -> list[tuple[str, bool, str]]:
    """Whether the tangent spaces and the score of a sweep deserve the name: (what, whether it does, the numbers)."""
    found = [(f"tangent spaces, {name}", True, tangents.warning or f"all of {tangents.bases.shape[2]} dimensions")
             for name, tangents in on.tangents.items()]
    if sweep.closed_form:
        return found
    source, how = plan.score(settings, sweep), plan.denoising(settings, sweep)
    encoder = plan.manifold(settings, sweep) if sweep.autoencoder else None

    def made(work: Path) -> dict:
        train = zoo.images(source.data, "train").pixels()
        noise = spaces.normal_draws(on.images, on.indices, 1, "quality")
        errors = {name: scores.denoising_error(net, on.images, how.sigma, noise).mean().item()
                  for name, net in (("denoiser", zoo.obtain(source).net), ("Wiener", scores.Wiener.of(train)))}
        centred = on.images - train.mean(0)
        around = centred.square().mean()
        if encoder:
            left = (zoo.obtain(encoder).net(on.images) - on.images).square().mean()
            linear = spaces.global_pca(train, encoder.arch.latent)
            rest = (centred - spaces.project(centred, linear)).square().mean()
            errors |= {"auto-encoder": float(left / around), "PCA": float(rest / around)}
        return {"errors": errors, "networks": [source.key], "what": f"quality of score and tangents of {sweep.name}"}

    key = digest([VERSION, "quality", source.key, how.sigma, encoder and encoder.key, sweep.images])
    errors = zoo.store.obtain("quality", key, made).meta["errors"]
    mine, linear = errors["denoiser"], errors["Wiener"]
    found.append(("the denoiser beats the best linear filter", mine < linear,
                  f"squared error {mine:.2e} at noise {how.sigma:g}, Wiener filter {linear:.2e}"))
    if encoder:
        found.append(("the auto-encoder knows the images", errors["auto-encoder"] < 0.5,
                      f"it leaves {errors['auto-encoder']:.1%} of the test images' variance (less than 50 % needed); "
                      f"{encoder.arch.latent} principal components leave {errors['PCA']:.1%}"))
    return found
