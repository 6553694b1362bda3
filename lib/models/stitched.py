"""Networks made from trained ones: two halves joined by a stitching layer (1x1 convolution), and linear probes."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from lib.errors import need, unknown
from lib.models.building import derivations
from lib.models.staged import Staged, dry_run, pooled_linear
from lib.modes import copied
from lib.values.architectures import INITS, Stitch
from lib.values.architectures import Probe as ProbeArch
from lib.values.recipe import Recipe


class Stitched(nn.Module):
    """h = g2(ReLU(T(f1(x)))) of Balogh & Jelasity (2023): front f1, joint (T, ReLU), back g2. Maps images [B, C, H, W]
    in [0, 1] to logits [B, classes of the end].

    T is a 1x1 convolution with bias, or two in a row where its rank is limited. It maps the front's activations
    [B, C_front, H, W] to [B, C_end, H, W]. A ReLU follows, as in the paper's code (there through an in-place
    activation), unless the end takes activations that are not `rectified` (pre-activation networks). The halves are
    used as given, not copied.
    """

    def __init__(self, front: nn.Module, transform: nn.Module, back: nn.Module, rectified: bool = True):
        super().__init__()
        self.front = front
        self.joint = nn.Sequential(transform, nn.ReLU()) if rectified else nn.Sequential(transform)
        self.back = back

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.back(self.joint(self.front(images)))

    @property
    def affine(self) -> tuple[Tensor, Tensor]:
        """The map of T at every pixel, y = W x + b: copies of W [C_end, C_front] and b [C_end]."""
        *down, last = _convolutions(self.joint[0])
        weight = last.weight.detach().flatten(1)
        for conv in down:
            weight = weight @ conv.weight.detach().flatten(1)
        return weight.clone(), last.bias.detach().clone()

    @torch.no_grad()
    def start(self, weight: Tensor, bias: Tensor) -> None:
        """Set T to y = W x + b with W [C_end, C_front] and b [C_end]. A T of limited rank gets the W of that rank
        closest in the Frobenius norm; its two factors share the singular values equally.
        """
        convolutions = _convolutions(self.joint[0])
        factors = [weight]
        if len(convolutions) == 2:
            rank = convolutions[0].out_channels
            left, values, right = torch.linalg.svd(weight.double(), full_matrices=False)
            root = values[:rank].sqrt()
            factors = [root[:, None] * right[:rank], left[:, :rank] * root]
        for conv, factor in zip(convolutions, factors, strict=True):
            conv.weight.copy_(factor[..., None, None])
        convolutions[-1].bias.copy_(bias)


class Probe(nn.Module):
    """A linear probe: `front`, then `head`, which is global average pooling and one linear layer. Maps images
    [B, C, H, W] in [0, 1] to logits [B, classes].
    """

    def __init__(self, front: nn.Sequential, head: nn.Sequential):
        super().__init__()
        self.front = front
        self.head = head

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.front(images))


@derivations.register(Stitch)
def _stitched(recipe: Recipe, parents: Sequence[nn.Module]) -> Stitched:
    arch = recipe.arch
    if len(parents) == 1:
        return cut(parents[0], arch.rank)
    end = recipe.parents[1]
    return stitch(*parents, arch.joint, arch.init, recipe.data.shape, end.arch.rectified, end.data.shape, arch.rank)


def stitch(front: Staged, end: Staged, joint: str, init: str, image_shape: tuple[int, int, int],
           rectified: bool = True, end_shape: tuple[int, int, int] | None = None,
           rank: int | None = None) -> Stitched:
    """The stitched network of copies of `front` up to and including stage `joint` and of `end` after it, for images of
    shape [C, H, W] (Balogh & Jelasity 2023).

    init: `random` is torch's default for convolutions, `identity` the identity matrix and a zero bias; `least squares`
    is random here, since it needs images (see `least_squares`). rectified: whether the stages of `end` take the output
    of a ReLU. end_shape: the shape of images for which `end` was made (None: the same); its first stages do not run.
    rank: see `lib.values.architectures.Stitch`.

    Raises `SettingsError` for an unknown init or stage, for activations of different height or width, for the identity
    between different numbers of channels, and for a rank beyond the channels.
    """
    if init not in INITS:
        raise unknown("joint init", init, INITS)
    first, target = front.front(joint), end.front(joint)
    _, given, *size = dry_run(first, image_shape).shape
    _, wanted, *size_wanted = dry_run(target, end_shape or image_shape).shape
    need(size == size_wanted, "joint", joint,
         f"a stage of the same size in both networks (the front gives {_by(size)}, the end expects {_by(size_wanted)})")
    need(init != "identity" or given == wanted, "joint init", init,
         f"random if channel counts differ ({given} to {wanted} at {joint})")
    whole = join(first, end.back(joint), given, wanted, rectified)
    if init == "identity":
        nn.init.dirac_(whole.joint[0].weight)
        nn.init.zeros_(whole.joint[0].bias)
    return whole if rank is None else cut(whole, rank)


def join(front: nn.Module, back: nn.Module, given: int, wanted: int, rectified: bool = True) -> Stitched:
    """The stitched network of copies of any two halves: `front` gives maps of `given` channels, `back` takes maps of
    the same height and width with `wanted` channels. T is as torch draws it; rectified: see `Stitched`.
    """
    return Stitched(copied(front), nn.Conv2d(given, wanted, 1), copied(back), rectified)


def cut(whole: Stitched, rank: int) -> Stitched:
    """A copy of `whole`, whose T is one convolution, with the closest T of this rank, which is two convolutions.

    Raises `SettingsError` for a rank beyond the channels on either side.
    """
    weight, bias = whole.affine
    wanted, given = weight.shape
    most = min(given, wanted)
    need(rank <= most, "arch.rank", rank, f"at most {most} for {given} to {wanted} channels")
    low = copy.deepcopy(whole)
    low.joint[0] = nn.Sequential(nn.Conv2d(given, rank, 1, bias=False), nn.Conv2d(rank, wanted, 1)).to(weight)
    low.start(weight, bias)
    return low


def least_squares(first: nn.Module, target: nn.Module, batches: Iterable[Tensor],
                  rtol: float = 1e-10) -> tuple[Tensor, Tensor]:
    """W [D, C] and b [D], in float64 on the CPU, that minimise the sum over images and pixels of
    |W first(x) + b - target(x)|^2 ("direct matching"; the pseudo-inverse in the code of Balogh & Jelasity 2023).

    `first` and `target` map a batch of images [B, ...] in [0, 1] to [B, C, H, W] and [B, D, H, W], in their current
    mode. Sums are taken in float64 on their device. Among all minimisers it is the one of least norm after channels
    were scaled to unit variance: a channel that is constant, or that others determine up to the share `rtol` of the
    largest eigenvalue of the correlation matrix, adds nothing.
    """
    count, sums = 0, None
    with torch.no_grad():
        for images in batches:
            x, y = (net(images).double().transpose(0, 1).flatten(1) for net in (first, target))
            parts = [x.sum(1), y.sum(1), x @ x.T, y @ x.T]
            sums = parts if sums is None else [old + new for old, new in zip(sums, parts, strict=True)]
            count += x.shape[1]
    mean_x, mean_y, xx, yx = (total.cpu() / count for total in sums)
    covariance, cross = xx - mean_x.outer(mean_x), yx - mean_y.outer(mean_x)
    varies = covariance.diagonal() > 1e-12 * xx.diagonal()  # smaller variances are rounding errors of a constant
    scale = torch.where(varies, covariance.diagonal(), 1.0).rsqrt() * varies
    correlation = scale[:, None] * covariance * scale
    weight = cross * scale @ torch.linalg.pinv(correlation, rtol=rtol, hermitian=True) * scale
    return weight, mean_y - weight @ mean_x


def _convolutions(transform: nn.Module) -> list[nn.Conv2d]:
    return [transform] if isinstance(transform, nn.Conv2d) else list(transform)


@derivations.register(ProbeArch)
def _probed(recipe: Recipe, parents: Sequence[nn.Module]) -> Probe:
    return probe(*parents, recipe.arch.joint, recipe.data.info.classes, recipe.data.shape)


def probe(parent: Staged, joint: str, classes: int, image_shape: tuple[int, int, int]) -> Probe:
    """A linear probe: a copy of `parent` up to and including stage `joint`, and a fresh linear head for `classes`
    classes, for images of shape [C, H, W]. Raises `SettingsError` for an unknown stage.
    """
    front = parent.front(joint)
    return Probe(copy.deepcopy(front), pooled_linear(dry_run(front, image_shape).shape[1], classes))


def _by(size) -> str:
    return "x".join(str(n) for n in size)
