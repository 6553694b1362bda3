"""The plan: which networks a run needs, which job makes them, and that networks keep their keys."""

import itertools
from dataclasses import replace
from fractions import Fraction
from types import SimpleNamespace

import pytest

from lib.batch import batch_jobs, unfinished
from lib.errors import SettingsError
from lib.papers import papers, settings
from lib.papers.plan import chosen, plan
from lib.papers.representation_similarity import networks as similarity
from lib.profiles import networks as profile_networks
from lib.values.architectures import ResNet
from lib.values.data import Data
from lib.values.objectives import TRADES, Adversarial, CrossEntropy, Noise, fgsm_rs
from lib.values.threats import Threat

# Keys of networks that people have trained: a store is worthless if they change unless NUMERICS does.
KEYS = {
    "smoke": {"N0": "70d14edbba016bb6", "R0": "a4ea56ee10867b33", "N1": "8ceb42d2cdd6fee8", "R1": "f28fb9f3af25d453",
              "N2": "97aebc224a862b0c", "R2": "b49eef1678ac1312", "U0": "ef108740f62d28fc", "U1": "f2d8da390fbcfd4f",
              "U2": "2378c69ba812e00c"},
    "laptop": {"N0": "7de4156136f8c38b", "R0": "f581d2de2422a3b2", "N1": "d26d798a590d8159", "R1": "3b5ab775c0c0a76d",
               "N2": "44b375c203f46f27", "R2": "857bb91edb9f4dc4", "N3": "0dbebe4dd040b1ac", "R3": "a06e6c07141f450d",
               "N4": "0de5cc0a33aee8e4", "R4": "0ad7560a02d73e1a", "U0": "0859d9ee6b8854c5", "U1": "68614add805e0847",
               "U2": "1a44335c04b64aa0"},
}
S = "representation_similarity"
L2, NEAR = {"norm": "l2", "eps": 1.0}, {"norm": "linf", "eps": 0.05}
ARMS = [
    {"name": "l2", "group": "threat", "threat": L2, "attack": {"steps": 5, "step_size": 0.35}},
    {"name": "eps 0.05", "group": "strength", "threat": NEAR, "attack": {"steps": 5, "step_size": 0.02}},
    {"name": "half", "group": "procedure", "training": "half"},
    {"name": "TRADES", "group": "procedure", "training": "TRADES"},
    {"name": "FGSM-RS", "group": "procedure", "training": "FGSM-RS"},
    {"name": "noise", "group": "procedure", "training": "noise", "sigma": 0.2, "epochs": 7},
    {"name": "wide", "group": "architecture", "arch": {"type": "ResNet", "width": 32, "blocks": [1, 1, 1]}},
    {"name": "mnist", "group": "data", "data": {"name": "mnist", "test": 500}, "epochs": 4, "normal_epochs": 3},
]
RUNS = {"train": 500, "epochs": 20, "every": 1, "training": {"epochs": 20}}
ALL = {f"{S}.arms": ARMS, f"{S}.overfitting": RUNS}


SIZES = {"seeds": 4, "arm_seeds": 3, "batch": 100, "matched.epochs": 2, "search.steps": 20}


def load(overrides=None):
    """The smoke profile, at sizes that are known here."""
    given = overrides or {}
    sizes = {} if S in given else {f"{S}.{name}": value for name, value in SIZES.items()}
    others = dict.fromkeys(papers().keys() - {"stitching", S})
    mine = {"networks.precision": "fp32", "stitching.seeds": 3, **others}
    return settings.load("smoke", {**mine, **sizes, **given})


def cells(s):
    return similarity.cells(s.networks, s.sections[S], s.seed)


def of(s):
    """(kind, seed, epoch) -> cell."""
    return {(c.condition.kind, c.repetition, c.condition.epoch): c for c in cells(s)}


@pytest.mark.parametrize("profile", KEYS)
def test_networks_of_the_pool_keep_their_keys(profile):
    s = settings.load(profile, {"networks.precision": "fp32", "first_seed": 0})
    n, untrained = s.networks, {s.networks.member("U", i, s.seed).key for i in range(3)}
    assert {name: n.member(name[0], int(name[1:]), s.seed).key for name in KEYS[profile]} == KEYS[profile]
    assert {*KEYS[profile].values()} <= {recipe.key for recipe in n.pool(s.seed).values()} | untrained


