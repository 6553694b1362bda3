"""Measuring a network image by image: clean, robust and verified verdicts, and how they came about.

Whether a robust accuracy can be trusted is looked into by lib/training/sanity.py.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lib.attacks import sweep as budgets
from lib.attacks.core import perturbed
from lib.attacks.pgd import pgd
from lib.attacks.search import break_images
from lib.errors import need, unknown
from lib.models.fold import folded
from lib.runtime import generator
from lib.values.attacks import PGD, Attack
from lib.values.keys import plain
from lib.values.threats import Threat

if TYPE_CHECKING:
    import pandas as pd

    from lib.data.images import ImageSet

VERDICTS = ("clean", "robust", "verified")
SMALL = 256  # pixels times channels of images so small that on a CPU, too, calls cost more than arithmetic
PROTOCOL = ("data", "split", "images", "threat", "eps", "attack", "steps", "restarts", "precision", "search_precision",
            "batchnorm", "attack_seed")


def columns(protocol: dict) -> dict:
    """A protocol as columns of a table: `seed` is `attack_seed`, since tables have seeds of networks too."""
    return {"attack_seed" if name == "seed" else name: value for name, value in protocol.items()}


@dataclass
class Outcomes:
    """Verdicts, one row per image, and how they came about.

    table: columns index (position in the official split), label, clean and, after an attack, robust (bool) and
    broken_by (the part of the attack, "clean" for an image that is wrong without any, "" for one that stands), or,
    after a certificate, verified (bool) and, of smoothing, radius (float, pixels in [0, 1]). protocol: plain values:
    data, split, images, threat, eps (as text), attack or certificate and its numbers, precision, batchnorm, seed;
    classifier "smoothed" where the verdicts are the smoothed classifier's. warnings: reasons to mistrust the numbers,
    one sentence each.

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
        """The share of images that are `clean` (classified correctly), `robust` (also under attack) or `verified`, in
        [0, 1].
        """
        return float(self._column(which).mean())

    def balanced_accuracy(self, which: str = "clean") -> float:
        """The mean over classes of the accuracy within each, in [0, 1]."""
        return float(self._column(which).groupby(self.table["label"]).mean().mean())

    def row(self) -> dict:
        """One row of a table: clean, robust, verified and their balanced twins, all protocol columns, warnings."""
        found = [which for which in VERDICTS if which in self.table]
        return {**{which: self.accuracy(which) for which in found},
                **{f"balanced_{which}": self.balanced_accuracy(which) for which in found},
                **dict.fromkeys(PROTOCOL), "attack": "clean", **columns(self.protocol),
                "warnings": "; ".join(self.warnings)}

    def beside(self, bounds: Outcomes) -> Outcomes:
        """These outcomes with the verdicts `verified` of `bounds`, which must be about the same images. Raises
        SettingsError for others, and for smoothing, which proves nothing about the network without noise.
        """
        for one in (self, bounds):
            own = "classifier" not in one.protocol
            need(own, "verdicts to stand side by side", one.protocol.get("attack"), "about the network itself")
        same = self.table["index"].tolist() == bounds.table["index"].tolist()
        need(same, "bounds", bounds.protocol.get("data"), "about the same images in the same order")
        table = self.table.assign(verified=bounds.table["verified"])
        within = {name: bounds.protocol[name] for name in ("threat", "eps") if name in bounds.protocol}
        return replace(self, table=table, protocol=within | self.protocol)


def _device(net: nn.Module) -> torch.device:
    return next((t.device for t in itertools.chain(net.parameters(), net.buffers())), torch.device("cpu"))


def _logits(net: nn.Module, pixels: Tensor) -> Tensor:
    return net(pixels.contiguous(memory_format=torch.channels_last))


