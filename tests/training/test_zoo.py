"""What the zoo measures and keeps: outcomes that go on after a kill, warnings, tables, transfer, sweeps, bounds."""

import os
import subprocess
import sys
from dataclasses import dataclass, replace
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from lib import batch, prices
from lib import jobs as batch_jobs
from lib.attacks.notes import Notes
from lib.errors import NetworkFailed, SettingsError
from lib.papers.plan import Task
from lib.runtime import ROOT
from lib.store import FAILED, Store
from lib.training import evaluation, price, tables, zoo
from lib.training.certification import certified
from lib.training.evaluation import PROTOCOL, evaluate
from lib.training.tables import table
from lib.training.zoo import SEED, Zoo
from lib.values.architectures import CNN, MLP, Pruned
from lib.values.attacks import APGD, PGD, tier
from lib.values.certificates import Bounds, Smoothing
from lib.values.data import Data
from lib.values.objectives import Adversarial, CrossEntropy, GradientNorm, Prune
from lib.values.recipe import Optimiser, Recipe, Schedule, outcome_key
from lib.values.threats import Threat

THREAT = Threat("linf", "0.1")
ATTACK = tier("pgd20", THREAT)
NORMAL = Recipe(Data("digits", train=512, test=100), CNN(16, 2), epochs=5, batch_size=64,
                optimiser=Optimiser(lr=0.05), schedule=Schedule("onecycle"))
OTHER = replace(NORMAL, seed=1)
ROBUST = replace(NORMAL, objective=Adversarial(THREAT, PGD(5, "0.03")), epochs=8)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    torch.set_num_threads(1)
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def box(root):
    return Zoo(Store(root))


def verdicts(out):
    return out.table["robust"].tolist()


def test_outcomes_are_those_of_an_evaluation_and_come_back_from_the_store(box, root, monkeypatch):
    made = box.outcomes(ROBUST, THREAT, ATTACK)
    direct = evaluate(box.obtain(ROBUST).net, box.images(ROBUST.data, "test"), THREAT, ATTACK, seed_parts=SEED)
    assert 0.2 < made.accuracy("robust") < made.accuracy() and made.protocol == direct.protocol
    monkeypatch.setattr(zoo, "evaluate", None)
    monkeypatch.setattr(zoo, "sanity_within", None)
    monkeypatch.setattr(zoo, "beaten_by_square", None)
    again = Zoo(Store(root)).outcomes(ROBUST, THREAT, ATTACK)
    pd.testing.assert_frame_equal(again.table, direct.table)
    assert again.warnings == made.warnings


def test_outcomes_of_another_split_are_those_of_its_images(root, box, monkeypatch):
    held = replace(NORMAL, data=replace(NORMAL.data, holdout=30), epochs=0)
    found = {split: box.outcomes(held, THREAT, PGD(2, "0.1"), split=split) for split in ("train", "holdout", "test")}
    sizes = {split: len(got.table) for split, got in found.items()}
    assert sizes == {"train": 512, "holdout": 30, "test": 100}
    for split, got in found.items():
        assert got.protocol["split"] == split
        assert got.table["index"].tolist() == box.images(held.data, split).indices.tolist()
    pd.testing.assert_frame_equal(box.outcomes(held, THREAT, PGD(2, "0.1")).table, found["test"].table)
    clean = box.outcomes(held, split="train")
    assert "robust" not in clean.table and clean.accuracy() == found["train"].accuracy("clean")
    assert box.store.has("outcomes", outcome_key(held, THREAT, PGD(2, "0.1"))), "test images keep their key"
    monkeypatch.setattr(zoo, "evaluate", None)
    for split, got in found.items():
        again = Zoo(Store(root)).outcomes(held, THREAT, PGD(2, "0.1"), split)
        pd.testing.assert_frame_equal(again.table, got.table)
    with pytest.raises(SettingsError, match="holdout"):
        box.outcomes(replace(held, data=NORMAL.data), split="holdout")


def test_square_tells_when_an_attack_is_too_weak_for_a_network(box):
    """The network withstands PGD on half of the images, stronger attacks on three of ten."""
    weak, strong = (box.outcomes(ROBUST, THREAT, attack) for attack in (ATTACK, APGD(20, targets=3)))
    assert strong.accuracy("robust") < weak.accuracy("robust") - 0.05
    assert len(weak.warnings) == 1 and "Square break" in weak.warnings[0] and strong.warnings == []


