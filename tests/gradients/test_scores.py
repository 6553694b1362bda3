"""Scores and denoising quality: known data, constructed cases, refusals."""

import copy

import pytest
import torch
from torch import nn

from lib.data.images import ImageSet
from lib.errors import SettingsError
from lib.gradients.inputs import cosine
from lib.gradients.scores import Wiener, class_score, classified, denoising_error, score
from lib.models import network
from lib.runtime import generator, initialise_with
from lib.training import loop
from lib.values.architectures import DenoisingMLP
from lib.values.data import Data
from lib.values.objectives import Denoising
from lib.values.recipe import Optimiser, Recipe, Schedule

SHAPE = (1, 4, 4)


def drawn(*shape, name="test"):
    return torch.randn(*shape, generator=generator(name))


def gaussian(n, name="train"):
    """Images with correlated Gaussian pixels: most of the variance in a few directions, [n, 1, 4, 4]."""
    basis = torch.linalg.qr(drawn(16, 16, name="basis")).Q
    stds = 0.2 * 0.7 ** torch.arange(16)
    return (0.5 + drawn(n, 16, name=name) * stds @ basis.T).view(n, *SHAPE), basis, stds


class Shifted(nn.Module):
    """A denoiser of two classes: shrinks images to a half and adds a picture of each class, and of none."""

    classes = 2

    def __init__(self):
        super().__init__()
        self.pictures, self.sizes = drawn(3, *SHAPE, name="pictures"), []

    def forward(self, images, sigma, labels=None):
        self.sizes.append(len(images))
        labels = torch.full((len(images),), -1) if labels is None else labels
        return images / 2 + self.pictures[labels]


# -------------------------------------------------------------------------------------------------------------- scores


def test_the_score_of_gaussian_data_is_the_gradient_of_their_log_density():
    _, basis, stds = gaussian(10)
    exact = Wiener(torch.full((16,), 0.5), basis, stds**2)
    x = gaussian(5, "test")[0].requires_grad_()
    density = torch.distributions.MultivariateNormal(
        torch.full((16,), 0.5, dtype=torch.double),
        (basis * stds**2 @ basis.T + 0.2**2 * torch.eye(16)).double())
    expected, = torch.autograd.grad(density.log_prob(x.flatten(1).double()).sum(), x)
    found = score(exact, x, 0.2)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found, score(exact, x, 0.2, batch=2))
    assert not found.requires_grad


def test_the_averaged_score_is_the_mean_of_those_at_the_noisy_images():
    net, x, noise = Shifted(), drawn(5, *SHAPE, name="x"), drawn(3, 5, 16, name="noise")
    noise = torch.cat([noise, -noise])
    averaged = score(net, x, 0.3, noise=noise, batch=2)
    by_hand = torch.stack([score(net, x + 0.3 * draw.view_as(x), 0.3) for draw in noise]).mean(0)
    torch.testing.assert_close(averaged, by_hand)
    torch.testing.assert_close(averaged, score(net, x, 0.3))  # a linear denoiser, draws of mean 0
    one = score(net, x, 0.3, noise=noise[:1])
    torch.testing.assert_close(one, (net(x + 0.3 * noise[0].view_as(x), 0.3) - x) / 0.09)


def test_labels_make_the_score_conditional():
    net, x, labels = Shifted(), drawn(5, *SHAPE, name="x"), torch.tensor([0, 1, -1, 1, 0])
    difference = score(net, x, 0.5, labels, batch=2) - score(net, x, 0.5)
    torch.testing.assert_close(difference, (net.pictures[labels] - net.pictures[-1]) / 0.25)


def test_class_scores_are_conditional_minus_unconditional_for_all_classes():
    net, x, noise = Shifted(), drawn(5, *SHAPE, name="x"), drawn(2, 5, *SHAPE, name="noise")
    expected = torch.stack([score(net, x, 0.5, torch.full((5,), k)) - score(net, x, 0.5) for k in range(2)], 1)
    net.sizes.clear()
    found = class_score(net, x, 0.5, batch=7)
    assert found.shape == (5, 2, *SHAPE) and max(net.sizes) == 6
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(class_score(net, x, 0.5, noise, batch=7), expected)

    def curved(images, sigma, labels=None):
        return net(images, sigma, labels) * images.abs()

    curved.classes = 2
    seen = [score(curved, x, 0.5, labels, noise) for labels in (None, torch.zeros(5).long(), torch.ones(5).long())]
    found = class_score(curved, x, 0.5, noise, batch=4)
    torch.testing.assert_close(found, torch.stack([seen[1] - seen[0], seen[2] - seen[0]], 1))


