"""Similarity maps, linear CKA of all layers of one network with all of another: `maps` of lib against torch-cka and a
plain loop, on the same layers and minibatches; and what lib's maps need of memory, and of time as images grow.
"""

from __future__ import annotations

import contextlib
import copy
import io
import multiprocessing
import statistics
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from benchmarks.peers import titled
from benchmarks.timing import Run, compared, race
from lib.data import ImageSet, load
from lib.errors import OneLineError, need
from lib.models import build, memory_format
from lib.models.taps import Tap, tapped, taps
from lib.similarity import View, maps
from lib.values.architectures import WideResNet
from lib.values.data import Data
from lib.values.objectives import CrossEntropy
from lib.values.recipe import Recipe

MINIBATCH = 256
CLOSE = 1e-3  # how far values of the same cell may lie apart
# The peers form uncentred products. Of a layer with more than this share of its energy in the mean image they lose
# what differs between images to rounding, so they are not held to the same value there.
SOUND = 0.9


class Disagreement(OneLineError):
    """Two ways to measure the same similarity give different values."""


@dataclass(frozen=True, eq=False)
class Case:
    """Two networks in eval mode, on the device and in their own layout, the layers read of both, images in minibatches
    of `size` each (the last one may be smaller).
    """

    nets: tuple[nn.Module, nn.Module]
    layers: tuple[Tap, ...]
    images: ImageSet
    size: int

    def of(self, count: int) -> Case:
        """The same with the first `count` images."""
        return replace(self, images=self.images.take(slice(0, count)))


def rows(run: Run) -> Iterator[dict]:
    """Rows of seconds for a map of 80 x 80 layers; raises Disagreement after those of a race whose maps lie apart.

    1,024 images or `run.images`, a whole number of minibatches. On a processor torch-cka runs once: it takes minutes.
    """
    size = 8 if run.quick else MINIBATCH
    count = run.images or (16 if run.quick else 1024)
    need(count % size == 0, "--images", count, f"a multiple of {size}, the size of the minibatches")
    peak = peak_memory(run, count, size)  # first: a process is taken to be as large as the one that starts it
    whole = case(run, 2 * count, size)
    this = whole.of(count)
    name = (f"similarity: CKA, two {_arch(run).name}, {len(this.layers)} x {len(this.layers)} layers, {count:,} images "
            f"in minibatches of {size}")
    judge, shares = plain_loop(this, torch.float64), energy_in_mean(this)
    contenders = {"lib": lambda: lib_map(this), "a plain loop, each Gram once": lambda: plain_loop(this)}
    found, seconds = race(contenders, run, run.rounds(3 if not run.gpu else 5))
    yield from compared(name, ["lib"], seconds, lambda mine, peer: (
        f"{distances(found[mine], found[peer], judge, shares)}; the peer computes one map, lib those of each network "
        f"with itself too; {run.place()}"))
    agree(found["lib"], judge, "lib and float64")

    sizes = [count // 2, count, 2 * count]
    _, growth = race({f"{n:,}": lambda n=n: lib_map(whole.of(n)) for n in sizes}, run, run.rounds(3))
    grows = ", ".join(f"{statistics.median(growth[n]):.3g} s for {n}" for n in growth)
    theirs = titled("torch-cka")
    contenders, small = ({"lib": lambda c=c: lib_map(c), theirs: torch_cka(c)}
                         for c in (this, replace(this.of(8), size=8)))
    found, seconds = race(contenders, run, run.rounds(1 if not run.gpu else 3), warm_up=small)
    yield from compared(name, ["lib"], seconds, lambda mine, peer: (
        f"{distances(found[mine], found[peer], judge, shares)}; lib's process peaked at {peak / 1e9:.2f} GB "
        f"{'of GPU memory ' if run.gpu else ''}and takes {grows} images; {run.place()}"))
    agree(found[theirs], found["lib"], "torch-cka and lib", sound(shares))


# ----------------------------------------------------------------------------------------------------- what is compared


def _arch(run: Run) -> WideResNet:
    return WideResNet(10, 2) if run.quick else WideResNet(28, 2)


def case(run: Run, count: int, size: int) -> Case:
    """Two networks before their training, different seeds, their BN statistics those of images; CIFAR-10's test
    images. What the weights have learned does not change the time.
    """
    images = load(Data("cifar10", test=count), "test", run.device)
    nets = []
    for seed in (0, 1):
        net = build(Recipe(Data("cifar10"), _arch(run), CrossEntropy(), seed=seed)).to(run.device)
        net = net.to(memory_format=memory_format(net))
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None  # the statistics are those of all that has been seen
        with torch.no_grad():
            net.train()(images.pixels(slice(0, 256)))
        nets.append(net.eval())
    return Case(tuple(nets), taps(nets[0], tuple(images.images.shape[1:])), images, size)


def lib_map(case: Case) -> Tensor:
    """The map [L, L] between the two networks."""
    views = [View(name, net, case.images, taps=case.layers) for name, net in zip("ab", case.nets, strict=True)]
    return torch.from_numpy(maps(views, batch_size=case.size).between("a", "b"))


def torch_cka(case: Case) -> Callable[[], Tensor]:
    """A contender that returns the same map by torch-cka, spared the gradients that it would keep by itself."""
    nets = _as_torch_makes_them(case, torch.float32)
    pixels, labels = case.images.pixels(), [tap.label for tap in case.layers]

    def compare() -> Tensor:
        from torch_cka import CKA

        batches = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(pixels), case.size)
        with torch.no_grad(), contextlib.redirect_stderr(io.StringIO()):  # it draws a progress bar
            found = CKA(*copy.deepcopy(nets), "a", "b", labels, labels, device=pixels.device)
            found.compare(batches, batches)
        return found.export()["CKA"].double().cpu()

    return compare


