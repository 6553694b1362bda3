"""HARP: evidence with known numbers, and the verdicts of made-up studies."""

import numpy as np
import pytest

from lib import claims
from lib.claims.verdict import MISSED
from lib.papers import settings
from lib.papers.harp_pruning import figures, tables
from lib.papers.harp_pruning.evidence import claim_preconditions, evidence, preconditions, warnings
from lib.papers.harp_pruning.networks import Condition, search_of
from lib.papers.harp_pruning.results import rates_without_data
from lib.profiles.networks import updates
from lib.runtime import seed_of
from tests.kit import worlds
from tests.papers.harp_pruning.world import HARSH, IMAGES, MILD, PAPER, WIDE, H, S, cells, found, layers_of, sized


def judged(f):
    """Claim id -> judged, at the profile that tests all."""
    return worlds.judged(PAPER, evidence(f), claim_preconditions(f), preconditions(f, []))


@pytest.fixture(scope="module")
def verdicts(made):
    return judged(made)


SEARCH = next(search_of(c.recipe) for c in cells(sized()) if c.condition == H)
FREE = rates_without_data(SEARCH, list(WIDE))
FREE_GAPS = [FREE[end] - (FREE[2] + FREE[3]) / 2 for end in (0, -1)]  # of the first and of the last layer
WANTED = {  # up to the shifts of single networks, 1 % at most
    ("C1a", "clean"): {"HARP at 0.02 minus pre-trained": .92 - .93},
    ("C1a", "robust"): {"HARP at 0.02 minus pre-trained": .58 - .60},
    ("C1b", "clean"): {"HARP at 0.02 minus dense": .92 - .93},
    ("C1b", "robust"): {"HARP at 0.02 minus dense": .58 - .60},
    ("C2a", "clean"): {"HARP minus HYDRA": .07, "HARP minus LWM": .12, "HARP minus random": .32,
                       "HARP minus R-ADMM": .07, "HARP minus BCS-P": .07},
    ("C2a", "robust"): {"HARP minus HYDRA": .13, "HARP minus LWM": .18, "HARP minus random": .28,
                        "HARP minus R-ADMM": .11, "HARP minus BCS-P": .11},
    ("C2b", "grows"): {"HARP minus HYDRA, 0.02 minus 0.1": .13 / 2},
    ("C3", "clean"): {"HARP minus HYDRA": 0.},
    ("C3", "robust"): {"HARP minus HYDRA": 0.},
    ("C4a", "above_uniform"): {"HYDRA + HARP rates minus HYDRA": .10},
    ("C4b", "above_fixed_rates"): {"HYDRA + HARP rates minus HYDRA + data-free": .04,
                                   "HYDRA + HARP rates minus HYDRA + LAMP": .08,
                                   "HYDRA + HARP rates minus HYDRA + ERK": .08},
    ("C5", "above_rates_only"): {"HARP minus rates only": .08},
    ("C5", "above_scores_only"): {"HARP minus HYDRA": .13},
    ("C6", "growing"): {"HARP minus HARP, constant gamma": .06},
    ("C7", "robust"): {"TRADES: HARP minus HYDRA": .13, "MART: HARP minus HYDRA": .13},
    ("C8", "robust"): {"HARP minus HYDRA": 0.},  # at keep 1/2 the made-up world is mild
    ("C10a", "kept"): {"HARP": .7 - .008},
    ("C10a", "beyond_data_free"): {"HARP minus data-free rates": (.7 - .008) - FREE_GAPS[0]},
    ("C10b", "kept"): {"HARP": .5 - .008},
    ("C10b", "beyond_data_free"): {"HARP minus data-free rates": (.5 - .008) - FREE_GAPS[1]},
}


def test_every_part_of_every_claim_has_its_evidence_and_its_number(made):
    got = evidence(made)
    once = got.pop("C10")  # as smoke froze it
    parts = {(c.id, p.id) for c in PAPER for p in c.parts if c.id != "C9"}
    assert {(c, p) for c in got for p in got[c]} == parts == set(WANTED)
    for (claim, part), wanted in WANTED.items():
        values = got[claim][part]
        assert {name: array.mean() for name, array in values.items()} == pytest.approx(wanted, abs=.021)
        shapes = {array.shape for array in values.values()}
        assert shapes == {(4,) if claim in ("C10a", "C10b") else (4, IMAGES)}
        assert all(np.abs(array).max() <= 1 for array in values.values())
    assert {c.id for c in claims.load(S, "smoke")} == {c.id for c in PAPER} | {"C10"}
    for part, name in (("ends_kept", "kept"), ("beyond_data_free", "beyond_data_free")):
        (both,), *ends = once[part].values(), *(got[claim][name].values() for claim in ("C10a", "C10b"))
        assert np.allclose(2 * both, sum(one for (one,) in ends))


