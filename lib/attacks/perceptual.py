"""Perceptual threats (Kang et al. 2019): the attack moves not the pixels but the scene from which an image is rendered.

A scene is a dict of tensors, one entry per image: `latent`, which the attack moves, and masks or kernels, which are
drawn once and stay. Units are those of the authors' code, whose budgets the code of the representation-similarity paper
uses.

- jpeg, jpeg_linf: DCT coefficients in units of JPEG's quantisation steps. The latent lies in the l2 or linf ball of
  eps; half of it is added to the coefficients.
- gabor: Gabor noise of contrast 1 times eps / 255 is added. The latent holds the weights, in [-1, 1], of the few pixels
  at which a kernel sits. (The authors' code inverts the mask of these pixels; here noise is sparse, as in their text.)
- snow: the image is whitened and streaked with flakes, whose brightness is eps times the fourth power of their
  intensity. The latent holds the intensities, in [0, 1] and of mean at most SNOW_BUDGET in every patch of 8x8 flakes of
  a layer.

The scenes of gabor and snow are never empty, so their images do not approach the clean one as eps approaches 0.
"""

from __future__ import annotations

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from lib.attacks.geometry import ball_noise, project_l1, shrink, uphill
from lib.errors import need
from lib.values.threats import Threat

# The example tables of the JPEG standard (ITU-T T.81, annex K), vertical frequency first.
LUMINANCE = ((16, 11, 10, 16, 24, 40, 51, 61), (12, 12, 14, 19, 26, 58, 60, 55), (14, 13, 16, 24, 40, 57, 69, 56),
             (14, 17, 22, 29, 51, 87, 80, 62), (18, 22, 37, 56, 68, 109, 103, 77), (24, 35, 55, 64, 81, 104, 113, 92),
             (49, 64, 78, 87, 103, 121, 120, 101), (72, 92, 95, 98, 112, 100, 103, 99))
CHROMINANCE = ((17, 18, 24, 47, 99, 99, 99, 99), (18, 21, 26, 66, 99, 99, 99, 99), (24, 26, 56, 99, 99, 99, 99, 99),
               (47, 66, 99, 99, 99, 99, 99, 99), *((99,) * 8,) * 4)
TO_RGB = ((1.0, 0.0, 1.402), (1.0, -0.344136, -0.714136), (1.0, 1.772, 0.0))  # from Y, Cb, Cr
KERNEL = 23  # side of a Gabor kernel
DENSITY = 1 / 14  # share of the pixels at which a Gabor kernel sits
EQUALISER = 0.001  # the contrast below which Gabor noise is not raised to full contrast
SNOW_BUDGET = 0.15
STREAK = 6  # the longest reach of a flake's streak, in pixels
WHITENING = 0.25
LUMA = (0.2126, 0.7152, 0.0722)


def draw(threat: Threat, shape, generator: torch.Generator) -> dict[str, Tensor]:
    """A random scene for images of `shape` [B, C, H, W] with its latent within the threat, on the generator's device.

    Raises SettingsError unless C is 1 or 3 and H and W are at least 8.
    """
    need(shape[1] in (1, 3), "number of channels", shape[1], f"1 or 3 for the norm {threat.norm}")
    need(min(shape[2:]) >= 8, "image side", min(shape[2:]), f"at least 8 pixels for the norm {threat.norm}")
    return inside(_KINDS[threat.norm][0](threat, tuple(shape), generator), threat)


def draw_each(threat: Threat, shape, generators: list[torch.Generator]) -> dict[str, Tensor]:
    """`draw` with a generator for each of the B images; raises what `draw` raises."""
    scenes = [draw(threat, (1, *shape[1:]), own) for own in generators]
    return {name: torch.cat([scene[name] for scene in scenes]) for name in scenes[0]}


def render(x: Tensor, scene: dict[str, Tensor], threat: Threat) -> Tensor:
    """The images [B, C, H, W] in [0, 1] that the scene makes of the images x [B, C, H, W] in [0, 1]; differentiable in
    the scene's latent.

    For gabor the gradient treats the contrast equalisation as a constant; the exact derivative is zero nearly
    everywhere.
    """
    return _KINDS[threat.norm][1](x, scene, float(threat.eps)).clamp(0, 1)


