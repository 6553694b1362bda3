"""What a recipe costs: floating-point operations by count, seconds by a rate measured on this machine."""

from __future__ import annotations

import functools
import time

import torch

from lib.models import build, forward_flops
from lib.recipe import APGD, PGD, TRADES, Adversarial, Attack, Probe, Recipe, Stitch


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


def rate(recipe: Recipe, device, seconds: float = 1.0) -> float:
    """FLOP/s that training this recipe's architecture reaches here, measured for about a second."""
    from lib.models import memory_format
    from lib.runtime import autocast

    while recipe.parents:
        recipe = recipe.parents[-1]
    net = build(recipe).to(device)
    net.to(memory_format=memory_format(net))
    size = recipe.data.info.size
    x = torch.zeros(recipe.batch_size, recipe.data.info.channels, size, size, device=device)
    x = x.contiguous(memory_format=memory_format(net))

    def step():
        with autocast(device, recipe.precision):
            net(x).float().square().mean().backward()
        if torch.device(device).type == "cuda":
            torch.cuda.synchronize()

    step()
    done, started = 0, time.monotonic()
    while time.monotonic() - started < seconds:
        step()
        done += 1
    return 3 * forward(recipe) * recipe.batch_size * done / (time.monotonic() - started)
