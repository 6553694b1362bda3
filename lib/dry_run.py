"""`--dry-run`: what a run would do and cost on this machine or on a card that one does not have, without starting it.
Nothing is downloaded, no data are read.
"""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Sequence
from importlib.util import find_spec

from lib.cards import ASSUMED_SHARE, CARDS, Card
from lib.errors import SettingsError
from lib.jobs import batch_jobs
from lib.papers import papers
from lib.papers.plan import Task, measurements, plan
from lib.papers.settings import Settings
from lib.prices import Work, further, longest_chain, makespan, missing, seconds_of
from lib.runtime import cores, device, duration, memory_of_machine, slow_in_bf16, without_gpu
from lib.store import Store
from lib.training import price
from lib.values.architectures import UNet
from lib.values.attacks import AutoAttack
from lib.values.certificates import Certificate
from lib.values.measurement import Measurement

SHARED = "pool (shared)"  # the heading of networks that several notebooks use
SHOWN = 5  # kinds of work that are listed for each notebook unless all are asked for
WIDTH = 100  # characters of a line
GB = 1e9


def price_list(settings: Settings, notebooks: tuple[str, ...], jobs: int, card: Card | None = None,
               every: bool = False, gpus: int = 1) -> int:
    """Print, notebook by notebook, what the missing work takes, with a line for each kind of work, and what the run
    needs: memory, disk, data, packages. jobs: how many run at a time. card: the card to price instead of this machine.
    every: a line for each training and measurement instead. gpus: how many cards share the work, if it runs on cards.
    Returns 0.
    """
    store, tasks = Store(), plan(settings, notebooks)
    tasks, lacking = with_packages(tasks)
    measured = measurements(settings, notebooks)
    work = [*missing(tasks, store), *further(tasks, measured, store)]
    if not work:
        print(f"profile {settings.run}: nothing has to be trained or attacked, the notebooks replay from the store")
        return 0
    threads, where = max(1, cores() // jobs), None if card else device(settings.device)
    prices = card or price.Prices(store, where, threads)
    seconds = seconds_of(work, prices)
    owned: dict[str, list[int]] = {_owner(task.job, notebooks): [] for task in tasks}
    for i, one in enumerate(work):
        owned.setdefault(_owner(one.job, notebooks), []).append(i)
    for name, own in owned.items():
        kept = [t for t in tasks if _owner(t.job, notebooks) == name and t.recipe.stored]
        ready = sum(store.has("network", t.recipe.key) for t in kept)
        took, flops = sum(seconds[i] for i in own), sum(work[i].flops for i in own)
        print(f"{name}: {duration(took)}, {len(kept)} networks ({ready} in the store), {flops / 1e15:.3g} PFLOP")
        print("\n".join(_each(work, seconds, own) if every else kinds(work, seconds, own)))
    on_cards = card or where.type == "cuda"
    side_by_side = 1 if settings.jobs == "none" else min(jobs, gpus) if on_cards else jobs
    said = [*_total(settings, notebooks, card.title if card else where, work, seconds, side_by_side,
                    gpus if on_cards else 1),
            _assumption(card) if card else basis(prices, threads),
            *needs(tasks, measured, store, card, where), *lacking, *_upper_bounds(tasks),
            *[f"{name}: {note}" for name in notebooks for note in papers()[name].notes],
            "nothing was run" if every else "nothing was run; --all lists every training and measurement"]
    if not card and (warning := without_gpu(settings.profile, settings.device)):
        said.append(f"warning: {warning}; --on NAME prices a GPU: {', '.join(CARDS)}")
    if not card and (warning := slow_in_bf16(settings.networks.precision, settings.device)):
        said.append(f"warning: {warning}")
    for sentence in said:
        print(textwrap.fill(sentence, WIDTH, subsequent_indent="  ", break_on_hyphens=False))
    return 0


def refuse_without_gpu(settings: Settings, notebooks: tuple[str, ...], jobs: int) -> None:
    """Raise SettingsError with the price if a profile that needs a GPU is about to train or attack on a CPU."""
    warning = without_gpu(settings.profile, settings.device)
    if not warning:
        return
    store = Store()
    work = list(missing(plan(settings, notebooks), store))
    if work:
        prices = price.Prices(store, device(settings.device), max(1, cores() // jobs))
        took = sum(seconds_of(work, prices).values()) / (1 if settings.jobs == "none" else jobs)
        raise SettingsError(f"{warning}; it would take about {duration(took)} here (--dry-run --on h200 prices a GPU): "
                            "add --yes if you want that")


def _owner(job: str, notebooks: tuple[str, ...]) -> str:
    return next((name for name in notebooks if job.startswith(f"{name}-")), SHARED)


def line(took: float, what: str) -> str:
    """A line of a price list: seconds, and what takes them."""
    return f"{duration(took):>14}  {what}"


def _each(work: list[Work], seconds: dict[int, float], own: list[int]) -> list[str]:
    ordered = sorted(own, key=lambda i: -seconds[i])
    return [line(seconds[i], f"{work[i].what} [{work[i].recipe.key}]") for i in ordered]


def kinds(work: list[Work], seconds: dict[int, float], own: Sequence[int], shown: int = SHOWN) -> list[str]:
    """Lines on the kinds of work that take longest, at most so many, and the sum of the others. own: which pieces of
    work, by their positions in the list and in `seconds`.
    """
    of_kind: dict[str, list[float]] = {}
    for i in own:
        of_kind.setdefault(work[i].what, []).append(seconds[i])
    ordered = sorted(of_kind.items(), key=lambda kind: -sum(kind[1]))
    lines = [line(sum(took), f"{len(took)} x {what}") for what, took in ordered[:shown]]
    if rest := ordered[shown:]:
        lines.append(line(sum(sum(took) for _, took in rest), f"{len(rest)} further kind{'s' * (len(rest) > 1)}"))
    return lines


def _total(settings: Settings, notebooks: tuple[str, ...], where, work: list[Work], seconds: dict[int, float],
           side_by_side: int, gpus: int) -> list[str]:
    cost: dict[str, float] = {}
    alone: dict[str, float] = {}  # with as many cards as it can use
    width: dict[str, int] = {}
    for i, one in enumerate(work):
        cost[one.job] = cost.get(one.job, 0) + seconds[i] / one.faster(gpus)
        width[one.job] = max(width.get(one.job, 1), min(one.faster(gpus), side_by_side))
        alone[one.job] = alone.get(one.job, 0) + seconds[i] / (one.shares if gpus > 1 else 1)
    jobs = batch_jobs(settings, notebooks)
    after = {name: job["after"] for name, job in jobs.items()}
    for name in notebooks:
        after[f"{name}-notebook"] = {job for job, one in jobs.items() if name in one["wanted_by"]}
    flops = sum(one.flops for one in work)
    manner = f"with {side_by_side} jobs at a time" if side_by_side > 1 else "with one job after the other"
    took = duration(makespan(cost, after, side_by_side, width))
    said = [f"profile {settings.run} on {where}: about {took} {manner}, {flops / 1e15:.3g} PFLOP"]
    if side_by_side > 1:
        chain = longest_chain(alone, after)
        least = duration(sum(map(alone.get, chain)))
        said.append(f"however many run: at least {least}, for {' and then '.join(chain)}")
    return said


def _assumption(card: Card) -> str:
    return (f"assumed, not measured: {ASSUMED_SHARE:.0%} of the peak rate, which is {card.bf16 / 1e12:,.0f} TFLOP/s in "
            f"bf16, {card.tf32 / 1e12:,.3g} in TF32 and {card.fp32 / 1e12:,.3g} in fp32")


def _upper_bounds(tasks: list[Task]) -> list[str]:
    """A line if a price counts the unstable ReLUs of networks, which nobody knows before they are trained."""
    counts = any(t.recipe.objective.relus(t.recipe.batch_size) for t in tasks) or any(
        isinstance(how, Certificate) and how.relus for t in tasks for _, _, how in t.measures)
    return ["at most: MixTrain and CROWN bounds, as if trained networks had as many unstable ReLUs as an untrained "
            "one"] * counts


def basis(prices: price.Prices, threads: int) -> str:
    """A line on what the prices rest on. threads: of each piece of work."""
    done, rates = sum(len(times) for times in prices.known.values()), sorted(prices.measured.values())
    now = f", the rest by FLOPs at {rates[0] / 1e9:.2g} to {rates[-1] / 1e9:.2g} GFLOP/s, measured now" if rates else ""
    return (f"priced by {done} trainings and evaluations done here before{now}, with {threads} "
            f"thread{'s' * (threads > 1)} each")


def needs(tasks: list[Task], measured: dict[str, list[Measurement]], store: Store, card: Card | None,
           where) -> list[str]:
    """Lines on memory, disk and missing data."""
    making = [t.recipe for t in tasks if t.recipe.stored and not store.has("network", t.recipe.key)]
    lines = []
    if making:
        largest = max(making, key=price.memory)
        need, data = price.memory(largest), price.images(largest.data)
        has = card.memory if card else _memory(where)
        what = f"memory: about {need / GB:.3g} GB for the largest job ({largest.arch.name}, {largest.data.name}"
        lines.append(f"{what}, {data / GB:.2g} GB of it images){', MORE than' if need > has else ' of'} "
                     f"{has / GB:.3g} GB")
    scores = {}
    for recipe in making:
        if one := price.class_scores(recipe):
            scores[one.recipe, recipe.data] = 2 * one.images * recipe.data.info.classes * _pixels(recipe)
    moved = sum(4 * one.images * _pixels(one.recipe) for every in measured.values() for one in every
                if one.what == "adversarial images")
    size = sum(map(price.disk, making)) + sum(scores.values()) + moved
    free = shutil.disk_usage(next(path for path in (store.root, *store.root.parents) if path.exists())).free
    lines.append(f"disk: about {size / GB:.3g} GB for the store{', MORE than' if size > free else ' of'} "
                 f"{free / GB:.3g} GB free")
    from lib.data import absent

    if gone := absent({t.recipe.data.name for t in tasks}):
        lines.append(f"missing data (data/README.md says how to get them): {', '.join(gone)}")
    return lines


def _pixels(recipe) -> int:
    channels, height, width = recipe.data.shape
    return channels * height * width


def _memory(where) -> float:
    if where.type == "cuda":
        import torch

        return torch.cuda.get_device_properties(where).total_memory
    return memory_of_machine()


def with_packages(tasks: list[Task]) -> tuple[list[Task], list[str]]:
    """The tasks whose networks can be counted here, and lines on packages that the plan needs and lacks."""
    lines = []
    attacks = any(isinstance(attack, AutoAttack) for task in tasks for _, _, attack in task.measures)
    if attacks and find_spec("pyautoattack") is None:
        lines.append("missing package: pyautoattack, for AutoAttack")
    if any(isinstance(t.recipe.arch, UNet) for t in tasks) and find_spec("diffusers") is None:
        lines.append("missing package: diffusers, for denoisers; not priced: what needs one")
        lacking = {t.recipe.key for t in tasks if isinstance(t.recipe.arch, UNet)}
        tasks = [t for t in tasks if lacking.isdisjoint(t.recipe.lineage)]
    return tasks, lines
