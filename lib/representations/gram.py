"""Gram matrices of one minibatch: of centred features, the two ways of centring them, and their rounding error."""

from __future__ import annotations

import torch
from torch import Tensor

NOISE = 10.0  # a Gram must exceed the bound on its rounding error by this factor to mean anything


def as_rows(output: Tensor) -> Tensor:
    """Activations [n, ...] as features [n, p], without a copy even for maps in channels_last; the features then come in
    another order, which does not change a Gram matrix.
    """
    if output.dim() == 4 and output.is_contiguous(memory_format=torch.channels_last):
        output = output.permute(0, 2, 3, 1)
    return output.reshape(len(output), -1)


def pooled_rows(output: Tensor) -> Tensor:
    """Activations as fp64 features [n, C]: maps [n, C, H, W] averaged over pixels, tokens [n, T, C] over tokens."""
    if output.dim() == 4:
        return output.mean((2, 3), dtype=torch.float64)
    return output.mean(1, dtype=torch.float64) if output.dim() == 3 else output.double()


class Centred:
    """Gram matrices of features [n, p], which are first centred over the n images, in one precision, fp32 or fp64.

    Uncentred products lose the differences between images when most of the energy is in the mean (with TF32, all of
    them), so they are never formed. The features are centred in chunks that fit into the cache, in one scratch buffer,
    so there is no second copy of them. Since the matrix is symmetric, only three of its four blocks are multiplied.
    """

    def __init__(self, dtype: torch.dtype = torch.float32):
        self.dtype, self.scratch = dtype, torch.empty(0)

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """K = Xc Xc' [n, n] and n |mean|^2 (an fp64 scalar) of x [n, p] of any floating type."""
        (n, p), half = x.shape, len(x) // 2
        width = max(1, min(p, _chunk(x.device) // n))
        if self.scratch.numel() < n * width or self.scratch.device != x.device:
            self.scratch = torch.empty(n * width, dtype=self.dtype, device=x.device)
        mean = x.mean(0, dtype=self.dtype)
        gram = torch.zeros(n, n, dtype=self.dtype, device=x.device)
        for first in range(0, p, width):
            part = x[:, first:first + width]
            chunk = self.scratch[:part.numel()].view(part.shape)
            torch.sub(part, mean[first:first + width], out=chunk)
            gram[:half].addmm_(chunk[:half], chunk.T)
            gram[half:, half:].addmm_(chunk[half:], chunk[half:].T)
        gram[half:, :half] = gram[:half, half:].T
        return gram, n * mean.double().square().sum()


def _chunk(device: torch.device) -> int:
    """How many elements of features to centre at a time: on a CPU, as many as the cache of one core holds, or more if
    several threads share the work and wait for each other after every chunk; on a GPU, a small part of its memory.
    """
    if device.type != "cpu":
        return 2**28
    return 2**20 if torch.get_num_threads() == 1 else 2**24


def double_centred(gram: Tensor) -> Tensor:
    """H K H [n, n] with H = I - 11'/n: the Gram of the features centred over the n images."""
    means = gram.mean(0)
    return gram - means[:, None] - means[None, :] + means.mean()


def u_centred(gram: Tensor) -> Tensor:
    """The U-centred Gram [n, n], n > 2: <u(K), u(L)>_F = n (n - 3) HSIC1(K, L), the unbiased estimate of HSIC (Song et
    al. 2012).

    Zero on the diagonal, K_ij - m_i - m_j off it, with m_i = r_i / (n - 2) - s / (2 (n - 1) (n - 2)), r the row sums
    of K without its diagonal and s their sum. A shift of the features changes nothing.
    """
    n = len(gram)
    hollow = gram.clone().fill_diagonal_(0)
    sums = hollow.sum(1)
    less = sums / (n - 2) - sums.sum() / (2 * (n - 1) * (n - 2))
    return (hollow - less[:, None] - less[None, :]).fill_diagonal_(0)


def rounding(spread: Tensor, level: Tensor, features: int, eps: float | Tensor) -> Tensor:
    """What rounding may contribute to the Frobenius norm of a centred Gram, times a factor of safety.

    spread: tr K of the centred features Xc [n, p]. level: n |mean|^2. features: p. eps: the relative error of a
    feature, which belongs to the type that it was computed in. The errors E, |E|_F <= eps sqrt(spread + level), are
    independent of each other, so the Gram is off by Xc E' + E Xc' + E E', of norm (sqrt(2) |Xc|_F |E|_F + |E|_F^2) /
    sqrt(p). Features that do not differ between images consist of E alone; so does what U-centring, which turns K = c I
    into zero, leaves of features that are orthogonal.
    """
    errors = eps**2 * (spread + level)
    return NOISE * ((2 * spread * errors).sqrt() + errors) / features**0.5
