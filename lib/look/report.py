"""What a look is asked for, with its price, and what it gives."""

from __future__ import annotations

import functools
import time
import traceback
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd
import torch

from lib import dry_run
from lib.attacks.pgd import input_gradient
from lib.data import ImageSet
from lib.errors import OneLineError
from lib.lenses.accuracy import BATCH
from lib.lenses.lens import Lens, Pool
from lib.lenses.subject import Subject
from lib.models import forward_flops
from lib.models.fold import prepared
from lib.models.staged import device_of
from lib.papers.plan import Task
from lib.prices import missing, seconds_of
from lib.runtime import duration
from lib.store import Store
from lib.training import price as costs
from lib.training.zoo import Zoo
from lib.values.recipe import Recipe


@dataclass(frozen=True, eq=False)
class Seen:
    """What a lens found about a subject. rows: as `Lens.measure` gives them."""

    lens: Lens
    subject: Subject
    rows: pd.DataFrame
    sentence: str


@dataclass(frozen=True)
class Failure:
    """A lens that could not measure a subject. trace: the traceback; "" for errors that the user can fix."""

    lens: Lens
    subject: str
    sentence: str
    trace: str = ""

    @classmethod
    def of(cls, lens: Lens, subject: str, error: Exception) -> Failure:
        if isinstance(error, OneLineError):
            return cls(lens, subject, str(error))
        said = str(error).strip().split("\n")[0]
        return cls(lens, subject, f"{type(error).__name__}: {said}" if said else type(error).__name__,
                   "".join(traceback.format_exception(error)))


@dataclass(frozen=True, eq=False)
class Asked:
    """What is to be done, checked. `look` has the parameters. work: which lens looks at which subject, in order. left:
    a sentence for each lens that a subject cannot have. profile: "" if the pool was given. count: of images. folder:
    for the results. make: whether ready-made references are trained anew.
    """

    subjects: tuple[Subject, ...]
    work: tuple[tuple[Lens, Subject], ...]
    left: tuple[str, ...]
    pool: Pool
    profile: str
    count: int
    folder: Path
    make: bool = False

    @property
    def lenses(self) -> list[Lens]:
        return list(dict.fromkeys(lens for lens, _ in self.work))

    @property
    def recipes(self) -> dict[str, Recipe]:
        """The networks that subjects are compared with, by name: references, and what lenses take besides."""
        besides = {name: one for lens in self.lenses for name, one in lens.recipes(self.pool).items()}
        return self.pool.recipes | besides

    def price(self) -> list[str]:
        """Lines: what each part takes on this machine if nothing of it is stored, the sum, and how it was priced."""
        pool, images = self.pool, blank(self.pool, self.count)
        if self.make:
            pool = replace(pool, zoo=Zoo(Store(pool.zoo.store.root / "nothing"), pool.zoo.device))
        store = pool.zoo.store
        tasks = [Task(recipe, (), "look") for recipe in self.recipes.values()]
        work = list(missing(tasks, store))
        prices = costs.Prices(store, pool.zoo.device, 1)
        seconds = seconds_of(work, prices)
        lines, total = dry_run.kinds(work, seconds, range(len(work)), len(work)), sum(seconds.values())
        speed = functools.cache(rate)
        for lens, subject in self.work:
            took = lens.price(subject, pool, images) / speed(subject, lens.precision(pool))
            others = " and its twin" if pool.measured(lens, images) else ", its twin and the references"
            lines.append(dry_run.line(took, f"{lens.name} of {subject.name}{others}"))
            total += took
        where = f"profile {self.profile}, " if self.profile else ""
        names = " and ".join(subject.name for subject in self.subjects)
        used = dict.fromkeys((subject, lens.precision(pool)) for lens, subject in self.work)
        speeds = " and ".join(f"{speed(*one) / 1e9:.2g} ({one[1]})" for one in used)
        count = torch.get_num_threads()
        found = [f"{names} next to {len(pool.recipes)} references: {where}{self.count} test images of {pool.data.name}",
                 *lines,
                 f"about {duration(total)} on {pool.zoo.device} if the store has no measurement of {names}; by FLOPs "
                 f"at {speeds} GFLOP/s, measured now with {count} thread{'s' * (count > 1)}"]
        if work:
            found += [dry_run.basis(prices, prices.threads), *dry_run.needs(tasks, {}, store, None, pool.zoo.device)]
        return [*found, *self.left]

    @functools.cached_property
    def images(self) -> ImageSet:
        return self.pool.zoo.images(self.pool.data, "test").take(slice(0, self.count))


@dataclass(eq=False)
class Report:
    """What was found. notes: {subject's name: sentences of doubt}. seconds: {lens: (in this call, of its measurements
    when they were made)}. command: what makes it again. figures: the files that were written.
    """

    asked: Asked
    command: str
    seen: list[Seen] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    notes: dict[str, list[str]] = field(default_factory=dict)
    seconds: dict[str, tuple[float, float]] = field(default_factory=dict)
    figures: list[Path] = field(default_factory=list)

    @property
    def rows(self) -> pd.DataFrame:
        """The rows of all lenses, with the subject for which each was found in the first column."""
        parts = [one.rows.assign(subject=one.subject.name) for one in self.seen]
        found = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame({"subject": []})
        return found[["subject", *(name for name in found if name != "subject")]]

    @property
    def page(self) -> Path:
        return self.asked.folder / "report.html"

    def sentences(self) -> list[str]:
        return [one.sentence for one in self.seen]

    def show(self) -> None:
        """Show the sentences and the figures in a notebook."""
        from IPython.display import Image, Markdown, display

        display(Markdown("\n".join(f"* {sentence}" for sentence in self.sentences())))
        for file in self.figures:
            display(Image(file, width=560))


def blank(pool: Pool, count: int) -> ImageSet:
    """So many test images of a pool without their content, to price what is measured on them."""
    shape = pool.data.shape
    return ImageSet(torch.zeros(1, *shape, dtype=torch.uint8).expand(count, *shape),
                    torch.zeros(count, dtype=torch.long), torch.arange(count), pool.data.name, "test")


def rate(subject: Subject, precision: str, seconds: float = 0.3) -> float:
    """FLOP/s of forward and backward passes of a batch of images through a subject, as an attack makes them, measured
    for some tenths of a second.
    """
    where = device_of(subject.net)
    batch = max(1, min(BATCH, int(5e10 / forward_flops(subject.net, subject.data.shape))))
    x = torch.full((batch, *subject.data.shape), 0.5, device=where).contiguous(memory_format=torch.channels_last)
    net = prepared(subject.net, x)

    def step():
        input_gradient(net, x, lambda logits: logits.sum(1), precision)
        if where.type == "cuda":
            torch.cuda.synchronize()

    step()
    done, started = 0, time.monotonic()
    while not done or time.monotonic() - started < seconds:
        step()
        done += 1
    return 2 * forward_flops(subject.net, subject.data.shape) * batch * done / (time.monotonic() - started)