def test_warnings_stand_with_the_outcomes_and_are_looked_for_once(root, tmp_path, monkeypatch):
    looked = []
    monkeypatch.setattr(zoo, "sanity_within", lambda *args: looked.append("sanity") or ["the network is odd"])
    monkeypatch.setattr(zoo, "beaten_by_square", lambda *args: looked.append("square") or ["Square wins"])
    fresh = Zoo(Store(tmp_path))
    untrained = replace(NORMAL, epochs=0)
    for attack in (PGD(1, "0.1"), PGD(2, "0.1"), PGD(2, "0.1")):
        assert fresh.outcomes(untrained, THREAT, attack).warnings == ["the network is odd", "Square wins"]
    assert sorted(looked) == ["sanity", "square", "square"], "networks once, attacks each, nothing on a replay"
    assert fresh.outcomes(untrained).warnings == [], "clean verdicts rest on no attack"
    rows = table(Zoo(Store(tmp_path)), [untrained], THREAT, [PGD(1, "0.1")])
    assert rows["warnings"].tolist() == ["the network is odd; Square wins"]


def test_outcomes_of_an_older_store_are_checked_when_they_are_read(box, tmp_path):
    """A store from before there were checks: its verdicts stay, and what speaks against them is found."""
    store, recipe, attack = Store(tmp_path), replace(NORMAL, epochs=0), PGD(1, "0.1")
    first = Zoo(store).outcomes(recipe, THREAT, attack)
    store.set_aside("sanity", outcome_key(recipe, THREAT, attack), "older")
    entry = store.load("outcomes", outcome_key(recipe, THREAT, attack))
    assert Zoo(store).outcomes(recipe, THREAT, attack).warnings == first.warnings
    assert store.load("outcomes", entry.key).meta == entry.meta and store.has("sanity", entry.key)


KILLED = """
import sys
from lib.attacks.notes import Notes
import tests.training.test_zoo as t
save, count = Notes.save, []
def note(self, *args):
    save(self, *args)
    count.append(1)
    if len(count) == 2:
        print("noted", flush=True)
        sys.stdin.read()
Notes.save = note
t.Zoo(t.Store(sys.argv[1])).outcomes(t.ROBUST, t.THREAT, t.FOUR_STAGES)
"""
FOUR_STAGES = APGD(10, targets=3)


def test_a_killed_search_goes_on_with_the_verdicts_of_an_uninterrupted_one(root, box, monkeypatch):
    net, images = box.obtain(ROBUST).net, box.images(ROBUST.data, "test")
    child = subprocess.Popen([sys.executable, "-c", KILLED, str(root)], cwd=ROOT, stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, text=True,
                             env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)})
    try:
        assert child.stdout.readline() == "noted\n"
    finally:
        child.kill()
        child.communicate()
    key, searched, add = outcome_key(ROBUST, THREAT, FOUR_STAGES), [], Notes.add
    assert list(box.store.workdir("outcomes", key).glob("checkpoint*"))
    monkeypatch.setattr(zoo, "sanity_within", lambda *args: [])
    monkeypatch.setattr(zoo, "beaten_by_square", lambda *args: [])
    with monkeypatch.context() as counting:
        counting.setattr(Notes, "add", lambda self, rows, *args: searched.append(rows) or add(self, rows, *args))
        resumed = box.outcomes(ROBUST, THREAT, FOUR_STAGES)
    assert len(searched) == 2, "two of four stages were left"
    whole = evaluate(net, images, THREAT, FOUR_STAGES, seed_parts=SEED)
    pd.testing.assert_frame_equal(resumed.table, whole.table)
    assert not list(box.store.folder("outcomes", key).glob("checkpoint*"))


# ------------------------------------------------------------------------------------------------------------- tables


