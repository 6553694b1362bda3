"""Closed forms: samples, tangents, posteriors and scores, each against another way of working them out."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.distributions import MultivariateNormal, VonMises

from lib.data import closed_forms, load
from lib.errors import SettingsError
from lib.models import build
from lib.runtime import generator
from lib.store import Store
from lib.training.price import measured_rate
from lib.training.zoo import Zoo
from lib.values.architectures import CNN, MLP, ResNet
from lib.values.data import DATASETS, Data
from lib.values.objectives import Noise
from lib.values.recipe import Optimiser, Recipe, Schedule

MANIFOLDS = ["gaussian_subspace", "curved_torus"]
SIGMA = 0.02  # in pixels, 0.08 units
# The first two pixels of each. Whoever changes them changes all results and raises the version in lib/values/data.py.
GOLDEN = {"gaussian_subspace": [0.491283, 0.4868248], "curved_torus": [0.6366495, 0.5059202],
          "line_of_modes": [0.3063999, 0.1127998]}


def some(name, count=40, split="test"):
    """Points of the form in float64, and the same moved off its manifold."""
    pixels = closed_forms.of(name).sample(split)[0][:count].double()
    away = torch.randn(pixels.shape, generator=generator("test", name), dtype=torch.float64)
    return pixels, pixels + 0.05 * away


def gradients(function, pixels):
    """d function[:, c] / d pixels for each class c: [classes, N, D]."""
    leaf = pixels.clone().requires_grad_()
    columns = function(leaf).sum(0)
    return torch.stack([torch.autograd.grad(column, leaf, retain_graph=True)[0].flatten(1) for column in columns])


def across(grads, tangents):
    """The share of the norm of gradients [classes, N, D] that no tangent [N, D, k] takes."""
    along = torch.einsum("ndk,nek,cne->cnd", tangents, tangents, grads)
    return (grads - along).norm(dim=2) / grads.norm(dim=2)


# ------------------------------------------------------------------------------------------------------------- samples


@pytest.mark.parametrize("name", closed_forms.FORMS)
def test_splits_are_fixed_balanced_and_share_nothing(name):
    form, info = closed_forms.FORMS[name](), DATASETS[name]
    (train, labels), (test, test_labels) = form.sample("train"), form.sample("test")
    again, same = closed_forms.FORMS[name]().sample("train")
    assert torch.equal(train, again) and torch.equal(labels, same)
    assert train.dtype == torch.float32 and labels.dtype == torch.int64
    assert train.shape == (info.train, *info.shape) and test.shape == (info.test, *info.shape)
    for split in (labels, test_labels):
        assert torch.bincount(split).tolist() == [len(split) // info.classes] * info.classes
    different = len(torch.unique(torch.cat([train, test]).flatten(1), dim=0))
    assert different > 0.999 * (info.train + info.test)  # on a line, a few coincide in float32
    assert not torch.allclose(train[:100], test[:100], atol=1e-3)
    assert train.min() > 0 and train.max() < 1  # nothing forbids more, but attacks may be cut to [0, 1]


@pytest.mark.parametrize("name", closed_forms.FORMS)
def test_samples_are_those_that_results_were_made_with(name):
    pixels, _ = closed_forms.of(name).sample("train")
    assert pixels[0].flatten()[:2].tolist() == pytest.approx(GOLDEN[name], abs=1e-6)


def test_the_subspace_has_the_moments_that_it_says():
    form = closed_forms.of("gaussian_subspace")
    pixels, labels = form.sample("train")
    points = form.points(pixels.double())
    for c in range(4):
        own = points[labels == c]
        centred = own - 2 * form.basis[:, c]
        assert centred.mean(0).abs().max() < 5 * (0.35 / math.sqrt(len(own)))  # an axis lies along U by 0.35 at most
        inside = centred @ form.basis
        covariance = inside.T @ inside / len(own)
        assert (covariance - (1 + 0.05**2) * torch.eye(4)).abs().max() < 0.06
        outside = centred - inside @ form.basis.T
        assert outside.square().sum(1).mean() / 124 == pytest.approx(0.05**2, rel=0.01)


def test_the_torus_has_its_radius_and_the_angles_that_it_says():
    form = closed_forms.of("curved_torus")
    pixels, labels = form.sample("train")
    points = form.points(pixels.double())
    pairs = (points @ form.basis).unflatten(1, (4, 2))
    assert (pairs.norm(dim=2) - math.sqrt(2)).abs().max() < 1e-5
    assert (points - pairs.flatten(1) @ form.basis.T).abs().max() < 1e-5  # to the rounding of float32
    shrink = float(torch.special.i1(torch.tensor(1.4)) / torch.special.i0(torch.tensor(1.4)))
    for c in range(4):
        wanted = math.pi / 2 * c * torch.tensor([1, 1, 2, 3], dtype=torch.float64)
        mean = pairs[labels == c].mean(0) / math.sqrt(2)
        assert (mean - shrink * torch.stack([wanted.cos(), wanted.sin()], dim=1)).abs().max() < 0.03
    angles = torch.atan2(pairs[..., 1], pairs[..., 0])[labels == 0].flatten().sort().values  # all around 0
    law = VonMises(torch.tensor(0.0, dtype=torch.float64), torch.tensor(1.4, dtype=torch.float64))
    grid = torch.linspace(-math.pi, math.pi, 4001, dtype=torch.float64)
    below = torch.cumulative_trapezoid(law.log_prob(grid).exp(), grid)
    seen = torch.searchsorted(angles, grid[1:]) / len(angles)
    assert (seen - below).abs().max() < 1.95 / math.sqrt(len(angles))  # Kolmogorov and Smirnov, level 0.001


def test_the_line_is_the_papers_toy():
    form = closed_forms.of("line_of_modes")
    pixels, labels = form.sample("train")
    points = form.points(pixels.double())
    assert points.shape == (6000, 2) and (points[:, 1] - 2 * points[:, 0]).abs().max() < 1e-4
    nearest = (points[:, 0] / 10 - 1).div(2).round() * 2 + 1
    assert (points[:, 0] - 10 * nearest).std() == pytest.approx(1, abs=0.05)
    for centre, label in ((-5, 0), (-3, 1), (-1, 0), (1, 1), (3, 0), (5, 1)):
        assert (labels[nearest == centre] == label).all() and (nearest == centre).sum() == 1000


@pytest.mark.parametrize("name", closed_forms.FORMS)
def test_subsets_need_no_folder_and_are_balanced(name, monkeypatch, tmp_path):
    monkeypatch.setenv("REPRO_DATA", str(tmp_path / "nowhere"))
    data = Data(name, train=2000, holdout=100, test=400)
    parts = {split: load(data, split) for split in ("train", "holdout", "test")}
    for part in parts.values():
        assert set(torch.bincount(part.labels).tolist()) == {len(part) // data.info.classes}
    assert not set(parts["train"].indices.tolist()) & set(parts["holdout"].indices.tolist())
    pixels, labels = closed_forms.of(name).sample("test")
    assert torch.equal(parts["test"].pixels(), pixels[parts["test"].indices])  # as they are: no division by 255
    assert torch.equal(parts["test"].labels, labels[parts["test"].indices])
    shown, _ = parts["test"].augmented(torch.arange(5), "none", generator("test"))
    assert torch.equal(shown, parts["test"].pixels(slice(5)))
    parts["test"].pixels().zero_()
    assert torch.equal(parts["test"].pixels(), pixels[parts["test"].indices])  # a caller cannot spoil the set


# ---------------------------------------------------------------------------------------------------------- posteriors


@pytest.mark.parametrize("name", MANIFOLDS)
@pytest.mark.parametrize("sigma", [0.0, SIGMA, 0.5])
def test_posteriors_sum_to_one_in_the_dtype_of_the_pixels(name, sigma):
    form, (pixels, away) = closed_forms.of(name), some(name)
    for x in (pixels, away):
        found = form.log_posterior(x, sigma)
        assert found.shape == (len(x), 4) and found.dtype == torch.float64
        assert torch.allclose(found.exp().sum(1), torch.ones(len(x), dtype=torch.float64), atol=1e-12)
        rough = form.log_posterior(x.float(), sigma)
        assert rough.dtype == torch.float32 and torch.allclose(rough.double(), found, atol=2e-3)
        assert form.score(x.float(), 0.5).dtype == form.tangents(x.float()).dtype == torch.float32
    if sigma == 0.5:  # so much noise leaves little to know: the classes' means are 0.7 to 1.5 apart
        assert form.log_posterior(pixels, sigma).exp().max() < 0.9


def test_the_bayes_accuracy_of_the_subspace_is_that_of_the_fact_sheet():
    form = closed_forms.of("gaussian_subspace")
    pixels, labels = form.sample("train")
    posterior = form.log_posterior(pixels.double()).exp()
    # The best class has the largest of four independent normal coordinates, one of which has its mean 2 further up
    t = np.linspace(-9, 13, 22_001)
    normal = np.exp(-(t**2) / 2) / math.sqrt(2 * math.pi)
    below = np.cumsum(normal) * (t[1] - t[0])
    shifted = np.exp(-((t - 2 / math.sqrt(1.0025)) ** 2) / 2) / math.sqrt(2 * math.pi)
    exact = (shifted * below**3).sum() * (t[1] - t[0])
    assert exact == pytest.approx(0.820, abs=0.003)  # the sheet's, from 4,000 points
    right = (posterior.argmax(1) == labels).double().mean().item()
    assert right == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / len(labels)))
    assert posterior.amax(1).mean().item() == pytest.approx(exact, abs=0.005)


def test_the_bayes_accuracy_of_the_torus():
    form = closed_forms.of("curved_torus")
    pixels, labels = form.sample("train")
    posterior = form.log_posterior(pixels.double()).exp()
    right = (posterior.argmax(1) == labels).double().mean().item()
    assert right == pytest.approx(posterior.amax(1).mean().item(), abs=0.005)  # it knows how sure it can be
    assert right == pytest.approx(0.86, abs=0.01)


@pytest.mark.parametrize("name", MANIFOLDS)
def test_gradients_of_the_posterior_lie_in_the_tangent_space(name):
    form = closed_forms.of(name)
    for x in some(name):  # on the manifold and off it
        tangents = form.tangents(x)
        assert across(gradients(form.log_posterior, x), tangents).max() < 1e-12
        noise = torch.randn(4, *x.flatten(1).shape, generator=generator("test"), dtype=torch.float64)
        assert across(noise, tangents).min() > 0.9  # a random direction does not


def test_noise_leaves_the_subspaces_gradients_in_the_tangent_space_only():
    for name, low, high in (("gaussian_subspace", 0, 1e-12), ("curved_torus", 1e-3, 0.5)):
        x, _ = some(name)
        share = across(gradients(lambda x, n=name: closed_forms.of(n).log_posterior(x, 0.1), x),
                       closed_forms.of(name).tangents(x))
        assert low <= share.mean() < high, name


# ------------------------------------------------------------------------------------------------------------ tangents


@pytest.mark.parametrize("name", MANIFOLDS)
def test_tangents_are_orthonormal(name):
    for x in some(name):
        tangents = closed_forms.of(name).tangents(x)
        assert tangents.shape == (len(x), 128, 4) and tangents.dtype == torch.float64
        assert (tangents.mT @ tangents - torch.eye(4, dtype=torch.float64)).abs().max() < 1e-12


def test_tangents_of_the_torus_by_finite_differences():
    form = closed_forms.of("curved_torus")
    angles = 7 * torch.rand(6, 4, generator=generator("test"), dtype=torch.float64)

    def at(angles):
        circles = torch.stack([angles.cos(), angles.sin()], dim=2).flatten(1)
        return form.pixels(math.sqrt(2) * circles @ form.basis.T)

    tangents, h = form.tangents(at(angles)), 1e-5
    for k in range(4):
        step = h * torch.eye(4, dtype=torch.float64)[k]
        speed = (at(angles + step) - at(angles - step)).flatten(1) / (2 * h)
        assert torch.allclose(speed.norm(dim=1), torch.tensor(0.25 * math.sqrt(2), dtype=torch.float64))
        assert (speed / speed.norm(dim=1, keepdim=True) - tangents[:, :, k]).abs().max() < 1e-8


def test_points_of_the_subspace_differ_along_its_tangents_but_for_the_noise():
    form, (pixels, _) = closed_forms.of("gaussian_subspace"), some("gaussian_subspace", 400)
    steps = (pixels[1:] - pixels[:-1]).flatten(1)
    tangents = form.tangents(pixels[1:])
    off = (steps - torch.einsum("ndk,nek,ne->nd", tangents, tangents, steps)).square().sum(1).mean()
    assert off.item() == pytest.approx(2 * 124 * (0.05 * 0.25) ** 2, rel=0.05)


# ------------------------------------------------------------------------------------------------ densities and scores


def subspace_densities(sigma):
    """log p(pixels | class) worked out by torch's own Gaussian of 128 dimensions."""
    form = closed_forms.of("gaussian_subspace")
    basis, unit = form.basis, 0.25
    covariance = unit**2 * (basis @ basis.T + 0.05**2 * torch.eye(128)) + sigma**2 * torch.eye(128)
    laws = [MultivariateNormal(0.5 + unit * 2 * basis[:, c], covariance) for c in range(4)]
    return lambda x: torch.stack([law.log_prob(x.flatten(1)) for law in laws], dim=1)


