"""The stitching experiment: its cells, its evidence, its preconditions, on made-up outcomes with known answers."""

from dataclasses import replace

import numpy as np
import pytest

from lib import claims, settings, stitching
from lib.architectures import Probe, ResNet, Stitch
from lib.plan.stitching import PAIRS, cells
from lib.recipe import Data, Recipe
from lib.store import Store
from lib.training.zoo import Zoo

S = settings.load("smoke", {"stitching.seeds": 4})
IMAGES = 600


def made_up(accuracy) -> stitching.Measured:
    """Outcomes drawn so that cell c has accuracy(c, which) in expectation; robust implies clean."""
    rng, all_cells = np.random.default_rng(0), cells(S)
    outcomes = {}
    difficulty = rng.random(IMAGES)
    for c in all_cells:
        found = {}
        for which in ("clean", "search", *(["verify"] if len(c.measures) > 1 else [])):
            found[which] = difficulty * 0.9 + 0.1 * rng.random(IMAGES) < accuracy(c, which)
        outcomes[c] = {k: v & found["clean"] for k, v in found.items()}
    protocols = {c: {k: {"seed": "evaluation", "batchnorm": "eval"} for k in o} for c, o in outcomes.items()}
    return stitching.Measured(S, all_cells, outcomes, protocols, {c: 0.01 for c in all_cells})


def as_the_paper_says(c, which):
    """A world in which every claim holds, C4b excepted: it contradicts C6."""
    last = c.joint == S.stitching.joints[-1]
    early = c.joint in S.stitching.first
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
    found = stitching.evidence(measured)
    checks = stitching.preconditions(measured, 0.0, [])
    assert failed or all(c["ok"] for c in checks), checks
    return {c.id: claims.judge(c, found.get(c.id, {}), "smoke", checks) for c in claims.load("stitching").claims}


def test_a_world_as_the_paper_says_supports_its_claims():
    got = {k: v.verdict for k, v in verdicts(made_up(as_the_paper_says)).items()}
    assert {k for k, v in got.items() if v == "supported"} == {"C1a", "C1b", "C2a", "C2b", "C3a", "C3b", "C4a", "C6"}
    assert got["C4b"] == "contradicted", "an untrained end that does as well speaks against C4b"
    assert got["C5"] == got["C7"] == "not tested"


def test_a_world_without_any_difference_supports_no_difference():
    def flat(c, which):
        if c.role == "endpoint" and c.pair != "R":
            return 0.95 if which == "clean" else 0.0
        return 0.95 if which == "clean" else 0.7

    got = {k: v.verdict for k, v in verdicts(made_up(flat)).items()}
    for claim in ("C1b", "C2a", "C2b", "C3a", "C3b", "C4a", "C4b"):
        assert got[claim] == "contradicted", claim
    assert got["C6"] == "supported"


def test_networks_that_fail_a_gate_leave_claims_untested():
    def weak(c, which):
        return 0.3 if c.role == "endpoint" and c.pair == "R" and which != "clean" else as_the_paper_says(c, which)

    got = verdicts(made_up(weak), failed=True)
    assert {v.verdict for v in got.values()} == {"not tested"}
    assert "robust networks are robust" in got["C2a"].reason


@pytest.mark.parametrize("change, name", [
    (lambda m: m.converged.update({next(c for c in m.cells if c.role == "pair"): 0.5}), "joints converged"),
    (lambda m: None, "self-stitch is exact"), (lambda m: None, "the attack can be trusted")])
def test_each_precondition_can_fail(change, name):
    measured = made_up(as_the_paper_says)
    change(measured)
    gap = 0.1 if name.startswith("self") else 0.0
    warnings = ["zero gradients"] if name.startswith("the attack") else []
    assert [c["name"] for c in stitching.preconditions(measured, gap, warnings) if not c["ok"]] == [name]


def test_every_part_of_every_claim_in_scope_gets_evidence():
    found = stitching.evidence(made_up(as_the_paper_says))
    for claim in claims.load("stitching").claims:
        if claim.scope:
            assert set(found[claim.id]) == {p.id for p in claim.parts}
            for part in claim.parts:
                for name, array in found[claim.id][part.id].items():
                    assert array.shape == (4, IMAGES), name


def test_cells_cover_every_pair_joint_and_alpha_with_their_controls():
    got = {(c.role, c.pair, c.joint, c.alpha) for c in cells(S)}
    s = S.stitching
    assert {("pair", p, j, a) for p in PAIRS if p != "N->N2" for j in s.joints for a in s.alphas} <= got
    assert {("pair", "N->N2", j, 0.0) for j in s.joints} | {("pair", "N->N2", s.middle, 1.0)} <= got
    for role in ("endpoint", "untrained front", "untrained end", "new end", "linear probe", "BN only", "frozen BN",
                 "twice the epochs"):
        assert any(g[0] == role for g in got), role
    assert len({c.recipe.key for c in cells(S)}) == len({(c.role, c.pair, c.joint, c.alpha, c.seed) for c in cells(S)})
    probe = next(c for c in cells(S) if c.role == "linear probe")
    assert isinstance(probe.recipe.arch, Probe) and probe.recipe.batchnorm == "frozen"


def test_self_stitch_is_exact_and_the_table_is_tidy(tmp_path):
    data = Data("digits", train=256, test=100)
    recipe = Recipe(data, ResNet(16, (1, 1)), epochs=1, batch_size=64)
    zoo = Zoo(Store(tmp_path))
    for joint in recipe.arch.stages[:-1]:
        assert stitching.self_stitch_gap(zoo, recipe, joint, zoo.images(data, "test")) == 0
    table = made_up(as_the_paper_says).table()
    assert {"role", "pair", "joint", "alpha", "seed", "measure", "accuracy", "images", "network"} <= set(table.columns)
    assert sorted(table.seed.unique()) == [0, 1, 2, 3], "a column of the protocol must not hide one of the cell's"


def test_convergence_is_read_from_the_training_log(tmp_path):
    zoo = Zoo(Store(tmp_path))
    recipe = Recipe(Data("digits", train=256, test=100), ResNet(16, (1, 1)), epochs=2, batch_size=64)
    zoo.obtain(recipe)
    loss = [q for row in zoo.store.load("network", recipe.key).meta["log"] for q in row["quarters"]]
    assert len(loss) == 8 and stitching.last_change(zoo, recipe) == pytest.approx(loss[6] - loss[7])
    assert np.isnan(stitching.last_change(zoo, replace(recipe, arch=ResNet(16, (1,)), epochs=0)))


def test_stitching_needs_a_joint_that_both_have():
    with pytest.raises(ValueError, match="layer3.0"):
        Recipe(Data("digits"), Stitch("layer3.0"), parents=(Recipe(Data("digits"), ResNet(16, (1, 1, 1))),
                                                            Recipe(Data("digits"), ResNet(16, (1, 1)))))
