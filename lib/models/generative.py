"""Networks that output images: denoisers, from which scores follow, and auto-encoders. Pixels lie in [0, 1], and the
networks contain their normaliser, as everywhere.
"""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.errors import need
from lib.models.building import builders
from lib.models.staged import Normalise
from lib.values.architectures import AutoEncoder as AutoEncoderArch
from lib.values.architectures import DenoisingMLP, UNet

SIGMA_DATA = 1.0  # in units of the normaliser's 0.25, which is EDM's 0.5 for pixels in [-1, 1]


class Denoiser(nn.Module):
    """D(x; sigma): noisy images [B, C, H, W] to the expected clean ones, with the preconditioning of Karras et al. 2022
    (EDM, section 5): D = c_skip x + c_out F(c_in x; ln(sigma) / 4; class), c_skip = d^2 / (sigma^2 + d^2), c_out =
    sigma d / sqrt(sigma^2 + d^2), c_in = 1 / sqrt(sigma^2 + d^2).

    Callers use pixels in [0, 1], and sigma is the standard deviation of their noise in the same units (half its value
    for pixels in [-1, 1]). Inside, x, sigma and `sigma_data` (d) are in units of the normaliser.

    network: F, called with (x [B, C, H, W], ln(sigma) / 4 [B], labels int64 [B], where `classes` means no class).
    classes: the number of classes that the network knows; 0 for an unconditional network.
    """

    def __init__(self, network: nn.Module, channels: int, classes: int, sigma_data: float = SIGMA_DATA,
                 std: float = 0.25):
        super().__init__()
        self.normalise = Normalise(channels, std=std)
        self.network, self.classes, self.sigma_data = network, classes, sigma_data

    def forward(self, images: Tensor, sigma: float | Tensor | None = None, labels: Tensor | None = None) -> Tensor:
        """The expected clean images [B, C, H, W] of noisy `images` [B, C, H, W].

        sigma: a number above 0, or one for each image [B]. labels: int64 [B], -1 for an image without a class; None: no
        image has one. Raises SettingsError without a sigma, and for labels where the network takes none.
        """
        need(sigma is not None, "sigma", sigma, "the noise of the images, since a denoiser gives images and no classes")
        need(labels is None or self.classes > 0, "labels", "given", "left out for a denoiser that takes no classes")
        if not isinstance(sigma, Tensor):
            need(sigma > 0, "sigma", sigma, "greater than 0")
            sigma = torch.full((), sigma, device=images.device)
        level = (sigma / self.normalise.std[0, 0, 0, 0]).expand(len(images)).view(-1, 1, 1, 1)
        if labels is None:
            labels = torch.full((len(images),), self.classes, device=images.device)
        labels = labels.where(labels >= 0, self.classes)
        return self.normalise.mean + self.normalise.std * self.denoise(self.normalise(images), level, labels)

    def denoise(self, x: Tensor, sigma: Tensor, labels: Tensor) -> Tensor:
        """D in units of the normaliser: x [B, C, H, W], sigma [B, 1, 1, 1], labels [B] (`classes` means no class)."""
        d = self.sigma_data
        scale = (sigma.square() + d**2).sqrt()
        inner = self.network(x / scale, sigma.flatten().log() / 4, labels).to(x.dtype)
        return (d / scale).square() * x + sigma * d / scale * inner

    def loss_weight(self, sigma: Tensor) -> Tensor:
        """The weights [B] of squared pixel errors at each sigma [B] in EDM's loss, (sigma^2 + d^2) / (sigma d)^2 with d
        in pixels too (Karras et al. 2022, table 1): F then has a target of about unit variance at every sigma.
        """
        d = self.sigma_data * self.normalise.std[0, 0, 0, 0]
        return (sigma.square() + d**2) / (sigma * d).square()


class AtNoise(nn.Module):
    """A denoiser at one sigma (in units of pixels in [0, 1]), as a map from images [B, C, H, W] to images."""

    def __init__(self, denoiser: Denoiser, sigma: float):
        super().__init__()
        self.denoiser, self.sigma = denoiser, sigma

    def forward(self, images: Tensor) -> Tensor:
        return self.denoiser(images, self.sigma)


class Diffusers(nn.Module):
    """A `UNet2DModel` of diffusers as the F of a denoiser."""

    def __init__(self, unet: nn.Module):
        super().__init__()
        self.unet = unet

    def forward(self, x: Tensor, noise: Tensor, labels: Tensor) -> Tensor:
        return self.unet(x, noise, class_labels=labels, return_dict=False)[0]


