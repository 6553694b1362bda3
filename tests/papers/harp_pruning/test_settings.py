"""HARP: what the section refuses."""

import pytest

from tests.kit.profiles import refused
from tests.papers.harp_pruning.world import sized


@pytest.mark.parametrize("change, words", [
    ({"methods": ["HARPP"]}, "did you mean 'HARP'"),
    ({"methods": []}, r"methods = \[\] .* one or more"),
    ({"methods": ["HARP", "HARP"]}, r"methods = \[HARP, HARP\] .* different ones"),
    ({"methods": ["HARP"], "milder_methods": ["LWM"]}, "unknown harp_pruning.milder_methods 'LWM'"),
    ({"tier": "harpp"}, "unknown harp_pruning.tier 'harpp'; did you mean 'harp'"),
    ({"keeps": [.02, .1]}, r"keeps = \[1/50, 1/10\] .* decreasing"),
    ({"keeps": [1]}, "keeps = 1 .* between 0 and 1, both excluded"),
    ({"gamma": -1}, "harp_pruning.gamma = -1"),
    ({"above_chance": 2}, "harp_pruning.above_chance = 2"),
    ({"prune.epochs": 1}, "harp_pruning.prune.epochs = 1 .* at least 2"),
    ({"finetune.attack": {"steps": 1, "step_size": .1}}, "harp_pruning.finetune.attack"),
    ({"search.targeted": True}, "harp_pruning.search.targeted"),
    ({"verify.targets": 10}, "less than the 10 classes"),
    ({"data": {"name": "digits"}}, "held-out images"),
    ({"attacks": [{"type": "APGD", "steps": 10, "targets": 2}]}, "other than search, verify"),
])
def test_impossible_settings_are_refused_in_one_sentence(change, words):
    with refused(words):
        sized(**change)
