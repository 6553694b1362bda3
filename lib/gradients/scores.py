"""Scores of the data from denoisers, how good the denoisers are, input gradients of classifiers, and how far the two
align (Srinivas et al. 2023; the score-based gradients of Ganz et al. 2023).

Images [N, C, H, W] hold pixels in [0, 1] and sigma is in the same units (half of what it is for pixels in [-1, 1]).
Scores are gradients of the log-density of noisy images by pixel, so they are per unit of pixels. Nothing is drawn here:
noise comes in as standard normal draws [R, N, D] or [R, N, C, H, W], R of them for each image, so that what is compared
sees the same (`lib.manifold.sensitivity` makes some). A denoiser is a `lib.models.Denoiser` or anything called with
(noisy images [B, C, H, W], sigma, labels int64 [B] or None).
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.errors import is_int, is_number, need, unknown
from lib.files import sha256
from lib.models import Denoiser, folded
from lib.runtime import initialise_with

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger("lib.gradients.scores")

KINDS = ("sum of logits", "predicted logit", "predicted log-probability", "label logit", "label log-probability")
ALEXNET = ("alexnet-owt-7be5be79.pth", "7be5be79")  # torchvision's file of weights, and how its SHA-256 begins
SMALLEST = 31  # pixels a side that AlexNet needs

Denoise = Callable[[Tensor, float, Tensor | None], Tensor]


# -------------------------------------------------------------------------------------------------------------- scores


@torch.no_grad()
def score(net: Denoise, images: Tensor, sigma: float, labels: Tensor | None = None, noise: Tensor | None = None,
          batch: int = 256) -> Tensor:
    """The score [N, C, H, W] of the data with noise of `sigma`, (D(x; sigma) - x) / sigma^2.

    At the clean image x, as the off-manifold paper has it, or with `noise`, averaged over the noisy images x + sigma n
    of the draws: (mean of D(x + sigma n; sigma) - x) / sigma^2, where the draws' own mean, 0 in expectation, is left
    out. labels: int64 [N] for the class-conditional score, None for the unconditional one.
    """
    parts = _parts(images, sigma, noise, batch)
    rows = [_denoised(net, images[part], sigma, _of(labels, part), noise, part) - images[part] for part in parts]
    return torch.cat(rows) / sigma**2


@torch.no_grad()
def class_score(net: Denoiser, images: Tensor, sigma: float, noise: Tensor | None = None, batch: int = 256) -> Tensor:
    """What each class adds to the score, [N, classes, C, H, W]: the class-conditional score minus the unconditional
    one, the gradient of log p(class | x) where the denoiser is perfect (Ganz et al. 2023, score-based gradients). At
    the clean images or averaged over `noise` as in `score`; all classes of an image see the same noise. `batch` counts
    images times classes.
    """
    classes = getattr(net, "classes", 0)
    need(classes > 0, "denoiser", type(net).__name__, "one that takes classes")
    asked = torch.arange(-1, classes, device=images.device)
    rows = []
    for part in _parts(images, sigma, noise, max(1, batch // len(asked))):
        x = images[part].repeat_interleave(len(asked), 0)
        draws = None if noise is None else noise[:, part].repeat_interleave(len(asked), 1)
        found = _denoised(net, x, sigma, asked.repeat(len(images[part])), draws, slice(None))
        found = found.unflatten(0, (-1, len(asked)))
        rows.append((found[:, 1:] - found[:, :1]) / sigma**2)
    return torch.cat(rows)


def _denoised(net: Denoise, x: Tensor, sigma: float, labels: Tensor | None, noise: Tensor | None,
              part: slice) -> Tensor:
    """D at x [B, C, H, W], or its mean over the draws of noise (those of `part`)."""
    if noise is None:
        return net(x, sigma, labels)
    return torch.stack([net(x + sigma * draw[part].view_as(x), sigma, labels) for draw in noise]).mean(0)


def _parts(images: Tensor, sigma: float, noise: Tensor | None, batch: int) -> Iterator[slice]:
    """Slices of at most `batch` images, once all is seen to fit together."""
    need(is_number(sigma, 0) and 0 < sigma < math.inf, "sigma", sigma, "a number greater than 0")
    need(is_int(batch, 1), "batch", batch, "a whole number of at least 1")
    need(len(images) > 0, "number of images", len(images), "at least 1")
    fits = noise is None or (noise.dim() > 2 and len(noise) > 0 and noise[0].numel() == images.numel())
    shape = None if noise is None else tuple(noise.shape)
    need(fits, "noise", shape, f"of shape [draws, {len(images)}, ...] with a number for each of an image's pixels")
    return (slice(k, k + batch) for k in range(0, len(images), batch))


def _of(labels: Tensor | None, part: slice) -> Tensor | None:
    return None if labels is None else labels[part]


# ------------------------------------------------------------------------------------------------------------- quality


@torch.no_grad()
def denoising_error(net: Denoise, images: Tensor, sigma: float, noise: Tensor, labels: Tensor | None = None,
                    batch: int = 256) -> Tensor:
    """The squared error of an image [N], mean over its pixels and the draws: (D(x + sigma n; sigma) - x)^2."""
    rows = []
    for part in _parts(images, sigma, noise, batch):
        x, y = images[part], _of(labels, part)
        errors = [net(x + sigma * draw[part].view_as(x), sigma, y) - x for draw in noise]
        rows.append(torch.stack(errors).square().flatten(2).mean((0, 2)))
    return torch.cat(rows)


@dataclass(frozen=True, eq=False)
class Wiener:
    """The best linear denoiser for images of this mean and covariance, m + S (S + sigma^2 I)^-1 (x - m), at any sigma:
    what a denoiser has to beat, unless the data are Gaussian, where it is the optimum.

    mean [D]; vectors [D, D], orthonormal columns, and values [D], the eigenvectors and eigenvalues of the covariance S.
    """

    mean: Tensor
    vectors: Tensor
    values: Tensor

    @classmethod
    def of(cls, images: Tensor) -> Wiener:
        """From the training images [N, C, H, W]; one eigenvalue problem of size D = C H W, ten seconds of a processor
        for D = 3072.
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


