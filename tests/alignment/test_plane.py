"""The exact attack in the plane: boundaries known in closed form, and trained networks that gradients cannot search."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from lib.alignment import plane as toy
from lib.alignment.plane import breaking_distance, decision_map, exactly_robust
from lib.attacks.search import break_images
from lib.data import load
from lib.errors import SettingsError
from lib.models import network
from lib.runtime import generator, initialise_with
from lib.values.architectures import MLP
from lib.values.attacks import PGD
from lib.values.data import Data
from lib.values.threats import Threat

UNIT = 1 / 256


def pixels(points):
    return (0.5 + UNIT * torch.as_tensor(points, dtype=torch.float64)).view(-1, 1, 1, 2).float()


def drawn(count, spread, name="points"):
    return spread * torch.randn(count, 2, generator=generator("toy", name), dtype=torch.float64)


class Field(nn.Module):
    """Two logits of which the second is larger where `height` of the point is positive."""

    def __init__(self, height):
        super().__init__()
        self.height, self.scale = height, nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, images):
        height = self.height((images.flatten(1) - 0.5) / UNIT) * self.scale
        return torch.stack([torch.zeros_like(height), height], 1)


@pytest.fixture(scope="module")
def trained():
    """(network of the toy, its test images, their labels), trained without any regard for robustness."""
    train, test = load(Data("line_of_modes"), "train"), load(Data("line_of_modes"), "test").take(slice(0, 300))
    images, stream = train.pixels(), generator("toy", "batches")
    with initialise_with("toy", "net"):
        net = network(MLP((32,)), (1, 1, 2), 2, UNIT)
    optimiser = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(12):
        for rows in torch.randperm(len(train), generator=stream).split(128):
            optimiser.zero_grad()
            nn.functional.cross_entropy(net(images[rows]), train.labels[rows]).backward()
            optimiser.step()
    return net, test.pixels(), test.labels


# ----------------------------------------------------------------------------------------------------- known boundaries


@pytest.mark.parametrize("normal", [(0.6, -0.8), (1.0, 0.0), (0.0, 1.0)])
def test_the_distance_to_a_straight_boundary_is_exact(normal):
    normal, offset = torch.tensor(normal, dtype=torch.float64), 3.0
    points = drawn(40, 10)
    height = points @ normal + offset
    labels = (height > 0).long()
    labels[:5] = 1 - labels[:5]
    found = breaking_distance(Field(lambda x: x.double() @ normal + offset), pixels(points), labels, most=15)
    expected = height.abs().where(height.abs() <= 15, torch.inf)
    expected[:5] = 0
    assert expected.isinf().sum() > 0 and (expected > 1).sum() > 20
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)


def test_the_distance_to_a_circle_is_exact_from_both_sides():
    points, radius = drawn(60, 8), 7.0
    labels = (points.norm(dim=1) > radius).long()
    assert 10 < labels.sum() < 50
    found = breaking_distance(Field(lambda x: x.norm(dim=1) - radius), pixels(points), labels, most=40)
    torch.testing.assert_close(found, (points.norm(dim=1) - radius).abs(), rtol=0, atol=1e-3)


@pytest.mark.parametrize("point", [(-10.0, 0.0), (-3.07, 6.05), (-2.2, -7.31)])
def test_the_tip_of_a_needle_is_found(point):
    """A wedge of 3 degrees along the first axis with its tip at 0: it is as wide as the lattice only at 4.8."""
    slope = math.tan(math.radians(1.5))
    needle = Field(lambda x: slope * x[:, 0] - x[:, 1].abs())
    found = breaking_distance(needle, pixels([point]), torch.tensor([0]), most=20)
    assert found.item() == pytest.approx(math.hypot(*point), abs=0.05)


def test_an_island_is_found():
    island = Field(lambda x: 0.3 - (x - torch.tensor([4.13, -2.91])).norm(dim=1))
    found = breaking_distance(island, pixels([[0.0, 0.0], [4.1, -2.9]]), torch.tensor([0, 1]), most=20)
    torch.testing.assert_close(found, torch.tensor([math.hypot(4.13, 2.91) - 0.3, 0.3 - math.hypot(0.03, 0.01)],
                                                   dtype=torch.float64), rtol=0, atol=2e-3)


def test_a_constant_network_cannot_be_broken():
    images, labels = pixels(drawn(4, 5)), torch.tensor([0, 0, 1, 0])
    constant = Field(lambda x: -1 - 0 * x[:, 0])
    assert exactly_robust(constant, images, labels, 100.0).tolist() == [True, True, False, True]
    assert breaking_distance(constant, images, labels, 5).tolist() == [math.inf, math.inf, 0, math.inf]


# ----------------------------------------------------------------------------------------------------- trained networks


@pytest.mark.slow
def test_whatever_pgd_breaks_is_broken(trained):
    net, images, labels = trained
    robust = exactly_robust(net, images, labels, [5, 15, 30])
    missed = []
    for row, eps in enumerate((5, 15, 30)):
        threat = Threat("l2", eps * UNIT, box=False)
        broken = torch.zeros(len(images), dtype=torch.bool)
        for attack in (PGD(30, eps * UNIT / 5, restarts=3), PGD(10, 2 * UNIT, random_start=False)):
            broken |= break_images(net, images, labels, threat, attack, torch.arange(len(images))).broken
        assert not (broken & robust[row]).any()
        missed.append(int((~broken & ~robust[row]).sum()))
    assert robust.any() and not robust.all()
    assert sum(missed) > 0, "on this network gradients see less than the search"


def test_whatever_stands_withstands_random_points(trained):
    """No points drawn from the ball, many of them near the found distance, come closer than what was found."""
    net, images, labels = trained
    found = breaking_distance(net, images, labels, 60.0)
    rows = torch.arange(0, len(images), 6)
    rows = rows[found[rows].isfinite() & (found[rows] > 0)]
    assert len(rows) > 20
    stream = generator("toy", "ball")
    angles = 2 * torch.pi * torch.rand(len(rows), 4000, generator=stream, dtype=torch.float64)
    radii = found[rows, None] * (1 - torch.rand(len(rows), 4000, generator=stream, dtype=torch.float64) ** 2)
    away = torch.stack([angles.cos(), angles.sin()], 2) * radii[..., None]
    near = (images[rows].flatten(1).double() - 0.5) / UNIT
    with torch.no_grad():
        said = net(pixels((near[:, None] + away).flatten(0, 1))).argmax(1).view(len(rows), -1)
    wrong = said != labels[rows, None]
    assert (radii.where(wrong, torch.inf).amin(1) >= found[rows] - 0.1).all()


def test_a_finer_lattice_hardly_finds_more(trained):
    net, images, labels = trained
    coarse, fine = (breaking_distance(net, images[::3], labels[::3], 20, resolution=r) for r in (0.25, 0.1))
    assert torch.equal(coarse.isinf(), fine.isinf()) and coarse.isfinite().any()
    excess = (coarse - fine)[coarse.isfinite()]
    assert excess.abs().max() < 0.15 and excess.mean().abs() < 0.01


def test_robust_images_only_get_fewer_with_eps(trained):
    net, images, labels = trained
    budgets = [0, 2, 5, 10, 15, 30]
    robust = exactly_robust(net, images, labels, budgets)
    assert robust.shape == (6, len(images)) and robust.dtype == torch.bool
    assert (robust[1:] <= robust[:-1]).all() and robust[0].sum() > robust[-1].sum()
    assert torch.equal(robust[0], net(images).argmax(1) == labels)
    assert torch.equal(robust[3], exactly_robust(net, images, labels, 10))


def test_images_do_not_depend_on_their_company(trained):
    net, images, labels = trained
    together = breaking_distance(net, images[:30], labels[:30], 20)
    alone = torch.cat([breaking_distance(net, images[k:k + 1], labels[k:k + 1], 20) for k in range(0, 30, 6)])
    torch.testing.assert_close(alone, together[::6], rtol=0, atol=0.1)


# ------------------------------------------------------------------------------------------------------------- the map


def test_a_map_shows_the_probabilities_where_they_are(monkeypatch):
    monkeypatch.setattr(toy, "_ROWS", 100)
    net = Field(lambda x: x[:, 0] - 2 * x[:, 1])
    plane = decision_map(net, (-3, 3), (-1, 5), resolution=0.5)
    assert plane.probability.shape == (13, 13) and len(plane.x) == len(plane.y) == 13
    assert (plane.x[0], plane.x[-1], plane.y[0], plane.y[-1]) == (-3, 3, -1, 5)
    expected = 1 / (1 + np.exp(-(plane.x[None, :] - 2 * plane.y[:, None])))
    np.testing.assert_allclose(plane.probability, expected, atol=1e-4)
    assert decision_map(net, (0, 1), (0, 2), 0.5).probability.shape == (5, 3)


# -------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(("call", "message"), [
    (lambda n, x, y: exactly_robust(n, x, y, -1), "eps = -1.*at least 0"),
    (lambda n, x, y: exactly_robust(n, x, y, []), r"eps = \[\].*at least 0"),
    (lambda n, x, y: breaking_distance(n, x, y, "far"), "most = far.*distance of at least 0"),
    (lambda n, x, y: breaking_distance(n, x, y, 1, resolution=0), "resolution = 0.*greater than 0"),
    (lambda n, x, y: breaking_distance(n, x, y, 1e5), "resolution = 0.25.*at least 3"),
    (lambda n, x, y: breaking_distance(n, x.view(2, 1, 2, 1), y, 1), r"images = \(2, 1, 2, 1\).*\[N, 1, 1, 2\]"),
    (lambda n, x, y: decision_map(n, (1, -1), (0, 1)), "range = 1 to -1"),
])
def test_impossible_questions_are_refused(call, message):
    with pytest.raises(SettingsError, match=message):
        call(Field(lambda x: x[:, 0]), pixels([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([0, 1]))
