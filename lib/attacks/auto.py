"""AutoAttack (Croce & Hein 2020) and its parts as stages; APGD runs through the authors' package `pyautoattack`.

The package chooses the steps of APGD. Its gradients come from a `Pool`, which skips broken images and packs the others
into full batches, and only the pool decides which images are broken.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from lib.attacks.fab import fab
from lib.attacks.geometry import project
from lib.attacks.pool import Pool, Stage, stages
from lib.attacks.square import square
from lib.errors import need
from lib.values.attacks import APGD, AutoAttack, Square
from lib.values.threats import Threat

# The package warns of zero gradients at every start; lib.training.sanity warns once.
_quiet = logging.getLogger("lib.attacks.auto")
_quiet.addHandler(logging.NullHandler())
_quiet.propagate = False


def _fork(pool: Pool):
    """A block in which the package, which draws (unused) starts from torch's global generators, uses copies of them."""
    device = pool.images.device
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])


class _Gradients:
    """A `Pool` behind the interface that the package has for models which compute their own gradients."""

    def __init__(self, pool: Pool, rows: Tensor):
        self.pool, self.rows, self.judge = pool, rows, True

    def get_logits_loss_grad_xent(self, x, y):
        return self.pool.gradient(x.detach(), self.rows, "ce", judge=self.judge)

    def get_logits_loss_grad_target(self, x, y, y_target):
        return self.pool.gradient(x.detach(), self.rows, "dlr", y_target, judge=self.judge)


def _phases(threat: Threat, steps: int) -> list[tuple[Threat, int]]:
    """The balls that a run searches in turn, and the steps in each: in l1, larger balls come first (multi-eps APGD,
    Croce & Hein 2021).
    """
    if threat.norm != "l1":
        return [(threat, steps)]
    early = int(0.3 * steps)
    balls = {3: early, 2: early, 1: steps - 2 * early}
    return [(replace(threat, eps=factor * threat.eps), count) for factor, count in balls.items() if count]


def _start(pool: Pool, rows: Tensor, first: Threat, tag: tuple) -> Tensor:
    if first.norm != "l1":
        return pool.start(rows, *tag)
    x = pool.images[rows]
    noise = [torch.randn(x.shape[1:], generator=own) for own in pool.generators(rows, *tag)]
    return project(x + torch.stack(noise).to(x.device), x, first)


def _apgd(pool: Pool, steps: int, restart: int, rank: int | None = None) -> None:
    """One run of APGD from random starts: on cross-entropy or, with a `rank`, on the targeted DLR loss towards
    `Pool.target_of_rank`.
    """
    from pyautoattack.autopgd_base import APGDAttack

    rows = pool.standing
    x, y = pool.images[rows], pool.labels[rows]
    gradients, phases = _Gradients(pool, rows), _phases(pool.threat, steps)
    run = APGDAttack(gradients, n_iter=steps, norm={"linf": "Linf", "l2": "L2", "l1": "L1"}[pool.threat.norm],
                     eps=float(pool.threat.eps), loss="ce" if rank is None else "dlr-targeted", device=x.device,
                     is_tf_model=True, logger=_quiet)
    if rank is not None:
        run.y_target = pool.target_of_rank(rows, rank)
    run.init_hyperparam(x)
    highest = _start(pool, rows, phases[0][0], ("apgd", "ce" if rank is None else f"t{rank}", restart))
    for number, (ball, count) in enumerate(phases):
        run.eps, run.n_iter, gradients.judge = float(ball.eps), count, ball == pool.threat
        with _fork(pool):
            highest, _, _, _ = run.attack_single_run(x, y, x_init=project(highest, x, ball) if number else highest)
    if pool.precision != "fp32":  # every iterate was judged, but rounded: the best one may have been missed
        left = ~pool.broken[rows]
        pool.confirm(project(highest[left], x[left], pool.threat), rows[left])


@stages.register(APGD)
def _apgd_stages(attack: APGD, threat: Threat, classes: int) -> list[Stage]:
    """APGD on cross-entropy, then on the targeted DLR loss for the likeliest wrong classes in turn. Raises
    SettingsError when there are fewer wrong classes than targets or, with targets, fewer than 4 classes.
    """
    if attack.targets:
        need(classes >= 4, "number of classes", classes, "at least 4 for the targeted DLR loss")
        need(attack.targets < classes, "attack.targets", attack.targets, f"at most {classes - 1} for {classes} classes")
    return [Stage("APGD-T" if rank else "APGD-CE", partial(_apgd, steps=attack.steps, restart=restart, rank=rank))
            for rank in (None, *range(1, attack.targets + 1)) for restart in range(attack.restarts)]


@stages.register(Square)
def _square_stages(attack: Square, threat: Threat, classes: int) -> list[Stage]:
    return [Stage("Square", partial(square, queries=attack.queries), batches=1)]


@stages.register(AutoAttack)
def _autoattack_stages(attack: AutoAttack, threat: Threat, classes: int) -> list[Stage]:
    """The parts of `attack`; those that break the most images for their cost come first. Raises SettingsError for fewer
    than 4 classes.
    """
    need(classes >= 4, "number of classes", classes, "at least 4 for AutoAttack")
    targets, l1 = min(attack.apgd.targets, classes - 1), threat.norm == "l1"
    apgd = _apgd_stages(replace(attack.apgd, targets=min(5, targets) if l1 else targets), threat, classes)
    if l1:
        apgd += _apgd_stages(replace(attack.apgd, restarts=5, targets=0), threat, classes)[1:]
    fabs = [Stage("FAB-T", partial(fab, rank=rank, steps=attack.fab_steps), batches=1)
            for rank in range(1, targets + 1)]
    return [*apgd, *fabs, *_square_stages(attack.square, threat, classes)]