def test_a_table_has_a_row_for_each_network_and_attack_with_all_of_its_protocol(box):
    @dataclass(frozen=True)
    class Member:
        kind: str
        seed: int
        recipe: Recipe

    members = [Member("N", 0, NORMAL), Member("R", 3, ROBUST)]
    asked = ["clean", "pgd20", APGD(3, targets=2), Bounds()]
    rows = table(box, members, THREAT, asked)
    assert rows["kind"].tolist() == ["N"] * 4 + ["R"] * 4 and rows["seed"].tolist() == [0] * 4 + [3] * 4
    assert rows["attack"].tolist() == ["clean", "PGD-20", "APGD-CE+T (3 steps, 2 targets)", "interval bounds"] * 2
    assert rows["network"].tolist() == [NORMAL.key] * 4 + [ROBUST.key] * 4
    assert {*PROTOCOL, "balanced_clean", "balanced_robust", "balanced_verified"} <= set(rows.columns)
    attacked = rows[rows["robust"].notna()]
    assert len(attacked) == 4 and attacked[list(PROTOCOL)].notna().all(axis=None)
    assert (rows["eps"][rows["attack"] != "clean"] == "1/10").all()
    found = box.outcomes(ROBUST, THREAT, ATTACK)
    assert rows["robust"][5] == found.accuracy("robust")
    assert rows["balanced_robust"][5] == found.balanced_accuracy("robust")
    assert rows["verified"].notna().tolist() == [False, False, False, True] * 2 and rows.columns[-1] == "warnings"


def test_a_table_takes_bare_recipes_and_refuses_unknown_tiers_before_any_work(box, monkeypatch):
    assert table(box, [OTHER], THREAT, ["clean"])["seed"].tolist() == [1]
    monkeypatch.setattr(tables, "ProgressBar", None)
    with pytest.raises(SettingsError, match="did you mean 'pgd20'"):
        table(box, [NORMAL], THREAT, ["pgd2"])


# --------------------------------------------------------------------------------------------------- transfer, sweeps


@pytest.mark.parametrize("attack", [ATTACK, PGD(5, "0.05", restarts=2), APGD(5, targets=2)],
                         ids=lambda attack: attack.title)
def test_transfer_of_a_network_to_itself_gives_its_own_verdicts(box, attack):
    own = box.transfer(ROBUST, ROBUST, THREAT, attack)
    assert verdicts(own) == verdicts(box.outcomes(ROBUST, THREAT, attack)) == own.table["source_robust"].tolist()
    assert own.protocol["source"] == ROBUST.key and own.protocol["attack"] == attack.title


def test_transfer_to_another_network_is_the_weaker_attack(box):
    there = box.transfer(NORMAL, OTHER, THREAT, ATTACK)
    own = box.outcomes(OTHER, THREAT, ATTACK)
    assert own.accuracy("robust") < there.accuracy("robust") < there.accuracy() == own.accuracy()
    assert there.table["source_robust"].tolist() == verdicts(box.outcomes(NORMAL, THREAT, ATTACK))


def test_adversarial_images_are_made_once_for_all_that_use_them(box, root, monkeypatch):
    moved = box.adversarial(NORMAL, THREAT, ATTACK)
    images = box.images(NORMAL.data, "test")
    assert moved.dtype == torch.float32 and moved.shape == images.images.shape
    assert (moved - images.pixels()).abs().max() <= 0.1 + 1e-6
    monkeypatch.setattr(evaluation, "adversarial", None)
    again = Zoo(Store(root))
    assert torch.equal(again.adversarial(NORMAL, THREAT, ATTACK), moved)
    again.transfer(NORMAL, ROBUST, THREAT, ATTACK)
    with pytest.raises(TypeError):
        again.adversarial(NORMAL, THREAT, ATTACK, "train")


def test_transfer_to_another_data_set_is_refused(box):
    with pytest.raises(SettingsError, match="mnist"):
        box.transfer(NORMAL, replace(NORMAL, data=Data("mnist", train=512, test=100)), THREAT, ATTACK)


def test_a_sweep_comes_back_from_the_store_and_never_rises(box, root, monkeypatch):
    threats = [Threat("linf", eps) for eps in ("0", "0.05", "0.1", "0.2")]
    attacks = [tier("pgd20", threat) for threat in threats]
    made = box.sweep(ROBUST, threats, attacks)
    robust = [out.accuracy("robust") for out in made]
    assert robust == sorted(robust, reverse=True) and robust[0] == made[0].accuracy() and robust[-1] < robust[1]
    monkeypatch.setattr(evaluation, "sweep", None)
    for out, again in zip(made, Zoo(Store(root)).sweep(ROBUST, threats, attacks), strict=True):
        pd.testing.assert_frame_equal(again.table, out.table)
        assert again.protocol == out.protocol and again.warnings == []


