"""What a run costs, and how much of it is left."""

import re
import subprocess
import sys
from dataclasses import replace

import pytest

from lib import cli
from lib.cards import ASSUMED_SHARE, CARDS
from lib.models import build
from lib.papers.plan import plan
from lib.papers.settings import load
from lib.prices import Countdown, Work, announce, longest_chain, makespan
from lib.runtime import ROOT, ProgressBar
from lib.store import Store
from lib.training import price


class Known:
    known = {"like": [10.0]}

    @staticmethod
    def seconds(recipe, like, flops):
        return 10.0


def countdown(likes=("like",), prices=None, notebooks=None):
    work = {f"job-{n}": [Work(f"job-{n}", None, 1e9, like) for like in likes] for n in range(4)}
    return Countdown(work, {"stitching": 30.0} if notebooks is None else notebooks, prices, 2)


COST = {"a": 3.0, "b": 2.0, "c": 2.0, "d": 1.0}
AFTER = {"c": {"a"}, "d": {"b", "in the store"}}


@pytest.mark.parametrize(("places", "seconds"), [(1, 8.0), (2, 5.0), (64, 5.0)])
def test_a_run_on_several_cards_lasts_until_its_last_job_is_done(places, seconds):
    assert makespan(COST, AFTER, places) == seconds
    assert makespan({}, {}, places) == 0


def test_however_many_cards_the_longest_chain_of_jobs_takes_its_time():
    assert longest_chain(COST, AFTER) == ["a", "c"] and longest_chain({}, {}) == []
    assert makespan(COST, AFTER, 64) == sum(COST[job] for job in longest_chain(COST, AFTER))


def test_a_place_takes_the_first_job_that_can_start_not_the_best_one():
    assert makespan({"short": 1.0, "other": 1.0, "long": 4.0}, {}, 2) == 5


def test_a_job_that_takes_several_places_waits_until_they_are_free():
    cost = {"short": 1.0, "wide": 2.0, "other": 1.0, "last": 1.0}
    assert makespan(cost, {}, 2, {"wide": 2}) == 1 + 2 + 1
    assert makespan(cost, {"last": {"wide"}}, 3, {"wide": 2}) == 3


def test_a_training_in_shares_is_as_much_faster_as_there_are_gpus_for_them():
    one, cut = Work("a", None, 1e9, "like"), Work("b", None, 1e9, "like", shares=4)
    for gpus, seconds in ((1, 10.0), (3, 5.0), (8, 2.5)):
        assert Countdown({"a": [one], "b": [cut]}, {}, Known, 1, gpus).cost == {"a": 10.0, "b": seconds}


def test_jobs_that_wait_for_each_other_are_refused():
    with pytest.raises(ValueError, match="a, b"):
        makespan({"a": 1.0, "b": 1.0}, {"a": {"b"}, "b": {"a"}}, 2)


def test_time_left_from_what_such_work_took_before():
    assert countdown(prices=Known).said(set(), 0) == "0 of 5 jobs, about 35 s left"
    assert countdown(prices=Known).said({"job-0", "job-1"}, 20.0) == "2 of 5 jobs, about 35 s left"


def test_nothing_is_claimed_of_what_is_not_known():
    assert countdown(likes=("new",), prices=Known).said(set(), 5) == "0 of 5 jobs"
    assert countdown(likes=("new",), prices=Known).said({"job-0"}, 60) == "1 of 5 jobs, about 3 min left"
    early = countdown(likes=("new",), prices=Known)
    early.cost["job-0"] = 0.01 * sum(early.cost.values())
    assert early.said({"job-0"}, 60) == "1 of 5 jobs", "a small job says nothing about the others"
    assert countdown(notebooks={"stitching": None}).said({"job-0"}, 60) == "1 of 5 jobs, about 3 min of training left"
    assert countdown(notebooks={"stitching": None}).said({f"job-{n}" for n in range(4)}, 60) == "4 of 5 jobs"
    every = {"job-0", "job-1", "job-2", "job-3", "stitching"}
    assert countdown().said(every, 60) == "5 of 5 jobs"


@pytest.fixture
def empty(tmp_path, monkeypatch):
    monkeypatch.setenv("REPRO_STORE", str(tmp_path / "store"))
    monkeypatch.setattr(price, "measured_rate", lambda recipe, where, seconds=1.0: 1e9)


@pytest.fixture
def asked(empty, monkeypatch, capsys):
    """Prices a profile and returns the lines that are printed."""
    monkeypatch.setenv("REPRO_PRECISION", "bf16")
    monkeypatch.setenv("REPRO_DATA", "nowhere")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)

    def ask(*options, profile="test"):
        assert cli.main(["run", "--profile", profile, "--dry-run", *options]) == 0
        return capsys.readouterr().out.splitlines()

    return ask


def test_prices_are_told_by_notebook_and_kind_of_work(asked):
    lines = asked()
    counts = {line.partition(":")[0]: int(re.search(r"(\d+) networks", line)[1]) for line in lines
              if " in the store)" in line}
    assert counts.keys() == {"pool (shared)", *load("test").notebooks}
    assert sum(counts.values()) == sum(task.recipe.stored for task in plan(load("test")))
    assert any(line.startswith("profile test on cpu: about ") for line in lines)
    assert any(re.fullmatch(r" +\d+ \w+  \d+ x training of .*", line) for line in lines)
    assert lines[-1] == "nothing was run; --all lists every training and measurement"
    assert max(map(len, lines)) <= 100


