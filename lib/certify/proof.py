"""What a certificate says of a set of images, and the table of what computes it."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from lib.values.by_type import ByType


@dataclass(frozen=True, eq=False)
class Proof:
    """Verdicts on N images.

    clean: whether an image is answered correctly, bool [N]. verified: whether, provably, every image of its ball is,
    bool [N]. columns: what else is said of each image, [N]. protocol: what a protocol says beside the certificate's own
    numbers, plain values.
    """

    clean: Tensor
    verified: Tensor
    columns: dict[str, Tensor] = field(default_factory=dict)
    protocol: dict[str, str] = field(default_factory=dict)


# By the type of a certificate a function (net, images, threat, certificate, seed_parts, batch_size, work) that gives
# the Proof of a network in eval mode; the arguments are those of `certified`, lib/training/certification.py.
proofs = ByType("proof")
