"""What a run would do and cost, without starting it, and how much of it is left while it runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lib.papers.plan import Task, plan
from lib.papers.settings import Settings
from lib.runtime import cores, device, duration, without_gpu
from lib.store import FAILED, Store
from lib.training import price
from lib.values.recipe import Recipe, outcome_key

SHARED = "pool (shared)"  # the row of networks that several notebooks use
EARLY = 0.1  # the share of the work that must be done before its pace says anything: the first jobs are often small
GPU_RATE = 1e13  # FLOP/s: about what training reaches on one large GPU, for an estimate where none is at hand


@dataclass(frozen=True)
class Work:
    """A training or an evaluation that the store lacks. like: the key that work of the same cost shares."""

    job: str
    recipe: Recipe
    flops: float
    like: str


def missing(tasks: list[Task], store: Store) -> Iterator[Work]:
    """Every training and evaluation of the tasks that is not in the store, except for networks that failed."""
    for task in tasks:
        recipe = task.recipe
        if any(store.has(FAILED, key) for key in recipe.lineage):
            continue
        if recipe.stored and not store.has("network", recipe.key):
            yield Work(task.job, recipe, price.training(recipe), price.like_training(recipe))
        for measure in task.measures:
            if not store.has("outcomes", outcome_key(*measure)):
                on, _, attack = measure
                yield Work(task.job, on, price.measuring(on, attack), price.like_outcomes(*measure))


def seconds_of(work: list[Work], prices: price.Prices) -> dict[int, float]:
    """{position: seconds} of each piece of work. The rates of the architectures that cost most are measured first."""
    dearest = sorted(range(len(work)), key=lambda i: -work[i].flops)
    return {i: prices.seconds(work[i].recipe, work[i].like, work[i].flops) for i in dearest}


def price_list(settings: Settings, notebooks: tuple[str, ...], jobs: int) -> int:
    """Print, notebook by notebook, how many networks a run's plan has, how many of them are in the store, and the PFLOP
    and the time that the missing work takes, with at most `jobs` jobs at a time. Returns 0.
    """
    where, tasks, store = device(settings.device), plan(settings, notebooks), Store()
    work, threads = list(missing(tasks, store)), max(1, cores() // jobs)
    prices = price.Prices(store, where, threads)
    seconds = seconds_of(work, prices)
    rows: dict[str, list[float]] = {}
    longest: dict[str, float] = {}
    for task in tasks:
        row = rows.setdefault(_owner(task.job, notebooks), [0, 0, 0.0, 0.0])
        row[0] += task.recipe.stored
        row[1] += task.recipe.stored and store.has("network", task.recipe.key)
    for i, one in enumerate(work):
        row = rows[_owner(one.job, notebooks)]
        row[2] += one.flops
        row[3] += seconds[i]
        longest[one.job] = longest.get(one.job, 0) + seconds[i]
    together = [sum(column) for column in zip(*rows.values(), strict=True)]
    print(f"{'':31} networks   ready      PFLOP   time of one job after the other")
    for name, row in [*rows.items(), ("all", together)]:
        print(f"{name:31} {row[0]:8.0f} {row[1]:7.0f} {row[2] / 1e15:10.3g}   {duration(row[3])}")
    side_by_side = 1 if where.type == "cuda" or settings.jobs == "none" else jobs
    wall = max([together[3] / side_by_side, *longest.values()])
    done = sum(len(times) for times in prices.known.values())
    if not work:
        print(f"profile {settings.run}: nothing has to be trained or attacked, the notebooks replay from the store")
        return 0
    print(f"profile {settings.run} on {where}: about {duration(wall)}, at most {side_by_side} at a time with "
          f"{threads} thread{'s' * (threads > 1)} each, and then the notebooks' own measurements")
    print(f"priced by {done} trainings and evaluations done here before{_rates(prices)}; nothing was run")
    if warning := without_gpu(settings.profile, settings.device):
        print(f"warning: {warning}")
        print(f"a GPU that trains at {GPU_RATE / 1e12:g} TFLOP/s would need about {duration(together[2] / GPU_RATE)}")
    return 0


def _owner(job: str, notebooks: tuple[str, ...]) -> str:
    return next((name for name in notebooks if job.startswith(f"{name}-")), SHARED)


def _rates(prices: price.Prices) -> str:
    rates = sorted(prices.measured.values())
    if not rates:
        return ""
    return f", the rest by FLOPs at {rates[0] / 1e9:.2g} to {rates[-1] / 1e9:.2g} GFLOP/s, measured now"


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
    the same time.
    """

    def __init__(self, jobs: dict[str, list[Work]], notebooks: dict[str, float | None], prices: price.Prices | None,
                 side_by_side: int):
        self.notebooks, self.side_by_side = notebooks, side_by_side
        like = {one.like for work in jobs.values() for one in work}
        self.known = prices is not None and like <= prices.known.keys()  # else FLOPs, until a job tells their speed
        self.cost = {name: sum(prices.seconds(one.recipe, one.like, one.flops) if self.known else one.flops
                               for one in work) for name, work in jobs.items()}

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
