"""Gram matrices of one minibatch: centred features, both ways of centring the Gram, and what rounding makes of it."""

from __future__ import annotations

import torch
from torch import Tensor

NOISE = 10.0  # a Gram must exceed the bound on its rounding error by this factor to mean anything


def as_rows(output: Tensor) -> Tensor:
    """Activations [n, ...] as features [n, p], without a copy for images in channels_last as well: the order of the
    features is then another one, which no Gram matrix notices.
    """
    if output.dim() == 4 and output.is_contiguous(memory_format=torch.channels_last):
        output = output.permute(0, 2, 3, 1)
    return output.reshape(len(output), -1)


def pooled_rows(output: Tensor) -> Tensor:
    """Activations as fp64 features [n, C]: [n, C, H, W] averaged over positions, tokens [n, T, C] over the tokens."""
    if output.dim() == 4:
        return output.mean((2, 3), dtype=torch.float64)
    return output.mean(1, dtype=torch.float64) if output.dim() == 3 else output.double()


class Centred:
    """Gram matrices of features [n, p] that are centred over the n images first, in one precision, fp32 or fp64.

    Uncentred products lose what differs between images when most of the energy is in the mean (with TF32 nothing of it
    is left), so they are never formed. The features are centred in chunks that fit the cache, into one scratch buffer:
    no second copy of them exists. Of the symmetric matrix only the upper half of blocks is multiplied.
    """

    def __init__(self, dtype: torch.dtype = torch.float32):
        self.dtype, self.scratch = dtype, torch.empty(0)

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(K [n, n] = Xc Xc', n |mean|^2 as fp64 scalar) of x [n, p] of any floating type."""
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
    """How many elements of features to centre at a time: what the cache of one core holds, more where several threads
    share the work and wait for each other after every chunk, and a bearable part of a GPU's memory there.
    """
    if device.type != "cpu":
        return 2**28
    return 2**20 if torch.get_num_threads() == 1 else 2**24


def double_centred(gram: Tensor) -> Tensor:
    """H K H, H = I - 11'/n: the Gram of features that are centred over the n images."""
    means = gram.mean(0)
    return gram - means[:, None] - means[None, :] + means.mean()


def u_centred(gram: Tensor) -> Tensor:
    """The U-centred Gram [n, n], n > 2: <u(K), u(L)>_F = n (n - 3) HSIC1(K, L), the unbiased estimate of HSIC.

    Zero on the diagonal, K_ij - m_i - m_j off it, with m_i = r_i / (n - 2) - s / (2 (n - 1) (n - 2)), r the row sums
    of K without its diagonal and s their sum. A shift of the features changes nothing.
    """
    n = len(gram)
    hollow = gram.clone().fill_diagonal_(0)
    sums = hollow.sum(1)
    less = sums / (n - 2) - sums.sum() / (2 * (n - 1) * (n - 2))
    return (hollow - less[:, None] - less[None, :]).fill_diagonal_(0)


def rounding(spread: Tensor, level: Tensor, eps: float) -> Tensor:
    """The largest Frobenius norm of a centred Gram that may be rounding alone, times a factor of safety.

    spread: tr K of the centred features. level: n |mean|^2. Features carry a relative error of `eps`: with E the
    errors, |E|_F <= eps sqrt(spread + level), the Gram is off by at most 2 |Xc|_F |E|_F + |E|_F^2. Features that do not
    differ between images are E alone; and what a Gram keeps of K = c I after U-centring, which is zero, is less too.
    """
    energy = spread + level
    return NOISE * (2 * eps * (spread * energy).sqrt() + eps**2 * energy)