def test_a_sweep_with_a_missing_attack_is_refused(box):
    with pytest.raises(SettingsError, match="one for each"):
        box.sweep(ROBUST, [THREAT], [])


# ------------------------------------------------------------------------------------------------------- certificates

PLAIN = replace(ROBUST, arch=MLP((32, 32)), epochs=4)  # linear bounds know no max-pooling
NEAR = Threat("linf", "0.005")
MEASURES = [(NEAR, Bounds()), (NEAR, Bounds("CROWN-IBP")), (NEAR, Bounds("CROWN")),
            (Threat("l2", "0.1"), Smoothing(0.1, few=10, many=50))]


@pytest.mark.parametrize("threat, certificate", MEASURES, ids=[measure.title for _, measure in MEASURES])
def test_certificates_are_measures_like_attacks_and_come_back_from_the_store(box, root, monkeypatch, threat,
                                                                             certificate):
    monkeypatch.setattr(zoo, "sanity_within", None)
    monkeypatch.setattr(zoo, "beaten_by_square", None)
    made = box.outcomes(PLAIN, threat, certificate)
    direct = certified(box.obtain(PLAIN).net, box.images(PLAIN.data, "test"), threat, certificate, seed_parts=SEED)
    assert 0 < made.accuracy("verified") <= made.accuracy() and made.protocol == direct.protocol
    assert made.warnings == [] and box.store.has("outcomes", outcome_key(PLAIN, threat, certificate))
    monkeypatch.setattr(zoo, "certified", None)
    again = Zoo(Store(root)).outcomes(PLAIN, threat, certificate)
    pd.testing.assert_frame_equal(again.table, direct.table)
    assert again.protocol == made.protocol
    entry = box.store.load("outcomes", outcome_key(PLAIN, threat, certificate))
    assert certificate.title in entry.meta["what"]
    assert entry.meta["like"] == price.like_outcomes(replace(PLAIN, seed=5), threat, certificate)


def test_bounds_never_verify_what_an_attack_breaks(box):
    both = box.outcomes(PLAIN, NEAR, tier("pgd20", NEAR)).with_bounds(box.outcomes(PLAIN, NEAR, Bounds()))
    assert 0 < both.accuracy("verified") <= both.accuracy("robust")


def test_certificates_are_priced_by_their_passes():
    forward = 100 * price.forward(PLAIN)
    assert price.measuring(PLAIN, Bounds()) == 3 * forward
    assert price.measuring(PLAIN, Bounds("CROWN-IBP")) == 23 * forward < price.measuring(PLAIN, Bounds("CROWN"))
    assert price.measuring(PLAIN, Smoothing(0.1, few=10, many=50)) == 60 * forward
    assert len({price.like_outcomes(PLAIN, *measure) for measure in MEASURES}) == len(MEASURES)


def planned(monkeypatch, tasks):
    """Make these the tasks of every run."""
    for room in (batch, batch_jobs):
        monkeypatch.setattr(room, "plan", lambda *args: tasks)


def test_jobs_make_the_certificates_of_a_plan(root, tmp_path, monkeypatch):
    """A batch job's work names certificates as it names attacks, and its run makes them."""
    recipe = replace(PLAIN, epochs=0)
    tasks = [Task(recipe, tuple((recipe, *measure) for measure in MEASURES), "proofs")]
    planned(monkeypatch, tasks)
    monkeypatch.setattr(batch, "Store", lambda: Store(tmp_path))
    settings = SimpleNamespace(run="test", jobs="networks", device="cpu")
    jobs = batch.batch_jobs(settings, ())
    assert jobs["proofs"]["work"] == [("outcomes", outcome_key(recipe, *measure)) for measure in MEASURES]
    assert batch.unfinished(jobs, Store(tmp_path)) == jobs and len([*prices.missing(tasks[:1], Store(tmp_path))]) == 4
    batch.train_job(settings, (), "proofs", None)
    assert batch.unfinished(jobs, Store(tmp_path)) == {} and not [*prices.missing(tasks[:1], Store(tmp_path))]


