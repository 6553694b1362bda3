"""What a run costs, and how much of it is left."""

import pytest

from lib import cli
from lib.papers.plan import plan
from lib.papers.settings import load
from lib.prices import Countdown, Work, announce
from lib.runtime import ProgressBar
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


def test_prices_are_summed_by_notebook(empty, capsys):
    assert cli.main(["run", "--profile", "test", "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: line.split() for line in lines[1:9]}
    assert {"pool", "stitching", "all"} <= rows.keys()
    assert int(rows["all"][1]) == sum(task.recipe.stored for task in plan(load("test")))
    assert lines[9].startswith("profile test on cpu: about ") and lines[-1].endswith("nothing was run")


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

