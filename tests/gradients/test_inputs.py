"""Gradients of classifiers with respect to the image, and their alignment: constructed cases, refusals."""

import pytest
import torch
from torch import nn

from lib.data import load
from lib.errors import SettingsError
from lib.gradients.inputs import KINDS, alignment, cosine, high_pass, input_gradient
from lib.models import network
from lib.runtime import generator, initialise_with
from lib.values.architectures import CNN
from lib.values.data import Data

SHAPE = (1, 4, 4)


def drawn(*shape, name="test"):
    return torch.randn(*shape, generator=generator(name))


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
    assert set(expected) == set(KINDS) and len(set(predicted.tolist())) > 1
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


@pytest.mark.parametrize("call, words", [
    (lambda x: high_pass(x, 0), "std = 0"),
    (lambda x: input_gradient(nn.Flatten(), x, "logit"), "unknown kind of gradient 'logit'"),
    (lambda x: input_gradient(nn.Flatten(), x, "label logit"), "labels = left out.*given for the gradient"),
    (lambda x: input_gradient(nn.Flatten(), x, "predicted logit", torch.zeros(3)), "labels = given.*left out"),
    (lambda x: input_gradient(nn.Flatten(), x[:0], "predicted logit"), "number of images = 0"),
    (lambda x: alignment(x, x, x, torch.tensor([1, 0, 2]), x[None]), "partners = the same image"),
])
def test_what_is_impossible_is_refused_in_a_sentence(call, words):
    with pytest.raises(SettingsError, match=words):
        call(drawn(3, *SHAPE))
