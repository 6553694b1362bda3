"""Alignment of gradients with targets, what is attainable, and generated images: cases worked out by hand."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from lib.alignment.generation import generate, grid, target_rate
from lib.alignment.measures import attainable, between_classes, class_gradients, cosines, own_and_others
from lib.data import load
from lib.errors import SettingsError
from lib.models import network
from lib.runtime import generator, initialise_with
from lib.values.architectures import CNN, MLP
from lib.values.data import Data

SHAPE = (1, 4, 4)


def drawn(*shape, name="test"):
    return torch.randn(*shape, generator=generator("alignment", name))


def small_net(classes=3):
    with initialise_with("alignment", "net"):
        net = network(CNN(4, 1), SHAPE, classes)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.copy_(0.1 * torch.arange(4))
            module.running_var.copy_(1 + 0.2 * torch.arange(4))
    return net


class Linear(nn.Module):
    """Logits W x, so that the gradient of log p_t is sum_k p_k (w_t - w_k)."""

    def __init__(self, weights):
        super().__init__()
        self.weights = nn.Parameter(weights)

    def forward(self, x):
        return x.flatten(1) @ self.weights.T


def alike(c, classes=10, images=4, dims=4000):
    """Targets of length 1 of which two have the cosine c, [N, K, 1, 1, D]: exactly, by construction."""
    frames = [torch.linalg.qr(drawn(dims, classes + 1, name=f"alike {i}").double()).Q.T for i in range(images)]
    frames = torch.stack(frames)
    return (math.sqrt(c) * frames[:, :1] + math.sqrt(1 - c) * frames[:, 1:]).view(images, classes, 1, 1, dims)


# ----------------------------------------------------------------------------------------------------------- gradients


def test_class_gradients_are_those_of_log_probabilities_in_eval_mode():
    net, x = small_net().train(), 0.5 + 0.2 * drawn(5, *SHAPE)
    before = copy.deepcopy(net.state_dict())
    found = class_gradients(net, x, batch=2)
    assert found.shape == (5, 3, *SHAPE) and found.dtype == torch.float32
    assert net.training and all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    exact = copy.deepcopy(net).eval().double()
    for t in range(3):
        leaf = x.double().requires_grad_()
        expected, = torch.autograd.grad(exact(leaf).log_softmax(1)[:, t].sum(), leaf)
        torch.testing.assert_close(found[:, t], expected.float(), rtol=1e-4, atol=1e-6)


def test_chances_times_gradients_sum_to_zero():
    net, x = small_net(), 0.5 + 0.2 * drawn(5, *SHAPE)
    chances = net.eval()(x).softmax(1).detach()
    gradients = class_gradients(net, x)
    assert gradients.abs().amax() > 1e-3
    assert torch.einsum("nk,nk...->n...", chances, gradients).abs().amax() < 1e-6


@pytest.mark.parametrize("margin", [30.0, 60.0, 90.0])
def test_the_class_that_a_network_is_sure_of_keeps_its_direction(margin):
    weights = torch.tensor([[1.0, 0.0, 0.3], [0.0, 1.0, 0.0], [0.0, 0.2, 1.0]])
    x = torch.tensor([[margin, 0.0, 0.0]]).view(1, 1, 1, 3)
    own = class_gradients(Linear(weights), x)[0, 0].flatten().double()
    chances = (x.view(3).double() @ weights.double().T).softmax(0)
    exact = (chances[:, None] * (weights[0] - weights.double())).sum(0)
    assert 0 < own.norm() < 1e-12
    assert torch.dot(own, exact) / own.norm() / exact.norm() > 1 - 1e-4
    assert own.norm() / exact.norm() == pytest.approx(1, rel=1e-3)


def test_a_gradient_too_small_for_fp32_is_zero_and_not_nan():
    weights = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    own, other = class_gradients(Linear(weights), torch.tensor([[[[500.0, 0.0]]]]))[0]
    assert not own.any() and torch.equal(other.flatten(), torch.tensor([-1.0, 1.0]))
    flat = torch.stack([own, other])[None]
    found = own_and_others(flat, torch.ones_like(flat) * torch.tensor([0.0, 1.0]), torch.tensor([0]))
    assert found[0].item() == 0 and found[1].item() == pytest.approx(math.sqrt(0.5))


# ------------------------------------------------------------------------------------------------------------- cosines


def pairs(*vectors):
    return torch.tensor(vectors, dtype=torch.float32).view(1, len(vectors), 1, 1, -1)


def test_own_class_and_others_are_told_apart():
    gradients = torch.cat([pairs((1, 0), (0, 2), (-1, -1)), pairs((0, 1), (3, 0), (1, 0))])
    targets = torch.cat([pairs((5, 0), (1, 1), (1, 1)), pairs((1, 0), (1, 0), (-1, 0))])
    expected = torch.tensor([[1, math.sqrt(0.5), -1], [0, 1, -1]], dtype=torch.float64)
    torch.testing.assert_close(cosines(gradients, targets), expected)
    own, others = own_and_others(gradients, targets, torch.tensor([1, 0]))
    torch.testing.assert_close(own, torch.tensor([math.sqrt(0.5), 0], dtype=torch.float64))
    torch.testing.assert_close(others, torch.zeros(2, dtype=torch.float64))


def test_tiny_gradients_have_a_direction_and_none_and_nan_count_zero():
    gradients = pairs((3e-30, 4e-30), (0, 0), (math.nan, 1), (math.inf, 0))
    found = cosines(gradients, pairs((3, 4), (1, 0), (1, 0), (1, 0)).half())
    torch.testing.assert_close(found, torch.tensor([[1.0, 0, 0, 0]], dtype=torch.float64), rtol=1e-6, atol=0)


def test_cosines_do_not_depend_on_how_images_are_split():
    gradients, targets = drawn(130, 2, 1, 1, 3), drawn(130, 2, 1, 1, 3, name="targets")
    expected = torch.nn.functional.cosine_similarity(gradients.double(), targets.double(), dim=4)
    torch.testing.assert_close(cosines(gradients, targets), expected.flatten(1))
    with pytest.raises(SettingsError, match=r"gradients = \(130, 2, 1, 1, 3\).*\(1, 2, 1, 1, 3\)"):
        cosines(gradients, targets[:1])


def test_between_classes_by_hand():
    root = math.sqrt(0.5)
    targets = torch.cat([pairs((1, 0), (0, 1), (2, 2)), pairs((1, 0), (5, 0), (0, 0))])
    assert between_classes(targets) == pytest.approx(((0 + root + root) / 3 + (1 + 0 + 0) / 3) / 2)
    assert between_classes(alike(0.57)) == pytest.approx(0.57)


# ---------------------------------------------------------------------------------------------------------- attainable


@pytest.mark.parametrize(("c", "bound"), [(0.92, 0.268), (0.57, 0.622), (0.0, 0.949)])
def test_what_targets_share_cannot_be_followed(c, bound):
    targets = alike(c)
    assert attainable(targets) == pytest.approx(math.sqrt((1 - c) * 0.9)) == pytest.approx(bound, abs=1e-3)
    assert attainable(7 * targets.half()) == pytest.approx(bound, abs=2e-3)


def test_centred_targets_can_be_followed_entirely():
    targets = alike(0.92) * (1 + torch.arange(10)).view(1, 10, 1, 1, 1)
    centred = targets - targets.mean(1, keepdim=True)
    assert attainable(targets) < 0.8 and attainable(centred) == pytest.approx(1)


def best_by_search(targets, chances, starts=6):
    """The largest mean cosine of unit vectors u_t with sum_t p_t |g_t| u_t = 0, by a general solver."""
    from scipy.optimize import minimize

    lengths = np.linalg.norm(targets, axis=1)
    units, weights = targets / lengths[:, None], chances * lengths
    weights = np.minimum(weights, weights.sum() - weights)
    limits = [{"type": "eq", "fun": lambda u: weights @ u.reshape(units.shape)},
              {"type": "eq", "fun": lambda u: (u.reshape(units.shape) ** 2).sum(1) - 1}]
    draws, found = np.random.default_rng(0), -1.0
    for _ in range(starts):
        start = units + draws.normal(size=units.shape)
        done = minimize(lambda u: -(u.reshape(units.shape) * units).sum() / len(units), start.ravel(),
                        constraints=limits, method="SLSQP", options={"maxiter": 500, "ftol": 1e-12})
        if all(np.abs(limit["fun"](done.x)).max() < 1e-6 for limit in limits):
            found = max(found, -done.fun)
    return found


@pytest.mark.parametrize(("chances", "gap"), [(None, 1e-3), ((0.2, 0.3, 0.3, 0.2), 1e-3), ((0.1, 0.4, 0.3, 0.2), 0.03)])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_gradients_of_the_targets_lengths_do_better_and_some_do_as_well(seed, chances, gap):
    """The last chances make one class about as long as all others, where the bound is not reached."""
    targets = drawn(1, 4, 1, 1, 3, name=f"targets {seed}").double() + 1
    bound = attainable(targets, None if chances is None else torch.tensor(chances))
    best = best_by_search(targets.view(4, 3).numpy(), np.array(chances or (0.25,) * 4))
    assert best - 1e-5 < bound < best + gap
    assert bound < 0.8


def test_of_two_classes_one_can_only_be_the_opposite_of_the_other():
    targets = pairs((1, 0, 0), (30, 40, 0))
    half = torch.tensor([1 - 0.6, -0.8]).norm().item() / 2
    assert attainable(targets) == pytest.approx(half) == pytest.approx(attainable(targets, torch.tensor([0.9, 0.1])))


def test_gradients_of_other_lengths_exceed_the_bound():
    """What the docstring warns of: two long opposite gradients set the eight others free."""
    targets = alike(0.92, images=1)
    free = targets.clone()
    free[:, 0] = 1e6 * (targets[:, 0] - targets[:, 1])
    free[:, 1] = -free[:, 0] - free[:, 2:].sum(1)
    assert free.sum(1).abs().amax() < 1e-6
    found = cosines(free, targets).mean().item()
    assert found == pytest.approx(1 - (2 - math.sqrt(2 - 2 * 0.92)) / 10, abs=1e-4)
    assert found > 3 * attainable(targets)


def test_targets_without_a_direction_count_nothing():
    targets = alike(0.5, classes=4, images=2)
    targets[1] = 0
    assert attainable(targets) == pytest.approx(attainable(targets[:1]) / 2)
    assert between_classes(targets) == pytest.approx(0.25)


def test_impossible_chances_are_refused():
    for chances in (torch.ones(3), torch.tensor([1.0, 0, 0, 0])):
        with pytest.raises(SettingsError, match=r"chances = .*positive and of shape \[4\] or \[2, 4\]"):
            attainable(alike(0.5, classes=4, images=2), chances)
    with pytest.raises(SettingsError, match="number of classes = 1"):
        attainable(alike(0.5, classes=1, images=1))


# ---------------------------------------------------------------------------------------------------------- generation


@pytest.fixture(scope="module")
def digits():
    """A small network that knows the digits somewhat, and test images of them."""
    train, test = load(Data("digits"), "train"), load(Data("digits"), "test")
    pixels, stream = train.pixels(), generator("alignment", "batches")
    with initialise_with("alignment", "digits"):
        net = network(MLP((64,)), (1, 8, 8), 10)
    optimiser = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(5):
        for rows in torch.randperm(len(train), generator=stream).split(64):
            optimiser.zero_grad()
            nn.functional.cross_entropy(net(pixels[rows]), train.labels[rows]).backward()
            optimiser.step()
    return net.train(), test.pixels()[:24], test.labels[:24]


def test_generated_images_stay_near_and_show_the_network_its_target(digits):
    net, images, labels = digits
    before, targets = copy.deepcopy(net.state_dict()), (labels + 3) % 10
    moved = generate(net, images, targets, eps=2.0, steps=20, step_size=0.25, batch=10)
    assert net.training and all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    lengths = (moved - images).flatten(1).norm(dim=1)
    assert lengths.max() <= 2 + 1e-5 and lengths.min() > 0.5
    assert moved.min() >= 0 and moved.max() <= 1 and not moved.requires_grad
    still = copy.deepcopy(net).eval()
    chances = [still(x).softmax(1).gather(1, targets[:, None]).detach() for x in (images, moved)]
    assert (chances[1] > chances[0]).all() and chances[1].mean() > 0.9 > 0.1 > chances[0].mean()
    assert torch.equal(moved, generate(net, images, targets, 2.0, 20, 0.25, batch=10)), "nothing is drawn"
    assert torch.equal(generate(net, images, targets, 0, 20, 0.25), images)


def test_a_grid_moves_each_image_to_each_class(digits):
    net, images, _ = digits
    moved = grid(net, images[:3], [7, 2], eps=2.0, steps=5, step_size=0.5)
    assert moved.shape == (3, 2, 1, 8, 8)
    for column, target in enumerate((7, 2)):
        alone = generate(net, images[:3], torch.full((3,), target), 2.0, 5, 0.5)
        torch.testing.assert_close(moved[:, column], alone, rtol=1e-4, atol=1e-4)


def test_the_judge_sees_what_it_sees():
    judge = Linear(torch.eye(3)).train()
    images = torch.tensor([[0.9, 0.1, 0.2], [0.1, 0.2, 0.9], [0.1, 0.8, 0.3], [0.7, 0.8, 0.3]]).view(4, 1, 1, 3)
    seen = target_rate(judge, images, torch.tensor([0, 1, 1, 0]), batch=3)
    assert seen.tolist() == [True, False, True, False] and judge.training


@pytest.mark.parametrize(("wrong", "message"), [
    ({"eps": -1}, "threat.eps = -1"),
    ({"steps": 1.5}, "attack.steps = 1.5"),
    ({"step_size": 0}, "attack.step_size = 0"),
    ({"targets": torch.zeros(2, dtype=torch.int64)}, "number of targets = 2.*images, 24"),
])
def test_impossible_moves_are_refused(digits, wrong, message):
    net, images, labels = digits
    with pytest.raises(SettingsError, match=message):
        generate(net, images, **{"targets": labels, "eps": 1.0, "steps": 2, "step_size": 0.5} | wrong)
