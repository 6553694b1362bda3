"""The work that the store lacks for a run, what it costs, and how much of it is left while the run goes on."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from lib.cards import Card
from lib.papers.plan import Task, plan
from lib.papers.settings import Settings
from lib.runtime import duration
from lib.store import FAILED, Store
from lib.training import price
from lib.values.architectures import Probe, Pruned, Stitch
from lib.values.attacks import Attack
from lib.values.measurement import Measurement
from lib.values.recipe import Recipe, outcome_key, together

PROCESS, PROCESS_ON_GPU = 0.8e9, 4e9  # bytes that a process with torch takes on the host before it holds anything
EARLY = 0.1  # the share of the work that must be done before its pace says anything: the first jobs are often small


@dataclass(frozen=True)
class Work:
    """A training or a measurement that the store lacks. like: the key that work of the same cost shares (empty: its
    cost is not recorded). what: the kind of work, in words. shares: of the batches of a training, on so many GPUs at
    most.
    """

    job: str
    recipe: Recipe
    flops: float
    like: str
    what: str = ""
    shares: int = 1

    def faster(self, gpus: int) -> int:
        """How many times as fast it is as on one GPU, on a machine with so many."""
        return together(self.shares, gpus)


def missing(tasks: list[Task], store: Store) -> Iterator[Work]:
    """Every training and evaluation of the tasks that is not in the store, except for networks that failed."""
    for task in tasks:
        recipe = task.recipe
        if any(store.has(FAILED, key) for key in recipe.lineage):
            continue
        if recipe.stored and not store.has("network", recipe.key):
            what = f"training of {_named(recipe)}, {recipe.objective.describe()}, {recipe.data.name}"
            yield Work(task.job, recipe, price.training(recipe), price.like_training(recipe), what,
                       recipe.shares)
        for measure in task.measures:
            if not store.has("outcomes", outcome_key(*measure)):
                on, _, attack = measure
                what = f"{attack.title if attack else 'clean accuracy'} of {_named(on)}, {on.data.name}"
                yield Work(task.job, on, price.measuring(on, attack), price.like_outcomes(*measure), what)


def further(tasks: list[Task], measured: dict[str, list[Measurement]], store: Store) -> Iterator[Work]:
    """What comes with networks that the store lacks: class scores that training takes, checks of attacks, and what
    notebooks measure in addition, `measured` (`plan.measurements`), or of that what has its own entry and lacks it.
    """
    made: set = set()
    for task in tasks:
        recipe = task.recipe
        lacking = recipe.stored and not store.has("network", recipe.key)
        if lacking and (one := price.class_scores(recipe)):
            key = one.recipe, recipe.data, recipe.objective.targets.sigma, recipe.objective.targets.draws
            if key not in made:
                made.add(key)
                yield _measurement(task.job, one)
        for on, threat, attack in task.measures:
            asked = on.key, on.data, threat and threat.norm
            if isinstance(attack, Attack) and asked not in made and lacking:
                made.add(asked)
                yield Work(task.job, on, price.checks(on), "", f"checks of attacks on {_named(on)}, {on.data.name}")
    for one in itertools.chain(*measured.values()):
        if not store.has(*(one.entry or ("network", one.recipe.key))):
            yield _measurement(one.job, one)


def _measurement(job: str, one: Measurement) -> Work:
    what = f"{one.what} by {_named(one.recipe)}, {one.recipe.data.name}"
    return Work(job, one.recipe, price.measurement(one), "", what)


def _named(recipe: Recipe) -> str:
    """A network by its kind: `stitched ResNet-18`, `pruned VGG-16`, whatever is stitched where and pruned how."""
    how = {Stitch: "stitched ", Probe: "probes of ", Pruned: "pruned "}.get(type(recipe.arch), "")
    return how + price.last_part(recipe).arch.dense.name


def asks(settings: Settings, jobs: dict[str, list[Work]], notebooks: Iterable[str], gpu: bool,
         gpus: int = 1) -> dict[str, int]:
    """{name of a job or notebook: megabytes of the machine's memory that it asks for}: what a process takes, the images
    of its largest data set and a copy of them while they are read and, for a job on a CPU, its largest training. A job
    that trains on several of so many GPUs has a process for each of them and its own.
    """
    def most(recipes: list[Recipe], trains: bool) -> int:
        images = max((2 * price.images(recipe.data) for recipe in recipes), default=0)
        training = max(map(price.memory, recipes), default=0) if trains else 0
        return int(((PROCESS_ON_GPU if gpu else PROCESS) + images + training) / 1e6)

    team = {name: max((one.faster(gpus) for one in work), default=1) for name, work in jobs.items()}
    asked = {name: (team[name] + (team[name] > 1)) * most([one.recipe for one in work], not gpu)
             for name, work in jobs.items()}
    return asked | {name: most([t.recipe for t in plan(settings, (name,))], False) for name in notebooks}


def minutes(countdown: Countdown) -> dict[str, int]:
    """{name of a job or notebook that has to run: minutes after which Slurm may stop it}: half an hour, and three times
    its price or, for a notebook, what it took before. A job without a price has twelve hours.
    """
    took = {name: seconds or 12 * 3600 for name, seconds in countdown.notebooks.items()}
    took |= countdown.cost if countdown.known else dict.fromkeys(countdown.cost, 12 * 3600)
    return {name: 30 + int(seconds / 20) for name, seconds in took.items()}


def seconds_of(work: list[Work], prices) -> dict[int, float]:
    """{position: seconds} of each piece of work. The rates of the architectures that cost most are measured first.
    prices: what has `seconds`, `lib.training.price.Prices` or a `lib.cards.Card`.
    """
    dearest = sorted(range(len(work)), key=lambda i: -work[i].flops)
    return {i: prices.seconds(work[i].recipe, work[i].like, work[i].flops) for i in dearest}


def makespan(cost: Mapping[str, float], after: Mapping[str, set[str]], places: int,
             width: Mapping[str, int] | None = None) -> float:
    """Seconds until the last job is done, on so many places, which take the first job in the order of `cost` that can
    start. cost: {job: seconds}. after: {job: jobs that must be done before it}; others than those with a cost are done.
    width: {job: how many places it takes, at most all}, of those that take more than one. Raises ValueError if jobs
    wait for each other.
    """
    waits = {job: {one for one in after.get(job, ()) if one in cost} for job in cost}
    wide = width or {}
    running: list[tuple[float, str]] = []
    now, free = 0.0, places
    while waits or running:
        for job in [job for job, needed in waits.items() if not needed]:
            if free == 0:
                break
            if wide.get(job, 1) <= free:
                free -= wide.get(job, 1)
                del waits[job]
                heapq.heappush(running, (now + cost[job], job))
        if not running:
            raise ValueError(f"jobs wait for each other: {', '.join(waits)}")
        now, done = heapq.heappop(running)
        free += wide.get(done, 1)
        for needed in waits.values():
            needed.discard(done)
    return now


def longest_chain(cost: Mapping[str, float], after: Mapping[str, set[str]]) -> list[str]:
    """The jobs of the longest chain that must run one after the other, however many run at a time."""
    chains: dict[str, tuple[float, list[str]]] = {}

    def chain(job: str) -> tuple[float, list[str]]:
        if job not in chains:
            before = max((chain(one) for one in after.get(job, ()) if one in cost), default=(0.0, []))
            chains[job] = before[0] + cost[job], [*before[1], job]
        return chains[job]

    return max(map(chain, cost), default=(0.0, []))[1]


def announce(settings: Settings, notebook: str, store: Store, where) -> str:
    """One sentence before a notebook measures: how many networks it needs, what the store has, and what is missing."""
    tasks = plan(settings, (notebook,))
    kept = [task.recipe.key for task in tasks if task.recipe.stored]
    ready, work = sum(store.has("network", key) for key in kept), list(missing(tasks, store))
    found = f"{notebook} at {settings.run}: {len(kept)} networks, {ready} of them in the store"
    if not work:
        return f"{found}; nothing has to be trained or attacked"
    took = sum(seconds_of(work, price.Prices(store, where, patience=2.0)).values())
    return f"{found}; to train and to attack the rest will take about {duration(took)} on {where}"


class Countdown:
    """How much of a run is left. jobs: {name: the work that the store lacks}, of all jobs that have to run. notebooks:
    {name: the seconds it took before, or None}, of all notebooks that have to run. side_by_side: how many jobs run at
    the same time. gpus: how many there are at most for one training.
    """

    def __init__(self, jobs: dict[str, list[Work]], notebooks: dict[str, float | None],
                 prices: price.Prices | Card | None, side_by_side: int, gpus: int = 1):
        self.jobs, self.notebooks, self.side_by_side, self.gpus = jobs, notebooks, side_by_side, gpus
        like = {one.like for work in jobs.values() for one in work if one.like}
        # else FLOPs, until a job tells their speed
        self.known = prices is not None and (isinstance(prices, Card) or like <= prices.known.keys())
        self.cost = {name: sum((prices.seconds(one.recipe, one.like, one.flops) if self.known else one.flops)
                               / one.faster(gpus) for one in work) for name, work in jobs.items()}

    def said(self, done: set[str], passed: float) -> str:
        """`7 of 26 jobs, about 3 min left`, without a time while nothing is known about it. done: the names of finished
        jobs and notebooks. passed: seconds since the start.
        """
        every = [*self.cost, *self.notebooks]
        found = f"{sum(name in done for name in every)} of {len(every)} jobs"
        after = [took for name, took in self.notebooks.items() if name not in done]
        trained = self._training_left(done, passed)
        if trained is None or not trained and (None in after or not after):
            return found
        if None in after:
            return f"{found}, about {duration(trained)} of training left"
        return f"{found}, about {duration(trained + sum(after) / self.side_by_side)} left"

    def _training_left(self, done: set[str], passed: float) -> float | None:
        """Seconds that the jobs which are not done will take; None if nothing is known about them."""
        over = sum(cost for name, cost in self.cost.items() if name in done)
        rest = sum(cost for name, cost in self.cost.items() if name not in done)
        if not rest:
            return 0.0
        if over >= EARLY * (over + rest):
            return rest * passed / over
        return rest / self.side_by_side if self.known else None
