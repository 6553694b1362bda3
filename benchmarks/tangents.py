"""Tangent spaces of a convolutional auto-encoder of 128 latents at images of the size of CIFAR-10: lib's forward mode
against a backward pass for each of the 3,072 pixels, one by one and as torch batches them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from benchmarks.timing import Run, compared, race
from lib.errors import OneLineError
from lib.manifold.spaces import decoder_tangents, spanned_by
from lib.models import network
from lib.runtime import generator, initialise_with
from lib.values.architectures import AutoEncoder

SHAPE, LATENTS, IMAGES = (3, 32, 32), 128, 200
RACED = 4  # images; the peers take seconds for each
AT_ONCE = 256  # backward passes that torch batches
CLOSE = 1e-3  # how far two bases of the same space may lie apart

Decode = Callable[[Tensor], Tensor]


class Disagreement(OneLineError):
    """Two ways to find the same tangent space give different ones."""


def rows(run: Run) -> Iterator[dict]:
    """Rows of seconds for the tangent space of one image; raises Disagreement after those of spaces that lie apart."""
    shape, latents, count, all_images = (SHAPE, LATENTS, RACED, IMAGES) if not run.quick else ((3, 8, 8), 8, 2, 4)
    decode, codes = decoder(run, shape, latents, all_images)
    few = codes[:count]
    contenders, small = ({
        "lib": lambda z=z: decoder_tangents(decode, z, shape).bases,
        "a backward pass per pixel": lambda z=z, p=pixels: bases(partial(by_pixels, pixels=p), decode, z),
        "torch.func.jacrev": lambda z=z: bases(by_jacrev, decode, z),
    } for z, pixels in ((few, math.prod(shape)), (few[:1], latents)))
    found, seconds = race(contenders, run, run.rounds(3), warm_up=small)
    run.wait()
    started = time.perf_counter()
    decoder_tangents(decode, codes, shape)
    run.wait()
    whole = time.perf_counter() - started
    apart = {peer: distance(found["lib"], found[peer]) for peer in found if peer != "lib"}
    name = f"tangents: one image of {' x '.join(map(str, shape))} pixels, {latents} latents"
    yield from compared(name, ["lib"], seconds, lambda mine, peer: (
        f"each on the same {count} images; lib takes {whole:.3g} s for {all_images}; bases at most {apart[peer]:.1e} "
        f"apart; {run.place()}"), per=count)
    for peer, far in apart.items():
        if not far <= CLOSE:
            raise Disagreement(f"the tangent spaces of lib and of {peer} lie {far:.2g} apart, more than {CLOSE:g}")


def decoder(run: Run, shape: tuple[int, int, int], latents: int, count: int) -> tuple[Decode, Tensor]:
    """The decoder of an auto-encoder before its training, whose weights do not change the time, and latents [N, k]."""
    with initialise_with("benchmark"):
        net = network(AutoEncoder(latent=latents), shape, 10)
    codes = torch.randn(count, latents, generator=generator("benchmark", "latents"))
    return net.to(run.device).eval().requires_grad_(False).decode, codes.to(run.device)


def bases(jacobian: Callable[[Decode, Tensor], Tensor], decode: Decode, latents: Tensor) -> Tensor:
    """Orthonormal bases [N, D, k] from the Jacobians [D, k] that a peer finds image by image."""
    return torch.cat([spanned_by(jacobian(decode, latent)[None]).bases for latent in latents])


def by_pixels(decode: Decode, latent: Tensor, pixels: int) -> Tensor:
    """One forward pass and a backward pass for each of the first `pixels` pixels, as the paper's notebook does."""
    latent = latent[None].clone().requires_grad_()
    image = decode(latent).flatten()
    return torch.cat([torch.autograd.grad(image[pixel], latent, retain_graph=True)[0] for pixel in range(pixels)])


def by_jacrev(decode: Decode, latent: Tensor) -> Tensor:
    """The same with `AT_ONCE` backward passes batched by torch."""
    return torch.func.jacrev(lambda z: decode(z[None]).flatten(), chunk_size=AT_ONCE)(latent)


def distance(mine: Tensor, theirs: Tensor) -> float:
    """The largest part of a unit vector of one space that is off the other, over images; 0 for the same spaces."""
    off = theirs - mine @ (mine.mT @ theirs)
    return float(torch.linalg.matrix_norm(off, 2).max())