# -------------------------------------------------------------------------------------------- networks that fail

QUICK = replace(NORMAL, arch=MLP((16,)), epochs=1)
EXPLODES = replace(QUICK, objective=GradientNorm(1e12))
CHILD = replace(QUICK, parents=(EXPLODES,))
MISSES = replace(QUICK, arch=Pruned(MLP((16,)), "0.01", rates="learned", scores="learned"), parents=(QUICK,),
                 objective=Prune(CrossEntropy(), gamma=0.0, growing=False))


@pytest.fixture
def trainings(monkeypatch):
    """The recipes whose training was begun, in order."""
    begun, fit = [], zoo.fit
    monkeypatch.setattr(zoo, "fit", lambda net, recipe, **rest: begun.append(recipe) or fit(net, recipe, **rest))
    return begun


def fails(zoo_, recipe):
    """Why a network cannot be had."""
    with pytest.raises(NetworkFailed) as error:
        zoo_.obtain(recipe)
    return error.value


@pytest.mark.parametrize("recipe, begins", [
    (EXPLODES, f"{EXPLODES.describe()}: the loss of step 0 of epoch 0 is"),
    (MISSES, "the search has not met its target: the network's cost is")], ids=["diverged", "missed"])
def test_a_training_that_fails_is_noted_and_not_tried_again(tmp_path, trainings, recipe, begins):
    first = Zoo(Store(tmp_path))
    why = fails(first, recipe)
    assert why.reason.startswith(begins) and "\n" not in str(why) and ";" in str(why) and ";" not in why.reason
    assert trainings[-1] == recipe and not first.store.has("network", recipe.key)
    assert recipe.key not in first.trained_here
    count = len(trainings)
    for again in (first, Zoo(Store(tmp_path))):
        assert str(fails(again, recipe)) == why.reason and len(trainings) == count
    assert first.store.load(FAILED, recipe.key).meta["network"] == recipe.key
    assert first.obtain(QUICK).recipe == QUICK and not first.store.has(FAILED, QUICK.key)


def test_what_is_made_from_a_failed_network_fails_with_its_sentence(tmp_path, trainings):
    first = Zoo(Store(tmp_path))
    why = fails(first, CHILD).reason
    assert why.startswith(EXPLODES.describe()) and trainings == [EXPLODES]
    assert first.store.has(FAILED, EXPLODES.key) and not first.store.has(FAILED, CHILD.key)
    with pytest.raises(NetworkFailed, match="the loss of step 0"):
        first.outcomes(CHILD, THREAT, ATTACK)
    assert fails(Zoo(Store(tmp_path)), replace(CHILD, parents=(CHILD,))).reason == why and trainings == [EXPLODES]


