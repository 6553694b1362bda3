"""Look at networks: check what is asked, tell its price, measure lens by lens, and write the report."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch

from lib.data import ImageSet
from lib.errors import NetworkFailed, SettingsError, is_int, need, unknown
from lib.files import is_file_name
from lib.lenses.accuracy import BATCH, Accuracy
from lib.lenses.alignment import Alignment
from lib.lenses.lens import SUBJECT, Lens, Pool
from lib.lenses.manifold import Manifold
from lib.lenses.prunability import Prunability
from lib.lenses.similarity import Similarity
from lib.lenses.stitching import Stitching
from lib.lenses.subject import Subject
from lib.look import ready_made
from lib.look.page import write
from lib.look.report import Asked, Failure, Report, Seen
from lib.look.views import view_of
from lib.papers import settings as profiles
from lib.papers.plan import plan
from lib.runtime import device, results, threads
from lib.store import Store
from lib.training.zoo import Zoo
from lib.values.attacks import APGD, Square

# In the order of the page. As much as a ResNet-18 allows in a quarter of an hour on two cores; `look` also takes lenses
# with other settings, such as Accuracy(autoattack=True).
ALL: tuple[Lens, ...] = (
    Accuracy(APGD(20, targets=2), Square(200), steps=10),
    Stitching(epochs=2, steps=10, quick=True),
    Similarity(minibatches=5),
    Alignment(),
    Manifold(draws=2),
)
USUAL = 200  # images: a share of half of them is known to seven points
LEAST = 40  # images: with fewer, bounds say nothing, and minibatches of the similarity are too small
ONE_CLASS = 0.9  # the share of images with one answer from which on a network hardly looks at them


def look(*subjects: Subject, lenses: Sequence[Lens | str] | None = None, pool: Pool | None = None,
         profile: str = "smoke", images: int | None = None, name: str | None = None, make: bool = False,
         command: str = "") -> Report:
    """Look at networks through lenses, next to their untrained twins and to the references of a profile; print price
    and progress, and write `report.html`, `rows.csv`, `report.json` and figures to results/look/<name>. What is
    measured is stored, so that a call that was killed or is repeated resumes.

    lenses: lenses or their names, which all subjects must be able to have; None: of ALL those that a subject can have.
    Prunability, which trains them, has to be named. pool: the references; None: the profile's. images: how many of the
    pool's test images; None: USUAL of them, or all if there are fewer. name: of the folder; None: the names of the
    subjects. make: whether to train the profile's references even where there are ready-made ones. command: what the
    page shows as the way to make it again.

    A lens that fails is reported in `Report.failures`, and the others go on. Raises SettingsError, before any work, for
    subjects, lenses and numbers that are not possible, and NetworkFailed if a reference cannot be trained.
    """
    asked = check(*subjects, lenses=lenses, pool=pool, profile=profile, images=images, name=name, make=make)
    print("\n".join(asked.price()), flush=True)
    if make and asked.profile:
        ready_made.forget(asked.profile, asked.pool.zoo.store)
    report = _measured(asked, command or _call(asked))
    write(report)
    print(report.page)
    return report


def price(*subjects: Subject, **options) -> str:
    """What `look` with the same parameters would take on this machine, as text; nothing is run."""
    return "\n".join(check(*subjects, **options).price())


def check(*subjects: Subject, lenses: Sequence[Lens | str] | None = None, pool: Pool | None = None,
          profile: str = "smoke", images: int | None = None, name: str | None = None, make: bool = False) -> Asked:
    """What `look` is asked for, if it is possible; raises SettingsError otherwise. Ready-made references of the profile
    are then in the store, unless they are to be made.
    """
    need(len(subjects) > 0, "subjects", "none", "at least one network to look at")
    for subject in subjects:
        need(isinstance(subject, Subject), "subject", type(subject).__name__,
             "a Subject: Subject.wrap(network, data=..., normaliser=...)")
        need(is_file_name(subject.name), "name", subject.name, "one of letters, digits, spaces and -._+")
    names = [subject.name for subject in subjects]
    need(len({*names}) == len(names), "names", ", ".join(names), "different for each network")
    found = ALL if lenses is None else chosen(lenses, None if pool else profiles.load(profile))
    pool, profile = (references(profile), profile) if pool is None else (pool, "")
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
    if profile and not make:
        ready_made.take(profile, pool.zoo.store)
    return Asked(subjects, tuple(work), tuple(left), pool, profile, images or min(most, USUAL),
                 results() / "look" / name, make)


def references(profile: str) -> Pool:
    """The reference networks of a profile. Raises SettingsError for an unknown one."""
    settings = profiles.load(profile)
    return Pool(Zoo(Store(), device(settings.device)), settings.networks, settings.seed)


def export(profile: str, archive: Path) -> int:
    """Write the ready-made references of a profile, with what all lenses found of them, from the store into an archive;
    see `lib.look.ready_made.export`.
    """
    return ready_made.export(archive, references(profile), ALL, USUAL)


def chosen(lenses: Sequence[Lens | str], settings: profiles.Settings | None = None) -> list[Lens]:
    """The lenses of a list of lenses or their names, each once. settings: a profile's, None without one. Raises
    SettingsError for others and for none.
    """
    known = {lens.name: lens for lens in (*ALL, Prunability())}
    need(isinstance(lenses, (list, tuple)) and len(lenses) > 0, "lenses", repr(lenses),
         f"a list of some of {', '.join(known)}")
    found = {}
    for lens in lenses:
        if not isinstance(lens, Lens):
            if lens not in known:
                raise unknown("lens", lens, known)
            lens = on_request(settings) if lens == Prunability.name else known[lens]
        need(lens.name not in found, "lenses", lens.name, "named once")
        found[lens.name] = lens
    return list(found.values())


def on_request(settings: profiles.Settings | None) -> Prunability:
    """The lens that is not in ALL, with the trainings of the profile's notebooks."""
    if settings is None:
        return Prunability()
    return Prunability.as_planned([task.recipe for task in plan(settings)],
                                  settings.networks.member("R", 0, settings.seed))


def _measured(asked: Asked, command: str) -> Report:
    report, store = Report(asked, command), asked.pool.zoo.store
    print(f"references: {', '.join(asked.recipes)}", flush=True)
    with threads(1):  # as the jobs of a run, for the same weights bit for bit
        for name, recipe in asked.recipes.items():
            with contextlib.suppress(*[] if name in asked.pool.recipes else [NetworkFailed]):  # the lens says so
                asked.pool.zoo.obtain(recipe)
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
        new = [store.used[one] for one in {*store.used} - before if one[0].startswith("lens")]
        made = sum(meta.get("made_seconds", 0.0) for meta in new)
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
