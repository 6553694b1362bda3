"""The benchmarks' contract: rows, races, names. No times are tested."""

import importlib
import itertools
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import coverage, evaluation, networks, similarity, timing
from benchmarks.peers import train, with_weight_gradients
from benchmarks.timing import Run, compared, race, text
from benchmarks.training import ATTACK, THREAT, made_up
from lib.errors import SettingsError
from lib.models import build
from lib.models.taps import taps
from lib.runtime import ROOT, generator, initialise_with
from lib.statistics import Interval
from lib.values.architectures import WideResNet
from lib.values.data import Data
from lib.values.objectives import CrossEntropy
from lib.values.recipe import Recipe

COLUMNS = {"name": str, "ours": str, "peer": str, "ours_median_s": float, "peer_median_s": float,
           "ratio_median": float, "repeats": int, "note": str}
CPU = Run(torch.device("cpu"), quick=True)


@pytest.fixture
def clock(monkeypatch):
    """A clock that only contenders move: `clock(seconds, ...)` makes one that takes so long, call after call."""
    now = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])

    def contender(name, log, *seconds):
        left = list(seconds)

        def run():
            log.append(name)
            now[0] += left.pop(0)
            return f"{name} {len(log)}"

        return run

    return contender


def test_a_race_warms_up_and_then_alternates(clock):
    log = []
    contenders = {"lib": clock("lib", log, 90, 1, 2, 9), "peer": clock("peer", log, 90, 2, 8, 3)}
    results, seconds = race(contenders, CPU, 3)
    assert log == ["lib", "peer"] + ["lib", "peer", "peer", "lib", "lib", "peer"]
    assert seconds == {"lib": [1, 2, 9], "peer": [2, 8, 3]}
    assert results == {"lib": "lib 1", "peer": "peer 2"}, "what a contender returns is of its first run"


def test_the_warm_up_can_be_smaller_work_and_gives_no_result(clock):
    log = []
    results, seconds = race({"lib": clock("lib", log, 4)}, CPU, 1, warm_up={"lib": clock("small", log, 90)})
    assert log == ["small", "lib"] and seconds == {"lib": [4]} and results == {"lib": "lib 2"}


def test_a_row_holds_medians_a_piece_and_the_median_of_the_ratios_of_a_round():
    seconds = {"lib": [1.0, 2.0, 9.0], "a": [2.0, 8.0, 3.0], "b": [1.0, 1.0, 1.0]}
    rows = list(compared("work", ["lib"], seconds, lambda ours, peer: f"{ours} and {peer}", per=2))
    assert [(row["peer"], row["note"]) for row in rows] == [("a", "lib and a"), ("b", "lib and b")]
    assert rows[0] == {"name": "work", "ours": "lib", "peer": "a", "ours_median_s": 1.0, "peer_median_s": 1.5,
                       "ratio_median": 2.0, "repeats": 3, "note": "lib and a"}
    assert "2.000 x" in text(rows[0]) and "work" in text(rows[0])


def test_data_writes_rows_of_the_contract(tmp_path, capsys):
    file = tmp_path / "new folder" / "rows.json"
    args = command.parsed(["data", "--quick", "--repeats", "1", "--device", "cpu", "--json", str(file)])
    assert command.run(args) == 0
    rows = json.loads(file.read_text())
    assert len(rows) == 2 and capsys.readouterr().out.count(" x ") == 2
    for row in rows:
        assert {name: type(value) for name, value in row.items()} == COLUMNS
        assert row["repeats"] == 1 and row["ours_median_s"] > 0 and row["peer_median_s"] > 0


@pytest.mark.parametrize("name", command.NAMES)
def test_every_name_has_its_rows(name):
    assert callable(importlib.import_module(f"benchmarks.{name}").rows)


@pytest.mark.parametrize("args, said", [
    (["traning"], "'traning'; did you mean 'training'? (known: alignment, autoattack, data, evaluation, similarity, "
                  "tangents, training)"),
    (["data", "--repeats", "0"], "--repeats = 0 is not possible"),
    (["data", "--quik"], "--quik"),
    (["data", "--images", "256"], "--images = 256 is not possible: it must be left out of data"),
    (["similarity", "--images", "0"], "--images = 0 is not possible: it must be at least 1"),
    ([], "NAME"),
    (["data", "--device", "tpu"], "unknown device 'tpu'"),
    (["coverage", "--repetitions", "0"], "--repetitions = 0 is not possible: it must be at least 1"),
])
def test_a_wrong_call_is_one_sentence(args, said, capsys, monkeypatch):
    monkeypatch.setattr("benchmarks.environment.enter", lambda argv: None)
    assert command.main(args) == 2
    line, = capsys.readouterr().err.splitlines()
    assert said in line


