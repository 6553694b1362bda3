"""When something does not fit into memory: attacks are split, for updates the size that fits is found, and a network
that still does not fit has failed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch

from lib.errors import NetworkFailed


class OutOfMemory(NetworkFailed):
    """A network or an update of its training does not fit into memory."""

    lasting = False


@contextlib.contextmanager
def named_when_full(network: str) -> Iterator[None]:
    """Where memory runs out inside the block, of the device or of the machine, raise OutOfMemory for the `network`."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # torch has no class of its own for the machine's memory
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and "DefaultCPUAllocator" not in str(error):
            raise
        raise OutOfMemory(f"{network} does not fit into memory") from None


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