def torus_densities(sigma):
    """The same by summing over each circle's angle; noise on different circles is independent."""
    form = closed_forms.of("curved_torus")
    angles = 2 * math.pi * torch.arange(2000, dtype=torch.float64) / 2000
    circle = 0.25 * math.sqrt(2) * torch.stack([angles.cos(), angles.sin()], dim=1)  # [2000, 2]

    def densities(x):
        centred = x.flatten(1) - 0.5
        pairs = (centred @ form.basis).unflatten(1, (4, 2))
        off = centred - pairs.flatten(1) @ form.basis.T
        rest = -off.square().sum(1) / (2 * sigma**2) - 120 / 2 * math.log(2 * math.pi * sigma**2)
        near = -(pairs[:, :, None] - circle).square().sum(3) / (2 * sigma**2) - math.log(2 * math.pi * sigma**2)
        found = []
        for c in range(4):
            means = math.pi / 2 * c * torch.tensor([1, 1, 2, 3], dtype=torch.float64)
            prior = VonMises(means[:, None], torch.tensor(1.4, dtype=torch.float64)).log_prob(angles)
            found.append((near + prior).logsumexp(2).sum(1) + 4 * math.log(2 * math.pi / 2000) + rest)
        return torch.stack(found, dim=1)

    return densities


