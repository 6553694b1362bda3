"""Notes of a search for adversarial images: what broke which image so far, on disk so that a killed search resumes."""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lib.files import write_atomic
from lib.values.keys import digest

log = logging.getLogger("lib.attacks")
STANDING, CLEAN, FIRST = 0, 1, 2  # values of `Notes.by`: not broken, misclassified without attack, broken by stage 0


@dataclass
class Notes:
    """`by` [N]: STANDING, CLEAN, or FIRST plus the number of the stage that broke an image. `adversarial` [N, C, H, W]
    (None: not kept). Stages before `stage` are finished; of the images that stood when it began, it has searched the
    first `done`.
    """

    by: Tensor
    adversarial: Tensor | None
    stage: int = 0
    done: int = 0

    def turn(self) -> Tensor:
        """The positions of the images that the current stage has still to search: int64 [n]."""
        stood = (self.by == STANDING) | (self.by == FIRST + self.stage)
        return stood.nonzero().squeeze(1)[self.done:]

    def add(self, rows: Tensor, broken: Tensor, adversarial: Tensor) -> None:
        """Note that the current stage has searched the images `rows` [n]: which are `broken` (bool [n]) and by what
        (`adversarial` [n, C, H, W]).
        """
        self.by[rows[broken]] = FIRST + self.stage
        if self.adversarial is not None:
            self.adversarial[rows[broken]] = adversarial[broken]
        self.done += len(rows)

    def save(self, path: Path, name: str) -> None:
        """Write the notes of the call `name` to a file, atomically."""
        state = {"call": name, "by": self.by.cpu(), "stage": self.stage, "done": self.done}
        if self.adversarial is not None:
            state["adversarial"] = self.adversarial[self.by != STANDING].cpu()
        data = io.BytesIO()
        torch.save(state, data)
        write_atomic(path, data.getvalue())

    def keep_in(self, work: Path | None, call: list, tensors: list[Tensor]) -> Callable[[], None]:
        """Resume from the file of the same call on the same tensors in the folder `work` (None: nothing is kept).
        Returns a function that writes the current state to that file.
        """
        if work is None:
            return lambda: None
        name = digest([*call, fingerprint(tensors)])
        path = work / f"checkpoint-{name}.pt"
        self.load(path, name)
        return lambda: self.save(path, name)

    def load(self, path: Path, name: str) -> None:
        """Resume from the file if it holds the same call; another or a damaged file is deleted and logged."""
        if not path.exists():
            return
        try:
            state = torch.load(path, weights_only=True)
            if state["call"] != name:
                raise ValueError("it belongs to another search")
            by = state["by"].to(self.by.device)
            if self.adversarial is not None:
                self.adversarial[by != STANDING] = state["adversarial"].to(self.by.device)
            self.by, self.stage, self.done = by, state["stage"], state["done"]
        except Exception as error:  # whatever a torn file makes torch raise
            log.warning("%s is dropped and its search starts over: %s", path, str(error).split("\n")[0])
            path.unlink()


def fingerprint(tensors: list[Tensor]) -> str:
    """A SHA-256 of the tensors' values."""
    sha = hashlib.sha256()
    for tensor in tensors:
        sha.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return sha.hexdigest()
