"""Denoisers whose weights come from elsewhere: from EDM (Karras et al. 2022) and from diffusers.

Images are pixels in [0, 1] and sigma is in the same units, as for our own denoisers. EDM's sigma, for pixels in
[-1, 1], is twice as large: the 0.5 in the off-manifold paper's code is 0.25 here.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.errors import SettingsError, need, unknown
from lib.models import external
from lib.models.generative import Denoiser
from lib.runtime import initialise_with


def load_edm(path: str | Path, sha256: str | None = None) -> Denoiser:
    """The denoiser in a file with EDM's tensors, of the architecture called DDPM++ or VP (`SongUNet`, as in
    edm-cifar10-32x32-uncond-vp and -cond-vp; not VE, not ADM): on the CPU, in eval mode, frozen. Its sizes are inferred
    from the tensors.

    path: a file of torch.save with the network's tensors by name. The files that NVIDIA publishes are pickles that run
    NVIDIA's code when they are opened, so they are not opened here. In a clone of github.com/NVlabs/edm, write one with

        python -c "import pickle, torch; torch.save(pickle.load(open('IN.pkl', 'rb'))['ema'].state_dict(), 'OUT.pt')"

    sha256: the digest of that file in hexadecimal, checked before it is read. A conditional network was always trained
    with a class; its output without one is not a score of the data.

    Raises SettingsError for a file that is missing, has another digest, cannot be read, or holds another architecture.
    """
    path = Path(path)
    given = {name.removeprefix("model."): tensor for name, tensor in external.read_tensors(path, sha256).items()}
    given.pop("map_augment.weight", None)  # encodes how a training image was augmented; here none is
    sizes = _sizes(path, given)
    with initialise_with("external"):  # the weights will be replaced; the caller's random numbers stay untouched
        net = SongUNet(**sizes)
    external.check_tensors(path, given, net.state_dict())
    net.load_state_dict(given)
    return Denoiser(net, sizes["channels"], sizes["classes"], 0.5, std=0.5).eval().requires_grad_(False)


def _sizes(path: Path, given: Mapping[str, Tensor]) -> dict:
    """The arguments with which a `SongUNet` has the sizes of a file's tensors."""
    entry = next((found for name in given if (found := re.fullmatch(r"enc\.(\d+)x\1_conv\.weight", name))), None)
    wanted = "tensors of EDM's SongUNet: enc.32x32_conv.weight, map_layer0.weight, enc.32x32_block0.conv1.weight, ..."
    need(entry is not None and "map_layer0.weight" in given, "weights file", path, f"one with {wanted}")
    need("map_noise.freqs" not in given, "weights file", path, "a VP network; this one (VE) embeds noise differently")
    width, channels = given[entry[0]].shape[:2]
    side, sizes = int(entry[1]), []
    while (size := side >> len(sizes)) and f"enc.{size}x{size}_block0.conv1.weight" in given:
        sizes.append(size)
    label = given.get("map_label.weight")
    return {
        "side": side, "channels": channels, "width": width,
        "multipliers": [len(given[f"enc.{size}x{size}_block0.conv1.weight"]) // width for size in sizes],
        "blocks": sum(f"enc.{side}x{side}_block{k}.conv1.weight" in given for k in range(100)),
        "attention": [size for size in sizes if f"enc.{size}x{size}_block0.qkv.weight" in given],
        "embedding": len(given["map_layer0.weight"]), "classes": 0 if label is None else label.shape[1],
    }


class SongUNet(nn.Module):
    """The U-Net of Song et al. 2021 (DDPM++) as EDM builds it, with EDM's names of tensors; the F of a denoiser.

    side, channels: of the images. width: channels of the first level; level k, which works on side / 2^k pixels, has
    `multipliers[k]` times as many. blocks: per level on the way down; one more on the way up. attention: the sizes at
    which blocks end with self-attention. embedding: length of the vector that encodes noise and class. classes: 0 for
    an unconditional network.
    """

    def __init__(self, side: int, channels: int, width: int, multipliers: Sequence[int], blocks: int,
                 attention: Sequence[int], embedding: int, classes: int):
        super().__init__()
        self.width, self.classes = width, classes
        self.map_label = nn.Linear(classes, width) if classes else None
        self.map_layer0, self.map_layer1 = nn.Linear(width, embedding), nn.Linear(embedding, embedding)
        block = functools.partial(Block, embedding=embedding)
        self.enc, self.dec, now, skips = nn.ModuleDict(), nn.ModuleDict(), width, []
        for level, multiplier in enumerate(multipliers):
            size = side >> level
            name = f"{size}x{size}"
            if level:
                self.enc[f"{name}_down"] = block(now, now, resample="down")
            else:
                self.enc[f"{name}_conv"] = nn.Conv2d(channels, width, 3, padding=1)
            skips.append(now)
            for k in range(blocks):
                self.enc[f"{name}_block{k}"] = block(now, width * multiplier, attention=size in attention)
                now = width * multiplier
                skips.append(now)
        for level, multiplier in reversed(list(enumerate(multipliers))):
            size = side >> level
            name = f"{size}x{size}"
            if level == len(multipliers) - 1:
                self.dec[f"{name}_in0"] = block(now, now, attention=True)
                self.dec[f"{name}_in1"] = block(now, now)
            else:
                self.dec[f"{name}_up"] = block(now, now, resample="up")
            for k in range(blocks + 1):
                last = k == blocks and size in attention
                self.dec[f"{name}_block{k}"] = block(now + skips.pop(), width * multiplier, attention=last)
                now = width * multiplier
        self.dec[f"{side}x{side}_aux_norm"] = _norm(now)
        self.dec[f"{side}x{side}_aux_conv"] = nn.Conv2d(now, channels, 3, padding=1)

    def forward(self, x: Tensor, noise: Tensor, labels: Tensor) -> Tensor:
        told = F.silu(self.map_layer1(F.silu(self.map_layer0(self._embedded(noise, labels)))))
        skips = []
        for block in self.enc.values():
            x = block(x, told) if isinstance(block, Block) else block(x)
            skips.append(x)
        *blocks, norm, conv = self.dec.values()
        for block in blocks:
            if x.shape[1] != block.channels:
                x = torch.cat([x, skips.pop()], 1)
            x = block(x, told)
        return conv(F.silu(norm(x)))

    def _embedded(self, noise: Tensor, labels: Tensor) -> Tensor:
        """Sines and cosines of the noise at frequencies from 1 to 1/10,000, plus the embedding of the class:
        [B, width].
        """
        half = self.width // 2
        frequencies = 10_000 ** -(torch.arange(half, device=noise.device) / (half - 1))
        angles = noise[:, None] * frequencies
        told = torch.cat([angles.sin(), angles.cos()], 1)
        if self.map_label is None:
            return told
        given = F.one_hot(labels, self.classes + 1)[:, :-1].to(told.dtype)  # no class is a row of zeros
        return told + self.map_label(given * math.sqrt(self.classes))


class Block(nn.Module):
    """A residual block that receives noise and class between its two convolutions and may end with attention; sums are
    divided by sqrt(2). `resample`: before the first convolution and the skip's, `up` repeats pixels and `down` averages
    2 x 2 of them.
    """

    def __init__(self, channels: int, out: int, embedding: int, attention: bool = False, resample: str | None = None):
        super().__init__()
        self.channels = channels
        self.norm0, self.conv0 = _norm(channels), Resampled(channels, out, 3, resample)
        self.affine = nn.Linear(embedding, out)
        self.norm1, self.conv1 = _norm(out), nn.Conv2d(out, out, 3, padding=1)
        self.skip = Resampled(channels, out, 1, resample) if resample or channels != out else None
        self.attention = attention
        if attention:
            self.norm2, self.qkv, self.proj = _norm(out), nn.Conv2d(out, 3 * out, 1), nn.Conv2d(out, out, 1)

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        inner = self.conv0(F.silu(self.norm0(x))) + self.affine(told)[:, :, None, None]
        inner = self.conv1(F.silu(self.norm1(inner)))
        x = (inner + (x if self.skip is None else self.skip(x))) * math.sqrt(0.5)
        return (x + self._attended(x)) * math.sqrt(0.5) if self.attention else x

    def _attended(self, x: Tensor) -> Tensor:
        """Self-attention of one head over the pixels; in `qkv` the channels of queries, keys and values alternate."""
        query, key, value = self.qkv(self.norm2(x)).flatten(2).unflatten(1, (-1, 3)).unbind(2)  # [B, C, HW] each
        found = F.scaled_dot_product_attention(*(part.transpose(1, 2) for part in (query, key, value)))
        return self.proj(found.transpose(1, 2).reshape(x.shape))


class Resampled(nn.Conv2d):
    """A convolution after a doubling or halving of the image; EDM's files store the filter as `resample_filter`."""

    def __init__(self, channels: int, out: int, kernel: int, resample: str | None):
        super().__init__(channels, out, kernel, padding=kernel // 2)
        self.resample = resample
        if resample:
            self.register_buffer("resample_filter", torch.full((1, 1, 2, 2), 0.25))

    def forward(self, x: Tensor) -> Tensor:
        if self.resample == "up":
            x = F.interpolate(x, scale_factor=2.0)
        elif self.resample == "down":
            x = F.avg_pool2d(x, 2)
        return super().forward(x)


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(min(32, channels // 4), channels, eps=1e-6)


# ----------------------------------------------------------------------------------------------------------- diffusers

PREDICTIONS = ("epsilon", "sample", "v_prediction")


def load_diffusers(folder: str | Path) -> Denoiser:
    """The denoiser in a folder that diffusers saved: a `UNet2DModel` (`config.json` and a .safetensors file, in the
    folder or in its subfolder `unet`) and the schedule it was trained with (`scheduler_config.json`, in the folder or
    in `scheduler`): on the CPU, in eval mode, frozen. If the network embeds classes, the last embedding means no class,
    as in our own networks.

    Raises SettingsError for a folder that lacks one of them or that diffusers cannot read, and for a schedule without
    betas (such as EDM's own).
    """
    unet = _within(Path(folder), "config.json", "unet")
    schedule = _within(Path(folder), "scheduler_config.json", "scheduler")
    said = json.loads((schedule / "scheduler_config.json").read_text(encoding="utf-8"))
    betas = isinstance(said, dict) and ("beta_schedule" in said or said.get("trained_betas") is not None)
    need(betas, "scheduler_config.json", folder, "for a schedule with betas, such as DDPM's")
    from diffusers import DDPMScheduler, UNet2DModel

    try:
        net = UNet2DModel.from_pretrained(unet, local_files_only=True, use_safetensors=True)
        steps = DDPMScheduler.from_pretrained(schedule, local_files_only=True)
    except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
        why = str(error).strip().partition("\n")[0]
        raise SettingsError(f"folder = {folder} is not possible: diffusers cannot read it ({why})") from error
    return Discrete(net, steps.alphas_cumprod, steps.config.prediction_type).eval().requires_grad_(False)


def _within(folder: Path, file: str, below: str) -> Path:
    """The folder or its subfolder `below`, whichever has the file. Raises SettingsError if neither has."""
    found = next((place for place in (folder, folder / below) if (place / file).is_file()), None)
    need(found is not None, "folder", folder, f"one with {file} or {below}/{file}, as diffusers saves it")
    return found


class Discrete(Denoiser):
    """A denoiser from a network trained on the steps t = 0, 1, ... of a variance-preserving schedule (DDPM, Ho et al.
    2020): x_t = sqrt(a_t) x + sqrt(1 - a_t) n, so x_t / sqrt(a_t) has noise of sigma = sqrt(1 / a_t - 1). Between two
    steps ln(sigma) is taken as linear in t; outside the schedule t stays at the first or last step. kept: the a_t [T].
    predicts: the noise n (epsilon), the image (sample) or sqrt(a_t) n - sqrt(1 - a_t) x (v_prediction). Raises
    SettingsError for another prediction.
    """

    def __init__(self, unet: nn.Module, kept: Tensor, predicts: str):
        if predicts not in PREDICTIONS:
            raise unknown("prediction_type of the schedule", predicts, PREDICTIONS)
        super().__init__(unet, unet.config.in_channels, max((unet.config.num_class_embeds or 0) - 1, 0), std=0.5)
        self.predicts = predicts
        self.register_buffer("levels", (1 / kept.double() - 1).sqrt().log().float())

    def denoise(self, x: Tensor, sigma: Tensor, labels: Tensor) -> Tensor:
        scale = (1 + sigma.square()).sqrt()
        given = labels if self.network.class_embedding is not None else None
        out = self.network(x / scale, self._step(sigma.flatten()), given, return_dict=False)[0].to(x.dtype)
        if self.predicts == "epsilon":
            return x - sigma * out
        return out if self.predicts == "sample" else x / scale.square() - sigma / scale * out

    def _step(self, sigma: Tensor) -> Tensor:
        """The steps t [B], real numbers, at which the schedule has the noise `sigma` [B]."""
        level = sigma.log().clamp(self.levels[0], self.levels[-1])
        after = torch.searchsorted(self.levels, level).clamp(1, len(self.levels) - 1)
        low, high = self.levels[after - 1], self.levels[after]
        return after - 1 + (level - low) / (high - low)
