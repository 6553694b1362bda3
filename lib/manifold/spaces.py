"""Tangent spaces of the image manifold (Srinivas et al. 2023).

Images [N, C, H, W] hold D = C * H * W pixels each, in [0, 1]. P is the orthogonal projector onto an image's tangent
space, and Q = I - P.
"""

from __future__ import annotations

import contextlib
import functools
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lib.door import in_own_state
from lib.errors import is_int, need
from lib.modes import frozen_eval

# Directions whose singular value is below this part of the largest do not count. An fp32 Jacobian is precise to about
# 1e-6, and with one threshold for both precisions a tangent space has the same dimension in either.
RANK = 1e-5
_ORTHONORMAL = 1e-4
_AT_ONCE = 4096  # images that are in fp64 at a time

Net = Callable[[Tensor], Tensor]


# ----------------------------------------------------------------------------------------------------- tangent spaces


@dataclass(frozen=True, eq=False)
class Tangents:
    """Orthonormal bases [N, D, k] of the tangent spaces of N images, or [1, D, k] if one space serves all images.

    A space of fewer than k dimensions has columns of zeros for the missing ones. Raises SettingsError for columns that
    are neither orthonormal nor zero (`spanned_by` takes any vectors), and for a space of dimension 0.
    """

    bases: Tensor

    def __post_init__(self):
        need(self.bases.dim() == 3, "bases", f"of shape {tuple(self.bases.shape)}", "of shape [images, pixels, k]")
        check_precision("bases", self.bases)
        gram = self.bases.mT @ self.bases
        gram = gram - torch.diag_embed(gram.diagonal(dim1=1, dim2=2).round().clamp(0, 1))
        off = float(gram.abs().max()) if gram.numel() else math.inf
        need(off <= _ORTHONORMAL, "bases", f"of columns whose products are off by {off:.2g}",
             f"of orthonormal or zero columns, to {_ORTHONORMAL:g}")
        empty = (self.rank == 0).nonzero().flatten().tolist()
        need(not empty, "tangent spaces", f"{len(empty)} of {len(self.bases)} without a direction (images "
             f"{empty[:5]})", "of at least one dimension each")

    @functools.cached_property
    def rank(self) -> Tensor:
        """The dimension of each space: int64 [N], or [1] if one serves all images."""
        return torch.linalg.vector_norm(self.bases, dim=1).round().sum(1).long()

    @property
    def warning(self) -> str:
        """One sentence if some spaces have fewer than k dimensions, else ""."""
        images, _, k = self.bases.shape
        short = int((self.rank < k).sum())
        if not short:
            return ""
        return f"{short} of {images} tangent spaces have fewer than {k} dimensions, the smallest {int(self.rank.min())}"

    def at(self, indices: Tensor | slice) -> Tangents:
        """The spaces of these images, in this order. The indices of a derangement give each image the space of another
        one, a control for what any tangent space would show. Raises SettingsError if one space serves all images.
        """
        need(len(self.bases) > 1, "bases", "one for all images", "one for each image, to choose images")
        return Tangents(self.bases[indices])


def spanned_by(vectors: Tensor, k: int | None = None) -> Tangents:
    """The spaces spanned by the columns of `vectors` [N, D, m], or by their k leading left singular vectors. The
    columns of the bases are these singular vectors, the largest singular value first.

    A direction whose singular value is below `RANK` of the largest counts as linearly dependent and becomes a column of
    zeros. Raises SettingsError for vectors that are not finite or all zero, and for a k above min(D, m).
    """
    most = min(vectors.shape[1:])
    need(k is None or is_int(k, 1) and k <= most, "k", k, f"from 1 to {most}")
    return Tangents(_orthonormal(vectors, k))


def _orthonormal(vectors: Tensor, k: int | None = None) -> Tensor:
    check_precision("vectors", vectors)
    need(bool(vectors.isfinite().all()), "vectors of a tangent space", "NaN or infinite", "finite")
    q, r = torch.linalg.qr(vectors.detach())
    u, values, _ = torch.linalg.svd(r, full_matrices=False)
    return (q @ u * (values > RANK * values[:, :1])[:, None])[..., :k]


