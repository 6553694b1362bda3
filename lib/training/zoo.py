"""From a recipe to a network: loaded if the store has it, otherwise trained; the same for its per-image outcomes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from lib.data import ImageSet, load
from lib.door import in_own_state
from lib.errors import NetworkFailed, SettingsError, need
from lib.files import save_tensors, write_atomic
from lib.gradients.targets import SCORES, save_scores
from lib.gradients.targets import VERSION as TARGETS_VERSION
from lib.models import Stitched, build, least_squares, memory_format
from lib.runtime import keep_freed_memory, provenance
from lib.store import FAILED, Store
from lib.training import evaluation, price
from lib.training.certification import certified
from lib.training.evaluation import Outcomes, evaluate
from lib.training.loop import EPOCH, fit
from lib.training.memory import OutOfMemory, named_when_full
from lib.training.sanity import beaten_by_square, sanity_within
from lib.training.together import devices_for, fit_together
from lib.values.attacks import Attack
from lib.values.certificates import Certificate
from lib.values.keys import digest, plain
from lib.values.measurement import AdversarialImages
from lib.values.recipe import Recipe, outcome_key
from lib.values.threats import Threat

if TYPE_CHECKING:
    import pandas as pd

SEED = ("evaluation",)  # of every attack: networks are compared on the same starts
MATCHED_AT_ONCE = 128  # images whose activations least squares holds in float64 at once


def match(net: Stitched, first: nn.Module, target: nn.Module, images: ImageSet, count: int | None = None) -> None:
    """Set the joint of a stitched network to the least-squares map from what `first`, its front, gives to what `target`
    gives, the other network's own front, on the first `count` of the images (None: all).
    """
    chosen = torch.arange(count or len(images), device=images.labels.device)
    net.start(*least_squares(first, target, (images.pixels(some) for some in chosen.split(MATCHED_AT_ONCE))))


@dataclass(frozen=True)
class Trained:
    """A network in eval mode with frozen weights, the log of its training (a row per epoch) and its metadata."""

    recipe: Recipe
    net: torch.nn.Module
    log: list[dict]
    meta: dict


def inputs_from(store: Store, recipe: Recipe, device) -> dict:
    """`Zoo.inputs` in a new process: of networks and scores that are in the store."""
    return Zoo(store, device).inputs(recipe)


class Zoo:
    """Networks and outcomes by recipe. `allowed`: the keys of the plan; asking for any other network is an error."""

    def __init__(self, store: Store, device="cpu", allowed: set[str] | None = None):
        keep_freed_memory()
        self.store, self.device, self.allowed = store, torch.device(device), allowed
        self.trained_here: list[str] = []
        self._images: dict[tuple, ImageSet] = {}
        self._too_large: dict[str, str] = {}  # networks that did not fit into memory, and the sentence that says so
        self._gradient_warnings: dict[tuple, list[str]] = {}

    def images(self, data, split: str) -> ImageSet:
        """The images of a split on the zoo's device; each split is read once."""
        if (data, split) not in self._images:
            self._images[data, split] = load(data, split, self.device)
        return self._images[data, split]

    @in_own_state
    def obtain(self, recipe: Recipe) -> Trained:
        """The network of a recipe, after its parents; trained if the store lacks it.

        The store keeps only the tensors that training changed: a stitched network costs a joint, not two networks.
        A training that fails is not tried again: the store notes why, or, where memory was too small, this zoo. Raises
        NetworkFailed for such a network and for those that are made from it, SettingsError for a network outside the
        plan, and RuntimeError for stored tensors that do not belong to it.
        """
        if self.allowed is not None and recipe.key not in self.allowed:
            raise SettingsError(f"the network {recipe.describe()} is not in this run's plan: add it to its "
                                "lib/papers/<paper>/networks.py")
        net = build(recipe, [self.obtain(p).net for p in recipe.parents])
        log, meta = [], {}
        if recipe.checkpoint is not None:
            run = self.store.load("network", recipe.parents[0].key)
            net.load_state_dict(run.tensors(EPOCH.format(recipe.checkpoint)))
        if recipe.stored:
            entry = self._entry(recipe, net)
            changed = entry.tensors()
            if unexpected := net.load_state_dict(changed, strict=False).unexpected_keys:
                raise RuntimeError(
                    f"network {recipe.key} holds tensors this code does not know: {unexpected}; "
                    "raise NUMERICS or prune the store"
                )
            log, meta = entry.meta["log"], entry.meta
        net.to(device=self.device, memory_format=memory_format(net)).eval().requires_grad_(False)
        return Trained(recipe, net, log, meta)

    def _entry(self, recipe: Recipe, net):
        """The stored network. It is made again if the weights of its parents have changed since it was trained.

        Keys describe recipes, not bits: on another machine, or when a damaged parent was made again, its weights may
        differ, and the stored tensors of a child only fit the parents it was trained with.
        """
        entry = self.store.load("network", recipe.key)
        noted = entry and entry.meta.get("parents")
        if noted and noted != self._weights_of_parents(recipe):
            self.store.set_aside("network", recipe.key, "it was trained on other weights of its parents")
        if entry is None:
            self._check_notes(recipe)
        try:
            with named_when_full(recipe.describe()):
                return self.store.obtain("network", recipe.key, lambda work: self._train(recipe, net, work))
        except NetworkFailed as error:
            self._note(recipe, error)
            raise

    def _check_notes(self, recipe: Recipe) -> None:
        """Raise NetworkFailed if the training failed before."""
        error = None
        if note := self.store.load(FAILED, recipe.key):
            error = NetworkFailed(note.meta["sentence"])
        elif recipe.key in self._too_large:
            error = OutOfMemory(self._too_large[recipe.key])
        if error:
            error.noted = True
            raise error

    def _note(self, recipe: Recipe, error: NetworkFailed) -> None:
        """Note that a training failed, unless it was another network that failed, from which this one takes targets."""
        if error.noted:
            return
        error.noted = True
        if error.lasting:
            note = {"sentence": error.reason, "network": recipe.key, "what": f"failure of {recipe.describe()}"}
            self.store.obtain(FAILED, recipe.key, lambda work: note)
        else:
            self._too_large[recipe.key] = error.reason

    def _weights_of_parents(self, recipe: Recipe) -> dict[str, str]:
        """SHA-256 of the stored weights of the recipe's trained parents."""
        kept = {p.key: self.store.load("network", p.key) for p in recipe.parents if p.stored}
        return {key: entry.meta["files"]["data.safetensors"] for key, entry in kept.items()}

    def _train(self, recipe: Recipe, net, work: Path) -> dict:
        started = time.monotonic()
        before = {k: v.clone() for k, v in net.state_dict().items()}
        if recipe.matched:  # even if there is a checkpoint: it may turn out to be unreadable
            self._match(recipe, net)
        rows = self._fit(recipe, net, work) if recipe.epochs else []
        devices = len(devices_for(recipe, self.device))
        speed = price.speed(recipe, rows, self.device, devices)
        if speed and time.monotonic() - started > 5:
            print(price.sentence(speed), flush=True)
        changed = {k: v for k, v in net.state_dict().items() if not torch.equal(v.cpu(), before[k].cpu())}
        save_tensors(work / "data.safetensors", changed)
        self.trained_here.append(recipe.key)
        return {
            "recipe": plain(recipe),
            "parents": self._weights_of_parents(recipe),
            "what": recipe.describe(),
            "log": rows,
            # the sum over all parts of a training that was interrupted
            "seconds": max(time.monotonic() - started, sum(row["seconds"] for row in rows)),
            "like": price.like_training(recipe),
            "flops": price.training(recipe) if recipe.epochs else 0.0,
            "devices": devices,
            **speed,
            **provenance(self.device),
        }

    def _fit(self, recipe: Recipe, net, work: Path) -> list[dict]:
        compiled, devices = price.compile_pays(recipe, self.device), devices_for(recipe, self.device)
        if len(devices) > 1:
            self.targets(recipe)  # made once, before several processes take them
            return fit_together(net, recipe, partial(inputs_from, self.store, recipe), devices, work, compiled)
        return fit(net, recipe, work=work, compiled=compiled, **self.inputs(recipe))

    def inputs(self, recipe: Recipe) -> dict:
        """What a training takes besides network and recipe, as arguments of `lib.training.loop.fit`."""
        return {
            "images": self.images(recipe.data, "train"),
            "device": self.device,
            "holdout": self.images(recipe.data, "holdout") if recipe.choice else None,
            "scores": self.targets(recipe),
            "parents": [self.obtain(p).net for p in recipe.parents] if recipe.objective.attacks_parents else (),
        }

    def _match(self, recipe: Recipe, net) -> None:
        """Set the joint of a stitched network to the least-squares map between its parents' activations, both in eval
        mode and fp32, on the first `arch.fit` training images (all if that is not set).
        """
        first, target = (self.obtain(p).net.front(recipe.arch.joint) for p in recipe.parents)
        match(net, first, target, self.images(recipe.data, "train"), recipe.arch.fit)

    def targets(self, recipe: Recipe) -> torch.Tensor | None:
        """The class scores with which the recipe's gradients are to align at its training images, times sigma^2: fp16
        [N, classes, C, H, W] in the order of `images(recipe.data, "train")`. They are on the CPU, in a memory-mapped
        file of the store that is made once for all networks with the same source. None if the objective needs none.
        """
        objective = recipe.objective
        if not (objective.needs_scores and objective.active):
            return None
        source, spec = recipe.sources[0], objective.targets

        def make(work: Path) -> dict:
            net, images = self.obtain(source).net, self.images(recipe.data, "train")
            save_scores(work / "data.safetensors", net, images, spec.sigma, spec.draws)
            return {"networks": [source.key], "what": f"class scores at noise {spec.sigma:g}, {spec.draws} draws, of "
                                                      f"{len(images)} images, by {source.describe()}"}

        data = recipe.data
        key = digest([TARGETS_VERSION, source.key, data.info.version, data.training, spec.sigma, spec.draws])
        return self.store.obtain("targets", key, make).tensors()[SCORES]

    def outcomes(self, recipe: Recipe, threat: Threat | None = None, attack: Attack | Certificate | None = None,
                 split: str = "test") -> Outcomes:
        """Per-image outcomes on a split of the recipe's data: clean, and robust with warnings if an attack is given, or
        verified if a certificate is given; from the store if they were measured before. A search or smoothing that was
        killed is resumed. Raises as `evaluate` and `certified` do.
        """
        proof = isinstance(attack, Certificate)

        def make(work: Path) -> Outcomes:
            net, images = self.obtain(recipe).net, self.images(recipe.data, split)
            if proof:
                return certified(net, images, threat, attack, seed_parts=SEED, work=work)
            return evaluate(net, images, threat, attack, seed_parts=SEED, search_precision=recipe.precision, work=work,
                            checked=False)

        def look(work: Path) -> dict:
            robust = torch.tensor(found.table["robust"].to_numpy())
            net, images = self.obtain(recipe).net, self.images(recipe.data, split)
            beaten = beaten_by_square(net, images, robust, threat, recipe.precision)
            return {"warnings": self.gradient_warnings(recipe, threat) + beaten, "network": recipe.key,
                    "what": f"checks of {name} of {recipe.describe()}"}

        key, name = outcome_key(recipe, threat, attack), attack.title if attack else "clean"
        like = price.like_outcomes(recipe, threat, attack)
        if split != "test":
            key, name, like = digest([split, key]), f"{name} ({split} images)", digest([split, like])
        found = self._outcomes("outcomes", key, recipe, name, make, like=like)
        if attack is not None and not proof:
            found.warnings = self.store.obtain("sanity", key, look).meta["warnings"]
        return found

    def _outcomes(self, kind: str, key: str, recipe: Recipe, name: str, make: Callable[[Path], Outcomes],
                  **noted) -> Outcomes:
        """The stored outcomes of a network, made by `make(folder)` if they are missing."""

        def made(work: Path) -> dict:
            self.obtain(recipe)  # its training is no part of the seconds
            started = time.monotonic()
            found = make(work)
            write_atomic(work / "table.csv", found.table.to_csv(index=False))
            return {"protocol": found.protocol, "warnings": found.warnings, "network": recipe.key,
                    "seconds": time.monotonic() - started, "what": f"{name} of {recipe.describe()}", **noted,
                    **provenance(self.device)}

        entry = self.store.obtain(kind, key, made)
        table = entry.table()
        if "broken_by" in table:
            table["broken_by"] = table["broken_by"].fillna("")
        return Outcomes(table, entry.meta["protocol"], entry.meta.get("warnings", []))

    def table(self, kind: str, recipe: Recipe, key: list, make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        """A table about the network of a recipe, from the store, made if it is missing. kind: its kind in the store.
        key: everything except the recipe's weights that determines the table, including its test images if it is about
        them.
        """

        def made(work: Path) -> dict:
            write_atomic(work / "table.csv", make().to_csv(index=False))
            return {"network": recipe.key, "what": f"{kind} of {recipe.describe()}"}

        return self.store.obtain(kind, digest([recipe.key, key]), made).table()

    def gradient_warnings(self, recipe: Recipe, threat: Threat) -> list[str]:
        """What speaks against gradient attacks on the network, looked for once per process and norm."""
        key = recipe.key, recipe.data, threat.norm
        if key not in self._gradient_warnings:
            self._gradient_warnings[key] = sanity_within(self.obtain(recipe).net, self.images(recipe.data, "test"),
                                                         threat, recipe.precision)
        return list(self._gradient_warnings[key])

    def sweep(self, recipe: Recipe, threats: Sequence[Threat], attacks: Sequence[Attack]) -> list[Outcomes]:
        """Outcomes on the recipe's test images at growing eps, each with its own attack; see evaluation.sweep."""
        import pandas as pd

        need(len(attacks) == len(threats) > 0, "number of attacks", len(attacks), "one for each of the threats")

        def make(work: Path) -> dict:
            rows = evaluation.sweep(self.obtain(recipe).net, self.images(recipe.data, "test"), threats, attacks,
                                    seed_parts=SEED, search_precision=recipe.precision, checked=False)
            tables = pd.concat([row.table for row in rows], keys=range(len(rows)), names=["step", None])
            write_atomic(work / "table.csv", tables.reset_index("step").to_csv(index=False))
            return {"protocols": [row.protocol for row in rows], "warnings": self.gradient_warnings(recipe, threats[0]),
                    "network": recipe.key, "what": f"{len(rows)} eps of {recipe.describe()}"}

        key = digest([outcome_key(recipe, *pair) for pair in zip(threats, attacks, strict=True)])
        entry = self.store.obtain("sweep", key, make)
        steps = entry.table().groupby("step")
        return [Outcomes(steps.get_group(n).drop(columns="step").reset_index(drop=True), protocol,
                         entry.meta["warnings"]) for n, protocol in enumerate(entry.meta["protocols"])]

    def adversarial(self, recipe: Recipe, threat: Threat, attack: Attack, split: str = "test") -> torch.Tensor:
        """Every image of a split of the recipe's data after the attack on its network: float32 [N, C, H, W] in [0, 1],
        in the order of `images(recipe.data, split)`, on the zoo's device; see evaluation.adversarial.
        """
        def make(work: Path) -> dict:
            found = evaluation.adversarial(self.obtain(recipe).net, self.images(recipe.data, split), threat, attack,
                                           seed_parts=SEED, search_precision=recipe.precision)
            save_tensors(work / "data.safetensors", {"images": found})
            return {"networks": [recipe.key], "what": wanted.describe()}

        wanted = AdversarialImages(recipe, threat, attack, split)
        return self.store.obtain(*wanted.entry, make).tensors()["images"].to(self.device)

    def transfer(self, source: Recipe, target: Recipe, threat: Threat, attack: Attack) -> Outcomes:
        """Per-image outcomes of the network `target` on the `adversarial` test images of the network `source`: robust
        means that `target` classifies both the clean image and the image attacked on `source` correctly; source_robust
        means the same for `source`. Warnings are about the source.

        From a network to itself the verdicts are those of `outcomes`. Raises SettingsError for networks of different
        data sets.
        """
        same = source.data.name == target.data.name
        need(same, "target data", target.data.name, f"{source.data.name}, the data set of the source")

        def make(work: Path) -> Outcomes:
            images, moved = self.images(source.data, "test"), self.adversarial(source, threat, attack)
            found = evaluation.transferred(self.obtain(target).net, images, moved)
            theirs = evaluation.transferred(self.obtain(source).net, images, moved)
            found.table["source_robust"] = theirs.table["robust"]
            found.protocol |= evaluation.attacked(threat, attack, SEED, source.precision) | {"source": source.key}
            found.warnings = self.gradient_warnings(source, threat)
            return found

        key = digest([target.key, outcome_key(source, threat, attack)])
        return self._outcomes("transfer", key, target, f"{attack.title} images of {source.key} on", make)
