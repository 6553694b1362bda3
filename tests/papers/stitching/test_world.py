"""Stitching: evidence with known numbers, and the verdicts of made-up studies."""

import pytest

from lib import claims
from lib.claims.verdict import MISSED
from lib.papers import settings
from lib.papers.stitching import evidence, figures, networks, tables
from lib.papers.stitching.networks import Condition
from tests.kit import worlds
from tests.papers.stitching.world import IMAGES, SECTION, S, as_the_paper_says, made_up


def verdicts(measured, failed=None):
    found = evidence.evidence(measured)
    checks, own = evidence.preconditions(measured, 0.0, []), evidence.claim_preconditions(measured)
    assert failed or all(c["ok"] for some in (checks, *own.values()) for c in some), (checks, own)
    return worlds.judged(claims.load("stitching").claims, found, own, checks, "smoke")


def test_a_world_as_the_paper_says_supports_its_claims():
    got = {k: v.verdict for k, v in verdicts(made_up(as_the_paper_says)).items()}
    assert {k for k, v in got.items() if v == "supported"} == {"C1a", "C1b", "C2a", "C2b", "C3a", "C3b", "C4a"}
    assert got["C4b"] in MISSED, "an untrained end that does as well speaks against C4b"
    assert {k for k, v in got.items() if v == "not tested"} == {
        "C1c", "C1d", "C1e", "C1f", "C3c", "C5a", "C5b", "C6a", "C6b", "C7a", "C7b", "C7c"}


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


def joint(m, *condition):
    """The same joint of every repetition."""
    return m.of(Condition("pair", *condition))


def broken(m):
    return worlds.failed_by_claim(evidence.claim_preconditions(m))


def test_a_joint_that_has_not_converged_leaves_the_claims_that_rest_on_it_untested():
    measured = made_up(as_the_paper_says)
    measured.converged.update(dict.fromkeys(joint(measured, "N->R", SECTION.first), 0.25))
    assert broken(measured) == {claim: ["joints converged"] for claim in ("C1a", "C1b")}
    assert verdicts(measured, failed=True)["C2a"].verdict == "supported"
    details = [c["detail"] for c in evidence.claim_preconditions(measured)["C1a"] if not c["ok"]]
    assert "N->R at layer1.0, alpha 0) changed by 0.250 nats" in details[0]


def test_changes_of_the_loss_count_in_absolute_value():
    measured = made_up(as_the_paper_says)
    cells = joint(measured, "N->R", SECTION.first)
    measured.converged.update(dict(zip(cells, (0.3, -0.3, 0.3, -0.3), strict=True)))
    assert broken(measured) == {claim: ["joints converged"] for claim in ("C1a", "C1b")}
    measured.converged.update(dict(zip(cells, (0.5, 0.0, 0.0, 0.0), strict=True)))
    assert broken(measured) == {}, "one noisy repetition says little"


def test_a_joint_that_needs_more_epochs_leaves_its_claims_untested():
    def slow(c, which):
        return 0.7 if c.role == "twice the epochs" and which != "clean" else as_the_paper_says(c, which)

    name = f"twice the epochs change little (N->R at {SECTION.first})"
    assert broken(made_up(slow)) == {"C3a": [name], "C3b": [name]}


@pytest.mark.parametrize("name", ["self-stitch is exact", "the attack can be trusted"])
def test_each_precondition_can_fail(name):
    measured = made_up(as_the_paper_says)
    gap = 0.1 if name.startswith("self") else 0.0
    warnings = ["zero gradients"] if name.startswith("the attack") else []
    assert worlds.failed(evidence.preconditions(measured, gap, warnings)) == [name]


# ------------------------------------------------------------------------------------------- networks that collapsed


def collapsed(role, pair, at, alpha=1.0):
    """A world as the paper says in which one network gives every image the same class."""
    def accuracy(c, which):
        same = (c.role, c.pair, c.joint, c.alpha) == (role, pair, at, alpha)
        return 0.1 if same else as_the_paper_says(c, which)

    return made_up(accuracy)


