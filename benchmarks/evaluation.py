"""Robust accuracy under PGD-20 of 500 images: `evaluate` of lib against torchattacks and foolbox."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch

from benchmarks import peers
from benchmarks.networks import Subject, subjects
from benchmarks.peers import BF16
from benchmarks.timing import Contenders, Run, compared, race
from lib.data import ImageSet
from lib.errors import OneLineError
from lib.training.evaluation import evaluate

APART = 0.01  # how far robust accuracies of the same attack may lie apart


class Disagreement(OneLineError):
    """Two ways to measure the same robust accuracy give different ones."""


def rows(run: Run) -> Iterator[dict]:
    """Rows of seconds for all images; raises Disagreement after those of a network on which accuracies lie apart."""
    for subject in subjects(run):
        contenders = pgd_contenders(subject, subject.images, run)
        first_batch = subject.images.take(slice(0, batch_size(run)))
        results, seconds = race(contenders, run, run.rounds(3 if not run.gpu else 5),
                                warm_up=pgd_contenders(subject, first_batch, run))
        name = f"evaluation: PGD-20, {subject.name}, {len(subject.images)} images"
        yield from compared(name, ours_among(contenders), seconds, lambda mine, peer, results=results: (
            f"robust accuracy {results[mine]:.2%} and {results[peer]:.2%}; the peer in "
            f"{'bf16 autocast, its hits not confirmed' if peer.endswith(BF16) else 'fp32'}; {run.place()}"))
        agree(subject, results)


def batch_size(run: Run) -> int:
    """What `evaluate` takes by default, and what the peers are given."""
    return 512 if run.gpu else 128


def ours_among(contenders: Contenders) -> list[str]:
    return [name for name in contenders if name.startswith("lib")]


def pgd_contenders(subject: Subject, images: ImageSet, run: Run) -> Contenders:
    """Contenders that return the robust accuracy: PGD-20 from a random start, in batches of the same size."""
    threat, attack = subject.threat, subject.pgd20
    theirs = copy.deepcopy(subject.net).to(memory_format=torch.contiguous_format)
    pixels = images.pixels()

    def ours(precision):
        return lambda: evaluate(subject.net, images, threat, attack, seed_parts=("benchmark",), checked=False,
                                batch_size=batch_size(run), search_precision=precision).accuracy("robust")

    def peer(search):
        def measure():
            torch.manual_seed(0)  # the peers draw from the global generator: the same accuracy in every round
            return robust_accuracy(theirs, pixels, images.labels, search, batch_size(run))

        return measure

    torchattacks = peers.torchattacks_pgd(threat, attack)
    found = {f"lib (search in {precision})": ours(precision) for precision in run.precisions()} | {
        peers.titled("torchattacks"): peer(torchattacks),
        peers.titled("foolbox"): peer(peers.foolbox_pgd(threat, attack)),
    }
    if "bf16" in run.precisions():
        found[peers.titled("torchattacks") + BF16] = peer(peers.in_bf16(torchattacks))
    return found


def robust_accuracy(net, pixels, labels, search: peers.Attack, size: int) -> float:
    """The share of images that the network gets right, both as they are and as `search` leaves them."""
    right = []
    for x, y in zip(pixels.split(size), labels.split(size), strict=True):
        x_adv = search(net, x, y)
        with torch.no_grad():
            right.append((net(x).argmax(1) == y) & (net(x_adv).argmax(1) == y))
    return float(torch.cat(right).float().mean())


def agree(subject: Subject, results: dict[str, float]) -> None:
    """Raise Disagreement unless all robust accuracies lie within a point of each other's and lib's own; a peer whose
    hits nothing confirms, in bf16 autocast, is not held to it.
    """
    for mine in ours_among(results):
        for name, value in results.items():
            if not name.endswith(BF16) and abs(value - results[mine]) > APART + 1e-9:
                raise Disagreement(f"{subject.name}: {mine} finds a robust accuracy of {results[mine]:.2%} and {name} "
                                   f"of {value:.2%}, more than {APART:.0%} apart")
