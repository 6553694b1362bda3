"""Scores, denoising quality, input gradients and their alignment: known data, constructed cases, refusals."""

import copy
import hashlib

import pytest
import torch
from torch import nn

from lib.data import load
from lib.data.images import ImageSet
from lib.errors import SettingsError
from lib.gradients import scores
from lib.gradients.scores import (
    Wiener,
    alignment,
    class_score,
    cosine,
    denoising_error,
    high_pass,
    input_gradient,
    lpips,
    score,
    why_no_lpips,
)
from lib.models import network
from lib.runtime import generator, initialise_with
from lib.training import loop
from lib.values.architectures import CNN, DenoisingMLP
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
    (lambda x: class_score(lambda *a: x, x, 1.0), "denoiser = function.*takes classes"),
    (lambda x: Wiener.of(x[:1]), "number of images = 1"), (lambda x: high_pass(x, 0), "std = 0"),
    (lambda x: input_gradient(nn.Flatten(), x, "logit"), "unknown kind of gradient 'logit'"),
    (lambda x: input_gradient(nn.Flatten(), x, "label logit"), "labels = left out.*given for the gradient"),
    (lambda x: input_gradient(nn.Flatten(), x, "predicted logit", torch.zeros(3)), "labels = given.*left out"),
    (lambda x: alignment(x, x, x, torch.tensor([1, 0, 2]), x[None]), "partners = with an image for its own"),
    (lambda x: lpips(x, x[:2]), "shape of the gradients"), (lambda x: lpips(x, x, side=30), "side = 30.*at least 31"),
    (lambda x: lpips(x.expand(-1, 2, -1, -1), x.expand(-1, 2, -1, -1)), "channels = 2"),
])
def test_what_is_impossible_is_refused_in_a_sentence(call, words):
    with pytest.raises(SettingsError, match=words):
        call(drawn(3, *SHAPE))


# ------------------------------------------------------------------------------------------------------------- quality


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


# ----------------------------------------------------------------------------------------------------------- gradients


def test_gradients_of_a_linear_network_are_rows_of_its_weights():
    with initialise_with("linear"):
        net = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    weight, x, labels = net[1].weight.detach(), drawn(6, *SHAPE), torch.tensor([0, 1, 2, 0, 1, 2])
    logits = net(x).detach()
    predicted, shares = logits.argmax(1), logits.softmax(1)
    expected = {
        "sum of logits": weight.sum(0).expand(6, -1), "predicted logit": weight[predicted],
        "predicted log-probability": weight[predicted] - shares @ weight,
        "label logit": weight[labels], "label log-probability": weight[labels] - shares @ weight,
    }
    assert set(expected) == set(scores.KINDS) and len(set(predicted.tolist())) > 1
    for kind, rows in expected.items():
        found = input_gradient(net, x, kind, labels if "label" in kind else None, batch=4)
        torch.testing.assert_close(found, rows.reshape(x.shape))


def test_gradients_are_taken_in_eval_mode_and_leave_the_network_as_it_is():
    with initialise_with("cnn"):
        net = network(CNN(16, 2), (1, 8, 8), 10).train()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.constant_(module.running_var, 3.0)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    x = load(Data("digits", test=50), "test").pixels()
    found = input_gradient(net, x, "predicted log-probability", batch=16)
    assert net.training and all(p.grad is None and p.requires_grad for p in net.parameters())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    inputs = x.clone().requires_grad_()
    expected, = torch.autograd.grad(net.eval()(inputs).log_softmax(1).amax(1).sum(), inputs)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)


# ----------------------------------------------------------------------------------------------------------- alignment


def test_cosines_of_constructed_pairs():
    x = drawn(4, *SHAPE)
    flat = x.flatten(1)
    across = drawn(4, 16, name="other")
    across = across - (across * flat).sum(1, keepdim=True) / flat.square().sum(1, keepdim=True) * flat
    half = (flat / flat.norm(dim=1, keepdim=True) + across / across.norm(dim=1, keepdim=True)).view_as(x)
    for other, expected in ((x, 1), (-3 * x, -1), (across.view_as(x), 0), (half, 0.5**0.5), (0 * x, 0), (1e-38 * x, 1)):
        torch.testing.assert_close(cosine(x, other), torch.full((4,), expected, dtype=torch.double), rtol=0, atol=1e-5)


