"""Data drawn from distributions in closed form: the manifold, the Bayes posterior and the score are known exactly at
every point, so networks and their gradients can be compared with the truth.

A point x of such a set, a vector of D coordinates, is stored as an image: pixels = 0.5 + unit * x, with the `unit` of
its `DatasetInfo`. Networks divide by the same unit and so receive x. Everything here takes and returns pixels: lengths
and noise are `unit` times, and gradients 1 / unit times, as large as those of x. Pixels may leave [0, 1]. Points,
distributions and gradients have the dtype and device of the given pixels.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from torch import Tensor

from lib.errors import is_number, need, unknown
from lib.runtime import generator
from lib.values.data import DATASETS


class ClosedForm:
    """A data set in closed form: `sample` gives its official splits."""

    def __init__(self, name: str):
        self.name, self.info = name, DATASETS[name]
        self.classes, self.unit = self.info.classes, self.info.unit

    def pixels(self, points: Tensor) -> Tensor:
        """Points [N, D] as pixels [N, C, H, W]."""
        return (0.5 + self.unit * points).view(-1, *self.info.shape)

    def points(self, pixels: Tensor) -> Tensor:
        """Pixels [N, ...] as points [N, D]."""
        return (pixels.flatten(1) - 0.5) / self.unit

    def sample(self, split: str) -> tuple[Tensor, Tensor]:
        """Pixels (float32 [N, C, H, W]) and labels (int64 [N], the classes in turn) of the whole split "train" or
        "test": the same on every call, each split drawn from its own stream. Raises SettingsError for another split.
        """
        if split not in ("train", "test"):
            raise unknown("official split", split, ("train", "test"))
        turn = torch.arange(getattr(self.info, split))
        points, labels = self._draw(turn, self._stream(split))
        return self.pixels(points).float(), labels

    def _stream(self, of: str) -> torch.Generator:
        return generator("closed form", self.name, self.info.version, of)

    def _draw(self, turn: Tensor, stream: torch.Generator) -> tuple[Tensor, Tensor]:
        """Points (float64 [N, D]) and labels (int64 [N]) of the images number `turn` (int64 [N])."""
        raise NotImplementedError


class Manifold(ClosedForm):
    """Points near a manifold of k dimensions with their densities; all classes are equally probable.

    sigma: the standard deviation of Gaussian noise on all pixels, 0 for none. Densities, posteriors and scores are then
    those of noisy images, and the given pixels are taken for noisy images.
    """

    def __init__(self, name: str, dims: int):
        super().__init__(name)
        self.basis = _orthonormal(math.prod(self.info.shape), dims, self._stream("basis"))

    def tangents(self, pixels: Tensor) -> Tensor:
        """Orthonormal bases [N, D, k] of the tangent spaces at the points of the manifold nearest to pixels [N, ...].
        """
        raise NotImplementedError

    def log_posterior(self, pixels: Tensor, sigma: float = 0.0) -> Tensor:
        """log p(class | pixels) [N, classes] of pixels [N, ...], differentiable: the Bayes classifier's output. Raises
        SettingsError for a negative sigma.
        """
        return self._by_class(self.points(pixels), self._noise(sigma)).log_softmax(1)

    def class_log_density(self, pixels: Tensor, sigma: float = 0.0) -> Tensor:
        """log p(pixels | class) [N, classes] of pixels [N, ...], differentiable. Raises SettingsError for a negative
        sigma, or one at which there is no density.
        """
        points, noise = self.points(pixels), self._noise(sigma)
        self._check_density(sigma)
        stretch = points.shape[1] * math.log(self.unit)
        return self._by_class(points, noise) + self._of_all(points, noise)[:, None] - stretch

    def log_density(self, pixels: Tensor, sigma: float = 0.0) -> Tensor:
        """log p(pixels) [N]; arguments and errors as for `class_log_density`."""
        return self.class_log_density(pixels, sigma).logsumexp(1) - math.log(self.classes)

    def score(self, pixels: Tensor, sigma: float = 0.0) -> Tensor:
        """The gradient of `log_density` with respect to the pixels, of the same shape."""
        return _gradient(lambda x: self.log_density(x, sigma), pixels)

    def class_score(self, pixels: Tensor, sigma: float = 0.0) -> Tensor:
        """The gradients of `class_log_density` with respect to pixels, one for each class: [N, classes, C, H, W]."""
        grads = [_gradient(lambda x, c=c: self.class_log_density(x, sigma)[:, c], pixels) for c in range(self.classes)]
        return torch.stack(grads, dim=1)

    def _noise(self, sigma: float) -> float:
        """The noise's standard deviation in units of points."""
        need(is_number(sigma, 0) and math.isfinite(sigma), "sigma", sigma, "a number of pixels of at least 0")
        return float(sigma) / self.unit

    def _check_density(self, sigma: float) -> None:
        """Raise SettingsError where there is no density."""

    def _by_class(self, points: Tensor, noise: float) -> Tensor:
        """log p(point | class) [N, classes] up to a term that is the same for all classes. That term is kept apart
        because it is large off the manifold: in a sum with it, posteriors would lose digits and their gradients would
        be tilted.
        """
        raise NotImplementedError

    def _of_all(self, points: Tensor, noise: float) -> Tensor:
        """The term of log p(point | class) that all classes share, [N]."""
        raise NotImplementedError


