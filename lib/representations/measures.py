"""Measures of similarity between two representations of the same n images, features [n, p] and [n, q].

Each is computed from Gram matrices [n, n] if p is larger than n, or from scatter matrices [p, q] if p is smaller. All
use centred features and lie in [0, 1], except the unbiased CKA, which scatters around 0 for unrelated features. A
representation compared with itself gives 1, and every measure is symmetric.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lib.door import in_own_state
from lib.errors import need, unknown
from lib.representations.gram import double_centred, rounding, u_centred

INVARIANCES = ("rotation", "scaling", "permutation", "shift", "linear")
DIRECTIONS = 20  # singular directions that SVCCA keeps
RANK = 1e-12  # eigenvalues below this share of the largest are rounding: features are known to 1e-7 of their size


@dataclass(frozen=True, eq=False)
class Scatter:
    """What the measures need from one representation, in fp64: the scatter matrix Xc'Xc [p, p] of its centred features,
    and the squared norms |x_i|^2 [n] of the centred rows.
    """

    scatter: Tensor
    norms: Tensor

    @functools.cached_property
    def basis(self) -> tuple[Tensor, Tensor]:
        """Principal directions [p, r] and singular values [r] of the centred features, largest first."""
        values, vectors = torch.linalg.eigh(self.scatter)
        values, vectors = values.flip(0), vectors.flip(1)
        kept = values > RANK * values[0].clamp(min=0)
        return vectors[:, kept], values[kept].sqrt()


@dataclass(frozen=True)
class Measure:
    """A measure and the transformations of either representation that do not change it.

    invariances: some of `INVARIANCES`: an orthogonal map of the features, a positive factor, another order of the
    features, a shift of all images, any invertible linear map of the features.

    of_scatter: maps (x, y, Xc'Yc [p, q]) to the value, for p, q < n. For p > n there is one of two functions: `centre`
    maps a Gram to a matrix such that the value is the cosine between two of these; `factor` maps a double-centred Gram
    (fp64) to a matrix F [n, k] such that the value is `total` of the singular values of F'G. A measure with neither
    needs fewer features than images.
    """

    name: str
    invariances: frozenset[str]
    of_scatter: Callable[[Scatter, Scatter, Tensor], Tensor] = field(repr=False)
    centre: Callable[[Tensor], Tensor] | None = field(default=None, repr=False)
    factor: Callable[[Tensor], Tensor] | None = field(default=None, repr=False)
    total: Callable[[Tensor], Tensor] = field(default=torch.sum, repr=False)

    @property
    def takes_grams(self) -> bool:
        """Whether the measure allows more features than images."""
        return self.centre is not None or self.factor is not None

    def of_factors(self, x: Tensor, y: Tensor) -> Tensor:
        """The value, from the `factor` of both Grams."""
        return self.total(torch.linalg.svdvals(x.T @ y))

    def strength(self, x: Scatter) -> Tensor:
        """The Frobenius norm of the centred Gram, computed from features; it must exceed `rounding`."""
        square = _hsic(x, x, x.scatter) if self.centre is u_centred else x.scatter.square().sum()
        return square.clamp(min=0).sqrt()


def named(name: str) -> Measure:
    """The measure of this name; raises SettingsError for an unknown one."""
    if name not in MEASURES:
        raise unknown("measure", name, MEASURES)
    return MEASURES[name]


@in_own_state
def compare(x, y, measure: str = "cka") -> float:
    """The similarity of features x [n, p] and y [n, q] (arrays or tensors) of the same n >= 4 images, in fp64.

    measure: "cka", linear CKA (Kornblith et al. 2019) with the unbiased HSIC estimator; "cka_biased", with the biased
    one, inflated unless p << n; "procrustes", 1 - d/2 for the orthogonal Procrustes distance d of features of Frobenius
    norm 1 (Ding et al. 2021); "cca", the mean canonical correlation; "svcca", the same over the top 20 singular
    directions (Raghu et al. 2017); "pwcca", weighted by how much the directions explain (Morcos et al. 2018). If
    p + q >= n, some canonical correlations are perfect for any features. The value lies in [0, 1] ("cka": up to 1). It
    is NaN if a representation does not differ between images beyond the rounding of its own type.

    Raises SettingsError for an unknown measure, shapes that do not fit, fewer than 4 images, values that are not
    finite, and for "cca" and "pwcca" with p or q >= n, where they are perfect for any features.
    """
    kind = named(measure)
    x, eps_x = _features(x, "x")
    y, eps_y = _features(y, "y")
    need(len(x) == len(y), "y", f"features of {len(y)} images", f"of the {len(x)} images of x, in the same order")
    n, most = len(x), max(x.shape[1], y.shape[1])
    check_features(kind, most, n)
    means, centred = zip(*((z.mean(0), z - z.mean(0)) for z in (x, y)), strict=True)
    level = [n * mean.square().sum() for mean in means]
    spread = [z.square().sum() for z in centred]
    widths = [z.shape[1] for z in centred]
    floor = [rounding(*known) for known in zip(spread, level, widths, (eps_x, eps_y), strict=True)]
    if most >= n and kind.takes_grams:
        return float(_by_grams(kind, [z @ z.T for z in centred], floor))
    sides = [Scatter(z.T @ z, z.square().sum(1)) for z in centred]
    if any(kind.strength(side) <= least for side, least in zip(sides, floor, strict=True)):
        return float("nan")
    return float(kind.of_scatter(*sides, centred[0].T @ centred[1]))


def _by_grams(kind: Measure, grams: list[Tensor], floor: list[Tensor]) -> Tensor | float:
    centred = [(kind.centre or double_centred)(gram) for gram in grams]
    norms = [gram.norm() for gram in centred]
    if any(norm <= least for norm, least in zip(norms, floor, strict=True)):
        return float("nan")
    if kind.centre:
        return (centred[0] * centred[1]).sum() / (norms[0] * norms[1])
    return kind.of_factors(*(kind.factor(gram) for gram in centred))


def check_features(kind: Measure, features: int, images: int, where: str = "") -> None:
    """Raise SettingsError if the measure is meaningless for this number of features and images; `where` is added to the
    number in the message.
    """
    need(kind.takes_grams or features < images, "number of features", f"{features}{where}",
         f"below the {images} images for {kind.name}, which is otherwise perfect for any features: pool them, reduce "
         f"them or take more images")


def _features(x, name: str) -> tuple[Tensor, float]:
    """Features in fp64 and the relative rounding error of the type they came in."""
    x = torch.as_tensor(x).detach()
    eps = torch.finfo(x.dtype if x.is_floating_point() else torch.float64).eps
    need(x.dim() == 2, name, f"an array of shape {tuple(x.shape)}", "of shape [images, features]")
    need(len(x) >= 4, name, f"features of {len(x)} images", "of at least 4 images")
    need(bool(x.isfinite().all()), name, "features with NaN or infinite values", "finite")
    x, largest = x.double(), float(x.abs().max())
    return (x / largest if not 1e-100 < largest < 1e100 and largest else x), eps  # whose squares fp64 cannot hold


# ------------------------------------------------------------------------------------------------- on scatter matrices


def _hsic(x: Scatter, y: Scatter, xy: Tensor) -> Tensor:
    """n (n - 3) HSIC1 = |X'Y|_F^2 - n/(n-2) sum_i a_i b_i + (sum a)(sum b)/((n-1)(n-2)) with squared row norms a, b."""
    n = len(x.norms)
    rows = n / (n - 2) * (x.norms @ y.norms) - x.norms.sum() * y.norms.sum() / ((n - 1) * (n - 2))
    return xy.square().sum() - rows


def _cka(x: Scatter, y: Scatter, xy: Tensor) -> Tensor:
    return _hsic(x, y, xy) / (_hsic(x, x, x.scatter) * _hsic(y, y, y.scatter)).sqrt()


def _cka_biased(x: Scatter, y: Scatter, xy: Tensor) -> Tensor:
    return xy.square().sum() / (x.scatter.norm() * y.scatter.norm())


def _procrustes(x: Scatter, y: Scatter, xy: Tensor) -> Tensor:
    """|A'B|_* with A = Xc / |Xc|_F, and B likewise: 1 - d/2 for d = |A|^2 + |B|^2 - 2 |A'B|_*."""
    return torch.linalg.svdvals(xy).sum() / (x.scatter.trace() * y.scatter.trace()).sqrt()


def _whitened(x: Scatter, y: Scatter, xy: Tensor, most: int | None = None) -> Tensor:
    """U'V for orthonormal bases U, V of the spans of the centred features, or of their top `most` singular directions.
    """
    (vx, sx), (vy, sy) = x.basis, y.basis
    return (vx[:, :most].T @ xy @ vy[:, :most]) / (sx[:most, None] * sy[None, :most])


def _cca(x: Scatter, y: Scatter, xy: Tensor) -> Tensor:
    return torch.linalg.svdvals(_whitened(x, y, xy)).mean()


def _svcca(x: Scatter, y: Scatter, xy: Tensor) -> Tensor:
    return torch.linalg.svdvals(_whitened(x, y, xy, DIRECTIONS)).mean()


def _pwcca(x: Scatter, y: Scatter, xy: Tensor) -> Tensor:
    """Canonical correlations weighted by sum_j |h_i' x_j| over the neurons j, where h_i are the canonical variables
    (Morcos et al. 2018), of the representation of lower rank. For equal ranks the two values are averaged, so that the
    order of the representations does not matter. (The public code always uses the first one's neurons.) Directions of
    equal correlation are only known up to a rotation, which changes the weights: if many correlations are perfect, the
    last digits mean nothing.
    """
    left, correlations, right = torch.linalg.svd(_whitened(x, y, xy), full_matrices=False)

    def weighted(side: Scatter, directions: Tensor) -> Tensor:
        vectors, values = side.basis
        weights = ((directions.T * values) @ vectors.T).abs().sum(1)
        return (weights * correlations).sum() / weights.sum()

    ranks = len(x.basis[1]), len(y.basis[1])
    by_x, by_y = weighted(x, left), weighted(y, right.T)
    return (by_x + by_y) / 2 if ranks[0] == ranks[1] else by_x if ranks[0] < ranks[1] else by_y


# ----------------------------------------------------------------------------------------------------- on Gram matrices


def _principal(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvectors [n, r] and eigenvalues [r] of a Gram of centred features, largest first."""
    values, vectors = torch.linalg.eigh(gram)
    values, vectors = values.flip(0), vectors.flip(1)
    kept = values > RANK * values[0].clamp(min=0)
    return vectors[:, kept], values[kept]


def _root(gram: Tensor) -> Tensor:
    """F with F F' = K / tr K, so that |A'B|_* is the nuclear norm of F'G."""
    vectors, values = _principal(gram)
    return vectors * (values / values.sum()).sqrt()


def _top_directions(gram: Tensor) -> Tensor:
    return _principal(gram)[0][:, :DIRECTIONS]


_ROTATION = frozenset(INVARIANCES) - {"linear"}

MEASURES = {measure.name: measure for measure in (
    Measure("cka", _ROTATION, _cka, centre=u_centred),
    Measure("cka_biased", _ROTATION, _cka_biased, centre=double_centred),
    Measure("procrustes", _ROTATION, _procrustes, factor=_root),
    Measure("cca", frozenset(INVARIANCES), _cca),
    Measure("svcca", _ROTATION, _svcca, factor=_top_directions, total=torch.mean),
    # the weights are sums of absolute values over neurons: a rotation of the neurons changes them
    Measure("pwcca", frozenset({"scaling", "permutation", "shift"}), _pwcca),
)}