def errors_beside_wiener(net: Denoise, train: Tensor, images: Tensor, sigma: float, noise: Tensor) -> dict[str, Tensor]:
    """The `denoising_error` [N] of a `denoiser` at the images and of the `Wiener` filter of the training images."""
    nets = {"denoiser": net, "Wiener": Wiener.of(train)}
    return {name: denoising_error(one, images, sigma, noise) for name, one in nets.items()}


def beats_wiener(name: str, denoiser: float, wiener: float, sigma: float) -> tuple[str, bool, str]:
    """Whether mean errors say that a denoiser is worth its name: (what, whether it is, the numbers)."""
    return (f"the {name} beats the best linear filter", denoiser < wiener,
            f"squared error {denoiser:.2e} at noise {sigma:g}, Wiener filter {wiener:.2e}")


# ----------------------------------------------------------------------------------------------------------- gradients


def input_gradient(net: nn.Module, images: Tensor, kind: str, labels: Tensor | None = None,
                   batch: int = 256) -> Tensor:
    """Gradients [N, C, H, W] of a classifier by its input, in eval mode; `net` stays as it is.

    kind, what is differentiated: the `sum of logits` of all classes (the off-manifold paper on CIFAR-10; a number added
    to all logits, which changes no prediction, changes it), the `predicted logit` (its other data sets), the `predicted
    log-probability`, or the same two of the class in `labels` (int64 [N]).
    """
    if kind not in KINDS:
        raise unknown("kind of gradient", kind, KINDS)
    wanted = kind.startswith("label")
    need((labels is not None) == wanted, "labels", "left out" if labels is None else "given",
         f"{'given' if wanted else 'left out'} for the gradient of the {kind}")
    net, rows = folded(net), []
    for part in _parts(images, 1.0, None, batch):
        x = images[part].detach().clone().requires_grad_()
        with torch.enable_grad():
            value = _value(net(x), kind, _of(labels, part)).sum()
        rows.append(torch.autograd.grad(value, x)[0])
    return torch.cat(rows)


def _value(logits: Tensor, kind: str, labels: Tensor | None) -> Tensor:
    """What is differentiated, [B] (or [B, classes], to be summed)."""
    if kind == "sum of logits":
        return logits
    values = logits.log_softmax(1) if kind.endswith("probability") else logits
    return values.gather(1, (logits.argmax(1) if labels is None else labels)[:, None])


# ----------------------------------------------------------------------------------------------------------- alignment


def cosine(one: Tensor, other: Tensor) -> Tensor:
    """The cosine [N] in [-1, 1] between the images of each pair, float64; 0 where one has no direction (all zero, as
    the gradients of a classifier that has become constant).
    """
    one, other = (_unit(t.flatten(1).double()) for t in (one, other))
    return (one * other).sum(1).clamp(-1, 1)


def _unit(vectors: Tensor) -> Tensor:
    return vectors / vectors.norm(dim=1, keepdim=True).clamp(min=torch.finfo(vectors.dtype).tiny)


def high_pass(images: Tensor, std: float = 1.0) -> Tensor:
    """The images minus themselves blurred by a Gaussian of `std` pixels (cut at 4 std; borders are repeated)."""
    need(is_number(std, 0) and std > 0, "std", std, "a number of pixels greater than 0")
    reach = math.ceil(4 * std)
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=images.device) / std).square())
    weights = (weights / weights.sum()).to(images.dtype).expand(images.shape[1], 1, 1, -1)
    blurred = F.pad(images, (reach,) * 4, mode="replicate")
    for kernel in (weights, weights.mT):
        blurred = F.conv2d(blurred, kernel, groups=images.shape[1])
    return images - blurred


