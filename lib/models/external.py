"""Networks whose weights come from elsewhere: ResNets in files with the tensor names of other projects."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from lib import files
from lib.errors import SettingsError, need
from lib.models.building import builders
from lib.models.staged import Normalise, Staged
from lib.runtime import initialise_with
from lib.values.architectures import ImageNetResNet, ResNet
from lib.values.external import External

WRAPPERS = ("state_dict", "model_state_dict", "net", "model")  # entries that hold the tensors in other projects' files
OURS = (  # other projects' names of tensors -> ours; names not listed here are the same
    (r"^(?:(?:module|model)\.)+", ""),
    (r"^(?:normali[sz]er?\.)?(?:(?:new_)?mean|mu)$", "normalise.mean"),
    (r"^(?:normali[sz]er?\.)?(?:(?:new_)?std|sigma)$", "normalise.std"),
    (r"^conv1\.", "stem.0."),
    (r"^bn1\.", "stem.1."),
    (r"\.(?:shortcut|downsample)\.0\.", ".shortcut.conv."),
    (r"\.(?:shortcut|downsample)\.1\.", ".shortcut.bn."),
    (r"^(?:linear|fc)\.", "head.2."),
)
COPIES = "attacker."  # MadryLab's files contain network and normaliser a second time, as part of the attack


def load_resnet(path: str | Path, arch: ResNet | ImageNetResNet | None = None, classes: int = 10,
                shape: tuple[int, int, int] = (3, 32, 32), sha256: str | None = None,
                normaliser: tuple[Sequence[float], Sequence[float]] | None = None) -> Staged:
    """The network of `arch` (None: ResNet-18) for images [B, C, H, W] in [0, 1] of `shape` [C, H, W] with the weights
    of a file: on the CPU, in eval mode, frozen.

    path: a file of torch.save with tensors named as in RobustBench, pytorch-cifar or torchvision (`conv1`, `bn1`,
    `layer1.0.conv1`, `layer2.0.shortcut.0` or `.downsample.0`, `linear` or `fc`). Names may start with `module.` or
    `model.`, and all tensors may lie in an entry `state_dict`, `model_state_dict`, `net` or `model`. In files of
    MadryLab's robustness library, names that start with `attacker.` are ignored: they are the same tensors again.
    sha256: the file's digest in hexadecimal, checked before it is read. normaliser: (mean, std), a number for each
    channel; None: the file's `mean` (`mu`, `new_mean`) and `std` (`sigma`, `new_std`), or 0 and 1 if it has none.

    Only tensors are unpickled; the error for a file with other content says how to write its tensors out. Raises
    SettingsError for a file that does not exist, has another digest or cannot be read, for tensors that are missing,
    unexpected or of another shape, for other architectures, and for images that are too small.
    """
    path, arch = Path(path), arch or ResNet()
    need(arch.reads_files, "arch", arch.name, "a ResNet or an ImageNetResNet for weights from a file")
    arch.check(*shape[1:])
    raw = read_tensors(path, sha256, advise=True)
    named = {_our_name(name): tensor for name, tensor in raw.items()}
    need(len(named) == len(raw), "weights file", path, "one with each tensor once, here some under several names")
    broken = [name for name, tensor in named.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    need(not broken, "weights file", path, f"one of finite numbers, unlike those of {', '.join(broken[:3])}")
    given = {name: tensor for name, tensor in named.items() if not name.startswith(COPIES)}
    with initialise_with("external"):  # the weights will be replaced; the caller's random numbers stay untouched
        net = builders[arch](arch, shape, classes)
    net.normalise = _normaliser(given, normaliser, shape[0])
    check_tensors(path, given, {k: v for k, v in net.state_dict().items() if not k.startswith("normalise.")})
    net.load_state_dict(given, strict=False)  # old files lack BatchNorm's counts of batches, which are not used
    return net.eval().requires_grad_(False)


def autoattack_example() -> Staged:
    """The ResNet-18 for CIFAR-10 that comes with the package pyautoattack: trained normally, with 94 % clean accuracy
    and no robustness, for pixels in [0, 1] without a normaliser.
    """
    weights = External("pyautoattack").weights
    return load_resnet(weights.file, sha256=weights.sha256)


def _normaliser(given: dict[str, torch.Tensor], chosen, channels: int) -> Normalise:
    """The normaliser that the caller chose, else the file's (removed from `given`), else 0 and 1."""
    mean, std = given.pop("normalise.mean", 0.0), given.pop("normalise.std", 1.0)
    mean, std = (torch.as_tensor(numbers).flatten() for numbers in (chosen or (mean, std)))
    for name, numbers in (("mean", mean), ("std", std)):
        need(len(numbers) in (1, channels), f"normaliser {name}", numbers.tolist(), f"1 or {channels} numbers")
    need(bool((std > 0).all()), "normaliser std", std.tolist(), "greater than 0")
    need(bool((mean.abs() <= 1).all()), "normaliser mean", mean.tolist(), "from -1 to 1, for pixels in [0, 1]")
    return Normalise(channels, mean, std)


