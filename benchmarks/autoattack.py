"""The standard AutoAttack: `evaluate` of lib against the authors' package `pyautoattack`, called directly."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch

from benchmarks import peers
from benchmarks.evaluation import agree, batch_size, ours_among, pgd_contenders
from benchmarks.networks import Subject, subjects
from benchmarks.timing import Contenders, Run, compared, race
from lib.data import ImageSet
from lib.training.evaluation import evaluate
from lib.values.attacks import AutoAttack


def rows(run: Run) -> Iterator[dict]:
    """Rows of seconds for 500 images or, on a processor, for 120 and without the ResNet-18, which would take hours.
    Raises Disagreement after those of a network on which robust accuracies lie over a point apart.
    """
    count = 16 if run.quick else run.images or (500 if run.gpu else 120)
    for subject in subjects(run, count, large=run.gpu):
        contenders = attacks(subject, subject.images, run)
        usual = 1 if run.quick else 3
        # warmed up by PGD: thousands of steps on a few images would take as long as on all of them
        verdicts, seconds = race(contenders, run, run.repeats or usual, pgd_contenders(subject, subject.images, run))
        accuracies = {name: float(robust.float().mean()) for name, robust in verdicts.items()}

        def note(mine, peer, verdicts=verdicts, accuracies=accuracies):
            missed, extra = (int((verdicts[a] & ~verdicts[b]).sum()) for a, b in ((mine, peer), (peer, mine)))
            return (f"robust accuracy {accuracies[mine]:.2%} and {accuracies[peer]:.2%}; {missed} images broken by the "
                    f"peer alone, {extra} by lib alone; the peer in fp32; {run.place()}")

        yield from compared(f"autoattack: {subject.name}, {count} images", ours_among(contenders), seconds, note)
        agree(subject, accuracies)


def attacks(subject: Subject, images: ImageSet, run: Run) -> Contenders:
    """Contenders that return which images stand, bool [N]."""
    theirs = copy.deepcopy(subject.net).to(memory_format=torch.contiguous_format)
    pixels = images.pixels()

    def ours(precision):
        def attack():
            found = evaluate(subject.net, images, subject.threat, AutoAttack(), seed_parts=("benchmark",),
                             checked=False, batch_size=batch_size(run), search_precision=precision)
            return torch.tensor(found.table["robust"].tolist())

        return attack

    def package():
        from pyautoattack import AutoAttack as Package

        attack = Package(theirs, norm="Linf", eps=float(subject.threat.eps), device=run.device, seed=0)
        _, answers = attack.run_standard_evaluation(pixels, images.labels, batch_size=batch_size(run))
        return (answers == images.labels).cpu()

    return {f"lib (search in {precision})": ours(precision) for precision in run.precisions()} | {
        peers.titled("pyautoattack"): package}