@pytest.mark.parametrize("call, words", [
    (lambda x: score(Shifted(), x, 0), "sigma = 0 is not"), (lambda x: score(Shifted(), x, 1.0, batch=0), "batch = 0"),
    (lambda x: score(Shifted(), x[:0], 1.0), "number of images = 0"),
    (lambda x: score(Shifted(), x, 1.0, noise=x), r"noise = \(3, 1, 4, 4\).*\[draws, 3, ...\]"),
    (lambda x: class_score(lambda *a: x, x, 1.0), "denoiser = function.*one with classes"),
    (lambda x: Wiener.of(x[:1]), "number of images = 1"),
])
def test_what_is_impossible_is_refused_in_a_sentence(call, words):
    with pytest.raises(SettingsError, match=words):
        call(drawn(3, *SHAPE))


# ------------------------------------------------------------------------------------------------------------- quality


def test_a_denoiser_sees_the_class_that_it_restores_best():
    pictures = drawn(3, *SHAPE, name="classes")

    class Restores(nn.Module):
        classes = 3

        def forward(self, x, sigma, labels):
            return pictures[labels]

    shown = torch.tensor([2, 0, 1, 1])
    images = pictures[shown] + 0.1 * drawn(4, *SHAPE, name="own")
    assert torch.equal(classified(Restores(), images, 0.3, drawn(2, 4, *SHAPE)), shown)
    with pytest.raises(SettingsError, match="denoiser = .*one with classes"):
        classified(lambda x, sigma, labels: x, images, 0.3, drawn(2, 4, *SHAPE))


def test_the_error_of_doing_nothing_is_the_noise():
    x, noise = drawn(5, *SHAPE, name="x"), drawn(2, 5, 16, name="noise")
    found = denoising_error(lambda images, sigma, labels: images, x, 0.3, noise, batch=2)
    torch.testing.assert_close(found, 0.09 * noise.square().mean((0, 2)))
    labels = torch.tensor([0, 1, -1, 1, 0])
    error = denoising_error(lambda images, sigma, labels: images + labels.view(-1, 1, 1, 1), x, 1e-6, noise, labels, 2)
    torch.testing.assert_close(error, labels.square().float(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("sigma", [0.05, 0.25])
def test_the_wiener_filter_reaches_the_least_error_on_gaussian_data(sigma):
    (train, _, stds), (test, *_) = gaussian(4000), gaussian(2000, "test")
    noise = drawn(4, 2000, 16, name="noise")
    filtered = Wiener.of(train)
    least = (stds**2 * sigma**2 / (stds**2 + sigma**2)).mean().item()
    found = denoising_error(filtered, test, sigma, noise).mean().item()
    assert found == pytest.approx(least, rel=0.02)
    for other in (sigma / 2, sigma * 2):
        mistaken = denoising_error(lambda x, s, y, at=other: filtered(x, at), test, sigma, noise)
        assert mistaken.mean().item() > 1.02 * found
    few = Wiener.of(train[:8])  # fewer images than pixels
    assert found < denoising_error(few, test, sigma, noise).mean().item() < 5 * found


def test_a_trained_denoiser_comes_near_the_optimum_of_gaussian_data():
    """Labels carry nothing here, so the denoiser is as good with them as without."""
    (train, *_), (test, *_) = gaussian(4000), gaussian(1000, "test")
    arch = DenoisingMLP(64, 2)
    recipe = Recipe(Data("digits"), arch, Denoising(0.05, 0.3, 0.5), epochs=30, batch_size=100,
                    optimiser=Optimiser("adam", lr=3e-3, weight_decay=0), schedule=Schedule("cosine"), ema=0.99)
    stored = train.clamp(0, 1).mul(255).round().to(torch.uint8)
    images = ImageSet(stored, torch.arange(4000) % 10, torch.arange(4000), "gaussian", "train")
    with initialise_with("test"):
        net = network(arch, SHAPE, 10)
    untrained = copy.deepcopy(net)
    loop.fit(net, recipe, images, "cpu")
    noise, optimum = drawn(4, 1000, 16, name="noise"), Wiener.of(images.pixels())
    for sigma in (0.1, 0.25):
        best, found, before = (denoising_error(one, test, sigma, noise).mean() for one in (optimum, net, untrained))
        assert 0.99 * best < found < 1.05 * best < 0.8 * before
        labelled = denoising_error(net, test, sigma, noise, torch.arange(1000) % 10).mean()
        assert labelled < 1.08 * best
        assert cosine(score(net, test, sigma), score(optimum, test, sigma)).mean() > 0.97
