"""The similarity notebook's study: looks that are made once, evidence with known numbers and its verdicts, tables."""

import functools
from dataclasses import replace
from itertools import combinations
from types import SimpleNamespace

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import pyplot as plt

from lib import claims, plots
from lib.data import ImageSet
from lib.errors import SettingsError
from lib.models.taps import Tap
from lib.papers import papers, settings
from lib.papers.representation_similarity import figures, networks, reference, tables
from lib.papers.representation_similarity.evidence import (
    across,
    claim_preconditions,
    evidence,
    inside,
    overfitted,
    pairs_of,
    preconditions,
)
from lib.papers.representation_similarity.results import MOVED, Results, measure
from lib.runtime import seed_of
from lib.similarity import View, looks, maps
from lib.similarity.looks import Look, Moved, look_at
from lib.store import Store
from lib.study import Study
from lib.training import zoo as zoo_module
from lib.training.evaluation import Outcomes
from lib.training.zoo import Zoo
from lib.values.architectures import ResNet
from lib.values.attacks import PGD
from lib.values.data import Data
from lib.values.recipe import Recipe
from lib.values.threats import Threat

SECTION = "representation_similarity"
PAPER = claims.load(SECTION)


def cells(s):
    return networks.cells(s.networks, s.sections[SECTION], s.seed)



# ---------------------------------------------------------------- a made-up study with known numbers

ARMS = [
    {"name": "l2", "group": "threat", "threat": {"norm": "l2", "eps": 1.0}, "attack": {"steps": 5, "step_size": 0.35}},
    {"name": "eps 0.1", "group": "strength", "threat": {"norm": "linf", "eps": 0.1}},
    {"name": "eps 0.05", "group": "strength", "threat": {"norm": "linf", "eps": 0.05}},
    {"name": "noise", "group": "procedure", "training": "noise", "sigma": 0.2},
    {"name": "TRADES", "group": "procedure", "training": "TRADES"},
    {"name": "wide", "group": "architecture", "arch": {"type": "ResNet", "width": 32, "blocks": [1, 1, 1]}},
    {"name": "mnist", "group": "data", "data": {"name": "mnist", "test": 500}},
]
RUNS = {"train": 500, "epochs": 20, "every": 1, "training": {"epochs": 20}}
BATCHES, IMAGES = 6, 500

# 16 layers: the stem's 2 and 4 of layer1 are one block, then two of 4; the head's 2 are in none.
LAYERS = tuple(Tap(f"{stage}.{k}", 0, "ReLU", stage) for stage, count in
               (("stem", 2), ("layer1.0", 4), ("layer2.0", 4), ("layer3.0", 4), ("head", 2)) for k in range(count))
BLOCK = np.array([0] * 6 + [1] * 4 + [2] * 4 + [3, 4])
SAME = (BLOCK[:, None] == BLOCK) & ~np.eye(16, dtype=bool)
PART = SAME.sum() / 240  # of the cells off the diagonal; times the bonus, what blocks add to their mean

# kind -> similarity of different layers, bonus within a block
INSIDE = {"N": (.40, .20), "R": (.75, .05), "M": (.45, .20), "U": (.85, .01), "l2": (.70, .05), "eps 0.05": (.55, .10),
          "eps 0.1": (.65, .08), "noise": (.45, .18), "TRADES": (.72, .05), "N wide": (.42, .20), "R wide": (.77, .05),
          "N mnist": (.40, .20), "R mnist": (.66, .05)}
# pair of kinds -> similarity of the same layer of two networks
ACROSS = {"N-N": .85, "R-R": .90, "N-R": .50, "N-M": .75, "R-l2": .80, "N-l2": .52, "R-noise": .60, "l2-noise": .56,
          "N-eps 0.05": .70, "N-eps 0.1": .60, "eps 0.05-eps 0.1": .92, "R-eps 0.1": .88}
# network and images -> similarity of early and of deep layers with clean images
PERTURBED = {"N-own": (.90, .30), "N-of N": (.92, .50), "N-of R": (.95, .70), "N-noise": (.98, .90),
             "R-own": (.99, .90), "R-of N": (.99, .93), "R-of R": (.99, .91), "R-noise": (.99, .98)}
# run -> similarity of early and deep layers of its best epoch (of the control: of the same share) with the end
FROM_BEST = {"overfits": (.98, .80), "control": (.98, .95)}
BEST = {0: 14, 1: 12, 2: 16}  # epochs of 20
# kind -> accuracy: clean on test and training images, robust by search and by the stronger attack
ACCURACY = {"N": (.97, 1.0, .02, .02), "R": (.90, .93, .60, .58), "M": (.90, .92, .03, .03), "U": (.10, .10, 0, 0)}
WORLD = {"inside": INSIDE, "across": ACROSS, "perturbed": PERTURBED, "from_best": FROM_BEST, "accuracy": ACCURACY,
         "fall": .06, "noise": .01, "best": BEST}


def sized(**changes):
    """Settings with these arms and runs, at sizes that are known here; changes: of the notebook's section."""
    gates = {"normal_clean": .95, "normal_robust": .1, "robust_clean": .85, "robust_robust": .5}
    known = {"seeds": 4, "arm_seeds": 3, "arms": ARMS, "overfitting": RUNS, "gates": gates, "matched_within": .03,
             "second": ["procrustes", "svcca"]}
    return settings.load("smoke", {"networks.threat.eps": 0.15, "stitching": None,
                                   **{f"{SECTION}.{name}": value for name, value in {**known, **changes}.items()}})


