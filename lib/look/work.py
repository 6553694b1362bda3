"""Look at networks: check what is asked, tell its price, measure lens by lens, and write the report."""

from __future__ import annotations

import functools
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import torch

from lib import dry_run
from lib.data import ImageSet
from lib.errors import OneLineError, SettingsError, is_int, need, unknown
from lib.files import is_file_name
from lib.lenses.accuracy import BATCH, Accuracy
from lib.lenses.alignment import Alignment, denoisers
from lib.lenses.lens import SUBJECT, Lens, Pool
from lib.lenses.manifold import Manifold
from lib.lenses.similarity import Similarity
from lib.lenses.subject import Subject
from lib.look.views import view_of
from lib.models import forward_flops
from lib.models.staged import device_of
from lib.papers import settings as profiles
from lib.papers.plan import Task
from lib.prices import missing, seconds_of
from lib.runtime import device, duration, results
from lib.store import Store
from lib.training import price as costs
from lib.training.zoo import Zoo
from lib.values.recipe import Recipe

ALL: tuple[Lens, ...] = (Accuracy(), Similarity(), Alignment(), Manifold())  # in the order of the page
LEAST = 40  # images: with fewer, bounds say nothing, and minibatches of the similarity are too small
ONE_CLASS = 0.9  # the share of images with one answer from which on a network hardly looks at them


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
    for the results.
    """

    subjects: tuple[Subject, ...]
    work: tuple[tuple[Lens, Subject], ...]
    left: tuple[str, ...]
    pool: Pool
    profile: str
    count: int
    folder: Path

    @property
    def lenses(self) -> list[Lens]:
        return list(dict.fromkeys(lens for lens, _ in self.work))

    @property
    def recipes(self) -> dict[str, Recipe]:
        """The networks that subjects are compared with, by name: references, and denoisers for the alignment."""
        teachers = denoisers(self.pool) if any(isinstance(lens, Alignment) for lens in self.lenses) else []
        return self.pool.recipes | {f"denoiser {n}": recipe for n, recipe in enumerate(teachers)}

    def price(self) -> list[str]:
        """Lines: what each part takes on this machine if nothing of it is stored, the sum, and how it was priced."""
        pool, store = self.pool, self.pool.zoo.store
        data = pool.data
        blank = ImageSet(torch.zeros(1, *data.shape, dtype=torch.uint8).expand(self.count, *data.shape),
                         torch.zeros(self.count, dtype=torch.long), torch.arange(self.count), data.name, "test")
        tasks = [Task(recipe, (), "look") for recipe in self.recipes.values()]
        work = list(missing(tasks, store))
        prices = costs.Prices(store, pool.zoo.device)
        seconds = seconds_of(work, prices)
        rates = {subject: rate(subject) for subject in self.subjects}
        lines, total = dry_run.kinds(work, seconds, range(len(work)), len(work)), sum(seconds.values())
        for lens, subject in self.work:
            took = lens.price(subject, pool, blank) / rates[subject]
            lines.append(dry_run.line(took, f"{lens.name} of {subject.name}, its twin and the references"))
            total += took
        where = f"profile {self.profile}, " if self.profile else ""
        names = " and ".join(subject.name for subject in self.subjects)
        speeds = " and ".join(f"{one / 1e9:.2g}" for one in rates.values())
        found = [f"{names} next to {len(pool.recipes)} references: {where}{self.count} test images of {data.name}",
                 *lines,
                 f"about {duration(total)} on {pool.zoo.device} if nothing that lenses measure is stored, with "
                 f"references priced as large as the network; by FLOPs at {speeds} GFLOP/s, measured now"]
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


def look(*subjects: Subject, lenses: Sequence[Lens | str] | None = None, pool: Pool | None = None,
         profile: str = "smoke", images: int | None = None, name: str | None = None, command: str = "") -> Report:
    """Look at networks through lenses, next to their untrained twins and to the references of a profile; print price
    and progress, and write `report.html`, `rows.csv`, `report.json` and figures to results/look/<name>. What is
    measured is stored, so that a call that was killed or is repeated resumes.

    lenses: lenses or their names, which all subjects must be able to have; None: of ALL those that a subject can have.
    pool: the references; None: the profile's. images: how many test images; None: all of the pool's. name: of the
    folder; None: the names of the subjects. command: what the page shows as the way to make it again.

    A lens that fails is reported in `Report.failures`, and the others go on. Raises SettingsError, before any work, for
    subjects, lenses and numbers that are not possible, and NetworkFailed if a reference cannot be trained.
    """
    from lib.look.page import write

    asked = check(*subjects, lenses=lenses, pool=pool, profile=profile, images=images, name=name)
    print("\n".join(asked.price()), flush=True)
    report = _measured(asked, command or _call(asked))
    write(report)
    print(report.page)
    return report


def price(*subjects: Subject, **options) -> str:
    """What `look` with the same parameters would take on this machine, as text; nothing is run."""
    return "\n".join(check(*subjects, **options).price())


def check(*subjects: Subject, lenses: Sequence[Lens | str] | None = None, pool: Pool | None = None,
          profile: str = "smoke", images: int | None = None, name: str | None = None) -> Asked:
    """What `look` is asked for, if it is possible; raises SettingsError otherwise."""
    need(len(subjects) > 0, "subjects", "none", "at least one network to look at")
    for subject in subjects:
        need(isinstance(subject, Subject), "subject", type(subject).__name__,
             "a Subject: Subject.wrap(network, data=..., normaliser=...)")
        need(is_file_name(subject.name), "name", subject.name, "one of letters, digits, spaces and -._+")
    names = [subject.name for subject in subjects]
    need(len({*names}) == len(names), "names", ", ".join(names), "different for each network")
    found = ALL if lenses is None else chosen(lenses)
    if pool is None:
        settings = profiles.load(profile)
        pool = Pool(Zoo(Store(), device(settings.device)), settings.networks, settings.seed)
    else:
        profile = ""
    for subject in subjects:
        next(pool.roles(subject))  # refuses one that cannot stand next to the references
    most = pool.data.n_test
    need(images is None or is_int(images, LEAST) and images <= most, "images", images,
         f"a whole number from {LEAST} to {most}, the test images of {pool.data.name} here")
    work, left = [], []
    for lens in found:
        for subject in subjects:
            try:
                lens.check(subject)
                work.append((lens, subject))
            except SettingsError:
                if lenses is not None:
                    raise
                left.append(f"{lens.title} is left out for {subject.name}: {subject.note}")
    name = name or " and ".join(names)
    need(is_file_name(name), "name", name, "one of letters, digits, spaces and -._+")
    return Asked(subjects, tuple(work), tuple(left), pool, profile, images or most,
                 results() / "look" / name)


def rate(subject: Subject, seconds: float = 0.3) -> float:
    """FLOP/s of forward and backward passes of a batch of images through a subject, measured for some tenths of a
    second.
    """
    where = device_of(subject.net)
    batch = max(1, min(BATCH, int(1e10 / forward_flops(subject.net, subject.data.shape))))
    x = torch.full((batch, *subject.data.shape), 0.5, device=where, requires_grad=True)

    def step():
        torch.autograd.grad(subject.net(x).sum(), x)
        if where.type == "cuda":
            torch.cuda.synchronize()

    step()
    done, started = 0, time.monotonic()
    while not done or time.monotonic() - started < seconds:
        step()
        done += 1
    return 2 * forward_flops(subject.net, subject.data.shape) * batch * done / (time.monotonic() - started)


def chosen(lenses: Sequence[Lens | str]) -> list[Lens]:
    """The lenses of a list of lenses or their names, each once. Raises SettingsError for others and for none."""
    known = {lens.name: lens for lens in ALL}
    need(isinstance(lenses, (list, tuple)) and len(lenses) > 0, "lenses", repr(lenses),
         f"a list of some of {', '.join(known)}")
    found = {}
    for lens in lenses:
        if not isinstance(lens, Lens):
            if lens not in known:
                raise unknown("lens", lens, known)
            lens = known[lens]
        need(lens.name not in found, "lenses", lens.name, "named once")
        found[lens.name] = lens
    return list(found.values())


def _measured(asked: Asked, command: str) -> Report:
    report, store = Report(asked, command), asked.pool.zoo.store
    print(f"references: {', '.join(asked.pool.references)}", flush=True)
    for subject in asked.subjects:
        twin = subject.twin.note.removeprefix(subject.note).strip("; ")
        notes = subject.note, f"of its untrained twin, {twin}" if twin else "", one_answer(subject, asked.images)
        report.notes[subject.name] = [*filter(None, notes)]
    for lens, subject in asked.work:
        print(f"{lens.name} of {subject.name} ...", flush=True)
        before, started = {*store.used}, time.monotonic()
        try:
            rows = lens.measure(subject, asked.pool, asked.images)
            report.seen.append(Seen(lens, subject, rows, lens.sentence(rows)))
            print(f"  {report.seen[-1].sentence}", flush=True)
            report.notes[subject.name] += _doubts(lens, rows)
        except Exception as error:  # whatever a lens meets, the others go on
            report.failures.append(Failure.of(lens, subject.name, error))
            print(f"  failed: {report.failures[-1].sentence}", flush=True)
        made = sum(store.used[one].get("made_seconds", 0.0) for one in {*store.used} - before if one[0] == "lens")
        here, all_of_it = report.seconds.get(lens.name, (0.0, 0.0))
        report.seconds[lens.name] = here + time.monotonic() - started, all_of_it + made
    report.notes = {name: list(dict.fromkeys(notes)) for name, notes in report.notes.items()}
    return report


def _doubts(lens: Lens, rows: pd.DataFrame) -> list[str]:
    """The notes about the numbers of a subject, except for those that only say why one is missing."""
    own = rows[(rows["role"] == SUBJECT) & rows["value"].notna() & (rows["note"] != "")]
    words = {line.measure: line.what for line in view_of(lens, rows).lines}
    return [f"{words.get(one.measure, one.measure)}: {one.note}" for one in own.itertuples()]


def one_answer(subject: Subject, images: ImageSet) -> str:
    """A sentence if the network gives the same class for most images of all classes; "" otherwise."""
    counts = torch.zeros(subject.data.info.classes)
    with torch.no_grad():
        for part in torch.arange(len(images), device=images.labels.device).split(BATCH):
            counts += torch.bincount(subject.net(images.pixels(part)).argmax(1).cpu(), minlength=len(counts))
    most = int(counts.argmax())
    share = float(counts[most]) / len(images)
    return (f"it answers class {most} for {share:.0%} of the images, so it hardly looks at them, and the numbers below "
            "say little") if share >= ONE_CLASS else ""


def _call(asked: Asked) -> str:
    """The call of `look` as text."""
    more = [f"profile={asked.profile!r}"] if asked.profile else ["pool=..."]
    more += [f"images={asked.count}", f"name={asked.folder.name!r}"]
    return f"look({', '.join([*(subject.name for subject in asked.subjects), *more])})"