def ready(net: nn.Module, images: ImageSet, batch_size: int | None) -> tuple[nn.Module, ImageSet, int]:
    """The network folded, the images where it lies, and the size of batches there (None: the device's usual one)."""
    need(batch_size is None or batch_size >= 1, "batch_size", batch_size, "a whole number of at least 1, or none")
    need(len(images) > 0, "number of images", len(images), "at least 1")
    device = _device(net)
    large = device.type == "cuda" or images.images[0].numel() < SMALL
    return folded(net), images.to(device), batch_size or (512 if large else 128)


@torch.no_grad()
def classified_right(net: nn.Module, pixels: Callable[[Tensor], Tensor], labels: Tensor, batch_size: int) -> Tensor:
    """Which of the images that `pixels` gives for positions are classified as `labels` [N] say: bool [N]."""
    positions = torch.arange(len(labels), device=labels.device)
    return torch.cat([_logits(net, pixels(part)).argmax(1) == labels[part] for part in positions.split(batch_size)])


def attacked(threat: Threat, attack: Attack, seed_parts: tuple, search_precision: str) -> dict:
    """What a protocol says of an attack."""
    numbers = {name: value for name, value in plain(attack).items() if name != "type"}
    return {"threat": threat.norm, "eps": str(threat.eps), "attack": attack.title, **numbers,
            "search_precision": search_precision, "seed": " ".join(str(part) for part in seed_parts)}


def verdicts(images: ImageSet, more: dict, **columns) -> Outcomes:
    """Outcomes of a network in eval mode and fp32: `columns` [N] per image, and `more` that the protocol says."""
    import pandas as pd

    protocol = {"data": images.name, "split": images.split, "images": len(images), "precision": "fp32",
                "batchnorm": "eval", **more}
    table = {"index": images.indices, "label": images.labels, **columns}
    table = {name: values.cpu().numpy() if isinstance(values, Tensor) else values for name, values in table.items()}
    return Outcomes(pd.DataFrame(table), protocol)


def evaluate(net: nn.Module, images: ImageSet, threat: Threat | None = None, attack: Attack | None = None, *,
             seed_parts: tuple = (), batch_size: int | None = None, search_precision: str = "fp32",
             work: Path | None = None) -> Outcomes:
    """Clean and, with `threat` and `attack`, robust verdicts of `net` (in eval mode, fp32) for every image of the set.

    An image is robust when it is classified correctly and the attack finds no misclassified image within the threat;
    only images that are cleanly right are attacked. `seed_parts` seed the attack's random starts (the key of the
    network is no good part: networks are compared on the same starts). `search_precision` bf16 looks for candidates in
    bf16 and confirms each in fp32. `work`: a folder where a search that is killed leaves what it has found, and goes on
    when it is called again. Works where the network lies and leaves it as it was. Raises SettingsError for a threat
    without an attack or the other way round, an empty set, or what `break_images` refuses.
    """
    paired = (threat is None) == (attack is None)
    need(paired, "attack", attack and attack.title, "given exactly when a threat is")
    net, images, batch_size = ready(net, images, batch_size)
    clean = classified_right(net, images.pixels, images.labels, batch_size)
    if attack is None:
        return verdicts(images, {}, clean=clean)
    right = clean.nonzero().squeeze(1)
    found = break_images(net, images.pixels(right), images.labels[right], threat, attack, images.indices[right],
                         seed_parts, batch_size=batch_size, precision=search_precision, work=work, keep_images=False)
    robust, broken_by = clean.clone(), ["clean"] * len(images)
    robust[right] = ~found.broken
    for position, part in zip(right.tolist(), found.broken_by, strict=True):
        broken_by[position] = part
    protocol = attacked(threat, attack, seed_parts, search_precision)
    return verdicts(images, protocol, clean=clean, robust=robust, broken_by=broken_by)


