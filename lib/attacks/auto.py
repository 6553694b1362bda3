"""APGD and the standard AutoAttack (Croce & Hein 2020), run through the authors' package `pyautoattack`.

The package decides the steps, this file what a step costs: gradients come from a `Pool`, which skips broken images
and packs the others, and every verdict is the pool's own.
"""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from lib.attacks.pool import AllBroken, Pool
from lib.attacks.threat import project
from lib.errors import need
from lib.runtime import seed_of
from lib.threats import APGD

# The package warns of zero gradients at every start; lib.training.evaluation.sanity says it once.
_quiet = logging.getLogger("lib.attacks.auto")
_quiet.addHandler(logging.NullHandler())
_quiet.propagate = False


def _norm(pool: Pool) -> str:
    return {"linf": "Linf", "l2": "L2"}[pool.threat.norm]


def _fork(pool: Pool):
    """The package draws from, and seeds, torch's global generators: give it copies of them."""
    device = pool.images.device
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])


class _Gradients:
    """A `Pool` in the form the package knows for models that compute their own gradients."""

    def __init__(self, pool: Pool, rows: Tensor):
        self.pool, self.rows = pool, rows

    def get_logits_loss_grad_xent(self, x, y):
        return self.pool.gradient(x.detach(), self.rows, "ce")

    def get_logits_loss_grad_target(self, x, y, y_target):
        return self.pool.gradient(x.detach(), self.rows, "dlr", y_target)


def _apgd_run(pool: Pool, steps: int, tag: tuple, rank: int | None = None) -> None:
    """One run of APGD from random starts on cross-entropy, or on DLR towards the other class of this rank from 1."""
    from pyautoattack.autopgd_base import APGDAttack

    rows = pool.standing
    if not len(rows):
        raise AllBroken
    x, y = pool.images[rows], pool.labels[rows]
    run = APGDAttack(_Gradients(pool, rows), n_iter=steps, norm=_norm(pool), eps=float(pool.threat.eps),
                     loss="ce" if rank is None else "dlr-targeted", device=x.device, is_tf_model=True, logger=_quiet)
    if rank is not None:
        others = pool.logits(x).scatter(1, y[:, None], float("-inf"))
        run.y_target = others.argsort(1, descending=True)[:, rank - 1]
    run.init_hyperparam(x)
    with _fork(pool):
        highest, _, _, _ = run.attack_single_run(x, y, x_init=pool.start(rows, *tag))
    if pool.precision != "fp32":  # iterates are judged as they are visited, but bf16 may have missed the best of them
        left = ~pool.broken[rows]
        pool.confirm(project(highest[left], x[left], pool.threat), rows[left])


def apgd(pool: Pool, attack: APGD) -> None:
    """APGD on cross-entropy, then on the targeted DLR loss for the likeliest other classes, each on the survivors.

    Raises SettingsError when there are fewer other classes than targets, or, with targets, fewer than 4 classes.
    """
    classes = pool.logits(pool.images[:1]).shape[1]
    if attack.targets:
        need(classes >= 4, "number of classes", classes, "at least 4 for the targeted DLR loss")
        need(attack.targets < classes, "attack.targets", attack.targets, f"at most {classes - 1} for {classes} classes")
    for rank in (None, *range(1, attack.targets + 1)):
        for restart in range(attack.restarts):
            _apgd_run(pool, attack.steps, ("apgd", "ce" if rank is None else f"t{rank}", restart), rank)


def _claim(pool: Pool, x_adv: Tensor, rows: Tensor) -> None:
    pool.confirm(project(x_adv, pool.images[rows], pool.threat), rows)
    if pool.broken.all():
        raise AllBroken


def _fab(pool: Pool, targets: int) -> None:
    """Targeted FAB. It has no random start, so batches do not matter; it runs in fp32."""
    from pyautoattack.fab_pt import FABAttack_PT

    for rows in pool.standing.split(pool.batch_size):
        run = FABAttack_PT(pool.network, norm=_norm(pool), n_restarts=1, n_iter=100, eps=float(pool.threat.eps),
                           targeted=True, n_target_classes=targets, device=pool.images.device, seed=0)
        with _fork(pool):
            x_adv = run.perturb(pool.images[rows], pool.labels[rows])
        _claim(pool, x_adv.detach(), rows)


def _square(pool: Pool, queries: int = 5000) -> None:
    """Square, on all survivors of the pool at once (it drops them as they fall); its squares are shared by the pool."""
    from pyautoattack.square import SquareAttack

    rows = pool.standing
    seed = seed_of(*pool.seed_parts, "square", *pool.indices[rows].tolist())
    run = SquareAttack(pool.logits, norm=_norm(pool), n_queries=queries, eps=float(pool.threat.eps), p_init=0.8,
                       n_restarts=1, resc_schedule=False, device=pool.images.device, seed=seed)
    with _fork(pool):
        x_adv = run.perturb(pool.images[rows], pool.labels[rows])
    _claim(pool, x_adv, rows)


def autoattack(pool: Pool) -> None:
    """The standard version: APGD-CE and APGD-T of 100 steps, FAB-T, Square of 5,000 queries, each on the survivors.

    Nine target classes, or all others where there are fewer. Raises SettingsError for fewer than 4 classes, and for l2
    with images under 5 pixels a side, which Square cannot tile.
    """
    classes = pool.logits(pool.images[:1]).shape[1]
    need(classes >= 4, "number of classes", classes, "at least 4 for AutoAttack")
    side = min(pool.images.shape[-2:])
    need(pool.threat.norm != "l2" or side >= 5, "image side", side, "at least 5 pixels for AutoAttack in l2")
    targets = min(9, classes - 1)
    apgd(pool, APGD(steps=100, restarts=1, targets=targets))
    if not len(pool.standing):
        raise AllBroken
    _fab(pool, targets)
    _square(pool)
