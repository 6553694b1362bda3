"""Verdicts that are proven, image by image: by bounds of the network, or by the votes of noisy copies."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lib.attacks.notes import fingerprint
from lib.certify import intervals, linear, smoothing
from lib.errors import need
from lib.files import write_atomic
from lib.runtime import Progress, generator
from lib.training.evaluation import Outcomes, attack_name, classified_right, ready, verdicts
from lib.values.keys import digest, plain
from lib.values.threats import Bounds, Certificate, Smoothing, Threat, compatible

if TYPE_CHECKING:
    from lib.data.images import ImageSet

SMOOTHED_AT_ONCE = 16  # images between two notes on disk


def certified(net: nn.Module, images: ImageSet, threat: Threat, certificate: Certificate, *, seed_parts: tuple = (),
              batch_size: int | None = None, work: Path | None = None) -> Outcomes:
    """Clean verdicts and those that `certificate` proves for the ball of `threat`, in eval mode and fp32.

    Bounds (lib/certify/intervals.py, lib/certify/linear.py): clean is an image that the network classifies rightly,
    verified one of which every image of the ball is. Smoothing (lib/certify/smoothing.py): both are of the smoothed
    classifier, not of the network: clean is an image that it answers rightly, which an abstention is not; verified one
    whose radius, a column of its own, reaches eps too. The protocol says so in `classifier`. Where it abstains the
    radius is 0.

    `seed_parts` seed the noise of smoothing, which is drawn on the images' device. `work`: a folder where smoothing
    that is killed leaves what it has found, and goes on when it is called again. Raises SettingsError unless the
    certificate is one of such balls (`compatible`), for an empty set, or a network that bounds do not cover.
    """
    need(threat is not None, "threat", None, f"given for {attack_name(certificate)}")
    compatible(threat, certificate)
    net, images, batch_size = ready(net, images, batch_size)
    numbers = {name: value for name, value in plain(certificate).items() if name != "type"}
    protocol = {"threat": threat.norm, "eps": str(threat.eps), "attack": attack_name(certificate), **numbers}
    if isinstance(certificate, Smoothing):
        answers, radii = _smoothed(net, images, certificate, seed_parts, batch_size, work)
        clean = answers == images.labels
        protocol |= {"classifier": "smoothed", "seed": " ".join(str(part) for part in seed_parts)}
        return verdicts(images, protocol, clean=clean, verified=clean & (radii >= float(threat.eps)), radius=radii)
    clean = classified_right(net, images.pixels, images.labels, batch_size)
    positions = torch.arange(len(images), device=clean.device).split(batch_size)
    proven = torch.cat([_proven(net, images.pixels(part), images.labels[part], threat, certificate)
                        for part in positions])
    return verdicts(images, protocol, clean=clean, verified=proven)


def _proven(net: nn.Module, pixels: Tensor, labels: Tensor, threat: Threat, bounds: Bounds) -> Tensor:
    if bounds.method == "interval":
        return intervals.verified(net, pixels, labels, threat.eps)
    return linear.verified(net, pixels, labels, threat.eps, inner="linear" if bounds.method == "CROWN" else "interval")


def _smoothed(net: nn.Module, images: ImageSet, certificate: Smoothing, seed_parts: tuple, batch_size: int,
              work: Path | None) -> tuple[Tensor, Tensor]:
    """Answers [N] and radii [N] of the smoothed classifier, noted in `work` as they are found."""
    device, found = images.labels.device, []
    given = [*net.state_dict().values(), images.images, images.indices]
    path = work and work / f"checkpoint-{digest([certificate, list(map(str, seed_parts)), fingerprint(given)])}.pt"
    if path and path.exists():
        found = list(torch.load(path, weights_only=True, map_location=device).split(SMOOTHED_AT_ONCE))
    left = torch.arange(len(images), device=device).split(SMOOTHED_AT_ONCE)[len(found):]
    with Progress(sum(map(len, left)), attack_name(certificate), "images") as bar:
        for part in left:
            own = [generator(*seed_parts, "smoothing", index, device=device) for index in images.indices[part].tolist()]
            answers, radii = smoothing.certify(net, images.pixels(part), certificate, own, batch_size=batch_size)
            found.append(torch.stack([answers.double(), radii], 1))
            if path:
                data = io.BytesIO()
                torch.save(torch.cat(found).cpu(), data)
                write_atomic(path, data.getvalue())
            bar.step(len(part))
    answers, radii = torch.cat(found).unbind(1)
    return answers.long(), radii