@pytest.mark.parametrize("error", [
    torch.OutOfMemoryError("CUDA out of memory"), MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")])
def test_a_network_too_large_for_this_machine_is_not_noted_in_the_store(tmp_path, monkeypatch, error):
    tried, fit = [], zoo.fit

    def full(net, recipe, **rest):
        tried.append(recipe)
        raise error

    monkeypatch.setattr(zoo, "fit", full)
    here = Zoo(Store(tmp_path))
    for _ in range(2):
        why = fails(here, QUICK)
        assert why.reason == f"{QUICK.describe()} does not fit into memory" and not why.lasting
    child = replace(QUICK, parents=(QUICK,))
    assert fails(here, child).reason == why.reason and tried == [QUICK], "this process does not try again"
    assert not here.store.has(FAILED, QUICK.key)
    monkeypatch.setattr(zoo, "fit", fit)
    assert Zoo(Store(tmp_path)).obtain(QUICK).log, "where there is more memory"


def test_only_failures_of_networks_are_noted(tmp_path, monkeypatch):
    def broken(*args, **named):
        raise RuntimeError("the disk is full")

    monkeypatch.setattr(zoo, "fit", broken)
    box_ = Zoo(Store(tmp_path), allowed={QUICK.key})
    with pytest.raises(RuntimeError, match="disk"):
        box_.obtain(QUICK)
    with pytest.raises(SettingsError, match="not in this run's plan"):
        box_.obtain(EXPLODES)
    assert not box_.store.has(FAILED, QUICK.key) and not box_.store.has(FAILED, EXPLODES.key)


@pytest.fixture
def job(tmp_path, monkeypatch):
    """Sets the tasks of one job; gives its folder's mark."""
    monkeypatch.setattr(batch, "Store", lambda: Store(tmp_path / "store"))

    def of_recipes(*recipes, measures=()):
        planned(monkeypatch, [Task(recipe, tuple((recipe, *measure) for measure in measures), "sweep")
                              for recipe in recipes])
        return batch.mark(tmp_path, "sweep")

    return of_recipes


SETTINGS = SimpleNamespace(run="test", jobs="networks", device="cpu")


def test_a_job_goes_on_without_networks_that_fail_and_is_done(tmp_path, job, trainings):
    done = job(EXPLODES, CHILD, QUICK, measures=((THREAT, ATTACK),))
    jobs, store = batch.batch_jobs(SETTINGS, ()), Store(tmp_path / "store")
    assert batch.unfinished(jobs, store) == jobs
    batch.train_job(SETTINGS, (), "sweep", done)
    assert trainings == [EXPLODES, QUICK] and store.has("outcomes", outcome_key(QUICK, THREAT, ATTACK))
    first, second = done.read_text().splitlines()
    assert first.startswith(f"without {EXPLODES.describe()}: ") and second.startswith(f"without {CHILD.describe()}: ")
    assert batch.unfinished(jobs, store) == {} and not done.with_suffix(".failed").exists()
    batch.train_job(SETTINGS, (), "sweep", done)
    assert trainings == [EXPLODES, QUICK], "neither is trained again"
    elsewhere = tmp_path / "elsewhere"
    batch.mark_finished(jobs, store, elsewhere)
    assert batch.mark(elsewhere, "sweep").exists(), "another run need not start it"


def test_a_job_goes_on_where_memory_is_too_small_and_is_not_finished_elsewhere(tmp_path, job, monkeypatch):
    done = job(QUICK, replace(QUICK, seed=1))

    def full(net, recipe, **rest):
        if recipe == QUICK:
            raise torch.OutOfMemoryError("made up")
        return fit(net, recipe, **rest)

    fit = zoo.fit
    monkeypatch.setattr(zoo, "fit", full)
    batch.train_job(SETTINGS, (), "sweep", done)
    jobs, store = batch.batch_jobs(SETTINGS, ()), Store(tmp_path / "store")
    assert "does not fit into memory" in done.read_text() and store.has("network", replace(QUICK, seed=1).key)
    assert batch.unfinished(jobs, store) == jobs


def test_a_job_fails_with_any_other_error(tmp_path, job, monkeypatch):
    done = job(QUICK)

    def broken(*args, **named):
        raise RuntimeError("the disk is full")

    monkeypatch.setattr(zoo, "fit", broken)
    with pytest.raises(RuntimeError, match="disk"):
        batch.train_job(SETTINGS, (), "sweep", done)
    assert not done.exists() and "disk" in done.with_suffix(".failed").read_text()
    jobs = batch.batch_jobs(SETTINGS, ())
    assert batch.unfinished(jobs, Store(tmp_path / "store")) == jobs


def test_what_failed_costs_nothing_more(tmp_path):
    store = Store(tmp_path)
    tasks = [Task(recipe, ((recipe, THREAT, ATTACK),), "sweep") for recipe in (EXPLODES, CHILD)]
    assert [len([*prices.missing([task], store)]) for task in tasks] == [2, 2]
    fails(Zoo(store), EXPLODES)
    assert not [row for task in tasks for row in prices.missing([task], store)]


def test_a_note_of_a_failure_stays_while_its_network_is_in_the_plan(tmp_path):
    store = Store(tmp_path)
    fails(Zoo(store), EXPLODES)
    store.prune({("network", EXPLODES.key)})
    assert store.has(FAILED, EXPLODES.key)
    store.prune({("network", QUICK.key)})
    assert not store.has(FAILED, EXPLODES.key)
