"""The command line behind run_all.sh: `python -m lib run | again | compare | ...`.

`run` checks everything first, lets Snakemake do what is missing (Snakefile), and writes the index page even
after failures. `train` and `notebook` are the jobs that Snakemake starts.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path

from lib import batch, gpus, slurm
from lib import site as report
from lib.cards import CARDS
from lib.errors import OneLineError, SettingsError, need
from lib.files import is_file_name, read_json, sentence, write_atomic
from lib.papers import papers
from lib.papers import settings as profiles
from lib.papers.plan import chosen, plan
from lib.parameters import full_names, put
from lib.profiles.frozen import STARTS, starts
from lib.profiles.loader import parse
from lib.runtime import FOR_GPUS, ROOT, cores, results
from lib.store import Store

STOPPED = 130  # the exit status after an interrupt
COMMANDS = ("test", "lab", "look", "again", "compare", "verify", "publish", "freeze", "store", "new-paper", "index",
            "readme", "settings")


class Parser(argparse.ArgumentParser):
    """Reports unknown options as one-line errors, like all others. script: the command whose help they name."""

    script = "./run_all.sh"

    def error(self, message):
        raise SettingsError(f"{message}; see {self.script} --help")


def main(argv: list[str] | None = None) -> int:
    """Run a command; returns the exit status as `run_command` does."""

    def do():
        args = parser().parse_args(argv)
        return args.do(args)

    status = run_command(do)
    if status == STOPPED:
        print("stopped; the same command resumes from here", file=sys.stderr)
    return status


def run_command(do: Callable[[], int | None]) -> int:
    """Call `do` and return its exit status, where None counts as 0. An error of the user or the system (rights, a full
    disk) gives one line on standard error and status 2, an interrupt gives STOPPED. Relative folders in environment
    variables become absolute first, and characters that the terminal cannot show are replaced.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    for name in ("REPRO_DATA", "REPRO_RESULTS", "REPRO_STORE", "REPRO_SLURM"):  # jobs and kernels run in other folders
        if os.environ.get(name):
            os.environ[name] = str(Path(os.environ[name]).expanduser().resolve())
    try:
        status = do() or 0
        sys.stdout.flush()
        return status
    except OneLineError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of the output has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        print(f"error: {sentence('a file or folder cannot be used', error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return STOPPED


def parser() -> argparse.ArgumentParser:
    top = Parser(prog="python -m lib", description="The command line behind run_all.sh.")
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

    p = command("run", run, "run notebooks (all by default): train what is missing, execute, write the report", True)
    p.add_argument("notebooks", nargs="*", metavar="NOTEBOOK", help=f"of {', '.join(papers())} (default: all)")
    p.add_argument("--seeds", type=int, metavar="N", help="repetitions of every experiment, at most so many of a part")
    p.add_argument("--jobs", type=int, metavar="N", help="parallel jobs (default: one per GPU or, on a CPU, one per "
                                                         "core; threads are shared)")
    p.add_argument("--gpus", metavar="N|IDS", help="how many GPUs to use, or which, such as 0,3 (default: all that "
                                                   "torch sees); with --on, how many cards share the work")
    p.add_argument("--dry-run", action="store_true", help="show what would be done and what it costs; do nothing")
    p.add_argument("--on", metavar="NAME", help="with --dry-run or --rehearse, the price on a card that you need not "
                                                "have: h200, h100, a100, 4090; with --slurm, the card of its nodes")
    p.add_argument("--slurm", action="store_true", help="run on a cluster: every job is one of Slurm, as "
                                                        "configs/slurm/config.yaml says (docs/scale.md)")
    p.add_argument("--all", action="store_true", help="with --dry-run, a line for every training and measurement")
    p.add_argument("--yes", action="store_true", help="start a profile made for a GPU on a CPU")
    p.add_argument("--rehearse", action="store_true", help="run every kind of work in miniature on made-up data, and "
                                                           "report what runs and what the real work needs")
    p = command("train", train, "train and measure the networks of one batch job of the plan", True)
    p.add_argument("job")
    p.add_argument("--notebooks", default="")
    p.add_argument("--done", type=Path)
    p = command("notebook", notebook, "execute and render one notebook (a batch job)", True)
    p.add_argument("name")
    p = command("index", index, "rewrite index.html of a run's folder")
    p.add_argument("folder", metavar="FOLDER", type=Path)
    p = command("publish", publish, "copy a run's report to results/reference and update the table of claims")
    p.add_argument("run", metavar="RUN", help="name of a folder under results/, e.g. smoke")
    p.add_argument("--yes", action="store_true", help="replace what is published under this name")
    p = command("freeze", freeze, "draw seeds and test images for a run to publish, and note expected verdicts")
    p.add_argument("notebooks", nargs="*", metavar="NOTEBOOK", help=f"of {', '.join(papers())} (default: all)")
    p.add_argument("--profile", required=True, help=f"one of {', '.join(profiles.profiles())}")
    p = command("look", look, "look at any networks through the lenses, next to the references of a profile; status 1 "
                              "if a lens failed")
    p.add_argument("sources", nargs="+", metavar="SOURCE",
                   help="FILE.py:function or package.module:function (called without arguments, gives a network), "
                        "robustbench:NAME, or a file of weights")
    p.add_argument("--profile", default="smoke", help=f"one of {', '.join(profiles.profiles())} (default smoke): whose "
                                                      "references and test images")
    p.add_argument("--normaliser", action="append", metavar="HOW",
                   help="what the networks expect of pixels: inside (they take pixels in [0, 1]), a usual one by name "
                        "(imagenet, cifar10, ...), or MEAN/STD with commas between channels; once, or for each SOURCE")
    p.add_argument("--weights", action="append", metavar="FILE", help="the weights of a function's network, for each "
                                                                      "SOURCE")
    p.add_argument("--name", action="append", help="how tables and figures call a network, for each SOURCE (default: "
                                                   "the end of SOURCE); the results' folder has these names")
    p.add_argument("--data", help="the data set of the networks; must be the profile's")
    p.add_argument("--lens", metavar="NAME,...", help="only these lenses (default: all that the networks allow except "
                                                      "prunability, which trains them and must be named)")
    p.add_argument("--images", type=int, metavar="N", help="the first N test images (default: 200)")
    p.add_argument("--make", action="store_true", help="train the references even where there are ready-made ones")
    p.add_argument("--dry-run", action="store_true", help="show what it takes; do nothing")
    p.add_argument("--yes", action="store_true", help="start a profile made for a GPU on a CPU")
    p = command("again", again, "train (or load) and measure single networks, and show what was published", True)
    p.add_argument("keys", nargs="+", metavar="KEY",
                   help="a recipe key, from the column network of tables, or its first characters")
    p = command("compare", compare, "compare the claims of a run with the published ones or those of another run; "
                                    "status 1 if they disagree")
    p.add_argument("run", metavar="RUN", help="name of a folder under results/, e.g. smoke")
    p.add_argument("other", metavar="OTHER", nargs="?", help="another one (default: the published run of that name)")
    p.add_argument("--page", action="store_true", help="also write a page that compares them claim by claim")
    p = command("verify", verify,
                "compute the verdicts of a results folder again from its files; status 1 for differences")
    p.add_argument("folder", metavar="FOLDER", type=Path, nargs="?", default=ROOT / "results" / "reference",
                   help="of a run or a notebook (default: results/reference)")
    p = command("new-paper", new_paper, "write the skeleton of another paper, which runs as written")
    p.add_argument("name", metavar="NAME", help="its name in lower case, such as feature_purification")
    command("readme", readme, "write the published pages and the tables of README.md again, from results/reference")
    command("settings", settings_page, "write docs/settings.md, the table of settings, from code and profiles")
    p = command("store", store, "show, prune, export or import the store of networks and outcomes")
    p.add_argument("action", nargs="?", choices=["show", "prune", "export", "import"], default="show")
    p.add_argument("archive", nargs="?", type=Path, help="the .tar file of export and import")
    p.add_argument("--all", action="store_true", help="show every entry, not only the sums")
    p.add_argument("--ready-made", metavar="PROFILE", help="export only what a look needs of a profile's references, "
                                                           "as data/ready_made has it")
    return top


def overrides(args, notebooks: tuple[str, ...]) -> dict:
    """Dotted overrides from -p and --seeds. A bare name, also one with further parts (`prune.epochs`), applies to
    every chosen notebook that has the setting.
    """
    found = {}
    for text in [*args.parameter, *([f"seeds={args.seeds}"] if getattr(args, "seeds", None) is not None else [])]:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise SettingsError(f"-p {text} is not possible: it must read name=value")
        if name.strip() == "profile":
            raise SettingsError(f"-p {text} is not possible: a profile is chosen by --profile {value.strip()}")
        for full in full_names(name.strip(), notebooks):
            put(found, full, parse(value, name.strip()))
    return found


def _named(words: list[str]) -> tuple[str, ...]:
    """The notebooks that the words name, also by their files. Raises SettingsError for profiles and for commands, which
    are often typed where a notebook belongs, with what to type instead.
    """
    names = tuple(Path(word).stem if word.endswith(".ipynb") else word for word in words)
    for name in names:
        if name == "all":
            raise SettingsError("unknown notebook 'all': name none of them to run all")
        if name in profiles.profiles():
            raise SettingsError(f"{name} is a profile, not a notebook: type --profile {name}")
        near = get_close_matches(name, COMMANDS, 1, 0.7)
        if name not in papers() and near and not get_close_matches(name, papers(), 1, 0.7):
            raise SettingsError(f"unknown notebook '{name}': type the command first, {Parser.script} {near[0]}")
    return names


def _prepare(args, notebooks) -> tuple[profiles.Settings, dict]:
    """The settings, and the overrides in them. Recipes check what no single setting shows: the caller makes the plan.
    """
    notebooks = chosen(profiles.load(args.profile), tuple(notebooks))
    given = overrides(args, notebooks)
    return profiles.load(args.profile, given), given


def run(args) -> int:
    """Run the batch graph, then write the index. Status 1 if a job failed."""
    names, card, most = _named(args.notebooks), _card(args), _most_on_slurm(args)
    settings, given = _prepare(args, names)
    notebooks = chosen(settings, names)
    need(args.jobs is None or args.jobs >= 1, "--jobs", args.jobs, "1 or more")
    on = ("",) * _cards(args.gpus) if card else () if most else gpus.chosen(args.gpus, settings.device)
    jobs = args.jobs or most or (len(on) if on else 1 if ":" in settings.device else cores())
    from lib import claims

    for name in notebooks:
        claims.load(name)  # refused now rather than by the notebook's last cell
    from lib.dry_run import price_list, refuse_without_gpu

    if args.dry_run:
        return price_list(settings, notebooks, jobs, card, args.all, max(1, len(on)))
    plan(settings, notebooks)  # recipes check what no single setting shows
    if args.rehearse:
        from lib.rehearsal import rehearse

        return rehearse(settings, given, notebooks, jobs, card)
    if not args.yes and not most:
        refuse_without_gpu(settings, notebooks, jobs)
    settings.note_start(notebooks, "run")
    if most:
        card = card or CARDS[slurm.CARD] if slurm.on_gpus(settings) else None
        return batch.run_graph(settings, given, notebooks, jobs, (), slurm.Head(results() / settings.run, jobs), card)
    return batch.run_graph(settings, given, notebooks, jobs, on)


def _card(args):
    """The card that `--on` names, on which the precision `auto` means bf16; None without `--on`. Raises SettingsError
    for what only a dry run can do.
    """
    if args.all and not args.dry_run:
        raise SettingsError("--all is not possible without --dry-run, to which it belongs")
    if args.on and not (args.dry_run or args.rehearse or args.slurm):
        raise SettingsError("--on is not possible without --dry-run, --rehearse or --slurm, to which it belongs")
    if not args.on:
        return None
    from lib.cards import card

    found = card(args.on)
    os.environ["REPRO_PRECISION"] = "bf16"
    return found


def _most_on_slurm(args) -> int:
    """How many jobs `--slurm` submits at a time by its profile; 0 without it. Raises SettingsError if none can be
    submitted, or for options that belong to one machine.
    """
    if not args.slurm:
        return 0
    for name in ("gpus", "dry_run", "rehearse"):
        if getattr(args, name):
            raise SettingsError(f"--slurm is not possible with --{name.replace('_', '-')}: that is for one machine")
    if args.profile in FOR_GPUS:  # the login node, which may have none, does not decide it
        os.environ.setdefault("REPRO_PRECISION", "bf16")
    return slurm.check()


def _cards(text: str | None) -> int:
    """How many of the cards of `--on` share the work, by `--gpus`."""
    need(text is None or text.isdecimal() and int(text) >= 1, "--gpus", text, "with --on, how many cards: 1 or more")
    return int(text or 1)


def train(args) -> int:
    names = tuple(n for n in args.notebooks.split(",") if n)
    settings, _ = _prepare(args, names)
    batch.train_job(settings, names, args.job, args.done)
    return 0


def notebook(args) -> int:
    settings, given = _prepare(args, [args.name])
    plan(settings, (args.name,))
    return batch.run_notebook(settings, given, args.name)


def look(args) -> int:
    """Look at networks through the lenses. Status 1 if a lens failed."""
    from lib.look.command import run

    return run(args)


def freeze(args) -> int:
    """Freeze papers for a profile, and print what was drawn."""
    from lib.papers.freeze import freeze
    from lib.profiles.frozen import place

    found = freeze(args.profile, tuple(args.notebooks))
    print(f"profile {args.profile}: first seed {found.first_seed}")
    for paper in found.papers:
        print(f"{paper.name}: frozen on {paper.frozen} at commit {paper.commit}, draw {paper.test_draw} of test "
              f"images, {len(paper.claims)} claims")
    print(f"written to {place(args.profile).relative_to(ROOT)}: commit it before the run; first_seed: frozen in "
          f"configs/{args.profile}.yaml uses the seed")
    return 0


def again(args) -> int:
    """Networks by their keys: train what is missing, measure, and print the results and the published rows."""
    settings, _ = _prepare(args, ())
    tasks, found = {task.recipe.key: task for task in plan(settings)}, []
    for key in args.keys:
        alike = [known for known in tasks if known.startswith(key)]
        if len(alike) != 1:
            raise SettingsError(f"KEY = {key} is not possible: it must be a key, or its first characters, of one "
                                f"network of profile {settings.profile} ({len(alike)} have it); keys stand in the "
                                f"column network of the tables under results/reference/{settings.profile} and "
                                f"results/{settings.profile}; they depend on networks.precision, here "
                                f"{settings.networks.precision}, which -p networks.precision=... changes")
        found.append(tasks[alike[0]])
    batch.again(found, settings)
    return 0


def compare(args) -> int:
    """Compare every claim of a run with the published one, or with another run. Status 1 if any disagrees."""
    run, published = _run_folders(args.run)
    if args.other:
        published, _ = _run_folders(args.other)
    word, what = (args.other, "run") if args.other else ("published", "published run")
    for folder, kind in ((run, "run"), (published, what)):
        if not folder.is_dir():
            others = sorted(path.parent.parent.name for path in folder.parent.glob("*/*/claims.json"))
            there = f"there are {', '.join(dict.fromkeys(others))}" if others else "there is none yet"
            raise SettingsError(f"run = {folder.name} is not possible: there is no {kind} {folder}; {there}")
    table = report.compare(run, published)
    values = table[table["comparison"] != "verdict"]
    for row in table[~table["agrees"]].itertuples():
        print(f"{row.notebook} {row.claim} {row.comparison}: {word} {row.published}, here {row.here}: {row.why}")
    ones = f"those of {word}" if args.other else "the published ones"
    print(f"{table['notebook'].nunique()} notebooks, {len(values)} values: {values['equal'].sum()} equal to {ones}, "
          f"{values['agrees'].sum()} in agreement; {(~table['agrees']).sum()} disagreements")
    if args.page:
        print(report.compare_page(run, published, results() / "compared" / f"{args.run} and {word}.html"))
    return int(not table["agrees"].all())


def verify(args) -> int:
    """Compute every verdict of a results folder again from the files in it. Status 1 if any differs."""
    from lib import claims

    count, wrong = claims.verify(_folder(args.folder))
    print("\n".join([*wrong, f"{count} comparisons computed again from their evidence; {len(wrong)} differences"]))
    return int(bool(wrong))


def _folder(given: Path) -> Path:
    """The folder of a run, from its path or from its name under results/."""
    folder = given if given.is_dir() else results() / given
    need(folder.is_dir(), "folder", given, "the folder of a run, such as results/smoke")
    return folder


def _run_folders(run: str) -> tuple[Path, Path]:
    """The folder of a run, and the folder of its published report."""
    need(is_file_name(run), "run", run, "the name of a folder under results/, such as smoke")
    return results() / run, ROOT / "results" / "reference" / run


def index(args) -> int:
    print(report.index(_folder(args.folder)))
    return 0


def publish(args) -> int:
    """Copy what a visitor reads, in reduced size; only from a commit that anyone can check out."""
    source, place = _run_folders(args.run)
    need(profiles.REHEARSAL not in args.run.split("+"), "run", args.run, "a run, not a rehearsal, of which no number "
         "means anything")
    cards = sorted(source.glob("*/card.json"))
    if not cards:
        raise SettingsError(f"run = {args.run} is not possible: results/{args.run} holds no finished notebook")
    for path in cards:
        card = read_json(path)
        commit, status = str(card.get("commit", "unknown")), card.get("status")
        if status != "ok" or commit == "unknown" or commit.endswith("+changes"):
            raise SettingsError(
                f"run = {args.run} is not possible: {path.parent.name} was run at commit {commit} with status "
                f"{status}; commit first, run again, then publish"
            )
    old = [path.parent.name for path in cards if (place / path.parent.name).exists()]
    if old and not args.yes:
        many = f"{len(old)} notebook{'s' * (len(old) > 1)}"
        raise SettingsError(f"publishing replaces {many} under {place.relative_to(ROOT)} ({', '.join(old)}) "
                            f"and the table of claims by those of results/{args.run}: add --yes if you want that")
    for path in cards:
        shutil.rmtree(place / path.parent.name, ignore_errors=True)
        shutil.copytree(path.parent, place / path.parent.name, ignore=shutil.ignore_patterns(".*"))
        report.shrink(place / path.parent.name)
    if log := starts(args.run.partition("+")[0], place / STARTS):
        write_atomic(place / STARTS, log)
    report.published(place.parent)
    report.readme(ROOT / "README.md")
    print(f"published {', '.join(p.parent.name for p in cards)} under {place.relative_to(ROOT)}")
    return 0


def new_paper(args) -> int:
    """Write a skeleton that runs as written, and print the next steps."""
    from lib import new_paper

    for path in new_paper.write(args.name, ROOT):
        print(path.relative_to(ROOT))
    subprocess.run([sys.executable, "-m", "lib", "settings"], cwd=ROOT, check=True)  # one that knows the paper
    print(f"\nIt runs as written: ./run_all.sh --profile test {args.name}, ./run_all.sh test tests/papers/{args.name}\n"
          f"Then replace it part by part, first claims/{args.name}.yaml: see CONTRIBUTING.md, \"A paper\".")
    return 0


def readme(args) -> int:
    """Write all that shows answers, readings and corrections: pages of papers, the published site, Markdown tables."""
    reference = ROOT / "results" / "reference"
    for notebook in sorted(reference.glob("*/*/notebook.ipynb")):
        report.render(notebook)
    report.published(reference)
    report.readme(ROOT / "README.md")
    return 0


def settings_page(args) -> int:
    report.write_settings()
    return 0


def store(args) -> int:
    """Show the store, prune entries that no profile's plan needs, or export or import entries."""
    box = Store()
    if args.action in ("export", "import") and args.archive is None:
        raise SettingsError(f"store {args.action} needs the name of a .tar file")
    if args.ready_made and args.action != "export":
        raise SettingsError("--ready-made is not possible without store export, to which it belongs")
    if args.action == "show":
        print("\n".join(box.listing(args.all)))
    elif args.action == "prune":
        keep = set()
        for profile, precision in itertools.product(profiles.profiles(), ("fp32", "bf16")):
            for task in plan(profiles.load(profile, {"networks.precision": precision})):
                keep.add(("network", task.recipe.key))
        print(f"{box.prune(keep) / 1e6:.1f} MB freed: entries that no profile's plan needs, and damaged ones")
    elif args.action == "export" and args.ready_made:
        from lib.look.work import export

        print(f"{export(args.ready_made, args.archive)} entries written to {args.archive}")
    elif args.action == "export":
        print(f"{box.export(args.archive)} entries written to {args.archive}")
    else:
        print(f"{box.import_(args.archive)} entries imported from {args.archive}")
    return 0


