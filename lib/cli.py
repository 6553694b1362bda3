"""The command line behind run_all.sh: `python -m lib run | train | notebook | index | readme | store`.

`run` checks everything first, lets Snakemake do what is missing (Snakefile), and writes the index page whatever
failed. `train` and `notebook` are the jobs that Snakemake starts.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import sys
import time
from pathlib import Path

from lib import settings as profiles
from lib.errors import SettingsError, unknown
from lib.plan import NOTEBOOKS, plan
from lib.recipe import plain
from lib.runtime import ROOT, cores, results, watch_parent


class Parser(argparse.ArgumentParser):
    """Unknown options are one-line errors like all others."""

    def error(self, message):
        raise SettingsError(f"{message}; see ./run_all.sh --help")


def main(argv: list[str] | None = None) -> int:
    """Run a command; returns the exit status. A SettingsError is one line on standard error and status 2."""
    try:
        args = parser().parse_args(argv)
        return args.do(args) or 0
    except SettingsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130


def parser() -> argparse.ArgumentParser:
    top = Parser(prog="python -m lib", description=__doc__.splitlines()[0])
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def command(name, do, text, run_options=False):
        p = commands.add_parser(name, help=text, description=text)
        p.set_defaults(do=do)
        if run_options:
            p.add_argument(
                "--profile", default="smoke", help=f"one of {', '.join(profiles.profiles())} (default smoke)"
            )
            p.add_argument(
                "-p",
                "--parameter",
                action="append",
                default=[],
                metavar="NAME=VALUE",
                help="a setting of the notebooks (seeds=5), or any by its dotted name (networks.robust.epochs=4)",
            )
        return p

    p = command("run", run, "run notebooks: train what is missing, execute, render, index", True)
    p.add_argument("notebooks", nargs="*", metavar="NOTEBOOK", help=f"of {', '.join(NOTEBOOKS)} (default: all)")
    p.add_argument("--seeds", type=int, metavar="N", help="repetitions of every experiment")
    p.add_argument("--jobs", type=int, metavar="N", help="jobs side by side (default: one per core, threads shared)")
    p.add_argument("--dry-run", action="store_true", help="say what would be done and what it costs; do nothing")
    p = command("train", train, "train and measure the networks of one group of the plan (a batch job)", True)
    p.add_argument("group")
    p.add_argument("--notebooks", default="")
    p.add_argument("--done", type=Path)
    p = command("notebook", notebook, "execute and render one notebook (a batch job)", True)
    p.add_argument("name")
    p = command("index", index, "write index.html of a run's folder anew")
    p.add_argument("folder", type=Path)
    p = command("publish", publish, "copy a run's report to results/reference and bring the README's table up to date")
    p.add_argument("run", help="name of a folder under results/, e.g. smoke")
    command("readme", readme, "write the claims table of README.md from results/reference")
    p = command("store", store, "show, prune, export or import the store of networks and outcomes")
    p.add_argument("action", choices=["show", "prune", "export", "import"])
    p.add_argument("archive", nargs="?", type=Path, help="the .tar file of export and import")
    return top


def overrides(args, notebooks: tuple[str, ...]) -> dict:
    """Dotted overrides from -p and --seeds. A bare name is meant for every chosen notebook that has it."""
    given = {}
    for text in args.parameter:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise SettingsError(f"-p {text} is not possible: it must read name=value")
        given[name.strip()] = profiles.parse(value)
    if getattr(args, "seeds", None) is not None:
        given["seeds"] = args.seeds
    tops = {f.name for f in dataclasses.fields(profiles.Settings)} - {"profile", "overrides"}
    found, hints = {}, profiles.sections()
    for name, value in given.items():
        homes = [n for n in notebooks if name in hints[n]]
        if "." in name or name in tops:
            found[name] = value
        elif homes:
            found |= {f"{n}.{name}": value for n in homes}
        else:
            raise unknown("parameter", name, {k for n in notebooks for k in hints[n]} | tops)
    return found


def _prepare(args, notebooks) -> tuple[profiles.Settings, dict]:
    notebooks = tuple(notebooks) or tuple(NOTEBOOKS)
    for name in notebooks:
        if name not in NOTEBOOKS:
            raise unknown("notebook", name, NOTEBOOKS)
    given = overrides(args, notebooks)
    return profiles.load(args.profile, given), given


def groups(settings: profiles.Settings, notebooks: tuple[str, ...]) -> dict[str, dict]:
    """The batch jobs of a run: {group: {keys, after}}; `after` are the groups that hold its networks' parents."""
    tasks = plan(settings, notebooks)
    home = {t.recipe.key: t.group for t in tasks}
    found: dict[str, dict] = {}
    for task in tasks:
        if not (task.recipe.epochs or task.attacks):
            continue
        job = found.setdefault(task.group, {"keys": [], "after": set()})
        job["keys"].append(task.recipe.key)
        job["after"] |= {home[p.key] for p in task.recipe.parents if p.epochs} - {task.group}
    return found


