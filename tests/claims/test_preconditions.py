"""What must hold before a claim is judged: which numbers close which gate, and what it says."""

from types import SimpleNamespace

import numpy as np
import pytest

from lib import claims
from lib.claims.preconditions import Preconditions, attack_warnings, lower_bound
from lib.profiles.networks import Gates
from lib.values.attacks import APGD, PGD
from lib.values.threats import Threat

GATES = Gates(normal_clean=0.9, normal_robust=0.1, robust_clean=0.7, robust_robust=0.4)
VERIFY = APGD(20, targets=2)
GOOD = {"normal_clean": 0.95, "normal_robust": 0.02, "robust_clean": 0.8, "robust_robust": 0.5}
NAMES = ["normal networks are trained", "normal networks are not robust", "robust networks are trained",
         "robust networks are robust"]


def outcomes(share, seeds=3, images=400):
    """[S, m] of exactly this accuracy, other images for every seed."""
    right = np.zeros((seeds, images))
    for seed in range(seeds):
        right[seed, np.random.default_rng(seed).permutation(images)[:round(share * images)]] = 1
    return right


def of_pool(seeds=3, **changes):
    checks, rates = Preconditions(), GOOD | changes
    checks.pool(GATES, VERIFY, *(outcomes(rates[name], seeds) for name in GOOD))
    return checks


def closed(checks):
    return [check["name"] for check in checks if not check["ok"]]


def test_a_good_pool_passes_and_says_its_numbers():
    checks = of_pool()
    assert [check["name"] for check in checks] == NAMES and closed(checks) == []
    assert "95.0%" in checks[0]["detail"] and "at least 90% needed" in checks[0]["detail"]
    assert "2.0%" in checks[1]["detail"] and "at most 10% allowed" in checks[1]["detail"]


@pytest.mark.parametrize("number, value, gate", [
    ("normal_clean", 0.89, NAMES[0]), ("normal_robust", 0.12, NAMES[1]), ("robust_clean", 0.69, NAMES[2]),
    ("robust_robust", 0.3, NAMES[3])])
def test_each_gate_closes_on_its_own_number(number, value, gate):
    assert closed(of_pool(**{number: value})) == [gate]


def test_a_bare_number_meets_the_other_gates():
    assert closed(of_pool(normal_clean=0.9, normal_robust=0.1, robust_clean=0.7)) == []


def test_robustness_needs_its_lower_bound_and_names_the_attack():
    """400 images know 42 % to about 4 points; of one seed there is no bound, and the value counts."""
    check = of_pool(robust_robust=0.42)[-1]
    assert not check["ok"] and "lower bound" in check["detail"] and "APGD" in check["detail"]
    low = float(check["detail"].split("%")[0].split()[-1]) / 100
    assert 0.35 < low < 0.4
    assert of_pool(seeds=1, robust_robust=0.42)[-1]["ok"]


def test_at_least_is_the_lower_bound_and_of_one_seed_the_accuracy():
    low = lower_bound(outcomes(.42))
    assert .35 < low < .4 and f"{low:.1%}" in of_pool(robust_robust=.42)[-1]["detail"]
    assert lower_bound(outcomes(.42, seeds=1)) == pytest.approx(.42)


def test_checks_of_several_pools_are_told_apart():
    checks = of_pool()
    checks.pool(GATES, VERIFY, *(outcomes(rate) for rate in (GOOD | {"robust_clean": .6}).values()), where="VGG-16")
    assert [check["name"] for check in checks] == NAMES + [f"VGG-16: {name}" for name in NAMES]
    assert closed(checks) == ["VGG-16: robust networks are trained"]


def test_an_attack_that_raised_a_doubt_closes_a_gate():
    fine, doubtful = Preconditions(), Preconditions()
    fine.attack([])
    doubtful.attack(["the first doubt", "the second"])
    assert closed(fine) == [] and closed(doubtful) == ["the attack can be trusted"]
    assert doubtful[0]["detail"] == "the first doubt; the second"
    assert doubtful.table().to_dict("records") == [
        {"check": "the attack can be trusted", "holds": "NO", "detail": "the first doubt; the second"}]
    assert fine.table()["holds"].tolist() == ["yes"]


def test_the_judge_takes_them_as_preconditions():
    part = claims.Part("gain", "the gain", "seeds", "above", 0.05)
    claim = claims.Claim("C1", "It gains.", "paper", "none", "none", "none", ("smoke",), (part,))
    evidence = {"gain": {"x": np.array([0.2, 0.21, 0.22])}}
    assert claims.judge(claim, evidence, "smoke", of_pool()).verdict == "supported"
    got = claims.judge(claim, evidence, "smoke", of_pool(normal_clean=0.5))
    assert got.verdict == "not tested"
    assert "normal networks are trained (clean accuracy 50.0%, at least 90% needed)" in got.reason


class OneNetwork:
    """A stand-in for the zoo that knows a network's robust accuracy by the number of restarts."""

    def __init__(self, accuracies, warnings=()):
        self.accuracies, self.warnings = accuracies, list(warnings)

    def outcomes(self, recipe, threat, attack):
        assert (recipe, threat) == ("a recipe", Threat("linf", "0.1"))
        return SimpleNamespace(warnings=self.warnings, accuracy=lambda which: self.accuracies[attack.restarts])


ROBUST = [SimpleNamespace(recipe="a recipe"), SimpleNamespace(recipe="another")]


@pytest.mark.parametrize("again, found", [(0.5, 0), (0.492, 0), (0.488, 1), (0.4, 1)])
def test_a_restart_that_finds_a_point_more_is_a_doubt(again, found):
    doubts = attack_warnings(OneNetwork({2: 0.5, 3: again}), ROBUST, Threat("linf", "0.1"), PGD(5, "0.02", 2))
    assert len(doubts) == found
    assert all("50.0%" in doubt and f"{again:.1%}" in doubt and "one more restart" in doubt for doubt in doubts)


def test_what_the_zoo_doubts_is_passed_on_and_not_changed():
    zoo = OneNetwork({1: 0.5, 2: 0.3}, ["gradients are masked"])
    doubts = attack_warnings(zoo, ROBUST, Threat("linf", "0.1"), PGD(5, "0.02"))
    assert doubts[0] == "gradients are masked" and len(doubts) == 2 and zoo.warnings == ["gradients are masked"]