def test_coverage_counts_the_errors_of_each_bound():
    def study(rng, size):
        for name, low, high in (("holds", -1, 1), ("too high", size, 2), ("too low", -2, -size),
                                ("none", np.nan, np.nan)):
            yield name, Interval(0.0, low, high, 3, 100, 0.95, ""), 0.0

    found = coverage.coverage(study, 4, 0.5)
    assert {name: (one.low, one.high, one.covered) for name, one in found.items()} == {
        "holds": (0, 0, 1), "too high": (1, 0, 0), "too low": (0, 1, 0), "none": (0, 0, 1)}
    assert str(coverage.Coverage(0.05, 0.031)) == " 91.9<(5.0 3.1)" and str(coverage.Coverage(0.03, 0.02))[5] == " "
    assert str(found["holds"]) == "100.0>(0.0 0.0)"


def test_made_up_outcomes_are_those_that_are_asked_for():
    rng = np.random.default_rng(0)
    a, b = coverage.conditions(rng, [(0.5, 0.0), (0.5, 0.0)], 2, coverage.normal(rng, 200_000))
    assert a.mean(1) == pytest.approx(0.5, abs=0.004) and (a != b).mean() == pytest.approx(0.12, abs=0.01)
    scattered = coverage.conditions(rng, [(0.1, 0.05)], 2000, coverage.normal(rng, 500))[0].mean(1)
    assert scattered.mean() == pytest.approx(0.1, abs=0.025) and scattered.std() == pytest.approx(0.05, abs=0.02)
    assert coverage.scatters(0.005) == [0, 0.0025] and coverage.scatters(0.5) == [0, 0.006, 0.02, 0.05]


def test_the_tables_of_coverage_have_every_statistic(capsys):
    assert command.main(["coverage", "--repetitions", "1"]) == 0
    said = capsys.readouterr().out
    for title in ("difference (seeds x images)", "accuracy (", "a - 0.8 b, 3 networks, other images", "ratio", "seeds",
                  "map, mean over pairs within a type"):
        assert f"\n{title}" in said
    assert said.count("accuracy 10 %, seed SD 5 points") >= 6


