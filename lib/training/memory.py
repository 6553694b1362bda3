"""When a batch does not fit into the device's memory: attacks are split, and for updates the size that fits is found.
"""

from __future__ import annotations

from collections.abc import Callable

import torch


def halves_that_fit(attempt: Callable[[int], object], batch: int) -> int | None:
    """The largest of batch/2, batch/4, ... for which `attempt(size)` does not run out of memory; None if none does."""
    size = batch // 2
    while size >= 1:
        _release()
        try:
            attempt(size)
            return size
        except torch.OutOfMemoryError:
            size //= 2
    return None


class InParts:
    """Calls a function of images in parts as large as memory allows, and remembers how many parts were needed.

    Only for functions that treat each image separately: an attack on a network in eval mode, never an update with
    BatchNorm.
    """

    def __init__(self, what: str):
        self.what, self.parts = what, 1

    def __call__(self, function: Callable[..., torch.Tensor], *tensors: torch.Tensor | None) -> torch.Tensor:
        """`function(*tensors)`, or its results on parts of the tensors [B, ...], concatenated. Raises
        torch.OutOfMemoryError if not even single images fit.
        """
        while True:
            count = len(tensors[0].chunk(self.parts))  # may be fewer than asked for
            pieces = [[None] * count if t is None else t.chunk(self.parts) for t in tensors]
            try:
                done = [function(*piece) for piece in zip(*pieces, strict=True)]
                return done[0] if len(done) == 1 else torch.cat(done)
            except torch.OutOfMemoryError:
                if self.parts * 2 > len(tensors[0]):
                    raise
            _release()
            self.parts *= 2
            print(f"{self.what}: out of memory, going on in {self.parts} parts a batch", flush=True)


def _release() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
