"""Stitching: the networks that are planned, and what they are measured under."""

from dataclasses import replace

import pytest
import yaml

from lib import claims
from lib.papers import settings
from lib.papers.stitching import evidence, networks, tables
from lib.papers.stitching.networks import PAIRS, Condition
from lib.runtime import ROOT
from lib.values.architectures import Probe, ResNet, Stitch
from lib.values.data import Data
from lib.values.recipe import Recipe
from tests.papers.stitching.world import SECTION, as_the_paper_says, cells, made_up


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


def test_stitching_needs_a_joint_that_both_have():
    with pytest.raises(ValueError, match="layer3.0"):
        Recipe(Data("digits"), Stitch("layer3.0"), parents=(Recipe(Data("digits"), ResNet(16, (1, 1, 1))),
                                                            Recipe(Data("digits"), ResNet(16, (1, 1)))))
