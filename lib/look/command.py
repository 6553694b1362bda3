"""The command `look`: its arguments as the call of a function."""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Iterator
from pathlib import Path

from lib.errors import SettingsError, need
from lib.lenses import sources
from lib.lenses.subject import INSIDE, NORMALISERS
from lib.look.work import check, chosen, look
from lib.papers import settings as profiles
from lib.runtime import cores, device, set_threads, without_gpu
from lib.values.data import Data

CALLED_FROM = "REPRO_CALLED_FROM"  # run_all.sh works in the project's folder; paths are relative to the caller's
ALLOWED = (f'"{INSIDE}" (the network takes pixels in [0, 1]), one of {", ".join(NORMALISERS)}, or MEAN/STD such as '
           "0.5/0.5 or 0.49,0.48,0.45/0.25,0.24,0.26")


def run(args) -> int:
    """Look at the networks that the command line names. Returns 0, or 1 if a lens failed."""
    settings = profiles.load(args.profile)
    data = data_of(args.data, args.profile, settings.networks.data)
    lenses = None if args.lens is None else chosen([name.strip() for name in args.lens.split(",")], settings)
    count = len(args.sources)
    normalisers = [normaliser(text) for text in one_each("--normaliser", args.normaliser, count, shared=True)]
    weights, names = one_each("--weights", args.weights, count), one_each("--name", args.name, count)
    if (warning := without_gpu(args.profile, settings.device)) and not (args.yes or args.dry_run):
        raise SettingsError(f"{warning}: add --yes if you want that, or --dry-run for the price")
    set_threads(int(os.environ.get("REPRO_THREADS") or cores()))
    with where_called():
        subjects = [sources.load(source, data=data, normaliser=how, weights=Path(file) if file else None, name=name,
                                 device=device(settings.device))
                    for source, how, file, name in zip(args.sources, normalisers, weights, names, strict=True)]
    asked = {"lenses": lenses, "profile": args.profile, "images": args.images, "make": args.make}
    if args.dry_run:
        print("\n".join([*check(*subjects, **asked).price(), "nothing was run"]))
        return 0
    return int(bool(look(*subjects, **asked, command=command(args)).failures))


def data_of(name: str | None, profile: str, data: Data) -> Data:
    """The data of a profile's references; raises SettingsError for the name of another set."""
    if name not in (None, data.name):
        others = [other for other in profiles.profiles() if profiles.load(other).networks.data.name == name]
        there = f"; {', '.join(others)} {'have' if len(others) > 1 else 'has'} references of {name}" if others else ""
        need(False, "--data", name, f"{data.name}, the data of the references of profile {profile}{there}")
    return data


def normaliser(text: str) -> str | tuple[list[float], list[float]] | None:
    """What `Subject.wrap` takes, from a command line. Raises SettingsError for anything else."""
    if text is None or text in (INSIDE, *NORMALISERS):
        return text
    try:
        mean, std = ([float(number) for number in part.split(",")] for part in text.split("/"))
    except ValueError:
        need(False, "--normaliser", text, ALLOWED)
    return mean, std


def one_each(option: str, given: list[str] | None, count: int, shared: bool = False) -> list[str | None]:
    """The values of an option for so many sources. shared: whether a single one stands for all."""
    if not given:
        return [None] * count
    need(len(given) == count or shared and len(given) == 1, option, f"given {len(given)} times",
         f"given once for each of the {count} sources" + (", or once for all" if shared else ""))
    return given * count if len(given) < count else given


@contextlib.contextmanager
def where_called() -> Iterator[None]:
    """Inside the block, relative paths are relative to the folder from which run_all.sh was called."""
    here = Path.cwd()
    os.chdir(os.environ.get(CALLED_FROM) or here)
    try:
        yield
    finally:
        os.chdir(here)


def command(args) -> str:
    """The command that makes a report again."""
    words = ["./run_all.sh", "look", *args.sources, "--profile", args.profile]
    for option in ("normaliser", "weights", "name"):
        words += [word for value in getattr(args, option) or () for word in (f"--{option}", value)]
    for option in ("data", "lens", "images"):
        if (value := getattr(args, option)) is not None:
            words += [f"--{option}", str(value)]
    return shlex.join([*words, *["--make"] * args.make])
