"""Dress rehearsals: miniatures of profiles, made-up sets, and what a crash of one kind does to the rest."""

import json
import os
from dataclasses import replace
from itertools import chain

import pytest

from lib.cli import main, run_command
from lib.data import DataError
from lib.data import load as load_images
from lib.papers import settings as profiles
from lib.papers.plan import Task, plan
from lib.profiles import miniature
from lib.rehearsal import rehearse, sets, work
from lib.rehearsal.kinds import family, steps
from lib.rehearsal.work import carry_out
from lib.values.architectures import CNN, Pruned
from lib.values.attacks import PGD, AutoAttack
from lib.values.data import DATASETS, Data
from lib.values.recipe import Recipe
from lib.values.threats import Threat

ROOMS = ("mnist", "fashion_mnist", "cifar10", "cifar100", "svhn", "stl10", "imagenette", "imagewoof_160", "imagenet")


@pytest.fixture
def rehearsing(tmp_path, monkeypatch):
    """A process of a rehearsal whose folder is `tmp_path`."""
    monkeypatch.setenv("REPRO_REHEARSAL", str(tmp_path))
    monkeypatch.setenv("REPRO_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("REPRO_STORE", str(tmp_path / "store"))
    (tmp_path / "data").mkdir()
    miniature.enter()
    yield tmp_path
    miniature.leave()


def kinds(settings):
    return {step.kind for step in chain.from_iterable(map(steps, plan(settings)))}


@pytest.mark.parametrize("profile", profiles.profiles())
def test_a_miniature_has_the_kinds_of_work_of_its_profile(profile, rehearsing):
    with miniature.real_sizes():
        real = profiles._load(profile, {})
        wanted, keys = kinds(real), {task.recipe.key for task in plan(real)}
    sets.write((), ["pyautoattack"], rehearsing / "data")
    small = profiles.load(profile)
    assert kinds(small) == wanted
    assert small.run == f"{profile}+rehearsal" and small.frozen is None
    assert not keys & {task.recipe.key for task in plan(small)}, "a miniature network could be taken for a real one"
    for task in plan(small):
        assert task.recipe.epochs <= 16 and task.recipe.data.n_train <= 2 * miniature.TRAIN


def test_settings_grow_only_as_far_as_their_section_allows():
    section = profiles.load("paper").sections["representation_similarity"]
    small = miniature.shrunk(section.overfitting)
    assert len(small.kept) >= 2 and small.epochs < section.overfitting.epochs
    assert miniature.shrunk(section.matched).longer == 3


def test_two_attacks_that_must_differ_still_do():
    section = profiles.load("imagenet").sections["harp_pruning"]
    small = miniature.shrunk(section)
    assert len({small.search, small.verify, *small.attacks}) == 3


def test_leaving_restores_every_size(rehearsing):
    miniature.leave()
    assert DATASETS["imagenet"].train == 1_281_167 and AutoAttack.square.queries == 5000
    assert profiles._load("imagenet", {}).networks.data.n_train == 1_271_167


@pytest.mark.parametrize("name", ROOMS)
def test_the_real_readers_read_made_up_sets(name, rehearsing):
    sets.write([name], [], rehearsing / "data")
    data = Data(name, holdout=10, size=miniature.SIDE if DATASETS[name].sizes else None)
    for split, count in (("train", 2 * miniature.TRAIN - 10), ("holdout", 10), ("test", miniature.TEST)):
        images = load_images(data, split)
        assert len(images) == count and images.pixels().shape[1:] == data.shape
    assert load_images(data, "train").labels.unique().tolist() == [*range(DATASETS[name].classes)]


def tasks_of(*recipes):
    return [Task(recipe, ((recipe, Threat("linf", "0.1"), PGD(2, "0.1")),), "job") for recipe in recipes]


def test_a_crash_of_one_kind_is_reported_and_stops_nothing_else(rehearsing):
    """The file of a set is torn: the network that reads it fails, what is made from it is left out, the others run."""
    sets.write(["mnist"], [], rehearsing / "data")
    (rehearsing / "data/MNIST/raw/train-images-idx3-ubyte.gz").write_bytes(b"torn")
    good = Recipe(Data("digits", train=32, test=16), CNN(depth=2), batch_size=16)
    torn = replace(good, data=Data("mnist", train=32))
    cut = replace(torn, arch=Pruned(torn.arch, "0.5"), parents=(torn,))
    found = [*carry_out(tasks_of(torn, cut, good), "cpu", 2, 1, rehearsing / "log")]
    said = {(result.step.recipe.key, result.step.measure is None): result for result in found}
    assert {key: result.status for key, result in said.items()} == {
        (torn.key, True): "failed", (torn.key, False): "not run", (cut.key, True): "not run",
        (cut.key, False): "not run", (good.key, True): "ran", (good.key, False): "ran"}
    assert "Not a gzipped file" in said[torn.key, True].error and "images.py" in said[torn.key, True].error
    assert said[good.key, True].memory > 1e7 and said[cut.key, True].error.startswith("without mnist")
    assert "Traceback" in (rehearsing / "log").read_text()


def test_a_step_that_is_too_large_is_left_out_with_its_kind(rehearsing, monkeypatch):
    monkeypatch.setattr(work, "BYTES", 1)
    long = Recipe(Data("digits", train=32, test=16), CNN(depth=2), batch_size=16, epochs=100_000)
    found = [*carry_out(tasks_of(long, replace(long, seed=1)), "cpu", 1, 1, rehearsing / "log")]
    trainings = [result for result in found if result.step.measure is None]
    assert [result.status for result in trainings] == ["too large"] * 2
    assert "GB at its least size" in trainings[0].error and not trainings[1].error


def test_nothing_is_downloaded_for_a_rehearsal(rehearsing):
    with pytest.raises(DataError, match="made up"):
        load_images(Data("cifar10"), "test")


def test_a_rehearsal_is_never_published(capsys):
    assert run_command(lambda: main(["publish", "paper+rehearsal"])) == 2
    assert "not a rehearsal" in capsys.readouterr().err


@pytest.mark.slow
def test_a_rehearsal_ends_with_its_report(tmp_path, monkeypatch):
    """The smallest notebook of the profile test, from nothing to the site."""
    monkeypatch.setenv("REPRO_RESULTS", str(tmp_path))
    settings = profiles.load("test")
    assert rehearse(settings, {}, ("harp_pruning",), 2, None) == 0
    folder = tmp_path / "test+rehearsal"
    found = json.loads((folder / "rehearsal.json").read_text())
    assert {kind["status"] for kind in found["kinds"]} == {"ran"}
    assert [row["status"] for row in found["notebooks"]] == ["ran", "ran"]
    assert (folder / "harp_pruning" / "claims.json").is_file() and (folder / "index.html").is_file()
    assert not os.environ.get("REPRO_REHEARSAL") and DATASETS["mnist"].train == 60_000


@pytest.mark.slow
@pytest.mark.parametrize("profile", ["paper", "imagenet"])
def test_one_kind_of_each_family_and_objective_runs(profile, rehearsing):
    """The first network of every architecture family and of every objective, without measurements."""
    with miniature.real_sizes():
        names = {task.recipe.data.name for task in plan(profiles._load(profile, {}))}
    sets.write(names, ["pyautoattack"], rehearsing / "data")
    every, seen, chosen = plan(profiles.load(profile)), set(), set()
    for task in every:
        recipe = task.recipe
        kind = {("family", family(recipe)), ("objective", type(recipe.objective), type(recipe.objective.inner))}
        if recipe.stored and kind - seen:
            seen |= kind
            chosen |= {*recipe.lineage}
    todo = [replace(task, measures=()) for task in every if task.recipe.key in chosen]
    found = [*carry_out(todo, "cpu", 2, 1, rehearsing / "log")]
    bad = {f"{result.step.kind}: {result.error}" for result in found if result.status == "failed"}
    assert not bad and sum(result.status == "ran" for result in found) > 0.9 * len(found), bad