def test_the_growth_of_the_margin_is_halved_and_not_cut(made):
    gap = {keep: made.correct(Condition("HARP", keep), "verify") - made.correct(Condition("HYDRA", keep), "verify")
           for keep in (MILD, HARSH)}
    (values,) = evidence(made)["C2b"]["grows"].values()
    assert np.array_equal(2 * values, gap[HARSH] - gap[MILD])
    part, = PAPER["C2b"].parts
    assert part.margin == .01 and "half" in part.what


def test_in_a_world_as_the_paper_says_its_claims_are_supported(verdicts):
    got = {claim: one.verdict for claim, one in verdicts.items()}
    assert got.pop("C9") == "not tested" and got.pop("C8") in (*MISSED, "undecided")
    assert got == dict.fromkeys(got, "supported")


def test_on_imagenet_the_first_claims_are_judged_as_its_own():
    s = settings.load("imagenet", {f"{S}.keeps": [.1, .02], f"{S}.seeds": 4})
    f = found(s)
    assert set(f.dense_weights) == {0, 1, 2, 3} and f.chance(f.conditions[0]) == .001
    got = {c.id: claims.judge(c, evidence(f).get(c.id, {}), "imagenet", list(claim_preconditions(f).get(c.id, [])))
           for c in PAPER}
    assert {claim for claim, one in got.items() if one.verdict != "not tested"} == {"C9"}
    assert got["C9"].verdict == "supported"
    ready, wanted = evidence(f)["C9"], {"retains_clean": {"HARP at 0.02 minus dense": -.01},
                                        "retains_robust": {"HARP at 0.02 minus dense": -.02},
                                        "beats_clean": {"HARP minus HYDRA": .07, "HARP minus LWM": .12},
                                        "beats_robust": {"HARP minus HYDRA": .13, "HARP minus LWM": .18}}
    assert {p.id for p in PAPER["C9"].parts} == set(ready) == set(wanted)
    for part, numbers in wanted.items():
        assert {name: array.mean() for name, array in ready[part].items()} == pytest.approx(numbers, abs=.021)


REVERSED = {  # what is not so, and the claims that then do not stand
    "HARP loses much": ({H: (.75, .34)}, {"C1a", "C1b", "C2a", "C2b", "C5", "C6"}),
    "the dense network gains by fine-tuning": ({Condition("dense"): (.93, .80)}, {"C1b"}),
    "HYDRA is as good": ({Condition("HYDRA", HARSH): (.92, .58)}, {"C2a", "C2b", "C4a", "C5"}),
    "HYDRA is worse at the mild target": ({Condition("HYDRA", MILD): (.80, .45)}, {"C2b", "C3"}),
    "data-free rates do as well": ({Condition("HYDRA + data-free", HARSH): (.90, .55)}, {"C4b"}),
    "rates alone do as well": ({Condition("rates only", HARSH): (.92, .58)}, {"C5"}),
    "the pattern of rates does nothing": ({Condition("HYDRA + HARP rates", HARSH): (.85, .45)}, {"C4a", "C4b"}),
    "one other loss": ({Condition("HYDRA", HARSH, loss="MART"): (.92, .58)}, {"C7"}),
    "a constant gamma does as well": ({Condition("HARP, constant gamma", HARSH): (.92, .58)}, {"C6"}),
}


@pytest.mark.parametrize("changes, fails", REVERSED.values(), ids=REVERSED)
def test_what_is_not_so_is_not_supported_and_nothing_else_changes(changes, fails, verdicts):
    got = judged(found(accuracy=changes))
    assert {claim for claim, one in got.items() if one.verdict != verdicts[claim].verdict} == fails
    assert {got[claim].verdict for claim in fails} <= {*MISSED, "undecided"}


def test_rates_as_without_data_are_not_more_than_without_data():
    def same(arm, seed):
        noise = 1 + .02 * (seed_of(arm.method, seed) % 3 - 1)
        counted = layers_of(arm, 0)
        first, *others = np.array(FREE) * noise
        return counted.assign(share=[min(2 * first, 1), *others]) if arm == H else counted

    got = judged(found(layers=same))
    assert got["C10b"].verdict in (*MISSED, "undecided") and "beyond" in got["C10b"].decisive.name
    assert got["C10a"].verdict == "supported", "the first layer is judged apart from the last"