class GaussianSubspace(Manifold):
    """x = U z + tau n with z ~ N(mu_c, I) in 4 dimensions and mu_c = 2 e_c for class c, a random orthonormal basis U
    [128, 4], and n ~ N(0, I) in all 128 dimensions, tau = 0.05.

    Class densities are Gaussian with covariance U U^T + tau^2 I, so the posterior depends only on U^T x, and its
    gradient lies in the span of U. The Bayes accuracy is 0.822.
    """

    NORM, TAU = 2.0, 0.05

    def __init__(self):
        super().__init__("gaussian_subspace", 4)
        self.means = self.NORM * torch.eye(4, dtype=torch.float64)

    def _draw(self, turn: Tensor, stream: torch.Generator) -> tuple[Tensor, Tensor]:
        labels = turn % self.classes
        latent, ambient = (_normal(len(turn), dims, stream) for dims in reversed(self.basis.shape))
        return (self.means[labels] + latent) @ self.basis.T + self.TAU * ambient, labels

    def tangents(self, pixels: Tensor) -> Tensor:
        return self.basis.to(pixels).expand(len(pixels), -1, -1)

    def _by_class(self, points: Tensor, noise: float) -> Tensor:
        along, means = points @ self.basis.to(points), self.means.to(points)
        return -(along[:, None] - means).square().sum(2) / (2 * (1 + self._variance(noise)))

    def _of_all(self, points: Tensor, noise: float) -> Tensor:
        basis, across = self.basis.to(points), self._variance(noise)
        dims, k = basis.shape
        off = (points - points @ basis @ basis.T).square().sum(1)
        logs = k * math.log(1 + across) + (dims - k) * math.log(across) + dims * math.log(2 * math.pi)
        return -off / (2 * across) - logs / 2

    def _variance(self, noise: float) -> float:
        """The variance in directions orthogonal to the subspace."""
        return self.TAU**2 + noise**2


