"""Files: written whole or not at all, known by their SHA-256, found where a profile says that they lie."""

from __future__ import annotations

import functools
import hashlib
import os
from pathlib import Path

from lib.runtime import ROOT


def write_atomic(path: Path, data: str | bytes) -> None:
    """Write a file so that a reader sees the old content or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with open(part, "wb") as f:
        f.write(data.encode() if isinstance(data, str) else data)
        f.flush()
        os.fsync(f.fileno())
    os.replace(part, path)


def sha256(path: Path) -> str:
    """SHA-256 of a file in hexadecimal. Raises OSError where it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_once(path: Path) -> str:
    """The same for a file that is asked for again and again: computed anew only where its time or size has changed, so
    that it cannot tell damage.
    """
    state = path.stat()
    return _sha256(path, state.st_mtime_ns, state.st_size)


@functools.cache
def _sha256(path: Path, changed: int, size: int) -> str:
    return sha256(path)


def resolve_path(path: str) -> Path:
    """Where a file or folder that a profile names lies: a relative path is looked for in the folder that REPRO_DATA
    names, then in data/. The first of them where it is nowhere.
    """
    bases = [*filter(None, [os.environ.get("REPRO_DATA")]), ROOT / "data"]
    tried = [Path(base).expanduser() / Path(path).expanduser() for base in bases]
    return next((one for one in tried if one.exists()), tried[0])