def test_few_repetitions_decide_nothing():
    got = {claim: one.verdict for claim, one in judged(found(sized(seeds=2))).items() if claim != "C9"}
    assert set(got.values()) == {"undecided"}


def test_a_collapsed_network_may_lose_and_is_named():
    arm = Condition("random", HARSH)
    f = found(accuracy={arm: (.12, .02)})
    assert f.at_chance(f.section.above_chance) == {arm: pytest.approx(.12, abs=.01)}
    assert "HARP minus random (random at 0.02 collapsed)" in evidence(f)["C2a"]["robust"]
    check = claim_preconditions(f)["C2a"][0]
    assert check["ok"] and "random at 0.02 has a clean accuracy of 12" in check["detail"]
    assert judged(f)["C2a"].verdict == "supported"
    got = judged(found(accuracy={H: (.12, .02)}))
    assert {got[claim].verdict for claim in ("C1a", "C1b", "C2a", "C5")} == {"contradicted"}, "HARP lost"


def test_a_collapsed_network_cannot_win_or_be_a_control():
    fallen = {Condition(name, HARSH): (.12, .02) for name in ("HYDRA + LAMP", "HYDRA + ERK", "HYDRA + data-free")}
    got = judged(found(accuracy=fallen))
    assert {claim for claim, one in got.items() if one.verdict == "not tested"} == {"C4b", "C9"}
    assert "HYDRA + ERK at 0.02 has a clean accuracy of 1" in got["C4b"].reason
    winner, loser = Condition("HYDRA + HARP rates", HARSH), Condition("HYDRA", HARSH)
    got = judged(found(accuracy={winner: (.12, .11), loser: (.30, .05)}))
    assert got["C4a"].verdict == "not tested" and "collapsed: HYDRA + HARP rates" in got["C4a"].reason


def test_an_arm_just_above_the_bar_is_compared():
    f = found(accuracy={Condition("random", HARSH): (.18, .02)})
    assert f.at_chance(.05) == {} and f.at_chance(.1)


# ------------------------------------------------------------------------------------ searches that are too short

OF_SEARCHES = {"C2a", "C2b", "C3", "C4a", "C4b", "C5", "C10a", "C10b"}


@pytest.mark.parametrize("half, off", [
    ({"HYDRA": (.92, .57)}, OF_SEARCHES),  # HYDRA has fallen behind only in the second half
    ({"HARP": (.80, .40)}, OF_SEARCHES),  # it keeps up with dense, where more of the search could only help
    ({"HARP": (.99, .66)}, {"C1a", "C1b"} | OF_SEARCHES),  # it kept up better after half of the search
    ({"HARP": (.92, .58), "HYDRA": (.86, .46)}, set()),
    ({"HARP": (.92, .58), "HYDRA": (.88, .45)}, OF_SEARCHES),  # the same verdict, but HYDRA's loss halves
    ({"HARP": (.90, .55), "HYDRA": (.84, .43)}, set()),  # HARP and HYDRA gain alike, and HARP more than LWM, over it
])
def test_claims_about_searches_are_not_judged_if_half_of_a_search_gives_another_verdict(half, off, verdicts):
    got = judged(found(half=half))
    assert {claim for claim, one in got.items() if one.verdict != verdicts[claim].verdict} == off
    assert all("the search has converged" in got[claim].reason and "after half of the search" in got[claim].reason
               for claim in off)


def test_a_search_as_long_as_the_papers_needs_no_half():
    f = found(sized(updates=updates(SEARCH)))
    assert not f.halved and judged(f)["C2a"].verdict == "supported"
    (check,) = claim_preconditions(f)["C10a"]
    assert check["detail"] == f"{updates(SEARCH)} updates, the published search {updates(SEARCH)}"


def test_without_networks_of_half_a_search_the_check_fails():
    f = found()
    worlds.lose(f, *f.halved)
    assert {claim for claim, one in judged(f).items() if one.verdict == "not tested"} == {
        "C1a", "C1b", "C9"} | OF_SEARCHES
    assert "no network of half a search" in judged(f)["C5"].reason


# ------------------------------------------------------------------------------------ networks that failed

UNMET = "the search has not met its target"
OF_HARP = {"C1a", "C1b", "C2a", "C2b", "C5", "C6", "C10a", "C10b"}  # the claims about HARP at the harsh target


def without(condition, *repetitions):
    f = found()
    return worlds.lose(f, *(c for c in f.of(condition) if c.repetition in repetitions), why=UNMET)