# ---------------------------------------------------------------------------------------------- notebooks of a profile


def test_a_profile_has_the_notebooks_it_has_sections_for():
    both, one = load(), load({S: None})
    assert chosen(both) == both.notebooks == ("stitching", S)
    assert chosen(one) == one.notebooks == ("stitching",)
    assert chosen(both, (S,)) == (S,)
    assert plan(one) == plan(one, ("stitching",)), "nothing of the other notebook"


def test_a_notebook_without_a_section_and_an_unknown_one_are_refused():
    with pytest.raises(SettingsError) as error:
        plan(load({S: None}), (S,))
    text = str(error.value)
    assert "\n" not in text and "profile = smoke" in text and f"notebook {S}" in text and "no section" in text
    with pytest.raises(SettingsError, match="unknown notebook 'stiching'; did you mean 'stitching'"):
        chosen(load(), ("stiching",))


def test_a_pool_is_as_large_as_the_profile_s_notebooks_need():
    assert load({"stitching.seeds": 2}).networks.normal.count == 4
    assert load({"stitching.seeds": 2, S: None}).networks.normal.count == 3
    assert load({"stitching.seeds": 6}).networks.robust.count == 6


def test_resolved_networks_have_as_many_as_are_needed_and_a_precision(monkeypatch):
    n = replace(load().networks, precision="auto")
    assert (n.resolved(9).normal.count, n.resolved(9).robust.count) == (9, 9)
    assert (n.resolved(1).normal.count, n.resolved(1).robust.count) == (4, 4), "no fewer than the profile says"
    for flags, precision in (("fpu sse2", "fp32"), ("fpu avx512_bf16", "bf16")):
        processor = SimpleNamespace(read_text=lambda flags=flags: flags, exists=lambda: False)
        monkeypatch.setattr(profile_networks, "Path", lambda name, processor=processor: processor)
        assert n.resolved(1).precision == precision
    assert replace(n, precision="fp32").resolved(1).precision == "fp32"


# -------------------------------------------------------------------------------------------- the similarity notebook


def test_every_kind_has_its_networks_once():
    s, found = load(ALL), of(load(ALL))
    n = s.sections[S]
    assert len(found) == len(cells(s))
    counts = {kind: sum(k == kind for k, _, _ in found) for kind, _, _ in found}
    assert counts == {"N": 4, "R": 4, "U": 4, "M": 4, **{a["name"]: 3 for a in ARMS[:6]}, "N wide": 3, "R wide": 3,
                      "N mnist": 3, "R mnist": 3, "overfits": 3 * 11, "control": 3 * len({e for k, _, e in found
                                                                                         if k == "control"})}
    keys = [c.recipe.key for c in found.values()]
    assert len({*keys}) == len(keys), "no network stands for two"
    assert n.seeds == 4 and n.arm_seeds == 3


def test_the_kinds_are_what_they_are_called():
    s, found = load(ALL), of(load(ALL))
    pooled = {f"{kind}{seed}": recipe for (kind, seed), recipe in s.networks.pool(s.seed).items()}
    threat, attack, normal = s.networks.threat, s.networks.robust.attack, found["N", 1, None].recipe
    assert found["N", 1, None].recipe == pooled["N1"] and found["R", 1, None].recipe == pooled["R1"]
    assert found["U", 1, None].recipe == replace(normal, epochs=0)
    matched = found["M", 1, None].recipe
    assert matched.epochs == 2 < normal.epochs and matched.objective == CrossEntropy()
    assert replace(matched, epochs=normal.epochs, optimiser=normal.optimiser, schedule=normal.schedule) == normal
    aims = {"half": Adversarial(threat, attack, clean_loss=0.5), "TRADES": TRADES(threat, attack),
            "FGSM-RS": fgsm_rs(threat), "noise": Noise(0.2), "wide": Adversarial(threat, attack)}
    for kind, aim in aims.items():
        assert found["R wide" if kind == "wide" else kind, 2, None].recipe.objective == aim
    assert found["l2", 0, None].recipe.objective.threat == Threat("l2", 1)
    assert found["noise", 0, None].recipe.epochs == 7
    for kind, old in (("N", normal), ("R", pooled["R1"])):
        assert found[f"{kind} wide", 1, None].recipe == replace(old, arch=ResNet(32, (1, 1, 1)))
    mnist = [found[f"{kind} mnist", 0, None].recipe for kind in "NR"]
    assert [r.data for r in mnist] == [Data("mnist", test=500)] * 2 and [r.epochs for r in mnist] == [3, 4]
    assert [type(r.objective) for r in mnist] == [CrossEntropy, Adversarial]


