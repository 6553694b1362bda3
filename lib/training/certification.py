"""Proven verdicts, image by image."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from lib.certify.proof import proofs
from lib.door import in_own_state
from lib.errors import need
from lib.training.evaluation import Outcomes, verdicts
from lib.training.ready import ready
from lib.values.certificates import Certificate
from lib.values.keys import plain
from lib.values.threats import Threat

if TYPE_CHECKING:
    from lib.data.images import ImageSet


@in_own_state
def certified(net: nn.Module, images: ImageSet, threat: Threat, certificate: Certificate, *, seed_parts: tuple = (),
              batch_size: int | None = None, work: Path | None = None) -> Outcomes:
    """Verdicts clean, and verified by `certificate` for the ball of `threat`, in eval mode and fp32.

    Bounds (lib/certify/bounds.py): an image is clean if the network classifies it correctly, and verified if the
    network provably classifies every image of its ball correctly. Smoothing (lib/certify/smoothing.py): both verdicts
    are about the smoothed classifier, not the network, as the protocol states in `classifier`. An image is clean if the
    smoothed classifier answers correctly (an abstention is not correct), and verified if, in addition, its radius (a
    column; 0 for an abstention) is at least eps.

    `seed_parts` seed the noise of smoothing, which is drawn on the images' device. `work`: a folder where a killed
    smoothing leaves its results, to be resumed by the same call.

    Raises SettingsError for a missing threat or one for which the certificate proves nothing (`Certificate.check`), an
    empty set, and a network that bounds do not cover.
    """
    need(threat is not None, "threat", None, f"given for {certificate.title}")
    certificate.check(threat)
    net, images, batch_size = ready(net, images, batch_size)
    proof = proofs[certificate](net, images, threat, certificate, seed_parts, batch_size, work)
    numbers = {name: value for name, value in plain(certificate).items() if name != "type"}
    protocol = {"threat": threat.norm, "eps": str(threat.eps), "attack": certificate.title, **numbers, **proof.protocol}
    return verdicts(net, images, protocol, clean=proof.clean, verified=proof.verified, **proof.columns)