def test_a_collapsed_loser_counts_and_is_named():
    m = collapsed("pair", "N->R", SECTION.middle[0])
    got = verdicts(m)
    assert got["C2a"].verdict == got["C3a"].verdict == "supported"
    assert any("(N->R collapsed)" in row.name for row in got["C2a"].rows)
    assert all("collapsed" not in row.name for row in verdicts(made_up(as_the_paper_says))["C2a"].rows)


def test_a_collapsed_network_does_not_win():
    def accuracy(c, which):
        if (c.role, c.pair, c.joint, c.alpha) == ("pair", "N->R", SECTION.middle[0], 1.0):
            return 0.1
        first = (c.role, c.pair, c.joint, c.alpha) == ("pair", "N->R", SECTION.first, 1.0)
        return 0.05 if first and which != "clean" else as_the_paper_says(c, which)

    got = verdicts(made_up(accuracy), failed=True)
    assert got["C3a"].verdict == "not tested" and "collapsed networks lose" in got["C3a"].reason
    assert "pair N->R layer2.0 1 has a clean accuracy of 4.4%" in got["C3a"].reason


def test_an_equivalence_needs_two_networks_that_have_not_collapsed():
    def accuracy(c, which):
        same = c.role == "untrained end" and c.joint == SECTION.last and c.alpha == 1
        return 0.1 if same else as_the_paper_says(c, which)

    m = made_up(accuracy, settings.load("smoke", {"stitching.seeds": 3}))
    assert "C6a" in broken(m) and "C6b" not in broken(m)


def test_a_collapsed_control_is_left_out():
    m = collapsed("untrained front", "U->N", SECTION.last, 0.0)
    found = evidence.evidence(m)["C1b"]["beats_untrained_front"]
    assert f"R->N at {SECTION.last}" not in found and f"N->R at {SECTION.last}" in found
    said = {check["name"]: check["detail"] for check in evidence.claim_preconditions(m)["C1b"]}
    left_out = f"R->N at {SECTION.last} is left out: untrained front U->N"
    assert left_out in said["collapsed networks lose, and are no controls"]
    assert verdicts(m)["C1b"].verdict == "supported"
    assert verdicts(collapsed("untrained front", "U->R", SECTION.first), failed=True)["C3b"].verdict == "not tested"


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
    m = without([1], role="pair", pair="R->R2", joint=SECTION.middle[0], alpha=1.0)
    got, whole = verdicts(m), verdicts(made_up(as_the_paper_says))
    assert {k: v.verdict for k, v in got.items()} == {k: v.verdict for k, v in whole.items()}
    said = f"pair R->R2 {SECTION.middle[0]} 1, repetition 1: it failed"
    assert {k for k, v in got.items() if said in v.reason} == {"C2a", "C6b"}
    assert {row.seeds for row in got["C2a"].rows} == {3} and {row.seeds for row in got["C2b"].rows} == {4}


def test_a_claim_with_no_joint_left_is_not_tested_and_says_why():
    m = without(range(4), role="pair", pair="R->R2", joint=SECTION.middle[0])
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
    for joint in section.decisive.values():
        shown = tables.against_controls(m, joint)
        assert shown.value.notna().all()
        figures.bars_against_controls(shown, "")
        figures.stitching_matrix(tables.matrix(m, joint))
    tables.kinds_of_joints(cells, section.middle[0])
    tables.shares_of_endpoints(cells, section.joints)
    assert not [c for c in (*tables.mixed_cells(m), *tables.transferred_cells(m)) if c in m.failed]


def test_tables_are_empty_where_every_mixed_pair_failed():
    m = made_up(as_the_paper_says)
    worlds.lose(m, *(c for c in m.cells if "N" in c.condition.pair))
    cells, section = m.table(), S.sections["stitching"]
    similar = tables.accuracy_and_similarity(None, m, tables.mixed_cells(m))
    moved = tables.transfers(None, tables.transferred_cells(m), m.networks.threat, section.search)
    assert not len(tables.mean_similarity(similar, section.joints)) and not len(tables.mean_transfers(moved))
    middle = section.middle[0]
    assert not len(tables.kinds_of_joints(cells, middle)) and len(tables.clean_controls(cells, section.joints))
    assert len(tables.against_controls(m, middle)) and len(tables.matrix(m, middle))
