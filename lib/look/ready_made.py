"""Ready-made references: the networks of a profile that lenses need, and what lenses found of them, in one archive in
the repository, so that a look starts without training. Nothing in it is executed: weights are safetensors, the rest is
JSON and CSV.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from lib.errors import impossible, need
from lib.lenses.alignment import denoisers
from lib.lenses.lens import Lens, Pool
from lib.look.report import blank
from lib.runtime import ROOT
from lib.store import Store, contents

FOLDER = ROOT / "data" / "ready_made"
MOST = 9_000_000  # bytes of an archive
REMEDY = "`git checkout` brings it back, and --make trains networks instead"


def place(profile: str) -> Path:
    """The archive of a profile, which need not exist."""
    return FOLDER / f"{profile}.tar"


def take(profile: str, store: Store) -> None:
    """Bring what the profile's archive holds into the store, where it is missing. Raises SettingsError for a damaged
    archive.
    """
    archive = place(profile)
    if not archive.is_file() or all(store.has(*one) for one in contents(archive, REMEDY)):
        return
    store.import_(archive)
    lost = [f"{kind} {key}" for kind, key in contents(archive, REMEDY) if not store.has(kind, key)]
    if lost:
        raise impossible("archive", archive, f"whole ({', '.join(lost)} is damaged): {REMEDY}")


def forget(profile: str, store: Store) -> None:
    """Set aside what the store has from the profile's archive, so that it is made here."""
    archive = place(profile)
    for (kind, key), meta in (contents(archive, REMEDY) if archive.is_file() else {}).items():
        entry = store.load(kind, key)
        if entry is not None and entry.meta == meta:
            store.set_aside(kind, key, "it was ready-made")


def export(archive: Path, pool: Pool, lenses: Iterable[Lens], count: int) -> int:
    """Write references and denoisers of a pool from its store into an archive, with what these lenses found of the
    references on so many test images, as far as the store has it; returns the number of entries. Raises SettingsError
    if the store lacks a network, and for an archive that would be larger than MOST.
    """
    store, recipes = pool.zoo.store, [*pool.recipes.values(), *denoisers(pool)]
    lacking = [recipe.describe() for recipe in recipes if not store.has("network", recipe.key)]
    need(not lacking, "ready-made networks", "; ".join(lacking), "in the store: a look trains them")
    chosen = [("network", recipe.key) for recipe in recipes]
    for lens in lenses:
        chosen += pool.of_references(lens, blank(pool, count))
    size = sum(path.stat().st_size for one in chosen for path in store.folder(*one).iterdir())
    need(size <= MOST, "size of the archive", f"{size / 1e6:.1f} MB", f"at most {MOST / 1e6:.0f} MB")
    return store.export(archive, chosen)
