"""The cost of a recipe: floating-point operations by counting, seconds from the same work done on this machine before.

torch is imported inside the functions: only counting the operations of a network needs it.
"""

from __future__ import annotations

import functools
import math
import statistics
import time
from typing import NamedTuple

from lib.runtime import autocast, matmul_rate, provenance, rounding, threads
from lib.store import Store
from lib.values.architectures import Architecture
from lib.values.attacks import Attack
from lib.values.certificates import UNSTABLE, Certificate
from lib.values.data import Data
from lib.values.keys import digest, plain
from lib.values.measurement import Measurement
from lib.values.objectives import CrossEntropy
from lib.values.recipe import Recipe

COMPILE_FROM = 2e15  # FLOPs of a training from which on a minute of compiling is worth it


class Counted(NamedTuple):
    """What a network is made of. stages: FLOPs of a forward pass of one image by stage; a single sum for networks that
    are not sequences of stages. outputs: how many numbers its convolutions and linear layers give for an image.
    parameters: how many it has.
    """

    stages: tuple[int, ...]
    outputs: int
    parameters: int


@functools.lru_cache
def _counted(shape: tuple[int, int, int], classes: int, arch: Architecture) -> Counted:
    from lib.models import Undrawn, costs, network

    with Undrawn():
        net = network(arch, shape, classes)
    return Counted(*costs(_map(net), shape), sum(p.numel() for p in net.parameters()))


def last_part(recipe: Recipe) -> Recipe:
    """The recipe of the last of the networks that this one is cut from, or the recipe itself."""
    while recipe.arch.frozen_front:
        recipe = recipe.parents[-1]
    return recipe


def counted(recipe: Recipe) -> Counted:
    """What the recipe's network is made of; of one that is cut from others, what the last of these is made of."""
    recipe = last_part(recipe)
    return _counted(recipe.data.shape, recipe.data.info.classes, recipe.arch.dense)


def _map(net):
    """The network as a function of images only: a denoiser at some noise level."""
    from lib.models import AtNoise, Denoiser

    return AtNoise(net, 0.25) if isinstance(net, Denoiser) else net


def _halves(recipe: Recipe) -> tuple[int, int]:
    """FLOPs of a forward pass of one image up to the joint, and after it; a plain network has no front. The joint and
    the head of a probe cost next to nothing and are not counted.
    """
    front, back = (sum(counted(half).stages[stages]) for half, stages in recipe.arch.halves(recipe))
    return front, back


def forward(recipe: Recipe) -> int:
    """FLOPs of a forward pass of one image."""
    return sum(_halves(recipe))


def training(recipe: Recipe) -> float:
    """FLOPs of the whole training. If the front is frozen, an update propagates back only to the joint and forms weight
    gradients only for trained parts.
    """
    front, back = _halves(recipe)
    frozen = recipe.arch.frozen_front
    learns = not frozen or "back" in recipe.trainable
    update = (1 if frozen else 3) * front + (3 if learns else 2) * back
    together = recipe.batch_size // recipe.shares
    asked = recipe.objective.passes(recipe.data.info.classes, together)
    updates = asked.updates + recipe.objective.relus(together) * unstable(recipe)
    an_image = updates * update + (asked.forwards + 2 * asked.attacks) * (front + back)
    return an_image * recipe.epochs * recipe.data.n_train


def measuring(recipe: Recipe, attack: Attack | Certificate | None) -> float:
    """FLOPs of one evaluation on the recipe's test images, assuming that half of them survive on a network trained to
    be robust and none on any other.
    """
    asked = attack.passes(0.5 * _robust(recipe), recipe.data.info.classes) if attack else 1
    if isinstance(attack, Certificate):
        asked += attack.relus * unstable(recipe)
    return forward(recipe) * asked * recipe.data.n_test


def unstable(recipe: Recipe) -> float:
    """At most how many ReLUs of an image linear bounds treat one by one."""
    return UNSTABLE * counted(recipe).outputs


def _robust(recipe: Recipe) -> bool:
    return recipe.weights is not None or bool(recipe.epochs) and recipe.objective != CrossEntropy()


def class_scores(recipe: Recipe) -> Measurement | None:
    """The class scores that the recipe's objective takes from a denoiser (`Zoo.targets`), one without a class and one
    for each class at every training image; None if it takes none.
    """
    objective = recipe.objective
    if not (recipe.epochs and objective.needs_scores and objective.active):
        return None
    draws = max(1, objective.targets.draws)
    return Measurement("class scores of training images", recipe.sources[0], recipe.data.n_train,
                       draws * (1 + recipe.data.info.classes))


def measurement(one: Measurement) -> float:
    """FLOPs of a measurement."""
    return forward(one.recipe) * one.images * one.passes


def checks(recipe: Recipe) -> float:
    """FLOPs of the checks that follow an attack (lib/training/sanity.py): `sanity` and, if images survive the attack,
    `beaten_by_square`.
    """
    from lib.training.sanity import COUNT, PASSES, QUERY_PASSES, SURVIVORS

    return forward(recipe) * (COUNT * PASSES + _robust(recipe) * SURVIVORS * QUERY_PASSES)


