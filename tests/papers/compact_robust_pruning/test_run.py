"""Compact and robust networks: a small study that is trained and measured."""

import copy

from lib.papers import settings
from lib.papers.compact_robust_pruning.evidence import preconditions
from lib.papers.compact_robust_pruning.results import measure
from tests.kit.profiles import cells_of, given
from tests.kit.zoos import tiny_zoo
from tests.papers.compact_robust_pruning.world import BOUNDED, TRADED, S


def test_measure_trains_prunes_counts_and_replays(tmp_path):
    nets = [{**copy.deepcopy(net), "pretrain": {"epochs": 1}, "finetune": {"epochs": 1}} for net in (TRADED, BOUNDED)]
    s = settings.load("test", {"networks.data.train": 128, f"{S}.nets": nets, f"{S}.filters": [], f"{S}.keeps": [.1],
                               f"{S}.harsher_rules": [], f"{S}.rules": ["LWM", "SNIP", "iterative LWM"],
                               f"{S}.benign_rules": ["LWM"]})
    f = measure(tiny_zoo(tmp_path, s, S), cells_of(s, S), *given(s, S))
    assert {*f.outcomes} == {*f.cells} and {c.condition.rule for c in f.layers} == {"LWM", "SNIP", "iterative LWM"}
    for cell, measured in f.outcomes.items():
        wanted = {"robust"} | ({"verified"} if cell.condition.net == "bounded" else set())
        assert {*measured} == wanted | ({"search"} if cell.condition.fine is None else set())
    check = [c for c in preconditions(f, []) if c["name"] == "pruned networks meet their targets"]
    assert check[0]["ok"], check[0]["detail"]
    again = tiny_zoo(tmp_path, s, S)
    assert measure(again, f.cells, *given(s, S)).table().equals(f.table()) and not again.trained_here
