"""The one training loop.

All random numbers of a step come from a generator seeded by the recipe's key, the epoch and the step (and the share of
the batch, where a recipe cuts it). So a training that was stopped resumes from its last checkpoint, after an epoch or
in the middle of a long one, and, on the CPU with the same number of threads, ends with bit-identical weights.
"""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from lib.data import ImageSet
from lib.errors import NetworkFailed
from lib.files import load_state, save_state, save_tensors, sha256
from lib.models import memory_format
from lib.runtime import ProgressBar, autocast, generator, initialise_with, rounding
from lib.training.evaluation import evaluate
from lib.training.losses import Progress, TrainingBatch, loss_for
from lib.training.memory import OutOfMemory, halves_that_fit
from lib.training.schedule import Average, learning_rate, make_optimiser
from lib.training.team import ALONE, Team
from lib.values.recipe import Recipe

CHECKPOINT_EVERY = 5.0  # seconds at least between two checkpoints: small networks have epochs of a second
CHECKPOINT_WITHIN = 120.0  # seconds without one after which a checkpoint is written in the middle of an epoch
CHECKPOINT = "checkpoint.pt"
EPOCH = "epoch-{}"  # names the weights kept after so many epochs
LOOK_EVERY = 50  # steps between two looks at the loss: looking makes a GPU wait
COMPILER = "inductor"  # torch.compile's backend
EXPLODED = 1e6  # in nats; a training whose loss is larger has diverged


class TrainingDiverged(NetworkFailed):
    """The loss is not finite, or larger than `EXPLODED`."""


def fit(net, recipe: Recipe, images: ImageSet, device, work: Path | None = None, holdout: ImageSet | None = None,
        compiled: bool = False, scores: torch.Tensor | None = None, parents: Sequence = (),
        team: Team = ALONE) -> list[dict]:
    """Train `net` in place as the recipe says. Returns one row per epoch: the mean loss and its means over the four
    quarters of the epoch, accuracy on the images trained on in [0, 1] (nan if the objective has no logits), seconds,
    columns of the objective (of the first share), and, if the recipe chooses an epoch, the accuracy on the held-out
    images and whether this epoch is the chosen one.

    images: the training images, already on `device`. work: a folder for checkpoints; a training found there is resumed,
    and the weights of the epochs that the recipe wants to `keep` are left there. holdout: the held-out images, for a
    recipe with a `choice`. compiled: run the network through torch.compile (a graph for the update, one for the
    attack). scores: the result of `Zoo.targets`, for an objective that needs scores. parents: the networks of the
    recipe's parents, for an objective that attacks them. team: the processes that do this training together, each of
    which calls this; the first one's network and rows count. The last partial batch of an epoch is dropped.

    Raises TrainingDiverged and OutOfMemory, whose messages name the recipe, the step and a remedy.
    """
    return _Training(net, recipe, images, device, work, holdout, compiled, scores, parents, team).run()


