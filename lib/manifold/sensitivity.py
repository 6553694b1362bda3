"""How sensitive classifiers are along tangent spaces and off them (Srinivas et al. 2023).

Images [N, C, H, W] hold D = C * H * W pixels each, in [0, 1]. P is the orthogonal projector onto an image's tangent
space, and Q = I - P; f is the softmax vector of the classifier. Draws and steps are flat, [R, N, D]: R for each image,
in units of pixels. Perturbed images are not clipped to [0, 1]. A classifier is a module, which is measured in eval mode
without gradients for its weights, or a function from images to logits that treats each image independently.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lib.door import in_own_state
from lib.errors import is_int, is_number, need, unknown
from lib.manifold.spaces import Net, Tangents, along, check_fit, check_precision, project, settled
from lib.runtime import generator

DISTANCES = {
    "l1": lambda change: change.abs().sum(1),
    "l2": lambda change: torch.linalg.vector_norm(change, dim=1),
    "squared l2": lambda change: change.square().sum(1),
}


# ----------------------------------------------------------------------------------------------------- draws and steps


def normal_draws(images: Tensor, indices: Tensor, draws: int, *parts) -> Tensor:
    """Standard normal draws [R, N, D] for images [N, C, H, W], in their precision and on their device.

    Each image's draws are seeded by its index (int64 [N], its place in the data set) and `parts`, so that they depend
    neither on the other images nor on the number of draws or the precision. Raises SettingsError for fewer than one
    draw and for another number of indices.
    """
    _check_indices(images, indices)
    need(is_int(draws, 1), "draws", draws, "at least 1")
    return torch.stack([_normal(images, index, (draws,), parts) for index in indices.tolist()], 1).to(images)


def orthogonal_draws(images: Tensor, indices: Tensor, *parts) -> Tensor:
    """D draws [D, N, D] for each image: random orthogonal vectors of length sqrt(D), uniform over rotations.

    Their second moments equal those of the standard normal exactly, so that means of |J n|^2 over them are exact and
    `rho1` tends to `rho2`. Use it for small D: memory grows with D squared. Indices, parts: see `normal_draws`.
    """
    _check_indices(images, indices)
    pixels = images[0].numel()
    frames = []
    for index in indices.tolist():
        q, r = torch.linalg.qr(_normal(images, index, (pixels,), parts))
        frames.append(q * r.diagonal().sign() * math.sqrt(pixels))
    return torch.stack(frames, 1).to(images)


def _normal(images: Tensor, index: int, shape: tuple[int], parts) -> Tensor:
    own = generator("draws", *parts, "image", index)
    # one draw at a time: torch fills a longer block with other numbers from its start
    return torch.stack([torch.randn(images[0].numel(), generator=own, dtype=torch.float64) for _ in range(*shape)])


@dataclass(frozen=True, eq=False)
class Steps:
    """Steps [R, N, D] of the same l2 length: `on` along the tangent spaces, `off` orthogonal to them."""

    on: Tensor
    off: Tensor


def steps(noise: Tensor, tangents: Tangents, size: float) -> Steps:
    """The on- and off-manifold steps of Srinivas et al. (2023): P n and Q n for normal draws n (`noise` [R, N, D]),
    each scaled to the l2 length `size`, in units of pixels (the paper's figure: 2.637 on CIFAR-10).

    Raises SettingsError for a tangent space that is the whole space (no direction is off it), a size that is not
    positive, and draws that do not fit the spaces.
    """
    off = off_part(noise, tangents, size)
    return Steps(resized(along(noise, tangents), size), off)


def off_part(moves: Tensor, tangents: Tangents, size: float) -> Tensor:
    """The parts Q v of moves v [R, N, D], scaled to the l2 length `size` in pixels. Raises SettingsError as `steps`
    does.

    Controls need this to be off an image's own tangent space: steps along another image's space, or with randomised
    phases, often lie more than half within it.
    """
    check_fit("moves", moves, tangents)
    need(is_number(size, 0) and size > 0, "size", size, "above 0")
    pixels, largest = tangents.bases.shape[1], int(tangents.rank.max())
    need(largest < pixels, "dimension of a tangent space", largest, f"below the {pixels} pixels of an image")
    return resized(moves - along(moves, tangents), size)


def resized(vectors: Tensor, size: float) -> Tensor:
    """Vectors [..., D] scaled to the l2 length `size`; NaN for a vector of zeros."""
    return vectors * (float(size) / torch.linalg.vector_norm(vectors, dim=-1, keepdim=True))


def phase_randomised(steps: Tensor, images: Tensor, indices: Tensor, *parts) -> Tensor:
    """Steps [R, N, D] with random phases added and the Fourier amplitudes of each channel kept. They are real, of the
    same l2 length and as smooth as `steps`: a control for smoothness as the reason of small or large changes.

    All channels of a step get the same phases, so that its colours stay. The phases come from white noise, drawn as in
    `normal_draws`. Much of such a step can still lie along the tangent space, because a span of smooth patterns
    contains most of their shifts; `inside` measures that part, `off_part` removes it. Raises SettingsError for steps
    that do not fit the images.
    """
    _check_draws("steps", steps, images)
    height, width = images.shape[-2:]
    draws = normal_draws(images[:, :1], indices, len(steps), "phases", *parts).unflatten(2, (1, height, width))
    phases = torch.fft.rfft2(draws)
    spectrum = torch.fft.rfft2(steps.unflatten(2, images.shape[1:])) * (phases / phases.abs())
    return torch.fft.irfft2(spectrum, s=(height, width)).flatten(2)


# --------------------------------------------------------------------------------------------- sensitivity to the steps


@in_own_state
def output_change(net: nn.Module | Net, images: Tensor, steps: Tensor, norm: str = "l1", batch: int = 256) -> Tensor:
    """The distance by which a step moves the softmax vector, for each image the mean over its steps [R, N, D]: fp64
    [N].

    norm: "l1" (from 0 to 2), "l2" (0 to 1.41) or "squared l2" (0 to 2). The paper's figure names l2, the authors'
    notebook l1. Raises SettingsError for another norm, steps that do not fit the images, and images and weights of
    different precision.
    """
    if norm not in DISTANCES:
        raise unknown("norm", norm, DISTANCES)
    return _moved(net, images, steps, norm, batch).mean(0)


@in_own_state
def margin_change(net: nn.Module | Net, images: Tensor, steps: Tensor, batch: int = 256) -> Tensor:
    """By how much a step changes the margin, the logit of the class that is predicted without it minus the largest
    other logit: the mean absolute change over an image's steps [R, N, D], fp64 [N], in units of logits. Unlike the
    softmax vector, the margin does not saturate. Raises SettingsError as `output_change` does.
    """
    def margin(logits: Tensor, top: Tensor) -> Tensor:
        others = logits.double().scatter(1, top, -math.inf)
        return (logits.double().gather(1, top) - others.amax(1, keepdim=True)).squeeze(1)

    def change(after: Tensor, before: Tensor) -> Tensor:
        top = before.argmax(1, keepdim=True)
        return (margin(after, top) - margin(before, top)).abs()

    return _changes(net, images, steps, batch, lambda logits: logits, change).mean(0)


@dataclass(frozen=True, eq=False)
class Ratio:
    """Squared changes of the softmax vector, off the manifold (`off`) and in all directions (`total`): fp64 [N] each.
    """

    off: Tensor
    total: Tensor

    @property
    def per_image(self) -> Tensor:
        """off / total for each image, [N]; NaN if the total is 0."""
        return self.off / self.total

    @property
    def pooled(self) -> float:
        """The ratio of the sums over images, in which sensitive images count more."""
        return float(self.off.sum() / self.total.sum())


@in_own_state
def rho1(net: nn.Module | Net, images: Tensor, tangents: Tangents, sigma: float, noise: Tensor,
         batch: int = 256) -> Ratio:
    """Relative off-manifold robustness (the paper's theory), E|f(x + Q u) - f(x)|^2 / E|f(x + u) - f(x)|^2, u = sigma
    n. The expectation is over draws n (`noise` [R, N, D], such as `normal_draws`), each used with both signs and in
    both numerator and denominator. sigma: in pixels.

    Odd terms in u cancel between n and -n, so for a smooth f the value is O(sigma^2) from `rho1_limit` of the same
    draws: half the sigma, a quarter of the distance. For finitely many normal draws that limit is an estimate of
    `rho2`; for `orthogonal_draws` it equals `rho2`. Use fp64, because differences of f of the size of sigma are
    squared. Raises SettingsError for noise that does not fit, a sigma that is not positive, and images and weights of
    different precision.
    """
    check_fit("noise", noise, tangents)
    need(is_number(sigma, 0) and sigma > 0, "sigma", sigma, "above 0")
    u = float(sigma) * noise
    kinds = u - along(u, tangents), u
    return Ratio(*(sum(_moved(net, images, move, "squared l2", batch).mean(0) / 2 for move in (moves, -moves))
                   for moves in kinds))


@in_own_state
def rho1_limit(net: nn.Module | Net, images: Tensor, tangents: Tangents, noise: Tensor, batch: int = 64) -> Ratio:
    """The limit of `rho1` with these draws as sigma goes to 0: the means over draws of |J Q n|^2 and of |J n|^2, where
    J is the Jacobian of the softmax vector. Raises SettingsError as `rho1` does.
    """
    _check_draws("noise", noise, images)
    check_fit("noise", noise, tangents)
    kinds = noise - along(noise, tangents), noise
    found = [[(jacobian @ moves[:, part].permute(1, 2, 0)).double().square().sum(1).mean(1) for moves in kinds]
             for part, jacobian in _jacobians(net, images, batch)]
    return Ratio(*(torch.cat(parts) for parts in zip(*found, strict=True)))


@in_own_state
def rho2(net: nn.Module | Net, images: Tensor, tangents: Tangents, batch: int = 64) -> Ratio:
    """The share of the squared Jacobian J of the softmax vector that is off the manifold, |J Q|_F^2 / |J|_F^2, in
    [0, 1]: on-manifold gradient alignment in the paper's theory, and the limit of `rho1` for every smooth f. It takes a
    backward pass for each class. Raises SettingsError for images and weights of different precision.
    """
    check_fit("images", images.flatten(1)[None], tangents)
    found = []
    for part, jacobian in _jacobians(net, images, batch):
        bases = tangents.bases[part] if len(tangents.bases) > 1 else tangents.bases[0]
        off = jacobian - jacobian @ bases @ bases.mT
        found.append([rows.double().square().sum((1, 2)) for rows in (off, jacobian)])
    return Ratio(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def rho2_of(gradients: Tensor, tangents: Tangents) -> Ratio:
    """`rho2` of one given gradient g for each image, [N, C, H, W]: |Q g|^2 / |g|^2, in [0, 1]."""
    off = gradients - project(gradients, tangents)
    return Ratio(_square(off), _square(gradients))


def inside(gradients: Tensor, tangents: Tangents) -> Tensor:
    """The share of each squared gradient g [N, C, H, W] that is along the manifold, |P g|^2 / |g|^2: fp64 [N] in [0,
    1], NaN for a gradient of zero.
    """
    return _square(project(gradients, tangents)) / _square(gradients)


def energy(gradients: Tensor, mask: Tensor) -> Tensor:
    """The share of each squared gradient [N, C, H, W] that falls on the pixels of a mask, bool [N, 1, H, W]: fp64 [N]
    in [0, 1], NaN for a gradient of zero. Raises SettingsError for a mask of another shape or type.
    """
    _check_mask(mask, gradients)
    return _square(gradients * mask) / _square(gradients)


@dataclass(frozen=True, eq=False)
class NoiseChanges:
    """Mean change of the softmax vector by noise of each of S standard deviations, on the signal's pixels and on all
    others: fp64 [S, N] each.
    """

    stds: tuple[float, ...]
    signal: Tensor
    distractor: Tensor


@in_own_state
def noise_changes(net: nn.Module | Net, images: Tensor, signal: Tensor, stds: Sequence[float], noise: Tensor,
                  norm: str = "l1", batch: int = 256) -> NoiseChanges:
    """Numerator and denominator of the signal-to-distractor ratio of Srinivas et al. (2023, MNIST with a distractor):
    the change of the softmax vector when noise is added to the signal only, and to everything else only.

    signal: bool [N, 1, H, W]. noise: standard normal draws [R, N, D], shared by all `stds` (in pixels) and both sides.
    norm: see `output_change`. Take ratios of means over images, and leave out levels at which both means are below
    0.01, where the ratio has no meaning. Raises SettingsError for a mask or noise that does not fit, negative `stds`,
    and an unknown norm.
    """
    _check_mask(signal, images)
    _check_draws("noise", noise, images)
    need(len(stds) > 0 and all(is_number(std, 0) for std in stds), "stds", list(stds), "numbers of at least 0")
    stds, sides = tuple(float(std) for std in stds), []
    for mask in (signal, ~signal):
        masked = noise * mask.expand_as(images).flatten(1)
        sides.append(torch.stack([output_change(net, images, std * masked, norm, batch) for std in stds]))
    return NoiseChanges(stds, *sides)


def _moved(net: nn.Module | Net, images: Tensor, moves: Tensor, norm: str, batch: int) -> Tensor:
    """Distances between the softmax vectors at images + moves [R, N, D] and at the images: fp64 [R, N]."""
    return _changes(net, images, moves, batch, lambda logits: logits.softmax(1),
                    lambda after, before: DISTANCES[norm]((after - before).double()))


@torch.no_grad()
def _changes(net: nn.Module | Net, images: Tensor, moves: Tensor, batch: int, read: Callable[[Tensor], Tensor],
             change: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """`change` of what is `read` from the logits, at images + moves [R, N, D] and at the images: fp64 [R, N]."""
    _check_draws("steps", moves, images)
    need(is_int(batch, 1), "batch", batch, "at least 1")
    count, rows = len(images), torch.arange(moves.shape[0] * len(images), device=images.device)
    with settled(net, images):
        before = torch.cat([read(net(part)) for part in images.split(batch)])
        found = []
        for part in rows.split(batch):
            own = part % count
            after = read(net(images[own] + moves[part // count, own].view_as(images[own])))
            found.append(change(after, before[own]))
    return torch.cat(found).view(moves.shape[:2])


def _jacobians(net: nn.Module | Net, images: Tensor, batch: int) -> Iterator[tuple[slice, Tensor]]:
    """For each part of the images: its slice, and the Jacobian [B, classes, D] of the softmax vector."""
    need(is_int(batch, 1), "batch", batch, "at least 1")
    with settled(net, images), torch.enable_grad():
        for first in range(0, len(images), batch):
            part = slice(first, first + batch)
            x = images[part].detach().requires_grad_()
            sums = net(x).softmax(1).sum(0)
            yield part, torch.stack([torch.autograd.grad(one, x, retain_graph=True)[0].flatten(1) for one in sums], 1)


def _square(vectors: Tensor) -> Tensor:
    """Squared l2 lengths, fp64 [N], because squares of small gradients vanish in fp32."""
    return vectors.flatten(1).double().square().sum(1)


def _check_indices(images: Tensor, indices: Tensor) -> None:
    check_precision("images", images)
    need(len(indices) == len(images), "number of indices", len(indices), f"{len(images)}, one for each image")


def _check_draws(name: str, draws: Tensor, images: Tensor) -> None:
    shape = (len(images), images[0].numel())
    need(draws.dim() == 3 and draws.shape[1:] == shape, name, f"of shape {tuple(draws.shape)}", f"of shape [draws, "
         f"{shape[0]}, {shape[1]}], as the images")
    need(draws.dtype == images.dtype, name, draws.dtype, f"of the images' type, {images.dtype}")


def _check_mask(mask: Tensor, images: Tensor) -> None:
    shape = (len(images), 1, *images.shape[2:])
    need(mask.dtype == torch.bool and mask.shape == shape, "mask", f"{mask.dtype} of shape {tuple(mask.shape)}",
         f"torch.bool of shape {shape}")
