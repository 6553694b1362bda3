"""The verdicts of a certificate on a set of images, and the table of functions that compute them."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from lib.values.by_type import ByType


@dataclass(frozen=True, eq=False)
class Proof:
    """Verdicts on N images.

    clean: whether the image is classified correctly, bool [N]. verified: whether every image of its ball provably is,
    bool [N]. columns: further values for each image, each [N]. protocol: plain values that a protocol states in
    addition to the certificate's own numbers.
    """

    clean: Tensor
    verified: Tensor
    columns: dict[str, Tensor] = field(default_factory=dict)
    protocol: dict[str, str] = field(default_factory=dict)


# The type of a certificate -> a function (net, images, threat, certificate, seed_parts, batch_size, work) that gives
# the Proof for a network in eval mode; the arguments are as for `certified`, lib/training/certification.py.
proofs = ByType("proof")
