"""Files: writing them whole or not at all, their SHA-256, and the paths that profiles name."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import io
import json
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from lib.errors import OneLineError
from lib.runtime import ROOT

log = logging.getLogger("lib.files")
PARTS = ".*.part"  # the temporary files of `whole`, which stay where a process was killed while it wrote
_RIGHTS, _ROOM = "give this user the right to it, or name another place", "make room there"
ADVICE = {errno.EACCES: _RIGHTS, errno.EPERM: _RIGHTS, errno.EROFS: _RIGHTS, errno.ENOSPC: _ROOM, errno.EDQUOT: _ROOM,
          errno.EMFILE: "raise the limit that `ulimit -n` shows", errno.ENOENT: "name one that exists",
          errno.ENOTDIR: "name a folder", errno.EISDIR: "name a file"}


def is_file_name(name) -> bool:
    """Whether a value is a safe name of a file or folder, which cannot lead to another folder: letters, digits, spaces
    and `-._+`, not starting with a point.
    """
    return type(name) is str and name[:1] not in ("", ".") and all(c.isalnum() or c in " -._+" for c in name)


class FileError(OneLineError, OSError):
    """A file cannot be read or written for a reason that may pass, such as missing rights, a full disk or too many open
    files. It does not mean that the file is damaged.
    """


def sentence(what: str, error: OSError) -> str:
    """One sentence: what failed, why, with which file, and what to do about it."""
    why = (error.strerror or " ".join(str(error).split())) + (f" ({error.filename})" if error.filename else "")
    return f"{what}: {why}; {ADVICE.get(error.errno, 'fix that')} and try again"


@contextlib.contextmanager
def named(what: str) -> Iterator[None]:
    """An OSError inside becomes a FileError that says what failed."""
    try:
        yield
    except FileError:
        raise
    except OSError as error:
        raise FileError(sentence(what, error)) from error


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary file to write to, which replaces `path` at the end: a reader sees the old content or the new, never a
    part, and a failure leaves nothing behind. Raises FileError if it cannot be written.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")  # as in PARTS
    with named(f"{path} cannot be written"):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield part
            os.replace(part, path)
        except BaseException:
            with contextlib.suppress(OSError):
                part.unlink()
            raise


def write_atomic(path: Path, data: str | bytes) -> None:
    """Write a file by `whole`, with text as UTF-8. Raises FileError if it cannot be written."""
    with whole(path) as part, open(part, "wb") as f:
        f.write(data.encode() if isinstance(data, str) else data)
        f.flush()
        os.fsync(f.fileno())


def append(path: Path, text: str) -> None:
    """Add text to the end of a file in one piece, also when several processes do. Raises FileError if it cannot be
    written.
    """
    with named(f"{path} cannot be written"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab", buffering=0) as f:
            f.write(text.encode())


def read_json(path: Path):
    """The plain data of a JSON file. Raises FileError if it cannot be read, OneLineError if it is not JSON."""
    with named(f"{path} cannot be read"):
        content = path.read_bytes()
    try:
        return json.loads(content)
    except ValueError as error:  # also for broken UTF-8
        raise OneLineError(f"{path} is damaged: it is not JSON ({error}); run again what wrote it") from None


def save_tensors(path: Path, tensors: dict) -> None:
    """Write named tensors as safetensors, by `whole`. Raises FileError if they cannot be written."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with whole(path) as part:
        try:
            save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, part)
        except SafetensorError as error:  # for an OSError
            raise FileError(f"{path} cannot be written: {error}; {_ROOM} and try again") from error


def save_state(path: Path, state) -> None:
    """Write the state from which a killed job resumes (plain values and tensors), by `whole`, after its SHA-256."""
    import torch

    data = io.BytesIO()
    torch.save(state, data)
    write_atomic(path, hashlib.sha256(data.getvalue()).digest() + data.getvalue())


def load_state(path: Path, take: Callable, device="cpu") -> bool:
    """Pass what `save_state` wrote to `take`; return whether there was a state to resume from. A damaged file, or one
    whose content `take` refuses with any other error than FileError, is set aside as `<name>.damaged` and logged.
    Raises FileError if the file exists but cannot be read.
    """
    import torch

    with named(f"{path} cannot be read"):
        if not path.exists():
            return False
        content = path.read_bytes()
    try:
        head = hashlib.sha256().digest_size
        if content[:head] != hashlib.sha256(content[head:]).digest():  # torch reads changed tensors without an error
            raise ValueError("its SHA-256 is not the one that was written with it")
        take(torch.load(io.BytesIO(content[head:]), map_location=device, weights_only=True))
    except (MemoryError, torch.OutOfMemoryError, FileError):
        raise
    except Exception as error:  # a torn file or another layout may raise anything
        aside = path.with_name(f"{path.name}.damaged")
        why = (str(error).splitlines() or [""])[0]
        log.warning("%s cannot be read (%s: %s): it is set aside as %s and its work starts over",
                    path, type(error).__name__, why, aside.name)
        with named(f"{path} cannot be set aside"):
            os.replace(path, aside)
        return False
    return True


def sha256(path: Path) -> str:
    """SHA-256 of a file in hexadecimal. Raises OSError if it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_once(path: Path) -> str:
    """SHA-256 of a file that is needed often: computed again only if the time or size of the file has changed, so it
    does not detect damage.
    """
    state = path.stat()
    return _sha256(path, state.st_mtime_ns, state.st_size)


@functools.cache
def _sha256(path: Path, changed: int, size: int) -> str:
    return sha256(path)


def resolve_path(path: str) -> Path:
    """The path of a file or folder that a profile names: a relative path is looked for in the folder REPRO_DATA, then
    in data/. If it exists in neither, the first of the two is returned.
    """
    bases = [*filter(None, [os.environ.get("REPRO_DATA")]), ROOT / "data"]
    tried = [Path(base).expanduser() / Path(path).expanduser() for base in bases]
    return next((one for one in tried if one.exists()), tried[0])
