"""Compact and robust networks: what the section refuses."""

import pytest

from tests.kit.profiles import refused
from tests.papers.compact_robust_pruning.world import BOUNDED, POOLED, SMOOTHED, TRADED, sized


@pytest.mark.parametrize("change, words", [
    ({"rules": ["LWM", "HYDRAS"]}, "did you mean 'HYDRA'"),
    ({"rules": ["LWM", "LWM"]}, r"rules = \[LWM, LWM\] .* different ones"),
    ({"harsher_rules": ["LAMP"]}, "unknown compact_robust_pruning.harsher_rules 'LAMP'"),
    ({"benign_rules": ["iterative LWM"]}, "unknown compact_robust_pruning.benign_rules"),
    ({"keeps": [.02, .1]}, r"keeps = \[1/50, 1/10\] .* decreasing"),
    ({"keeps": [1, .1]}, "between 0 and 1"),
    ({"rounds": [.5, .05]}, "shares above keeps"),
    ({"rules_on": "polled"}, "did you mean 'pooled'"),
    ({"nets": [POOLED, POOLED]}, r"nets.name = \[pooled, pooled\] .* different ones"),
    ({"nets": []}, "one or more"),
    ({"nets": [{**TRADED, "training": "TRADE"}]}, "did you mean 'TRADES'"),
    ({"nets": [{**TRADED, "certificate": {"type": "Bounds"}}]}, "left out for TRADES"),
    ({"nets": [{**BOUNDED, "certificate": None}]}, "Bounds for IBP"),
    ({"nets": [{**SMOOTHED, "certified": None}]}, "the l2 ball that counts"),
    ({"nets": [{**BOUNDED, "threat": {"norm": "l2", "eps": .5}}]}, "linf for interval bounds"),
    ({"score.epochs": 1}, "compact_robust_pruning.score.epochs = 1 .* at least 2"),
    ({"verify.targets": 10}, "less than the 10 classes"),
])
def test_impossible_settings_are_refused_in_one_sentence(change, words):
    with refused(words):
        sized(**change)
