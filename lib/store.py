"""A store for expensive results, addressed by key: networks, per-image outcomes, arrays, tables.

`results/store/<kind>/<key>/` holds the files of one entry and `meta.json` with their SHA-256. An entry is made in a
work folder, under a lock, and moved into place in one step, so it is complete or absent. If two processes want the same
entry, it is made once. A damaged entry is detected when it is read, moved to `damaged/`, logged and made again.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import tarfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lib.errors import SettingsError
from lib.files import sha256, write_atomic
from lib.runtime import results

log = logging.getLogger("lib.store")
META = "meta.json"


@dataclass(frozen=True)
class Entry:
    """One entry in the store: its folder and its metadata."""

    kind: str
    key: str
    path: Path
    meta: dict

    def tensors(self, name: str = "data") -> dict:
        """The named tensors of `<name>.safetensors`, on the CPU."""
        from safetensors.torch import load_file

        return load_file(self.path / f"{name}.safetensors")

    def table(self, name: str = "table"):
        """The DataFrame of `<name>.csv`."""
        import pandas as pd

        return pd.read_csv(self.path / f"{name}.csv")


class Store:
    """The store in a folder; None: the folder that REPRO_STORE names, or else `store` in the results."""

    def __init__(self, root: Path | str | None = None):
        self.root = Path(root or os.environ.get("REPRO_STORE") or results() / "store")

    def folder(self, kind: str, key: str) -> Path:
        """The folder of an entry, whether or not it exists."""
        return self.root / kind / key

    def workdir(self, kind: str, key: str) -> Path:
        """The folder in which an entry is being made; its files survive a kill, so that the work can be resumed."""
        return self.root / "making" / f"{kind}-{key}"

    def has(self, kind: str, key: str) -> bool:
        """Whether the entry is in the store (`load` also checks whether it is undamaged)."""
        return (self.folder(kind, key) / META).exists()

    def load(self, kind: str, key: str) -> Entry | None:
        """The entry if it is in the store and undamaged, else None; a damaged entry is set aside."""
        path = self.folder(kind, key)
        if not path.exists():
            return None
        try:
            meta = json.loads((path / META).read_text())
            bad = [name for name, digest in meta["files"].items() if sha256(path / name) != digest]
        except (OSError, ValueError, KeyError, TypeError) as error:
            bad = [f"{META} ({error})"]
        if not bad:
            return Entry(kind, key, path, meta)
        self.set_aside(kind, key, f"damaged ({', '.join(bad)})")
        return None

    def set_aside(self, kind: str, key: str, why: str) -> None:
        """Move an entry to `damaged/`, so that it will be made again, and log why."""
        aside = self.root / "damaged" / f"{kind}-{key}-{time.time_ns()}"
        aside.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(OSError):
            os.replace(self.folder(kind, key), aside)
        log.warning("%s %s is set aside as %s and will be made again: %s", kind, key, aside, why)

    def lock(self, kind: str, key: str):
        """The lock that is held while an entry is made; the system releases it when its holder dies."""
        from filelock import FileLock

        (self.root / "locks").mkdir(parents=True, exist_ok=True)
        return FileLock(str(self.root / "locks" / f"{kind}-{key}.lock"))

    def obtain(self, kind: str, key: str, make: Callable[[Path], dict | None]) -> Entry:
        """The entry, made if it is missing: `make(folder)` writes its files there and returns values for meta.json."""
        entry = self.load(kind, key)
        if entry is not None:
            return entry
        with self.lock(kind, key):
            entry = self.load(kind, key)  # another process may have made it while this one waited
            if entry is not None:
                return entry
            work = self.workdir(kind, key)
            work.mkdir(parents=True, exist_ok=True)
            started = time.time()
            meta = make(work) or {}
            for scratch in work.glob("checkpoint*"):
                scratch.unlink()
            files = {p.name: sha256(p) for p in sorted(work.iterdir()) if p.is_file() and not p.name.startswith(".")}
            meta = {
                **meta,
                "kind": kind,
                "key": key,
                "files": files,
                "made_seconds": time.time() - started,
                "made_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            }
            write_atomic(work / META, json.dumps(meta, indent=1))
            place = self.folder(kind, key)
            place.parent.mkdir(parents=True, exist_ok=True)
            os.replace(work, place)
            return Entry(kind, key, place, meta)

    def entries(self):
        """All entries in the store as (kind, key, bytes, meta), newest last."""
        found = []
        for path in self.root.glob(f"*/*/{META}"):
            kind, key = path.parts[-3:-1]
            if kind in ("making", "damaged"):
                continue
            with contextlib.suppress(OSError, ValueError):
                size = sum(p.stat().st_size for p in path.parent.iterdir())
                found.append((kind, key, size, json.loads(path.read_text())))
        return sorted(found, key=lambda e: e[3].get("made_at", ""))

    def prune(self, keep: set[tuple[str, str]]) -> int:
        """Delete every entry that is not in `keep` (kind, key), and all entries that were set aside; returns the bytes
        freed. Entries made only from kept networks (`network` or `networks` in their metadata), such as outcomes and
        maps, stay.
        """
        freed = 0
        for kind, key, size, meta in self.entries():
            made_from = meta.get("networks") or [meta.get("network")]
            derived = all(("network", one) in keep for one in made_from)
            if (kind, key) not in keep and not derived:
                shutil.rmtree(self.folder(kind, key))
                freed += size
        shutil.rmtree(self.root / "damaged", ignore_errors=True)
        return freed

    def export(self, archive: Path, kinds: tuple[str, ...] = ()) -> int:
        """Write all entries, or only those of these `kinds`, into one .tar file; returns how many."""
        chosen = [(k, key) for k, key, _, _ in self.entries() if not kinds or k in kinds]
        part = archive.with_name(archive.name + ".part")
        with tarfile.open(part, "w") as tar:
            for kind, key in chosen:
                tar.add(self.folder(kind, key), arcname=f"{kind}/{key}")
        os.replace(part, archive)
        return len(chosen)

    def import_(self, archive: Path) -> int:
        """Add the undamaged entries of an exported .tar file that are not in this store; returns how many. Raises
        SettingsError if the file does not exist.
        """
        if not Path(archive).exists():
            raise SettingsError(
                f"archive = {archive} is not possible: no such file; name a .tar that `store export` wrote"
            )
        taken, inbox = 0, self.root / "making" / f"import-{os.getpid()}"
        with tarfile.open(archive) as tar:
            tar.extractall(inbox, filter="data")
        other = Store(inbox)
        for kind, key, _, _ in other.entries():
            if self.load(kind, key) is None and other.load(kind, key) is not None:
                self.folder(kind, key).parent.mkdir(parents=True, exist_ok=True)
                os.replace(other.folder(kind, key), self.folder(kind, key))
                taken += 1
        shutil.rmtree(inbox)
        return taken
