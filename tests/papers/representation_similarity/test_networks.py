"""Similarity of representations: the networks that are planned, and what they are measured under."""

from dataclasses import replace
from fractions import Fraction

import pytest

from lib.values.architectures import ResNet
from lib.values.attacks import PGD
from lib.values.data import Data
from lib.values.objectives import TRADES, Adversarial, CrossEntropy, Noise, fgsm_rs
from lib.values.threats import Threat
from tests.papers.representation_similarity.planned import ALL, ARMS, RUNS, S, cells, load, of


def test_every_kind_has_its_networks_once():
    s, found = load(ALL), of(load(ALL))
    n = s.sections[S]
    assert len(found) == len(cells(s))
    counts = {kind: sum(k == kind for k, _, _ in found) for kind, _, _ in found}
    kinds = ["N", "R", "U", *(f"U, {n}" for n in range(2, 6)), "M-", "M+"]
    assert counts == {**dict.fromkeys(kinds, 4), **{a["name"]: 3 for a in ARMS[:6]}, "N wide": 3, "R wide": 3,
                      "N mnist": 3, "R mnist": 3, "overfits": 3 * 11,
                      "control": 3 * len({e for k, _, e in found if k == "control"})}
    keys = [c.recipe.key for c in found.values()]
    assert len({*keys}) == len(keys), "no network stands for two"
    assert n.seeds == 4 and n.arm_seeds == 3


def test_the_kinds_are_what_they_are_called():
    s, found = load(ALL), of(load(ALL))
    pooled = {f"{kind}{seed}": recipe for (kind, seed), recipe in s.networks.pool(s.seed).items()}
    threat, attack, normal = s.networks.threat, s.networks.robust.attack, found["N", 1, None].recipe
    assert found["N", 1, None].recipe == pooled["N1"] and found["R", 1, None].recipe == pooled["R1"]
    assert found["U", 1, None].recipe == replace(normal, epochs=0)
    further = [found[f"U, {n}", 1, None].recipe for n in (2, 3, 4, 5)]
    assert [r.seed for r in further] == [5, 9, 13, 17], "seeds of no other repetition"
    assert {replace(r, seed=normal.seed) for r in further} == {replace(normal, epochs=0)}
    for kind, epochs in (("M-", 2), ("M+", 6)):
        brief = found[kind, 1, None].recipe
        assert brief.epochs == epochs < normal.epochs and brief.objective == CrossEntropy()
        assert replace(brief, epochs=normal.epochs, optimiser=normal.optimiser, schedule=normal.schedule) == normal
    aims = {"half": Adversarial(threat, attack, clean_loss=0.5, batchnorm="train"), "TRADES": TRADES(threat, attack),
            "FGSM-RS": fgsm_rs(threat), "noise": Noise(0.2), "wide": Adversarial(threat, attack)}
    for kind, aim in aims.items():
        assert found["R wide" if kind == "wide" else kind, 2, None].recipe.objective == aim
    assert found["l2", 0, None].recipe.objective.threat == Threat("l2", 1)
    assert found["noise", 0, None].recipe.epochs == 7
    for kind, old in (("N", normal), ("R", pooled["R1"])):
        assert found[f"{kind} wide", 1, None].recipe == replace(old, arch=ResNet(32, (1, 1, 1)))
    mnist = [found[f"{kind} mnist", 0, None].recipe for kind in "NR"]
    assert [replace(r.data, draw=None) for r in mnist] == [Data("mnist", test=500)] * 2
    assert [r.epochs for r in mnist] == [3, 4]
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
    assert found["N", 0, None].measures == found["M-", 0, None].measures == found["M+", 0, None].measures == (search,)
    assert found["U", 0, None].measures == found["U, 2", 0, None].measures == ()
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


def test_the_paper_may_have_its_own_data_and_training():
    """The pool stays as it is, and arms train as robust networks do unless they say otherwise."""
    training = {"epochs": 2, "optimiser": {"lr": 0.3}, "schedule": {"name": "cosine"}}
    attack = {"steps": 2, "step_size": 0.1}
    data = {"name": "digits", "train": 800, "holdout": 200, "test": 400}
    s = load({**ALL, f"{S}.data": data, f"{S}.normal": training, f"{S}.robust": {**training, "attack": attack},
              f"{S}.training": "half"})
    found = of(s)
    normal, robust = (found[kind, 1, None].recipe for kind in "NR")
    assert normal.data == robust.data == s.sections[S].data != s.networks.data
    assert {(r.epochs, r.optimiser.lr, r.schedule.name) for r in (normal, robust)} == {(2, 0.3, "cosine")}
    half = Adversarial(s.networks.threat, PGD(**attack), clean_loss=0.5, batchnorm="train")
    assert robust.objective == found["R wide", 1, None].recipe.objective == half
    assert found["l2", 0, None].recipe.objective.clean_loss == 0.5
    assert found["TRADES", 0, None].recipe.objective == TRADES(s.networks.threat, PGD(**attack))
    assert s.networks.pool(s.seed) == load(ALL).networks.pool(s.seed)