def test_another_architecture_leaves_the_pool_alone():
    s = load({f"{S}.arch": {"type": "ResNet", "width": 32, "blocks": [1, 1, 1]}})
    found = of(s)
    assert {c.recipe.arch for c in found.values()} == {ResNet(32, (1, 1, 1))}
    assert not {c.recipe.key for c in found.values()} & {recipe.key for recipe in s.networks.pool(s.seed).values()}
    assert s.networks.pool(s.seed) == load().networks.pool(s.seed)


def test_what_is_measured():
    s, found = load(ALL), of(load(ALL))
    n, threat = s.sections[S], s.networks.threat
    search, verify = (threat, n.search), (threat, n.verify)
    assert found["N", 0, None].measures == found["M", 0, None].measures == (search,)
    assert found["R", 1, None].measures == (search, verify)
    assert found["R", 0, None].measures == (search, verify, (threat, n.search.with_one_more_restart()))
    for kind, own in (("l2", Threat("l2", 1)), ("eps 0.05", Threat("linf", "0.05"))):
        first, (ball, attack) = found[kind, 0, None].measures
        assert first == search and ball == own, "the pool's threat as for all, and the arm's own"
        assert attack.step_size == own.eps / 4 and attack.steps == n.search.steps
    assert found["TRADES", 0, None].measures == (search,)


def test_an_attack_on_scenes_steps_in_their_own_unit():
    snow = {"name": "snow", "group": "threat", "threat": {"norm": "snow", "eps": 2},
            "attack": {"steps": 4, "step_size": 0.16}}
    cell = of(load({f"{S}.arms": [snow]}))["snow", 0, None]
    assert cell.measures[1][1].step_size == Fraction(1, 4)


def test_overfitting_runs_and_their_checkpoints():
    s, found = load(ALL), of(load(ALL))
    small, long = found["overfits", 1, 20].recipe, found["control", 1, 10].recipe
    assert small.data.n_train == 500 and long.data == s.networks.data and long.epochs == 10
    updates = [r.epochs * r.data.n_train / r.batch_size for r in (small, long)]
    assert updates[1] == pytest.approx(updates[0], rel=0.02)
    assert small.keep == tuple(range(10, 20)) and set(long.keep) == {5, 6, 7, 8, 9}
    assert small.objective == long.objective == found["R", 1, None].recipe.objective
    for kind, run in (("overfits", small), ("control", long)):
        epochs = [e for k, seed, e in found if (k, seed) == (kind, 1)]
        assert epochs == [*run.keep, run.epochs], "the end comes last"
        for epoch in run.keep:
            checkpoint = found[kind, 1, epoch].recipe
            assert (checkpoint.parents, checkpoint.checkpoint, checkpoint.epochs) == ((run,), epoch, 0)
    with_attack = load(ALL | {f"{S}.overfitting": RUNS | {"training": {"epochs": 20, "attack": {
        "steps": 1, "step_size": 0.1}}}})
    assert {of(with_attack)[kind, 0, epoch].recipe.objective.attack.steps
            for kind, epoch in (("overfits", 20), ("control", 10))} == {1}


def test_a_control_run_of_few_updates_still_has_a_checkpoint_and_an_end():
    found = of(load({f"{S}.overfitting": RUNS | {"train": 64, "epochs": 4}}))
    assert [e for kind, seed, e in found if (kind, seed) == ("control", 0)] == [1, 2]


