"""Stitching: evidence with known numbers, and the verdicts of made-up studies."""

import pytest

from lib import claims
from lib.claims.verdict import MISSED
from lib.papers import settings
from lib.papers.stitching import evidence, figures, networks, tables
from tests.kit import worlds
from tests.papers.stitching.world import IMAGES, S, as_the_paper_says, made_up


def verdicts(measured, failed=None):
    found = evidence.evidence(measured)
    checks = evidence.preconditions(measured, 0.0, [])
    assert failed or all(c["ok"] for c in checks), checks
    return worlds.judged(claims.load("stitching").claims, found, {}, checks, "smoke")


def test_a_world_as_the_paper_says_supports_its_claims():
    got = {k: v.verdict for k, v in verdicts(made_up(as_the_paper_says)).items()}
    assert {k for k, v in got.items() if v == "supported"} == {"C1a", "C1b", "C2a", "C2b", "C3a", "C3b", "C4a"}
    assert got["C4b"] == "absent", "an untrained end that does as well speaks against C4b"
    assert {k for k, v in got.items() if v == "not tested"} == {"C5a", "C5b", "C6", "C7"}


def test_a_world_without_any_difference_supports_no_difference():
    def flat(c, which):
        if c.role == "endpoint" and c.pair != "R":
            return 0.95 if which == "clean" else 0.0
        return 0.95 if which == "clean" else 0.7

    got = {k: v.verdict for k, v in verdicts(made_up(flat)).items()}
    for claim in ("C1b", "C2a", "C2b", "C3a", "C3b", "C4a", "C4b"):
        assert got[claim] in MISSED, claim


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


# -------------------------------------------------------------------------------------------- networks that failed


def without(repetitions, **fields):
    m = made_up(as_the_paper_says)
    return worlds.lose(m, *(c for c in m.of(**fields) if c.repetition in repetitions), why="it failed")


def test_a_claim_goes_on_without_the_repetition_of_a_failed_joint_and_names_it():
    m = without([1], role="pair", pair="R->R2", joint=S.sections["stitching"].middle, alpha=1.0)
    got, whole = verdicts(m), verdicts(made_up(as_the_paper_says))
    assert {k: v.verdict for k, v in got.items()} == {k: v.verdict for k, v in whole.items()}
    said = f"pair R->R2 {S.sections['stitching'].middle} 1, repetition 1: it failed"
    assert {k for k, v in got.items() if said in v.reason} == {"C2a"}
    assert {row.seeds for row in got["C2a"].rows} == {3} and {row.seeds for row in got["C2b"].rows} == {4}


def test_a_claim_with_no_joint_left_is_not_tested_and_says_why():
    m = without(range(4), role="pair", pair="R->R2", joint=S.sections["stitching"].middle)
    got = verdicts(m)
    assert got["C2a"].verdict == "not tested" and "repetition 3: it failed" in got["C2a"].reason
    assert got["C2b"].verdict == got["C3a"].verdict == "supported"


def test_without_any_robust_network_the_check_fails_and_says_why():
    m = without(range(4), role="endpoint", pair="R")
    checks = evidence.preconditions(m, evidence.self_stitch_gap(Zoo(), m), evidence.warnings(None, m))
    assert worlds.failed(checks) == ["robust networks are trained", "robust networks are robust",
                                     "self-stitch is exact", "the attack can be trusted"]
    assert "endpoint R 0, repetition 0: it failed" in checks[2]["detail"]
    got = verdicts(m, failed=True)
    assert {v.verdict for v in got.values()} == {"not tested"}


class Zoo:
    def images(self, data, split):
        return None


@pytest.mark.parametrize("repetitions, pair", [([0], "R"), (range(4), "N"), (range(4), "R->R2"), ([0], "N->R")])
def test_tables_and_figures_go_on_without_failed_networks(repetitions, pair):
    m, section = without(repetitions, pair=pair), S.sections["stitching"]
    cells = m.table()
    assert cells[cells.failed != ""].accuracy.isna().all() and set(cells[cells.failed != ""].pair) == {pair}
    tables.endpoint_accuracies(cells)
    figures.stitching_depth(cells, list(section.joints), list(networks.PAIRS), list(section.alphas))
    assert len(tables.clean_controls(cells, section.joints))
    for joint in (section.middle, section.joints[-1]):
        shown = tables.against_controls(m, joint)
        assert shown.value.notna().all()
        figures.bars_against_controls(shown, "")
        figures.stitching_matrix(tables.matrix(m, joint))
    tables.kinds_of_joints(cells, section.middle)
    assert not [c for c in (*tables.mixed_cells(m), *tables.transferred_cells(m)) if c in m.failed]


def test_tables_are_empty_where_every_mixed_pair_failed():
    m = made_up(as_the_paper_says)
    worlds.lose(m, *(c for c in m.cells if "N" in c.condition.pair))
    cells, section = m.table(), S.sections["stitching"]
    similar = tables.accuracy_and_similarity(None, m, tables.mixed_cells(m))
    moved = tables.transfers(None, tables.transferred_cells(m), m.networks.threat, section.search)
    assert not len(tables.mean_similarity(similar, section.joints)) and not len(tables.mean_transfers(moved))
    assert not len(tables.kinds_of_joints(cells, section.middle)) and len(tables.clean_controls(cells, section.joints))
    assert len(tables.against_controls(m, section.middle)) and len(tables.matrix(m, section.middle))