class _Training:
    """One training in progress: the state that a checkpoint saves, and the steps that change it."""

    def __init__(self, net, recipe: Recipe, images: ImageSet, device, work, holdout, compiled: bool,
                 scores, parents, team: Team):
        self.net, self.recipe, self.images, self.work, self.holdout = net, recipe, images, work, holdout
        self.device, self.layout = torch.device(device), memory_format(net)
        self.team = team
        self.losses = {share: loss_for(recipe.objective) for share in team.mine(recipe.shares)}
        self.loss = next(iter(self.losses.values()))
        second_order = self.loss.second_order
        if second_order and self.device.type == "cpu":  # second derivatives of convolutions: 1.5 times as fast
            self.layout = torch.contiguous_format
        net.to(device=self.device, memory_format=self.layout)
        for name, parameter in net.named_parameters():
            parameter.requires_grad_(not recipe.trainable or name.startswith(recipe.trainable))
        self.learning = [parameter for parameter in net.parameters() if parameter.requires_grad]
        self.statistics = [] if recipe.shares == 1 else _statistics(net)
        for loss in self.losses.values():
            loss.prepare(images, recipe.data.info.classes, scores)
            loss.with_parents(parents)
        self.compiled = compiled and not second_order  # torch.compile cannot differentiate a gradient once more
        self.optimiser = make_optimiser(recipe.optimiser, net.named_parameters())
        self.average = Average(net, recipe.ema) if recipe.ema else None
        self.best: dict | None = None  # state of the chosen epoch so far
        self.rows: list[dict] = []
        self.kept: dict[str, str] = {}  # SHA-256 of each file of `_keep`
        self.begun: dict | None = None  # of an epoch in whose middle the training resumes, see `_begin`
        self.steps = len(images) // recipe.batch_size

    @property
    def candidate(self):
        """The network that the training will return: the average of the weights, if there is one."""
        return self.average.net if self.average else self.net

    def run(self) -> list[dict]:
        self._resume()
        epochs, done = self.recipe.epochs, self.begun["steps"] if self.begun else 0
        self.saved = time.monotonic()
        with (
            ProgressBar((epochs - len(self.rows)) * self.steps - done, self.recipe.describe(), "step") as bar,
            _compile(self.net, self.compiled),
        ):
            for epoch in range(len(self.rows), epochs):
                self.started = time.monotonic()
                with initialise_with(self.recipe.key, "layers", epoch):  # dropout draws from torch's global generator
                    sums = self._epoch(epoch, bar)
                loss, accuracy = sums.mean(1).tolist()
                quarters = [float(q.mean()) for q in sums[0].cpu().tensor_split(4) if len(q)]
                took = time.monotonic() - self.started
                self.rows.append({"epoch": epoch, "loss": loss, "accuracy": accuracy, "seconds": took,
                                  "quarters": quarters})
                columns = [loss.end_epoch(self.net) for loss in self.losses.values()]
                self.rows[-1] |= columns[0]
                if self.team.first:
                    self._choose(epoch)
                    self._keep(epoch + 1)
                bar.step(0, loss=loss, accuracy=accuracy)
                if epoch + 1 < epochs and self._due(CHECKPOINT_EVERY):
                    self._save()
        if not self.team.first:
            return self.rows
        final = self.best or (self.average and self.average.net.state_dict())
        if final:
            self.net.load_state_dict(final)
        self.loss.finish(self.net)
        return self.rows

    def _epoch(self, epoch: int, bar: ProgressBar) -> torch.Tensor:
        """One epoch; returns loss and accuracy of every update, [2, updates] on the device."""
        recipe, size, replays = self.recipe, self.recipe.batch_size, self.loss.replays
        order = torch.randperm(len(self.images), generator=generator(recipe.key, "order", epoch)).to(self.device)
        sums = torch.zeros(2, self.steps * replays, device=self.device, dtype=torch.float64)
        first = self._begin(sums)
        self.net.train(recipe.batchnorm == "train")
        for i in range(first, self.steps):
            batches = self._batches(order[i * size : (i + 1) * size], epoch, i)
            for replay in range(replays):
                u = i * replays + replay
                self._update(batches, epoch, u, replay, sums)
                if (u + 1) % LOOK_EVERY == 0 or u + 1 == sums.shape[1]:
                    self._look(sums[0, : u + 1], epoch)
            bar.step()
            if i + 1 < self.steps and self._due(CHECKPOINT_WITHIN):
                self._look(sums[0, : u + 1], epoch)
                self._save({"steps": i + 1, "sums": sums, "seconds": time.monotonic() - self.started,
                            "random": _random(self.device)})
        return sums

    def _due(self, every: float) -> bool:
        """Whether the last checkpoint is older than `every` seconds."""
        return self.team.told(time.monotonic() - self.saved > every)

    def _begin(self, sums) -> int:
        """The step from which the epoch goes on: 0, or that of a checkpoint in the middle of this epoch, with `sums`,
        the clock and torch's global generators as they were then.
        """
        begun, self.begun = self.begun, None
        if begun is None:
            return 0
        sums.copy_(begun["sums"])
        self.started -= begun["seconds"]
        torch.set_rng_state(begun["random"][0].cpu())
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(begun["random"][1].cpu(), self.device)
        return begun["steps"]

    def _batches(self, chosen, epoch: int, i: int) -> dict[int, TrainingBatch]:
        """{number: this process's shares of step i's batch}: one, unless the recipe cuts batches."""
        shares = chosen.chunk(self.recipe.shares)
        return {n: self._batch(shares[n], "step", epoch, i, *([n] if self.recipe.shares > 1 else ()))
                for n in self.losses}

    def _batch(self, chosen, *drawn) -> TrainingBatch:
        draw = generator(self.recipe.key, *drawn, device=chosen.device)
        pixels, placement = self.images.augmented(chosen, self.recipe.augment, draw)
        return TrainingBatch(
            pixels.contiguous(memory_format=self.layout),
            self.images.labels[chosen],
            self.images.indices[chosen],
            placement,
            draw,
        )

    def _update(self, batches: dict[int, TrainingBatch], epoch: int, u: int, replay: int, sums) -> None:
        """Update number u of the epoch: its loss, its step, its row in `sums`."""
        recipe, updates = self.recipe, sums.shape[1]
        share = (epoch + u / updates) / recipe.epochs
        progress = Progress(epoch, epoch * updates + u, share, recipe.precision, replay)
        before = kept = [statistic.clone() for statistic in self.statistics]
        try:
            for n, batch in batches.items():
                self._set_statistics(before)
                sums[:, u] += self._differentiate(n, batch, progress) / recipe.shares
                if n == 0:
                    kept = [statistic.clone() for statistic in self.statistics]
            self._set_statistics(kept)
            self.team.add_up([sums[:, u], *(p.grad for p in self.learning if p.grad is not None)])
            if self.optimiser is not None and self.team.first:
                for group in self.optimiser.param_groups:
                    group["lr"] = learning_rate(recipe.schedule, recipe.optimiser.lr, share)
                self.optimiser.step()
                self.loss.after_update(self.net, self.optimiser)
        except torch.OutOfMemoryError:
            self._out_of_memory(n, batch, progress)
        self.team.follow([*self.learning, *self.statistics])
        if self.average:
            self.average.follow(progress.step)

    def _set_statistics(self, values: list[torch.Tensor]) -> None:
        for statistic, value in zip(self.statistics, values, strict=True):
            statistic.copy_(value)

    def _differentiate(self, n: int, batch: TrainingBatch, progress: Progress) -> torch.Tensor:
        """Add the gradient of share n to those of the shares before; returns its loss and accuracy, on the device,
        because no step waits for a number.
        """
        shares = self.recipe.shares
        with initialise_with(self.recipe.key, "layers", progress.step, n) if shares > 1 else contextlib.nullcontext():
            loss, logits = self._evaluate(n, batch, progress)
        if self.optimiser is not None:
            if n == next(iter(self.losses)):
                self.optimiser.zero_grad(set_to_none=True)
            with rounding(self.recipe.precision):
                (loss / shares if shares > 1 else loss).backward()
        with torch.no_grad():
            right = torch.nan if logits is None else (logits.argmax(1) == batch.labels).double().mean()
            return torch.stack([loss.double(), torch.as_tensor(right, dtype=torch.float64, device=loss.device)])

    def _evaluate(self, n: int, batch: TrainingBatch, progress: Progress):
        with autocast(self.device, self.recipe.precision):
            return self.losses[n](self.net, batch, progress)

    def _out_of_memory(self, n: int, batch: TrainingBatch, progress: Progress) -> None:
        """Raise OutOfMemory with the batch size that fits. Attacks are split where they run; an update is not, because
        BatchNorm would see other statistics.
        """

        def attempt(size: int):
            loss = self._evaluate(n, batch.take(size), progress)[0]
            with rounding(self.recipe.precision):
                loss.backward()

        size = self.recipe.batch_size
        fits = halves_that_fit(attempt, len(batch.labels))
        advice = "not even a single image fits: use a smaller network"
        if fits:
            advice = f"a batch_size of {self.recipe.shares * fits} fits"
        raise OutOfMemory(
            f"{self.recipe.describe()}: out of memory in step {progress.step} with batches of {size} on "
            f"{self.device}; an update cannot be split without changing BatchNorm, {advice}"
        ) from None

    def _look(self, losses, epoch: int) -> None:
        bad = ~torch.isfinite(losses) | (losses.abs() > EXPLODED)
        if not self.team.first or not bad.any():  # the first has the sums over all shares
            return
        u = int(bad.nonzero()[0])
        checkpoint = self.work and self.work / CHECKPOINT
        kept = f"the last good checkpoint is {checkpoint}" if checkpoint and checkpoint.exists() else "no checkpoint"
        raise TrainingDiverged(
            f"{self.recipe.describe()}: the loss of step {u} of epoch {epoch} is {float(losses[u]):.3g}; lower "
            f"optimiser.lr ({self.recipe.optimiser.lr:g}); {kept}"
        )

    def _choose(self, epoch: int) -> None:
        """Measure the candidate on held-out images and keep its weights if it is better than in all epochs before."""
        choice, row = self.recipe.choice, self.rows[-1]
        if choice is None:
            return
        row["chosen"] = False
        if (epoch + 1) % choice.every and epoch + 1 < self.recipe.epochs:
            return
        if not self.loss.acceptable(self.net):
            return
        found = evaluate(self.candidate, self.holdout, choice.threat, choice.attack, seed_parts=("choice",),
                         search_precision=self.recipe.precision, checked=False)
        row["holdout"] = found.accuracy("robust" if choice.attack else "clean")
        if row["holdout"] > max((r["holdout"] for r in self.rows[:-1] if "holdout" in r), default=-1):
            self.best = copy.deepcopy(self.candidate.state_dict())
            for other in self.rows:
                other["chosen"] = other is row

    def _keep(self, epochs: int) -> None:
        """Save the candidate's weights after `epochs` epochs in the work folder if the recipe asks for them."""
        if epochs not in self.recipe.keep or self.work is None:
            return
        path = self.work / f"{EPOCH.format(epochs)}.safetensors"
        save_tensors(path, self.candidate.state_dict())
        self.kept[path.name] = sha256(path)

    def _save(self, begun: dict | None = None) -> None:
        """Write a checkpoint, after an epoch or, with `begun`, in the middle of one."""
        self.saved = time.monotonic()
        if self.work is not None:
            state = self._state()
            objectives = self.team.collected(state["objectives"])
            if self.team.first:
                save_state(self.work / CHECKPOINT, {**state, "objectives": objectives, "begun": begun})

    def _state(self) -> dict:
        return {
            "net": self.net.state_dict(),
            "rows": self.rows,
            "optimiser": self.optimiser.state_dict() if self.optimiser else None,
            "objectives": {n: loss.state_dict() for n, loss in self.losses.items()},  # by the number of the share
            "average": self.average.net.state_dict() if self.average else None,
            "best": self.best,
            "kept": self.kept,
            "begun": None,
        }

    def _take(self, state: dict) -> None:
        for name, digest in state["kept"].items():
            if not (self.work / name).exists() or sha256(self.work / name) != digest:
                raise ValueError(f"{name} has changed since")
        self.net.load_state_dict(state["net"])
        if self.optimiser is not None:
            self.optimiser.load_state_dict(state["optimiser"])
        for n, loss in self.losses.items():
            loss.load_state_dict(state["objectives"][n])
        if self.average:
            self.average.net.load_state_dict(state["average"])
        self.best, self.rows, self.kept, self.begun = state["best"], state["rows"], state["kept"], state["begun"]

    def _resume(self) -> None:
        """Put the last checkpoint's state back; training starts over from one that is damaged or of another layout. The
        first process reads it for all.
        """
        taken: dict = {}
        if self.team.first and self.work is not None and (self.work / CHECKPOINT).exists():

            def take(state: dict) -> None:
                self._take(state)
                taken.update(state)

            fresh = copy.deepcopy(self._state())
            if load_state(self.work / CHECKPOINT, take, self.device):
                within = f", step {self.begun['steps']}" if self.begun else ""
                print(f"{self.work.name}: going on after epoch {len(self.rows)}{within}", flush=True)
            else:
                self._take(fresh)  # a layout that does not fit has been taken in part
        state = self.team.told(taken)
        if state and not self.team.first:
            self._take(state)


def _statistics(net) -> list[torch.Tensor]:
    """The running statistics of BatchNorm."""
    norms = [part for part in net.modules() if isinstance(part, torch.nn.modules.batchnorm._BatchNorm)]
    return [buffer for norm in norms for buffer in norm.buffers(recurse=False)]


def _random(device: torch.device) -> list[torch.Tensor]:
    """The states of torch's global generators that layers such as dropout draw from: the CPU's and the device's."""
    states = [torch.get_rng_state()]
    return states + [torch.cuda.get_rng_state(device)] if device.type == "cuda" else states


@contextlib.contextmanager
def _compile(net, wanted: bool):
    """Inside the block calls of `net` go through torch.compile where it succeeds; the network itself does not change.
    """
    if not wanted:
        yield
        return
    torch._dynamo.reset()  # else, after eight networks of one class, all others would run uncompiled without a word
    net.compile(backend=COMPILER)
    try:
        with torch._dynamo.config.patch(suppress_errors=True):
            yield
    finally:
        net._compiled_call_impl = None
