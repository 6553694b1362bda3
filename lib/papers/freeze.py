"""Freezing: before a published run, draw its seeds and test images, and write down the expected verdicts."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict, replace

from lib.errors import SettingsError, need
from lib.files import write_atomic
from lib.papers import settings
from lib.papers.plan import chosen
from lib.profiles import frozen
from lib.profiles.frozen import Frozen, FrozenClaim, FrozenPaper
from lib.profiles.loader import make, read
from lib.profiles.networks import Networks
from lib.runtime import ROOT, commit
from lib.values.keys import digest

SEEN = 1000  # seeds below this one served to choose settings
DRAWS = 10**6  # how many seeds, and how many draws of test images, there are


def freeze(profile: str, names: tuple[str, ...] = ()) -> Frozen:
    """Freeze papers (all of the profile if none is named) as the committed claims and settings are, and write that
    down; returns all that is frozen of the profile. The profile's first seed is drawn with its first papers and stays.

    Raises SettingsError, before anything is written, for a paper that is frozen already, a claim without an expected
    verdict, and files that differ from the commit.
    """
    tree = read(ROOT / "configs" / f"{profile}.yaml") if profile in settings.profiles() else {}
    old = frozen.load_frozen(profile)
    unseeded = {} if old or tree.get("first_seed") != frozen.FROZEN else {"first_seed": 0}
    now = settings.load(profile, unseeded)
    papers = chosen(now, names)
    at = commit()
    need(not at.endswith("+changes") and at != "unknown", "commit", at,
         "one that holds all changes: commit claims, settings and code, then freeze them")
    if old is None:
        pool = digest(make(Networks, tree["networks"], "networks"))  # before this machine's precision is filled in
        old = Frozen(_number("first seed", profile, pool) + SEEN, pool, ())
    new = tuple(_paper(now, name, at) for name in papers)
    found = replace(old, papers=old.papers + new)
    write_atomic(frozen.place(profile), json.dumps(asdict(found), indent=1) + "\n")
    return found


def _paper(now: settings.Settings, name: str, at: str) -> FrozenPaper:
    from lib import claims

    if before := now.frozen_paper(name):
        raise SettingsError(f"notebook = {name} is not possible: it must not be frozen yet, and it was for profile "
                            f"{now.profile} on {before.frozen} (a later change of a claim is marked in its verdict)")
    every = claims.load(name, now.profile).claims
    missing = [claim.id for claim in every if claim.expected_at(now.profile) is None]
    need(not missing, f"expected of {name}", f"nothing for {', '.join(missing)}",
         f"a verdict of each claim at profile {now.profile}, as in `expected: {{{now.profile}: supported}}`")
    values = digest([now.profile, every, now.sections[name]])
    return FrozenPaper(name, time.strftime("%Y-%m-%d", time.gmtime()), at, values,
                       _number("test images", now.profile, values) + 1,
                       tuple(FrozenClaim(claim.id, digest(claim), claim.expected_at(now.profile)) for claim in every))


def _number(what: str, profile: str, values: str) -> int:
    """A number from 0 to DRAWS - 1 that a hash chooses."""
    return int(hashlib.sha256(f"{what} {profile} {values}".encode()).hexdigest(), 16) % DRAWS