class Known:
    """Stands in for Maps: `value(a, b)` of two views is known; every pair of networks and every minibatch of images
    adds noise of its own to every cell. Only the `pairs` are there, of all pairs if none are named.
    """

    def __init__(self, views, value, noise, tag="", pairs=None, batches=BATCHES):
        self.views, self.value, self.noise, self.tag, self.batches = tuple(views), value, noise, tag, batches
        self.layers = {view: LAYERS for view in views}
        self.pairs = pairs or [*combinations(views, 2), *zip(views, views, strict=True)]
        self.undefined = {}

    def between(self, a, b, without=None):
        assert (a, b) in self.pairs or (b, a) in self.pairs, f"no map of {a} and {b} was asked for"
        assert without is None or 0 <= without < self.batches
        if (a, b) != tuple(sorted((a, b))):
            return self.between(b, a, without).T
        kept = [k for k in range(self.batches) if k != without]
        own, *of_batches = drawn(self.tag, a, b, self.batches)
        found = self.value(a, b) + self.noise * (own + np.mean([of_batches[k] for k in kept], 0))
        if a == b:
            found = (found + found.T) / 2
            np.fill_diagonal(found, 1)
        return found


@functools.cache
def drawn(tag, a, b, batches):
    return np.random.default_rng(seed_of(tag, a, b)).uniform(-1, 1, (1 + batches, 16, 16))


@functools.cache
def kind_of(view):
    return next(kind for kind in sorted(INSIDE, key=len, reverse=True) if view[:len(kind)] == kind
                and view[len(kind):].isdigit())


def by_depth(early, deep):
    """A map whose diagonal has these values in its first and its last third, and worthless cells elsewhere."""
    values = np.full((16, 16), 7.0)
    np.fill_diagonal(values, [early] * 5 + [(early + deep) / 2] * 6 + [deep] * 5)
    return values


def outcomes(name, accuracies):
    """Outcomes of one network; the robust images are among the clean ones. accuracies: verdict -> share."""
    order = np.random.default_rng(seed_of(name)).permutation(IMAGES)
    table = {"index": np.arange(IMAGES), "label": 0, **{v: order < round(a * IMAGES) for v, a in accuracies.items()}}
    return Outcomes(pd.DataFrame(table), {"attack": name})


def found(settings_=None, **changes) -> Results:
    """A study in a world that differs from WORLD by `changes`: {name of a table: entries} or a number."""
    s = settings_ or sized()
    world = {name: {**value, **changes.get(name, {})} if isinstance(value, dict) else changes.get(name, value)
             for name, value in WORLD.items()}
    section, noise = s.sections[SECTION], world["noise"]

    def value(a, b):
        one, other = kind_of(a), kind_of(b)
        if a == b:
            level, bonus = world["inside"][one]
            return level + bonus * SAME
        pair = world["across"].get(f"{one}-{other}", world["across"].get(f"{other}-{one}"))
        values = np.full((16, 16), 7.0)  # only the diagonal of a map between networks counts
        np.fill_diagonal(values, .99 if a[len(one):] == b[len(other):] or pair is None else pair)  # nor one repetition
        return values

    f = Results(s.networks, section, s.seed, cells(s))
    for c in f.cells:
        kind, epoch = c.condition.kind, c.condition.epoch
        if epoch is None:
            clean, train, search, verify = world["accuracy"].get(kind, (.9, .9, .5, .5))
            name = f"{kind}{c.repetition}"
            f.outcomes[c] = {"clean": outcomes(name, {"clean": clean}),
                             "train": outcomes(f"train {name}", {"clean": train}),
                             "search": outcomes(name, {"clean": clean, "robust": search}),
                             "verify": outcomes(name, {"clean": clean, "robust": verify})}
        else:
            best = world["best"].get(c.repetition) if kind == "overfits" else None
            robust = .5 - world["fall"] * (epoch == c.recipe.epochs) + .01 * (epoch % 3 == 0)
            f.outcomes[c] = {"clean": outcomes("run", {"clean": .9}),
                             "search": outcomes("run", {"clean": .9, "robust": .5 if epoch == best else robust}),
                             "holdout": outcomes("run", {"clean": .9, "robust": .56 if epoch == best else .5})}
    pool = [f"{kind}{seed}" for seed in range(section.seeds) for kind in "NRUM"]
    f.pool = Known(pool, value, noise)
    here = [arm.name for arm in section.arms if arm.group not in ("architecture", "data")]
    kinds = ["N", "R", *here, *(f"{k} {a.name}" for a in section.arms if a.group == "architecture" for k in "NR")]
    if section.arms:
        f.arms = Known([f"{k}{seed}" for k in kinds for seed in range(section.arm_seeds)], value, noise)
    for arm in section.arms:
        if arm.group == "data":
            f.elsewhere[arm.name] = Known([f"{k} {arm.name}{i}" for k in "NR" for i in range(section.arm_seeds)],
                                          value, noise, batches=BATCHES + 1)
    for kind in "NR":
        for seed in range(section.seeds):
            f.moved[kind, seed] = Known(["clean", *MOVED], lambda a, b, k=kind: by_depth(
                *world["perturbed"][f"{k}-{b if a == 'clean' else a}"]), noise, f"{kind}{seed}",
                [("clean", name) for name in MOVED])
    for name in section.second:
        views = [view for view in pool if view[0] != "U"]
        f.second[name] = Known(views, value, noise, name, [(view, view) for view in views], batches=1)
    for kind in ("overfits", "control") if section.overfitting else ():
        for seed in range(section.overfitting.seeds):
            epochs = [c.condition.epoch for c in f.cells if (c.condition.kind, c.repetition) == (kind, seed)]
            best = world["best"][seed] if kind == "overfits" else world["best"][seed] // 2

            def moved(a, b, kind=kind, best=best):
                return by_depth(*(world["from_best"][kind] if str(best) in (a, b) else (.2, .9)))

            for split in ("test", "train"):
                views = [str(epoch) for epoch in epochs]
                f.runs[kind, seed, split] = Known(views, moved, noise, f"{kind}{seed}{split}",
                                                  [(view, views[-1]) for view in views])
    return f