CASES = [("gaussian_subspace", subspace_densities, 0), ("gaussian_subspace", subspace_densities, 0.1),
         ("curved_torus", torus_densities, SIGMA), ("curved_torus", torus_densities, 0.3)]


@pytest.mark.parametrize("name, other, sigma", CASES)
def test_densities_posteriors_and_scores_are_those_of_another_way(name, other, sigma):
    form, theirs = closed_forms.of(name), other(sigma)
    for x in some(name, 6):
        wanted = theirs(x)
        assert torch.allclose(form.class_log_density(x, sigma), wanted, atol=1e-5, rtol=1e-7)
        least = wanted.amin(1, keepdim=True)
        mixed = (wanted - least).exp().mean(1).log() + least[:, 0]
        assert torch.allclose(form.log_density(x, sigma), mixed, atol=1e-5, rtol=1e-7)
        assert torch.allclose(form.log_posterior(x, sigma), wanted.log_softmax(1), atol=1e-5)
        by_class = gradients(theirs, x).transpose(0, 1).unflatten(2, x.shape[1:])
        size = by_class.abs().max()
        assert torch.allclose(form.class_score(x, sigma), by_class, atol=1e-6 * size)
        whole = (wanted.softmax(1)[:, :, None, None, None] * by_class).sum(1)
        with torch.no_grad():
            assert torch.allclose(form.score(x, sigma), whole, atol=1e-6 * size)