def test_the_script_tells_a_wrong_name_before_installing_anything(tmp_path):
    root = tmp_path / "a copy"
    shutil.copytree(ROOT / "benchmarks", root / "benchmarks", ignore=shutil.ignore_patterns(".venv"))
    shutil.copytree(ROOT / "lib", root / "lib")
    (root / "bin").mkdir()
    (root / "bin" / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (root / "bin" / "python").chmod(0o755)
    found = subprocess.run([root / "benchmarks" / "run.sh", "nope"], env={**os.environ, "CONDA_PREFIX": str(root)},
                           cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert found.returncode == 2 and len(found.stderr.splitlines()) == 1
    assert "unknown benchmark 'nope'" in found.stderr
    assert not (root / "benchmarks" / ".venv").exists()


def test_requirements_name_exact_versions_and_no_address():
    lines = (ROOT / "benchmarks" / "requirements.txt").read_text().splitlines()
    assert lines and all(line.count("==") == 1 and "/" not in line and "@" not in line for line in lines)
    assert not any(line.startswith("torch==") for line in lines), "the peers run on the project's torch"


@pytest.mark.parametrize("found, agree", [(0.30, True), (0.31, True), (0.29, True), (0.316, False), (0.284, False)])
def test_robust_accuracies_over_a_point_apart_are_an_error(found, agree):
    subject = networks.Subject("a network", None, None, THREAT)
    results = {"lib (search in fp32)": 0.30, "peer": found}
    if agree:
        evaluation.agree(subject, results)
    else:
        with pytest.raises(evaluation.Disagreement, match="a network.*peer"):
            evaluation.agree(subject, results)


@pytest.fixture(scope="module")
def two_networks():
    nets = [build(Recipe(Data("cifar10"), WideResNet(10, 1), CrossEntropy(), seed=seed)).eval() for seed in (0, 1)]
    return similarity.Case(tuple(nets), taps(nets[0], (3, 32, 32))[::3], made_up(24, "cpu"), 8)


def test_the_plain_loop_in_float64_judges_the_map_of_lib(two_networks):
    judge, found = similarity.plain_loop(two_networks, torch.float64), similarity.lib_map(two_networks)
    assert found.shape == (len(two_networks.layers),) * 2 and judge.std() > 0.05
    similarity.agree(found, judge, "lib and float64")
    torch.testing.assert_close(similarity.plain_loop(two_networks), judge, rtol=0, atol=1e-4)
    fewer = similarity.plain_loop(two_networks.of(16), torch.float64)
    assert (fewer - judge).abs().max() > similarity.CLOSE, "two minibatches of three are another map"


def test_hsic_is_that_of_all_different_images():
    """The unbiased estimate is a sum over four different images, here formed as such."""
    features = [torch.randn(6, 3, generator=generator("hsic", seed), dtype=torch.float64) for seed in (0, 1)]
    x, y = ((feature @ feature.T).fill_diagonal_(0) for feature in features)
    terms = [x[a, b] * (y[a, b] + y[c, d] - 2 * y[a, c]) for a, b, c, d in itertools.permutations(range(6), 4)]
    assert similarity.hsic(x, y) == pytest.approx(float(sum(terms)) / len(terms))


def test_maps_that_lie_apart_are_an_error_where_a_peer_is_sound():
    shares = torch.tensor([[0.1, 0.99], [0.9, 0.2]])
    lib, peer = torch.zeros(2, 2), torch.tensor([[9e-4, 9e-4], [0.5, float("nan")]])
    assert similarity.sound(shares).tolist() == [[True, True], [False, False]]
    similarity.agree(peer, lib, "both", similarity.sound(shares))
    for cell in (2e-3, float("nan")):
        peer[0, 1] = cell
        with pytest.raises(similarity.Disagreement, match="the maps of both lie"):
            similarity.agree(peer, lib, "both", similarity.sound(shares))


def test_how_much_of_a_layer_is_in_its_mean(two_networks):
    pixels = two_networks.images.pixels(slice(0, 8))
    shares = similarity.energy_in_mean(two_networks)
    with torch.no_grad():
        first = two_networks.nets[1].stem(two_networks.nets[1].normalise(pixels)).flatten(1)
    assert shares[1, 0] == pytest.approx(float(1 - (first - first.mean(0)).square().sum() / first.square().sum()), 1e-4)
    assert ((shares > 0) & (shares < 1)).all()


def test_a_number_of_images_that_does_not_fill_minibatches_is_refused():
    with pytest.raises(SettingsError, match="--images = 300 is not possible: it must be a multiple of 256"):
        next(similarity.rows(timing.Run(torch.device("cpu"), images=300)))


def test_the_robust_accuracy_of_a_peer_counts_images_right_before_and_after():
    logits = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]])

    def net(x):
        return x.flatten(1)

    def spoils_the_first_and_mends_the_last(_, x, y):
        return x if len(x) == 1 else torch.stack([x[0].flip(-1), *x[1:-1], x[-1].flip(-1)])

    labels = torch.tensor([0, 0, 0, 0])
    pixels = logits.view(4, 1, 1, 2)
    assert evaluation.robust_accuracy(net, pixels, labels, spoils_the_first_and_mends_the_last, 4) == 0.25
    assert evaluation.robust_accuracy(net, pixels, labels, lambda net, x, y: x, 1) == 0.5


def test_a_plain_loop_learns_and_its_attack_raises_the_loss():
    images = made_up(64, "cpu")
    with initialise_with("plain loop"):
        net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 10))
    x, y = images.pixels(), images.labels
    x_adv = with_weight_gradients(THREAT, ATTACK)(net, x, y)
    assert (x_adv - x).abs().max() <= float(THREAT.eps) + 1e-6 and 0 <= x_adv.min() and x_adv.max() <= 1
    loss = torch.nn.functional.cross_entropy
    assert loss(net(x_adv), y) > loss(net(x), y) + 0.1
    losses = [train(net, x, y, 16, 0.001, None) for _ in range(8)]
    assert losses[-1] < losses[0] - 0.1
