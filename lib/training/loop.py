"""The one training loop.

Everything a step draws comes from a generator seeded by the recipe's key, the epoch and the step, so a training that
was stopped goes on from its last checkpoint and, on the CPU at the same number of threads, ends with bit-identical
weights.
"""

from __future__ import annotations

import math
import os
import time
from pathlib import Path

import torch

from lib.data import ImageSet, augment
from lib.errors import OneLineError
from lib.models import memory_format
from lib.recipe import Optimiser, Recipe, Schedule
from lib.runtime import Progress, autocast, generator, initialise_with
from lib.training.objectives import Batch, Moment, of

CHECKPOINT_EVERY = 5.0  # seconds at least between two checkpoints: small networks have epochs of a second


class TrainingDiverged(OneLineError):
    """The loss is no longer a finite number."""


def learning_rate(schedule: Schedule, peak: float, share: float) -> float:
    """The rate when `share` in [0, 1) of training is done."""
    if schedule.name == "constant":
        return peak
    if schedule.name == "piecewise":
        # the small slack puts a drop at exactly 1/3 of the steps where floats would miss it by one
        return peak * 0.1 ** sum(share + 1e-9 >= float(d) for d in schedule.drops)
    if schedule.name == "cosine":
        return peak * 0.5 * (1 + math.cos(math.pi * share))
    up = schedule.warmup
    return peak * (share / up if share < up else (1 - share) / (1 - up))


def make_optimiser(spec: Optimiser, parameters) -> torch.optim.Optimizer | None:
    """SGD or Adam with L2 weight decay over the parameters; None where nothing learns."""
    parameters = list(parameters)
    if not parameters:
        return None
    if spec.name == "adam":
        return torch.optim.Adam(parameters, lr=spec.lr, weight_decay=spec.weight_decay)
    return torch.optim.SGD(
        parameters,
        lr=spec.lr,
        momentum=spec.momentum,
        weight_decay=spec.weight_decay,
        nesterov=spec.nesterov and spec.momentum > 0,
    )


def fit(net, recipe: Recipe, images: ImageSet, device, work: Path | None = None) -> list[dict]:
    """Train `net` in place as the recipe says; returns one row per epoch (loss and its four quarters, accuracy in
    [0, 1], seconds).

    images: the training images, already on `device`. work: a folder for checkpoints; a training found there goes on.
    The last partial batch of an epoch is dropped. Raises TrainingDiverged naming recipe and epoch.
    """
    layout = memory_format(net)
    net.to(device=device, memory_format=layout)
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(not recipe.trainable or name.startswith(recipe.trainable))
    objective = of(recipe.objective)
    optimiser = make_optimiser(recipe.optimiser, (p for p in net.parameters() if p.requires_grad))
    steps = len(images) // recipe.batch_size
    rows = _resume(net, optimiser, objective, work)
    saved = time.monotonic()
    with Progress((recipe.epochs - len(rows)) * steps, recipe.describe(), "step") as bar:
        for epoch in range(len(rows), recipe.epochs):
            started = time.monotonic()
            with initialise_with(recipe.key, "layers", epoch):  # dropout draws from torch's global generator
                sums = _epoch(net, recipe, images, objective, optimiser, epoch, layout, bar)
            loss, accuracy = sums.mean(1).tolist()
            if not math.isfinite(loss):
                last = f" (last good checkpoint: {work})" if work and (work / "checkpoint.pt").exists() else ""
                raise TrainingDiverged(
                    f"{recipe.describe()}: the loss of epoch {epoch} is {loss}; lower the learning rate{last}"
                )
            quarters = [float(q.mean()) for q in sums[0].cpu().tensor_split(4) if len(q)]
            took = time.monotonic() - started
            row = {"epoch": epoch, "loss": loss, "accuracy": accuracy, "seconds": took}
            rows.append({**row, "quarters": quarters})
            bar.step(0, loss=loss, accuracy=accuracy)
            if work is not None and time.monotonic() - saved > CHECKPOINT_EVERY and epoch + 1 < recipe.epochs:
                _save(net, optimiser, objective, rows, work)
                saved = time.monotonic()
    return rows


def _epoch(net, recipe: Recipe, images: ImageSet, objective, optimiser, epoch: int, layout, bar: Progress):
    """One epoch; returns loss and accuracy of every step, [2, steps] on the device."""
    device, size = images.labels.device, recipe.batch_size
    steps = len(images) // size
    order = torch.randperm(len(images), generator=generator(recipe.key, "order", epoch)).to(device)
    sums = torch.zeros(2, steps, device=device, dtype=torch.float64)
    net.train(recipe.batchnorm == "train")
    for i in range(steps):
        share = (epoch + i / steps) / recipe.epochs
        batch = _batch(images, order[i * size : (i + 1) * size], recipe, epoch, i, layout)
        with autocast(device, recipe.precision):
            loss, logits = objective(net, batch, Moment(epoch, epoch * steps + i, share, recipe.precision))
        if optimiser is not None:
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(recipe.schedule, recipe.optimiser.lr, share)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
        with torch.no_grad():  # kept on the device: no step waits for a number
            sums[0, i], sums[1, i] = loss.detach(), (logits.argmax(1) == batch.labels).double().mean()
        bar.step()
    return sums


def _batch(images: ImageSet, chosen, recipe: Recipe, epoch: int, i: int, layout) -> Batch:
    draw = generator(recipe.key, "step", epoch, i, device=chosen.device)
    pixels, placement = augment(images.pixels(chosen), recipe.augment, draw)
    return Batch(
        pixels.contiguous(memory_format=layout), images.labels[chosen], images.indices[chosen], placement, draw
    )


def _save(net, optimiser, objective, rows: list[dict], work: Path) -> None:
    state = {
        "net": net.state_dict(),
        "rows": rows,
        "optimiser": optimiser.state_dict() if optimiser else None,
        "objective": objective.state_dict() if hasattr(objective, "state_dict") else None,
    }
    part = work / "checkpoint.part"
    torch.save(state, part)
    os.replace(part, work / "checkpoint.pt")


def _resume(net, optimiser, objective, work: Path | None) -> list[dict]:
    """Put the last checkpoint's state back; an unreadable one is dropped and training starts over."""
    path = work and work / "checkpoint.pt"
    if not path or not path.exists():
        return []
    try:
        state = torch.load(path, map_location=next(net.buffers()).device, weights_only=True)
    except Exception as error:  # whatever a torn file makes the reader raise
        print(f"{path.name} in {work.name} cannot be read ({type(error).__name__}): training starts over", flush=True)
        path.unlink()
        return []
    net.load_state_dict(state["net"])
    if optimiser is not None:
        optimiser.load_state_dict(state["optimiser"])
    if state["objective"] is not None:
        objective.load_state_dict(state["objective"])
    print(f"{work.name}: going on after epoch {len(state['rows'])}", flush=True)
    return state["rows"]