def judged(f, evidence_=None):
    """Claim id -> judged, at the profile that tests all, as Study.judge does it."""
    ready, own = evidence(f) if evidence_ is None else evidence_, claim_preconditions(f)
    return {c.id: claims.judge(c, ready.get(c.id, {}), "paper", [*preconditions(f, []), *own.get(c.id, [])])
            for c in PAPER}


def bright(kind):
    """Mean similarity of different layers."""
    level, bonus = INSIDE[kind]
    return level + PART * bonus


def share(kind):
    return INSIDE[kind][1] / (1 - bright(kind))


def fall(name):
    return PERTURBED[name][0] - PERTURBED[name][1]


@pytest.fixture(scope="module")
def made():
    return found()


@pytest.fixture(scope="module")
def verdicts(made):
    return judged(made)


WANTED = {
    ("C1a", "gap"): [bright("R") - bright("N")],
    ("C1b", "beyond_underfitting"): [bright("R") - bright("M")],
    ("C2a", "fades"): [.20 - .05],
    ("C2b", "fades_beyond_brightness"): [share("N") - share("R")],
    ("C2b", "is_learned"): [share("N") - share("U")],
    ("C3a", "below_same_type"): [.85 - .50, .90 - .50],
    ("C3b", "below_matched"): [.75 - .50],
    ("C4a", "early_unchanged"): [.99],
    ("C4a", "deep_changes_less"): [fall("N-own") - fall("R-own"), fall("N-of N") - fall("R-of N"),
                                   fall("N-of R") - fall("R-of R")],
    ("C4b", "early_above_normal"): [.99 - .90],
    ("C4b", "more_than_noise"): [fall("N-own") - fall("N-noise")],
    ("C5", "deep_moves"): [.98 - .80],
    ("C5", "beyond_control"): [.18 - .03],
    ("C6a", "alike"): [.80 - (.50 + .52) / 2],
    ("C6b", "beyond_noise"): [.80 - (.60 + .56) / 2],
    ("C7", "falls_at_once"): [.85 - .70],
    ("C7", "neighbours_alike"): [.92 - .60, .88 - .50],
    ("C7", "grows"): [bright("R") - bright("eps 0.05")],
    ("C8a", "gap"): [bright("TRADES") - bright("N")],
    ("C8b", "gap"): [bright("R wide") - bright("N wide")],
    ("C9a", "gap"): [bright("R") - bright("N")] * 2,
    ("C9b", "gap"): [bright("R mnist") - bright("N mnist")],
}
SEEDS = {claim: 3 if claim in ("C5", "C6a", "C6b", "C7", "C8a", "C8b", "C9b") else 4 for claim, _ in WANTED}


def test_every_part_of_every_claim_has_evidence_of_the_right_shape(made):
    got = evidence(made)
    assert {(c.id, part.id) for c in PAPER for part in c.parts} == {(c, p) for c in got for p in got[c]} == set(WANTED)
    for claim in PAPER:
        for part in claim.parts:
            instances = got[claim.id][part.id]
            assert len(instances) == len(WANTED[claim.id, part.id]) and all(instances)
            batches = (BATCHES + (claim.id == "C9b"),) if part.statistic == "map" else ()
            assert {values.shape for values in instances.values()} == {(SEEDS[claim.id], *batches)}


@pytest.mark.parametrize("claim, part", WANTED)
def test_evidence_is_the_difference_that_was_put_in(verdicts, claim, part):
    rows = [row for row in verdicts[claim].rows if row.name.startswith(f"{part}: ")]
    assert sorted(row.value for row in rows) == pytest.approx(sorted(WANTED[claim, part]), abs=0.01)
    assert all(0 < row.high - row.low < 0.1 for row in rows)


def test_in_a_world_as_the_paper_says_every_claim_is_supported(verdicts):
    assert {claim: got.verdict for claim, got in verdicts.items()} == dict.fromkeys(verdicts, "supported")


def test_instances_are_named_by_what_was_compared(made):
    got = evidence(made)
    assert set(got["C3a"]["below_same_type"]) == {"N-N' minus N-R", "R-R' minus N-R"}
    assert set(got["C4a"]["deep_changes_less"]) == {"own", "of N", "of R"}
    assert set(got["C6a"]["alike"]) == {"R-l2"} and set(got["C9b"]["gap"]) == {"mnist"}
    assert list(got["C7"]["neighbours_alike"]) == ["eps 0.05-eps 0.1", "eps 0.1-R"], "by growing eps"
    assert set(got["C8a"]["gap"]) == {"TRADES"}, "noise is a control, no training procedure of the claim"
    assert set(got["C9a"]["gap"]) == {"procrustes", "svcca"}


