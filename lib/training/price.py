"""What a recipe costs: floating-point operations by count, seconds by a rate measured on this machine."""

from __future__ import annotations

import functools
import time

import torch

from lib.architectures import Probe, Stitch
from lib.models import build, forward_flops, memory_format
from lib.objectives import TRADES, Adversarial
from lib.plan import plan
from lib.recipe import Recipe, outcome_key
from lib.runtime import autocast, device
from lib.settings import Settings
from lib.store import Store
from lib.threats import APGD, PGD, Attack


def passes(objective) -> float:
    """Forward-equivalents per image and step: training 3, each attack step 2 (no weight gradients)."""
    if isinstance(objective, Adversarial):
        return 3 + objective.clean_statistics + 2 * objective.attack.steps * objective.alpha
    if isinstance(objective, TRADES):
        return 7 + 2 * objective.attack.steps
    return 3


def attack_passes(attack: Attack | None) -> float:
    """Forward-equivalents per attacked image at most; images that break early cost less."""
    if attack is None:
        return 1
    if isinstance(attack, PGD):
        return 1 + 2 * attack.steps * attack.restarts
    if isinstance(attack, APGD):
        return 1 + 2 * attack.steps * attack.restarts * (1 + attack.targets)
    return 9700  # AutoAttack on a robust image: 100 + 900 APGD, 900 FAB steps, 5,000 queries


@functools.lru_cache
def _forward(data, arch) -> int:
    net = build(Recipe(data, arch, epochs=0))
    return forward_flops(net, (data.info.channels, data.info.size, data.info.size))


def forward(recipe: Recipe) -> int:
    """FLOPs of one forward pass over one image (a stitched network counts as its end's architecture)."""
    while isinstance(recipe.arch, (Stitch, Probe)):
        recipe = recipe.parents[-1]
    return _forward(recipe.data, recipe.arch)


def training(recipe: Recipe) -> float:
    """FLOPs of the whole training, an upper estimate where parts are frozen."""
    return forward(recipe) * passes(recipe.objective) * recipe.epochs * recipe.data.n_train


def measuring(recipe: Recipe, attack: Attack | None) -> float:
    """FLOPs of one evaluation on the recipe's test images, an upper estimate."""
    return forward(recipe) * attack_passes(attack) * (recipe.data.test or recipe.data.info.test)


def rate(recipe: Recipe, where, seconds: float = 1.0) -> float:
    """FLOP/s that training this recipe's architecture reaches here, measured for about a second."""
    while recipe.parents:
        recipe = recipe.parents[-1]
    net = build(recipe).to(where)
    net.to(memory_format=memory_format(net))
    size = recipe.data.info.size
    x = torch.zeros(recipe.batch_size, recipe.data.info.channels, size, size, device=where)
    x = x.contiguous(memory_format=memory_format(net))

    def step():
        with autocast(where, recipe.precision):
            net(x).float().square().mean().backward()
        if torch.device(where).type == "cuda":
            torch.cuda.synchronize()

    step()
    done, started = 0, time.monotonic()
    while time.monotonic() - started < seconds:
        step()
        done += 1
    return 3 * forward(recipe) * recipe.batch_size * done / (time.monotonic() - started)


def price_list(settings: Settings, notebooks: tuple[str, ...]) -> int:
    """Print what a run would do and cost: the same plan as the run's, priced by a rate measured here."""
    store, where = Store(), device(settings.device)
    tasks = plan(settings, notebooks)
    speed = rate(next(t.recipe for t in tasks if t.recipe.epochs), where)
    rows: dict[str, list[float]] = {}
    for task in tasks:
        row = rows.setdefault(task.group, [0, 0, 0.0])
        if task.recipe.epochs:
            row[0] += 1
            if store.has("network", task.recipe.key):
                row[1] += 1
            else:
                row[2] += training(task.recipe)
        for attack in task.attacks:
            if not store.has("outcomes", outcome_key(task.recipe, task.threat, attack)):
                row[2] += measuring(task.recipe, attack)
    print(f"profile {settings.run}: {len(tasks)} networks on {where}, {speed / 1e9:.0f} GFLOP/s measured here")
    print(f"{'group':28} {'networks':>8} {'ready':>6} {'TFLOP':>10} {'minutes':>8}")
    for group, (count, ready, flops) in rows.items():
        print(f"{group:28} {count:8.0f} {ready:6.0f} {flops / 1e12:10.3g} {flops / speed / 60:8.1f}")
    flops = sum(r[2] for r in rows.values())
    print(
        f"{'all':28} {sum(r[0] for r in rows.values()):8.0f} {sum(r[1] for r in rows.values()):6.0f} "
        f"{flops / 1e12:10.3g} {flops / speed / 60:8.1f}   (an upper estimate; nothing was run)"
    )
    return 0
