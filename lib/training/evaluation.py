"""Measuring a network image by image: clean and robust verdicts, their protocol, and checks that they mean it."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.attacks.search import break_images
from lib.errors import need, unknown
from lib.models.fold import folded
from lib.threats import APGD, PGD, Attack, AutoAttack, Threat
from lib.values import plain

if TYPE_CHECKING:
    import pandas as pd

    from lib.data.images import ImageSet


def attack_name(attack: Attack) -> str:
    """A short text for tables: PGD-20, FGSM, APGD-CE+T (20 steps, 3 targets), AutoAttack."""
    if isinstance(attack, AutoAttack):
        return "AutoAttack"
    details = []
    if isinstance(attack, APGD):
        name = "APGD-CE+T" if attack.targets else "APGD-CE"
        details.append(f"{attack.steps} steps")
        if attack.targets:
            details.append(f"{attack.targets} targets" if attack.targets > 1 else "1 target")
    elif isinstance(attack, PGD):
        name = "FGSM" if attack.steps == 1 and not attack.random_start else f"PGD-{attack.steps}"
        details += [attack.loss.upper()] * (attack.loss != "ce") + ["targeted"] * attack.targeted
        details += ["no random start"] * (name != "FGSM" and not attack.random_start)
    else:
        raise unknown("attack", type(attack).__name__, ("PGD", "APGD", "AutoAttack"))
    if attack.restarts > 1:
        details.append(f"{attack.restarts} restarts")
    return f"{name} ({', '.join(details)})" if details else name


@dataclass
class Outcomes:
    """Verdicts, one row per image, and how they came about.

    table: columns index (position in the official split), label, clean and, after an attack, robust (bool). protocol:
    plain values: data, split, images, threat, eps (as text), attack and its numbers, precision, batchnorm, seed.
    Raises RuntimeError for an image that is robust but not clean: the clean image lies in every ball.
    """

    table: pd.DataFrame
    protocol: dict = field(default_factory=dict)

    def __post_init__(self):
        if "robust" in self.table and (self.table["robust"] & ~self.table["clean"]).any():
            wrong = self.table["index"][self.table["robust"] & ~self.table["clean"]].tolist()
            raise RuntimeError(f"images {wrong[:5]} count as robust but are classified wrongly without an attack")

    def _column(self, which: str) -> pd.Series:
        known = [name for name in ("clean", "robust") if name in self.table]
        if which not in known:
            raise unknown("verdict", which, known)
        return self.table[which]

    def accuracy(self, which: str = "clean") -> float:
        """The share of images that are `clean` (classified rightly) or `robust` (also under attack), in [0, 1]."""
        return float(self._column(which).mean())

    def balanced_accuracy(self, which: str = "clean") -> float:
        """The mean over classes of the accuracy within each, in [0, 1]."""
        return float(self._column(which).groupby(self.table["label"]).mean().mean())


def _device(net: nn.Module) -> torch.device:
    return next((t.device for t in itertools.chain(net.parameters(), net.buffers())), torch.device("cpu"))


def _logits(net: nn.Module, pixels: Tensor) -> Tensor:
    return net(pixels.contiguous(memory_format=torch.channels_last))


def _ready(net: nn.Module, images: ImageSet, batch_size: int | None) -> tuple[nn.Module, ImageSet, int]:
    need(batch_size is None or batch_size >= 1, "batch_size", batch_size, "a whole number of at least 1, or none")
    need(len(images) > 0, "number of images", len(images), "at least 1")
    device = _device(net)
    return folded(net), images.to(device), batch_size or (512 if device.type == "cuda" else 128)


@torch.no_grad()
def _right(net: nn.Module, images: ImageSet, batch_size: int) -> Tensor:
    positions = torch.arange(len(images), device=images.labels.device)
    return torch.cat([_logits(net, images.pixels(part)).argmax(1) == images.labels[part]
                      for part in positions.split(batch_size)])


def evaluate(net: nn.Module, images: ImageSet, threat: Threat | None = None, attack: Attack | None = None, *,
             seed_parts: tuple = (), batch_size: int | None = None, search_precision: str = "fp32") -> Outcomes:
    """Clean and, with `threat` and `attack`, robust verdicts of `net` (in eval mode, fp32) for every image of the set.

    An image is robust when it is classified rightly and the attack finds no misclassified image within the threat;
    only images that are cleanly right are attacked. `seed_parts` seed the attack's random starts (the key of the
    network is no good part: networks are compared on the same starts). `search_precision` bf16 looks for candidates in
    bf16 and confirms each in fp32. Works where the network lies and leaves it as it was. Raises SettingsError for a
    threat without an attack or the other way round, an empty set, or what `break_images` refuses.
    """
    import pandas as pd

    paired = (threat is None) == (attack is None)
    need(paired, "attack", attack and attack_name(attack), "given exactly when a threat is")
    net, images, batch_size = _ready(net, images, batch_size)
    clean = _right(net, images, batch_size)
    table = {"index": images.indices.cpu().numpy(), "label": images.labels.cpu().numpy(), "clean": clean.cpu().numpy()}
    protocol = {"data": images.name, "split": images.split, "images": len(images), "precision": "fp32",
                "batchnorm": "eval"}
    if attack is not None:
        right = clean.nonzero().squeeze(1)
        broken, _ = break_images(net, images.pixels(right), images.labels[right], threat, attack, images.indices[right],
                                 seed_parts, batch_size=batch_size, precision=search_precision)
        robust = clean.clone()
        robust[right] = ~broken
        table["robust"] = robust.cpu().numpy()
        numbers = {name: value for name, value in plain(attack).items() if name != "type"}
        protocol |= {"threat": threat.norm, "eps": str(threat.eps), "attack": attack_name(attack), **numbers,
                     "search_precision": search_precision, "seed": " ".join(str(part) for part in seed_parts)}
    return Outcomes(pd.DataFrame(table), protocol)


def sanity(net: nn.Module, images: ImageSet, norm: str = "linf", *, count: int = 128,
           batch_size: int | None = None) -> list[str]:
    """Reasons to mistrust a robust accuracy, one sentence each; an empty list is a pass. Looks at the first `count`
    images.

    Checked: pixels in [0, 1]; the same logits twice; logits that are finite and no probabilities; input gradients of
    the cross-entropy that are finite and not zero; and that almost nothing (2 %) survives PGD-40 in a ball that holds
    plain grey for every image: 0.5 in linf, 0.5 times the root of the number of pixels and channels in l2.
    """
    net, images, batch_size = _ready(net, images, batch_size)
    images = images.take(torch.arange(min(count, len(images)), device=images.labels.device))
    x, y = images.pixels().contiguous(memory_format=torch.channels_last), images.labels
    found = []
    if x.min() < 0 or x.max() > 1:
        found.append(f"pixels range from {x.min():.3g} to {x.max():.3g}, outside [0, 1]")
    with torch.no_grad():
        first, second = net(x).float(), net(x).float()
    if not first.isfinite().all():
        return [*found, "some logits are not finite numbers"]
    if (first - second).abs().max() > 1e-4 * first.abs().max():
        found.append("the network gives different logits for the same images: its defence is random")
    if first.min() >= 0 and (first.sum(1) - 1).abs().max() < 1e-4:
        found.append("the outputs are probabilities; attacks need logits")
    leaf = x.detach().requires_grad_()
    grad, = torch.autograd.grad(F.cross_entropy(net(leaf).float(), y, reduction="sum"), leaf)
    if not grad.isfinite().all():
        found.append("some input gradients are not finite numbers")
    zero = int((grad.flatten(1) == 0).all(1).sum())
    if zero:
        found.append(f"{zero} of {len(x)} images have a zero gradient: gradient attacks may fail without robustness")
    huge = Threat(norm, Fraction(1, 2) * (math.isqrt(x[0].numel()) + 1 if norm == "l2" else 1))
    right = first.argmax(1) == y
    broken, _ = break_images(net, x[right], y[right], huge, PGD(40, huge.eps / 10), images.indices[right], ("sanity",),
                             batch_size=batch_size)
    survive = int((~broken).sum())
    if survive > 0.02 * len(x):
        found.append(f"{survive} of {len(x)} images survive PGD at {norm} eps {float(huge.eps):g}, "
                     "where every image can become grey")
    return found
