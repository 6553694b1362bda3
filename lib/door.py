"""The door for what comes from outside: a caller's images and labels, any network's logits, and the state of torch.
Every public function that attacks, certifies, measures or compares passes through it. (`pgd` does not: it is the
step of a training loop, which is in charge of its own precision.)
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from lib.errors import impossible, need


@contextlib.contextmanager
def own_state() -> Iterator[None]:
    """Inside the block torch is in its initial state, whatever the caller has set: no autocast, gradients are recorded,
    no inference mode, and new tensors are float32. Afterwards it is in the caller's state again.
    """
    dtype = torch.get_default_dtype()
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)


def in_own_state(function: Callable) -> Callable:
    """A decorator: the function runs in `own_state`."""

    @functools.wraps(function)
    def inside(*args, **kwargs):
        with own_state():
            return function(*args, **kwargs)

    return inside


def check_images(images: Tensor, name: str = "images", box: bool = True) -> None:
    """Raises SettingsError unless `images` are [N, C, H, W], uint8 or finite floats, and with `box` these in [0, 1]."""
    tensor = torch.is_tensor(images)
    need(tensor and images.dim() == 4, name, f"of shape {list(images.shape)}" if tensor else type(images).__name__,
         "a tensor of shape [N, C, H, W]")
    check_pixels(images, name, box)


def check_pixels(images: Tensor, name: str = "images", box: bool = True) -> None:
    """`check_images` for a tensor of any shape."""
    if images.dtype == torch.uint8 or not images.numel():
        return
    need(images.is_floating_point(), name, f"of {str(images.dtype).removeprefix('torch.')}",
         "uint8, or floats in [0, 1]")
    low, high = (float(bound) for bound in images.detach().aminmax())
    need(abs(low) < float("inf") and abs(high) < float("inf"), name, "with NaN or infinite pixels", "finite numbers")
    if box and not 0 <= low <= high <= 1:
        cause = ("divide floats in 0..255 by 255" if low >= 0 and high > 2
                 else "if they are normalised: give pixels, and let the network begin with the normaliser")
        raise impossible(name, f"floats from {low:.3g} to {high:.3g}", f"in [0, 1]; {cause}")


def check_labels(labels: Tensor, count: int | None = None, classes: int | None = None, name: str = "labels") -> None:
    """Raises SettingsError unless `labels` are [N] whole numbers from 0; as many as `count`, and below `classes`, where
    these are given.
    """
    tensor = torch.is_tensor(labels)
    shape = f"of shape {list(labels.shape)}" if tensor else type(labels).__name__
    hint = "; of one-hot labels take argmax(1)" if tensor and labels.dim() == 2 else ""
    fits = tensor and labels.dim() == 1 and count in (None, len(labels))
    need(fits, name, shape, f"a tensor [{'N' if count is None else count}], a class for each image{hint}")
    whole = not labels.is_floating_point() and not labels.is_complex() and labels.dtype != torch.bool
    need(whole, name, f"of {str(labels.dtype).removeprefix('torch.')}", "whole numbers")
    if len(labels):
        low, high = (int(bound) for bound in labels.aminmax())
        least = "0 or more" if classes is None else f"from 0 to {classes - 1}, the classes of the network"
        need(low >= 0 and (classes is None or high < classes), name, f"from {low} to {high}", least)


def correct(logits: Tensor, labels: Tensor) -> Tensor:
    """Which rows of `logits` [n, K] are largest at the label: bool [n]. A row with a NaN or an infinite number is not
    an answer, so it is wrong (argmax would call a row of NaN class 0).
    """
    return (logits.argmax(1) == labels) & logits.isfinite().all(1)