# what fails, the claim that then is not supported, the claim beside it that is all the same
CONTROLS = {
    "brief training makes maps as bright": ({"inside": {"M": (.75, .05)}}, "C1b", "C1a"),
    "untrained networks have blocks": ({"inside": {"U": (.40, .20)}}, "C2b", "C2a"),
    "only brightness hides the blocks": ({"inside": {"R": (.75, .085)}}, "C2b", "C2a"),
    "less accurate networks are as far": ({"across": {"N-M": .50}}, "C3b", "C3a"),
    "normal early layers are as stable": ({"perturbed": {"N-own": (.985, .30)}}, "C4b", "C4a"),
    "noise does the same": ({"perturbed": {"N-noise": (.90, .30)}}, "C4b", "C4a"),
    "noise training makes as similar": ({"across": {"R-noise": .80, "l2-noise": .78}}, "C6b", "C6a"),
    "the control run moves as much": ({"from_best": {"control": (.98, .80)}}, "C5", "C1a"),
}


@pytest.mark.parametrize("changes, fails, holds", CONTROLS.values(), ids=CONTROLS)
def test_a_claim_whose_control_shows_the_same_is_not_supported(changes, fails, holds):
    got = judged(found(**changes))
    assert got[fails].verdict in ("contradicted", "undecided") and got[fails].reason
    assert got[holds].verdict == "supported"


REVERSED = {
    "robust networks are not brighter": ({"inside": {"R": (.40, .05)}}, ["C1a", "C1b", "C9a"]),
    "blocks stay": ({"inside": {"R": (.6, .20)}}, ["C2a"]),
    "one type is no more alike": ({"across": {"R-R": .50}}, ["C3a"]),
    "one of three sources of images": ({"perturbed": {"R-of R": (.99, .60)}}, ["C4a"]),
    "early layers notice": ({"perturbed": {"R-own": (.90, .85)}}, ["C4a", "C4b"]),
    "early layers move as much": ({"from_best": {"overfits": (.80, .80)}}, ["C5"]),
    "threats differ": ({"across": {"R-l2": .50}}, ["C6a", "C6b"]),
    "the smallest eps changes nothing": ({"across": {"N-eps 0.05": .85}}, ["C7"]),
    "one step of the ladder": ({"across": {"R-eps 0.1": .50}}, ["C7"]),
    "no growth with eps": ({"inside": {"eps 0.05": (.80, .05)}}, ["C7"]),
    "another procedure": ({"inside": {"TRADES": (.40, .05)}}, ["C8a"]),
    "another architecture": ({"inside": {"R wide": (.40, .05)}}, ["C8b"]),
    "another data set": ({"inside": {"R mnist": (.40, .05)}}, ["C9b"]),
}


@pytest.mark.parametrize("changes, claims_", REVERSED.values(), ids=REVERSED)
def test_what_is_not_so_is_contradicted_and_nothing_else(changes, claims_):
    got = judged(found(**changes))
    assert {claim: got[claim].verdict for claim in claims_} == dict.fromkeys(claims_, "contradicted")
    dependent = {"C1a", "C1b", "C2a", "C2b", "C9a"} if "inside" in changes and "R" in changes["inside"] else set()
    others = set(got) - set(claims_) - dependent - {"C7"}
    assert {got[claim].verdict for claim in others} == {"supported"}


def test_few_networks_decide_nothing():
    got = judged(found(sized(seeds=2, arm_seeds=2, overfitting=RUNS | {"seeds": 2})))
    assert {judged_.verdict for judged_ in got.values()} == {"undecided", "not tested"}
    assert got["C1a"].verdict == "undecided" and "fewer than 3 decide nothing" in got["C1a"].reason
    assert got["C3a"].verdict == "not tested" and "No measurement" in got["C3a"].reason
    got = judged(found(sized(arm_seeds=2)))
    assert {got[claim].verdict for claim in ("C6a", "C6b", "C7", "C8a", "C8b", "C9b")} == {"not tested"}
    assert {got[claim].verdict for claim in ("C1a", "C1b", "C2a", "C2b", "C3a", "C3b", "C4a", "C4b")} == {"supported"}


def test_networks_that_do_not_differ_are_no_certainty():
    got = judged(found(noise=0.0))
    assert {claim.verdict for claim in got.values()} == {"undecided"}


def test_only_the_arms_that_were_trained_are_judged():
    f = found(sized(arms=ARMS[-1:], second=[], overfitting=None))
    f.arms = None  # no arm on the pool's data
    got = judged(f)
    assert [claim for claim, one in got.items() if one.verdict == "not tested"] == [
        "C5", "C6a", "C6b", "C7", "C8a", "C8b", "C9a"]
    assert got["C9b"].verdict == "supported"


# ------------------------------------------------------------------------------------ preconditions


def test_a_made_up_study_meets_every_precondition(made):
    assert all(check["ok"] for check in preconditions(made, []))
    own = claim_preconditions(made)
    assert set(own) == {"C1b", "C3b", "C5"} and all(check["ok"] for checks in own.values() for check in checks)


def test_normal_networks_that_are_not_matched_are_no_control():
    for changes in ((.95, .92, .03, .03), (.90, .97, .03, .03)):
        got = judged(found(accuracy={"M": changes}))
        off = [claim for claim, one in got.items() if one.verdict == "not tested"]
        assert off == ["C1b", "C3b"]
        which = "test" if changes[0] == .95 else "training"
        assert f"matched on {which} images" in got["C1b"].reason and "at most 3% apart" in got["C1b"].reason