def test_a_claim_goes_on_without_the_repetition_of_a_failed_network_and_names_it(verdicts):
    f = without(H, 2)
    got, ready = judged(f), evidence(f)
    assert {claim: one.verdict for claim, one in got.items()} == {c: one.verdict for c, one in verdicts.items()}
    said = f"HARP at 0.02, repetition 2: {UNMET}"
    assert {claim for claim, one in got.items() if said in one.reason} == OF_HARP
    assert {row.seeds for claim in OF_HARP for row in got[claim].rows} == {3}
    assert {row.seeds for claim in ("C3", "C4a", "C7") for row in got[claim].rows} == {4}
    (gap,) = ready["C5"]["above_rates_only"].values()
    whole = found().correct(H, "verify") - found().correct(Condition("rates only", HARSH), "verify")
    assert np.isnan(gap[2]).all() and np.array_equal(gap[[0, 1, 3]], whole[[0, 1, 3]]), "pairs stay pairs"
    assert np.isnan(ready["C10a"]["kept"]["HARP"]).tolist() == [False, False, True, False]


def test_a_claim_with_no_repetition_left_is_not_tested_and_says_why():
    f = without(H, 0, 1, 2, 3)
    got = judged(f)
    assert {claim for claim, one in got.items() if one.verdict == "not tested"} == OF_HARP | OF_SEARCHES | {"C9"}
    assert all(f"repetition 3: {UNMET}" in got[claim].reason for claim in OF_HARP)
    assert got["C7"].verdict == "supported"


def test_claims_go_on_without_a_repetition_whose_dense_network_failed():
    f = found()
    lost = worlds.lose(f, *(c for c in f.cells if c.repetition == 1 and c.condition.loss == "PGD-AT"))
    assert failed(lost) == [] and preconditions(lost, [])[0]["ok"]
    got = judged(lost)
    assert got["C2a"].verdict == "supported" and {row.seeds for row in got["C2a"].rows} == {3}
    assert {row.seeds for row in got["C7"].rows} == {4}, "another loss has dense networks of its own"


def test_without_any_reference_network_the_check_fails_and_says_why():
    f = found()
    worlds.lose(f, *f.of(Condition("pre-trained")))
    checks = preconditions(f, warnings(None, f))
    assert worlds.failed(checks) == ["robust networks are trained", "robust networks are robust",
                                     "the attack can be trusted"]
    assert "pre-trained at 1, repetition 3: the loss is nan" in checks[2]["detail"]
    assert "there is no robust network" in checks[4]["detail"]


def test_tables_and_figures_go_on_without_failed_networks(made):
    f = without(H, 0, 1, 2, 3)
    table = f.table()
    rows = table[table.failed != ""]
    assert set(rows.method) == {"HARP"} and rows.seed.tolist() == [0, 1, 2, 3] and set(rows.failed) == {UNMET}
    assert rows.accuracy.isna().all() and "failed" not in made.table()
    shown = tables.summary(f)
    assert not len(shown[(shown.method == "HARP") & (shown.keep == .02) & (shown.training == "PGD-AT")])
    figures.compression(tables.of_weights(table, f.section))
    figures.keep_rates(tables.of_weights(tables.rates(f), f.section), tables.rules(f))
    assert len(tables.rates(f)) == len(tables.rates(made)) - 4 * 5


# ------------------------------------------------------------------------------------ preconditions


def failed(f, doubts=()):
    return worlds.failed(preconditions(f, list(doubts)))


def test_a_made_up_study_meets_every_precondition(made):
    assert failed(made) == []
    assert all(check["ok"] for checks in claim_preconditions(made).values() for check in checks)
    assert set(claim_preconditions(made)) == {c.id for c in claims.load(S, "smoke")} - {"C9"}


@pytest.mark.parametrize("change, name", [
    ({Condition("N"): (.5, .02)}, "normal networks are trained"),
    ({Condition("N"): (.97, .5)}, "normal networks are not robust"),
    ({Condition("pre-trained"): (.5, .4)}, "robust networks are trained"),
    ({Condition("pre-trained"): (.93, .4)}, "robust networks are robust"),
])
def test_without_its_dense_networks_nothing_is_judged(change, name):
    f = found(accuracy=change)
    assert name in failed(f) and {one.verdict for one in judged(f).values()} == {"not tested"}


def test_a_doubtful_attack_and_a_network_above_its_target_stop_the_judge(made):
    assert failed(made, ["gradients are masked"]) == ["the attack can be trusted"]
    f = found()
    cell = next(c for c in f.layers if c.condition == H)
    f.layers[cell] = f.layers[cell].assign(kept=lambda t: t.kept + 60)
    check, = [c for c in preconditions(f, []) if not c["ok"]]
    assert check["detail"] == f"HARP at 0.02 keeps {f.weights(cell)[0]} of 17300 weights"
