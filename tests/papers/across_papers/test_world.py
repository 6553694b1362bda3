"""Across the papers: evidence and verdicts in made-up worlds."""

import numpy as np
import pytest

from lib.papers.across_papers.evidence import claim_preconditions, evidence, gap, preconditions, similarity
from lib.papers.across_papers.measured import R
from lib.papers.across_papers.networks import Condition
from lib.papers.across_papers.settings import DENOISERS
from lib.papers.across_papers.tables import contrast
from lib.statistics import estimate
from tests.kit.worlds import failed, failed_by_claim, lose
from tests.papers.across_papers.world import SEEDS, USUAL, found, judged, sized, verdicts

SCORE, MEAN = Condition("by score", "class score"), Condition("by mean", "class mean")


def test_the_usual_world_says_that_aligned_gradients_are_another_representation(made):
    assert verdicts(made) == {"X1": "supported", "X2": "supported", "X3": "supported", "X4": "supported",
                              "X5": "supported", "X6": "not tested", "X7": "supported"}
    assert failed(preconditions(made, [])) == [] and failed_by_claim(claim_preconditions(made)) == {}


def test_adversarial_training_is_interpolated_at_the_kind_s_robust_accuracy(made):
    assert [c.kind for c in made.adversarial] == ["weak", "middle", "R"]
    assert [c.kind for c in made.around(SCORE)] == ["weak", "middle"]
    assert [c.kind for c in made.around(MEAN)] == ["middle", "R"]
    ready = evidence(made)
    fit = {name: estimate("difference", values)(.95).value for name, values in ready["X1"]["fit"].items()}
    # half way from weak (net fit 0.10) to middle (0.30), and a quarter from middle to R (0.40)
    assert fit == {"by score": pytest.approx(.20 - .05, abs=.02), "by mean": pytest.approx(.325 - .10, abs=.02)}
    assert ready["X2"]["cka"]["by score"].mean() == pytest.approx(.15, abs=.02)
    assert ready["X5"]["share"]["by mean"].mean() == pytest.approx(.6 - .45, abs=.02)
    assert ready["X4"]["fit"]["keep 0.1"].mean() == pytest.approx(.37 - .8 * .40, abs=.01)


@pytest.mark.parametrize("kind, numbers, claim, verdict", [
    ("by_score", (.93, .30, .40, .20, .45, .60), "X1", "absent"),  # fits as adversarial training does
    ("by_score", (.93, .30, .55, .20, .45, .60), "X1", "contradicted"),
    ("by_mean", (.90, .45, .30, .20, .90, .60), "X2", "contradicted"),
    ("noise", (.95, .30, .20, .20, .60, .30), "X3", "contradicted"),
    ("TRADES", (.91, .52, .36, .20, .90, .60), "X7", "contradicted"),
    ("pruned", (.90, .57, .40, .20, .88, .60), "X4", "contradicted"),
    ("by_score", (.93, .30, .25, .20, .45, .10), "X5", "contradicted"),
])
def test_other_worlds_give_other_verdicts(kind, numbers, claim, verdict):
    got = verdicts(found(**{kind: numbers}))
    assert got[claim] == verdict
    others = {c for c, one in got.items() if one not in ("supported", "not tested")}
    assert others == {claim}


def test_a_kind_without_adversarial_trainings_around_it_is_left_out_and_named():
    f = found(by_score=(.93, .70, .25, .20, .45, .60))
    assert f.around(SCORE) is None and [*evidence(f)["X1"]["fit"]] == ["by mean"]
    said = claim_preconditions(f)["X1"][0]
    assert said["ok"] and "by score 70" in said["detail"] and "not between" in said["detail"]
    alone = found(by_score=(.93, .70, .25, .20, .45, .60), by_mean=(.9, .1, .3, .2, .5, .6))
    assert {claim for claim, one in verdicts(alone).items() if one == "not tested"} == {"X1", "X2", "X5", "X6"}


def test_a_collapsed_kind_is_not_compared():
    low = {"by_score": (.14, .12, .25, .20, .45, .60), "by_mean": (.12, .11, .30, .20, .50, .60)}
    f = found(**low, weak=(.9, .1, .3, .2, .5, .3))
    assert verdicts(f)["X1"] == "not tested" and "guessing" in claim_preconditions(f)["X1"][0]["detail"]


def test_fits_are_judged_only_where_fronts_of_adversarial_training_fit():
    no_fit = (.92, .60, .22, .20, .90, .60)
    assert [*evidence(found(R=no_fit))["X1"]["fit"]] == ["by score"]
    f = found(R=no_fit, middle=(.94, .40, .23, .20, .70, .40))
    got = verdicts(f)
    assert got["X1"] == got["X3"] == got["X7"] == "not tested" and got["X2"] == "supported"
    said = claim_preconditions(f)["X1"][1]
    assert not said["ok"] and "next to by score, middle: lower bound" in said["detail"]
    assert verdicts(found(**{"dense, fine-tuned": (.92, .60, .19, .20, .90, .60)}))["X4"] == "not tested"


def test_a_pruned_network_has_the_dense_one_s_twin_as_its_floor(made):
    mask = found(pruned=(.90, .57, .57, .40, .88, .60))  # a twin that keeps the mask fits better
    assert np.array_equal(mask.net_fit(Condition("pruned")), made.net_fit(Condition("pruned")))


def test_the_attack_and_the_pool_are_preconditions_of_all():
    assert {*verdicts(found(), warnings=["the outputs are probabilities"]).values()} == {"not tested"}
    assert {*verdicts(found(R=(.92, .45, .60, .20, .90, .60))).values()} == {"not tested"}


def test_a_failed_network_costs_its_repetition_and_is_named():
    f = found()
    lost = next(c for c in f.cells if c.condition == SCORE and c.repetition == 1)
    lose(f, lost)
    got = judged(f)
    for claim, part in (("X1", "fit"), ("X2", "cka"), ("X5", "share")):
        rows = {row.name: row.seeds for row in got[claim].rows}
        assert rows == {f"{part}: by score": SEEDS - 1, f"{part}: by mean": SEEDS}
        assert "by score, repetition 1" in got[claim].reason
    table = contrast(f)
    assert table[table.kind == "by score"].low.notna().all()
    assert "by score" not in got["X4"].reason


def test_a_lost_reference_leaves_its_repetition_out():
    f = found()
    number = 2
    del f.maps[number]
    for cell in [c for c in f.cells if c.repetition == number]:
        f.fits.pop(cell, None), f.twins.pop(cell, None)
    assert np.isnan(gap(f, SCORE, similarity(f))[number]).all() and np.isnan(f.net_fit(R)[number]).all()
    assert {row.seeds for row in judged(f)["X1"].rows} == {SEEDS - 1}


def test_alignment_is_not_judged_where_denoisers_do_not_agree():
    f = found()
    for table in f.alignment.values():
        table["possible"] = -table["possible"]
    assert verdicts(f)["X5"] == "not tested" and contrast(f).low.notna().any()


def test_intervals_hold_the_noise_of_images_and_of_the_interpolation(made):
    ready = evidence(made)
    assert ready["X1"]["fit"]["by score"].shape[:3] == (2, 3, SEEDS)
    assert np.ptp(ready["X2"]["cka"]["by score"].mean(0)) > 0 and np.ptp(ready["X5"]["share"]["by score"].mean(0)) > 0


def test_every_kind_of_the_world_is_in_the_plan():
    s = sized()
    assert {c.condition.kind for c in found(s).cells} - {*DENOISERS} == {*USUAL}