class ConditionalMLP(nn.Module):
    """Residual hidden layers on all pixels at once; each adds an embedding of noise and class to its input."""

    def __init__(self, pixels: int, width: int, depth: int, classes: int):
        super().__init__()
        self.noise = nn.Sequential(nn.Linear(1, width), nn.SiLU(), nn.Linear(width, width))
        self.label = nn.Embedding(classes + 1, width)
        self.stem = nn.Linear(pixels, width)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.out = nn.Linear(width, pixels)

    def forward(self, x: Tensor, noise: Tensor, labels: Tensor) -> Tensor:
        told = self.noise(noise[:, None]) + self.label(labels)
        hidden = self.stem(x.flatten(1))
        for layer in self.layers:
            hidden = hidden + layer(F.silu(hidden + told))
        return self.out(hidden).view_as(x)


@builders.register(UNet)
def unet(arch: UNet, shape: tuple[int, int, int], classes: int) -> Denoiser:
    """The denoiser of `arch`, whose last layer starts at 0. diffusers is imported here because that takes seconds."""
    from diffusers.models.unets.unet_2d import UNet2DModel

    levels = len(arch.multipliers)
    net = UNet2DModel(
        in_channels=shape[0],
        out_channels=shape[0],
        block_out_channels=tuple(arch.width * m for m in arch.multipliers),
        layers_per_block=arch.blocks,
        down_block_types=("DownBlock2D",) * levels,
        up_block_types=("UpBlock2D",) * levels,
        norm_num_groups=arch.width // 4,
        num_class_embeds=classes + 1,
    )
    _zero(net.conv_out)
    return Denoiser(Diffusers(net), shape[0], classes)


@builders.register(DenoisingMLP)
def denoising_mlp(arch: DenoisingMLP, shape: tuple[int, int, int], classes: int) -> Denoiser:
    """The denoiser of `arch`, whose last layer starts at 0."""
    net = ConditionalMLP(math.prod(shape), arch.width, arch.depth, classes)
    _zero(net.out)
    return Denoiser(net, shape[0], classes)


def _zero(layer: nn.Module) -> None:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


class AutoEncoder(nn.Module):
    """Maps images [B, C, H, W] in [0, 1] to codes [B, latent] and back to images; smooth in both directions."""

    def __init__(self, arch: AutoEncoderArch, shape: tuple[int, int, int]):
        super().__init__()
        channels, height, width = shape
        halvings = arch.halvings(height, width)
        widths = [arch.width * 2 ** min(k, 2) for k in range(halvings + 1)]
        small = (widths[-1], height >> halvings, width >> halvings)
        steps = list(itertools.pairwise(widths))
        down = [nn.Conv2d(channels, widths[0], 3, padding=1), *_smooth(widths[0])]
        for narrow, wide in steps:
            down += [nn.Conv2d(narrow, wide, 4, 2, 1), *_smooth(wide)]
        up = []
        for narrow, wide in reversed(steps):
            up += [nn.ConvTranspose2d(wide, narrow, 4, 2, 1), *_smooth(narrow)]
        self.normalise = Normalise(channels)
        self.encoder = nn.Sequential(*down, nn.Flatten(), nn.Linear(math.prod(small), arch.latent))
        self.decoder = nn.Sequential(nn.Linear(arch.latent, math.prod(small)), nn.Unflatten(1, small), nn.SiLU(), *up,
                                     nn.Conv2d(widths[0], channels, 3, padding=1))

    def encode(self, images: Tensor) -> Tensor:
        """The codes [B, latent] of images [B, C, H, W] in [0, 1]."""
        return self.encoder(self.normalise(images))

    def decode(self, latents: Tensor) -> Tensor:
        """The images [B, C, H, W] of codes [B, latent]. Pixels are not clipped to [0, 1], to keep the map smooth."""
        return self.normalise.mean + self.normalise.std * self.decoder(latents)

    def forward(self, images: Tensor) -> Tensor:
        return self.decode(self.encode(images))


def _smooth(channels: int) -> list[nn.Module]:
    return [nn.GroupNorm(channels // 4, channels), nn.SiLU()]


@builders.register(AutoEncoderArch)
def auto_encoder(arch: AutoEncoderArch, shape: tuple[int, int, int], classes: int) -> AutoEncoder:
    """The network of `arch` for images of `shape`. Raises `SettingsError` unless the code is shorter than an image."""
    pixels = math.prod(shape)
    need(arch.latent < pixels, "arch.latent", arch.latent, f"less than the {pixels} numbers of an image")
    return AutoEncoder(arch, shape)