def sweep(net: nn.Module, images: ImageSet, threats: Sequence[Threat], attacks: Sequence[Attack], *,
          seed_parts: tuple = (), batch_size: int | None = None, search_precision: str = "fp32") -> list[Outcomes]:
    """Outcomes for each of the threats, which have one norm and growing eps; `attacks` are paired with them.

    An example found at a small eps counts at every larger one and its image is not attacked again, so robust accuracy
    never rises with eps. The protocol names in `swept` all eps tried up to the row's own. Raises SettingsError as
    lib.attacks.sweep and `evaluate` do.
    """
    net, images, batch_size = ready(net, images, batch_size)
    clean = classified_right(net, images.pixels, images.labels, batch_size)
    right = clean.nonzero().squeeze(1)
    broken = budgets.sweep(net, images.pixels(right), images.labels[right], threats, attacks, images.indices[right],
                           seed_parts, batch_size=batch_size, precision=search_precision)
    out = []
    for threat, attack, hit in zip(threats, attacks, broken, strict=True):
        robust = clean.clone()
        robust[right] = ~hit
        swept = " ".join(str(t.eps) for t in threats[:len(out) + 1])
        protocol = attacked(threat, attack, seed_parts, search_precision)
        out.append(verdicts(images, {**protocol, "swept": swept}, clean=clean, robust=robust))
    return out


def adversarial(net: nn.Module, images: ImageSet, threat: Threat, attack: Attack, *, seed_parts: tuple = (),
                batch_size: int | None = None, search_precision: str = "fp32") -> Tensor:
    """What `attack` makes of every image of the set against `net`: float32 [N, C, H, W] within `threat`.

    A search stops at the first misclassified image, at the very border of its class, which hardly fools another
    network. So each image is the last iterate of one PGD run that does not stop: the attack's own first run, or, for
    an attack that is not PGD, that of the tier pgd20 (`Attack.single_run`). Where the network withstands it and the
    search of `evaluate` finds an example, this one is taken instead. Images that are classified wrongly as they are go
    through the run too.
    """
    net, images, batch_size = ready(net, images, batch_size)
    need(not attack.targeted, "attack.targeted", True, "false: images have no classes to aim at")
    run = attack.single_run(threat)
    positions = torch.arange(len(images), device=images.labels.device)
    made = torch.cat([_last_iterates(net, images.take(part), threat, run, seed_parts, search_precision)
                      for part in positions.split(batch_size)])
    withstood = (classified_right(net, images.pixels, images.labels, batch_size)
                 & classified_right(net, made.__getitem__, images.labels, batch_size)).nonzero().squeeze(1)
    found = break_images(net, images.pixels(withstood), images.labels[withstood], threat, attack,
                         images.indices[withstood], seed_parts, batch_size=batch_size, precision=search_precision)
    made[withstood[found.broken]] = found.adversarial[found.broken]
    return made


def _last_iterates(net: nn.Module, images: ImageSet, threat: Threat, run: PGD, seed_parts: tuple,
                   precision: str) -> Tensor:
    """The last iterates of a PGD run from the starts of a search's first restart, [B, C, H, W]."""
    x, y = images.pixels(), images.labels
    own = [generator(*seed_parts, "pgd", 0, index) for index in images.indices.tolist()]
    noise = perturbed(x, threat).draw_each(own) if run.random_start else None
    return pgd(net, x.contiguous(memory_format=torch.channels_last), y, threat, run, noise=noise, precision=precision)


def transferred(net: nn.Module, images: ImageSet, moved: Tensor, *, batch_size: int | None = None) -> Outcomes:
    """Verdicts of `net` on images of another origin: robust is what is classified correctly both as it is and as
    `moved` [N, C, H, W] in [0, 1], whatever the network they were made for.
    """
    net, images, batch_size = ready(net, images, batch_size)
    clean = classified_right(net, images.pixels, images.labels, batch_size)
    moved = moved.to(images.labels.device)
    withstands = classified_right(net, moved.__getitem__, images.labels, batch_size)
    return verdicts(images, {}, clean=clean, robust=clean & withstands)