def memory(recipe: Recipe) -> float:
    """Bytes that a training takes, roughly: the weights with their gradients and the optimiser's moments, three numbers
    for each that a layer gives (its output, after normalisation and after the ReLU) for a batch or one of its shares,
    and all images.
    """
    net, data = counted(recipe), recipe.data
    weights = 4 * net.parameters * (2 + (2 if recipe.optimiser.name == "adam" else 1) + (recipe.ema is not None))
    activations = 3 * net.outputs * recipe.batch_size // recipe.shares * (2 if recipe.precision == "bf16" else 4)
    return weights + activations + images(data)


def images(data: Data) -> float:
    """Bytes of the training and test images of a data set, at one byte for a number."""
    return (data.n_train + data.n_test) * math.prod(data.shape)


def disk(recipe: Recipe) -> float:
    """Bytes that the store keeps of a network, once for each epoch whose weights are kept; a joint or a head next to
    nothing.
    """
    own = not recipe.arch.frozen_front or "back" in recipe.trainable
    return 4 * counted(recipe).parameters * (1 + len(recipe.keep)) if own and recipe.stored else 0


def compile_pays(recipe: Recipe, where) -> bool:
    """Whether to compile for this training: never on the CPU, where it takes half a minute and saves nothing."""
    return str(where).startswith("cuda") and training(recipe) > COMPILE_FROM


def speed(recipe: Recipe, rows: list[dict], where, devices: int = 1) -> dict:
    """The speed of a training on so many devices: images/s, TFLOP/s, and these as a share of the devices'
    matrix-multiply rate; empty if no time was measured.
    """
    seconds = sum(row["seconds"] for row in rows)
    if not seconds:
        return {}
    rate, best = training(recipe) / seconds, matmul_rate(where, recipe.precision)
    return {
        "images_per_second": recipe.epochs * recipe.data.n_train / seconds,
        "tflop_per_second": rate / 1e12,
        "matmul_tflop_per_second": best / 1e12,
        "share_of_matmul": rate / (devices * best),
    }


def sentence(speed: dict) -> str:
    """A result of `speed` in words, for logs."""
    return (f"  {speed['images_per_second']:,.0f} images/s, {speed['tflop_per_second']:.3g} TFLOP/s, "
            f"{speed['share_of_matmul']:.0%} of this device's matrix-multiply rate")


def measured_rate(recipe: Recipe, where, seconds: float = 1.0) -> float:
    """FLOP/s of training this recipe's architecture on this device, measured for about `seconds` seconds (on a CPU with
    a batch small enough for that).
    """
    import torch

    from lib.models import build, memory_format

    while recipe.parents:
        recipe = recipe.parents[-1]
    net = _map(build(recipe)).to(where)
    net.to(memory_format=memory_format(net))
    batch = recipe.batch_size
    if torch.device(where).type == "cpu":
        batch = max(2, min(batch, int(1e10 / (3 * forward(recipe)))))  # a step of less than a second
    x = torch.zeros(batch, *recipe.data.shape, device=where)
    x = x.contiguous(memory_format=memory_format(net))

    def step():
        with rounding(recipe.precision):
            with autocast(where, recipe.precision):
                loss = net(x).float().square().mean()
            loss.backward()
        if torch.device(where).type == "cuda":
            torch.cuda.synchronize()

    step()
    done, started = 0, time.monotonic()
    while time.monotonic() - started < seconds:
        step()
        done += 1
    return 3 * forward(recipe) * batch * done / (time.monotonic() - started)


class Prices:
    """Seconds that work still to be done will take: the median over similar work in the store from a machine like this
    one or, if there is none, FLOPs divided by a rate measured now. After `patience` seconds of measuring, architectures
    that are still to be measured get the median rate of the others. of_job: the threads of a job on the
    CPU (None: of this process).
    """

    def __init__(self, store: Store, where, of_job: int | None = None, patience: float = 4.0):
        self.where, self.patience, here = where, patience, provenance(where)
        self.threads = here["threads"] = of_job or here["threads"]
        self.known: dict[str, list[float]] = {}
        self.measured: dict[str, float] = {}
        for kind, _, _, meta in store.entries():
            if kind in ("network", "outcomes") and all(meta.get(k) == here[k] for k in ("device", "threads")):
                self.known.setdefault(meta.get("like"), []).append(meta["seconds"] * meta.get("devices", 1))

    def seconds(self, recipe: Recipe, like: str, flops: float) -> float:
        """Seconds for work of this recipe with `flops` FLOPs; `like`: the key of `like_training` or `like_outcomes`."""
        if like in self.known:
            return statistics.median(self.known[like])
        name = digest([recipe.arch if not recipe.parents else recipe.parents[-1].arch, recipe.precision])
        if name not in self.measured and self.patience > 0:
            started = time.monotonic()
            with threads(self.threads):
                self.measured[name] = measured_rate(recipe, self.where, 0.2)
            self.patience -= time.monotonic() - started
        return flops / (self.measured.get(name) or statistics.median(self.measured.values()))


@functools.lru_cache(maxsize=1)  # a network's training is asked for, and then its measures
def like_training(recipe: Recipe) -> str:
    """A key that trainings of the same cost share: the recipe without its seed, its parents' weights and its sources.
    """
    alike = {**plain(recipe), "seed": 0, "parents": [plain(p.arch) for p in recipe.parents]}
    alike.pop("sources", None)
    return digest(alike)


def like_outcomes(recipe: Recipe, threat, attack: Attack | Certificate | None) -> str:
    """A key that evaluations of the same cost share."""
    images = {**recipe.data.training, "test": recipe.data.test}  # whichever are drawn
    return digest([like_training(recipe), images, threat, attack])
