"""One training by several processes, one on each device, which take their shares of every batch (`Recipe.shares`)."""

from __future__ import annotations

import copy
import datetime
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from lib.errors import OneLineError
from lib.files import load_state, save_state
from lib.runtime import device, set_threads
from lib.training.loop import fit
from lib.training.memory import named_when_full
from lib.training.team import Team
from lib.values.recipe import Recipe, together

TRAINED = "trained.pt"  # what the first process hands over
PATIENCE = datetime.timedelta(days=1)  # others wait while the first measures; of a process that dies torch tells


def devices_for(recipe: Recipe, where: torch.device) -> list[str]:
    """The devices on which to train: all visible GPUs that can have equally many of the recipe's shares, or `where`
    alone where it is a CPU or one GPU by number.
    """
    if where.type != "cuda" or where.index is not None or recipe.shares == 1:
        return [str(where)]
    return [f"cuda:{n}" for n in range(together(recipe.shares, torch.cuda.device_count()))]


def fit_together(net: nn.Module, recipe: Recipe, inputs: Callable[[torch.device], dict], devices: list[str],
                 work: Path, compiled: bool = False) -> list[dict]:
    """As `lib.training.loop.fit`, by a process on each of the devices, whose number divides `recipe.shares`. Each calls
    `inputs`, which can be pickled, with its device, for the further arguments of `fit`.

    Raises what the training raises, and OneLineError if a process was killed.
    """
    from torch.multiprocessing import get_context, spawn
    from torch.multiprocessing.spawn import ProcessException

    failed, rows = get_context("spawn").SimpleQueue(), []

    def take(state: dict) -> None:
        net.load_state_dict(state["net"])
        rows.extend(state["rows"])

    with tempfile.TemporaryDirectory() as meeting:
        given = net.cpu(), recipe, inputs, devices, work, compiled, torch.get_num_threads(), Path(meeting), failed
        processes = spawn(_member, args=given, nprocs=len(devices), join=False)
        try:
            while not processes.join():
                pass
            if not load_state(Path(meeting) / TRAINED, take):
                raise OneLineError(f"{recipe.describe()}: what its {len(devices)} processes left cannot be read")
        except ProcessException:  # the rest was sent SIGTERM, or complains that it has lost one
            if not failed.empty():
                raise failed.get() from None
            ends = {n: process.exitcode for n, process in enumerate(processes.processes)}
            killed = [n for n, end in ends.items() if end < 0 and end != -signal.SIGTERM]
            if not killed:
                raise
            raise OneLineError(
                f"{recipe.describe()}: process {killed[0] + 1} of the {len(devices)} that train it was killed by "
                f"signal {-ends[killed[0]]}; the same command goes on from the last checkpoint") from None
        finally:  # also if this process alone is interrupted
            for process in processes.processes:
                process.kill()
                process.join()
    return rows


def _member(rank: int, net, recipe: Recipe, inputs, devices: list[str], work: Path, compiled: bool, threads: int,
            meeting: Path, failed) -> None:
    """One process of a team."""
    where = device(devices[rank])
    if where.type == "cuda":
        torch.cuda.set_device(where)
    set_threads(max(1, threads // len(devices)))
    if rank:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (the first process reports)
    dist.init_process_group("cpu:gloo,cuda:nccl" if where.type == "cuda" else "gloo", rank=rank, timeout=PATIENCE,
                            world_size=len(devices), init_method=(meeting / "meeting").as_uri())
    try:
        with named_when_full(recipe.describe()):
            net = copy.deepcopy(net)  # the one that came lies in memory that all share
            rows = fit(net, recipe, work=work, compiled=compiled, team=Team(rank, len(devices)), **inputs(where))
        if rank == 0:
            save_state(meeting / TRAINED, {"net": net.state_dict(), "rows": rows})
    except OneLineError as error:
        failed.put(error)
        sys.exit(1)
    dist.destroy_process_group()