def inside(scene: dict[str, Tensor], threat: Threat) -> dict[str, Tensor]:
    """The scene with its latent projected into the threat."""
    latent, eps = scene["latent"], float(threat.eps)
    if threat.norm == "jpeg":
        latent = shrink(latent, eps)
    elif threat.norm == "jpeg_linf":
        latent = latent.clamp(-eps, eps)
    elif threat.norm == "gabor":
        latent = latent.clamp(-1, 1) * scene["mask"]
    else:
        latent = _within_budget(latent)
    return scene | {"latent": latent}


def ascend_scene(x: Tensor, scene: dict[str, Tensor], grad: Tensor, size: float, threat: Threat) -> dict[str, Tensor]:
    """The scene after one step of length `size` uphill; `grad` [B, C, H, W] is the gradient at the images that `scene`
    shows of x [B, C, H, W].

    The step follows the latent's gradient for jpeg (l2) and its sign for the others; then `inside`. A latent with a
    zero gradient does not move.
    """
    latent = scene["latent"].detach().requires_grad_()
    with torch.enable_grad():
        shown = render(x, scene | {"latent": latent}, threat)
        grad, = torch.autograd.grad((shown * grad).sum(), latent)  # torch imports for 5 s when given output gradients
    move = uphill(grad, size) if threat.norm == "jpeg" else size * grad.sign()
    return inside(scene | {"latent": latent.detach() + move}, threat)


# ------------------------------------------------------------------------------------------------------------- JPEG


