"""The command line behind benchmarks/run.sh."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path

from lib.cli import Parser, run_command
from lib.errors import need, unknown

NAMES = ("training", "data", "evaluation", "autoattack", "similarity", "tangents", "alignment")


def main(argv: list[str] | None = None) -> int:
    """Run one benchmark and print its rows; returns the exit status, 2 for an error of the user's or a disagreement."""
    argv = sys.argv[1:] if argv is None else argv

    def do():
        if argv[:1] in (["torture"], ["coverage"]):  # no races, so they need no peers
            return importlib.import_module(f"benchmarks.{argv[0]}").main(argv[1:])
        args = parsed(argv)
        from benchmarks import environment

        environment.enter(argv)
        return run(args)

    return run_command(do)


def parsed(argv: list[str]) -> argparse.Namespace:
    parser = Parser(prog="benchmarks/run.sh", description="Run lib and its peers in turn on the same work. Ratios say "
                    "how many times faster lib is.")
    parser.script = parser.prog
    parser.add_argument("name", metavar="NAME", help=f"one of {', '.join(NAMES)}")
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write the rows to this file, after each race")
    parser.add_argument("--quick", action="store_true", help="small sizes, to try it out; the times mean nothing")
    parser.add_argument("--repeats", type=int, metavar="N", help="timed rounds (default: 5, fewer where one is long)")
    parser.add_argument("--images", type=int, metavar="N", help="of similarity and autoattack: how many")
    parser.add_argument("--device", default="auto", help="auto (the default), cpu or cuda")
    args = parser.parse_args(argv)
    if args.name not in NAMES:
        raise unknown("benchmark", args.name, NAMES)
    need(args.repeats is None or args.repeats >= 1, "--repeats", args.repeats, "at least 1")
    counted = args.images is None or args.name in ("similarity", "autoattack")
    need(counted, "--images", args.images, f"left out of {args.name}")
    need(args.images is None or args.images >= 1, "--images", args.images, "at least 1")
    return args


def run(args: argparse.Namespace) -> int:
    from benchmarks.timing import Run, text
    from lib.files import write_atomic
    from lib.runtime import device

    benchmark = importlib.import_module(f"benchmarks.{args.name}")
    rows = []
    for row in benchmark.rows(Run(device(args.device), args.quick, args.repeats, args.images)):
        print(text(row), flush=True)
        rows.append(row)
        if args.json:
            write_atomic(args.json, json.dumps(rows, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