def alignment(gradients: Tensor, scores: Tensor, images: Tensor, partners: Tensor, noise: Tensor,
              perceptual: bool = True) -> pd.DataFrame:
    """How far the gradients of a classifier [N, C, H, W] align with the scores of their images, beside what would align
    as well without knowing anything: a DataFrame of 4 N rows, of columns image (0 to N - 1), what, cosine, absolute
    (its absolute value) and, if `perceptual` and AlexNet's weights are there, lpips (1 - LPIPS).

    what: `gradient`; `white noise` (`noise` [1, N, ...]); `shuffled pairs`, the gradient of image `partners[i]` (int64
    [N], none its own) with the score of image i; `negative high-pass`, -(x - blurred x),
    which is about what a score at the clean image looks like.
    """
    import pandas as pd

    need(bool((partners.cpu() != torch.arange(len(images))).all()), "partners", "with an image for its own", "others")
    claimed = {
        "gradient": gradients,
        "white noise": noise[0].view_as(images),
        "shuffled pairs": gradients[partners.to(gradients.device)],
        "negative high-pass": -high_pass(images),
    }
    if perceptual and (why := why_no_lpips()):
        log.warning(why)
        perceptual = False
    tables = []
    for what, pictures in claimed.items():
        signed = cosine(pictures, scores)
        columns = {"image": range(len(images)), "what": what, "cosine": signed.cpu(), "absolute": signed.abs().cpu()}
        tables.append(pd.DataFrame(columns | ({"lpips": lpips(pictures, scores).cpu()} if perceptual else {})))
    return pd.concat(tables, ignore_index=True)


# --------------------------------------------------------------------------------------------------------------- LPIPS


def why_no_lpips() -> str:
    """Why LPIPS cannot be computed here, in a sentence; empty if it can. Nothing is downloaded."""
    name, start = ALEXNET
    path = _weights()
    if not path.is_file():
        return (f"LPIPS is left out: AlexNet's weights are not here and are never downloaded; put torchvision's {name} "
                f"into {path.parent}, torch's cache")
    if not sha256(path).startswith(start):
        return f"LPIPS is left out: {path} is damaged or another file, its SHA-256 does not begin with {start}"
    return ""


def _weights() -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / ALEXNET[0]


@functools.lru_cache(maxsize=1)
def _lpips_net(path: Path, changed: int) -> nn.Module:
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    with initialise_with("lpips"):  # drawn only to be replaced, but not from the caller's random numbers
        return LearnedPerceptualImagePatchSimilarity(net_type="alex").net.eval().requires_grad_(False)


@torch.no_grad()
def lpips(gradients: Tensor, scores: Tensor, side: int | None = None, batch: int = 64) -> Tensor | None:
    """1 - LPIPS (Zhang et al. 2018; AlexNet, version 0.1) between the images of each pair [N, C, H, W], float32 [N]:
    the perceptual alignment of the off-manifold paper. None where AlexNet's weights are not in torch's cache: then
    `why_no_lpips` says so, and so does the log.

    Each image is divided by its own largest absolute value, grey ones become three equal channels. side: the shorter
    side in pixels to which smaller images are enlarged (bilinearly); None: 64 for images of less than 31, AlexNet's
    least, and none for others (the paper's CIFAR-10 has 32). Levels depend on it: compare equal sides only.
    """
    need(gradients.shape == scores.shape, "shape of the gradients", tuple(gradients.shape), f"{tuple(scores.shape)}")
    need(side is None or is_int(side, SMALLEST), "side", side, f"a whole number of at least {SMALLEST} pixels, or none")
    need(gradients.shape[1] in (1, 3), "channels", gradients.shape[1], "1 or 3 for LPIPS")
    if why := why_no_lpips():
        log.warning(why)
        return None
    path = _weights()
    net = _lpips_net(path, path.stat().st_mtime_ns).to(gradients.device)
    pairs = zip(gradients.split(batch), scores.split(batch), strict=True)
    return 1 - torch.cat([net(_picture(one, side), _picture(other, side)).view(-1) for one, other in pairs])


def _picture(images: Tensor, side: int | None) -> Tensor:
    """Images as LPIPS takes them: three channels in [-1, 1], large enough."""
    most = images.abs().amax((1, 2, 3), keepdim=True)
    images = (images / most.where(most > 0, 1)).float()
    shorter = min(images.shape[2:])
    side = side or (64 if shorter < SMALLEST else shorter)
    if shorter < side:
        size = [round(n * side / shorter) for n in images.shape[2:]]
        images = F.interpolate(images, size, mode="bilinear", align_corners=False)
    return images.expand(-1, 3, -1, -1)