@torch.no_grad()
def plain_loop(case: Case, dtype: torch.dtype = torch.float32) -> Tensor:
    """The same map as a careful person writes it down: features centred, each Gram formed once, then every pair's
    unbiased HSIC in three terms. In float64 the judge of the others.
    """
    nets, depth = _as_torch_makes_them(case, dtype), len(case.layers)
    cross = torch.zeros(depth, depth, dtype=torch.float64)
    own = torch.zeros(2, depth, dtype=torch.float64)
    for pixels in case.images.pixels().to(dtype).split(case.size):
        grams = [_grams(net, case.layers, pixels) for net in nets]
        for i, left in enumerate(grams[0]):
            for j, right in enumerate(grams[1]):
                cross[i, j] += hsic(left, right)
        for side in (0, 1):
            for i, gram in enumerate(grams[side]):
                own[side, i] += hsic(gram, gram)
    return cross / torch.outer(own[0], own[1]).sqrt()


def _grams(net: nn.Module, layers: tuple[Tap, ...], pixels: Tensor) -> list[Tensor]:
    grams = [None] * len(layers)

    def visit(position: int, output: Tensor) -> None:
        features = output.flatten(1)
        features = features - features.mean(0)
        grams[position] = (features @ features.T).fill_diagonal_(0)

    with tapped(net, layers, visit):
        net(pixels)
    return grams


def hsic(left: Tensor, right: Tensor) -> float:
    """The unbiased HSIC of two Gram matrices [n, n] with zero diagonals (Song et al. 2012)."""
    n, a, b = len(left), left.sum(1), right.sum(1)
    terms = (left * right).sum() + a.sum() * b.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (a @ b)
    return float(terms) / (n * (n - 3))


def _as_torch_makes_them(case: Case, dtype: torch.dtype) -> list[nn.Module]:
    return [copy.deepcopy(net).to(dtype=dtype, memory_format=torch.contiguous_format) for net in case.nets]


# ---------------------------------------------------------------------------------------------------------- agreement


@torch.no_grad()
def energy_in_mean(case: Case) -> Tensor:
    """[2, L]: the share of each layer's energy that is the same for all images of the first minibatch."""
    shares = torch.zeros(2, len(case.layers), dtype=torch.float64)
    for net, row in zip(case.nets, shares, strict=True):

        def visit(position: int, output: Tensor, row=row) -> None:
            features = output.flatten(1).double()
            row[position] = float(len(features) * features.mean(0).square().sum() / features.square().sum())

        with tapped(net, case.layers, visit):
            net(case.images.pixels(slice(0, case.size)))
    return shares


def sound(shares: Tensor) -> Tensor:
    """bool [L, L]: cells of two layers of which uncentred products in fp32 keep enough."""
    return (shares[0, :, None] <= SOUND) & (shares[1] <= SOUND)


def distances(mine: Tensor, peer: Tensor, judge: Tensor, shares: Tensor) -> str:
    """How far the maps of lib and of the peer lie from the one in float64, in words."""
    ours, theirs = (mine - judge).abs(), (peer - judge).abs()
    kept = sound(shares)
    return (f"farthest from float64: lib {ours.max():.1e}, the peer {theirs.max():.1e} ({theirs[kept].max():.1e} in "
            f"the {kept.double().mean():.0%} of cells where at most {SOUND:.0%} of a layer is in its mean)")


def agree(first: Tensor, second: Tensor, which: str, among: Tensor | None = None) -> None:
    """Raises Disagreement where two maps lie more than `CLOSE` apart in a cell (of `among`), or one has no value."""
    apart = (first - second).abs()
    apart = apart if among is None else apart[among]
    if not bool((apart <= CLOSE).all()):
        raise Disagreement(f"the maps of {which} lie {float(apart.max()):.2g} apart in a cell, more than {CLOSE:g}")


# ------------------------------------------------------------------------------------------------------------- memory


def peak_memory(run: Run, count: int, size: int) -> float:
    """Bytes that a process of its own needs at most for lib's map: on a processor all of it, with Python and torch; on
    a GPU what tensors take there.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as fresh:
        return fresh.submit(_peak, run, count, size).result()


def _peak(run: Run, count: int, size: int) -> float:
    lib_map(case(run, count, size))
    if run.gpu:
        return torch.cuda.max_memory_allocated(run.device)
    import resource

    kilo = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kilo