@in_own_state
def decoder_tangents(decode: Callable[[Tensor], Tensor], latents: Tensor, shape: Sequence[int],
                     batch: int | None = None) -> Tangents:
    """The spaces spanned by the Jacobians of a decoder. They are tangent to the manifold at decode(latents), and stand
    for the tangent spaces at the encoded images (Srinivas et al. 2023 on CIFAR-10: an auto-encoder with 128 latents).

    decode: from latents [B, k] to images [B, *shape], each image from its own latent only; a module, or a method of
    one, runs in eval mode. latents: [N, k], fp32 or fp64 as the decoder. batch: pairs of an image and a direction that
    pass the decoder at once, to which memory is proportional; by default 64 on a CPU and 2048 on a GPU.

    Raises SettingsError for images of another shape, latents as large as an image, and a Jacobian that is not finite or
    zero; the result's `warning` reports Jacobians of a rank below k.
    """
    need(latents.dim() == 2, "latents", f"of shape {tuple(latents.shape)}", "of shape [images, k]")
    shape, k, pixels = tuple(shape), latents.shape[1], math.prod(shape)
    need(k < pixels, "size of a latent", k, f"below the {pixels} pixels of an image")
    batch = (64 if latents.device.type == "cpu" else 2048) if batch is None else batch
    need(is_int(batch, 1), "batch", batch, "at least 1")
    with torch.no_grad(), settled(getattr(decode, "__self__", decode), latents):
        found = tuple(decode(latents[:1]).shape[1:])
        need(found == shape, "decode", f"to images of shape {found}", f"to the shape {shape} of the images")
        parts = latents.split(max(1, batch // k))
        return Tangents(torch.cat([_orthonormal(decoder_jacobian(decode, part, min(batch, k))) for part in parts]))


@in_own_state
@torch.no_grad()
def decoder_jacobian(decode: Callable[[Tensor], Tensor], latents: Tensor, directions: int | None = None) -> Tensor:
    """The Jacobian [B, D, k] of each image with respect to its latent, in forward mode: k directional derivatives,
    `directions` of them at once, whereas reverse mode needs D backward passes.
    """
    count, k = latents.shape
    units = torch.eye(k, dtype=latents.dtype, device=latents.device)[:, None].expand(k, count, k)
    along = torch.func.vmap(lambda unit: torch.func.jvp(decode, (latents,), (unit,))[1], chunk_size=directions)
    with warnings.catch_warnings():  # torch's first forward-mode derivative warns about its own modules
        warnings.filterwarnings("ignore", "`torch.jit", FutureWarning)
        derivatives = along(units)
    return derivatives.flatten(2).permute(1, 2, 0)


def global_pca(images: Tensor, k: int) -> Tangents:
    """One space for all images: the k principal directions of `images` [N, C, H, W], largest variance first, computed
    in fp64. Raises SettingsError for a k above the number of directions in which the images differ.
    """
    flat = images.flatten(1)
    count, pixels = flat.shape
    check_precision("images", images)
    need(is_int(k, 1) and k < min(count, pixels + 1), "k", k, f"from 1 to {min(count - 1, pixels)}, what {count} "
         f"images of {pixels} pixels allow")
    mean = flat.mean(0, dtype=torch.float64)
    if count <= pixels:
        bases = _orthonormal((flat.double() - mean).mT[None])[0]
    else:
        scatter = sum(part.mT @ part for part in (rows.double() - mean for rows in flat.split(_AT_ONCE)))
        values, vectors = torch.linalg.eigh(scatter)
        bases = (vectors * (values > RANK**2 * values[-1])).flip(1)
    differ = int(bases.any(0).sum())
    need(k <= differ, "k", k, f"at most {differ}, the number of directions in which the images differ")
    return Tangents(bases[None, :, :k].to(images.dtype))


def local_pca(points: Tensor, images: Tensor, k: int, neighbours: int, batch: int = 16) -> Tangents:
    """A space for each of `points` [N, C, H, W]: the k principal directions of its nearest `neighbours` (l2) among
    `images` [M, C, H, W], around their mean. A point that is among the images is its own neighbour. `batch` points are
    processed at once.

    Raises SettingsError for more neighbours than images, and for a k above neighbours - 1 or the pixels of an image. If
    neighbours differ in fewer than k directions, the space has fewer dimensions; the result's `warning` reports it.
    """
    flat, known = points.flatten(1), images.flatten(1)
    pixels = known.shape[1]
    need(flat.shape[1] == pixels, "points", f"of {flat.shape[1]} pixels", f"of {pixels}, as the images")
    need(is_int(neighbours, 2) and neighbours <= len(known), "neighbours", neighbours, f"from 2 to {len(known)}, the "
         "number of images")
    most = min(neighbours - 1, pixels)
    need(is_int(k, 1) and k <= most, "k", k, f"from 1 to {most}, what {neighbours} neighbours of {pixels} pixels allow")
    bases = []
    for part in flat.split(batch):
        near = known[_nearest(part, known, neighbours)]
        bases.append(_orthonormal((near - near.mean(1, keepdim=True)).mT, k))
    return Tangents(torch.cat(bases))


def _nearest(points: Tensor, images: Tensor, neighbours: int) -> Tensor:
    """Indices, int64 [n, neighbours], found in fp64 so that their order does not depend on how points are batched."""
    points = points.double()
    squares = [part.square().sum(1) - 2 * points @ part.mT for part in (p.double() for p in images.split(_AT_ONCE))]
    return torch.cat(squares, 1).topk(neighbours, largest=False).indices


def lowest_modes(shape: Sequence[int], k: int) -> Tangents:
    """One fp64 space for all images of `shape` (C, H, W): the k real Fourier modes of lowest frequency, each in every
    channel before the next. It shows what any space of smooth patterns would. Raises SettingsError for a k above the
    number of pixels.
    """
    channels, height, width = shape
    pixels = math.prod(shape)
    need(is_int(k, 1) and k <= pixels, "k", k, f"from 1 to {pixels}, the pixels of an image")
    y, x = torch.arange(height, dtype=torch.float64) / height, torch.arange(width, dtype=torch.float64) / width
    fy, fx = (torch.fft.fftfreq(n, 1 / n, dtype=torch.float64) for n in (height, width))
    order = sorted((math.hypot(a / height, b / width), a, b) for a in fy.tolist() for b in fx.tolist())
    modes = []
    for _, a, b in order:
        if len(modes) * channels >= k:
            break
        angle = 2 * math.pi * (a * y[:, None] + b * x[None])
        for wave in (angle.cos(), angle.sin()):
            known = torch.stack(modes) if modes else torch.zeros(0, height * width, dtype=torch.float64)
            rest = wave.flatten() - known.mT @ (known @ wave.flatten())
            if rest.norm() > 0.5:  # the mode of the opposite frequency spans the same
                modes.append(rest / rest.norm())
    planes = torch.eye(channels, dtype=torch.float64)
    rows = torch.stack([torch.outer(plane, mode).flatten() for mode in modes for plane in planes])
    return Tangents(rows[:k].mT[None])


def project(vectors: Tensor, tangents: Tangents) -> Tensor:
    """P v for one vector v of each image, [N, ...] with D numbers each in any shape; returns the same shape.

    Raises SettingsError for another number of images or pixels, or another precision, than the tangent spaces have.
    """
    flat = vectors.flatten(1)[None]
    check_fit("vectors", flat, tangents)
    return along(flat, tangents)[0].view_as(vectors)


def along(vectors: Tensor, tangents: Tangents) -> Tensor:
    """P v for vectors v [R, N, D]: [R, N, D]."""
    bases = tangents.bases if len(tangents.bases) > 1 else tangents.bases[0]
    return (vectors.transpose(0, 1) @ bases @ bases.mT).transpose(0, 1)


@contextlib.contextmanager
def settled(net: nn.Module | Net, inputs: Tensor) -> Iterator[None]:
    """Keep a module in eval mode without gradients for its weights; a function is left alone. Raises SettingsError if
    inputs and weights differ in precision.
    """
    if not isinstance(net, nn.Module):
        yield
        return
    for weights in net.parameters():
        need(weights.dtype == inputs.dtype, "type of the inputs", inputs.dtype, f"the weights' type, {weights.dtype}")
    with frozen_eval(net):
        yield


def check_precision(name: str, tensor: Tensor) -> None:
    """Raise SettingsError unless the tensor is fp32 or fp64."""
    need(tensor.dtype in (torch.float32, torch.float64), name, tensor.dtype, "torch.float32 or torch.float64")


def check_fit(name: str, vectors: Tensor, tangents: Tangents) -> None:
    """Raise SettingsError unless the vectors are [R, N, D] with N, D and the precision of the tangent spaces."""
    images, pixels, _ = tangents.bases.shape
    fits = vectors.dim() == 3 and vectors.shape[2] == pixels and images in (1, vectors.shape[1])
    need(fits, name, f"of shape {tuple(vectors.shape)}", f"of shape [draws, {images if images > 1 else 'images'}, "
         f"{pixels}], as the tangent spaces")
    need(vectors.dtype == tangents.bases.dtype, name, vectors.dtype, f"of the tangent spaces' type, "
         f"{tangents.bases.dtype}")