def test_a_run_that_does_not_overfit_is_not_judged_and_says_by_how_much():
    got = judged(found(fall=.02))["C5"]
    assert got.verdict == "not tested"
    assert "the run overfits" in got.reason and "2.0%" in got.reason and "at least 3% needed" in got.reason


@pytest.mark.parametrize("change", [{"N": (.5, .5, .02, .02)}, {"N": (.97, 1., .5, .5)}, {"R": (.90, .92, .4, .3)}])
def test_without_its_networks_nothing_is_judged(change):
    assert {one.verdict for one in judged(found(accuracy=change)).values()} == {"not tested"}


def test_a_doubtful_attack_and_a_layer_without_numbers_stop_the_judge(made):
    doubts = [check["name"] for check in preconditions(made, ["gradients are masked"]) if not check["ok"]]
    assert doubts == ["the attack can be trusted"]
    f = found()
    f.moved["R", 2].undefined = {("own", "stem.0"): "its output is 0 for every image"}
    failed, = [check for check in preconditions(f, []) if not check["ok"]]
    said = "1 have none, the first is stem.0 of own: its output is 0 for every image"
    assert failed == {"name": "every layer has a number", "ok": False, "detail": said}


def test_the_best_epoch_is_the_one_of_held_out_images(made):
    got = overfitted(made)
    assert {seed: best for seed, (best, _) in got.items()} == BEST
    assert [fell for _, fell in got.values()] == pytest.approx([.06] * 3)
    assert tables.falls(made).to_dict("list") == {"seed": [0, 1, 2], "best epoch": list(BEST.values()),
                                                  "fall": pytest.approx([.06] * 3)}


def test_claim_preconditions_reach_the_judge_for_their_claim_only(made, monkeypatch):
    study = object.__new__(Study)
    study.paper, study.settings = papers()[SECTION], sized()
    monkeypatch.setattr(study, "table", lambda name, frame: frame, raising=False)
    bad = {"name": "made up", "ok": False, "detail": "it is not so"}
    for everywhere, own in (([], {"C1b": [bad]}), ([bad], None)):
        shown = study.judge(evidence(made), everywhere, own).data
        off = {claim.claim.id for claim in study.claims if "made up (it is not so)" in claim.reason}
        inside_scope = {claim.id for claim in PAPER if "smoke" in claim.scope}
        assert off == ({"C1b"} if own else inside_scope)
        assert list(shown["claim"]) == [claim.id for claim in PAPER]
        assert shown.set_index("claim")["verdict"]["C1a"] == ("supported" if own else "not tested")
        assert all(shown["because"] != "")


# ---------------------------------------------------------------------------------- means over pairs


def test_pairs_are_of_different_repetitions_and_counted_once():
    assert list(pairs_of("N", "N", 3, None)) == [(0, 1), (0, 2), (1, 2)]
    assert list(pairs_of("N", "R", 3, None)) == [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)]
    assert list(pairs_of("N", "N", 4, 1)) == [(0, 2), (0, 3), (2, 3)]
    assert list(pairs_of("N", "R", 3, 0)) == [(1, 2), (2, 1)]


def test_a_repetition_and_a_minibatch_are_left_out(made):
    one = [made.pool.between(f"R{i}", f"R{i}", without=3) for i in (0, 2, 3)]
    off = ~np.eye(16, dtype=bool)
    assert inside(made.pool, "R", 4, seed=1, batch=3) == pytest.approx(np.mean([m[off].mean() for m in one]))
    pairs = [made.pool.between(f"N{i}", f"R{j}", without=3) for i in (0, 2, 3) for j in (0, 2, 3) if i != j]
    assert across(made.pool, "N", "R", 4, 1, 3) == pytest.approx(np.mean([m.diagonal().mean() for m in pairs]))


# --------------------------------------------------------------------------------------------- tables


@pytest.fixture
def closed():
    yield
    plt.close("all")


def test_tables_hold_the_known_numbers(made):
    means = tables.summaries(made).groupby(["kind", "summary"]).value.mean()
    for kind, name in (("N", "normal"), ("R", "robust"), ("M", "matched normal"), ("U", "untrained"),
                       ("R wide", "R wide"), ("N mnist", "N mnist"), ("l2", "l2"), ("TRADES", "TRADES")):
        assert means[name, "mean off-diagonal"] == pytest.approx(bright(kind), abs=.01)
        assert means[name, "block index"] == pytest.approx(INSIDE[kind][1], abs=.01)
        assert means[name, "block index, share of what is left"] == pytest.approx(share(kind), abs=.03)
    assert set(tables.summaries(made).groupby("kind").seed.nunique().items()) >= {("normal", 4), ("l2", 3)}
    pairs = tables.kinds(made, ("M", "N", "R"))
    near = pairs.groupby(["kind", "other"]).similarity.mean()
    assert near["normal", "robust"] == pytest.approx(.50, abs=.01)
    assert near["matched normal", "normal"] == pytest.approx(.75, abs=.01)
    assert len(pairs[(pairs.kind == "normal") & (pairs.other == "normal")]) == 6
    assert (pairs.seed != pairs.other_seed).all()
    moved = tables.perturbed(made).groupby(["kind", "perturbation", "position"]).similarity.mean()
    assert moved["normal", "noise of equal size", 0] == pytest.approx(.98, abs=.02)
    assert moved["robust", "own adversarial", 15] == pytest.approx(.90, abs=.02)
    dose = tables.strengths(made).groupby("eps")[["to_normal", "self"]].mean()
    assert dose.index.tolist() == [0, .05, .1, .15]
    assert dose["to_normal"].tolist() == pytest.approx([.85, .70, .60, .50], abs=.01)
    assert dose["self"][.05] == pytest.approx(bright("eps 0.05"), abs=.01)
    runs = tables.runs(made)
    best = runs[(runs.kind == "overfits") & (runs.seed == 0) & (runs.epoch == 14) & (runs.images == "test")]
    assert best.set_index("quantity").value.to_dict() == {"early": pytest.approx(.98, abs=.02),
                                                          "deep": pytest.approx(.80, abs=.02), "accuracy": .5}
    far = tables.distances(made)
    assert far.distance.max() == 1 and far[far.kind == "normal"].groupby("distance").size().tolist() == [4] * 15


