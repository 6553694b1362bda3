"""The search for adversarial images that an evaluation is made of: one call for PGD, APGD and AutoAttack."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor, nn

from lib.attacks import auto
from lib.attacks.pgd import frozen_eval
from lib.attacks.pool import AllBroken, Pool
from lib.attacks.threat import project, step
from lib.errors import need, unknown
from lib.threats import APGD, PGD, Attack, AutoAttack, Threat

BATCHES = 16  # a pool's size in batches: enough that the last, partly filled one of a step weighs little


def _pgd(pool: Pool, attack: PGD, targets: Tensor | None) -> None:
    """An image is broken when any iterate of any restart is misclassified, the start included."""
    threat, size = pool.threat, float(attack.step_size)
    clean = pool.logits(pool.images) if attack.loss == "kl" else None
    for restart in range(attack.restarts if attack.random_start else 1):
        rows = pool.standing
        x = pool.images[rows]
        x_adv = pool.start(rows, "pgd", restart) if attack.random_start else x
        for _ in range(attack.steps):
            towards, reference = (None if t is None else t[rows] for t in (targets, clean))
            _, _, grad = pool.gradient(x_adv, rows, attack.loss, towards, reference)
            keep = ~pool.broken[rows]
            rows, x, x_adv, grad = rows[keep], x[keep], x_adv[keep], grad[keep]
            x_adv = project(step(x_adv, grad, size, threat), x, threat)
        pool.confirm(x_adv, rows)


def break_images(net: nn.Module, images: Tensor, labels: Tensor, threat: Threat, attack: Attack, indices: Tensor,
                 seed_parts: tuple = (), *, batch_size: int = 128, precision: str = "fp32",
                 targets: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Whether `attack` finds misclassified images within `threat`: (broken [N] bool, adversarial [N, C, H, W]).

    images [N, C, H, W] in [0, 1], labels [N], indices [N]: the images' numbers in their split. Images are expected to
    be classified rightly; of one that stays unbroken the clean image is returned. The network is attacked in eval mode
    with frozen parameters and left as it was. PGD and APGD draw an image's starts from (seed_parts, attack, restart,
    index) alone and treat each image for itself, so that batches, order and subsets do not change a verdict (but for
    float rounding); in AutoAttack that holds for all parts except Square. `precision`: fp32, or bf16 for a faster
    search whose every hit is confirmed in fp32. `targets` [N]: the classes that a targeted PGD aims at; broken still
    means misclassified.

    Raises SettingsError for a targeted attack without targets, DLR losses with too few classes, more APGD targets than
    other classes, or an unknown precision.
    """
    if precision not in ("fp32", "bf16"):
        raise unknown("search precision", precision, ("fp32", "bf16"))
    targeted = isinstance(attack, PGD) and attack.targeted
    need(targeted == (targets is not None), "attack.targeted", targeted, "true exactly when targets are given")
    broken, adversarial = torch.zeros(len(images), dtype=torch.bool, device=images.device), images.detach().clone()
    with frozen_eval(net):
        for rows in torch.arange(len(images), device=images.device).split(BATCHES * batch_size):
            if not len(rows):
                break
            x = images[rows].detach().contiguous()
            pool = Pool(net, x, labels[rows], threat, indices[rows], tuple(seed_parts), batch_size, precision)
            with contextlib.suppress(AllBroken):
                _run(pool, attack, None if targets is None else targets[rows])
            broken[rows], adversarial[rows] = pool.broken, pool.adversarial
    return broken, adversarial


def _run(pool: Pool, attack: Attack, targets: Tensor | None) -> None:
    if pool.threat.eps == 0:
        pool.confirm(pool.images, pool.standing)
    elif isinstance(attack, PGD):
        _pgd(pool, attack, targets)
    elif isinstance(attack, APGD):
        auto.apgd(pool, attack)
    elif isinstance(attack, AutoAttack):
        auto.autoattack(pool)
    else:
        raise unknown("attack", type(attack).__name__, ("PGD", "APGD", "AutoAttack"))