# --------------------------------------------------------------------------------------------------------- the plan


@pytest.mark.parametrize("jobs", ["none", "seeds", "networks"])
@pytest.mark.parametrize("overrides", [{}, ALL], ids=["profile", "everything"])
def test_jobs_wait_for_one_another_in_no_circle(jobs, overrides):
    tasks = plan(load({**overrides, "jobs": jobs}))
    home = {task.recipe.key: task.job for task in tasks}
    after = {group: {home[p.key] for task in tasks if task.job == group
                     for p in (*task.recipe.parents, *task.recipe.sources)} - {group}
             for group in home.values()}
    done = set()
    while ready := {group for group, needed in after.items() if group not in done and needed <= done}:
        done |= ready
    assert done == set(after)
    assert len({task.recipe.key for task in tasks}) == len(tasks)
    for task in tasks:
        assert len(set(task.measures)) == len(task.measures)


def test_a_repetition_is_one_job_or_many():
    by_seed, by_network = ({t.recipe.key: t.job for t in plan(load({**ALL, "jobs": jobs}), (S,))}
                           for jobs in ("seeds", "networks"))
    found = {name: c.recipe.key for name, c in of(load(ALL)).items()}
    assert {by_seed[found[kind, 2, None]] for kind in "NR"} == {"pool-2"}
    assert {by_seed[found[kind, 2, None]] for kind in ("M", "U", "l2", "R wide")} == {f"{S}-2"}
    assert by_network[found["N", 2, None]] == "pool-N2" and by_network[found["R", 2, None]] == "pool-R2"
    assert {by_network[found[kind, 2, None]] for kind in "MU"} == {f"{S}-controls-2"}
    assert by_network[found["eps 0.05", 1, None]] == f"{S}-arm-eps-0.05-1"
    assert {by_network[found["overfits", 1, epoch]] for epoch in (10, 20)} == {f"{S}-overfits-1"}
    assert not any(set(" /") & set(group) for group in by_network.values()), "groups name files"


def test_a_network_of_two_notebooks_is_one_task_with_the_measures_of_both():
    s = load({"stitching.search.steps": 7})
    alone = {name: {t.recipe.key: t for t in plan(s, (name,))} for name in s.notebooks}
    both = {t.recipe.key: t for t in plan(s)}
    shared = alone["stitching"].keys() & alone[S].keys()
    assert {s.networks.member(kind, seed, s.seed).key for kind in "NR" for seed in range(3)} <= shared
    for key in shared:
        assert set(both[key].measures) == {m for tasks in alone.values() for m in tasks[key].measures}
    assert {attack.steps for _, attack in both[s.networks.member("N", 0, s.seed).key].measures} == {7, 20}
    assert both.keys() == alone["stitching"].keys() | alone[S].keys()
    assert {key: both[key].job for key in alone["stitching"]} == {
        key: task.job for key, task in alone["stitching"].items()}, "the first to need a network makes it"
    order = [t.recipe.key for t in plan(load(ALL))]
    for task in plan(load(ALL)):
        assert all(order.index(p.key) < order.index(task.recipe.key) for p in task.recipe.parents)


# ------------------------------------------------------------------------------------------------------- bad settings


def arm(**changes):
    given = {"name": "one", "group": "procedure"} | changes
    return {f"{S}.arms": [{k: v for k, v in given.items() if v is not None}]}


def runs(**changes):
    return {f"{S}.overfitting": RUNS | changes}


