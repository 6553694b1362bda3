"""Verdicts that are proven, image by image."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from lib.certify.proof import proofs
from lib.errors import need
from lib.training.evaluation import Outcomes, ready, verdicts
from lib.values.certificates import Certificate
from lib.values.keys import plain
from lib.values.threats import Threat

if TYPE_CHECKING:
    from lib.data.images import ImageSet


def certified(net: nn.Module, images: ImageSet, threat: Threat, certificate: Certificate, *, seed_parts: tuple = (),
              batch_size: int | None = None, work: Path | None = None) -> Outcomes:
    """Clean verdicts and those that `certificate` proves for the ball of `threat`, in eval mode and fp32.

    Bounds (lib/certify/bounds.py): clean is an image that the network classifies correctly, verified one of which every
    image of the ball is. Smoothing (lib/certify/smoothing.py): both are of the smoothed classifier, not of the network:
    clean is an image that it answers correctly, which an abstention is not; verified one whose radius, a column of its
    own, reaches eps too. The protocol says so in `classifier`. Where it abstains the radius is 0.

    `seed_parts` seed the noise of smoothing, which is drawn on the images' device. `work`: a folder where smoothing
    that is killed leaves what it has found, and goes on when it is called again. Raises SettingsError unless the
    certificate is one of such balls (`Certificate.check`), for an empty set, or a network that bounds do not cover.
    """
    need(threat is not None, "threat", None, f"given for {certificate.title}")
    certificate.check(threat)
    net, images, batch_size = ready(net, images, batch_size)
    proof = proofs[certificate](net, images, threat, certificate, seed_parts, batch_size, work)
    numbers = {name: value for name, value in plain(certificate).items() if name != "type"}
    protocol = {"threat": threat.norm, "eps": str(threat.eps), "attack": certificate.title, **numbers, **proof.protocol}
    return verdicts(images, protocol, clean=proof.clean, verified=proof.verified, **proof.columns)
