"""Networks of tokens [B, T, width]: the vision transformer and the MLP-Mixer."""

from __future__ import annotations

import torch
from torch import nn

from lib.models.building import builders
from lib.models.staged import Normalise, Staged
from lib.values.architectures import Mixer, ViT


class Patches(nn.Module):
    """Maps images [B, C, H, W] to tokens [B, (H / patch) * (W / patch), width]: one linear map of each patch."""

    def __init__(self, channels: int, width: int, patch: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, width, patch, patch)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x).flatten(2).transpose(1, 2)


class Positions(nn.Module):
    """Puts a class token [1, 1, width] before `patches` tokens and adds a learned position to each."""

    def __init__(self, patches: int, width: int):
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.position = nn.Parameter(torch.randn(1, 1 + patches, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.position


class Attention(nn.Module):
    """Self-attention of `heads` heads, softmax(q k' / sqrt(width)) v.

    As in the code of Ganz et al. (2023), it scales by the width of all heads together, not of one. It is written out
    because training on input gradients differentiates twice, which torch's fused attention cannot.
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads, self.scale = heads, width**-0.5
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query, key, value = (layer(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
                             for layer in (self.query, self.key, self.value))  # [B, heads, T, width / heads]
        shares = (self.scale * query @ key.transpose(2, 3)).softmax(-1)
        return self.out((shares @ value).transpose(1, 2).flatten(2))


class AttentionBlock(nn.Module):
    """x + attention(norm1(x)), then x + mlp(norm2(x)); a GELU follows both layers of the MLP."""

    def __init__(self, width: int, heads: int, mlp: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, mlp), nn.GELU(), nn.Linear(mlp, width), nn.GELU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class MixerBlock(nn.Module):
    """x + tokens(norm1(x)')', then x + channels(norm2(x)): one MLP over the patches and one over the channels."""

    def __init__(self, patches: int, width: int, token_mlp: int, channel_mlp: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.tokens = nn.Sequential(nn.Linear(patches, token_mlp), nn.GELU(), nn.Linear(token_mlp, patches))
        self.norm2 = nn.LayerNorm(width)
        self.channels = nn.Sequential(nn.Linear(width, channel_mlp), nn.GELU(), nn.Linear(channel_mlp, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.norm2(x))


class FirstToken(nn.Module):
    """Maps tokens [B, T, width] to the class token [B, width]."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, 0]


class MeanToken(nn.Module):
    """Maps tokens [B, T, width] to their mean [B, width]."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(1)


@builders.register(ViT)
def vit(arch: ViT, shape: tuple[int, int, int], classes: int) -> Staged:
    """The network of `arch` for images of `shape`, initialised as in the code of Ganz et al. (2023): linear layers by
    torch's default, class token and positions from the standard normal distribution.
    """
    channels, patches = shape[0], _patches(arch, shape)
    blocks = {f"block{k + 1}": AttentionBlock(arch.width, arch.heads, arch.mlp) for k in range(arch.depth)}
    return Staged({
        "normalise": Normalise(channels),
        "stem": nn.Sequential(Patches(channels, arch.width, arch.patch), Positions(patches, arch.width)),
        **blocks,
        "head": nn.Sequential(FirstToken(), nn.LayerNorm(arch.width), nn.Linear(arch.width, classes)),
    })


@builders.register(Mixer)
def mixer(arch: Mixer, shape: tuple[int, int, int], classes: int) -> Staged:
    """The network of `arch` for images of `shape`; the head takes the mean of the tokens."""
    channels, patches = shape[0], _patches(arch, shape)
    blocks = {f"block{k + 1}": MixerBlock(patches, arch.width, arch.token_mlp, arch.channel_mlp)
              for k in range(arch.depth)}
    return Staged({
        "normalise": Normalise(channels),
        "stem": Patches(channels, arch.width, arch.patch),
        **blocks,
        "head": nn.Sequential(nn.LayerNorm(arch.width), MeanToken(), nn.Linear(arch.width, classes)),
    })


def _patches(arch: ViT | Mixer, shape: tuple[int, int, int]) -> int:
    return (shape[1] // arch.patch) * (shape[2] // arch.patch)