def test_threats_and_normal_and_robust_networks_in_words(made):
    kinds = tables.threat_kinds(made)
    assert kinds[0] == "N" and {"R", "l2", "noise"} <= {*kinds} and kinds.index("noise") < kinds.index("R")
    pair = {"kind": "normal", "other": "robust"}
    pairs = pd.DataFrame([{**pair, "similarity": .5}, {**pair, "similarity": .25}, {**pair, "other": "normal",
                                                                                     "similarity": 1}])
    assert tables.same_layer_in_words(pairs).endswith("0.38 here (0.25 to 0.50); the paper's networks: 0.58")


def test_a_run_is_described_before_it_starts(made):
    s = sized()
    run = SimpleNamespace(settings=s, section=s.sections[SECTION], keys=["a"] * 7)
    first, second = tables.describe(run).split("\n")
    assert f"in minibatches of {run.section.batch}; " in first and first.endswith(f"layers: {run.section.layers}")
    assert f"{run.section.seeds} networks of each kind" in second and second.endswith("7 trained networks in the plan")


def test_accuracies_by_kind(made):
    got = tables.accuracies(made)
    assert got.loc["normal", "clean (test)"] == .97 and got.loc["robust", "clean (training)"] == .93
    assert got.loc["robust", f"PGD-{made.section.search.steps}"] == .60 and got.loc["robust", "stronger attack"] == .58
    assert "overfits" not in got.index
    assert made.note("R") == "clean 90%, PGD-10 60%"
    rows = made.table()
    assert len(rows) == sum(len(found_) for found_ in made.outcomes.values()) and {"network", "attack"} <= {*rows}


def test_every_table_is_drawn(made, closed):
    layers_ = made.pool.layers["N0"]
    kinds = {"normal": ("N", "N"), "robust": ("R", "R"), "normal and robust": ("N", "R")}
    panels, notes, axes = tables.maps_of(made, kinds)
    assert axes["normal and robust"] == ("normal", "robust") and notes["robust"] == made.note("R")
    assert notes["normal and robust"] == f"{made.note('N')}; {made.note('R')}"
    assert panels["robust"][0, 15] == pytest.approx(.75, abs=.02)
    assert panels["normal and robust"].diagonal().mean() == pytest.approx(.50, abs=.01)
    drawn = [
        plots.similarity_maps(panels, layers_, notes, axes),
        figures.against_distance(tables.distances(made), "depth", reference.by_distance()),
        figures.summary_strip(tables.summaries(made), reference=reference.summaries()),
        figures.summary_strip(tables.second(made)),
        figures.kind_matrix(tables.kinds(made, ("U", "M", "N", "R"))),
        figures.kind_matrix(tables.kinds(made, ("N", "noise", "R", "l2"))),
        figures.per_layer(tables.perturbed(made), layers_),
        figures.dose_response(tables.strengths(made)),
        figures.checkpoints(tables.runs(made)),
    ]
    assert all(figure.axes for figure in drawn)


def test_tables_of_a_study_without_arms_are_drawn(closed):
    f = found(sized(arms=[]))
    assert set(tables.summaries(f).kind) == {"untrained", "matched normal", "normal", "robust"}
    dose = tables.strengths(f)
    assert set(dose.eps) == {0} and dose.to_normal.mean() == pytest.approx(.85, abs=.01)
    assert figures.dose_response(dose).axes and figures.kind_matrix(tables.kinds(f, ("N", "R"))).axes


def test_the_exploratory_tables_are_whole():
    across_, attacked = (reference.exploratory(t) for t in (reference.ACROSS_BUDGETS, reference.CLEAN_AGAINST_ATTACKED))
    assert across_.shape == attacked.shape == (6, 6) and (across_.values == across_.values.T).all()
    assert across_.loc["normal", "1.0"] == .41 and attacked.loc["normal", "0.5"] == .12
    assert (np.diag(across_) == 1).all() and (np.diag(attacked) == 1).all()


# ---------------------------------------------------------------------------------------------- looks

THREAT, ATTACK = Threat("linf", "0.1"), PGD(2, "0.05")
NET = Recipe(Data("digits", train=64, test=24), ResNet(16, (1, 1)), epochs=0, batch_size=64)
OTHER = replace(NET, seed=1)


@pytest.fixture
def box(tmp_path):
    torch.set_num_threads(1)
    return Zoo(Store(tmp_path))


@pytest.fixture
def shown(monkeypatch):
    """The views that maps were asked for."""
    seen = []

    def listening(views, *args, **options):
        seen.extend(views)
        return maps(views, *args, **options)

    monkeypatch.setattr(looks, "maps", listening)
    return seen


