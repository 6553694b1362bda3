"""What a run would do and cost, without starting it."""

from __future__ import annotations

from lib.papers.plan import Task, plan
from lib.papers.settings import Settings
from lib.runtime import device
from lib.store import FAILED, Store
from lib.training import price
from lib.values.recipe import outcome_key


def price_list(settings: Settings, notebooks: tuple[str, ...]) -> int:
    """Print, job by job, the networks of a run's plan, how many of them the store has, and the TFLOP and minutes that
    the missing work takes. Returns 0.
    """
    store, where = Store(), device(settings.device)
    tasks, prices = plan(settings, notebooks), price.Prices(store, where)
    rows: dict[str, list[float]] = {}
    for task in tasks:
        row = rows.setdefault(task.job, [0, 0, 0.0, 0.0])
        row[0] += task.recipe.stored
        row[1] += task.recipe.stored and store.has("network", task.recipe.key)
        for flops, like in _missing(store, task):
            row[2] += flops
            row[3] += prices.seconds(task.recipe, like, flops)
    done = sum(len(times) for times in prices.known.values())
    print(f"profile {settings.run}: {len(tasks)} networks on {where}; priced by {done} jobs done here before, else by "
          f"FLOPs at {', '.join(f'{r / 1e9:.0f}' for r in prices.measured.values()) or 'no'} GFLOP/s measured now")
    print(f"{'job':28} {'networks':>8} {'ready':>6} {'TFLOP':>10} {'minutes':>8}")
    for job, row in [*rows.items(), ("all", [sum(column) for column in zip(*rows.values(), strict=True)])]:
        print(f"{job:28} {row[0]:8.0f} {row[1]:6.0f} {row[2] / 1e12:10.3g} {row[3] / 60:8.1f}")
    print("minutes of one job after the other; nothing was run")
    return 0


def _missing(store: Store, task: Task):
    """(FLOPs, key of comparable work) for every training and evaluation of a task that is not in the store."""
    recipe = task.recipe
    if any(store.has(FAILED, key) for key in recipe.lineage):
        return
    if recipe.stored and not store.has("network", recipe.key):
        yield price.training(recipe), price.like_training(recipe)
    for measure in task.measures:
        if not store.has("outcomes", outcome_key(*measure)):
            on, _, attack = measure
            yield price.measuring(on, attack), price.like_outcomes(*measure)