def test_what_notebooks_measure_themselves_is_priced(asked):
    said = "\n".join(asked("--all"))
    for what in ("checks of attacks", "class scores of training images", "similarity maps", "adversarial images",
                 "sensitivity", "tangent spaces", "gradients of every class", "checks for masked gradients"):
        assert what in said, what
    assert "off_manifold_robustness: not priced: " in said


def test_every_training_is_listed_if_all_are_asked_for(asked):
    said = asked("--all", "harp_pruning")
    for task in plan(load("test"), ("harp_pruning",)):
        if task.recipe.stored:
            assert any(f"[{task.recipe.key}]" in line for line in said)


def test_a_card_that_is_not_here_is_priced_from_its_peak_rate(asked, monkeypatch):
    monkeypatch.setattr(price, "measured_rate", None)
    said = " ".join(asked("--on", "h200", "harp_pruning", profile="gpu"))
    assert "profile gpu on an H200: about " in said and "assumed, not measured: 20% of the peak rate" in said
    assert " of 141 GB" in said and "missing data" in said and "cifar10" in said and "warning" not in said
    recipe = load("gpu", {"networks.precision": "bf16"}).networks.member("N", 0, int)
    assert CARDS["h200"].seconds(recipe, "", 989e12 * ASSUMED_SHARE * 60) == pytest.approx(60)
    single = replace(recipe, precision="fp32")
    assert CARDS["a100"].seconds(single, "", 1e15) == 16 * CARDS["a100"].seconds(recipe, "", 1e15)


@pytest.mark.parametrize("args, words", [
    (["--dry-run", "--on", "h20"], "unknown card of --on 'h20'"), (["--on", "h200"], "without --dry-run"),
    (["--all"], "--all is not possible without --dry-run"),
])
def test_an_impossible_card_is_one_sentence(args, words, monkeypatch, capsys):
    monkeypatch.setenv("REPRO_PRECISION", "bf16")
    assert cli.main(["run", "--profile", "test", *args]) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1


def test_a_profile_for_gpus_starts_on_a_cpu_only_after_a_yes(empty, monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    started = []
    monkeypatch.setattr("lib.batch.run_graph", lambda *args: started.append(args) or 0)
    assert cli.main(["run", "--profile", "gpu", "harp_pruning"]) == 2 and not started
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "is made for a GPU" in said and "it would take about " in said and "--yes" in said
    assert cli.main(["run", "--profile", "gpu", "harp_pruning", "--yes"]) == 0 and len(started) == 1
    assert cli.main(["run", "--profile", "test", "harp_pruning"]) == 0 and len(started) == 2


def test_memory_and_disk_grow_with_what_is_trained():
    recipe = load("gpu").networks.member("R", 0, int)
    larger, kept = replace(recipe, batch_size=2 * recipe.batch_size), replace(recipe, keep=(1, 2))
    assert price.memory(recipe) < price.memory(larger) < 2 * price.memory(recipe)
    assert price.disk(kept) == 3 * price.disk(recipe) > 0
    assert price.images(recipe.data) == (recipe.data.n_train + recipe.data.n_test) * 3 * 32 * 32
    net = build(recipe)
    assert price.counted(recipe).parameters == sum(p.numel() for p in net.parameters())


def test_counting_imports_no_compilers_and_draws_nothing():
    """They would take a process six seconds; whoever counts must find torch's generator as it was."""
    code = """import sys, torch
from lib.papers.settings import load
from lib.training import price
before = torch.get_rng_state()
assert price.training(load("test").networks.member("R", 0, int)) > 0
assert torch.equal(torch.get_rng_state(), before) and "torch._dynamo" not in sys.modules
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=240).returncode == 0


def test_measuring_speeds_ends_in_time(empty, tmp_path):
    asked = price.Prices(Store(), "cpu", patience=-1.0)
    asked.measured = {"a": 1e9, "b": 3e9}
    recipe = load("smoke").networks.member("R", 0, int)
    assert asked.seconds(recipe, "never seen", 4e9) == 2.0, "the median rate of those that were measured"


def test_a_notebook_says_beforehand_what_it_will_cost(empty):
    said = announce(load("test"), "stitching", Store(), "cpu")
    assert said.startswith("stitching at test: ") and ", 0 of them in the store; " in said and said.endswith(" on cpu")


def test_an_inner_bar_is_named_after_what_the_outer_one_works_on(monkeypatch, capsys):
    monkeypatch.setattr("lib.runtime.interactive", lambda: True)
    with ProgressBar(2, "networks", "network") as outer:
        outer.work_on("N->R layer1.0, repetition 2")
        with ProgressBar(3, "digits of a4ea56 + 70d14e", "step") as inner:
            assert inner.bar.desc.startswith("for N->R layer1.0, repetition 2")
    with ProgressBar(3, "digits", "step") as alone:
        assert alone.bar.desc.startswith("digits")


def test_a_line_of_progress_is_a_sentence(monkeypatch, capsys):
    monkeypatch.setattr("lib.runtime.interactive", lambda: False)
    with ProgressBar(4, "pruned networks", "network", every=-1.0) as bar:
        bar.work_on("LWM at 0.1")
        bar.step(loss=0.25)
    said = capsys.readouterr().out.splitlines()[0]
    assert said.startswith("pruned networks: 1 of 4 networks, LWM at 0.1, loss 0.25; ") and said.endswith(" left")

