"""The batch run: the jobs of a plan, the functions that Snakemake calls for them, and the pages at the end.

The command line calls `run_graph`; the Snakefile starts the jobs `train_job` and `run_notebook`. Where the store has
everything that jobs make, the notebooks run without Snakemake.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

from lib import site as report
from lib import slurm
from lib.cards import Card
from lib.errors import NetworkFailed, OneLineError, unknown
from lib.files import PARTS, read_json, sha256, write_atomic
from lib.gpus import PLACES, places, take_place
from lib.jobs import (
    MADE_OF,
    WRITTEN,
    batch_jobs,
    made_of,
    mark,
    mark_finished,
    refuse_changed_results,
    take_back,
    unfinished,
)
from lib.papers import papers
from lib.papers.plan import Task, measured, measurements, plan
from lib.papers.settings import Settings
from lib.prices import Countdown, asks, further, minutes, missing
from lib.runtime import ROOT, cores, device, memory_of_machine, results, warnings_of_machine, watch_parent
from lib.store import Store
from lib.training.price import Prices

log = logging.getLogger("lib.batch")
SCRATCH = ".scratch"  # in a run's folder: temporary files of others, such as Snakemake's, deleted when the run ends
LAST = 10  # the last lines shown of Snakemake's own errors


def run_graph(settings: Settings, overrides: dict, notebooks: tuple[str, ...], jobs: int,
              gpus: tuple[str, ...] = (), head: slurm.Head | None = None, card: Card | None = None) -> int:
    """Do what is missing, then write the index page even after failures. Returns 0, or 1 if anything failed.

    At most `jobs` training jobs run at a time and share the cores; a notebook has all cores. On `gpus` (`gpus.chosen`)
    notebooks count as jobs, and jobs spread over the GPUs. With a `head` they are jobs of Slurm, whose time limits come
    from prices on the `card` or, without one, on a CPU like this one. Raises OneLineError before any work if data are
    missing or another run writes to the same folder.
    """
    from filelock import FileLock, Timeout

    folder = results() / settings.run
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(str(folder / ".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise OneLineError(f"another run is writing to {folder}: wait for it or stop it") from None
    with lock:
        started = time.monotonic()
        machine = (settings.profile, settings.networks.precision, settings.device)
        for warning in warnings_of_machine(*machine) if head is None else ():
            print(f"warning: {warning}", flush=True)
        _check_data(settings, notebooks, head is None)
        store = Store()
        damaged = store.set_damaged_aside({task.recipe.key for task in plan(settings, notebooks)})
        take_back(damaged, settings, notebooks, folder)
        refuse_changed_results(settings, notebooks, folder)
        mark_finished(batch_jobs(settings, notebooks), store, folder)
        for old in (*folder.glob("jobs/*.failed"), *folder.rglob(PARTS)):
            old.unlink(missing_ok=True)
        countdown = _countdown(settings, notebooks, store, folder, jobs, gpus, card)
        given = settings, overrides, notebooks, jobs, gpus, folder, countdown
        status = _snakemake(*given, head) if head or countdown.jobs else _replay(*given)
        _note_failures(settings, notebooks, folder)
        page = report.index(folder)
    print(f"{'failed' if status else 'done'} in {time.monotonic() - started:.0f} s; open {page}", flush=True)
    return 1 if status else 0


def _countdown(settings: Settings, notebooks, store: Store, folder: Path, jobs: int, gpus: tuple,
               card: Card | None) -> Countdown:
    """What is left of a run that is about to start: jobs with work that the store lacks, and notebooks without results
    or whose results are older than a job that they need. Seconds of notebooks are those of the last run here or,
    without one, of the published run, on its machine.
    """
    every = batch_jobs(settings, notebooks)
    waiting = unfinished(every, store)
    work = {name: [] for name in waiting}
    if waiting:
        measures = further([], measurements(settings, notebooks), store)
        for one in (*missing(plan(settings, notebooks), store), *measures):
            if one.job in work:
                work[one.job].append(one)
    took: dict[str, float | None] = {}
    for name in notebooks:
        claims, needed = folder / name / "claims.json", [job for job in every if name in every[job]["wanted_by"]]
        made = claims.stat().st_mtime if claims.exists() else 0.0
        if waiting.keys() & needed or any(made < mark(folder, job).stat().st_mtime for job in needed) or not made:
            cards = (base / name / "card.json" for base in (folder, ROOT / "results" / "reference" / settings.run))
            took[name] = next((read_json(path).get("seconds") for path in cards if path.exists()), None)
    prices = card or Prices(store, device(settings.device), max(1, cores() // jobs)) if waiting else None
    most = slurm.MOST_GPUS if card else max(1, len(gpus))
    return Countdown(work, took, prices, min(jobs, len(gpus)) if gpus else jobs, most)


def _report(countdown: Countdown, folder: Path, done: set[str], started: float) -> set[str]:
    """Print a line if jobs or notebooks have finished or failed since `done`; returns all that have by now. started:
    when the run started, in seconds since 1970.
    """
    def over(name: str) -> bool:
        files = ([folder / name / "claims.json"] if name in countdown.notebooks
                 else [mark(folder, name), mark(folder, name).with_suffix(".failed")])
        return any(path.exists() and path.stat().st_mtime >= started for path in files)

    now = {name for name in (*countdown.cost, *countdown.notebooks) if over(name)}
    for name in sorted(now - done):
        ended = "has failed" if mark(folder, name).with_suffix(".failed").exists() else "is finished"
        print(f"{name} {ended}: {countdown.said(now, time.time() - started)}", flush=True)
    return now


def _threads_of_notebook(settings: Settings, jobs: int, gpu: bool) -> int:
    """How many cores a notebook has: all where networks are jobs, because little is left to do beside it."""
    return max(1, cores() // jobs) if settings.jobs == "seeds" or gpu else cores()


def _told(settings: Settings, jobs: int, gpus: tuple) -> dict[str, str]:
    """The environment variables by which jobs and notebooks know their run."""
    return {"REPRO_RUN_PID": str(os.getpid()), "REPRO_HEADLESS": "1", "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1",
            PLACES: places(gpus, jobs),
            "REPRO_RUN_STARTED": str(time.time()),  # what was made later was made in this run
            "REPRO_PRECISION": settings.networks.precision}  # what `auto` means here holds on every host of the run


def _replay(settings: Settings, overrides: dict, notebooks, jobs: int, gpus: tuple, folder: Path,
            countdown: Countdown) -> int:
    """Run the notebooks that have to run while no job has to, without Snakemake, whose start takes as long as a small
    notebook. Returns 0, or 1 if one failed. No process outlives this call.
    """
    threads, most = _threads_of_notebook(settings, jobs, bool(gpus)), memory_of_machine() // 10**6
    lanes = jobs if gpus else max(1, max(cores(), jobs) // threads)
    asked = asks(settings, {}, countdown.notebooks, bool(gpus))
    options = ["--profile", settings.profile]
    options += [word for name, value in overrides.items() for word in ("-p", f"{name}={json.dumps(value)}")]
    env = os.environ | _told(settings, jobs, gpus) | {"REPRO_THREADS": str(threads)}
    waiting, running, failed = [*countdown.notebooks], {}, False
    started, done = time.time(), set()
    try:
        while waiting or running:
            while waiting and (not running or len(running) < lanes
                               and sum(asked[name] for name in (*running, waiting[0])) <= most):
                name = waiting.pop(0)
                command = [sys.executable, "-m", "lib", "notebook", name, *options]
                running[name] = subprocess.Popen(command, cwd=ROOT, env=env, start_new_session=True)
            time.sleep(0.2)
            for name in [name for name, process in running.items() if process.poll() is not None]:
                status = running.pop(name).returncode
                failed = failed or status != 0
                if status < 0:
                    print(f"{name} failed: it was killed, status {128 - status}", file=sys.stderr, flush=True)
            done = _report(countdown, folder, done, started)
    finally:
        for process in running.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        shutil.rmtree(folder / SCRATCH, ignore_errors=True)
    return int(failed)


def _snakemake(settings: Settings, overrides: dict, notebooks, jobs: int, gpus: tuple, folder: Path,
               countdown: Countdown, head: slurm.Head | None) -> int:
    """Let Snakemake do what is missing; returns its exit status."""
    gpu, most = slurm.on_gpus(settings) if head else bool(gpus), memory_of_machine() // 10**6
    asked = asks(settings, countdown.jobs, countdown.notebooks, gpu, countdown.gpus)
    threads = {"networks": max(1, cores() // jobs), "notebook": _threads_of_notebook(settings, jobs, gpu)}
    wide = {name: max(one.faster(countdown.gpus) for one in work) for name, work in countdown.jobs.items() if work}
    wide = {name: count if head else min(count, jobs) for name, count in wide.items()}  # no more than are counted
    config = {"profile": settings.profile, "overrides": overrides, "notebooks": notebooks, "gpu": int(gpu),
              "gpus": {name: count for name, count in wide.items() if gpu and count > 1},
              "threads": dict.fromkeys(threads, slurm.THREADS) if head else threads,
              "mem_mb": {name: mb + slurm.WRAPPERS if head else min(mb, most) for name, mb in asked.items()},
              "minutes": minutes(countdown) if head else {}}
    write_atomic(folder / "run.json", json.dumps(config, indent=1))
    scratch = folder / SCRATCH
    shutil.rmtree(scratch, ignore_errors=True)  # what a killed run left
    scratch.mkdir()
    env = {**_told(settings, jobs, gpus),
           "REPRO_THEIRS": json.dumps({name: os.environ.get(name) for name in ("XDG_CACHE_HOME", "TMPDIR")}),
           "XDG_CACHE_HOME": str(scratch), "TMPDIR": str(scratch)}
    where = ["--snakefile", "Snakefile", "--directory", str(folder), "--configfile", str(folder / "run.json")]
    limits = ["--cores", str(max(cores(), jobs)), "--resources", f"job={jobs}", f"mem_mb={most}"]
    if head:
        env, limits = env | {"REPRO_RUN_ALIVE": str(head.alive)}, head.options()
    # --nolock: Snakemake's own lock stays behind when a run is killed; the system frees ours
    manner = ["--keep-going", "--rerun-incomplete", "--nolock", "--quiet", "all"]
    return _carry_out([*where, *limits, *manner], env, folder, countdown, head)


def _carry_out(options: list[str], env: dict[str, str], folder: Path, countdown: Countdown,
               head: slurm.Head | None) -> int:
    """Run Snakemake and its jobs as a group of processes, none of which outlives this call, nor do jobs of Slurm;
    returns its exit status. Prints what has finished and how much is left.
    """
    said, scratch = folder / "jobs" / "snakemake.log", folder / SCRATCH
    said.parent.mkdir(exist_ok=True)
    said.unlink(missing_ok=True)
    command = [sys.executable, "-c", "from lib.batch import snakemake; snakemake()", str(said), *options]
    if head:
        head.start()
    with subprocess.Popen(command, cwd=ROOT, env=os.environ | env, start_new_session=True) as group:
        started, done, runs = time.time(), set(), True
        try:
            while runs:
                try:
                    group.wait(1.0)
                    runs = False
                except subprocess.TimeoutExpired:
                    pass
                done = _report(countdown, folder, done, started)
                if head:
                    head.look(countdown.said(done, time.time() - started))
        finally:  # a killed run resumes from the same point as one stopped in any other way
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group.pid, signal.SIGKILL)
            if head:
                head.stop()
            shutil.rmtree(scratch, ignore_errors=True)
    if group.returncode and said.exists():
        lines = [line for line in said.read_text(encoding="utf-8").splitlines() if line.strip()]
        print(*lines[-LAST:] or [f"Snakemake ended with status {group.returncode}"], sep="\n", file=sys.stderr)
    return group.returncode


def snakemake() -> None:
    """The process that `_snakemake` starts. Its first argument names a file for the errors that stop Snakemake, which
    is removed if a job has failed, because the job reports its own error, unless it was one of Slurm.
    """
    from snakemake.cli import main
    from snakemake_interface_logger_plugins.common import LogEvent

    said, events = Path(sys.argv[1]), set()

    def note(record) -> bool:
        events.add(getattr(record, "event", None))
        return True

    watch_parent()
    if cluster := "REPRO_RUN_ALIVE" in os.environ:
        del os.environ["REPRO_RUN_PID"]  # on the hosts of its jobs it is the number of another process
    logging.raiseExceptions = False  # a full disk must not print a traceback for each line of a log
    handler = logging.FileHandler(said, "w", "utf-8")
    handler.setLevel(logging.ERROR)
    handler.addFilter(note)
    logging.getLogger().addHandler(handler)  # Snakemake's own logger drops handlers that it finds
    try:
        main(sys.argv[2:])
    finally:
        if LogEvent.JOB_ERROR in events and not cluster:
            said.unlink()


def _check_data(settings: Settings, notebooks: tuple[str, ...], read: bool) -> None:
    """Read the data before jobs start, so that missing data are downloaded or reported once. Not `read`: only look
    whether their files are there, for jobs on hosts that may not reach the network.
    """
    every = [task.recipe.data for task in plan(settings, notebooks)]
    wanted = {data.name: data for data in every if data.info.files}
    if wanted:
        from lib.data import absent, load

        if not read:
            if gone := absent(wanted):
                raise OneLineError(f"missing data: {', '.join(gone)}; data/README.md says how to get them, and jobs of "
                                   "Slurm download nothing")
            return

        for data in wanted.values():
            for split in ("train", "test"):
                load(data, split)


def _check_locks(folder: Path) -> None:
    """In a job of Slurm, raise OneLineError if this host does not see the lock that the head holds on the run's folder:
    then two jobs could make one entry of the store at the same time.
    """
    from filelock import FileLock, Timeout

    alive = os.environ.get("REPRO_RUN_ALIVE")
    if not alive or not Path(alive).exists():
        return
    lock = FileLock(str(folder / ".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return
    lock.release()
    raise OneLineError(f"{platform.node()} does not see the lock of {folder / '.lock'}: results and store must be on a "
                       "file system whose locks hold between hosts (NFS without the options nolock and local_lock)")


def _failed(settings: Settings, notebook: str, error: str) -> None:
    """Note that a notebook failed, and remove its claims.json, which is not a result of this run."""
    folder = results() / settings.run / notebook
    (folder / "claims.json").unlink(missing_ok=True)
    card = {"notebook": notebook, "profile": settings.profile, "run": settings.run, "status": "failed", "error": error}
    write_atomic(folder / "card.json", json.dumps({**card, "overrides": dict(settings.overrides)}, indent=1))


def _note_failures(settings: Settings, notebooks, folder: Path) -> None:
    for made, job in unfinished(batch_jobs(settings, notebooks), Store()).items():
        note = folder / "jobs" / f"{made}.failed"
        why = note.read_text(encoding="utf-8").strip() if note.exists() else None
        for name in job["wanted_by"] if why else ():
            _failed(settings, name, f"its networks {made} could not be made: {why}")


def train_job(settings: Settings, notebooks: tuple[str, ...], job: str, done: Path | None) -> None:
    """Make what the store lacks of a job's networks and measurements, then write `done`, with a line for each network
    or measurement that failed. If the job fails, write the reason next to it, with the suffix `.failed`. Raises
    SettingsError for an unknown job.
    """
    from lib.runtime import device, set_threads
    from lib.training.memory import named_when_full
    from lib.training.zoo import Zoo

    watch_parent()
    _check_locks(results() / settings.run)
    mine = [t for t in plan(settings, notebooks) if t.job == job]
    paper, beside = measured(settings, notebooks).get(job, ("", []))
    if not mine and not beside:
        raise unknown("job", job, batch_jobs(settings, notebooks))
    store = Store()
    shares = [t.recipe.shares for t in mine if t.recipe.stored and not store.has("network", t.recipe.key)]
    if gpu := take_place(results() / settings.run, shares):
        print(f"{job} is on GPU {gpu}", flush=True)
    set_threads(int(os.environ.get("REPRO_THREADS", "0")) or None)
    zoo, without = Zoo(store, device(settings.device)), ""

    def make(task: Task) -> None:
        if task.recipe.stored and not zoo.store.has("network", task.recipe.key):
            zoo.obtain(task.recipe)
        for measure in task.measures:
            zoo.outcomes(*measure)

    work = [(task.recipe.describe(), partial(make, task)) for task in mine]
    work += [(one.describe(), partial(papers()[paper].make, zoo, one)) for one in beside]
    try:
        for what, do in work:
            try:
                with named_when_full(what):
                    do()
            except NetworkFailed as error:
                without += f"without {what}: {error}\n"
        print(without, end="")
    except Exception as error:
        if done:
            write_atomic(done.with_suffix(".failed"), f"{type(error).__name__}: {error}\n")
        raise
    if done:
        done.with_suffix(".failed").unlink(missing_ok=True)
        write_atomic(done, without)


def again(tasks: list[Task], settings: Settings) -> None:
    """Train (or load) and measure networks. Print each measurement, then the rows of the profile's published tables
    about the same network.

    This uses one thread unless REPRO_THREADS is set, like the jobs of a run, because the same processor then gives the
    same weights bit for bit.
    """
    from lib.runtime import device, set_threads
    from lib.training.evaluation import PROTOCOL
    from lib.training.zoo import Zoo

    set_threads(int(os.environ.get("REPRO_THREADS") or 1))
    zoo = Zoo(Store(), device(settings.device))
    for task in tasks:
        print(task.recipe.describe())
        for measure in task.measures or [(task.recipe,)]:
            row = zoo.outcomes(*measure).row()
            found = ", ".join(f"{name} {row[name]:.4f}" for name in ("clean", "robust", "verified") if name in row)
            print(f"  here: {found} ({row['attack']}, {row['images']} images)")
        for table, row in report.about(task.recipe.key, ROOT / "results" / "reference" / settings.profile):
            said = ", ".join(f"{k} {v}" for k, v in row.items() if v and k not in (*PROTOCOL, "network"))
            print(f"  published in {table.relative_to(ROOT)}: {said}")


def run_notebook(settings: Settings, overrides: dict, name: str) -> int:
    """Execute a notebook through papermill and render its page, even if it failed. Returns 0, or 1 if it failed."""
    sys.modules.setdefault("rfc3987_syntax", None)  # jsonschema's check of addresses compiles a grammar for seconds
    import papermill
    from traitlets.config import Config

    watch_parent()
    folder = results() / settings.run / name
    folder.mkdir(parents=True, exist_ok=True)
    take_place(folder.parent)
    _check_locks(folder.parent)
    for old in ("claims.json", "snapshot.json", "card.json"):
        (folder / old).unlink(missing_ok=True)
    source, executed = ROOT / "notebooks" / f"{name}.ipynb", folder / "notebook.ipynb"
    unset = dict.fromkeys(papermill.inspect_notebook(source))  # a value saved in the notebook must not count
    os.environ |= {"REPRO_HEADLESS": "1", "PYTHONPATH": str(ROOT)}
    connection = folder.parent / SCRATCH / f"{name}.json"  # a kernel that is killed does not delete it
    connection.parent.mkdir(exist_ok=True)
    status = 0
    try:
        papermill.execute_notebook(
            source,
            executed,
            cwd=source.parent,
            parameters={**unset, "profile": settings.profile, "overrides": overrides},
            progress_bar=False,
            log_output=True,
            stdout_file=sys.stdout,
            stderr_file=sys.stderr,
            request_save_on_cell_execute=True,
            config=Config(
                ConnectionFileMixin={"connection_file": str(connection)},
                KernelManager={"transport_encryption": "auto"},  # else the kernel warns that it is not encrypted
                NotebookClient={"shutdown_kernel": "immediate"},  # a polite request interrupts it, which it reports
            ),
        )
    except Exception as error:
        status = 1
        lines = str(error).strip().splitlines() or [type(error).__name__]
        _failed(settings, name, lines[-1])
        print(f"{name} failed: {lines[-1]}", file=sys.stderr, flush=True)
    if executed.exists():
        page = read_json(executed)
        paths = {"input_path": f"notebooks/{name}.ipynb", "output_path": executed.name}  # not the absolute ones
        page["metadata"].get("papermill", {}).update(paths)
        write_atomic(executed, json.dumps(page, indent=1, ensure_ascii=False))
        report.render(executed)
    if status == 0:
        write_atomic(folder / MADE_OF, made_of(settings, name))
        files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith(".")]
        write_atomic(folder / WRITTEN, json.dumps({str(path.relative_to(folder)): sha256(path) for path in files}))
    return status