@pytest.mark.parametrize("name, sigma", [("gaussian_subspace", 0), ("curved_torus", 0.05)])
def test_differences_of_scores_are_gradients_of_the_posterior(name, sigma):
    form, (x, _) = closed_forms.of(name), some(name, 5)
    wanted = gradients(lambda x: form.log_posterior(x, sigma), x).transpose(0, 1)
    found = (form.class_score(x, sigma) - form.score(x, sigma)[:, None]).flatten(2)
    assert torch.allclose(found, wanted, atol=1e-9 * form.score(x, sigma).norm())


@pytest.mark.parametrize("ask, words", [
    (lambda: closed_forms.of("gausian_subspace"), ["gausian_subspace", "did you mean 'gaussian_subspace'"]),
    (lambda: closed_forms.of("curved_torus").sample("holdout"), ["unknown official split 'holdout'", "train"]),
    (lambda: closed_forms.of("curved_torus").score(some("curved_torus", 2)[0]), ["sigma = 0", "greater than 0"]),
    (lambda: closed_forms.of("curved_torus").log_density(some("curved_torus", 2)[0]), ["sigma = 0", "greater than 0"]),
    (lambda: closed_forms.of("curved_torus").log_posterior(some("curved_torus", 2)[0], -1), ["sigma = -1", "at least"]),
    (lambda: Data("curved_torus", size=8), ["data.size = 8", "8 x 16 pixels"]),
    (lambda: Data("line_of_modes", train=6001), ["data.train = 6001", "6000"]),
])
def test_impossible_values_are_one_sentence(ask, words):
    with pytest.raises(SettingsError) as error:
        ask()
    text = str(error.value)
    assert "\n" not in text and all(word in text for word in words), text


