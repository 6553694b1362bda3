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
from tests.kit.profiles import load
from tests.papers.stitching.world import SECTION, as_the_paper_says, cells, made_up


def test_cells_cover_every_pair_joint_and_alpha_with_their_controls():
    got, s = {c.condition for c in cells()}, SECTION
    assert {Condition("pair", p, j, a) for p in PAIRS if p != "N->N2" for j in s.joints for a in s.alphas} <= got
    assert {Condition("pair", "N->N2", j) for j in s.joints} <= got
    assert Condition("new end", "N->new", s.middle[0], 1.0) in got and Condition("new end", "R->new") not in got
    for role in ("endpoint", "untrained front", "untrained end", "new end", "linear probe", "BN only", "frozen BN",
                 "twice the epochs"):
        assert any(condition.role == role for condition in got), role
    assert len({c.recipe.key for c in cells()}) == len({(c.condition, c.repetition) for c in cells()})
    probe = next(c for c in cells() if c.condition.role == "linear probe")
    assert isinstance(probe.recipe.arch, Probe) and probe.recipe.batchnorm == "frozen"


def test_more_controls_reach_every_joint():
    got = {c.condition for c in cells(load("stitching", {"more_controls": True, "direct": True}))}
    for joint in SECTION.joints:
        assert {Condition("untrained end", pair, joint) for pair in ("N->U", "R->U")} <= got
        assert {Condition(networks.DIRECT, pair, joint) for pair in networks.MIXED} <= got
    assert {Condition("new end", f"{front}->new", SECTION.middle[0]) for front in "NR"} <= got
    assert Condition("twice the epochs", "R->N", SECTION.late, 1.0) in got


def test_a_new_end_learns_as_the_networks_of_the_pool_do():
    s = load("stitching", {"more_controls": True})
    for alpha, pool in ((0.0, s.networks.normal), (1.0, s.networks.robust)):
        cell = next(c for c in cells(s) if c.condition == Condition("new end", "N->new", SECTION.middle[0], alpha))
        recipe = cell.recipe
        assert (recipe.optimiser, recipe.schedule) == (pool.optimiser, pool.schedule)
        assert recipe.epochs == SECTION.end_epochs and recipe.trainable == ("joint", "back")
        assert len(cell.measures) == 1 + (alpha == 1)


def test_what_decides_small_effects_has_more_repetitions():
    s = load("stitching", {"seeds": 5, "other_seeds": 3, "more_controls": True, "direct": True})
    section, counts = s.sections["stitching"], {}
    for c in cells(s):
        counts[c.condition] = counts.get(c.condition, 0) + 1
    often = {condition for condition, count in counts.items() if count == 5}
    robust = {Condition("pair", p, j, 1.0) for p in ("N->R", "R->N", "R->R2") for j in section.middle}
    first = {Condition(role, "N->R", section.first, alpha)
             for role, alpha in (("pair", 0.0), ("pair", 1.0), (networks.DIRECT, 0.0))}
    assert often == robust | first | {Condition("untrained front", "U->R", section.first, 1.0),
                                      Condition("endpoint", "N"), Condition("endpoint", "R")}
    assert {*counts.values()} == {3, 5}
    few = load("stitching", {"seeds": 2, "other_seeds": 3}).sections["stitching"]
    assert few.fewer == 2, "never more than the seeds"


def test_the_stem_is_asked_about_clean_accuracy_only():
    joints = ["stem", *SECTION.joints]
    s = load("stitching", {"joints": joints, "direct": True, "more_controls": True})
    section = s.sections["stitching"]
    assert (section.first, section.blocks) == (SECTION.first, SECTION.joints)
    at = {c.condition for c in cells(s) if c.condition.joint == "stem"}
    assert {c.alpha for c in at} == {0.0} and {c.pair for c in at if c.role == "pair"} == {"N->R", "R->N"}
    found = evidence.evidence(made_up(as_the_paper_says, s))
    assert [*found["C1f"]["retained"]] == ["N->R at stem", "R->N at stem"]
    assert not [name for part in found["C1a"].values() for name in part if "stem" in name]


@pytest.mark.parametrize("profile", ["test", "smoke", "laptop", "gpu"])
def test_every_measure_that_a_claim_reads_is_planned(profile):
    found = evidence.evidence(made_up(as_the_paper_says, settings.load(profile)))
    wanted = {(c.id, p.id) for c in claims.load("stitching").claims for p in c.parts if profile in c.scope}
    assert wanted <= {(claim, part) for claim, parts in found.items() for part in parts}


def test_another_setting_repeats_what_the_paper_compares_with_networks_of_its_own():
    profile = yaml.safe_load((ROOT / "configs" / "smoke.yaml").read_text())
    own = {name: profile["stitching"][name] for name in ("joints", "middle", "gates", "attack", "search")}
    few = {**profile["networks"], "data": {"name": "digits", "train": 400, "test": 100}}
    for kind in ("normal", "robust"):
        few[kind] = {**few[kind], "count": 1}
    places = [{"name": name, "networks": few, **own} for name in ("few digits", "MNIST")]
    s = settings.load("smoke", {"stitching.seeds": 3, "stitching.trades": 2.0, "stitching.elsewhere": places})
    here, there = ([c for c in cells(s) if c.condition.where == where] for where in ("", "few digits"))
    assert {c.condition.role for c in there} == {"endpoint", "pair"}
    assert {replace(c.condition, where="") for c in there} < {c.condition for c in here}
    assert {c.recipe.data.train for c in there} == {400} and all(c.job.startswith("few-digits-") for c in there)
    assert not {c.recipe.key for c in there} & {c.recipe.key for c in here}
    assert all(len({*c.recipe.parents}) == 2 for c in there if c.condition.pair == "R->R2"), "though its pool has one"
    assert {len(c.measures) for c in there if c.condition.alpha == 0 and c.condition.joint} == {1}
    m = made_up(as_the_paper_says, s)
    found = evidence.evidence(m)
    for claim, place in (("C7a", "MNIST"), ("C7c", "few digits")):
        assert {*found[claim]} == {part.id for part in claims.load("stitching")[claim].parts}
        assert all(name.startswith(f"{place}: ") for instances in found[claim].values() for name in instances)
    own = evidence.claim_preconditions(m)
    assert "C7b" not in own and all(check["ok"] for checks in own.values() for check in checks)
    assert any(check["name"].startswith("MNIST: robust") for check in own["C7a"])
    assert not any(check["name"].startswith("MNIST") for check in (*own["C7c"], *own["C5a"]))
    assert any("digits_permuted" in check["name"] for check in own["C5a"])
    table = m.table()
    there, here = tables.measured_at(table, "few digits"), tables.measured_at(table)
    assert set(there["where"]) == {"few digits"} and set(here["where"]) == {""}


def test_stitching_needs_a_joint_that_both_have():
    with pytest.raises(ValueError, match="layer3.0"):
        Recipe(Data("digits"), Stitch("layer3.0"), parents=(Recipe(Data("digits"), ResNet(16, (1, 1, 1))),
                                                            Recipe(Data("digits"), ResNet(16, (1, 1)))))
