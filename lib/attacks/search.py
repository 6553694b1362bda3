"""The search for adversarial images that an evaluation runs: one call for every attack.

An attack is a sequence of stages. Each stage is run on all images that survived the stages before it, packed anew into
pools. The verdicts can be noted on disk after every pool, so that a killed search resumes with the next pool.
"""

from __future__ import annotations

import contextlib
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lib.attacks.core import ascend, perturbed
from lib.attacks.notes import CLEAN, STANDING, Notes
from lib.attacks.pool import AllBroken, Pool, Stage, logits, stages
from lib.door import check_images, check_labels, correct, in_own_state
from lib.errors import need, unknown
from lib.modes import frozen_eval
from lib.values.attacks import PGD, Attack
from lib.values.recipe import PRECISIONS
from lib.values.threats import Threat

# The usual size of a pool, in batches. On a GPU pools are large, so that the partly filled last batch of each step
# matters little. On a CPU such a batch is cheaper, and a small pool loses less when a search is killed.
BATCHES = {"cuda": 16, "cpu": 1}


class SearchResult(NamedTuple):
    """What a search found. `broken`: bool [N]. `adversarial`: [N, C, H, W], the clean image where none was found (None
    if images were not asked for). `broken_by`: N texts, the name of the stage (PGD, APGD-CE, APGD-T, FAB-T, Square),
    "clean" for an image that is misclassified without an attack, "" for one that stands.
    """

    broken: Tensor
    adversarial: Tensor | None
    broken_by: list[str]


@stages.register(PGD)
def _pgd_stages(attack: PGD, threat: Threat, classes: int) -> list[Stage]:
    return [Stage("PGD", partial(_pgd, attack=attack, restart=restart))
            for restart in range(attack.restarts if attack.random_start else 1)]


def _pgd(pool: Pool, attack: PGD, restart: int) -> None:
    """One restart of PGD on the survivors. An image is broken when any iterate, the start included, is misclassified.
    Raises AllBroken when no image is left.
    """
    rows, reference = pool.standing, pool.clean if attack.loss == "kl" else None
    moved = perturbed(pool.images[rows], pool.threat)

    def gradient(shown: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal rows
        at = (None if t is None else t[rows] for t in (pool.targets, reference))
        _, _, uphill = pool.gradient(shown, rows, attack.loss, *at)
        standing = ~pool.broken[rows]
        rows = rows[standing]
        if not len(rows):
            raise AllBroken
        return uphill, standing

    noise = moved.draw_each(pool.generators(rows, "pgd", restart)) if attack.random_start else None
    x_adv = ascend(moved, moved.start(noise), gradient, attack)
    pool.confirm(x_adv, rows)


@in_own_state
def break_images(net: nn.Module, images: Tensor, labels: Tensor, threat: Threat, attack: Attack, indices: Tensor,
                 seed_parts: tuple = (), *, batch_size: int = 128, precision: str = "fp32",
                 targets: Tensor | None = None, work: Path | None = None, keep_images: bool = True) -> SearchResult:
    """Whether `attack` finds misclassified images within `threat`, image by image.

    images [N, C, H, W] in [0, 1]; labels [N]; indices [N], the images' positions in their split. Images should be
    classified correctly already. The network is attacked in eval mode with frozen parameters and left as it was. An
    image's random numbers are drawn from (seed_parts, attack, restart, index) alone, and each image is attacked by
    itself, so batches, order and subsets do not change a verdict (up to float rounding). `precision`: fp32; bf16 or
    tf32 for a faster search whose every hit is confirmed in fp32 (FAB always runs in fp32). `targets` [N]: the classes
    that a targeted PGD aims at; broken still means misclassified.

    `work`: a folder in which the verdicts are noted after every pool, in a file `checkpoint-<digest>.pt`. The same call
    (same weights, images, threat, attack, seed_parts, precision) resumes from there and ends with the verdicts of an
    uninterrupted one. `keep_images` false: adversarial images are neither returned nor noted.

    Raises SettingsError for a targeted attack without targets, DLR losses with too few classes, more APGD targets than
    wrong classes, an unknown precision, a threat whose budget is for a whole batch, or an attack that cannot search
    within the threat (`Attack.check`).
    """
    if precision not in PRECISIONS:
        raise unknown("search precision", precision, PRECISIONS)
    need(isinstance(attack, Attack), "attack", attack.title, "an attack, since certificates do not search")
    given = targets is not None
    need(attack.targeted == given, "attack.targeted", attack.targeted, "true exactly when targets are given")
    need(threat.per == "image", "threat.per", threat.per, "image for verdicts about single images")
    attack.check(threat)
    check_images(images, box=threat.box)
    check_labels(labels, len(images))
    images, adversarial = images.detach().contiguous(), images.detach().clone() if keep_images else None
    usual = BATCHES[images.device.type]
    notes = Notes(torch.full_like(labels, STANDING), adversarial)
    if not len(images):
        return SearchResult(notes.by != STANDING, adversarial, [])

    with frozen_eval(net):
        clean = None
        if threat.eps and attack.needs_clean_logits:
            clean = logits(net, images, batch_size)
            notes.by[~correct(clean, labels)] = CLEAN
        if threat.eps:
            parts = stages[attack](attack, threat, 0 if clean is None else clean.shape[1])
        else:
            parts = [Stage("clean", lambda pool: pool.confirm(pool.images, pool.standing))]
        tensors = [images, labels, indices, *([targets] if given else [])]
        save = notes.keep_in(work, [threat, attack, [str(part) for part in seed_parts], precision, keep_images],
                             [*net.state_dict().values(), *tensors])
        for stage in parts[notes.stage:]:
            batches = min(stage.batches or usual, usual)
            for rows in notes.turn().split(batches * batch_size):
                if not len(rows):
                    break
                optional = [None if t is None else t[rows] for t in (clean, targets)]
                pool = Pool(net, images[rows], labels[rows], threat, indices[rows], tuple(seed_parts), batch_size,
                            precision, *optional)
                with contextlib.suppress(AllBroken):
                    stage.run(pool)
                notes.add(rows, pool.broken, pool.adversarial)
                save()
            notes.stage, notes.done = notes.stage + 1, 0
    names = ["", "clean", *(stage.name for stage in parts)]
    return SearchResult(notes.by != STANDING, adversarial, [names[by] for by in notes.by.tolist()])