@pytest.mark.parametrize("overrides, words", [
    ({"jobs": "all"}, ["unknown jobs 'all'", "none", "seeds", "networks"]),
    ({"jobs": True}, ["unknown jobs 'True'", "none", "seeds"]),
    (arm(group="procedures"), ["arms[one].group 'procedures'", "did you mean 'procedure'"]),
    (arm(training="TRADE"), ["arms[one].training 'TRADE'", "did you mean 'TRADES'"]),
    (arm(training="noise"), ["arms[one].sigma = None", "exactly for noise"]),
    (arm(sigma=0.1), ["arms[one].sigma = 0.1", "exactly for noise"]),
    (arm(group="architecture"), ["arms[one].arch", "architecture"]),
    (arm(group="data"), ["arms[one].data", "data"]),
    (arm(group=None), ["group is missing"]),
    (arm(kind="x"), ["unknown setting", "kind"]),
    ({f"{S}.arms": [{"name": "one", "group": "procedure"}] * 2}, ["arms.name = [one, one]", "different ones"]),
    ({f"{S}.arms": 3}, ["arms = 3", "a list"]),
    ({f"{S}.arm_seeds": 5}, ["arm_seeds = 5", "at most the 4 seeds"]),
    ({f"{S}.seeds": 0}, [f"{S}.seeds = 0", "1 to 100"]),
    ({f"{S}.batch": 3}, [f"{S}.batch = 3", "at least 4"]),
    ({f"{S}.batch": 1000}, ["images", "two minibatches of 1000", "test images"]),
    ({f"{S}.images": 5000}, [f"{S}.images = 5000", "test images"]),
    ({f"{S}.layers": "convolutions"}, [f"{S}.layers 'convolutions'", "relu", "stages"]),
    ({f"{S}.second": ["cc"]}, [f"{S}.second 'cc'", "did you mean 'cca'"]),
    ({f"{S}.search.targeted": True}, ["targeted", "false"]),
    ({f"{S}.verify.targets": 10}, [f"{S}.verify.targets = 10", "less than the 10 classes"]),
    (runs(train=0), ["overfitting.train = 0", "at least 1"]),
    (runs(train=997), ["overfitting.train = 997", "less than the 997 training images"]),
    (runs(seeds=0), ["overfitting.seeds = 0"]),
    (runs(epochs=1.5), ["overfitting.epochs", "1.5", "whole number"]),
    (runs(kept_from=1.5), ["overfitting.kept_from = 1.5", "from 0 to 1"]),
    (runs(every=15), ["overfitting.every = 15", "two epochs to be kept"]),
    ({**runs(), "networks.data.holdout": 0}, ["networks.data.holdout = 0", "held-out images"]),
])
def test_bad_settings_are_one_sentence(overrides, words):
    with pytest.raises(SettingsError) as error:
        load(overrides)
    text = str(error.value)
    assert "\n" not in text and all(word in text for word in words), text


def test_what_is_kept_lies_late_in_training_and_before_its_end():
    for every, start in itertools.product((1, 2), (0.0, 0.5, 0.8)):
        kept = load(runs(every=every, kept_from=start)).sections[S].overfitting.kept
        assert all(n % every == 0 and max(1, 20 * start) <= n < 20 for n in kept) and len(kept) >= 2
        assert [b - a for a, b in itertools.pairwise(kept)] == [every] * (len(kept) - 1)


def test_a_job_is_unfinished_while_the_store_lacks_any_of_its_work():
    class Held:
        """A store that holds everything but one network; no training diverged."""

        def has(self, kind, key):
            return (kind, key) != missing and kind != "diverged"

    jobs = batch_jobs(load({"jobs": "networks"}), ("stitching",))
    group, job = next((g, j) for g, j in jobs.items() if j["after"])
    missing = next(entry for entry in job["work"] if entry[0] == "network")
    assert list(unfinished(jobs, Held())) == [group]
    front = next(iter(job["after"]))
    missing = next(entry for entry in jobs[front]["work"] if entry[0] == "network")
    assert list(unfinished(jobs, Held())) == [front]


def test_a_first_seed_moves_every_network_to_seeds_of_its_own():
    def seeds(recipe):
        return {recipe.seed}.union(*(seeds(p) for p in (*recipe.parents, *recipe.sources)))

    old, new = ({t.recipe.key: t.recipe for t in plan(settings.load("laptop", {"first_seed": first}))}
                for first in (0, 1000))
    assert len(old) == len(new) and not old.keys() & new.keys()
    assert min(set().union(*map(seeds, old.values()))) == 0 and min(set().union(*map(seeds, new.values()))) == 1000
    with pytest.raises(SettingsError, match="first_seed = -1"):
        settings.load("laptop", {"first_seed": -1})