def test_a_map_is_that_of_the_networks_on_the_images(box):
    two = [Look("a", NET), Look("b", OTHER)]
    got = look_at(box, two, batch=8)
    images = box.images(NET.data, "test")
    direct = maps([View(look.name, box.obtain(look.recipe).net, images) for look in two], batch_size=8)
    assert got.views == ("a", "b") and got.batches == 3 and got.layers == direct.layers
    for pair in (("a", "a"), ("a", "b")):
        np.testing.assert_allclose(got.between(*pair), direct.between(*pair), rtol=1e-6)
    part = look_at(box, two, batch=8, images=16, split="train", layers="relu", pairs=[("a", "b")])
    assert part.sizes == (8, 8) and all(tap.kind == "ReLU" for tap in part.layers["a"])
    with pytest.raises(SettingsError, match="views = a, a"):
        part.between("a", "a")


def test_a_map_is_made_once_and_then_read(box, monkeypatch):
    two = [Look("a", NET), Look("b", OTHER, Moved(NET, THREAT, ATTACK))]
    first = look_at(box, two, batch=8)
    monkeypatch.setattr(looks, "maps", None)
    monkeypatch.setattr(zoo_module, "build", None)
    again = look_at(Zoo(Store(box.store.root)), two, batch=8)
    assert torch.equal(again.terms, first.terms) and again.layers == first.layers and again.pairs == first.pairs
    entry, = [meta for kind, _, _, meta in box.store.entries() if kind == "maps"]
    assert entry["networks"] == sorted([NET.key, OTHER.key])


DIFFERENT = {
    "network": ([Look("a", OTHER)], {}), "moved": ([Look("a", NET, Moved(NET, THREAT, ATTACK))], {}),
    "moved by another": ([Look("a", NET, Moved(OTHER, THREAT, ATTACK))], {}),
    "moved more": ([Look("a", NET, Moved(NET, Threat("linf", "0.2"), ATTACK))], {}),
    "noise": ([Look("a", NET, Moved(NET, THREAT, ATTACK, noise=True))], {}), "split": (None, {"split": "train"}),
    "images": (None, {"images": 16}), "layers": (None, {"layers": "relu"}),
    "measure": (None, {"measure": "cka_biased"}),
    "pooled": (None, {"pooled": True}), "batch": (None, {"batch": 12}), "faithful": (None, {"faithful": True}),
}


def test_what_differs_is_another_map(box, monkeypatch):
    made_ = []

    def obtain(kind, key, make):
        made_.append(key)
        raise KeyError

    monkeypatch.setattr(box.store, "obtain", obtain)
    for which, options in [(None, {}), *DIFFERENT.values(), (None, {})]:
        with pytest.raises(KeyError):
            look_at(box, which or [Look("a", NET)], **{"batch": 8, **options})
    assert made_[0] == made_[-1] and len({*made_}) == len(DIFFERENT) + 1


def pixels_of(view):
    return view.images if isinstance(view.images, torch.Tensor) else view.images.pixels()


def test_adversarial_images_are_those_of_their_source(box, shown):
    by = {"clean": None, "own": Moved(NET, THREAT, ATTACK), "other": Moved(OTHER, THREAT, ATTACK)}
    look_at(box, [Look(name, NET, moved) for name, moved in by.items()], batch=12, images=12)
    pixels = {view.name: pixels_of(view) for view in shown}
    assert torch.equal(pixels["clean"], box.images(NET.data, "test").pixels()[:12])
    for name, source in (("own", NET), ("other", OTHER)):
        assert torch.equal(pixels[name], box.adversarial(source, THREAT, ATTACK)[:12])
        assert 0 < (pixels[name] - pixels["clean"]).abs().max() <= .1 + 1e-6
    assert not torch.equal(pixels["own"], pixels["other"])


def test_noise_moves_every_pixel_as_far_as_the_attack_with_a_random_sign(box, shown):
    aimed = Moved(NET, THREAT, ATTACK)
    names = {"clean": None, "own": aimed, "noise": replace(aimed, noise=True)}
    look_at(box, [Look(name, NET, moved) for name, moved in names.items()], batch=24)
    clean, own, noise = (pixels_of(view) for view in shown)
    assert 0 <= noise.min() and noise.max() <= 1
    size = (own - clean).abs()
    uncut = (clean - size >= 0) & (clean + size <= 1)  # there either sign fits
    torch.testing.assert_close((noise - clean).abs()[uncut], size[uncut], rtol=0, atol=1e-6)
    assert ((noise - clean).abs() <= size + 1e-6).all()
    moved = uncut & (size > 1e-3)
    agree = (torch.sign(noise - clean) == torch.sign(own - clean))[moved].float()
    assert len(agree) > 300 and .4 < agree.mean() < .6
    shown.clear()
    look_at(box, [Look("noise", OTHER, replace(aimed, noise=True))], batch=24)
    assert torch.equal(shown[0].images, noise), "the noise does not depend on who looks"


def test_views_of_other_images_are_refused(box):
    fewer = replace(NET, data=replace(NET.data, test=20))
    with pytest.raises(SettingsError) as error:
        look_at(box, [Look("a", NET), Look("b", fewer)], batch=8)
    assert "images of view b = 20 images" in str(error.value) and "\n" not in str(error.value)
    assert look_at(box, [Look("a", NET), Look("b", fewer)], batch=8, images=16).sizes == (8, 8), "both have these"
    for noise in (False, True):
        with pytest.raises(SettingsError) as error:
            look_at(box, [Look("a", NET, Moved(fewer, THREAT, ATTACK, noise))], batch=8, images=16)
        assert "data of the attacked network" in str(error.value) and "\n" not in str(error.value)
    assert [kind for kind, *_ in box.store.entries()].count("maps") == 1, "nothing was made of what was refused"


