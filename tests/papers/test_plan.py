"""The plan: which networks a run needs, which job makes them, and that networks keep their keys."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from lib import runtime
from lib.batch import batch_jobs, unfinished
from lib.errors import SettingsError
from lib.papers import settings
from lib.papers.plan import chosen, plan
from lib.profiles import networks as profile_networks
from tests.papers.representation_similarity.planned import ALL, S, load, of

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


@pytest.mark.parametrize("profile", KEYS)
def test_networks_of_the_pool_keep_their_keys(profile):
    s = settings.load(profile, {"networks.precision": "fp32", "first_seed": 0})
    n, untrained = s.networks, {s.networks.member("U", i, s.seed).key for i in range(3)}
    assert {name: n.member(name[0], int(name[1:]), s.seed).key for name in KEYS[profile]} == KEYS[profile]
    assert {*KEYS[profile].values()} <= {recipe.key for recipe in n.pool(s.seed).values()} | untrained


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
        processor = SimpleNamespace(read_text=lambda encoding, flags=flags: flags, exists=lambda: False)
        for module in (profile_networks, runtime):
            monkeypatch.setattr(module, "Path", lambda name, processor=processor: processor)
        assert n.resolved(1).precision == precision
    assert replace(n, precision="fp32").resolved(1).precision == "fp32"


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
    assert {by_seed[found[kind, 2, None]] for kind in ("M+", "U", "U, 2", "l2", "R wide")} == {f"{S}-2"}
    assert by_network[found["N", 2, None]] == "pool-N2" and by_network[found["R", 2, None]] == "pool-R2"
    assert {by_network[found[kind, 2, None]] for kind in ("M-", "M+", "U")} == {f"{S}-controls-2"}
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
    assert {attack.steps for *_, attack in both[s.networks.member("N", 0, s.seed).key].measures} == {7, 20}
    assert both.keys() == alone["stitching"].keys() | alone[S].keys()
    assert {key: both[key].job for key in alone["stitching"]} == {
        key: task.job for key, task in alone["stitching"].items()}, "the first to need a network makes it"
    order = [t.recipe.key for t in plan(load(ALL))]
    for task in plan(load(ALL)):
        assert all(order.index(p.key) < order.index(task.recipe.key) for p in task.recipe.parents)


# ------------------------------------------------------------------------------------------------------- bad settings


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