def test_the_high_pass_is_what_a_gaussian_filter_leaves():
    from scipy.ndimage import gaussian_filter

    x = drawn(2, 3, 9, 12).double()
    expected = x - torch.from_numpy(gaussian_filter(x.numpy(), (0, 0, 1.5, 1.5), mode="nearest", truncate=4.0))
    torch.testing.assert_close(high_pass(x, 1.5), expected)
    assert high_pass(torch.full((1, 1, 1, 2), 0.7)).abs().max() < 1e-6


def test_alignment_beside_its_baselines():
    pictures, images, noise = drawn(40, 1, 8, 8), drawn(40, 1, 8, 8, name="images"), drawn(1, 40, 64, name="noise")
    partners = torch.arange(40).roll(1)
    table = alignment(2 * pictures, -pictures, images, partners, noise, perceptual=False)
    assert list(table) == ["image", "what", "cosine", "absolute"] and len(table) == 160
    rows = {what: part for what, part in table.groupby("what", sort=False)}
    assert list(rows) == ["gradient", "white noise", "shuffled pairs", "negative high-pass"]
    assert rows["gradient"]["cosine"].to_list() == pytest.approx([-1] * 40)
    assert (table["absolute"] == table["cosine"].abs()).all()
    assert rows["white noise"]["image"].to_list() == list(range(40))
    expected = {"white noise": cosine(noise[0].view_as(pictures), -pictures),
                "shuffled pairs": cosine(pictures[partners], -pictures),
                "negative high-pass": cosine(-high_pass(images), -pictures)}
    for what, values in expected.items():
        assert rows[what]["cosine"].to_list() == pytest.approx(values.tolist())
        assert rows[what]["absolute"].mean() < 0.3


# --------------------------------------------------------------------------------------------------------------- LPIPS


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty cache of torch's, where the weights would lie."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints" / scores.ALEXNET[0]


def test_lpips_is_refused_without_the_weights(hub, caplog, monkeypatch):
    def download(*args, **options):
        raise AssertionError("a download was tried")

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    x = drawn(4, 3, 32, 32)
    assert lpips(x, x) is None
    assert "AlexNet's weights are not here" in why_no_lpips() and str(hub.parent) in caplog.text
    caplog.clear()
    table = alignment(x, x, x, torch.tensor([1, 2, 3, 0]), drawn(1, 4, 3072))
    assert "lpips" not in table and caplog.text.count("LPIPS is left out") == 1
    hub.write_bytes(b"half a file")
    assert lpips(x, x) is None and "does not begin with 7be5be79" in why_no_lpips()


def test_lpips_with_weights(hub, monkeypatch):
    """With random ones, in a file as torchvision's: numbers of a sane kind, not of a known size."""
    draw, weights = generator("alexnet"), {}
    convolutions = ((0, 64, 3, 11), (3, 192, 64, 5), (6, 384, 192, 3), (8, 256, 384, 3), (10, 256, 256, 3))
    for k, out, into, kernel in convolutions:
        weights[f"features.{k}.weight"] = torch.randn(out, into, kernel, kernel, generator=draw) / into**0.5 / kernel
        weights[f"features.{k}.bias"] = torch.zeros(out)
    for k, out, into in ((1, 4096, 9216), (4, 4096, 4096), (6, 1000, 4096)):  # of no use here: nothing on the disk
        weights[f"classifier.{k}.weight"] = torch.zeros(1).expand(out, into)
        weights[f"classifier.{k}.bias"] = torch.zeros(1).expand(out)
    torch.save(weights, hub)
    digest = hashlib.sha256(hub.read_bytes()).hexdigest()
    monkeypatch.setattr(scores, "ALEXNET", (hub.name, digest[:8]))
    state = torch.get_rng_state()
    x, noise = load(Data("digits", test=10), "test").pixels() - 0.5, drawn(10, 1, 8, 8, name="noise")
    assert why_no_lpips() == "" and torch.equal(lpips(x, x), torch.ones(10))
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(lpips(x, 7 * x), torch.ones(10))  # only the picture counts, not its strength
    near, far, opposite = (lpips(x, other, batch=4) for other in (x + 0.05 * noise, noise, -x))
    assert (far < near).all() and (near < 1).all() and (opposite < near).all() and far.isfinite().all()
    large = drawn(3, 3, 32, 32)
    kept, enlarged = lpips(large, large.flip(0)), lpips(large, large.flip(0), side=64)
    assert kept.shape == (3,) and not torch.allclose(kept, enlarged, atol=1e-3)
    assert lpips(drawn(2, 1, 56, 28), drawn(2, 1, 56, 28, name="b")).isfinite().all()
    table = alignment(x, x, x, torch.arange(10).roll(1), noise[None])
    assert table.groupby("what")["lpips"].mean().idxmax() == "gradient"