# ------------------------------------------------------------------------------------------------------------ networks


@pytest.mark.parametrize("name", closed_forms.FORMS)
def test_networks_are_given_points(name):
    form, pixels = closed_forms.of(name), closed_forms.of(name).sample("test")[0]
    for arch in (MLP((8,), "softplus"), CNN(4, 1), ResNet(8, (1,))):
        net = build(Recipe(Data(name), arch)).eval()
        assert torch.allclose(net.normalise(pixels).flatten(1), form.points(pixels), atol=1e-4)
        assert net(pixels[:3]).shape == (3, form.classes)


def test_a_training_on_points_nears_the_bayes_accuracy(tmp_path):
    recipe = Recipe(
        Data("gaussian_subspace", train=2000, test=2000),
        MLP((64,), "softplus"),
        Noise(0.25),  # one unit
        epochs=8,
        optimiser=Optimiser("adam", lr=3e-3, weight_decay=0.0),
        schedule=Schedule("cosine"),
    )
    box = Zoo(Store(tmp_path))
    found = box.outcomes(recipe)
    bayes = closed_forms.of("gaussian_subspace").log_posterior(box.images(recipe.data, "test").pixels())
    best = (bayes.argmax(1) == box.images(recipe.data, "test").labels).double().mean()
    assert best - 0.05 < found.accuracy() < best + 0.03
    assert measured_rate(replace(recipe, arch=CNN(4, 2)), "cpu", 0.01) > 0