def read_tensors(path: Path, sha256: str | None = None, advise: bool = False) -> Mapping[str, torch.Tensor]:
    """The tensors of a file of torch.save or, if it ends in .safetensors, of that format, by their names there. Nothing
    else is unpickled. advise: whether the error for a file with other content says how to write the tensors out. Raises
    SettingsError for a file that does not exist, has another digest or holds something else.
    """
    need(path.is_file(), "weights file", path, "an existing file")
    if sha256 is not None:
        digest = files.sha256(path)
        need(digest == sha256.lower(), "weights file", path, f"the file with SHA-256 {sha256}; this one has {digest}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, SafetensorError, RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        raise SettingsError(f"weights file = {path} is not possible: torch reads no tensors in it ({_why(error)})"
                            f"{_advice(path) if advise and isinstance(error, pickle.UnpicklingError) else ''}"
                            ) from error
    tensors = _unwrapped(found)
    good = isinstance(tensors, Mapping) and tensors and all(isinstance(v, torch.Tensor) for v in tensors.values())
    need(bool(good), "weights file", path, f"tensors by name, perhaps inside {', '.join(WRAPPERS)}")
    return tensors


def _why(error: Exception) -> str:
    """torch's reason for not reading a file, without its advice to read it nonetheless."""
    text = str(error)
    held = re.search(r"GLOBAL (\S+)", text)
    return f"it holds a {held[1]}" if held else re.split(r"\n|\. ", text)[0] or type(error).__name__


def _advice(path: Path) -> str:
    return (f"; if it is whole and you trust it, take the file OUT.pt that this writes: python -c \"import torch; "
            f"d = torch.load('{path}', 'cpu', weights_only=False); "
            f"torch.save(next((d[k] for k in {WRAPPERS} if k in d), d), 'OUT.pt')\"")


def _unwrapped(found):
    """The content of the innermost entry of `WRAPPERS`."""
    for entry in WRAPPERS:
        if isinstance(found, Mapping) and isinstance(found.get(entry), Mapping):
            return _unwrapped(found[entry])
    return found


def _our_name(name: str) -> str:
    for pattern, ours in OURS:
        name = re.sub(pattern, ours, name)
    return name


def check_tensors(path: Path, given: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> None:
    """Raise `SettingsError` for tensors (by our names) that are missing, unexpected or of another shape."""
    missing = [k for k in wanted if k not in given and not k.endswith(".num_batches_tracked")]
    unexpected = [k for k in given if k not in wanted]
    for names, how in ((missing, "with"), (unexpected, "without")):
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        need(not names, "weights file", path, f"one {how} the tensor {names[0] if names else ''}{more}")
    for name, tensor in given.items():
        shape, ours = tuple(tensor.shape), tuple(wanted[name].shape)
        need(shape == ours, "weights file", path, f"one with {name} of shape {ours}; here it is {shape}")
