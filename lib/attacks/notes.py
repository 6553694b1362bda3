"""Notes of a search for adversarial images: what broke which image so far, on disk so that a killed search resumes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lib.files import load_state, save_state
from lib.values.keys import digest

STANDING, CLEAN, FIRST = 0, 1, 2  # what `Notes.by` holds: nothing broke it, it was wrong without attack, stage 0 did


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
        save_state(path, state)

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
        """Go on from the file, if there is one of the same call; another, or a damaged one, is set aside and logged."""

        def take(state: dict) -> None:
            if state["call"] != name:
                raise ValueError("it belongs to another search")
            by = state["by"].to(self.by.device)
            if self.adversarial is not None:
                self.adversarial[by != STANDING] = state["adversarial"].to(self.by.device)
            self.by, self.stage, self.done = by, state["stage"], state["done"]

        load_state(path, take)


def fingerprint(tensors: list[Tensor]) -> str:
    """A SHA-256 of the tensors' values."""
    sha = hashlib.sha256()
    for tensor in tensors:
        sha.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return sha.hexdigest()
