"""Robustness of a classifier in the plane, by exhaustive search instead of an attack: for the toy experiment of Ganz et
al. (2023).

Points [N, 1, 1, 2] are stored as pixels = 0.5 + unit * coordinates (lib/data/closed_forms.py). Eps, distances and
resolutions are l2 lengths in coordinates; points are not restricted to a box.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from lib.door import in_own_state
from lib.errors import is_number, need
from lib.models import folded
from lib.models.staged import device_of, precision_of
from lib.values.data import DATASETS

UNIT = DATASETS["line_of_modes"].unit
_ROWS = 1 << 18  # points that pass the network at once
_PAIRS = 1 << 22  # distances that are computed at once
_MOST = 1 << 25  # the largest number of points of a lattice
_HALVINGS = 16
_ROUNDS, _RAYS, _TRIES = 16, 9, 5  # of the search around the nearest point found

OfPoints = Callable[[Tensor], Tensor]


class Plane(NamedTuple):
    """The probability of class 1 over the plane: probability[j, i], in [0, 1], belongs to the point (x[i], y[j])."""

    x: np.ndarray
    y: np.ndarray
    probability: np.ndarray


@in_own_state
def decision_map(net: nn.Module, x: tuple[float, float], y: tuple[float, float], resolution: float = 0.5,
                 unit: float = UNIT) -> Plane:
    """The output of a network of two classes on a lattice from x[0] to x[1] and y[0] to y[1], points `resolution`
    apart. Raises SettingsError for an empty range and a resolution that is not positive.
    """
    xs, ys = _axis(*x, resolution), _axis(*y, resolution)
    logits = _network(net, unit)
    chances = torch.cat([logits(part).softmax(1)[:, 1] for part in _lattice(xs, ys).split(_ROWS)])
    return Plane(xs.numpy(), ys.numpy(), chances.view(len(ys), len(xs)).cpu().numpy())


@in_own_state
def exactly_robust(net: nn.Module, images: Tensor, labels: Tensor, eps: float | Sequence[float],
                   resolution: float = 0.25, unit: float = UNIT) -> Tensor:
    """Whether no point within l2 distance `eps` of an image [N, 1, 1, 2] is misclassified: bool [N], or [E, N] for a
    sequence of E eps. At eps 0 this is whether the image itself is classified correctly. It rests on
    `breaking_distance`, so an image that breaks at one eps breaks at all larger ones. Raises SettingsError for a
    negative eps, and as `breaking_distance` does.
    """
    asked = torch.as_tensor(eps, dtype=torch.float64)
    need(bool((asked >= 0).all()) and asked.numel() > 0, "eps", eps, "numbers of at least 0")
    distances = breaking_distance(net, images, labels, float(asked.max()), resolution, unit)
    return distances > asked.to(distances.device)[..., None]


@in_own_state
@torch.no_grad()
def breaking_distance(net: nn.Module, images: Tensor, labels: Tensor, most: float, resolution: float = 0.25,
                      unit: float = UNIT) -> Tensor:
    """The l2 distance, float64 [N], from each image [N, 1, 1, 2] to the nearest misclassified point: 0 if the image
    itself is misclassified, inf if there is no such point within `most`. labels: int64 [N].

    All images share one search. The network is evaluated on a lattice of points `resolution` apart that covers their
    surroundings, and bisection finds the decision boundary wherever two neighbours differ. Then rays from each image,
    around the direction of its nearest boundary point, are bisected, ever closer to the best ray. A distance always
    belongs to a point seen to be misclassified. It can only be too large, if a region narrower than `resolution` slips
    through the lattice (on trained toys, compared with a lattice of 0.04: by 1e-4 on average, by 0.06 at most). Raises
    SettingsError for other shapes, a negative `most`, and a resolution too fine for so large a lattice.
    """
    need(is_number(most, 0), "most", most, "a distance of at least 0")
    need(tuple(images.shape[1:]) == (1, 1, 2) and len(images) > 0, "shape of the images", tuple(images.shape),
         "[N, 1, 1, 2] with at least 1 image")
    logits = _network(net, unit)

    def says(points: Tensor) -> Tensor:
        return torch.cat([logits(part).argmax(1) for part in points.split(_ROWS)])

    points = (images.flatten(1).double() - 0.5) / unit
    distances = torch.zeros(len(points), dtype=torch.float64, device=points.device)
    right = says(points) == labels
    if not right.any():
        return distances
    distances[right] = torch.inf
    ends, classes = _boundary(says, points[right], most, resolution)
    for label in labels[right].unique():
        rows = (right & (labels == label)).nonzero().squeeze(1)
        wrong = ends[classes != label]
        for part in rows.split(max(1, _PAIRS // len(wrong))) if len(wrong) else ():
            nearest = wrong[torch.cdist(points[part], wrong).argmin(1)]
            distances[part] = _refined(says, points[part], nearest, int(label), resolution)
    return distances.where(distances <= most, torch.inf)


def _network(net: nn.Module, unit: float) -> OfPoints:
    """A function from points [B, 2], in coordinates, to logits [B, K] of the network in eval mode."""
    net = folded(net)
    device, dtype = device_of(net), precision_of(net)

    @torch.no_grad()
    def logits(points: Tensor) -> Tensor:
        return net((0.5 + unit * points).view(-1, 1, 1, 2).to(device, dtype))

    return logits


def _axis(low: float, high: float, resolution: float) -> Tensor:
    need(is_number(resolution, 0) and resolution > 0, "resolution", resolution, "a distance greater than 0")
    need(low < high, "range", f"{low:g} to {high:g}", "from a smaller to a larger number")
    return torch.linspace(low, high, round((high - low) / resolution) + 1, dtype=torch.float64)


def _lattice(xs: Tensor, ys: Tensor) -> Tensor:
    """All points [len(ys) * len(xs), 2]; x runs fastest."""
    y, x = torch.meshgrid(ys, xs, indexing="ij")
    return torch.stack([x, y], 2).view(-1, 2)


def _boundary(says: OfPoints, points: Tensor, most: float, resolution: float) -> tuple[Tensor, Tensor]:
    """Points [M, 2] next to the decision boundary, on both sides of it, and their classes [M]. They lie wherever the
    boundary passes between neighbours of a lattice that reaches `most` beyond the points.
    """
    room = most + 2 * resolution
    low, high = (points.amin(0) - room).tolist(), (points.amax(0) + room).tolist()
    xs, ys = (_axis(a, b, resolution) for a, b in zip(low, high, strict=True))
    fine = resolution * (len(xs) * len(ys) / _MOST) ** 0.5
    need(fine <= resolution, "resolution", resolution, f"at least {fine:.2g} for points and eps so far apart")
    lattice = _lattice(xs, ys).to(points.device)
    classes = says(lattice).view(len(ys), len(xs))
    place = torch.arange(len(lattice), device=points.device).view_as(classes)
    neighbours = ((place[:, :-1], place[:, 1:]), (place[:-1], place[1:]))
    pairs = torch.cat([torch.stack([one.flatten(), other.flatten()]) for one, other in neighbours], 1)
    one, other = pairs[:, classes.flatten()[pairs[0]] != classes.flatten()[pairs[1]]]
    a, b = lattice[one], lattice[other]
    if not len(a):
        return a, place.new_empty(0)
    first = says(a)
    for _ in range(_HALVINGS):
        middle = (a + b) / 2
        same = (says(middle) == first)[:, None]
        a, b = torch.where(same, middle, a), torch.where(same, b, middle)
    ends = torch.cat([a, b])
    return ends, says(ends)


def _refined(says: OfPoints, points: Tensor, nearest: Tensor, label: int, resolution: float) -> Tensor:
    """Distances [B] from points [B, 2] to the nearest point found that is not of class `label`, starting from `nearest`
    [B, 2], the nearest ones so far. Rays close to their directions are tried at the same distance and somewhat closer,
    and bisected if a try is misclassified. This is repeated around the best ray, in a narrower fan unless that ray lies
    at its edge.
    """
    ticks = torch.linspace(-1, 1, _RAYS, dtype=torch.float64, device=points.device)
    closer = torch.linspace(0, 1, _TRIES, dtype=torch.float64, device=points.device)
    away = nearest - points
    best, angle = away.norm(dim=1), torch.atan2(away[:, 1], away[:, 0])
    reach = (2 * resolution / best.clamp(min=1e-12)).clamp(max=torch.pi)
    for _ in range(_ROUNDS):
        angles = angle[:, None] + reach[:, None] * ticks
        rays = torch.stack([angles.cos(), angles.sin()], 2)
        tries = best[:, None, None] * (1 - reach[:, None, None] * closer).clamp(min=0).expand(-1, _RAYS, -1)
        tips = points[:, None, None] + tries[..., None] * rays[:, :, None]
        wrong = (says(tips.flatten(0, 2)) != label).view_as(tries)
        lengths = tries.where(wrong, torch.inf).amin(2)
        image, ray = lengths.isfinite().nonzero().unbind(1)
        start, along, high = points[image], rays[image, ray], lengths[image, ray]
        low = (high - 4 * resolution).clamp(min=0)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            inside = says(start + middle[:, None] * along) != label
            low, high = torch.where(inside, low, middle), torch.where(inside, middle, high)
        lengths[image, ray] = high
        least, place = lengths.min(1)
        moved = (ticks[place] * reach).where(least < best, 0)
        best, angle = torch.minimum(best, least), angle + moved
        reach = torch.where(moved.abs() > reach / 2, reach, reach / 2)
    return best
