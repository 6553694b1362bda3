"""Steps off the manifold that have the Fourier spectrum of steps along it: they differ from those in one thing only.

Shapes and units are those of `lib.manifold.sensitivity`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lib.errors import is_int, need
from lib.manifold.sensitivity import phase_randomised, resized
from lib.manifold.spaces import Tangents, along, check_fit

ROUNDS = 200
INSIDE, MISPLACED = 0.01, 0.1  # the largest shares, means over images and draws, with which matched steps are a control
# Orthonormal colours of three channels: luminance and two differences.
_COLOURS = ((3**-0.5, 3**-0.5, 3**-0.5), (2**-0.5, -(2**-0.5), 0.0), (6**-0.5, 6**-0.5, -2 * 6**-0.5))


@dataclass(frozen=True, eq=False)
class Matched:
    """Matched steps [R, N, D]. inside: the share of each one's squared length that lies along the tangent space.
    misplaced: the share of its power that would have to move to another band or colour to give the spectrum that it
    should have. Both [R, N] in [0, 1].
    """

    moves: Tensor
    inside: Tensor
    misplaced: Tensor

    @property
    def valid(self) -> bool:
        """Whether the steps are off the manifold and have the spectrum (INSIDE, MISPLACED)."""
        return float(self.inside.mean()) < INSIDE and float(self.misplaced.mean()) < MISPLACED


def spectrum_matched(steps: Tensor, images: Tensor, indices: Tensor, tangents: Tangents, *parts,
                     rounds: int = ROUNDS) -> Matched:
    """Steps off the tangent spaces with the lengths of `steps` [R, N, D] and their power in each radial frequency band
    and colour.

    From phase-randomised steps (`phase_randomised`, with the same `indices` and `parts`) two corrections alternate: the
    power of each band and colour is scaled to that of `steps`, and the part along the tangent space is removed, which
    comes last. If a tangent space holds nearly all smooth patterns there are no such steps: the result is then not
    `valid`. Raises SettingsError for steps that do not fit the images and the spaces, and for fewer than one round.
    """
    check_fit("steps", steps, tangents)
    need(is_int(rounds, 1), "rounds", rounds, "a whole number of at least 1")
    moves, shape = phase_randomised(steps, images, indices, *parts), tuple(images.shape[1:])
    wanted, bands = band_power(steps, shape), _bands(shape, steps.device)
    for _ in range(rounds):
        spectrum = _spectrum(moves, shape)
        found = _summed(spectrum, bands)
        scale = (wanted / found.clamp(min=torch.finfo(found.dtype).tiny)).sqrt().where(found > 0, 0)
        spectrum = spectrum * scale.index_select(-1, bands).unflatten(-1, shape[1:])
        moves = _colours(torch.fft.ifft2(spectrum, norm="ortho").real, back=True).flatten(2)
        moves = moves - along(moves, tangents)
    moves = resized(moves, 1) * torch.linalg.vector_norm(steps, dim=-1, keepdim=True)
    left = along(moves, tangents).square().sum(-1) / moves.square().sum(-1)
    apart = (band_power(moves, shape) - wanted).abs().sum((-1, -2)) / (2 * wanted.sum((-1, -2)))
    return Matched(moves, left, apart)


def band_power(steps: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """The power of steps [R, N, D] of images of `shape` in each colour and radial band: [R, N, C, B], whose sum is the
    squared length. Band b holds the frequencies of about b cycles along the longer side. The colours of three channels
    are the luminance and two differences; other numbers of channels stay as they are.
    """
    return _summed(_spectrum(steps, shape), _bands(shape, steps.device))


def within_bands(steps: Tensor, shape: tuple[int, int, int], low: int, high: int) -> Tensor:
    """The parts of steps [R, N, D] of images of `shape` in the radial bands (see `band_power`) from `low` to `high`.
    Raises SettingsError unless an image has one of these bands.
    """
    bands = _bands(shape, steps.device)
    kept = (bands >= low) & (bands <= high)
    need(bool(kept.any()), "bands", f"{low} to {high}", f"within 0 to {int(bands.max())} for images {shape}")
    spectrum = torch.fft.fft2(steps.unflatten(2, shape))
    return torch.fft.ifft2(spectrum * kept.view(shape[1:])).real.flatten(2)


def _bands(shape: tuple[int, int, int], device) -> Tensor:
    """The band of each frequency of `torch.fft.fft2`, int64 [H * W]."""
    _, height, width = shape
    y, x = torch.fft.fftfreq(height)[:, None], torch.fft.fftfreq(width)[None]
    return (max(height, width) * torch.hypot(y, x)).round().long().flatten().to(device)


def _spectrum(steps: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Fourier coefficients of each colour, complex [R, N, C, H, W]."""
    return torch.fft.fft2(_colours(steps.unflatten(2, shape)), norm="ortho")


def _summed(spectrum: Tensor, bands: Tensor) -> Tensor:
    power = spectrum.abs().square().flatten(-2)
    return power.new_zeros(*power.shape[:-1], int(bands.max()) + 1).index_add_(-1, bands, power)


def _colours(pictures: Tensor, back: bool = False) -> Tensor:
    """Pictures [..., C, H, W] from channels to colours, or back."""
    if pictures.shape[-3] != 3:
        return pictures
    turn = torch.tensor(_COLOURS, dtype=pictures.dtype, device=pictures.device)
    return torch.einsum("dc,...chw->...dhw", turn.mT if back else turn, pictures)


def said(name: str, inside: float, misplaced: float) -> tuple[str, bool, str]:
    """A check of the matched steps of a sweep from the means of both shares: (the check, its outcome, the numbers)."""
    holds = inside < INSIDE and misplaced < MISPLACED
    none = "" if holds else "no such control: "
    return (f"steps off the manifold with the spectrum of steps along it, {name}", holds,
            f"{none}{inside:.2%} of their power lies inside (less than {INSIDE:.0%} needed), {misplaced:.1%} is "
            f"misplaced (less than {MISPLACED:.0%} needed)")