def run(args) -> int:
    """Everything: the batch graph, then the index. Status 1 if a job failed."""
    settings, given = _prepare(args, args.notebooks)
    notebooks = tuple(args.notebooks) or tuple(NOTEBOOKS)
    jobs = args.jobs if args.jobs is not None else cores()
    if jobs < 1:
        raise SettingsError(f"--jobs = {jobs} is not possible: it must be 1 or more")
    if args.dry_run:
        from lib.training.price import price_list

        return price_list(settings, notebooks)
    from filelock import FileLock, Timeout

    folder = results() / settings.run
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(str(folder / ".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise SettingsError(
            f"--profile = {args.profile} is not possible now: another run is writing to "
            f"results/{settings.run}; wait for it or stop it"
        ) from None
    with lock:
        return _run(settings, given, notebooks, jobs, folder)


def _run(settings, given: dict, notebooks, jobs: int, folder: Path) -> int:
    from lib import report
    from lib.store import write_atomic

    started = time.monotonic()
    os.environ |= {"REPRO_RUN_PID": str(os.getpid()), "REPRO_HEADLESS": "1", "PYTHONPATH": str(ROOT)}
    plan_file = folder / "run.json"
    write_atomic(
        plan_file,
        json.dumps(
            {
                "profile": settings.profile,
                "overrides": given,
                "notebooks": list(notebooks),
                "cores": cores(),
                "jobs": jobs,
            },
            indent=1,
        ),
    )
    from snakemake.cli import main as snakemake

    try:
        status = snakemake(
            [
                "--snakefile",
                str(ROOT / "Snakefile"),
                "--directory",
                str(ROOT),
                "--configfile",
                str(plan_file),
                "--cores",
                str(cores()),
                "--keep-going",
                "--rerun-incomplete",
                "--nolock",
                "--quiet",
                "all",
            ]
        )
    except SystemExit as end:
        status = end.code
    page = report.index(folder)
    print(
        f"{'failed' if status else 'done'} in {time.monotonic() - started:.0f} s; open {os.path.relpath(page)}",
        flush=True,
    )
    return 1 if status else 0


def train(args) -> int:
    """Train and measure one group's networks (those not in the store)."""
    watch_parent()
    names = tuple(n for n in args.notebooks.split(",") if n)
    settings, _ = _prepare(args, names)
    from lib.runtime import device, set_threads
    from lib.store import Store
    from lib.training.zoo import Zoo

    set_threads(int(os.environ.get("REPRO_THREADS", "0")) or None)
    zoo = Zoo(Store(), device(settings.device))
    mine = [t for t in plan(settings, names) if t.group == args.group]
    if not mine:
        raise unknown("group", args.group, groups(settings, names))
    for task in mine:
        if task.recipe.epochs and not zoo.store.has("network", task.recipe.key):
            zoo.obtain(task.recipe)
        for attack in task.attacks:
            zoo.outcomes(task.recipe, task.threat, attack)
    if args.done:
        args.done.parent.mkdir(parents=True, exist_ok=True)
        args.done.touch()
    return 0


def notebook(args) -> int:
    """Execute a notebook through papermill and render it, also when it fails half-way."""
    watch_parent()
    settings, given = _prepare(args, [args.name])
    import papermill

    from lib import report
    from lib.store import write_atomic

    folder = results() / settings.run / args.name
    folder.mkdir(parents=True, exist_ok=True)
    for old in ("claims.json", "card.json"):
        (folder / old).unlink(missing_ok=True)
    status = 0
    os.environ |= {"REPRO_HEADLESS": "1", "PYTHONPATH": str(ROOT)}
    try:
        papermill.execute_notebook(
            ROOT / "notebooks" / f"{args.name}.ipynb",
            folder / "notebook.ipynb",
            cwd=ROOT / "notebooks",
            parameters={"profile": args.profile, "overrides": given},
            progress_bar=False,
            log_output=True,
            stdout_file=sys.stdout,
            stderr_file=sys.stderr,
            request_save_on_cell_execute=True,
        )
    except Exception as error:
        status = 1
        card = {
            "notebook": args.name,
            "profile": settings.profile,
            "run": settings.run,
            "status": "failed",
            "error": str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__,
            "overrides": dict(settings.overrides),
        }
        write_atomic(folder / "card.json", json.dumps(card, indent=1))
        print(f"{args.name} failed: {card['error']}", file=sys.stderr, flush=True)
    if (folder / "notebook.ipynb").exists():
        report.render(folder / "notebook.ipynb")
    return status


def index(args) -> int:
    from lib import report

    print(report.index(args.folder))
    return 0


def publish(args) -> int:
    """Copy what a visitor reads; only from a commit that anyone can check out."""
    from lib import report

    source, place = results() / args.run, ROOT / "results" / "reference" / args.run
    cards = sorted(source.glob("*/card.json"))
    if not cards:
        raise SettingsError(f"run = {args.run} is not possible: results/{args.run} holds no finished notebook")
    for path in cards:
        card = json.loads(path.read_text())
        if card["status"] != "ok" or card["commit"] == "unknown" or card["commit"].endswith("+changes"):
            raise SettingsError(
                f"run = {args.run} is not possible: {path.parent.name} was run at commit {card.get('commit')} with "
                f"status {card['status']}; commit first, run again, then publish"
            )
    for path in cards:
        shutil.rmtree(place / path.parent.name, ignore_errors=True)
        shutil.copytree(path.parent, place / path.parent.name, ignore=shutil.ignore_patterns(".*"))
    report.index(place)
    report.readme(ROOT / "README.md")
    print(f"published {', '.join(p.parent.name for p in cards)} under {place.relative_to(ROOT)}")
    return 0


def readme(args) -> int:
    from lib import report

    report.readme(ROOT / "README.md")
    return 0


def store(args) -> int:
    """Show the store, or prune what no profile's plan names, or export and import it."""
    from lib.store import Store

    box = Store()
    if args.action in ("export", "import") and args.archive is None:
        raise SettingsError(f"store {args.action} needs the name of a .tar file")
    if args.action == "show":
        for kind, key, size, meta in box.entries():
            print(f"{kind:9} {key} {size / 1e6:8.2f} MB {meta['made_seconds']:7.1f} s  {meta.get('what', '')}")
    elif args.action == "prune":
        from lib.training.zoo import Zoo

        keep = set()
        for profile in profiles.profiles():
            for task in plan(profiles.load(profile)):
                keep.add(("network", task.recipe.key))
                keep |= {("outcomes", Zoo.outcome_key(task.recipe, task.threat, a)) for a in task.attacks}
        print(f"{box.prune(keep) / 1e6:.1f} MB freed: what no profile's plan names")
    elif args.action == "export":
        print(f"{box.export(args.archive)} entries written to {args.archive}")
    else:
        print(f"{box.import_(args.archive)} entries taken from {args.archive}")
    return 0


def code_digest() -> str:
    """A hash of the library's source: a notebook runs again (and replays from the store) when it changed."""
    from lib.recipe import digest

    return digest([plain(p.read_text()) for p in sorted((ROOT / "lib").rglob("*.py"))])