def test_adversarial_images_of_another_data_set_are_refused(box, monkeypatch):
    """As many images of the same shape, with the same numbers: only their name tells them apart."""
    def read(data, split, device):
        draw = torch.Generator().manual_seed(len(data.name))
        pixels = torch.randint(0, 256, (12, 3, 32, 32), generator=draw, dtype=torch.uint8)
        return ImageSet(pixels, torch.arange(12) % 10, torch.arange(12), data.name, split)

    monkeypatch.setattr(zoo_module, "load", read)
    here, there = (replace(NET, data=Data(name, test=12)) for name in ("cifar10", "svhn"))
    with pytest.raises(SettingsError, match="data of the attacked network.*svhn.*test images of cifar10"):
        look_at(box, [Look("a", here, Moved(there, THREAT, ATTACK))], batch=12)
    assert look_at(box, [Look("a", here, Moved(here, THREAT, ATTACK))], batch=12).sizes == (12,)


# -------------------------------------------------------------------------------------------- measure


def test_a_small_study_from_networks_to_evidence(tmp_path, monkeypatch):
    """All views are there and named as evidence and tables expect; a second time nothing is made."""
    torch.set_num_threads(1)
    monkeypatch.setattr(zoo_module, "sanity_within", lambda *args: [])
    monkeypatch.setattr(zoo_module, "beaten_by_square", lambda *args: [])
    attack = {"steps": 1, "step_size": 0.1}
    s = settings.load("test", {
        "stitching": None, "networks.data.train": 128, "networks.data.test": 24, "networks.data.holdout": 20,
        "networks.arch.blocks": [1, 1], f"{SECTION}.seeds": 2, f"{SECTION}.arm_seeds": 1, f"{SECTION}.batch": 12,
        f"{SECTION}.search": attack, f"{SECTION}.verify": {"type": "APGD", "steps": 2}, f"{SECTION}.second": ["cka"],
        f"{SECTION}.arms": [{"name": "l2", "group": "threat", "threat": {"norm": "l2", "eps": 0.5}, "attack": attack},
                            {"name": "wide", "group": "architecture",
                             "arch": {"type": "ResNet", "width": 32, "blocks": [1, 1]}}],
        f"{SECTION}.overfitting": {"train": 64, "epochs": 3, "every": 1, "kept_from": 0.3, "seeds": 1,
                                   "training": {"epochs": 3}}})
    box, threat, search = Zoo(Store(tmp_path)), s.networks.threat, s.sections[SECTION].search
    f = measure(box, cells(s), s.networks, s.sections[SECTION], s.seed)
    assert set(f.pool.views) == {f"{kind}{seed}" for kind in "NRMU" for seed in (0, 1)}
    assert set(f.arms.views) == {"N0", "R0", "l20", "N wide0", "R wide0"}
    assert set(f.moved) == {(kind, seed) for kind in "NR" for seed in (0, 1)}
    assert f.moved["R", 1].views == ("clean", *MOVED) and f.second["cka"].exact
    assert {key: maps_.views for key, maps_ in f.runs.items()} == {
        (kind, 0, split): views for kind, views in (("overfits", ("1", "2", "3")), ("control", ("1", "2")))
        for split in ("test", "train")}
    assert (f.runs["control", 0, "train"].sizes, f.runs["overfits", 0, "test"].sizes) == ((12, 12), (12, 12))
    names = {c: f"{c.condition.kind}{c.repetition}" for c in f.cells if c.condition.epoch is None}
    got = {name: set(f.outcomes[c]) for c, name in names.items()}
    assert got["N0"] == {"clean", "train", "search"} and got["R1"] == got["N0"] | {"verify"}
    assert got["R0"] == got["R1"] | {"restart"} and got["l20"] == {"clean", "search", "own"}
    assert all({"clean", "search", "holdout"} == set(f.outcomes[c]) for c in f.cells if c not in names)
    train = next(f.outcomes[c]["train"] for c in f.cells if c.condition.kind == "M")
    assert len(train.table) == 128
    ready = evidence(f)
    assert {claim for claim, parts in ready.items() if parts} == {"C1a", "C1b", "C2a", "C2b", "C4a", "C4b", "C5", "C9a"}
    assert all(np.isfinite(v).all() for parts in ready.values() for part in parts.values() for v in part.values())
    nets = {name: c.recipe for c, name in names.items()}
    for name, source in (("own", "R0"), ("of N", "N1"), ("of R", "R1"), ("noise", "R0")):  # of another repetition
        moved = Moved(nets[source], threat, search, noise=name == "noise")
        direct = look_at(box, [Look("clean", nets["R0"]), Look("moved", nets["R0"], moved)], batch=12)
        np.testing.assert_allclose(f.moved["R", 0].between("clean", name), direct.between("clean", "moved"), rtol=1e-5)
    monkeypatch.setattr(zoo_module, "fit", None)
    monkeypatch.setattr(zoo_module, "evaluate", None)
    monkeypatch.setattr(looks, "maps", None)
    again = evidence(measure(Zoo(Store(tmp_path)), cells(s), s.networks, s.sections[SECTION], s.seed))
    assert all(np.array_equal(again[c][p][i], v) for c in ready for p in ready[c] for i, v in ready[c][p].items())
