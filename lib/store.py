"""A store for expensive results, addressed by key: networks, per-image outcomes, arrays, tables.

`results/store/<kind>/<key>/` holds the files of one entry and `meta.json` with their SHA-256. An entry is made in a
work folder, under a lock, and moved into place in one step, so it is complete or absent. If two processes want the same
entry, it is made once. A damaged entry is detected when it is read, moved to `damaged/`, logged and made again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lib.errors import impossible, need
from lib.files import PARTS, FileError, named, sha256, whole, write_atomic
from lib.runtime import duration, results

log = logging.getLogger("lib.store")
META = "meta.json"
OWN = "sha256_of_the_rest"  # the field of meta.json that tells whether the others have changed
FAILED = "diverged"  # the kind of notes on networks that cannot be made, named after the first reason that was known
APART = ("making", "damaged", "locks")  # folders of the store that hold no finished entries


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
    """The store in the folder `root`; None: the folder REPRO_STORE or, without one, `store` in the results."""

    def __init__(self, root: Path | str | None = None):
        self.root = Path(root or os.environ.get("REPRO_STORE") or results() / "store")
        self.used: dict[tuple[str, str], dict] = {}  # (kind, key) -> meta.json of what `obtain` gave
        self._inside = [0.0]  # seconds of making entries within those that are being made now, the innermost last
        need(self.root.is_dir() or not self.root.exists(), "store", self.root, "a folder; REPRO_STORE names another")

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
        """The entry, or None if it is absent or damaged. Nothing is changed, so that a store can be read without the
        right to write to it.
        """
        meta, damage = _look(self.folder(kind, key))
        if damage:
            log.warning("%s %s is damaged (%s): it is made again when it is needed", kind, key, damage)
        return None if damage or meta is None else Entry(kind, key, self.folder(kind, key), meta)

    def set_aside(self, kind: str, key: str, why: str) -> None:
        """Move an entry to `damaged/`, so that it will be made again, and log why."""
        aside = self.root / "damaged" / f"{kind}-{key}-{time.time_ns()}"
        with named(f"{kind} {key} cannot be set aside"):
            aside.parent.mkdir(parents=True, exist_ok=True)
            os.replace(self.folder(kind, key), aside)
        log.warning("%s %s is set aside as %s and will be made again: %s", kind, key, aside, why)

    def _settled(self, kind: str, key: str) -> Entry | None:
        """To be called under the lock: the entry if it is whole; else None, after which its place is free."""
        meta, damage = _look(self.folder(kind, key))
        if damage:
            self.set_aside(kind, key, f"damaged ({damage})")
        return None if damage or meta is None else Entry(kind, key, self.folder(kind, key), meta)

    @contextlib.contextmanager
    def lock(self, kind: str, key: str, timeout: float = -1):
        """Hold the lock under which an entry is made; the system frees it when its holder dies. Raises
        filelock.Timeout if another process holds it for longer than `timeout` seconds (-1: wait without limit).
        """
        from filelock import FileLock, Timeout

        path = self.root / "locks" / f"{kind}-{key}.lock"
        lock = FileLock(str(path))
        with named(f"{kind} {key} cannot be made"):
            path.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(Timeout):  # a subclass of OSError
                lock.acquire(timeout=timeout)
        if not lock.is_locked:
            raise Timeout(str(path))
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                path.unlink()  # a process that waits for the deleted file then locks a new one
            lock.release()

    def _free_locks(self) -> None:
        """Delete the lock files of finished entries, which processes left that were killed at the end of their work."""
        from filelock import Timeout

        for path in (self.root / "locks").glob("*.lock"):
            kind, _, key = path.stem.partition("-")
            if self.has(kind, key):
                with contextlib.suppress(Timeout, FileError), self.lock(kind, key, timeout=0):
                    pass

    def obtain(self, kind: str, key: str, make: Callable[[Path], dict | None]) -> Entry:
        """The entry, made if it is missing: `make(folder)` writes its files there and returns values for meta.json,
        where `made_seconds` are its own, without those of other entries that `make` obtains. Raises FileError if the
        store cannot be read or written.
        """
        entry = self._obtained(kind, key, make)
        self.used[kind, key] = entry.meta
        return entry

    def _obtained(self, kind: str, key: str, make: Callable[[Path], dict | None]) -> Entry:
        entry = self.load(kind, key)
        if entry is not None:
            return entry
        with self.lock(kind, key), named(f"{kind} {key} cannot be made"):
            entry = self._settled(kind, key)  # another process may have made it while this one waited
            if entry is not None:
                return entry
            work = self.workdir(kind, key)
            work.mkdir(parents=True, exist_ok=True)
            meta, seconds = self._timed(make, work)
            for scratch in (*work.glob("checkpoint*"), *work.glob(PARTS)):  # parts of files of a killed process
                scratch.unlink()
            files = {p.name: sha256(p) for p in sorted(work.iterdir()) if p.is_file() and not p.name.startswith(".")}
            meta = {
                **meta,
                "kind": kind,
                "key": key,
                "files": files,
                "made_seconds": seconds,
                "made_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            }
            write_atomic(work / META, json.dumps({**meta, OWN: _digest(meta)}, indent=1))
            place = self.folder(kind, key)
            place.parent.mkdir(parents=True, exist_ok=True)
            os.replace(work, place)
            return Entry(kind, key, place, meta)

    def _timed(self, make: Callable[[Path], dict | None], work: Path) -> tuple[dict, float]:
        """What `make` returns, and its seconds without those of entries that it makes."""
        started = time.time()
        self._inside.append(0.0)
        try:
            meta = make(work) or {}
        finally:
            took, inside = time.time() - started, self._inside.pop()
            self._inside[-1] += took
        return meta, took - inside

    def listing(self, every: bool) -> list[str]:
        """Lines for people: the sums over all entries, then those of each kind, the largest first; every: and each
        entry. Raises FileError if the store cannot be read.
        """
        entries = sorted(self.entries(), key=lambda entry: -entry[2])
        kinds: dict[str, list] = {}
        for entry in entries:
            kinds.setdefault(entry[0], []).append(entry)

        def sums(name: str, some: list) -> str:
            size, took = sum(one[2] for one in some), sum(meta.get("made_seconds", 0) for *_, meta in some)
            return f"{name:12} {len(some):6} entries {size / 1e6:9.1f} MB  made in {duration(took)}"

        ordered = sorted(kinds.items(), key=lambda pair: -sum(one[2] for one in pair[1]))
        lines = [str(self.root), sums("all", entries), *[sums(kind, some) for kind, some in ordered]]
        if every:
            return lines + [f"{kind:12} {key} {size / 1e6:8.2f} MB {meta.get('made_seconds', 0):7.1f} s  "
                            f"{meta.get('what', '')}" for kind, key, size, meta in entries]
        return lines + ["store show --all lists every entry, the largest first"] * bool(entries)

    def entries(self):
        """All entries in the store as (kind, key, bytes, meta), newest last. Raises FileError if it cannot be read."""
        found = []
        with named(f"the store {self.root} cannot be read"):
            for kind, key, path in self._places():
                if meta := _meta(path):
                    found.append((kind, key, sum(p.stat().st_size for p in path.iterdir()), meta))
        return sorted(found, key=lambda entry: entry[3].get("made_at", ""))

    def _places(self):
        for folder in sorted(self.root.iterdir()) if self.root.is_dir() else ():
            if folder.name not in APART and folder.is_dir():  # iterdir, because glob skips folders without read rights
                yield from ((folder.name, path.name, path) for path in folder.iterdir() if (path / META).exists())

    def set_damaged_aside(self, networks: set[str]) -> set[tuple[str, str]]:
        """Set aside every damaged entry that is one of these networks or was made from one, and every entry whose
        meta.json is damaged; returns what has to be made again, as (kind, key), including the networks concerned.
        """
        self._free_locks()
        found = set()
        for kind, key, path in self._places():
            meta = _meta(path)
            about = networks & set(_networks(kind, key, meta)) if meta else set()
            if (about or not meta) and _look(path)[1]:
                with self.lock(kind, key):
                    self._settled(kind, key)
                found |= {(kind, key), *(("network", one) for one in about)}
        return found

    def prune(self, keep: set[tuple[str, str]]) -> int:
        """Delete every entry that is not in `keep` (kind, key), and all entries that were set aside, except whole ones,
        which are put back if their place is free; returns the bytes freed. Entries made only from kept networks
        (`network` or `networks` in their metadata), such as outcomes and maps, stay.
        """
        freed = 0
        aside = self.root / "damaged"
        for path in aside.iterdir() if aside.is_dir() else ():
            meta, damage = _look(path)
            if meta and not damage and not self.has(meta["kind"], meta["key"]):
                place = self.folder(meta["kind"], meta["key"])
                with named(f"{path} cannot be put back"):
                    place.parent.mkdir(exist_ok=True)
                    os.replace(path, place)
            else:
                freed += _remove(path)
        for kind, key, _, meta in self.entries():
            if (kind, key) not in keep and not all(("network", one) in keep for one in _networks(kind, key, meta)):
                freed += _remove(self.folder(kind, key))
        return freed

    def export(self, archive: Path, chosen: Sequence[tuple[str, str]] | None = None) -> int:
        """Write entries, (kind, key) each, into one .tar file (None: all); returns their number."""
        need(archive.parent.is_dir() and not archive.is_dir(), "archive", archive, "a file in a folder that exists")
        chosen = [(kind, key) for kind, key, _, _ in self.entries()] if chosen is None else chosen
        with whole(archive) as part, tarfile.open(part, "w") as tar:
            for kind, key in chosen:
                tar.add(self.folder(kind, key), arcname=f"{kind}/{key}")
        return len(chosen)

    def import_(self, archive: Path) -> int:
        """Import the whole entries of an exported .tar file that are missing here; returns their number. Raises
        SettingsError for any other file.
        """
        from filelock import Timeout

        need(archive.is_file(), "archive", archive, "a .tar that `store export` wrote; there is no such file")
        taken, making = 0, self.root / "making"
        with named(f"{archive} cannot be imported"):
            making.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix="import-", dir=making) as inbox:
                other = Store(inbox)
                try:
                    with tarfile.open(archive, "r:") as tar:
                        tar.extractall(inbox, filter="data")
                except tarfile.TarError as error:
                    raise impossible("archive", archive, f"a whole .tar that `store export` wrote ({error})") from None
                need(bool(found := other.entries()), "archive", archive, "a .tar with entries of a store")
                for kind, key, _, _ in found:
                    # an entry that is being made here at this moment need not be imported
                    with contextlib.suppress(Timeout), self.lock(kind, key, timeout=0):
                        if self._settled(kind, key) is None and other.load(kind, key) is not None:
                            self.folder(kind, key).parent.mkdir(parents=True, exist_ok=True)
                            os.replace(other.folder(kind, key), self.folder(kind, key))
                            taken += 1
        return taken


def contents(archive: Path, remedy: str) -> dict[tuple[str, str], dict]:
    """{(kind, key): meta.json} of an exported .tar file. Raises SettingsError, which ends with `remedy`, if it is
    damaged.
    """
    found = {}
    try:
        with named(f"{archive} cannot be read"), tarfile.open(archive, "r:") as tar:
            for member in tar:
                kind, key, name = (*Path(member.name).parts, "", "", "")[:3]
                if name == META:
                    found[kind, key] = json.loads(tar.extractfile(member).read())
                    found[kind, key].pop(OWN, None)
    except (tarfile.TarError, ValueError, AttributeError) as error:
        raise impossible("archive", archive, f"a whole .tar that `store export` wrote ({error}): {remedy}") from None
    need(bool(found), "archive", archive, f"a .tar with entries of a store: {remedy}")
    return found


def _look(path: Path) -> tuple[dict | None, str]:
    """The content of meta.json in an entry's folder (None: absent or damaged) and what is damaged ("": nothing). Raises
    FileError if the entry cannot be read.
    """
    with named(f"the entry {path} cannot be read"):
        try:
            if not path.exists():
                return None, ""
            meta = _read(path)
            return meta, ", ".join(name for name, digest in meta["files"].items() if sha256(path / name) != digest)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError, KeyError, TypeError,
                AttributeError) as error:
            return None, f"{META} ({error})" if path.exists() else ""  # it may have been moved meanwhile


def _meta(path: Path) -> dict | None:
    """The content of meta.json in an entry's folder; None if it is absent or damaged."""
    try:
        return _read(path)
    except (FileNotFoundError, NotADirectoryError, ValueError, AttributeError):
        return None


def _read(path: Path) -> dict:
    """The content of meta.json in an entry's folder. Raises ValueError or AttributeError if it is damaged."""
    meta = json.loads((path / META).read_bytes())
    if meta.pop(OWN, None) not in (None, _digest(meta)):  # entries of earlier versions have none
        raise ValueError("its SHA-256 is not the one that was written with it")
    return meta


def _digest(meta: dict) -> str:
    return hashlib.sha256(json.dumps(meta).encode()).hexdigest()


def _networks(kind: str, key: str, meta: dict) -> list[str | None]:
    """The keys of the networks that an entry is or was made from; [None] if none are recorded."""
    return [key] if kind == "network" else meta.get("networks") or [meta.get("network")]


def _remove(path: Path) -> int:
    """Delete a file or folder; returns its bytes."""
    with named(f"{path} cannot be deleted"):
        size = sum(p.stat().st_size for p in [path, *path.rglob("*")])
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return size
