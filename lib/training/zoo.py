"""From a recipe to a network: loaded if the store has it, trained if not; and its per-image outcomes likewise."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch

from lib.data import ImageSet, load
from lib.errors import SettingsError
from lib.models import build, memory_format
from lib.recipe import Recipe, outcome_key
from lib.runtime import provenance
from lib.store import Store, write_atomic
from lib.threats import Attack, Threat
from lib.training import price
from lib.training.evaluation import Outcomes, attack_name, evaluate
from lib.training.loop import fit
from lib.values import plain


@dataclass(frozen=True)
class Trained:
    """A network in eval mode with frozen weights, how its training went (a row per epoch) and its card."""

    recipe: Recipe
    net: torch.nn.Module
    log: list[dict]
    meta: dict


class Zoo:
    """Networks and outcomes by recipe. `allowed`: keys of the plan; asking for another network is an error."""

    def __init__(self, store: Store, device="cpu", allowed: set[str] | None = None):
        self.store, self.device, self.allowed = store, torch.device(device), allowed
        self.trained_here: list[str] = []
        self._images: dict[tuple, ImageSet] = {}

    def images(self, data, split: str) -> ImageSet:
        """The images of a split on the zoo's device, read once."""
        if (data, split) not in self._images:
            self._images[data, split] = load(data, split, self.device)
        return self._images[data, split]

    def obtain(self, recipe: Recipe) -> Trained:
        """The network of a recipe, its parents first; trained if the store lacks it.

        What is kept are the tensors that training changed: a stitched network costs its joint, not two networks.
        """
        if self.allowed is not None and recipe.key not in self.allowed:
            raise SettingsError(f"the network {recipe.describe()} is not in this run's plan: add it to lib/plan")
        net = build(recipe, [self.obtain(p).net for p in recipe.parents])
        log, meta = [], {}
        if recipe.epochs:
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
        """The stored network; one that was trained on other weights of its parents than lie here is made again.

        Keys name what was meant; between machines, or after a damaged parent was made again, bits may differ, and what
        is kept of a child only fits the parents it was trained with.
        """
        entry = self.store.load("network", recipe.key)
        noted = entry and entry.meta.get("parents")
        if noted and noted != self._weights_of_parents(recipe):
            self.store.set_aside("network", recipe.key, "it was trained on other weights of its parents")
        return self.store.obtain("network", recipe.key, lambda work: self._train(recipe, net, work))

    def _weights_of_parents(self, recipe: Recipe) -> dict[str, str]:
        """SHA-256 of the stored weights of the recipe's trained parents."""
        kept = {p.key: self.store.load("network", p.key) for p in recipe.parents if p.epochs}
        return {key: entry.meta["files"]["data.safetensors"] for key, entry in kept.items()}

    def _train(self, recipe: Recipe, net, work: Path) -> dict:
        from safetensors.torch import save_file

        started = time.monotonic()
        before = {k: v.clone() for k, v in net.state_dict().items()}
        images = self.images(recipe.data, "train")
        holdout = self.images(recipe.data, "holdout") if recipe.choice else None
        rows = fit(net, recipe, images, self.device, work, holdout, price.compile_pays(recipe, self.device))
        speed = price.speed(recipe, rows, self.device)
        if time.monotonic() - started > 5:
            print(price.sentence(speed), flush=True)
        after = {k: v.cpu() for k, v in net.state_dict().items()}
        changed = {k: v.contiguous() for k, v in after.items() if not torch.equal(v, before[k].cpu())}
        save_file(changed, work / "data.safetensors")
        self.trained_here.append(recipe.key)
        return {
            "recipe": plain(recipe),
            "parents": self._weights_of_parents(recipe),
            "what": recipe.describe(),
            "log": rows,
            # of all its parts, where it was stopped in between
            "seconds": max(time.monotonic() - started, sum(row["seconds"] for row in rows)),
            "like": price.like_training(recipe),
            **speed,
            **provenance(self.device),
        }

    def outcomes(self, recipe: Recipe, threat: Threat | None = None, attack: Attack | None = None) -> Outcomes:
        """Per-image outcomes on the recipe's test images: clean, and robust if an attack is given; from the store
        if they were measured before."""
        key = outcome_key(recipe, threat, attack)

        def make(work: Path) -> dict:
            started = time.monotonic()
            found = evaluate(
                self.obtain(recipe).net,
                self.images(recipe.data, "test"),
                threat,
                attack,
                seed_parts=("evaluation",),
                search_precision=recipe.precision,
            )
            write_atomic(work / "table.csv", found.table.to_csv(index=False))
            return {
                "protocol": found.protocol,
                "network": recipe.key,
                "seconds": time.monotonic() - started,
                "what": f"{attack_name(attack) if attack else 'clean'} of {recipe.describe()}",
            }

        entry = self.store.obtain("outcomes", key, make)
        return Outcomes(entry.table(), entry.meta["protocol"])