class CurvedTorus(Manifold):
    """Four circles of radius sqrt(2), a flat torus in 8 dimensions, mapped into 128 by a random orthonormal map: x = A
    (r cos a_1, r sin a_1, ..., r sin a_4). The angles of class c are independent von Mises draws of concentration 1.4
    around means that are multiples of a quarter turn. Points lie exactly on the torus; their mean square length is
    that of GaussianSubspace without its ambient noise. The Bayes accuracy is 0.86.

    Without noise, points off the torus have no density; their `log_posterior` is the one of the nearest point of the
    torus, so the gradient lies in the tangent space there. With noise, posterior and score are exact everywhere. Points
    at which both coordinates of a circle are 0 have no nearest point and are excluded from these statements.
    """

    RADIUS, KAPPA, CIRCLES = math.sqrt(2), 1.4, 4
    TURNS = (1, 1, 2, 3)  # class c has the mean angle c * turns / 4 of a whole turn: all classes far from each other

    def __init__(self):
        super().__init__("curved_torus", 2 * self.CIRCLES)
        self.modes = math.pi / 2 * torch.arange(self.classes)[:, None] * torch.tensor(self.TURNS, dtype=torch.float64)

    def _draw(self, turn: Tensor, stream: torch.Generator) -> tuple[Tensor, Tensor]:
        labels = turn % self.classes
        shares = torch.rand(len(turn), self.CIRCLES, generator=stream, dtype=torch.float64)
        angles = self.modes[labels] + _von_mises(shares, self.KAPPA)
        return self.RADIUS * _directions(angles).flatten(1) @ self.basis.T, labels

    def tangents(self, pixels: Tensor) -> Tensor:
        pairs = self._pairs(self.points(pixels))
        x, y = (pairs / pairs.norm(dim=2, keepdim=True)).unbind(2)
        around = torch.stack([-y, x], dim=2)  # [N, circles, 2]
        embedded = torch.zeros(len(around), self.CIRCLES, 2, self.CIRCLES).to(around)
        for k in range(self.CIRCLES):
            embedded[:, k, :, k] = around[:, k]
        return self.basis.to(around) @ embedded.flatten(1, 2)

    def _pairs(self, points: Tensor) -> Tensor:
        """The two coordinates of each circle: [N, circles, 2]."""
        return (points @ self.basis.to(points)).unflatten(1, (self.CIRCLES, 2))

    def _by_class(self, points: Tensor, noise: float) -> Tensor:
        """Each angle has the density exp(kappa cos(a - mode)) / (2 pi I0(kappa)); the integral over the angle of its
        product with the noise's density is again the normalising constant of a von Mises density.
        """
        pairs, modes = self._pairs(points)[:, None], _directions(self.modes).to(points)  # [N, 1, 4, 2], [classes, 4, 2]
        if not noise:
            return self.KAPPA * (pairs / pairs.norm(dim=3, keepdim=True) * modes).sum((2, 3))
        lengths = (self.KAPPA * modes + self.RADIUS / noise**2 * pairs).norm(dim=3)
        return (torch.special.i0e(lengths).log() + lengths).sum(2)

    def _of_all(self, points: Tensor, noise: float) -> Tensor:
        squares = points.square().sum(1) + self.CIRCLES * self.RADIUS**2
        logs = points.shape[1] / 2 * math.log(2 * math.pi * noise**2) + self.CIRCLES * math.log(np.i0(self.KAPPA))
        return -squares / (2 * noise**2) - logs

    def _check_density(self, sigma: float) -> None:
        need(sigma > 0, "sigma", sigma, f"greater than 0 for {self.name}, which has no density without noise")


class LineOfModes(ClosedForm):
    """The toy data of Ganz et al. (2023): points on the line x2 = 2 x1 with x1 = 10 c + N(0, 1) for six centres c, -5,
    -1 and 3 for class 0 and -3, 1 and 5 for class 1; all centres have equally many points.
    """

    CENTRES = (-5, -3, -1, 1, 3, 5)

    def __init__(self):
        super().__init__("line_of_modes")

    def _draw(self, turn: Tensor, stream: torch.Generator) -> tuple[Tensor, Tensor]:
        modes = turn % len(self.CENTRES)
        first = 10 * torch.tensor(self.CENTRES, dtype=torch.float64)[modes] + _normal(len(turn), 1, stream)[:, 0]
        return torch.stack([first, 2 * first], dim=1), modes % 2


FORMS = {"gaussian_subspace": GaussianSubspace, "curved_torus": CurvedTorus, "line_of_modes": LineOfModes}


@functools.lru_cache
def of(name: str) -> ClosedForm:
    """The closed form of the data set `name`; raises SettingsError for one that has none."""
    if name not in FORMS:
        raise unknown("data set in closed form", name, FORMS)
    return FORMS[name]()


def _normal(count: int, dims: int, stream: torch.Generator) -> Tensor:
    return torch.randn(count, dims, generator=stream, dtype=torch.float64)


def _orthonormal(dims: int, count: int, stream: torch.Generator) -> Tensor:
    """A random orthonormal basis [dims, count], uniform over all; the signs do not depend on the LAPACK in use."""
    q, r = torch.linalg.qr(_normal(dims, count, stream))
    return q * r.diagonal().sign()


def _directions(angles: Tensor) -> Tensor:
    return torch.stack([angles.cos(), angles.sin()], dim=-1)


def _von_mises(shares: Tensor, kappa: float) -> Tensor:
    """The quantiles, in [-pi, pi], of a von Mises distribution around 0 at the probabilities `shares`: its distribution
    function, summed on a grid, inverted.
    """
    grid = np.linspace(-math.pi, math.pi, 2**16 + 1)
    density = np.exp(kappa * np.cos(grid))
    below = np.concatenate([[0.0], np.cumsum(density[1:] + density[:-1])])
    return torch.from_numpy(np.interp(shares.numpy(), below / below[-1], grid))


def _gradient(function, pixels: Tensor) -> Tensor:
    """The gradient with respect to the pixels of a function that treats each image separately."""
    with torch.enable_grad():
        leaf = pixels.detach().requires_grad_()
        return torch.autograd.grad(function(leaf).sum(), leaf)[0]
