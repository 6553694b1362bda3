"""Measuring a network image by image: clean, robust and verified verdicts, and how they were found.

lib/training/sanity.py checks whether a robust accuracy can be trusted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lib.attacks import sweep as budgets
from lib.attacks.core import perturbed
from lib.attacks.pgd import pgd
from lib.attacks.search import break_images
from lib.door import check_images, in_own_state
from lib.errors import need, unknown
from lib.models.staged import precision_of
from lib.runtime import generator
from lib.training.ready import answers, has_pixels, ready
from lib.training.sanity import sanity_within, warnings_of_attack, warnings_of_logits
from lib.values.attacks import PGD, Attack
from lib.values.keys import plain
from lib.values.threats import Threat

if TYPE_CHECKING:
    import pandas as pd

    from lib.data.images import ImageSet

VERDICTS = ("clean", "robust", "verified")
PRECISIONS = {torch.float32: "fp32", torch.float64: "fp64", torch.bfloat16: "bf16", torch.float16: "fp16"}
PROTOCOL = ("data", "split", "images", "threat", "eps", "attack", "steps", "restarts", "precision", "search_precision",
            "batchnorm", "attack_seed")


def columns(protocol: dict) -> dict:
    """A protocol as columns of a table: `seed` becomes `attack_seed`, since tables also have seeds of networks."""
    return {"attack_seed" if name == "seed" else name: value for name, value in protocol.items()}


@dataclass
class Outcomes:
    """Verdicts, one row per image, and how they were found.

    table: columns index (position in the official split), label, clean (bool) and, after an attack, robust (bool) and
    broken_by (the part of the attack, "clean" for an image that is misclassified without an attack, "" for one that
    stands), or, after a certificate, verified (bool) and, for smoothing, radius (float, l2, pixels in [0, 1]).
    protocol: plain values: data, split, images, threat, eps (as text), attack or certificate and its numbers,
    precision, batchnorm, seed; classifier "smoothed" if the verdicts are about the smoothed classifier. warnings:
    reasons to mistrust the numbers, one sentence each.

    Raises RuntimeError for an image that is robust or verified but not clean (the clean image lies in every ball), or
    verified but not robust: then the bounds or the attack are wrong.
    """

    table: pd.DataFrame
    protocol: dict = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def __post_init__(self):
        for strong, weak, why in (("robust", "clean", "are classified wrongly without an attack"),
                                  ("verified", "clean", "are classified wrongly without an attack"),
                                  ("verified", "robust", "were broken by an attack")):
            if strong in self.table and weak in self.table:
                wrong = self.table["index"][self.table[strong] & ~self.table[weak]].tolist()
                if wrong:
                    raise RuntimeError(f"images {wrong[:5]} count as {strong} but {why}")

    def _column(self, which: str) -> pd.Series:
        known = [name for name in VERDICTS if name in self.table]
        if which not in known:
            raise unknown("verdict", which, known)
        return self.table[which]

    def accuracy(self, which: str = "clean") -> float:
        """The share of images, in [0, 1], that are `clean` (classified correctly), `robust` (also under attack) or
        `verified`. Raises SettingsError for a verdict that was not measured.
        """
        return float(self._column(which).mean())

    def balanced_accuracy(self, which: str = "clean") -> float:
        """The mean over classes of the accuracy within each class, in [0, 1]. Raises what `accuracy` raises."""
        return float(self._column(which).groupby(self.table["label"]).mean().mean())

    def row(self) -> dict:
        """One row of a table: the accuracies clean, robust and verified, the same as balanced_..., all columns of the
        protocol, and warnings.
        """
        found = [which for which in VERDICTS if which in self.table]
        return {**{which: self.accuracy(which) for which in found},
                **{f"balanced_{which}": self.balanced_accuracy(which) for which in found},
                **dict.fromkeys(PROTOCOL), "attack": "clean", **columns(self.protocol),
                "warnings": "; ".join(self.warnings)}

    def with_bounds(self, bounds: Outcomes) -> Outcomes:
        """These outcomes together with the verdicts `verified` of `bounds`. Raises SettingsError unless both are about
        the same images, and for smoothing, which proves nothing about the network without noise.
        """
        for one in (self, bounds):
            own = "classifier" not in one.protocol
            need(own, "verdicts to combine", one.protocol.get("attack"), "about the network itself")
        same = self.table["index"].tolist() == bounds.table["index"].tolist()
        need(same, "bounds", bounds.protocol.get("data"), "about the same images in the same order")
        table = self.table.assign(verified=bounds.table["verified"])
        within = {name: bounds.protocol[name] for name in ("threat", "eps") if name in bounds.protocol}
        return replace(self, table=table, protocol=within | self.protocol)


def attacked(threat: Threat, attack: Attack, seed_parts: tuple, search_precision: str) -> dict:
    """The entries of a protocol that describe an attack."""
    numbers = {name: value for name, value in plain(attack).items() if name != "type"}
    return {"threat": threat.norm, "eps": str(threat.eps), "attack": attack.title, **numbers,
            "search_precision": search_precision, "seed": " ".join(str(part) for part in seed_parts)}


def verdicts(net: nn.Module, images: ImageSet, more: dict, warnings: Sequence[str] = (), **columns) -> Outcomes:
    """Outcomes of a network that is `ready`: `columns` [N] per image, and `more` that the protocol says."""
    import pandas as pd

    protocol = {"data": images.name, "split": images.split, "images": len(images),
                "precision": PRECISIONS[precision_of(net)], "batchnorm": "eval", **more}
    table = {"index": images.indices, "label": images.labels, **columns}
    table = {name: values.cpu().numpy() if isinstance(values, Tensor) else values for name, values in table.items()}
    return Outcomes(pd.DataFrame(table), protocol, list(warnings))


@in_own_state
def evaluate(net: nn.Module, images: ImageSet, threat: Threat | None = None, attack: Attack | None = None, *,
             seed_parts: tuple = (), batch_size: int | None = None, search_precision: str = "fp32",
             work: Path | None = None, checked: bool = True) -> Outcomes:
    """Clean and, with `threat` and `attack`, robust verdicts of `net` (in eval mode, in its own precision) for every
    image of the set.

    An image is robust if it is classified correctly and the attack finds no misclassified image within the threat; only
    images that are classified correctly are attacked. An image for which the network gives no finite answer is wrong,
    and a warning says how many there are. `checked`: the warnings also say why the robust accuracy may be too high, at
    the cost of PGD-40 on 128 images and 200 queries on 32 (lib/training/sanity.py). `seed_parts` seed the attack's
    random starts (do not include the network's key: networks are compared on the same starts). `search_precision` bf16
    searches in bf16 and confirms each hit in the network's own precision. `work`: a folder where a killed search leaves
    its results, to be resumed by the same call. Runs on the network's device and leaves the network as it was.

    Raises SettingsError for a threat without an attack or the reverse, and as `ready` and `break_images` do.
    """
    paired = (threat is None) == (attack is None)
    need(paired, "attack", attack and attack.title, "given exactly when a threat is")
    net, images, batch_size = ready(net, images, batch_size, threat is None or threat.box)
    clean, finite = answers(net, images.pixels, images.labels, batch_size)
    if attack is None:
        return verdicts(net, images, {}, warnings_of_logits(finite), clean=clean)
    right = clean.nonzero().squeeze(1)
    found = break_images(net, images.pixels(right), images.labels[right], threat, attack, images.indices[right],
                         seed_parts, batch_size=batch_size, precision=search_precision, work=work, keep_images=False)
    robust, broken_by = clean.clone(), ["clean"] * len(images)
    robust[right] = ~found.broken
    for position, part in zip(right.tolist(), found.broken_by, strict=True):
        broken_by[position] = part
    warnings = warnings_of_logits(finite)
    if checked:
        warnings += warnings_of_attack(net, images, robust, threat, search_precision)
    protocol = attacked(threat, attack, seed_parts, search_precision)
    return verdicts(net, images, protocol, warnings, clean=clean, robust=robust, broken_by=broken_by)


@in_own_state
def sweep(net: nn.Module, images: ImageSet, threats: Sequence[Threat], attacks: Sequence[Attack], *,
          seed_parts: tuple = (), batch_size: int | None = None, search_precision: str = "fp32",
          checked: bool = True) -> list[Outcomes]:
    """Outcomes for each of the threats, which have one norm and growing eps; `attacks` are paired with them.

    An example found at a small eps counts at every larger one and its image is not attacked again, so robust accuracy
    never rises with eps. The protocol names in `swept` all eps tried up to the row's own. `checked`: as in `evaluate`,
    but for the queries. Raises SettingsError as lib.attacks.sweep and `evaluate` do.
    """
    net, images, batch_size = ready(net, images, batch_size, all(threat.box for threat in threats))
    clean, finite = answers(net, images.pixels, images.labels, batch_size)
    right = clean.nonzero().squeeze(1)
    broken = budgets.sweep(net, images.pixels(right), images.labels[right], threats, attacks, images.indices[right],
                           seed_parts, batch_size=batch_size, precision=search_precision)
    out, warnings = [], warnings_of_logits(finite)
    if checked:
        warnings += sanity_within(net, images, threats[0], search_precision)
    for threat, attack, hit in zip(threats, attacks, broken, strict=True):
        robust = clean.clone()
        robust[right] = ~hit
        swept = " ".join(str(t.eps) for t in threats[:len(out) + 1])
        protocol = attacked(threat, attack, seed_parts, search_precision)
        out.append(verdicts(net, images, {**protocol, "swept": swept}, warnings, clean=clean, robust=robust))
    return out


@in_own_state
def adversarial(net: nn.Module, images: ImageSet, threat: Threat, attack: Attack, *, seed_parts: tuple = (),
                batch_size: int | None = None, search_precision: str = "fp32") -> Tensor:
    """Every image of the set after `attack` on `net`: float32 [N, C, H, W] in [0, 1], within `threat`. They are meant
    to be shown to another network.

    A search stops at the first misclassified image, just across the decision boundary, which hardly fools another
    network. So each image is the last iterate of one PGD run that does not stop: the attack's own first run or, for an
    attack other than PGD, the run of the tier pgd20 (`Attack.single_run`). If the network withstands this image and the
    search of `evaluate` finds an example, the example is taken instead. Misclassified images are attacked too.

    Raises SettingsError for a targeted attack, an empty set, and as `break_images` does.
    """
    net, images, batch_size = ready(net, images, batch_size, threat.box)
    need(not attack.targeted, "attack.targeted", True, "false: images have no classes to aim at")
    run = attack.single_run(threat)
    positions = torch.arange(len(images), device=images.labels.device)
    made = torch.cat([_last_iterates(net, images.take(part), threat, run, seed_parts, search_precision)
                      for part in positions.split(batch_size)])
    withstood = (answers(net, images.pixels, images.labels, batch_size)[0]
                 & answers(net, made.__getitem__, images.labels, batch_size)[0]).nonzero().squeeze(1)
    found = break_images(net, images.pixels(withstood), images.labels[withstood], threat, attack,
                         images.indices[withstood], seed_parts, batch_size=batch_size, precision=search_precision)
    made[withstood[found.broken]] = found.adversarial[found.broken]
    return made


def _last_iterates(net: nn.Module, images: ImageSet, threat: Threat, run: PGD, seed_parts: tuple,
                   precision: str) -> Tensor:
    """The last iterates [B, C, H, W] of a PGD run, from the same starts as the first restart of a search."""
    x, y = images.pixels(), images.labels
    own = [generator(*seed_parts, "pgd", 0, index) for index in images.indices.tolist()]
    noise = perturbed(x, threat).draw_each(own) if run.random_start else None
    return pgd(net, x.contiguous(memory_format=torch.channels_last), y, threat, run, noise=noise, precision=precision)


@in_own_state
def transferred(net: nn.Module, images: ImageSet, moved: Tensor, *, batch_size: int | None = None) -> Outcomes:
    """Verdicts of `net` on images that were attacked on another network: robust means that both the clean image and its
    version in `moved` [N, C, H, W], in [0, 1], are classified correctly.
    """
    net, images, batch_size = ready(net, images, batch_size)
    check_images(moved, "moved", has_pixels(images))
    need(len(moved) == len(images), "number of moved images", len(moved), f"{len(images)}, one for each image")
    clean, finite = answers(net, images.pixels, images.labels, batch_size)
    moved = moved.to(images.labels.device)
    withstands, also = answers(net, moved.__getitem__, images.labels, batch_size)
    return verdicts(net, images, {}, warnings_of_logits(finite & also), clean=clean, robust=clean & withstands)