def _draw_jpeg(threat: Threat, shape, generator: torch.Generator) -> dict[str, Tensor]:
    batch, channels, height, width = shape
    side = 8 if channels == 1 else 16  # chrominance is halved
    blocks = -(-height // side) * -(-width // side) * (1 if channels == 1 else 4 + 2)
    norm = "l2" if threat.norm == "jpeg" else "linf"
    return {"latent": float(threat.eps) * ball_noise(norm, (batch, blocks, 8, 8), generator)}


@functools.cache
def _constant(values: tuple, device: torch.device) -> Tensor:
    return torch.tensor(values, device=device)


@functools.cache
def _dct(device: torch.device) -> Tensor:
    """The orthonormal DCT-II matrix [frequency, place] of length 8."""
    frequency, place = torch.arange(8.0)[:, None], torch.arange(8.0)
    matrix = torch.cos((2 * place + 1) * frequency * math.pi / 16) / 2
    matrix[0] /= math.sqrt(2)
    return matrix.to(device)


def _plane(coefficients: Tensor, table: tuple, height: int, width: int) -> Tensor:
    """The plane [B, height, width] in units of [0, 1] of quantised coefficients [B, blocks, 8, 8]."""
    dct = _dct(coefficients.device)
    blocks = dct.T @ (coefficients * _constant(table, dct.device) / 255) @ dct
    rows = blocks.unflatten(1, (height // 8, width // 8)).transpose(2, 3)
    return rows.reshape(-1, height, width)


def _jpeg(x: Tensor, scene: dict[str, Tensor], eps: float) -> Tensor:
    """Decoding without rounding is linear, so the latent is decoded by itself and added to the image: the coefficients
    move as intended, and the image keeps the detail that subsampled chrominance would lose.
    """
    latent, (channels, height, width) = scene["latent"] / 2, x.shape[1:]
    side = 8 if channels == 1 else 16
    tall, wide = -(-height // side) * side, -(-width // side) * side
    if channels == 1:
        added = _plane(latent, LUMINANCE, tall, wide)[:, None]
    else:
        luma, *chroma = latent.tensor_split([latent.shape[1] * 4 // 6, latent.shape[1] * 5 // 6], 1)
        planes = [_plane(luma, LUMINANCE, tall, wide)]
        for plane in chroma:
            half = _plane(plane, CHROMINANCE, tall // 2, wide // 2)
            planes.append(half.repeat_interleave(2, 1).repeat_interleave(2, 2))
        added = torch.einsum("ry,byhw->brhw", _constant(TO_RGB, x.device), torch.stack(planes, 1))
    return x + added[:, :, :height, :width]


# ------------------------------------------------------------------------------------------------------------ Gabor


def _draw_gabor(threat: Threat, shape, generator: torch.Generator) -> dict[str, Tensor]:
    """Kernels as in the authors' code: an isotropic Gaussian of width 0.1 to 0.4 of the kernel's side times waves of 3
    to 5.75 periods per side, summed over 1 to 10 directions that divide half a turn evenly.
    """
    (batch, _, height, width), where = shape, {"generator": generator, "device": generator.device}
    pixels = height * width
    sites = torch.rand(batch, pixels, **where).topk(max(1, round(DENSITY * pixels)), dim=1).indices
    mask = torch.zeros(batch, pixels, device=generator.device).scatter(1, sites, 1.0).view(batch, 1, height, width)
    latent = ball_noise("linf", (batch, 1, height, width), generator)
    spread, waves, turn = (low + (high - low) * torch.rand(batch, 1, 1, 1, **where)
                          for low, high in ((0.1, 0.4), (3, KERNEL / 4), (0, math.pi)))
    directions = torch.randint(1, 11, (batch, 1, 1, 1), **where)
    number = torch.arange(10, device=generator.device)[:, None, None]
    turns = turn + math.pi * number / directions
    place = torch.linspace(-0.5, 0.5, KERNEL, device=generator.device)
    along = place * turns.cos() + place[:, None] * turns.sin()  # [B, 10, KERNEL, KERNEL]
    envelope = torch.exp(-(place**2 + place[:, None] ** 2) / (2 * spread**2))
    kernels = envelope * ((number < directions) * torch.cos(2 * math.pi * waves * along)).sum(1, keepdim=True)
    return {"latent": latent, "mask": mask, "kernels": kernels}


def _each(planes: Tensor, kernels: Tensor) -> Tensor:
    """The planes [B, L, H, W] of every image, filtered with its own kernels [B, L, K, K] and summed: [B, 1, H, W].

    Uses the Fourier transform: gradients of grouped convolutions are several times slower on a CPU.
    """
    height, width, reach = *planes.shape[2:], kernels.shape[-1] // 2
    size = (height + 2 * reach, width + 2 * reach)  # room for kernels that reach over the edge
    spectrum = (torch.fft.rfft2(planes, size) * torch.fft.rfft2(kernels, size)).sum(1, keepdim=True)
    return torch.fft.irfft2(spectrum, size)[:, :, reach:reach + height, reach:reach + width]


def _gabor(x: Tensor, scene: dict[str, Tensor], eps: float) -> Tensor:
    """Every pixel of the noise is divided by its own contrast (plus EQUALISER, so that it fades where there is none);
    then the noise is stretched to [0, 1].
    """
    noise = _each(scene["latent"], scene["kernels"])
    tiny = torch.finfo(noise.dtype).tiny
    with torch.no_grad():
        mean = noise.mean((2, 3), keepdim=True)
        contrast = (noise - mean).abs()
        gain = 1 / (EQUALISER + contrast / contrast.amax((2, 3), keepdim=True).clamp_min(tiny))
        low, high = torch.aminmax(((noise - mean) * gain).flatten(1), dim=1)
        low, spread = low[:, None, None, None], (high - low).clamp_min(tiny)[:, None, None, None]
    return x + eps / 255 * ((noise - mean) * gain - low) / spread


# ------------------------------------------------------------------------------------------------------------- Snow


def _draw_snow(threat: Threat, shape, generator: torch.Generator) -> dict[str, Tensor]:
    """Seven layers of flakes, one for every fourth pixel, each layer with its own streak; all streaks of an image fall
    to the same side.
    """
    (batch, _, height, width), where = shape, {"generator": generator, "device": generator.device}
    uniform = torch.rand(batch, 7, -(-height // 4), -(-width // 4), **where)
    return {"latent": torch.exp(-uniform / SNOW_BUDGET), "kernels": _streaks(batch, generator)}


def _streaks(batch: int, generator: torch.Generator) -> Tensor:
    """Blurred line segments through the middle of the kernel, [batch, 7, 13, 13]: they reach 2 to 6 pixels to each side
    along both axes, are 1, 3 or 5 pixels thick (with probability 0.6, 0.3 and 0.1), and are softened with a Gaussian of
    0.41 to 0.6 pixels.
    """
    size, where = (batch, 7, 1, 1), {"generator": generator, "device": generator.device}
    down, right = torch.randint(2, STREAK + 1, (2, *size), **where)
    draw = torch.rand(size, **where)
    slope = torch.minimum(down, right) / torch.maximum(down, right)
    half = (1 + 2 * (draw > 0.6) + 2 * (draw > 0.9)) * torch.sqrt(1 + slope) / 4
    place = torch.arange(-STREAK, STREAK + 1, device=generator.device)
    y, x = place[:, None], place * torch.where(torch.rand(batch, 1, 1, 1, **where) < 0.5, -1, 1)
    along, across = torch.where(down > right, y, x), torch.where(down > right, x, y)
    line = (1 + half - (across - slope * along).abs()).clamp(0, 1) * (along.abs() <= torch.maximum(down, right))
    sigma = 0.41 + 0.19 * torch.rand(size, **where)
    blur = torch.exp(-(torch.arange(-1, 2, device=generator.device) ** 2) / (2 * sigma**2))
    blur = (blur / blur.sum(-1, keepdim=True)).flatten(0, 1)  # [7 B, 1, 3]
    blurred = F.conv2d(line.flatten(0, 1)[None], (blur.mT @ blur)[:, None], padding=1, groups=7 * batch)
    return blurred.view_as(line)


def _patches(layers: Tensor) -> Tensor:
    """Layers [B, L, H, W], padded with zeros, as patches of 8x8: [B, L, ceil(H / 8), ceil(W / 8), 64]."""
    padded = F.pad(layers, (0, -layers.shape[3] % 8, 0, -layers.shape[2] % 8))
    return F.pixel_unshuffle(padded, 8).unflatten(1, (-1, 64)).movedim(2, -1)


def _within_budget(intensities: Tensor) -> Tensor:
    """The nearest intensities in [0, 1] whose mean over any patch of 8x8 flakes is at most SNOW_BUDGET.

    (The authors rescale a patch that is too bright, which undoes much of a step.) A flake whose intensity reaches 0
    stays there, since the fourth power has no gradient at 0; so the budget gathers on a few bright flakes.
    """
    patches, room = _patches(intensities.clamp_min(0)), _patches(torch.ones_like(intensities))
    flat, flat_room = patches.reshape(-1, 1, 1, 64), room.reshape(-1, 1, 1, 64)
    near = project_l1(flat, flat_room, SNOW_BUDGET * flat_room.flatten(1).sum(1, keepdim=True))
    layers = F.pixel_shuffle(near.view_as(patches).movedim(-1, 2).flatten(1, 2), 8)
    return layers[:, :, :intensities.shape[2], :intensities.shape[3]]


def _snow(x: Tensor, scene: dict[str, Tensor], eps: float) -> Tensor:
    """Flakes of the first four layers lie at rows 4k and columns 4k + i, i = 0..3, those of the other layers at rows
    4k + i, i = 1..3, and columns 4k. Whitening mixes in a quarter of the brighter of the image and half-white grey.
    """
    (height, width), bright = x.shape[2:], scene["latent"] ** 4
    batch, layers, tall, wide = bright.shape
    flakes = bright.new_zeros(batch, layers, 4 * tall, 4 * wide)
    for i in range(4):
        flakes[:, i, ::4, i::4] = bright[:, i]
    for i in range(1, 4):
        flakes[:, 3 + i, i::4, ::4] = bright[:, 3 + i]
    grey = x if x.shape[1] == 1 else (x * _constant(LUMA, x.device)[:, None, None]).sum(1, keepdim=True)
    whitened = (1 - WHITENING) * x + WHITENING * torch.maximum(x, 1.5 * grey + 0.5)
    return whitened + eps * _each(flakes[:, :, :height, :width], scene["kernels"])


_KINDS = {"jpeg": (_draw_jpeg, _jpeg), "jpeg_linf": (_draw_jpeg, _jpeg), "gabor": (_draw_gabor, _gabor),
          "snow": (_draw_snow, _snow)}
