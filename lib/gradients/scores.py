"""Scores of the data from denoisers, and how good the denoisers are (Srinivas et al. 2023; the score-based gradients of
Ganz et al. 2023).

Images are [N, C, H, W] with pixels in [0, 1], and sigma is in the same units (half its value for pixels in [-1, 1]).
Scores are gradients of the log-density of noisy images with respect to pixels. Nothing is drawn here: noise is passed
in as standard normal draws [R, N, D] or [R, N, C, H, W], R for each image, so that all compared quantities see the same
noise (`lib.manifold.sensitivity` draws some). A denoiser is a `lib.models.Denoiser` or any function of (noisy images
[B, C, H, W], sigma, labels int64 [B] or None).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lib.door import in_own_state
from lib.errors import is_int, is_number, need
from lib.models import Denoiser

Denoise = Callable[[Tensor, float, Tensor | None], Tensor]


# -------------------------------------------------------------------------------------------------------------- scores


@in_own_state
@torch.no_grad()
def score(net: Denoise, images: Tensor, sigma: float, labels: Tensor | None = None, noise: Tensor | None = None,
          batch: int = 256) -> Tensor:
    """The score [N, C, H, W] of the data with noise of `sigma`, (D(x; sigma) - x) / sigma^2 (Karras et al. 2022).

    It is taken at the clean image x, as in the off-manifold paper's code, or, with `noise`, averaged over the noisy
    images x + sigma n: (mean of D(x + sigma n; sigma) - x) / sigma^2, without the mean of the draws n, which is 0 in
    expectation. labels: int64 [N] for the class-conditional score, None for the unconditional one. Raises SettingsError
    for a sigma that is not positive and finite, for noise of another shape, and for no images.
    """
    parts = _parts(images, sigma, noise, batch)
    rows = [_denoised(net, images[part], sigma, _of(labels, part), noise, part) - images[part] for part in parts]
    return torch.cat(rows) / sigma**2


@in_own_state
@torch.no_grad()
def class_score(net: Denoiser, images: Tensor, sigma: float, noise: Tensor | None = None, batch: int = 256) -> Tensor:
    """The class scores [N, classes, C, H, W]: the class-conditional score minus the unconditional one, which is the
    gradient of log p(class | x) if the denoiser is perfect (score-based gradients of Ganz et al. 2023). They are taken
    at the clean images or averaged over `noise` as in `score`; all classes of an image see the same noise. `batch`
    counts images times classes. Raises SettingsError for a denoiser without classes, and as `score` does.
    """
    classes = getattr(net, "classes", 0)
    need(classes > 0, "denoiser", type(net).__name__, "one with classes")
    asked = torch.arange(-1, classes, device=images.device)
    scores = images.new_empty(len(images), classes, *images.shape[1:])  # no second copy: of ImageNet it takes 49 GB
    for part in _parts(images, sigma, noise, max(1, batch // len(asked))):
        x = images[part].repeat_interleave(len(asked), 0)
        draws = None if noise is None else noise[:, part].repeat_interleave(len(asked), 1)
        found = _denoised(net, x, sigma, asked.repeat(len(images[part])), draws, slice(None))
        found = found.unflatten(0, (-1, len(asked)))
        scores[part] = (found[:, 1:] - found[:, :1]) / sigma**2
    return scores


def _denoised(net: Denoise, x: Tensor, sigma: float, labels: Tensor | None, noise: Tensor | None,
              part: slice) -> Tensor:
    """D at x [B, C, H, W], or its mean over the draws of noise (of the images `part`)."""
    if noise is None:
        return net(x, sigma, labels)
    return torch.stack([net(x + sigma * draw[part].view_as(x), sigma, labels) for draw in noise]).mean(0)


def _parts(images: Tensor, sigma: float, noise: Tensor | None, batch: int) -> Iterator[slice]:
    """Slices of at most `batch` images, after a check that all arguments fit together."""
    need(is_number(sigma, 0) and 0 < sigma < math.inf, "sigma", sigma, "a number greater than 0")
    fits = noise is None or (noise.dim() > 2 and len(noise) > 0 and noise[0].numel() == images.numel())
    shape = None if noise is None else tuple(noise.shape)
    need(fits, "noise", shape, f"of shape [draws, {len(images)}, ...] with a number for each of an image's pixels")
    return slices(images, batch)


def slices(images: Tensor, batch: int) -> Iterator[slice]:
    """Slices of at most `batch` images that cover all images [N, ...] in turn. Raises SettingsError for no images."""
    need(is_int(batch, 1), "batch", batch, "a whole number of at least 1")
    need(len(images) > 0, "number of images", len(images), "at least 1")
    return (slice(k, k + batch) for k in range(0, len(images), batch))


def _of(labels: Tensor | None, part: slice) -> Tensor | None:
    return None if labels is None else labels[part]


# ------------------------------------------------------------------------------------------------------------- quality


@in_own_state
@torch.no_grad()
def denoising_error(net: Denoise, images: Tensor, sigma: float, noise: Tensor, labels: Tensor | None = None,
                    batch: int = 256) -> Tensor:
    """The squared error (D(x + sigma n; sigma) - x)^2 of each image [N], averaged over its pixels and over the draws n
    in `noise` [R, N, ...]. Raises what `score` raises.
    """
    rows = []
    for part in _parts(images, sigma, noise, batch):
        x, y = images[part], _of(labels, part)
        errors = [net(x + sigma * draw[part].view_as(x), sigma, y) - x for draw in noise]
        rows.append(torch.stack(errors).square().flatten(2).mean((0, 2)))
    return torch.cat(rows)


def classified(net: Denoise, images: Tensor, sigma: float, noise: Tensor, batch: int = 256) -> Tensor:
    """The class [N] as which a denoiser sees each image: the one for which its `denoising_error` is smallest (a
    diffusion classifier, Li et al. 2023). Raises SettingsError for a denoiser without classes, and as `score` does.
    """
    classes = getattr(net, "classes", 0)
    need(classes > 0, "denoiser", type(net).__name__, "one with classes")
    labels = torch.arange(classes, device=images.device)[:, None].expand(-1, len(images))
    return torch.stack([denoising_error(net, images, sigma, noise, one, batch) for one in labels], 1).argmin(1)


@dataclass(frozen=True, eq=False)
class Wiener:
    """The best linear denoiser of images with mean m and covariance S, m + S (S + sigma^2 I)^-1 (x - m), for any sigma:
    a baseline that a denoiser must beat, except on Gaussian data, where it is optimal.

    mean: m [D]. vectors: [D, D], the eigenvectors of S as orthonormal columns. values: [D], its eigenvalues.
    """

    mean: Tensor
    vectors: Tensor
    values: Tensor

    @classmethod
    def of(cls, images: Tensor) -> Wiener:
        """The filter of the training images [N, C, H, W]. Solves an eigenvalue problem of size D = C H W, which takes
        about ten seconds for D = 3072. Raises SettingsError for fewer than 2 images.
        """
        need(len(images) > 1, "number of images", len(images), "at least 2 for a covariance")
        flat = images.flatten(1)
        mean = flat.mean(0)
        centred = flat - mean
        values, vectors = torch.linalg.eigh(centred.T @ centred / (len(flat) - 1))
        return cls(mean, vectors, values.clamp(min=0))

    def __call__(self, images: Tensor, sigma: float, labels: Tensor | None = None) -> Tensor:
        kept = (images.flatten(1) - self.mean) @ self.vectors * (self.values / (self.values + sigma**2))
        return (kept @ self.vectors.T + self.mean).view_as(images)


def errors_against_wiener(net: Denoise, train: Tensor, images: Tensor, sigma: float,
                          noise: Tensor) -> dict[str, Tensor]:
    """The `denoising_error` [N] at the images [N, C, H, W] of the `denoiser` and of the `Wiener` filter of the training
    images `train`.
    """
    nets = {"denoiser": net, "Wiener": Wiener.of(train)}
    return {name: denoising_error(one, images, sigma, noise) for name, one in nets.items()}


def beats_wiener(name: str, denoiser: float, wiener: float, sigma: float) -> tuple[str, bool, str]:
    """Whether a denoiser's mean error is below the Wiener filter's: (the check, its outcome, the numbers)."""
    return (f"the {name} beats the best linear filter", denoiser < wiener,
            f"squared error {denoiser:.2e} at noise {sigma:g}, Wiener filter {wiener:.2e}")
