"""The stitching experiment: its cells, its evidence, its preconditions, on made-up outcomes with known answers."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from torch import nn

from lib import claims
from lib.errors import SettingsError
from lib.models import build
from lib.papers import settings
from lib.papers.stitching import evidence, networks, results, tables
from lib.papers.stitching.networks import PAIRS, Condition
from lib.runtime import ROOT, generator
from lib.stitching import measures
from lib.stitching.measures import AtJoint
from lib.store import Store
from lib.training import loop
from lib.training.evaluation import Outcomes
from lib.training.zoo import Zoo
from lib.values.architectures import Probe, ResNet, Stitch
from lib.values.attacks import PGD
from lib.values.cell import Cell
from lib.values.data import Data
from lib.values.objectives import TRADES, Adversarial, Transferred
from lib.values.recipe import Optimiser, Recipe, Schedule
from lib.values.threats import Threat

S = settings.load("smoke", {"stitching.seeds": 4, "stitching.others": []})  # the core alone
SECTION = S.sections["stitching"]
IMAGES = 600


def cells(s=S):
    return networks.cells(s.networks, s.sections["stitching"], s.seed)


def made_up(accuracy, s=S) -> results.Results:
    """Outcomes drawn so that a cell of condition c has accuracy(c, which) in expectation; robust implies clean."""
    m = results.Results(s.networks, s.sections["stitching"], s.seed, cells(s))
    rng = np.random.default_rng(0)
    difficulty = rng.random(IMAGES)
    for c in m.cells:
        right = {which: difficulty * 0.9 + 0.1 * rng.random(IMAGES) < accuracy(c.condition, which)
                 for which in ("clean", "search", *(["verify"] if len(c.measures) > 1 else []))}
        for which, one in right.items():
            table = {"index": np.arange(IMAGES), "clean": right["clean"], "robust": one & right["clean"]}
            protocol = {"seed": "evaluation", "batchnorm": "eval"}
            m.outcomes.setdefault(c, {})[which] = Outcomes(pd.DataFrame(table), protocol)
        m.converged[c] = 0.01
    return m


def as_the_paper_says(c, which):
    """A world in which every claim holds, C4b excepted: it contradicts C6."""
    last = c.joint == SECTION.joints[-1]
    early = c.joint in SECTION.first
    if which == "clean":
        return {"untrained front": 0.5, "linear probe": 0.6}.get(c.role, 0.95)
    if c.role == "endpoint":
        return 0.7 if c.pair == "R" else 0.0
    if c.alpha == 0:
        return 0.0
    table = {"N->R": 0.6 if early else 0.0 if last else 0.1, "R->N": 0.68 if last else 0.2, "R->R2": 0.68,
             "N->N2": 0.0, "U->R": 0.2, "R->U": 0.69, "N->new": 0.4, "R->new": 0.6}
    return table.get(c.pair, 0.0)


def verdicts(measured, failed=None):
    found = evidence.evidence(measured)
    checks = evidence.preconditions(measured, 0.0, [])
    assert failed or all(c["ok"] for c in checks), checks
    return {c.id: claims.judge(c, found.get(c.id, {}), "smoke", checks) for c in claims.load("stitching").claims}


def test_a_world_as_the_paper_says_supports_its_claims():
    got = {k: v.verdict for k, v in verdicts(made_up(as_the_paper_says)).items()}
    assert {k for k, v in got.items() if v == "supported"} == {"C1a", "C1b", "C2a", "C2b", "C3a", "C3b", "C4a"}
    assert got["C4b"] == "contradicted", "an untrained end that does as well speaks against C4b"
    assert {k for k, v in got.items() if v == "not tested"} == {"C5a", "C5b", "C6", "C7"}


def test_a_world_without_any_difference_supports_no_difference():
    def flat(c, which):
        if c.role == "endpoint" and c.pair != "R":
            return 0.95 if which == "clean" else 0.0
        return 0.95 if which == "clean" else 0.7

    got = {k: v.verdict for k, v in verdicts(made_up(flat)).items()}
    for claim in ("C1b", "C2a", "C2b", "C3a", "C3b", "C4a", "C4b"):
        assert got[claim] == "contradicted", claim


def test_networks_that_fail_a_gate_leave_claims_untested():
    def weak(c, which):
        return 0.3 if c.role == "endpoint" and c.pair == "R" and which != "clean" else as_the_paper_says(c, which)

    got = verdicts(made_up(weak), failed=True)
    assert {v.verdict for v in got.values()} == {"not tested"}
    assert "robust networks are robust" in got["C2a"].reason


def first_joint(m):
    """The same joint of every repetition."""
    first = next(c.condition for c in m.cells if c.condition.role == "pair")
    return [c for c in m.cells if c.condition == first]


def test_one_noisy_repetition_of_a_joint_does_not_mean_that_it_has_not_converged():
    measured = made_up(as_the_paper_says)
    one, *others = first_joint(measured)
    assert len(others) >= 2
    measured.converged.update({one: 0.5, **dict.fromkeys(others, 0.0)})
    assert [c["name"] for c in evidence.preconditions(measured, 0.0, []) if not c["ok"]] == []


@pytest.mark.parametrize("change, name", [
    (lambda m: m.converged.update({c: 0.25 for c in first_joint(m)}), "joints converged"),
    (lambda m: None, "self-stitch is exact"), (lambda m: None, "the attack can be trusted")])
def test_each_precondition_can_fail(change, name):
    measured = made_up(as_the_paper_says)
    change(measured)
    gap = 0.1 if name.startswith("self") else 0.0
    warnings = ["zero gradients"] if name.startswith("the attack") else []
    assert [c["name"] for c in evidence.preconditions(measured, gap, warnings) if not c["ok"]] == [name]


def test_every_part_of_every_claim_in_scope_gets_evidence():
    found = evidence.evidence(made_up(as_the_paper_says, settings.load("smoke", {"stitching.seeds": 4})))
    wanted = {(c.id, p.id) for c in claims.load("stitching").claims if S.profile in c.scope for p in c.parts}
    wanted |= {(c.id, p.id) for c in claims.load("stitching").claims if c.id in ("C5a", "C5b") for p in c.parts}
    assert {(claim, part) for claim, parts in found.items() for part in parts} == wanted, "with the permuted digits"
    for parts in found.values():
        for instances in parts.values():
            assert instances and all(array.shape == (4, IMAGES) for array in instances.values())


def test_cells_cover_every_pair_joint_and_alpha_with_their_controls():
    got, s = {c.condition for c in cells()}, SECTION
    assert {Condition("pair", p, j, a) for p in PAIRS if p != "N->N2" for j in s.joints for a in s.alphas} <= got
    assert {Condition("pair", "N->N2", j) for j in s.joints} | {Condition("pair", "N->N2", s.middle, 1.0)} <= got
    for role in ("endpoint", "untrained front", "untrained end", "new end", "linear probe", "BN only", "frozen BN",
                 "twice the epochs"):
        assert any(condition.role == role for condition in got), role
    assert len({c.recipe.key for c in cells()}) == len({(c.condition, c.repetition) for c in cells()})
    probe = next(c for c in cells() if c.condition.role == "linear probe")
    assert isinstance(probe.recipe.arch, Probe) and probe.recipe.batchnorm == "frozen"


def test_another_setting_has_the_core_once_more_with_networks_of_its_own():
    profile = yaml.safe_load((ROOT / "configs" / "smoke.yaml").read_text())
    own = {name: profile["stitching"][name] for name in ("joints", "middle", "gates", "attack", "search")}
    few = {**profile["networks"], "data": {"name": "digits", "train": 400, "test": 100}}
    for kind in ("normal", "robust"):
        few[kind] = {**few[kind], "count": 1}
    place = {"name": "few digits", "networks": few, **own}
    s = settings.load("smoke", {"stitching.seeds": 3, "stitching.trades": 2.0, "stitching.elsewhere": [place]})
    here, there = ([c for c in cells(s) if c.condition.where == where] for where in ("", "few digits"))
    of_core = [c for c in here if c.condition.role in networks.CORE and c.recipe.data.name == "digits"]
    assert [replace(c.condition, where="") for c in there] == [c.condition for c in of_core]
    assert {c.recipe.data.train for c in there} == {400} and all(c.job.startswith("few-digits-") for c in there)
    assert not {c.recipe.key for c in there} & {c.recipe.key for c in here}
    assert all(len({*c.recipe.parents}) == 2 for c in there if c.condition.pair == "R->R2"), "though its pool has one"
    m = made_up(as_the_paper_says, s)
    found = evidence.evidence(m)["C7"]
    assert {*found} == {part.id for part in claims.load("stitching")["C7"].parts}
    assert all(name.startswith("few digits: ") for instances in found.values() for name in instances)
    checks = evidence.named_checks(m)
    assert all(checks.values()) and all(check["ok"] for some in checks.values() for check in some)
    own = evidence.claim_preconditions(m)
    assert own["C7"] == checks["elsewhere"] and own["C5a"] == own["C5b"] == own["C6"] == checks["others"]
    table = m.table()
    there, here = tables.measured_at(table, "few digits"), tables.measured_at(table)
    assert set(there["where"]) == {"few digits"} and set(here["where"]) == {""} and len(there) + len(here) == len(table)


def test_self_stitch_is_exact_and_the_table_is_tidy(tmp_path):
    data = Data("digits", train=256, test=100)
    recipe = Recipe(data, ResNet(16, (1, 1)), epochs=1, batch_size=64)
    zoo = Zoo(Store(tmp_path))
    for joint in recipe.arch.stages[:-1]:
        assert results.self_stitch_gap(zoo, recipe, joint, zoo.images(data, "test")) == 0
    table = made_up(as_the_paper_says).table()
    assert {"role", "pair", "joint", "alpha", "seed", "measure", "accuracy", "images", "network"} <= set(table.columns)
    assert sorted(table.seed.unique()) == [0, 1, 2, 3], "a column of the protocol must not hide one of the cell's"


def test_convergence_is_read_from_the_training_log(tmp_path):
    zoo = Zoo(Store(tmp_path))
    recipe = Recipe(Data("digits", train=256, test=100), ResNet(16, (1, 1)), epochs=2, batch_size=64)
    zoo.obtain(recipe)
    loss = [q for row in zoo.store.load("network", recipe.key).meta["log"] for q in row["quarters"]]
    assert len(loss) == 8 and results.last_change(zoo, recipe) == pytest.approx(loss[6] - loss[7])
    assert np.isnan(results.last_change(zoo, replace(recipe, arch=ResNet(16, (1,)), epochs=0)))


def test_stitching_needs_a_joint_that_both_have():
    with pytest.raises(ValueError, match="layer3.0"):
        Recipe(Data("digits"), Stitch("layer3.0"), parents=(Recipe(Data("digits"), ResNet(16, (1, 1, 1))),
                                                            Recipe(Data("digits"), ResNet(16, (1, 1)))))


# ----------------------------------------------------------------------------------------------- how joints are trained

THREAT, ATTACK = Threat("linf", "0.1"), PGD(2, "0.05")
DIGITS = Data("digits", train=512, test=100)
BASE = Recipe(DIGITS, ResNet(16, (1, 1)), epochs=6, batch_size=64, optimiser=Optimiser(lr=0.1),
              schedule=Schedule("onecycle"))
N, R = BASE, replace(BASE, objective=Adversarial(THREAT, ATTACK), seed=1)
OTHER = replace(BASE, data=Data("digits_permuted", train=512, test=100), seed=2)
JOINT = Recipe(DIGITS, Stitch("layer1.0"), epochs=3, batch_size=64, optimiser=Optimiser("adam", lr=0.03),
               parents=(N, R), trainable=("joint",))
CUT = replace(JOINT, arch=Stitch("layer1.0", rank=2), epochs=0, parents=(JOINT,), trainable=())
SELF = replace(JOINT, arch=Stitch("layer1.0", "identity"), epochs=0, parents=(N, N))


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    return Zoo(Store(tmp_path_factory.mktemp("store")))


@pytest.mark.parametrize("batchnorm", ["train", "frozen"])
@pytest.mark.parametrize("objective", [
    Adversarial(THREAT, ATTACK, alpha=0.5, clean_statistics=True), Adversarial(THREAT, ATTACK, alpha=0.5),
    TRADES(THREAT, ATTACK, beta=2.0)], ids=["half after a clean pass", "half", "TRADES"])
def test_only_the_joint_learns_and_statistics_follow_the_regime(zoo, objective, batchnorm):
    recipe = replace(JOINT, objective=objective, batchnorm=batchnorm)
    trained, ends = zoo.obtain(recipe), [zoo.obtain(parent).net for parent in recipe.parents]
    before, after = build(recipe, ends).state_dict(), trained.net.state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    statistics = {name for name in after if name.rpartition(".")[2] in
                  ("running_mean", "running_var", "num_batches_tracked")}
    assert {"joint.0.weight", "joint.0.bias"} <= changed
    assert changed - {"joint.0.weight", "joint.0.bias"} == (statistics if batchnorm == "train" else set())
    assert trained.log[-1]["loss"] < trained.log[0]["loss"] - 0.1
    passes = sum(m.num_batches_tracked.item() for m in trained.net.front.modules() if isinstance(m, nn.BatchNorm2d))
    own = sum(m.num_batches_tracked.item() for m in ends[0].front("layer1.0").modules()
              if isinstance(m, nn.BatchNorm2d))
    twice = isinstance(objective, TRADES) or objective.clean_statistics  # a clean batch passes for itself
    layers, steps = 3, 3 * (512 // 64)
    assert passes - own == (layers * steps * (1 + twice) if batchnorm == "train" else 0)


TRANSFERRED = replace(JOINT, objective=Transferred(THREAT, ATTACK, ("front",)))


@pytest.mark.parametrize("against, clean", [(("front",), False), (("end",), False), (("front", "end"), True)])
def test_joints_learn_from_images_made_against_the_endpoints(zoo, against, clean):
    recipe = replace(JOINT, objective=Transferred(THREAT, ATTACK, against, clean))
    trained = zoo.obtain(recipe)
    images = len(against) + clean
    assert trained.log[-1]["loss"] < trained.log[0]["loss"] - 0.1 * images
    assert zoo.outcomes(recipe).accuracy("clean") > 0.4
    asked = recipe.objective.passes(10, 50)
    assert (asked.updates, asked.attacks) == (images, 2 * len(against))


def test_each_network_is_attacked_as_it_was_trained(zoo, monkeypatch):
    """The gradients followed in training are those of the front network, as it lies in the store."""
    from lib.training.losses import adversarial

    attacked, real = [], adversarial.pgd
    monkeypatch.setattr(adversarial, "pgd", lambda net, *args, **kw: attacked.append(net) or real(net, *args, **kw))
    recipe = replace(TRANSFERRED, seed=5)
    zoo.obtain(recipe)
    pixels = zoo.images(DIGITS, "test").pixels(slice(0, 20))
    assert len(attacked) == 3 * (512 // 64)
    torch.testing.assert_close(attacked[-1](pixels), zoo.obtain(N).net(pixels), rtol=1e-4, atol=1e-4)


def test_a_transfer_trained_joint_resumes_bit_for_bit(zoo, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY", 0.0)
    parents = [zoo.obtain(parent).net for parent in TRANSFERRED.parents]
    images, states = zoo.images(DIGITS, "train"), []

    class Stopped(Exception):
        pass

    def train(stop):
        net, save = build(TRANSFERRED, parents), loop._Training._save

        def killed(self):
            save(self)
            if len(self.rows) == stop:
                raise Stopped

        with monkeypatch.context() as patched:
            patched.setattr(loop._Training, "_save", killed)
            work = tmp_path / str(bool(stop or states))
            work.mkdir(exist_ok=True)
            loop.fit(net, TRANSFERRED, images, "cpu", work, parents=parents)
        return net.state_dict()

    states.append(train(None))
    with pytest.raises(Stopped):
        train(1)
    states.append(train(None))
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


# ------------------------------------------------------------------------------------------------------ beside accuracy


def test_relative_accuracy_by_hand():
    assert measures.relative_accuracy(0.6, 0.8, 0.75) == pytest.approx(
        {"of front": 0.75, "of end": 0.8, "of weaker": 0.8})
    got = measures.relative_accuracy(0.3, 0.6, 0.0)
    assert got["of front"] == 0.5 and np.isnan(got["of end"]) and np.isnan(got["of weaker"])
    for ends in ((0.5, np.nan), (np.nan, 0.5)):
        assert np.isnan(measures.relative_accuracy(0.3, *ends)["of weaker"])


def test_agreement_by_hand():
    assert measures.agreement([1, 2, 3, 4], torch.tensor([1, 2, 0, 0])) == 0.5
    for one, other in (([1, 2], [1]), ([], [])):
        with pytest.raises(SettingsError, match="classes = of shape"):
            measures.agreement(one, other)


def test_predictions_are_those_that_outcomes_judge(zoo):
    table = measures.predictions(zoo, N)
    right = zoo.outcomes(N).table
    assert list(table["index"]) == list(right["index"]) and list(table["label"]) == list(right["label"])
    assert list(table["predicted"] == table["label"]) == list(right["clean"])
    assert 0.3 < right["clean"].mean() < 1, "there are both kinds"


def test_what_is_looked_at_is_what_the_end_goes_on_with(zoo, monkeypatch):
    monkeypatch.setattr(measures, "BATCH", 7)
    pixels, net, end = zoo.images(DIGITS, "test").pixels(slice(0, 20)), zoo.obtain(JOINT).net, zoo.obtain(R).net
    at = measures.at_joint(net, end, "layer1.0", pixels)
    torch.testing.assert_close(net.back(at.joined), net(pixels), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(net.joint(at.front), at.joined, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(end.back("layer1.0")(at.end), end(pixels), rtol=1e-4, atol=1e-4)
    with pytest.raises(SettingsError, match="unknown joint 'layer1'"):
        measures.at_joint(net, end, "layer1", pixels)


def maps(*shape, key=""):
    return torch.randn(*shape, generator=generator("maps", key))


def test_likeness_by_hand():
    front, end = maps(60, 3, 4, 4, key="front"), maps(60, 5, 4, 4, key="end") + 2
    got = measures.likeness(AtJoint(front, end / 2, end))
    spread = (end - end.mean((0, 2, 3), keepdim=True)).square().sum()
    assert got["cka"] == pytest.approx(1), "no scale matters"
    assert got["unexplained"] == pytest.approx(float((end / 2).square().sum() / spread), rel=1e-5)
    assert abs(got["cka before"]) < 0.15 and abs(got["cka shuffled"]) < 0.15, "unrelated"
    means = end.mean((0, 2, 3), keepdim=True).expand_as(end)
    got = measures.likeness(AtJoint(end, means, end))
    assert got["unexplained"] == pytest.approx(1) and np.isnan(got["cka"]) and got["cka before"] == pytest.approx(1)
    assert np.isnan(measures.likeness(AtJoint(front, end, torch.ones_like(end)))["unexplained"])


def test_likeness_of_each_image_by_hand():
    end = maps(6, 5, 4, 4, key="end")
    centre = end.mean(0)
    joined = end.clone()
    joined[1], joined[2] = 2 * centre - end[1], maps(5, 4, 4, key="else")
    got = measures.each_image(AtJoint(end, end, end))
    np.testing.assert_allclose(got, 1.0)
    got = measures.each_image(AtJoint(end, joined + 7, end))
    assert got["cosine"][1] < -0.5 and abs(got["cosine"][2]) < 0.5 < got["cosine"][3]
    np.testing.assert_allclose(got["cka"][[0, 3, 4, 5]], 1.0)
    assert got["cka"][2] < 0.8
    small = measures.each_image(AtJoint(end, end[:, :, :1, :3], end[:, :, :1, :3]))
    assert small["cka"].isna().all(), "three positions say nothing"
    np.testing.assert_allclose(small["cosine"], 1.0)
    assert measures.each_image(AtJoint(end, torch.ones_like(end), end)).isna().to_numpy().all()


def test_a_network_stitched_to_itself_is_like_itself(zoo):
    got = measures.joint_likeness(zoo, SELF, 40)
    assert got["cka"] == got["cka before"] == pytest.approx(1) and got["unexplained"] == 0
    assert abs(got["cka shuffled"]) < 0.5


def test_likeness_comes_from_the_store(zoo, monkeypatch):
    first = measures.joint_likeness(zoo, JOINT, 40)
    assert set(first) == set(measures.LIKENESS) and 0 < first["cka"] < 1 and first["unexplained"] > 0
    more = measures.joint_likeness(zoo, JOINT, 60)
    assert more["cka"] != first["cka"]
    monkeypatch.setattr(measures, "at_joint", None)
    assert measures.joint_likeness(zoo, JOINT, 40) == first


def test_likeness_of_what_cannot_be_compared_is_refused(zoo):
    with pytest.raises(SettingsError, match="arch = ResNet.* a stitched network"):
        measures.joint_likeness(zoo, N)
    wide = replace(JOINT, parents=(N, replace(BASE, data=Data("mnist"))))
    assert not measures.comparable(wide) and measures.comparable(JOINT)
    with pytest.raises(SettingsError, match="data of the end = mnist"):
        measures.joint_likeness(zoo, wide)


def cell(role, pair, recipe, joint="layer1.0", alpha=0.0):
    return Cell(Condition(role, pair, joint if "->" in pair else "", alpha), 0, recipe, ((THREAT, ATTACK),))


@pytest.fixture(scope="module")
def measured(zoo):
    """A pair, a network stitched to itself, and a front with an end of another task."""
    stitched_to_other = replace(JOINT, parents=(N, OTHER))
    some = [cell("endpoint", "N", N), cell("endpoint", "R", R), cell("pair", "N->R", JOINT),
            cell("pair", "N->N", SELF), cell("other task", "N->other", stitched_to_other),
            cell("endpoint", "other", OTHER), cell("rank 2", "N->R", CUT)]
    return results.measure(zoo, some, S.networks, replace(SECTION, search=ATTACK), S.seed)


def test_what_stands_beside_accuracy(zoo, measured):
    found = tables.accuracy_and_similarity(zoo, measured, images=40).set_index("pair")
    assert list(found.index) == ["N->R", "N->N", "N->other", "N->R"], "endpoints are not stitched"
    n, r, pair = ({which: float(measured.accuracy(c.condition, which)[0]) for which in ("clean", "search")}
                  for c in measured.cells[:3])
    row, cut = (found[found["role"] == role].loc["N->R"] for role in ("pair", "rank 2"))
    assert cut["clean of front"] == cut["clean"] / n["clean"] and 0 < cut["cka"] != row["cka"]
    assert row["clean"] == pair["clean"] and row["robust"] == pair["search"]
    assert row["clean of front"] == pytest.approx(pair["clean"] / n["clean"])
    assert row["clean of end"] == pytest.approx(pair["clean"] / r["clean"])
    assert row["clean of weaker"] == max(row["clean of front"], row["clean of end"])
    assert row["robust of end"] == pytest.approx(pair["search"] / r["search"])
    own, front, end = (measures.predictions(zoo, recipe)["predicted"] for recipe in (JOINT, N, R))
    assert row["agrees with front"] == (own == front).mean() and row["agrees with end"] == (own == end).mean()
    assert (front != end).any()
    assert row["cka"] == measures.joint_likeness(zoo, JOINT, 40)["cka"]
    self = found.loc["N->N"]
    assert self["clean of end"] == self["agrees with end"] == self["agrees with front"] == 1
    other = found.loc["N->other"]
    assert other[["clean of end", "clean of weaker", "robust of end", "agrees with end"]].isna().all()
    assert other[["clean of front", "agrees with front", "cka", "unexplained"]].notna().all()
    assert len(tables.accuracy_and_similarity(zoo, measured, measured.cells[2:3], images=40)) == 1


def test_attacks_on_the_endpoints_carry_over(zoo, measured):
    found = tables.transfers(zoo, measured.cells, THREAT, ATTACK)
    assert [tuple(row) for row in found[["pair", "source"]].to_numpy()] == [
        ("N->R", "front"), ("N->R", "end"), ("N->N", "front"), ("N->N", "end"), ("N->other", "front"),
        ("N->R", "front"), ("N->R", "end")]
    self = found[found["pair"] == "N->N"]
    assert (self["robust"] == self["robust of source"]).all(), "the same function falls for the same images"
    pair = found[found["network"] == JOINT.key].set_index("source")
    for name, source in (("front", N), ("end", R)):
        assert pair.loc[name, "source network"] == source.key and pair.loc[name, "attack"].startswith("PGD-2")
        assert pair.loc[name, "robust"] == zoo.transfer(source, JOINT, THREAT, ATTACK).accuracy("robust")
    assert (found["seed"] == 0).all(), "a column of the protocol must not hide one of the cell's"
    white = measured.outcomes[measured.cells[2]]["search"].accuracy("robust")
    assert (pair["robust"] > white).all(), "what was made for another network fools less than what was made for it"


def test_tables_for_reading_are_means_over_repetitions():
    m = made_up(as_the_paper_says)
    here, joints = tables.measured_at(m.table()), SECTION.joints

    def mean(role, pair, joint="", alpha=0.0, which="clean"):
        return m.correct(Condition(role, pair, joint, alpha), which).mean()

    ends = tables.endpoint_accuracies(here)
    each = m.accuracy(Condition("endpoint", "R"), "verify")
    assert ends.loc["R"].xs("verify", level="measure").tolist() == pytest.approx([each.mean(), each.min(), each.max()])
    assert np.isnan(ends.loc["N", ("mean", "verify")]), "only robust networks are measured under the stronger attack"
    clean = tables.clean_controls(here, joints).set_index(["role", "pair"])
    assert [*clean] == [*joints] and clean.notna().any(axis=1).all()
    probes = [mean("linear probe", "N", joint) for joint in joints]
    assert clean.loc[("linear probe", "N")].tolist() == pytest.approx(probes)
    kinds = tables.kinds_of_joints(here, SECTION.middle)
    assert set(kinds.pair) == {"N->R", "R->N"} and not {"linear probe", "untrained front"} & {*kinds.role}
    row, = kinds[(kinds.pair == "R->N") & (kinds.role == "pair") & (kinds.alpha == 1)].to_dict("records")
    assert row["verify"] == pytest.approx(mean("pair", "R->N", SECTION.middle, 1.0, "verify"))


def test_mixed_pairs_are_compared_and_attacked():
    s = settings.load("smoke", {"stitching.seeds": 2, "stitching.others": [], "stitching.direct": True})
    m = results.Results(s.networks, s.sections["stitching"], s.seed, cells(s))
    mixed = tables.mixed_cells(m)
    assert mixed == [c for c in m.cells if c in {*mixed}], "in the order of the plan"
    assert {c.condition.pair for c in mixed} == {"N->R", "R->N"}
    assert {c.condition.role for c in mixed} == {"pair", "direct matching", "least-squares start"}
    assert {(c.condition.joint, c.condition.alpha) for c in tables.transferred_cells(m)} == {
        (SECTION.middle, 1), (SECTION.joints[-1], 1)}
    assert len(tables.transferred_cells(m)) == 2 * 2 * 2


def test_means_are_in_the_order_of_depth(zoo, measured):
    found = tables.accuracy_and_similarity(zoo, measured, images=40)
    deep, shallow = found[:1].assign(joint="layer1.0"), found[:1].assign(joint="stem", clean=0.)
    twice = pd.concat([deep, shallow.assign(clean=1.), shallow])
    got = tables.mean_similarity(twice, ["stem", "layer1.0"])
    assert got.joint.tolist() == ["stem", "layer1.0"] and got.clean.tolist() == [.5, found.clean[0]]
    assert got.cka.tolist() == [found.cka[0]] * 2 and "network" not in got
    moved = tables.transfers(zoo, measured.cells[2:3], THREAT, ATTACK)
    again = tables.mean_transfers(pd.concat([moved, moved.assign(robust=0.)]))
    assert again.robust.tolist() == pytest.approx(moved.robust / 2) and again.source.tolist() == ["front", "end"]


def test_joints_are_looked_at_where_there_are_any(zoo, measured):
    pixels = zoo.images(N.data, "test").pixels(slice(0, 3))
    middle = SimpleNamespace(of=measured.of, section=SimpleNamespace(middle="layer1.0"))
    (role, at), = results.middle_joints(zoo, middle, pixels).items()
    assert role == "pair" and at.joined.shape == at.end.shape and len(at.end) == 3
    middle.section.middle = "layer2.0"
    assert results.middle_joints(zoo, middle, pixels) == {}


def test_a_run_is_described_before_it_starts():
    study = SimpleNamespace(settings=S, section=SECTION, cells=cells(), keys=["a"] * 7,
                            zoo=SimpleNamespace(images=lambda data, split: range(55)))
    first, second = tables.describe(study).split("\n")
    assert "training images, 200 held out, 55 test images" in first and first.endswith(", ".join(SECTION.joints))
    assert "; 4 repetitions; " in second and second.endswith(f"{len(cells())} cells, 7 trained networks in the plan")


def test_the_matrix_has_clean_joints_clean_and_adversarial_ones_robust():
    m = made_up(as_the_paper_says)
    last = SECTION.joints[-1]
    found = tables.matrix(m, last)
    assert sorted(found.groupby(["front", "end", "measure"]).size().unique()) == [4], "a row a repetition"
    assert set(found["front"]) == {"N", "R", "U"} and set(found["end"]) == {"", "N", "R", "U"}
    mean = found.groupby(["front", "end", "measure"]).accuracy.mean()
    assert mean["R", "N", "robust"] == pytest.approx(m.correct(Condition("pair", "R->N", last, 1.0), "verify").mean())
    assert mean["R", "N", "clean"] == pytest.approx(m.correct(Condition("pair", "R->N", last, 0.0), "clean").mean())
    assert mean["R", "R", "robust"] == pytest.approx(m.correct(Condition("pair", "R->R2", last, 1.0), "verify").mean())
    assert mean["R", "", "robust"] == m.correct(Condition("endpoint", "R"), "verify").mean()
    assert set(found[(found.front == "N") & (found.end == "") & (found.measure == "robust")].under) == {"search"}
    assert ("R", "U", "robust") in mean
    others = tables.matrix(made_up(as_the_paper_says, settings.load("smoke")), last)
    assert set(others["end"]) == {"", "N", "R", "U", "digits_permuted"} and set(others["front"]) == {"N", "R", "U"}
    assert ("R", "U") not in tables.matrix(m, last, ["pair"]).set_index(
        ["front", "end"]).index
